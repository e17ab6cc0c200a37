"""Rotated rows and a loss make the problem that the minimiser works on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from probe import preconditioner
from probe.arrays import Array, namespace
from probe.objective import BatchedLoss, Bend
from probe.preconditioner import StiffPairs, WholeHessian
from probe.rows import Rows


@dataclass(frozen=True, eq=False)
class RotatedProblem:
    """L linear classifiers over rotated rows; the problem of `probe.minimize`.

    Attributes
    ----------
    rows : Rows
    loss : BatchedLoss
    l2 : numpy.ndarray of shape (L,)
        λ of every lane.
    penalised : numpy.ndarray of shape (r,)
        One for coordinates with a penalty, zero for the intercept.
    """

    rows: Rows
    loss: BatchedLoss
    l2: np.ndarray
    penalised: np.ndarray

    def with_lanes(self, lanes: np.ndarray, l2: np.ndarray) -> RotatedProblem:
        """The same problem with lanes repeated, at penalties of their own."""
        return replace(self, rows=self.rows.pick(lanes), loss=self.loss.take(lanes), l2=l2)

    def take(self, lanes: np.ndarray) -> RotatedProblem:
        """The same problem for some of its lanes."""
        return self.with_lanes(lanes, self.l2[lanes])

    def scores(self, T: Array) -> Array:
        """(L, k, r) → (L, k, n); one pass over the rows."""
        return self.rows.scores(T)

    def adjoint(self, R: Array) -> Array:
        """(L, k, n) → (L, k, r) in float64; one pass over the rows."""
        return self.without_gauge(self.rows.adjoint(R))

    def evaluate(self, Z: Array) -> tuple[np.ndarray, Array]:
        """Loss of every lane (L,), and its derivative by the scores (L, k, n)."""
        return self.loss.evaluate(Z)

    def without_gauge(self, T: Array) -> Array:
        """Rows of softmax coefficients sum to zero at the optimum; a vector added to every class is pure rounding noise."""
        if not self.loss.has_gauge:
            return T
        return T - namespace(T).mean(T, axis=-2, keepdims=True)

    def hessian(self, R: Array, share: float) -> RowHessian:
        """Second derivatives of the loss from the rows that hold `share` of every lane's curvature."""
        active = self.rows.active(self.loss.row_curvature(R), share)
        return RowHessian(active.A, self.loss.bend(R, active.index), active.share, self)

    def preconditioner(self, R: Array, lane: int, is_hard: bool) -> StiffPairs | WholeHessian:
        """Approximate inverse Hessian of one lane at the point whose derivative by the scores is R."""
        A, spectrum = self.rows.of_lane(lane)
        curvature = self.loss.curvature(R, lane)
        return preconditioner.build(A, curvature, spectrum, self.penalised, float(self.l2[lane]), is_hard)


@dataclass(frozen=True, eq=False)
class RowHessian:
    """``Σ_i H_i ⊗ x_i x_iᵀ`` over some of the rows; call it with directions of shape (L, k, r)."""

    A: Array  # (m, r), or (L, m, r)
    bend: Bend
    share_of_rows: float
    _problem: RotatedProblem

    def take(self, lanes: np.ndarray) -> RowHessian:
        """The same for some of the lanes."""
        A = self.A
        if A.ndim == 3:
            xp = namespace(A)
            A = xp.take(A, xp.asarray(lanes, device=A.device), axis=0)
        return replace(self, A=A, bend=self.bend.take(lanes))

    def __call__(self, P: Array) -> Array:
        """One product with the rows, one with their second derivatives, one back."""
        xp = namespace(P)
        L, k, r = (int(s) for s in P.shape)
        if self.A.ndim == 3:
            return self._problem.without_gauge(self.bend(P @ xp.permute_dims(self.A, (0, 2, 1))) @ self.A)
        m = int(self.A.shape[0])
        Z = xp.reshape(xp.reshape(P, (L * k, r)) @ self.A.T, (L, k, m))
        back = xp.reshape(self.bend(Z), (L * k, m)) @ self.A
        return self._problem.without_gauge(xp.reshape(back, (L, k, r)))
