"""`search`: one regime with every recipe of a grid; the best on val, trained again on train and val; all cells kept.

::

    out/
      search.json     what is asked for: regime, network, data, grid; the table, when all is done
      cells/NAME/     the run of each recipe; or diverged.json, where its loss or weights became NaN or infinite
      refit/          the run of the best recipe on train and val
      features/       the store of regimes that read features, where none is given
      predictions/    without a refit: what the best cell says about test

Every cell is a run of its own, so that whatever is interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from finetune.checkpoint import refuse_another
from finetune.errors import BadInput, Diverged, RunBusy
from finetune.files import FORMAT, write_atomically
from finetune.folder import folder_named, is_folder_name
from finetune.joining import joined
from finetune.keeping import KeepLast, StopEarly
from finetune.networks import unit_names
from finetune.predicting import predict
from finetune.progress import say
from finetune.recipe import Recipe
from finetune.run import Run, open_run, read_json
from finetune.scoring import MacroF1AtThresholds, settled, settled_at
from finetune.task import Asked, asked_for, network_identity

if TYPE_CHECKING:
    from distributed import Client

    from featstore import Backbone, Split
    from probe import Predictions

T = TypeVar("T")

RECORD = "search.json"
_DIVERGED = "diverged.json"
_LOOK_AGAIN_S = 1.0


@dataclass(frozen=True, eq=False)
class Cell:
    """One recipe of a search.

    Attributes
    ----------
    name : str
        In the grid.
    recipe : Recipe
        The hyper-parameters.
    run : Run or None
        What it gave; None where the training diverged.
    note : str
        Why there is no run, else empty.
    """

    name: str
    recipe: Recipe
    run: Run | None
    note: str = ""

    @property
    def val(self) -> float | None:
        """Score on val; None where the training diverged."""
        return None if self.run is None else self.run.scores["val"]


@dataclass(frozen=True, eq=False)
class Search:
    """A finished search.

    Attributes
    ----------
    path : Path
        Its folder.
    cells : tuple of Cell
        In the order of the grid.
    best : Cell
        The highest score on val, the first in the grid on ties.
    refit : Run or None
        The best recipe, trained on train and val; its scores are those of the test split.
    at_edge : tuple of str
        Learning rate or weight decay, where the best cell has the grid's smallest or largest of several.
    scores : mapping of str to float
        The metric of the network that comes out on ``"test"``, where there is such a split.
    predictions : mapping of str to Predictions
        Likewise, what it says.
    """

    path: Path
    cells: tuple[Cell, ...]
    best: Cell
    refit: Run | None
    at_edge: tuple[str, ...]
    scores: Mapping[str, float]
    predictions: Mapping[str, Predictions] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """The table, the choice and the final scores as plain numbers, strings, lists and dictionaries."""
        cells = [{"name": cell.name, "recipe": cell.recipe.to_json(), "val": cell.val, "note": cell.note} |
                 ({} if cell.run is None else {"kept_step": cell.run.kept_step, "seconds": cell.run.seconds})
                 for cell in self.cells]  # fmt: skip
        return {
            "path": str(self.path), "best": self.best.name, "at_edge": list(self.at_edge), "cells": cells,
            "refit": None if self.refit is None else str(self.refit.path), "scores": dict(self.scores),
        }  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What training one cell takes; it is sent to the workers of a cluster.

    Attributes
    ----------
    regime : callable
        `finetune.full_tune` …, or a partial of one.
    backbone : Backbone
    train, val : Split
    folder : Path
        ``out/cells``.
    options : mapping
        Keywords of the regime.
    """

    regime: Callable[..., Run]
    backbone: Backbone
    train: Split
    val: Split
    folder: Path
    options: Mapping[str, Any]


