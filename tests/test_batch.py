"""Many problems in one call: the answers of one call each, from shared passes."""

from __future__ import annotations

import numpy as np
import pytest
from problems import digits

import probe
from probe.design import Subsets, Whole

GRID = 10.0 ** np.linspace(-4, 3, 8)


def _equal(a: probe.Path, b: probe.Path) -> None:
    assert a.classes.tolist() == b.classes.tolist()
    assert a.coef.shape == b.coef.shape
    assert [s.value for s in a.status] == ["converged"] * len(a)
    np.testing.assert_allclose(a.objective, b.objective, rtol=2e-5)


def _folds(n: int, k: int) -> list[np.ndarray]:
    return [np.flatnonzero(np.arange(n) % k != f) for f in range(k)]


def test_label_sets_share_every_pass() -> None:
    """Three labellings of the same rows, one of them binary, two with different numbers of classes."""
    X, y = digits(300)
    sets = [y, y % 2, np.array(list("abcdefghij"))[y], y // 2]
    together = probe.fit_paths(X, sets, GRID)
    alone = [probe.fit_path(X, one, GRID) for one in sets]
    for a, b in zip(together, alone, strict=True):
        _equal(a, b)
    assert together[0].reads == together[2].reads < 0.7 * (alone[0].reads + alone[2].reads)


def test_folds_are_fits_of_their_rows() -> None:
    """With weights and an absent class as they come."""
    X, y = digits(200)
    weight = np.random.default_rng(0).uniform(0.5, 2.0, len(y))
    rows = [*_folds(len(y), 3), np.flatnonzero(y != 3)]
    for rows_p, path in zip(rows, probe.fit_paths(X, y, GRID, rows=rows, sample_weight=weight), strict=True):
        _equal(path, probe.fit_path(X[rows_p], y[rows_p], GRID, sample_weight=weight[rows_p]))


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_few_shot_subsets_are_a_small_matrix_each(fit_intercept: bool) -> None:
    """Of different sizes, so that rows and rotated columns are filled up."""
    X, y = digits(1000)
    r = np.random.default_rng(0)
    rows = [np.concatenate([r.permutation(np.flatnonzero(y == c))[:k] for c in range(10)]) for k in (1, 3, 5, 5)]
    for rows_p, path in zip(rows, probe.fit_paths(X, y, GRID, rows=rows, fit_intercept=fit_intercept), strict=True):
        _equal(path, probe.fit_path(X[rows_p], y[rows_p], GRID, fit_intercept=fit_intercept))


def test_multi_label_and_binary_problems_are_lanes_of_one_batch() -> None:
    """All of them have one row of coefficients per lane."""
    X, y = digits(300)
    hot = (y[:, None] == np.arange(4)).astype(int)
    several, one = probe.fit_paths(X, [hot, y % 2], GRID)
    _equal(several, probe.fit_path(X, hot, GRID))
    _equal(one, probe.fit_path(X, y % 2, GRID))


def test_coordinates_of_subsets_go_to_features_and_back() -> None:
    """Padding is put in and taken out again in the same places, before the intercept."""
    X, _ = digits(60)
    design = Subsets([Whole(X[:20], True), Whole(X[20:50], True)])
    r = np.random.default_rng(0)
    W, b = r.normal(size=(2, 3, 64)), r.normal(size=(2, 3))
    for i, part in enumerate(design.designs):  # what the features of a part do not span is lost, and must stay out
        W[i] = W[i] @ part.rotation.basis @ part.rotation.basis.T
    T = design.from_features(W, b)
    assert T.shape == (2, 3, len(design.penalised))
    W2, b2 = design.to_features(T[None, ...])
    np.testing.assert_allclose(W2[0], W, atol=1e-12)
    np.testing.assert_allclose(b2[0], b, atol=1e-9)
    Z = design.rows(np.float64).scores(T)
    np.testing.assert_allclose(Z[1, :, :30], W[1] @ X[20:50].T + b[1][:, None], atol=1e-9)
    np.testing.assert_allclose(Z[0, :, :20], W[0] @ X[:20].T + b[0][:, None], atol=1e-9)


def test_torch_stays_torch() -> None:
    """One matrix for all, and one for each."""
    torch = pytest.importorskip("torch")
    X, y = digits(120, 3)
    for rows in (_folds(120, 2), [np.arange(0, 120, 7), np.arange(1, 120, 7)]):
        ours = probe.fit_paths(torch.from_numpy(X), y, GRID[::3], rows=rows)
        for a, b in zip(ours, probe.fit_paths(X, y, GRID[::3], rows=rows), strict=True):
            assert isinstance(a.coef, torch.Tensor)
            np.testing.assert_allclose(a.objective, b.objective, rtol=2e-5)


@pytest.mark.parametrize(
    ("y", "rows", "words"),
    [
        ([[0, 1, 1], [0, 1, 1]], [[0, 1], [1, 2], [0, 2]], "2 label sets and rows 3 subsets"),
        ([0, 1, 1], [[0, 1], [1, 2]], "Problem 1 of 2: The data has only one class"),
        ([0, 1, 1], [[0, 3]], "below 3"),
        ([0, 1, 1], [[]], "at least one"),
        ([], None, "no problem|y should be|has 3 rows"),
        ([[0, 1], [0, 1]], None, "Problem 0 of 2|2 labels"),
    ],
)
def test_problems_that_cannot_be(y: list, rows: list | None, words: str) -> None:
    """Say which, and why."""
    with pytest.raises(probe.BadInput, match=words):
        probe.fit_paths(np.arange(6.0).reshape(3, 2), y, [1.0], rows=rows)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_a_row_that_stands_twice_counts_twice(class_weight: str | None) -> None:
    """Bootstraps are fits of the rows as they were drawn; "balanced" counts them as they were drawn, too."""
    X, y = digits(300)
    rows = [np.random.default_rng(seed).integers(0, 300, 300) for seed in range(2)]
    weight = np.random.default_rng(3).uniform(0.5, 2.0, 300)
    options = {"class_weight": class_weight}
    found = probe.fit_paths(X, y, GRID, rows=rows, sample_weight=weight, **options)
    for rows_p, path in zip(rows, found, strict=True):
        _equal(path, probe.fit_path(X[rows_p], y[rows_p], GRID, sample_weight=weight[rows_p], **options))


def test_streamed_problems_share_their_passes() -> None:
    """Folds and a label set of rows that stay where they are; and more columns than rows, where no fit needs a pass."""
    X, y = digits(500)
    rows = _folds(500, 3)
    streamed = probe.fit_paths(X, y, GRID, rows=rows, memory=X.nbytes // 3)
    for a, b in zip(streamed, probe.fit_paths(X, y, GRID, rows=rows), strict=True):
        _equal(a, b)
    alone = [probe.fit_path(X[r], y[r], GRID, memory=X.nbytes // 3) for r in rows]
    assert streamed[0].reads < 0.8 * sum(path.reads for path in alone)
    wide = np.random.default_rng(0).normal(size=(60, 400)) + y[:60, None]
    sets = [y[:60], y[:60] % 3]
    for a, one in zip(probe.fit_paths(wide, sets, GRID, memory=wide.nbytes // 3), sets, strict=True):
        _equal(a, probe.fit_path(wide, one, GRID))


def test_preconditioners_applied_together_are_those_of_each_lane() -> None:
    """Lanes with different stiff rows, one without any, all at once and some of them; against one after the other."""
    from dataclasses import replace

    from probe.labels import encode
    from probe.objective import Softmax
    from probe.preconditioner import StiffPairs, build, together
    from probe.rows import Candidates

    X, y = digits(400)
    rotation = Whole(X, True).rotation
    A, mask = rotation.rows(X, np.float64), rotation.penalised
    r = np.random.default_rng(0)
    lanes, T = [], 0.2 * r.normal(size=(1, 10, len(mask)))
    for seed in range(4):
        noisy = np.where(r.random(len(y)) < 0.2, r.permutation(y), y)
        loss = encode(noisy, len(y)).loss(X, np.float64)
        assert isinstance(loss, Softmax)
        _, R = loss.evaluate(T @ A.T)
        lanes.append(build(Candidates(A), loss.curvature(R, 0), rotation.spectrum, mask, 0.01 * (1.0 + seed), False))
    assert all(isinstance(lane, StiffPairs) and lane.n_pairs > 50 for lane in lanes)
    lanes[2] = replace(lanes[2], n_pairs=0, _pairs=None)
    joined = together(lanes)
    assert joined is not None
    G = r.normal(size=(4, 10, len(mask)))
    for chosen in (np.arange(4), np.array([0, 2]), np.array([3])):
        alone = np.concatenate([lanes[q](G[q : q + 1]) for q in chosen])
        np.testing.assert_allclose(joined.take(chosen)(G[chosen]), alone, rtol=1e-9, atol=1e-9 * np.abs(alone).max())
