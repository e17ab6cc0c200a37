"""Store: a folder of feature matrices that are found by what they are; opening it, asking it, writing to it."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.digests import DigestCache, SplitDigest
from featstore.errors import Ambiguous, BadInput, IdentityError, NotStored, StoreFormat
from featstore.files import PARTIAL, write_errors
from featstore.manifest import ArrayKey, PassKey, differences
from featstore.matrix import FeatureMatrix
from featstore.passes import (
    ARRAY,
    DATA,
    DIGEST,
    FORMAT,
    MANIFEST,
    Manifest,
    PassFolder,
    Targets,
    check_format,
    read_json,
    write_json,
)
from featstore.reading import StoredArray
from featstore.splits import Split, checked_labels

if TYPE_CHECKING:
    from featstore.verifying import Problem
    from featstore.writing import Session

__all__ = ["Entry", "Store", "create_store", "open_store"]

FORMAT_FILE = "featstore.json"


@dataclass(frozen=True)
class Entry:
    """One matrix that is in a store, or on its way into it.

    Attributes
    ----------
    backbone, weights_digest, unit, pool, dtype : str
    splits : tuple of str
        What people called the split.
    shape : tuple of int
        (n, d), or (n, …) for maps.
    n_bytes : int
        Of the features, without checksums and padding.
    is_complete : bool
        False while it is being written, or after that was interrupted.
    pass_id, array_id : str
        Digests.
    created : str
        When it became complete, UTC, ``"2025-01-31 12:00:00"``; empty for one that is not.
    precision : str
    """

    backbone: str
    weights_digest: str
    splits: tuple[str, ...]
    unit: str
    pool: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int
    is_complete: bool
    pass_id: str
    array_id: str
    created: str
    precision: str

    @property
    def split(self) -> str:
        """The first name of the split; all of them are in `splits`."""
        return self.splits[0] if self.splits else ""

    def to_json(self) -> dict[str, Any]:
        """Return the entry as JSON holds it."""
        return {**asdict(self), "split": self.split}


def open_store(root: str | Path) -> Store:
    """Open an existing store.

    Raises
    ------
    NotStored
        If there is no store at `root`.
    StoreFormat
        If it was written by a newer version of featstore.
    """
    root = Path(root)
    path = root / FORMAT_FILE
    if not path.is_file():
        what = "is a folder without" if root.is_dir() else "does not exist, so there is no"
        raise NotStored(
            f"there is no feature store at {root}: it {what} {FORMAT_FILE}. `featstore extract MODEL SPLIT {root}` makes one."
        )
    try:
        said = read_json(path)
    except IdentityError as error:
        raise StoreFormat(str(error)) from error
    check_format(said, path)
    return Store(root)


def create_store(root: str | Path) -> Store:
    """Open the store at `root`, or make an empty one there.

    Raises
    ------
    BadInput
        If `root` is a file, or a folder of other things.
    StoreWrite
        If the folder cannot be written.
    """
    root = Path(root)
    if (root / FORMAT_FILE).is_file():
        return open_store(root)
    if root.exists() and not root.is_dir():
        raise BadInput(f"{root} is a file; a feature store is a folder.")
    if root.is_dir():
        with write_errors(root):
            others = sorted(p.name for p in root.iterdir() if not p.name.endswith(PARTIAL))
        if others and not (root / FORMAT_FILE).is_file():
            raise BadInput(
                f"{root} holds other things ('{others[0]}') and no {FORMAT_FILE}; choose an empty or a new folder."
            )
    with write_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / FORMAT_FILE, {"format": FORMAT})
    return open_store(root)


class Store:
    """A folder of feature matrices; made by `open_store`, `create_store` and `featstore.extract`.

    Attributes
    ----------
    root : Path
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.digest_cache = DigestCache(root / "cache" / "digests.npz")
        self._samples: dict[str, SplitDigest] = {}
        self._checked: dict[str, dict[int, tuple[int, int]]] = {}

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    # ---- what is there

    def passes(self) -> list[PassFolder]:
        """Return the passes that have a key, sorted by digest."""
        names = sorted(p.name for p in self.root.iterdir() if DIGEST.fullmatch(p.name))
        return [PassFolder(self.root, name) for name in names if (self.root / name / "key.json").is_file()]

    def entries(self) -> list[Entry]:
        """Return all matrices, complete or not, by backbone, split and order of the units.

        Raises
        ------
        IdentityError
            If a manifest was edited.
        """
        return [entry for folder in self.passes() for entry in _entries_of(folder)]

    def has_complete(self, key: ArrayKey) -> bool:
        """Return whether the matrix is there, whole."""
        return PassFolder(self.root, key.pass_digest).is_complete(key.digest)

    def units(self, split: str | Split, backbone: Any = None, *, complete: bool = True) -> tuple[str, ...]:
        """Return the units stored for a split, in the order in which the network executes them."""
        entries = self._of_backbone(self._of_split(split)[0], backbone, split)
        return tuple(dict.fromkeys(entry.unit for entry in entries if entry.is_complete or not complete))

    def features(
        self, unit: str, split: str | Split, *, backbone: Any = None, pool: str | None = None, dtype: str | None = None
    ) -> FeatureMatrix:
        """Return one stored matrix; nothing but its description is read yet.

        Parameters
        ----------
        unit : str
            Name of the unit.
        split : str or Split
            A name under which the split was extracted; or the split itself, which is found by its contents, also among the
            rows of a larger one. The labels are then its own.
        backbone : str, Backbone or None
            Its name or its weights digest, or the backbone itself; needed where several are stored.
        pool, dtype : str or None
            Needed where several are stored.

        Raises
        ------
        NotStored
            If there is none, or it is not complete; names what is there and the command that makes it.
        Ambiguous
            If several fit.
        IdentityError
            If the split or the network has the name of a stored one and is another.
        """
        return self.matrices((unit,), split, backbone=backbone, pool=pool, dtype=dtype)[unit]

    def matrices(
        self,
        units: Sequence[str],
        split: str | Split,
        *,
        backbone: Any = None,
        pool: str | None = None,
        dtype: str | None = None,
    ) -> dict[str, FeatureMatrix]:
        """Return several units of a split; what the store says about them is read once for all.

        Parameters and errors are those of `features`.
        """
        entries, selections = self._of_split(split, glance := _Glance())
        entries = self._of_backbone(entries, backbone, split)
        chosen = [self._one(entries, selections, unit, split, pool, dtype) for unit in units]
        return {e.unit: self._open(e, split, selections.get(e.pass_id), glance) for e in chosen}

    # ---- changing it

    def writing(
        self,
        key: PassKey,
        split: Split,
        provenance: Mapping[str, Any],
        *,
        timeout: float | None = None,
        durable: bool = True,
    ) -> AbstractContextManager[Session]:
        """Become the one writer of a pass.

        ::

            with store.writing(key, split, provenance) as session:
                session.begin(arrays)
                for block in session.missing_blocks():
                    session.write(block, {array: rows_of(block, array) for array in session.arrays})
                session.commit()

        Leaving without `commit`, by an error or a kill, keeps every block that was written for the next writer.

        Parameters
        ----------
        key : PassKey
        split : Split
            Its ids and labels are stored beside the features.
        provenance : mapping
            JSON-like, kept with every array: library versions, device, ``"units"`` with all units of the backbone in order of
            execution. Nothing that differs between two runs of the same command, so that a resumed store has the bytes of
            an uninterrupted one.
        timeout : float or None
            Seconds to wait for another writer of the same pass; None waits as long as it takes, 0 not at all.
        durable : bool
            False leaves flushing to the operating system: faster, safe against kills, not against power cuts.

        Raises
        ------
        StoreBusy
            If another writer still holds the pass after `timeout`.
        StoreWrite
            If the folder cannot be written.
        """
        from featstore.writing import open_session

        split.digest(self.digest_cache)
        return open_session(PassFolder(self.root, key.digest), key, split, provenance, timeout=timeout, durable=durable)

    def set_targets(
        self, split: str | Split, labels: np.ndarray, name: str = "labels", classes: Sequence[str] = ()
    ) -> None:
        """Store or replace labels of a split, for every backbone that was run over it. No feature is computed.

        Parameters
        ----------
        split : str or Split
        labels : array
            (n,) class numbers or (n, k) of 0 and 1, in the order of the stored ids.
        name : str
            ``"labels"`` are what `FeatureMatrix.labels` returns; others are asked for by `FeatureMatrix.targets`.
        classes : sequence of str
            Their names.
        """
        entries, selections = self._of_split(split)
        folders = {e.pass_id: e.shape[0] for e in entries if e.pass_id not in selections}
        if not folders:
            raise NotStored(f"{_name_of(split)} is stored only as rows of a larger split; set the labels of that one.")
        names = tuple(str(c) for c in classes)
        for pass_id, n in folders.items():
            targets = Targets(checked_labels(labels, n, names, _name_of(split)), names)
            with write_errors(self.root):
                PassFolder(self.root, pass_id).write_targets(name, targets)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
        """Read everything and return what is not as it was written.

        Parameters
        ----------
        progress : callable or None
            Called with bytes read and bytes in all.
        """
        from featstore.verifying import verify

        return verify(self, progress)

    # ---- finding

    def _of_split(self, split: str | Split, glance: _Glance | None = None) -> tuple[list[Entry], dict[str, np.ndarray]]:
        """Return the entries of a split, and for passes over a larger split the rows of it that are this one."""
        if isinstance(split, str):
            named = [folder for folder in self.passes() if split in folder.names()]
            found = [entry for folder in named for entry in _entries_of(folder, glance)]
            if not found:
                known = sorted({name for folder in self.passes() for name in folder.names()})
                near = difflib.get_close_matches(split, known, n=5, cutoff=0.4) or known[:12]
                there = "it has " + ", ".join(f"'{n}'" for n in near) if near else "it is empty"
                raise NotStored(
                    f"no split called '{split}' is in {self.root}: {there}. `{self._command('MODEL', split)}` adds it."
                )
            return found, {}
        asked = split.digest(self.digest_cache)
        selections: dict[str, np.ndarray] = {}
        folders: list[PassFolder] = []
        for folder in self.passes():
            key = folder.key()
            if (key.ids_digest, key.content_digest) == (asked.ids_digest, asked.content_digest):
                folders.append(folder)
            elif key.n > len(split):
                rows = _rows_within(asked, self.samples(folder))
                if rows is not None:
                    folders.append(folder)
                    selections[folder.id] = rows
        found = [entry for folder in folders for entry in _entries_of(folder, glance)]
        if not found:
            self._refuse_split(split, asked)
        return found, selections

    def _refuse_split(self, split: Split, asked: SplitDigest) -> None:
        """Say why none of the stored splits is the one asked for."""
        command = self._command("MODEL", split)
        for folder in self.passes():
            if split.name not in folder.names():
                continue
            stored = self.samples(folder)
            rows = {str(name): row for row, name in enumerate(stored.ids)}
            shared = [(i, rows[str(name)]) for i, name in enumerate(asked.ids) if str(name) in rows]
            changed = [i for i, row in shared if (asked.rows[i] != stored.rows[row]).any()]
            found = [f"{len(stored.ids)} samples stored and {len(split)} asked for", f"{len(shared)} ids in common"]
            if changed:
                found.append(
                    f"{len(changed)} of these with other contents or shifts, the first is '{asked.ids[changed[0]]}'"
                )
            raise IdentityError(
                f"the split '{split.name}' in {self.root} is not the one asked for: {', '.join(found)}. Features of other images "
                f"must not be mixed up: `{command}` adds these beside."
            )
        known = sorted({name for folder in self.passes() for name in folder.names()})
        raise NotStored(
            f"no features of the split '{split.name}' are in {self.root}; it has {', '.join(known) or 'nothing'}. `{command}` adds them."
        )

    def _of_backbone(self, entries: list[Entry], backbone: Any, split: str | Split) -> list[Entry]:
        """Return the entries of one backbone, given by name, by weights digest or itself; all where None."""
        if backbone is None:
            return entries
        if isinstance(backbone, str):
            by_weights = [e for e in entries if len(backbone) >= 8 and e.weights_digest.startswith(backbone)]
            return by_weights or self._of_name(entries, backbone, "backbone", [e.backbone for e in entries], split)
        found = [e for e in entries if e.weights_digest == backbone.weights_digest]
        if found:
            return found
        namesakes = [e for e in entries if e.backbone == backbone.name]
        if namesakes:
            stored = PassFolder(self.root, namesakes[0].pass_id).key()
            asked = {"backbone": backbone.name, "weights_digest": backbone.weights_digest}
            said = differences({k: v for k, v in stored.of_network().items() if k in asked}, asked)
            raise IdentityError(
                f"the store {self.root} holds features of {backbone.name} with other weights: {'; '.join(said)}. "
                f"`{self._command(backbone.name, split)}` adds those of these weights beside."
            )
        return self._of_name(entries, backbone.name, "backbone", [e.backbone for e in entries], split)

    def _one(
        self,
        entries: list[Entry],
        selections: Mapping[str, np.ndarray],
        unit: str,
        split: str | Split,
        pool: str | None,
        dtype: str | None,
    ) -> Entry:
        """Return the one complete entry that is asked for, or say why there is not one."""
        entries = self._of_name(entries, unit, "unit", [e.unit for e in entries], split)
        for what, wanted in (("pool", pool), ("dtype", dtype)):
            if wanted is not None:
                entries = self._of_name(entries, wanted, what, [getattr(e, what) for e in entries], split)
        whole = [entry for entry in entries if entry.is_complete]
        if not whole:
            raise NotStored(
                f"unit '{unit}' of {_name_of(split)} in {self.root} is not complete: its extraction is still running or was "
                f"interrupted. Run `{self._command(entries[0].backbone, split)}` again; it goes on where it stopped."
            )
        exact = [entry for entry in whole if entry.pass_id not in selections]
        whole = exact or whole
        if len(whole) > 1:
            choices = "; ".join(f"backbone='{e.backbone}' (weights {e.weights_digest[:8]}, {e.precision}), pool='{e.pool}', "
                                f"dtype='{e.dtype}', {e.shape[0]} samples" for e in whole)  # fmt: skip
            raise Ambiguous(
                f"{len(whole)} matrices of unit '{unit}' of {_name_of(split)} are in {self.root}: {choices}. Say which."
            )
        return whole[0]

    def _of_name(
        self, entries: list[Entry], wanted: str, what: str, names: list[str], split: str | Split
    ) -> list[Entry]:
        """Return the entries whose name is `wanted`; none is a `NotStored` that knows the nearest ones."""
        found = [entry for entry, name in zip(entries, names, strict=True) if name == wanted]
        if not found:
            known = list(dict.fromkeys(names))
            near = difflib.get_close_matches(wanted, known, n=5, cutoff=0.4) or known[:12]
            backbone = wanted if what == "backbone" else entries[0].backbone if entries else "MODEL"
            more = (
                f" --units {shlex.quote(wanted)}"
                if what == "unit"
                else f" --{what} {wanted}"
                if what in ("pool", "dtype")
                else ""
            )
            raise NotStored(
                f"no {what} '{wanted}' of {_name_of(split)} is in {self.root}; stored are {', '.join(repr(n) for n in near)}. "
                f"`{self._command(backbone, split)}{more}` adds it, if the network has it."
            )
        return found

    def samples(self, folder: PassFolder) -> SplitDigest:
        """Return ids and digests of a pass's samples; read once."""
        if folder.id not in self._samples:
            self._samples[folder.id] = folder.samples()
        return self._samples[folder.id]

    def stored_array(self, folder: PassFolder, array_id: str, glance: _Glance | None = None) -> StoredArray:
        """Return the reader of a committed array; what one reader has found good, all readers of this Store rely on."""
        glance = glance or _Glance()
        manifest, key = glance.manifest(folder, array_id), glance.key(folder)
        label = f"unit '{manifest.array.unit}' of {key.backbone} over '{(*folder.names(), 'an unnamed split')[0]}'"
        checked = self._checked.setdefault(array_id, {})
        data = folder.array_path(array_id) / DATA
        return StoredArray(data, manifest.array, manifest.grid, manifest.crcs, self.root, label, checked)

    def _open(self, entry: Entry, split: str | Split, rows: np.ndarray | None, glance: _Glance) -> FeatureMatrix:
        folder = PassFolder(self.root, entry.pass_id)
        key, manifest = glance.key(folder), glance.manifest(folder, entry.array_id)
        matrix = FeatureMatrix(
            array=self.stored_array(folder, entry.array_id, glance),
            unit=entry.unit,
            split=split if isinstance(split, str) else split.name,
            backbone=entry.backbone,
            manifest={
                **manifest.to_json(),
                "pass": key.to_json(),
                "network": key.of_network(),
                "pass_id": entry.pass_id,
                "array_id": entry.array_id,
            },  # fmt: skip
            samples=self.samples(folder),
            all_targets=glance.targets(folder),
        )
        if rows is not None:
            matrix = matrix.select(rows)
        if isinstance(split, Split) and split.labels is not None:
            matrix = matrix.with_labels(split.labels, split.classes)
        return matrix

    def _command(self, backbone: str, split: str | Split) -> str:
        name = split if isinstance(split, str) else split.name
        return f"featstore extract {shlex.quote(backbone)} {shlex.quote(name)} {shlex.quote(str(self.root))}"


