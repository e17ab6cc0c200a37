"""Support vector machines against their definition, certificates and liblinear, over the problems of the logistic paths."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from problems import Case, cases, digits
from test_margins import signs

import probe
from probe.certificate import meets
from probe.joining import joined
from probe.objective import hinge_value_and_gradient
from probe.svm import Normalized

CASES = cases()
GRID = 10.0 ** np.linspace(-6, 5, 12)


def _codes(y: np.ndarray) -> np.ndarray:
    return np.unique(y, return_inverse=True)[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_every_fit_carries_a_true_certificate(case: Case, dtype: type) -> None:
    """Gradient and gap are recomputed from the definition at the returned point, class by class."""
    X, y = case.X.astype(dtype), _codes(case.y)
    S = signs(y, y.max() + 1)
    k = S.shape[1]
    path = probe.svm_path(X, case.y, GRID)
    assert [s.value for s in path.status] == ["converged"] * len(GRID)
    assert meets(path.grad_norm, path.gap, path.coef_error, 1e-6).all()
    assert path.coef.shape == (len(GRID), k, X.shape[1])
    assert path.loss is probe.Loss.SQUARED_HINGE
    for i, C in enumerate(GRID):
        whole, _, _ = hinge_value_and_gradient(path.coef[i], path.intercept[i], X, S, C)
        assert path.objective[i] == pytest.approx(C * whole, rel=1e-7)
        gaps, norms = [], []
        for c in range(k):
            W, b, column = path.coef[i, c : c + 1], path.intercept[i, c : c + 1], S[:, c : c + 1]
            value, by_W, by_b = hinge_value_and_gradient(W, b, X, column, C)
            _, zero_W, zero_b = hinge_value_and_gradient(0 * W, 0 * b, X, column, C)
            scale = max(np.abs(zero_W).max(), np.abs(zero_b).max())
            assert np.abs(by_b).max() <= 1e-9 * scale
            norms.append(max(np.abs(by_W).max(), np.abs(by_b).max()) / scale)
            gaps.append((by_W**2).sum() * C / 2 / value)
        assert path.grad_norm[i] == pytest.approx(max(norms), rel=1e-3, abs=1e-13 * len(y))
        # slacks are what 1 − m leaves over: with rows on their margins, two orders of summation give gaps that differ so much
        assert path.gap[i] == pytest.approx(max(gaps), rel=0.05, abs=5e-8)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_gap_bounds_the_distance_to_the_optimum(case: Case) -> None:
    """Against the best value anyone finds: our own fit at a tolerance 10,000 times tighter."""
    loose = probe.svm_path(case.X, case.y, GRID[::2], tol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", probe.NotConverged)  # the tightest fits may end at rounding
        tight = probe.svm_path(case.X, case.y, GRID[::2], tol=1e-9)
    best = np.minimum(loose.objective, tight.objective)
    assert ((loose.objective - best) / loose.objective <= loose.gap + 1e-12).all()


@pytest.mark.parametrize("k", [2, 5])
def test_without_intercept_fits_equal_linear_svc(k: int) -> None:
    """The objective is liblinear's, term by term: its trust-region Newton, run to the end, finds our coefficients."""
    from sklearn.svm import LinearSVC

    X, y = digits(300, k)
    X = probe.l2_normalized(X)
    path = probe.svm_path(X, y, [1e-3, 0.3, 100.0], fit_intercept=False, tol=1e-8)
    assert (path.intercept == 0).all()
    for i, C in enumerate(path.C):
        theirs = LinearSVC(C=C, dual=False, fit_intercept=False, tol=1e-10, max_iter=10000).fit(X, y)
        size = np.abs(theirs.coef_).max()
        np.testing.assert_allclose(path.coef[i], theirs.coef_, atol=1e-4 * size)  # theirs stops where its own rule says
        np.testing.assert_array_equal(path.model(i).predict(X), theirs.predict(X))
        np.testing.assert_allclose(path.model(i).decision_function(X), theirs.decision_function(X), atol=1e-3)


def test_the_free_intercept_is_the_limit_of_a_large_intercept_scaling() -> None:
    """LinearSVC penalises (b / intercept_scaling)²: at 1000 its fits are ours, at 1 they are not."""
    from sklearn.svm import LinearSVC

    X, y = digits(300, 4)
    X = probe.l2_normalized(X)
    ours = probe.fit_svm(X, y, C=1.0, tol=1e-8)
    far, near = (
        LinearSVC(C=1.0, dual=False, intercept_scaling=scaling, tol=1e-10, max_iter=10000).fit(X, y)
        for scaling in (1.0, 1000.0)
    )
    np.testing.assert_allclose(ours.coef, near.coef_, atol=1e-3 * np.abs(near.coef_).max())
    np.testing.assert_allclose(ours.intercept, near.intercept_, atol=1e-3)
    assert np.abs(ours.intercept - far.intercept_).max() > 0.1


