"""The benchmark of Table 3 at its tiny size: what is split how, what a table says, and that a second call does nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from finetune import task

pytestmark = pytest.mark.usefixtures("one_thread")

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SHARED = Path(__file__).resolve().parents[2] / "shared"

needs_shared = pytest.mark.skipif(not (SHARED / "data" / "mnist").is_dir(), reason="the shared images are not there")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules of the benchmark."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(BENCHMARKS.parent))
    import royer2020
    import royer_blocks
    import royer_cells
    import royer_tables

    return SimpleNamespace(main=royer2020, blocks=royer_blocks, cells=royer_cells, tables=royer_tables)


@needs_shared
@pytest.mark.slow
def test_a_block_from_source_training_to_table(
    bench: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A benchmark nobody runs rots: one cell of MNIST with every method, then the same command again from the disk."""
    command = ["mnist", "--size", "tiny", "--targets", "occluded", "--ratios", "0", "--out", str(tmp_path / "runs"),
               "--results", str(tmp_path)]  # fmt: skip
    assert bench.main.main(command) == 0
    first = capsys.readouterr().out
    path = tmp_path / "mnist-tiny.json"
    found = json.loads(path.read_text())
    (cell,) = found["cells"]
    assert set(cell["test"]) == {"flex", "fast", "faster", "ft-fc (1)", "ft-fc (2)", "ft-ss", "ft-all"}
    assert cell["val"]["flex"] == max(cell["candidates"].values()) == cell["candidates"][cell["unit"]["flex"]]
    assert cell["n"]["train"] == 30
    assert "Occluded, 3 per class, 1 seeds" in first
    assert "(paper 0.581)" in first
    written = path.read_bytes()
    monkeypatch.setattr(task, "train_loop", None)  # must not be called
    assert bench.main.main(command) == 0
    assert capsys.readouterr().out == first
    assert path.read_bytes() == written
    assert found["commands"] == [
        "python benchmarks/royer2020.py mnist --size tiny --ratios 0 --targets occluded --seeds 1"
    ]
    with pytest.raises(SystemExit, match="holds cells of occluded without --calibrate"):
        bench.main.main([*command, "--calibrate"])


@needs_shared
@pytest.mark.slow
def test_a_shift_is_made_as_strong_as_the_papers(bench: SimpleNamespace, tmp_path: Path) -> None:
    """CIFAR: another strength of noise leaves the source network as right as it can be made to the paper's, and is tuned on."""
    command = ["cifar", "--size", "tiny", "--calibrate", "--targets", "noisy", "--ratios", "0", "--out", str(tmp_path / "runs"),
               "--results", str(tmp_path)]  # fmt: skip
    assert bench.main.main(command) == 0
    found = json.loads((tmp_path / "cifar-tiny.json").read_text())
    before, (cell,) = found["before"]["noisy"], found["cells"]
    assert before["is_calibrated"]
    assert before["shift"] is None or before["shift"] == cell["shift"] != "noise(30)"
    assert set(cell["candidates"]) == {*(f"conv{i}" for i in range(1, 6)), "penultimate", "head", "all"}
    assert cell["val"]["flex"] == max(cell["candidates"].values())


@needs_shared
@pytest.mark.slow
def test_a_domain_of_photographs(bench: SimpleNamespace, tmp_path: Path) -> None:
    """ImageNet's own rows stand for six classes, people are left out, no source network is trained."""
    command = ["pacs-mobilenetv1_025", "--size", "tiny", "--targets", "cartoon", "--ratios", "0", "--out",
               str(tmp_path / "runs"), "--results", str(tmp_path)]  # fmt: skip
    assert bench.main.main(command) == 0
    found = json.loads((tmp_path / "pacs-mobilenetv1_025-tiny.json").read_text())
    assert found["source_accuracy"] is None
    assert found["before"]["cartoon"]["test"] > 0.25  # six classes: the rows are those of the right classes
    assert set(found["cells"][0]["test"]) == {"flex", "fast", "faster", "ft-fc (1)", "ft-ss", "ft-all"}


