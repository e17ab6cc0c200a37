"""Bad input and hard cases that no other file has: extreme scales, many classes, memory that runs out, Ctrl-C, two devices."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import digits

import probe
from probe.certificate import meets
from probe.objective import value_and_gradient
from probe.solver import PathSolver, Solution

TESTS = Path(__file__).parent


def _is_true(path: probe.Path, X: np.ndarray, y: np.ndarray) -> bool:
    """Whether every status, gradient and gap is what the definition says at the returned point."""
    codes, k = np.unique(y, return_inverse=True)[1], path.coef.shape[1]
    _, zero_W, zero_b = value_and_gradient(np.zeros((k, X.shape[1])), np.zeros(k), X, codes, 1.0)
    scale = max(np.abs(zero_W).max(), np.abs(zero_b).max())
    noise = 1e-15 * len(X) * max(1.0, float(np.abs(X).max()))  # the definition takes 1 - p by subtraction
    for i, C in enumerate(path.C):
        value, by_W, by_b = value_and_gradient(path.coef[i], path.intercept[i], X, codes, C)
        assert max(np.abs(by_W).max(), np.abs(by_b).max()) <= 1.01 * scale * path.grad_norm[i] + noise
        assert np.linalg.norm(by_W) <= 1.01 * np.sqrt(2 * path.gap[i] * value / C) + noise * np.sqrt(by_W.size)
        is_met = bool(meets(path.grad_norm[i], path.gap[i], path.coef_error[i], 1e-6))
        assert (path.status[i] is probe.Status.CONVERGED) == is_met
    return True


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decades", [-8, 8])
def test_features_of_any_scale(decades: int, dtype: type) -> None:
    """All columns at 1e±8: with C scaled by the square it is the same problem, and must have the same answer."""
    X, y = digits(200, 4)
    C = np.array([1e-3, 1e-1, 1e1])
    plain = probe.fit_path(X, y, C)
    scale = 10.0**decades
    scaled = probe.fit_path((X * scale).astype(dtype), y, C / scale**2)
    assert all(s is probe.Status.CONVERGED for s in scaled.status)
    np.testing.assert_allclose(scaled.objective * scale**2, plain.objective, rtol=2e-4)
    agree = scaled.predict((X * scale).astype(dtype)) == plain.predict(X)
    assert agree.mean() > 0.99


@pytest.mark.parametrize("scale", [1e-30, 1e18, 1e30])
def test_features_whose_squares_float32_does_not_hold(scale: float) -> None:
    """They are float32 themselves; they are solved in float64 from the start, without overflow."""
    X, y = digits(200, 4)
    path = probe.fit_path((X * scale).astype(np.float32), y, [1e-3, 1.0, 1e3])
    assert [s.value for s in path.status] == ["converged"] * 3
    assert set(path.precision) == {"float64"}


@pytest.mark.parametrize("far", [1e9, 1e15])
@pytest.mark.parametrize("fit", [probe.fit_path, probe.svm_path, probe.ridge_path])
def test_a_row_without_weight_says_nothing(fit: Callable[..., probe.Path], far: float) -> None:
    """However far it is from the others, the fit and its certificate are those of the other rows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 12))
    y, weight = (X[:, 0] > 0).astype(int), np.ones(120)
    X[5], weight[5] = far * rng.normal(size=12), 0.0
    rest = np.delete(np.arange(120), 5)
    found, alone = fit(X, y, [1e-6, 1.0], sample_weight=weight), fit(X[rest], y[rest], [1e-6, 1.0])
    assert found.status == alone.status == (probe.Status.CONVERGED,) * 2
    np.testing.assert_allclose(found.objective, alone.objective, rtol=1e-6)
    np.testing.assert_allclose(found.coef, alone.coef, rtol=0, atol=1e-4 * np.abs(alone.coef).max())


