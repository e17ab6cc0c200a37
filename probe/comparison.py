"""Two models on the same samples: how much better is one, and could that be chance?

What is asked is whether other test images of the same kind could have turned the order round. Variation between
training runs is another question, answered by several seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from probe import intervals
from probe.errors import BadInput
from probe.intervals import Interval
from probe.predictions import Predictions

Measure: TypeAlias = Literal["accuracy", "mean_per_class"]

N_PERMUTATIONS = 100_000
"""Sign flips of the permutation test: SimCLR (Chen et al., 2020), Appendix B.8."""


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of two models.

    Attributes
    ----------
    name_a, name_b : str
    measure : {"accuracy", "mean_per_class"}
    n : int
        Samples both predicted.
    value_a, value_b : float
        The measure of each.
    difference : float
        ``value_a - value_b``.
    interval : Interval
        For the difference, at `level`: Tango's paired score interval for accuracy, the percentiles of a bootstrap
        within classes for mean per class.
    p_value : float
        Two-sided: exact McNemar for accuracy; sign-flip permutation, (1 + #) / (1 + draws), for mean per class.
    n_only_a, n_only_b, n_both, n_neither : int
        Samples only a, only b, both or neither is right on.
    smallest_detectable : float
        Differences below about this could not have reached significance where two models disagree on as many samples as
        these do: z sqrt(sum of squared weights of the samples only one is right on).
    level : float
    """

    name_a: str
    name_b: str
    measure: Measure
    n: int
    value_a: float
    value_b: float
    difference: float
    interval: Interval
    p_value: float
    n_only_a: int
    n_only_b: int
    n_both: int
    n_neither: int
    smallest_detectable: float
    level: float

    @property
    def is_significant(self) -> bool:
        """Whether the test rejects "no difference" at one minus the level."""
        return self.p_value < 1 - self.level

    @property
    def sentence(self) -> str:
        """The comparison in one sentence."""
        a, b = self.name_a, self.name_b
        what = self.measure.replace("_", " ")
        ends = f"{self.interval.low:+.4f} to {self.interval.high:+.4f}"
        counts = f"{self.level:.0%} interval of {a} - {b} {ends}, p = {_p(self.p_value)}"
        on = f"on {self.n:,} samples"
        if self.difference == 0:
            return f"{a} and {b} have the same {what} of {self.value_a:.4f} {on} ({counts})."
        better, worse = (a, b) if self.difference > 0 else (b, a)
        chance = "which chance alone hardly explains" if self.is_significant else "which chance alone can explain"
        ahead = f"{better} is ahead of {worse} by {abs(self.difference):.4f} in {what}"
        return f"{ahead} {on}, {chance} ({counts})."


def compare(
    a: Predictions,
    b: Predictions,
    *,
    measure: Measure = "accuracy",
    level: float = 0.95,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
) -> Comparison:
    """Compare two models on the same samples, paired by id.

    Parameters
    ----------
    a, b : Predictions
        Of the same ids, in any order, with the same true labels.
    measure : {"accuracy", "mean_per_class"}
    level : float
        Of the interval; ``1 - level`` is the significance level.
    n_permutations, seed : int
        Of the test (and, for the seed, the bootstrap) of mean per class; accuracy needs neither, being exact.

    Returns
    -------
    Comparison

    Raises
    ------
    BadInput
        Where ids or true labels differ, with how many.

    Notes
    -----
    Kornblith, Shlens and Le (2019), Appendix A.1; SimCLR, Appendix B.8. Under "no difference" the two models'
    predictions can be exchanged sample by sample. For accuracy only the samples matter that one alone is right on, and
    the permutation test is the exact binomial (McNemar) test.
    """
    if measure not in ("accuracy", "mean_per_class"):
        raise BadInput(f"measure is {measure!r} but must be 'accuracy' or 'mean_per_class'.")
    z = intervals.z_value(level)
    a, b = align(a, b)
    if a.name == b.name:
        a, b = replace(a, name=f"{a.name or 'model'} (first)"), replace(b, name=f"{b.name or 'model'} (second)")
    right_a, right_b, y = a.correct, b.correct, a.y_true
    n_only_a, n_only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    n = len(a)
    if measure == "accuracy":
        weight = np.full(n, 1.0 / n)
        difference = (n_only_a - n_only_b) / n
        interval = intervals.tango(n_only_a, n_only_b, n, level=level)
        p_value = mcnemar(n_only_a, n_only_b)
    else:
        _, codes = np.unique(y, return_inverse=True)
        counts = np.bincount(codes)
        weight = 1.0 / (counts[codes] * len(counts))
        difference = _difference_per_class(codes, right_a, right_b)
        interval = intervals.paired_mean_per_class(y, right_a, right_b, level=level, seed=seed)
        p_value = sign_flip(codes, right_a, right_b, n_permutations=n_permutations, seed=seed)
    return Comparison(
        name_a=a.name,
        name_b=b.name,
        measure=measure,
        n=n,
        value_a=float(right_a @ weight),
        value_b=float(right_b @ weight),
        difference=difference,
        interval=interval,
        p_value=p_value,
        n_only_a=n_only_a,
        n_only_b=n_only_b,
        n_both=int((right_a & right_b).sum()),
        n_neither=int((~right_a & ~right_b).sum()),
        smallest_detectable=z * math.sqrt(float(np.sum(weight[right_a != right_b] ** 2))),
        level=level,
    )


