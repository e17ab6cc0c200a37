"""Statistics over models and data sets: against SciPy, closed forms, least squares, and simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from test_long_tables import study

import probe
from probe import averages, lines
from probe.correlation import AVERAGE
from probe.errors import BadInput
from probe.few_models import models_needed, power_of, smallest_significant_r, what_few_models_show
from probe.rank_tests import pearson, ranks

RNG = np.random.default_rng


def noisy(m: int = 16, d: int = 5, seed: int = 0, slope: float = 1.2) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """A study whose log odds are drawn: the table, log odds on the source task (m,), and on the data sets (m, d)."""
    rng = RNG(seed)
    s = rng.normal(1.1, 0.3, m)
    x = slope * s[:, None] + rng.normal(0, 1, d)[None, :] + rng.normal(0, 0.2, (m, d))
    rows = [
        {
            "model": f"net{i}",
            "dataset": f"set{j}",
            "accuracy": 1 / (1 + math.exp(-x[i, j])),
            "source": 1 / (1 + math.exp(-s[i])),
        }
        for i in range(m)
        for j in range(d)
    ]
    return pd.DataFrame(rows), s, x


# ------------------------------------------------------------------------------------------------------- averages


def test_adjusted_values_have_mean_zero_in_every_data_set() -> None:
    _, _, x = noisy()
    assert averages.adjusted(x).mean(axis=0) == pytest.approx(np.zeros(5), abs=1e-12)
    assert averages.adjusted(x) == pytest.approx(averages.adjusted(x + np.array([3, -1, 0, 9, 2])))


def test_morey_bars_in_numbers() -> None:
    """Two models, three data sets, by hand: half differences 1, 2, 3, whose standard error is 1 / sqrt(3), times sqrt(2)."""
    x = np.array([[1.0, 12, 103], [-1, 8, 97]])
    assert averages.standard_errors(x) == pytest.approx([math.sqrt(2) / math.sqrt(3)] * 2)


def test_morey_bars_are_unbiased() -> None:
    """Models and data sets of any size plus noise of variance 1: squared bars are 1 / d on average. Without the correction
    they would be 25 % too small with four models."""
    rng = RNG(0)
    x = rng.normal(size=(4000, 4, 6)) + 10 * rng.normal(size=(4000, 1, 6)) + 5 * rng.normal(size=(4000, 4, 1))
    squared = np.mean([averages.standard_errors(v) ** 2 for v in x])
    assert squared == pytest.approx(1 / 6, rel=0.03)


def test_average_over_data_sets() -> None:
    table, _, x = noisy()
    out = probe.average_over_datasets(table.sample(frac=1, random_state=0))
    mean = pd.Series(x.mean(axis=1), index=[f"net{i}" for i in range(16)]).sort_values(ascending=False)
    assert list(out["model"]) == list(mean.index)
    assert out["mean"].to_numpy() == pytest.approx(mean.to_numpy())
    assert out["accuracy"].to_numpy() == pytest.approx(1 / (1 + np.exp(-mean.to_numpy())))
    assert out["adjusted"].to_numpy() == pytest.approx(mean.to_numpy() - x.mean())
    assert (out["standard_error"] > 0).all()


def test_ties_with_the_best_are_scipys_paired_t_test() -> None:
    from scipy.stats import ttest_rel

    table, _, x = noisy(m=8, slope=0.3)
    out = probe.average_over_datasets(table).set_index("model")
    best = int(x.mean(axis=1).argmax())
    for i in range(8):
        if i != best:
            p = ttest_rel(x[i], x[best]).pvalue
            assert out.loc[f"net{i}", "p_value"] == pytest.approx(p, rel=1e-9)
            assert out.loc[f"net{i}", "is_tied"] == (p > 0.05)
    assert out.loc[f"net{best}", ["p_value", "is_tied"]].tolist() == [1.0, True]
    assert 1 < out["is_tied"].sum() < 8


def test_averages_of_one_model_or_one_data_set() -> None:
    """No error bar and no tie can be claimed: NaN, and only the best itself is marked."""
    table = study()
    one_set = probe.average_over_datasets(table[table["dataset"] == "set0"])
    assert one_set["standard_error"].isna().all()
    assert one_set["is_tied"].tolist() == [True, False, False, False]
    one_model = probe.average_over_datasets(table[table["model"] == "net0"])
    assert math.isnan(one_model["standard_error"][0])
    with pytest.raises(BadInput, match="One model"):
        averages.standard_errors(np.ones((1, 3)))
    assert averages.paired_t(np.array([0.3, 0.4]), np.array([0.1, 0.2])) == 0.0
    assert averages.paired_t(np.ones(3), np.ones(3)) == 1.0


# ---------------------------------------------------------------------------------------------------- correlation


def test_correlations_are_scipys() -> None:
    from scipy.stats import linregress, pearsonr, spearmanr

    table, s, x = noisy(slope=0.5)
    found = probe.correlate(table)
    assert [c.dataset for c in found] == [*(f"set{j}" for j in range(5)), AVERAGE]
    for c, y in zip(found, [*x.T, x.mean(axis=1)], strict=True):
        r, line = pearsonr(s, y), linregress(s, y)
        ends = r.confidence_interval(0.95)
        assert (c.r, c.r_p) == pytest.approx((r.statistic, r.pvalue), rel=1e-9)
        assert c.r_interval == pytest.approx((ends.low, ends.high), abs=1e-9)
        assert c.rho == pytest.approx(spearmanr(s, y).statistic)
        assert (c.slope, c.intercept) == pytest.approx((line.slope, line.intercept))
        half = 2.1447866879169273 * line.stderr  # t(14), 97.5 %: from a table
        assert c.slope_interval == pytest.approx((line.slope - half, line.slope + half))
        assert c.n_models == 16


def test_normalised_slope_is_points_per_point() -> None:
    """Accuracies on a straight line of slope ½ in accuracy, whatever the logits say; the average has the average slope."""
    source = {f"net{i}": 0.6 + i / 50 for i in range(6)}
    rows = [
        {"model": m, "dataset": d, "accuracy": a + b * p}
        for m, p in source.items()
        for d, a, b in (("one", 0.2, 0.5), ("two", 0.6, 0.1))
    ]
    found = probe.correlate(pd.DataFrame(rows), source)
    assert [c.normalised_slope for c in found] == pytest.approx([0.5, 0.1, 0.3])
    plain = probe.correlate(pd.DataFrame(rows), source, scale="plain")
    assert [(c.r, c.slope) for c in plain] == [
        pytest.approx((1, 0.5)),
        pytest.approx((1, 0.1)),
        pytest.approx((1, 0.3)),
    ]


def test_models_above_a_threshold() -> None:
    table, s, _ = noisy()
    kept = 1 / (1 + np.exp(-s)) >= 0.75
    assert probe.correlate(table, above=0.75)[0].n_models == kept.sum()
    with pytest.raises(BadInput, match=r"No model has an accuracy of 0\.999 or more"):
        probe.correlate(table, above=0.999)
    with pytest.raises(BadInput, match="70 but accuracies"):
        probe.correlate(table, above=70)


@pytest.mark.parametrize("n", [6, 16])
def test_intervals_cover(n: int) -> None:
    """Of 1,500 simulated studies: r and slope 95 %, rho at least that, the bootstrapped band what its docstring says
    (bounds: three standard errors, 1.7 points, or more where less is known)."""
    rng = RNG(0)
    true_rho = 6 / math.pi * math.asin(0.8 / 2)  # of a binormal r of 0.8
    inside = np.zeros(4)
    for i in range(1500):
        x = rng.normal(size=n)
        y = 0.8 * x + 0.6 * rng.normal(size=n)
        low, high = lines.bootstrap_band(x, y, np.array([0.5]), n_draws=300, seed=i)
        held = [
            (lines.r_interval(pearson(x, y), n), 0.8),
            (lines.slope_interval(x, y), 0.8),
            (lines.rho_interval(pearson(ranks(x), ranks(y)), n), true_rho),
            ((low[0], high[0]), 0.4),
        ]
        inside += [a <= truth <= b for (a, b), truth in held]
    r, slope, rho, band = inside / 1500
    assert 0.933 < r < 0.967
    assert 0.933 < slope < 0.967
    assert 0.94 < rho < 0.995
    assert band == pytest.approx({6: 0.86, 16: 0.91}[n], abs=0.025)


def test_bootstrap_band_is_refitting_lines_to_drawn_points() -> None:
    """Against numpy's polyfit on 3,000 draws of its own; 10 % of the width is their Monte Carlo error."""
    rng = RNG(2)
    x, at = rng.normal(size=12), np.array([-1.0, 0, 2])
    y = x + rng.normal(size=12)
    heights = []
    for _ in range(3000):
        rows = rng.integers(0, 12, 12)
        heights.append(np.polyval(np.polyfit(x[rows], y[rows], 1), at))
    low, high = lines.bootstrap_band(x, y, at)
    expected = np.quantile(heights, [0.025, 0.975], axis=0)
    assert np.abs(np.array([low, high]) - expected).max() < 0.1 * (high - low).max()
    with pytest.raises(BadInput, match="three points"):
        lines.bootstrap_band(np.ones(5), y[:5], at)


