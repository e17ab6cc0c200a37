"""Ridge classification against its definition, scikit-learn, certificates and brute force, over the problems of logistic paths."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from problems import Case, cases, digits
from test_margins import signs

import probe
from probe.certificate import certify, zero_gradient
from probe.labels import Loss, encode
from probe.least_squares import LeastSquares
from probe.moments import certify_by_moments
from probe.objective import ridge_value_and_gradient
from probe.ridge import RidgeSolver, left_out_scores
from probe.rotation import rotate

CASES = cases()
GRID = 10.0 ** np.linspace(-6, 5, 12)


def _codes(y: np.ndarray) -> np.ndarray:
    return np.unique(y, return_inverse=True)[1]


def _lstsq(X: np.ndarray, S: np.ndarray, C: float, s: np.ndarray, fit_intercept: bool = True) -> tuple[np.ndarray, ...]:
    """Weights and intercept from a least-squares solver on the rows with the penalty appended to them: no normal equations."""
    mean, target = (s @ X / s.sum(), s @ S / s.sum()) if fit_intercept else (0.0 * X[0], 0.0 * S[0])
    rows = np.concatenate([np.sqrt(s)[:, None] * (X - mean), np.eye(X.shape[1]) / np.sqrt(C)])
    right = np.concatenate([np.sqrt(s)[:, None] * (S - target), np.zeros((X.shape[1], S.shape[1]))])
    W = np.linalg.lstsq(rows, right, rcond=None)[0].T
    return W, target - W @ mean


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_every_fit_carries_a_true_certificate(case: Case, dtype: type) -> None:
    """Gradient and objective are recomputed from the definition; the closed form is exact to rounding at every penalty."""
    X, y = case.X.astype(dtype), _codes(case.y)
    S = signs(y, y.max() + 1)
    path = probe.ridge_path(X, case.y, GRID)
    assert [s.value for s in path.status] == ["converged"] * len(GRID)
    assert path.loss is probe.Loss.SQUARED_ERROR
    assert (path.grad_norm < 1e-9).all()
    for i, C in enumerate(GRID):
        W, b = path.coef[i], path.intercept[i]
        value, by_W, by_b = ridge_value_and_gradient(W, b, X, S, C)
        _, zero_W, zero_b = ridge_value_and_gradient(0 * W, 0 * b, X, S, C)
        scale = max(np.abs(zero_W).max(), np.abs(zero_b).max())
        assert path.objective[i] == pytest.approx(C * value, rel=1e-7)
        assert max(np.abs(by_W).max(), np.abs(by_b).max()) <= 1e-9 * scale
        assert (by_W**2).sum() * C / 2 <= 1e-4 * value


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_fits_equal_ridge_classifier(case: Case, fit_intercept: bool) -> None:
    """alpha = 1 / C, targets ±1: scikit-learn's singular value decomposition finds our coefficients."""
    from sklearn.linear_model import RidgeClassifier

    grid = GRID[::3]
    path = probe.ridge_path(case.X, case.y, grid, fit_intercept=fit_intercept)
    for i, C in enumerate(grid):
        theirs = RidgeClassifier(alpha=1 / C, solver="svd", fit_intercept=fit_intercept).fit(case.X, case.y)
        # the Gram matrix squares the condition number, a million times a million at the weakest of these
        np.testing.assert_allclose(path.coef[i], np.atleast_2d(theirs.coef_), atol=1e-5 * np.abs(theirs.coef_).max())
        np.testing.assert_array_equal(path.model(i).predict(case.X), theirs.predict(case.X))
        np.testing.assert_allclose(path.model(i).decision_function(case.X), theirs.decision_function(case.X), atol=1e-5)


