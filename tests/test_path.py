"""The path solver against certificates, scikit-learn and the definition, over a product of problems, dtypes and libraries."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from problems import Case, cases, digits

import probe
from probe.certificate import certify, meets
from probe.objective import Softmax, value_and_gradient
from probe.rotation import rotate

CASES = cases()
GRID = 10.0 ** np.linspace(-6, 5, 12)


def _codes(y: np.ndarray) -> np.ndarray:
    return np.unique(y, return_inverse=True)[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_every_fit_carries_a_true_certificate(case: Case, dtype: type) -> None:
    """Gradient and gap are recomputed from the definition at the returned point; a flattering certificate fails here."""
    X = case.X.astype(dtype)
    path = probe.fit_path(X, case.y, GRID)
    assert [s.value for s in path.status] == ["converged"] * len(GRID)
    assert meets(path.grad_norm, path.gap, path.coef_error, 1e-6).all()
    y, k = _codes(case.y), path.coef.shape[1]
    _, zero_W, zero_b = value_and_gradient(np.zeros((k, X.shape[1])), np.zeros(k), X, y, 1.0)
    scale = max(np.abs(zero_W).max(), np.abs(zero_b).max())
    for i, C in enumerate(GRID):
        value, by_W, by_b = value_and_gradient(path.coef[i], path.intercept[i], X, y, C)
        assert path.objective[i] == pytest.approx(C * value, rel=1e-7)  # the formula cancels where rows are fitted
        largest = max(np.abs(by_W).max(), np.abs(by_b).max())
        noise = 1e-13 * len(y)  # two orders of summation of the same numbers
        assert path.grad_norm[i] == pytest.approx(largest / scale, rel=1e-3, abs=noise)
        assert path.gap[i] * value == pytest.approx((by_W**2).sum() * C / 2, rel=1e-2, abs=1e-9 * value)
        assert np.abs(by_b).max() <= 1e-9 * scale


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_gap_bounds_the_distance_to_the_optimum(case: Case) -> None:
    """The bound must hold against the best value anyone finds: our own fit at a tolerance 10,000 times tighter."""
    loose = probe.fit_path(case.X, case.y, GRID[::2], tol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", probe.NotConverged)  # the tightest fits may end at rounding
        tight = probe.fit_path(case.X, case.y, GRID[::2], tol=1e-9)
    best = np.minimum(loose.objective, tight.objective)
    excess = (loose.objective - best) / loose.objective
    assert (excess <= loose.gap + 1e-12).all()
    distance = np.linalg.norm(loose.coef - tight.coef, axis=(1, 2)) / np.linalg.norm(loose.coef, axis=(1, 2))
    assert (distance <= loose.coef_error + tight.coef_error + 1e-9).all()


@pytest.mark.parametrize("C", [1e-4, 1.0, 100.0])
@pytest.mark.parametrize("case", CASES[:4], ids=lambda c: c.name)
def test_fits_equal_scikit_learn(case: Case, C: float) -> None:
    """The objective is scikit-learn's, in its own meaning of C: its Newton solver, run to the end, finds our coefficients."""
    from sklearn.linear_model import LogisticRegression

    X = case.X / np.abs(case.X).max(0).clip(1e-300)  # scikit-learn needs comparable columns to get there at all
    model = probe.fit(X, case.y, C=C, tol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its line search complains at its own rounding
        theirs = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12, max_iter=2000).fit(X, case.y)
    size = np.abs(theirs.coef_).max()
    np.testing.assert_allclose(
        model.coef, theirs.coef_, atol=1e-4 * size
    )  # theirs stops where its line search gives up
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), atol=1e-4)
    assert (model.predict(X) == theirs.predict(X)).mean() > 0.99


def test_sample_weights_are_repetitions() -> None:
    """A weight of two is the row twice; a weight of zero is no row."""
    X, y = digits(200, 3)
    w = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    weighted = probe.fit_path(X, y, [0.01, 10.0], sample_weight=w, tol=1e-9)
    repeated = probe.fit_path(np.repeat(X, w.astype(int), axis=0), np.repeat(y, w.astype(int)), [0.01, 10.0], tol=1e-9)
    np.testing.assert_allclose(weighted.coef, repeated.coef, atol=1e-6)
    np.testing.assert_allclose(weighted.objective, repeated.objective, rtol=1e-9)