def test_few_points_have_no_false_certainty() -> None:
    """Two points: nothing. Three: an interval that is everything. A perfect order of five: an interval, not a point."""
    assert lines.r_interval(1.0, 2) == pytest.approx((math.nan, math.nan), nan_ok=True)
    assert lines.r_interval(0.99, 3) == (-1.0, 1.0)
    low, high = lines.rho_interval(1.0, 5)
    assert low < 0.3
    assert high == 1.0
    assert lines.rho_interval(-1.0, 5) == (-1.0, -low)
    two = probe.correlate(study(m=2))[-1]
    assert "any two points lie on a line" in two.sentence
    constant = study().assign(accuracy=0.5)
    assert "no correlation can be computed" in probe.correlate(constant)[0].sentence
    assert "too few models" in probe.correlate(study(m=1))[0].sentence


def test_sentences_say_no_more_than_the_numbers() -> None:
    table, _, _ = noisy()
    strong, weak = probe.correlate(table)[-1], probe.correlate(noisy(m=6, slope=0.0, seed=1)[0])[-1]
    assert strong.is_significant
    assert "better here, by more than chance" in strong.sentence
    assert strong.sentence.startswith("Average over data sets, 16 models: r = 0.")
    assert not weak.is_significant
    assert "not shown, and, by the width of the interval, not excluded" in weak.sentence