def test_the_protocol_of_kornblith_on_real_features() -> None:
    """Normalised rows, 26 values of C, the best on validation rows: as good as liblinear's best there."""
    from sklearn.svm import LinearSVC

    X, y = digits(1200)
    X = probe.l2_normalized(X.astype(np.float32))
    train, val = np.arange(800), np.arange(800, 1200)
    path = probe.svm_path(X[train], y[train], X_val=X[val], y_val=y[val])
    assert len(path) == 26
    assert all(s is probe.Status.CONVERGED for s in path.status)
    choice = probe.select(path, X[val], y[val])
    np.testing.assert_array_equal(choice.scores, path.val_scores)
    theirs = LinearSVC(C=choice.C, dual=False, max_iter=10000).fit(X[train], y[train])
    assert choice.scores.max() >= theirs.score(X[val], y[val]) - 0.01


def test_classes_share_every_pass() -> None:
    """Ten classes in one batch need the passes of the slowest one, not the sum: each alone takes about as many."""
    X, y = digits(400)
    together = probe.svm_path(X, y, GRID[:8], tol=1e-8)
    alone = [probe.svm_path(X, (y == c).astype(int), GRID[:8], tol=1e-8) for c in range(10)]
    for c, path in enumerate(alone):
        np.testing.assert_allclose(together.coef[:, c], path.coef[:, 0], atol=2e-3 * np.abs(path.coef).max())
    assert together.reads < 0.5 * sum(path.reads for path in alone)


def test_sample_weights_are_repetitions() -> None:
    """A weight of two is the row twice; a weight of zero is no row."""
    X, y = digits(200, 3)
    w = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    weighted = probe.svm_path(X, y, [0.01, 10.0], sample_weight=w, tol=1e-9)
    repeated = probe.svm_path(np.repeat(X, w.astype(int), axis=0), np.repeat(y, w.astype(int)), [0.01, 10.0], tol=1e-9)
    np.testing.assert_allclose(weighted.coef, repeated.coef, atol=1e-6)
    np.testing.assert_allclose(weighted.objective, repeated.objective, rtol=1e-9)


def test_class_weight_multiplies_the_rows_of_a_class() -> None:
    """In every one-against-rest problem, unlike liblinear's."""
    X, y = digits(200, 3)
    weight = {0: 2.0, 1: 1.0, 2: 0.5}
    a = probe.fit_svm(X, y, C=0.01, class_weight=weight)
    b = probe.fit_svm(X, y, C=0.01, sample_weight=np.array([2.0, 1.0, 0.5])[y])
    np.testing.assert_allclose(a.coef, b.coef)


def test_multi_label_is_one_binary_problem_per_label() -> None:
    """Labels are lanes like classes, but predicted each by its own sign."""
    X, y = digits(300)
    Y = np.stack([y % 2, y > 4, y == 3], axis=1).astype(int)
    path = probe.svm_path(X, Y, [1e-3, 1.0], tol=1e-8)
    for j in range(3):
        single = probe.svm_path(X, Y[:, j], [1e-3, 1.0], tol=1e-8)
        np.testing.assert_allclose(path.coef[:, j], single.coef[:, 0], atol=1e-5)
    assert path.predict(X).shape == (2, 300, 3)
    assert (path.predict(X)[1] == Y).mean() > 0.98


def test_perfectly_separable_data_at_weak_penalty() -> None:
    """C = 1e6: the widest margin, finite and certified; support vectors at a margin of one, nobody inside."""
    X, y = digits(150, 3)
    path = probe.svm_path(X, y, [1.0, 1e6])
    assert path.status[1] is probe.Status.CONVERGED
    margins = signs(y, 3) * path.model(1).decision_function(X)
    np.testing.assert_allclose(margins.min(axis=0), 1.0, atol=1e-3)
    assert path.model(1).score(X, y) == 1.0


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_a_far_penalty_is_approached_in_decades(scale: float) -> None:
    """From zero Newton's method stalled on digits at C of 1e4 and more; rows of another length move where that is."""
    X, y = digits(1500)
    X = scale * X
    grid = [1e-2 / scale**2, 1e2 / scale**2, 1e6 / scale**2]
    alone, leaps = probe.svm_path(X, y, grid[-1:]), probe.svm_path(X, y, grid)
    for path, C in ((alone, grid[-1:]), (leaps, grid)):
        assert path.C.tolist() == C
        assert {s.value for s in path.status} == {"converged"}
        W, b, S = path.coef[-1], path.intercept[-1], signs(y, 10)
        for c in range(10):
            own = slice(c, c + 1)
            value, by_W, _ = hinge_value_and_gradient(W[own], b[own], X, S[:, own], C[-1])
            assert (by_W**2).sum() * C[-1] / 2 <= 1.1e-4 * value
    assert alone.passes[0] > leaps.passes[-1]  # those of the decades are its own


