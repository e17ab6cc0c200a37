"""Rows of features in float64, block by block, with the certificates that are made of them: in memory, or read again and again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from probe.arrays import Array, like, namespace, require_finite
from probe.certificate import Certificate, certify, gradients
from probe.errors import BadInput
from probe.objective import BatchedLoss
from probe.sources import RowSource
from probe.streamed import Streamed

_BLOCK_ENTRIES = 1 << 22


class Held:
    """Features in memory.

    Parameters
    ----------
    X : array of shape (n, d)
    fit_intercept : bool
    """

    n_reads = 0

    def __init__(self, X: Array, fit_intercept: bool) -> None:
        self.example = X
        self.shape = (int(X.shape[0]), int(X.shape[1]))
        self._fit_intercept = fit_intercept

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Rows in order, float64."""
        (n, d), xp = self.shape, namespace(self.example)
        step = max(1, _BLOCK_ENTRIES // d)
        for a in range(0, n, step):
            yield slice(a, min(a + step, n)), xp.astype(self.example[a : min(a + step, n), :], xp.float64)

    def require_finite(self) -> None:
        """Say which rows and columns are not."""
        require_finite(self.example)

    def certify(
        self, loss: BatchedLoss, W: Array, b: Array, l2: np.ndarray, scale: np.ndarray
    ) -> tuple[Certificate, Array]:
        """See `probe.certificate.certify`."""
        return certify(self.example, loss, W, b, l2, scale, self._fit_intercept)

    def gradients(self, loss: BatchedLoss, W: Array, b: Array, l2: np.ndarray) -> Array:
        """See `probe.certificate.gradients`."""
        return gradients(self.example, loss, W, b, l2)


class Read(Streamed):
    """Features that are read block by block: the same, and nothing of them stays.

    Parameters
    ----------
    source : RowSource
    fit_intercept : bool

    Raises
    ------
    BadInput
        More columns than rows: the closed form then needs the rows themselves.
    """

    def __init__(self, source: RowSource, fit_intercept: bool) -> None:
        n, d = source.shape
        if n < d:
            raise BadInput(
                f"Ridge classification reads features block by block where they have at least as many rows as columns, not "
                f"{n} × {d}; leave memory out to load them, or fit logistic regression (fit_path)."
            )
        self._prepare(source, fit_intercept)

    @property
    def n_reads(self) -> int:
        """Readings of all rows until now."""
        return self.reads.n

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Rows in order, float64."""
        xp = namespace(self.example)
        self.reads.n += 1
        for where, block in self.source.blocks(self.block_bytes):
            rows = xp.astype(block, xp.float64)
            if not bool(xp.all(xp.isfinite(xp.sum(rows, axis=0)))):
                require_finite(block, first=where.start, n_all=self.shape[0])
            yield where, rows

    def require_finite(self) -> None:
        """Every block was looked at."""

    def gradients(self, loss: BatchedLoss, W: Array, b: Array, l2: np.ndarray) -> Array:
        """See `probe.certificate.gradients`; one pass."""
        xp = namespace(W)
        g, L, k, d = (int(s) for s in W.shape)
        lanes = np.tile(np.arange(L), g)
        sums = self._pass(loss, lanes, xp.reshape(W, (g * L * k, d)), xp.reshape(b, (g * L, k)), with_weights=True)
        return xp.reshape(sums.by_W, W.shape) + like(W, l2)[:, None, None, None] * W


def about(X: Held | Read, mean: Array, weights: np.ndarray | None) -> Iterator[tuple[slice, Array]]:
    """Blocks of ``√s (x − μ)``, float64, with the rows they are of."""
    root = None if weights is None else like(mean, np.sqrt(weights))[:, None]
    for rows, block in X.blocks():
        centred = block - mean[None, :]
        yield rows, centred if root is None else centred * root[rows, :]
