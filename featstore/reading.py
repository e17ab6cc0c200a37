"""Reading the rows of one committed array: plain `pread` into the caller's memory, every chunk checked when it is first touched.

zarr reads the same files at a tenth of the speed when few rows are wanted, because it always decodes whole chunks.
"""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from featstore import chunks
from featstore.chunks import BadChunk, Grid
from featstore.errors import BadInput, CorruptChunk
from featstore.holding import Hold
from featstore.manifest import ArrayKey

__all__ = ["StoredArray", "in_threads"]

MAX_THREADS = 8
MAX_MAPS = 256
"""Files that are mapped at a time: each holds a file descriptor, of which a process often has no more than 1024."""
THREADED_BYTES = 32 << 20
"""Below this, taking rows is done sooner than threads have started."""

Stamp = tuple[int, int]
T = TypeVar("T")


def in_threads(work: Callable[[T], None], items: Iterable[T], threads: int | None = None) -> None:
    """Call `work` on every item, in threads where there is more than one item and more than one core; raise the first error."""
    items = list(items)
    threads = min(threads or os.cpu_count() or 1, MAX_THREADS, len(items))
    if threads <= 1:
        for item in items:
            work(item)
        return
    # A pool per call costs 0.2 ms and leaves no thread behind that a fork could lose.
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, items):
            pass


