"""The benchmarks of the path run at their tiny sizes, and measure what their tables say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import probe
from probe.engines import Aim, Answer, Problem, fit_sklearn
from probe.objective import value_and_gradient

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a benchmark as a user does."""
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the benchmark."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_path
    import gpu_path
    import path_certificates
    import path_problems
    import path_rivals
    import path_tables

    modules: dict[str, ModuleType] = {
        "certificates": path_certificates, "rivals": path_rivals, "tables": path_tables, "problems": path_problems,
        "path": bench_path, "gpu": gpu_path,
    }  # fmt: skip
    return SimpleNamespace(**modules)


def test_every_row_of_the_table(tmp_path: Path) -> None:
    """A benchmark nobody runs rots; its figures at this size mean nothing, its certificates do."""
    parts = ["warm", "cold", "sets", "folds", "streaming", "again"]
    done = run(
        "bench_path.py", "--problems", "digits", "--tiny", "--patience", 4, "--threads", 1, "--out", tmp_path,
        "--parts", *parts,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Order of magnitude" in done.stdout.splitlines()[0]
    assert "\n1 threads\n" in done.stdout
    found = json.loads((tmp_path / "bench_path.json").read_text())
    rows = {row["solver"]: row for row in found["rows"]}
    assert found["environment"]["scikit-learn"]
    assert all(blas["num_threads"] == 1 for blas in found["environment"]["blas"])
    mine = rows["probe"]
    assert mine["n_certified"] == mine["n_values"] == 8
    assert mine["worst_gap"] <= 1e-4
    for way in ("warm", "cold"):
        theirs = rows[f"scikit-learn lbfgs, {way}"]
        assert theirs["n_certified"] >= 3
        assert theirs["ratio"] == pytest.approx(theirs["seconds"] / mine["seconds"], rel=0.01)
        assert theirs["is_bound"] == (theirs["n_certified"] < 8)
    for what in ("label sets", "folds"):
        ten, one = rows[f"probe, 10 {what}, ten calls"], rows[f"probe, 10 {what}, one call"]
        assert ten["n_certified"] == one["n_certified"] == 80
        assert one["ratio"] == pytest.approx(ten["seconds"] / one["seconds"], rel=0.01)
    streamed = rows["probe, streamed at 1/4"]
    assert streamed["verdict"] == "not available" or streamed["n_certified"] == 8
    assert rows["probe.sweep, again"]["seconds"] < 1
    assert (tmp_path / "bench_path.png").stat().st_size > 10_000
    curve = found["drawn"][0]["suboptimality"]["scikit-learn lbfgs, warm"]
    assert [s for s, _ in curve] == sorted(s for s, _ in curve)
    assert curve[-1][1] < curve[0][1]


def test_absent_features_are_said(tmp_path: Path, bench: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.path.main(["--problems", "pairs", "--features", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "no features of pairs" in said
    assert "--prepare" in said


def test_features_are_made_by_one_command(shared: Path, tmp_path: Path, bench: SimpleNamespace) -> None:
    """Real images through a real network; no column twice; and what the GPU's benchmark takes along."""
    command = ["--prepare", "--tiny", "--problems", "pairs", "--features", str(tmp_path), "--shared", str(shared)]
    assert bench.path.main(command) == 0
    assert bench.problems.is_prepared("pairs", tmp_path, True)
    problem = bench.problems.load_problem("pairs", tmp_path, True)
    assert problem.shape == (128, 1792, 20)
    assert len(problem.y_val) == 32
    alive = problem.X[:, np.ptp(problem.X, axis=0) > 0]  # what black images leave dark is zero in every row
    assert alive.shape[1] > 1700
    assert np.unique(alive, axis=1).shape == alive.shape
    base = tmp_path / "base.npz"
    assert bench.gpu.main(["--features", str(tmp_path / "tiny"), "--export", str(base)]) == 0
    with np.load(base) as file:
        assert file["X"].shape == (160, 2048)
        assert file["X"].dtype == np.float16
    X, y, X_val, y_val = bench.gpu.resampled(*bench.gpu.base_of(base), 500)
    assert (X.shape, X_val.shape, len(y), len(y_val)) == ((500, 2048), (32, 2048), 500, 32)
    assert set(y) <= set(problem.y) | set(problem.y_val)


def test_pairs_show_both_digits(shared: Path, bench: SimpleNamespace) -> None:
    split = bench.problems.pairs(shared, 30)
    with np.load(shared / "data" / "mnist" / "train.npz") as file:
        digits, labels = file["images"], file["labels"]
    for i in range(30):
        left, right = (int(part) for part in split.ids[i].split("+"))
        image = np.asarray(split.image(i))
        assert split.labels[i] == 10 * labels[left] + labels[right]
        assert (image[18:46, 4:32] == digits[left]).all()
        assert (image[18:46, 32:60] == digits[right]).all()
        assert image.sum(dtype=np.int64) == digits[[left, right]].sum(dtype=np.int64)


def test_certificates_are_those_of_the_definition(bench: SimpleNamespace) -> None:
    """Objective and gradient as `probe.objective` defines them; the gap bounds the distance to a far better fit."""
    problem = bench.problems.load_problem("digits", Path(), True)
    certify = bench.certificates.certifier(problem.X, problem.y)
    for C in (1e-4, 1.0, 100.0):
        rough, fine = (probe.fit(problem.X, problem.y, C, tol=tol, max_iter=5000) for tol in (1e-3, 1e-9))
        for model in (rough, fine):
            coef, intercept = np.asarray(model.coef), np.asarray(model.intercept)
            proof = certify(C, coef, intercept + 3.0)  # one number added to every intercept changes nothing
            value, by_W, by_b = value_and_gradient(coef, intercept, problem.X, problem.y, C)
            assert proof.objective == pytest.approx(value, rel=1e-9)
            assert proof.norm == pytest.approx(float(np.linalg.norm(by_W)), rel=1e-3, abs=1e-9)
            assert proof.gap == pytest.approx(model.gap, rel=0.05, abs=1e-13)
            assert proof.stopped >= np.abs(by_b).max() * 0.99
        assert value - fine.objective / C + 1e-9 * value >= 0
        assert (certify(C, np.asarray(rough.coef), np.asarray(rough.intercept)).objective / (fine.objective / C) - 1) <= max(
            rough.gap, 1e-12
        ) * 1.01  # fmt: skip
        zero = certify(C, np.zeros_like(coef), np.zeros(len(coef)))
        assert zero.grad_norm <= 1.0 + 1e-12


def test_a_rival_is_stopped_when_it_is_as_good(bench: SimpleNamespace) -> None:
    """It reaches every gap it is asked for, not a far better one, and gets no more time than its allowance."""
    m, problem = bench.rivals, bench.problems.load_problem("digits", Path(), True)
    C = np.array([1e-3, 1e-1, 1e1])
    path = probe.fit_path(problem.X, problem.y, C, tol=1e-8)
    certify = bench.certificates.certifier(problem.X, problem.y)
    accuracy = bench.certificates.val_accuracy(problem.X_val, problem.y_val, np.unique(problem.y))
    rival = m.Rival("sklearn", fit_sklearn, (problem.X, problem.X.astype(np.float64)), is_warm=True)
    passes = {}
    for asked in (1e-2, 1e-6):
        task = m.Task(problem.y, C, np.full(3, asked), path.objective / C, 60.0, certify, accuracy)
        walked = m.walk(rival, task)
        assert (walked.gaps <= asked).all()
        assert (walked.gaps >= 1e-4 * asked).all()
        assert walked.seconds == walked.events[-1].seconds
        passes[asked] = walked.passes
    assert passes[1e-6] > passes[1e-2] > 0
    nothing = m.walk(rival, m.Task(problem.y, C, np.full(3, 1e-6), path.objective / C, 0.0, certify, accuracy))
    assert nothing.proofs == (None, None, None)
    assert nothing.passes == 0


def test_cold_rivals_start_from_nothing(bench: SimpleNamespace) -> None:
    """An estimator that cannot go on is charged its last attempt only; a cold one is never handed the value before."""
    m, problem = bench.rivals, bench.problems.load_problem("digits", Path(), True)
    C = np.array([1e-2, 1.0])
    path = probe.fit_path(problem.X, problem.y, C)
    certify = bench.certificates.certifier(problem.X, problem.y)
    starts: dict[bool, list[tuple[float, Answer | None]]] = {True: [], False: []}
    for resumes in (True, False):

        def fit(
            given: Problem, aim: Aim, most: int, start: Answer | None, kept: list[object] = starts[resumes]
        ) -> Answer:  # type: ignore[assignment]
            kept.append((aim.l2, start))
            return fit_sklearn(given, aim, most, start)

        task = m.Task(problem.y, C, np.full(2, 1e-7), path.objective / C, 60.0, certify, lambda W, b: 0.0)
        rival = m.Rival("cold", fit, (problem.X.astype(np.float64),), is_warm=False, resumes=resumes)
        walked = m.walk(rival, task)
        assert (walked.gaps <= 1e-7).all()
    assert all(start is None for _, start in starts[False])
    del starts[True][0]  # the iteration that is not counted
    first_of_value = [start for i, (l2, start) in enumerate(starts[True]) if i == 0 or starts[True][i - 1][0] != l2]
    assert first_of_value == [None, None]


def test_a_bar_is_passed_only_by_what_was_measured(bench: SimpleNamespace) -> None:
    rule = bench.tables.verdict
    assert rule(12.0, 10.0, is_bound=True, is_certified=True) == "pass"
    assert rule(8.0, 10.0, is_bound=False, is_certified=True) == "falls short"
    assert rule(8.0, 10.0, is_bound=True, is_certified=True) == "undecided"
    assert rule(12.0, 10.0, is_bound=False, is_certified=False) == "falls short"


def test_gpu_table_without_a_gpu(tmp_path: Path, bench: SimpleNamespace) -> None:
    """Where there is no device the table says so, and the exit status is that of success."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert bench.gpu.main(["--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "gpu_path.json").read_text())["rows"]
    assert len(rows) == 7
    assert all(row["verdict"] == "not measured" and row["note"] == "no CUDA device" for row in rows)
    assert all((row["n"], row["d"], row["k"]) == (50_000, 2_048, 100) for row in rows)


def test_gpu_script_runs_on_cpu_tensors(tmp_path: Path) -> None:
    """The whole script on tensors of the CPU: our rows and both rivals that need no GPU are certified."""
    done = run("gpu_path.py", "--quick", "--repeats", 1, "--patience", 500, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the figures mean nothing" in done.stdout
    found = json.loads((tmp_path / "gpu_path.json").read_text())
    rows = {row["solver"]: row for row in found["rows"]}
    for name in ("probe, torch, float32", "probe, torch, float16 features", "torch L-BFGS, autograd, warm"):
        assert rows[name]["n_certified"] == rows[name]["n_values"] == 5
    assert rows["scikit-learn, CPU tensors"]["verdict"] in ("", "not measured")
    assert rows["probe, cupy, float32"]["problem"] == "quick, on the CPU"
    line = found["roofline"]
    n, d, k = (rows["probe, torch, float32"][name] for name in ("n", "d", "k"))
    assert line["product_flops"] == 2 * n * d * k * rows["probe, torch, float32"]["passes"] > 0
    assert 0 < line["share"] < 1
