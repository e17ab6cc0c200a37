"""Paths put together: the fits of two grids over the same features and labels become one path."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np

from probe.arrays import like, namespace
from probe.errors import BadInput
from probe.path import Path
from probe.sources import is_dask, is_stored


def joined(a: Path, b: Path) -> Path:
    """The fits of two paths over the same features and labels, one after the other.

    Parameters
    ----------
    a, b : Path

    Returns
    -------
    Path

    Raises
    ------
    BadInput
        Where the classes, the losses or the numbers of features differ.
    """
    if a.loss is not b.loss or not np.array_equal(a.classes, b.classes) or a.coef.shape[1:] != b.coef.shape[1:]:
        raise BadInput(
            f"The paths belong to different problems: {len(a.classes)} classes, {a.coef.shape[2]} features, {a.loss} loss, against "
            f"{len(b.classes)}, {b.coef.shape[2]} and {b.loss}; widen a path with the X and y it was fitted on."
        )
    changed: dict[str, Any] = {}
    for name in _per_fit(a):
        one, other = getattr(a, name), getattr(b, name)
        if name == "val_scores" and (one is None or other is None):
            changed[name] = None
        elif isinstance(one, tuple):
            changed[name] = one + other
        else:
            changed[name] = namespace(one).concat([one, other], axis=0)
    return replace(a, seconds=a.seconds + b.seconds, reads=a.reads + b.reads, **changed)


def reordered(path: Path, order: np.ndarray) -> Path:
    """The fits of a path in another order.

    Parameters
    ----------
    path : Path
    order : numpy.ndarray of shape (b,), int64

    Returns
    -------
    Path
    """
    changed: dict[str, Any] = {}
    for name in _per_fit(path):
        value = getattr(path, name)
        if isinstance(value, tuple):
            changed[name] = tuple(value[i] for i in order)
        elif value is not None:
            changed[name] = rows_of(value, order)
    return replace(path, **changed)


def _per_fit(path: Path) -> list[str]:
    """Fields with one entry per fit."""
    return [f.name for f in fields(path) if f.name not in {"classes", "seconds", "reads", "task", "loss"}]


def rows_of(A: Any, rows: np.ndarray) -> Any:
    """Some rows of an array, where it lives; of features of a store, what will read these rows only.

    Parameters
    ----------
    A : array of shape (n, ...), dask array, or feature matrix of a store
    rows : numpy.ndarray of shape (m,), int64

    Returns
    -------
    array of shape (m, ...)
    """
    if is_stored(A):
        return A.select(rows)
    if isinstance(A, np.ndarray) or is_dask(A):
        return A[rows]
    xp = namespace(A)
    return xp.take(A, like(A, rows, xp.int64), axis=0)