def align(a: Predictions, b: Predictions) -> tuple[Predictions, Predictions]:
    """Bring the second predictions into the order of the first, after checking that both are about the same samples.

    Raises
    ------
    BadInput
        Where ids or true labels differ, with counts and an example.
    """
    name_a, name_b = a.name or "the first", b.name or "the second"
    only_a, only_b = np.setdiff1d(a.ids, b.ids), np.setdiff1d(b.ids, a.ids)
    if len(only_a) or len(only_b):
        example = only_a[0] if len(only_a) else only_b[0]
        raise BadInput(
            f"{name_a} has {len(a)} samples and {name_b} has {len(b)}; {len(a) - len(only_a)} are in both, "
            f"{len(only_a)} only in {name_a} and {len(only_b)} only in {name_b} (for example '{example}'). A paired "
            "comparison needs the same samples: predict the same split with both, or take the common ids with "
            "Predictions.take."
        )
    b = b.take(a.ids)
    differs = a.label_names(a.y_true) != b.label_names(b.y_true)
    if differs.ndim == 1 and differs.any():
        row = int(np.flatnonzero(differs)[0])
        raise BadInput(
            f"The true labels of {int(differs.sum())} of {len(a)} samples differ (for example '{a.ids[row]}': "
            f"{a.label_names(a.y_true)[row]} in {name_a}, {b.label_names(b.y_true)[row]} in {name_b}); both must have "
            "been scored against the same labels."
        )
    return a, b


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
    if n_permutations < 1:
        raise BadInput(f"n_permutations is {n_permutations} but at least one is needed.")
    k = int(codes.max()) + 1
    n = np.bincount(codes, minlength=k)
    m = np.bincount(codes[right_a != right_b], minlength=k)
    scale = 1.0 / (n[m > 0] * k)
    m = m[m > 0]
    observed = abs(_difference_per_class(codes, right_a, right_b))
    # Sums that are equal on paper may differ in the last bits: those count as equally extreme.
    threshold = observed - 1e-12
    rng = np.random.default_rng(seed)
    n_extreme, batch = 0, max(1, 1_000_000 // max(1, len(m)))
    for start in range(0, n_permutations, batch):
        draws = rng.binomial(m, 0.5, (min(batch, n_permutations - start), len(m)))
        n_extreme += int((np.abs((2 * draws - m) @ scale) >= threshold).sum())
    return (1 + n_extreme) / (1 + n_permutations)


def _difference_per_class(codes: np.ndarray, right_a: np.ndarray, right_b: np.ndarray) -> float:
    """Mean over classes of (only a − only b) / rows."""
    net = np.bincount(codes, weights=right_a.astype(float) - right_b.astype(float))
    return float((net / np.bincount(codes)).mean())


def _p(p: float) -> str:
    return f"{p:.3g}" if p >= 1e-4 else f"{p:.1e}"
