"""Arrays on their way into a store: what an earlier writer left of them, what is wrong with it, what is still missing.

Progress is the files themselves. A chunk file appears by a rename, so that a killed writer leaves whole chunks and
``*.partial`` files; the latter are deleted, the former checked, and what is missing is all that is done again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from featstore import zarrays
from featstore.chunks import BadChunk, Grid, default_chunk_rows, read_chunk
from featstore.errors import IdentityError
from featstore.files import remove_partials
from featstore.manifest import ArrayKey
from featstore.passes import ARRAY, DATA, MANIFEST, Manifest, PassFolder, read_json, write_json
from featstore.reading import in_threads

__all__ = ["Block", "ReadBack", "Staged", "crcs_of", "reopen_damaged", "stage"]

ReadBack = Callable[[Path, Grid, Sequence[int]], dict[int, int | str]]
"""How chunks are read, all bytes of them: see `crcs_of`."""


@dataclass(frozen=True)
class Block:
    """Rows `start` to `stop` (not included), written together; `index` counts blocks from 0."""

    index: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass
class Staged:
    """An array that is being written.

    Attributes
    ----------
    key : ArrayKey
    folder : Path
        Of its chunk files.
    grid : Grid
    block_rows : int
        Rows that are computed together: a multiple of the rows of a chunk.
    done : dict
        Number of every chunk that is there, with its CRC.
    """

    key: ArrayKey
    folder: Path
    grid: Grid
    block_rows: int
    done: dict[int, int]

    def chunks_of(self, block: Block) -> range:
        """Return the numbers of the chunks that hold rows of a block."""
        return range(block.start // self.grid.chunk_rows, -(-block.stop // self.grid.chunk_rows))

    def lacks(self, block: Block) -> bool:
        """Return whether a chunk of a block is missing."""
        return any(k not in self.done for k in self.chunks_of(block))


def stage(folder: PassFolder, key: ArrayKey, n: int, block_rows: int, read_back: ReadBack | None = None) -> Staged:
    """Make the staging folder of an array of `n` rows, or take it over with what is good in it."""
    place = folder.staging_path(key.digest)
    data = place / DATA
    begun = _begun(place, key, n)
    if begun is None:
        if place.exists():
            shutil.rmtree(place)
        data.mkdir(parents=True)
        grid = Grid.of(key, n, _fitting_rows(key.row_bytes, block_rows))
        block_rows = min(block_rows, n)
        said = {"array": key.to_json(), "n": n, "chunk_rows": grid.chunk_rows, "block_rows": block_rows}
        write_json(place / ARRAY, {"format": key.format, **said})
    else:
        chunk_rows, block_rows = begun
        grid = Grid.of(key, n, chunk_rows)
    remove_partials(place)
    remove_partials(data)
    if not (data / zarrays.METADATA).exists() or zarrays.problems(data, key, grid):
        (data / zarrays.METADATA).unlink(missing_ok=True)
        zarrays.create(data, key, grid)
    return Staged(key, data, grid, block_rows, _good_chunks(data, grid, read_back or crcs_of))


def reopen_damaged(folder: PassFolder, key: ArrayKey, *, read_all: bool) -> int | None:
    """Look at a committed array, and move it back to staging, without its damaged chunks, if it is not good.

    Parameters
    ----------
    folder : PassFolder
    key : ArrayKey
    read_all : bool
        Check every byte, and accept a manifest or a ``zarr.json`` that was edited: it is written anew. False looks at sizes
        of files only.

    Returns
    -------
    int or None
        None if the array is complete and good; else how many damaged or missing chunks it had, 0 where it was not
        committed at all.

    Raises
    ------
    IdentityError
        If its manifest was edited and `read_all` is False.
    """
    path, n_damaged = folder.array_path(key.digest), 0
    if not path.is_dir():
        return 0
    if folder.is_complete(key.digest):
        try:
            manifest = folder.manifest(key.digest)
        except IdentityError:
            if not read_all:
                raise
        else:
            bad = _damaged(path / DATA, manifest, read_all)
            if not bad and not (read_all and zarrays.problems(path / DATA, key, manifest.grid)):
                return None
            n_damaged = len(bad)
            for k in bad:
                (path / DATA / manifest.grid.name(k)).unlink(missing_ok=True)
    staging = folder.staging_path(key.digest)
    if staging.exists():  # what was committed once has more to keep
        shutil.rmtree(staging)
    staging.parent.mkdir(exist_ok=True)
    (path / MANIFEST).unlink(missing_ok=True)
    path.rename(staging)
    return n_damaged


def _damaged(data: Path, manifest: Manifest, read_all: bool) -> list[int]:
    """Return the chunks of a committed array that are not as the manifest says: by size, or by reading them all."""
    grid = manifest.grid
    bad: list[int] = []

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


def crcs_of(data: Path, grid: Grid, numbers: Sequence[int]) -> dict[int, int | str]:
    """Read whole chunks, and return the CRC of each, or in words what is wrong with it."""
    found: dict[int, int | str] = {}

    def look(k: int) -> None:
        try:
            found[k] = read_chunk(data / grid.name(k), grid)[0]
        except BadChunk as error:
            found[k] = str(error)

    in_threads(look, numbers)
    return found


def _good_chunks(data: Path, grid: Grid, read_back: ReadBack) -> dict[int, int]:
    """Return the CRC of every chunk that is there and whole; delete everything else that lies around."""
    numbers = {grid.name(k): k for k in range(grid.n_chunks)}
    there = [path.name for path in data.iterdir() if path.name != zarrays.METADATA]
    found = read_back(data, grid, sorted(numbers[name] for name in there if name in numbers))
    good = {k: crc for k, crc in found.items() if isinstance(crc, int)}
    for name in there:
        if numbers.get(name) not in good:
            (data / name).unlink()
    return good


def _begun(place: Path, key: ArrayKey, n: int) -> tuple[int, int] | None:
    """Return the rows per chunk and per block of an array that was begun, or None where it cannot be gone on with."""
    if not (place / DATA).is_dir():
        return None
    try:
        said = read_json(place / ARRAY)
        chunk_rows, block_rows = said["chunk_rows"], said["block_rows"]
        same = said["array"] == key.to_json() and said["n"] == n and 1 <= chunk_rows <= block_rows <= n
    except (OSError, IdentityError, KeyError, TypeError):
        return None
    return (int(chunk_rows), int(block_rows)) if same else None


def _fitting_rows(row_bytes: int, block_rows: int) -> int:
    """Return the rows of a chunk: those of the block, halved while they exceed 8 MiB and stay a divisor of it."""
    while block_rows > default_chunk_rows(row_bytes) and block_rows % 2 == 0:
        block_rows //= 2
    return block_rows
