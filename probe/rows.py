"""Rotated rows as the solver multiplies with them: one matrix for all lanes, or a small one for each.

Shapes: coefficients T (L, k, r), scores and residuals (L, k, n). Every product with all rows is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from probe.arrays import Array, is_on_cpu, namespace, take

if TYPE_CHECKING:
    from probe.objective import Bend


@dataclass
class Reads:
    """How often all rows were gone through."""

    n: int = 0


class Rows(Protocol):
    """What `probe.problem` needs of the features."""

    @property
    def is_shared(self) -> bool:
        """Whether all lanes have the same rows."""

    @property
    def n(self) -> int:
        """Number of rows of a lane."""

    @property
    def dtype(self) -> object:
        """Of the products."""

    @property
    def example(self) -> Array:
        """Any array where the computation lives."""

    def pick(self, lanes: np.ndarray) -> Rows:
        """The rows of some lanes."""

    def scores(self, T: Array) -> Array:
        """(L, k, r) → (L, k, n)."""

    def adjoint(self, R: Array, curvature: Callable[[], np.ndarray]) -> Array:
        """(L, k, n) → (L, k, r), float64; the curvature (L, n) of the rows is there for the asking."""

    def active(self, curvature: Callable[[], np.ndarray], share: float) -> Active:
        """The rows that hold `share` of the curvature of every lane, after `adjoint`."""

    def stiff(self, lane: int) -> tuple[Active, np.ndarray]:
        """Rows of one lane to choose stiff ones from, and the sums of squares of all rows' columns (r,)."""