@pytest.mark.parametrize("memory", [None, 4000])
def test_a_row_far_away_that_another_problem_has_is_no_false_proof(memory: int | None) -> None:
    """Weights of zero pass for small gradients where the size of that row is what gradients are measured by."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 12))
    y = (X[:, 0] > 0).astype(int)
    X[5] = 1e15
    rest = np.delete(np.arange(120), 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", probe.NotConverged)
        _, found = probe.fit_paths(X, y, [1e-6, 1.0], rows=[np.arange(120), rest], memory=memory)
    alone = probe.fit_path(X[rest], y[rest], [1e-6, 1.0])
    for i in range(2):
        if found.status[i] is probe.Status.CONVERGED:
            np.testing.assert_allclose(found.coef[i], alone.coef[i], rtol=0, atol=1e-3 * np.abs(alone.coef[i]).max())
        else:
            assert found.grad_norm[i] > 1e-3
    if memory is None:
        assert found.status == alone.status == (probe.Status.CONVERGED,) * 2


@pytest.mark.parametrize("far", [1e8, 1e11])
def test_a_row_far_away_takes_nothing_from_the_problems_that_leave_it_out(far: float) -> None:
    """Folds and subsets: as certain as alone."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 12))
    y = (X[:, 0] > 0).astype(int)
    X[5] = far
    subsets = [np.delete(np.arange(120), 5), np.arange(120), np.arange(20, 120)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", probe.NotConverged)
        paths = probe.fit_paths(X, y, [1e-3, 1.0], rows=subsets)
    for rows, path in zip(subsets, paths, strict=True):
        if 5 not in rows:
            alone = probe.fit_path(X[rows], y[rows], [1e-3, 1.0])
            assert path.status == alone.status == (probe.Status.CONVERGED,) * 2
            np.testing.assert_allclose(path.coef, alone.coef, rtol=0, atol=1e-3 * np.abs(alone.coef).max())


def test_columns_from_1e_minus_8_to_1e8() -> None:
    """Sixteen decades side by side, more than float64 holds: solved or said to be short, never a false certificate."""
    X, y = digits(200, 4)
    X = X[:, X.std(0) > 0]
    X = X * 10.0 ** np.linspace(-8, 8, X.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", probe.NotConverged)
        path = probe.fit_path(X, y, [1e-6, 1e-2, 1e2])
    assert np.isfinite(path.coef).all()
    assert _is_true(path, X, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [2, 3])
def test_two_clouds_far_apart_at_no_penalty_to_speak_of(k: int, dtype: type) -> None:
    """C = 1e6 and more on separable rows: the weights grow without bound as C does, and stay finite and certified, or say so."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % k
    X = (rng.normal(size=(60, 8)) * 0.1 + 3 * np.eye(8)[y]).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", probe.NotConverged)
        path = probe.fit_path(X, y, [1.0, 1e6, 1e12])
    assert np.isfinite(path.coef).all()
    assert np.isfinite(path.objective).all()
    assert _is_true(path, X, y)
    assert path.status[1] is probe.Status.CONVERGED
    assert (path.predict(X) == y).all()
    norms = np.linalg.norm(path.coef, axis=(1, 2))
    assert norms[0] < norms[1] < norms[2]


def test_one_row_a_class_and_one_column() -> None:
    """The smallest problem there is."""
    path = probe.fit_path([[0.0], [1.0]], ["no", "yes"], [1.0, 1e6])
    assert all(s is probe.Status.CONVERGED for s in path.status)
    assert path.predict([[0.0], [1.0]])[0].tolist() == ["no", "yes"]


def test_a_thousand_classes_with_five_rows_each() -> None:
    """k = 1,000, n = 5,000, few columns: certified, at the cost of some dozens of products, in seconds."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(1000), 5)
    X = (rng.normal(size=(1000, 24))[y] + 0.3 * rng.normal(size=(5000, 24))).astype(np.float32)
    started = time.perf_counter()
    path = probe.fit_path(X, y, [1e-2], tol=1e-4)
    assert time.perf_counter() - started < 60
    assert path.coef.shape == (1, 1000, 24)
    assert path.status[0] is probe.Status.CONVERGED
    assert path.model(0).score(X, y) > 0.9


def test_more_labels_than_rows() -> None:
    """n < k happens with several labels a row: each is a problem of its own."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(6, 10))
    Y = np.array([[(c >> i) & 1 for c in range(1, 31)] for i in range(6)])
    Y = Y[:, (Y.sum(0) > 0) & (Y.sum(0) < 6)]
    assert Y.shape[1] > 6
    path = probe.fit_path(X, Y, [0.1, 10.0])
    assert path.coef.shape == (2, Y.shape[1], 10)
    assert all(s is probe.Status.CONVERGED for s in path.status)
    assert (path.predict(X)[1] == Y).all()


def test_constant_and_duplicated_columns_change_nothing_else() -> None:
    """A constant column gets weight zero, a duplicated one shares the weight: the objective of √2 times one column."""
    X, y = digits(200, 3)
    X = X[:, [10, 20, 27, 36, 44]]
    once = np.concatenate([X[:, :4], np.sqrt(2) * X[:, 4:]], axis=1)
    twice = np.concatenate([X, X[:, 4:], np.full((len(y), 1), 7.0)], axis=1)
    a, b = probe.fit_path(once, y, [0.01, 1.0], tol=1e-8), probe.fit_path(twice, y, [0.01, 1.0], tol=1e-8)
    np.testing.assert_allclose(a.objective, b.objective, rtol=1e-6)
    np.testing.assert_allclose(b.coef[:, :, 4], b.coef[:, :, 5], atol=1e-6)
    assert np.abs(b.coef[:, :, 6]).max() < 1e-6


@pytest.mark.parametrize("memory", [None, 1000])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("k", [3, 10])
def test_features_that_say_nothing_have_zero_as_their_optimum(k: int, fit_intercept: bool, memory: int | None) -> None:
    """A unit that died is constant; with as many rows in every class the gradient at zero is rounding, and measures nothing."""
    y = np.tile(np.arange(k), 30)
    dead = np.full((len(y), 3), 0.7, dtype=np.float32)
    same = np.repeat(np.random.default_rng(0).normal(size=(30, 3)), k, axis=0)  # every row once in each class
    for X in (dead, same):
        path = probe.fit_path(X, y, [1e-3, 1.0, 1e3], fit_intercept=fit_intercept, memory=memory)
        assert {str(s.value) for s in path.status} == {"converged"}
        assert float(path.grad_norm.max()) < 1e-9
        assert float(np.abs(path.coef).max()) < 1e-12
        np.testing.assert_allclose(path.objective, path.C * len(y) * np.log(k), rtol=1e-12)


def test_empty_batches_are_refused_by_name() -> None:
    """Nothing to fit, score, choose on or predict: one sentence with the shape, not an error of numpy's inside."""
    X, y = digits(60, 3)
    path = probe.fit_path(X, y, [1.0])
    asks = (
        lambda: probe.fit_path(X[:0], y[:0]),
        lambda: path.predict(X[:0]),
        lambda: path.model(0).predict_proba(X[:0]),
        lambda: probe.select(path, X[:0], y[:0]),
        lambda: probe.fit_path(X, y, [1.0], X_val=X[:0], y_val=y[:0]),
        lambda: probe.LinearProbe(C=1.0).fit(X[:0], y[:0]),
    )
    for ask in asks:
        with pytest.raises(ValueError, match=r"0 sample\(s\) \(shape=\(0, 64\)\) while a minimum of 1 is required"):
            ask()
    with pytest.raises(probe.BadInput, match="0 feature"):
        probe.fit_path(X[:, :0], y)
    with pytest.raises(probe.BadInput, match="both need at least one"):
        probe.select_splits(X, y, [(np.arange(60), np.arange(0))], [1.0])


@pytest.mark.parametrize("C", [0, -1.0, [1.0, 0.0], [np.nan], [np.inf], "one", None, []])
def test_C_that_is_not_positive(C: Any) -> None:
    """By every function that takes it, before anything is computed."""
    X, y = digits(60, 3)
    asks = [
        lambda: probe.fit_path(X, y, C),
        lambda: probe.LinearProbe(C=[0.1] if C is None else C).fit(X, y, sample_weight="a"),
    ]
    if np.ndim(C) == 0:
        asks.append(lambda: probe.fit(X, y, C=C))
    for ask in asks:
        with pytest.raises(probe.BadInput):
            ask()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_weight": "a"}, "sample_weight must hold numbers, but it is 'a'"),
        ({"sample_weight": ["a"] * 60}, "sample_weight must hold numbers"),
        ({"sample_weight": {}}, "sample_weight must hold numbers"),
        ({"sample_weight": np.ones(59)}, r"sample_weight has shape \(59,\)"),
        ({"class_weight": 3}, "class_weight is 3; give a mapping"),
        ({"class_weight": {0: "heavy"}}, "class_weight must hold numbers"),
        ({"tol": "a"}, "tol is 'a', but it must lie between 0 and 1"),
        ({"tol": None}, "tol is None"),
        ({"tol": float("nan")}, "tol is nan"),
        ({"max_iter": "a"}, "max_iter is 'a', but it must be a whole number"),
        ({"max_iter": 2.5}, "max_iter is 2.5"),
        ({"max_iter": 0}, "max_iter is 0"),
        ({"max_iter": float("inf")}, "max_iter is inf"),
        ({"fit_intercept": "no"}, "fit_intercept is 'no'; it must be True or False"),
        ({"fit_intercept": None}, "fit_intercept is None"),
    ],
)
def test_options_that_are_not_numbers(options: dict[str, Any], message: str) -> None:
    """One clear sentence instead of what float() says inside."""
    X, y = digits(60, 3)
    with pytest.raises(probe.BadInput, match=message):
        probe.fit_path(X, y, [1.0], **options)
    inside = {name: value for name, value in options.items() if name == "sample_weight"}
    outside = {name: value for name, value in options.items() if name != "sample_weight"}
    with pytest.raises(probe.BadInput, match=message):
        probe.LinearProbe([0.1, 1.0], **outside).fit(X, y, **inside)
    if "sample_weight" in options:
        with pytest.raises(probe.BadInput, match="sample_weight"):
            probe.select_holdout(X, y, [1.0], **options)


