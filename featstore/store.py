"""Store: a folder of feature matrices that are found by what they are; opening it, asking it, writing to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from featstore.digests import DigestCache
from featstore.entries import Entry, Glance, entries_of
from featstore.errors import BadInput, FeatstoreError, IdentityError, NotStored, StoreFormat, StoreWrite
from featstore.files import PARTIAL, write_errors
from featstore.finding import Finder, folders_in, passes_in
from featstore.holding import Hold
from featstore.manifest import ArrayKey, PassKey
from featstore.matrix import FeatureMatrix
from featstore.passes import DATA, PLAIN_FORMAT, PassFolder, PassSamples, Targets, check_format, read_json, write_json
from featstore.poolings import PoolingLike, pool_name
from featstore.reading import Maps, Stamp, StoredArray
from featstore.remote import RemotePath, place
from featstore.splits import Split, checked_labels
from featstore.streaming import StreamedArray

if TYPE_CHECKING:
    from featstore.removing import Collected
    from featstore.verifying import Problem
    from featstore.writing import Session

__all__ = ["Entry", "Store", "create_store", "open_store"]

FORMAT_FILE = "featstore.json"
READ_ONLY = (
    "the store {root} cannot be {done}: stores behind a URL are only read. Extract into a local folder and copy it there, or take "
    "what is there with `featstore merge {root} FOLDER`."
)


def open_store(root: str | Path) -> Store:
    """Open an existing store: a folder, or a URL that fsspec understands (``s3://bucket/feats``), which is only read.

    Raises
    ------
    NotStored
        If there is no store at `root`.
    StoreFormat
        If it was written by a newer version of featstore.
    """
    root = place(root)
    path = root / FORMAT_FILE
    if not path.is_file():
        what = f"it is a folder without {FORMAT_FILE}" if root.is_dir() else "there is no such folder"
        makes = "" if isinstance(root, RemotePath) else f" `featstore extract MODEL SPLIT {root}` makes one."
        raise NotStored(f"there is no feature store at {root}: {what}.{makes}")
    try:
        said = read_json(path)
    except IdentityError as error:
        raise StoreFormat(
            f'{path} is damaged: it holds no JSON. Nothing but the format is in it; write {{"format": {PLAIN_FORMAT}}} into '
            f"it, and run `featstore verify {root}`."
        ) from error
    try:
        check_format(said, path)
    except IdentityError as error:
        raise StoreFormat(
            f"{path} does not say of which format the store is: it is no feature store, or was edited."
        ) from error
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
    root = place(root)
    if isinstance(root, RemotePath):
        raise StoreWrite(READ_ONLY.format(root=root, done="written"))
    if (root / FORMAT_FILE).is_file():
        return open_store(root)
    if root.exists() and not root.is_dir():
        raise BadInput(f"{root} is a file; a feature store is a folder.")
    with write_errors(root):
        others = sorted(p.name for p in root.iterdir() if not p.name.endswith(PARTIAL)) if root.is_dir() else []
        if others and not (root / FORMAT_FILE).is_file():  # another process may just have made it
            raise BadInput(
                f"{root} holds other things ('{others[0]}') and no {FORMAT_FILE}; choose an empty or a new folder."
            )
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / FORMAT_FILE, {"format": PLAIN_FORMAT})
    return open_store(root)


class Store:
    """A folder of feature matrices; made by `open_store`, `create_store` and `featstore.extract`.

    Attributes
    ----------
    root : Path
    digest_cache : DigestCache
        What `Split.digest` may ask before it reads files.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.digest_cache = DigestCache(root / "cache" / "digests.npz")
        self._samples: dict[str, PassSamples] = {}
        self._checked: dict[str, dict[int, Stamp]] = {}
        self._maps = Maps()
        self._held: WeakValueDictionary[str, Hold] = WeakValueDictionary()

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    # ---- what is there

    def passes(self) -> list[PassFolder]:
        """Return the folders of the passes, sorted by digest."""
        return passes_in(self.root)

    def pass_folders(self) -> list[PassFolder]:
        """Return the folders of the passes, also those that have lost their key and still hold features."""
        return [f for f in folders_in(self.root) if (f.path / "key.json").is_file() or f.array_ids()]

    def entries(self, *, damaged: bool = False) -> list[Entry]:
        """Return all matrices, complete or not, by pass and in the order in which the network executes the units.

        Parameters
        ----------
        damaged : bool
            Where a file that describes matrices was edited or cut short, return an entry that says so, and the others.

        Raises
        ------
        IdentityError
            If there is such a file and `damaged` is False.
        """
        glance = Glance()
        folders = self.pass_folders() if damaged else self.passes()
        return [entry for folder in folders for entry in entries_of(folder, glance, damaged=damaged)]

    def has_complete(self, key: ArrayKey) -> bool:
        """Return whether the matrix is there, whole."""
        return PassFolder(self.root, key.pass_digest).is_complete(key.digest)

    def units(self, split: str | Split, backbone: Any = None, *, complete: bool = True) -> tuple[str, ...]:
        """Return the units stored for a split, in the order in which the network executes them.

        Parameters
        ----------
        split, backbone
            See `features`.
        complete : bool
            False also names those that are still being written.
        """
        finder = self._finder(split)
        entries = finder.of_backbone(finder.of_split(), backbone)
        return tuple(dict.fromkeys(entry.unit for entry in entries if entry.is_complete or not complete))

    def features(
        self,
        unit: str,
        split: str | Split,
        *,
        backbone: Any = None,
        pool: PoolingLike | None = None,
        dtype: str | None = None,
        precision: str | None = None,
    ) -> FeatureMatrix:
        """Return one stored matrix; nothing but its description is read yet.

        Parameters
        ----------
        unit : str
            Name of the unit.
        split : str or Split
            A name under which the split was extracted; or the split itself, which is found by its contents, also among
            the rows of a larger one. The labels are then its own.
        backbone : str, Backbone or None
            Its name or its weights digest, or the backbone itself; needed where several are stored.
        pool, dtype, precision : str or None
            Needed where several are stored; a pooling of the user's may be given itself.

        Raises
        ------
        NotStored
            If there is none, or it is not complete; names what is there and the command that makes it.
        Ambiguous
            If several fit.
        IdentityError
            If the split or the network has the name of a stored one and is another.
        """
        found = self.matrices((unit,), split, backbone=backbone, pool=pool, dtype=dtype, precision=precision)
        return found[unit]

    def matrix(self, entry: Entry) -> FeatureMatrix:
        """Return the matrix of one of `entries`."""
        return self._open(entry, self._finder(entry.split))

    def matrices(
        self,
        units: Sequence[str],
        split: str | Split,
        *,
        backbone: Any = None,
        pool: PoolingLike | None = None,
        dtype: str | None = None,
        precision: str | None = None,
    ) -> dict[str, FeatureMatrix]:
        """Return several units of a split; what the store says about them is read once for all.

        Parameters and errors are those of `features`.
        """
        finder = self._finder(split)
        entries = finder.of_backbone(finder.of_split(), backbone)
        wanted = {"pool": pool if pool is None else pool_name(pool), "dtype": dtype, "precision": precision}
        return {unit: self._open(finder.one(entries, unit, **wanted), finder) for unit in units}

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
            JSON-like, kept with every array: library versions, device, ``"units"`` with all units of the backbone in
            order of execution. Nothing that differs between two runs of the same command, so that a resumed store has
            the bytes of an uninterrupted one.
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

        self.refuse_if_remote("written")
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
        self.refuse_if_remote("written")
        finder = self._finder(split)
        sizes = {e.pass_id: e.shape[0] for e in finder.of_split() if e.pass_id not in finder.selections}
        if not sizes:
            raise NotStored(
                f"split '{finder.name}' is stored only as rows of a larger split; set the labels of that one, or use "
                "FeatureMatrix.with_labels."
            )
        names = tuple(str(c) for c in classes)
        targets = {i: Targets(checked_labels(labels, n, names, finder.name), names) for i, n in sizes.items()}
        with write_errors(self.root):
            for pass_id, found in targets.items():
                PassFolder(self.root, pass_id).write_targets(name, found)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
        """Read everything and return what is not as it was written.

        Parameters
        ----------
        progress : callable or None
            Called with bytes read and bytes in all.
        """
        from featstore.verifying import verify

        return verify(self, progress)

    def remove(self, entries: Sequence[Entry]) -> Collected:
        """Remove matrices: all of them, or none where one is in use.

        In use is what another process is writing, and what a process, this one included, has opened and still refers to.

        Parameters
        ----------
        entries : sequence of Entry
            Some of `entries`, complete, begun or damaged.

        Raises
        ------
        StoreBusy
            If one is in use; names it.
        """
        from featstore.removing import remove

        return remove(self, entries)

    def collect_garbage(self, *, incomplete: bool = False) -> Collected:
        """Remove what nothing refers to: files of writers that were killed, and descriptions of passes without a matrix.

        Parameters
        ----------
        incomplete : bool
            Also matrices whose extraction was interrupted, with the rows that they have. What is being written stays.
        """
        from featstore.removing import collect_garbage

        return collect_garbage(self, incomplete=incomplete)

    def refuse_if_remote(self, done: str) -> None:
        """Raise `StoreWrite` where the store lies behind a URL: such stores are only read."""
        if isinstance(self.root, RemotePath):
            raise StoreWrite(READ_ONLY.format(root=self.root, done=done))

    # ---- opening what was found

    def stored_array(self, folder: PassFolder, array_id: str, glance: Glance | None = None) -> StoredArray:
        """Return the reader of a committed array; what one reader of this Store has checked, the others rely on."""
        glance = glance or Glance()
        manifest, key = glance.manifest(folder, array_id), glance.key(folder)
        names: tuple[str, ...] = ()
        with suppress(FeatstoreError):
            names = glance.names(folder)
        label = f"unit '{manifest.array.unit}' of {key.backbone} over '{(*names, 'an unnamed split')[0]}'"
        path, checked = folder.array_path(array_id), self._checked.setdefault(array_id, {})
        remote = isinstance(self.root, RemotePath)
        hold = self._held.get(array_id)
        if hold is None and not remote:
            hold = self._held[array_id] = Hold(path)
        if not folder.is_complete(array_id):
            raise NotStored(f"{label} was removed from {self.root} just now.")
        reader = StreamedArray if remote else StoredArray
        return reader(
            path / DATA, manifest.array, manifest.grid, manifest.crcs, self.root, label, checked, self._maps, hold
        )

    def _finder(self, split: str | Split) -> Finder:
        return Finder(self.root, split, self.digest_cache, self._samples)

    def _open(self, entry: Entry, finder: Finder) -> FeatureMatrix:
        folder, glance = PassFolder(self.root, entry.pass_id), finder.glance
        key, manifest = glance.key(folder), glance.manifest(folder, entry.array_id)
        ids = {"pass_id": entry.pass_id, "array_id": entry.array_id}
        matrix = FeatureMatrix(
            array=self.stored_array(folder, entry.array_id, glance),
            unit=entry.unit,
            split=finder.name,
            backbone=entry.backbone,
            manifest={**manifest.to_json(), "pass": key.to_json(), "network": key.of_network(), **ids},
            stored=self._samples.setdefault(folder.id, PassSamples(folder)),
        )
        rows = finder.selections.get(entry.pass_id)
        if rows is not None:
            matrix = matrix.select(rows)
        if isinstance(finder.split, Split) and finder.split.labels is not None:
            matrix = matrix.with_labels(finder.split.labels, finder.split.classes)
        return matrix
