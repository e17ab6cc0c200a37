"""Writing one pass: one writer at a time, whole blocks, each of them there or not, complete only when all are.

Progress is the files themselves. A chunk file appears by a rename, so a killed writer leaves whole chunks and ``*.partial``
files; the next one deletes the latter, checks the former and asks only for the blocks that are missing. An array is committed
by writing its manifest and then moving its folder from ``staging`` to ``arrays``, where readers look.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore import zarrays
from featstore.chunks import (
    BadChunk,
    Grid,
    default_block_rows,
    default_chunk_rows,
    read_chunk,
    stored_dtype,
    write_chunk,
)
from featstore.errors import BadInput, IdentityError, NotStored, StoreBusy
from featstore.files import atomic_write, flush_folder, remove_partials, write_errors
from featstore.manifest import ArrayKey, PassKey
from featstore.passes import ARRAY, DATA, FORMAT, MANIFEST, Manifest, PassFolder, Targets, read_json, write_json
from featstore.reading import in_threads

if TYPE_CHECKING:
    from featstore.splits import Split

__all__ = ["Block", "Session", "open_session"]


@dataclass(frozen=True)
class Block:
    """Rows `start` to `stop` (not included), written together; `index` counts blocks from 0."""

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass
class _Staged:
    """An array that is being written: which chunks are there, by number, with their CRC."""

    key: ArrayKey
    folder: Path
    grid: Grid
    done: dict[int, int]

    def chunks_of(self, block: Block) -> range:
        return range(block.start // self.grid.chunk_rows, -(-block.stop // self.grid.chunk_rows))

    def lacks(self, block: Block) -> bool:
        return any(k not in self.done for k in self.chunks_of(block))


class Session:
    """What the one writer of a pass may do; `Store.writing` gives it.

    Attributes
    ----------
    key : PassKey
    arrays : tuple of ArrayKey
        The arrays that are being written, in the order of `begin`; complete ones are not among them.
    n_damaged : int
        Chunks that `begin` found missing, cut short or changed in arrays that had been complete.
    """

    def __init__(
        self, folder: PassFolder, key: PassKey, provenance: Mapping[str, Any], *, durable: bool = True
    ) -> None:
        self.folder, self.key = folder, key
        self.n_damaged = 0
        self._provenance = dict(provenance)
        self._durable = durable
        self._staged: dict[ArrayKey, _Staged] = {}
        self._block_rows = 1
        self._pending: list[Future[None]] = []
        self._pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 4), thread_name_prefix="featstore-write")

    @property
    def arrays(self) -> tuple[ArrayKey, ...]:
        return tuple(self._staged)

    @property
    def block_rows(self) -> int:
        """Rows of a block; the last one may have fewer."""
        return self._block_rows

    def begin(self, arrays: Sequence[ArrayKey], block_rows: int | None = None, *, repair: bool = False) -> None:
        """Prepare the arrays that are not complete, and look at what an earlier writer left of them.

        Parameters
        ----------
        arrays : sequence of ArrayKey
            Complete ones are skipped, after a look at the sizes of their files: what is missing or cut short is written again.
        block_rows : int or None
            Rows computed and written together; None takes the power of two for which a chunk of the widest array has 4 to
            8 MiB, within 512 and 4096. Arrays that were begun with other chunks keep them.
        repair : bool
            Also read every chunk of complete arrays, and write those again whose checksum is wrong.

        Raises
        ------
        IdentityError
            If an array belongs to another pass, or a complete one's manifest was edited and `repair` is False.
        StoreWrite
            If the disk is full or the folder read-only.
        """
        arrays = list(dict.fromkeys(arrays))
        for key in arrays:
            if key.pass_digest != self.key.digest:
                raise IdentityError(
                    f"unit '{key.unit}' belongs to the pass {key.pass_digest}; this is {self.key.digest}."
                )
        if block_rows is not None and block_rows < 1:
            raise BadInput(f"a block of {block_rows} rows holds nothing; ask for at least 1.")
        with write_errors(self.folder.root):
            remove_partials(self.folder.path)
            open_keys = [key for key in arrays if not self._settle_committed(key, repair)]
            if not open_keys:
                self._staged = {}
                return
            rows = block_rows or default_block_rows([key.row_bytes for key in open_keys])
            self._staged = {key: self._stage(key, rows) for key in open_keys}
        # Chunks of an earlier writer may have other rows: a block is the smallest number of rows that cuts no chunk.
        self._block_rows = min(
            math.lcm(*(s.grid.chunk_rows for s in self._staged.values()), min(rows, self.key.n)), self.key.n
        )

    def missing_blocks(self) -> list[Block]:
        """Return the blocks of which some array lacks rows, in order."""
        rows, n = self._block_rows, self.key.n
        blocks = [Block(i, start, min(start + rows, n)) for i, start in enumerate(range(0, n, rows))]
        return [block for block in blocks if any(staged.lacks(block) for staged in self._staged.values())]

    def write(self, block: Block, features: Mapping[ArrayKey, np.ndarray], *, wait: bool = True) -> None:
        """Write one block of every array that is being written; each chunk appears whole or not at all.

        Parameters
        ----------
        block : Block
            One of `missing_blocks`.
        features : mapping of ArrayKey to numpy.ndarray
            (stop - start, …) of the stored dtype for every key in `arrays`; others are ignored.
        wait : bool
            False returns while the bytes are still on their way, after those of the previous call have arrived: the caller
            computes the next block meanwhile, and must not change the arrays it has given. Errors then come from the
            next `write` or from `commit`.

        Raises
        ------
        StoreWrite
            If the disk is full or the folder read-only; blocks written before are kept.
        """
        self._drain()
        for key, staged in self._staged.items():
            if not staged.lacks(block):
                continue
            rows = self._checked_rows(key, block, features)
            for k in staged.chunks_of(block):
                if k not in staged.done:
                    first, last = staged.grid.rows(k)
                    part = rows[first - block.start : last - block.start]
                    self._pending.append(self._pool.submit(self._write_chunk, staged, k, part))
        if wait:
            self._drain()

    def commit(self) -> None:
        """Read back what is staged, write the manifests, and move the arrays to where readers look.

        Raises
        ------
        NotStored
            If blocks are missing.
        CorruptChunk
            If what is read back is not what was written.
        """
        self._drain()
        missing = self.missing_blocks()
        if missing:
            raise NotStored(
                f"{len(missing)} blocks are not written yet, the first from row {missing[0].start}: not complete."
            )
        with write_errors(self.folder.root):
            for key, staged in self._staged.items():
                self._commit(key, staged)
            staging = self.folder.path / "staging"
            if staging.is_dir() and not any(staging.iterdir()):
                staging.rmdir()
            flush_folder(self.folder.path)
        self._staged = {}

    def close(self) -> None:
        """Wait for what is being written; what is not committed stays staged."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _settle_committed(self, key: ArrayKey, repair: bool) -> bool:
        """Return whether `key` is complete and good; otherwise move what is good of it back to staging."""
        path = self.folder.array_path(key.digest)
        if not path.is_dir():
            return False
        if self.folder.is_complete(key.digest):
            try:
                manifest = self.folder.manifest(key.digest)
            except IdentityError:
                if not repair:
                    raise
                self.n_damaged += 1
            else:
                bad = _damaged(path / DATA, manifest, repair)
                if not bad:
                    return True
                self.n_damaged += len(bad)
                for k in bad:
                    (path / DATA / manifest.grid.name(k)).unlink(missing_ok=True)
        staging = self.folder.staging_path(key.digest)
        if staging.exists():  # the committed folder was complete once and has more to keep
            shutil.rmtree(staging)
        staging.parent.mkdir(exist_ok=True)
        (path / MANIFEST).unlink(missing_ok=True)
        path.rename(staging)
        return False

    def _stage(self, key: ArrayKey, block_rows: int) -> _Staged:
        """Make or take over the staging folder of `key`."""
        folder = self.folder.staging_path(key.digest)
        data = folder / DATA
        chunk_rows = _begun_rows(folder, key, self.key.n)
        if chunk_rows is None:
            if folder.exists():
                shutil.rmtree(folder)
            chunk_rows = _fitting_rows(key.row_bytes, block_rows)
            data.mkdir(parents=True)
            grid = Grid.of(key, self.key.n, chunk_rows)
            write_json(
                folder / ARRAY, {"format": FORMAT, "array": key.to_json(), "n": grid.n, "chunk_rows": grid.chunk_rows}
            )
        grid = Grid.of(key, self.key.n, chunk_rows)
        remove_partials(folder)
        remove_partials(data)
        if not (data / zarrays.METADATA).exists() or zarrays.problems(data, key, grid):
            (data / zarrays.METADATA).unlink(missing_ok=True)
            zarrays.create(data, key, grid)
        return _Staged(key, data, grid, _good_chunks(data, grid))

    def _checked_rows(self, key: ArrayKey, block: Block, features: Mapping[ArrayKey, np.ndarray]) -> np.ndarray:
        if key not in features:
            raise BadInput(f"block {block.index} was written without unit '{key.unit}', which is being stored.")
        rows, expected = features[key], (len(block), *key.shape)
        if rows.shape != expected or rows.dtype != np.dtype(key.dtype):
            raise BadInput(
                f"unit '{key.unit}' gave {rows.dtype} of shape {rows.shape} for rows {block.start} to {block.stop - 1}; "
                f"{key.dtype} of shape {expected} was announced."
            )
        return np.ascontiguousarray(rows, stored_dtype(key.dtype))

    def _write_chunk(self, staged: _Staged, k: int, rows: np.ndarray) -> None:
        path = staged.folder / staged.grid.name(k)
        staged.done[k] = write_chunk(path, rows, staged.grid, durable=self._durable)

    def _drain(self) -> None:
        """Wait for the chunks on their way; of several errors the first is raised."""
        pending, self._pending = self._pending, []
        errors = [error for error in (future.exception() for future in pending) if error is not None]
        if errors:
            with write_errors(self.folder.root):
                raise errors[0]

    def _commit(self, key: ArrayKey, staged: _Staged) -> None:
        folder = self.folder.staging_path(key.digest)
        crcs = tuple(staged.done[k] for k in range(staged.grid.n_chunks))
        manifest = Manifest(key, staged.grid.n, staged.grid.chunk_rows, crcs, self._provenance)
        from featstore.reading import StoredArray

        label = f"unit '{key.unit}' of {self.key.backbone}"
        array = StoredArray(staged.folder, key, staged.grid, crcs, self.folder.root, label)

        def check(k: int) -> None:
            reason = array.check(k)
            if reason:
                raise array.corrupt(k, reason)

        in_threads(check, range(staged.grid.n_chunks))
        flush_folder(staged.folder)
        write_json(folder / MANIFEST, manifest.to_json())
        flush_folder(folder)
        target = self.folder.array_path(key.digest)
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)
        flush_folder(target.parent)


