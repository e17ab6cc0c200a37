"""The batched minimiser: preconditioned L-BFGS with line searches on stored scores. It knows no data.

What it minimises is a `Problem`: L lanes of ``F(T) = loss(scores(T)) + ½ λ ‖T‖²``, where the scores are linear in T. One
iteration costs one product X·D and one Xᵀ·R: along a direction the scores are linear in the step, so the line search never
touches X (steps 2 and 4 of the two-loop recursion, Nocedal & Wright 2006, algorithm 7.4, are where the preconditioner
enters). A lane that is done leaves the batch.

Curvature pairs are kept without the penalty, as (S, ΔG_data): Y = ΔG_data + λ S is then right for any λ, and a lane carries its
memory from one penalty to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from probe.arrays import Array, like, namespace, to_numpy

HISTORY = 10
_REBUILD_AFTER = 20  # iterations a preconditioner serves
_REBUILD_RATIO = 2.0  # change of λ it serves
_PATIENCE = {4: 60, 8: 200}  # iterations without progress of the gap, by bytes of the dtype: rounding
_ARMIJO, _CURVATURE = 1e-4, 0.9
_ROUNDING = 1e-6  # relative differences of F below this are judged by the derivative instead (Hager & Zhang 2005)


class Problem(Protocol):
    """L lanes that share one matrix of rows."""

    @property
    def l2(self) -> np.ndarray:
        """λ of every lane, (L,)."""

    @property
    def penalised(self) -> np.ndarray:
        """One where a coordinate is penalised, (r,)."""

    def take(self, lanes: np.ndarray) -> Problem:
        """The same problem for some of its lanes."""

    def scores(self, T: Array) -> Array:
        """(L, k, r) → (L, k, n); one pass over the rows."""

    def adjoint(self, R: Array) -> Array:
        """(L, k, n) → (L, k, r), float64, orthogonal to the gauge; one pass over the rows."""

    def evaluate(self, Z: Array) -> tuple[np.ndarray, Array]:
        """Loss of every lane (L,), and its derivative by the scores."""

    def without_gauge(self, T: Array) -> Array:
        """Remove the component that changes no score difference."""

    def preconditioner(self, R: Array, lane: int, is_hard: bool) -> Preconditioner:
        """An approximate inverse of one lane's Hessian; a better one where the last was not enough."""


class Preconditioner(Protocol):
    """Approximate inverse Hessian of one lane."""

    @property
    def l2(self) -> float:
        """The penalty it was built for."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing was approximated."""

    def __call__(self, G: Array) -> Array:
        """(k, r) → (k, r)."""


@dataclass(frozen=True, eq=False)
class Point:
    """What a stopping rule sees of the lanes still running: coefficients, gradient, objective, ‖R‖₁, λ, lane numbers."""

    T: Array
    G: Array
    objective: np.ndarray
    residual: np.ndarray
    l2: np.ndarray
    ids: np.ndarray


@dataclass
class Lane:
    """One problem as it left the batch, with what its neighbour along the path can use.

    Attributes
    ----------
    T : array of shape (k, r), float64
    Z : array of shape (k, n)
        Scores at T, in the working dtype.
    is_done : bool
        Whether the stopping rule was met.
    is_stalled : bool
        Whether progress ended before that: the working precision is exhausted.
    n_iter, passes : int
        Iterations; products with X (X·D or Xᵀ·R, each one).
    memory : list of (S, ΔG) pairs, each of shape (k, r)
    preconditioner : Preconditioner or None
    age : int
        Iterations the preconditioner has served.
    """

    T: Array
    Z: Array
    is_done: bool
    is_stalled: bool
    n_iter: int
    passes: int
    memory: list[tuple[Array, Array]] = field(default_factory=list)
    preconditioner: Preconditioner | None = None
    age: int = 0