def search(
    regime: Callable[..., Run],
    backbone: Backbone,
    train: Split,
    *,
    val: Split,
    grid: Mapping[str, Recipe],
    out: str | Path,
    test: Split | None = None,
    refit: bool = True,
    scheduler: str | Client | None = None,
    **options: Any,
) -> Search:
    """Train with every recipe of a grid, choose on val, train the best again on train and val.

    Parameters
    ----------
    regime : callable
        `full_tune`, `from_scratch`, `tune_unit` …
    backbone, train, val : see the regimes
        Not changed.
    grid : mapping of str to Recipe
        Of `finetune.grids`; the names become folders.
    out : str or Path
        The search's folder.
    test : Split or None
        Looked at once, by the network that comes out.
    refit : bool
        Train the best recipe on train and val together, as Kornblith et al. 2019 do. Without val nothing can be kept or
        stopped by: the last step's weights are taken, after as many epochs as the best cell's kept weights had seen
        where the recipe stops early, else after all; of two views, the one that was better.
    scheduler : str, distributed.Client or None
        Address of a Dask scheduler: each worker trains one cell at a time, on one GPU where ``device="cuda"``. Workers
        must see ``out`` and the images under the same paths. Without one, the same call may run in several processes, each
        on its own GPU: none trains a cell that another one has in hand.
    **options
        Keywords of the regime: ``unit``, ``head_rows``, ``metric``, ``device`` …

    Returns
    -------
    Search

    Raises
    ------
    BadInput
        An empty grid, names that are no folders, or a refit of what needs val.
    DifferentRun
        ``out`` holds another search; the differences in words.
    Diverged
        Every cell did.
    """
    options = {**_keywords_of(regime), **options}  # what a partial fixes counts as much as what is given here
    out = folder_named(out)
    _check(grid, refit, val, options, regime, scheduler)
    if _name_of(regime) in ("tune_head", "probe_then_tune"):
        options.setdefault("store", out / "features")  # one extraction for all cells
    asked = asked_for(train, val, next(iter(grid.values())), backbone=backbone, test=test, **_common(options))
    for recipe in grid.values():
        replace(asked, recipe=recipe).check()
    if _name_of(regime) == "tune_unit" and "unit" in options:
        unit_names(backbone, options["unit"])  # refused before the folder is another search's
    _begin(out, asked, backbone, regime, grid, options)
    work = Work(regime, backbone, train, val, out / "cells", options)
    cells = _trained(work, grid, scheduler, out, asked.progress)
    best = _best(cells)
    if asked.progress:
        say(f"best on val: {best.name}, {best.val:.4f}")
    final, scores = None, dict[str, float]()
    predictions: dict[str, Predictions] = {}
    if refit:
        assert best.run is not None
        recipe = refit_recipe(best.recipe, best.run, n_train=len(train))
        both = joined(train, val)
        (final,) = _by_turns(
            {"refit": lambda: regime(backbone, both, None, recipe=recipe, out=out / "refit", test=test, **options)},
            asked.progress,
        )
        scores, predictions = dict(final.scores), final.predictions
    elif test is not None:
        predictions["test"], scores["test"] = _said(best, backbone, test, asked)
        write_atomically(out / "predictions" / "test.npz", predictions["test"].to_bytes())
    found = Search(out, tuple(cells), best, final, _edges(grid, best), scores, predictions)
    record = json.loads((out / RECORD).read_bytes())
    write_atomically(
        out / RECORD, json.dumps({**record, "state": "complete", "result": found.to_json()}, indent=1).encode()
    )
    return found


def refit_recipe(recipe: Recipe, run: Run, *, n_train: int) -> Recipe:
    """The recipe with which the best cell is trained again, without val. See `search`.

    Parameters
    ----------
    recipe, run : Recipe, Run
        Of the best cell.
    n_train : int
        Samples it was trained on.
    """
    changes: dict[str, Any] = {"keep": KeepLast()}
    if isinstance(recipe.keep, StopEarly):
        epochs = max(round(run.kept_step / recipe.steps_per_epoch(n_train)), 1)
        changes |= {"epochs": epochs, "steps": None}
    if recipe.view == "better":
        changes["view"] = run.details["view"]["chosen"]
    return replace(recipe, **changes)


