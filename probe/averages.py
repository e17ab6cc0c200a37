"""Averages over data sets: adjusted log odds, error bars without the data sets' difficulty, who is tied with the best.

Kornblith, Shlens and Le (2019), Section 3 and Figure 2 (right).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from probe.errors import BadInput
from probe.intervals import z_value
from probe.logits import inverse_logit
from probe.long_tables import Scale, crossed

if TYPE_CHECKING:
    import pandas


def adjusted(x: np.ndarray) -> np.ndarray:
    """Take from each data set what all models have in common.

    Parameters
    ----------
    x : numpy.ndarray of shape (m, d)
        Log odds of m models on d data sets.

    Returns
    -------
    numpy.ndarray of shape (m, d)
        ``acc(m, d) = x_md - Σ_n x_nd / m``: every column has mean 0.
    """
    result: np.ndarray = x - x.mean(axis=0, keepdims=True)
    return result


def standard_errors(x: np.ndarray) -> np.ndarray:
    """Standard errors of the models' means over data sets, without the variance that data sets bring.

    Parameters
    ----------
    x : numpy.ndarray of shape (m, d)
        m of at least 2.

    Returns
    -------
    numpy.ndarray of shape (m,)
        NaN with one data set.

    Notes
    -----
    Morey (2008): subtracting the mean over m models makes the variance too small by (m - 1) / m on average; the standard
    errors are multiplied by sqrt(m / (m - 1)). They are of relative performance: that all models may do worse on other
    data sets is not in them.
    """
    m, d = x.shape
    if m < 2:
        raise BadInput("One model has no error bars of this kind: they are of differences between models.")
    if d < 2:
        return np.full(m, np.nan)
    spread: np.ndarray = adjusted(x).std(axis=1, ddof=1) / math.sqrt(d) * math.sqrt(m / (m - 1))
    return spread


def average_over_datasets(
    table: pandas.DataFrame, *, regime: str | None = None, scale: Scale = "logit", level: float = 0.95
) -> pandas.DataFrame:
    """Average every model over the data sets, on the logit scale.

    Parameters
    ----------
    table : pandas.DataFrame
        See `probe.long_tables`.
    regime : str, optional
        May be left out where the table has one.
    scale : {"logit", "plain"}
    level : float
        A model is tied with the best where a paired t-test over data sets gives p > 1 - level.

    Returns
    -------
    pandas.DataFrame
        Best first: model, mean (of log odds; of scores where the scale is plain), accuracy (what has these log odds),
        adjusted (mean of the adjusted values: `mean` less that of all models), standard_error (`standard_errors`; NaN for
        one model or one data set), n_datasets, difference (to the best), p_value, is_tied.

    Notes
    -----
    The best is chosen and tested on the same data sets, and no correction is made for how many models are tested, as in
    the paper: a model that is not tied is behind with about the confidence stated, one that is tied need not be equal.
    The unit of this test is the data set: with one, p is NaN and nothing is tied but the best itself; compare predictions
    instead (`probe.compare`).
    """
    import pandas

    z_value(level)
    data = crossed(table, regime=regime)
    x = data.on(scale)
    m, d = x.shape
    means = x.mean(axis=1)
    best = int(means.argmax())
    p_values = np.array([paired_t(x[i], x[best]) for i in range(m)])
    p_values[best] = 1.0
    out = pandas.DataFrame(
        {
            "model": data.models,
            "mean": means,
            "accuracy": inverse_logit(means) if scale == "logit" else means,
            "adjusted": adjusted(x).mean(axis=1),
            "standard_error": standard_errors(x) if m > 1 else np.nan,
            "n_datasets": d,
            "difference": means - means[best],
            "p_value": p_values,
            "is_tied": p_values > 1 - level,
        }
    )
    return out.sort_values("mean", ascending=False, ignore_index=True, kind="stable")


def paired_t(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided paired t-test that the mean of a - b is 0.

    Parameters
    ----------
    a, b : numpy.ndarray of shape (d,)

    Returns
    -------
    float
        NaN with fewer than two pairs; 1 where all are equal, 0 where all differ by the same.
    """
    from scipy.special import stdtr

    d = a - b
    if len(d) < 2:
        return math.nan
    mean, error = float(d.mean()), float(d.std(ddof=1)) / math.sqrt(len(d))
    # Equal differences differ in their last bits, which would be the only thing to judge by.
    if error <= 1e-12 * max(1.0, abs(mean)):
        return 1.0 if abs(mean) <= 1e-12 else 0.0
    return float(2 * stdtr(len(d) - 1, -abs(mean) / error))