@contextmanager
def open_session(
    folder: PassFolder,
    key: PassKey,
    split: Split,
    provenance: Mapping[str, Any],
    *,
    timeout: float | None = None,
    durable: bool = True,
) -> Iterator[Session]:
    """Become the one writer of a pass; see `featstore.store.Store.writing`."""
    samples = split.digest()
    if (samples.ids_digest, samples.content_digest, len(split)) != (key.ids_digest, key.content_digest, key.n):
        raise IdentityError(
            f"the samples of split '{split.name}' are not those that the pass {key.digest} was planned for."
        )
    with write_errors(folder.root):
        folder.path.mkdir(exist_ok=True)
    with _locked(folder, timeout):
        with write_errors(folder.root):
            _describe(folder, key, split)
        session = Session(folder, key, provenance, durable=durable)
        try:
            yield session
        finally:
            session.close()


def _describe(folder: PassFolder, key: PassKey, split: Split) -> None:
    """Write who the pass is, unless that is there; add the split's name; put its labels beside."""
    remove_partials(folder.path)
    if (folder.path / "key.json").exists():
        folder.key()
    else:
        write_json(folder.path / "key.json", {"format": FORMAT, "pass": key.to_json()})
    if not (folder.path / "samples.npz").exists():
        folder.write_samples(split.digest())
    names = set(folder.names())
    if split.name not in names:
        write_json(folder.path / "split.json", {"names": sorted({*names, split.name})})
    if split.labels is not None:
        known, targets = folder.targets("labels"), Targets(split.labels, split.classes)
        if known is None or known.classes != targets.classes or not np.array_equal(known.labels, targets.labels):
            folder.write_targets("labels", targets)