def test_weighted_fits_equal_ridge_and_repetitions() -> None:
    """The sums are weighted, the centring too: scikit-learn's Ridge, and rows written twice."""
    from sklearn.linear_model import Ridge

    X, y = digits(200, 3)
    w = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    for rows in (slice(None), slice(0, 50)):  # more rows than columns, and fewer
        A, S, s = X[rows], signs(y, 3)[rows], w[rows]
        path = probe.ridge_path(A, y[rows], [1e-4, 1.0], sample_weight=s)
        again = probe.ridge_path(np.repeat(A, s.astype(int), axis=0), np.repeat(y[rows], s.astype(int)), [1e-4, 1.0])
        np.testing.assert_allclose(path.coef, again.coef, atol=1e-10)
        for i, C in enumerate(path.C):
            theirs = Ridge(alpha=1 / C, solver="svd").fit(A, S, sample_weight=s)
            np.testing.assert_allclose(path.coef[i], theirs.coef_, atol=1e-9)
            np.testing.assert_allclose(path.intercept[i], theirs.intercept_, atol=1e-8)


def test_class_weights_are_those_of_ridge_classifier() -> None:
    """Balanced: n / (k · count), multiplied into the rows."""
    from sklearn.linear_model import RidgeClassifier

    X, y = digits(300, 3)
    y = np.where(y == 2, 2, (np.arange(300) % 7 == 0).astype(int))
    model = probe.fit_ridge(X, y, C=0.01, class_weight="balanced")
    theirs = RidgeClassifier(alpha=100.0, class_weight="balanced", solver="svd").fit(X, y)
    np.testing.assert_allclose(model.coef, theirs.coef_, atol=1e-9)


