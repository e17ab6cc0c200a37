"""Rotated rows and a loss make the problem that the minimiser works on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from probe import preconditioner
from probe.arrays import Array, namespace
from probe.objective import BatchedLoss, Bend
from probe.preconditioner import StiffPairs, WholeHessian
from probe.rotation import Rotation

_MOST_ACTIVE = 0.7  # of the rows: beyond this, gathering them costs more than it saves


@dataclass(frozen=True, eq=False)
class RotatedProblem:
    """L linear classifiers over the same rotated rows; the problem of `probe.minimize`.

    Attributes
    ----------
    A : array of shape (n, r)
        Rotated rows, in the working dtype.
    loss : BatchedLoss
    l2 : numpy.ndarray of shape (L,)
        λ of every lane.
    rotation : Rotation
    """

    A: Array
    loss: BatchedLoss
    l2: np.ndarray
    rotation: Rotation

    @property
    def penalised(self) -> np.ndarray:
        """One for coordinates with a penalty, zero for the intercept; (r,)."""
        return self.rotation.penalised

    def at(self, l2: np.ndarray) -> RotatedProblem:
        """The same problem with other penalties."""
        return replace(self, l2=l2)

    def with_lanes(self, lanes: np.ndarray, l2: np.ndarray) -> RotatedProblem:
        """The same problem with lanes repeated, at penalties of their own."""
        return replace(self, loss=self.loss.take(lanes), l2=l2)

    def take(self, lanes: np.ndarray) -> RotatedProblem:
        """The same problem for some of its lanes."""
        return replace(self, loss=self.loss.take(lanes), l2=self.l2[lanes])

    def scores(self, T: Array) -> Array:
        """(L, k, r) → (L, k, n); one pass over the rows."""
        xp = namespace(self.A)
        L, k, r = (int(s) for s in T.shape)
        flat = xp.astype(xp.reshape(T, (L * k, r)), self.A.dtype)
        return xp.reshape(flat @ self.A.T, (L, k, int(self.A.shape[0])))

    def adjoint(self, R: Array) -> Array:
        """(L, k, n) → (L, k, r) in float64; one pass over the rows."""
        xp = namespace(self.A)
        L, k, n = (int(s) for s in R.shape)
        G = xp.astype(xp.reshape(R, (L * k, n)) @ self.A, xp.float64)
        return self.without_gauge(xp.reshape(G, (L, k, int(self.A.shape[1]))))

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
        xp = namespace(R)
        rows = _active(self.loss.row_curvature(R), share)
        A = self.A if rows is None else xp.take(self.A, xp.asarray(rows, device=self.A.device), axis=0)
        return RowHessian(A, self.loss.bend(R, rows), 1.0 if rows is None else len(rows) / int(self.A.shape[0]), self)

    def preconditioner(self, R: Array, lane: int, is_hard: bool) -> StiffPairs | WholeHessian:
        """Approximate inverse Hessian of one lane at the point whose derivative by the scores is R."""
        curvature = self.loss.curvature(R, lane)
        l2 = float(self.l2[lane])
        return preconditioner.build(self.A, curvature, self.rotation.spectrum, self.penalised, l2, is_hard)


@dataclass(frozen=True, eq=False)
class RowHessian:
    """``Σ_i H_i ⊗ x_i x_iᵀ`` over some of the rows; call it with directions of shape (L, k, r)."""

    A: Array
    bend: Bend
    share_of_rows: float
    _problem: RotatedProblem

    def take(self, lanes: np.ndarray) -> RowHessian:
        """The same for some of the lanes."""
        return replace(self, bend=self.bend.take(lanes))

    def __call__(self, P: Array) -> Array:
        """One product with the rows, one with their second derivatives, one back."""
        xp = namespace(P)
        L, k, r = (int(s) for s in P.shape)
        m = int(self.A.shape[0])
        Z = xp.reshape(xp.reshape(P, (L * k, r)) @ self.A.T, (L, k, m))
        back = xp.reshape(self.bend(Z), (L * k, m)) @ self.A
        return self._problem.without_gauge(xp.reshape(back, (L, k, r)))


def _active(curvature: np.ndarray, share: float) -> np.ndarray | None:
    """Rows that hold `share` of the curvature of every lane (L, n); None for all, where leaving some out saves too little."""
    L, n = curvature.shape
    chosen = np.zeros(n, dtype=bool)
    for lane in curvature:
        falling = np.sort(lane)[::-1]
        reached = np.cumsum(falling, dtype=np.float64)
        last = int(np.searchsorted(reached, share * reached[-1]))
        chosen |= lane >= falling[min(last, n - 1)]
    return np.flatnonzero(chosen) if chosen.sum() < _MOST_ACTIVE * n else None
