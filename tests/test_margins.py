"""Losses of a margin against their definitions, and the definitions against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.certificate import gradients
from probe.labels import Loss, encode
from probe.objective import hinge_value_and_gradient, ridge_value_and_gradient, value_and_gradient

Definition = Callable[..., tuple[float, np.ndarray, np.ndarray]]

DEFINITIONS: dict[Loss, Definition] = {
    Loss.SQUARED_HINGE: hinge_value_and_gradient,
    Loss.SQUARED_ERROR: ridge_value_and_gradient,
}


def signs(y: np.ndarray, k: int) -> np.ndarray:
    """+1 in the column of a row's class, else −1; one column for two classes. Shape (n, k or 1)."""
    return 2.0 * (y[:, None] == (np.array([1]) if k == 2 else np.arange(k))) - 1.0


def _random(n: int, d: int, k: int, seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    rows = 1 if k == 2 else k
    y = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    return rng.normal(size=(n, d)), y, rng.normal(size=(rows, d)), rng.normal(size=rows), rng.uniform(0.1, 2, n)


@pytest.mark.parametrize("loss", DEFINITIONS, ids=str)
def test_definitions_have_the_gradient_of_their_value(loss: Loss) -> None:
    """Were the gradient wrong, every certificate of this loss would be."""
    X, y, W, b, s = _random(40, 4, 3, 0)
    define, S, step = DEFINITIONS[loss], signs(y, 3), 1e-6
    _, by_W, by_b = define(W, b, X, S, 0.7, s)
    for place in np.ndindex(W.shape):
        E = np.zeros_like(W)
        E[place] = step
        up, down = (define(W + e, b, X, S, 0.7, s)[0] for e in (E, -E))
        assert by_W[place] == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-5)  # a kink within a step
    for j in range(3):
        e = np.zeros(3)
        e[j] = step
        up, down = (define(W, b + f, X, S, 0.7, s)[0] for f in (e, -e))
        assert by_b[j] == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    loss=st.sampled_from(list(DEFINITIONS)), k=st.sampled_from([2, 3, 11]), n=st.integers(11, 3000),
    weighted=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_batched_losses_equal_the_definition(loss: Loss, k: int, n: int, weighted: bool, seed: int) -> None:
    """One lane per class, cut into cache-sized pieces: loss, residuals and gradient of the formula."""
    X, y, W, b, s = _random(n, 3, k, seed)
    weights = s if weighted else None
    labels = encode(y, n, weights).against_rest(loss)
    batched = labels.loss(X, np.float64)
    values, R = batched.evaluate((X @ W.T + b).T[:, None, :])
    value, by_W, by_b = DEFINITIONS[loss](W, b, X, signs(y, k), 1.0, weights)
    assert values.sum() == pytest.approx(value - 0.5 * (W * W).sum(), rel=1e-12)
    np.testing.assert_allclose(R[:, 0, :] @ X, by_W - W, rtol=1e-9, atol=1e-9 * n)
    np.testing.assert_allclose(R[:, 0, :].sum(1), by_b, rtol=1e-9, atol=1e-9 * n)
    found = gradients(X, batched, W[None, :, None, :], b[None, :, None], np.array([1.0]))
    np.testing.assert_allclose(found[0, :, 0, :], by_W, rtol=1e-9, atol=1e-9 * n)


@pytest.mark.parametrize("loss", [Loss.LOGISTIC, *DEFINITIONS], ids=str)
def test_curvature_is_the_second_derivative(loss: Loss) -> None:
    """What preconditioners and intercepts are made of; rows outside their margin have none under the squared hinge."""
    X, y, W, b, s = _random(60, 3, 2, 1)
    batched = encode(y, 60, s).against_rest(loss).loss(X, np.float64)
    Z, step = (X @ W.T + b).T[None], 1e-6
    _, R = batched.evaluate(Z)
    difference = (batched.evaluate(Z + step)[1] - batched.evaluate(Z - step)[1])[0] / (2 * step)
    curvature = batched.curvature(R, 0)
    np.testing.assert_allclose(curvature.weight, difference, atol=1e-7)
    np.testing.assert_allclose(curvature.row(0), difference, atol=1e-7)
    np.testing.assert_array_equal(curvature.vectors(np.zeros(5, int), np.arange(5)), 1.0)
    assert batched.intercept_hessian(R)[0, 0, 0] == pytest.approx(difference.sum())
    if loss is Loss.SQUARED_HINGE:
        assert 5 < (difference == 0).sum() < 55


def test_a_lane_without_violations_still_has_a_scale() -> None:
    """With every row outside its margin the second derivative is zero, and a Newton step from there would be endless."""
    y = np.array([0, 1, 1])
    batched = encode(y, 3).against_rest(Loss.SQUARED_HINGE).loss(np.zeros((3, 1)), np.float64)
    value, R = batched.evaluate(5.0 * (2.0 * y - 1.0)[None, None, :])
    assert value == 0
    assert (R == 0).all()
    np.testing.assert_array_equal(batched.curvature(R, 0).weight, 2.0)


@pytest.mark.parametrize("loss", [Loss.LOGISTIC, *DEFINITIONS], ids=str)
@pytest.mark.parametrize("k", [2, 3])
def test_intercepts_are_optimal_at_zero_weights(loss: Loss, k: int) -> None:
    """A path starts there; classes against the rest and softmax have different ones."""
    X, y, _, _, s = _random(50, 2, k, 3)
    labels: Any = encode(y, 50, s)
    labels = labels if loss is Loss.LOGISTIC else labels.against_rest(loss)
    b = labels.loss(X, np.float64).intercepts()
    W = np.zeros((b.size, 2))
    if loss is Loss.LOGISTIC:
        _, _, by_b = value_and_gradient(W, b.ravel(), X, y, 1.0, s)
    else:
        _, _, by_b = DEFINITIONS[loss](W, b.ravel(), X, signs(y, k), 1.0, s)
    np.testing.assert_allclose(by_b, 0, atol=1e-12)


def test_float32_slacks_are_those_of_the_scores() -> None:
    """Values are summed in float64 whatever the scores are, so that a long sum of float32 losses does not drift."""
    y = np.arange(4000) % 2
    scores = np.random.default_rng(0).normal(size=(1, 1, 4000)).astype(np.float32)
    for loss in DEFINITIONS:
        labels = encode(y, 4000).against_rest(loss)
        single, R = labels.loss(scores, np.float32).evaluate(scores)
        double, _ = labels.loss(scores, np.float64).evaluate(scores.astype(np.float64))
        assert R.dtype == np.float32
        np.testing.assert_allclose(single, double, rtol=1e-7)
