"""Rotated rows and a loss make the problem that the minimiser works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from probe import preconditioner
from probe.arrays import Array, like, namespace
from probe.objective import BatchedLoss, Bend
from probe.preconditioner import StiffPairs, Together, WholeHessian
from probe.rows import Active, Rows

if TYPE_CHECKING:
    from probe.minimize import Preconditioner


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
        return self.without_gauge(self.rows.adjoint(R, lambda: self.loss.row_curvature(R)))

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
        active = self.rows.active(lambda: self.loss.row_curvature(R), share)
        loss, R = self._part(active, R)
        return RowHessian(active, loss.bend(R), active.share, self)

    @property
    def is_alike(self) -> bool:
        """Whether all lanes have the same rows and penalty, so that their Hessians may be."""
        return self.rows.is_shared and len(self.l2) > 1 and bool((self.l2 == self.l2[0]).all())

    def preconditioner(self, R: Array, lane: int | None, is_hard: bool) -> StiffPairs | WholeHessian:
        """Approximate inverse Hessian of one lane at the point whose derivative by the scores is R; of None, for all lanes."""
        active, spectrum = self.rows.stiff(lane or 0)
        loss, R = self._part(active, R)
        curvature, l2 = loss.curvature(R, lane), float(self.l2[lane or 0])
        built = preconditioner.build(
            active.candidates, curvature, spectrum, self.penalised, l2, is_hard, self.rows.n,
            1 if lane is None else len(self.l2),
        )  # fmt: skip
        return replace(built, is_common=lane is None)

    def together(self, preconditioners: Sequence[Preconditioner]) -> Together | None:
        """The preconditioners of all lanes as one, where they share most of their rows."""
        return preconditioner.together(preconditioners)

    def _part(self, active: Active, R: Array) -> tuple[BatchedLoss, Array]:
        """The loss and its derivative for some rows, each as often as it stands for others."""
        if active.index is None:
            return self.loss, R
        R = namespace(R).take(R, namespace(R).asarray(active.index, device=R.device), axis=2)
        if active.weights is not None:
            R = R * like(R, active.weights)
        return self.loss.at_rows(active.index, active.weights), R


@dataclass(frozen=True, eq=False)
class RowHessian:
    """``Σ_i H_i ⊗ x_i x_iᵀ`` over some of the rows; call it with directions of shape (L, k, r)."""

    active: Active
    bend: Bend
    share_of_rows: float
    _problem: RotatedProblem

    @property
    def is_part(self) -> bool:
        """Whether the rows are a sample."""
        return self.active.weights is not None

    def take(self, lanes: np.ndarray) -> RowHessian:
        """The same for some of the lanes."""
        return replace(self, active=self.active.take(lanes), bend=self.bend.take(lanes))

    def __call__(self, P: Array) -> Array:
        """One product with the rows, one with their second derivatives, one back."""
        return self._problem.without_gauge(self.active.product(P, self.bend))
