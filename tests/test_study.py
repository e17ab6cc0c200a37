"""Studies: what is asked is what is computed, once, whoever asks, and what fails says why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

import featstore
import probe
from probe.cli import main
from probe.errors import BadInput
from probe.records import checksum
from probe.studies.cells import plain
from probe.studies.records import StudyFolder

ROOT = Path(__file__).resolve().parents[1]
NET = probe.Network("digits_net", "featstore:digits_net", 0.97, 128)
BLURRED = probe.Dataset("blurred", "digits:train+blur(1.0)", "digits:test+blur(1.0)", "digits:val+blur(1.0)")
ROTATED = probe.Dataset("rotated", "digits:train+rotate(40)", "digits:test+rotate(40)", 0.2)
FAST = {"C": [0.01, 0.1, 1.0], "batch_size": 512}

PLAN = """
[[network]]
name = "digits_net"
spec = "featstore:digits_net"
source = 0.97

[[network]]
name = "lost"
spec = "featstore:digits_net@nowhere.safetensors"

[[dataset]]
name = "blurred"
train = "digits:train+blur(1.0)"
val = "digits:val+blur(1.0)"
test = "digits:test+blur(1.0)"

[[regime]]
name = "logistic"
options = { C = [0.01, 0.1, 1.0] }
"""


def study(*regimes: probe.Regime, **changes: Any) -> probe.Study:
    asked = {
        "networks": (NET,),
        "datasets": (BLURRED,),
        "regimes": regimes or (probe.Regime("logistic", options=FAST),),
    }
    return probe.Study(**{**asked, **changes})


def counting(cell: probe.Cell, place: probe.Place) -> probe.Outcome:
    """A regime of a user's own: slow, counts its calls in a file, and fails where it is told to."""
    with (place.folder / "calls.txt").open("a") as file:
        file.write(f"{cell.seed} {os.getpid()}\n")
    if cell.seed in cell.regime.options.get("fails", []):
        raise ZeroDivisionError("seed says no")
    time.sleep(float(cell.regime.options.get("seconds", 0)))
    test = place.parts(cell)[2]
    assert test.labels is not None
    said = probe.Predictions(test.ids, test.labels, np.roll(test.labels, cell.seed), test.classes)
    return probe.Outcome(
        0.5, said.accuracy(), said, n_train=3, n_val=2, n_test=len(said), cost={"images": 10, "seconds": 2.0}
    )


def calls(folder: Path) -> list[str]:
    path = folder / "calls.txt"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def test_a_cell_is_what_the_sweep_of_the_same_splits_finds(tmp_path: Path) -> None:
    """The study adds names and bookkeeping; were anything fitted or scored otherwise, its numbers would not be the sweep's."""
    found = probe.run_study(study(), tmp_path / "s", progress=False)
    (record,) = found.records
    backbone = featstore.load_backbone("featstore:digits_net")
    parts = [featstore.load_split(f"digits:{part}+blur(1.0)") for part in ("train", "val", "test")]
    store = featstore.extract(backbone, parts, tmp_path / "f", units="penultimate", progress=False)
    swept = probe.sweep(
        store, train=parts[0], val=parts[1], test=parts[2], out=tmp_path / "r", C=[0.01, 0.1, 1.0], progress=False
    ).records[0]  # fmt: skip
    assert (record.test_score, record.val_score, record.chosen["C"]) == (swept.test_score, swept.val_score, swept.C)
    assert record.features == {part: dict(swept.key[part]) for part in ("train", "val", "test")}
    assert record.key["network"]["weights_digest"] == backbone.weights_digest
    assert record.cost["images"] == sum(map(len, parts))
    assert found.predictions(record).accuracy() == record.test_score
    assert record.versions["numpy"] == np.__version__


def test_nothing_is_computed_twice_and_the_plan_says_so(tmp_path: Path) -> None:
    asked = study(probe.Regime("own", counting), seeds=(0, 1))
    before = probe.plan_study(asked, tmp_path)
    assert (len(before.done), len(before.missing), before.seconds) == (0, 2, None)
    assert probe.run_study(asked, tmp_path, progress=False).n_computed == 2
    again = probe.run_study(asked, tmp_path, progress=False)
    assert again.n_computed == 0
    assert len(again) == 2
    assert calls(tmp_path) == ["0", "1"]
    assert probe.plan_study(asked, tmp_path).is_done
    more = probe.plan_study(replace(asked, seeds=(0, 1, 2)), tmp_path)
    assert [cell.seed for cell in more.missing] == [2]
    # measured: 2 s and 10 images a cell
    assert more.seconds == pytest.approx(2.0)
    assert more.images == 10


