"""Two models on the same samples: how much better is one, and could that be chance?

What is asked is whether other test images of the same kind could have turned the order round. Variation between
training runs is another question, answered by several seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from probe import intervals, tables
from probe.chosen import shown
from probe.errors import BadInput
from probe.intervals import Interval
from probe.permutation import N_PERMUTATIONS, difference_per_class, mcnemar, sign_flip, sign_flip_scores
from probe.predictions import Predictions, need_predictions
from probe.reals import reals
from probe.seeds import checked_draws, checked_seed

Measure: TypeAlias = Literal["accuracy", "mean_per_class"] | Callable[[Predictions], np.ndarray]
"""What is compared. A function gives one score per sample, (n,), larger is better: what is compared is the mean."""

__all__ = ["Comparison", "Measure", "align", "compare", "label_accuracy", "mcnemar", "refuse_measure", "sign_flip"]


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of two models.

    Attributes
    ----------
    name_a, name_b : str
    measure : str
        "accuracy", "mean_per_class", or the name of the function that gave one score per sample.
    n : int
        Samples both predicted.
    value_a, value_b : float
        The measure of each.
    difference : float
        ``value_a - value_b``.
    interval : Interval
        For the difference, at `level`: Tango's paired score interval for accuracy; the percentiles of a paired bootstrap,
        within classes for mean per class.
    p_value : float
        Two-sided: exact McNemar for accuracy; sign-flip permutation, (1 + #) / (1 + draws), otherwise.
    n_only_a, n_only_b, n_both, n_neither : int
        Samples only a, only b, both or neither is right on. With scores: samples on which a scores higher, b scores higher,
        both score the same, and 0.
    smallest_detectable : float
        Differences below about this could not have reached significance where two models disagree on as many samples as
        these do: z sqrt(sum of squared weights of the samples only one is right on).
    level : float
    """

    name_a: str
    name_b: str
    measure: str
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
    def n_digits(self) -> int:
        """Decimals worth printing of the values: see `probe.tables.digits`."""
        return tables.digits(self.smallest_detectable, self.n)

    @property
    def test(self) -> str:
        """What the p-value is of."""
        return "exact McNemar" if self.measure == "accuracy" else "sign-flip permutation"

    @property
    def sentence(self) -> str:
        """The comparison in one sentence, to the digits that `smallest_detectable` allows, the interval to one more."""
        a, b, digits = self.name_a, self.name_b, self.n_digits
        what = self.measure.replace("_", " ")
        ends = f"{self.interval.low:+.{digits + 1}f} to {self.interval.high:+.{digits + 1}f}"
        counts = f"{self.level:.0%} interval of {a} - {b} {ends}, p = {_p(self.p_value)}"
        on = f"on {self.n:,} samples"
        if self.difference == 0:
            return f"{a} and {b} have the same {what} of {self.value_a:.{digits}f} {on} ({counts})."
        better, worse = (a, b) if self.difference > 0 else (b, a)
        chance = "which chance alone hardly explains" if self.is_significant else "which chance alone can explain"
        by = f"{abs(self.difference):.{digits}f}"
        by = by if float(by) else f"less than {10.0**-digits:.{digits}f}"
        ahead = f"{better} is ahead of {worse} by {by} in {what}"
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
    measure : {"accuracy", "mean_per_class"} or function
        A function takes Predictions and returns one score per sample, (n,), larger is better: `label_accuracy` for
        multi-label data, or one of your own (minus the loss, whether the answer is among the first five, …).
    level : float
        Of the interval; ``1 - level`` is the significance level.
    n_permutations, seed : int
        Of the test and the bootstrap; accuracy needs neither, being exact.

    Returns
    -------
    Comparison

    Raises
    ------
    BadInput
        Where ids or true labels differ, with how many; and for measures such as average precision, with the reason.

    Notes
    -----
    Kornblith, Shlens and Le (2019), Appendix A.1; SimCLR, Appendix B.8. Under "no difference" the two models'
    predictions can be exchanged sample by sample. For accuracy only the samples matter that one alone is right on, and
    the permutation test is the exact binomial (McNemar) test. Variation between training runs is not in it.
    """
    if hasattr(measure, "higher_is_better"):  # a metric of probe.metrics goes by its name
        measure = getattr(measure, "name", measure)
    if not callable(measure) and not (isinstance(measure, str) and measure in ("accuracy", "mean_per_class")):
        raise BadInput(refuse_measure(measure))
    intervals.z_value(level)
    checked_seed(seed)
    checked_draws(n_permutations, "n_permutations")
    need_predictions(a, b)
    a, b = align(a, b)
    if a.name == b.name:
        a, b = replace(a, name=f"{a.name or 'model'} (first)"), replace(b, name=f"{b.name or 'model'} (second)")
    if callable(measure):
        found = _scores(a, b, measure, level=level, n_permutations=n_permutations, seed=seed)
    else:
        found = _right_or_wrong(a, b, measure, level=level, n_permutations=n_permutations, seed=seed)
    return Comparison(name_a=a.name, name_b=b.name, n=len(a), level=level, **found)


def _right_or_wrong(
    a: Predictions, b: Predictions, measure: str, *, level: float, n_permutations: int, seed: int
) -> dict[str, Any]:
    """The fields of a comparison of which samples are right."""
    right_a, right_b, y, n = a.correct, b.correct, a.y_true, len(a)
    n_only_a, n_only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    if measure == "accuracy":
        weight = np.full(n, 1.0 / n)
        difference = (n_only_a - n_only_b) / n
        interval = intervals.tango(n_only_a, n_only_b, n, level=level)
        p_value = mcnemar(n_only_a, n_only_b)
    else:
        _, codes = np.unique(y, return_inverse=True)
        counts = np.bincount(codes)
        weight = 1.0 / (counts[codes] * len(counts))
        difference = difference_per_class(codes, right_a, right_b)
        interval = intervals.paired_mean_per_class(y, right_a, right_b, level=level, seed=seed)
        p_value = sign_flip(codes, right_a, right_b, n_permutations=n_permutations, seed=seed)
    return {
        "measure": measure,
        "value_a": float(right_a @ weight),
        "value_b": float(right_b @ weight),
        "difference": difference,
        "interval": interval,
        "p_value": p_value,
        "n_only_a": n_only_a,
        "n_only_b": n_only_b,
        "n_both": int((right_a & right_b).sum()),
        "n_neither": int((~right_a & ~right_b).sum()),
        "smallest_detectable": _detectable(weight[right_a != right_b], level),
    }


def _scores(
    a: Predictions,
    b: Predictions,
    measure: Callable[[Predictions], np.ndarray],
    *,
    level: float,
    n_permutations: int,
    seed: int,
) -> dict[str, Any]:
    """The fields of a comparison of one score per sample."""
    name = str(getattr(measure, "__name__", type(measure).__name__))
    x, y = (reals(measure(p), f"The scores that '{name}' gives", ndim=None) for p in (a, b))
    for p, scores in ((a, x), (b, y)):
        if scores.shape != (len(a),) or not np.isfinite(scores).all():
            raise BadInput(
                f"'{name}' must give one finite score per sample, ({len(a)},), but gave shape {scores.shape} with "
                f"{int((~np.isfinite(scores)).sum())} NaN or infinite for '{p.name}'. {_NO_MEAN}"
            )
    difference = x - y
    return {
        "measure": name,
        "value_a": float(x.mean()),
        "value_b": float(y.mean()),
        "difference": float(difference.mean()),
        "interval": intervals.bootstrap_mean(difference, level=level, seed=seed),
        "p_value": sign_flip_scores(difference, n_permutations=n_permutations, seed=seed),
        "n_only_a": int((difference > 0).sum()),
        "n_only_b": int((difference < 0).sum()),
        "n_both": int((difference == 0).sum()),
        "n_neither": 0,
        "smallest_detectable": _detectable(difference / len(a), level),
    }


def _detectable(parts: np.ndarray, level: float) -> float:
    """The quantile of the sum of these parts under random signs, normally approximated."""
    return intervals.z_value(level) * math.sqrt(float(parts @ parts))


def label_accuracy(predictions: Predictions) -> np.ndarray:
    """Share of the labels of each sample that are right, (n,): a measure for multi-label data.

    Parameters
    ----------
    predictions : Predictions

    Returns
    -------
    numpy.ndarray of shape (n,), float64
    """
    need_predictions(predictions)
    right = (predictions.y_true == predictions.y_pred).astype(np.float64)
    mean: np.ndarray = right if right.ndim == 1 else right.mean(axis=1)
    return mean


_NO_MEAN = "A measure that is no mean over samples has an interval with probe.bootstrap_difference."


def refuse_measure(measure: Any) -> str:
    """Say why a measure cannot be tested by exchanging predictions, and what to do instead."""
    name = measure if isinstance(measure, str) else str(getattr(measure, "name", type(measure).__name__))
    if name.startswith(("map", "average_precision", "roc_auc", "ap")):
        return (
            f"{name} cannot be tested by exchanging two models' predictions sample by sample: it ranks all samples by their "
            "scores, and scores of two models are on different scales, so that a mixture of both ranks worse than either "
            "(SimCLR, Appendix B.8). Compare accuracy instead (measure=probe.label_accuracy where samples have several "
            "labels), or look at probe.bootstrap_difference(a, b, metric), an interval."
        )
    return (
        f"measure is {shown(measure)} but must be 'accuracy', 'mean_per_class' or a function of Predictions. {_NO_MEAN}"
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
    if a.y_true.shape != b.y_true.shape:
        raise BadInput(
            f"{name_a} has true labels of shape {a.y_true.shape} and {name_b} of shape {b.y_true.shape}; both must have been "
            "scored against the same labels."
        )
    differs = (a.label_names(a.y_true) != b.label_names(b.y_true)).reshape(len(a), -1).any(axis=1)
    if differs.any():
        row = int(np.flatnonzero(differs)[0])
        raise BadInput(
            f"The true labels of {int(differs.sum())} of {len(a)} samples differ (for example '{a.ids[row]}': "
            f"{a.label_names(a.y_true)[row]} in {name_a}, {b.label_names(b.y_true)[row]} in {name_b}); both must have "
            "been scored against the same labels."
        )
    return a, b


def _p(p: float) -> str:
    return f"{p:.3g}" if p >= 1e-4 else f"{p:.1e}"