def _rows_within(asked: SplitDigest, stored: SplitDigest) -> np.ndarray | None:
    """Return the rows of `stored` that are `asked`, by id and content, or None if one is missing or differs."""
    rows = {str(name): row for row, name in enumerate(stored.ids)}
    found = [rows.get(str(name), -1) for name in asked.ids]
    if min(found, default=-1) < 0 or (stored.rows[found] != asked.rows).any():
        return None
    return np.array(found, np.int64)


class _Glance:
    """What files say, each read once in the course of one question; nothing of it outlives the question."""

    def __init__(self) -> None:
        self._keys: dict[str, PassKey] = {}
        self._manifests: dict[tuple[str, str], Manifest] = {}
        self._targets: dict[str, dict[str, Targets]] = {}

    def key(self, folder: PassFolder) -> PassKey:
        if folder.id not in self._keys:
            self._keys[folder.id] = folder.key()
        return self._keys[folder.id]

    def manifest(self, folder: PassFolder, array_id: str) -> Manifest:
        where = (folder.id, array_id)
        if where not in self._manifests:
            self._manifests[where] = folder.manifest(array_id)
        return self._manifests[where]

    def targets(self, folder: PassFolder) -> dict[str, Targets]:
        if folder.id not in self._targets:
            read = ((name, folder.targets(name)) for name in folder.target_names())
            self._targets[folder.id] = {name: found for name, found in read if found is not None}
        return self._targets[folder.id]


