"""Rotated rows and a loss make the problem that the minimiser works on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from probe import preconditioner
from probe.arrays import Array, namespace
from probe.objective import BatchedLoss
from probe.preconditioner import StiffPairs, WholeHessian
from probe.rotation import Rotation


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

    def preconditioner(self, R: Array, lane: int, is_hard: bool) -> StiffPairs | WholeHessian:
        """Approximate inverse Hessian of one lane at the point whose derivative by the scores is R."""
        curvature = self.loss.curvature(R, lane)
        l2 = float(self.l2[lane])
        return preconditioner.build(self.A, curvature, self.rotation.spectrum, self.penalised, l2, is_hard)