def test_class_weight_balanced_is_the_formula() -> None:
    """n / (k · count) per class, as scikit-learn defines it."""
    X, y = digits(300, 3)
    X, y = X[50:], np.where(y[50:] == 2, 2, (np.arange(250) % 7 == 0).astype(int))
    factor = len(y) / (3 * np.bincount(y))
    a = probe.fit(X, y, C=0.01, class_weight="balanced", tol=1e-9)
    b = probe.fit(X, y, C=0.01, sample_weight=factor[y], tol=1e-9)
    np.testing.assert_allclose(a.coef, b.coef, atol=1e-8)


def test_without_an_intercept_nothing_is_centred() -> None:
    """The optimum without intercept is another one, with a zero gradient by W alone."""
    X, y = digits(200, 3)
    path = probe.fit_path(X, y, [1e-4, 1.0], fit_intercept=False)
    assert (path.intercept == 0).all()
    for i in range(2):
        _, by_W, _ = value_and_gradient(path.coef[i], np.zeros(3), X, y, path.C[i])
        _, zero, _ = value_and_gradient(0 * path.coef[i], np.zeros(3), X, y, path.C[i])
        assert np.abs(by_W).max() <= 1e-3 * np.abs(zero).max()
        assert path.grad_norm[i] == pytest.approx(np.abs(by_W).max() / np.abs(zero).max(), rel=1e-3)


def test_multi_label_is_one_binary_problem_per_label() -> None:
    """All labels in one batch give what one call per label gives."""
    X, y = digits(300)
    Y = np.stack([y % 2, y > 4, y == 3], axis=1).astype(int)
    path = probe.fit_path(X, Y, [1e-3, 1.0], tol=1e-8)
    assert path.coef.shape == (2, 3, 64)
    for j in range(3):
        single = probe.fit_path(X, Y[:, j], [1e-3, 1.0], tol=1e-8)
        np.testing.assert_allclose(path.coef[:, j], single.coef[:, 0], atol=1e-5)
    predicted = path.predict(X)
    assert predicted.shape == (2, 300, 3)
    assert (predicted[1] == Y).mean() > 0.99
    assert path.model(1).predict_proba(X).shape == (300, 3)


def test_the_order_of_the_grid_does_not_matter() -> None:
    """Penalties are solved from strong to weak whatever the order asked for, repeats included."""
    X, y = digits(200, 4)
    C = np.array([1.0, 1e-3, 1.0, 50.0])
    path = probe.fit_path(X, y, C)
    ordered = probe.fit_path(X, y, np.unique(C))
    np.testing.assert_array_equal(path.C, C)
    np.testing.assert_array_equal(path.coef, ordered.coef[[1, 0, 1, 2]])
    assert path.grad_norm.shape == path.gap.shape == path.n_iter.shape == path.passes.shape == (4,)


@pytest.mark.parametrize("k", [2, 5])
def test_torch_gives_the_numpy_answer_in_torch(k: int) -> None:
    """The same code on another array library: same certificate, answers of that library."""
    import torch

    X, y = digits(200, k)
    ours = probe.fit_path(X, y, GRID[3:9])
    path = probe.fit_path(torch.from_numpy(X).requires_grad_(), torch.from_numpy(y), GRID[3:9])
    assert not path.coef.requires_grad
    assert isinstance(path.coef, torch.Tensor)
    assert path.coef.dtype == torch.float64
    assert all(s is probe.Status.CONVERGED for s in path.status)
    np.testing.assert_allclose(path.coef.numpy(), ours.coef, atol=2e-3 * np.abs(ours.coef).max())
    np.testing.assert_allclose(path.objective, ours.objective, rtol=1e-4)
    scores = path.model(2).decision_function(torch.from_numpy(X))
    assert isinstance(scores, torch.Tensor)
    assert path.model(2).score(X, y) == ours.model(2).score(X, y)


def test_the_way_of_an_accelerator_leads_to_the_same_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """There penalties advance together and nothing is cut for a cache: on tensors of the host that are told to be elsewhere."""
    import torch

    from probe import arrays, design, objective, rows

    X, y = digits(300)
    ours = probe.fit_path(X, y)
    for module in (arrays, design, objective, rows):
        monkeypatch.setattr(module, "is_on_cpu", lambda x: False)
    path = probe.fit_path(torch.from_numpy(X.astype(np.float32)), y)
    assert all(s is probe.Status.CONVERGED for s in path.status)
    assert path.reads < ours.reads, "penalties share their passes"
    np.testing.assert_allclose(path.objective, ours.objective, rtol=1e-4)


