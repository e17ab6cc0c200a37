"""One probe from features to predictions: fit the path on train, choose C on val, fit again on both, read test once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probe import intervals, metrics
from probe.arrays import namespace, to_numpy
from probe.intervals import Interval
from probe.metrics import Metric
from probe.predictions import Predictions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from probe.model import Model


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of one part of the data.

    Attributes
    ----------
    X : array of shape (n, d)
        numpy or torch.
    y : numpy.ndarray of shape (n,), int64
    ids : numpy.ndarray of shape (n,), text
    """

    X: Any
    y: np.ndarray
    ids: np.ndarray


@dataclass(frozen=True)
class Protocol:
    """How a probe is fitted and judged.

    Attributes
    ----------
    C : tuple of float
        Inverse penalties, in the sum form.
    metric : Metric
        Chooses C on val, and is what is reported.
    refit : bool
        Whether the tested model is fitted again on train + val at the chosen C, which is kept: in the sum form the data
        term grows with the rows and the penalty stays.
    tol : float
    """

    C: tuple[float, ...]
    metric: Metric
    refit: bool
    tol: float


def run(train: Part, val: Part, test: Part | None, protocol: Protocol, classes: Sequence[str] = ()) -> dict[str, Any]:
    """Fit, choose and judge one probe.

    Parameters
    ----------
    train, val : Part
    test : Part or None
        Only its chosen model's predictions are computed: nothing is selected on it.
    protocol : Protocol
    classes : sequence of str
        Names of the labels, for the predictions.

    Returns
    -------
    dict
        The fields of `probe.records.Record` that come out of the fit, and "predictions".
    """
    started = time.perf_counter()
    return {**_run(train, val, test, protocol, classes), "seconds": time.perf_counter() - started}


def _run(train: Part, val: Part, test: Part | None, protocol: Protocol, classes: Sequence[str]) -> dict[str, Any]:
    from probe.path import fit, fit_path
    from probe.selection import select

    path = fit_path(train.X, train.y, protocol.C, tol=protocol.tol)
    choice = select(path, val.X, val.y, metric=protocol.metric)
    model = path.model(choice.index)
    judged, of = val, "val"
    if test is not None:
        judged, of = test, "test"
        if protocol.refit:
            both = namespace(train.X).concat([train.X, val.X], axis=0)
            model = fit(both, np.concatenate([train.y, val.y]), C=float(choice.C), tol=protocol.tol)
    score, predictions = judge(model, judged, protocol.metric, classes)
    val_pred = predictions if test is None else _predicted(path.model(choice.index), val, classes)
    return {
        "C": float(choice.C),
        "index": int(choice.index),
        "at_edge": bool(choice.at_edge),
        "grid": tuple(float(c) for c in path.C),
        "val_scores": tuple(float(s) for s in choice.scores),
        "val_score": float(choice.scores[choice.index]),
        "test_score": score if test is not None else float("nan"),
        "val_interval": interval(protocol.metric, float(choice.scores[choice.index]), val_pred),
        "test_interval": None if test is None else interval(protocol.metric, score, predictions),
        "k": len(path.classes),
        "is_refitted": test is not None and protocol.refit,
        "status": str(model.status.value),
        "statuses": _counted([s.value for s in path.status]),
        "worst_grad_norm": float(np.max(to_numpy(path.grad_norm))),
        "worst_gap": float(np.max(to_numpy(path.gap))),
        "n_iter": int(np.sum(to_numpy(path.n_iter))),
        "passes": int(np.sum(to_numpy(path.passes))),
        "predictions_of": of,
        "predictions": predictions,
    }


def judge(model: Model, part: Part, metric: Metric, classes: Sequence[str] = ()) -> tuple[float, Predictions]:
    """Score a model on rows, and keep what it said about each.

    Returns
    -------
    score : float
    predictions : Predictions
    """
    scores = model.decision_function(part.X)
    value = metrics.evaluate(metric, part.y, scores, model.classes)
    return value, _predicted(model, part, classes, scores)


def interval(metric: Metric, score: float, predictions: Predictions) -> Interval | None:
    """The 95 % interval of a score over other samples of the same kind, for the metrics that have one here."""
    if predictions.y_true.ndim != 1:
        return None
    if metric in (metrics.accuracy, metrics.top5):
        return intervals.wilson(round(score * len(predictions)), len(predictions))
    if metric == metrics.mean_per_class:
        return intervals.mean_per_class(predictions.y_true, predictions.correct)
    return None


def _predicted(model: Model, part: Part, classes: Sequence[str], scores: Any = None) -> Predictions:
    scores = model.decision_function(part.X) if scores is None else scores
    y_pred = metrics.predicted_labels(scores, model.classes, multi_label=part.y.ndim == 2)
    return Predictions(part.ids, part.y, to_numpy(y_pred), tuple(classes))


def _counted(values: Sequence[str]) -> dict[str, int]:
    return {value: values.count(value) for value in dict.fromkeys(values)}
