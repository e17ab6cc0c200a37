"""Who solves: every backend gives one answer, where the features live, under one certificate; conventions of other libraries."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import digits

import probe
from probe import backends, engines
from probe.arrays import is_out_of_memory, to_library
from probe.certificate import meets
from probe.engines import Aim, Problem
from probe.labels import encode
from probe.objective import value_and_gradient

GRID = [1e-3, 1e-1, 10.0]


def _problem(kind: str) -> tuple[np.ndarray, np.ndarray]:
    X, y = digits(200, 2 if kind == "binary" else 4)
    return X / 16, np.stack([y % 2, y > 1], axis=1).astype(int) if kind == "multi-label" else y


@pytest.mark.parametrize("backend", ["numpy", "torch", "sklearn"])
@pytest.mark.parametrize("kind", ["binary", "multinomial", "multi-label"])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_every_backend_finds_the_same_optimum(backend: str, kind: str, is_weighted: bool) -> None:
    """One objective and one tolerance whoever solves; a forgotten n or a weight in the wrong place gives another model."""
    X, y = _problem(kind)
    weight = np.random.default_rng(0).uniform(0.1, 5.0, len(y)) if is_weighted else None
    ours = probe.fit_path(X, y, GRID, sample_weight=weight, tol=1e-9)
    path = probe.fit_path(X, y, GRID, sample_weight=weight, backend=backend, tol=1e-7)
    assert isinstance(path.coef, np.ndarray)
    assert path.coef.shape == ours.coef.shape
    assert [s.value for s in path.status] == ["converged"] * 3
    assert meets(path.grad_norm, path.gap, path.coef_error, 1e-7).all()
    np.testing.assert_allclose(path.objective, ours.objective, rtol=1e-5)
    size = np.linalg.norm(ours.coef, axis=(1, 2))
    distance = np.linalg.norm(path.coef - ours.coef, axis=(1, 2)) / size
    assert (distance <= path.coef_error + ours.coef_error + 1e-12).all()
    assert (path.n_iter > 0).all()


@pytest.mark.parametrize("backend", ["auto", "numpy", "torch", "sklearn"])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_the_answer_comes_back_to_where_the_features_are(backend: str, fit_intercept: bool) -> None:
    """Tensors in, tensors out, whoever solved; lists are numpy's."""
    import torch

    X, y = _problem("multinomial")
    path = probe.fit_path(torch.from_numpy(X), y, GRID, backend=backend, fit_intercept=fit_intercept)
    assert isinstance(path.coef, torch.Tensor)
    assert isinstance(path.intercept, torch.Tensor)
    assert path.coef.dtype == path.intercept.dtype == torch.float64
    assert bool((path.intercept == 0).all()) == (not fit_intercept)
    listed = probe.fit_path(X.tolist(), y.tolist(), GRID, backend=backend, fit_intercept=fit_intercept)
    assert isinstance(listed.coef, np.ndarray)
    np.testing.assert_allclose(path.objective, listed.objective, rtol=1e-4)


@pytest.mark.parametrize("backend", ["numpy", "torch", "sklearn"])
def test_the_certificate_is_that_of_the_definition(backend: str) -> None:
    """Recomputed from the formula at the returned point: nobody's word is taken, whoever solved."""
    X, y = _problem("multinomial")
    path = probe.fit_path(X, y, GRID, backend=backend)
    _, zero_W, zero_b = value_and_gradient(np.zeros((4, 64)), np.zeros(4), X, y, 1.0)
    for i, C in enumerate(GRID):
        value, by_W, _ = value_and_gradient(path.coef[i], path.intercept[i], X, y, C)
        scale = max(np.abs(zero_W).max(), np.abs(zero_b).max())
        assert path.grad_norm[i] == pytest.approx(np.abs(by_W).max() / scale, rel=1e-3, abs=1e-11)
        assert path.gap[i] * value == pytest.approx((by_W**2).sum() * C / 2, rel=1e-2, abs=1e-9 * value)


