"""The ``probe`` command: every subcommand run in this process, its output read, its exit code checked."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_digits import digits, digits_store, features

import probe
from probe.cli import main
from probe.predictions import Predictions

GRID = "--C=0.001,0.01,0.1"
Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_store(tmp_path_factory.mktemp("store")).root


@pytest.fixture(scope="module")
def results(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three records."""
    out = tmp_path_factory.mktemp("results")
    probe.sweep(store, train="train", val="val", test="test", C=[0.001, 0.01, 0.1], out=out, progress=False)
    return out


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    images, y = digits()
    X = features(images)["middle"]
    np.savez(tmp_path / "train.npz", X=X[:300], y=y[:300])
    np.savez(tmp_path / "val.npz", X=X[300:500], y=y[300:500])
    return tmp_path


def sweep(store: Path, out: Path, *more: str) -> int:
    return main(["sweep", str(store), "--train", "train", "--val", "val", "--test", "test", "--out", str(out), *more])


# ---------------------------------------------------------------------------------------------------------- sweep


def test_sweep_prints_a_table_and_progress_apart(store: Path, results: Path, tmp_path: Path, capsys: Output) -> None:
    """The table alone on stdout; a second run fits nothing and prints the same."""
    assert sweep(store, results, GRID, "--plot", str(tmp_path / "depth.png")) == 0
    first = capsys.readouterr()
    table = probe.sweep(store, train="train", val="val", test="test", C=[0.001, 0.01, 0.1], out=results, progress=False)
    assert first.out == table.text() + "\n"
    assert "all 3 results are in" in first.err
    assert (tmp_path / "depth.png").read_bytes().startswith(b"\x89PNG")


def test_sweep_json_holds_the_table(store: Path, results: Path, capsys: Output) -> None:
    assert sweep(store, results, GRID, "--json", "--quiet") == 0
    said = capsys.readouterr()
    value = json.loads(said.out)
    assert said.err == ""
    assert (value["n_fitted"], value["n_reused"]) == (0, 3)
    assert [r["unit"] for r in value["records"]] == ["coarse", "middle", "pixels"]
    assert value["records"][2]["test_score"] > 0.8


def test_sweep_passes_every_option_on(store: Path, tmp_path: Path, capsys: Output) -> None:
    """Options end in the same call of the library: the records are found under the same keys."""
    options = ["--units", "coarse,middle", "--seeds", "0,4", "--per-class", "5", "--metric", "mean_per_class"]
    options += ["--no-refit", "--tol", "1e-5", "--pool", "mean", "--backbone", "pooled pixels", GRID]
    arguments = ["sweep", str(store), "--train", "train", "--val", "0.2", "--test", "test", "--out", str(tmp_path)]
    assert main([*arguments, *options]) == 0
    assert "seeds" in capsys.readouterr().out
    found = probe.sweep(
        store, train="train", val=0.2, test="test", out=tmp_path, units=["coarse", "middle"], seeds=[0, 4], per_class=5,
        metric="mean_per_class", refit=False, tol=1e-5, C=[0.001, 0.01, 0.1], progress=False,
    )  # fmt: skip
    assert (found.n_fitted, found.n_reused) == (0, 4)


@pytest.mark.filterwarnings("default::probe.GridWidened")
def test_sweep_takes_grids_by_name_classifiers_and_widening(store: Path, tmp_path: Path, capsys: Output) -> None:
    """Typed, and found again under the same keys by the library; what was widened is said on stderr."""
    how = ["--units", "coarse", "--C", "kornblith", "--classifier", "ridge"]
    assert sweep(store, tmp_path, *how) == 0
    splits = {"train": "train", "val": "val", "test": "test"}
    found = probe.sweep(store, **splits, out=tmp_path, units=["coarse"], classifier="ridge", progress=False)
    assert found.n_reused == 1
    capsys.readouterr()
    assert sweep(store, tmp_path, "--units", "middle", "--C", "1e-4,1e-3", "--widen") == 0
    said = capsys.readouterr()
    assert (
        "probe: warning: The grid was widened for 1 of 1 results. middle: The best C was the largest of 2" in said.err
    )
    assert "widened" in said.out


# ----------------------------------------------------------------------------------------------------------- path


