"""Rank correlation and the signed-rank test, with exact p-values where they can be enumerated; many tests at once (Holm)."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from probe.errors import BadInput
from probe.reals import pairs, reals
from probe.seeds import checked_seed, generator

MOST_ENUMERATED = 8
"""Up to so many models every order is tried (8! = 40,320); beyond, orders are drawn."""

N_ORDERS = 50_000
"""Orders that are drawn: a p-value of 0.05 is then good to ±0.002 (two standard errors)."""


def ranks(x: np.ndarray) -> np.ndarray:
    """Ranks 1 … n of values (n,), equal ones sharing the mean of theirs."""
    _, codes, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    shared: np.ndarray = ((ends - counts + 1 + ends) / 2)[codes]
    return shared


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of two vectors (n,); NaN where either is constant, or n < 2."""
    x, y = pairs(x, y, "values to correlate")
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / math.sqrt(float(x @ x) * float(y @ y)), -1.0, 1.0))


def spearman(x: np.ndarray, y: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """Spearman's rank correlation, and the two-sided permutation test that it is 0.

    Parameters
    ----------
    x, y : numpy.ndarray of shape (n,)
    seed : int
        Of the orders that are drawn where there are more than `MOST_ENUMERATED` models.

    Returns
    -------
    rho, p_value : float
        The p-value is exact for up to `MOST_ENUMERATED`, otherwise (1 + # at least as extreme) / (1 + `N_ORDERS`), never 0.
        NaN where either vector is constant.
    """
    checked_seed(seed)
    x, y = pairs(x, y, "values to correlate")
    a, b = ranks(x), ranks(y)
    rho = pearson(a, b)
    if math.isnan(rho):
        return math.nan, math.nan
    a, b = a - a.mean(), b - b.mean()
    observed = abs(float(a @ b)) - 1e-9  # ranks are halves: sums that are equal on paper differ by rounding at most
    n = len(a)
    if n <= MOST_ENUMERATED:
        orders = np.array(list(itertools.permutations(range(n))))
        return rho, float((np.abs(b[orders] @ a) >= observed).mean())
    rng = generator(seed)
    drawn = rng.permuted(np.broadcast_to(b, (N_ORDERS, n)), axis=1)
    return rho, (1 + int((np.abs(drawn @ a) >= observed).sum())) / (1 + N_ORDERS)


def signed_rank(difference: np.ndarray) -> float:
    """Wilcoxon's two-sided signed-rank test that differences are symmetric about 0, exact also with equal ones.

    Parameters
    ----------
    difference : numpy.ndarray of shape (n,)
        Of pairs. Zeros are left out, as Wilcoxon (1945) did.

    Returns
    -------
    float
        1 where all are 0.

    Notes
    -----
    All 2^n signs are counted by their rank sum, doubled so that shared ranks are whole numbers: n² steps, no normal
    approximation. Its smallest possible value is 2 / 2^n: five pairs cannot reach 0.05.
    """
    d = reals(difference, "Differences", finite=True)
    d = d[d != 0]
    if not len(d):
        return 1.0
    # Differences that are equal on paper, such as 0.8 - 0.7 and 0.3 - 0.2, share their rank.
    doubled = np.rint(2 * ranks(np.round(np.abs(d), 12))).astype(int)
    total = int(doubled.sum())
    ways = np.zeros(total + 1)
    ways[0] = 1.0
    for r in doubled:
        ways[r:] = ways[r:] / 2 + ways[: total + 1 - r] / 2
        ways[:r] /= 2
    smaller = min(int(doubled[d > 0].sum()), int(doubled[d < 0].sum()))
    return min(1.0, 2.0 * float(ways[: smaller + 1].sum()))


def holm(p_values: Any) -> np.ndarray:
    """Adjust p-values for how many tests were made: Holm's step-down method.

    Parameters
    ----------
    p_values : array-like of shape (n,)
        NaN, a test that could not be made, stays NaN and is not counted.

    Returns
    -------
    numpy.ndarray of shape (n,)
        In the order given. Rejecting where one is at most α keeps the chance of any false rejection at most α, whatever
        depends on what.

    Raises
    ------
    BadInput
        On what is no list of numbers between 0 and 1.

    Notes
    -----
    Holm (1979): the i-th smallest of n is multiplied by n - i + 1, and none may be below one before it.
    """
    p = reals(p_values, "p-values")
    if ((p < 0) | (p > 1)).any():
        worst = float(p[(p < 0) | (p > 1)][0])
        raise BadInput(f"p-values must lie between 0 and 1, but one is {worst:g}.")
    there = np.flatnonzero(~np.isnan(p))
    order = there[np.argsort(p[there], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    out = np.full(len(p), np.nan)
    out[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return out