def test_float32_that_stalls_in_scikit_learn_goes_on_in_float64() -> None:
    """Its float32 gradients end near 1e-4: without the second precision `tol` would mean something else there."""
    X, y = digits(400)
    path = probe.fit_path(X.astype(np.float32), y, [1e-6, 1e-3, 1e-2], backend="sklearn", max_iter=3000)
    assert path.precision.tolist() == ["float32", "float64", "float64"]
    assert all(s is probe.Status.CONVERGED for s in path.status)


@pytest.mark.parametrize("C", [1e3, 1e5])
def test_a_small_gradient_alone_is_not_the_end(C: float) -> None:
    """On rows that are all fitted scikit-learn's rule is met far from the optimum: it is asked for more until the gap is closed."""
    X, y = _problem("multinomial")
    labels = encode(y, len(y))
    one = Problem(X, labels.codes[0], labels.k, None, True)
    once = engines.fit_sklearn(one, Aim(1 / C, 1e-4, np.log(4), one.mass, len(y)), 5000)
    value, by_W, _ = value_and_gradient(once.W, once.b, X, y, C)
    assert (by_W**2).sum() * C / 2 > 0.1 * value
    path = probe.fit_path(X, y, [C], backend="sklearn", tol=1e-4, max_iter=5000)
    assert path.status[0] is probe.Status.CONVERGED
    assert path.gap[0] <= 1e-2


def test_another_solver_that_falls_short_is_found_out() -> None:
    """Five iterations are not enough, and ten decades of C are too much: said once, with the status that is true."""
    X, y = digits(400)
    with pytest.warns(probe.NotConverged, match=r"2 of 2 fits fall short .*max_iter") as said:
        path = probe.fit_path(X, y, [1.0, 100.0], backend="sklearn", max_iter=5)
    assert said[0].filename == __file__
    assert path.status == (probe.Status.MAX_ITER,) * 2
    assert (path.n_iter == 5).all()
    assert not meets(path.grad_norm, path.gap, path.coef_error, 1e-6).any()
    with pytest.warns(probe.NotConverged):
        hard = probe.fit_path(X, y, [1.0, 1e5], backend="sklearn", max_iter=3000)
    for status, *bounds in zip(hard.status, hard.grad_norm, hard.gap, hard.coef_error, strict=True):
        assert (status is probe.Status.CONVERGED) == bool(meets(*map(np.asarray, bounds), 1e-6))


@pytest.mark.parametrize("backend", ["torch", "numpy", "sklearn"])
def test_half_precision_is_taken_by_every_backend(backend: str) -> None:
    """float16, and torch's bfloat16 which numpy lacks, are exact numbers: the fit is that of the same numbers in float64."""
    import torch

    X, y = _problem("multinomial")
    for half in (X.astype(np.float16), torch.from_numpy(X).to(torch.bfloat16)):
        whole = half.astype(np.float64) if isinstance(half, np.ndarray) else half.to(torch.float64).numpy()
        path = probe.fit_path(half, y, GRID, backend=backend)
        np.testing.assert_allclose(path.objective, probe.fit_path(whole, y, GRID).objective, rtol=1e-4)
        assert type(path.coef).__module__.partition(".")[0] == type(half).__module__.partition(".")[0]


def test_torch_shares_the_memory_of_numpy() -> None:
    """Features of many gigabytes are not doubled; what torch cannot share is copied, without its warning or its error."""
    X, y = _problem("multinomial")
    assert to_library(X, "torch").data_ptr() == X.ctypes.data
    assert to_library(to_library(X, "torch"), "numpy").ctypes.data == X.ctypes.data
    frozen = X.copy()
    frozen.flags.writeable = False
    expected = probe.fit_path(X, y, GRID).objective
    for odd in (frozen, X[::-1][::-1], np.asfortranarray(X)[:, ::-1][:, ::-1], X.astype(">f8")):
        found = probe.fit_path(odd, y, GRID, backend="torch").objective
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    reversed_rows = probe.fit_path(X[::-1], y[::-1], GRID, backend="torch")
    np.testing.assert_allclose(reversed_rows.objective, expected, rtol=1e-4)