def run_cell(work: Work, name: str, recipe: Recipe) -> Cell:
    """Train one cell, or find it trained.

    Parameters
    ----------
    work : Work
        What all cells have in common.
    name, recipe : str, Recipe
        Of the cell.
    """
    folder = work.folder / name
    diverged = read_json(folder / _DIVERGED)
    if diverged is not None and diverged["recipe"] == recipe.to_json():
        return Cell(name, recipe, None, diverged["note"])
    try:
        run = work.regime(work.backbone, work.train, work.val, recipe=recipe, out=folder, **work.options)
        if not isinstance(run, Run):
            raise BadInput(
                f"{_name_of(work.regime)} gives a {type(run).__name__}; the regime of a search must give a Run."
            )
        return Cell(name, recipe, run)
    except Diverged as error:
        note = f"diverged at step {error.step}, learning rate {error.lr:.3g}"
        content = {"recipe": recipe.to_json(), "note": note, "message": str(error)}
        write_atomically(folder / _DIVERGED, json.dumps(content, indent=1).encode())
        return Cell(name, recipe, None, note)


def _trained(
    work: Work, grid: Mapping[str, Recipe], scheduler: str | Client | None, out: Path, progress: bool
) -> list[Cell]:
    """Every cell, in the order of the grid, trained here or by the workers of a cluster."""
    done: dict[str, Cell] = {}
    for cell in _as_done(work, grid, scheduler, progress):
        done[cell.name] = cell
        if progress:
            what = cell.note if cell.val is None else f"val {cell.val:.4f}"
            say(f"{len(done)} of {len(grid)} cells: {cell.name}: {what}")
    return [done[name] for name in grid]


def _by_turns(trainings: Mapping[str, Callable[[], T]], progress: bool) -> Iterator[T]:
    """What trainings give, as they are done: those of other processes come last, and are read when these are done."""
    todo, is_said = dict(trainings), not progress
    while todo:
        n_before = len(todo)
        for name in [*todo]:
            try:
                done = todo[name]()
            except RunBusy:
                continue
            del todo[name]
            yield done
        if len(todo) == n_before:
            if not is_said:
                say(f"waiting for {', '.join([*todo][:3])}{' …' if n_before > 3 else ''}, which other processes train")
                is_said = True
            time.sleep(_LOOK_AGAIN_S)


def _as_done(work: Work, grid: Mapping[str, Recipe], scheduler: str | Client | None, progress: bool) -> Iterator[Cell]:
    if scheduler is None:
        yield from _by_turns({name: partial(run_cell, work, name, recipe) for name, recipe in grid.items()}, progress)
        return
    from finetune.cluster import on_workers

    for name, note in on_workers(work, grid, scheduler):
        run = None if note else open_run(work.folder / name)
        yield Cell(name, grid[name], run, note)


def _check(grid: Any, refit: bool, val: Any, options: Mapping[str, Any], regime: Any, scheduler: Any) -> None:
    problems = []
    if not callable(regime):
        problems.append(f"the regime is {regime!r}; it must be a function like finetune.full_tune.")
    if not isinstance(grid, Mapping):
        problems.append(
            f"the grid is {grid!r:.80}; it must be a mapping from a cell's name to its recipe: finetune.grids."
        )
    elif not grid:
        problems.append("the grid is empty; finetune.grids has the papers' own.")
    else:
        bad = [name for name in grid if not is_folder_name(name)]
        if bad:
            problems.append(f"cells are called {', '.join(map(repr, bad[:3]))}, which cannot be names of folders.")
        problems += [
            f"cell {name!r} is {one!r:.80}; it must be a Recipe."
            for name, one in grid.items()
            if not isinstance(one, Recipe)
        ]
    if own := sorted(options.keys() & {"backbone", "train", "val", "test", "recipe", "out"}):
        problems.append(
            f"the regime fixes {', '.join(own)}, which a search gives to each cell; pass it to search instead."
        )
    if not (scheduler is None or isinstance(scheduler, str) or hasattr(scheduler, "scheduler_info")):
        problems.append(f"scheduler is {scheduler!r:.80}; it must be the address of a Dask scheduler, or a Client.")
    if val is None:
        problems.append("a search chooses on a validation split, and there is none: pass val.")
    if refit and isinstance(options.get("metric"), MacroF1AtThresholds):
        problems.append("after a refit there is no val to choose thresholds on; pass refit=False.")
    if refit and _name_of(regime) == "probe_then_tune":
        problems.append("probe_then_tune chooses C on val, which a refit has not; pass refit=False.")
    if problems:
        raise BadInput.of("this search", problems)


