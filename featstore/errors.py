"""Every error this package raises on purpose.

FeatstoreError
├── BadInput (also ValueError)      an argument, a file or a name that cannot be used
│   ├── UnknownName                 no such model, split, unit …; carries the nearest known names
│   ├── UnreadableImage             bytes that do not decode to an image
│   ├── MissingData                 files of a data set that are not where they are looked for
│   └── BadLabels                   labels that do not belong to the samples
├── IdentityError                   a manifest that differs from what was asked; a thing that cannot be identified
├── NotStored                       the feature matrix is not there, or not complete
├── Ambiguous                       several stored matrices fit the question
├── CorruptChunk                    stored bytes that are not the bytes that were written
├── StoreBusy                       another process is writing the same pass
├── StoreFormat                     not a store, or one of a newer format
├── StoreWrite                      the disk is full, the folder is read-only
├── WorkerLost                      a process that decodes images was killed
├── ClusterFailed                   a Dask cluster that does not answer, cannot do what is asked, or was lost
└── MissingExtra                    an optional library is not installed

A message is a sentence: what is wrong with both values, why it matters, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "Ambiguous",
    "BadInput",
    "BadLabels",
    "ClusterFailed",
    "CorruptChunk",
    "FeatstoreError",
    "IdentityError",
    "MissingData",
    "MissingExtra",
    "NotStored",
    "StoreBusy",
    "StoreFormat",
    "StoreWrite",
    "UnknownName",
    "UnreadableImage",
    "WorkerLost",
]

N_NEAREST = 5


class FeatstoreError(Exception):
    """Base of every error that featstore raises on purpose."""


class BadInput(FeatstoreError, ValueError):
    """An argument, a file or a name that cannot be used."""


class UnknownName(BadInput):
    """A name that is not among the known ones.

    Parameters
    ----------
    kind : str
        What the name was meant to name, in words: ``"unit"``, ``"model of timm"``.
    name : str
        The name that was given.
    known : iterable of str
        The names that exist.
    hint : str
        A sentence of advice put at the end.

    Attributes
    ----------
    name : str
    known : tuple of str
    nearest : tuple of str
        At most five known names that look like `name`, best first.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        self.name = name
        self.known = tuple(known)
        by_case = {k.lower(): k for k in self.known}
        found = difflib.get_close_matches(name.lower(), by_case, n=N_NEAREST, cutoff=0.4)
        self.nearest = tuple(by_case[f] for f in found)
        if self.nearest:
            choices = f"the nearest known names are {_listed(self.nearest)}"
        elif self.known:
            choices = f"known are {_listed(self.known[:12])}{' …' if len(self.known) > 12 else ''}"
        else:
            choices = "there are none at all"
        super().__init__(f"there is no {kind} called '{name}': {choices}.{' ' + hint if hint else ''}")

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_unknown, (self.args[0], self.name, self.known, self.nearest))


def _rebuild_unknown(message: str, name: str, known: tuple[str, ...], nearest: tuple[str, ...]) -> UnknownName:
    error = UnknownName.__new__(UnknownName, message)
    error.args = (message,)
    error.name, error.known, error.nearest = name, known, nearest
    return error


class UnreadableImage(BadInput):
    """Bytes that do not decode to an image; the message names the sample."""


class MissingData(BadInput):
    """Files of a data set that are not where they are looked for; the message says what to put where."""


class BadLabels(BadInput):
    """Labels of the wrong length, kind or range for the samples they are given for."""


class IdentityError(FeatstoreError):
    """What is stored and what is asked for are not the same thing, or a thing has no identity at all."""


class NotStored(FeatstoreError):
    """The feature matrix is not in the store, or not complete; the message says what is, and what to run."""


class Ambiguous(FeatstoreError):
    """Several stored matrices fit the question; the message lists them and says how to choose."""


class CorruptChunk(FeatstoreError):
    """Stored bytes that are not the bytes that were written.

    Parameters
    ----------
    reason : str
        What is wrong with the file, in words.
    store : Path
        Root of the store.
    array : str
        The array, in words: backbone, split, unit.
    rows : tuple of int
        First row and one past the last row that the bad chunk holds.
    """

    def __init__(self, reason: str, *, store: Path, array: str, rows: tuple[int, int]) -> None:
        self.reason, self.store, self.array, self.rows = reason, store, array, rows
        super().__init__(
            f"rows {rows[0]} to {rows[1] - 1} of {array} in the store {store} cannot be trusted: {reason}. "
            f"`featstore repair {store}` (in Python: featstore.repair) computes damaged rows again and nothing else, as the "
            f"command that extracted them does with --repair; `featstore verify {store}` lists all damage."
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_corrupt, (self.reason, self.store, self.array, self.rows))


def _rebuild_corrupt(reason: str, store: Path, array: str, rows: tuple[int, int]) -> CorruptChunk:
    return CorruptChunk(reason, store=store, array=array, rows=rows)


class StoreBusy(FeatstoreError):
    """Another process is writing the same pass; the message says which one and since when."""


class StoreFormat(FeatstoreError):
    """Not a store, or one written by a newer version."""


class StoreWrite(FeatstoreError):
    """The store could not be written: the disk is full, the folder is read-only. What was stored before is still good."""


class WorkerLost(FeatstoreError):
    """A process that decodes images was killed, or could not start. What was stored until then is kept."""


class ClusterFailed(FeatstoreError):
    """A Dask cluster that does not answer, cannot do what is asked, or was lost. What was written until then is kept."""


class MissingExtra(FeatstoreError):
    """An optional library is not installed; the message names the extra that brings it."""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{n}'" for n in names)
