"""Walking along the penalties: predict, correct, certify, and repair in float64 what float32 could not finish."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from probe.arrays import Array, is_on_cpu, namespace
from probe.certificate import Certificate, certify, meets, zero_gradient
from probe.guessing import Known, guess
from probe.labels import Labels
from probe.lbfgs import LBFGS
from probe.minimize import Lane, Method, minimize
from probe.newton import Newton
from probe.problem import RotatedProblem
from probe.rotation import Rotation, rotate
from probe.status import Status, ending
from probe.stopping import stopping_rule

_COLUMNS = 256  # of a product that fills an accelerator
_MOST_STRIDE = 4  # penalties per corner where a pass is dear; a decade of the papers' grid
_MOST_CORNERS = 4  # that a guess is made from
_MARGIN = 0.7  # the walk stops at this fraction of the tolerance, so that the certificate, made elsewhere, meets it
_REPAIRS = 2
_FLOAT32_TOL = 1e-7  # tolerances below this are out of reach in float32 from the start


@dataclass(frozen=True, eq=False)
class Solution:
    """Fits of b penalties, in ascending C.

    Attributes
    ----------
    W : array of shape (b, k, d), float64
    b : array of shape (b, k), float64
    certificate : Certificate
        Arrays of shape (b,); of the worst label for multi-label data, but the objective, which is the sum.
    status : tuple of Status
    n_iter, passes : numpy.ndarray of shape (b,), int64
    precision : numpy.ndarray of shape (b,), text
        "float32" or "float64": what the fit was finished in.
    """

    W: Array
    b: Array
    certificate: Certificate
    status: tuple[Status, ...]
    n_iter: np.ndarray
    passes: np.ndarray
    precision: np.ndarray


@dataclass(frozen=True, eq=False)
class _Fit:
    """All lanes of one penalty, as they left the minimiser."""

    l2: float
    lanes: list[Lane]
    precision: str


class PathSolver:
    """Solves a feature matrix and labels for any penalties.

    Parameters
    ----------
    X : array of shape (n, d)
    labels : Labels
    fit_intercept : bool
    tol : float
    max_iter : int
        Iterations per penalty.
    rotation : Rotation, optional
        Of `X`, when it is already known.
    """

    def __init__(
        self, X: Array, labels: Labels, fit_intercept: bool, tol: float, max_iter: int, rotation: Rotation | None = None
    ) -> None:
        xp = namespace(X)
        self._X, self._labels, self._tol, self._max_iter = X, labels, tol, max_iter
        self._fit_intercept = fit_intercept
        self.rotation = rotate(X, fit_intercept) if rotation is None else rotation
        self._loss64 = labels.loss(X, xp.float64)
        self._scale = zero_gradient(X, self._loss64, labels.k, fit_intercept)
        is_double = X.dtype == xp.float64 or tol < _FLOAT32_TOL
        self._problem = self._build(xp.float64 if is_double else xp.float32)
        self._fits: list[_Fit] = []
        self._corners: list[Known] = []

    @property
    def n_done(self) -> int:
        """How many penalties are solved."""
        return len(self._fits)

    def _build(self, dtype: object) -> RotatedProblem:
        A = self.rotation.rows(self._X, dtype)
        return RotatedProblem(A, self._labels.loss(self._X, dtype), np.ones(self._labels.n_lanes), self.rotation)

    def _is_double(self) -> bool:
        return bool(self._problem.A.dtype == namespace(self._X).float64)

    def walk(self, l2: np.ndarray) -> None:
        """Solve penalties from strong to weak: the corners one after the other, those between two corners together.

        Parameters
        ----------
        l2 : numpy.ndarray of shape (b,)
            λ, falling, and weaker than what was solved before.
        """
        stride = self._stride(len(l2))
        begin = 0
        while begin < len(l2):
            corner = min(begin + stride - 1, len(l2) - 1) if self._corners else begin
            self._corner(float(l2[corner]))
            if corner > begin:
                self._between(l2[begin:corner])
            begin = corner + 1
        for lane in self._fits[-1].lanes:
            lane.memory, lane.preconditioner = [], None

    def _stride(self, n: int) -> int:
        """Every how many penalties one is a corner.

        Leaps of a decade cost more products with the rows in memory than small steps, and fewer passes over all rows: on a CPU
        the products are what takes the time, on an accelerator it is the number of kernels.
        """
        if is_on_cpu(self._X) or n < _MOST_STRIDE:
            return 1
        return int(np.clip(_COLUMNS // (self._labels.n_lanes * self._labels.k), 1, _MOST_STRIDE))

    def _corner(self, l2: float) -> None:
        """Solve the next penalty from the corners before it."""
        if self._corners:
            start, _ = guess(self._problem.at(self._spread(1, l2)), self._corners, np.array([l2]))
            before: list[Lane] | None = self._fits[-1].lanes
        else:
            start, before = self._intercept_only(), None
        lanes = self._solve(np.array([l2]), start, None, before)
        xp = namespace(self._X)
        T, Z = (xp.stack([getattr(lane, name) for lane in lanes], axis=0) for name in ("T", "Z"))
        self._corners = [*self._corners, Known(l2, T, Z)][-_MOST_CORNERS:]
        self._keep(l2, lanes)

    def _between(self, l2: np.ndarray) -> None:
        """Solve the penalties between the last two corners, all at once."""
        last = self._fits.pop()
        start, Z = guess(self._repeated(l2), self._corners, l2)
        before = [replace(lane) for _ in l2 for lane in last.lanes]
        lanes = self._solve(l2, start, Z, before)
        L = self._labels.n_lanes
        for i, value in enumerate(l2):
            self._keep(float(value), lanes[i * L : (i + 1) * L])
            for lane in lanes[i * L : (i + 1) * L]:
                lane.memory, lane.preconditioner = [], None
        self._fits.append(last)

    def _keep(self, l2: float, lanes: list[Lane]) -> None:
        for lane in self._fits[-1].lanes if self._fits else []:
            lane.memory, lane.preconditioner = [], None
        for lane in lanes:
            lane.Z = None
        self._fits.append(_Fit(l2, lanes, "float64" if self._is_double() else "float32"))

    def _spread(self, p: int, l2: Any) -> np.ndarray:
        """λ of every lane of p penalties."""
        return np.repeat(np.broadcast_to(np.asarray(l2, dtype=np.float64), (p,)), self._labels.n_lanes)

    def _repeated(self, l2: np.ndarray) -> RotatedProblem:
        """The problem with the lanes of several penalties."""
        lanes = np.tile(np.arange(self._labels.n_lanes), len(l2))
        return self._problem.with_lanes(lanes, self._spread(len(l2), l2))

    def _solve(self, l2: np.ndarray, start: Array, Z: Array | None, before: list[Lane] | None) -> list[Lane]:
        """Minimise; in float64 from where float32 ends, and by L-BFGS where Newton's method does."""
        lanes = self._minimize(l2, start, Z, before, _MARGIN)
        if not self._is_double() and any(lane.is_stalled for lane in lanes):
            self._problem = self._build(namespace(self._X).float64)
            lanes = self._again(lanes, l2, _MARGIN, Newton())
        if any(lane.is_stalled for lane in lanes):
            lanes = self._again(lanes, l2, _MARGIN, LBFGS())
        return lanes

    def _again(self, lanes: list[Lane], l2: np.ndarray, margin: float, method: Method) -> list[Lane]:
        """Go on from where some lanes ended."""
        start = namespace(self._X).stack([lane.T for lane in lanes], axis=0)
        later = self._minimize(l2, start, None, None, margin, method)
        for a, b in zip(lanes, later, strict=True):
            b.n_iter, b.passes, b.products = a.n_iter + b.n_iter, a.passes + b.passes, a.products + b.products
        return later

    def _minimize(
        self,
        l2: np.ndarray,
        start: Array,
        Z: Array | None,
        before: list[Lane] | None,
        margin: float,
        method: Method | None = None,
    ) -> list[Lane]:
        problem = self._repeated(l2)
        if before is not None and any(m.dtype != problem.A.dtype for lane in before for m in lane.memory[:1] for m in m):
            before = None
        scale = np.tile(np.broadcast_to(self._scale, (self._labels.n_lanes,)), len(l2))
        rule = stopping_rule(self.rotation, scale, int(self._X.shape[1]), margin * self._tol)
        return minimize(
            problem, start, rule, Newton() if method is None else method, max_iter=self._max_iter, before=before, Z=Z
        )

    def _intercept_only(self) -> Array:
        """Zero weights, and the intercepts that are optimal with them."""
        xp = namespace(self._X)
        T = np.zeros((self._labels.n_lanes, self._labels.k, len(self.rotation.spectrum)))
        if self._fit_intercept:
            T[:, :, -1] = self._problem.loss.intercepts()
        return xp.asarray(T, device=self._X.device)

    def finish(self, repair: bool = True) -> Solution:
        """Certify every penalty solved so far, in float64 on the data as given, and repair what falls short."""
        xp = namespace(self._X)
        fits = self._fits
        T = xp.stack([xp.stack([lane.T for lane in fit.lanes], axis=0) for fit in fits], axis=0)
        l2 = np.array([fit.l2 for fit in fits])
        n_iter = np.array([[lane.n_iter for lane in fit.lanes] for fit in fits])
        passes = np.array([[lane.passes for lane in fit.lanes] for fit in fits])
        precision = np.array([fit.precision for fit in fits], dtype="<U7")
        b, L, k, r = (int(s) for s in T.shape)
        W, offset = self.rotation.to_features(xp.reshape(T, (b * L, k, r)))
        W, offset = xp.reshape(W, (b, L, k, -1)), xp.reshape(offset, (b, L, k))
        certificate, offset = certify(self._X, self._loss64, W, offset, l2, self._scale, self._fit_intercept)
        passes += 2
        for attempt in range(_REPAIRS if repair else 0):
            short = np.flatnonzero(~self._met(certificate).all(axis=1))
            if len(short) == 0:
                break
            if not self._is_double():
                self._problem = self._build(xp.float64)
            for i in short:
                start = self.rotation.from_features(W[int(i), ...], offset[int(i), ...])
                method = Newton() if attempt == 0 else LBFGS()
                lanes = self._minimize(l2[i : i + 1], start, None, None, _MARGIN * 0.1**attempt, method)
                n_iter[i] += [lane.n_iter for lane in lanes]
                passes[i] += [lane.passes + 2 for lane in lanes]
                precision[i] = "float64"
                W[int(i), ...], offset[int(i), ...] = self.rotation.to_features(
                    xp.stack([lane.T for lane in lanes], axis=0)
                )
            index = xp.asarray(short, device=self._X.device)
            again, moved = certify(
                self._X, self._loss64, xp.take(W, index, axis=0), xp.take(offset, index, axis=0), l2[short], self._scale,
                self._fit_intercept,
            )  # fmt: skip
            for j, i in enumerate(short):
                offset[int(i), ...] = moved[j, ...]
                for name in ("objective", "grad_norm", "gap", "coef_error"):
                    getattr(certificate, name)[i] = getattr(again, name)[j]
        return self._solution(W, offset, certificate, n_iter, passes, precision)

    def _met(self, c: Certificate) -> np.ndarray:
        return meets(c.grad_norm, c.gap, c.coef_error, self._tol)

    def _solution(
        self, W: Array, b: Array, c: Certificate, n_iter: np.ndarray, passes: np.ndarray, precision: np.ndarray
    ) -> Solution:
        xp = namespace(W)
        n, L, k, d = (int(s) for s in W.shape)
        met: list[bool] = np.asarray(self._met(c).all(axis=1)).tolist()
        finite: list[bool] = np.asarray(np.isfinite(c.objective).all(axis=1)).tolist()
        exhausted: list[bool] = np.asarray((n_iter >= self._max_iter).any(axis=1)).tolist()
        status = [ending(*flags) for flags in zip(met, finite, exhausted, strict=True)]
        worst = Certificate(
            c.objective.sum(axis=1), c.grad_norm.max(axis=1), c.gap.max(axis=1), c.coef_error.max(axis=1)
        )
        return Solution(
            xp.reshape(W, (n, L * k, d)), xp.reshape(b, (n, L * k)), worst, tuple(status), n_iter.max(axis=1),
            passes.max(axis=1), precision,
        )  # fmt: skip
