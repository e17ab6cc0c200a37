"""Grids of recipes: the papers' own, and products of your own values. A grid is a mapping from a cell's name to its recipe.

Cells differ in hyper-parameters only; seed, length and whatever else is given as ``changes`` is the same in all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from finetune.checking import is_number
from finetune.errors import BadInput
from finetune.optimizers import SGD, AdamW
from finetune.recipe import Recipe
from finetune.schedules import Cosine, StepDecay

Grid = Mapping[str, Recipe]


def product(base: Recipe, **values: Sequence[Any]) -> dict[str, Recipe]:
    """Every combination of some values of a recipe's fields.

    Parameters
    ----------
    base : Recipe
        What the cells have in common.
    values : sequence
        By name of a field of `Recipe`.

    Raises
    ------
    BadInput
        A field that a recipe does not have, or no value for one.

    Examples
    --------
    >>> list(product(Recipe(lr=1, steps=10), lr=(0.1, 0.01), weight_decay=(0.0,)))
    ['lr=0.1,weight_decay=0', 'lr=0.01,weight_decay=0']
    """
    known = {field.name for field in fields(Recipe)}
    problems = [f"a recipe has no field '{name}'." for name in values if name not in known]
    problems += [problem for name, given in values.items() for problem in _value_problems(name, given)]
    if problems or not values:
        raise BadInput.of("this grid", problems or ["no field was given values for."])
    named = [[(f"{name}={said}", value) for said, value in _named(given)] for name, given in values.items()]
    cells = {}
    for chosen in itertools.product(*named):
        settings = {name: value for name, (_, value) in zip(values, chosen, strict=True)}
        cells[",".join(said for said, _ in chosen)] = replace(base, **settings)
    return cells


def kornblith2019(*, pretrained: bool = True, **changes: Any) -> dict[str, Recipe]:
    """The grid of Kornblith, Shlens and Le 2019: 7 learning rates × 8 decays, 56 cells.

    Learning rates are log-spaced from 1e-4 to 1e-1, decays (learning rate times weight decay) 0 and 7 values from 1e-6 to
    1e-3. From scratch they are 1e-3 to 1 and 0, 1e-5 to 1e-2 (quoted from memory of the supplement).

    Parameters
    ----------
    pretrained : bool
        False for training from scratch.
    changes : Any
        Fields of `Recipe` to set otherwise, in every cell.
    """
    up = 0 if pretrained else 1
    rates = np.logspace(-4 + up, -1 + up, 7).tolist()
    decays = [0.0, *np.logspace(-6 + up, -3 + up, 7).tolist()]
    return {
        f"lr={rate:.3g},decay={decay:.3g}": Recipe.kornblith2019(lr=rate, decay=decay, pretrained=pretrained, **changes)
        for rate in rates
        for decay in decays
    }


def fang2023(*, pretrained: bool = True, data: str | None = None, **changes: Any) -> dict[str, Recipe]:
    """The grid of Fang, Kornblith and Schmidt 2023: 40 cells × 2 schedules.

    SGD with learning rates 1e-1 … 1e-4 and AdamW with 1e-2 … 1e-5, each with 5 decays, each with cosine and with steps.

    Parameters
    ----------
    pretrained : bool
        False for training from scratch.
    data : str or None
        Their data set, which the flips depend on.
    changes : Any
        Fields of `Recipe` to set otherwise, in every cell; ``schedule`` or ``optimizer`` leaves the cells that have it.
    """
    schedules = {"cosine": Cosine(per_epoch=True), "step": StepDecay((15, 20, 25) if pretrained else (20, 30, 40))}
    cells = {}
    for optimizer, first in ((SGD(), -1), (AdamW(), -2)):
        if changes.get("optimizer", optimizer) != optimizer:
            continue
        for name, schedule in schedules.items():
            if changes.get("schedule", schedule) != schedule:
                continue
            for rate in (10.0**e for e in range(first, first - 4, -1)):
                for decay in (1e-3, 1e-4, 1e-5, 1e-6, 0.0):
                    own = {**changes, "optimizer": optimizer, "schedule": schedule}
                    cells[f"{type(optimizer).__name__.lower()},{name},lr={rate:.3g},decay={decay:.3g}"] = (
                        Recipe.fang2023(lr=rate, decay=decay, pretrained=pretrained, data=data, **own)
                    )
    return cells


def surgical2022(**changes: Any) -> dict[str, Recipe]:
    """The grid of Lee et al. 2022 (surgical fine-tuning): 5 learning rates, 1e-1 … 1e-5; epochs are chosen on val.

    Parameters
    ----------
    changes : Any
        Fields of `Recipe` to set otherwise, in every cell.
    """
    return {f"lr={10.0**e:.3g}": Recipe.surgical2022(lr=10.0**e, **changes) for e in range(-1, -6, -1)}


NAMED: Mapping[str, Callable[..., dict[str, Recipe]]] = {
    "kornblith2019": kornblith2019,
    "fang2023": fang2023,
    "surgical2022": surgical2022,
}
"""The grids that have a name on the command line."""


def _value_problems(name: str, given: Any) -> list[str]:
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
        return [f"{name} is {given!r}; a grid takes several values of it: {name}=({given!r},)."]
    twice = [value for i, value in enumerate(given) if value in list(given)[:i]]
    problems = [f"{name} has {twice[0]!r} more than once."] if twice else []
    return problems if len(given) else [f"there is no value for {name}."]


def _named(given: Sequence[Any]) -> list[tuple[str, Any]]:
    """Values with a short name each; where two would be called the same, all are named in full or numbered."""
    short = [_short(value) for value in given]
    if len(set(short)) == len(short):
        return list(zip(short, given, strict=True))
    are_numbers = all(is_number(value) for value in given)
    return [(str(v) if are_numbers else f"{s}-{i}", v) for i, (s, v) in enumerate(zip(short, given, strict=True), 1)]


def _short(value: Any) -> str:
    return f"{value:.3g}" if is_number(value) else value if isinstance(value, str) else type(value).__name__