def test_the_estimate_of_probes_is_what_was_measured(tmp_path: Path) -> None:
    """Seconds per image of the network and of fitting come from the ledger; features that are there cost no image."""
    probe.run_study(study(), tmp_path, progress=False)
    (record,) = probe.load_study(tmp_path).records
    other = replace(ROTATED, n_train=200, n_val=0, n_test=100)
    plan = probe.plan_study(study(datasets=(BLURRED, other)), tmp_path)
    assert plan.images == 300
    assert plan.bytes == 300 * 128 * 2
    per_image = record.cost["extract_s"] / record.cost["images"]
    fit = record.cost["fit_s"] / (record.n_train * 128) * 200 * 128
    assert plan.seconds == pytest.approx(300 * per_image + fit)
    few = probe.plan_study(
        study(probe.Regime("logistic", options=FAST), probe.Regime("few", "logistic", {"per_class": 5})), tmp_path
    )
    assert few.images == 0
    strangers = probe.plan_study(
        study(networks=(NET, replace(NET, name="new", options={"weights": "random"}))), tmp_path
    )
    assert strangers.costs[0].is_borrowed
    assert "have not run yet" in str(strangers)


def test_a_failing_cell_is_written_down_and_stops_no_other(tmp_path: Path) -> None:
    asked = study(probe.Regime("own", counting, {"fails": [1]}), seeds=(0, 1, 2))
    found = probe.run_study(asked, tmp_path, progress=False)
    assert [r.names[3] for r in found] == [0, 2]
    assert [f.sentence for f in found.failed] == ["ZeroDivisionError: seed says no"]
    assert "counting" in found.failed[0].traceback
    table = probe.load_study(tmp_path).table()
    assert table["status"].tolist() == ["done", "done", "failed"]
    assert np.isnan(table["accuracy"].iloc[2])
    assert "1 failed when last tried" in str(probe.plan_study(asked, tmp_path))
    assert len(calls(tmp_path)) == 3
    probe.run_study(asked, tmp_path, progress=False)
    assert calls(tmp_path)[3:] == ["1"]  # tried again, alone


def test_other_weights_under_one_name_are_another_result(tmp_path: Path) -> None:
    """Identity before existence: a record is of the tensors it was computed from, not of what they are called."""
    random = probe.Network("net", "featstore:digits_net", options={"weights": None, "seed": 0})
    other = replace(random, options={"weights": None, "seed": 1})
    first = probe.run_study(study(networks=(random,)), tmp_path, progress=False).records[0]
    second = probe.run_study(study(networks=(other,)), tmp_path, progress=False)
    assert second.n_computed == 1
    assert second.records[0].digest != first.digest
    assert [r.digest for r in probe.load_study(tmp_path)] == [second.records[0].digest]  # never two rows of one name
    back = probe.run_study(study(networks=(random,)), tmp_path, progress=False)
    assert back.n_computed == 0
    assert [r.digest for r in probe.load_study(tmp_path)] == [first.digest]


def named(record: probe.StudyRecord) -> tuple[str, ...]:
    return tuple(asked["network"]["name"] for asked in record.labels)


def test_a_renamed_network_has_its_results(tmp_path: Path) -> None:
    """A name says nothing about what was computed: one record, under whatever names it was asked for."""
    own = (probe.Regime("own", counting),)
    first = probe.run_study(study(*own), tmp_path, progress=False).records[0]
    other = study(probe.Regime("mine", own[0].function), networks=(replace(NET, name="new", source=0.5),))
    assert probe.plan_study(other, tmp_path).is_done
    assert probe.load_study(tmp_path, other).table()[["model", "regime"]].iloc[0].tolist() == ["new", "mine"]
    found = probe.run_study(other, tmp_path, progress=False)
    assert (found.n_computed, len(calls(tmp_path))) == (0, 1)
    assert found.table()["source"].tolist() == [0.5]
    (kept,) = probe.load_study(tmp_path)
    assert kept.digest == first.digest
    assert named(kept) == ("new", "digits_net")
    assert probe.load_study(tmp_path, study(*own)).table()["model"].tolist() == ["digits_net"]
    both = study(*own, networks=(NET, replace(NET, name="twin")))
    assert len(probe.run_study(both, tmp_path, progress=False)) == 2
    path = tmp_path / "records" / f"{first.digest}.json"
    before = path.stat().st_mtime_ns
    assert len(probe.run_study(both, tmp_path, progress=False)) == 2
    assert path.stat().st_mtime_ns == before  # two names of one study do not take turns
    assert len(calls(tmp_path)) == 1


