"""Choosing C without validation data of one's own, against scikit-learn and against the steps done by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from problems import digits
from sklearn.model_selection import KFold

import probe
from probe import folds
from probe.joining import joined
from probe.widening import beyond, search

GRID = np.logspace(-4, 2, 7)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    X, y = digits(240, 4)
    rng = np.random.default_rng(0)
    return X / 16 + rng.normal(scale=0.5, size=X.shape), y  # noise, so that C matters


def test_kfold_scores_are_scikit_learns() -> None:
    """The same folds and grid give scikit-learn's cross-validated accuracy at every C of every fold."""
    from sklearn.linear_model import LogisticRegression

    X, y = _digits()
    choice = probe.select_kfold(X, y, GRID, n_folds=3, tol=1e-8)
    held = folds.kfold(y, 3)
    for f in range(3):
        for i, C in enumerate(GRID):
            theirs = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10, max_iter=500)
            theirs.fit(X[held != f], y[held != f])
            assert choice.split_scores[f, i] == theirs.score(X[held == f], y[held == f])
    np.testing.assert_allclose(choice.scores, choice.split_scores.mean(axis=0))
    assert GRID[np.argmax(choice.scores)] == choice.C  # argmax takes the first: the strongest penalty
    assert choice.index == np.argmax(choice.scores)
    assert not choice.at_edge
    assert choice.sentence == ""


def test_folds_fitted_together_are_those_fitted_alone() -> None:
    """One batch for all folds, with weights and balanced classes; a bootstrap, which has rows twice, is fitted fold by fold."""
    X, y = _digits()
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.5, 2.0, len(y))
    options = {"class_weight": "balanced", "tol": 1e-8}
    rows = np.arange(len(y))
    for splits in (
        folds.splits(folds.kfold(y, 3)),
        [(rows[:200], rows[200:]), (rows[150:], rows[:50])],
        [(rng.integers(0, 200, 200), rows[200:]) for _ in range(2)],
    ):
        choice = probe.select_splits(X, y, splits, GRID, sample_weight=weight, **options)
        for (train, val), path, scores in zip(splits, choice.paths, choice.split_scores, strict=True):
            alone = probe.fit_path(X[train], y[train], GRID, sample_weight=weight[train], **options)
            np.testing.assert_allclose(path.objective, alone.objective, rtol=1e-6)  # 100 tol
            np.testing.assert_allclose(path.coef, alone.coef, atol=1e-5 * np.abs(alone.coef).max())
            np.testing.assert_array_equal(scores, probe.select(alone, X[val], y[val]).scores)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_holdout_is_fit_path_and_select(library: str) -> None:
    """The short way is the long way, on every array library."""
    import torch

    X, y = _digits()
    held = folds.holdout(y, 0.25, seed=3) == 0
    path = probe.fit_path(X[~held], y[~held], GRID)
    expected = probe.select(path, X[held], y[held])
    choice = probe.select_holdout(X if library == "numpy" else torch.from_numpy(X), y, GRID, fraction=0.25, seed=3)
    assert (choice.C, choice.index, choice.at_edge) == (expected.C, expected.index, expected.at_edge)
    np.testing.assert_array_equal(choice.scores, expected.scores)
    assert type(choice.paths[0].coef) is (np.ndarray if library == "numpy" else torch.Tensor)
    np.testing.assert_allclose(np.asarray(choice.paths[0].coef), path.coef, rtol=1e-4, atol=1e-6)


def test_metrics_that_fall_are_minimised() -> None:
    """Log loss is better when smaller; maximising it would choose the worst C."""
    X, y = _digits()
    choice = probe.select_kfold(X, y, GRID, n_folds=3, metric=probe.metrics.log_loss)
    assert choice.index == np.argmin(choice.scores)
    assert choice.scores.min() < choice.scores.max() / 2


