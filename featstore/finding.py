"""Finding the one stored matrix that a question means, and saying why there is not exactly one.

A question may be loose (the name of a split, the name of a unit) and is answered only where one matrix fits. A `Split` or a
`Backbone` given itself is looked up by its contents: the same name with other contents is refused, never mixed up.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from featstore.digests import DigestCache, SplitDigest
from featstore.entries import UNKNOWN, Entry, Glance, entries_of
from featstore.errors import Ambiguous, FeatstoreError, IdentityError, NotStored
from featstore.manifest import differences, plain
from featstore.passes import DIGEST, PassFolder, PassSamples
from featstore.splits import Split

__all__ = ["Finder", "folders_in", "passes_in"]

T = TypeVar("T")


def folders_in(root: Path) -> list[PassFolder]:
    """Return all folders of passes, sorted by digest, also those that have lost what says what they are."""
    return [PassFolder(root, name) for name in sorted(p.name for p in root.iterdir() if DIGEST.fullmatch(p.name))]


def passes_in(root: Path) -> list[PassFolder]:
    """Return the passes of a store that have a key, sorted by digest."""
    return [folder for folder in folders_in(root) if (folder.path / "key.json").is_file()]


@dataclass
class Finder:
    """One question about one split of a store.

    Attributes
    ----------
    root : Path
        Of the store.
    split : str or Split
    cache : DigestCache
        Asked when the split must be identified by its contents.
    samples : mapping
        Pass to its samples, as far as they were read before; added to.
    selections : dict
        Filled by `of_split`: for a pass over a larger split, the rows of it that are the one asked for.
    """

    root: Path
    split: str | Split
    cache: DigestCache
    samples: dict[str, PassSamples]
    glance: Glance = field(default_factory=Glance)
    selections: dict[str, np.ndarray] = field(default_factory=dict)
    _unread: list[FeatstoreError] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.split if isinstance(self.split, str) else self.split.name

    def of_split(self) -> list[Entry]:
        """Return the entries of the split.

        Raises
        ------
        NotStored
            If there are none.
        IdentityError
            If there are only some of the same name and of other contents.
        """
        folders = self._by_name(self.split) if isinstance(self.split, str) else self._by_content(self.split)
        found = [entry for folder in folders for entry in entries_of(folder, self.glance, damaged=True)]
        if not found and not isinstance(self.split, str):
            self._refuse_namesake(self.split)
        if not found and self._unread:
            raise self._unread[0]
        if not found:
            known = sorted({name for folder in passes_in(self.root) for name in folder.names()})
            near = _nearest(self.name, known)
            there = f"it has {near}" if known else "it is empty"
            raise NotStored(
                f"no split called '{self.name}' is in {self.root}: {there}. `{self.command('MODEL')}` adds it."
            )
        return found

    def of_backbone(self, entries: list[Entry], backbone: Any) -> list[Entry]:
        """Return the entries of one backbone, given by name, by weights digest or itself; all where it is None."""
        if backbone is None:
            return entries
        if isinstance(backbone, str):
            by_weights = [e for e in entries if len(backbone) >= 8 and e.weights_digest.startswith(backbone)]
            return by_weights or self._named(entries, "backbone", backbone)
        asked = {
            "weights_digest": backbone.weights_digest,
            "cut": backbone.cut,
            "preprocessing": plain(backbone.preprocessing.to_json()),
            "version": backbone.version,
        }
        namesakes = self._named([e for e in entries if e.backbone != UNKNOWN] or entries, "backbone", backbone.name)
        stored = {e.pass_id: self.glance.key(PassFolder(self.root, e.pass_id)).of_network() for e in namesakes}
        said: dict[str, list[str]] = {i: differences({k: v[k] for k in asked}, asked) for i, v in stored.items()}
        found = [e for e in namesakes if not said[e.pass_id]]
        if not found:
            nearest = sorted(said.values(), key=len)[0]
            raise IdentityError(
                f"the store {self.root} holds features of another {backbone.name}: {'; '.join(nearest)}. "
                f"`{self.command(backbone.name)}`, with the options that made this one, adds its features beside."
            )
        return found

    def one(self, entries: list[Entry], unit: str, **wanted: str | None) -> Entry:
        """Return the one complete entry of a unit, or say why there is not one."""
        for entry in entries:
            # What cannot be read and may be what is meant must not be passed over for something that fits less well.
            if entry.damage and entry.unit in (unit, UNKNOWN):
                raise self.glance.errors[entry.pass_id, entry.array_id]
        entries = self._named(entries, "unit", unit)
        for what, name in wanted.items():
            if name is not None:
                entries = self._named(entries, what, name)
        whole = [entry for entry in entries if entry.is_complete]
        if not whole:
            raise NotStored(
                f"unit '{unit}' of split '{self.name}' in {self.root} is not complete: its extraction is still running or "
                f"was interrupted. Run `{self.command(entries[0].backbone)}` again; it goes on where it stopped."
            )
        whole = [entry for entry in whole if entry.pass_id not in self.selections] or whole
        if len(whole) > 1:
            raise Ambiguous(self._choices(whole, f"unit '{unit}'"))
        return whole[0]

    def command(self, backbone: str) -> str:
        """Return the command line that adds this split's features of a backbone to the store."""
        return f"featstore extract {shlex.quote(backbone)} {shlex.quote(self.name)} {shlex.quote(str(self.root))}"

    def _choices(self, entries: Sequence[Entry], what: str) -> str:
        varying = [
            name
            for name in ("backbone", "weights_digest", "precision", "pool", "dtype", "shape")
            if len({getattr(e, name) for e in entries}) > 1
        ]
        choices = [
            ", ".join(f"{name}={getattr(e, name)!r}" for name in varying) or f"pass {e.pass_id}" for e in entries
        ]
        return (
            f"{len(entries)} matrices of {what} of split '{self.name}' are in {self.root}: {'; '.join(choices)}. Say which: "
            "backbone= takes a name, a weights digest or the Backbone itself with its preprocessing; pool=, dtype= and "
            "precision= take a name; for images that have changed since, give the Split itself."
        )

    def _by_name(self, name: str) -> list[PassFolder]:
        return [folder for folder in passes_in(self.root) if name in (self._readable(folder.names) or ())]

    def _readable(self, read: Callable[[], T]) -> T | None:
        """Return what `read` reads of a pass, or None: one that is damaged must not stand in the way of the others."""
        try:
            return read()
        except FeatstoreError as error:
            self._unread.append(error)
            return None

    def _by_content(self, split: Split) -> list[PassFolder]:
        """Return the passes over exactly these samples, and those over more that have these among them."""
        asked = split.digest(self.cache)
        folders: list[PassFolder] = []
        for folder in passes_in(self.root):
            key = self._readable(partial(self.glance.key, folder))
            if key is None:
                continue
            if (key.ids_digest, key.content_digest) == (asked.ids_digest, asked.content_digest):
                folders.append(folder)
            elif key.n >= len(split):
                stored = self._readable(partial(self._stored, folder))
                rows = None if stored is None else _rows_within(asked, stored)
                if rows is not None:
                    folders.append(folder)
                    self.selections[folder.id] = rows
        return folders

    def _stored(self, folder: PassFolder) -> SplitDigest:
        return self.samples.setdefault(folder.id, PassSamples(folder)).digest

    def _refuse_namesake(self, split: Split) -> None:
        """Say how the stored split of the same name differs from this one, if there is one."""
        for folder in self._by_name(split.name):
            asked, stored = split.digest(self.cache), self._stored(folder)
            rows = _row_numbers(stored)
            shared = [(i, rows[name]) for i, name in enumerate(asked.ids.tolist()) if name in rows]
            changed = [i for i, row in shared if (asked.rows[i] != stored.rows[row]).any()]
            said = f"{len(stored.ids)} samples stored and {len(split)} asked for, {len(shared)} ids in common"
            if changed:
                said += (
                    f", {len(changed)} of these with other contents or shifts, the first is '{asked.ids[changed[0]]}'"
                )
            raise IdentityError(
                f"the split '{split.name}' in {self.root} is not the one asked for: {said}. Features of other images must "
                f"not be mixed up: `{self.command('MODEL')}` adds these beside."
            )

    def _named(self, entries: list[Entry], what: str, wanted: str) -> list[Entry]:
        """Return the entries whose `what` is `wanted`; none is a `NotStored` that knows the nearest ones."""
        found = [entry for entry in entries if getattr(entry, what) == wanted]
        if found:
            return found
        known = list(dict.fromkeys(str(getattr(entry, what)) for entry in entries))
        backbone = wanted if what == "backbone" else entries[0].backbone
        option = "" if what == "backbone" else f" --{'units' if what == 'unit' else what} {shlex.quote(wanted)}"
        raise NotStored(
            f"no {what} '{wanted}' of split '{self.name}' is in {self.root}; stored are {_nearest(wanted, known)}. "
            f"`{self.command(backbone)}{option}` adds it, if there is such a {what}."
        )


def _nearest(wanted: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(wanted, known, n=5, cutoff=0.4) or list(known[:12])
    return ", ".join(f"'{name}'" for name in near) + (" …" if len(near) < len(known) else "")


def _row_numbers(samples: SplitDigest) -> Mapping[str, int]:
    return {name: row for row, name in enumerate(samples.ids.tolist())}


def _rows_within(asked: SplitDigest, stored: SplitDigest) -> np.ndarray | None:
    """Return the rows of `stored` that are `asked`, by id and content, or None if one is missing or differs."""
    rows = _row_numbers(stored)
    found = np.array([rows.get(name, -1) for name in asked.ids.tolist()], np.int64)
    if (found < 0).any() or (stored.rows[found] != asked.rows).any():
        return None
    return found
