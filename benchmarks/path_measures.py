"""What the path's benchmarks measure with: certificates from the definition, rivals stopped when theirs are as good, a table.

Certificates are computed here, apart from the solver's own, in float64 and from the textbook formulas, for both sides alike.
A rival is any `probe.engines.Fitter`. Its tolerance is aimed: from the gap that is asked, our objective and the shape of its
last gradient follows the ‖∇‖∞ at which it may stop, so that it neither stops early nor works on for nothing; what falls short
goes on from there with a lower one. Float32 that gets no further goes on in float64, and stays there. Its seconds are those of
its own solver, nothing of this file.
"""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.arrays import Array, like, namespace, to_numpy
from probe.engines import Aim, Answer, Fitter
from probe.engines import Problem as Given

BAR = 1e-4
"""The gap every value is to reach."""

_MOST_ITERATIONS = 20_000
_FIRST_ITERATIONS = 1_000  # before it is known how long one takes
_IN_VAIN = 2  # attempts that miss their tolerance and get no closer: rounding has the better of the rival


@dataclass(frozen=True)
class Proof:
    """What is known of one fit, in float64, at its weights with the intercepts that are best for them.

    Attributes
    ----------
    objective : float
        ``F = Σ loss_i + ‖W‖² / (2 C)``.
    grad_norm : float
        ‖∇F‖∞ relative to its value at zero weights.
    gap : float
        Upper bound of ``(F − F*) / F``.
    norm : float
        Euclidean norm of ∇_W F.
    stopped : float
        ‖∇F‖∞ at the intercepts as given: what a rival's own rule has seen.
    """

    objective: float
    grad_norm: float
    gap: float
    norm: float
    stopped: float


Certifier = Callable[[float, np.ndarray, np.ndarray], Proof]
"""``certify(C, W, b)`` for W (k, d) and b (k,)."""


def certifier(X: Array, y: np.ndarray) -> Certifier:
    """The certificates of softmax fits to some features and labels; computed where the features are.

    Parameters
    ----------
    X : array of shape (n, d)
        numpy, torch or cupy, any floating dtype.
    y : numpy.ndarray of shape (n,)
        Labels of three or more classes.

    Returns
    -------
    callable
    """
    xp = namespace(X)
    A = xp.astype(X, xp.float64)
    classes, codes = np.unique(y, return_inverse=True)
    hot = like(A, np.eye(len(classes))[codes])
    scale = _gradient(xp.zeros_like(hot), hot, A, 0.0)[2]

    def certify(C: float, W: np.ndarray, b: np.ndarray) -> Proof:
        weights, given = like(A, W), like(A, b)
        scores = A @ weights.T
        stopped = _gradient(scores + given, hot, A, weights / C)[2]
        Z, decrement = _with_best_intercept(scores, given, hot)
        loss, G, largest = _gradient(Z, hot, A, weights / C)
        objective = loss + float(xp.sum(weights * weights)) / (2 * C)
        squared = float(xp.sum(G * G))
        gap = (squared * C / 2 + decrement) / objective
        return Proof(objective, largest / scale, gap, float(squared**0.5), stopped)

    return certify


def _gradient(Z: Array, hot: Array, A: Array, penalty: Array) -> tuple[float, Array, float]:
    """Loss, ∇_W F, and ‖∇F‖∞ over weights and intercepts, at scores Z (n, k)."""
    loss, R = _residual(Z, hot)
    G = R.T @ A + penalty
    return loss, G, max(_largest(G), _largest(namespace(Z).sum(R, axis=0)))


def _largest(x: Array) -> float:
    xp = namespace(x)
    return float(xp.max(xp.abs(x)))


