"""Multi-label decisions with one threshold per class, chosen on validation data, and the macro F1 they reach."""

from __future__ import annotations

from functools import partial

import numpy as np

from probe.arrays import Array, namespace, to_numpy
from probe.errors import BadInput
from probe.metrics.inputs import multi_label, to_device_of
from probe.metrics.kinds import ScoreMetric
from probe.metrics.labels import macro_f1
from probe.metrics.ranking import ranked

PROBABILITY_GRID = tuple(float(p) for p in np.round(np.arange(0.05, 1.0, 0.01), 2))
"""The 95 candidate thresholds 0.05, 0.06, … 0.99 of the search used for the Human Protein Atlas."""


def thresholds_by_proportion(y_val: Array, scores_val: Array) -> np.ndarray:
    """Per class, the threshold that calls as many validation rows positive as are positive.

    Parameters
    ----------
    y_val : array of shape (n, k), of 0 and 1
    scores_val : array of shape (n, k), floating
        Decision values (log-odds).

    Returns
    -------
    numpy.ndarray of shape (k,), float64
        Thresholds on the decision values: positive means strictly above. The first of equally good ones.

    Notes
    -----
    The search of the Human Protein Atlas solution whose splits Fang et al. (2023) use: among the probabilities 0.05,
    0.06, … 0.99 the one for which the share of rows predicted positive is closest to the share of true positives.
    """
    truth, scores, xp = multi_label(y_val, scores_val, "thresholds_by_proportion")
    grid = np.array([np.log(p) - np.log1p(-p) for p in PROBABILITY_GRID])
    n_true = to_numpy(xp.sum(xp.astype(truth == 1, xp.int64), axis=0))
    n_called = np.stack([to_numpy(xp.sum(xp.astype(scores > float(t), xp.int64), axis=0)) for t in grid])
    best: np.ndarray = grid[np.argmin(np.abs(n_called - n_true[None, :]), axis=0)]
    return best


def thresholds_by_f1(y_val: Array, scores_val: Array) -> np.ndarray:
    """Per class, the threshold of largest F1 on the validation data, over every possible cut.

    Macro F1 is a mean of one term per class, so that choosing each class's threshold alone maximises it exactly. The
    cut is put half-way between the two neighbouring scores; of equally good cuts the one that calls the fewest rows
    positive is taken; a class without a positive row is never predicted (threshold +inf).

    Parameters
    ----------
    y_val : array of shape (n, k), of 0 and 1
    scores_val : array of shape (n, k), floating

    Returns
    -------
    numpy.ndarray of shape (k,), float64
        Thresholds on the decision values: positive means strictly above.
    """
    truth, scores, xp = multi_label(y_val, scores_val, "thresholds_by_f1")
    chosen = np.empty(scores.shape[1])
    for c in range(scores.shape[1]):
        taken, hits, values = (to_numpy(x) for x in ranked(scores[:, c], truth[:, c] == 1, xp))
        if hits[-1] == 0:
            chosen[c] = np.inf
            continue
        best = int(np.argmax(2.0 * hits / (taken + hits[-1])))
        upper = float(values[best])
        lower = float(values[best + 1]) if best + 1 < len(values) else -np.inf
        middle = lower + (upper - lower) / 2
        # Between neighbouring floats there may be no middle; "strictly above the lower one" is the same cut.
        chosen[c] = middle if middle < upper else lower
    return chosen


def macro_f1_at(thresholds: Array) -> ScoreMetric:
    """Macro F1 of the decisions at given thresholds, as a metric of scores.

    Parameters
    ----------
    thresholds : array of shape (k,)
        On the decision values, as `thresholds_by_proportion` and `thresholds_by_f1` return them; choose them on val.

    Returns
    -------
    ScoreMetric
    """
    host = np.asarray(to_numpy(thresholds), dtype=np.float64)
    if host.ndim != 1 or np.isnan(host).any():
        raise BadInput(f"Thresholds must be one number per class, shape (k,), but are {host!r}.")
    return ScoreMetric("macro_f1_at_thresholds", partial(_macro_f1_above, thresholds=tuple(host.tolist())))


def _macro_f1_above(
    y_true: Array, scores: Array, classes: Array | None = None, *, thresholds: tuple[float, ...]
) -> float:
    """Macro F1 with a class called present where its score is strictly above its threshold."""
    truth, scores, xp = multi_label(y_true, scores, "macro_f1_at_thresholds")
    if len(thresholds) != scores.shape[1]:
        raise BadInput(f"There are {len(thresholds)} thresholds but {scores.shape[1]} columns of scores.")
    # Compared in float64: a float32 cut could fall onto the score it was put below.
    cut = to_device_of(np.asarray(thresholds), scores, namespace(scores))
    return macro_f1(truth, xp.astype(xp.astype(scores, xp.float64) > cut[None, :], xp.uint8))
