"""Metrics: how good predictions or decision values are, on numpy and torch arrays alike.

Two kinds, told apart by type and by the attribute ``takes``::

    accuracy, mean_per_class, quadratic_kappa, macro_f1          PredictionMetric  metric(y_true, y_pred)
    top5, roc_auc, map11, map_all, log_loss, calibration_error   ScoreMetric       metric(y_true, scores, classes=None)

`evaluate` applies either kind to decision values. Metrics with a parameter are made by a function: `top_k`,
`average_precision`, `calibration`, `macro_f1_at`. A metric of your own is a plain function of ``(y_true, y_pred)``, or
``ScoreMetric(name, function)``.
"""

from __future__ import annotations

import difflib
from functools import partial

from probe.chosen import a_name
from probe.errors import BadInput
from probe.metrics import labels, probabilities, ranking
from probe.metrics.kinds import (
    Metric,
    PredictionMetric,
    ScoreMetric,
    Takes,
    as_metric,
    evaluate,
    predicted_labels,
)
from probe.metrics.ranking import DIFFICULT, Difficult, Points
from probe.metrics.thresholds import macro_f1_at, thresholds_by_f1, thresholds_by_proportion

accuracy = PredictionMetric("accuracy", labels.accuracy)
mean_per_class = PredictionMetric("mean_per_class", labels.mean_per_class)
quadratic_kappa = PredictionMetric("quadratic_kappa", labels.quadratic_kappa)
macro_f1 = PredictionMetric("macro_f1", labels.macro_f1)
top5 = ScoreMetric("top5", ranking.top_k_accuracy)
roc_auc = ScoreMetric("roc_auc", ranking.roc_auc)
map11 = ScoreMetric("map11", ranking.map11)
map_all = ScoreMetric("map_all", ranking.map_all)
log_loss = ScoreMetric("log_loss", probabilities.log_loss, higher_is_better=False)
calibration_error = ScoreMetric("calibration_error", probabilities.calibration_error, higher_is_better=False)

NAMED: tuple[Metric, ...] = (
    accuracy, mean_per_class, quadratic_kappa, macro_f1, top5, roc_auc, map11, map_all, log_loss, calibration_error,
)  # fmt: skip
"""The metrics that have a name on the command line."""


def get(name: str) -> Metric:
    """Find a metric by its name on the command line.

    Parameters
    ----------
    name : str
        One of ``[m.name for m in probe.metrics.NAMED]``.

    Returns
    -------
    PredictionMetric or ScoreMetric

    Raises
    ------
    BadInput
        With the nearest known names.
    """
    known = {metric.name: metric for metric in NAMED}
    if a_name(name, "A metric") in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}."
    raise BadInput(f"There is no metric named {name!r}; {hint}")


def top_k(k: int) -> ScoreMetric:
    """Top-k accuracy as a metric; `top5` is ``top_k(5)``. See `probe.metrics.ranking.top_k_accuracy`."""
    if k < 1:
        raise BadInput(f"k is {k} but top-k accuracy needs k of at least 1.")
    return ScoreMetric(f"top{k}", partial(ranking.top_k_accuracy, k=k))


def average_precision(points: Points = "11", difficult: Difficult = "ignored") -> ScoreMetric:
    """Mean average precision by curve and label policy. See `probe.metrics.ranking.mean_average_precision`."""
    name = f"map_{points}_difficult_{difficult}"
    return ScoreMetric(name, partial(ranking.mean_average_precision, points=points, difficult=difficult))


def calibration(n_bins: int) -> ScoreMetric:
    """Expected calibration error with your number of bins. See `probe.metrics.probabilities.calibration_error`."""
    function = partial(probabilities.calibration_error, n_bins=n_bins)
    return ScoreMetric(f"calibration_error_{n_bins}", function, higher_is_better=False)


__all__ = [
    "DIFFICULT",
    "NAMED",
    "Metric",
    "PredictionMetric",
    "ScoreMetric",
    "Takes",
    "accuracy",
    "as_metric",
    "average_precision",
    "calibration",
    "calibration_error",
    "evaluate",
    "get",
    "log_loss",
    "macro_f1",
    "macro_f1_at",
    "map11",
    "map_all",
    "mean_per_class",
    "predicted_labels",
    "quadratic_kappa",
    "roc_auc",
    "thresholds_by_f1",
    "thresholds_by_proportion",
    "top5",
    "top_k",
]