def _residual(Z: Array, hot: Array) -> tuple[float, Array]:
    """Loss of (n, k) scores and its derivative; 1 − p of the true class is never a difference."""
    xp = namespace(Z)
    U = Z - xp.sum(Z * hot, axis=1, keepdims=True)
    top = xp.max(U, axis=1, keepdims=True)
    others = xp.exp(U - top) * (1 - hot)
    s, e_y = xp.sum(others, axis=1, keepdims=True), xp.exp(-top)
    loss = float(xp.sum(top + xp.log1p(s + (e_y - 1))))
    return loss, (others - hot * s) / (s + e_y)


def _with_best_intercept(Z: Array, b: Array, hot: Array, most: int = 30) -> tuple[Array, float]:
    """Scores plus the intercepts that minimise the loss (Newton's method), and what they may still be off by."""
    xp = namespace(Z)
    k = int(hot.shape[1])
    loss, R = _residual(Z + b, hot)
    decrement = 0.0
    for _ in range(most):
        P, g = R + hot, xp.sum(R, axis=0)
        H = xp.eye(k, dtype=Z.dtype, device=Z.device) * xp.sum(P, axis=0) - P.T @ P
        ridge = _largest(H)
        H = H + ridge / k + 1e-14 * ridge * xp.eye(k, dtype=Z.dtype, device=Z.device)  # one number added to all is free
        step = xp.linalg.solve(H, g[:, None])[:, 0]
        decrement = abs(float(xp.sum(step * g)))
        if decrement <= 1e-20 * loss:
            break
        t = 1.0
        while t > 1e-6:
            new_loss, new_R = _residual(Z + (b - t * step), hot)
            if new_loss <= loss:
                break
            t /= 2
        else:
            break
        b, loss, R = b - t * step, new_loss, new_R
    return Z + b, decrement


@dataclass(frozen=True)
class Event:
    """A rival after an attempt: its own seconds until then, the number of the value, objective and gap there."""

    seconds: float
    index: int
    objective: float
    gap: float


@dataclass(frozen=True, eq=False)
class Walked:
    """A path, and its proofs; None where a rival did not get to. `passes` is what is known of them at least.

    Attributes
    ----------
    seconds : float
    passes : int
    proofs : tuple of Proof or None, length b
    accuracy : numpy.ndarray of shape (b,)
        On the validation rows; −1 where there is no fit.
    events : tuple of Event
    """

    seconds: float
    passes: int
    proofs: tuple[Proof | None, ...]
    accuracy: np.ndarray
    events: tuple[Event, ...] = ()

    @property
    def gaps(self) -> np.ndarray:
        """Relative gap of every value, infinity where there is no fit; (b,)."""
        return np.array([np.inf if proof is None else proof.gap for proof in self.proofs])


@dataclass(frozen=True, eq=False)
class Rival:
    """Somebody else's solver.

    Attributes
    ----------
    name : str
    fitter : Fitter
    X : tuple of arrays of shape (n, d)
        The features in the precisions it may use, cheapest first.
    is_warm : bool
        Whether a value starts where the one before ended.
    resumes : bool
        Whether an attempt starts where the one before ended. Where not, a value costs what its last attempt took, as if
        the tolerance had been known.
    """

    name: str
    fitter: Fitter
    X: tuple[Array, ...]
    is_warm: bool
    resumes: bool = True


@dataclass(frozen=True, eq=False)
class Task:
    """What a rival is asked: labels, penalties from strong to weak, the gaps to reach, our objectives, its allowance."""

    y: np.ndarray
    C: np.ndarray
    asked: np.ndarray
    objective: np.ndarray
    allowance_s: float
    certify: Certifier
    accuracy: Callable[[np.ndarray, np.ndarray], float]
    synchronize: Callable[[], None] = lambda: None


def walk(rival: Rival, task: Task) -> Walked:
    """Let a rival walk the path, each value until its gap is as asked, it gets no further, or time is up."""
    codes = np.unique(task.y, return_inverse=True)[1].astype(np.int64)
    k = int(codes.max()) + 1
    given = [Given(X, codes, k, None, True) for X in rival.X]
    b = len(task.C)
    state = _State(rival, task, given)
    proofs: list[Proof | None] = [None] * b
    accuracy = np.full(b, -1.0)
    for i in range(b):
        answer, proof = state.value(i)
        if answer is None:
            break
        proofs[i], accuracy[i] = proof, task.accuracy(answer.W, answer.b)
    return Walked(state.counted_s, state.passes, tuple(proofs), accuracy, tuple(state.events))