def _entries_of(folder: PassFolder, glance: _Glance | None = None) -> Iterator[Entry]:
    """Yield the entries of one pass in the order of the network's units."""
    glance = glance or _Glance()
    key, names = glance.key(folder), folder.names()
    found: list[tuple[ArrayKey, bool, str]] = []
    order: list[str] = []
    for array_id in folder.array_ids():
        if folder.is_complete(array_id):
            manifest = glance.manifest(folder, array_id)
            created = datetime.fromtimestamp((folder.array_path(array_id) / MANIFEST).stat().st_mtime, UTC)
            found.append((manifest.array, True, f"{created:%Y-%m-%d %H:%M:%S}"))
            order = [str(u) for u in manifest.provenance.get("units", ())] or order
    committed = {array.digest for array, _, _ in found}
    for kind in ("staging", "arrays"):
        for array_id in folder.array_ids(kind):
            path = folder.path / kind / array_id / ARRAY
            if array_id not in committed and path.is_file():
                found.append((ArrayKey.from_json(json.loads(path.read_bytes())["array"]), False, ""))
    place = {unit: i for i, unit in enumerate(order)}
    for array, is_complete, created_at in sorted(
        found, key=lambda f: (place.get(f[0].unit, len(place)), f[0].unit, f[0].digest)
    ):
        yield Entry(
            key.backbone, key.weights_digest, names, array.unit, array.pool, array.dtype, (key.n, *array.shape),
            key.n * array.row_bytes, is_complete, folder.id, array.digest, created_at, key.precision,
        )  # fmt: skip


def _name_of(split: str | Split) -> str:
    return f"split '{split if isinstance(split, str) else split.name}'"
