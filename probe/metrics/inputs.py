"""Arrays at the metrics' door: labels and scores of any array type, checked, and brought to one device and form.

The conventions are those at the top of `probe.metrics.kinds`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from probe.arrays import Array, device_of, namespace, to_numpy
from probe.errors import BadInput


def is_array(x: object) -> bool:
    """Tell an array of the standard from a list or a scalar."""
    from array_api_compat import is_array_api_obj

    return bool(is_array_api_obj(x))


def to_device_of(x: np.ndarray, like: Array, xp: Any) -> Array:
    """Copy a numpy array to where ``like`` lives."""
    return xp.asarray(x, device=device_of(like))


def label_pair(y_true: Array, y_pred: Array) -> tuple[Array, Array, Any]:
    """Check two label arrays of equal shape and bring the true labels to where the predictions live.

    Returns
    -------
    y_true, y_pred : arrays of shape (n,) or (n, k)
    xp : the namespace of both
    """
    y_pred = y_pred if is_array(y_pred) else np.asarray(y_pred)
    y_true = y_true if is_array(y_true) else np.asarray(y_true)
    if tuple(y_true.shape) != tuple(y_pred.shape):
        raise BadInput(
            f"y_true has shape {tuple(y_true.shape)} but y_pred has shape {tuple(y_pred.shape)}; "
            "a metric compares them row by row, so give one prediction per label."
        )
    if y_true.ndim not in (1, 2):
        raise BadInput(f"Labels must have shape (n,) or (n, k) but have shape {tuple(y_true.shape)}.")
    if y_true.shape[0] == 0:
        raise BadInput("There is no row to score: y_true and y_pred are empty.")
    xp = namespace(y_pred)
    return _like(y_true, y_pred, xp), y_pred, xp


def single_label(y_true: Array, y_pred: Array, name: str) -> tuple[Array, Array, Any]:
    """As `label_pair`, refusing multi-label arrays by the metric's name."""
    y_true, y_pred, xp = label_pair(y_true, y_pred)
    if y_true.ndim != 1:
        raise BadInput(
            f"{name} needs one label per row but y_true has shape {tuple(y_true.shape)}; "
            "for multi-label data use map11, map_all, macro_f1 or roc_auc."
        )
    return y_true, y_pred, xp


def as_columns(scores: Array) -> tuple[Array, Any]:
    """Check decision values and give them the shape (n, k), k = 1 for binary."""
    scores = scores if is_array(scores) else np.asarray(scores)
    xp = namespace(scores)
    if scores.ndim == 1:
        scores = xp.reshape(scores, (-1, 1))
    if scores.ndim != 2 or scores.shape[0] == 0 or scores.shape[1] == 0:
        raise BadInput(f"Scores must have shape (n, k) or (n,), none of them 0, but have shape {tuple(scores.shape)}.")
    if not xp.isdtype(scores.dtype, "real floating"):
        raise BadInput(
            f"Scores must be floating-point decision values but have dtype {scores.dtype}; this metric takes what "
            "decision_function returns, not predicted labels."
        )
    if bool(xp.any(xp.isnan(scores))):
        rows = to_numpy(xp.any(xp.isnan(scores), axis=1)).nonzero()[0]
        raise BadInput(f"{len(rows)} of {scores.shape[0]} rows of scores hold NaN (first: row {rows[0]}).")
    return scores, xp


def scored_codes(y_true: Array, scores: Array, classes: Array | None, name: str) -> tuple[Array, Array, Any]:
    """Bring single labels and scores into the form most score metrics work on.

    Returns
    -------
    codes : array of shape (n,), int64
        Column of each row's true class; -1 for a class that has no column.
    scores : array of shape (n, k), k >= 2
        A binary problem's one column is given its partner of zeros, which softmax turns into the sigmoid.
    xp : the namespace
    """
    scores, xp = as_columns(scores)
    if ndim(y_true) != 1:
        raise BadInput(f"{name} needs one label per row but y_true has {ndim(y_true)} dimensions.")
    scores = both_columns(scores, xp)
    if _length(y_true) != scores.shape[0]:
        raise BadInput(f"y_true has {_length(y_true)} rows but scores has {scores.shape[0]}; give one label per row.")
    if classes is not None:
        return _codes_among(y_true, classes, scores, xp), scores, xp
    y_true = y_true if is_array(y_true) else np.asarray(y_true)
    codes = xp.astype(_like(y_true, scores, xp), xp.int64)
    if bool(xp.any(codes < 0)) or bool(xp.any(codes >= scores.shape[1])):
        raise BadInput(
            f"Without classes= the labels must be column numbers 0 to {scores.shape[1] - 1} but range from "
            f"{int(xp.min(codes))} to {int(xp.max(codes))}; pass the labels of the columns as classes=."
        )
    return codes, scores, xp