def test_selections_and_the_estimator_pass_the_backend_on() -> None:
    """One parameter everywhere; the estimator's model stays with its features whatever computed it."""
    import torch

    X, y = _problem("multinomial")
    expected = probe.select_kfold(X, y, GRID, n_folds=3)
    for backend in ("torch", "sklearn"):
        chosen = probe.select_kfold(X, y, GRID, n_folds=3, backend=backend, device="cpu")
        np.testing.assert_allclose(chosen.scores, expected.scores, atol=0.01)
    clf = probe.LinearProbe(GRID, backend="torch", device="cpu", tol=1e-6).fit(X, y)
    assert isinstance(clf.coef_, np.ndarray)
    np.testing.assert_allclose(clf.predict_proba(X), probe.LinearProbe(GRID).fit(X, y).predict_proba(X), atol=1e-3)
    tensors = probe.LinearProbe(C=0.1, backend="sklearn", device="cpu", tol=1e-6).fit(torch.from_numpy(X), y)
    assert isinstance(tensors.coef_, torch.Tensor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "pytorch"}, "no backend 'pytorch'; did you mean 'torch'"),
        ({"backend": "jax"}, "no backend 'jax'; known are 'auto'"),
        ({"backend": "numpy", "device": "cuda"}, "'numpy' computes on the host, but device is 'cuda'"),
        ({"backend": "sklearn", "device": "cuda:1"}, "'sklearn' computes on the host, but device is 'cuda:1'"),
        ({"backend": "cupy", "device": "cpu"}, "'cupy' computes on a GPU, but device is 'cpu'"),
        ({"backend": "cuml", "device": "cpu"}, "'cuml' computes on a GPU, but device is 'cpu'"),
    ],
)
def test_backends_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    """Nothing is moved in silence to where it was not asked to go; the same words from every function."""
    X, y = _problem("binary")
    asks = (
        lambda: probe.fit_path(X, y, GRID, **options),
        lambda: probe.fit(X, y, **options),
        lambda: probe.select_holdout(X, y, GRID, **options),
        lambda: probe.LinearProbe(C=1.0, **options).fit(X, y),
    )
    for ask in asks:
        with pytest.raises(probe.BadInput, match=message):
            ask()


@pytest.mark.parametrize(("backend", "library"), [("cupy", "cupy"), ("cuml", "cuml")])
def test_a_missing_library_names_the_extra(backend: str, library: str) -> None:
    """One clear sentence, an ImportError for those who catch one."""
    if importlib.util.find_spec(library) is not None:
        pytest.skip(f"{library} is installed")
    X, y = _problem("binary")
    with pytest.raises(probe.MissingExtra, match=r"install featprobe\[cuda12\] or featprobe\[cuda13\]") as raised:
        probe.fit_path(X, y, GRID, backend=backend)
    assert isinstance(raised.value, ImportError)
    if backend == "cuml":
        aim = Aim(1.0, 1e-6, 1.0, 200.0, 200)
        one = Problem(X, y, 1, None, True)
        for fit in (engines.fit_cuml, engines.fit_cuml_estimator):
            with pytest.raises(probe.MissingExtra):
                fit(one, aim, 10, None)


def test_the_extras_that_errors_name_exist() -> None:
    """An error that sends the user to an extra that is not there is worse than none."""
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for cuda in ("cuda12", "cuda13"):
        assert any(r.startswith("cupy") for r in extras[cuda])
        assert any(r.startswith("cuml") for r in extras[cuda])