@pytest.mark.parametrize(("r", "n"), [(0.8, 5), (0.9, 6), (0.55, 16), (0.3, 60)])
def test_power_is_that_of_simulated_studies(r: float, n: int) -> None:
    """How many of 4,000 studies see a true correlation; three standard errors are 2.4 points."""
    x = RNG(0).normal(size=(4000, n))
    y = r * x + math.sqrt(1 - r * r) * RNG(1).normal(size=(4000, n))
    seen = [abs(pearson(a, b)) > smallest_significant_r(n) for a, b in zip(x, y, strict=True)]
    assert power_of(r, n) == pytest.approx(np.mean(seen), abs=0.024)


def test_smallest_significant_r_and_models_needed() -> None:
    """The threshold has p = 0.05 exactly; the number of models is the first that reaches the power."""
    for n in (3, 6, 16, 100):
        assert lines.r_p_value(smallest_significant_r(n), n) == pytest.approx(0.05)
    for r in (0.3, 0.55, 0.8, 0.99):
        n = models_needed(r)
        assert power_of(r, n) >= 0.8
        assert power_of(r, n - 1) < 0.8
    with pytest.raises(BadInput, match="between 0 and 1"):
        models_needed(1.0)


@pytest.mark.parametrize(
    ("n", "words"), [(1, "1 model nothing"), (2, "2 models nothing"), (5, "|r| must exceed 0.88"), (40, "")]
)
def test_what_few_models_show(n: int, words: str) -> None:
    said = what_few_models_show(n)
    assert words in said
    assert ("not independent" in said) == (n > 2)
    assert ("does not mean that there is none" in said) == (2 < n < 20)