@dataclass
class _State:
    """The lanes still running; arrays over lanes first."""

    problem: Problem
    ids: np.ndarray
    T: Array
    Z: Array
    R: Array
    G_data: Array
    loss: np.ndarray
    memory: list[tuple[Array, Array]]
    preconditioners: list[Preconditioner | None]
    age: np.ndarray
    best: np.ndarray
    since: np.ndarray

    def keep(self, kept: np.ndarray) -> None:
        """Let the other lanes go."""
        self.problem = self.problem.take(kept)
        for name in ("T", "Z", "R", "G_data"):
            setattr(self, name, _take(getattr(self, name), kept))
        self.memory = [(_take(S, kept), _take(Y, kept)) for S, Y in self.memory]
        self.preconditioners = [self.preconditioners[q] for q in kept]
        for name in ("ids", "loss", "age", "best", "since"):
            setattr(self, name, getattr(self, name)[kept])


def lbfgs(
    problem: Problem,
    T: Array,
    is_converged: Callable[[Point], tuple[np.ndarray, np.ndarray]],
    *,
    max_iter: int = 1000,
    before: Sequence[Lane] | None = None,
) -> list[Lane]:
    """Minimise every lane.

    Parameters
    ----------
    problem : Problem
    T : array of shape (L, k, r), float64
        Where to start, orthogonal to the gauge.
    is_converged : callable
        Point → (done, gap), each of shape (L,); the gap measures progress.
    max_iter : int
        Iterations per lane.
    before : sequence of Lane, optional
        The same lanes at the penalty before this one: their memory and preconditioners are used.

    Returns
    -------
    list of Lane
        In the order of the lanes.
    """
    s = _start(problem, T, before)
    patience = _PATIENCE[8 if s.Z.dtype == namespace(s.Z).float64 else 4]
    out: list[Lane | None] = [None] * len(s.ids)
    for it in range(max_iter + 1):
        G, objective = _gradient(s)
        done, gap = is_converged(Point(s.T, G, objective, _mass(s.R), s.problem.l2, s.ids))
        progressed = gap < 0.7 * s.best
        s.since = np.where(progressed, 0, s.since + 1)
        s.best = np.fmin(s.best, gap)
        stalled = ~done & ((s.since > patience) | ~np.isfinite(objective))
        leaving = done | stalled | (it == max_iter)
        if leaving.any():
            for q in np.flatnonzero(leaving):
                out[s.ids[q]] = _leave(s, int(q), bool(done[q]), bool(stalled[q]), it)
            kept = np.flatnonzero(~leaving)
            if len(kept) == 0:
                break
            s.keep(kept)
            G, objective = _take(G, kept), objective[kept]
        if not _advance(s, G, objective):
            s.since += patience  # no direction left in this precision
    return [lane for lane in out if lane is not None]


def _start(problem: Problem, T: Array, before: Sequence[Lane] | None) -> _State:
    L = int(T.shape[0])
    Z = problem.scores(T)
    loss, R = problem.evaluate(Z)
    preconditioners: list[Preconditioner | None] = [None] * L
    memory: list[tuple[Array, Array]] = []
    age = np.zeros(L, dtype=int)
    if before is not None:
        preconditioners = [lane.preconditioner for lane in before]
        age = np.array([lane.age for lane in before])
        memory = _stacked([lane.memory for lane in before])
    return _State(
        problem, np.arange(L), T, Z, R, problem.adjoint(R), loss, memory, preconditioners, age, np.full(L, np.inf),
        np.zeros(L, dtype=int),
    )  # fmt: skip


def _gradient(s: _State) -> tuple[Array, np.ndarray]:
    xp = namespace(s.T)
    scaled = _penalty(s) * s.T
    return s.G_data + scaled, s.loss + 0.5 * to_numpy(xp.sum(scaled * s.T, axis=(1, 2)))


def _penalty(s: _State) -> Array:
    """λ of every lane, zero on the intercept: (L, 1, r), float64."""
    return like(s.T, s.problem.l2[:, None, None] * s.problem.penalised)


