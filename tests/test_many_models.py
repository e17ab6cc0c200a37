"""Several models on the same samples: scores of any kind, all pairs, Holm, bootstrap of any metric, digits, calibration."""

from __future__ import annotations

import math

import numpy as np
import pytest

import probe
from probe import calibration, intervals, metrics, tables
from probe.comparison import compare, label_accuracy
from probe.errors import BadInput
from probe.predictions import Predictions


def models(n: int = 400, skills: tuple[float, ...] = (0.9, 0.8, 0.78), k: int = 4, seed: int = 0) -> list[Predictions]:
    """Predictions of models that are right with these probabilities, with scores."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    out = []
    for i, skill in enumerate(skills):
        pred = np.where(rng.random(n) < skill, y, (y + 1) % k)
        scores = rng.normal(size=(n, k)) * 0.1 + 2.0 * (np.arange(k) == pred[:, None])
        out.append(Predictions(np.arange(n).astype(str), y, pred, scores=scores, name=f"net{i}"))
    return out


# --------------------------------------------------------------------------------------------- scores per sample


def test_a_score_of_right_and_wrong_is_accuracy() -> None:
    """The same difference, p to Monte Carlo error, interval to what two constructions differ by."""
    a, b, _ = models()
    exact, drawn = compare(a, b), compare(a, b, measure=label_accuracy)
    assert drawn.difference == pytest.approx(exact.difference)
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.002)
    assert drawn.interval == pytest.approx(exact.interval, abs=0.006)
    assert drawn.smallest_detectable == pytest.approx(exact.smallest_detectable)
    assert (drawn.n_only_a, drawn.n_only_b) == (exact.n_only_a, exact.n_only_b)
    assert (drawn.n_both, drawn.n_neither) == (exact.n_both + exact.n_neither, 0)
    assert (drawn.measure, drawn.test) == ("label_accuracy", "sign-flip permutation")


def test_any_score_per_sample() -> None:
    """Minus the log loss: the mean is the metric's, and a's surer answers win."""
    a, b, _ = models()
    b = Predictions(b.ids, b.y_true, a.y_pred, scores=a.scores * 0.5, name="less sure")

    def log_likelihood(p: Predictions) -> np.ndarray:
        assert p.scores is not None
        z = p.scores - p.scores.max(axis=1, keepdims=True)
        return z[np.arange(len(p)), p.y_true] - np.log(np.exp(z).sum(axis=1))

    c = compare(a, b, measure=log_likelihood)
    assert c.value_a == pytest.approx(-metrics.log_loss(a.y_true, a.scores))
    assert c.interval.low < c.difference < c.interval.high
    assert "in log likelihood" in c.sentence


def test_labels_of_multi_label_samples() -> None:
    y = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    a = Predictions(np.arange(4).astype(str), y, y, name="a")
    b = Predictions(a.ids, y, 1 - y * np.array([[1], [1], [0], [0]]), name="b")
    assert label_accuracy(b).tolist() == [0, 2 / 3 - 2 / 3, 1, 0]
    assert compare(a, b, measure=label_accuracy).difference == pytest.approx(0.75)


@pytest.mark.parametrize(
    "measure", ["map11", metrics.map11, metrics.map_all, metrics.roc_auc, metrics.average_precision()]
)
def test_average_precision_is_refused_with_reason_and_alternative(measure: object) -> None:
    a, b, _ = models()
    with pytest.raises(BadInput, match=r"ranks all samples.*label_accuracy.*bootstrap_difference"):
        compare(a, b, measure=measure)  # type: ignore[arg-type]


def test_measures_that_are_none() -> None:
    a, b, _ = models()
    with pytest.raises(BadInput, match="must be 'accuracy', 'mean_per_class' or a function"):
        compare(a, b, measure=metrics.quadratic_kappa)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"one finite score per sample, \(400,\), but gave shape \(2,\)"):
        compare(a, b, measure=lambda p: np.ones(2))
    with pytest.raises(BadInput, match="400 NaN or infinite for 'net0'"):
        compare(a, b, measure=lambda p: np.full(len(p), np.nan))
    assert compare(a, b, measure=metrics.accuracy).p_value == compare(a, b).p_value  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ many models


def test_all_pairs_and_all_against_one() -> None:
    found = models()
    pairs = probe.compare_all(found)
    assert [(c.name_a, c.name_b) for c in pairs] == [("net0", "net1"), ("net0", "net2"), ("net1", "net2")]
    against = probe.compare_all(found, against="net1", measure="mean_per_class")
    assert [(c.name_a, c.name_b, c.measure) for c in against] == [
        ("net0", "net1", "mean_per_class"), ("net2", "net1", "mean_per_class"),
    ]  # fmt: skip
    table = probe.comparison_table(pairs)
    assert table["p_holm"].tolist() == probe.holm(table["p_value"]).tolist()
    assert table["difference"].tolist() == [c.difference for c in pairs]
    with pytest.raises(BadInput, match="several are called 'net0'"):
        probe.compare_all([found[0], found[0]])
    with pytest.raises(BadInput, match="there are 1"):
        probe.compare_all(found[:1])
    with pytest.raises(BadInput, match="no predictions called 'net9'; there are net0, net1, net2"):
        probe.compare_all(found, against="net9")


def test_text_has_the_digits_that_can_be_told_apart() -> None:
    """400 samples: whole per cents; the interval and what is detectable one more."""
    text = probe.comparison_text(probe.compare_all(models()))
    lines = text.splitlines()
    assert "95 % interval" in lines[0]
    c = probe.compare_all(models())[0]
    assert lines[2].split()[:5] == ["net0", "net1", f"{c.value_a:.2f}", f"{c.value_b:.2f}", f"{c.difference:+.2f}"]
    assert f"[{c.interval.low:.3f}, {c.interval.high:.3f}]" in lines[2]


@pytest.mark.parametrize(
    ("least", "n", "decimals"), [(0.013, 100, 2), (0.009, 100, 3), (0.01, 1, 2), (0.3, 9, 2), (0.0004, 9, 4), (0.001, 9, 3),
                                 (0.0, 10_000, 4), (0.0, 50, 2), (1e-9, 9, 6), (math.nan, None, 4)]
)  # fmt: skip
def test_digits(least: float, n: int | None, decimals: int) -> None:
    """Two values that are `least` apart never print alike, and one digit less would do so for some."""
    assert tables.digits(least, n) == decimals
    if least > 1e-6:
        values = np.linspace(0, 1, 997)
        assert all(f"{v:.{decimals}f}" != f"{v + least * 1.0000001:.{decimals}f}" for v in values)


# ---------------------------------------------------------------------------------------------- bootstrap of metrics


def test_bootstrap_of_accuracy_is_the_score_interval_and_covers() -> None:
    """Against Tango's interval, and the truth inside 95 % of the intervals of 200 simulated pairs (three errors: 4.6 points)."""
    a, b, _ = models()
    assert probe.bootstrap_difference(a, b, metrics.accuracy) == pytest.approx(compare(a, b).interval, abs=0.007)
    inside = 0
    for seed in range(200):
        a, b = models(200, (0.8, 0.7), seed=seed)
        low, high = probe.bootstrap_difference(a, b, metrics.accuracy, n_draws=200)
        inside += low <= 0.1 <= high
    assert inside / 200 == pytest.approx(0.94, abs=0.05)


