"""Walking along the penalties: predict, correct, certify, and repair in float64 what float32 could not finish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np

from probe.arrays import Array, namespace
from probe.certificate import Certificate, meets
from probe.design import Design
from probe.guessing import Known, guess
from probe.labels import Labels, Loss
from probe.lbfgs import LBFGS
from probe.minimize import Lane, Method, minimize
from probe.newton import Newton
from probe.problem import RotatedProblem
from probe.rows import Reads
from probe.status import Status, ending
from probe.stopping import stopping_rule

_COLUMNS = 256  # of a product that fills an accelerator
_MOST_STRIDE = 4  # penalties per corner where a pass is dear; a decade of the papers' grid
_EFFORT = 40  # products in memory, in passes over all rows, after which leaps cost more than they save
_MOST_CORNERS = 4  # that a guess is made from
_MARGIN = 0.7  # the walk stops at this fraction of the tolerance, so that the certificate, made elsewhere, meets it
_REPAIRS = 2
_BOUNDS = ("grad_norm", "gap", "coef_error")
_EASY = 1e-4  # of the largest sum of squares of a rotated column: squared hinges with penalties above this are solved from zero
_FLOAT32_TOL = 1e-7  # tolerances below this are out of reach in float32 from the start,
_FLOAT32_SQUARES = (1e-28, 1e28)  # and so are squares of features beyond these, and products of theirs


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
    reads : int
        Products with all rows that were made for all fits together.
    """

    W: Array
    b: Array
    certificate: Certificate
    status: tuple[Status, ...]
    n_iter: np.ndarray
    passes: np.ndarray
    precision: np.ndarray
    reads: int = 0


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
    design : Design
        The features.
    labels : Labels
        Of all lanes.
    fit_intercept : bool
    tol : float
    max_iter : int
        Iterations per penalty.
    """

    def __init__(self, design: Design, labels: Labels, fit_intercept: bool, tol: float, max_iter: int) -> None:
        xp = namespace(design.example)
        self._design, self._labels, self._tol, self._max_iter = design, labels, tol, max_iter
        self._fit_intercept = fit_intercept
        self._loss64 = labels.loss(design.example, xp.float64)
        self._scale = np.broadcast_to(design.scale(self._loss64, labels.k), (labels.n_lanes,))
        low, high = _FLOAT32_SQUARES
        is_out_of_range = design.stiffest > 0 and not low < design.stiffest < high
        is_double = design.example.dtype == xp.float64 or tol < _FLOAT32_TOL or is_out_of_range
        self._problem = self._build(xp.float64 if is_double else xp.float32)
        self._fits: list[_Fit] = []
        self._ahead: _Fit | None = None
        self._corners: list[Known] = []
        self._is_hard = self._needs_whole = False

    @property
    def n_done(self) -> int:
        """How many penalties are solved."""
        return len(self._fits)

    @property
    def _xp(self) -> ModuleType:
        return namespace(self._design.example)

    def _build(self, dtype: object) -> RotatedProblem:
        rows, loss = self._design.rows(dtype), self._labels.loss(self._design.example, dtype)
        return RotatedProblem(rows, loss, np.ones(self._labels.n_lanes), self._design.penalised)

    def _is_double(self) -> bool:
        return bool(self._problem.rows.dtype == self._xp.float64)

    def walk(self, l2: np.ndarray, is_stopped: Callable[[], bool] | None = None) -> None:
        """Solve penalties from strong to weak: the corners one after the other, those between two corners together.

        Parameters
        ----------
        l2 : numpy.ndarray of shape (b,)
            λ, falling, and weaker than what was solved before.
        is_stopped : callable, optional
            Asked before every corner, in processes that Ctrl-C does not reach.

        Raises
        ------
        KeyboardInterrupt
            When it says so.
        """
        begin = 0
        while begin < len(l2):
            if is_stopped is not None and is_stopped():
                raise KeyboardInterrupt
            corner = min(begin + self._stride(len(l2)) - 1, len(l2) - 1) if self._corners else begin
            self._come_to(float(l2[corner]))
            assert self._ahead is not None
            if corner > begin:
                self._between(l2[begin:corner], self._ahead)
            self._keep(self._ahead)
            begin = corner + 1
        for lane in self._fits[-1].lanes:
            lane.memory, lane.preconditioner = [], None

    def _stride(self, n: int) -> int:
        """How far the next corner is.

        Leaps of a decade take fewer passes over all rows than small steps. They take more products with the rows in memory,
        which is what matters where the features are in memory, and at weak penalties, where a leap falls far from its goal.
        """
        if not self._design.is_dear or n <= _MOST_STRIDE:
            return 1
        effort = max((lane.products for lane in self._fits[-1].lanes), default=0.0) if self._fits else 0.0
        self._is_hard = self._is_hard or effort > _EFFORT
        if self._is_hard:
            return 1
        return int(np.clip(_COLUMNS // (self._labels.n_lanes * self._labels.k), 1, _MOST_STRIDE))

    def _come_to(self, l2: float) -> None:
        """Solve the next corner, by way of penalties that are nearer where it is too far; their passes are its own."""
        passes = np.zeros(self._labels.n_lanes, dtype=np.int64)
        for stone in self._stones(l2):
            self.step(float(stone))
            assert self._ahead is not None
            passes += [lane.passes for lane in self._ahead.lanes]
        self.step(l2)
        assert self._ahead is not None
        for lane, n in zip(self._ahead.lanes, passes.tolist(), strict=True):
            lane.passes += n

    def _stones(self, l2: float) -> np.ndarray:
        """Penalties on the way to one that is too far, where the loss has kinks: (m,), falling; nobody is told of their fits.

        Newton's method on a squared hinge knows the rows that are within the margin where it starts. From afar these are others
        than where it should end, and it stalls: on digits at C = 1e4 after 578 iterations. From decade to decade the last leg
        takes 34, and the fit is certified.
        """
        if self._labels.kind is not Loss.SQUARED_HINGE:
            return np.zeros(0)
        easy = self._design.stiffest * _EASY
        before = self._corners[-1].l2 if self._corners else np.inf
        top = min(easy, before)
        n = int(np.ceil(np.log10(max(top / l2, 1.0))))
        if n == 0:
            return np.zeros(0)
        steps = top * (l2 / top) ** (np.arange(n) / n)
        found: np.ndarray = steps[1:] if before <= easy else steps
        return found

    def step(self, l2: float) -> None:
        """Solve the next corner from those before it; it counts as done when the penalties between them are, too."""
        if self._corners:
            start, _ = guess(self._repeated(np.array([l2])), self._corners, np.array([l2]))
            assert self._ahead is not None
            before: list[Lane] | None = self._ahead.lanes
        else:
            start, before = self._intercept_only(), None
        lanes = self._solve(np.array([l2]), start, None, before)
        T, Z = (self._xp.stack([getattr(lane, name) for lane in lanes], axis=0) for name in ("T", "Z"))
        self._corners = [*self._corners, Known(l2, T, Z)][-_MOST_CORNERS:]
        self._ahead = self._fit(l2, lanes)

    def _between(self, l2: np.ndarray, last: _Fit) -> None:
        """Solve the penalties between the last two corners, all at once."""
        start, Z = guess(self._repeated(l2), self._corners, l2)
        before = [replace(lane) for _ in l2 for lane in last.lanes]
        lanes = self._solve(l2, start, Z, before)
        L = self._labels.n_lanes
        for i, value in enumerate(l2):
            self._keep(self._fit(float(value), lanes[i * L : (i + 1) * L]))

    def _fit(self, l2: float, lanes: list[Lane]) -> _Fit:
        return _Fit(l2, lanes, "float64" if self._is_double() else "float32")

    def _keep(self, fit: _Fit) -> None:
        """Penalties are kept in their order, and of the last one what its neighbour can use."""
        for lane in self._fits[-1].lanes if self._fits else []:
            lane.memory, lane.preconditioner = [], None
        for lane in fit.lanes:
            lane.Z = None
        self._fits.append(fit)

    def _repeated(self, l2: np.ndarray) -> RotatedProblem:
        """The problem with the lanes of several penalties."""
        L = self._labels.n_lanes
        if len(l2) == 1:
            return replace(self._problem, l2=np.full(L, l2[0]))
        return self._problem.with_lanes(np.tile(np.arange(L), len(l2)), np.repeat(l2, L))

    def _solve(self, l2: np.ndarray, start: Array, Z: Array | None, before: list[Lane] | None) -> list[Lane]:
        """Minimise; in float64 from where float32 ends, and by L-BFGS where Newton's method does."""
        lanes = self._minimize(l2, start, Z, before, _MARGIN)
        if not self._is_double() and any(lane.is_stalled for lane in lanes):
            self._problem = self._build(self._xp.float64)
            self._needs_whole = any(p is not None and p.is_whole for p in (lane.preconditioner for lane in lanes))
            lanes = self._again(lanes, l2, _MARGIN, Newton(self._needs_whole))
        if any(lane.is_stalled for lane in lanes):
            lanes = self._again(lanes, l2, _MARGIN, LBFGS())
        return lanes

    def _again(self, lanes: list[Lane], l2: np.ndarray, margin: float, method: Method) -> list[Lane]:
        """Go on from where some lanes ended."""
        start = self._xp.stack([lane.T for lane in lanes], axis=0)
        left = self._max_iter - min(lane.n_iter for lane in lanes if lane.is_stalled)
        later = self._minimize(l2, start, None, None, margin, method, max(left, 0))
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
        max_iter: int | None = None,
    ) -> list[Lane]:
        problem = self._repeated(l2)
        if before is not None and any(
            m.dtype != problem.rows.dtype for lane in before for m in lane.memory[:1] for m in m
        ):
            before = None
        rule = stopping_rule(self._design, np.tile(self._scale, len(l2)), margin * self._tol)
        most = self._max_iter if max_iter is None else max_iter
        method = Newton(self._needs_whole) if method is None else method
        return minimize(problem, start, rule, method, max_iter=most, before=before, Z=Z)

    def _intercept_only(self) -> Array:
        """Zero weights, and the intercepts that are optimal with them."""
        T = np.zeros((self._labels.n_lanes, self._labels.k, len(self._design.penalised)))
        if self._fit_intercept:
            T[:, :, -1] = self._problem.loss.intercepts()
        return self._xp.asarray(T, device=self._design.example.device)

    def finish(self, repair: bool = True) -> Solution:
        """Certify every penalty solved so far, in float64 on the data as given, and repair what falls short."""
        return self.certified(repair).solution(slice(0, self._labels.n_lanes))

    def certified(self, repair: bool = True) -> Certified:
        """The same, lane by lane."""
        xp, fits = self._xp, self._fits
        l2 = np.array([fit.l2 for fit in fits])
        W, b = self._design.to_features(
            xp.stack([xp.stack([lane.T for lane in fit.lanes], axis=0) for fit in fits], axis=0)
        )
        certificate, b = self._design.certify(self._loss64, W, b, l2, self._scale)
        c = Certified(
            W, b, certificate, np.array([[lane.n_iter for lane in fit.lanes] for fit in fits]),
            np.array([[lane.passes + 2 for lane in fit.lanes] for fit in fits]),
            np.array([fit.precision for fit in fits], dtype="<U7"), self._tol, self._max_iter, self._design.reads,
        )  # fmt: skip
        for attempt in range(_REPAIRS if repair else 0):
            short = np.flatnonzero((~c.met() & (c.n_iter < self._max_iter)).any(axis=1))
            if len(short) == 0:
                break
            if not self._is_double():
                self._problem = self._build(xp.float64)
            at_once = max(1, _COLUMNS // (self._labels.n_lanes * self._labels.k))
            for a in range(0, len(short), at_once):
                self._repair(c, short[a : a + at_once], l2, attempt)
            index = xp.asarray(short, device=W.device)
            again, moved = self._design.certify(
                self._loss64, xp.take(W, index, axis=0), xp.take(b, index, axis=0), l2[short], self._scale
            )
            for j, i in enumerate(short):
                b[int(i), ...] = moved[j, ...]
                for name in ("objective", "grad_norm", "gap", "coef_error"):
                    getattr(certificate, name)[i] = getattr(again, name)[j]
        return c

    def _repair(self, c: Certified, short: np.ndarray, l2: np.ndarray, attempt: int) -> None:
        """Go on with some penalties in float64, to a tighter tolerance, all at once."""
        xp, L = self._xp, self._labels.n_lanes
        start = xp.concat([self._design.from_features(c.W[int(i), ...], c.b[int(i), ...]) for i in short], axis=0)
        method = Newton() if attempt == 0 else LBFGS()
        left = self._max_iter - int(c.n_iter[short][~c.met()[short]].min())
        lanes = self._minimize(l2[short], start, None, None, _MARGIN * 0.1**attempt, method, left)
        for j, i in enumerate(short):
            mine = lanes[j * L : (j + 1) * L]
            c.n_iter[i] += [lane.n_iter for lane in mine]
            c.passes[i] += [lane.passes + 2 for lane in mine]
            c.precision[i] = "float64"
            W, b = self._design.to_features(xp.stack([lane.T for lane in mine], axis=0)[None, ...])
            c.W[int(i), ...], c.b[int(i), ...] = W[0, ...], b[0, ...]


@dataclass(frozen=True, eq=False)
class Certified:
    """Fits of b penalties and L lanes with their certificates; arrays of shape (b, L)."""

    W: Array
    b: Array
    certificate: Certificate
    n_iter: np.ndarray
    passes: np.ndarray
    precision: np.ndarray
    _tol: float
    _max_iter: int
    _reads: Reads

    def met(self) -> np.ndarray:
        """Which certificates meet the tolerance."""
        c = self.certificate
        return meets(c.grad_norm, c.gap, c.coef_error, self._tol)

    def solution(self, lanes: slice) -> Solution:
        """The lanes of one problem: the worst certificate of all, the sum of the objectives."""
        xp, c = namespace(self.W), self.certificate
        W, b = self.W[:, lanes, ...], self.b[:, lanes, ...]
        n, L, k, d = (int(s) for s in W.shape)
        met: list[bool] = np.asarray(self.met()[:, lanes].all(axis=1)).tolist()
        finite: list[bool] = np.asarray(np.isfinite(c.objective[:, lanes]).all(axis=1)).tolist()
        exhausted: list[bool] = np.asarray((self.n_iter[:, lanes] >= self._max_iter).any(axis=1)).tolist()
        status = [ending(*flags) for flags in zip(met, finite, exhausted, strict=True)]
        worst = Certificate(
            c.objective[:, lanes].sum(axis=1), *(getattr(c, name)[:, lanes].max(axis=1) for name in _BOUNDS)
        )
        return Solution(
            xp.reshape(W, (n, L * k, d)), xp.reshape(b, (n, L * k)), worst, tuple(status), self.n_iter[:, lanes].max(axis=1),
            self.passes[:, lanes].max(axis=1), self.precision, self._reads.n,
        )  # fmt: skip
