"""Proof of how good a fit is: relative gradient and duality gap, in float64, at the returned point, on the data as given.

F is λ-strongly convex in W, and once the intercept is at its optimum given W,

    F(W, b) − F* ≤ ‖∇_W F‖² / (2 λ).

(It is the duality gap at the dual point made of the residuals.) The intercept is therefore brought to its optimum first,
by Newton steps on the scores, which cost no pass over X. `gap` is this bound divided by F.

The rule (`meets`) needs both halves. The gradient alone is satisfied far from the optimum when penalties are weak (on
separable features the loss is tiny, and so is its gradient); the gap alone is satisfied far from the optimal *weights* when
penalties are strong (F hardly depends on them).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from probe.arrays import Array, like, namespace, take, to_numpy
from probe.objective import BatchedLoss

_SCORES_AT_ONCE = 1 << 24  # float64 scores held at once: 128 MB
_NEAR = 1e-6  # decrement, in parts of the loss, below which the Hessian by the intercepts hardly changes any more
_BLOCK_ENTRIES = 1 << 21  # entries of X converted to float64 at once
_ROUNDING = 1e-14  # a sum that is this part of its summands' sizes is what rounding left of zero


@dataclass(frozen=True, eq=False)
class Certificate:
    """What is known of some fits; arrays of shape (b,) or, with L lanes, (b, L), float64 on the host.

    Attributes
    ----------
    objective : numpy.ndarray
        ``Σ s_i loss_i + ‖W‖² / (2 C)``.
    grad_norm : numpy.ndarray
        ‖∇F‖∞ over W and b, relative to its value at zero weights (the mean form has the same ratio).
    gap : numpy.ndarray
        Upper bound of (F − F*) / F.
    coef_error : numpy.ndarray
        Upper bound of ‖W − W*‖ / ‖W‖, which is ‖∇_W F‖ / (λ ‖W‖).
    """

    objective: np.ndarray
    grad_norm: np.ndarray
    gap: np.ndarray
    coef_error: np.ndarray

    def reshaped(self, *shape: int) -> Certificate:
        """The same, in arrays of another shape."""
        return Certificate(*(getattr(self, f.name).reshape(shape) for f in fields(self)))


def meets(grad_norm: np.ndarray, gap: np.ndarray, coef_error: np.ndarray, tol: float) -> np.ndarray:
    """Whether a certificate meets a tolerance: the rule behind ``Status.CONVERGED``.

    The objective is within ``100 tol`` of its optimum, and either the relative gradient is below ``tol``, or the gap is
    below ``tol`` with the weights within ``1000 tol``.

    Parameters
    ----------
    grad_norm, gap, coef_error : numpy.ndarray
    tol : float

    Returns
    -------
    numpy.ndarray of bool
    """
    met: np.ndarray = (gap <= 100 * tol) & ((grad_norm <= tol) | ((gap <= tol) & (coef_error <= 1000 * tol)))
    return met


def zero_gradient(X: Array, loss: BatchedLoss, k: int, fit_intercept: bool) -> np.ndarray:
    """‖∇F‖∞ at zero weights and intercept: the scale of `Certificate.grad_norm`.

    Parameters
    ----------
    X : array of shape (n, d)
    loss : BatchedLoss, float64
    k : int
    fit_intercept : bool

    Returns
    -------
    numpy.ndarray of shape (L,)
        See `scale_of`.
    """
    xp = namespace(X)
    _, R = loss.evaluate(xp.zeros((loss.n_lanes, k, int(X.shape[0])), dtype=xp.float64, device=X.device))
    reach = xp.concat([xp.astype(xp.max(xp.abs(block), axis=1), xp.float64) for block in _blocks(X)])
    return scale_of(_adjoint(X, R), R, reach, fit_intercept)


def scale_of(by_W: Array, R: Array, reach: Array, fit_intercept: bool) -> np.ndarray:
    """‖∇F‖∞ at zero from its sums; where these are zero but for rounding, the size of what was summed.

    Constant features of as many rows in every class are such a case: zero is the optimum, and whatever rounding leaves of the
    gradient there is no measure of anything.

    Parameters
    ----------
    by_W : array of shape (L, k, d), float64
        The derivative by the weights.
    R : array of shape (L, k, n), float64
        That by the scores.
    reach : array of shape (n,), float64
        Largest feature of every row.
    fit_intercept : bool

    Returns
    -------
    numpy.ndarray of shape (L,)
    """
    xp = namespace(R)
    largest = to_numpy(xp.max(xp.abs(by_W), axis=(1, 2)))
    mass = to_numpy(xp.max(xp.sum(xp.abs(R), axis=2), axis=1))
    size = to_numpy(xp.max(xp.abs(R) @ reach, axis=1))
    if fit_intercept:
        largest, size = np.maximum(largest, to_numpy(xp.max(xp.abs(xp.sum(R, axis=2)), axis=1))), np.maximum(size, mass)
    scale: np.ndarray = np.maximum(np.where(largest > _ROUNDING * size, largest, size), np.finfo(np.float64).tiny)
    return scale


def certify(
    X: Array,
    loss: BatchedLoss,
    W: Array,
    b: Array,
    l2: np.ndarray,
    scale: np.ndarray,
    fit_intercept: bool = True,
) -> tuple[Certificate, Array]:
    """Certify fits of one matrix; two passes over X per group of fits, whatever their number.

    Parameters
    ----------
    X : array of shape (n, d)
        As given, in any floating dtype; the arithmetic is float64.
    loss : BatchedLoss, float64
    W : array of shape (b, L, k, d), float64
        Fits of b penalties and L lanes.
    b : array of shape (b, L, k), float64
    l2 : numpy.ndarray of shape (b,)
        λ = 1 / C.
    scale : numpy.ndarray of shape (L,)
        From `zero_gradient`.
    fit_intercept : bool

    Returns
    -------
    certificate : Certificate
        Arrays of shape (b, L).
    b : array of shape (b, L, k)
        The intercepts, at their optimum given W.
    """
    xp = namespace(X)
    n_fits, L, k, _ = (int(s) for s in W.shape)
    group = max(1, _SCORES_AT_ONCE // (int(X.shape[0]) * L * k))
    parts: list[Certificate] = []
    intercepts = []
    for a in range(0, n_fits, group):
        part, moved = _certify(
            X, loss, W[a : a + group, ...], b[a : a + group, ...], l2[a : a + group], scale, fit_intercept
        )
        parts.append(part)
        intercepts.append(moved)
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(p, name) for p in parts])
        for name in ("objective", "grad_norm", "gap", "coef_error")
    }
    return Certificate(**joined), xp.concat(intercepts, axis=0)


def _certify(
    X: Array, loss: BatchedLoss, W: Array, b: Array, l2: np.ndarray, scale: np.ndarray, fit_intercept: bool
) -> tuple[Certificate, Array]:
    xp = namespace(X)
    g, L, k, d = (int(s) for s in W.shape)
    lanes = _repeated(loss, g, L)
    Z = _scores(X, xp.reshape(W, (g * L * k, d)), (g * L, k))
    offset = xp.reshape(b, (g * L, k))
    decrement = np.zeros(g * L)
    if fit_intercept:
        offset, decrement, value, R = _optimal_intercepts(lanes, Z, offset)
    else:
        value, R = lanes.evaluate(Z + offset[..., None])
    l2_all = np.repeat(l2, L)
    by_b = xp.sum(R, axis=2) if fit_intercept else None
    found = bounds(value, _adjoint(X, R), by_b, decrement, xp.reshape(W, (g * L, k, d)), l2_all, np.tile(scale, g))
    return found.reshaped(g, L), xp.reshape(offset, (g, L, k))


def bounds(
    value: np.ndarray,
    by_W: Array,
    by_b: Array | None,
    decrement: np.ndarray,
    W: Array,
    l2: np.ndarray,
    scale: np.ndarray,
) -> Certificate:
    """What sums over all rows prove of m fits.

    Parameters
    ----------
    value : numpy.ndarray of shape (m,)
        The loss.
    by_W : array of shape (m, k, d), float64
        Its derivative by the weights.
    by_b : array of shape (m, k), or None without intercept
    decrement : numpy.ndarray of shape (m,)
        How far the intercepts are from their optimum given W, in the objective.
    W : array of shape (m, k, d)
    l2, scale : numpy.ndarray of shape (m,)

    Returns
    -------
    Certificate
        Arrays of shape (m,).
    """
    xp = namespace(W)
    G = by_W + like(W, l2)[:, None, None] * W
    squared = to_numpy(xp.sum(G * G, axis=(1, 2)))
    weights = to_numpy(xp.sum(W * W, axis=(1, 2)))
    largest = to_numpy(xp.max(xp.abs(G), axis=(1, 2)))
    if by_b is not None:
        largest = np.maximum(largest, to_numpy(xp.max(xp.abs(by_b), axis=1)))
    objective = value + 0.5 * l2 * weights
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = (squared / (2 * l2) + decrement) / objective
        error = np.where(squared == 0, 0.0, np.sqrt(squared) / (l2 * np.sqrt(weights)))
    return Certificate(objective, largest / scale, gap, error)


def intercept_step(gradient: Array, hessian: Array, has_gauge: bool) -> Array:
    """Newton's step on the intercepts alone.

    Parameters
    ----------
    gradient : array of shape (m, k)
    hessian : array of shape (m, k, k)
    has_gauge : bool
        Whether adding one number to every intercept changes nothing.

    Returns
    -------
    array of shape (m, k)
        To be subtracted.
    """
    xp = namespace(gradient)
    k = int(gradient.shape[1])
    identity = xp.eye(k, dtype=gradient.dtype, device=gradient.device)
    if has_gauge:
        mean = xp.sum(xp.sum(hessian * identity, axis=2), axis=1) / k
        hessian = hessian + (mean / k)[:, None, None]
    jitter = 1e-14 * xp.max(xp.abs(hessian), axis=(1, 2), keepdims=True) + 1e-300
    return xp.linalg.solve(hessian + jitter * identity, gradient[..., None])[..., 0]


def gradients(X: Array, loss: BatchedLoss, W: Array, b: Array, l2: np.ndarray) -> Array:
    """∇_W F of fits, in float64, on the data as given; arguments and shapes as in `certify`, (b, L, k, d)."""
    xp = namespace(X)
    g, L, k, d = (int(s) for s in W.shape)
    Z = _scores(X, xp.reshape(W, (g * L * k, d)), (g * L, k)) + xp.reshape(b, (g * L, k))[..., None]
    _, R = _repeated(loss, g, L).evaluate(Z)
    return xp.reshape(_adjoint(X, R), W.shape) + like(W, l2)[:, None, None, None] * W


def _repeated(loss: BatchedLoss, g: int, L: int) -> BatchedLoss:
    """The loss of L lanes for g penalties: lanes of one penalty stand together. One label set needs no copies."""
    return loss if L == 1 else loss.take(np.tile(np.arange(L), g))


def _optimal_intercepts(
    loss: BatchedLoss, Z: Array, b: Array, most: int = 20
) -> tuple[Array, np.ndarray, np.ndarray, Array]:
    """Newton's method on the intercepts alone, on stored scores; also the last Newton decrement, (lanes,), loss and residuals.

    Lanes that are there, or get no further, leave: a look at the scores of all would cost as much as the certificate.
    """
    xp = namespace(Z)
    b = xp.asarray(b, copy=True)
    value, R = loss.evaluate(Z + b[..., None])
    decrement, hessian = np.full(len(value), np.inf), None
    open_, R_open = np.arange(len(value)), R
    for _ in range(most):
        gradient = xp.sum(R_open, axis=2)
        if hessian is None or (decrement[open_] > _NEAR * np.abs(value[open_])).any():
            hessian = loss.intercept_hessian(R_open)
        step = intercept_step(gradient, hessian, loss.has_gauge)
        decrement[open_] = np.abs(to_numpy(xp.sum(step * gradient, axis=1)))
        kept = np.flatnonzero(~(decrement[open_] <= 1e-20 * np.abs(value[open_])))
        if len(kept) == 0:
            break
        if len(kept) < len(open_):
            open_, loss = open_[kept], loss.take(kept)
            Z, step, hessian = take(Z, kept), take(step, kept), take(hessian, kept)
        index, t = xp.asarray(open_, device=Z.device), np.ones(len(open_))
        here = take(b, open_)
        for _ in range(30):
            tried = here - like(b, t)[:, None] * step
            new_value, R_open = loss.evaluate(Z + tried[..., None])
            worse = ~(new_value <= value[open_] + 1e-13 * np.abs(value[open_]))
            if not worse.any():
                break
            t[worse] *= 0.5
        better = np.flatnonzero(~worse)
        if len(better) < len(open_):
            if len(better) == 0:
                break
            open_, loss, new_value = open_[better], loss.take(better), new_value[better]
            Z, tried, R_open, hessian = (take(x, better) for x in (Z, tried, R_open, hessian))
            index = xp.asarray(open_, device=Z.device)
        b[index, ...], R[index, ...] = tried, R_open
        value[open_] = new_value
    return b, decrement, value, R


def _scores(X: Array, W: Array, shape: tuple[int, int]) -> Array:
    xp = namespace(X)
    parts = [W @ xp.astype(block, xp.float64).T for block in _blocks(X)]
    return xp.reshape(xp.concat(parts, axis=1), (*shape, int(X.shape[0])))


def _adjoint(X: Array, R: Array) -> Array:
    xp = namespace(X)
    lanes, k, n = (int(s) for s in R.shape)
    flat = xp.reshape(R, (lanes * k, n))
    total = xp.zeros((lanes * k, int(X.shape[1])), dtype=xp.float64, device=X.device)
    a = 0
    for block in _blocks(X):
        m = int(block.shape[0])
        total = total + flat[:, a : a + m] @ xp.astype(block, xp.float64)
        a += m
    return xp.reshape(total, (lanes, k, int(X.shape[1])))


def _blocks(X: Array) -> list[Array]:
    step = max(1, _BLOCK_ENTRIES // int(X.shape[1]))
    return [X[a : a + step, :] for a in range(0, int(X.shape[0]), step)]
