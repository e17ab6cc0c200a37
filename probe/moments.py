"""Sums over all rows, in float64, that least squares are solved and certified from: means, Gram matrix, products with targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probe.arrays import Array, like, namespace, to_numpy
from probe.certificate import Certificate
from probe.errors import BadInput
from probe.labels import Labels
from probe.row_blocks import Held, Read, about


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted first and second moments of features and targets, in float64, from the data as given.

    Attributes
    ----------
    total : float
        Σ s.
    mean : array of shape (d,)
        Of the features; zero without an intercept.
    target_mean : array of shape (K,)
        Of the targets; zero without an intercept.
    target_square : numpy.ndarray of shape (K,)
        ``Σ s (t − t̄)²``.
    right : array of shape (K, d)
        ``Σ s (t − t̄)(x − μ)ᵀ``.
    zero_gradient : numpy.ndarray of shape (K,)
        ‖∇F‖∞ at zero weights and intercept.
    gram : array of shape (d, d) or None
        ``Σ s (x − μ)(x − μ)ᵀ``; None with fewer rows than columns.
    """

    total: float
    mean: Array
    target_mean: Array
    target_square: np.ndarray
    right: Array
    zero_gradient: np.ndarray
    gram: Array | None


def moments_of(X: Held | Read, labels: Labels, fit_intercept: bool, with_gram: bool) -> Moments:
    """Sum the moments from row blocks.

    Parameters
    ----------
    X : Held or Read
        Features of shape (n, d).
    labels : Labels
    fit_intercept : bool
        Without an intercept nothing is centred.
    with_gram : bool

    Returns
    -------
    Moments

    Raises
    ------
    BadInput
        NaN or infinity (rows named); squares beyond float64.
    """
    xp, device = namespace(X.example), X.example.device
    (n, d), K = X.shape, len(labels.codes)
    s = np.ones(n) if labels.weights is None else labels.weights
    t = 2.0 * labels.codes - 1.0
    t_mean = (t @ s) / s.sum() if fit_intercept else np.zeros(K)
    mean = _mean(X, labels)
    mean = mean if fit_intercept else xp.zeros_like(mean)
    targets = like(mean, (t - t_mean[:, None]) * np.sqrt(s))
    right = xp.zeros((K, d), dtype=xp.float64, device=device)
    gram = xp.zeros((d, d), dtype=xp.float64, device=device) if with_gram else None
    with np.errstate(over="ignore", invalid="ignore"):
        squares = xp.zeros_like(mean)
        for rows, block in about(X, mean, labels.weights):
            right = right + targets[:, rows] @ block
            squares = squares + xp.sum(block * block, axis=0)
            if gram is not None:
                gram = gram + block.T @ block
    if not bool(xp.all(xp.isfinite(squares))):
        raise BadInput("The squares of X are beyond float64; divide the features by a constant.")
    total = float(s.sum())
    sums = total * like(mean, t_mean)
    by_W = to_numpy(xp.max(xp.abs(right + sums[:, None] * mean[None, :]), axis=1))
    largest = np.maximum(by_W, np.abs(total * t_mean)) if fit_intercept else by_W
    squared = ((t - t_mean[:, None]) ** 2) @ s
    return Moments(
        total, mean, like(mean, t_mean), squared, right, np.maximum(largest, np.finfo(np.float64).tiny), gram
    )


def certify_by_moments(m: Moments, W: Array, b: Array, l2: np.ndarray) -> tuple[Certificate, np.ndarray]:
    """Certify fits without reading a row: the gradient of a quadratic is its Gram matrix times W.

    Parameters
    ----------
    m : Moments
        With a Gram matrix.
    W : array of shape (b, K, d), float64
    b : array of shape (b, K), float64
    l2 : numpy.ndarray of shape (b,)

    Returns
    -------
    certificate : Certificate
        Arrays of shape (b, K).
    share : numpy.ndarray of shape (b, K)
        Loss over the loss at zero weights; digits are lost in proportion to its inverse.
    """
    xp = namespace(W)
    by_gram = W @ m.gram
    G = by_gram - m.right + like(W, l2)[:, None, None] * W
    by_b = m.total * (b + W @ m.mean - m.target_mean)
    by_W = G + by_b[..., None] * m.mean
    residual = to_numpy(xp.sum(W * by_gram, axis=-1) - 2.0 * xp.sum(W * m.right, axis=-1)) + m.target_square
    sum_b = to_numpy(by_b)
    loss = 0.5 * np.maximum(residual, 0.0) + 0.5 * sum_b**2 / m.total
    weights = to_numpy(xp.sum(W * W, axis=-1))
    objective = loss + 0.5 * l2[:, None] * weights
    squared = to_numpy(xp.sum(G * G, axis=-1))
    bound = squared / (2.0 * l2[:, None]) + 0.5 * sum_b**2 / m.total
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = bound / objective
        error = np.where(squared == 0, 0.0, np.sqrt(squared) / (l2[:, None] * np.sqrt(weights)))
        share = residual / m.target_square
    largest = np.maximum(to_numpy(xp.max(xp.abs(by_W), axis=-1)), np.abs(sum_b))
    return Certificate(objective, largest / m.zero_gradient, gap, error), share


def _mean(X: Held | Read, labels: Labels) -> Array:
    """Weighted mean of the rows, float64; NaN, infinity and overflow are found here."""
    xp, (n, d) = namespace(X.example), X.shape
    s = np.ones(n) if labels.weights is None else labels.weights
    total = xp.zeros((d,), dtype=xp.float64, device=X.example.device)
    weight = like(total, s / s.sum())
    finite = total
    with np.errstate(over="ignore", invalid="ignore"):
        for rows, block in X.blocks():
            total = total + weight[rows] @ block
            finite = finite + xp.sum(block, axis=0)  # rows of weight zero too
    if not bool(xp.all(xp.isfinite(finite))):
        X.require_finite()
        raise BadInput("The sum of a column of X is beyond float64; divide the features by a constant.")
    return total