@pytest.mark.gpu
def test_cuda_gives_the_numpy_answer() -> None:
    """The same certificate on the device, the answer stays there."""
    import torch

    X, y = digits(400)
    ours = probe.fit_path(X, y, GRID)
    path = probe.fit_path(X.astype(np.float32), y, GRID, device="cuda")
    assert isinstance(path.coef, torch.Tensor)
    assert path.coef.device.type == "cuda"
    assert all(s is probe.Status.CONVERGED for s in path.status)
    np.testing.assert_allclose(path.objective, ours.objective, rtol=1e-3)


def test_what_an_accelerator_does_otherwise_gives_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks of the host now and then, products for gathers, sums for products of one row: on tensors of the CPU."""
    import torch

    from probe import arrays, design, lbfgs, newton, objective, preconditioner, rows

    for module in (arrays, design, lbfgs, newton, objective, preconditioner, rows):
        monkeypatch.setattr(module, "is_on_cpu", lambda x: False)
    monkeypatch.setattr(preconditioner, "is_small", lambda *sizes: False)
    made: list[int] = []
    between = preconditioner._OnAccelerator.between

    def counted(pairs: Any, scores: Any) -> Any:
        assert pairs.member is not None
        made.append(int(scores.shape[1]))
        return between(pairs, scores)

    monkeypatch.setattr(preconditioner._OnAccelerator, "between", counted)
    X, y = digits(400)
    X = X.astype(np.float32)
    sets = [y, (y + y // 5) % 10, y[::-1].copy()]
    found = probe.fit_paths(torch.from_numpy(X), sets, GRID)
    alone = probe.fit_path(torch.from_numpy(X), y, GRID)
    assert {1, 2} <= set(made)
    monkeypatch.undo()
    for path, labels in zip((*found, alone), (*sets, y), strict=True):
        assert all(s is probe.Status.CONVERGED for s in path.status)
        np.testing.assert_allclose(path.objective, probe.fit_path(X, labels, GRID).objective, rtol=2e-5)


def test_half_precision_features_are_fitted_as_given() -> None:
    """float16 features are exact numbers: the fit is that of the same numbers in float64."""
    X, y = digits(200, 4)
    half = (X / 7.0).astype(np.float16)
    a, b = probe.fit_path(half, y, GRID[2:8]), probe.fit_path(half.astype(np.float64), y, GRID[2:8])
    np.testing.assert_allclose(a.objective, b.objective, rtol=1e-4)
    assert all(s is probe.Status.CONVERGED for s in a.status)


def test_rotation_is_exact() -> None:
    """Scores and penalties are the same in rotated coordinates, with more rows than columns and with fewer."""
    X, _ = digits(120)
    for rows in (X, X[:30]):
        rotation = rotate(rows)
        T = np.random.default_rng(0).normal(size=(1, 3, len(rotation.spectrum)))
        W, b = rotation.to_features(T)
        A = rotation.rows(rows, np.float64)
        np.testing.assert_allclose(A @ T[0].T, rows @ W[0].T + b[0], atol=1e-9)
        assert (W**2).sum() == pytest.approx((T[..., :-1] ** 2).sum())
        np.testing.assert_allclose(rotation.from_features(W, b), T, atol=1e-9)
        np.testing.assert_allclose((A**2).sum(0), rotation.spectrum, rtol=1e-9, atol=1e-6)
        assert len(rotation.spectrum) <= min(rows.shape[0] - 1, rows.shape[1]) + 1


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_one_column_of_absurd_scale_does_not_hide_the_others(scale: float) -> None:
    """A Gram matrix in float64 holds 16 digits: with one column at 1e8 the rotation would drop all ordinary ones."""
    X, y = digits(200, 3)
    spoilt = np.concatenate([X, scale * np.random.default_rng(0).normal(size=(len(y), 1))], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", probe.NotConverged)
        path = probe.fit_path(spoilt, y, [1e-4, 1e-2])
    assert path.model(1).score(spoilt, y) > 0.98
    for i, status in enumerate(path.status):  # whatever it says must be true
        value, by_W, _ = value_and_gradient(path.coef[i], path.intercept[i], spoilt, _codes(y), path.C[i])
        assert status is not probe.Status.CONVERGED or path.gap[i] <= 1e-4
        assert (by_W**2).sum() * path.C[i] / 2 <= path.gap[i] * value * 1.1 + 1e-9 * value


def test_perfectly_separable_data_at_weak_penalty() -> None:
    """C = 1e6 on separable data: finite, certified, everything fitted."""
    X, y = digits(150, 3)
    path = probe.fit_path(X, y, [1.0, 1e6])
    assert np.isfinite(path.coef).all()
    assert path.status[1] is probe.Status.CONVERGED
    assert path.model(1).score(X, y) == 1.0


def test_many_classes_with_five_rows_each() -> None:
    """k = 200 with five rows a class, more classes than a small batch: certified like any other."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(200), 5)
    X = rng.normal(size=(200, 30))[y] + 0.5 * rng.normal(size=(1000, 30))
    path = probe.fit_path(X.astype(np.float32), y, [1e-3, 1e-1, 10.0])
    assert all(s is probe.Status.CONVERGED for s in path.status)
    assert path.model(2).score(X, y) > 0.95


