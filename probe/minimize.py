"""The batched minimiser: one driver, and a direction per method. It knows no data.

What it minimises is a `Problem`: L lanes of ``F(T) = loss(scores(T)) + ½ λ ‖T‖²``, where the scores are linear in T. One
iteration costs one product X·D and one Xᵀ·R: along a direction the scores are linear in the step, so the line search never
touches X. A lane that is done leaves the batch.

A `Method` says where to go: `probe.lbfgs` by its memory, `probe.newton` by solving the linear system. Curvature pairs are kept
without the penalty, as (S, H_data S): Y = H_data S + λ S is then right for any λ, and a lane carries its memory from one
penalty to the next, and from one method to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypeAlias

import numpy as np

from probe.arrays import Array, like, namespace, take, to_numpy

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

    @property
    def is_alike(self) -> bool:
        """Whether the Hessians of all lanes may be nearly the same."""

    def preconditioner(self, R: Array, lane: int | None, is_hard: bool) -> Preconditioner:
        """An approximate inverse of one lane's Hessian, or of the mean of all; a better one where the last was not enough."""

    def together(self, preconditioners: Sequence[Preconditioner]) -> Together | None:
        """The preconditioners of all lanes as one, where that is faster."""

    def hessian(self, R: Array, share: float) -> Hessian:
        """The Hessians of the loss, from the rows that hold `share` of every lane's curvature."""


class Hessian(Protocol):
    """Second derivatives of the loss of every lane, without the penalty."""

    @property
    def is_part(self) -> bool:
        """Whether the rows leave out curvature that matters, so that steps have something to teach."""

    @property
    def share_of_rows(self) -> float:
        """Rows that are used, in parts of all."""

    def take(self, lanes: np.ndarray) -> Hessian:
        """The same for some of the lanes."""

    def __call__(self, P: Array) -> Array:
        """(L, k, r) → (L, k, r), orthogonal to the gauge."""


class Method(Protocol):
    """How the next direction is found."""

    patience: ClassVar[Mapping[int, int]]
    """Iterations without progress of the gap after which rounding is to blame, by bytes of the dtype."""

    def direction(self, s: State, G: Array) -> Array:
        """A direction of descent for every lane, (L, k, r), in the working dtype."""

    def kept(self, lanes: np.ndarray) -> None:
        """The other lanes have left."""

    def moved(self, s: State, S: Array, change: Array) -> None:
        """Learn from a step S, (L, k, r), and the change of the data's gradient along it."""


class Together(Protocol):
    """Approximate inverse Hessians of all lanes."""

    def take(self, lanes: np.ndarray) -> Together:
        """Those of some lanes."""

    def __call__(self, G: Array) -> Array:
        """(L, k, r) → (L, k, r)."""


class Preconditioner(Protocol):
    """Approximate inverse Hessian of one lane."""

    @property
    def l2(self) -> float:
        """The penalty it was built for."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing was approximated."""

    @property
    def is_common(self) -> bool:
        """Whether it was made for the mean of several lanes."""

    def __call__(self, G: Array) -> Array:
        """(L, k, r) → (L, k, r), for lanes that share it."""


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
        Iterations; products with all rows of X (X·D or Xᵀ·R, each one).
    products : float
        Products with the rows a method holds in memory, in parts of all rows.
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
    products: float = 0.0
    memory: list[tuple[Array, Array]] = field(default_factory=list)
    preconditioner: Preconditioner | None = None
    age: int = 0


Rule: TypeAlias = Callable[[Point], tuple[np.ndarray, np.ndarray]]
"""Point → (done, gap), each of shape (L,); the gap measures progress."""