def test_correlation_table_has_the_numbers() -> None:
    found = probe.correlate(noisy()[0])
    table = probe.correlation_table(found)
    assert table["r"].tolist() == [c.r for c in found]
    assert table["rho_high"].tolist() == [c.rho_interval.high for c in found]
    assert len(table) == 6


# ------------------------------------------------------------------------------------- ranks, others, regimes


def test_rank_correlations_with_the_others() -> None:
    from scipy.stats import spearmanr

    table, s, x = noisy(slope=0.3)
    out = probe.rank_correlations(table)
    for j, row in out.iterrows():
        others = np.delete(x, j, axis=1).mean(axis=1)
        assert row["rho_source"] == pytest.approx(spearmanr(s, x[:, j]).statistic)
        assert row["rho_others"] == pytest.approx(spearmanr(others, x[:, j]).statistic)
        assert row["p_others"] == pytest.approx(spearmanr(others, x[:, j]).pvalue, abs=0.01)
    with pytest.raises(BadInput, match="one data set only"):
        probe.rank_correlations(table[table["dataset"] == "set0"])


def test_partial_p_value_is_the_f_test_of_nested_regressions() -> None:
    from scipy.stats import f

    rng = RNG(4)
    given, x = rng.normal(size=12), rng.normal(size=12)
    y = given + 0.5 * x + rng.normal(size=12)

    def residual(*columns: np.ndarray) -> float:
        A = np.stack([np.ones(12), *columns], axis=1)
        return float(np.linalg.lstsq(A, y, rcond=None)[1][0])

    ratio = (residual(given) - residual(given, x)) / (residual(given, x) / 9)
    assert lines.partial_p_value(y, x, given) == pytest.approx(f.sf(ratio, 1, 9), rel=1e-9)
    assert math.isnan(lines.partial_p_value(y, 2 * given + 1, given))
    assert math.isnan(lines.partial_p_value(y[:3], x[:3], given[:3]))


def test_regimes_are_paired_by_model() -> None:
    """Counts, the median odds ratio and SciPy's exact test, whatever the order of the rows."""
    from scipy.stats import wilcoxon

    table, _, x = noisy(m=9, d=3)
    gain = RNG(7).normal(0.2, 0.3, x.shape)
    other = table.assign(accuracy=1 / (1 + np.exp(-(x + gain).ravel())), regime="tuned").sample(frac=1, random_state=2)
    both = pd.concat([other, table.assign(regime="logistic")])
    out = probe.compare_regimes(both, "tuned", "logistic").set_index("dataset")
    for j in range(3):
        row = out.loc[f"set{j}"]
        assert row["p_value"] == pytest.approx(wilcoxon(gain[:, j], method="exact").pvalue)
        assert row["odds_ratio"] == pytest.approx(math.exp(np.median(gain[:, j])))
        assert (row["n_better"], row["n_worse"]) == ((gain[:, j] > 0).sum(), (gain[:, j] < 0).sum())
    assert out["p_holm"].to_numpy() == pytest.approx(probe.holm(out["p_value"]))
    with pytest.raises(BadInput, match="with itself"):
        probe.compare_regimes(both, "tuned", "tuned")
    fewer = both[~((both["regime"] == "tuned") & (both["model"] == "net3"))]
    with pytest.raises(BadInput, match=r"same models \(net3 in one only\)"):
        probe.compare_regimes(fewer, "tuned", "logistic")