def test_records_of_earlier_versions_are_found(tmp_path: Path) -> None:
    """They had names in their key and neither labels nor place: read, counted as done, and not computed again."""
    asked = study(probe.Regime("own", counting))
    (record,) = probe.run_study(asked, tmp_path, progress=False).records
    folder = StudyFolder(tmp_path)
    old = replace(record, key={**record.key, "names": list(record.names[:3])})
    said = {k: v for k, v in old.to_json().items() if k not in ("also", "place", "self")}
    (tmp_path / "records" / f"{record.digest}.json").unlink()
    path = tmp_path / "records" / f"{old.digest}.json"
    path.write_text(json.dumps({**said, "self": checksum(said)}))
    assert old.digest != record.digest
    assert old.identity == record.digest
    assert probe.plan_study(asked, tmp_path).is_done
    for networks in ((NET,), (replace(NET, name="new"),), (NET,)):
        found = probe.run_study(replace(asked, networks=networks), tmp_path, progress=False)
        assert (len(found), found.n_computed) == (1, 0)
    assert calls(tmp_path) == ["0"]
    assert [r.digest for r in folder.records()[0]] == [old.digest]
    other = replace(asked, networks=(replace(NET, options={"weights": "random"}),))
    assert probe.run_study(other, tmp_path, progress=False).n_computed == 1
    assert [named(r) for r in probe.load_study(tmp_path)] == [
        ("digits_net",),
        ("new",),
    ]  # it keeps the name that is still true


def test_a_file_asks_for_random_weights(tmp_path: Path) -> None:
    """TOML has no null; the word is that of the command line."""
    text = PLAN.replace(
        'spec = "featstore:digits_net@nowhere.safetensors"', 'options = { weights = "random", seed = 3 }'
    )
    (tmp_path / "plan.toml").write_text(text)
    asked = probe.Study.from_toml(tmp_path / "plan.toml").networks[1]
    assert asked.options == {"weights": None, "seed": 3}
    assert asked == probe.Network("lost", options={"weights": None, "seed": 3})


def test_a_study_survives_its_plan(tmp_path: Path) -> None:
    """What is kept is what was asked, whatever was asked."""
    asked = probe.Study(
        (NET, probe.Network("random", "featstore:digits_net", options={"weights": None, "units": "fine"})),
        (BLURRED, replace(ROTATED, n_train=100, n_val=0, n_test=50, n_classes=10)),
        (probe.Regime("own", counting, {"fails": [1]}, seeds=(3, 4), datasets=("blurred",), images_per_cell=7),
         probe.Regime("logistic", options={"C": [0.1]})),
        (0, 2), "whole", "make it",
    )  # fmt: skip
    path = StudyFolder(tmp_path).keep_plan(asked)
    assert probe.Study.from_json(json.loads(path.read_text())) == asked
    part = asked.only(networks=["random"], seeds=[3])
    assert [cell.names for cell in part.cells] == [("random", "blurred", "own", 3)]
    assert [c.names for c in asked.only(regimes=["logistic"], seeds=[2]).cells] == [
        (n.name, d.name, "logistic", 2) for n in asked.networks for d in asked.datasets
    ]
    for wrong, message in (
        ({"networks": ["x"], "seeds": [9]}, "'x' is none of its networks.*seed 9 is not among"),
        ({"datasets": ["rotated"], "regimes": ["own"]}, "No cell of the study"),
    ):
        with pytest.raises(BadInput, match=message):
            asked.only(**wrong)
    with pytest.raises(BadInput, match="must be plain values"):
        probe.Regime("own", counting, {"what": object()})


def test_seeds_that_draw_nothing_are_one_computation(tmp_path: Path) -> None:
    """While one process fits the probe of seed 0, another must not fit the same one for seed 1."""
    asked = study(seeds=(0, 1))
    place = probe.Place(tmp_path)
    keys = [place.key(cell) for cell in asked.cells]
    assert keys[0] != keys[1]
    assert place.computation(asked.cells[0], keys[0]) == place.computation(asked.cells[1], keys[1])
    for other in (
        study(probe.Regime("few", "logistic", {**FAST, "per_class": 5}), seeds=(0, 1)),
        study(datasets=(ROTATED,), seeds=(0, 1)),  # a share of train is held out
        study(probe.Regime("own", counting), seeds=(0, 1)),
    ):
        assert len({place.computation(cell, place.key(cell)) for cell in other.cells}) == 2
    with StudyFolder(tmp_path).claim(place.computation(asked.cells[0], keys[0])) as is_mine:
        assert is_mine
        with StudyFolder(tmp_path).claim(place.computation(asked.cells[1], keys[1])) as also:
            assert not also
    found = probe.run_study(asked, tmp_path, progress=False)
    assert [r.names[3] for r in found] == [0, 1]
    assert len(list((tmp_path / "probes").glob("*.json"))) == 1