def test_features_and_labels_in_different_libraries() -> None:
    """Labels, weights and validation data are brought to the features, whatever they are in."""
    import torch

    X, y = digits(100, 3)
    w = np.linspace(0.5, 2.0, 100)
    expected = probe.fit_path(X, y, [0.1], X_val=X, y_val=y, sample_weight=w)
    for a in (X, torch.from_numpy(X)):
        for b in (y, torch.from_numpy(y), y.tolist()):
            for c in (w, torch.from_numpy(w).requires_grad_(), w.tolist()):
                for d in (X, torch.from_numpy(X).to(torch.float32)):
                    path = probe.fit_path(a, b, [0.1], X_val=d, y_val=b, sample_weight=c)
                    np.testing.assert_allclose(path.objective, expected.objective, rtol=1e-6)
                    assert path.val_scores is not None
                    assert expected.val_scores is not None
                    assert path.val_scores[0] == expected.val_scores[0]


def test_tensors_without_numbers_are_refused() -> None:
    """torch's meta device has shapes only."""
    import torch

    X, y = digits(60, 3)
    meta = torch.empty(60, 64, device="meta")
    with pytest.raises(probe.BadInput, match=r"X of shape \(60, 64\) lives on torch's meta device"):
        probe.fit_path(meta, y)
    with pytest.raises(probe.BadInput, match="meta device"):
        probe.fit_path(X, torch.empty(60, device="meta"))
    with pytest.raises(probe.BadInput, match="meta device"):
        probe.fit_path(X, y, sample_weight=torch.empty(60, device="meta"))