class Maps:
    """Files mapped to memory, a bounded number; mapping one anew costs more than reading some rows of it."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, int], tuple[mmap.mmap, np.ndarray]] = {}
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[Maps], tuple[()]]:
        return (Maps, ())  # another process maps for itself

    def get(self, where: tuple[str, int]) -> tuple[mmap.mmap, np.ndarray] | None:
        """Return the file and its rows of (array digest, chunk), if mapped."""
        return self._files.get(where)

    def put(self, where: tuple[str, int], found: tuple[mmap.mmap, np.ndarray]) -> np.ndarray:
        """Keep a mapped file and return its rows. What falls out is unmapped when nobody uses its rows any more."""
        with self._lock:
            self._files[where] = found
            while len(self._files) > MAX_MAPS:
                del self._files[next(iter(self._files))]
        return found[1]


@dataclass(frozen=True, eq=False)
class StoredArray:
    """The rows of one committed array.

    Attributes
    ----------
    folder : Path
        Holds the chunk files and ``zarr.json``.
    key : ArrayKey
    grid : Grid
    crcs : tuple of int
        CRC32C of every chunk, from the manifest.
    root : Path
        Of the store, for messages.
    label : str
        Backbone, split, unit in words, for messages.
    checked : dict
        Chunk number to the (inode, mtime) under which it was found good. Shared by all who read through one `Store`.
    maps : Maps
        Checked files that `take` keeps mapped to memory; shared likewise.
    hold : Hold or None
        Keeps the array from being removed while it is open.
    """

    folder: Path
    key: ArrayKey
    grid: Grid
    crcs: tuple[int, ...]
    root: Path
    label: str
    checked: dict[int, Stamp] = field(default_factory=dict, repr=False)
    maps: Maps = field(default_factory=lambda: Maps(), repr=False)
    hold: Hold | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "checked": {}}  # another process checks for itself

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.grid.n, *self.key.shape)

    @property
    def dtype(self) -> np.dtype:
        return chunks.stored_dtype(self.key.dtype)

    def read_into(self, out: np.ndarray, start: int = 0, *, threads: int | None = None) -> None:
        """Fill `out` with the rows from `start` on.

        Parameters
        ----------
        out : numpy.ndarray
            (m, …) of the stored dtype, C-contiguous.
        start : int
            First row; ``start + m`` must not exceed the rows there are.
        threads : int or None
            Chunks are read by that many threads; None takes the cores, at most 8.
        """
        flat = self._flat(out)
        stop = start + len(out)
        if not 0 <= start <= stop <= self.grid.n:
            raise BadInput(f"rows {start} to {stop} were asked of {self.label}, which has {self.grid.n}.")

        def read(k: int) -> None:
            lo, hi = self.grid.rows(k)
            first, last = max(lo, start), min(hi, stop)
            rb = self.grid.row_bytes
            self.read_chunk(k, flat[(first - start) * rb : (last - start) * rb], first - lo)

        in_threads(
            read, range(start // self.grid.chunk_rows, -(-stop // self.grid.chunk_rows) if len(out) else 0), threads
        )

    def take(self, rows: np.ndarray, out: np.ndarray, *, threads: int | None = None) -> None:
        """Fill `out` with some rows, in the order asked; every chunk is opened once.

        Parameters
        ----------
        rows : numpy.ndarray
            (m,) int64 in [0, n), any order, repeats allowed.
        out : numpy.ndarray
            (m, …) of the stored dtype, C-contiguous.
        """
        flat = self._flat(out)
        if not len(rows):
            return
        order = None if bool((rows[1:] >= rows[:-1]).all()) else np.argsort(rows, kind="stable")
        ascending = rows if order is None else rows[order]
        chunk_of = ascending // self.grid.chunk_rows
        within = ascending - chunk_of * self.grid.chunk_rows
        starts = np.concatenate([[0], np.flatnonzero(np.diff(chunk_of)) + 1, [len(rows)]])
        groups = [(int(chunk_of[a]), a, b) for a, b in itertools.pairwise(starts.tolist())]

        def some(mine: list[tuple[int, int, int]]) -> None:
            gather = _Gather(self, flat)
            for k, a, b in mine:
                gather(k, within[a:b], slice(a, b) if order is None else order[a:b])

        # One list of chunks per thread, so that each has one scratch buffer.
        n_bytes = out.nbytes + sum(self.grid.chunk_bytes for k, _, _ in groups if k not in self.checked)
        n_threads = min(threads or os.cpu_count() or 1, MAX_THREADS, len(groups)) if n_bytes > THREADED_BYTES else 1
        in_threads(some, [groups[t::n_threads] for t in range(n_threads)], n_threads)

    def check(self, k: int) -> str | None:
        """Read chunk `k` whole and return what is wrong with it, or None."""
        try:
            self.checked[k] = chunks.read_chunk(self.folder / self.grid.name(k), self.grid, crc=self.crcs[k])[1]
        except BadChunk as bad:
            self.checked.pop(k, None)
            return str(bad)
        return None

    def is_checked(self, k: int, fd: int) -> bool:
        """Return whether the open file of chunk `k` is the one that was found good."""
        stamp, status = self.checked.get(k), os.fstat(fd)
        return stamp == (status.st_ino, status.st_mtime_ns) and status.st_size == self.grid.file_bytes

    def map(self, k: int) -> np.ndarray | None:
        """Map chunk `k` to memory and return its rows, (chunk_rows, row_bytes) uint8; None unless it was checked before."""
        if k not in self.checked:
            return None
        try:
            fd = chunks.open_chunk(self.folder / self.grid.name(k))
        except BadChunk:
            return None
        try:
            if not self.is_checked(k, fd):
                return None
            return self.maps.put((self.key.digest, k), chunks.map_chunk(fd, self.grid))
        finally:
            os.close(fd)

    def corrupt(self, k: int, reason: str) -> CorruptChunk:
        """Return the error for chunk `k`."""
        return CorruptChunk(reason, store=self.root, array=self.label, rows=self.grid.rows(k))

    def read_chunk(self, k: int, out: np.ndarray, first: int = 0) -> None:
        """Fill flat `out` with rows of chunk `k` from its row `first` on; check the chunk unless that was done before."""
        path = self.folder / self.grid.name(k)
        try:
            if k in self.checked:
                fd = chunks.open_chunk(path)
                try:
                    if self.is_checked(k, fd):
                        chunks.read_rows(fd, out, first * self.grid.row_bytes)
                        return
                finally:
                    os.close(fd)
            self.checked[k] = chunks.read_chunk(path, self.grid, out, first, crc=self.crcs[k])[1]
        except BadChunk as bad:
            self.checked.pop(k, None)
            raise self.corrupt(k, str(bad)) from None

    def _flat(self, out: np.ndarray) -> np.ndarray:
        if (
            out.dtype != self.dtype
            or out.shape[1:] != self.key.shape
            or not out.flags.c_contiguous
            or not out.flags.writeable
        ):
            raise BadInput(
                f"the buffer is {out.dtype} of shape {out.shape}; {self.label} needs a writeable C-contiguous one of "
                f"{self.dtype} and shape (m, {', '.join(map(str, self.key.shape))})."
            )
        return out.reshape(-1).view(np.uint8)


class _Gather:
    """Copies chosen rows of one chunk after another; owns a scratch buffer of one chunk."""

    def __init__(self, array: StoredArray, flat: np.ndarray) -> None:
        self.array = array
        self.rows = flat.reshape(-1, array.grid.row_bytes)
        self.scratch: np.ndarray | None = None
        self.digest, self.file_bytes = array.key.digest, array.grid.file_bytes

    def __call__(self, k: int, local: np.ndarray, positions: slice | np.ndarray) -> None:
        known = self.array.maps.get((self.digest, k))
        # The size, because touching a file that was cut short since would kill the process.
        if known is not None and known[0].size() == self.file_bytes:
            source = known[1]
        else:
            found = self.array.map(k)
            source = self._checked_now(k) if found is None else found
        if isinstance(positions, slice):
            # "clip" because "raise" would copy through a buffer of its own; the rows are known to exist.
            source.take(local, 0, self.rows[positions], "clip")
        else:
            self.rows[positions] = source[local]

    def _checked_now(self, k: int) -> np.ndarray:
        grid = self.array.grid
        if self.scratch is None:
            self.scratch = chunks.aligned_empty(grid.chunk_bytes)
        first, last = grid.rows(k)
        self.array.read_chunk(k, self.scratch[: (last - first) * grid.row_bytes])
        return self.scratch.reshape(-1, grid.row_bytes)
