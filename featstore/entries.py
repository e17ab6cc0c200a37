"""What is in a store, one `Entry` per matrix, and reading the files that say so once per question."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from featstore.manifest import ArrayKey, PassKey
from featstore.passes import ARRAY, MANIFEST, Manifest, PassFolder, read_json

__all__ = ["Entry", "Glance", "entries_of"]


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
        When it became complete, UTC, ``"2025-01-31 12:00:00"``; empty for one that is not.
    pass_id, array_id : str
        Digests.
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
        self._manifests: dict[tuple[str, str], Manifest] = {}

    def key(self, folder: PassFolder) -> PassKey:
        """See `PassFolder.key`."""
        if folder.id not in self._keys:
            self._keys[folder.id] = folder.key()
        return self._keys[folder.id]

    def manifest(self, folder: PassFolder, array_id: str) -> Manifest:
        """See `PassFolder.manifest`."""
        where = (folder.id, array_id)
        if where not in self._manifests:
            self._manifests[where] = folder.manifest(array_id)
        return self._manifests[where]


def entries_of(folder: PassFolder, glance: Glance) -> Iterator[Entry]:
    """Yield the entries of one pass in the order in which the network executes its units.

    Raises
    ------
    IdentityError
        If a key or a manifest was edited.
    """
    key, names = glance.key(folder), folder.names()
    found: list[tuple[ArrayKey, str]] = []
    order: list[str] = []
    for array_id in folder.array_ids():
        if folder.is_complete(array_id):
            manifest = glance.manifest(folder, array_id)
            created = datetime.fromtimestamp((folder.array_path(array_id) / MANIFEST).stat().st_mtime, UTC)
            found.append((manifest.array, f"{created:%Y-%m-%d %H:%M:%S}"))
            order = [str(unit) for unit in manifest.provenance.get("units", ())] or order
    found += [(array, "") for array in _begun(folder, {array.digest for array, _ in found})]
    place = {unit: i for i, unit in enumerate(order)}
    for array, when in sorted(found, key=lambda f: (place.get(f[0].unit, len(place)), f[0].unit, f[0].digest)):
        yield Entry(
            backbone=key.backbone,
            weights_digest=key.weights_digest,
            precision=key.precision,
            splits=names,
            unit=array.unit,
            pool=array.pool,
            dtype=array.dtype,
            shape=(key.n, *array.shape),
            n_bytes=key.n * array.row_bytes,
            is_complete=bool(when),
            created=when,
            pass_id=folder.id,
            array_id=array.digest,
        )


def _begun(folder: PassFolder, committed: set[str]) -> Iterator[ArrayKey]:
    """Yield the arrays that are staged, or have lost their manifest."""
    seen = set(committed)
    for kind in ("staging", "arrays"):
        for array_id in folder.array_ids(kind):
            path = folder.path / kind / array_id / ARRAY
            if array_id not in seen and path.is_file():
                seen.add(array_id)
                yield ArrayKey.from_json(read_json(path)["array"])
