"""What identifies the samples of a split: a digest of every content, one of all contents in order, one of all ids in order.

Identity is always the content. Reading a million files to learn that nothing changed takes minutes, so the digests are kept
with the stat (size, mtime, ctime, inode) of their file, as git's index does. Like git, entries of files that were
modified less than 2 s before they were looked at are not kept: such a file could change again within the clock's resolution.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.errors import IdentityError
from featstore.files import atomic_write
from featstore.manifest import canonical_json

if TYPE_CHECKING:
    from featstore.splits import Samples, Split

__all__ = [
    "DIGEST_BYTES",
    "DigestCache",
    "HashRows",
    "Progress",
    "SplitDigest",
    "content_digest",
    "digest_split",
    "hash_here",
    "ids_digest",
    "sample_digest",
]

DIGEST_BYTES = 16
RACY_S = 2.0
N_STAT = 4
GROUP = 256
MAX_THREADS = 8
SILENT_S = 2.0


@dataclass(frozen=True, eq=False)
class SplitDigest:
    """Identity of the samples of a split.

    Attributes
    ----------
    ids : numpy.ndarray
        (n,) text.
    rows : numpy.ndarray
        (n, 16) uint8: digest of every sample's content, and of the shifts applied to it.
    """

    ids: np.ndarray
    rows: np.ndarray

    @cached_property
    def ids_digest(self) -> str:
        """32 hexadecimal digits: the ids in order."""
        return ids_digest(self.ids)

    @cached_property
    def content_digest(self) -> str:
        """32 hexadecimal digits: the contents in order."""
        return content_digest(self.rows)

    def select(self, rows: np.ndarray) -> SplitDigest:
        """Return the digest of some rows."""
        return SplitDigest(self.ids[rows], self.rows[rows])

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return arrays for an npz: ids as UTF-8 bytes with offsets, since fixed-width text of long ids is mostly padding."""
        encoded, lengths = _encoded(self.ids)
        ends = np.cumsum([0, *lengths], dtype=np.int64)
        return {"ids": np.frombuffer(encoded, np.uint8), "id_offsets": ends, "digests": self.rows}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> SplitDigest:
        """Return what `to_arrays` wrote."""
        try:
            text, ends = arrays["ids"].tobytes(), arrays["id_offsets"].tolist()
            ids = [text[a:b].decode() for a, b in itertools.pairwise(ends)]
            return cls(np.array(ids, np.str_), arrays["digests"].reshape(len(ids), DIGEST_BYTES))
        except (KeyError, ValueError, TypeError) as error:
            raise IdentityError(f"a list of samples cannot be read ({error}): it was edited or damaged.") from error


def ids_digest(ids: np.ndarray) -> str:
    """Return the digest of ids in order; their lengths are hashed first, so that no two lists run together."""
    encoded, lengths = _encoded(ids)
    head = np.array([len(ids), *lengths], "<i8").tobytes()
    return hashlib.sha256(head + encoded).hexdigest()[:32]


def _encoded(ids: np.ndarray) -> tuple[bytes, list[int]]:
    """Return the ids in UTF-8 one behind the other, and the bytes of each."""
    names = ids.tolist()
    together = "".join(names)
    if together.isascii():  # a fifth of the time: one call instead of one per id
        return together.encode(), list(map(len, names))
    encoded = [name.encode() for name in names]
    return b"".join(encoded), list(map(len, encoded))


def content_digest(rows: np.ndarray) -> str:
    """Return the digest of the samples' digests (n, 16) in order."""
    return hashlib.sha256(np.ascontiguousarray(rows, np.uint8).reshape(-1).data).hexdigest()[:32]


def sample_digest(sample: bytes | np.ndarray) -> bytes:
    """Return 16 bytes of the sha256 of a sample: of its file's bytes, or of a decoded array's dtype, shape and bytes."""
    if isinstance(sample, np.ndarray):
        head = f"{sample.dtype.str}{sample.shape}".encode()
        running = hashlib.sha256(b"array\0" + head + b"\0")
        running.update(np.ascontiguousarray(sample).reshape(-1).view(np.uint8).data)
        return running.digest()[:DIGEST_BYTES]
    return hashlib.sha256(sample).digest()[:DIGEST_BYTES]


def digest_split(split: Split, cache: DigestCache | None = None, hash_rows: HashRows | None = None) -> SplitDigest:
    """Read every sample that the cache does not know, and return the digest of the split.

    Parameters
    ----------
    split : Split
    cache : DigestCache or None
        Asked first and told what was learnt; None reads everything.
    hash_rows : callable or None
        What reads the samples; None reads them here, in threads.
    """
    samples = split.samples
    seen_at = time.time()  # before the first stat: whatever is younger than that, less 2 s, is not kept
    keys = np.array([_name_of(samples.describe(i)) for i in range(len(split))], np.uint64)
    stats = np.array([_stat_of(samples, i) for i in range(len(split))], np.int64).reshape(-1, N_STAT)
    rows, known = (
        cache.look_up(keys, stats)
        if cache
        else (np.zeros((len(split), DIGEST_BYTES), np.uint8), np.zeros(len(split), bool))
    )
    missing = np.flatnonzero(~known)
    (hash_rows or hash_here)(samples, missing, rows, Progress(split.name, len(missing)))
    if cache and len(missing):
        cache.remember(keys[missing], stats[missing], rows[missing], seen_at)
    if split.transforms:
        rows = _shifted(rows, canonical_json([described(t) for t in split.transforms]))
    return SplitDigest(split.ids, rows)