def test_a_damaged_record_is_said_and_computed_again(tmp_path: Path) -> None:
    asked = study(probe.Regime("own", counting))
    (record,) = probe.run_study(asked, tmp_path, progress=False).records
    path = tmp_path / "records" / f"{record.digest}.json"
    good = path.read_bytes()
    for content in (good[:100], good.replace(b'"n_train": 3', b'"n_train": 4'), b"[]"):
        path.write_bytes(content)
        assert len(probe.load_study(tmp_path).damaged) == 1
        found = probe.run_study(asked, tmp_path, progress=False)
        assert (found.n_computed, len(found.damaged)) == (1, 1)
    later = {**json.loads(path.read_text()), "format": 99}
    path.write_text(json.dumps(later))
    with pytest.raises(BadInput, match="format 99"):
        probe.load_study(tmp_path)


SHARED = """
import sys
sys.path[:0] = {paths!r}
import probe
from test_study import BLURRED, NET, counting
asked = probe.Study((NET,), (BLURRED,), (probe.Regime("own", counting, {{"seconds": {seconds}}}),), tuple(range({n})))
print("ready", flush=True)
found = probe.run_study(asked, sys.argv[1], progress=False)
print(len(found), found.n_computed, flush=True)
"""


def process(folder: Path, n: int, seconds: float) -> subprocess.Popen[str]:
    paths = [str(Path(__file__).parent), str(ROOT)]
    code = SHARED.format(paths=paths, n=n, seconds=seconds)
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)