def test_what_torch_has_no_dtype_for_is_converted_or_refused_before_it_moves() -> None:
    """With a device named, too: torch's own words on numpy's dtypes help nobody."""
    import torch

    from probe.arrays import as_matrix, to_library

    X = np.arange(6.0).reshape(3, 2)
    for given in (X.astype(object), X.astype(np.longdouble)):
        moved = to_library(as_matrix(given, torch.device("cpu")), "torch")
        assert moved.dtype == torch.float64
        np.testing.assert_array_equal(moved.numpy(), X)
    for bad, words in (
        (X + 0j, "Complex"),
        (torch.from_numpy(X + 0j), "Complex"),
        (X.astype(str) + "x", "must be numbers"),
    ):
        with pytest.raises(probe.BadInput, match=words):
            as_matrix(bad, torch.device("cpu"))


def test_a_factor_that_rounding_made_indefinite_is_inverted_all_the_same() -> None:
    """Stiff pairs of great leverage, in float32: numpy went on where torch raised."""
    import torch

    from probe.arrays import spd_inverse

    B = np.array([[4.0, 1.0], [1.0, 3.0]])
    for matrix in (B, B - 4.0 * np.eye(2)):
        for given in (matrix, torch.from_numpy(matrix)):
            np.testing.assert_allclose(np.asarray(spd_inverse(given)), np.linalg.inv(matrix), atol=1e-12)


