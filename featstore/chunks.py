"""One chunk of rows in one file: its size, its name, writing it, reading it back checked.

A chunk file is what zarr's codecs ``bytes`` (little endian) and ``crc32c`` make of it: the rows one after another, padded at the
end of the array with the fill value, then four bytes of CRC32C. Every row lies at a known offset, so that plain `pread` reads it.
zarr reads the same files; it is not needed to read or write them.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from featstore.files import atomic_write
from featstore.manifest import DTYPES, ArrayKey

__all__ = ["BadChunk", "Grid", "default_block_rows", "default_chunk_rows", "read_chunk", "read_rows", "write_chunk"]

CRC_BYTES = 4
CHUNK_BYTES = 8 << 20
"""A chunk holds more than half of this and at most this. Above 16 MiB reading slows down, below 2 MiB writing."""
MIN_BLOCK_ROWS, MAX_BLOCK_ROWS = 512, 4096
"""What a killed extraction loses is at most one block of forward passes; what a block's batches need is some hundred rows."""
BLOCK_BYTES = 512 << 20
"""A block of all units is held in memory at once; it is made smaller than `MIN_BLOCK_ROWS` to stay below this."""
PIECE_BYTES = 1 << 20
"""Bytes are checked in pieces that are still in the processor's cache; smaller ones make threads wait for each other more often."""
LINE_BYTES = 64
BOUNCED_BYTES = 1 << 20
"""Into memory that does not begin with a line of the cache some processors read a file three times slower (the kernel's string
copy, on AMD EPYC). It is read into a piece that does, and copied from there in pieces so large that this copy is another one."""


class BadChunk(Exception):
    """What is wrong with a chunk file, in words; the reader knows which rows and says it as `CorruptChunk`."""


