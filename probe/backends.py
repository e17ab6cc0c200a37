"""Which library solves: ours with any array library, or another one's, certified by our own gradient like any other."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from probe.arrays import Array, like, namespace, require_finite, to_library, to_numpy
from probe.certificate import Certificate, certify, meets, zero_gradient
from probe.design import Whole
from probe.engines import Aim, Answer, Fitter, Problem, cuml_part, cuml_walk, fit_sklearn
from probe.errors import BadInput
from probe.labels import Labels, Loss
from probe.solver import PathSolver, Solution
from probe.sources import RowSource
from probe.status import ending
from probe.streamed import Streamed
from probe.wide import Wide, is_wide

BACKENDS = ("auto", "numpy", "torch", "cupy", "cuml", "sklearn")
"""Names of `backend`: where the features are, a library that our solver computes with, or somebody else's solver."""

_ON_HOST = ("numpy", "sklearn")
_ON_GPU = ("cupy", "cuml")
_PROGRESS = 0.9  # an attempt that leaves more than this share of gap and gradient was in vain
_PATIENCE = 3  # attempts in vain after which rounding has the better of it; the first may have been met at its start


class Solver(Protocol):
    """What `probe.fit_path` asks of a solver: penalties one after the other, then everything certified."""

    @property
    def n_done(self) -> int:
        """How many penalties are solved."""

    def walk(self, l2: np.ndarray) -> None:
        """Solve penalties, from strong to weak: λ falling, (b,)."""

    def finish(self, repair: bool = True) -> Solution:
        """Certify what is solved."""


def check_backend(backend: str, device: Any = None) -> None:
    """Refuse a backend that does not exist, and one that cannot compute where it is told to.

    Parameters
    ----------
    backend : str
        One of `BACKENDS`.
    device : optional
        As in `probe.fit_path`.

    Raises
    ------
    BadInput
    """
    if backend not in BACKENDS:
        near = difflib.get_close_matches(str(backend), BACKENDS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(map(repr, BACKENDS))}."
        raise BadInput(f"There is no backend {backend!r}; {hint}")
    if device is None:
        return
    kind = str(device).partition(":")[0]
    if backend in _ON_HOST and kind != "cpu":
        raise BadInput(
            f"backend={backend!r} computes on the host, but device is {str(device)!r}; leave one of them out."
        )
    if backend in _ON_GPU and kind != "cuda":
        raise BadInput(
            f"backend={backend!r} computes on a GPU, but device is {str(device)!r}; leave one of them out, or pass device='cuda'."
        )


def features_for(backend: str, X: Array) -> Array:
    """The features where a backend computes.

    Parameters
    ----------
    backend : str
        "auto" and "cuml" leave them where they are; "numpy" and "sklearn" bring them to the host; "torch" shares their memory,
        on the host or the GPU; "cupy" brings them to the GPU.
    X : array of shape (n, d)

    Returns
    -------
    array of shape (n, d)

    Raises
    ------
    MissingExtra
        When the library is not installed; the extra is named.
    """
    if backend == "cuml":
        cuml_part("solvers")  # before anything is computed
    library = {"numpy": "numpy", "sklearn": "numpy", "torch": "torch", "cupy": "cupy"}.get(backend)
    return X if library is None else to_library(X, library)


def solver_for(backend: str, X: Array, labels: Labels, fit_intercept: bool, tol: float, max_iter: int) -> Solver:
    """The solver of a backend.

    Parameters
    ----------
    backend : str
    X : array of shape (n, d), or RowSource
        From `features_for`; or what is read block by block.
    labels : Labels
    fit_intercept : bool
    tol : float
    max_iter : int

    Returns
    -------
    Solver

    Raises
    ------
    BadInput
        For a loss that the library's solver does not have.
    """
    if isinstance(X, RowSource):
        if backend != "auto":
            raise BadInput(
                f"backend={backend!r} needs all features in memory, but they take more than the {X.memory:,} bytes that `memory` "
                "allows; leave out one of the two."
            )
        design = Wide(X, fit_intercept) if is_wide(*X.shape) else Streamed(X, fit_intercept)
        return PathSolver(design, labels, fit_intercept, tol, max_iter)
    if backend not in ("cuml", "sklearn"):
        return PathSolver(Whole(X, fit_intercept), labels, fit_intercept, tol, max_iter)
    if labels.kind is not Loss.LOGISTIC:
        raise BadInput(f"backend={backend!r} is for logistic regression, but the loss is {labels.kind}; leave it out.")
    lanes = range(len(labels.codes))
    fitters: list[Fitter] = [fit_sklearn for _ in lanes] if backend == "sklearn" else [cuml_walk() for _ in lanes]
    return ForeignSolver(X, _given(X), labels, fit_intercept, tol, max_iter, fitters)


