"""Intervals and tests: against enumeration of every outcome, likelihoods maximised on a grid, and SciPy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from probe import intervals
from probe.comparison import align, compare, label_accuracy, mcnemar, sign_flip
from probe.errors import BadInput
from probe.predictions import Predictions


def pair(n_both: int, n_only_a: int, n_only_b: int, n_neither: int) -> tuple[Predictions, Predictions]:
    """Two models with the given counts, the second one's rows in another order."""
    right_a = np.repeat([True, True, False, False], [n_both, n_only_a, n_only_b, n_neither])
    right_b = np.repeat([True, False, True, False], [n_both, n_only_a, n_only_b, n_neither])
    n = len(right_a)
    ids = np.array([f"image{i}" for i in range(n)])
    y = np.arange(n) % 3
    a = Predictions(ids, y, np.where(right_a, y, y + 1), name="a")
    shuffled = np.random.default_rng(0).permutation(n)
    return a, Predictions(ids[shuffled], y[shuffled], np.where(right_b, y, y + 1)[shuffled], name="b")


# ------------------------------------------------------------------------------------------------------ intervals


@pytest.mark.parametrize(("n_right", "n"), [(0, 1), (1, 1), (0, 20), (7, 20), (813, 1000), (10_000, 10_000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_is_scipys(n_right: int, n: int, level: float) -> None:
    from scipy.stats import binomtest

    expected = binomtest(n_right, n).proportion_ci(level, method="wilson")
    got = intervals.wilson(n_right, n, level=level)
    assert got == pytest.approx((expected.low, expected.high), abs=1e-12)


def score_on_a_grid(n_only_a: int, n_only_b: int, n: int, delta: float) -> float:
    """The score statistic of Tango's test, its nuisance parameter found by brute maximisation of the likelihood."""
    q = np.linspace(max(0.0, -delta), (1 - delta) / 2, 400_001)[1:-1]
    with np.errstate(divide="ignore"):
        likelihood = (
            n_only_a * np.log(q + delta)
            + n_only_b * np.log(q)
            + (n - n_only_a - n_only_b) * np.log(np.maximum(1e-300, 1 - 2 * q - delta))
        )
    best = q[np.argmax(likelihood)]
    return (n_only_a - n_only_b - n * delta) / math.sqrt(n * (2 * best + delta * (1 - delta)))


@pytest.mark.parametrize("counts", [(5, 2, 30), (40, 13, 200), (3, 3, 12), (7, 1, 9), (120, 95, 10_000)])
def test_tango_ends_where_the_score_statistic_is_the_quantile(counts: tuple[int, int, int]) -> None:
    """At both ends |z| = 1.95996; the grid's step limits the agreement to about 1e-3."""
    low, high = intervals.tango(*counts)
    z = intervals.z_value(0.95)
    assert score_on_a_grid(*counts, low) == pytest.approx(z, abs=2e-3)
    assert score_on_a_grid(*counts, high) == pytest.approx(-z, abs=2e-3)


def test_tango_at_the_edges() -> None:
    """No row differs, or every row does: the interval stays in [-1, 1], has width, and mirrors when swapped."""
    assert intervals.tango(0, 0, 50).low == pytest.approx(-intervals.tango(0, 0, 50).high, abs=1e-12)
    assert 0 < intervals.tango(0, 0, 50).high < 0.1
    assert intervals.tango(20, 0, 20).high == 1.0
    assert intervals.tango(0, 20, 20).low == -1.0
    a, b = intervals.tango(9, 4, 40), intervals.tango(4, 9, 40)
    assert (a.low, a.high) == pytest.approx((-b.high, -b.low), abs=1e-12)


@pytest.mark.parametrize(("p_a", "p_b"), [(0.1, 0.1), (0.2, 0.05), (0.02, 0.02)])
def test_tango_covers_by_enumeration_of_all_outcomes(p_a: float, p_b: float) -> None:
    """The exact probability that the interval holds the truth, over all outcomes of 40 rows: near 95 %, more where
    hardly any row differs (the two models agree on all 40 with probability 0.19 in the last case)."""
    n, covered = 40, 0.0
    for x, y in itertools.product(range(n + 1), repeat=2):
        if x + y > n:
            continue
        log_p = math.lgamma(n + 1) - math.lgamma(x + 1) - math.lgamma(y + 1) - math.lgamma(n - x - y + 1)
        log_p += x * math.log(p_a) + y * math.log(p_b) + (n - x - y) * math.log(1 - p_a - p_b)
        if log_p > -18:
            low, high = intervals.tango(x, y, n)
            covered += math.exp(log_p) * (low <= p_a - p_b <= high)
    assert 0.93 < covered < (0.985 if p_a + p_b > 0.1 else 1.0)


def test_bootstrap_intervals_per_class_agree_with_drawing_rows() -> None:
    """The counts drawn (binomial, multinomial) against rows drawn with replacement; 0.01 is Monte Carlo error."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [20, 50, 130])
    a, b = rng.random(200) < 0.8, rng.random(200) < 0.6
    values, differences = [], []
    for _ in range(4000):
        rows = np.concatenate([rng.choice(np.flatnonzero(y == c), (y == c).sum()) for c in range(3)])
        mean_a, mean_b = (np.mean([x[rows][y[rows] == c].mean() for c in range(3)]) for x in (a, b))
        values.append(mean_a)
        differences.append(mean_a - mean_b)
    assert intervals.mean_per_class(y, a) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.01)
    expected = np.quantile(differences, [0.025, 0.975])
    assert intervals.paired_mean_per_class(y, a, b) == pytest.approx(expected, abs=0.01)
    assert intervals.mean_per_class(y, a) == intervals.mean_per_class(y, a)


# ---------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize(("x", "y"), [(0, 0), (1, 0), (5, 5), (3, 12), (40, 61), (1500, 1300)])
def test_mcnemar_is_scipys_exact_binomial_test(x: int, y: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(x, x + y).pvalue if x + y else 1.0
    assert mcnemar(x, y) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(y, x) == mcnemar(x, y)


def test_mcnemar_equals_the_enumeration_of_all_exchanges() -> None:
    """The permutation test of accuracy, every one of 2^9 sign flips, is the binomial test."""
    signs = np.array([1] * 7 + [-1] * 2)
    sums = [abs(np.dot(flip, signs)) for flip in itertools.product([1, -1], repeat=9)]
    assert mcnemar(7, 2) == np.mean([s >= abs(signs.sum()) for s in sums])


def test_sign_flip_against_the_enumeration_of_all_exchanges() -> None:
    """Mean per class over unequal classes, all 2^10 exchanges; 4 standard errors of 100,000 draws."""
    y = np.repeat([0, 1, 2], [4, 10, 30])
    a, b = np.ones(44, bool), np.ones(44, bool)
    b[[0, 1, 5, 6, 20, 21, 22, 23]] = False
    a[[7, 25]] = False
    rows = np.flatnonzero(a != b)
    sign = np.where(a[rows], 1, -1) / (np.bincount(y)[y[rows]] * 3)
    observed = abs(sign.sum())
    exact = np.mean([abs(sign @ f) >= observed - 1e-12 for f in itertools.product([1, -1], repeat=len(rows))])
    got = sign_flip(y, a, b)
    assert got == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 100_000) + 1e-5)


def test_sign_flip_never_says_zero_and_knows_no_difference() -> None:
    y = np.repeat([0, 1], [30, 60])
    everything, nothing = np.ones(90, bool), np.zeros(90, bool)
    assert sign_flip(y, everything, nothing, n_permutations=999) == 1 / 1000
    assert sign_flip(y, everything, everything, n_permutations=99) == 1.0


# -------------------------------------------------------------------------------------------------------- compare


def test_compare_pairs_by_id_and_reports_the_counts() -> None:
    a, b = pair(50, 20, 8, 22)
    c = compare(a, b)
    assert (c.n, c.n_only_a, c.n_only_b, c.n_both, c.n_neither) == (100, 20, 8, 50, 22)
    assert (c.value_a, c.value_b) == pytest.approx((0.70, 0.58))
    assert c.difference == pytest.approx(0.12)
    assert c.p_value == mcnemar(20, 8)
    assert c.interval == intervals.tango(20, 8, 100)
    assert c.smallest_detectable == pytest.approx(1.959964 * math.sqrt(28) / 100, abs=1e-6)
    assert c.is_significant
    assert "a is ahead of b by 0.12 in accuracy on 100 samples, which chance alone hardly explains" in c.sentence
    assert (
        "a is ahead of b by less than 0.001 in accuracy on 4,000 samples" in compare(*pair(3000, 30, 29, 941)).sentence
    )


def test_compare_the_other_way_round_is_the_mirror_image() -> None:
    a, b = pair(50, 20, 8, 22)
    c, d = compare(a, b), compare(b, a)
    assert d.difference == -c.difference
    assert d.p_value == c.p_value
    assert (d.interval.low, d.interval.high) == pytest.approx((-c.interval.high, -c.interval.low), abs=1e-12)
    assert "a is ahead of b" in d.sentence


def test_compare_a_model_with_itself() -> None:
    a, _ = pair(5, 3, 2, 1)
    c = compare(a, a)
    assert (c.difference, c.p_value, c.smallest_detectable) == (0.0, 1.0, 0.0)
    assert c.interval.low < 0 < c.interval.high
    assert "a (first) and a (second) have the same accuracy" in c.sentence


def test_mean_per_class_weighs_classes_equally() -> None:
    """All differences in the rare class: small in accuracy, large per class; both values equal the metric's."""
    from probe import metrics

    y = np.repeat([0, 1], [10, 90])
    ids = np.arange(100).astype(str)
    pred = y.copy()
    pred[:5] = 1
    a, b = Predictions(ids, y, y, name="a"), Predictions(ids, y, pred, name="b")
    c = compare(a, b, measure="mean_per_class")
    assert c.difference == pytest.approx(metrics.mean_per_class(y, y) - metrics.mean_per_class(y, pred))
    assert c.difference == pytest.approx(0.25)
    assert c.value_b == pytest.approx(0.75)
    assert c.interval.low < 0.25 < c.interval.high
    assert c.p_value == pytest.approx(2 / 32, abs=0.005)
    assert c == compare(a, b, measure="mean_per_class")


def test_class_names_decide_whether_labels_agree() -> None:
    """The same truth under other code numbers is the same truth; text and named codes can be compared."""
    ids = np.array(["x", "y"])
    coded = Predictions(ids, np.array([0, 1]), np.array([0, 0]), ("cat", "dog"))
    recoded = Predictions(ids, np.array([1, 0]), np.array([1, 0]), ("dog", "cat"))
    plain = Predictions(ids, np.array(["cat", "dog"]), np.array(["cat", "dog"]))
    assert compare(coded, recoded).difference == compare(coded, plain).difference == -0.5


def test_several_labels_per_sample_are_compared_with_the_same_truth() -> None:
    """Else every difference between two truths would be one between two models."""
    ids, truth = np.array(["x", "y", "z"]), np.array([[0, 1], [1, 1], [0, 0]])
    a = Predictions(ids, truth, truth, name="a")
    other = Predictions(ids, np.array([[0, 1], [1, 0], [0, 0]]), truth, name="b")
    with pytest.raises(BadInput, match=r"true labels of 1 of 3 samples differ \(for example 'y'"):
        compare(a, other, measure=label_accuracy)
    for truth_b in (np.array([0, 1, 0]), np.zeros((3, 3), int)):
        with pytest.raises(BadInput, match=r"true labels of shape \(3, 2\) and b of shape"):
            compare(a, Predictions(ids, truth_b, truth_b, name="b"), measure=label_accuracy)


def test_ids_and_labels_that_differ_are_counted_in_the_error() -> None:
    a, b = pair(5, 3, 2, 1)
    fewer = b.take(b.ids[b.ids != "image4"])
    with pytest.raises(BadInput, match=r"a has 11 samples and b has 10; 10 are in both, 1 only in a and 0 only in b"):
        compare(a, fewer)
    other = Predictions(a.ids, np.where(a.ids == "image4", 2, a.y_true), a.y_pred, name="b")
    with pytest.raises(BadInput, match=r"true labels of 1 of 11 samples differ \(for example 'image4': 1 in a, 2 in b"):
        align(a, other)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"measure": "f1"}, "'f1' but must be"),
        ({"level": 1.0}, "between 0 and 1"),
        ({"measure": "mean_per_class", "n_permutations": 0}, "at least one"),
    ],
)
def test_bad_arguments(kwargs: dict[str, object], message: str) -> None:
    a, b = pair(2, 1, 1, 1)
    with pytest.raises(BadInput, match=message):
        compare(a, b, **kwargs)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="disjoint"):
        intervals.tango(3, 3, 5)
    with pytest.raises(BadInput, match="successes"):
        intervals.wilson(3, 2)
