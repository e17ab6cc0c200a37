"""Features larger than memory: the same answer from blocks of rows, in as few passes over them as possible.

Three things make passes few. Newton steps need two each; the rows that carry the curvature are gathered on the way of the pass
that is made anyway, and the products of the conjugate gradients stay in memory. Penalties between two corners of the path
advance together. Certificates of all fits take two passes.

Where the rows that carry the curvature are more than fit, a sample stands for them: those with most of it are kept, and of the
others each stands for several. Newton's method then learns from its own steps what the sample does not say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar

import numpy as np

from probe.arrays import Array, namespace, require_finite, to_numpy
from probe.certificate import Certificate, bounds, intercept_step, scale_of
from probe.design import Rotated
from probe.errors import BadInput
from probe.objective import BatchedLoss
from probe.rotation import Rotation, graded, symmetric_eigen
from probe.rows import Active, Reads, rows_holding
from probe.sources import RowSource

_SHARE = 0.999  # of the curvature, held by the rows that are gathered
_BUFFERS = 4  # parts of the memory; one is for blocks on their way, the others for the rows that are kept
_LEAST_ROWS = 64
_LEVELS, _BYTES_KEPT = 32767, 2  # rows are kept as 16-bit whole numbers: twice as many fit, products cost no more
_MOST_REACH = 1000  # largest entry of a column over its ordinary ones: beyond, whole numbers would lose the ordinary
_SAMPLED = 1024  # rows that tell what is ordinary
_SCORES_AT_ONCE = 1 << 23  # float64 scores of a certificate held at once: 64 MB


class Streamed(Rotated):
    """A feature matrix that is read block by block.

    Parameters
    ----------
    source : RowSource
        Its memory is for the blocks on their way and the rows that are kept. Scores, coefficients and the Gram matrix of the
        columns come on top.
    fit_intercept : bool
    """

    is_dear = True

    def __init__(self, source: RowSource, fit_intercept: bool) -> None:
        self._prepare(source, fit_intercept)
        self.rotation = self._rotate()

    def _prepare(self, source: RowSource, fit_intercept: bool) -> None:
        self.source, self.reads = source, Reads()
        self._fit_intercept = fit_intercept
        self.block_bytes = max(source.memory // (_BUFFERS * 4), 1 << 16)

    @property
    def example(self) -> Array:
        """An empty array where the computation lives."""
        return self.source.example

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and features."""
        return self.source.shape

    def _rotate(self) -> Rotation:
        """Mean and Gram matrix of the columns in one pass, about the mean of the first block, which is close enough."""
        xp, (n, d) = namespace(self.example), self.shape
        total = xp.zeros(d, dtype=xp.float64, device=self.example.device)
        gram = xp.zeros((d, d), dtype=xp.float64, device=self.example.device)
        shift, reach, ordinary = None, total, np.zeros(d)
        self.reads.n += 1
        for where, block in self.source.blocks(self.block_bytes):
            rows = xp.astype(block, xp.float64)
            if shift is None:
                shift = xp.sum(rows, axis=0) / int(rows.shape[0]) if self._fit_intercept else total * 0.0
                ordinary = _ordinary(to_numpy(rows[:_SAMPLED, :]))
            rows = rows - shift
            with np.errstate(over="ignore", invalid="ignore"):
                total, gram = total + xp.sum(rows, axis=0), gram + rows.T @ rows
            reach = xp.maximum(reach, xp.max(xp.abs(rows), axis=0))
            if not bool(xp.all(xp.isfinite(total))):
                require_finite(block, first=where.start, n_all=n)
                raise BadInput("The sum of a column of X is beyond float64; divide the features by a constant.")
        moved = total / n if self._fit_intercept else total * 0.0
        # The mean as the blocks' dtype holds it: any centre is valid, if it is always the same.
        centre = xp.astype(xp.astype(shift + moved, self.example.dtype), xp.float64)
        self._reach = reach + xp.abs(centre - shift)
        self._is_coarse = bool((to_numpy(self._reach) > _MOST_REACH * ordinary).any())
        with np.errstate(over="ignore", invalid="ignore"):
            gram = gram - n * (moved[:, None] * moved[None, :])
        squares = to_numpy(xp.linalg.diagonal(gram))
        if not np.isfinite(squares).all():
            raise BadInput("The squares of X are beyond float64; divide the features by a constant.")
        tail = [float(n)] if self._fit_intercept else []
        if graded(squares, n, to_numpy(centre)):
            return Rotation(centre, None, np.concatenate([np.maximum(squares, 0.0), tail]), self._fit_intercept)
        values, basis = symmetric_eigen(gram)
        kept = np.flatnonzero(values > max(values[-1], 0.0) * np.finfo(np.float64).eps * max(n, d))[::-1]
        basis = xp.take(basis, xp.asarray(kept.copy(), device=basis.device), axis=1)
        return Rotation(centre, basis, np.concatenate([values[kept], tail]), self._fit_intercept)

    def rows(self, dtype: object) -> StreamedRows:
        """The rows as the solver multiplies with them."""
        xp, (_, d) = namespace(self.example), self.shape
        width = d + 1 if self._fit_intercept else d
        r = len(self.rotation.spectrum)
        embed = xp.zeros((r, width), dtype=dtype, device=self.example.device)
        basis = self.rotation.basis
        m = r - 1 if self._fit_intercept else r
        embed[:m, :d] = xp.eye(d, dtype=dtype, device=embed.device) if basis is None else xp.astype(basis.T, dtype)
        if self._fit_intercept:
            embed[-1, -1] = 1.0
        if self._is_coarse:
            return StreamedRows(self, embed, None, self._most(width * embed.dtype.itemsize))
        unit = xp.astype(xp.where(self._reach > 0, self._reach, xp.ones_like(self._reach)) / _LEVELS, dtype)
        if self._fit_intercept:
            unit = xp.concat([unit, xp.ones(1, dtype=dtype, device=unit.device) / _LEVELS])
        return StreamedRows(self, embed, unit, self._most(width * _BYTES_KEPT))

    def _most(self, row_bytes: int) -> int:
        """How many rows are kept."""
        return max(int(self.source.memory * (1 - 1 / _BUFFERS) / row_bytes), _LEAST_ROWS)

    def centred(self, block: Array, dtype: object) -> Array:
        """A block about the mean, with a column of ones for the intercept."""
        xp = namespace(block)
        rows = xp.astype(block, dtype) - xp.astype(self.rotation.mean, dtype)
        if not self._fit_intercept:
            return rows
        return xp.concat([rows, xp.ones((int(rows.shape[0]), 1), dtype=dtype, device=rows.device)], axis=1)

    def scale(self, loss: BatchedLoss, k: int) -> np.ndarray:
        """‖∇F‖∞ at zero, (L,); one pass."""
        xp, (n, d) = namespace(self.example), self.shape
        Z = xp.zeros((loss.n_lanes, k, n), dtype=xp.float64, device=self.example.device)
        _, R = loss.evaluate(Z)
        G = xp.zeros((loss.n_lanes * k, d), dtype=xp.float64, device=self.example.device)
        reach = []
        self.reads.n += 1
        for where, block in self.source.blocks(self.block_bytes):
            G = G + xp.reshape(R[..., where], (loss.n_lanes * k, -1)) @ xp.astype(block, xp.float64)
            reach.append(xp.astype(xp.max(xp.abs(block), axis=1), xp.float64))
        return scale_of(xp.reshape(G, (loss.n_lanes, k, d)), R, xp.concat(reach), self._fit_intercept)

    def certify(
        self, loss: BatchedLoss, W: Array, b: Array, l2: np.ndarray, scale: np.ndarray
    ) -> tuple[Certificate, Array]:
        """Certificates of all fits in two passes, whatever their number: the first brings the intercepts to their optimum."""
        xp = namespace(W)
        p, L, k, d = (int(s) for s in W.shape)
        lanes = np.tile(np.arange(L), p)
        flat = xp.reshape(W, (p * L * k, d))
        offset = xp.reshape(b, (p * L, k))
        if self._fit_intercept:
            sums = self._pass(loss, lanes, flat, offset, with_weights=False)
            offset = offset - damped(intercept_step(sums.by_b, sums.hessian, loss.has_gauge))
        sums = self._pass(loss, lanes, flat, offset, with_weights=True)
        by_b, decrement = None, np.zeros(p * L)
        if self._fit_intercept:
            by_b = sums.by_b
            step = intercept_step(by_b, sums.hessian, loss.has_gauge)
            decrement = np.abs(to_numpy(xp.sum(step * by_b, axis=1)))
        weights = xp.reshape(W, (p * L, k, d))
        found = bounds(sums.value, sums.by_W, by_b, decrement, weights, np.repeat(l2, L), np.tile(scale, p))
        return found.reshaped(p, L), xp.reshape(offset, (p, L, k))

    def _pass(self, loss: BatchedLoss, lanes: np.ndarray, flat: Array, offset: Array, with_weights: bool) -> _Sums:
        """One pass: loss, derivative by the intercepts and its Hessian, and, asked to, the derivative by the weights."""
        xp = namespace(flat)
        m, k = (int(s) for s in offset.shape)
        sums = _Sums(
            np.zeros(m), xp.zeros((m, k, int(flat.shape[1])), dtype=xp.float64, device=flat.device),
            xp.zeros((m, k), dtype=xp.float64, device=flat.device),
            xp.zeros((m, k, k), dtype=xp.float64, device=flat.device),
        )  # fmt: skip
        self.reads.n += 1
        for where, rows in self._pieces(max(1, _SCORES_AT_ONCE // (m * k))):
            Z = xp.reshape(flat @ rows.T, (m, k, int(rows.shape[0]))) + offset[..., None]
            part = loss.at_rows(np.arange(where.start, where.stop)).take(lanes)
            value, R = part.evaluate(Z)
            sums.value += value
            sums.by_b = sums.by_b + xp.sum(R, axis=2)
            sums.hessian = sums.hessian + part.intercept_hessian(R)
            if with_weights:
                sums.by_W = sums.by_W + xp.reshape(xp.reshape(R, (m * k, -1)) @ rows, sums.by_W.shape)
        return sums

    def _pieces(self, most: int) -> Iterator[tuple[slice, Array]]:
        """All rows in float64, not more than so many at once: a block of rows is small, the scores of many fits are not."""
        xp = namespace(self.example)
        for where, block in self.source.blocks(self.block_bytes):
            for a in range(where.start, where.stop, most):
                b = min(a + most, where.stop)
                yield slice(a, b), xp.astype(block[a - where.start : b - where.start, :], xp.float64)


@dataclass
class _Sums:
    """Sums over all rows, for m fits."""

    value: np.ndarray
    by_W: Array
    by_b: Array
    hessian: Array


@dataclass(eq=False)
class StreamedRows:
    """Rows that are multiplied as they come by; those that carry the curvature stay.

    Attributes
    ----------
    design : Streamed
    embed : array of shape (r, d + 1)
        Rotated coordinates → centred features and the column of ones.
    unit : array of shape (d + 1,), or None
        What one step of a kept row's whole numbers is worth in each column. Only the model of Newton's method is made of them;
        gradients and scores are not rounded. None keeps the rows as they are, half as many or fewer: columns with entries far
        beyond the ordinary ones would lose too much.
    most : int
        Rows that fit in memory.
    """

    design: Streamed
    embed: Array
    unit: Array | None
    most: int
    _kept: Active | None = field(default=None, repr=False)
    is_shared: ClassVar[bool] = True

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.design.shape[0]

    @property
    def dtype(self) -> object:
        """Of the products."""
        return self.embed.dtype

    @property
    def example(self) -> Array:
        """An array where the computation lives."""
        return self.embed

    def pick(self, lanes: np.ndarray) -> StreamedRows:
        """Itself: one matrix for all lanes."""
        return self

    def scores(self, T: Array) -> Array:
        """(L, k, r) → (L, k, n); one pass."""
        xp = namespace(self.embed)
        L, k, r = (int(s) for s in T.shape)
        W = xp.astype(xp.reshape(T, (L * k, r)), self.dtype) @ self.embed
        out = xp.empty((L * k, self.n), dtype=self.dtype, device=W.device)
        self.design.reads.n += 1
        for where, block in self.design.source.blocks(self.design.block_bytes):
            out[:, where] = W @ self.design.centred(block, self.dtype).T
        return xp.reshape(out, (L, k, self.n))

    def adjoint(self, R: Array, curvature: Callable[[], np.ndarray]) -> Array:
        """(L, k, n) → (L, k, r), float64; one pass, which keeps the rows with most of the curvature (L, n)."""
        xp = namespace(self.embed)
        L, k, n = (int(s) for s in R.shape)
        flat = xp.reshape(R, (L * k, n))
        index, weights = sampled(curvature(), _SHARE, self.most)
        G = xp.zeros((L * k, int(self.embed.shape[1])), dtype=xp.float64, device=R.device)
        kept_as = self.dtype if self.unit is None else xp.int16
        A = xp.empty((len(index), int(self.embed.shape[1])), dtype=kept_as, device=R.device)
        self._kept = None
        self.design.reads.n += 1
        for where, block in self.design.source.blocks(self.design.block_bytes):
            rows = self.design.centred(block, self.dtype)
            G = G + xp.astype(flat[:, where] @ rows, xp.float64)
            a, b = np.searchsorted(index, [where.start, where.stop])
            if b > a:
                chosen = xp.take(rows, xp.asarray(index[a:b] - where.start, device=rows.device), axis=0)
                A[a:b, :] = chosen if self.unit is None else xp.astype(xp.round(chosen / self.unit), xp.int16)
        embed = self.embed if self.unit is None else self.embed * self.unit
        self._kept = Active(A, index, len(index) / n, weights, embed)
        return xp.reshape(G @ xp.astype(self.embed, xp.float64).T, (L, k, -1))

    def active(self, curvature: Callable[[], np.ndarray], share: float) -> Active:
        """The rows that the last pass has kept."""
        assert self._kept is not None, "the minimiser always asks for a gradient first"
        return self._kept

    def stiff(self, lane: int) -> tuple[Active, np.ndarray]:
        """The kept rows, and the sums of squares of the columns over all rows."""
        assert self._kept is not None, "the minimiser always asks for a gradient first"
        return self._kept, self.design.rotation.spectrum


def damped(step: Array) -> Array:
    """A Newton step on the intercepts, shortened so that it lowers the objective without a look at it.

    Logistic losses are self-concordant in the sense of Bach 2010 ("Self-concordant analysis for logistic regression"): a step
    that changes scores by ρ multiplies the second derivative by e^ρ at most, and ``log(1 + ρ) / ρ`` of it goes downhill.

    Parameters
    ----------
    step : array of shape (m, k)

    Returns
    -------
    array of shape (m, k)
    """
    xp = namespace(step)
    size = 2.0 * xp.max(xp.abs(step), axis=1, keepdims=True) + 1e-300
    return step * (xp.log1p(size) / size)


def _ordinary(rows: np.ndarray) -> np.ndarray:
    """How far entries of a column ordinarily are from its median, those at it left out: (d,), infinite for none."""
    distance = np.abs(rows - np.median(rows, axis=0))
    out = np.zeros(rows.shape[1])
    for j, column in enumerate(distance.T):
        apart = column[column > 0]
        out[j] = np.median(apart) if len(apart) else np.inf
    return out


def sampled(curvature: np.ndarray, share: float, most: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows that hold a share of the curvature of every lane; or, where they do not fit, a sample, and what each row stands for.

    Rows are drawn with a chance proportional to their curvature, those that would be drawn more than once for certain; a row
    stands for the inverse of its chance. Every row has its lot, always the same: from step to step the sample hardly changes,
    and a preconditioner made from it goes on fitting.

    Parameters
    ----------
    curvature : numpy.ndarray of shape (L, n)
    share : float
    most : int

    Returns
    -------
    index : numpy.ndarray of shape (m,), ascending
    weights : numpy.ndarray of shape (m,), or None where all fit
    """
    index = rows_holding(curvature, share)
    if len(index) <= most:
        return index, None
    held = curvature[:, index]
    size = (held / np.maximum(held.sum(axis=1, keepdims=True), 1e-300)).max(axis=0)
    certain = np.zeros(len(index), dtype=bool)
    room = most - 3 * math.sqrt(most)  # how many are drawn is up to chance
    chance = size * (room / size.sum())
    while ((chance >= 1.0) & ~certain).any():
        certain |= chance >= 1.0
        chance = np.where(certain, 1.0, size * max((room - certain.sum()) / max(size[~certain].sum(), 1e-300), 0.0))
    drawn = certain | (_lots(curvature.shape[1])[index] < chance)
    return index[drawn], 1.0 / chance[drawn]


@cache
def _lots(n: int) -> np.ndarray:
    """Numbers between 0 and 1, evenly spread, one for every row."""
    lots: np.ndarray = (np.random.default_rng(0).permutation(n) + 0.5) / n
    return lots
