"""FeatureMatrix: the stored output of one unit for the samples of one split, opened lazily, in the form a caller needs."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.bfloat import widen
from featstore.chunks import CHUNK_BYTES, LINE_BYTES, aligned_empty
from featstore.digests import SplitDigest
from featstore.errors import BadInput, BadLabels, MissingExtra
from featstore.manifest import digest_of
from featstore.passes import PassSamples, Targets
from featstore.splits import as_rows, checked_labels, holdout_rows

if TYPE_CHECKING:
    import torch
    import zarr

    from featstore.reading import StoredArray

__all__ = ["FeatureMatrix"]

N_AHEAD = 2
"""Blocks read while the caller works on one, each by a thread: one core checks slower than memory copies."""


@dataclass(frozen=True, eq=False)
class FeatureMatrix:
    """Features of one unit, (n, d) or (n, …), with ids and labels; nothing is read before it is asked for.

    Attributes
    ----------
    array : StoredArray
        What is on disk.
    unit, split, backbone : str
        Names.
    manifest : mapping
        Everything that identifies the features, and where they came from; as JSON.
    stored : PassSamples
        Ids and labels of the rows of `array`.
    chosen : numpy.ndarray or None
        (n,) int64: the rows of `array` that this matrix is, in order; None is all.
    own_labels : Targets or None
        Labels of these rows, where the caller's are not those that are stored.
    """

    array: StoredArray
    unit: str
    split: str
    backbone: str
    manifest: Mapping[str, Any]
    stored: PassSamples
    chosen: np.ndarray | None = None
    own_labels: Targets | None = None

    def __len__(self) -> int:
        return self.array.grid.n if self.chosen is None else len(self.chosen)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.array.key.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """What numpy gets: float16 or float32, as stored; float32 for what is stored as bfloat16, which numpy has not."""
        return np.dtype(np.float32) if self._is_bits else self.array.dtype

    @property
    def _is_bits(self) -> bool:
        return self.array.key.dtype == "bfloat16"

    @property
    def nbytes(self) -> int:
        """Of the array that `numpy` returns."""
        return len(self) * self.array.grid.row_bytes // self.array.dtype.itemsize * self.dtype.itemsize

    @property
    def ids(self) -> np.ndarray:
        """(n,) text."""
        return self.samples.ids

    @cached_property
    def samples(self) -> SplitDigest:
        """Ids, and the digest of every sample's content."""
        return self.stored.digest if self.chosen is None else self.stored.digest.select(self.chosen)

    @property
    def labels(self) -> np.ndarray | None:
        """(n,) int64 or (n, k) uint8, or None where none are stored."""
        return self._labels.labels if self._labels else None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        return self._labels.classes if self._labels else ()

    @cached_property
    def _labels(self) -> Targets | None:
        return self.own_labels or self._stored_targets("labels")

    def targets(self, name: str) -> np.ndarray:
        """Return other labels that were stored beside, see `Store.set_targets`."""
        found = self._stored_targets(name)
        if found is None:
            known = ", ".join(self.stored.folder.target_names()) or "none"
            raise BadLabels(f"no labels called '{name}' are stored for {self.split}; there are: {known}.")
        return found.labels

    def _stored_targets(self, name: str) -> Targets | None:
        found = self.stored.targets(name)
        if found is not None and len(found.labels) != self.array.grid.n:
            path = self.stored.folder.targets_path(name)
            raise BadLabels(f"{path} has {len(found.labels)} labels for {self.array.grid.n} samples; set them again.")
        return found if found is None or self.chosen is None else found.select(self.chosen)

    def with_labels(self, labels: np.ndarray, classes: Sequence[str] = ()) -> FeatureMatrix:
        """Return the same features with other labels: (n,) class numbers or (n, k) of 0 and 1."""
        names = tuple(str(c) for c in classes)
        return replace(self, own_labels=Targets(checked_labels(labels, len(self), names, self.split), names))

    @property
    def key(self) -> str:
        """Digest of the network, the unit and exactly these samples in this order: equal keys mean equal features.

        The same rows have the same key, whether they were extracted alone or are a selection of more.
        """
        array = {k: v for k, v in self.array.key.to_json().items() if k != "pass_digest"}
        if self.chosen is None:  # no need to read the samples
            ids, contents = self.manifest["pass"]["ids_digest"], self.manifest["pass"]["content_digest"]
        else:
            ids, contents = self.samples.ids_digest, self.samples.content_digest
        samples = {"ids": ids, "contents": contents, "n": len(self)}
        return digest_of({"network": self.manifest["network"], "array": array, "samples": samples})

    @property
    def zarr(self) -> zarr.Array[Any]:
        """The stored array opened with zarr, read-only. It has all stored rows, also where this matrix is a selection."""
        from featstore import zarrays

        return zarrays.open_read_only(self.array.folder)

    def select(self, rows: np.ndarray) -> FeatureMatrix:
        """Return the matrix of some rows, in the order given: row numbers or a boolean mask (n,)."""
        rows = as_rows(rows, len(self))
        return replace(
            self,
            chosen=rows if self.chosen is None else self.chosen[rows],
            own_labels=self.own_labels and self.own_labels.select(rows),
        )

    def holdout(self, fraction: float, *, seed: int = 0) -> tuple[FeatureMatrix, FeatureMatrix]:
        """Return (rest, held), the same samples as `Split.holdout` takes."""
        held = holdout_rows(self.ids, self.labels, fraction, seed)
        return self.select(~held), self.select(held)

    def read_into(self, out: np.ndarray, rows: slice | None = None, *, threads: int | None = None) -> None:
        """Fill `out` with rows, without a copy in between when it has the stored dtype.

        Parameters
        ----------
        out : numpy.ndarray
            (m, …), C-contiguous when of the stored dtype; of another dtype, rows are converted block by block. What is
            stored as bfloat16 fills uint16 with its bits.
        rows : slice or None
            A contiguous range of `m` rows of this matrix; None is all.

        Raises
        ------
        CorruptChunk
            If stored bytes are not those that were written.
        """
        start, stop, step = (rows or slice(None)).indices(len(self))
        if step != 1 or out.shape != (max(stop - start, 0), *self.shape[1:]):
            raise BadInput(f"rows {rows} of a matrix of shape {self.shape} do not fit a buffer of shape {out.shape}.")
        if out.dtype != self.array.dtype:
            for where, block in self._blocks(start, stop, self._default_rows()):
                out[where.start - start : where.stop - start] = block
        else:
            self._read(out, start, threads)

    def _read(self, out: np.ndarray, start: int, threads: int | None) -> None:
        """Fill `out` (of the stored dtype) with the rows of this matrix from `start` on."""
        if self.chosen is None:
            self.array.read_into(out, start, threads=threads)
        else:
            self.array.take(self.chosen[start : start + len(out)], out, threads=threads)

    def take(self, index: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return some rows in the order asked, (len(index), …); each stored chunk is opened once."""
        rows = as_rows(index, len(self))
        if out is None:
            out = _aligned((len(rows), *self.shape[1:]), self.dtype)
        stored = np.empty(out.shape, self.array.dtype) if self._is_bits and out.dtype != self.array.dtype else out
        self.array.take(rows if self.chosen is None else self.chosen[rows], stored)
        if stored is not out:
            widen(stored, out)
        return out

    def blocks(self, rows: int | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (slice, block) over all rows in order; the next block is read while the caller works on this one.

        Parameters
        ----------
        rows : int or None
            Rows per block; None takes whole stored chunks of about 8 MiB.
        """
        if rows is not None and rows < 1:
            raise BadInput(f"a block of {rows} rows holds nothing; ask for at least 1.")
        return self._blocks(0, len(self), rows or self._default_rows())

    def raw_blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (slice, block) over all rows as their bytes are stored: those of bfloat16 as uint16."""
        rows = self._default_rows()
        out = np.empty((min(rows, len(self)), *self.shape[1:]), self.array.dtype)
        for start in range(0, len(self), rows):
            block = out[: min(rows, len(self) - start)]
            self._read(block, start, None)
            yield slice(start, start + len(block)), block

    def numpy(self, dtype: Any = None) -> np.ndarray:
        """Return all rows in memory, as stored or as `dtype`."""
        out = _aligned(self.shape, np.dtype(self.dtype if dtype is None else dtype))
        self.read_into(out)
        return out

    def load(self, device: Any = "cpu", dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return all rows as a torch tensor on `device`, as stored or as `dtype`.

        Rows go to a CUDA device through two pinned buffers, so that reading, copying and converting overlap.
        """
        import torch

        from featstore.devices import checked_device

        device = checked_device(device)
        raw = torch.from_numpy(np.empty(0, self.array.dtype)).dtype
        stored = torch.bfloat16 if self._is_bits else raw
        if device.type == "cpu":
            whole = torch.from_numpy(self.numpy(self.array.dtype)).view(stored)
            return whole if dtype is None else whole.to(dtype)
        out = torch.empty(self.shape, dtype=dtype or stored, device=device)
        rows = self._default_rows()
        ring = [torch.empty((rows, *self.shape[1:]), dtype=raw, pin_memory=device.type == "cuda") for _ in range(2)]
        copied: list[Any] = [None, None]
        for turn, start in enumerate(range(0, len(self), rows)):
            stop, buffer = min(start + rows, len(self)), ring[turn % 2]
            if copied[turn % 2] is not None:
                copied[turn % 2].synchronize()  # the buffer's last copy must have left it
            self.read_into(buffer[: stop - start].numpy(), slice(start, stop))
            out[start:stop].copy_(buffer[: stop - start].to(device, non_blocking=True).view(stored))
            if device.type == "cuda":
                copied[turn % 2] = torch.cuda.Event()  # type: ignore[no-untyped-call]
                copied[turn % 2].record(torch.cuda.current_stream(device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return out

    def cupy(self) -> Any:
        """Return all rows as a cupy array on the current device; float32 for what is stored as bfloat16, as in `numpy`."""
        import torch

        try:
            import cupy
        except ImportError as error:
            raise MissingExtra(
                "cupy is not installed; `pip install 'featprobe[cuda12]'` (or cuda13) brings it."
            ) from error
        where = f"cuda:{cupy.cuda.Device().id}"
        return cupy.from_dlpack(self.load(where, torch.float32 if self._is_bits else None))

    def dask(self) -> Any:
        """Return a lazy dask array with one chunk per stored chunk. It reads; it must not be written to the same store."""
        import dask.array

        chunk_rows = self.array.grid.chunk_rows
        return dask.array.from_array(  # type: ignore[no-untyped-call]
            self, chunks=(chunk_rows, *self.shape[1:]), name=f"featstore-{self.key}", lock=False
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a stored feature matrix cannot become an array without a copy: it is on disk.")
        return self.numpy(dtype)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Return rows as numpy does: an int, a slice, row numbers or a mask, and further indices for the other axes."""
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) and index else (index, ())
        if isinstance(first, slice) and first.step in (None, 1):
            start, stop, _ = first.indices(len(self))
            found = np.empty((max(stop - start, 0), *self.shape[1:]), self.dtype)
            self.read_into(found, slice(start, max(stop, start)))
        elif isinstance(first, slice):
            found = self.take(np.arange(*first.indices(len(self))))
        elif isinstance(first, int | np.integer):
            return np.asarray(self.take(np.array([first]))[0][rest])
        else:
            found = self.take(first)
        return found[(slice(None), *rest)] if rest else found

    def __repr__(self) -> str:
        return f"FeatureMatrix({self.backbone}, {self.split}, unit '{self.unit}', {self.dtype}, shape {self.shape})"

    def _default_rows(self) -> int:
        grid = self.array.grid
        return grid.chunk_rows * max(CHUNK_BYTES // grid.chunk_bytes, 1)

    def _blocks(self, start: int, stop: int, rows: int) -> Iterator[tuple[slice, np.ndarray]]:
        # Small blocks are read several at a time: two threads that want parts of one chunk would both check all of it.
        at_once = rows * max(self.array.grid.chunk_rows // rows, 1)
        slices = [slice(a, min(a + at_once, stop)) for a in range(start, stop, at_once)]
        buffers = _Buffers((at_once, *self.shape[1:]), self.dtype)

        def read(where: slice, buffer: np.ndarray) -> np.ndarray:
            out = buffer[: where.stop - where.start]
            stored = np.empty(out.shape, self.array.dtype) if self._is_bits else out
            self._read(stored, where.start, 1)
            if stored is not out:
                widen(stored, out)
            return out

        with ThreadPoolExecutor(N_AHEAD, thread_name_prefix="featstore-blocks") as pool:
            coming: deque[Future[np.ndarray]] = deque(
                pool.submit(read, where, buffers.unused()) for where in slices[:N_AHEAD]
            )
            for turn, where in enumerate(slices):
                found = coming.popleft().result()
                if turn + N_AHEAD < len(slices):
                    coming.append(pool.submit(read, slices[turn + N_AHEAD], buffers.unused()))
                for first in range(where.start, where.stop, rows):
                    last = min(first + rows, where.stop)
                    yield slice(first, last), found[first - where.start : last - where.start]


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return aligned_empty(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)


class _Buffers:
    """Buffers of one shape, each given out again once nobody holds it or a view of it any more.

    Memory that was returned to the operating system costs as much to get back as reading a block into it.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._shape, self._dtype = shape, dtype
        self._made: list[np.ndarray] = []

    def unused(self) -> np.ndarray:
        """Return a buffer that is free, or a new one, aligned for `featstore.chunks.read_rows`."""
        for i in range(len(self._made)):
            if _n_holders(self._made, i) <= _ALONE:
                return self._view(self._made[i])
        n_bytes = math.prod(self._shape) * self._dtype.itemsize
        self._made.append(np.empty(n_bytes + LINE_BYTES, np.uint8))
        return self._view(self._made[-1])

    def _view(self, raw: np.ndarray) -> np.ndarray:
        # whoever holds a view of this one holds `raw`: numpy's views all point to the memory's owner
        start = -raw.__array_interface__["data"][0] % LINE_BYTES
        return raw[start : len(raw) - LINE_BYTES + start].view(self._dtype).reshape(self._shape)


def _n_holders(buffers: list[np.ndarray], i: int) -> int:
    return sys.getrefcount(buffers[i])


_ALONE = _n_holders([np.empty(0)], 0)
"""What the count says of a buffer that only its list holds; versions of Python count differently."""