class _State:
    """A rival on its way: what it has used up, and what it has shown of itself."""

    def __init__(self, rival: Rival, task: Task, given: Sequence[Given]) -> None:
        self._rival, self._task, self._given = rival, task, given
        self._precision, self._last = 0, None
        self._spread = 0.25 * float(given[0].k * int(given[0].X.shape[1])) ** 0.5  # ‖∇_W F‖₂ over ‖∇F‖∞ where it stops
        self._s_per_iteration: float | None = None
        self._spent_s = self.counted_s = 0.0
        self.passes = 0
        self.events: list[Event] = []

    _last: Answer | None

    def value(self, i: int) -> tuple[Answer | None, Proof | None]:
        """Fit one value; (None, None) when no time is left for a first attempt."""
        task, n, C = self._task, len(self._task.y), float(self._task.C[i])
        answer = self._last if self._rival.is_warm else None
        proof: Proof | None = None
        gradient = (2 * task.asked[i] * task.objective[i] / C) ** 0.5 / self._spread / n
        base_s, in_vain = self.counted_s, 0
        while self._spent_s < task.allowance_s:
            aim = Aim(l2=1 / C, gradient=gradient, objective=float(np.log(self._given[0].k)), mass=float(n), n=n)
            answer, took = self._attempt(aim, answer)
            self.counted_s = (self.counted_s if self._rival.resumes else base_s) + took
            before, proof = proof, task.certify(C, answer.W, answer.b)
            self.events.append(Event(self.counted_s, i, proof.objective, proof.gap))
            self._spread = proof.norm / proof.stopped
            if proof.gap <= task.asked[i]:
                break
            is_closer = before is None or proof.gap < 0.9 * before.gap or proof.stopped <= 1.1 * n * gradient
            in_vain = 0 if is_closer else in_vain + 1
            if in_vain >= _IN_VAIN:
                if self._precision + 1 == len(self._given):
                    break
                self._precision, in_vain = self._precision + 1, 0
            gradient = proof.stopped / n * min(0.5, max(0.02, 0.9 * (task.asked[i] / proof.gap) ** 0.5))
        self._last = answer
        return (None, None) if proof is None else (answer, proof)

    def _attempt(self, aim: Aim, start: Answer | None) -> tuple[Answer, float]:
        left = self._task.allowance_s - self._spent_s
        known = self._s_per_iteration
        most = _FIRST_ITERATIONS if known is None else int(min(_MOST_ITERATIONS, left / known + 1))
        self._task.synchronize()
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = self._rival.fitter(self._given[self._precision], aim, most, start if self._rival.resumes else None)
        self._task.synchronize()
        took = time.perf_counter() - started
        self._spent_s += took
        self.passes += 2 * answer.n_iter
        if answer.n_iter >= 5:
            self._s_per_iteration = took / answer.n_iter
        return answer, took


@dataclass(frozen=True)
class Row:
    """One line of the table; None is what was not measured.

    Attributes
    ----------
    problem, solver : str
    n, d, k : int
    seconds : float or None
    passes : int or None
        Products with X (each X·D or Xᵀ·R); of a rival two per iteration, which is the least it can have needed.
    worst_grad, worst_gap : float or None
        Over the values that were fitted.
    n_certified, n_values : int
        Values with a gap of at most `BAR`, of how many.
    chosen_C, val_accuracy : float or None
    ratio : float or None
        In what the target is about: how many times our seconds, or a speed relative to another.
    is_bound : bool
        The ratio is a lower bound: the rival had not certified what we had.
    target : float or None
    verdict : str
        "pass", "falls short", "undecided" (a bound below the target: more patience decides), "not available", "not measured", "".
    note : str
    """

    problem: str
    solver: str
    n: int
    d: int
    k: int
    seconds: float | None = None
    passes: int | None = None
    worst_grad: float | None = None
    worst_gap: float | None = None
    n_certified: int = 0
    n_values: int = 0
    chosen_C: float | None = None
    val_accuracy: float | None = None
    ratio: float | None = None
    is_bound: bool = False
    target: float | None = None
    verdict: str = ""
    note: str = ""


