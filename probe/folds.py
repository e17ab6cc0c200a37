"""Who is held out: rows ranked by a hash of their id within each class, the same on every machine and in every order.

The rule of `featstore.holdout_rows`, for features that come with labels but without a store: rank the ids of every class by
``sha256(f"{seed}:{id}")``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np

from probe.arrays import rectangular
from probe.errors import BadInput
from probe.reals import NUMBER
from probe.seeds import checked_seed

NEVER = -1
"""Fold of rows that are always trained on."""


def holdout(y: Any, fraction: float = 0.2, *, seed: int = 0, ids: Any = None) -> np.ndarray:
    """Hold out a share of every class.

    Parameters
    ----------
    y : array-like of shape (n,), or (n, k) for multi-label data
        Multi-label rows are one class.
    fraction : float
        In (0, 1). ``round(fraction · n_class)`` rows are held, at least one, leaving at least one: the only row of a class
        is never held.
    seed : int
    ids : array-like of shape (n,), optional
        Names of the rows; without them their numbers, and then the order of the rows matters.

    Returns
    -------
    numpy.ndarray of shape (n,), int64
        0 for held rows, -1 for the rest.

    Raises
    ------
    BadInput
        A fraction outside (0, 1), ids that are not one per row and different, or nothing that can be held.
    """
    if not isinstance(fraction, NUMBER) or not 0 < fraction < 1:
        raise BadInput(f"The fraction to hold out is {fraction!r}, but it must lie strictly between 0 and 1.")
    ranked, _ = _ranked(y, seed, ids)
    fold = np.full(sum(map(len, ranked)), NEVER, dtype=np.int64)
    for members in ranked:
        fold[members[: min(max(round(fraction * len(members)), 1), len(members) - 1)]] = 0
    if (fold == NEVER).all():
        raise BadInput(
            f"Nothing can be held out of {len(fold)} rows in {len(ranked)} classes: no class has two rows, one to train on and "
            "one to validate on; pass one C, or validation data of your own."
        )
    return fold


def kfold(y: Any, n_folds: int = 5, *, seed: int = 0, ids: Any = None) -> np.ndarray:
    """Deal the rows of every class to folds, in turn.

    Every fold is held out once. Sizes differ by one row at most, and so do the shares of every class; every class stays in
    every training part: the only row of a class is never held.

    Parameters
    ----------
    y : array-like of shape (n,), or (n, k) for multi-label data
        Multi-label rows are one class.
    n_folds : int
        At least 2.
    seed : int
    ids : array-like of shape (n,), optional
        Names of the rows; without them their numbers, and then the order of the rows matters.

    Returns
    -------
    numpy.ndarray of shape (n,), int64
        The fold of every row, 0 to ``n_folds - 1``, or -1.

    Raises
    ------
    BadInput
        Fewer than two folds, more folds than rows to hold, or ids that are not one per row and different.
    """
    if not isinstance(n_folds, NUMBER) or n_folds % 1 != 0 or n_folds < 2:
        raise BadInput(f"{n_folds!r} folds were asked for, but there must be a whole number of at least 2.")
    n_folds = int(n_folds)
    ranked, n = _ranked(y, seed, ids)
    fold = np.full(n, NEVER, dtype=np.int64)
    dealt = 0
    for members in ranked:
        if len(members) < 2:
            continue
        fold[members] = (dealt + np.arange(len(members))) % n_folds
        dealt += len(members)
    if dealt < n_folds:
        raise BadInput(
            f"{n_folds} folds were asked for, but only {dealt} of {n} rows can be held out (the only row of a class cannot); "
            f"ask for at most {dealt} folds."
        )
    return fold


def splits(held: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to train on and rows to validate on, for every fold.

    Parameters
    ----------
    held : numpy.ndarray of shape (n,), int64
        From `holdout` or `kfold`.

    Returns
    -------
    list of (numpy.ndarray, numpy.ndarray), int64
    """
    return [(np.flatnonzero(held != f), np.flatnonzero(held == f)) for f in range(int(held.max()) + 1)]


def among(kept: np.ndarray, n: int, given: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Splits of all rows as splits of the rows that are kept, numbered anew.

    Parameters
    ----------
    kept : numpy.ndarray of shape (m,), int64
        Ascending.
    n : int
        Number of all rows.
    given : list of (numpy.ndarray, numpy.ndarray)
        Row numbers, in [-n, n).

    Returns
    -------
    list of (numpy.ndarray, numpy.ndarray), int64
    """
    number = np.full(n, NEVER, dtype=np.int64)
    number[kept] = np.arange(len(kept))
    found = [(number[train], number[val]) for train, val in given]
    return [(train[train != NEVER], val[val != NEVER]) for train, val in found]


def _ranked(y: Any, seed: int, ids: Any) -> tuple[list[np.ndarray], int]:
    """Rows of every class in the order of the hash of their ids."""
    seed = checked_seed(seed)
    labels = rectangular(y, "y")
    n = len(labels)
    names = [str(i) for i in range(n)] if ids is None else [str(i) for i in np.asarray(ids)]
    if len(names) != n:
        raise BadInput(f"There are {len(names)} ids for {n} labels; they must be of the same rows.")
    if len(set(names)) < n:
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise BadInput(
            f"The id '{twice}' stands for {names.count(twice)} rows: one sample could be in two folds; give every row an id of "
            "its own."
        )
    ranks = np.array([hashlib.sha256(f"{seed}:{name}".encode()).hexdigest() for name in names], dtype="S64")
    by_rank = np.argsort(ranks, kind="stable")
    codes = np.unique(labels, return_inverse=True)[1] if labels.ndim == 1 else np.zeros(n, dtype=np.int64)
    counts = np.bincount(codes)
    grouped = by_rank[np.argsort(codes[by_rank], kind="stable")]
    return list(np.split(grouped, np.cumsum(counts)[:-1])), n