def test_weighted_validation_rows_are_repetitions() -> None:
    """A row of weight 2 counts twice in the score, whatever the metric."""
    X, y = _digits()
    w = np.random.default_rng(1).integers(1, 4, len(y))
    train, val = folds.splits(folds.holdout(y, 0.3))[0]
    repeated = np.concatenate([train, np.repeat(val, w[val])])
    again = (np.arange(len(train)), np.arange(len(train), len(repeated)))
    for metric in (probe.metrics.accuracy, probe.metrics.mean_per_class):
        weighted = probe.select_splits(X, y, [(train, val)], GRID, metric=metric, val_weight=w)
        by_hand = probe.select_splits(X[repeated], y[repeated], [again], GRID, metric=metric)
        np.testing.assert_allclose(weighted.scores, by_hand.scores, rtol=1e-14)
    fractions = probe.select_splits(X, y, [(train, val)], GRID, val_weight=w / 7)
    np.testing.assert_allclose(
        fractions.scores, probe.select_splits(X, y, [(train, val)], GRID, val_weight=w).scores, rtol=1e-13
    )
    with pytest.raises(probe.BadInput, match="whole-number weights only"):
        probe.select_splits(X, y, [(train, val)], GRID, metric=probe.metrics.mean_per_class, val_weight=w / 7)


@pytest.mark.parametrize("grid", [np.logspace(-6, -4, 9), np.logspace(3, 4, 3)], ids=["too strong", "too weak"])
def test_a_short_grid_is_widened_until_the_best_lies_inside(grid: np.ndarray) -> None:
    """Every added value continues the grid, is fitted like the others, and is named; the best C is then inside."""
    X, y = _digits()
    with pytest.warns(probe.GridWidened, match=r"The best C was the (smallest|largest) of \d values") as said:
        choice = probe.select_holdout(X, y, grid, widen=True, fraction=0.3, metric=probe.metrics.log_loss, tol=1e-9)
    assert said[0].filename == __file__
    assert choice.sentence == str(said[0].message)
    assert not choice.at_edge
    assert len(choice.grid) > len(grid)
    np.testing.assert_allclose(np.diff(np.log10(choice.grid)), np.diff(np.log10(grid))[0], rtol=1e-9)
    assert set(np.round(np.log10(grid), 9)) <= set(np.round(np.log10(choice.grid), 9))
    train, val = folds.splits(folds.holdout(y, 0.3))[0]
    whole = probe.fit_path(X[train], y[train], choice.grid, tol=1e-9)
    expected = probe.select(whole, X[val], y[val], probe.metrics.log_loss)
    assert (choice.C, choice.index) == (expected.C, expected.index)
    np.testing.assert_allclose(choice.scores, expected.scores, rtol=1e-5)  # the weights are within 1000 tol
    path = choice.paths[0]
    np.testing.assert_array_equal(path.C, choice.grid)
    np.testing.assert_allclose(path.objective, whole.objective, rtol=1e-7)  # 100 tol


def test_widen_extends_a_path_that_is_already_there() -> None:
    """Only the new values are fitted; certificates, coefficients and statuses keep their C."""
    X, y = _digits()
    train, val = folds.splits(folds.holdout(y, 0.3))[0]
    path = probe.fit_path(X[train], y[train], [1e-5, 1e-6])  # descending: the result is ascending
    with pytest.warns(probe.GridWidened):
        wide = probe.widen(path, X[train], y[train], X_val=X[val], y_val=y[val])
    assert (np.diff(wide.path.C) > 0).all()
    assert not wide.choice.at_edge
    old = [int(np.flatnonzero(wide.path.C == C)[0]) for C in path.C]
    for name in ("coef", "intercept", "grad_norm", "gap", "objective", "n_iter", "passes", "precision"):
        np.testing.assert_array_equal(getattr(wide.path, name)[old], getattr(path, name))
    assert [wide.path.status[i] for i in old] == list(path.status)
    np.testing.assert_array_equal(wide.choice.scores, probe.select(wide.path, X[val], y[val]).scores)
    inside = probe.fit_path(X[train], y[train], GRID)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = probe.widen(inside, X[train], y[train], X_val=X[val], y_val=y[val])
    assert same.path is inside
    assert same.sentence == ""


