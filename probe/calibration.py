"""Calibration beside accuracy: is a model as often right as it is sure?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from probe import metrics
from probe.errors import BadInput
from probe.metrics.inputs import scored_codes, softmax
from probe.predictions import Predictions, need_predictions
from probe.reals import several_of
from probe.seeds import checked_draws, checked_seed, generator

if TYPE_CHECKING:
    import pandas

N_BINS = 15
"""Guo et al. (2017), and `probe.metrics.calibration_error`."""

N_DRAWS = 500


def calibration_table(predictions: Sequence[Predictions], *, seed: int = 0) -> pandas.DataFrame:
    """Put calibration beside accuracy.

    Parameters
    ----------
    predictions : sequence of Predictions
        With one label per sample.
    seed : int
        Of `expected_by_chance`.

    Returns
    -------
    pandas.DataFrame
        Per model: name, n, accuracy, low, high (Wilson, 95 %), confidence (mean of the largest probability),
        calibration_error (15 bins), by_chance (`expected_by_chance`). The last three are NaN where no scores were kept.

    Notes
    -----
    Guo, Pleiss, Sun and Weinberger (2017). A calibration error is positive even of a perfectly calibrated model, the more so
    the fewer samples: what exceeds ``by_chance`` is miscalibration.
    """
    import pandas

    checked_seed(seed)
    several = several_of(
        Predictions, [predictions] if isinstance(predictions, Predictions) else predictions, "Predictions"
    )
    rows = []
    for p in several:
        low, high = p.interval()
        row = {"name": p.name, "n": len(p), "accuracy": p.accuracy(), "low": low, "high": high}
        row |= dict.fromkeys(("confidence", "calibration_error", "by_chance"), math.nan)
        if p.scores is not None:
            confidence, _ = confidences(p)
            row["confidence"] = float(confidence.mean())
            row["calibration_error"] = metrics.calibration_error(p.y_true, p.scores, _classes(p))
            row["by_chance"] = expected_by_chance(confidence, seed=seed)
        rows.append(row)
    return pandas.DataFrame(rows)


def confidences(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """How sure a model is of each sample, and whether it is right.

    Parameters
    ----------
    predictions : Predictions
        With scores.

    Returns
    -------
    confidence : numpy.ndarray of shape (n,), float64
        The largest probability.
    right : numpy.ndarray of shape (n,), bool
        Whether the class of it is the true one.
    """
    if predictions.scores is None:
        raise BadInput(
            f"Calibration needs scores, which were not kept for '{predictions.name}'; predict again and keep them."
        )
    codes, scores, xp = scored_codes(predictions.y_true, predictions.scores, _classes(predictions), "calibration")
    right: np.ndarray = np.asarray(xp.argmax(scores, axis=1) == codes)
    return np.asarray(softmax(scores, xp)).max(axis=1), right


def reliability(predictions: Predictions, *, n_bins: int = N_BINS) -> pandas.DataFrame:
    """Accuracy by confidence: the bars of a reliability diagram.

    Parameters
    ----------
    predictions : Predictions
        With scores.
    n_bins : int

    Returns
    -------
    pandas.DataFrame
        Per bin that has samples: low, high (of the confidence, the lower end not in it), n, confidence, accuracy (means).
    """
    import pandas

    need_predictions(predictions)
    if n_bins < 1:
        raise BadInput(f"n_bins is {n_bins} but there must be at least one bin.")
    confidence, right = confidences(predictions)
    bins = _bins(confidence, n_bins)
    n = np.bincount(bins, minlength=n_bins)
    there = np.flatnonzero(n)
    sums = (np.bincount(bins, weights=w, minlength=n_bins)[there] / n[there] for w in (confidence, right.astype(float)))
    mean_confidence, accuracy = sums
    return pandas.DataFrame(
        {
            "low": there / n_bins,
            "high": (there + 1) / n_bins,
            "n": n[there],
            "confidence": mean_confidence,
            "accuracy": accuracy,
        }
    )


def expected_by_chance(confidence: np.ndarray, *, n_bins: int = N_BINS, n_draws: int = N_DRAWS, seed: int = 0) -> float:
    """The calibration error to be expected of a model that is perfectly calibrated, on so many samples.

    Parameters
    ----------
    confidence : numpy.ndarray of shape (n,)
    n_bins, n_draws, seed : int

    Returns
    -------
    float
        Mean over draws in which each sample is right with the probability that the model says.
    """
    bins, rng = _bins(confidence, n_bins), generator(seed)
    errors = []
    for _ in range(checked_draws(n_draws, "n_draws")):
        surplus = (rng.random(len(confidence)) < confidence) - confidence
        errors.append(np.abs(np.bincount(bins, weights=surplus, minlength=n_bins)).sum() / len(confidence))
    return float(np.mean(errors))


def _bins(confidence: np.ndarray, n_bins: int) -> np.ndarray:
    clipped: np.ndarray = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    return clipped


def _classes(p: Predictions) -> np.ndarray | None:
    """Labels of the columns of the scores, where labels are text; integer labels are the column numbers."""
    return np.asarray(p.classes) if p.y_true.dtype.kind == "U" and p.classes else None