@pytest.mark.parametrize("setting", ["high", "medium"])
def test_products_are_exact_whatever_a_training_has_allowed(setting: str) -> None:
    """TF32 has three digits, and a solver would stall there without saying why; autocast has fewer."""
    import torch

    from probe.exactness import exact

    def said() -> tuple[str, ...]:
        matmuls = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
        new = [m.fp32_precision for m in matmuls if hasattr(m, "fp32_precision")]
        return torch.get_float32_matmul_precision(), *new

    X = torch.ones(2, 2)
    torch.set_float32_matmul_precision(setting)
    try:
        before = said()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (X @ X).dtype == torch.bfloat16
            with exact(X):
                assert said()[0] == "highest"
                assert set(said()[1:]) <= {"ieee"}
                assert (X @ X).dtype == torch.float32
        assert said() == before
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.gpu
def test_features_and_labels_on_different_devices() -> None:
    """Labels and weights come to the features, validation features to the coefficients, in both directions."""
    import torch

    X, y = digits(200, 4)
    w = np.linspace(0.5, 2.0, len(y))
    expected = probe.fit_path(X, y, [0.1, 10.0], X_val=X, y_val=y, sample_weight=w)
    host = (torch.from_numpy(X), torch.from_numpy(y), torch.from_numpy(w))
    there = tuple(t.cuda() for t in host)
    for x, labels, weight, x_val in (
        (there[0], host[1], host[2], host[0]),
        (host[0], there[1], there[2], there[0]),
        (X, there[1], there[2], there[0]),
        (there[0], y, w, X),
    ):
        path = probe.fit_path(x, labels, [0.1, 10.0], X_val=x_val, y_val=labels, sample_weight=weight)
        np.testing.assert_allclose(path.objective, expected.objective, rtol=1e-3)
        assert path.val_scores is not None
        assert expected.val_scores is not None
        np.testing.assert_allclose(path.val_scores, expected.val_scores, atol=0.011)
        assert path.coef.device == (x.device if isinstance(x, torch.Tensor) else "cpu")
        np.testing.assert_array_equal(path.predict(x_val), path.predict(x))


OUT_OF_MEMORY = """
import resource, sys
import numpy as np
import probe
X, y = np.random.default_rng(0).normal(size=(60_000, 64)).astype(np.float32), np.arange(60_000) % 10
probe.fit_path(X[:2000], y[:2000], [1e-3], tol=1e-3)  # libraries take what they keep
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 30_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    probe.fit_path(X, y, [1e-3, 1e-2], **eval(sys.argv[1]))
except MemoryError as error:
    assert isinstance(error, probe.OutOfMemory), type(error)
    assert isinstance(error.__cause__, (MemoryError, RuntimeError))
    print(error)
model = probe.fit(X[:2000], y[:2000], C=1e-3, tol=1e-3)  # what the failed attempt held is free again
print(model.status)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to limit the memory of a process")
@pytest.mark.parametrize("options", ["{}", "{'backend': 'sklearn'}"])
def test_memory_that_runs_out_is_one_clear_error(options: str) -> None:
    """A process with 30 MB to spare: the error says what is needed and what to do, and the process goes on."""
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, options], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    said, status = done.stdout.strip().split("\n")
    assert said.startswith("Memory ran out on cpu: 60000 × 64 features with 10 classes need about 0.1")
    assert "GB in float32" in said
    assert "fit fewer rows" in said
    assert "memory=" in said
    assert status == "converged"


STREAMED_WHEN_IT_MUST = """
import resource, sys, warnings
import numpy as np
import probe
X, y = np.random.default_rng(0).normal(size=(60_000, 64)).astype(np.float32), np.arange(60_000) % 2
X[:, 0] += y
probe.fit_path(X[:2000], y[:2000], [1e-3], memory=1e5)  # libraries take what they keep
expected = probe.fit_path(X, y, [1e-4, 1e-3])
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 40_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    path = probe.fit_path(X, y, [1e-4, 1e-3], memory="auto")
    (other,) = probe.fit_paths(X, y, [1e-4, 1e-3], memory="auto")
