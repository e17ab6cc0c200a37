"""A grid that was too short: more values beyond the edge where the best one lies, until it lies inside."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from probe import warned
from probe.selection import best_index


class GridWidened(UserWarning):
    """The best C lay at the edge of the grid, and values beyond it were tried, as was asked for; the message names them."""


DECADES = 6.0
"""How far beyond the grid is looked, by default."""


@dataclass(frozen=True, eq=False)
class Searched:
    """A grid, its scores, and the best value.

    Attributes
    ----------
    C : numpy.ndarray of shape (b,), float64
        As given, or ascending with the added values among them.
    index : int
        Of the best value; on a tie the smallest C of those that were asked for.
    at_edge : bool
        Whether a better C may lie outside.
    added : tuple of numpy.ndarray
        Values that were added, one array per step outwards.
    order : numpy.ndarray of shape (b,), int64
        ``C == concatenate([given, *added])[order]``.
    sentence : str
        What was added and why; empty when nothing was.
    """

    C: np.ndarray
    index: int
    at_edge: bool
    added: tuple[np.ndarray, ...]
    order: np.ndarray
    sentence: str


def edge(C: np.ndarray, index: int) -> int:
    """Which edge of the grid a position is at: -1 the smallest C, 1 the largest, 0 neither or a grid of one value."""
    if len(C) < 2:
        return 0
    return 1 if C[index] == C.max() else -1 if C[index] == C.min() else 0


def beyond(C: np.ndarray, side: int, decades: float = 1.0) -> np.ndarray:
    """Continue a grid outwards at the step it has there.

    Parameters
    ----------
    C : numpy.ndarray of shape (b,), positive, at least two different values
    side : int
        1 continues above the largest value, -1 below the smallest.
    decades : float
        How far; at least one value is returned.

    Returns
    -------
    numpy.ndarray, float64
        Outwards.
    """
    logs = np.log10(np.unique(C))
    step = float(logs[-1] - logs[-2] if side > 0 else logs[1] - logs[0])
    count = max(1, math.floor(decades / step + 1e-9))
    start = float(logs[-1] if side > 0 else logs[0])
    values = 10.0 ** (start + side * step * np.arange(1, count + 1))
    usable: np.ndarray = values[np.isfinite(values) & (values > 0)]
    return usable


def search(
    C: np.ndarray,
    ranked: np.ndarray,
    more: Callable[[np.ndarray], np.ndarray],
    decades: float,
) -> Searched:
    """Choose the best C; while it lies at an edge, add values beyond, a decade at a time.

    It stops when the best value lies inside, when a decade more brings nothing better (on a plateau, such as chance level at
    ever stronger penalties, the best of the values asked for stays chosen), or `decades` from where the grid ended.

    Parameters
    ----------
    C : numpy.ndarray of shape (b,)
    ranked : numpy.ndarray of shape (b,)
        Scores, higher is better.
    more : callable
        Fits and scores further values: ``more(values) -> ranked scores``.
    decades : float
        At most so far beyond the grid; 0 adds nothing.

    Returns
    -------
    Searched
    """
    index = best_index(C, ranked)
    side, given, added = edge(C, index), len(C), []
    is_open = side != 0
    left = float(decades)
    while is_open and left > 1e-9:
        values = beyond(C, side, min(1.0, left))
        if len(values) == 0:
            break
        left -= abs(math.log10(values[-1] / (C.max() if side > 0 else C.min())))
        scores = more(values)
        best = ranked[index]
        C, ranked = np.concatenate([C, values]), np.concatenate([ranked, scores])
        added.append(values)
        if not (scores > best).any():
            is_open = False
            break
        index = best_index(C, ranked)
        is_open = edge(C, index) == side
    order = np.argsort(C, kind="stable") if added else np.arange(len(C))
    sentence = _sentence(C[:given], side, added, float(C[index]), is_open)
    return Searched(C[order], int(np.flatnonzero(order == index)[0]), is_open, tuple(added), order, sentence)


def _sentence(given: np.ndarray, side: int, added: list[np.ndarray], best: float, is_open: bool) -> str:
    if not added:
        return ""
    n = sum(map(len, added))
    last = f"{added[-1][-1]:.3g}"
    tried = f"{last} was" if n == 1 else f"{n} values up to {last} were"
    name, end = ("largest", given.max()) if side > 0 else ("smallest", given.min())
    found = (
        f"C = {best:.3g} is the best of all and still at the edge" if is_open
        else f"C = {best:.3g} is better" if best != end
        else "none is better"
    )  # fmt: skip
    return f"The best C was the {name} of {len(given)} values, {end:.3g}, so {tried} tried beyond it: {found}."


def say(searched: Searched) -> None:
    """Warn that the grid was widened, if it was."""
    if searched.sentence:
        warned.say(searched.sentence, GridWidened)
