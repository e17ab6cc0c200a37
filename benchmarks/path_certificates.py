"""Certificates of softmax fits in float64 from the textbook formulas, apart from the solver's own, for both sides alike.

They are computed where the features are, with any array library. Intercepts are brought to their best first, as nobody should
be judged by them: ‖∇_W F‖² / (2 λ) then bounds how far F is above its minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from probe.arrays import Array, like, namespace, to_numpy

BAR = 1e-4
"""The gap every value is to reach."""


@dataclass(frozen=True)
class Proof:
    """What is known of one fit, in float64, at its weights with the intercepts that are best for them.

    Attributes
    ----------
    objective : float
        ``F = Σ loss_i + ‖W‖² / (2 C)``.
    grad_norm : float
        ‖∇F‖∞ relative to its value at zero weights.
    gap : float
        Upper bound of ``(F − F*) / F``.
    norm : float
        Euclidean norm of ∇_W F.
    stopped : float
        ‖∇F‖∞ at the intercepts as given: what a rival's own rule has seen.
    """

    objective: float
    grad_norm: float
    gap: float
    norm: float
    stopped: float


Certifier = Callable[[float, np.ndarray, np.ndarray], Proof]
"""``certify(C, W, b)`` for W (k, d) and b (k,)."""


def certifier(X: Array, y: np.ndarray) -> Certifier:
    """The certificates of softmax fits to some features and labels; computed where the features are.

    Parameters
    ----------
    X : array of shape (n, d)
        numpy, torch or cupy, any floating dtype.
    y : numpy.ndarray of shape (n,)
        Labels of three or more classes.

    Returns
    -------
    callable
    """
    xp = namespace(X)
    A = xp.astype(X, xp.float64)
    classes, codes = np.unique(y, return_inverse=True)
    hot = like(A, np.eye(len(classes))[codes])
    scale = _gradient(xp.zeros_like(hot), hot, A, 0.0)[2]

    def certify(C: float, W: np.ndarray, b: np.ndarray) -> Proof:
        weights, given = like(A, W), like(A, b)
        scores = A @ weights.T
        stopped = _gradient(scores + given, hot, A, weights / C)[2]
        Z, decrement = _with_best_intercept(scores, given, hot)
        loss, G, largest = _gradient(Z, hot, A, weights / C)
        objective = loss + float(xp.sum(weights * weights)) / (2 * C)
        squared = float(xp.sum(G * G))
        gap = (squared * C / 2 + decrement) / objective
        return Proof(objective, largest / scale, gap, float(squared**0.5), stopped)

    return certify


def _gradient(Z: Array, hot: Array, A: Array, penalty: Array) -> tuple[float, Array, float]:
    """Loss, ∇_W F, and ‖∇F‖∞ over weights and intercepts, at scores Z (n, k)."""
    loss, R = _residual(Z, hot)
    G = R.T @ A + penalty
    return loss, G, max(_largest(G), _largest(namespace(Z).sum(R, axis=0)))


def _largest(x: Array) -> float:
    xp = namespace(x)
    return float(xp.max(xp.abs(x)))


def _residual(Z: Array, hot: Array) -> tuple[float, Array]:
    """Loss of (n, k) scores and its derivative; 1 − p of the true class is never a difference."""
    xp = namespace(Z)
    U = Z - xp.sum(Z * hot, axis=1, keepdims=True)
    top = xp.max(U, axis=1, keepdims=True)
    others = xp.exp(U - top) * (1 - hot)
    s, e_y = xp.sum(others, axis=1, keepdims=True), xp.exp(-top)
    loss = float(xp.sum(top + xp.log1p(s + (e_y - 1))))
    return loss, (others - hot * s) / (s + e_y)


def _with_best_intercept(Z: Array, b: Array, hot: Array, most: int = 30) -> tuple[Array, float]:
    """Scores plus the intercepts that minimise the loss (Newton's method), and what they may still be off by."""
    xp = namespace(Z)
    k = int(hot.shape[1])
    loss, R = _residual(Z + b, hot)
    decrement = 0.0
    for _ in range(most):
        P, g = R + hot, xp.sum(R, axis=0)
        H = xp.eye(k, dtype=Z.dtype, device=Z.device) * xp.sum(P, axis=0) - P.T @ P
        ridge = _largest(H)
        H = H + ridge / k + 1e-14 * ridge * xp.eye(k, dtype=Z.dtype, device=Z.device)  # one number added to all is free
        step = xp.linalg.solve(H, g[:, None])[:, 0]
        decrement = abs(float(xp.sum(step * g)))
        if decrement <= 1e-20 * loss:
            break
        t = 1.0
        while t > 1e-6:
            new_loss, new_R = _residual(Z + (b - t * step), hot)
            if new_loss <= loss:
                break
            t /= 2
        else:
            break
        b, loss, R = b - t * step, new_loss, new_R
    return Z + b, decrement


def val_accuracy(X: Array, y: np.ndarray, classes: np.ndarray) -> Callable[[np.ndarray, np.ndarray], float]:
    """``accuracy(W, b)`` on validation rows (n, d) with labels (n,); classes are those of the fit, sorted."""
    xp = namespace(X)
    A = xp.astype(X, xp.float64)

    def accuracy(W: np.ndarray, b: np.ndarray) -> float:
        best = to_numpy(xp.argmax(A @ like(A, W).T + like(A, b), axis=1))
        return float((classes[best] == y).mean())

    return accuracy
