"""What a metric is: the two kinds, the arrays they take, and how to apply either kind to decision values.

Conventions
-----------
``y_true``
    ``(n,)`` labels of any kind (integers, strings, …), or ``(n, k)`` of 0 and 1 for multi-label data.
``y_pred``
    Labels of the same form.
``scores``
    Decision values: what ``decision_function`` returns, ``(n, k)`` with one column per class, or ``(n,)`` or ``(n, 1)``
    for binary problems (positive means the second class) and ``(n, k)`` for multi-label ones. Probabilities ``p`` are
    passed as ``log(p)`` (one class per row) or ``log(p / (1 - p))`` (binary, multi-label): both give ``p`` back.
``classes``
    ``(k,)`` sorted labels the columns of ``scores`` belong to; None means that labels are the column numbers 0 … k-1.

Arrays may be numpy, torch or anything else in the array API standard; the work is done where the scores (or the
predictions) live, and labels, which are small, are moved there when they are elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, TypeAlias

import numpy as np

from probe.arrays import Array, to_numpy
from probe.errors import BadInput
from probe.metrics.inputs import as_columns, both_columns, ndim, to_device_of


class Takes(Enum):
    """What a metric compares the true labels with."""

    PREDICTIONS = "predictions"
    SCORES = "scores"


@dataclass(frozen=True)
class PredictionMetric:
    """A metric of predicted labels: ``metric(y_true, y_pred) -> float``.

    Attributes
    ----------
    name : str
        The name on the command line, in records and in tables.
    function : callable
        ``function(y_true, y_pred) -> float``; any function of your own will do.
    higher_is_better : bool
        Whether the largest value is the best one.
    takes : Takes
        Always ``Takes.PREDICTIONS``; `ScoreMetric` has ``Takes.SCORES``.
    """

    takes: ClassVar[Takes] = Takes.PREDICTIONS
    name: str
    function: Callable[[Array, Array], float] = field(repr=False)
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.function.__doc__)

    def __call__(self, y_true: Array, y_pred: Array) -> float:
        """Compare predicted labels with true ones."""
        return self.function(y_true, y_pred)


@dataclass(frozen=True)
class ScoreMetric:
    """A metric of decision values: ``metric(y_true, scores, classes=None) -> float``.

    Attributes
    ----------
    name : str
        The name on the command line, in records and in tables.
    function : callable
        ``function(y_true, scores, classes) -> float``; any function of your own will do.
    higher_is_better : bool
        Whether the largest value is the best one; False for losses.
    takes : Takes
        Always ``Takes.SCORES``; `PredictionMetric` has ``Takes.PREDICTIONS``.
    """

    takes: ClassVar[Takes] = Takes.SCORES
    name: str
    function: Callable[[Array, Array, Array | None], float] = field(repr=False)
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.function.__doc__)

    def __call__(self, y_true: Array, scores: Array, classes: Array | None = None) -> float:
        """Compare decision values with true labels."""
        return self.function(y_true, scores, classes)


Metric: TypeAlias = PredictionMetric | ScoreMetric


def as_metric(metric: Metric | Callable[[Array, Array], float]) -> Metric:
    """Give a plain function the form of a metric.

    Parameters
    ----------
    metric : PredictionMetric, ScoreMetric or callable
        A plain function is taken as ``function(y_true, y_pred)``, larger is better. Wrap it in `ScoreMetric` yourself
        when it takes scores, or in `PredictionMetric` when smaller is better.

    Returns
    -------
    PredictionMetric or ScoreMetric
    """
    if isinstance(metric, PredictionMetric | ScoreMetric):
        return metric
    if not callable(metric):
        raise BadInput(
            f"A metric must be callable but {metric!r} is a {type(metric).__name__}; pass one of probe.metrics, or "
            "a function of (y_true, y_pred)."
        )
    name = f"{getattr(metric, '__module__', '')}.{getattr(metric, '__qualname__', type(metric).__qualname__)}"
    return PredictionMetric(name, metric)


def evaluate(metric: Metric, y_true: Array, scores: Array, classes: Array | None = None) -> float:
    """Apply a metric of either kind to decision values.

    Parameters
    ----------
    metric : PredictionMetric or ScoreMetric
    y_true : array of shape (n,) or (n, k)
    scores : array of shape (n, k), (n, 1) or (n,), floating
    classes : array of shape (k,), optional
        Labels of the columns. See the conventions at the top of the module.

    Returns
    -------
    float
    """
    if isinstance(metric, ScoreMetric):
        return metric(y_true, scores, classes)
    return metric(y_true, predicted_labels(scores, classes, multi_label=ndim(y_true) == 2))


def predicted_labels(scores: Array, classes: Array | None = None, *, multi_label: bool = False) -> Array:
    """Turn decision values into labels: the largest column (the first of equals), or the sign for one column.

    Parameters
    ----------
    scores : array of shape (n, k), (n, 1) or (n,), floating
    classes : array of shape (k,), optional
    multi_label : bool
        Every column decides on its own: positive means present.

    Returns
    -------
    array of shape (n,), or (n, k) of uint8 when multi-label
        On the device of ``scores``, except for labels that are not numbers: those are numpy.
    """
    scores, xp = as_columns(scores)
    if multi_label:
        return xp.astype(scores > 0, xp.uint8)
    codes = xp.argmax(both_columns(scores, xp), axis=1)
    if classes is None:
        return codes
    host = np.asarray(classes)
    if host.dtype.kind in "biu":
        return xp.take(to_device_of(host.astype(np.int64), codes, xp), codes, axis=0)
    return host[to_numpy(codes)]