def test_path_takes_a_grid_by_name(npz: Path, capsys: Output) -> None:
    assert main(["path", str(npz / "train.npz"), "--C", "svm", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["path"]
    assert [row["C"] for row in rows] == probe.SVM_GRID.tolist()


def test_path_prints_a_certificate_per_penalty(npz: Path, capsys: Output) -> None:
    assert main(["path", str(npz / "train.npz"), "--val", str(npz / "val.npz"), GRID]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "300 rows, 16 features, 10 classes; metric accuracy"
    assert lines[1].split() == ["C", "objective", "gap", "grad_norm", "status", "n_iter", "passes", "val"]
    assert [line.split()[0] for line in lines[3:6]] == ["1.00e-03", "1.00e-02", "1.00e-01"]
    assert all("converged" in line for line in lines[3:6])
    assert sum("chosen" in line for line in lines[3:6]) == 1
    assert lines[6].startswith("3 of 3 converged, ")


def test_path_json_is_the_librarys_path(npz: Path, capsys: Output) -> None:
    images, y = digits()
    X = features(images)["middle"]
    path = probe.fit_path(X[:300], y[:300], C=[0.001, 0.01, 0.1])
    choice = probe.select(path, X[300:500], y[300:500])
    assert main(["path", str(npz / "train.npz"), "--val", str(npz / "val.npz"), GRID, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert [row["objective"] for row in value["path"]] == pytest.approx(path.objective.tolist(), rel=1e-6)
    assert [row["val"] for row in value["path"]] == choice.scores.tolist()
    assert [row["chosen"] for row in value["path"]].index(True) == choice.index
    assert max(row["grad_norm"] for row in value["path"]) < 1e-3
    assert (value["n"], value["d"], value["k"]) == (300, 16, 10)


def test_path_on_a_unit_of_a_store_equals_that_on_its_matrix(store: Path, npz: Path, capsys: Output) -> None:
    of_store = ["path", str(store), "--unit", "middle", "--train", "train", "--val", "val", GRID, "--json"]
    assert main(of_store) == 0
    a = json.loads(capsys.readouterr().out)["path"]
    assert main(["path", str(npz / "train.npz"), "--val", str(npz / "val.npz"), GRID, "--json"]) == 0
    b = json.loads(capsys.readouterr().out)["path"]
    assert [row["val"] for row in a] == [row["val"] for row in b]
    assert main(["path", str(npz / "train.npz"), GRID, "--no-intercept", "--tol", "1e-4"]) == 0
    assert "val" not in capsys.readouterr().out.splitlines()[1]


@pytest.mark.filterwarnings("default")
def test_path_warnings_are_one_line_of_the_command(npz: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit that stops early is said on stderr without a place in the code, and does not stop the command."""
    from probe import path

    real = path.fit_path
    monkeypatch.setattr(path, "fit_path", lambda *args, **kwargs: real(*args, **kwargs, max_iter=1))
    assert main(["path", str(npz / "train.npz"), "--C=1000", "--tol=1e-9"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("probe: warning: ")
    assert ".py" not in said.err
    assert "0 of 1 converged" in said.out


# -------------------------------------------------------------------------------------------------------- compare


def test_compare_two_records(results: Path, capsys: Output) -> None:
    """Named by folder and the beginning of the digest, as the listing prints it."""
    assert main(["results", str(results)]) == 0
    names = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[3:6]]
    assert main(["compare", f"{results}/{names[2]}", f"{results}/{names[0]}"]) == 0
    out = capsys.readouterr().out
    assert "pixels is ahead of coarse by 0." in out
    assert "which chance alone hardly explains" in out
    assert "exact McNemar test" in out
    arguments = ["compare", f"{results}/{names[2]}", f"{results}/{names[0]}", "--measure", "mean_per_class"]
    assert main([*arguments, "--json", "--level", "0.9"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["measure"], value["level"], value["n"]) == ("mean_per_class", 0.9, 300)
    assert value["interval"][0] < value["difference"] < value["interval"][1]


def test_compare_two_files(tmp_path: Path, capsys: Output) -> None:
    y = np.arange(20) % 2
    ids = y.astype(str)
    ids = np.array([f"image{i}" for i in range(20)])
    Predictions(ids, y, y).save(tmp_path / "a.npz")
    Predictions(ids, y, np.where(np.arange(20) < 6, 1 - y, y)).save(tmp_path / "b.npz")
    assert main(["compare", str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["difference"] == pytest.approx(0.3)
    assert value["p_value"] == 2 * 0.5**6
    assert main(["compare", str(tmp_path / "a.npz"), str(tmp_path / "b.npz")]) == 0
    assert str(tmp_path / "a.npz") in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------------- results


def test_results_list_and_damage(results: Path, tmp_path: Path, capsys: Output) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    assert main(["results", str(copy), "--json", "--plot", str(tmp_path / "depth.pdf")]) == 0
    value = json.loads(capsys.readouterr().out)
    assert len(value["records"]) == 3
    assert value["damaged"] == []
    assert (tmp_path / "depth.pdf").exists()
    victim = copy / f"{value['records'][0]['digest']}.json"
    victim.write_text("{}")
    assert main(["results", str(copy)]) == 1
    said = capsys.readouterr()
    assert f"probe: error: The record '{victim}'" in said.err
    assert "pixels" in said.out


# ----------------------------------------------------------------------------------------------- errors and usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "{tmp}/nowhere", "--train", "a", "--out", "{tmp}/r"], "there is no feature store"),
        (["sweep", "{store}", "--train", "tarin", "--out", "{tmp}/r"], "train"),
        (["sweep", "{store}", "--train", "train", "--out", "{tmp}/r", "--units", "pixel"], "pixels"),
        (["sweep", "{store}", "--train", "train", "--out", "{tmp}/r", "--metric", "acc"], "no metric named 'acc'"),
        (["sweep", "{store}", "--train", "train", "--out", "{tmp}/file/r", GRID], "Not a directory"),
        (["path", "{tmp}/nowhere.npz"], "no file"),
        (["path", "{tmp}/file"], "not a readable npz"),
        (["path", "{tmp}/array.npy"], "holds one array; save features and labels as X and y"),
        (["compare", "{tmp}/array.npz", "{tmp}/array.npz"], "holds no predictions: it is one array"),
        (["path", "{tmp}/other.npz"], "has the arrays A but not X and y"),
        (["path", "{tmp}/nan.npz", GRID], "NaN or infinity"),
        (["path", "{tmp}/one.npz", GRID], "one class"),
        (["path", "{tmp}/short.npz", GRID], "4 rows but y has 3"),
        (["path", "{tmp}/nan.npz", "--unit", "u"], "--unit belong to a store"),
        (["path", "{store}"], "--unit and --train"),
        (["path", "{store}", "--unit", "pixels", "--train", "train", "--C=-1"], "positive"),
        (["compare", "{tmp}/a.npz", "{tmp}/b.npz"], "cannot be read"),
        (["compare", "{tmp}/00", "{tmp}/11"], "No record starts with '00'"),
        (["results", "{tmp}/nowhere"], "no folder of results"),
    ],
)
def test_our_errors_are_one_message_and_exit_code_1(
    arguments: list[str], message: str, store: Path, tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "file").write_text("not an npz file")
    np.save(tmp_path / "array.npy", np.zeros((4, 2)))
    (tmp_path / "array.npz").write_bytes((tmp_path / "array.npy").read_bytes())
    X = np.arange(8.0).reshape(4, 2)
    np.savez(tmp_path / "other.npz", A=X)
    np.savez(tmp_path / "nan.npz", X=np.where(X == 3, np.nan, X), y=[0, 1, 0, 1])
    np.savez(tmp_path / "one.npz", X=X, y=[1, 1, 1, 1])
    np.savez(tmp_path / "short.npz", X=X, y=[0, 1, 0])
    assert main([a.format(tmp=tmp_path, store=store) for a in arguments]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1].startswith("probe: error: ")
    assert message in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fit"],
        ["sweep"],
        ["sweep", "s", "--train", "t", "--out", "o", "--C", "a,b"],
        ["sweep", "s", "--train", "t", "--out", "o", "--seeds", "x"],
        ["sweep", "s", "--train", "t", "--out", "o", "--refit", "--no-refit"],
        ["compare", "a.npz"],
        ["compare", "a.npz", "b.npz", "--measure", "f1"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: Output) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: probe" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", "quickstart", "sweep", "path", "compare", "correlate", "results"])
def test_help_of_every_command(command: str, capsys: Output) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*([command] if command else []), "--help"])
    assert stopped.value.code == 0
    assert "usage: probe" in capsys.readouterr().out


def test_interruption_is_one_line_and_130(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    from probe import jobs

    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "run", interrupted)
    monkeypatch.setattr("signal.signal", lambda *args: None)  # this process goes on after the command
    assert sweep(store, tmp_path, GRID) == 130
    err = capsys.readouterr().err
    assert "0 of 3 results are kept" in err
    assert err.splitlines()[-1].startswith("probe: interrupted; what is finished is kept")


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent as on Unix")
def test_ctrl_c_twice_in_the_middle_of_a_sweep(store: Path, tmp_path: Path) -> None:
    """A real process, interrupted twice once its first unit is finished: one line each, and the same command goes on."""
    units = "coarse,middle,pixels"
    more = ["--val", "val", "--test", "test", "--out", str(tmp_path), "--units", units]
    command = [sys.executable, "-m", "probe", "sweep", str(store), "--train", "train", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert first.startswith("probe: 1/3 coarse")
    assert process.returncode == 130, err
    assert "Traceback" not in err
    n_kept = len(list(tmp_path.glob("*.json")))
    assert 1 <= n_kept < 3
    assert not list(tmp_path.glob(".*.tmp"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"fitting the other {3 - n_kept}" in done.stderr


def test_a_reader_that_leaves_is_no_error(results: Path) -> None:
    """``probe results … | head -0``: no traceback, whatever is left unread."""
    command = f"{sys.executable} -m probe results {results} | head -c 1 > /dev/null"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_the_module_is_the_command(results: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "probe", "results", str(results)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "pixels" in done.stdout
