"""Searches: the papers' grids counted, every cell kept, the best on val found and trained again, resumed, over Dask."""

from __future__ import annotations

import functools
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_helpers import images_of

import featstore
import finetune
import probe
from finetune import SGD, AdamW, Constant, KeepBest, KeepLast, MacroF1AtThresholds, Recipe, StepDecay, StopEarly, grids
from finetune.joining import joined
from finetune.searching import refit_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

BASE = Recipe(lr=0.1, epochs=2, batch_size=64, keep=KeepBest())
GRID = grids.product(BASE, lr=(0.05, 1e-6, 3e38), weight_decay=(0.0, 1e-3))


def searched(backbone: Any, digits: dict[str, featstore.Split], out: Path, **changes: Any) -> finetune.Search:
    """A search over six cells, two of which must diverge."""
    options: dict[str, Any] = {
        "grid": GRID,
        "test": digits["test"],
        "progress": False,
        "head_rows": range(10),
        **changes,
    }
    regime = options.pop("regime", functools.partial(finetune.tune_unit, unit="conv1"))
    found: finetune.Search = finetune.search(regime, backbone, digits["train"], val=digits["val"], out=out, **options)
    return found


def test_grids_are_the_papers() -> None:
    """56 cells, 80 cells (40 × 2 schedules), 5 cells; ends and decays as the papers say."""
    ours = grids.kornblith2019()
    assert len(ours) == 56
    rates = sorted({recipe.lr for recipe in ours.values()})
    np.testing.assert_allclose(rates, np.logspace(-4, -1, 7))
    decays = sorted({round(recipe.weight_decay * recipe.lr, 12) for recipe in ours.values()})
    np.testing.assert_allclose(decays, [0, *np.logspace(-6, -3, 7)], atol=1e-12)
    scratch = grids.kornblith2019(pretrained=False)
    assert {recipe.steps for recipe in scratch.values()} == {19_531}
    assert sorted({recipe.lr for recipe in scratch.values()})[-1] == pytest.approx(1.0)
    fang = grids.fang2023(data="cct20")
    assert len(fang) == 80
    assert len({json.dumps(recipe.to_json()) for recipe in fang.values()}) == 80
    adamw = [recipe for recipe in fang.values() if recipe.optimizer == AdamW()]
    assert sorted({recipe.lr for recipe in adamw}) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2])
    assert {round(recipe.weight_decay * recipe.lr, 9) for recipe in adamw} == {1e-3, 1e-4, 1e-5, 1e-6, 0.0}
    sgd = [recipe for recipe in fang.values() if recipe.optimizer == SGD()]
    assert {recipe.weight_decay for recipe in sgd} == {1e-3, 1e-4, 1e-5, 1e-6, 0.0}
    assert len(grids.fang2023(schedule=StepDecay((15, 20, 25)))) == 40
    surgical = grids.surgical2022(epochs=10)
    assert [recipe.lr for recipe in surgical.values()] == pytest.approx([1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
    assert {(recipe.train_mode, recipe.weight_decay, recipe.epochs) for recipe in surgical.values()} == {
        ("none", 1e-4, 10)
    }


def test_the_best_cell_is_trained_again_on_train_and_val(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """All cells are there with their scores, diverged ones with a note; the refit is the regime on the joined splits."""
    found = searched(backbone, digits, tmp_path / "s")
    assert [cell.name for cell in found.cells] == list(GRID)
    vals = {cell.name: cell.val for cell in found.cells}
    assert [name for name, val in vals.items() if val is None] == [
        "lr=3e+38,weight_decay=0",
        "lr=3e+38,weight_decay=0.001",
    ]
    assert "diverged at step" in found.cells[-1].note
    assert found.best.val == max(val for val in vals.values() if val is not None)
    assert found.best.recipe.lr == 0.05
    for cell in found.cells:
        if cell.run is not None:
            assert cell.val == cell.run.predictions["val"].accuracy()
            assert "test" not in cell.run.scores
    both = joined(digits["train"], digits["val"])
    again = finetune.tune_unit(
        backbone, both, unit="conv1", recipe=replace(found.best.recipe, keep=KeepLast()), out=tmp_path / "again",
        test=digits["test"], head_rows=range(10), progress=False,
    )  # fmt: skip
    assert found.refit is not None
    assert all(torch.equal(t, again.weights()[name]) for name, t in found.refit.weights().items())
    assert found.scores == again.scores
    assert np.array_equal(found.predictions["test"].y_pred, again.predictions["test"].y_pred)
    assert json.loads(json.dumps(found.to_json()))["best"] == found.best.name


def test_a_finished_search_trains_nothing_and_another_is_refused(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Called again it reads what is there, what diverged included; interrupted between cells, it trains what is
    missing."""
    from finetune import task

    trained = 0
    train = task.train_loop

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal trained
        trained += 1
        if trained == 4:
            raise KeyboardInterrupt
        return train(*args, **kwargs)

    monkeypatch.setattr(task, "train_loop", counted)
    with pytest.raises(KeyboardInterrupt):
        searched(backbone, digits, tmp_path / "s")
    first = searched(backbone, digits, tmp_path / "s")
    assert trained == 4 + 3 + 1  # three cells before the interruption, three after it, the refit
    again = searched(backbone, digits, tmp_path / "s")
    assert trained == 8
    assert again.to_json() == first.to_json()
    with pytest.raises(finetune.DifferentRun, match=r"grid\.lr=0\.05,weight_decay=0\.batch_size is 64 stored and 32"):
        searched(backbone, digits, tmp_path / "s", grid={name: replace(r, batch_size=32) for name, r in GRID.items()})
    with pytest.raises(finetune.DifferentRun, match=r"options\.unit is 'conv1' stored and 'conv2'"):
        searched(backbone, digits, tmp_path / "s", regime=finetune.tune_unit, unit="conv2")


def test_cells_that_another_process_trains_are_waited_for_and_read(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two processes with the same call share the cells: each is trained once, by whoever comes first."""
    grid = {name: replace(BASE, lr=lr, epochs=1) for name, lr in (("a", 0.1), ("b", 0.05), ("c", 0.01))}
    with subprocess.Popen(
        [sys.executable, "-c", SAME_SEARCH, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parent,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "in hand\n"
        found = searched(backbone, digits, tmp_path / "s", grid=grid, progress=True)
        said = capsys.readouterr().err
        assert other.wait(timeout=60) == 0
    assert [line.split(": ")[-2] for line in said.splitlines() if "of 3 cells" in line] == ["b", "c", "a"]
    assert "waiting for a, which other processes train" in said
    assert [cell.name for cell in found.cells] == ["a", "b", "c"]
    assert (tmp_path / "s" / "cells" / "a" / ".pid").read_text() == str(other.pid)


SAME_SEARCH = """
import os, sys, time
from dataclasses import replace
from pathlib import Path
import featstore
from finetune import task
from finetune_helpers import blurred_digits
from test_search import BASE, searched

train, out, n_calls = task.train_loop, Path(sys.argv[1]), 0

def slow(*args, **kwargs):
    global n_calls
    n_calls += 1
    if n_calls == 2:
        sys.exit(0)
    (out / "cells" / "a" / ".pid").write_text(str(os.getpid()))
    print("in hand", flush=True)
    while len(list(out.glob("cells/[bc]/run.json"))) < 2:
        time.sleep(0.1)
    time.sleep(2.0)
    return train(*args, **kwargs)

task.train_loop = slow
grid = {name: replace(BASE, lr=lr, epochs=1) for name, lr in (("a", 0.1), ("b", 0.05), ("c", 0.01))}
searched(featstore.load_backbone("featstore:digits_net"), blurred_digits(), out, grid=grid)
"""


def test_without_a_refit_the_best_cells_network_is_tested(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """What it says about test is what its network says, image by image; thresholds are those of val."""
    found = searched(backbone, digits, tmp_path / "s", refit=False)
    assert found.refit is None
    assert found.best.run is not None
    with torch.inference_mode():
        logits = found.best.run.network(backbone)(images_of(backbone, digits["test"])).numpy()
    np.testing.assert_allclose(found.predictions["test"].scores, logits, rtol=1e-4, atol=1e-4)
    assert found.scores == {"test": probe.metrics.accuracy(digits["test"].labels, logits.argmax(1))}
    stored = probe.Predictions.load(tmp_path / "s" / "predictions" / "test.npz")
    assert np.array_equal(stored.y_pred, logits.argmax(1))


def test_cells_of_a_cluster_are_those_of_this_machine(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """Two workers with a declared GPU each train the same weights to the bit, and a cell that diverges stays a note.

    The workers' threads are set to one, as here: sums over other numbers of threads round otherwise.
    """
    from distributed import Client, LocalCluster

    grid = {name: GRID[name] for name in (next(iter(GRID)), "lr=1e-06,weight_decay=0", "lr=3e+38,weight_decay=0")}
    here = searched(backbone, digits, tmp_path / "here", refit=False, grid=grid)
    options = {"dashboard_address": ":0", "silence_logs": 100, "resources": {"GPU": 1}}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, **options) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.run(torch.set_num_threads, 1)
        there = searched(backbone, digits, tmp_path / "there", refit=False, grid=grid, scheduler=client)
        again = searched(
            backbone, digits, tmp_path / "there", refit=False, grid=grid, scheduler=cluster.scheduler_address
        )
    for a, b in zip(here.cells, there.cells, strict=True):
        assert (a.name, a.val, a.note) == (b.name, b.val, b.note)
        if a.run is not None and b.run is not None:
            assert all(torch.equal(t, b.run.weights()[name]) for name, t in a.run.weights().items())
    assert again.to_json()["cells"] == there.to_json()["cells"]
    with pytest.raises(finetune.BadInput, match="no Dask scheduler answers"):
        searched(backbone, digits, tmp_path / "nowhere", scheduler="tcp://127.0.0.1:1")


def test_what_a_refit_trains_for(backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path) -> None:
    """Early stopping needs val, which a refit has not: the epochs of the kept weights; schedules run to their end."""
    recipe = Recipe(lr=0.01, epochs=6, batch_size=64, schedule=Constant(), keep=StopEarly(drop=1.0))
    run = finetune.tune_head(
        backbone, digits["train"], digits["val"], recipe=recipe, out=tmp_path / "run", progress=False
    )
    n = len(digits["train"])
    again = refit_recipe(recipe, run, n_train=n)
    assert (again.keep, again.epochs) == (KeepLast(), run.kept_step // recipe.steps_per_epoch(n))
    assert refit_recipe(BASE, run, n_train=n) == replace(BASE, keep=KeepLast())


def test_searches_that_cannot_be_made_are_refused(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """Before anything is trained, all problems together."""
    with pytest.raises(finetune.BadInput, match=r"the grid is empty"):
        searched(backbone, digits, tmp_path / "s", grid={})
    with pytest.raises(finetune.BadInput, match=r"(?s)'a/b'.*no val to choose thresholds on"):
        searched(backbone, digits, tmp_path / "s", grid={"a/b": BASE}, metric=MacroF1AtThresholds())
    with pytest.raises(finetune.BadInput, match=r"a recipe has no field 'momentum'"):
        grids.product(BASE, momentum=(0.9,))
    with pytest.raises(finetune.Diverged, match=r"all 1 cells diverged"):
        searched(backbone, digits, tmp_path / "d", grid={"wild": replace(BASE, lr=3e38)})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    with pytest.raises(finetune.BadInput, match="holds other things"):
        searched(backbone, digits, tmp_path / "other")


def test_splits_that_are_shifted_alike_can_be_joined() -> None:
    """Shifts are made anew for every split that is loaded: equal ones must not count as different, other ones must."""
    train, val = (featstore.load_split(f"digits:{part}+blur(1.0)") for part in ("train", "val"))
    assert len(joined(train, val)) == len(train) + len(val)
    with pytest.raises(finetune.BadInput, match="shifted differently"):
        joined(train, featstore.load_split("digits:val+blur(2.0)"))


def test_joined_splits_keep_ids_labels_and_images(digits: dict[str, featstore.Split]) -> None:
    """Row by row the images, shifts included, of the two; what overlaps is refused."""
    both = joined(digits["train"], digits["val"])
    assert len(both) == len(digits["train"]) + len(digits["val"])
    for i in (0, len(digits["train"]) - 1, len(digits["train"]), len(both) - 1):
        part = digits["train"] if i < len(digits["train"]) else digits["val"]
        j = i if part is digits["train"] else i - len(digits["train"])
        assert both.ids[i] == part.ids[j]
        assert both.labels is not None
        assert part.labels is not None
        assert both.labels[i] == part.labels[j]
        assert np.array_equal(np.asarray(both.image(i)), np.asarray(part.image(j)))
    with pytest.raises(finetune.BadInput, match=r"(?s)2 problems.*ids are in both.*shifted differently"):
        joined(digits["train"], replace(digits["train"], transforms=()))


def test_errors_come_back_from_workers() -> None:
    """Exceptions with more than a message must survive the way between processes."""
    error = finetune.Diverged("it did", step=3, lr=0.5)
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.step, back.lr) == ("it did", 3, 0.5)
    different = finetune.DifferentRun(Path("x"), ["a is 1 stored and 2 asked for"])
    again = pickle.loads(pickle.dumps(different))
    assert (str(again), again.differences) == (str(different), different.differences)


def test_what_a_partial_fixes_counts_as_an_option(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """Cells were scored by the partial's metric and test by accuracy."""
    regime = functools.partial(finetune.tune_unit, unit="conv1", metric=probe.metrics.macro_f1)
    grid = {"a": replace(BASE, epochs=1)}
    found = searched(backbone, digits, tmp_path / "s", regime=regime, grid=grid, refit=False)
    said = found.predictions["test"]
    assert found.scores["test"] == probe.metrics.macro_f1(said.y_true, said.y_pred) != said.accuracy()
    with pytest.raises(finetune.BadInput, match=r"the regime fixes test, which a search gives to each cell"):
        searched(backbone, digits, tmp_path / "t", regime=functools.partial(finetune.full_tune, test=digits["test"]))


def test_calls_that_fail_leave_their_folder_to_the_next(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """A misspelt unit, or a metric that cannot choose a probe, claimed the folder for what could never be trained."""
    grid = {"a": replace(BASE, epochs=None, steps=1)}
    with pytest.raises(finetune.BadInput, match="scheduler is 5"):
        searched(backbone, digits, tmp_path / "s", grid=grid, scheduler=5)
    with pytest.raises(finetune.BadInput, match="no unit 'conv9'"):
        searched(backbone, digits, tmp_path / "s", regime=finetune.tune_unit, unit="conv9", grid=grid)
    assert not (tmp_path / "s").exists()
    with pytest.raises(finetune.BadInput, match="gives a Flex"):
        searched(backbone, digits, tmp_path / "s", regime=_no_run, grid=grid)
    assert searched(backbone, digits, tmp_path / "s", grid=grid, refit=False).best.name == "a"
    marked = {name: replace(s, labels=np.eye(10, dtype=np.uint8)[np.asarray(s.labels)]) for name, s in digits.items()}
    options: dict[str, Any] = {"recipe": grid["a"], "out": tmp_path / "run", "C": [0.1], "progress": False}
    with pytest.raises(finetune.BadInput, match="cannot be chosen by macro F1 at thresholds"):
        finetune.probe_then_tune(backbone, marked["train"], marked["val"], metric=MacroF1AtThresholds(), **options)
    run = finetune.probe_then_tune(backbone, marked["train"], marked["val"], **options)
    assert run.identity["metric"] == "map11"


def _no_run(*args: Any, **options: Any) -> Any:
    raise finetune.BadInput("this gives a Flex.")
