"""One cell of Table 3: one target domain, one amount of data, one seed; every method, each training a run on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from royer_blocks import Block, Size, target_parts, target_recipe
from royer_source import head_rows

import finetune
from featstore import Backbone, Split
from featstore.datasets.shifts import DomainShift
from finetune.examples import logits_of
from finetune.images import ImageExamples

CHOICES = ("flex", "fast", "faster")
METHODS = (*CHOICES, "ft-fc (1)", "ft-fc (2)", "ft-ss", "ft-all")


@dataclass(frozen=True)
class Cell:
    """Where in the table.

    Attributes
    ----------
    target : str
    per_class : int
        Training images of each class.
    seed : int
        Draws them, and the order of the batches.
    """

    target: str
    per_class: int
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.target}-{self.per_class}-seed{self.seed}"


def run_cell(
    block: Block, cell: Cell, backbone: Backbone, *, shared: Path, size: Size, out: Path,
    shift: DomainShift | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Tune with every method, then look at the test images; what is finished is read from ``out``."""
    parts = target_parts(block, cell.target, shared, size, shift=shift)
    train = parts["target"].per_class(cell.per_class, seed=cell.seed)
    recipe = target_recipe(block, cell.per_class, size, n_train=len(train), seed=cell.seed)
    options: dict[str, Any] = {"recipe": recipe, "head_rows": head_rows(block, backbone, len(train.classes))}
    options["progress"] = False
    folder = out / cell.name
    methods = [name for name in METHODS if name != "ft-fc (2)" or block.data != "pacs"]  # not in the paper's block
    flexes = {
        method: finetune.flex_tune(
            backbone,
            train,
            parts["val"],
            method=method,
            candidates=folder / "candidates",
            out=folder / method,
            **options,
        )
        for method in methods
    }
    runs = {method: finetune.open_run(flex.best.path / flex.best.details["run"]) for method, flex in flexes.items()}
    tested = {path: finetune.predict(run, backbone, parts["test"]).accuracy()
              for path, run in {run.path.resolve(): run for run in runs.values()}.items()}  # fmt: skip
    return {
        "target": cell.target,
        "per_class": cell.per_class,
        "seed": cell.seed,
        "shift": None if shift is None else str(shift),
        "test": {method: tested[run.path.resolve()] for method, run in runs.items()},
        "val": {method: run.scores["val"] for method, run in runs.items()},
        "unit": {method: flexes[method].unit for method in CHOICES},
        "candidates": {row.candidate: row.val for row in flexes["flex"].table},
        "proxies": {
            method: {row.candidate: row.score for row in flexes[method].table} for method in ("fast", "faster")
        },
        "steps": {method: run.history[-1].step for method, run in runs.items()},
        "n": {name: len(split) for name, split in (("train", train), ("val", parts["val"]), ("test", parts["test"]))},
    }


def accuracy_of(backbone: Backbone, split: Split, rows: tuple[int, ...] | None) -> float | None:
    """Accuracy of the network as it is; None where no rows of its head stand for the classes."""
    if rows is None:
        return None
    assert split.labels is not None
    logits = logits_of(backbone.module, ImageExamples(split, backbone.preprocessing, split.labels), device="cpu")
    return float((logits[:, list(rows)].argmax(1) == split.labels).mean())


def calibrated(
    block: Block,
    target: str,
    backbone: Backbone,
    *,
    shared: Path,
    size: Size,
    tolerance: float = 0.01,
    halvings: int = 9,
) -> tuple[DomainShift | None, float]:
    """The strength of a shift at which the source network is as right on val as the paper's was on its target.

    Parameters
    ----------
    tolerance : float
        How far the paper's own shift may be off to be taken as it is.
    halvings : int
        Of the interval in which the strength is looked for.

    Returns
    -------
    shift : DomainShift or None
        None is the paper's own.
    accuracy : float
        On val.
    """
    wanted, found = block.targets[target], target_parts(block, target, shared, size)["val"]
    rows = tuple(range(len(found.classes)))
    own = accuracy_of(backbone, found, rows)
    assert own is not None
    if wanted.strength is None or abs(own - wanted.before) <= tolerance:
        return None, own
    low, high = 0.0, wanted.strongest
    best = (np.inf, wanted.strength(high), own)
    for _ in range(halvings):
        middle = round((low + high) / 2, 3)
        shift = wanted.strength(middle)
        accuracy = accuracy_of(backbone, target_parts(block, target, shared, size, shift=shift)["val"], rows)
        assert accuracy is not None
        best = min(best, (abs(accuracy - wanted.before), shift, accuracy), key=lambda tried: tried[0])
        low, high = (middle, high) if accuracy > wanted.before else (low, middle)
    return best[1], best[2]
