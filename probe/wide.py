"""More columns than rows, and neither fits: full maps, with hundreds of thousands of features for some thousand images.

The fits lie in the span of the rows, so that the Gram matrix of the rows, n × n, is all the walk needs: its eigenvectors are the
rotated rows, an exact reduction to n − 1 columns (`probe.rotation`). It is summed from blocks, and so are the weights at the end.

Somewhat more rows than columns go the same way: a basis of the columns, d × d in float64, would take more memory than the rows in
float32, so that nothing is saved by reading these again and again. PACS paintings, 1,639 × 1,496: 21 passes instead of 671.
"""

from __future__ import annotations

import numpy as np

from probe.arrays import Array, like, namespace, require_finite, to_numpy
from probe.errors import BadInput
from probe.rotation import symmetric_eigen
from probe.rows import Reads, Shared
from probe.sources import RowSource
from probe.streamed import Streamed

_NEARLY_SQUARE = 1.25  # rows in columns


def is_wide(n: int, d: int) -> bool:
    """Whether the products of the rows are walked along, rather than the rows."""
    return n <= _NEARLY_SQUARE * d


class Wide(Streamed):
    """A feature matrix with about as many columns as rows, or more, that is read block by block; the walk itself needs no pass.

    Parameters
    ----------
    source : RowSource
        Half of its memory is for the rows whose products with all others are made in one pass. The Gram matrix of the rows,
        scores and coefficients come on top.
    fit_intercept : bool
    """

    is_dear = False

    def __init__(self, source: RowSource, fit_intercept: bool) -> None:
        self._prepare(source, fit_intercept)
        xp, (n, _) = namespace(self.example), self.shape
        self._mean, gram = self._gram()
        if fit_intercept:
            by_row = xp.sum(gram, axis=0) / n
            gram = gram - by_row[:, None] - by_row[None, :] + xp.sum(by_row) / n
        values, vectors = symmetric_eigen(gram)
        kept = np.flatnonzero(values > max(values[-1], 0.0) * np.finfo(np.float64).eps * n)[::-1]
        self._values = values[kept]
        self._vectors = xp.take(vectors, xp.asarray(kept.copy(), device=vectors.device), axis=1)

    @property
    def penalised(self) -> np.ndarray:
        """One where a rotated coordinate is penalised, (r,)."""
        return np.concatenate([np.ones(len(self._values)), [0.0] if self._fit_intercept else []])

    @property
    def stiffest(self) -> float:
        """See `probe.design.Design.stiffest`."""
        return float(np.max(self._values, initial=0.0))

    def _gram(self) -> tuple[Array, Array]:
        """Mean of the columns (d,), zero without an intercept, and products of all rows, (n, n), about the first block's mean."""
        xp, (n, d) = namespace(self.example), self.shape
        gram = xp.zeros((n, n), dtype=xp.float64, device=self.example.device)
        total = xp.zeros(d, dtype=xp.float64, device=self.example.device)
        shift = None
        at_once = max(1, self.source.memory // (2 * 8 * d))
        for begin in range(0, n, at_once):
            end = min(begin + at_once, n)
            held: list[Array] = []
            self.reads.n += 1
            for where, block in self.source.blocks(self.block_bytes):
                rows = xp.astype(block, xp.float64)
                if shift is None:
                    shift = xp.sum(rows, axis=0) / int(rows.shape[0]) if self._fit_intercept else total
                rows = rows - shift
                if begin == 0:
                    total = total + xp.sum(rows, axis=0)
                    if not bool(xp.all(xp.isfinite(total))):
                        require_finite(block, first=where.start, n_all=n)
                        raise BadInput("The sum of a column of X is beyond float64; divide the features by a constant.")
                first, last = max(where.start, begin), min(where.stop, end)
                if first < last:
                    held.append(rows[first - where.start : last - where.start, :])
                if where.stop > begin and held:
                    panel = xp.concat(held, axis=0)
                    mine = rows[max(begin - where.start, 0) :, :]
                    part = slice(begin, begin + int(panel.shape[0]))
                    columns = slice(max(begin, where.start), where.stop)
                    product = panel @ mine.T
                    gram[part, columns] = product
                    gram[columns, part] = product.T
        if not bool(xp.all(xp.isfinite(gram))):
            raise BadInput("The squares of X are beyond float64; divide the features by a constant.")
        return (shift + total / n if self._fit_intercept else total * 0.0), gram

    def rows(self, dtype: object) -> Shared:  # type: ignore[override]  # in memory, where Streamed has none
        """The rotated rows."""
        xp = namespace(self.example)
        A = self._vectors * like(self._vectors, np.sqrt(self._values))
        spectrum = self._values
        if self._fit_intercept:
            A = xp.concat([A, xp.ones((int(A.shape[0]), 1), dtype=A.dtype, device=A.device)], axis=1)
            spectrum = np.concatenate([spectrum, [float(self.shape[0])]])
        return Shared(xp.astype(A, dtype), spectrum, Reads())  # these products read nothing

    def largest(self, G: Array, lanes: np.ndarray) -> np.ndarray:
        """An upper bound: the root of the sum of squares, which a rotation does not change."""
        xp = namespace(G)
        if not self._fit_intercept:
            return np.asarray(to_numpy(xp.max(xp.sqrt(xp.sum(G * G, axis=2)), axis=1)))
        by_b = xp.abs(G[..., -1])
        norm = xp.sqrt(xp.sum(G[..., :-1] ** 2, axis=2)) + by_b * xp.max(xp.abs(self._mean))
        return np.asarray(to_numpy(xp.max(xp.maximum(norm, by_b), axis=1)))

    def to_features(self, T: Array) -> tuple[Array, Array]:
        """(b, L, k, r) → weights (b, L, k, d) and intercepts (b, L, k); one pass."""
        xp, (_, d) = namespace(T), self.shape
        b, L, k, r = (int(s) for s in T.shape)
        flat = xp.reshape(T, (b * L * k, r))
        inner = flat[:, : len(self._values)] / like(T, np.sqrt(self._values))
        by_row = inner @ self._vectors.T
        W = xp.zeros((b * L * k, d), dtype=xp.float64, device=T.device)
        self.reads.n += 1
        for where, block in self.source.blocks(self.block_bytes):
            W = W + by_row[:, where] @ (xp.astype(block, xp.float64) - self._mean)
        if not self._fit_intercept:
            return xp.reshape(W, (b, L, k, d)), xp.zeros((b, L, k), dtype=xp.float64, device=T.device)
        return xp.reshape(W, (b, L, k, d)), xp.reshape(flat[:, -1] - W @ self._mean, (b, L, k))

    def from_features(self, W: Array, b: Array) -> Array:
        """Weights (L, k, d) and intercepts (L, k) → (L, k, r); one pass."""
        xp, (n, d) = namespace(W), self.shape
        L, k = int(W.shape[0]), int(W.shape[1])
        flat = xp.reshape(W, (L * k, d))
        scores = xp.empty((L * k, n), dtype=xp.float64, device=W.device)
        self.reads.n += 1
        for where, block in self.source.blocks(self.block_bytes):
            scores[:, where] = flat @ (xp.astype(block, xp.float64) - self._mean).T
        T = xp.reshape(scores @ self._vectors / like(W, np.sqrt(self._values)), (L, k, -1))
        return xp.concat([T, (b + W @ self._mean)[..., None]], axis=-1) if self._fit_intercept else T