@dataclass
class State:
    """The lanes still running; arrays over lanes first."""

    problem: Problem
    is_converged: Rule
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
    products: np.ndarray

    def point(self, T: Array, G: Array, objective: np.ndarray) -> Point:
        """What the stopping rule sees."""
        return Point(T, G, objective, self.mass(), self.problem.l2, self.ids)

    def mass(self) -> np.ndarray:
        """‖R‖₁ of every lane."""
        xp = namespace(self.R)
        return to_numpy(xp.sum(xp.astype(xp.abs(self.R), xp.float64), axis=(1, 2)))

    def keep(self, kept: np.ndarray) -> None:
        """Let the other lanes go."""
        self.problem = self.problem.take(kept)
        for name in ("T", "Z", "R", "G_data"):
            setattr(self, name, take(getattr(self, name), kept))
        self.memory = [(take(S, kept), take(Y, kept)) for S, Y in self.memory]
        self.preconditioners = [self.preconditioners[q] for q in kept]
        for name in ("ids", "loss", "age", "best", "since", "products"):
            setattr(self, name, getattr(self, name)[kept])


def minimize(
    problem: Problem,
    T: Array,
    is_converged: Rule,
    method: Method,
    *,
    max_iter: int = 1000,
    before: Sequence[Lane] | None = None,
    Z: Array | None = None,
) -> list[Lane]:
    """Minimise every lane.

    Parameters
    ----------
    problem : Problem
    T : array of shape (L, k, r), float64
        Where to start, orthogonal to the gauge.
    is_converged : callable
        Point → (done, gap), each of shape (L,); the gap measures progress.
    method : Method
    max_iter : int
        Iterations per lane.
    before : sequence of Lane, optional
        The same lanes at another penalty: their memory and preconditioners are used.
    Z : array of shape (L, k, n), optional
        Scores at T, where they are known: saves a pass.

    Returns
    -------
    list of Lane
        In the order of the lanes.
    """
    s = _start(problem, T, Z, is_converged, before)
    patience = method.patience[8 if s.Z.dtype == namespace(s.Z).float64 else 4]
    at_start = 2 if Z is None else 1
    out: list[Lane | None] = [None] * len(s.ids)
    for it in range(max_iter + 1):
        G, value = _gradient(s)
        done, gap = is_converged(s.point(s.T, G, value))
        progressed = gap < 0.7 * s.best
        s.since = np.where(progressed, 0, s.since + 1)
        s.best = np.fmin(s.best, gap)
        stalled = ~done & ((s.since > patience) | ~np.isfinite(value))
        leaving = done | stalled | (it == max_iter)
        if leaving.any():
            for q in np.flatnonzero(leaving):
                out[s.ids[q]] = _leave(s, int(q), bool(done[q]), bool(stalled[q]), it, at_start + 2 * it)
            kept = np.flatnonzero(~leaving)
            if len(kept) == 0:
                break
            s.keep(kept)
            method.kept(kept)
            G, value = take(G, kept), value[kept]
        s.since[~_advance(s, G, value, method)] += patience  # no direction left in this precision
    return [lane for lane in out if lane is not None]


def _start(problem: Problem, T: Array, Z: Array | None, is_converged: Rule, before: Sequence[Lane] | None) -> State:
    L = int(T.shape[0])
    Z = problem.scores(T) if Z is None else Z
    loss, R = problem.evaluate(Z)
    preconditioners: list[Preconditioner | None] = [None] * L
    memory: list[tuple[Array, Array]] = []
    age = np.zeros(L, dtype=int)
    if before is not None:
        preconditioners = [lane.preconditioner for lane in before]
        age = np.array([lane.age for lane in before])
        memory = _stacked([lane.memory for lane in before])
    return State(
        problem, is_converged, np.arange(L), T, Z, R, problem.adjoint(R), loss, memory, preconditioners, age,
        np.full(L, np.inf), np.zeros(L, dtype=int), np.zeros(L),
    )  # fmt: skip


def _gradient(s: State) -> tuple[Array, np.ndarray]:
    return s.G_data + penalty(s) * s.T, objective(s)