def described(transform: Any) -> dict[str, Any]:
    """Return name and parameters of a transform: what identifies it.

    Raises
    ------
    IdentityError
        If it has none that last: a lambda, a bare function.
    """
    name, params = getattr(transform, "name", None), getattr(transform, "params", None)
    try:
        if not isinstance(name, str) or not name:
            raise IdentityError("it has no name")
        said = {"name": name, "params": params}
        canonical_json(said)
    except IdentityError as error:
        raise IdentityError(
            f"the transform {transform!r} cannot be identified ({str(error).rstrip('.')}), so that features of images changed "
            "by it could be taken for others. Give it a name and params in text and numbers, or wrap it as "
            "featstore.versioned(transform, version='…') and change that text whenever it does something else."
        ) from error
    return said


def hash_here(samples: Samples, missing: np.ndarray, rows: np.ndarray, progress: Progress) -> None:
    """Fill `rows[missing]`, a group of samples per task, so that threads are not busier with queues than with hashing."""

    def hash_group(group: np.ndarray) -> int:
        for i in group.tolist():
            rows[i] = np.frombuffer(sample_digest(samples.read(i)), np.uint8)
        return len(group)

    groups = [missing[a : a + GROUP] for a in range(0, len(missing), GROUP)]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS)) as pool:
        try:
            for n_done in pool.map(hash_group, groups):
                progress.add(n_done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C must not wait for a million files
            raise
        finally:
            progress.end()


def _shifted(rows: np.ndarray, shifts: str) -> np.ndarray:
    """Return the digests of contents that are then shifted: of each row's digest and the shifts in order."""
    tail = b"\0" + shifts.encode()
    mixed = [hashlib.sha256(row.tobytes() + tail).digest()[:DIGEST_BYTES] for row in rows]
    return np.frombuffer(b"".join(mixed), np.uint8).reshape(rows.shape)


def _name_of(where: str) -> int:
    return int.from_bytes(hashlib.blake2b(where.encode(), digest_size=8).digest(), "little")


def _stat_of(samples: Samples, i: int) -> tuple[int, ...]:
    """Return what the sample's file looks like from outside, padded to four numbers; all -1 where there is no file."""
    stat = samples.stat(i)
    return (-1,) * N_STAT if stat is None else (tuple(stat) + (0,) * N_STAT)[:N_STAT]


class Progress:
    """One line on stderr, from the third second on."""

    def __init__(self, name: str, n: int) -> None:
        self.name, self.n, self.done, self.begun, self.shown = name, n, 0, time.monotonic(), 0.0

    def add(self, n: int) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.begun > SILENT_S and now - self.shown > 0.5:
            self.shown = now
            print(
                f"\rfeatstore: reading what '{self.name}' holds: {self.done} of {self.n}",
                end="",
                file=sys.stderr,
                flush=True,
            )

    def end(self) -> None:
        if self.shown:
            print(file=sys.stderr, flush=True)


HashRows = Callable[["Samples", np.ndarray, np.ndarray, Progress], None]
"""(samples, rows to read, digests of all rows to fill, progress): see `hash_here`."""


class DigestCache:
    """Digests of files by the stat they had. An accelerator: it may be deleted, and is skipped when it cannot be read or written.

    Parameters
    ----------
    path : Path
        An npz; its folder is made when something is remembered.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def look_up(self, keys: np.ndarray, stats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return digests (n, 16) and whether each is known (n,) bool, for hashed names (n,) uint64 and stats (n, 4) int64."""
        old_keys, old_stats, old_digests = self._load()
        at = np.minimum(np.searchsorted(old_keys, keys), max(len(old_keys) - 1, 0))
        if not len(old_keys):
            return np.zeros((len(keys), DIGEST_BYTES), np.uint8), np.zeros(len(keys), bool)
        known = (old_keys[at] == keys) & (old_stats[at] == stats).all(1) & (stats[:, 0] >= 0)
        return np.where(known[:, None], old_digests[at], np.uint8(0)), known

    def remember(self, keys: np.ndarray, stats: np.ndarray, digests: np.ndarray, seen_at: float) -> None:
        """Keep digests of files, except of those modified within 2 s before `seen_at` (seconds since the epoch)."""
        settled = (stats[:, 0] >= 0) & (stats[:, 1:3].max(1) < (seen_at - RACY_S) * 1e9)
        if not settled.any():
            return
        old_keys, old_stats, old_digests = self._load()
        all_keys = np.concatenate([keys[settled], old_keys])
        chosen = np.unique(all_keys, return_index=True)[
            1
        ]  # sorted by key; of equal keys the first, which is the new one
        arrays = {
            "keys": all_keys[chosen],
            "stats": np.concatenate([stats[settled], old_stats])[chosen],
            "digests": np.concatenate([digests[settled], old_digests])[chosen],
        }
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self.path, [buffer.getvalue()], durable=False)
        except OSError:
            return  # a read-only store is still readable, only slower

    def _load(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        try:
            # opened here, because numpy leaves a file open that turns out not to be an npz
            with self.path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                found = file["keys"], file["stats"], file["digests"]
            n = len(found[0])
            if found[1].shape == (n, N_STAT) and found[2].shape == (n, DIGEST_BYTES):
                return found
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass
        return np.zeros(0, np.uint64), np.zeros((0, N_STAT), np.int64), np.zeros((0, DIGEST_BYTES), np.uint8)
