"""When a walk along the penalties may go on: the certificate, estimated in rotated coordinates and in the working dtype."""

from __future__ import annotations

import numpy as np

from probe.arrays import like, namespace, take, to_host
from probe.certificate import meets
from probe.design import Design
from probe.minimize import Point, Rule

_FAR = 1.5  # times the tolerance: largest entries foreseen beyond this are not looked at


def stopping_rule(design: Design, scale: np.ndarray, tol: float) -> Rule:
    """The rule of `probe.certificate.meets`, as the minimiser asks it.

    Parameters
    ----------
    design : Design
    scale : numpy.ndarray of shape (L,)
        From `probe.certificate.zero_gradient`, of every lane.
    tol : float

    Returns
    -------
    callable
        Point → (done, gap), each of shape (L,).
    """

    _, d = design.shape
    shape = np.zeros(len(scale))  # largest entry over length of the last gradient that was rotated, of every lane
    mask = like(design.example, design.penalised, namespace(design.example).float64)

    def is_converged(p: Point) -> tuple[np.ndarray, np.ndarray]:
        xp = namespace(p.T)
        by_W, by_b, size = to_host(
            xp.sum(mask * p.G * p.G, axis=(1, 2)),
            xp.sum((1 - mask) * p.G * p.G, axis=(1, 2)),
            xp.sum(mask * p.T * p.T, axis=(1, 2)) ** 0.5,
        )
        bound = by_W / (2 * p.l2) + by_b / (p.residual / p.T.shape[1] + 1e-300)
        with np.errstate(divide="ignore", invalid="ignore"):
            gap, error = bound / p.objective, np.sqrt(by_W) / (p.l2 * size)
        # The largest entry of a gradient is at least its root mean square, which the rotation does not change.
        # It hardly changes its shape from one look to the next, and looking costs a rotation.
        length = np.sqrt(by_W + by_b) / scale[p.ids]
        least = np.maximum(np.sqrt(by_W / (p.T.shape[1] * d)) / scale[p.ids], shape[p.ids] * length / _FAR)
        grad_norm = np.full(len(gap), np.inf)
        is_open = ~meets(grad_norm, gap, error, tol)  # of the others the gradient does not matter
        worth = np.flatnonzero(is_open & (gap <= 100 * tol) & (least <= tol))
        if len(worth):
            G = p.G if len(worth) == len(gap) else take(p.G, worth)
            grad_norm[worth] = design.largest(G, p.ids[worth]) / scale[p.ids[worth]]
            shape[p.ids[worth]] = grad_norm[worth] / np.maximum(length[worth], 1e-300)
        return meets(grad_norm, gap, error, tol), gap

    return is_converged