def test_bootstrap_of_average_precision() -> None:
    """Draws of samples by hand, in a loop of its own, give the same percentiles."""
    rng = np.random.default_rng(0)
    y = (rng.random((60, 3)) < 0.4).astype(int)
    scores = [y + rng.normal(size=y.shape) * noise for noise in (0.5, 1.0)]
    a, b = (
        Predictions(np.arange(60).astype(str), y, (s > 0.5).astype(int), scores=s, name=str(s[0, 0])) for s in scores
    )
    got = probe.bootstrap_difference(a, b, metrics.map11, n_draws=300)
    rng = np.random.default_rng(1)
    draws = []
    for _ in range(300):
        rows = rng.integers(0, 60, 60)
        draws.append(metrics.map11(y[rows], scores[0][rows]) - metrics.map11(y[rows], scores[1][rows]))
    assert got == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.03)
    with pytest.raises(BadInput, match="scores, which were not kept for 'x'"):
        probe.bootstrap_difference(a, Predictions(a.ids, y, y, name="x"), metrics.map11)


def test_bootstrap_mean_is_students_interval_of_many() -> None:
    x = np.random.default_rng(0).normal(0.3, 1, 400)
    half = 1.966 * x.std(ddof=1) / 20
    assert intervals.bootstrap_mean(x) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.006)


# ------------------------------------------------------------------------------------------------------- calibration


def calibrated(n: int, seed: int = 0, sharpen: float = 1.0) -> Predictions:
    """Labels drawn from the probabilities that the scores state, before the scores are sharpened."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 5)) * 2
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    y = (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return Predictions(np.arange(n).astype(str), y, z.argmax(axis=1), scores=z * sharpen, name=f"x{sharpen}")


def test_calibration_beside_accuracy() -> None:
    """A calibrated model has the error that chance gives; the same model made too sure has more, at equal accuracy."""
    table = probe.calibration_table([calibrated(3000), calibrated(3000, sharpen=3)]).set_index("name")
    good, sure = table.loc["x1.0"], table.loc["x3"]
    assert good["accuracy"] == sure["accuracy"]
    assert good["calibration_error"] == pytest.approx(good["by_chance"], abs=0.01)
    assert sure["calibration_error"] > 5 * sure["by_chance"]
    assert sure["confidence"] - sure["accuracy"] == pytest.approx(sure["calibration_error"], abs=0.01)
    assert good["low"] < good["accuracy"] < good["high"]


def test_expected_by_chance_is_the_mean_error_of_calibrated_models() -> None:
    """60 samples of 200 calibrated models: their mean error is what is expected of one of them."""
    errors = [metrics.calibration_error(p.y_true, p.scores) for p in (calibrated(60, seed) for seed in range(200))]
    expected = [
        calibration.expected_by_chance(calibration.confidences(calibrated(60, s))[0], n_draws=50) for s in range(200)
    ]
    assert np.mean(expected) == pytest.approx(np.mean(errors), abs=0.01)


def test_reliability_adds_up_to_the_calibration_error() -> None:
    p = calibrated(500, sharpen=2)
    bins = probe.reliability(p)
    gaps = bins["n"] / 500 * (bins["accuracy"] - bins["confidence"]).abs()
    assert gaps.sum() == pytest.approx(metrics.calibration_error(p.y_true, p.scores))
    assert ((bins["low"] < bins["confidence"]) & (bins["confidence"] <= bins["high"])).all()
    assert bins["n"].sum() == 500


def test_calibration_without_scores() -> None:
    p = calibrated(50)
    bare = Predictions(p.ids, p.y_true, p.y_pred, name="bare")
    row = probe.calibration_table([bare]).iloc[0]
    assert row["accuracy"] == p.accuracy()
    assert math.isnan(row["calibration_error"])
    with pytest.raises(BadInput, match="not kept for 'bare'"):
        probe.reliability(bare)
    named = Predictions(
        p.ids, np.array(list("abcde"))[p.y_true], np.array(list("abcde"))[p.y_pred], tuple("abcde"), p.scores
    )
    assert (
        probe.calibration_table([named])["calibration_error"][0] == probe.calibration_table([p])["calibration_error"][0]
    )