@dataclass(frozen=True)
class Grid:
    """How the rows of one array are cut into chunks.

    Attributes
    ----------
    n : int
        Rows of the array.
    row_bytes : int
    chunk_rows : int
        Rows of every chunk; the last one is padded.
    ndim : int
        Dimensions of the array, the rows included: what zarr's chunk names need.
    """

    n: int
    row_bytes: int
    chunk_rows: int
    ndim: int

    @classmethod
    def of(cls, key: ArrayKey, n: int, chunk_rows: int) -> Grid:
        """Return the grid of array `key` with `n` rows; an array of fewer rows than a chunk is one chunk without padding."""
        return cls(n, key.row_bytes, min(chunk_rows, n), len(key.shape) + 1)

    @property
    def n_chunks(self) -> int:
        return -(-self.n // self.chunk_rows)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of rows and padding in every chunk file."""
        return self.chunk_rows * self.row_bytes

    @property
    def file_bytes(self) -> int:
        return self.chunk_bytes + CRC_BYTES

    def rows(self, k: int) -> tuple[int, int]:
        """Return the first row of chunk `k` and one past its last."""
        return k * self.chunk_rows, min((k + 1) * self.chunk_rows, self.n)

    def name(self, k: int) -> str:
        """Return the file name of chunk `k`, as zarr's default encoding with separator "." makes it."""
        return f"c.{k}" + ".0" * (self.ndim - 1)


def default_chunk_rows(row_bytes: int) -> int:
    """Return the power of two for which a chunk has 4 to 8 MiB; 1 for rows that are larger."""
    return 1 << max((CHUNK_BYTES // row_bytes).bit_length() - 1, 0)


def default_block_rows(row_bytes: list[int]) -> int:
    """Return the rows that are computed and written together, for arrays of these bytes per row: a power of two."""
    rows = min(max(default_chunk_rows(max(row_bytes)), MIN_BLOCK_ROWS), MAX_BLOCK_ROWS)
    while rows > 1 and rows * sum(row_bytes) > BLOCK_BYTES:
        rows //= 2
    return rows


def write_chunk(path: Path, rows: np.ndarray, grid: Grid, *, durable: bool = True) -> int:
    """Write one chunk file and return its CRC32C.

    Parameters
    ----------
    path : Path
    rows : numpy.ndarray
        (chunk_rows, …), fewer in the last chunk; C-contiguous, of the stored dtype.
    grid : Grid
    durable : bool
        See `featstore.files.atomic_write`.
    """
    data = rows.reshape(-1).view(np.uint8)
    missing = (grid.chunk_bytes - data.nbytes) // rows.dtype.itemsize
    padding = np.full(missing, fill_value(rows.dtype), rows.dtype).view(np.uint8)
    crc = int(google_crc32c.extend(google_crc32c.value(data), padding))
    atomic_write(path, [p for p in (data, padding, struct.pack("<I", crc)) if len(p)], durable=durable)
    return crc


def read_chunk(
    path: Path, grid: Grid, out: np.ndarray | None = None, first: int = 0, *, crc: int | None = None
) -> tuple[int, tuple[int, int]]:
    """Read and check a whole chunk file, keeping some of its rows.

    Parameters
    ----------
    path : Path
    grid : Grid
    out : numpy.ndarray or None
        Flat uint8 that the rows from `first` on go to; None keeps nothing.
    first : int
        First row, counted within the chunk, that is kept.
    crc : int or None
        What the manifest says the CRC is; None trusts the one in the file.

    Returns
    -------
    crc : int
    stamp : tuple of int
        (inode, mtime in ns) of the file that was checked: as long as both stay, the file need not be checked again.

    Raises
    ------
    BadChunk
        If the file is missing, has another size, or other bytes than were written.
    """
    fd = open_chunk(path)
    try:
        status = os.fstat(fd)
        if status.st_size != grid.file_bytes:
            raise BadChunk(f"its file {path.name} has {status.st_size} bytes and should have {grid.file_bytes}")
        found = _read_checked(fd, grid.chunk_bytes, out, first * grid.row_bytes)
        tail = os.pread(fd, CRC_BYTES, grid.chunk_bytes)
    finally:
        os.close(fd)
    _compare(path.name, found, tail, crc)
    return found, (status.st_ino, status.st_mtime_ns)


def checked_bytes(raw: bytes, name: str, grid: Grid, crc: int) -> np.ndarray:
    """Return the rows of a chunk that was read whole, flat uint8; see `read_chunk`."""
    if len(raw) != grid.file_bytes:
        raise BadChunk(f"its file {name} has {len(raw)} bytes and should have {grid.file_bytes}")
    data = np.frombuffer(raw, np.uint8, grid.chunk_bytes)
    _compare(name, int(google_crc32c.value(data)), raw[-CRC_BYTES:], crc)
    return data


def _compare(name: str, found: int, tail: bytes, crc: int | None) -> None:
    """Raise `BadChunk` unless a checksum is the one at the end of the file and the one of the manifest."""
    written = struct.unpack("<I", tail)[0] if len(tail) == CRC_BYTES else -1
    if found != written:
        raise BadChunk(f"its file {name} has the checksum {found:08x} and was written with {written:08x}")
    if crc is not None and found != crc:
        raise BadChunk(
            f"its file {name} has the checksum {found:08x} and the manifest says {crc:08x}: another chunk's bytes"
        )


def _read_checked(fd: int, n_bytes: int, out: np.ndarray | None, skip: int) -> int:
    """Read `n_bytes` from the start of `fd`, those from `skip` on into `out` until it is full; return the CRC of all."""
    wanted = (0, 0) if out is None else (skip, skip + out.nbytes)
    is_direct = out is not None and _is_aligned(out, skip)
    step = PIECE_BYTES if is_direct or out is None else BOUNCED_BYTES
    scratch = None
    at, crc = 0, 0
    while at < n_bytes:
        inside = out is not None and wanted[0] <= at < wanted[1]
        end = min(at + step, wanted[1] if inside else wanted[0] if at < wanted[0] else n_bytes, n_bytes)
        if inside and is_direct and out is not None:
            piece = out[at - skip : end - skip]
        else:
            scratch = aligned_empty(min(step, n_bytes)) if scratch is None else scratch
            piece = scratch[: end - at]
        read = os.preadv(fd, [piece.data], at)
        if read <= 0:
            raise BadChunk(f"its file ended after {at} of {n_bytes} bytes while it was read")
        crc = google_crc32c.extend(crc, piece[:read])
        if inside and not is_direct and out is not None:
            out[at - skip : at - skip + read] = piece[:read]
        at += read
    return int(crc)


def read_rows(fd: int, out: np.ndarray, offset: int) -> None:
    """Fill the flat uint8 `out` from `offset` on, unchecked."""
    is_direct = out.nbytes < BOUNCED_BYTES or _is_aligned(out, offset)
    scratch = None if is_direct else aligned_empty(BOUNCED_BYTES)
    at = 0
    while at < out.nbytes:
        piece = out[at:] if scratch is None else scratch[: out.nbytes - at]
        read = os.preadv(fd, [piece.data], offset + at)
        if read <= 0:
            raise BadChunk(f"its file ended {out.nbytes - at} bytes too early")
        if scratch is not None:
            out[at : at + read] = piece[:read]
        at += read


def aligned_empty(n_bytes: int) -> np.ndarray:
    """Return (n_bytes,) uint8 that begins where a line of the cache does, which numpy's own memory does not."""
    raw = np.empty(n_bytes + LINE_BYTES, np.uint8)
    start = -raw.__array_interface__["data"][0] % LINE_BYTES
    return raw[start : start + n_bytes]


def _is_aligned(out: np.ndarray, offset: int) -> bool:
    """Return whether the kernel can copy a file from `offset` on into `out` by whole lines of the cache."""
    return bool((out.__array_interface__["data"][0] - offset) % LINE_BYTES == 0)


def map_chunk(fd: int, grid: Grid) -> tuple[mmap.mmap, np.ndarray]:
    """Map a chunk file to memory; return it, and its rows (chunk_rows, row_bytes) uint8, read-only, padding included."""
    mapped = mmap.mmap(fd, grid.file_bytes, access=mmap.ACCESS_READ)
    return mapped, np.frombuffer(mapped, np.uint8, grid.chunk_bytes).reshape(-1, grid.row_bytes)


def open_chunk(path: Path) -> int:
    """Open a chunk file for reading; a missing one is a `BadChunk`."""
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        raise BadChunk(f"its file {path.name} is missing") from None


def stored_dtype(name: str) -> np.dtype:
    """Return the numpy dtype that a dtype of `ArrayKey` is stored as, little endian."""
    return np.dtype(DTYPES[name])


def fill_value(dtype: np.dtype) -> float | int:
    """Return what rows that are not there are made of: NaN; for bits of bfloat16 those of a NaN."""
    return 0xFFFF if dtype == np.uint16 else np.nan
