"""What is in a store, one `Entry` per matrix, and reading the files that say so once per question."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from featstore.chunks import Grid
from featstore.errors import FeatstoreError
from featstore.manifest import ArrayKey, PassKey
from featstore.passes import ARRAY, DATA, MANIFEST, Manifest, PassFolder, read_json

__all__ = ["UNKNOWN", "Entry", "Glance", "announced", "entries_of"]

UNKNOWN = "?"
"""Stands for what a damaged file no longer tells."""


@dataclass(frozen=True)
class Entry:
    """One matrix that is in a store, or on its way into it.

    Attributes
    ----------
    backbone, weights_digest, precision : str
    splits : tuple of str
        What people called the split.
    unit, pool, dtype : str
    shape : tuple of int
        (n, d), or (n, …) for maps.
    n_bytes : int
        Of the features, without checksums and padding.
    is_complete : bool
        False while it is being written, or after that was interrupted.
    created : str
        When it became complete, UTC, ``"2025-01-31 12:00:00"``; empty for one that is not, and where that is not known.
    pass_id, array_id : str
        Digests; `array_id` is empty where a whole pass is damaged.
    share : float
        Of the rows that are there, 0 to 1, to the chunk.
    made_by : str
        Whose files they are, and with what they were made: ``"ada: featstore 0.1.0, torch 2.9.1, cpu"``.
    damage : str
        Why the files that describe it cannot be trusted; empty where they can. What they no longer tell is ``"?"``.
    """

    backbone: str
    weights_digest: str
    precision: str
    splits: tuple[str, ...]
    unit: str
    pool: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int
    is_complete: bool
    created: str
    pass_id: str
    array_id: str
    share: float = 1.0
    made_by: str = ""
    damage: str = ""

    @property
    def split(self) -> str:
        """The first name of the split; all of them are in `splits`."""
        return self.splits[0] if self.splits else ""

    def to_json(self) -> dict[str, Any]:
        """Return the entry as JSON holds it."""
        return {**asdict(self), "split": self.split}


class Glance:
    """What files say, each read once in the course of one question; nothing of it outlives the question."""

    def __init__(self) -> None:
        self._keys: dict[str, PassKey] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        self._manifests: dict[tuple[str, str], Manifest] = {}
        self.errors: dict[tuple[str, str], FeatstoreError] = {}
        """(pass, array) of damaged entries, and what reading them raised."""

    def key(self, folder: PassFolder) -> PassKey:
        """See `PassFolder.key`."""
        if folder.id not in self._keys:
            self._keys[folder.id] = folder.key()
        return self._keys[folder.id]

    def names(self, folder: PassFolder) -> tuple[str, ...]:
        """See `PassFolder.names`."""
        if folder.id not in self._names:
            self._names[folder.id] = folder.names()
        return self._names[folder.id]

    def manifest(self, folder: PassFolder, array_id: str) -> Manifest:
        """See `PassFolder.manifest`."""
        where = (folder.id, array_id)
        if where not in self._manifests:
            self._manifests[where] = folder.manifest(array_id)
        return self._manifests[where]


def entries_of(folder: PassFolder, glance: Glance, *, damaged: bool = False) -> Iterator[Entry]:
    """Yield the entries of one pass in the order in which the network executes its units.

    Parameters
    ----------
    folder : PassFolder
    glance : Glance
    damaged : bool
        Yield an entry that says so, instead of raising, where a description was edited or cut short.

    Raises
    ------
    IdentityError
        If a key or a manifest was edited, and `damaged` is False.
    """
    try:
        key = glance.key(folder)
    except FeatstoreError as error:
        if not damaged:
            raise
        yield _unreadable_pass(folder, error, glance)
        return
    try:
        names = glance.names(folder)
    except FeatstoreError:
        if not damaged:
            raise
        names = (UNKNOWN,)  # what people called it is no part of its identity: the features are good
    found: list[tuple[ArrayKey | None, dict[str, Any]]] = []
    order: list[str] = []
    for array_id in folder.array_ids():
        if folder.is_complete(array_id):
            try:
                manifest = glance.manifest(folder, array_id)
            except FeatstoreError as error:
                if not damaged:
                    raise
                glance.errors[folder.id, array_id] = error
                found.append((announced(folder.array_path(array_id)), {**_open(array_id, 0.0), "damage": str(error)}))
                continue
            found.append((manifest.array, _of_committed(folder, array_id, manifest)))
            order = [str(unit) for unit in manifest.provenance.get("units", ())] or order
    found += _begun(folder, key.n, {said["array_id"] for _, said in found})
    place = {unit: i for i, unit in enumerate(order)}
    for array, said in sorted(found, key=lambda f: _rank(f[0], f[1]["array_id"], place)):
        yield Entry(
            backbone=key.backbone,
            weights_digest=key.weights_digest,
            precision=key.precision,
            splits=names,
            unit=array.unit if array else UNKNOWN,
            pool=array.pool if array else UNKNOWN,
            dtype=array.dtype if array else UNKNOWN,
            shape=(key.n, *(array.shape if array else ())),
            n_bytes=key.n * array.row_bytes if array else 0,
            pass_id=folder.id,
            **said,
        )


def _rank(array: ArrayKey | None, array_id: str, place: dict[str, int]) -> tuple[int, str, str]:
    unit = array.unit if array else UNKNOWN
    return place.get(unit, len(place)), unit, array_id


def _of_committed(folder: PassFolder, array_id: str, manifest: Manifest) -> dict[str, Any]:
    path = folder.array_path(array_id) / MANIFEST
    seconds = path.stat().st_mtime
    created = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}" if seconds else ""  # a URL may not tell
    return {
        "array_id": array_id,
        "is_complete": True,
        "created": created,
        "made_by": _made_by(path, manifest.provenance),
    }


def _open(array_id: str, share: float) -> dict[str, Any]:
    return {"array_id": array_id, "is_complete": False, "created": "", "share": share}


def _made_by(path: Path, provenance: Any) -> str:
    """Return whose file it is, and what the provenance says of versions and device, as far as it does."""
    owner = ""
    with suppress(OSError, KeyError, NotImplementedError):
        owner = path.owner()
    versions = provenance.get("versions") or {}
    with_what = [f"{name} {versions[name]}" for name in ("featstore", "torch") if versions.get(name)]
    with_what += [str(provenance["device"])] if provenance.get("device") else []
    return ": ".join(part for part in (owner, ", ".join(with_what)) if part)


def _unreadable_pass(folder: PassFolder, error: FeatstoreError, glance: Glance) -> Entry:
    """Return the one entry of a pass of which it is not known what it is."""
    glance.errors[folder.id, ""] = error
    names: tuple[str, ...] = ()
    with suppress(FeatstoreError):
        names = folder.names()
    files = [path for path in folder.path.rglob("c.*") if path.is_file()]
    return Entry(
        *(UNKNOWN,) * 3,
        splits=names,
        unit=UNKNOWN,
        pool=UNKNOWN,
        dtype=UNKNOWN,
        shape=(),
        n_bytes=sum(path.stat().st_size for path in files),
        is_complete=False,
        created="",
        pass_id=folder.id,
        array_id="",
        share=0.0,
        damage=str(error),
    )


def announced(path: Path) -> ArrayKey | None:
    """Return which array the folder of an array was made for, if that can be told: two files of it say so."""
    for read in (_in_array_json, _in_zarr_json):
        with suppress(OSError, FeatstoreError, KeyError, TypeError, AttributeError):
            array = read(path)
            if array.digest == path.name:
                return array
    return None


def _in_array_json(path: Path) -> ArrayKey:
    return ArrayKey.from_json(read_json(path / ARRAY)["array"])


def _in_zarr_json(path: Path) -> ArrayKey:
    said = read_json(path / DATA / "zarr.json")["attributes"]["featstore"]
    return ArrayKey.from_json({k: v for k, v in said.items() if k != "array_digest"})


def _begun(folder: PassFolder, n: int, known: set[str]) -> Iterator[tuple[ArrayKey, dict[str, Any]]]:
    """Yield the arrays that are staged, or have lost their manifest, and how much of each is there."""
    for kind in ("staging", "arrays"):
        for array_id in folder.array_ids(kind):
            path = folder.path / kind / array_id
            array = announced(path) if array_id not in known else None
            if array is not None:
                known.add(array_id)
                yield array, _open(array_id, _share(path, array, n))


def _share(path: Path, array: ArrayKey, n: int) -> float:
    """Return which part of the chunks of an array that is not complete has been written."""
    try:
        grid = Grid.of(array, n, int(read_json(path / ARRAY)["chunk_rows"]))
        there = {entry.name for entry in (path / DATA).iterdir()}
    except (OSError, FeatstoreError, KeyError, TypeError, ValueError):
        return 0.0
    return sum(grid.name(k) in there for k in range(grid.n_chunks)) / grid.n_chunks