def test_a_plateau_ends_the_search_where_it_began() -> None:
    """Chance level at ever stronger penalties is not a reason to go on, nor to leave the grid."""
    C = np.logspace(-3, 0, 4)
    asked: list[np.ndarray] = []

    def flat(values: np.ndarray) -> np.ndarray:
        asked.append(values)
        return np.full(len(values), 0.5)

    found = search(C, np.full(4, 0.5), flat, 6.0)
    assert len(asked) == 1
    assert found.C[found.index] == 1e-3
    assert not found.at_edge
    assert "none is better" in found.sentence


def test_a_search_without_end_ends() -> None:
    """Ever better scores stop at the limit, and the best is then honestly at the edge."""
    found = search(np.array([1.0, 10.0]), np.array([0.0, 1.0]), np.log10, 3.0)
    np.testing.assert_allclose(found.C, [1, 10, 100, 1000, 10000])
    assert found.index == 4
    assert found.at_edge
    assert "still at the edge" in found.sentence


def test_grids_continue_at_their_own_step() -> None:
    """A decade at a time, one value at least, outwards."""
    np.testing.assert_allclose(beyond(np.array([1.0, 10.0**0.25]), 1), 10 ** np.array([0.5, 0.75, 1.0, 1.25]))
    np.testing.assert_allclose(beyond(np.array([1.0, 1e3]), -1), [1e-3])


class Bare:
    """A function without a name, as one's own may be."""

    def __call__(self, X: np.ndarray, y: np.ndarray, C: np.ndarray, *, sample_weight: np.ndarray | None) -> probe.Path:
        return probe.fit_path(X, y, C, sample_weight=sample_weight)


def test_bad_input_is_said() -> None:
    """Splits without rows, rows that do not exist, labels of another length, paths of another problem."""
    X, y = _digits()
    rows = np.arange(len(y))
    with pytest.raises(probe.BadInput, match="Split 0 has 240 rows to train on and 0"):
        probe.select_splits(X, y, [(rows, rows[:0])], GRID)
    with pytest.raises(probe.BadInput, match="below 240"):
        probe.select_splits(X, y, [(rows, rows + 1)], GRID)
    with pytest.raises(probe.BadInput, match="mask of rows"):
        probe.select_splits(X, y, [(rows[:3] < 2, rows)], GRID)
    with pytest.raises(probe.BadInput, match="no split"):
        probe.select_splits(X, y, [], GRID)
    with pytest.raises(probe.BadInput, match=r"Split 0 is a ndarray of length 120, .* a list of one pair"):
        probe.select_splits(X, y, (rows[:120], rows[120:]), GRID)
    with pytest.raises(probe.BadInput, match=r"Split 0 is a int 3, .* a list of one pair"):
        probe.select_splits(X, y, [3], GRID)
    with pytest.raises(probe.BadInput, match=r"KFold.*pass splitter\.split\(X, y\)"):
        probe.select_splits(X, y, KFold(3), GRID)
    with pytest.raises(probe.BadInput, match="they are 5; give a list of them"):
        probe.select_splits(X, y, 5, GRID)  # type: ignore[arg-type]
    with pytest.raises(probe.BadInput, match="C must be a positive number or a list of them, but it is 'clip'"):
        probe.select_kfold(X, y, "clip")
    with pytest.raises(probe.BadInput, match="fit is 'ridge', but must be a function"):
        probe.select_kfold(X, y, GRID, fit="ridge")
    with pytest.raises(probe.BadInput, match=r"memory is 9, but <.*Bare.* has no such option"):
        probe.select_kfold(X, y, GRID, fit=Bare(), memory=9)
    with pytest.raises(probe.BadInput, match="240 rows but y has 239"):
        probe.select_splits(X, y[1:], [(rows, rows)], GRID)
    with pytest.raises(probe.BadInput, match="val_weight must be 240"):
        probe.select_splits(X, y, [(rows, rows)], GRID, val_weight=y - 1)
    a, b = probe.fit_path(X, y, [1.0]), probe.fit_path(X[:, :5], y, [1.0])
    with pytest.raises(probe.BadInput, match="different problems"):
        joined(a, b)