def _begin(
    out: Path,
    asked: Asked,
    backbone: Backbone,
    regime: Callable[..., Run],
    grid: Mapping[str, Recipe],
    options: Mapping[str, Any],
) -> None:
    """Write down what is asked for, or refuse a folder that holds another search."""
    identity = asked.identity(_name_of(regime), network_identity(backbone), asked.image_identity())
    identity["grid"] = {name: recipe.to_json() for name, recipe in grid.items()}
    own = {name: value for name, value in options.items() if name in ("unit", "n_units", "C")}
    identity["options"] = {name: list(v) if isinstance(v, tuple) else v for name, v in own.items()}
    del identity["recipe"]
    stored = read_json(out / RECORD)
    if stored is not None and (stored["state"] == "complete" or any((out / "cells").glob("*/*.json"))):
        refuse_another(out / RECORD, stored["identity"], json.loads(json.dumps(identity)))
        return
    others = [] if not out.is_dir() else [path.name for path in out.iterdir() if not path.name.startswith(".")]
    if stored is None and out.exists() and (others or not out.is_dir()):
        raise BadInput(f"{out} holds other things and no search; give the search a folder of its own.")
    record = {"format": FORMAT, "state": "running", "identity": identity}
    write_atomically(out / RECORD, json.dumps(record, indent=1).encode())


def _best(cells: Sequence[Cell]) -> Cell:
    scored = [cell for cell in cells if cell.val is not None]
    if not scored:
        raise Diverged(
            f"all {len(cells)} cells diverged ({cells[0].name}: {cells[0].note}); lower the learning rates of the grid.",
            step=0,
            lr=max(cell.recipe.lr for cell in cells),
        )
    vals = [cell.val for cell in scored if cell.val is not None]
    return scored[vals.index(max(vals))]


def _edges(grid: Mapping[str, Recipe], best: Cell) -> tuple[str, ...]:
    """Whether a better value may lie outside the grid."""
    found = []
    for name in ("lr", "weight_decay"):
        alike = [r for r in grid.values() if type(r.optimizer) is type(best.recipe.optimizer)]
        if name == "weight_decay":
            alike = [r for r in alike if r.lr == best.recipe.lr]
        values = sorted({getattr(recipe, name) for recipe in alike})
        value = getattr(best.recipe, name)
        if len(values) > 1 and value in (values[0], values[-1]) and value > 0:  # no decay at all is no edge
            found.append(name)
    return tuple(found)


def _said(best: Cell, backbone: Backbone, test: Split, asked: Asked) -> tuple[Predictions, float]:
    """What the best cell's network says about the test split, and the metric of it."""
    assert best.run is not None
    said = predict(best.run, backbone, test, device=asked.device, workers=asked.workers)
    if "thresholds" in best.run.details:
        judge = settled_at(best.run.details["thresholds"])
    else:
        val = best.run.predictions["val"]
        judge = settled(asked.metric, val.y_true, np.asarray(val.scores))
    logits = np.asarray(said.scores)
    return replace(said, y_pred=judge.predicted(said.y_true, logits)), judge.score(said.y_true, logits)


def _common(options: Mapping[str, Any]) -> dict[str, Any]:
    from finetune.task import Options

    return {name: value for name, value in options.items() if name in Options.__annotations__}


def _keywords_of(regime: Callable[..., Run]) -> dict[str, Any]:
    """What a partial of a regime has fixed."""
    return dict(getattr(regime, "keywords", {}))


def _name_of(regime: Callable[..., Run]) -> str:
    while hasattr(regime, "func"):
        regime = regime.func
    return str(getattr(regime, "__name__", type(regime).__name__))