def test_one_column_that_is_constant_everywhere() -> None:
    """The intercept alone is fitted: to the difference of the class frequencies."""
    model = probe.fit_svm(np.ones((30, 2)), np.array([0] * 20 + [1] * 10))
    assert np.abs(model.coef).max() < 1e-9
    np.testing.assert_allclose(model.intercept, -1 / 3, atol=1e-9)


def test_a_label_that_is_constant_where_it_weighs_is_refused() -> None:
    """As one that is constant everywhere: there is nothing to fit, for a logistic intercept not even an optimum."""
    X, y = digits(100)
    Y = np.stack([y > 4, y % 2], axis=1).astype(int)
    for fit in (probe.svm_path, probe.ridge_path, probe.fit_path):
        with pytest.raises(
            probe.BadInput, match=r"\(columns \[1\]\) are the same in every one of the \d+ rows that have weight"
        ):
            fit(X, Y, [1.0], sample_weight=Y[:, 1])


@pytest.mark.parametrize("k", [2, 5])
def test_torch_gives_the_numpy_answer_in_torch(k: int) -> None:
    """The same code on another array library."""
    import torch

    X, y = digits(200, k)
    ours = probe.svm_path(X, y, GRID[3:9])
    path = probe.svm_path(torch.from_numpy(X), torch.from_numpy(y), GRID[3:9])
    assert isinstance(path.coef, torch.Tensor)
    assert all(s is probe.Status.CONVERGED for s in path.status)
    np.testing.assert_allclose(path.objective, ours.objective, rtol=1e-4)
    assert path.model(2).score(X, y) == ours.model(2).score(X, y)


@pytest.mark.gpu
def test_cuda_gives_the_numpy_answer() -> None:
    """The same certificate on the device."""
    X, y = digits(400)
    path = probe.svm_path(X.astype(np.float32), y, GRID, device="cuda")
    assert path.coef.device.type == "cuda"
    assert all(s is probe.Status.CONVERGED for s in path.status)
    np.testing.assert_allclose(path.objective, probe.svm_path(X, y, GRID).objective, rtol=1e-3)


def test_there_are_no_probabilities() -> None:
    """A sigmoid of a margin would look like one and mean nothing; the refusal survives pickling."""
    X, y = digits(100, 3)
    for model in (probe.fit_svm(X, y), probe.fit_ridge(X, y)):
        kept = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(kept.predict(X), model.predict(X))
        with pytest.raises(probe.BadInput, match=r"loss has no probabilities.*decision_function"):
            kept.predict_proba(X)


def test_selection_and_widening_fit_what_they_are_given() -> None:
    """Logistic fits joined to a path of support vectors would make scores of two kinds."""
    X, y = digits(200, 3)
    choice = probe.select_kfold(X, y, [1e-6, 1e-4], n_folds=3, fit=probe.svm_path)
    assert {path.loss for path in choice.paths} == {probe.Loss.SQUARED_HINGE}
    for fit in (probe.svm_path, probe.ridge_path):
        path = fit(X[:100], y[:100], [1e-7, 1e-6])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", probe.GridWidened)
            wide = probe.widen(path, X[:100], y[:100], X_val=X[100:], y_val=y[100:])
        assert len(wide.path) > 2
        assert wide.path.loss is path.loss
        again = fit(X[:100], y[:100], wide.path.C)
        np.testing.assert_allclose(wide.path.coef, again.coef, atol=1e-3 * np.abs(again.coef).max())
    with pytest.raises(probe.BadInput, match=r"different problems.*squared_hinge loss.*squared_error"):
        joined(probe.svm_path(X, y, [1.0]), probe.ridge_path(X, y, [1.0]))