def test_fewer_rows_than_classes_is_possible() -> None:
    """n < k cannot happen with observed classes, n = k can: one row per class."""
    X, y = digits(50)
    first = [int(np.flatnonzero(y == c)[0]) for c in range(10)]
    path = probe.fit_path(X[first], y[first], [1e-2, 1e2])
    assert (path.predict(X[first])[1] == y[first]).all()


def test_text_labels_and_validation_scores() -> None:
    """Labels of any kind; classes of val that train has not are mistakes, not crashes."""
    X, y = digits(300, 4)
    names = np.array(["zero", "one", "two", "three"])[y]
    seen = y < 3
    path = probe.fit_path(X[seen], names[seen], GRID[3:9], X_val=X, y_val=names)
    assert set(path.classes.tolist()) == {"zero", "one", "two"}
    assert path.val_scores is not None
    assert path.val_scores.max() == pytest.approx(seen.mean(), abs=0.02)
    choice = probe.select(path, X, names)
    np.testing.assert_array_equal(choice.scores, path.val_scores)


def test_select_takes_the_strongest_of_equal_penalties() -> None:
    """On a tie the smallest C wins, whatever the order; the edges of the grid are told."""
    X, y = digits(200, 2)
    path = probe.fit_path(X, y, [100.0, 0.01, 1.0])
    choice = probe.select(path, X, y)
    assert (choice.scores == 1.0).sum() >= 2
    assert min(path.C[choice.scores == 1.0]) == choice.C
    assert choice.at_edge == (choice.C in (0.01, 100.0))
    assert choice.index == list(path.C).index(choice.C)


def test_a_fit_that_falls_short_says_so() -> None:
    """Two iterations are not enough: one warning that names the Cs, statuses that say why, a certificate all the same."""
    X, y = digits(200)
    with pytest.warns(probe.NotConverged, match=r"C = .*max_iter") as caught:
        path = probe.fit_path(X, y, [1.0, 100.0], max_iter=2)
    assert len(caught) == 1
    assert path.status[1] is probe.Status.MAX_ITER
    assert path.gap[1] > 1e-4
    assert np.isfinite(path.objective).all()
    assert "iterations" in path.status[1].sentence


@pytest.mark.parametrize(
    "call",
    [
        lambda X, y: probe.fit_path(X, y, [1.0], max_iter=1),
        lambda X, y: probe.fit(X, y, 1.0, max_iter=1),
        lambda X, y: probe.fit_paths(X, [y], [1.0], max_iter=1),
        lambda X, y: probe.svm_path(X, y, [1.0], max_iter=1),
        lambda X, y: probe.LinearProbe(1.0, max_iter=1).fit(X, y),
        lambda X, y: probe.LinearProbe([0.1, 1.0], max_iter=1, cv=2).fit(X, y),
        lambda X, y: probe.select_kfold(X, y, [1.0], n_folds=2, max_iter=1),
    ],
)
def test_a_warning_points_at_who_asked(call: Any) -> None:
    """However many calls of ours are between."""
    with pytest.warns(probe.NotConverged) as caught:
        call(*digits(200))
    assert {one.filename for one in caught} == {__file__}