def test_two_processes_share_a_folder_and_compute_each_cell_once(tmp_path: Path) -> None:
    both = [process(tmp_path, 6, 0.1) for _ in range(2)]
    said = [one.communicate(timeout=120)[0].split()[1:] for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert [n for n, _ in said] == ["6", "6"]  # both end with all
    assert sum(int(n) for _, n in said) == 6
    assert sorted(calls(tmp_path)) == sorted(map(str, range(6)))


def test_a_killed_study_goes_on_and_its_claim_dies_with_it(tmp_path: Path) -> None:
    killed = process(tmp_path, 3, 0.5)
    stop = time.monotonic() + 60
    while len(calls(tmp_path)) < 2 and time.monotonic() < stop:  # the second cell is being computed
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    asked = study(probe.Regime("own", counting, {"seconds": 0.5}), seeds=(0, 1, 2))
    n_done = len(probe.plan_study(asked, tmp_path).done)
    found = probe.run_study(asked, tmp_path, progress=False)
    assert n_done == 1
    assert (len(found), found.n_computed) == (3, 2)
    assert calls(tmp_path) == ["0", "1", "1", "2"]


def test_the_same_results_over_a_cluster(tmp_path: Path) -> None:
    """Cells on workers: the records of a study here, to the score, and failures with their sentences."""
    from distributed import Client, LocalCluster

    regimes = (probe.Regime("logistic", options=FAST), probe.Regime("own", counting, {"fails": [0]}))
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as workers,
        Client(workers) as client,
    ):
        there = probe.run_study(study(*regimes), tmp_path / "there", scheduler=client, progress=False)
        again = probe.run_study(study(*regimes[:1]), tmp_path / "there", scheduler=client, progress=False)
    here = probe.run_study(study(*regimes), tmp_path / "here", progress=False)
    assert [r.digest for r in there] == [r.digest for r in here]
    assert [r.test_score for r in there] == [r.test_score for r in here]
    assert (
        [f.sentence for f in there.failed] == [f.sentence for f in here.failed] == ["ZeroDivisionError: seed says no"]
    )
    assert again.n_computed == 0


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.toml").write_text(PLAN)
    assert main(["study", "plan.toml", "--dry-run"]) == 0
    assert "2 networks × 1 data sets, 1 regimes: 2 cells, of which 0 are done and 2 missing" in capsys.readouterr().out
    assert main(["study", "plan.toml", "--table"]) == 1
    assert "There are no results" in capsys.readouterr().err
    assert main(["study", "plan.toml", "--run", "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "failed: lost on blurred, logistic, seed 0: " in out
    assert "nowhere.safetensors" in out
    assert main(["study", "plan.toml", "--table", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert [row["status"] for row in rows] == ["done", "failed"]
    assert main(["study", "plan.toml", "--export", "csv,parquet,own.csv"]) == 0
    tables = [
        pandas.read_csv("own.csv"),
        pandas.read_csv("runs/plan/results.csv"),
        pandas.read_parquet("runs/plan/results.parquet"),
    ]
    assert all(table["accuracy"].iloc[0] == rows[0]["accuracy"] for table in tables)
    assert main(["study", "plan.toml", "--export", "x.xlsx"]) == 1
    assert "neither .csv nor .parquet" in capsys.readouterr().err
    with pytest.raises(SystemExit) as usage:
        main(["study", "plan.toml", "--run", "--table"])
    assert usage.value.code == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "cannot be read"),
        ("colour = 1", "A study has no colour"),
        ("network = 3", "each begun by"),
        ("[[network]]\nname = 'a'", "it has no datasets"),
        (PLAN + "\n[[regime]]\nname = 'magic'", "'magic' is no regime"),
        (PLAN + "\n[[dataset]]\nname = 'x'\ntrain = 'a'", "'test' is missing"),
        (PLAN + "\n[[dataset]]\nname = 'x'\ntrain = 'a'\ntest = 'b'\nval = 'b'", "what is chosen on test"),
        (PLAN + "\n[[dataset]]\nname = 'x'\ntrain = 'a'\ntest = 'b'\nsize = 3", "it has no 'size'"),
        (PLAN + "\n[[network]]\nname = 'lost'", "'lost' names two networks"),
        (PLAN + "\n[[regime]]\nname = 'svm'\ndatasets = ['mars']", r"that are not there: \['mars'\]"),
        ("seeds = []\n" + PLAN, "at least one"),
        ("seeds = 'abc'\n" + PLAN, "give how many, or a list"),
        ("seeds = [0.5]\n" + PLAN, r"seeds are \[0.5\] but must be different whole numbers"),
        ("seeds = [-1]\n" + PLAN, r"seeds are \[-1\] but must be different whole numbers"),
        ("name = ''\n" + PLAN, "name one folder"),
        ("name = '../elsewhere'\n" + PLAN, "name one folder"),
        (
            PLAN + "\n[[network]]\nname = 'a'\nsource = '0.7'\noptions = 3",
            "'options' is 3 .* 'source' is '0.7' but must be a number",
        ),
        (
            PLAN + "\n[[dataset]]\nname = 'x'\ntrain = 'a'\ntest = 3\nn_train = -1",
            "'n_train' is -1 .* 'test' is 3 but must be text",
        ),
        (PLAN + "\n[[dataset]]\nname = 'x'\ntrain = 'a'\ntest = 'b'\nmetric = 'acuracy'", "did you mean accuracy"),
        (
            PLAN + "\n[[regime]]\nname = 'svm'\nfunction = 3\nnetworks = 'lost'",
            "'networks' is 'lost' but must be a list",
        ),
    ],
)
def test_a_file_that_means_nothing_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(BadInput, match=message):
        probe.Study.from_toml(tmp_path / "plan.toml")


def test_options_that_no_probe_has_fail_the_cell_with_their_names(tmp_path: Path) -> None:
    found = probe.run_study(study(probe.Regime("logistic", options={"colour": 1})), tmp_path, progress=False)
    assert "has options ['colour'], but probes know only units" in found.failed[0].sentence


def test_what_is_asked_survives_json(tmp_path: Path) -> None:
    """A plan that was run is found done after the way through the file; else everything would be missing for ever."""
    (tmp_path / "plan.toml").write_text(PLAN)
    asked = probe.Study.from_toml(tmp_path / "plan.toml")
    assert [str(cell) for cell in asked.cells] == [
        "digits_net on blurred, logistic, seed 0", "lost on blurred, logistic, seed 0",
    ]  # fmt: skip
    assert json.loads(json.dumps(plain(asked.cells[0].asked))) == plain(asked.cells[0].asked)


def test_a_regime_must_return_an_outcome(tmp_path: Path) -> None:
    found = probe.run_study(study(probe.Regime("own", f"{__name__}:calls_only")), tmp_path, progress=False)
    assert (
        found.failed[0].sentence == f"The regime {__name__}:calls_only returned int, but must return a probe.Outcome."
    )
    assert StudyFolder(tmp_path).records() == ([], [])


def calls_only(cell: probe.Cell, place: probe.Place) -> int:
    return 3


def test_seeds_of_a_regime_may_be_a_range() -> None:
    """They are kept as numbers, which a plan on disk can hold."""
    regime = probe.Regime("logistic", seeds=range(3))
    assert regime.seeds == (0, 1, 2)
    study = probe.Study((probe.Network("a"),), (probe.Dataset("b", "x", "y"),), (regime,))
    assert probe.Study.from_json(study.to_json()).regimes[0].seeds == (0, 1, 2)