@pytest.mark.parametrize("k", [2, 4])
def test_scikit_learns_tol_is_the_gradient_of_the_mean(k: int) -> None:
    """The translation is checked on the library itself: it stops once ‖∇‖∞ of the mean form is below tol, weights included."""
    X, y = digits(200, k)
    weight = np.random.default_rng(1).uniform(0.5, 8.0, len(y))
    rows = 1 if k == 2 else k
    one = Problem(X / 16, y, rows, weight, True)
    start = None
    for gradient in (1e-2, 1e-3, 1e-4, 1e-5):
        aim = Aim(0.5, gradient, np.log(k), one.mass, len(y))
        start = engines.fit_sklearn(one, aim, 5000, start)
        _, by_W, by_b = value_and_gradient(start.W, start.b, one.X, y, 1 / aim.l2, weight)
        reached = max(np.abs(by_W).max(), np.abs(by_b).max()) / one.mass
        assert reached <= gradient * (1 + 1e-6)
        assert reached > gradient / 50  # and not far below: a tol of the sum would be 900 times as strict
    again = engines.fit_sklearn(one, aim, 5000, start)
    assert again.n_iter == 0  # a warm start that is not taken would begin anew


@given(st.floats(1e-14, 1.0), st.floats(1e-9, 1e3), st.floats(0.0, 1.0))
def test_cumls_tol_is_never_looser_than_what_is_wanted(gradient: float, bound: float, share: float) -> None:
    """cuML stops at ‖∇‖∞ ≤ tol · max(F, tol), F unknown beforehand but for its bound; there the translation is exact."""
    tol = Aim(1.0, gradient, bound, 100.0, 100).cuml_tol
    assert tol * max(share * bound, tol) <= gradient * (1 + 1e-12)
    assert tol * max(bound, tol) == pytest.approx(gradient, rel=1e-12)


def test_cumls_penalty_has_our_optimum() -> None:
    """At our optimum the gradient of what cuML documents, mean loss + ½ (l2 / n) ‖W‖² with weights of sum n, must vanish."""
    X, y = digits(150, 3)
    X = X / 16
    weight = np.random.default_rng(2).uniform(0.5, 8.0, len(y))
    model = probe.fit(X, y, C=0.7, sample_weight=weight, tol=1e-10)
    aim = Aim(1 / 0.7, 1e-6, 1.0, float(weight.sum()), len(y))
    one = Problem(X, y, 3, weight, True)
    given_weight = engines._cuml_weights(one)
    assert given_weight is not None
    assert given_weight.sum() == pytest.approx(len(y))
    _, by_W, by_b = value_and_gradient(model.coef, model.intercept, X, y, 1e300, given_weight)  # the losses alone
    by_W = by_W / len(y) + aim.cuml_l2 / len(y) * model.coef
    assert np.abs(by_W).max() < 1e-9
    assert np.abs(by_b).max() / len(y) < 1e-9


class _StandInQN:
    """cuML's solver as its documentation has it: parameters, attributes, objective and stopping rule; scipy does the work."""

    def __init__(
        self, *, loss: str = "sigmoid", fit_intercept: bool = True, l1_strength: float = 0.0, l2_strength: float = 0.0,
        max_iter: int = 1000, tol: float = 1e-4, delta: float | None = None, linesearch_max_iter: int = 50,
        lbfgs_memory: int = 5, verbose: bool = False, output_type: str | None = None, warm_start: bool = False,
        penalty_normalized: bool = True,
    ) -> None:  # fmt: skip
        self.__dict__.update({name: value for name, value in locals().items() if name != "self"})

    def set_params(self, **parameters: Any) -> None:
        assert set(parameters) <= set(self.__dict__)
        self.__dict__.update(parameters)

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> None:
        from scipy.optimize import minimize

        n, d = X.shape
        k = int(y.max()) + 1
        rows = 1 if k == 2 else k
        assert self.loss == ("sigmoid" if rows == 1 else "softmax")
        assert self.delta == 0
        assert y.dtype == np.int32
        assert self.penalty_normalized
        assert isinstance(X, np.ndarray), "tensors are for torch"
        assert self.__dict__.setdefault("dtype", X.dtype) == X.dtype, "older releases go on in memory of another dtype"
        weight = np.ones(n) if sample_weight is None else sample_weight

        def of(point: np.ndarray) -> tuple[float, np.ndarray]:
            W, b = point[: rows * d].reshape(rows, d), point[rows * d :] if self.fit_intercept else np.zeros(rows)
            value, by_W, by_b = value_and_gradient(W, b, X, y, 1 / self.l2_strength, weight)
            gradient = [by_W.ravel(), by_b] if self.fit_intercept else [by_W.ravel()]
            return value / n, np.concatenate(gradient) / n

        def is_enough(point: np.ndarray) -> None:
            value, gradient = of(point)
            if np.abs(gradient).max() <= self.tol * max(value, self.tol):
                raise StopIteration

        if not (self.warm_start and hasattr(self, "point")):
            self.point = np.zeros(rows * d + rows * self.fit_intercept)
        options = {"maxiter": self.max_iter, "gtol": 0.0, "ftol": 0.0, "maxcor": self.lbfgs_memory}
        found = minimize(of, self.point, jac=True, method="L-BFGS-B", callback=is_enough, options=options)
        self.point, self.n_iter_ = found.x, found.nit
        self.coef_ = self.point[: rows * d].reshape(rows, d)
        self.intercept_ = self.point[rows * d :] if self.fit_intercept else np.zeros(rows)


