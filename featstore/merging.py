"""Merging: what one store has and another lacks is copied, by identity, every chunk checked on its way.

What both have must be the same bytes; where it is not, that is said, and nothing is overwritten. A killed merge goes on where
it stopped, since it writes as an extraction does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import BadInput, CorruptChunk, FeatstoreError
from featstore.passes import DATA, Manifest, PassFolder
from featstore.progress import bar
from featstore.reading import Maps
from featstore.writing import Described, open_described

if TYPE_CHECKING:
    from featstore.reading import StoredArray
    from featstore.store import Store

__all__ = ["Merged", "merge"]


@dataclass(frozen=True)
class Merged:
    """What a merge did.

    Attributes
    ----------
    n_copied, n_same : int
        Matrices that were copied; that were there already, with the same bytes.
    n_bytes : int
        Copied.
    conflicts : tuple of str
        One sentence for each thing that both stores have, and not the same. What was there was kept.
    left : tuple of str
        One sentence for each matrix that could not be copied: damaged, or not complete.
    """

    n_copied: int
    n_same: int
    n_bytes: int
    conflicts: tuple[str, ...]
    left: tuple[str, ...]


def merge(source: str | Path | Store, into: str | Path | Store, *, progress: bool = True) -> Merged:
    """Copy the complete matrices of one store that another lacks; see `featstore.merging`.

    Parameters
    ----------
    source : str, Path or Store
        Is only read; may lie behind a URL.
    into : str, Path or Store
        Made if there is none.
    progress : bool
        Show it on stderr.

    Raises
    ------
    StoreWrite
        If the disk is full or the folder read-only; what was copied before is kept.
    StoreBusy
        If another process writes the same features into `into`.
    """
    from featstore.store import Store, create_store, open_store

    giver = source if isinstance(source, Store) else open_store(source)
    taker = into if isinstance(into, Store) else create_store(into)
    if giver.root.resolve() == taker.root.resolve():
        raise BadInput(f"{giver.root} cannot be merged into itself.")
    entries = giver.entries(damaged=True)
    conflicts: list[str] = []
    left = [
        f"{e.backbone} over '{e.split}', unit '{e.unit}': {e.damage or 'not complete'}"
        for e in entries
        if not e.is_complete
    ]
    n_copied = n_same = n_bytes = 0
    whole = [e for e in entries if e.is_complete]
    with bar(len(whole), "merging", shown=progress, unit="matrices") as shown:
        for pass_id in dict.fromkeys(e.pass_id for e in whole):
            folder, target = PassFolder(giver.root, pass_id), PassFolder(taker.root, pass_id)
            mine = [e.array_id for e in whole if e.pass_id == pass_id]
            try:
                targets = {name: folder.targets(name) for name in folder.target_names()}
                described = Described(folder.samples(), folder.names(), targets, replaces=False)
            except FeatstoreError as error:
                left.append(str(error))
                continue
            for array_id in mine:
                try:
                    array = giver.stored_array(folder, array_id)
                    said = _merge_array(array, folder.manifest(array_id), target, folder, described)
                except CorruptChunk as error:  # of the giver; what was copied of it is kept for when it is mended
                    left.append(str(error))
                else:
                    n_same += said == 0
                    n_copied += said > 0
                    n_bytes += max(said, 0)
                    if said < 0:
                        conflicts.append(f"{array.label} has other bytes in {taker.root}; these were kept")
                shown.update(1)
            conflicts += _label_conflicts(folder, target)
    return Merged(n_copied, n_same, n_bytes, tuple(conflicts), tuple(left))


def _merge_array(
    array: StoredArray, manifest: Manifest, target: PassFolder, folder: PassFolder, described: Described
) -> int:
    """Copy one array; return its bytes, 0 where the same was there, -1 where another was."""
    if target.is_complete(array.key.digest):
        there = target.manifest(array.key.digest)
        if (there.crcs, there.chunk_rows) == (manifest.crcs, manifest.chunk_rows):
            return 0
        return 0 if there.chunk_rows != manifest.chunk_rows and _same_rows(array, target, there) else -1
    with open_described(target, folder.key(), described, manifest.provenance) as session:
        session.begin([array.key], array.grid.chunk_rows)
        for block in session.missing_blocks():
            rows = np.empty((len(block), *array.key.shape), array.dtype)
            array.read_into(rows, block.start, threads=1)  # whole chunks, checked against the manifest
            session.write(block, {array.key: rows}, wait=False)
        if session.arrays:
            session.commit()
    return array.grid.n * array.grid.row_bytes


def _same_rows(array: StoredArray, target: PassFolder, there: Manifest) -> bool:
    """Return whether two arrays that are cut into other chunks have the same rows."""
    other = replace(
        array,
        folder=target.array_path(array.key.digest) / DATA,
        grid=there.grid,
        crcs=there.crcs,
        checked={},
        maps=Maps(),
    )
    rows = array.grid.chunk_rows
    for start in range(0, array.grid.n, rows):
        shape = (min(rows, array.grid.n - start), *array.key.shape)
        mine, theirs = np.empty(shape, array.dtype), np.empty(shape, array.dtype)
        array.read_into(mine, start, threads=1)
        other.read_into(theirs, start, threads=1)
        if mine.tobytes() != theirs.tobytes():
            return False
    return True


def _label_conflicts(folder: PassFolder, target: PassFolder) -> list[str]:
    """Say which labels both stores have, and not the same."""
    found = []
    for name in folder.target_names():
        mine, there = folder.targets(name), target.targets(name)
        if mine and there and (mine.classes != there.classes or not np.array_equal(mine.labels, there.labels)):
            found.append(
                f"the labels '{name}' of {', '.join(folder.names())} are others in {target.root}; these were kept"
            )
    return found
