"""The regimes as `probe.Study` asks for them: ``finetune.study:full_tune`` … as the function of a ``[[regime]]``.

Each takes a cell and a place and returns a `probe.Outcome`. Options of a regime, all plain values:

``recipe``
    Fields of `Recipe`; parts as ``{kind = "SGD", momentum = 0.9}``. With ``paper = "kornblith2019"`` or ``"fang2023"`` the
    paper's, with the other fields in place of its own.
``grid``
    Instead: fields that are varied, ``{lr = [0.1, 0.01], weight_decay = [0, 1e-4]}``, beside ``recipe``; or the name of one of
    `finetune.grids`, whose ``recipe`` then are changes. The best on val is trained again on train + val (``refit = false``: is
    tested as it is).
anything else
    Keywords of the regime: ``unit``, ``n_units``.

The seed of the cell is that of the recipe. Test is given to nothing before the choice is made: a grid is searched without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import BadInput
from finetune.recipe import Recipe
from finetune.records import revived

if TYPE_CHECKING:
    from finetune.run import Run
    from probe import Cell, Outcome, Place

BACKWARD = 3
"""Passes that one image of a training costs: forward, and about two more for the gradient."""


def full_tune(cell: Cell, place: Place) -> Outcome:
    """`finetune.full_tune`: the whole network from its weights."""
    from finetune.regimes import full_tune as regime

    return _trained(cell, place, regime)


def from_scratch(cell: Cell, place: Place) -> Outcome:
    """`finetune.from_scratch`: the whole network from random weights."""
    from finetune.regimes import from_scratch as regime

    return _trained(cell, place, regime)


def tune_head(cell: Cell, place: Place) -> Outcome:
    """`finetune.tune_head`: the last layer."""
    from functools import partial

    from finetune.regimes import tune_head as regime

    return _trained(cell, place, partial(regime, store=place.store))


def tune_unit(cell: Cell, place: Place) -> Outcome:
    """`finetune.tune_unit`: one unit; with ``unit = "head"`` and an augmentation, logistic regression with augmentation."""
    from finetune.regimes import tune_unit as regime

    return _trained(cell, place, regime)


def tune_scale_shift(cell: Cell, place: Place) -> Outcome:
    """`finetune.tune_scale_shift`: scales and shifts of the features."""
    from finetune.regimes import tune_scale_shift as regime

    return _trained(cell, place, regime)


def probe_then_tune(cell: Cell, place: Place) -> Outcome:
    """`finetune.probe_then_tune`: the whole network, starting from a probe as its head (LP-FT)."""
    from finetune.regimes import probe_then_tune as regime

    return _trained(cell, place, regime)


def _trained(cell: Cell, place: Place, regime: Callable[..., Run]) -> Outcome:
    import probe

    options = dict(cell.regime.options)
    said, grid, refit = options.pop("recipe", {}), options.pop("grid", None), bool(options.pop("refit", True))
    per_class = options.pop("per_class", None)
    recipes = recipes_of(said, grid, seed=cell.seed)
    out = place.run_folder(cell)
    train, val, test = place.parts(cell)
    if per_class is not None:
        train = train.per_class(int(per_class), seed=cell.seed)
    metric = probe.metrics.get(cell.dataset.metric)
    common: dict[str, Any] = {"metric": metric, "device": place.device or "cpu", "progress": place.progress, **options}
    if grid is None:
        run = regime(place.backbone(cell), train, val, recipe=recipes[""], out=out, test=test, **common)
        outcome = _outcome(cell, run, len(train), len(val), images=_images(run, len(train)))
        return dataclasses.replace(outcome, leaks=place.shared(cell).to_json())
    return _searched(cell, place, regime, (train, val, test), (recipes, refit), common, out)


def _searched(
    cell: Cell, place: Place, regime: Callable[..., Run], parts: tuple[Any, Any, Any], asked: tuple[dict[str, Recipe], bool],
    common: Mapping[str, Any], out: Path,
) -> Outcome:  # fmt: skip
    from finetune.searching import search

    train, val, test = parts
    recipes, refit = asked
    found = search(
        regime, place.backbone(cell), train, val=val, grid=recipes, out=out, test=test, refit=refit, **common
    )  # fmt: skip
    best = found.best.run
    assert best is not None
    runs = [one.run for one in found.cells if one.run is not None]
    images = sum(_images(run, len(train)) for run in runs)
    seconds = sum(run.seconds for run in runs)
    if found.refit is not None:
        images, seconds = images + _images(found.refit, len(train) + len(val)), seconds + found.refit.seconds
    outcome = _outcome(cell, best, len(train), len(val), images=images)
    predictions = found.predictions["test"]
    return dataclasses.replace(
        outcome,
        test_score=found.scores["test"],
        predictions=predictions,
        test_interval=predictions.interval() if cell.dataset.metric == "accuracy" else None,
        n_test=len(predictions),
        cost={"images": images, "seconds": seconds, "bytes": 0},
        chosen={**outcome.chosen, "cell": found.best.name, "at_edge": ", ".join(found.at_edge)},
        details={**outcome.details, "n_recipes": len(recipes)},
        leaks=place.shared(cell).to_json(),
    )


def _outcome(cell: Cell, run: Run, n_train: int, n_val: int, *, images: int) -> Outcome:
    import probe

    said = run.predictions.get("test")
    if said is None:
        # A search keeps test away from its cells: what the chosen network says about it is filled in by the caller.
        said = run.predictions["val"]
    history = [
        {"step": row.step, "epoch": row.epoch, "accuracy": row.val, "train_loss": row.train_loss, "lr": row.lr}
        for row in run.history
    ]
    return probe.Outcome(
        val_score=run.scores["val"],
        test_score=run.scores.get("test", float("nan")),
        predictions=said,
        test_interval=said.interval() if cell.dataset.metric == "accuracy" and "test" in run.scores else None,
        n_train=n_train,
        n_val=n_val,
        n_test=len(said),
        chosen={"lr": run.recipe.lr, "weight_decay": run.recipe.weight_decay, "kept_step": run.kept_step},
        history=history,
        cost={"images": images, "seconds": run.seconds, "bytes": 0},
        details={"recipe": run.recipe.to_json(), "regime": run.regime, "stopped": run.stopped, "run": run.path.name},
    )


def _images(run: Run, n_train: int) -> int:
    """Images through the network, as many as a training costs: a backward pass counts as two more."""
    last = run.history[-1].step if run.history else 0
    return BACKWARD * min(last * run.recipe.batch_size, round(last / run.recipe.steps_per_epoch(n_train) * n_train))


def recipes_of(
    said: Mapping[str, Any], grid: str | Mapping[str, Any] | None = None, *, seed: int = 0
) -> dict[str, Recipe]:
    """The recipes that a regime of a study asks for, by name; one without a name where there is no grid.

    Parameters
    ----------
    said, grid : mapping, str or None
        The options ``recipe`` and ``grid``; see this module.
    seed : int
        Of the cell.

    Raises
    ------
    BadInput
        Fields or grids that do not exist, values that cannot be.
    """
    return {"": _recipe(said, seed)} if grid is None else _grid(grid, said, seed)


def _recipe(said: Mapping[str, Any], seed: int) -> Recipe:
    try:
        fields = {name: _revived(value) for name, value in said.items()}
        paper = fields.pop("paper", None)
        fields.setdefault("seed", seed)
        if paper is None:
            return Recipe(**fields)
        if paper not in ("kornblith2019", "fang2023", "surgical2022"):
            raise BadInput(f"there is no recipe of the paper {paper!r}; kornblith2019, fang2023 or surgical2022.")
        made: Recipe = getattr(Recipe, paper)(**fields)
    except TypeError as error:
        raise BadInput(f"the recipe of a study cannot be made: {error}.") from error
    return made


def _grid(grid: str | Mapping[str, Any], said: Mapping[str, Any], seed: int) -> dict[str, Recipe]:
    from finetune import grids

    if not isinstance(grid, str):
        values = {name: [_revived(value) for value in several] for name, several in grid.items()}
        first = {name: several[0] for name, several in values.items()}
        return grids.product(_recipe({**said, **first}, seed), **values)
    if grid not in grids.NAMED:
        raise BadInput(f"there is no grid {grid!r}; there are {', '.join(grids.NAMED)}.")
    changes = {name: _revived(value) for name, value in said.items()}
    changes.setdefault("seed", seed)
    return grids.NAMED[grid](**changes)


def _revived(value: Any) -> Any:
    return revived(value) if isinstance(value, Mapping | list) else value