@pytest.mark.parametrize("i", [1.0, "0", True, 2, -3, None])
def test_a_fit_has_a_number(i: Any) -> None:
    """C = 1.0 is no number of a fit, and neither is what lies beyond the last one."""
    path = probe.fit_path(*digits(60, 2), [0.1, 1.0])
    assert path.model(-1).C == path.model(np.int64(1)).C == 1.0
    with pytest.raises(probe.BadInput, match=r"numbered 0 to 1, so there is no fit number"):
        path.model(i)


def test_fits_of_one_certificate_are_certified_as_alone() -> None:
    """Fits whose intercepts are there leave the others to themselves; far-off intercepts take steps that these must not see."""
    X, y = digits(300)
    hot = (y[None, :] == np.unique(y)[:, None]).astype(float)
    loss = Softmax(hot[None])
    rng = np.random.default_rng(0)
    W = rng.normal(0, 0.02, (4, 1, 10, X.shape[1]))
    near = certify(X, loss, W[:1], np.zeros((1, 1, 10)), np.ones(1), np.ones(1))[1][0, 0]
    b = np.stack([near, near + rng.normal(0, 1e-3, 10), rng.normal(0, 0.3, 10), rng.normal(0, 3, 10)])[:, None]
    l2 = np.array([1.0, 0.1, 10.0, 1e-3])
    together, moved = certify(X, loss, W, b, l2, np.ones(1))
    for i in range(4):
        alone, own = certify(X, loss, W[i : i + 1], b[i : i + 1], l2[i : i + 1], np.ones(1))
        for name in ("objective", "grad_norm", "gap", "coef_error"):
            assert getattr(together, name)[i] == pytest.approx(getattr(alone, name)[0], rel=1e-9)
        np.testing.assert_allclose(moved[i], own[0], rtol=0, atol=1e-9)
        _, _, by_b = value_and_gradient(W[i, 0], moved[i, 0], X, y, 1 / l2[i])
        assert np.abs(by_b).max() < 1e-7


def test_penalties_far_apart_are_as_good_as_close_ones() -> None:
    """The inverse of a Hessian is kept as long as it serves, also along a grid with jumps and labels that are half noise."""
    X, y = digits(400)
    noisy = np.where(np.random.default_rng(0).random(len(y)) < 0.5, np.random.default_rng(1).permutation(y), y)
    close = probe.fit_path(X, noisy, GRID)
    for grid in (GRID[::2], GRID[::4], GRID[[0, -1]], GRID[[3, 4, 11]]):
        path = probe.fit_path(X, noisy, grid)
        assert [s.value for s in path.status] == ["converged"] * len(grid)
        np.testing.assert_allclose(path.objective, close.objective[np.isin(close.C, grid)], rtol=3e-6)