def test_binary_and_multi_label() -> None:
    """One row of coefficients for two classes; one per label for several, each as if alone."""
    X, y = digits(300)
    Y = np.stack([y % 2, y > 4, y == 3], axis=1).astype(int)
    path = probe.ridge_path(X, Y, [1e-3, 1.0])
    assert path.predict(X).shape == (2, 300, 3)
    for j in range(3):
        single = probe.ridge_path(X, Y[:, j], [1e-3, 1.0])
        assert single.coef.shape == (2, 1, 64)
        np.testing.assert_allclose(path.coef[:, j], single.coef[:, 0], atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", [c for c in CASES if c.X.shape[0] >= c.X.shape[1]], ids=lambda c: c.name)
def test_the_certificate_from_moments_is_that_from_rows(case: Case, weighted: bool) -> None:
    """It is never looked at by anything else; at points off the optimum it must see what the rows show."""
    n = len(case.y)
    s = np.random.default_rng(0).uniform(0.5, 2, n) if weighted else None
    labels = encode(case.y, n, s).against_rest(Loss.SQUARED_ERROR)
    problem = LeastSquares(case.X, labels, fit_intercept=True)
    l2 = np.array([1e3, 1.0])
    W = problem.fit(l2, 1e-6).W * 1.1
    b = np.broadcast_to(problem.moments.target_mean, W.shape[:2]) - W @ problem.moments.mean
    found, _ = certify_by_moments(problem.moments, W, b, l2)
    scale = zero_gradient(case.X, problem.loss, 1, True)
    np.testing.assert_allclose(problem.moments.zero_gradient, scale, rtol=1e-10)
    true, moved = certify(case.X, problem.loss, W[:, :, None, :], b[..., None], l2, scale, True)
    np.testing.assert_allclose(moved[..., 0], b, atol=1e-9 * (1 + np.abs(b).max()))
    for name in ("objective", "grad_norm", "gap", "coef_error"):
        np.testing.assert_allclose(getattr(found, name), getattr(true, name), rtol=1e-6)


def test_the_certificate_sees_a_wrong_intercept() -> None:
    """The optimum in W is assumed at the best intercept; another one must cost gap and gradient."""
    X, y = digits(200, 3)
    problem = LeastSquares(X, encode(y, 200).against_rest(Loss.SQUARED_ERROR), fit_intercept=True)
    fits = problem.fit(np.array([1.0]), 1e-6)
    S = signs(y, 3)
    found, _ = certify_by_moments(problem.moments, fits.W, fits.b + 0.1, np.array([1.0]))
    worse, right = (ridge_value_and_gradient(fits.W[0], b, X, S, 1.0)[0] for b in (fits.b[0] + 0.1, fits.b[0]))
    assert (found.gap * found.objective).sum() == pytest.approx(worse - right, rel=1e-9)
    _, by_W, by_b = ridge_value_and_gradient(fits.W[0], fits.b[0] + 0.1, X, S, 1.0)
    largest = np.maximum(np.abs(by_W).max(axis=1), np.abs(by_b))
    np.testing.assert_allclose(found.grad_norm[0], largest / problem.moments.zero_gradient, rtol=1e-9)
    assert (np.abs(by_W).max(axis=1) > np.abs(by_b)).all()  # so that both parts of the gradient are looked at


def test_constant_and_duplicated_columns_get_what_they_deserve() -> None:
    """At a weak penalty the rounding in directions without variance, divided by λ, would become weights."""
    X, y = digits()
    constant = np.flatnonzero(X.std(axis=0) == 0)
    coef = probe.ridge_path(np.concatenate([X, X[:, 20:23]], axis=1), y, [1e5]).coef[0]
    size = np.abs(coef).max()
    assert len(constant) > 5
    assert np.abs(coef[:, constant]).max() <= 1e-10 * size
    np.testing.assert_allclose(coef[:, 20:23], coef[:, 64:67], atol=1e-10 * size)


def test_a_loss_that_cancels_is_read_from_the_rows() -> None:
    """As many directions as rows: everything is fitted, and the quadratic form of the moments has no digit of the loss left."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 39)), np.arange(40) % 2
    path = probe.ridge_path(X, y, [1.0, 1e8])
    for i, C in enumerate(path.C):
        value, _, _ = ridge_value_and_gradient(path.coef[i], path.intercept[i], X, signs(y, 2), C)
        loss = value - (path.coef[i] ** 2).sum() / (2 * C)
        assert path.objective[i] == pytest.approx(C * value, rel=1e-9)
    assert loss < 1e-12
    assert path.status[1] is probe.Status.CONVERGED


def test_one_pass_and_no_iteration() -> None:
    """What the screening path promises: all penalties from one product with the targets, and nothing repaired on real features."""
    X, y = digits(400)
    path = probe.ridge_path(X, y)
    assert len(path) == 45
    assert (path.passes == 1).all()
    assert (path.n_iter == 0).all()


@pytest.mark.parametrize("scale", [1e-8, 1e8])
@pytest.mark.parametrize("n", [200, 40])
def test_columns_of_absurd_scale_are_repaired_or_reported(scale: float, n: int) -> None:
    """A Gram matrix holds 16 digits: the others are found again from the rows themselves."""
    X, y = digits(n, 3)
    spoilt = np.concatenate([X, scale * np.random.default_rng(0).normal(size=(n, 1))], axis=1)
    S, grid = signs(y, 3), [1e-4, 1.0, 1e3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", probe.NotConverged)
        path = probe.ridge_path(spoilt, y, grid)
    for i, status in enumerate(path.status):
        value, by_W, _ = ridge_value_and_gradient(path.coef[i], path.intercept[i], spoilt, S, path.C[i])
        assert (by_W**2).sum() * path.C[i] / 2 <= 3.3 * path.gap[i] * value + 1e-9 * value  # the worst of three
        if status is probe.Status.CONVERGED:
            W, b = _lstsq(spoilt, S, path.C[i], np.ones(n))
            best = ridge_value_and_gradient(W, b, spoilt, S, path.C[i])[0]
            assert value <= best * (1 + 1e-4)
    assert path.status[0] is probe.Status.CONVERGED
    assert path.model(0).score(spoilt, y) > 0.9


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_leaving_one_row_out_equals_doing_it(case: Case, weighted: bool, fit_intercept: bool) -> None:
    """Brute force on some rows, solved from the rows: at weak penalties with n < d both sides of the quotient vanish."""
    kept = np.unique(np.linspace(0, len(case.y) - 1, 60).astype(int))
    X, y = case.X[kept], _codes(case.y[kept])
    n, S = len(y), signs(y, y.max() + 1)
    s = np.random.default_rng(0).uniform(0.5, 2, n) * (np.arange(n) % 9 > 0) if weighted else np.ones(n)
    labels = encode(y, n, s if weighted else None).against_rest(Loss.SQUARED_ERROR)
    solver, C = RidgeSolver(fit_intercept, 1e-6), GRID[[0, 3, 6, 9, 11]]
    solver(X, labels, 1 / C)
    found = np.stack(list(left_out_scores(solver.problem, 1 / C, fit_intercept)))
    for j in range(len(C)):
        for i in range(0, n, 9):
            W, b = _lstsq(X, S, C[j], s * (np.arange(n) != i), fit_intercept)
            true = X[i] @ W.T + b
            np.testing.assert_allclose(found[j, i], true, atol=1e-5 * np.abs(true).max())


def test_select_ridge_loo_is_n_fold_cross_validation() -> None:
    """The scores are the accuracies of n refits, and the path comes with the choice."""
    X, y = digits(60, 3)
    grid = [1e-6, 1e-4, 1e-2]
    choice = probe.select_ridge_loo(X, y, grid)
    rows = np.arange(60)
    right = np.array(
        [[probe.fit_ridge(X[rows != i], y[rows != i], C).predict(X[i : i + 1])[0] for i in rows] for C in grid]
    )
    np.testing.assert_allclose(choice.scores, (right == y).mean(axis=1))
    assert grid[choice.index] == choice.C
    np.testing.assert_array_equal(choice.path.coef, probe.ridge_path(X, y, grid).coef)
    by_class = probe.select_ridge_loo(X, y, grid, metric=probe.metrics.mean_per_class)
    assert by_class.scores.shape == (3,)


def test_leave_one_out_agrees_with_scikit_learn() -> None:
    """RidgeClassifierCV has the same closed form, on squared errors; the ranking by accuracy is checked through its values."""
    from sklearn.linear_model import RidgeClassifierCV

    X, y = digits(150, 4)
    alphas = np.array([1e3, 10.0, 0.1])
    theirs = RidgeClassifierCV(alphas=alphas, store_cv_results=True).fit(X, y)
    solver = RidgeSolver(True, 1e-6)
    solver(X, encode(y, 150).against_rest(Loss.SQUARED_ERROR), alphas)
    found = np.stack(list(left_out_scores(solver.problem, alphas, True)), axis=-1)
    np.testing.assert_allclose((found - signs(y, 4)[..., None]) ** 2, theirs.cv_results_, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_a_known_rotation_gives_the_same_path(fit_intercept: bool) -> None:
    """Sweeps that fit a logistic path have the eigendecomposition already."""
    X, y = digits(200, 4)
    for rows in (X, X[:40]):
        codes = y[: len(rows)]
        labels = encode(codes, len(rows)).against_rest(Loss.SQUARED_ERROR)
        solution = RidgeSolver(fit_intercept, 1e-6, rotate(rows, fit_intercept))(rows, labels, 1 / GRID)
        path = probe.ridge_path(rows, codes, GRID, fit_intercept=fit_intercept)
        np.testing.assert_allclose(solution.W, path.coef, atol=1e-6 * np.abs(path.coef).max())
        assert all(s is probe.Status.CONVERGED for s in solution.status)
    weighted = encode(y, 200, np.arange(200.0)).against_rest(Loss.SQUARED_ERROR)
    with pytest.raises(probe.BadInput, match="without weights"):
        RidgeSolver(True, 1e-6, rotate(X))(X, weighted, 1 / GRID)


@pytest.mark.parametrize("n", [200, 40])
def test_torch_gives_the_numpy_answer_in_torch(n: int) -> None:
    """The same code on another array library, path and leave-one-out."""
    import torch

    X, y = digits(n, 3)
    ours = probe.select_ridge_loo(X, y, GRID)
    theirs = probe.select_ridge_loo(torch.from_numpy(X), torch.from_numpy(y), GRID)
    assert isinstance(theirs.path.coef, torch.Tensor)
    np.testing.assert_allclose(theirs.path.coef.numpy(), ours.path.coef, atol=1e-6 * np.abs(ours.path.coef).max())
    np.testing.assert_array_equal(theirs.scores, ours.scores)


@pytest.mark.gpu
def test_cuda_gives_the_numpy_answer() -> None:
    """On the device, in float64."""
    X, y = digits(400)
    path = probe.ridge_path(X.astype(np.float32), y, GRID, device="cuda")
    assert path.coef.device.type == "cuda"
    np.testing.assert_allclose(path.objective, probe.ridge_path(X, y, GRID).objective, rtol=1e-9)


def test_validation_scores_and_metrics_work_on_the_path() -> None:
    """A ridge path is a path: select, metrics and models take it."""
    X, y = digits(600)
    path = probe.ridge_path(X[:400], y[:400], X_val=X[400:], y_val=y[400:])
    choice = probe.select(path, X[400:], y[400:], metric=probe.metrics.mean_per_class)
    assert path.val_scores is not None
    assert 0.75 < path.val_scores.max() <= 1
    assert choice.scores.shape == (45,)
    assert path.model(choice.index).decision_function(X).shape == (600, 10)


def test_damaged_features_are_named() -> None:
    """Before anything is computed from them, weights or not, more rows than columns or fewer."""
    for n in (200, 40):
        X, y = digits(n, 3)
        X[17, 5] = np.nan
        for s in (None, np.where(np.arange(n) == 17, 0.0, 1.0)):
            with pytest.raises(probe.BadInput, match=r"1 of \d+ rows \(first 17\).*columns \(first 5\)"):
                probe.ridge_path(X, y, sample_weight=s)
    X, y = digits(100, 3)
    with pytest.raises(probe.BadInput, match="beyond float64"):
        probe.ridge_path(X * 1e200, y)
    with pytest.raises(probe.BadInput, match="fit_ridge takes one C, got 2"):
        probe.fit_ridge(X, y, C=[1.0, 2.0])  # type: ignore[arg-type]


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_streamed_features_give_the_same_path(dtype: type, weighted: bool, fit_intercept: bool) -> None:
    """In two readings for all penalties."""
    X, y = digits(400)
    X = (X + 3.0).astype(dtype)
    weight = np.random.default_rng(0).integers(0, 3, len(y)) if weighted else None
    grid = [1e-6, 1e-2, 1.0, 1e4]
    options = {"sample_weight": weight, "fit_intercept": fit_intercept}
    loaded = probe.ridge_path(X, y, grid, **options)
    streamed = probe.ridge_path(X, y, grid, memory=X.nbytes // 4, **options)
    assert [s.value for s in streamed.status] == ["converged"] * 4
    assert streamed.reads == 2
    np.testing.assert_allclose(streamed.coef, loaded.coef, rtol=1e-7, atol=1e-9 * abs(loaded.coef).max())
    np.testing.assert_allclose(streamed.objective, loaded.objective, rtol=1e-10)


def test_streamed_fits_that_the_moments_cannot_certify_are_read_for_it() -> None:
    """A loss that cancels, as many directions as rows: the certificates are those of rows in memory."""
    X, y = np.random.default_rng(0).normal(size=(40, 39)), np.arange(40) % 2
    loaded = probe.ridge_path(X, y, [1.0, 1e8])
    path = probe.ridge_path(X, y, [1.0, 1e8], memory=X.nbytes // 4)
    assert path.reads > 2
    assert [s.value for s in path.status] == ["converged"] * 2
    np.testing.assert_allclose(path.coef, loaded.coef, rtol=1e-6)
    np.testing.assert_allclose(path.objective, loaded.objective, rtol=1e-9)


def test_what_ridge_cannot_stream_is_said() -> None:
    """More columns than rows, leaving rows out, and rows that are no numbers."""
    X, y = digits(50)
    with pytest.raises(probe.BadInput, match="not 50 × 64; leave memory out"):
        probe.ridge_path(X, y, [1.0], memory=1000)
    with pytest.raises(probe.BadInput, match="takes no memory"):
        probe.select_ridge_loo(X, y, [1.0], memory=1000)
    X, y = digits(300)
    X[217, 5] = np.inf
    with pytest.raises(probe.BadInput, match=r"1 of 300 rows \(first 217\)"):
        probe.ridge_path(X, y, [1.0], memory=1000)
