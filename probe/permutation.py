"""Tests that exchange two models' predictions sample by sample: exact where they can be counted, drawn otherwise.

SimCLR (Chen et al., 2020), Appendix B.8: under "no difference" the two models' predictions on a sample can be exchanged, which
flips the sign of the difference there. Any measure that is a mean, or a weighted mean, of one score per sample is tested so.
"""

from __future__ import annotations

import numpy as np

from probe.errors import BadInput
from probe.reals import count, reals
from probe.seeds import generator

N_PERMUTATIONS = 100_000
"""Sign flips of a permutation test: as many as SimCLR drew."""


def mcnemar(n_only_a: int, n_only_b: int) -> float:
    """Two-sided exact binomial test that a sample only one model is right on is as likely either one's.

    Parameters
    ----------
    n_only_a, n_only_b : int

    Returns
    -------
    float
        Twice the smaller tail, at most 1; correctly rounded, being computed in whole numbers.
    """
    n_only_a, n_only_b = (count(n, "Samples that one model alone is right on") for n in (n_only_a, n_only_b))
    n, smaller = n_only_a + n_only_b, min(n_only_a, n_only_b)
    ways, total = 1, 1
    for i in range(1, smaller + 1):
        ways = ways * (n - i + 1) // i
        total += ways
    tail: float = 2 * total / 2**n
    return min(1.0, tail)


def sign_flip(
    codes: np.ndarray, right_a: np.ndarray, right_b: np.ndarray, *, n_permutations: int = N_PERMUTATIONS, seed: int = 0
) -> float:
    """Two-sided permutation test of the difference in mean per class, the models exchanged sample by sample.

    Parameters
    ----------
    codes : numpy.ndarray of shape (n,), int64
        Class of each sample, 0 … k-1, each occurring.
    right_a, right_b : numpy.ndarray of shape (n,), bool
    n_permutations, seed : int

    Returns
    -------
    float
        ``(1 + # draws at least as extreme) / (1 + n_permutations)``: never 0, and valid at any number of draws.

    Notes
    -----
    Exchanging flips the sign of a sample only one model is right on. Among m of those in a class, the sum of random
    signs is 2 Binomial(m, ½) - m, which is drawn instead of the signs.
    """
    _positive(n_permutations)
    k = int(codes.max()) + 1
    n = np.bincount(codes, minlength=k)
    m = np.bincount(codes[right_a != right_b], minlength=k)
    scale = 1.0 / (n[m > 0] * k)
    m = m[m > 0]
    observed = abs(difference_per_class(codes, right_a, right_b))
    # Sums that are equal on paper may differ in the last bits: those count as equally extreme.
    threshold = observed - 1e-12
    rng = generator(seed)
    n_extreme, batch = 0, max(1, 1_000_000 // max(1, len(m)))
    for start in range(0, n_permutations, batch):
        draws = rng.binomial(m, 0.5, (min(batch, n_permutations - start), len(m)))
        n_extreme += int((np.abs((2 * draws - m) @ scale) >= threshold).sum())
    return (1 + n_extreme) / (1 + n_permutations)


def difference_per_class(codes: np.ndarray, right_a: np.ndarray, right_b: np.ndarray) -> float:
    """Mean over classes of (only a − only b) / rows."""
    net = np.bincount(codes, weights=right_a.astype(float) - right_b.astype(float))
    return float((net / np.bincount(codes)).mean())


def sign_flip_scores(difference: np.ndarray, *, n_permutations: int = N_PERMUTATIONS, seed: int = 0) -> float:
    """Two-sided permutation test that the sum of differences is 0, their signs flipped at random.

    Parameters
    ----------
    difference : numpy.ndarray of shape (n,)
        Per sample, score of a minus score of b, times the sample's weight where samples weigh differently.
    n_permutations, seed : int

    Returns
    -------
    float
        ``(1 + # draws at least as extreme) / (1 + n_permutations)``.
    """
    _positive(n_permutations)
    d = reals(difference, "Differences", finite=True)
    d = d[d != 0]
    total = float(d.sum())
    threshold = abs(total) - 1e-10 * float(np.abs(d).sum())
    rng = generator(seed)
    n_extreme, batch = 0, max(1, 4_000_000 // max(1, len(d)))
    for start in range(0, n_permutations, batch):
        rows = min(batch, n_permutations - start)
        # Eight signs a byte: a Boolean matrix of draws would take longer to draw than to multiply.
        packed = rng.integers(0, 256, (rows, (len(d) + 7) // 8), dtype=np.uint8)
        flipped = np.unpackbits(packed, axis=1, count=len(d))
        n_extreme += int((np.abs(total - 2 * (flipped @ d)) >= threshold).sum())
    return (1 + n_extreme) / (1 + n_permutations)


def _positive(n_permutations: int) -> None:
    if count(n_permutations, "n_permutations") < 1:
        raise BadInput("n_permutations is 0 but at least one is needed.")
