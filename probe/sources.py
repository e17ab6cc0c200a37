"""Features that stay where they are: blocks of rows in order, from a store, a dask array, or an array.

The next block is read while the solver works on this one; on its way to an accelerator it goes through pinned memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.arrays import Array, namespace
from probe.errors import BadInput

BLOCK_BYTES = 1 << 23


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
            yield where, xp.astype(_moved(block, self.example), self.example.dtype)


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
    if isinstance(memory, bool) or not isinstance(memory, (int, float)) or not memory >= 1:
        raise BadInput(f"memory is {memory!r}, but it must be a number of bytes that features may take, such as 4e9.")
    source = source_of(X, int(memory), device)
    return source if source.nbytes > memory else None


def source_of(X: Any, memory: int, device: Any = None) -> RowSource:
    """Make a source of features.

    Parameters
    ----------
    X : feature matrix of a store, dask array, numpy array (a memory map as well) or torch tensor
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
        When `X` is not two-dimensional, or nothing that has rows.
    """
    if not hasattr(X, "shape") or len(X.shape) != 2 or not hasattr(X, "dtype"):
        raise BadInput(
            "Rows can be streamed from a feature matrix of a store, a dask array or an array of shape (n, d); "
            f"got {type(X).__name__}."
        )
    n, d = (int(s) for s in X.shape)
    if n == 0 or d == 0:
        raise BadInput(f"X has shape {(n, d)}, but at least one row and one column are needed.")
    dtype = np.dtype(str(X.dtype).removeprefix("torch.").replace("bfloat16", "float32"))
    if dtype.kind not in "fiub":
        raise BadInput(f"Features must be numbers, but X has dtype {X.dtype}.")
    return RowSource((n, d), dtype, _opener(X), _example(X, d, dtype, device), memory)


def _opener(X: Any) -> Callable[[int], Iterator[tuple[slice, Any]]]:
    if hasattr(X, "blocks") and hasattr(X, "ids"):  # a feature matrix of a store, which reads ahead itself
        return lambda rows: X.blocks(rows)
    if hasattr(X, "compute") and hasattr(X, "dask"):
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
    is_torch = type(X).__module__.partition(".")[0] == "torch"
    if device is None and not is_torch:
        return np.empty((0, d), wide)
    import torch

    where = torch.device(device) if device is not None else X.device
    if not is_torch and where.type == "cpu":
        return np.empty((0, d), wide)
    return torch.empty((0, d), dtype=torch.float64 if wide is np.float64 else torch.float32, device=where)


def _moved(block: Any, example: Array) -> Array:
    if isinstance(example, np.ndarray):
        return block if isinstance(block, np.ndarray) else np.asarray(block)
    import torch

    tensor = block if isinstance(block, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(block))
    if example.device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(example.device, non_blocking=True)
