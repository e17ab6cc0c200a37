"""Losses of a margin, one score per lane: logistic, squared hinge, squared error. A loss is its two formulas; the rest is shared.

Conventions
-----------
The margin of row i is ``m = y z`` with y = ±1. Lanes are label sets: the labels of multi-label data, or the classes of a
multinomial problem, each against the rest. ``k = 1`` throughout; shapes are those of `probe.objective`.

    ==============  =====================  =========================  =============================
    loss            value                  −derivative by m           second derivative
    ==============  =====================  =========================  =============================
    logistic        log(1 + exp(−m))       p = 1 / (1 + exp(m))       p (1 − p)
    squared hinge   max(0, 1 − m)²         2 max(0, 1 − m)            2 where m < 1 (generalised)
    squared error   ½ (1 − m)²             1 − m                      1
    ==============  =====================  =========================  =============================

The squared error is that of the targets ±1: ``½ (z − y)² = ½ (1 − y z)²``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from probe.arrays import Array, namespace, to_numpy
from probe.objective import Bend, Curvature, columns_of, counts_of, lanes_of, own, piece, pieces, weights_at


@dataclass(frozen=True, eq=False)
class MarginLoss(ABC):
    """A convex loss of the margin, for L label sets.

    Attributes
    ----------
    sign : array of shape (1 or L, 1, n)
        +1 for the second class, −1 for the first, in the working dtype.
    weights : array of shape (1 or L, 1, n) or None
        Sample weights.
    """

    sign: Array
    weights: Array | None = None
    has_gauge: ClassVar[bool] = False

    @abstractmethod
    def _at(self, margin: Array) -> tuple[Array, Array]:
        """Value, float64, and minus the derivative, in the working dtype."""

    @abstractmethod
    def _second(self, R: Array, w: Array | None) -> Array:
        """Weighted second derivative where the weighted derivative by the scores is R."""

    @abstractmethod
    def intercepts(self) -> np.ndarray:
        """Intercepts that are optimal at zero weights, shape (1 or L, 1), float64."""

    @property
    def n_lanes(self) -> int:
        """L, or 1 where one label set serves all lanes."""
        return (
            int(self.sign.shape[0])
            if self.weights is None
            else max(int(self.sign.shape[0]), int(self.weights.shape[0]))
        )

    def take(self, lanes: np.ndarray) -> MarginLoss:
        """The same loss for some of the lanes."""
        weights = None if self.weights is None else lanes_of(self.weights, lanes)
        return replace(self, sign=lanes_of(self.sign, lanes), weights=weights)

    def part(self, lane: int, n: int) -> MarginLoss:
        """One lane, and its first n rows."""
        one = self.take(np.array([lane]))
        return replace(one, sign=one.sign[..., :n], weights=None if one.weights is None else one.weights[..., :n])

    def counts(self) -> np.ndarray:
        """Weight of the first and of the second class, shape (1 or L, 2), float64."""
        second = counts_of((1 + self.sign) / 2, self.weights)
        return np.concatenate([counts_of((1 - self.sign) / 2, self.weights), second], axis=1)

    def evaluate(self, Z: Array) -> tuple[np.ndarray, Array]:
        """Loss of every lane and its derivative by the scores.

        Parameters
        ----------
        Z : array of shape (L, 1, n)

        Returns
        -------
        loss : numpy.ndarray of shape (L,), float64
        R : array of shape (L, 1, n)
        """
        xp = namespace(Z)
        R = xp.empty_like(Z)
        loss = np.zeros(int(Z.shape[0]))
        for lane, part in pieces(Z):
            sign, w = piece(self.sign, lane, part), piece(self.weights, lane, part)
            value, slope = self._at(Z[lane, :, part] * sign)
            r = -sign * slope
            if w is not None:
                value, r = value * xp.astype(w, xp.float64), r * w
            loss[lane] += to_numpy(xp.sum(value, axis=(1, 2)))
            R[lane, :, part] = r
        return loss, R

    def row_curvature(self, R: Array) -> np.ndarray:
        """Second derivative of every row, (L, n), on the host."""
        return to_numpy(self._second(R, self.weights))[:, 0, :]

    def bend(self, R: Array) -> Bend:
        """Second derivatives at the point whose derivative is R (L, 1, n)."""
        return Bend(self._second(R, self.weights), None)

    def at_rows(self, rows: np.ndarray, times: np.ndarray | None = None) -> MarginLoss:
        """The loss of some rows, each counted so many times."""
        weights = weights_at(self.weights, self.sign, rows, times)
        return replace(self, sign=columns_of(self.sign, rows), weights=weights)

    def curvature(self, R: Array, lane: int | None) -> Curvature:
        """Curvature of one lane at the point whose derivative is R (L, 1, n); of None, the mean of all."""
        if lane is None:
            weight = namespace(R).mean(self._second(R, self.weights), axis=0)
        else:
            w = None if self.weights is None else self.weights[own(self.weights, lane), ...]
            weight = self._second(R[lane, ...], w)
        return Curvature(weight, weight, self, R, lane)

    def vectors(self, R: Array, lane: int | None, c: Array, i: Array) -> Array:
        """Ones, shape (m, 1)."""
        return namespace(R).ones((int(i.shape[0]), 1), dtype=R.dtype, device=R.device)

    def hessian_row(self, R: Array, lane: int | None, c: int) -> Array:
        """The second derivative, shape (1, n), float64."""
        xp = namespace(R)
        return xp.astype(self.curvature(R, lane).weight, xp.float64)

    def intercept_hessian(self, R: Array) -> Array:
        """Sum of the second derivatives over the rows, shape (L, 1, 1)."""
        return namespace(R).sum(self._second(R, self.weights), axis=2)[..., None]


@dataclass(frozen=True, eq=False)
class Logistic(MarginLoss):
    """``log(1 + exp(−m))``: binary logistic regression."""

    def _at(self, margin: Array) -> tuple[Array, Array]:
        """``1 − p_y`` is never formed by subtraction, see `probe.objective.Softmax.evaluate`."""
        xp = namespace(margin)
        small = xp.exp(-xp.abs(margin))
        right = margin > 0
        wrong = xp.where(right, small, xp.ones_like(small)) / (1 + small)  # 1 − p_y
        value = xp.log1p(xp.astype(small, xp.float64))
        return value + xp.astype(xp.where(right, xp.zeros_like(margin), -margin), xp.float64), wrong

    def _second(self, R: Array, w: Array | None) -> Array:
        xp = namespace(R)
        size = xp.abs(R)
        return size * (1 - (size if w is None else size / xp.where(w > 0, w, xp.ones_like(w))))

    def intercepts(self) -> np.ndarray:
        """Log-odds of the second class."""
        counts = np.log(np.maximum(self.counts(), 1e-12))
        odds: np.ndarray = counts[:, 1:] - counts[:, :1]
        return odds


@dataclass(frozen=True, eq=False)
class SquaredHinge(MarginLoss):
    """``max(0, 1 − m)²``: the linear support vector machine of liblinear, without its ½.

    Its derivative has kinks but no jumps, so that Newton's method with the generalised Hessian (2 on rows with m < 1)
    still converges (Keerthi & DeCoste 2005, "A modified finite Newton method for fast solution of large scale linear SVMs").
    """

    def _at(self, margin: Array) -> tuple[Array, Array]:
        xp = namespace(margin)
        slack = 1 - margin
        slack = xp.where(slack > 0, slack, xp.zeros_like(slack))
        wide = xp.astype(slack, xp.float64)
        return wide * wide, 2 * slack

    def _second(self, R: Array, w: Array | None) -> Array:
        xp = namespace(R)
        twice = 2 * xp.ones_like(R) if w is None else xp.broadcast_to(2 * w, R.shape)
        inside = R != 0
        nowhere = ~xp.any(inside, axis=-1, keepdims=True)  # a step from a flat place needs a scale all the same
        return xp.where(inside | nowhere, twice, xp.zeros_like(R))

    def intercepts(self) -> np.ndarray:
        """Difference of the class frequencies; between −1 and 1 every row is inside its margin."""
        return _mean_target(self.counts())


@dataclass(frozen=True, eq=False)
class SquaredError(MarginLoss):
    """``½ (z − y)²`` with targets y = ±1: ridge classification."""

    def _at(self, margin: Array) -> tuple[Array, Array]:
        xp = namespace(margin)
        slack = 1 - margin
        wide = xp.astype(slack, xp.float64)
        return 0.5 * wide * wide, slack

    def _second(self, R: Array, w: Array | None) -> Array:
        xp = namespace(R)
        return xp.ones_like(R) if w is None else xp.broadcast_to(w, R.shape)

    def intercepts(self) -> np.ndarray:
        """The mean target."""
        return _mean_target(self.counts())


def _mean_target(counts: np.ndarray) -> np.ndarray:
    mean: np.ndarray = (counts[:, 1:] - counts[:, :1]) / np.maximum(counts.sum(1, keepdims=True), 1e-300)
    return mean