@needs_shared
@pytest.mark.parametrize("block", ["mnist", "cifar"])
def test_no_image_is_in_two_parts(bench: SimpleNamespace, block: str) -> None:
    """Source, target, val: the paper's sizes, the classes' proportions, and nothing in common."""
    parts = bench.blocks.parts_of(block, SHARED, bench.blocks.SIZES["paper"])
    wanted = {"mnist": (25_000, 30_000, 5_000, 10_000), "cifar": (18_000, 18_000, 9_000, 9_000)}[block]
    sizes = tuple(len(parts[name]) for name in ("source", "target", "val", "test"))
    assert np.allclose(sizes, wanted, atol=10)  # rounded within each class
    ids = np.concatenate([parts[name].ids for name in ("source", "target", "val")])
    assert len(set(ids)) == len(ids)
    shares = [np.bincount(parts[name].labels) / len(parts[name]) for name in ("source", "target", "val")]
    assert np.allclose(shares[0], shares[1], atol=0.002)
    assert np.allclose(shares[0], shares[2], atol=0.002)


@needs_shared
def test_people_are_left_out(bench: SimpleNamespace) -> None:
    """The other six classes keep their names and numbers."""
    parts = bench.blocks.pacs_parts("sketch", SHARED, bench.blocks.SIZES["paper"])
    assert parts["test"].classes == ("dog", "elephant", "giraffe", "guitar", "horse", "house")
    assert sum(len(split) for split in parts.values()) == 3929 - 160
    assert len(bench.blocks.PACS_ROWS) == 6
    assert all(str(i).startswith(s.classes[y]) for s in parts.values() for i, y in zip(s.ids, s.labels, strict=True))


def result(target: str, seed: int, test: dict[str, float], unit: str) -> dict[str, Any]:
    """A finished cell at 20 per class."""
    return {
        "target": target,
        "per_class": 20,
        "seed": seed,
        "test": test,
        "unit": dict.fromkeys(("flex", "fast", "faster"), unit),
    }


def test_the_table_names_what_is_far_from_the_paper(bench: SimpleNamespace) -> None:
    """Means, spread and picks over seeds; only what differs by more than 0.03 is named."""
    methods = bench.cells.METHODS
    published = bench.blocks.CIFAR.targets["noisy"].published[20]
    near = dict(zip(methods, published, strict=True))
    cells = [
        result("noisy", seed, near | {"ft-all": near["ft-all"] - shift}, unit)
        for seed, (shift, unit) in enumerate([(0.1, "conv2"), (0.06, "conv2"), (0.02, "all")])
    ]
    found = {
        "size": "small",
        "source_accuracy": 0.72,
        "cells": cells,
        "before": {"noisy": {"test": 0.52, "shift": None}},
    }
    said = bench.tables.text(bench.blocks.CIFAR, found)
    assert "source accuracy 0.720 (paper 0.738)" in said
    assert "Noisy, 20 per class, 3 seeds, 0.520 before tuning (paper 0.540)" in said
    assert f"ft-all     {near['ft-all'] - 0.06:.3f} ± 0.040   paper 0.621" in said
    assert "more than 0.03 from the paper: ft-all -0.060\n" in said
    assert "conv2 2×, all 1× (authors, all data: conv2)" in said
    assert "chose a unit before the head in 2 of 3" in said


def test_cells_go_from_cheap_to_dear(bench: SimpleNamespace) -> None:
    """Little data first; one seed of every target before the next."""
    arguments = SimpleNamespace(ratios=[0, 1], targets=None, seeds=2)
    cells = bench.main.cells_of(bench.blocks.CIFAR, arguments)
    assert [(c.per_class, c.seed, c.target) for c in cells[:4]] == [
        (2, 0, "blurry"), (2, 0, "noisy"), (2, 1, "blurry"), (2, 1, "noisy"),
    ]  # fmt: skip
    assert len(cells) == 8
    assert cells[-1].per_class == 20