for found in (path, other):
    assert [s.value for s in found.status] == ["converged"] * 2
    assert np.abs(found.objective / expected.objective - 1).max() < 1e-4
print(*[f"{w.category.__name__} {w.filename}: {w.message}" for w in caught], sep="\\n")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to limit the memory of a process")
def test_memory_that_runs_out_is_streamed_only_when_allowed() -> None:
    """A process with 40 MB to spare: the same answer from blocks of rows, and a warning at the caller's line that says so."""
    done = subprocess.run(
        [sys.executable, "-c", STREAMED_WHEN_IT_MUST], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().split("\n")
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("NotInMemory <string>: Memory ran out on cpu: 60000 × 64 features")
        assert "streamed instead, in 3,840,000 bytes" in line


@pytest.mark.gpu
def test_memory_that_runs_out_on_a_device_is_the_same_error() -> None:
    """The device is named, and what the failed attempt held is free again."""
    import torch

    X, y = np.random.default_rng(0).normal(size=(100_000, 512)).astype(np.float32), np.arange(100_000) % 10
    probe.fit_path(X[:2000], y[:2000], [1e-3], tol=1e-3, device="cuda")
    free, _ = torch.cuda.mem_get_info()
    filler = torch.empty(free - 300_000_000, dtype=torch.uint8, device="cuda")
    with pytest.raises(probe.OutOfMemory, match="Memory ran out on cuda: 100000 × 512 features with 10 classes"):
        probe.fit_path(X, y, [1e-3, 1e-2], device="cuda")
    del filler
    torch.cuda.empty_cache()
    assert probe.fit(X, y, C=1e-4, tol=1e-3, device="cuda").status is probe.Status.CONVERGED


@pytest.mark.parametrize(("n", "d", "k", "dtype"), [(6000, 256, 10, np.float32), (400, 900, 5, np.float64)])
def test_what_the_error_says_is_needed_is_about_what_is_used(n: int, d: int, k: int, dtype: type) -> None:
    """Against the peak that Python's own allocator hooks count: a number that is off by three helps nobody."""
    import tracemalloc

    from probe.memory import needed_bytes

    rng = np.random.default_rng(0)
    y = np.arange(n) % k
    X = (rng.normal(size=(n, d)) + 0.5 * rng.normal(size=(k, d))[y]).astype(dtype)
    tracemalloc.start()
    try:
        probe.fit_path(X, y, [1e-4, 1e-3], tol=1e-3)
        used = tracemalloc.get_traced_memory()[1] + X.nbytes
    finally:
        tracemalloc.stop()
    assert 0.6 < needed_bytes(n, d, k, X.itemsize) / used < 1.6


INTERRUPTED = """
import json, os, signal, sys, threading
import numpy as np
sys.path.insert(0, sys.argv[1])
from problems import digits
import probe
from probe import backends, path

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has its children ignore it
n_before, backend, asked = int(sys.argv[2]), sys.argv[3], sys.argv[4]
make, n_steps = backends.solver_for, 0

def watched(*arguments):
    solver = make(*arguments)
    step = solver.step
    def counted(l2):
        global n_steps
        if n_steps == n_before:
            if n_before == 0:
                os.kill(os.getpid(), signal.SIGINT)
            threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
        n_steps += 1
        step(l2)
    solver.step = counted
    return solver

path.solver_for = watched
X, y = digits(1700)
C = np.linspace(-3, 5, 33)
C = 10.0 ** (C[::-1] if asked == "falling" else C)
try:
    probe.fit_path(X, y, C, backend=backend)
except KeyboardInterrupt as stop:
    found = {"kind": type(stop).__name__, "message": str(stop), "is_error": isinstance(stop, Exception)}
    if isinstance(stop, probe.Interrupted):
        p = stop.path
        found |= {"C": p.C.tolist(), "status": list(p.status), "grad_norm": p.grad_norm.tolist(), "gap": p.gap.tolist(),
                  "coef_error": p.coef_error.tolist(), "coef": p.coef.tolist(), "intercept": p.intercept.tolist()}
    print(json.dumps(found))
else:
    sys.exit("not interrupted")
"""


def _interrupted(n_before: int, backend: str = "auto", order: str = "rising") -> dict[str, Any]:
    """What a process says of a path of 33 fits that a real SIGINT stopped 10 ms into its next fit, or at once in the first."""
    command = [sys.executable, "-c", INTERRUPTED, str(TESTS), str(n_before), backend, order]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("backend", "order", "n_before"), [("auto", "rising", 8), ("auto", "falling", 8), ("sklearn", "rising", 3)]
)
def test_ctrl_c_in_a_path_keeps_what_is_finished(backend: str, order: str, n_before: int) -> None:
    """The finished fits are in the error, at the values of C that were asked for, with certificates that are true."""
    found = _interrupted(n_before, backend, order)
    C = 10.0 ** np.linspace(-3, 5, 33)
    n_done = len(found["C"])
    assert n_before <= n_done < 33
    expected = C[:n_done] if order == "rising" else C[:n_done][::-1]
    np.testing.assert_allclose(found["C"], expected)
    assert found["kind"] == "Interrupted"
    assert not found["is_error"]  # `except Exception` must not swallow Ctrl-C
    assert found["message"].startswith(f"Interrupted after {n_done} of 33 fits")
    X, y = digits(1700)
    for i, C_i in enumerate(found["C"]):
        value, by_W, _ = value_and_gradient(np.array(found["coef"][i]), np.array(found["intercept"][i]), X, y, C_i)
        assert (by_W**2).sum() * C_i / 2 == pytest.approx(found["gap"][i] * value, rel=0.02, abs=1e-8 * value)
        bounds = [np.asarray(found[name][i]) for name in ("grad_norm", "gap", "coef_error")]
        assert (found["status"][i] == "converged") == bool(meets(*bounds, 1e-6))
    assert found["status"][0] == "converged"