@dataclass(frozen=True, eq=False)
class Active:
    """Rows that carry the curvature.

    Attributes
    ----------
    A : array of shape (m, r), or (L, m, r) where every lane has its own
        Rotated rows; or, with `embed`, rows in other columns (m, c), of any dtype that is exact in the working one.
    index : numpy.ndarray of shape (m,), or None for all rows
    share : float
        ``m / n``.
    weights : numpy.ndarray of shape (m,), or None
        How many rows each stands for, where they are a sample.
    embed : array of shape (r, c), or None
        What takes rotated coordinates to the columns of A, where A is not rotated.
    """

    A: Array
    index: np.ndarray | None = None
    share: float = 1.0
    weights: np.ndarray | None = None
    embed: Array | None = None

    def product(self, P: Array, bend: Bend) -> Array:
        """``Σ_i x_i ⊗ H_i (P x_i)``: (L, k, r) → (L, k, r).

        Rows of other columns go by in blocks, which exist in the working dtype only while they are used.
        """
        xp = namespace(P)
        if self.A.ndim == 3:
            return bend(P @ xp.permute_dims(self.A, (0, 2, 1))) @ self.A
        L, k, _ = (int(s) for s in P.shape)
        m = int(self.A.shape[0])
        if self.embed is None:
            Z = xp.reshape(xp.reshape(P, (L * k, -1)) @ self.A.T, (L, k, m))
            return xp.reshape(xp.reshape(bend(Z), (L * k, m)) @ self.A, (L, k, -1))
        flat = xp.reshape(P @ self.embed, (L * k, -1))
        total = xp.zeros_like(flat)
        step = _rows_at_once(_BLOCK_ROWS, flat)
        for a in range(0, m, step):
            part = slice(a, min(a + step, m))
            rows = xp.astype(self.A[part, :], P.dtype)
            Z = bend.rows(part)(xp.reshape(flat @ rows.T, (L, k, -1)))
            total = total + xp.reshape(Z, (L * k, -1)) @ rows
        return xp.reshape(total, (L, k, -1)) @ self.embed.T

    def take(self, lanes: np.ndarray) -> Active:
        """The same for some of the lanes."""
        return self if self.A.ndim == 2 else replace(self, A=take(self.A, lanes))

    @cached_property
    def candidates(self) -> Candidates:
        """The rows as the preconditioner chooses among them; rotated when they are needed."""
        return Candidates(self.A, self.embed)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Rows of one lane to choose stiff ones from: (n, r), once they are rotated."""

    A: Array
    embed: Array | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and rotated columns."""
        return int(self.A.shape[0]), int(self.A.shape[1] if self.embed is None else self.embed.shape[0])

    @property
    def example(self) -> Array:
        """An array where the rows are, in the working dtype."""
        return self.A if self.embed is None else self.embed

    def rows(self, index: Array) -> Array:
        """Some rows, (m, r)."""
        xp = namespace(self.example)
        chosen = xp.take(self.A, index, axis=0)
        return chosen if self.embed is None else xp.astype(chosen, self.embed.dtype) @ self.embed.T

    def every(self) -> Array:
        """All rows, (n, r)."""
        return self.A if self.embed is None else namespace(self.A).astype(self.A, self.embed.dtype) @ self.embed.T

    @cached_property
    def products(self) -> np.ndarray | None:
        """``x_ij x_il`` of every row for j ≤ l, (r (r + 1) / 2, n), float64, in the order of ``numpy.triu_indices``.

        None on an accelerator, and where they would take more than 64 MB. With them the sums of x xᵀ over the rows, under any
        number of weights, are one product of matrices.
        """
        n, r = self.shape
        if not isinstance(self.example, np.ndarray) or 4 * n * r * (r + 1) > _PRODUCT_BYTES:
            return None
        columns = self.every().T.astype(np.float64)
        first, second = np.triu_indices(r)
        both: np.ndarray = columns[first] * columns[second]
        return both

    def reach(self, inverse_diagonal: Array) -> Array:
        """``x_iᵀ D⁻¹ x_i`` of every row, in pieces that fit the cache: a stored square of A would double the memory."""
        xp = namespace(self.example)
        n, r = self.shape
        step = _rows_at_once(max(64, (1 << 18) // r), self.example)
        parts = []
        for a in range(0, n, step):
            rows = self.A[a : a + step, :]
            if self.embed is not None:
                rows = xp.astype(rows, self.embed.dtype) @ self.embed.T
            parts.append((rows * rows) @ inverse_diagonal)
        return xp.concat(parts)


def _rows_at_once(on_cpu: int, example: Array) -> int:
    """Rows of a piece: as many as fit a processor's cache; on an accelerator, where every piece costs a launch, many more."""
    return on_cpu if is_on_cpu(example) else max(on_cpu, _ACCELERATOR_ENTRIES // int(example.shape[-1]))


_ACCELERATOR_ENTRIES = 1 << 25  # 128 MB of float32
_BLOCK_ROWS = 1024
_PRODUCT_BYTES = 1 << 26
_MOST_ACTIVE = 0.7  # of the rows: beyond this, gathering them costs more than it saves


@dataclass(frozen=True, eq=False)
class Shared:
    """One matrix for all lanes.

    Attributes
    ----------
    A : array of shape (n, r)
        Rotated rows, in the working dtype.
    spectrum : numpy.ndarray of shape (r,)
        Sums of squares of the columns.
    reads : Reads
    """

    A: Array
    spectrum: np.ndarray
    reads: Reads
    is_shared: ClassVar[bool] = True

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.A.shape[0])

    @property
    def dtype(self) -> object:
        """Of the products."""
        return self.A.dtype

    @property
    def example(self) -> Array:
        """The rows."""
        return self.A

    def pick(self, lanes: np.ndarray) -> Shared:
        """Itself."""
        return self

    def scores(self, T: Array) -> Array:
        """(L, k, r) → (L, k, n)."""
        xp = namespace(self.A)
        L, k, r = (int(s) for s in T.shape)
        self.reads.n += 1
        return xp.reshape(xp.astype(xp.reshape(T, (L * k, r)), self.A.dtype) @ self.A.T, (L, k, self.n))

    def adjoint(self, R: Array, curvature: Callable[[], np.ndarray]) -> Array:
        """(L, k, n) → (L, k, r), float64."""
        xp = namespace(self.A)
        L, k, n = (int(s) for s in R.shape)
        self.reads.n += 1
        return xp.reshape(xp.astype(xp.reshape(R, (L * k, n)) @ self.A, xp.float64), (L, k, int(self.A.shape[1])))

    def active(self, curvature: Callable[[], np.ndarray], share: float) -> Active:
        """Gather the rows that any lane needs."""
        index = rows_holding(curvature(), share)
        if len(index) >= _MOST_ACTIVE * self.n:
            return Active(self.A)
        xp = namespace(self.A)
        A = xp.take(self.A, xp.asarray(index, device=self.A.device), axis=0)
        return Active(A, index, len(index) / self.n)

    def stiff(self, lane: int) -> tuple[Active, np.ndarray]:
        """All rows, the same for every lane."""
        return self._all, self.spectrum

    @cached_property
    def _all(self) -> Active:
        return Active(self.A)


@dataclass(frozen=True, eq=False)
class Apart:
    """A small matrix for each lane, all of one shape: few-shot subsets, whose union has many more rows than each.

    Attributes
    ----------
    A : array of shape (L, n, r)
    spectrum : numpy.ndarray of shape (L, r)
    reads : Reads
    """

    A: Array
    spectrum: np.ndarray
    reads: Reads
    is_shared: ClassVar[bool] = False

    @property
    def n(self) -> int:
        """Number of rows of a lane."""
        return int(self.A.shape[1])

    @property
    def dtype(self) -> object:
        """Of the products."""
        return self.A.dtype

    @property
    def example(self) -> Array:
        """The rows."""
        return self.A

    def pick(self, lanes: np.ndarray) -> Apart:
        """The rows of some lanes, which may repeat."""
        xp = namespace(self.A)
        return Apart(xp.take(self.A, xp.asarray(lanes, device=self.A.device), axis=0), self.spectrum[lanes], self.reads)

    def scores(self, T: Array) -> Array:
        """(L, k, r) → (L, k, n)."""
        xp = namespace(self.A)
        self.reads.n += 1
        return xp.astype(T, self.A.dtype) @ xp.permute_dims(self.A, (0, 2, 1))

    def adjoint(self, R: Array, curvature: Callable[[], np.ndarray]) -> Array:
        """(L, k, n) → (L, k, r), float64."""
        self.reads.n += 1
        return namespace(self.A).astype(R @ self.A, namespace(self.A).float64)

    def active(self, curvature: Callable[[], np.ndarray], share: float) -> Active:
        """All: they are few, and every lane has others."""
        return Active(self.A)

    def stiff(self, lane: int) -> tuple[Active, np.ndarray]:
        """All rows of one lane."""
        return Active(self.A[lane, ...]), self.spectrum[lane]


def rows_holding(curvature: np.ndarray, share: float) -> np.ndarray:
    """Rows that hold `share` of the curvature of every lane.

    Parameters
    ----------
    curvature : numpy.ndarray of shape (L, n)
    share : float

    Returns
    -------
    numpy.ndarray of shape (m,), int64
        Ascending.
    """
    chosen = np.zeros(curvature.shape[1], dtype=bool)
    for lane in curvature:
        falling = np.sort(lane)[::-1]
        reached = np.cumsum(falling, dtype=np.float64)
        last = int(np.searchsorted(reached, share * reached[-1]))
        chosen |= lane >= falling[min(last, len(falling) - 1)]
    return np.flatnonzero(chosen)