BAD = [
    (lambda X, y: (X, y[:-1], {}), "200 rows but y has 199"),
    (lambda X, y: (X, np.zeros(200), {}), "only one class"),
    (lambda X, y: (X[:0], y[:0], {}), "0 sample"),
    (lambda X, y: (X[:, 0], y, {}), "Expected 2D array"),
    (lambda X, y: (X, y, {"C": [1.0, -1.0]}), "C must be positive"),
    (lambda X, y: (X, y, {"C": []}), "one or more values"),
    (lambda X, y: (X, y, {"tol": 0.0}), "tol is 0.0"),
    (lambda X, y: (X, y, {"sample_weight": np.full(200, -1.0)}), "not negative"),
    (lambda X, y: (X, y, {"sample_weight": (y > 0).astype(float)}), "weight zero"),
    (lambda X, y: (X, y + 0.5, {}), "continuous"),
    (lambda X, y: (X, np.where(y == 0, np.nan, y), {}), "labels are missing"),
    (lambda X, y: (X, np.where(y == 0, np.nan, y.astype(object)), {}), r"contains nan: \d+ labels are missing"),
    (
        lambda X, y: (X, np.where(y == 0, None, y.astype(str).astype(object)), {}),
        r"contains None: \d+ labels are missing",
    ),
    (lambda X, y: (X, np.where(y == 0, np.datetime64("NaT"), np.datetime64(2000, "Y") + y), {}), "labels are missing"),
    (lambda X, y: (X, np.stack([y, y], 1), {}), "0 and 1 only"),
    (lambda X, y: (X, np.zeros((200, 0), int), {}), "no label at all"),
    (lambda X, y: (X, np.array(["a", 1] * 100, object), {}), r"several kinds \(int, str\)"),
    (lambda X, y: (X, np.array(["a"] * 200), {}), "only one class, 'a', in all 200 rows"),
    (lambda X, y: (X, y, {"C": "path"}), "it is 'path'"),
    (lambda X, y: (X, y, {"C": [0.0]}), r"first 0\.0\)"),
    (lambda X, y: (X, y, {"X_val": X}), "go together"),
    (lambda X, y: (X, y, {"C": [1e-300]}), "outside 1e-30"),
    (lambda X, y: (X, y, {"device": "nowhere"}), "cannot be moved to device 'nowhere'"),
    (lambda X, y: (X * 1e200, y, {}), "beyond float64"),
    (lambda X, y: (np.ma.masked_less(X, 1), y, {}), "masked array"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_input_gets_one_clear_error(spoil: object, message: str) -> None:
    """One sentence with the values, before anything is computed."""
    X, y = digits(200, 3)
    a, b, options = spoil(X, y)  # type: ignore[operator]
    with pytest.raises(probe.BadInput, match=message):
        probe.fit_path(a, b, **options)


def test_nan_and_infinity_name_rows_and_columns() -> None:
    """A user must be able to find the sample."""
    X, y = digits(200, 3)
    X[17, 5], X[40, 9] = np.nan, np.inf
    with pytest.raises(probe.BadInput, match=r"2 of 200 rows \(first 17, 40\).*columns \(first 5, 9\)"):
        probe.fit_path(X, y)


def test_nan_in_validation_features_is_refused() -> None:
    """Else the rows of a damaged validation set get a class like any other, and C is chosen by them."""
    X, y = digits(100, 3)
    path = probe.fit_path(X, y, [0.1, 1.0])
    spoilt = X.copy()
    spoilt[7, 2], spoilt[9, 3] = np.nan, np.inf
    for ask in (lambda: probe.select(path, spoilt, y), lambda: path.model(0).predict(spoilt)):
        with pytest.raises(probe.BadInput, match=r"2 of 100 rows \(first 7, 9\)"):
            ask()


def test_validation_labels_of_another_kind_are_refused() -> None:
    """Every accuracy would be 0, and the strongest penalty chosen in silence."""
    X, y = digits(100, 3)
    path = probe.fit_path(X, y, [0.1, 1.0])
    with pytest.raises(probe.BadInput, match=r"knows the classes \[0, 1, 2\] and none of the 100 .*first is 'cat'"):
        probe.select(path, X, ["cat"] * 100)
    assert probe.select(path, X, np.where(y == 2, 9, y)).scores.max() > 0.3  # a class that train lacks is a mistake


def test_one_column_that_is_constant_everywhere() -> None:
    """Nothing to learn from: the intercept alone is fitted, to the class frequencies."""
    X = np.ones((30, 2))
    y = np.array([0] * 20 + [1] * 10)
    model = probe.fit(X, y, C=1.0)
    assert np.abs(model.coef).max() < 1e-9
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], 1 / 3, atol=1e-6)


def test_labels_weigh_rows_in_their_own_way() -> None:
    """Weights (n, k) of multi-label data: zero leaves an entry out of the fit of its label and of no other's."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(120, 6))
    y = (X[:, :3] + rng.normal(size=(120, 3)) > 0).astype(int)
    weight = (rng.random((120, 3)) > 0.2) * rng.integers(1, 3, (120, 3)).astype(float)
    path = probe.fit_path(X, y, [0.1, 10.0], sample_weight=weight)
    for j in range(3):
        rows = np.repeat(np.arange(120), weight[:, j].astype(int))
        alone = probe.fit_path(X[rows], y[rows, j], [0.1, 10.0])
        np.testing.assert_allclose(path.coef[:, j], alone.coef[:, 0], atol=1e-3)
    for wrong, sentence in (
        ((X, y[:, 0]), r"must be \(120,\)"),
        ((X, np.where(weight > 0, y, 2)), "2 marks difficult entries"),
    ):
        with pytest.raises(probe.BadInput, match=sentence):
            probe.fit_path(*wrong, sample_weight=weight)
    with pytest.raises(probe.BadInput, match="one factorisation"):
        probe.ridge_path(X, y, sample_weight=weight)