class _StandInRegression(_StandInQN):
    """cuML's LogisticRegression: its solver with l2_strength = 1 / C, from zero every time."""

    def __init__(self, *, C: float, tol: float, max_iter: int, fit_intercept: bool, output_type: str) -> None:
        super().__init__(
            l2_strength=1 / C,
            tol=tol,
            max_iter=max_iter,
            fit_intercept=fit_intercept,
            output_type=output_type,
            delta=0.0,
        )

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> None:
        self.loss = "sigmoid" if y.max() == 1 else "softmax"
        super().fit(X, y, sample_weight)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cuML that runs without a GPU; the real one is in `test_cuml_finds_our_optimum`."""
    package, solvers, linear_model = (ModuleType(f"cuml{part}") for part in ("", ".solvers", ".linear_model"))
    solvers.QN, linear_model.LogisticRegression = _StandInQN, _StandInRegression  # type: ignore[attr-defined]
    package.solvers, package.linear_model = solvers, linear_model  # type: ignore[attr-defined]
    for module in (package, solvers, linear_model):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize("kind", ["binary", "multinomial", "multi-label"])
@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.usefixtures("stand_in")
def test_what_is_told_to_cuml_and_read_from_it(kind: str, is_weighted: bool) -> None:
    """Names, shapes, warm starts and conventions on this side, against a solver written from cuML's documentation."""
    X, y = _problem(kind)
    weight = np.random.default_rng(0).uniform(0.1, 5.0, len(y)) if is_weighted else None
    ours = probe.fit_path(X, y, GRID, sample_weight=weight)
    path = probe.fit_path(X, y, GRID, sample_weight=weight, backend="cuml")
    assert [s.value for s in path.status] == ["converged"] * 3
    np.testing.assert_allclose(path.objective, ours.objective, rtol=2e-4)
    free = probe.fit_path(X, y, GRID, sample_weight=weight, backend="cuml", fit_intercept=False)
    assert (free.intercept == 0).all()
    assert (free.objective >= path.objective * (1 - 1e-4)).all()


@pytest.mark.usefixtures("stand_in")
def test_cuml_begins_anew_where_the_precision_changes() -> None:
    """Its releases until 25.10 would read the float32 of the fit before as float64, and write past its end."""
    import torch

    X, y = _problem("multinomial")
    labels = encode(y, len(y))
    aim = Aim(1.0, 1e-3, np.log(4), float(len(y)), len(y))
    walk, last = engines.cuml_walk(), None
    for given_X in (X.astype(np.float32), torch.from_numpy(X.astype(np.float32)), X, torch.from_numpy(X)):
        last = walk(Problem(given_X, labels.codes[0], labels.k, None, True), aim, 2000, last)
    assert last is not None
    assert last.n_iter <= 5, "the same precision goes on where it was, whichever library it comes in"


@pytest.mark.parametrize("holder", ["n_iter_", "num_iters", "solver_model"])
def test_iterations_are_found_in_every_release_of_cuml(holder: str) -> None:
    """The solver's name for them changed twice, and the estimator did not have them at first."""
    inner = SimpleNamespace(num_iters=7)
    assert engines._iterations(SimpleNamespace(**{holder: inner if holder == "solver_model" else 7})) == 7


