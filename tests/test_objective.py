"""The losses the solver works with against the definition, and the definition against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.labels import encode
from probe.objective import Softmax, value_and_gradient


def _random(n: int, d: int, k: int, seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    rows = 1 if k == 2 else k
    y = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    return rng.normal(size=(n, d)), y, rng.normal(size=(rows, d)), rng.normal(size=rows), rng.uniform(0.1, 2, n)


@pytest.mark.parametrize("k", [2, 3, 7])
def test_definition_has_the_gradient_of_its_value(k: int) -> None:
    """Were the gradient wrong, every certificate would be."""
    X, y, W, b, s = _random(30, 4, k, 0)
    _, by_W, by_b = value_and_gradient(W, b, X, y, 0.7, s)
    step = 1e-6
    for place in np.ndindex(W.shape):
        E = np.zeros_like(W)
        E[place] = step
        up, down = (value_and_gradient(W + e, b, X, y, 0.7, s)[0] for e in (E, -E))
        assert by_W[place] == pytest.approx(
            (up - down) / (2 * step), rel=1e-6, abs=1e-6
        )  # error of a central difference
    for j in range(len(b)):
        e = np.zeros_like(b)
        e[j] = step
        up, down = (value_and_gradient(W, b + f, X, y, 0.7, s)[0] for f in (e, -e))
        assert by_b[j] == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(k=st.sampled_from([2, 3, 11]), n=st.integers(11, 3000), weighted=st.booleans(), seed=st.integers(0, 99))
def test_batched_losses_equal_the_definition(k: int, n: int, weighted: bool, seed: int) -> None:
    """The elementwise kernels, cut into cache-sized pieces, give the loss and the residuals of the formula."""
    X, y, W, b, s = _random(n, 3, k, seed)
    weights = s if weighted else None
    labels = encode(y, n, weights)
    Z = np.stack([(X @ W.T + b).T, (X @ (2 * W).T).T])
    loss, R = labels.loss(X, np.float64).evaluate(Z)
    for lane, (V, c) in enumerate([(W, b), (2 * W, 0 * b)]):
        value, by_W, by_b = value_and_gradient(V, c, X, y, 1.0, weights)
        assert loss[lane] == pytest.approx(value - 0.5 * (V * V).sum(), rel=1e-12)
        np.testing.assert_allclose(R[lane] @ X, by_W - V, rtol=1e-9, atol=1e-9 * n)
        np.testing.assert_allclose(R[lane].sum(1), by_b, rtol=1e-9, atol=1e-9 * n)


@pytest.mark.parametrize("k", [2, 3])
def test_float32_residuals_keep_their_relative_precision(k: int) -> None:
    """When p_y → 1 the residual must not be 1 − p_y: float32 would return zero or noise, and the solver would stall."""
    rows = 1 if k == 2 else k
    y = np.array([1, *range(k)])
    score = np.zeros((1, rows, len(y)))
    score[0, -1 if k == 2 else 1, :] = 30.0  # p_y = 1 − 1e-13: beyond float32
    loss32, R32 = encode(y, len(y)).loss(np.zeros((1, 1), np.float32), np.float32).evaluate(score.astype(np.float32))
    loss64, R64 = encode(y, len(y)).loss(np.zeros((1, 1)), np.float64).evaluate(score)
    np.testing.assert_allclose(R32[0, :, 0], R64[0, :, 0], rtol=1e-5)
    assert R64[0, 0 if k == 2 else 1, 0] == pytest.approx(-(k - 1) * np.exp(-30), rel=1e-9)
    assert loss32 == pytest.approx(loss64, rel=1e-6)


@pytest.mark.parametrize("k", [2, 4])
def test_curvature_is_the_second_derivative(k: int) -> None:
    """The pairs of the preconditioner must add up to the Hessian by the scores: diag(p) − ppᵀ, or p(1 − p)."""
    X, y, W, b, s = _random(12, 3, k, 1)
    labels = encode(y, 12, s)
    loss = labels.loss(X, np.float64)
    Z = (X @ W.T + b).T[None]
    _, R = loss.evaluate(Z)
    curvature = loss.curvature(R, 0)
    rows = Z.shape[1]
    for i in range(12):
        c = np.arange(rows)
        v = curvature.vectors(c, np.full(rows, i))
        H = np.einsum("c,ca,cb->ab", curvature.weight[:, i], v, v)
        step = 1e-6
        for j in range(rows):
            up, down = Z.copy(), Z.copy()
            up[0, j, i] += step
            down[0, j, i] -= step
            difference = (loss.evaluate(up)[1] - loss.evaluate(down)[1])[0, :, i] / (2 * step)
            np.testing.assert_allclose(H[:, j], difference, atol=1e-7)
        assert curvature.trace[:, i].sum() == pytest.approx(np.trace(H))
        np.testing.assert_allclose([curvature.row(a)[:, i] for a in range(rows)], H, atol=1e-12)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_curvature_of_all_lanes_is_that_of_their_mean_probabilities(is_weighted: bool) -> None:
    """The preconditioner that folds share is made of it: other weights or labels of a lane must count as often as they do."""
    rng = np.random.default_rng(0)
    n, k, lanes = 9, 4, 3
    hot = np.eye(k)[rng.integers(0, k, (lanes, n))].transpose(0, 2, 1)
    hot[:, :, 0] = hot[:1, :, 0]  # one row has the same label everywhere
    w = rng.uniform(0.0, 2.0, (lanes, 1, n)) * (rng.random((lanes, 1, n)) > 0.3)
    loss = Softmax(hot, w if is_weighted else None)
    Z = rng.normal(size=(lanes, k, n))
    _, R = loss.evaluate(Z)
    curvature = loss.curvature(R, None)
    P = np.exp(Z) / np.exp(Z).sum(1, keepdims=True)
    w = w if is_weighted else np.ones((lanes, 1, n))
    total = np.where(w.sum(0) > 0, w.sum(0), 1.0)
    p, mass = (P * w).sum(0) / total, w.mean(0)[0]
    for i in range(n):
        c = np.arange(k)
        v = curvature.vectors(c, np.full(k, i))
        expected = mass[i] * (np.diag(p[:, i]) - np.outer(p[:, i], p[:, i]))
        np.testing.assert_allclose(np.einsum("c,ca,cb->ab", curvature.weight[:, i], v, v), expected, atol=1e-12)
        np.testing.assert_allclose([curvature.row(a)[:, i] for a in range(k)], expected, atol=1e-12)
        assert curvature.trace[:, i].sum() == pytest.approx(np.trace(expected))