def _mass(R: Array) -> np.ndarray:
    xp = namespace(R)
    return to_numpy(xp.sum(xp.astype(xp.abs(R), xp.float64), axis=(1, 2)))


def _leave(s: _State, q: int, done: bool, stalled: bool, n_iter: int) -> Lane:
    memory = [(S[q, ...], Y[q, ...]) for S, Y in s.memory]
    return Lane(
        s.T[q, ...], s.Z[q, ...], done, stalled, n_iter, 2 + 2 * n_iter, memory, s.preconditioners[q], int(s.age[q])
    )


def _advance(s: _State, G: Array, objective: np.ndarray) -> bool:
    """One iteration of every running lane; False when no lane has a direction of descent."""
    xp = namespace(s.T)
    _refresh(s)
    D = s.problem.without_gauge(_direction(s, xp.astype(G, s.Z.dtype)))
    D64 = xp.astype(D, xp.float64)
    slope = _dot(G, D64)
    if not (slope < 0).all():
        if not s.memory:
            return False
        s.memory = []  # the memory is what points uphill; preconditioned steepest descent does not
        return True
    Z_D = s.problem.scores(D)
    penalty = _penalty(s)
    line = _Line(s, Z_D, slope, _dot(penalty * s.T, D64), _dot(penalty * D64, D64), objective)
    step = line.search()
    s.Z, s.R, s.loss = line.Z, line.R, line.loss
    G_data = s.problem.adjoint(s.R)
    t = like(s.T, step)[:, None, None]
    s.memory.append((xp.astype(t * D64, D.dtype), xp.astype(G_data - s.G_data, D.dtype)))
    s.memory = s.memory[-HISTORY:]
    s.T, s.G_data = s.T + t * D64, G_data
    return True


def _refresh(s: _State) -> None:
    for q, current in enumerate(s.preconditioners):
        l2 = float(s.problem.l2[q])
        is_far = current is None or max(current.l2 / l2, l2 / current.l2) > _REBUILD_RATIO
        is_old = bool(s.age[q] >= _REBUILD_AFTER)
        if is_far or is_old:
            is_hard = is_old or (current is not None and current.is_whole)
            s.preconditioners[q], s.age[q] = s.problem.preconditioner(s.R, q, is_hard), 0
    s.age += 1


def _direction(s: _State, g: Array) -> Array:
    """−(inverse Hessian) · g by the two-loop recursion; a pair of zeros (a lane with a shorter memory) has no effect."""
    xp = namespace(g)
    penalty = xp.astype(_penalty(s), g.dtype)
    used = []
    for S, Y_data in reversed(s.memory):
        Y = Y_data + penalty * S
        curvature = _dot(S, Y)
        rho = np.where(curvature > 0, 1.0 / np.where(curvature > 0, curvature, 1.0), 0.0)
        alpha = rho * _dot(S, g)
        g = g - like(g, alpha)[:, None, None] * Y
        used.append((S, Y, rho, alpha))
    applied = [p(g[q, ...]) for q, p in enumerate(s.preconditioners) if p is not None]
    D = s.problem.without_gauge(xp.stack(applied, axis=0))
    for S, Y, rho, alpha in reversed(used):
        D = D + like(D, alpha - rho * _dot(Y, D))[:, None, None] * S
    return -D