@pytest.mark.usefixtures("stand_in")
def test_rivals_can_be_called_one_fit_at_a_time() -> None:
    """What a benchmark times: one fit, an aim, no certificate; the estimator starts from zero, the walk where it stopped."""
    X, y = _problem("multinomial")
    labels = encode(y, len(y))
    one = Problem(X, labels.codes[0], labels.k, None, True)
    aim = Aim(1.0, 1e-6, np.log(4), one.mass, len(y))
    best = probe.fit(X, y, C=1.0, tol=1e-9)
    walk = engines.cuml_walk()
    for fit in (engines.fit_sklearn, engines.fit_cuml, engines.fit_cuml_estimator, walk):
        answer = fit(one, aim, 2000, None)
        np.testing.assert_allclose(answer.W, best.coef, atol=1e-3)
        assert answer.n_iter > 20
    assert walk(one, aim, 2000, answer).n_iter <= 5
    assert engines.fit_cuml_estimator(one, aim, 2000, answer).n_iter > 20


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["binary", "multinomial", "multi-label"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cuml_finds_our_optimum(kind: str, dtype: type) -> None:
    """The real cuML, under our certificate; features on the host and on the device, weighted and not."""
    pytest.importorskip("cuml", reason="cuML is not installed")
    import torch

    X, y = _problem(kind)
    X = X.astype(dtype)
    weight = np.random.default_rng(0).uniform(0.1, 5.0, len(y))
    for w in (None, weight):
        ours = probe.fit_path(X, y, GRID, sample_weight=w)
        for given_X in (X, torch.from_numpy(X).cuda()):
            path = probe.fit_path(given_X, y, GRID, sample_weight=w, backend="cuml", max_iter=5000)
            assert type(path.coef) is type(given_X)
            assert all(s is probe.Status.CONVERGED for s in path.status)
            np.testing.assert_allclose(path.objective, ours.objective, rtol=1e-3)


@pytest.mark.gpu
def test_cupy_computes_for_features_of_any_library() -> None:
    """Features of numpy go to the GPU and the answer comes back; those of torch and cupy stay there."""
    cupy = pytest.importorskip("cupy", reason="cupy is not installed")
    import torch

    X, y = _problem("multinomial")
    ours = probe.fit_path(X, y, GRID)
    for given_X in (X, torch.from_numpy(X), torch.from_numpy(X).cuda(), cupy.asarray(X)):
        for backend in ("cupy", "torch", "auto", "numpy"):
            path = probe.fit_path(given_X, y, GRID, backend=backend)
            assert type(path.coef) is type(given_X)
            if isinstance(given_X, torch.Tensor):
                assert path.coef.device == given_X.device
            assert all(s is probe.Status.CONVERGED for s in path.status)
            np.testing.assert_allclose(path.objective, ours.objective, rtol=1e-3)


def test_the_loss_must_be_one_that_the_library_has() -> None:
    """scikit-learn's lbfgs knows the logistic loss only; another one must not be fitted under its name."""
    X, y = _problem("binary")
    from probe.labels import Loss

    labels = encode(y, len(y)).against_rest(Loss.SQUARED_HINGE)
    with pytest.raises(probe.BadInput, match="the loss is squared_hinge"):
        backends.solver_for("sklearn", X, labels, True, 1e-6, 100)


def test_words_of_every_library_for_memory_that_ran_out() -> None:
    """The real errors of numpy and torch on this host; the CUDA libraries' words, as they write them."""
    import torch

    for fill in (lambda: np.empty(10**15), lambda: torch.empty(10**15)):
        with pytest.raises((MemoryError, RuntimeError)) as raised:
            fill()
        assert is_out_of_memory(raised.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."))
    for words in ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"):
        assert is_out_of_memory(RuntimeError(words))
    assert is_out_of_memory(type("CUBLASError", (Exception,), {})("CUBLAS_STATUS_ALLOC_FAILED"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("the column named 'out of memory' is missing"))
