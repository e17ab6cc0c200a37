"""Problems of one call over the same features: label sets and subsets of the rows, checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probe.arrays import rectangular
from probe.errors import BadInput
from probe.labels import Labels, encode, numbers, weights_of


@dataclass(frozen=True, eq=False)
class Problem:
    """One problem: its rows, and their labels.

    Attributes
    ----------
    number : int
        Among those of the call.
    rows : numpy.ndarray of shape (m,), int64, or None
        Each once, or (None) all rows.
    labels : Labels
        Of these rows.
    """

    number: int
    rows: np.ndarray | None
    labels: Labels


def problems_of(y: Any, rows: Sequence[Any] | None, n: int, sample_weight: Any, class_weight: Any) -> list[Problem]:
    """The problems of a call, checked.

    Parameters
    ----------
    y, rows, sample_weight, class_weight
        As in `probe.fit_paths`.
    n : int
        Rows of the features.

    Returns
    -------
    list of Problem

    Raises
    ------
    BadInput
    """
    if rows is not None and not isinstance(rows, Iterable):
        raise BadInput(f"rows is {rows!r}, but it must be a list of subsets, each the numbers of some rows.")
    label_sets = list(y) if _is_several(y, n) else [y]
    subsets = [None] if rows is None else [_numbers(r, n, i) for i, r in enumerate(rows)]
    if not label_sets or not subsets:
        raise BadInput("There is no problem to fit: y or rows is an empty list.")
    if len(label_sets) > 1 and len(subsets) > 1 and len(label_sets) != len(subsets):
        raise BadInput(
            f"y holds {len(label_sets)} label sets and rows {len(subsets)} subsets; give as many of both, or one of either for "
            "all problems."
        )
    count = max(len(label_sets), len(subsets))
    weights = None if sample_weight is None else numbers(sample_weight, "sample_weight")
    if weights is not None and weights.ndim > 0 and len(weights) != n:
        weights_of(weights, n)  # which refuses them
    problems = []
    for i in range(count):
        labels, chosen = label_sets[i % len(label_sets)], subsets[i % len(subsets)]
        mine, weight, size = labels, weights, n
        if chosen is not None:
            whole = rectangular(labels, f"label set {i}")
            if whole.ndim == 0 or len(whole) != n:
                held = "is no list of labels" if whole.ndim == 0 else f"has {len(whole)}"
                raise BadInput(f"X has {n} rows but label set {i} {held}; they must be of the same samples.")
            mine, size = whole[chosen], len(chosen)
            weight = weights if weights is None or weights.ndim == 0 else weights[chosen]
        try:
            problems.append(_once(i, chosen, encode(mine, size, weight, class_weight)))
        except BadInput as error:
            if count == 1:
                raise
            raise BadInput(f"Problem {i} of {count}: {error}") from error
    return problems


def groups_of(problems: list[Problem]) -> list[list[Problem]]:
    """Problems that can be lanes of one batch: those with as many rows of coefficients in a lane."""
    groups: dict[int, list[Problem]] = {}
    for problem in problems:
        groups.setdefault(problem.labels.k, []).append(problem)
    return list(groups.values())


def _once(number: int, rows: np.ndarray | None, labels: Labels) -> Problem:
    """A problem whose rows are there once: those that stand several times have their weights added up."""
    if rows is None:
        return Problem(number, None, labels)
    once, first, which = np.unique(rows, return_index=True, return_inverse=True)
    if len(once) == len(rows):
        return Problem(number, rows, labels)
    weights = np.ones((1, len(rows))) if labels.weights is None else np.atleast_2d(labels.weights)
    summed = np.stack([np.bincount(which, weights=lane, minlength=len(once)) for lane in weights])
    return Problem(number, once, replace(labels, codes=labels.codes[:, first], weights=summed))


def _is_several(y: Any, n: int) -> bool:
    """Whether y is a list of label sets: one entry has entries of its own, and they are not n rows of 0 and 1."""
    if not isinstance(y, list | tuple) or not y:
        return False
    sizes = [len(one) if hasattr(one, "__len__") and not isinstance(one, str | bytes) else None for one in y]
    is_table = len(y) == n and len(set(sizes)) == 1 and sizes[0] != n
    return not is_table and any(size is not None for size in sizes)


def _numbers(rows: Any, n: int, i: int) -> np.ndarray:
    found = rectangular(rows, f"subset {i} of rows")
    if found.dtype == bool and found.shape == (n,):
        found = np.flatnonzero(found)
    if found.ndim != 1 or found.size == 0 or found.dtype.kind not in "iu" or found.min() < -n or found.max() >= n:
        raise BadInput(
            f"Subset {i} of rows must hold numbers of rows of X, below {n}, at least one; got {found.dtype} of shape {found.shape}."
        )
    numbers: np.ndarray = found.astype(np.int64) % n
    return numbers