class _Line:
    """Search along one direction per lane, on stored scores: every trial is elementwise on (L, k, n)."""

    def __init__(
        self, s: _State, Z_D: Array, slope: np.ndarray, TD: np.ndarray, DD: np.ndarray, objective: np.ndarray
    ) -> None:
        self._s, self._Z_D, self._slope, self._TD, self._DD = s, Z_D, slope, TD, DD
        self._objective = objective
        self.Z, self.R, self.loss = s.Z, s.R, s.loss

    def search(self, most: int = 20) -> np.ndarray:
        """Steps that satisfy the (approximate) Wolfe conditions, or the last ones tried; shape (L,)."""
        L = len(self._slope)
        t, low, high = np.ones(L), np.zeros(L), np.full(L, np.inf)
        slope_low = self._slope.copy()
        todo = np.arange(L)
        for _ in range(most):
            slope, is_low_enough = self._try(t, todo)
            target = np.abs(self._slope[todo])
            accepted = is_low_enough & (np.abs(slope) <= _CURVATURE * target)
            short = is_low_enough & (slope < -_CURVATURE * target)
            for j, q in enumerate(todo):
                if accepted[j]:
                    continue
                if short[j]:
                    low[q], slope_low[q] = t[q], slope[j]
                    t[q] = 4.0 * t[q] if high[q] == np.inf else 0.5 * (t[q] + high[q])
                else:
                    high[q] = t[q]
                    t[q] = _between(low[q], high[q], slope_low[q], slope[j])
            todo = todo[~accepted]
            if len(todo) == 0:
                break
        else:
            self._try(low, todo)
            t[todo] = low[todo]
        return t

    def _try(self, t: np.ndarray, lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Evaluate some lanes at their steps: derivative along the direction, and whether F is low enough."""
        xp = namespace(self._Z_D)
        whole = len(lanes) == len(t)
        problem = self._s.problem if whole else self._s.problem.take(lanes)
        Z_D = self._Z_D if whole else _take(self._Z_D, lanes)
        Z = (self._s.Z if whole else _take(self._s.Z, lanes)) + like(Z_D, t[lanes])[:, None, None] * Z_D
        loss, R = problem.evaluate(Z)
        step, slope0 = t[lanes], self._slope[lanes]
        slope = _dot(R, Z_D) + self._TD[lanes] + step * self._DD[lanes]
        change = loss - self._s.loss[lanes] + step * self._TD[lanes] + 0.5 * step**2 * self._DD[lanes]
        if whole:
            self.Z, self.R, self.loss = Z, R, loss
        else:
            index = xp.asarray(lanes, device=Z.device)
            self.Z[index, ...], self.R[index, ...] = Z, R
            self.loss = self.loss.copy()
            self.loss[lanes] = loss
        near = (change <= _ROUNDING * np.abs(self._objective[lanes])) & (slope <= (2 * _ARMIJO - 1) * slope0)
        return slope, (change <= _ARMIJO * step * slope0) | near


def _between(low: float, high: float, slope_low: float, slope_high: float) -> float:
    """Where a straight line through the two derivatives vanishes, kept inside the middle 80 % of the bracket."""
    width = high - low
    guess = low + width * (-slope_low) / (slope_high - slope_low) if slope_high > 0 else low + 0.5 * width
    return float(min(max(guess, low + 0.1 * width), high - 0.1 * width))


def _dot(a: Array, b: Array) -> np.ndarray:
    """Inner products lane by lane, shape (L,), float64."""
    xp = namespace(a)
    L = int(a.shape[0])
    return to_numpy(xp.vecdot(xp.reshape(a, (L, -1)), xp.reshape(b, (L, -1)))).astype(np.float64)


def _take(x: Array, lanes: np.ndarray) -> Array:
    xp = namespace(x)
    return xp.take(x, xp.asarray(lanes, device=x.device), axis=0)


def _stacked(memories: list[list[tuple[Array, Array]]]) -> list[tuple[Array, Array]]:
    """Memories of single lanes → one of the batch; shorter ones are filled with zeros at the old end."""
    depth = max((len(m) for m in memories), default=0)
    if depth == 0:
        return []
    example = next(m for m in memories if m)[0][0]
    xp = namespace(example)
    zero = (xp.zeros_like(example), xp.zeros_like(example))
    padded = [[zero] * (depth - len(m)) + m for m in memories]
    return [
        (xp.stack([m[j][0] for m in padded], axis=0), xp.stack([m[j][1] for m in padded], axis=0)) for j in range(depth)
    ]
