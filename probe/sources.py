"""Features that stay where they are: blocks of rows in order, from a store, a dask array, or an array.

The next block is read while the solver works on this one; on its way to an accelerator it goes through pinned memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.arrays import Array, as_matrix, library_of, namespace, to_library
from probe.errors import BadInput
from probe.reals import NUMBER

BLOCK_BYTES = 1 << 23
_MOST_BYTES = 1 << 62


@dataclass(frozen=True, eq=False)
class RowSource:
    """Rows that can be gone through again and again.

    Attributes
    ----------
    shape : tuple of int
        (n, d).
    dtype : numpy.dtype
    open : callable
        Rows per block → iterator over (slice, block of shape (m, d)), in order.
    example : array
        Of shape (0, d), float32 or float64, on the device that computes.
    memory : int
        Bytes that rows may take there.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    open: Callable[[int], Iterator[tuple[slice, Any]]]
    example: Array
    memory: int

    @property
    def nbytes(self) -> int:
        """Bytes of all rows as they are stored."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def blocks(self, n_bytes: int = BLOCK_BYTES) -> Iterator[tuple[slice, Array]]:
        """Blocks of about `n_bytes`, in the working dtype, on the device that computes."""
        xp = namespace(self.example)
        rows = max(1, n_bytes // (self.shape[1] * np.dtype(self.dtype).itemsize))
        for where, block in self.open(rows):
            if where.start == where.stop:  # dask arrays have such blocks
                continue
            yield where, xp.astype(_moved(block, self.example), self.example.dtype)


@dataclass(frozen=True, eq=False)
class Joined:
    """Stored features one after the other, as one feature matrix that is read block by block.

    Attributes
    ----------
    parts : tuple of feature matrices
        Of one width.
    """

    parts: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return sum(int(part.shape[0]) for part in self.parts), int(self.parts[0].shape[1])

    @property
    def dtype(self) -> np.dtype:
        """One that holds what any part holds."""
        return np.result_type(*(np.dtype(part.dtype) for part in self.parts))

    @property
    def ids(self) -> np.ndarray:
        """Names of the rows, (n,)."""
        return np.concatenate([part.ids for part in self.parts])

    def blocks(self, rows: int) -> Iterator[tuple[slice, np.ndarray]]:
        """(slice, block) over all rows in order."""
        first = 0
        for part in self.parts:
            for where, block in part.blocks(rows):
                yield slice(first + where.start, first + where.stop), block
            first += int(part.shape[0])

    def select(self, rows: np.ndarray) -> Joined:
        """Some rows, whose numbers ascend."""
        ends = np.cumsum([0, *(int(part.shape[0]) for part in self.parts)])
        cuts = np.searchsorted(rows, ends)
        return Joined(
            tuple(
                part.select(rows[a:b] - first)
                for part, first, a, b in zip(self.parts, ends, cuts, cuts[1:], strict=False)
            )
        )

    def numpy(self) -> np.ndarray:
        """All rows in memory."""
        return np.concatenate([part.numpy() for part in self.parts])

    def load(self, device: Any) -> Any:
        """All rows as a torch tensor on a device."""
        import torch

        return torch.cat([part.load(device) for part in self.parts])


def concatenated(*parts: Any) -> Any:
    """Features one after the other: arrays as an array, stored ones as they are."""
    if any(is_stored(part) for part in parts):
        return Joined(parts)
    return namespace(parts[0]).concat(parts, axis=0)


def streamed(X: Any, memory: Any, device: Any = None) -> RowSource | None:
    """A source of features that take more than they may; None for those that fit.

    Parameters
    ----------
    X : array-like of shape (n, d)
    memory : int or None
        Bytes. None loads what there is.
    device : optional

    Returns
    -------
    RowSource or None

    Raises
    ------
    BadInput
        When `memory` is no number of bytes, or as `source_of`.
    """
    if memory is None:
        return None
    if isinstance(memory, bool) or not isinstance(memory, NUMBER) or not memory >= 1:
        raise BadInput(f"memory is {memory!r}, but it must be a number of bytes that features may take, such as 4e9.")
    source = source_of(X, int(min(memory, _MOST_BYTES)), device)
    if source.nbytes <= memory:
        return None
    if not hasattr(X, "dtype"):  # a list or a table is in memory already, and an array of it would come on top
        raise BadInput(
            "Rows can be streamed from a feature matrix of a store, a dask array or an array of shape (n, d); "
            f"got {type(X).__name__} of {source.nbytes:,} bytes, more than the {source.memory:,} that `memory` allows."
        )
    if library_of(X) == "cupy":
        raise BadInput("Rows of a cupy array are not streamed, as they are on the GPU already; leave `memory` out.")
    return source


def source_of(X: Any, memory: int, device: Any = None) -> RowSource:
    """Make a source of features.

    Parameters
    ----------
    X : feature matrix of a store, dask array, numpy array (a memory map as well), torch tensor, or what ``numpy.asarray`` reads
    memory : int
        Bytes that rows may take.
    device : optional
        Where to compute; None: where `X` is, the host for what is on disk.

    Returns
    -------
    RowSource

    Raises
    ------
    BadInput
        When `X` is not two-dimensional, or as `as_matrix`; a dask array that does not know its length.
    """
    X = X if can_stay(X) or _is_plain(X) else as_matrix(X)
    if len(X.shape) != 2:
        raise BadInput(f"Rows can be streamed from features of shape (n, d), got shape {tuple(X.shape)}; flatten them.")
    if any(math.isnan(s) for s in X.shape):
        raise BadInput(
            f"X is a dask array of shape {tuple(X.shape)}, which does not know how many rows it has; call "
            "X.compute_chunk_sizes() first."
        )
    n, d = (int(s) for s in X.shape)
    if n == 0 or d == 0:
        raise BadInput(f"X has shape {(n, d)}, but at least one row and one column are needed.")
    dtype = np.dtype(str(X.dtype).removeprefix("torch.").replace("bfloat16", "float32"))
    if dtype.kind not in "fiub":
        raise BadInput(f"Features must be numbers, but X has dtype {X.dtype}.")
    return RowSource((n, d), dtype, _opener(X), _example(X, d, dtype, device), memory)


def is_stored(X: Any) -> bool:
    """Whether X is a feature matrix of a store, which reads ahead itself."""
    return hasattr(X, "blocks") and hasattr(X, "ids")


def can_stay(X: Any) -> bool:
    """Whether X is somewhere else than in memory: in a store, or a dask array."""
    return is_stored(X) or is_dask(X)


def is_dask(X: Any) -> bool:
    """Whether X is a dask array."""
    return hasattr(X, "compute") and hasattr(X, "dask")


def _is_plain(X: Any) -> bool:
    """Whether X is an array of numbers on the host or on disk: what else there is, is read or refused as without `memory`."""
    is_array = isinstance(X, np.ndarray) and not isinstance(X, np.ma.MaskedArray)
    return is_array and X.ndim == 2 and X.dtype.kind in "fiub"


def _opener(X: Any) -> Callable[[int], Iterator[tuple[slice, Any]]]:
    if is_stored(X):
        return lambda rows: X.blocks(rows)
    if is_dask(X):
        return lambda rows: _dask_blocks(X)
    return lambda rows: ((slice(a, min(a + rows, len(X))), X[a : a + rows]) for a in range(0, len(X), rows))


def _dask_blocks(X: Any) -> Iterator[tuple[slice, np.ndarray]]:
    """The row blocks of a dask array, as it is chunked; the next is computed while this one is used."""
    whole = X.rechunk({1: -1})
    ends = np.cumsum(whole.chunks[0])
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(_computed, whole, 0)
        for i, end in enumerate(ends):
            block = coming.result()
            if i + 1 < len(ends):
                coming = pool.submit(_computed, whole, i + 1)
            yield slice(int(end) - len(block), int(end)), block


def _computed(whole: Any, i: int) -> np.ndarray:
    return np.asarray(whole.blocks[i].compute())


def _example(X: Any, d: int, dtype: np.dtype, device: Any) -> Array:
    wide = np.float64 if dtype.kind != "f" or dtype.itemsize > 4 else np.float32
    if library_of(X) != "torch":
        return as_matrix(np.empty((1, d), wide), device)[:0, :]
    import torch

    row = torch.empty((1, d), dtype=torch.float64 if wide is np.float64 else torch.float32, device=X.device)
    return as_matrix(row, device)[:0, :]


def _moved(block: Any, example: Array) -> Array:
    if isinstance(example, np.ndarray):
        return block if isinstance(block, np.ndarray) else np.asarray(block)
    import torch

    tensor = block if isinstance(block, torch.Tensor) else to_library(np.ascontiguousarray(block), "torch")
    if example.device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(example.device, non_blocking=True)
