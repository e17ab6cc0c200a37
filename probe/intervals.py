"""Confidence intervals for a proportion, a mean of proportions per class, and differences of paired ones.

Only the standard library and numpy are needed, so that reading stored results imports nothing heavy.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from probe.errors import BadInput
from probe.seeds import generator

N_BOOTSTRAP = 10_000
"""Draws of a bootstrap interval: its ends are then good to about 2 % of its width."""


class Interval(NamedTuple):
    """Lower and upper end of a confidence interval."""

    low: float
    high: float


def z_value(level: float) -> float:
    """Two-sided normal quantile: 1.96 for a level of 0.95."""
    given: Any = level
    if not isinstance(given, numbers.Real) or not 0.0 < level < 1.0:
        raise BadInput(f"The level of an interval must be between 0 and 1 but is {level!r}; 0.95 is usual.")
    return NormalDist().inv_cdf(0.5 + level / 2)


def wilson(n_right: int, n: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion.

    Parameters
    ----------
    n_right, n : int
        Successes and trials, 0 <= n_right <= n, n >= 1.
    level : float

    Returns
    -------
    Interval

    Notes
    -----
    Wilson (1927): the proportions p with |n_right - n p| <= z sqrt(n p (1 - p)). Never leaves [0, 1], and has a width
    above 0 at 0 and n successes, where the usual ± z sqrt(p (1 - p) / n) claims certainty.
    """
    if not 0 <= n_right <= n or n < 1:
        raise BadInput(f"A proportion needs 0 <= successes <= trials and a trial, but got {n_right} of {n}.")
    z = z_value(level)
    centre = (n_right + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(n_right * (n - n_right) / n + z * z / 4)
    return Interval(0.0 if n_right == 0 else centre - half, 1.0 if n_right == n else centre + half)


def mean_per_class(y_true: np.ndarray, right: np.ndarray, *, level: float = 0.95, seed: int = 0) -> Interval:
    """Bootstrap interval for the mean over classes of the share of right rows, drawn within each class.

    Parameters
    ----------
    y_true : numpy.ndarray of shape (n,)
        Labels of any kind.
    right : numpy.ndarray of shape (n,), bool
        Which rows are predicted right.
    level : float
    seed : int

    Returns
    -------
    Interval
        Percentiles of `N_BOOTSTRAP` draws. Drawing rows with replacement within a class and counting the right ones is
        a binomial draw, so that is what is drawn.
    """
    z_value(level)
    _, codes = np.unique(y_true, return_inverse=True)
    n = np.bincount(codes)
    share = np.bincount(codes, weights=right) / n
    rng = generator(seed)
    means = np.concatenate([(rng.binomial(n, share, (rows, len(n))) / n).mean(1) for rows in _batches(len(n))])
    return _percentiles(means, level)


def tango(n_only_a: int, n_only_b: int, n: int, *, level: float = 0.95) -> Interval:
    """Tango's score interval for the difference of two paired proportions.

    Parameters
    ----------
    n_only_a, n_only_b : int
        Rows only the first, only the second is right on.
    n : int
        All rows.
    level : float

    Returns
    -------
    Interval
        For the proportion of a minus that of b; in [-1, 1].

    Notes
    -----
    Tango (1998), equations 4 to 6: the differences δ with |n_only_a - n_only_b - n δ| <= z sqrt(n (2 q + δ (1 - δ))),
    q being the maximum-likelihood probability of "only b" given δ. It leaves 0 out exactly where McNemar's score test
    rejects, and keeps its coverage where few rows differ, unlike the usual normal interval.
    """
    if min(n_only_a, n_only_b) < 0 or n_only_a + n_only_b > n or n < 1:
        raise BadInput(f"{n_only_a} and {n_only_b} rows cannot be disjoint parts of {n}.")
    z = z_value(level)

    def score(delta: float) -> float:
        linear = -(n_only_a + n_only_b) + (2 * n - n_only_a + n_only_b) * delta
        root = math.sqrt(max(0.0, linear * linear + 8 * n * n_only_b * delta * (1 - delta)))
        q = (root - linear) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        distance = n_only_a - n_only_b - n * delta
        return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)

    centre = (n_only_a - n_only_b) / n
    low = -1.0 if centre == -1.0 else _bisect(lambda d: score(d) > z, -1.0, centre)
    high = 1.0 if centre == 1.0 else _bisect(lambda d: score(d) >= -z, centre, 1.0)
    return Interval(low, high)


def paired_mean_per_class(
    y_true: np.ndarray, a: np.ndarray, b: np.ndarray, *, level: float = 0.95, seed: int = 0
) -> Interval:
    """Bootstrap interval for the difference of two paired means per class, rows drawn within each class.

    Parameters
    ----------
    y_true : numpy.ndarray of shape (n,)
    a, b : numpy.ndarray of shape (n,), bool
        Which rows the two are right on.
    level : float
    seed : int

    Returns
    -------
    Interval
        Percentiles of `N_BOOTSTRAP` draws; within a class the counts of "only a", "only b" and "same" are multinomial.
    """
    z_value(level)
    _, codes = np.unique(y_true, return_inverse=True)
    n = np.bincount(codes)
    shares = np.stack([np.bincount(codes, weights=a & ~b), np.bincount(codes, weights=b & ~a)], axis=1) / n[:, None]
    probabilities = np.concatenate([shares, np.maximum(0.0, 1.0 - shares.sum(1, keepdims=True))], axis=1)
    rng = generator(seed)
    differences = []
    for rows in _batches(len(n)):
        counts = rng.multinomial(n, probabilities, (rows, len(n)))
        differences.append(((counts[:, :, 0] - counts[:, :, 1]) / n).mean(1))
    return _percentiles(np.concatenate(differences), level)


def bootstrap_mean(x: np.ndarray, *, level: float = 0.95, seed: int = 0) -> Interval:
    """Bootstrap interval for a mean, rows drawn with replacement.

    Parameters
    ----------
    x : numpy.ndarray of shape (n,)
        For a paired difference, the differences.
    level : float
    seed : int

    Returns
    -------
    Interval
        Percentiles of `N_BOOTSTRAP` draws.
    """
    z_value(level)
    rng = generator(seed)
    means = [x[rng.integers(0, len(x), (rows, len(x)))].mean(axis=1) for rows in _batches(len(x))]
    return _percentiles(np.concatenate(means), level)


def _batches(k: int) -> list[int]:
    """Draws per batch, so that a thousand classes stay within some tens of MB."""
    size = max(1, 1_000_000 // k)
    return [min(size, N_BOOTSTRAP - start) for start in range(0, N_BOOTSTRAP, size)]


def _percentiles(values: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _bisect(is_left: Callable[[float], bool], low: float, high: float) -> float:
    """The point where `is_left` turns false, to the last bit float64 has there (60 halvings of at most 2)."""
    for _ in range(60):
        middle = (low + high) / 2
        if is_left(middle):
            low = middle
        else:
            high = middle
    return (low + high) / 2