def verdict(ratio: float, target: float, *, is_bound: bool, is_certified: bool) -> str:
    """What a ratio means for its target; ours must be certified everywhere to pass."""
    if not is_certified:
        return "falls short"
    if ratio >= target:
        return "pass"
    return "undecided" if is_bound else "falls short"


HEADER = (
    f"{'problem':17} {'n × d, k':>21} {'solver':29} {'seconds':>9} {'passes':>7} {'‖∇‖ rel':>8} {'gap':>8} "
    f"{'≤ 1e-4':>8} {'C':>8} {'val':>7} {'ratio':>8} {'target':>7}  verdict"
)


def line(row: Row) -> str:
    """One line of the table."""
    size = f"{row.n} × {row.d}, {row.k}"
    certified = f"{row.n_certified}/{row.n_values}" if row.seconds is not None else "—"
    ratio = "—" if row.ratio is None else f"{'> ' if row.is_bound else ''}{row.ratio:.2f}"
    cells = (
        f"{row.problem:17} {size:>21} {row.solver:29} {_cell(row.seconds, '.2f'):>9} {_cell(row.passes, 'd'):>7} "
        f"{_cell(row.worst_grad, '.1e'):>8} {_cell(row.worst_gap, '.1e'):>8} {certified:>8} {_cell(row.chosen_C, '.1e'):>8} "
        f"{_cell(row.val_accuracy, '.4f'):>7} {ratio:>8} {_cell(row.target, 'g'):>7}  {row.verdict}"
    )
    return f"{cells}{' ' if row.verdict and row.note else ''}{f'({row.note})' if row.note else ''}"


def _cell(value: float | None, form: str) -> str:
    return "—" if value is None else format(value, form)


def row_of(name: str, solver: str, shape: tuple[int, int, int], walked: Walked, C: np.ndarray) -> Row:
    """The line of a path: what was measured, without a comparison."""
    proofs = [proof for proof in walked.proofs if proof is not None]
    best = int(np.argmax(walked.accuracy))  # the strongest penalty on a tie: C rises
    n, d, k = shape
    return Row(
        name, solver, n, d, k, round(walked.seconds, 4), walked.passes,
        max((p.grad_norm for p in proofs), default=None), max((p.gap for p in proofs), default=None),
        int((walked.gaps <= BAR).sum()), len(C), float(C[best]), float(walked.accuracy[best]),
    )  # fmt: skip


def environment(threads: int | None = None) -> dict[str, Any]:
    """Versions, cores and threads: what seconds depend on."""
    import scipy
    import sklearn
    from threadpoolctl import threadpool_info

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__,
        "scikit-learn": sklearn.__version__, "machine": platform.machine(), "cores": cores, "threads": threads,
        "blas": [
            {key: found.get(key) for key in ("user_api", "internal_api", "version", "architecture", "num_threads")}
            for found in threadpool_info()
        ],
    }  # fmt: skip


def val_accuracy(X: Array, y: np.ndarray, classes: np.ndarray) -> Callable[[np.ndarray, np.ndarray], float]:
    """``accuracy(W, b)`` on validation rows (n, d) with labels (n,); classes are those of the fit, sorted."""
    xp = namespace(X)
    A = xp.astype(X, xp.float64)

    def accuracy(W: np.ndarray, b: np.ndarray) -> float:
        best = to_numpy(xp.argmax(A @ like(A, W).T + like(A, b), axis=1))
        return float((classes[best] == y).mean())

    return accuracy
