"""Writing one pass: one writer at a time, whole blocks, each of them there or not, complete only when all are.

An array is committed by reading it back, writing its manifest, and moving its folder from ``staging`` to ``arrays``, where
readers look. Killing the writer at any moment leaves what was committed before, and what the next one can go on with.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.chunks import default_block_rows, stored_dtype, write_chunk
from featstore.errors import BadInput, CorruptChunk, IdentityError, NotStored
from featstore.files import flush_folder, remove_partials, write_errors
from featstore.locking import locked
from featstore.manifest import ArrayKey, PassKey
from featstore.passes import MANIFEST, PLAIN_FORMAT, Manifest, PassFolder, Targets, read_json, write_json
from featstore.progress import say
from featstore.staging import Block, ReadBack, Staged, crcs_of, reopen_damaged, stage

if TYPE_CHECKING:
    from featstore.digests import SplitDigest
    from featstore.splits import Split
    from featstore.stages import Stages

__all__ = ["Block", "BlockWriter", "Described", "Session", "open_described", "open_session"]

N_WRITERS = min(os.cpu_count() or 1, 4)


class Session:
    """What the one writer of a pass may do; `Store.writing` gives it.

    Attributes
    ----------
    key : PassKey
    arrays : tuple of ArrayKey
        The arrays that are being written, in the order of `begin`; complete ones are not among them.
    n_damaged : int
        Chunks that `begin` found missing, cut short or changed in arrays that had been complete.
    provenance : dict
        What is kept with the arrays of where they come from.
    read_back : callable
        How chunks are read when all of them are: `featstore.staging.crcs_of`, or the workers of a cluster.
    """

    def __init__(
        self, folder: PassFolder, key: PassKey, provenance: Mapping[str, Any], *, durable: bool = True
    ) -> None:
        self.folder, self.key = folder, key
        self.n_damaged = 0
        self.read_back: ReadBack = crcs_of
        self.provenance = dict(provenance)
        self._durable = durable
        self._staged: dict[ArrayKey, Staged] = {}
        self._block_rows = 1
        self._writer = BlockWriter(folder.root, durable=durable)

    @property
    def arrays(self) -> tuple[ArrayKey, ...]:
        return tuple(self._staged)

    @property
    def staged(self) -> tuple[Staged, ...]:
        """The arrays that are being written, with what is there of them."""
        return tuple(self._staged.values())

    @property
    def block_rows(self) -> int:
        """Rows of a block; the last one may have fewer."""
        return self._block_rows

    def begin(self, arrays: Sequence[ArrayKey], block_rows: int | None = None, *, repair: bool = False) -> None:
        """Prepare the arrays that are not complete, and look at what an earlier writer left of them.

        Parameters
        ----------
        arrays : sequence of ArrayKey
            Complete ones are skipped, after a look at the sizes of their files: what is missing or cut short is written
            again.
        block_rows : int or None
            Rows computed and written together; None takes the power of two for which a chunk of the widest array has 4
            to 8 MiB, within 512 and 4096. Arrays that were begun with other blocks keep them.
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
        self._writer.drain()
        self.n_damaged, self._staged = 0, {}
        with write_errors(self.folder.root):
            damaged = {key: reopen_damaged(self.folder, key, read_all=repair) for key in arrays}
            missing = [key for key in arrays if damaged[key] is not None]
            if not missing:
                return
            self.n_damaged = sum(damaged[key] or 0 for key in missing)
            rows = block_rows or default_block_rows([key.row_bytes for key in missing])
            self._staged = {key: stage(self.folder, key, self.key.n, rows, self.read_back) for key in missing}
        # What an earlier writer began may have other blocks: the smallest number of rows that cuts none of them.
        self._block_rows = min(math.lcm(*(staged.block_rows for staged in self._staged.values())), self.key.n)

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
            (stop - start, …) of the stored dtype for every key in `arrays`; others are ignored. Chunks that are there
            already are kept.
        wait : bool
            False returns while the bytes are still on their way, after those of the previous call have arrived: the
            caller computes the next block meanwhile, and must not change the arrays it has given. Errors then come
            from the next `write` or from `commit`.

        Raises
        ------
        StoreWrite
            If the disk is full or the folder read-only; blocks written before are kept.
        """
        self._writer.write(self.staged, block, features, wait=wait)

    def count(self, stages: Stages) -> None:
        """Tell `stages` from now on what writing takes."""
        self._writer.stages = stages
        stages.shared_by(N_WRITERS, "write")

    def drain(self) -> None:
        """Wait for what is being written.

        Raises
        ------
        StoreWrite
            See `write`.
        """
        self._writer.drain()

    def adopt(self, written: Mapping[str, Mapping[int, int]]) -> None:
        """Take note of chunks that another process has written where this session would have.

        Parameters
        ----------
        written : mapping
            Digest of an array -> number of every chunk -> its CRC.
        """
        for staged in self.staged:
            staged.done.update(written.get(staged.key.digest, {}))

    def commit(self) -> None:
        """Read back what is staged, write the manifests, and move the arrays to where readers look.

        Raises
        ------
        NotStored
            If blocks are missing.
        CorruptChunk
            If what is read back is not what was written.
        """
        self._writer.drain()
        missing = self.missing_blocks()
        if missing:
            raise NotStored(
                f"{len(missing)} blocks are not written yet, the first from row {missing[0].start}: what is not complete "
                "cannot be committed."
            )
        with write_errors(self.folder.root):
            for staged in self._staged.values():
                self._commit(staged)
            staging = self.folder.path / "staging"
            if staging.is_dir() and not any(staging.iterdir()):
                staging.rmdir()
            self._flush(self.folder.path)
        self._staged = {}

    def close(self) -> None:
        """Wait for what is being written; what is not committed stays staged."""
        self._writer.close()

    def _commit(self, staged: Staged) -> None:
        key, grid, place = staged.key, staged.grid, self.folder.staging_path(staged.key.digest)
        remove_partials(staged.folder)  # those of workers that were killed
        crcs = tuple(staged.done[k] for k in range(grid.n_chunks))
        found = self.read_back(staged.folder, grid, range(grid.n_chunks))
        for k, crc in enumerate(crcs):
            if found[k] != crc:
                (staged.folder / grid.name(k)).unlink(missing_ok=True)  # the next run computes it again
                said = (
                    found[k]
                    if isinstance(found[k], str)
                    else f"its file {grid.name(k)} holds other bytes than were written"
                )
                label = f"unit '{key.unit}' of {self.key.backbone}"
                raise CorruptChunk(str(said), store=self.folder.root, array=label, rows=grid.rows(k))
        self._flush(staged.folder)
        manifest = Manifest(key, grid.n, grid.chunk_rows, crcs, self.provenance)
        write_json(place / MANIFEST, manifest.to_json())
        self._flush(place)
        target = self.folder.array_path(key.digest)
        target.parent.mkdir(exist_ok=True)
        place.rename(target)
        self._flush(target.parent)

    def _flush(self, folder: Path) -> None:
        if self._durable:
            flush_folder(folder)


class BlockWriter:
    """Writes blocks of staged arrays; the chunks of a block by a few threads.

    Parameters
    ----------
    root : Path
        Of the store, for messages.
    durable : bool
        Flush every file to the disk.
    """

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self._root, self._durable = root, durable
        self.stages: Stages | None = None
        self._pending: list[Future[None]] = []
        self._pool = ThreadPoolExecutor(N_WRITERS, thread_name_prefix="featstore-write")

    def write(
        self, arrays: Sequence[Staged], block: Block, features: Mapping[ArrayKey, np.ndarray], *, wait: bool = True
    ) -> None:
        """Write one block of several arrays; see `Session.write`."""
        self.drain()
        wanted = [staged for staged in arrays if staged.lacks(block)]
        checked = [(staged, _checked_rows(staged.key, block, features)) for staged in wanted]
        for staged, rows in checked:
            for k in staged.chunks_of(block):
                if k not in staged.done:
                    first, last = staged.grid.rows(k)
                    part = rows[first - block.start : last - block.start]
                    self._pending.append(self._pool.submit(self._write_chunk, staged, k, part))
        if wait:
            self.drain()

    def drain(self) -> None:
        """Wait for the chunks on their way; of several errors the first is raised."""
        pending, self._pending = self._pending, []
        errors = [error for error in (future.exception() for future in pending) if error is not None]
        if errors:
            with write_errors(self._root):
                raise errors[0]

    def close(self) -> None:
        """Wait for what was handed over, also after an error or Ctrl-C: it is the work of a block."""
        self._pool.shutdown(wait=True)

    def _write_chunk(self, staged: Staged, k: int, rows: np.ndarray) -> None:
        path = staged.folder / staged.grid.name(k)
        with nullcontext() if self.stages is None else self.stages.timed("write"):
            staged.done[k] = write_chunk(path, rows, staged.grid, durable=self._durable)


def _checked_rows(key: ArrayKey, block: Block, features: Mapping[ArrayKey, np.ndarray]) -> np.ndarray:
    if key not in features:
        raise BadInput(f"block {block.index} was written without unit '{key.unit}', which is being stored.")
    rows, expected = features[key], (len(block), *key.shape)
    if rows.shape != expected or rows.dtype != stored_dtype(key.dtype):
        raise BadInput(
            f"unit '{key.unit}' gave {rows.dtype} of shape {rows.shape} for rows {block.start} to {block.stop - 1}; "
            f"{key.dtype} of shape {expected} was announced."
        )
    return np.ascontiguousarray(rows, stored_dtype(key.dtype))


@dataclass(frozen=True, eq=False)
class Described:
    """What is written beside the arrays of a pass.

    Attributes
    ----------
    samples : SplitDigest
    names : tuple of str
        Of the split.
    targets : mapping
        Name -> labels; None for none.
    replaces : bool
        Whether these labels take the place of others that are there.
    """

    samples: SplitDigest
    names: tuple[str, ...]
    targets: Mapping[str, Targets | None]
    replaces: bool = True


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
    labels = None if split.labels is None else Targets(split.labels, split.classes)
    described = Described(samples, (split.name,), {"labels": labels})
    with open_described(folder, key, described, provenance, timeout=timeout, durable=durable) as session:
        yield session


@contextmanager
def open_described(
    folder: PassFolder,
    key: PassKey,
    described: Described,
    provenance: Mapping[str, Any],
    *,
    timeout: float | None = None,
    durable: bool = True,
) -> Iterator[Session]:
    """Become the one writer of a pass whose samples are known by their digests."""
    with write_errors(folder.root):
        folder.path.mkdir(exist_ok=True)
    with locked(folder, timeout):
        with write_errors(folder.root):
            _describe(folder, key, described)
        session = Session(folder, key, provenance, durable=durable)
        try:
            yield session
        finally:
            session.close()


def _describe(folder: PassFolder, key: PassKey, described: Described) -> None:
    """Write what the pass is, unless that is there and whole; add the split's names; put its labels beside.

    All of it follows from `key`, whose digest the folder is named by, and from the samples, whose digests are in the key, so
    that what was damaged comes back; other labels and other names of the split do not.
    """
    for place in (folder.root, folder.root / "cache", folder.path, folder.path / "targets"):
        remove_partials(place)
    path = folder.path / "key.json"
    if not path.exists() or _damaged(lambda: read_json(path)):
        write_json(path, {"format": PLAIN_FORMAT, "pass": key.to_json()})
    folder.key()  # one that was edited is refused: nobody knows what else was
    if _damaged(folder.samples):
        folder.write_samples(described.samples)
    names: set[str] = set() if _damaged(folder.names) else set(folder.names())
    if not names.issuperset(described.names):
        names.update(described.names)
        write_json(folder.path / "split.json", {"names": sorted(names)})
    for name, targets in described.targets.items():
        known = None if _damaged(partial(folder.targets, name)) else folder.targets(name)
        if targets is None or (known is not None and not described.replaces):
            continue
        if known is None or known.classes != targets.classes or not np.array_equal(known.labels, targets.labels):
            folder.write_targets(name, targets)
            if known is not None:
                same = ", ".join(f"'{one}'" for one in sorted(names))
                say(f"the labels of '{described.names[0]}' replace those that were stored for the same images ({same})")


def _damaged(read: Callable[[], object]) -> bool:
    """Return whether a description cannot be read, or is not that of its folder."""
    try:
        read()
    except IdentityError:
        return True
    return False