def multi_label(y_true: Array, scores: Array, name: str) -> tuple[Array, Array, Any]:
    """Check multi-label truth ``(n, k)`` against scores of the same shape, both on the scores' device."""
    scores, xp = as_columns(scores)
    y_true = y_true if is_array(y_true) else np.asarray(y_true)
    if tuple(y_true.shape) != tuple(scores.shape):
        raise BadInput(
            f"{name} needs multi-label y_true of the scores' shape {tuple(scores.shape)} "
            f"but it has shape {tuple(y_true.shape)}."
        )
    return _like(y_true, scores, xp), scores, xp


def both_columns(scores: Array, xp: Any) -> Array:
    """Give a single column of binary decision values its partner of zeros; leave the rest alone."""
    return xp.concat([xp.zeros_like(scores), scores], axis=1) if scores.shape[1] == 1 else scores


def softmax(scores: Array, xp: Any) -> Array:
    """Probabilities of the rows, in float64: ``(n, k)`` to ``(n, k)``."""
    z = xp.astype(scores, xp.float64)
    e = xp.exp(z - xp.max(z, axis=1, keepdims=True))
    return e / xp.sum(e, axis=1, keepdims=True)


def histogram(codes: Array, k: int, xp: Any) -> Array:
    """Count how often each of 0 … k-1 occurs in ``codes`` (n,): (k,) int64. The standard has no bincount."""
    edges = xp.searchsorted(xp.sort(codes), xp.arange(k + 1, dtype=codes.dtype, device=device_of(codes)))
    return xp.astype(edges[1:] - edges[:-1], xp.int64)


def finite_mean(values: list[float], name: str, why_none: str) -> float:
    """Mean over the classes a metric is defined for; an error in the metric's name where there is none."""
    if not values:
        raise BadInput(f"{name} is undefined here: {why_none}")
    return math.fsum(values) / len(values)


def ndim(y: Array) -> int:
    """Number of dimensions of an array or a sequence."""
    return int(y.ndim) if is_array(y) else np.asarray(y).ndim


def _length(y: Array) -> int:
    return int(y.shape[0]) if is_array(y) else len(y)


def _like(y: Array, other: Array, xp: Any) -> Array:
    """Bring labels to the array type and device of ``other``; a no-op where they are there already."""
    if type(y) is type(other) and device_of(y) == device_of(other):
        return y
    host = to_numpy(y)
    if host.dtype.kind not in "biuf" and not isinstance(other, np.ndarray):
        raise BadInput(
            f"Labels of dtype {host.dtype} cannot live on the device of the predictions or scores "
            f"({type(other).__name__}); pass both as numpy arrays, or integer codes with classes=."
        )
    return to_device_of(host, other, xp)


def _codes_among(y_true: Array, classes: Array, scores: Array, xp: Any) -> Array:
    """Column of each label among ``classes``, -1 where it has none; decided on the host, where any label lives."""
    known, labels = to_numpy(classes), to_numpy(y_true)
    if len(known) != scores.shape[1]:
        raise BadInput(f"classes has {len(known)} labels but scores has {scores.shape[1]} columns; give one each.")
    order = np.argsort(known)
    place = np.clip(np.searchsorted(known[order], labels), 0, len(known) - 1)
    codes = np.where(known[order][place] == labels, order[place], -1).astype(np.int64)
    return to_device_of(codes, scores, xp)
