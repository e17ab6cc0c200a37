"""Choosing C on validation data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from probe import metrics
from probe.arrays import Array, as_matrix, to_numpy
from probe.errors import BadInput
from probe.labels import Task, decode
from probe.metrics import PredictionMetric
from probe.sources import can_stay, streamed

if TYPE_CHECKING:
    from collections.abc import Callable

    from probe.metrics import Metric
    from probe.path import Path

_SCORES_AT_ONCE = 1 << 23


@dataclass(frozen=True, eq=False)
class Choice:
    """The penalty chosen on validation data.

    Attributes
    ----------
    C : float
    index : int
        Its position along the path.
    scores : numpy.ndarray of shape (b,), float64
        The metric at every C.
    at_edge : bool
        Whether a better C may lie outside the grid: the chosen one is the first or the last.
    """

    C: float
    index: int
    scores: np.ndarray
    at_edge: bool


def select(
    path: Path,
    X_val: Any,
    y_val: Any,
    metric: Metric | Callable[[Any, Any], float] | None = None,
    *,
    memory: float | Literal["auto"] | None = None,
) -> Choice:
    """Choose the C with the best metric on validation data; on a tie, the strongest penalty (smallest C).

    Parameters
    ----------
    path : Path
    X_val : array-like of shape (n, d)
    y_val : array-like of shape (n,), or (n, k) for multi-label paths
        Classes the path has not seen count as mistakes.
    metric : PredictionMetric, ScoreMetric or callable (y_true, y_pred) -> float, optional
        Default: `probe.metrics.accuracy`.
    memory : float or "auto", optional
        Bytes that the features may take, as in `fit_path`: more than that is read from the store or the dask array a block at a
        time, as often as the decision values of all C take more than 64 MB. Default, and "auto": `X_val` is loaded.

    Returns
    -------
    Choice

    Raises
    ------
    BadInput
        When X_val and y_val differ in length or X_val holds NaN or infinity, when the path has seen none of the labels, or
        the metric is not finite anywhere.
    """
    rule = metrics.as_metric(metrics.accuracy if metric is None else metric)
    allowed = None if isinstance(memory, str) else memory
    X = as_matrix(X_val) if streamed(X_val, allowed) is None or not can_stay(X_val) else X_val
    y = np.asarray(to_numpy(y_val) if hasattr(y_val, "shape") else y_val)
    if len(y) != int(X.shape[0]):
        raise BadInput(f"X_val has {X.shape[0]} rows but y_val has {len(y)} labels; they must be of the same samples.")
    if path.task is not Task.MULTILABEL and not np.isin(y, path.classes).any():
        raise BadInput(
            f"The path knows the classes {path.classes[:5].tolist()} and none of the {len(y)} validation labels is among them "
            f"(the first is {y.tolist()[0]!r}); give both the same labels."
        )
    return chosen(path.C, np.array(_scores(path, X, y, rule)), rule)


def chosen(C: np.ndarray, scores: np.ndarray, rule: Metric) -> Choice:
    """The choice that scores make; on a tie the strongest penalty.

    Parameters
    ----------
    C, scores : numpy.ndarray of shape (b,), float64
    rule : Metric

    Returns
    -------
    Choice
    """
    index = best_index(C, scores if rule.higher_is_better else -scores)
    order = np.argsort(C)
    at_edge = index in (int(order[0]), int(order[-1])) and len(C) > 1
    return Choice(float(C[index]), index, scores, at_edge)


def best_index(C: np.ndarray, ranked: np.ndarray) -> int:
    """Position of the best score (higher is better); on a tie that of the smallest C.

    Parameters
    ----------
    C, ranked : numpy.ndarray of shape (b,), float64
        At least one score is finite.

    Returns
    -------
    int
    """
    if not np.isfinite(ranked).any():
        raise BadInput(f"The metric is not finite at any of the {len(C)} values of C; check the validation labels.")
    best = np.flatnonzero(ranked == np.nanmax(ranked))
    return int(best[np.argmin(C[best])])


def _scores(path: Path, X: Any, y: np.ndarray, rule: Metric) -> list[float]:
    k = int(path.coef.shape[1])
    group = max(1, _SCORES_AT_ONCE // (int(X.shape[0]) * k))
    out: list[float] = []
    for a in range(0, len(path.C), group):
        values = path.decision_function(X, slice(a, a + group))
        for one in values:
            out.append(score_of(one, y, rule, path.classes, path.task))
    return out


def score_of(scores: Array, y: np.ndarray, rule: Metric, classes: np.ndarray, task: Task) -> float:
    """A metric of decision values (n, k)."""
    if isinstance(rule, PredictionMetric):
        return rule(y, decode(scores, classes, task))
    return rule(y, scores[:, 0] if task is Task.BINARY else scores, classes)