def objective(s: State) -> np.ndarray:
    """F of every lane, (L,)."""
    xp = namespace(s.T)
    value: np.ndarray = s.loss + 0.5 * to_numpy(xp.sum(penalty(s) * s.T * s.T, axis=(1, 2)))
    return value


def penalty(s: State) -> Array:
    """λ of every lane, zero on the intercept: (L, 1, r), float64."""
    return like(s.T, s.problem.l2[:, None, None] * s.problem.penalised)


def _leave(s: State, q: int, done: bool, stalled: bool, n_iter: int, passes: int) -> Lane:
    memory = [(S[q, ...], Y[q, ...]) for S, Y in s.memory]
    return Lane(
        s.T[q, ...], s.Z[q, ...], done, stalled, n_iter, passes, float(s.products[q]), memory,
        s.preconditioners[q], int(s.age[q]),
    )  # fmt: skip


def _advance(s: State, G: Array, value: np.ndarray, method: Method) -> np.ndarray:
    """One iteration of every running lane that has a direction of descent; which those are, (L,)."""
    xp = namespace(s.T)
    D, D64, slope = _direction(s, G, method)
    if s.memory and not (slope < 0).all():
        s.memory = []  # the memory is what points uphill; preconditioned steepest descent does not
        D, D64, slope = _direction(s, G, method)
    descends = slope < 0
    if not descends.any():
        return descends
    if not descends.all():  # the others go on without those that have nowhere to go
        moves = like(D, descends)[:, None, None] > 0
        D, D64 = xp.where(moves, D, xp.zeros_like(D)), xp.where(moves, D64, xp.zeros_like(D64))
        slope = np.where(descends, slope, 0.0)
    Z_D = s.problem.scores(D)
    scaled = penalty(s)
    line = _Line(s, Z_D, slope, dot(scaled * s.T, D64), dot(scaled * D64, D64), value)
    step = line.search()
    s.Z, s.R, s.loss = line.Z, line.R, line.loss
    G_data = s.problem.adjoint(s.R)
    t = like(s.T, step)[:, None, None]
    method.moved(s, xp.astype(t * D64, D.dtype), xp.astype(G_data - s.G_data, D.dtype))
    s.T, s.G_data = s.T + t * D64, G_data
    return descends


def _direction(s: State, G: Array, method: Method) -> tuple[Array, Array, np.ndarray]:
    """A direction, also in float64, and the derivative along it."""
    D = s.problem.without_gauge(method.direction(s, G))
    D64 = namespace(D).astype(D, namespace(D).float64)
    return D, D64, dot(G, D64)


class _Line:
    """Search along one direction per lane, on stored scores: every trial is elementwise on (L, k, n)."""

    def __init__(
        self, s: State, Z_D: Array, slope: np.ndarray, TD: np.ndarray, DD: np.ndarray, objective: np.ndarray
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
        Z_D = self._Z_D if whole else take(self._Z_D, lanes)
        Z = (self._s.Z if whole else take(self._s.Z, lanes)) + like(Z_D, t[lanes])[:, None, None] * Z_D
        loss, R = problem.evaluate(Z)
        step, slope0 = t[lanes], self._slope[lanes]
        slope = dot(R, Z_D) + self._TD[lanes] + step * self._DD[lanes]
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


def dot(a: Array, b: Array) -> np.ndarray:
    """Inner products lane by lane, shape (L,), float64, on the host."""
    return to_numpy(inner(a, b))


def inner(a: Array, b: Array) -> Array:
    """Inner products lane by lane, shape (L,), float64, where the arrays live."""
    xp = namespace(a)
    L = int(a.shape[0])
    if isinstance(a, np.ndarray):
        return np.asarray(xp.vecdot(xp.reshape(a, (L, -1)), xp.reshape(b, (L, -1)))).astype(np.float64)
    # Elsewhere vecdot is a product of matrices with one row, which a GPU sums on one of its hundred processors, in float32.
    return xp.sum(xp.reshape(a * b, (L, -1)), axis=1, dtype=xp.float64)


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
