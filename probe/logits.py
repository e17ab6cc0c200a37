"""The logit scale, on which accuracies of easy and hard data sets can be averaged and lines fitted.

Kornblith, Shlens and Le (2019), Section 3: an additive change Δ of logit(p) = log(p / (1 - p)) multiplies the odds of a
correct classification by exp(Δ), whatever p was; one per cent more means something else at 50 % than at 98 %.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from probe.errors import BadInput
from probe.reals import reals


def logit(p: Any, n: Any = None) -> np.ndarray:
    """Log odds of proportions.

    Parameters
    ----------
    p : array-like of floats in [0, 1], any shape
        NaN stays NaN.
    n : array-like of numbers of samples, optional
        How many samples each proportion is of; broadcast to the shape of ``p``. Needed where one is exactly 0 or 1.

    Returns
    -------
    numpy.ndarray, float64, of the shape of ``p``

    Raises
    ------
    BadInput
        On what is no number; outside [0, 1]; and at 0 or 1 without ``n``.

    Notes
    -----
    All of n or none right has no finite log odds. Those values, and only those, are taken as (c + ½) / (n + 1) with c
    right: the odds 2 n + 1 for all. Every other value stays what the paper takes; the order of models is kept, because
    n - 1 of n have odds of n - 1.
    """
    p = reals(p, "Accuracies", ndim=None)
    outside = (p < 0) | (p > 1)
    if outside.any():
        worst = float(p[outside].flat[0])
        raise BadInput(
            f"{int(outside.sum())} of {p.size} values are no proportions (first: {worst:g}), so that they have no log "
            "odds: give accuracies between 0 and 1 (divide percents by 100); a score that can be negative, such as "
            "kappa, is analysed with scale='plain'."
        )
    at_limit = (p == 0) | (p == 1)
    if at_limit.any():
        if n is None or np.isnan(counts := _counts(n, p.shape))[at_limit].any():
            raise BadInput(
                f"{int(at_limit.sum())} of {p.size} accuracies are exactly 0 or 1, where the log odds are infinite: say of "
                "how many test samples (n), and (c + ½) / (n + 1) is taken there, or leave them out."
            )
        if (counts[at_limit] < 1).any():
            raise BadInput(f"n is {counts[at_limit].min():g} but an accuracy is of at least one sample.")
        p = np.where(at_limit, (p * counts + 0.5) / (counts + 1), p)
    result: np.ndarray = np.log(p) - np.log1p(-p)
    return result


def _counts(n: Any, shape: tuple[int, ...]) -> np.ndarray:
    found = reals(n, "Numbers of samples (n)", ndim=None)
    try:
        return np.broadcast_to(found, shape)
    except ValueError as error:
        raise BadInput(
            f"n has shape {found.shape} but the accuracies {shape}: one n for all, or one for each."
        ) from error


def inverse_logit(x: Any) -> np.ndarray:
    """Proportions with these log odds: 1 / (1 + exp(-x)), computed without overflow.

    Parameters
    ----------
    x : array-like of floats, any shape

    Returns
    -------
    numpy.ndarray, float64

    Raises
    ------
    BadInput
        On what is no number.
    """
    x = reals(x, "Log odds", ndim=None)
    small = np.exp(-np.abs(x))
    result: np.ndarray = np.where(x >= 0, 1.0, small) / (1.0 + small)
    return result
