"""Walking along the penalties: predict, correct, certify, and repair in float64 what float32 could not finish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from probe.arrays import Array, is_on_cpu, like, namespace, to_numpy
from probe.certificate import Certificate, certify, meets, zero_gradient
from probe.labels import Labels, Task
from probe.lbfgs import LBFGS
from probe.newton import Newton
import os
METHOD={'l':LBFGS,'n':Newton}[os.environ.get('M','l')]
from probe.minimize import Lane, Point, minimize
from probe.problem import RotatedProblem
from probe.rotation import Rotation, rotate
from probe.status import Status

_PREDICTORS = ((1.0, 0.0, 0.0), (2.0, -1.0, 0.0), (3.0, -3.0, 1.0))  # constant, linear, quadratic in log λ
_MARGIN = 0.7  # the walk stops at this fraction of the tolerance, so that the certificate, made elsewhere, meets it
_REPAIRS = 2
_FLOAT32_TOL = 1e-7  # tolerances below this are out of reach in float32 from the start
_FLOAT64_ENTRIES = 8_000_000  # rotated entries up to which a CPU works in float64 at once: fewer iterations pay for it


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
        self._scale = zero_gradient(X, self._loss64, self._k, fit_intercept)
        is_small = is_on_cpu(X) and int(X.shape[0]) * len(self.rotation.spectrum) <= _FLOAT64_ENTRIES
        is_double = X.dtype == xp.float64 or tol < _FLOAT32_TOL or is_small
        self._problem = self._build(xp.float64 if is_double else xp.float32)
        self._done: list[tuple[float, list[Lane], str]] = []

    @property
    def _k(self) -> int:
        return len(self._labels.classes) if self._labels.task is Task.MULTINOMIAL else 1

    @property
    def _lanes(self) -> int:
        return len(self._labels.codes)

    def _build(self, dtype: object) -> RotatedProblem:
        A = self.rotation.rows(self._X, dtype)
        return RotatedProblem(A, self._labels.loss(self._X, dtype), np.ones(self._lanes), self.rotation)

    def _is_double(self) -> bool:
        return bool(self._problem.A.dtype == namespace(self._X).float64)

    def step(self, l2: float) -> None:
        """Solve the next penalty; call it from strong to weak (λ falling)."""
        lanes = self._minimize(l2, self._predict(l2), self._done[-1][1] if self._done else None, _MARGIN)
        if not self._is_double() and any(lane.is_stalled for lane in lanes):
            self._problem = self._build(namespace(self._X).float64)
            start = namespace(self._X).stack([lane.T for lane in lanes], axis=0)
            lanes = self._added(lanes, self._minimize(l2, start, None, _MARGIN))
        self._done = [*self._done, (l2, lanes, "float64" if self._is_double() else "float32")]
        for _, old, _ in self._done[:-3]:  # only three points are extrapolated, only the last lends its memory
            for lane in old:
                lane.Z = None
        for _, old, _ in self._done[:-1]:
            for lane in old:
                lane.memory, lane.preconditioner = [], None

    def _minimize(self, l2: float, start: Array, before: list[Lane] | None, margin: float) -> list[Lane]:
        problem = self._problem.at(np.full(self._lanes, l2))
        if before is not None and any(
            m.dtype != problem.A.dtype for lane in before for m in lane.memory[:1] for m in m
        ):
            before = None
        return minimize(
            problem, start, self._rule(margin * self._tol), METHOD(), max_iter=self._max_iter, before=before
        )

    @staticmethod
    def _added(first: list[Lane], second: list[Lane]) -> list[Lane]:
        for a, b in zip(first, second, strict=True):
            b.n_iter, b.passes = a.n_iter + b.n_iter, a.passes + b.passes
        return second

    def _rule(self, tol: float) -> Callable[[Point], tuple[np.ndarray, np.ndarray]]:
        """The stopping rule of the walk: the certificate, estimated in rotated coordinates and in the working dtype."""
        penalised = self.rotation.penalised

        def is_converged(p: Point) -> tuple[np.ndarray, np.ndarray]:
            xp = namespace(p.T)
            mask = like(p.T, penalised)
            by_W = to_numpy(xp.sum(mask * p.G * p.G, axis=(1, 2)))
            by_b = to_numpy(xp.sum((1 - mask) * p.G * p.G, axis=(1, 2)))
            size = np.sqrt(to_numpy(xp.sum(mask * p.T * p.T, axis=(1, 2))))
            bound = by_W / (2 * p.l2) + by_b / (p.residual / p.T.shape[1] + 1e-300)
            with np.errstate(divide="ignore", invalid="ignore"):
                gap, error = bound / p.objective, np.sqrt(by_W) / (p.l2 * size)
            # The largest entry of a gradient is at least its root mean square, which the rotation does not change.
            least = np.sqrt(by_W / (p.T.shape[1] * self._X.shape[1])) / self._scale[p.ids]
            worth = (gap <= 100 * tol) & (least <= tol)
            grad_norm = np.full(len(gap), np.inf)
            if worth.any():
                largest = to_numpy(xp.max(xp.abs(self.rotation.gradient(p.G)), axis=(1, 2)))
                grad_norm = largest / self._scale[p.ids]
            return meets(grad_norm, gap, error, tol), gap

        return is_converged

    def _predict(self, l2: float) -> Array:
        """Where the next fit is expected: the best of three extrapolations along log λ, judged on stored scores."""
        xp = namespace(self._X)
        if not self._done:
            return self._intercept_only()
        past = [lanes for _, lanes, _ in self._done[-3:]][::-1]
        usable = [lanes for lanes in past if all(lane.Z is not None for lane in lanes)]
        T = [xp.stack([lane.T for lane in lanes], axis=0) for lanes in usable]
        if len(T) < 2 or not self._is_even(l2):
            return T[0]
        Z = [xp.stack([lane.Z for lane in lanes], axis=0) for lanes in usable]
        best, chosen = np.full(self._lanes, np.inf), T[0]
        mask = like(T[0], self.rotation.penalised)
        for weights in _PREDICTORS[: len(T)]:
            used = list(zip(weights, T, Z, strict=False))
            guess = sum(w * t for w, t, _ in used)
            loss, _ = self._problem.evaluate(xp.astype(sum(w * z for w, _, z in used), self._problem.A.dtype))
            value = loss + 0.5 * l2 * to_numpy(xp.sum(mask * guess * guess, axis=(1, 2)))
            better = like(T[0], value < best, xp.bool)[:, None, None]
            chosen, best = xp.where(better, guess, chosen), np.fmin(value, best)
        return chosen

    def _is_even(self, l2: float) -> bool:
        """Whether the last penalties are equally spaced in log λ, which the predictors assume."""
        logs = np.log([p for p, _, _ in self._done[-3:]] + [l2])
        steps = np.diff(logs)
        return bool(np.allclose(steps, steps[-1], rtol=0.05))

    def _intercept_only(self) -> Array:
        """Zero weights, and the intercepts that are optimal with them."""
        xp = namespace(self._X)
        T = np.zeros((self._lanes, self._k, len(self.rotation.spectrum)))
        if self._fit_intercept:
            counts = np.log(np.maximum(self._problem.loss.counts(), 1e-12))
            is_softmax = self._labels.task is Task.MULTINOMIAL
            T[:, :, -1] = counts - counts.mean(1, keepdims=True) if is_softmax else counts[:, 1:] - counts[:, :1]
        return xp.asarray(T, device=self._X.device)

    def finish(self) -> Solution:
        """Certify every penalty solved so far, in float64 on the data as given, and repair what falls short."""
        xp = namespace(self._X)
        T = xp.stack([xp.stack([lane.T for lane in lanes], axis=0) for _, lanes, _ in self._done], axis=0)
        l2 = np.array([p for p, _, _ in self._done])
        n_iter = np.array([[lane.n_iter for lane in lanes] for _, lanes, _ in self._done])
        passes = np.array([[lane.passes for lane in lanes] for _, lanes, _ in self._done])
        precision = np.array([name for _, _, name in self._done], dtype="<U7")
        b, L, k, r = (int(s) for s in T.shape)
        W, offset = self.rotation.to_features(xp.reshape(T, (b * L, k, r)))
        W, offset = xp.reshape(W, (b, L, k, -1)), xp.reshape(offset, (b, L, k))
        certificate, offset = certify(self._X, self._loss64, W, offset, l2, self._scale, self._fit_intercept)
        passes += 2
        for attempt in range(_REPAIRS):
            short = np.flatnonzero(~self._met(certificate).all(axis=1))
            if len(short) == 0:
                break
            if not self._is_double():
                self._problem = self._build(xp.float64)
            for i in short:
                start = self.rotation.from_features(W[int(i), ...], offset[int(i), ...])
                lanes = self._minimize(float(l2[i]), start, None, _MARGIN * 0.1**attempt)
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
        status = [_status(*flags) for flags in zip(met, finite, exhausted, strict=True)]
        worst = Certificate(
            c.objective.sum(axis=1), c.grad_norm.max(axis=1), c.gap.max(axis=1), c.coef_error.max(axis=1)
        )
        return Solution(
            xp.reshape(W, (n, L * k, d)), xp.reshape(b, (n, L * k)), worst, tuple(status), n_iter.max(axis=1),
            passes.max(axis=1), precision,
        )  # fmt: skip


def _status(is_met: bool, is_finite: bool, is_exhausted: bool) -> Status:
    if is_met:
        return Status.CONVERGED
    if not is_finite:
        return Status.FAILED
    return Status.MAX_ITER if is_exhausted else Status.PRECISION