def test_ctrl_c_before_the_first_fit_is_a_plain_one() -> None:
    """There is nothing to keep."""
    assert _interrupted(0)["kind"] == "KeyboardInterrupt"


class _StopsWhenRead:
    """Validation features during whose reading the user presses Ctrl-C."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise KeyboardInterrupt


def test_ctrl_c_after_the_last_fit_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the path is scored on validation data, and while its certificates are made: every fit is there."""
    X, y = digits(100, 3)
    whole = probe.fit_path(X, y, [1.0, 0.1, 1.0])
    with pytest.raises(probe.Interrupted, match="after 3 of 3 fits") as scoring:
        probe.fit_path(X, y, [1.0, 0.1, 1.0], X_val=_StopsWhenRead(), y_val=y)
    np.testing.assert_array_equal(scoring.value.path.coef, whole.coef)
    finish = PathSolver.finish

    def stopped_once(solver: PathSolver, repair: bool = True) -> Solution:
        if repair:
            raise KeyboardInterrupt
        return finish(solver, repair=False)

    monkeypatch.setattr(PathSolver, "finish", stopped_once)
    with pytest.raises(probe.Interrupted, match="after 3 of 3 fits") as certifying:
        probe.fit_path(X, y, [1.0, 0.1, 1.0])
    np.testing.assert_array_equal(certifying.value.path.C, [1.0, 0.1, 1.0])
    assert _is_true(certifying.value.path, X, y)