def test_linear_probe_with_the_squared_hinge() -> None:
    """Kornblith's protocol in scikit-learn's words; predict_proba is not there, as scikit-learn asks of such classifiers."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer

    X, y = digits(400, 4)
    pipe = make_pipeline(Normalizer(), probe.LinearProbe(C="svm", loss="squared_hinge")).fit(X, y)
    clf = pipe[-1]
    assert clf.path_.loss is probe.Loss.SQUARED_HINGE
    assert len(clf.choice_.scores) == 26
    ours = probe.fit_svm(probe.l2_normalized(X), y, C=clf.C_)
    np.testing.assert_allclose(clf.coef_, ours.coef, atol=1e-3 * np.abs(ours.coef).max())
    assert not hasattr(clf, "predict_proba")
    assert hasattr(probe.LinearProbe(), "predict_proba")
    with pytest.raises(probe.BadInput, match=r"loss is 'hinge'.*'squared_hinge'"):
        probe.LinearProbe(loss="hinge").fit(X, y)


def test_one_c_and_bad_options_are_refused_in_words() -> None:
    """The same checks at the door as fit_path has."""
    X, y = digits(100, 3)
    with pytest.raises(probe.BadInput, match="fit_svm takes one C, got 2"):
        probe.fit_svm(X, y, C=[1.0, 2.0])  # type: ignore[arg-type]
    with pytest.raises(probe.BadInput, match="tol is 0"):
        probe.svm_path(X, y, tol=0.0)
    with pytest.raises(probe.BadInput, match="C must be positive"):
        probe.svm_path(X, y, [-1.0])
    with pytest.warns(probe.NotConverged, match="max_iter"):
        path = probe.svm_path(X, y, [1.0], max_iter=1, tol=1e-9)
    assert path.status[0] is probe.Status.MAX_ITER


def test_l2_normalized_rows() -> None:
    """Length one in the dtype that was given, whatever the scale of the row; zero rows stay zero, and are said."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 7)) * 10.0 ** rng.uniform(-3, 3, (50, 1))
    X[3], X[9] = 1e200 * X[3], 1e-200 * X[9]
    np.testing.assert_allclose(np.linalg.norm(probe.l2_normalized(X), axis=1), 1.0, rtol=1e-14)
    half = probe.l2_normalized((X[20:40] / 100).astype(np.float16))
    assert half.dtype == np.float16
    X[[5, 30]] = 0.0
    with pytest.warns(probe.ZeroRows, match=r"2 of 50 rows are zero \(first 5, 30\)"):
        found = probe.l2_normalized(X)
    assert (found[[5, 30]] == 0).all()
    X[7, 2] = np.nan
    with pytest.raises(probe.BadInput, match="first 7"):
        probe.l2_normalized(X)


def test_l2_normalized_equals_scikit_learn_and_stays_in_its_library() -> None:
    """scikit-learn's Normalizer; torch stays torch, and the strict reading of the standard is enough."""
    import array_api_strict
    import torch
    from sklearn.preprocessing import normalize

    X, _ = digits(50)
    np.testing.assert_allclose(probe.l2_normalized(X), normalize(X), atol=1e-15)
    assert isinstance(probe.l2_normalized(torch.from_numpy(X)), torch.Tensor)
    strict = probe.l2_normalized(array_api_strict.asarray(X))
    np.testing.assert_allclose(np.asarray(strict), normalize(X), atol=1e-15)


def test_a_streamed_path_is_the_path_in_memory() -> None:
    """The squared hinge from blocks of rows, certified; objectives of two certified fits differ by their gaps at most."""
    from problems import digits

    X, y = digits(600)
    whole, streamed = probe.svm_path(X, y), probe.svm_path(X, y, memory=X.nbytes // 3)
    assert {s.value for s in streamed.status} == {"converged"}
    assert (np.abs(streamed.objective / whole.objective - 1) <= streamed.gap + whole.gap + 1e-12).all()


def test_stored_rows_are_scaled_as_they_are_read() -> None:
    """The same numbers as of features in memory; rows of zeros are said once, however often they are read."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(50, 4)).astype(np.float32)
    X[[7, 31]] = 0
    stored = Normalized(Rows(X))
    with pytest.warns(probe.ZeroRows, match=r"2 of 50 rows are zero \(first 7, 31\)"):
        first = np.concatenate([block for _, block in stored.blocks(8)])
    again = np.concatenate([block for _, block in stored.select(np.arange(10)).blocks(8)])
    with pytest.warns(probe.ZeroRows):
        expected = probe.l2_normalized(X)
    assert np.array_equal(first, expected)
    assert np.array_equal(again, expected[:10])


class Rows:
    """As features of a store are read."""

    def __init__(self, X: np.ndarray) -> None:
        self.X, self.shape, self.dtype, self.ids = X, X.shape, X.dtype, np.arange(len(X)).astype(str)

    def blocks(self, rows: int) -> Iterator[tuple[slice, np.ndarray]]:
        for a in range(0, len(self.X), rows):
            yield slice(a, min(a + rows, len(self.X))), self.X[a : a + rows]

    def select(self, rows: np.ndarray) -> Rows:
        return Rows(self.X[rows])
