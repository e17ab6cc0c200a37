"""Several models on the same samples: all pairs, or all against one, with Holm's correction; and intervals for any metric."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probe import intervals, tables
from probe.comparison import Comparison, Measure, align, compare
from probe.errors import BadInput
from probe.intervals import Interval
from probe.rank_tests import holm
from probe.seeds import checked_draws, generator

if TYPE_CHECKING:
    import pandas

    from probe.metrics import Metric
    from probe.predictions import Predictions

N_DRAWS = 2_000
"""Draws of `bootstrap_difference`, whose metrics may be slow: its ends are then good to about 5 % of its width."""


def compare_all(
    predictions: Sequence[Predictions],
    *,
    against: str | None = None,
    measure: Measure = "accuracy",
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Compare several models on the same samples.

    Parameters
    ----------
    predictions : sequence of Predictions
        At least two, of different names, on the same ids.
    against : str, optional
        Name of the one to compare every other with (a baseline); all pairs where None.
    measure, level, seed
        As `probe.compare`.

    Returns
    -------
    tuple of Comparison
        p-values are each test's own; `comparison_table` adds Holm's.

    Raises
    ------
    BadInput
        On names that occur twice, and on what `probe.compare` refuses.
    """
    predictions = _several(predictions)
    names = [p.name for p in predictions]
    twice = sorted({name for name in names if names.count(name) > 1})
    if len(names) < 2 or twice:
        what = f"several are called {', '.join(map(repr, twice))}" if twice else f"there are {len(names)}"
        raise BadInput(f"At least two sets of predictions with different names are compared, but {what}.")
    if against is None:
        pairs = list(itertools.combinations(predictions, 2))
    elif against in names:
        base = predictions[names.index(against)]
        pairs = [(p, base) for p in predictions if p is not base]
    else:
        raise BadInput(f"There are no predictions called '{against}'; there are {', '.join(names)}.")
    return tuple(compare(a, b, measure=measure, level=level, seed=seed) for a, b in pairs)


def comparison_table(comparisons: Sequence[Comparison]) -> pandas.DataFrame:
    """One row per comparison, with p-values adjusted for how many there are.

    Parameters
    ----------
    comparisons : sequence of Comparison

    Returns
    -------
    pandas.DataFrame
        a, b, measure, n, value_a, value_b, difference, low, high, p_value, p_holm, smallest_detectable, n_digits.
    """
    import pandas

    comparisons = _compared(comparisons)
    adjusted = holm([c.p_value for c in comparisons])
    rows = [
        {"a": c.name_a, "b": c.name_b, "measure": c.measure, "n": c.n, "value_a": c.value_a, "value_b": c.value_b}
        | {
            "difference": c.difference,
            "low": c.interval.low,
            "high": c.interval.high,
            "p_value": c.p_value,
            "p_holm": float(p),
        }
        | {"smallest_detectable": c.smallest_detectable, "n_digits": c.n_digits}
        for c, p in zip(comparisons, adjusted, strict=True)
    ]
    return pandas.DataFrame(rows)


def comparison_text(comparisons: Sequence[Comparison]) -> str:
    """The table for people: no more digits than the smallest detectable difference allows.

    Parameters
    ----------
    comparisons : sequence of Comparison

    Returns
    -------
    str
    """
    comparisons = _compared(comparisons)
    adjusted = holm([c.p_value for c in comparisons])
    rows = [
        [
            c.name_a,
            c.name_b,
            tables.number(c.value_a, c.n_digits),
            tables.number(c.value_b, c.n_digits),
            f"{c.difference:+.{c.n_digits}f}",
            tables.interval(c.interval.low, c.interval.high, c.n_digits + 1),
            tables.p_value(c.p_value),
            tables.p_value(float(p)),
            tables.number(c.smallest_detectable, c.n_digits + 1),
        ]
        for c, p in zip(comparisons, adjusted, strict=True)
    ]
    interval = f"{comparisons[0].level:.0%} interval".replace("%", " %")
    header = ["a", "b", "a's", "b's", "a - b", interval, "p", "p (Holm)", "detectable"]
    return tables.text_table(header, rows)


def _compared(comparisons: Any) -> list[Comparison]:
    found = list(comparisons) if isinstance(comparisons, Iterable) else [comparisons]
    if not found or not all(isinstance(c, Comparison) for c in found):
        raise BadInput("Comparisons of probe.compare or probe.compare_all are listed, at least one.")
    return found


def _several(predictions: Any) -> list[Predictions]:
    from probe.predictions import need_predictions

    found = list(predictions) if isinstance(predictions, Iterable) else [predictions]
    need_predictions(*found)
    return found


def bootstrap_difference(
    a: Predictions, b: Predictions, metric: Metric, *, level: float = 0.95, n_draws: int = N_DRAWS, seed: int = 0
) -> Interval:
    """Bootstrap interval for the difference of any metric between two models on the same samples.

    Parameters
    ----------
    a, b : Predictions
        Of the same ids; with scores, where the metric takes scores.
    metric : PredictionMetric or ScoreMetric
        Of `probe.metrics`, average precision included; or one of your own.
    level : float
    n_draws, seed : int

    Returns
    -------
    Interval
        Percentiles over draws of samples with replacement, the same for both models. A class so rare that a draw has none of it
        is left out of that draw's mean by the metrics of `probe.metrics`.

    Raises
    ------
    BadInput
        Where scores are needed and were not kept; where the metric is not defined on a draw.
    """
    from probe import metrics
    from probe.predictions import need_predictions

    intervals.z_value(level)
    need_predictions(a, b)
    metric = metrics.as_metric(metric)
    a, b = align(a, b)
    said = [_said(p, metric) for p in (a, b)]
    classes = [np.asarray(p.classes) if p.y_true.dtype.kind == "U" and p.classes else None for p in (a, b)]
    rng = generator(seed)
    differences = np.empty(checked_draws(n_draws, "n_draws"))
    for i in range(n_draws):
        rows = rng.integers(0, len(a), len(a))
        values = [
            metric(p.y_true[rows], x[rows], c)
            if isinstance(metric, metrics.ScoreMetric)
            else metric(p.y_true[rows], x[rows])
            for p, x, c in zip((a, b), said, classes, strict=True)
        ]
        differences[i] = values[0] - values[1]
        if math.isnan(differences[i]):
            raise BadInput(
                f"{metric.name} is not defined on a draw of {len(a)} samples: some class is too rare for a bootstrap of it."
            )
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _said(p: Predictions, metric: Metric) -> np.ndarray:
    from probe import metrics

    if not isinstance(metric, metrics.ScoreMetric):
        return p.y_pred
    if p.scores is None:
        raise BadInput(f"{metric.name} needs scores, which were not kept for '{p.name}'; predict again and keep them.")
    return p.scores