def _given(X: Array) -> Array:
    """Features in a precision that other libraries take; half precision goes up without loss."""
    xp = namespace(X)
    return X if X.dtype in (xp.float32, xp.float64) else xp.astype(X, xp.float32)


@dataclass(frozen=True, eq=False)
class _Walked:
    """One penalty: answers of every lane, their certificate (1, L), iterations (L,), passes, dtype at the end."""

    answers: list[Answer]
    certificate: Certificate
    n_iter: np.ndarray
    passes: int
    precision: str


class ForeignSolver:
    """Another library's fits, as the two steps of `Solver`: each goes on until our certificate meets the tolerance.

    What stalls in float32 goes on in float64, as in our own solver.

    Parameters
    ----------
    X : array of shape (n, d)
        What is certified.
    given : array of shape (n, d), float32 or float64
        What the library gets.
    labels : Labels
    fit_intercept : bool
    tol : float
    max_iter : int
        Iterations per penalty.
    fitters : sequence of Fitter
        One per lane.
    """

    def __init__(
        self,
        X: Array,
        given: Array,
        labels: Labels,
        fit_intercept: bool,
        tol: float,
        max_iter: int,
        fitters: list[Fitter],
    ) -> None:
        require_finite(X)
        self._X, self._fitters, self._tol, self._max_iter = X, fitters, tol, max_iter
        self._fit_intercept = fit_intercept
        lanes = np.broadcast_to(1.0 if labels.weights is None else labels.weights, labels.codes.shape)
        weights = [None if labels.weights is None else lane for lane in lanes]
        self._problems = [
            Problem(given, codes, labels.k, weight, fit_intercept)
            for codes, weight in zip(labels.codes, weights, strict=True)
        ]
        self._loss = labels.loss(X, namespace(X).float64)
        self._scale = zero_gradient(X, self._loss, labels.k, fit_intercept)
        self._dtype = str(given.dtype).rpartition(".")[2]
        self._last: list[Answer] | None = None
        self._done: list[_Walked] = []

    @property
    def n_done(self) -> int:
        """How many penalties are solved."""
        return len(self._done)

    def walk(self, l2: np.ndarray) -> None:
        """Solve penalties, from strong to weak: λ falling, (b,)."""
        for value in l2:
            self.step(float(value))

    def step(self, l2: float) -> None:
        """Solve the next penalty, from where the last one ended, until its certificate meets the tolerance."""
        mass = self._problems[0].mass
        wanted = self._tol * self._scale / mass
        answers, n_iter = self._last, np.zeros(len(self._problems), dtype=np.int64)
        before, passes = self._certified(self._zero() if answers is None else answers, l2)[0], 2
        is_open = np.ones(len(self._problems), dtype=bool)
        in_vain = np.zeros(len(self._problems), dtype=np.int64)
        while is_open.any():
            fitted = self._fitted(answers, l2, wanted, before.objective[0] / mass, self._max_iter - n_iter, is_open)
            n_iter += np.where(is_open, [answer.n_iter for answer in fitted], 0)
            now, answers = self._certified(fitted, l2)
            passes += 2
            is_short = ~self._met(now)[0] & (n_iter < self._max_iter)
            in_vain = np.where(_is_better(now, before), 0, in_vain + 1)
            is_open = is_short & (in_vain < _PATIENCE)
            if is_short.any() and not is_open.any() and self._dtype == "float32":
                self._go_on_in_float64()
                is_open, in_vain = is_short, np.zeros_like(in_vain)
            # The gap falls with the square of the gradient; a third at least, a thousandth at most of what was asked for.
            lack = np.sqrt(100 * self._tol / np.maximum(now.gap[0], 1e-300))
            wanted = np.where(is_open, wanted * np.clip(0.5 * lack, 1e-3, 0.3), wanted)
            before = now
        self._last = answers
        walked = _Walked(answers or [], before, n_iter, passes + 2 * int(n_iter.max()), self._dtype)
        self._done = [*self._done, walked]

    def _go_on_in_float64(self) -> None:
        self._problems = [replace(p, X=namespace(p.X).astype(p.X, namespace(p.X).float64)) for p in self._problems]
        self._dtype = "float64"

    def _fitted(
        self, answers: list[Answer] | None, l2: float, wanted: np.ndarray, objective: np.ndarray, left: np.ndarray,
        is_open: np.ndarray,
    ) -> list[Answer]:  # fmt: skip
        found = []
        for lane, problem in enumerate(self._problems):
            start = None if answers is None else answers[lane]
            if start is not None and not is_open[lane]:
                found.append(start)
                continue
            aim = Aim(l2, float(wanted[lane]), float(objective[lane]), problem.mass, len(problem.codes))
            found.append(self._fitters[lane](problem, aim, int(left[lane]), start))
        return found

    def _zero(self) -> list[Answer]:
        d = int(self._X.shape[1])
        return [Answer(np.zeros((problem.k, d)), np.zeros(problem.k), 0) for problem in self._problems]

    def _certified(self, answers: list[Answer], l2: float) -> tuple[Certificate, list[Answer]]:
        """The certificate, (1, L), and the answers with their intercepts at the optimum."""
        double = namespace(self._X).float64
        W = like(self._X, np.stack([answer.W for answer in answers])[None], double)
        b = like(self._X, np.stack([answer.b for answer in answers])[None], double)
        found, moved = certify(self._X, self._loss, W, b, np.array([l2]), self._scale, self._fit_intercept)
        offsets = to_numpy(moved)[0]
        return found, [Answer(a.W, offset, a.n_iter) for a, offset in zip(answers, offsets, strict=True)]

    def _met(self, c: Certificate) -> np.ndarray:
        return meets(c.grad_norm, c.gap, c.coef_error, self._tol)

    def finish(self, repair: bool = True) -> Solution:
        """Every penalty solved so far; they are certified already, and nobody repairs another library's answers."""
        double = namespace(self._X).float64
        parts = [walked.certificate for walked in self._done]
        joined = Certificate(
            *(
                np.concatenate([getattr(c, name) for c in parts])
                for name in ("objective", "grad_norm", "gap", "coef_error")
            )
        )
        n_iter = np.array([walked.n_iter for walked in self._done])
        met: list[bool] = np.asarray(self._met(joined).all(axis=1)).tolist()
        finite: list[bool] = np.asarray(np.isfinite(joined.objective).all(axis=1)).tolist()
        exhausted: list[bool] = np.asarray((n_iter >= self._max_iter).any(axis=1)).tolist()
        worst = Certificate(
            joined.objective.sum(axis=1),
            joined.grad_norm.max(axis=1),
            joined.gap.max(axis=1),
            joined.coef_error.max(axis=1),
        )
        status = tuple(ending(*flags) for flags in zip(met, finite, exhausted, strict=True))
        precision = np.array([walked.precision for walked in self._done])
        return Solution(
            W=like(self._X, np.stack([np.concatenate([a.W for a in walked.answers]) for walked in self._done]), double),
            b=like(self._X, np.stack([np.concatenate([a.b for a in walked.answers]) for walked in self._done]), double),
            certificate=worst, status=status, n_iter=n_iter.max(axis=1),
            passes=np.array([walked.passes for walked in self._done]), precision=precision,
        )  # fmt: skip


def _is_better(now: Certificate, before: Certificate) -> np.ndarray:
    """Which lanes an attempt has brought further."""
    better: np.ndarray = (now.gap[0] < _PROGRESS * before.gap[0]) | (now.grad_norm[0] < _PROGRESS * before.grad_norm[0])
    return better
