"""Somebody else's solver on the path: each value until its certificate is as good as asked, or time is up.

A rival is any `probe.engines.Fitter`. Its tolerance is aimed: from the gap that is asked, our objective and the shape of its
last gradient follows the ‖∇‖∞ at which it may stop, so that it neither stops early nor works on for nothing; what falls short
goes on from there with a lower one. Float32 that gets no further goes on in float64, and stays there. Its seconds are those of
its own solver, nothing of this file.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from path_certificates import Certifier, Proof

from probe.arrays import Array
from probe.engines import Aim, Answer, Fitter
from probe.engines import Problem as Given

_MOST_ITERATIONS = 20_000

_FIRST_ITERATIONS = 1_000  # before it is known how long one takes

_IN_VAIN = 2  # attempts that miss their tolerance and get no closer: rounding has the better of the rival


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
    if task.allowance_s > 0:  # an iteration that is not counted, for what is imported or compiled at first use
        n = len(codes)
        with _quiet():
            rival.fitter(given[0], Aim(float(n), 1e-3, float(np.log(k)), float(n), n), 1, None)
    state = _State(rival, task, given)
    proofs: list[Proof | None] = [None] * b
    accuracy = np.full(b, -1.0)
    for i in range(b):
        answer, proof = state.value(i)
        if answer is None:
            break
        proofs[i], accuracy[i] = proof, task.accuracy(answer.W, answer.b)
    return Walked(state.counted_s, state.passes, tuple(proofs), accuracy, tuple(state.events))


@contextmanager
def _quiet() -> Iterator[None]:
    """What a rival warns of is seen in its certificates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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
            if proof.stopped > 0 and proof.norm > 0:
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
        with _quiet():
            answer = self._rival.fitter(self._given[self._precision], aim, most, start if self._rival.resumes else None)
        self._task.synchronize()
        took = time.perf_counter() - started
        self._spent_s += took
        self.passes += 2 * answer.n_iter
        if answer.n_iter >= 5:
            self._s_per_iteration = took / answer.n_iter
        return answer, took