@contextmanager
def _locked(folder: PassFolder, timeout: float | None) -> Iterator[None]:
    """Hold the pass's lock. The kernel drops it when the holder dies, so that no lock is ever stale."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder.path / ".lock")
    holder = folder.path / ".holder"
    with write_errors(folder.root):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = _who(holder)
            if timeout != 0:
                print(f"featstore: waiting for {who}, which writes the same features", file=sys.stderr, flush=True)
            try:
                lock.acquire(timeout=-1 if timeout is None else timeout)
            except Timeout:
                raise StoreBusy(
                    f"the features of pass {folder.id} in {folder.root} are being written by {who}. Two writers of the same "
                    "features would do the same work twice: wait for it, or end it; what it has written is kept."
                ) from None
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        atomic_write(holder, [json.dumps(me).encode()], durable=False)
    try:
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _who(holder: Path) -> str:
    try:
        said = read_json(holder)
        return f"process {int(said['pid'])} on {said['host']} (since {said['since']})"
    except (OSError, IdentityError, KeyError, ValueError, TypeError):
        return "another process"


def _damaged(data: Path, manifest: Manifest, read_all: bool) -> list[int]:
    """Return the chunks of a committed array that are not as the manifest says: by size, or by reading them all."""
    grid, bad = manifest.grid, []

    def look(k: int) -> None:
        try:
            if read_all:
                read_chunk(data / grid.name(k), grid, crc=manifest.crcs[k])
            elif (data / grid.name(k)).stat().st_size != grid.file_bytes:
                bad.append(k)
        except (BadChunk, FileNotFoundError):
            bad.append(k)

    in_threads(look, range(grid.n_chunks), None if read_all else 1)
    return sorted(bad)


def _good_chunks(data: Path, grid: Grid) -> dict[int, int]:
    """Return the CRC of every chunk that is there and whole; delete everything else that lies around."""
    numbers = {grid.name(k): k for k in range(grid.n_chunks)}
    good: dict[int, int] = {}
    present = [path for path in data.iterdir() if path.name != zarrays.METADATA]

    def look(path: Path) -> None:
        try:
            good[numbers[path.name]] = read_chunk(path, grid)[0]
        except (KeyError, BadChunk):
            path.unlink()

    in_threads(look, present)
    return good


def _begun_rows(folder: Path, key: ArrayKey, n: int) -> int | None:
    """Return the rows per chunk of an array that was begun, or None where there is none that can be gone on with."""
    if not (folder / DATA).is_dir():
        return None
    try:
        said = read_json(folder / ARRAY)
        rows = said["chunk_rows"]
        same = said["array"] == key.to_json() and said["n"] == n and isinstance(rows, int) and 1 <= rows <= n
    except (OSError, IdentityError, KeyError, TypeError):
        return None
    return rows if same else None


def _fitting_rows(row_bytes: int, block_rows: int) -> int:
    """Return the rows of a chunk: those of the block, halved while they exceed 8 MiB and stay a divisor of it."""
    while block_rows > default_chunk_rows(row_bytes) and block_rows % 2 == 0:
        block_rows //= 2
    return block_rows
