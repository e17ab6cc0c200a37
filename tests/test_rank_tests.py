"""Rank tests and corrections: against enumeration, SciPy, and the closure that Holm's method is a short cut of."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from probe.errors import BadInput
from probe.permutation import mcnemar, sign_flip, sign_flip_scores
from probe.rank_tests import holm, pearson, ranks, signed_rank, spearman


def test_ranks_and_correlations_are_scipys() -> None:
    from scipy.stats import pearsonr, rankdata, spearmanr

    rng = np.random.default_rng(0)
    for n in (3, 7, 40):
        x, y = rng.normal(size=n), np.round(rng.normal(size=n), 1)
        assert ranks(np.round(x)).tolist() == rankdata(np.round(x)).tolist()
        assert pearson(x, y) == pytest.approx(pearsonr(x, y)[0], abs=1e-12)
        assert spearman(x, y)[0] == pytest.approx(spearmanr(x, y)[0], abs=1e-12)
    assert math.isnan(pearson(np.ones(3), np.arange(3.0)))
    assert all(math.isnan(v) for v in spearman(np.ones(3), np.arange(3.0)))


@pytest.mark.parametrize("y", [[1, 2, 3, 4, 5, 6], [3, 1, 4, 1, 5, 9], [2, 2, 1, 1, 3, 3]])
def test_spearman_p_is_that_of_all_orders(y: list[int]) -> None:
    """With and without ties: the share of the 720 orders that correlate as much, computed by SciPy one by one."""
    from scipy.stats import spearmanr

    x = np.arange(6)
    observed = abs(spearmanr(x, y)[0])
    exact = np.mean([abs(spearmanr(x, order)[0]) >= observed - 1e-12 for order in itertools.permutations(y)])
    assert spearman(x, np.array(y))[1] == pytest.approx(exact)


def test_spearman_p_of_many_models_is_drawn() -> None:
    """16 models: against SciPy's t approximation, good to some per cent here; perfect order gives the smallest p, not 0."""
    from scipy.stats import spearmanr

    rng = np.random.default_rng(1)
    x = rng.normal(size=16)
    y = x + 2 * rng.normal(size=16)
    assert spearman(x, y)[1] == pytest.approx(spearmanr(x, y)[1], abs=0.01)
    assert spearman(x, x)[1] == pytest.approx(1 / 50_001)


@pytest.mark.parametrize("n", [1, 4, 9, 16, 30])
def test_signed_rank_is_scipys_exact_test(n: int) -> None:
    from scipy.stats import wilcoxon

    d = np.random.default_rng(n).normal(0.3, 1, n)
    assert signed_rank(d) == pytest.approx(wilcoxon(d, method="exact").pvalue, rel=1e-9)
    assert signed_rank(-d) == signed_rank(d)


def test_signed_rank_with_equal_differences_against_all_signs() -> None:
    """Differences equal on paper but not in their last bits share a rank; zeros are left out; all 2^7 signs."""
    d = np.array([0.8 - 0.7, 0.3 - 0.2, -0.1, 0.5, 0.5, -0.2, 0.7, 0.0])
    r = np.array([2, 2, 2, 5.5, 5.5, 4, 7])
    signs = np.sign(d[:7])
    observed = abs(r @ signs)
    exact = np.mean([abs(r @ s) >= observed for s in itertools.product([1, -1], repeat=7)])
    assert signed_rank(d) == pytest.approx(exact)
    assert signed_rank(np.zeros(5)) == 1.0
    assert signed_rank(np.ones(5)) == 2 / 32
    assert signed_rank(np.ones(200)) < 1e-50


def test_holm_is_the_closure_of_bonferroni() -> None:
    """The adjusted p of a hypothesis is the largest Bonferroni p of any set of hypotheses that it belongs to."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 7):
        p = np.round(rng.random(n) ** 3, 2)
        sets = [s for k in range(1, n + 1) for s in itertools.combinations(range(n), k)]
        closed = [max(min(1.0, len(s) * min(p[list(s)])) for s in sets if i in s) for i in range(n)]
        assert holm(p) == pytest.approx(closed)
    assert holm([0.01, math.nan, 0.04])[[0, 2]] == pytest.approx([0.02, 0.04])
    assert math.isnan(holm([0.01, math.nan])[1])
    with pytest.raises(BadInput, match="between 0 and 1"):
        holm([0.5, 1.2])


def test_sign_flip_of_scores_against_all_signs() -> None:
    """Real differences, 2^12 signs; four standard errors of 100,000 draws."""
    d = np.random.default_rng(3).normal(0.5, 1, 12)
    signs = np.array(list(itertools.product([1, -1], repeat=12)))
    exact = (np.abs(signs @ d) >= abs(d.sum()) - 1e-12).mean()
    got = sign_flip_scores(d)
    assert got == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 1e5) + 1e-5)
    assert got == sign_flip_scores(np.concatenate([d, np.zeros(50)]))


def test_sign_flip_of_scores_is_the_tests_of_right_and_wrong() -> None:
    """Right or wrong is a score: McNemar's test; weighted by class, the test of mean per class."""
    rng = np.random.default_rng(5)
    y = rng.integers(0, 4, 300)
    a, b = rng.random(300) < 0.8, rng.random(300) < 0.74
    d = a.astype(float) - b
    assert sign_flip_scores(d) == pytest.approx(mcnemar(int((d > 0).sum()), int((d < 0).sum())), abs=0.007)
    weight = 1 / np.bincount(y)[y]
    assert sign_flip_scores(d * weight) == pytest.approx(sign_flip(y, a, b), abs=0.007)


def test_sign_flip_rejects_as_often_as_it_says() -> None:
    """600 pairs of models that do not differ: at most 5 % + 2.6 % (three standard errors) are told apart, none at p = 0."""
    rng = np.random.default_rng(0)
    p = np.array([sign_flip_scores(rng.standard_t(3, 20), n_permutations=199, seed=i) for i in range(600)])
    assert 0.024 < (p <= 0.05).mean() < 0.076
    assert p.min() >= 1 / 200
    with pytest.raises(BadInput, match="at least one"):
        sign_flip_scores(np.ones(3), n_permutations=0)
