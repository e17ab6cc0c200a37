"""One record per result of a study, on disk.

::

    <folder>/records/<digest>.json                    what was asked, what came out
             records/<digest>.<first of sha256>.npz   the predictions behind it (see `probe.predictions`)
             superseded/                              records of what had the same names and is no more
             failed/<digest of what was asked>.json   a cell that could not be computed, with its sentence
             claims/<digest>.lock                     who computes it now; a lock of the system, gone with its process
             plans/<digest>.json                      studies that were run here
             thumbnails/<digest of the images>.zip    small images of a test split, where they were asked for
             features/, probes/, runs/                what results were made from

A record is found by the digest of its key: the identities of network, images and labels, the regime and its options, the seed.
Names are labels: a record holds under which ones it was asked for, the last first, so that a renamed network has its old results.
(Records of earlier versions have names in their key; they are found by the rest of it.) Written first aside and renamed, the
predictions before the record that names them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

from probe.claims import claim
from probe.errors import BadInput, DamagedRecord
from probe.files import write_atomically
from probe.intervals import Interval
from probe.predictions import Predictions
from probe.records import FORMAT, checksum, digest_of, parsed, predictions_bytes
from probe.studies.cells import Cell, Outcome, Study, plain

Names: TypeAlias = tuple[str, str, str, int]
"""Of network, data set and regime, and the seed."""

_DIGEST = re.compile(r"[0-9a-f]{32}")
_AGAIN = "it was edited or damaged and is not used; running the study again computes it again."


@dataclass(frozen=True)
class StudyRecord:
    """One result of a study.

    Attributes
    ----------
    key : mapping
        Everything that determines the result; its digest is the record's name.
    asked : mapping
        What was asked for, by name; see `Cell.asked`.
    metric : str
    higher_is_better : bool
    val_score, test_score : float
    test_interval : Interval or None
        95 %.
    n_train, n_val, n_test : int
    source : float or None
        The network's accuracy on what it was pretrained for.
    chosen, cost, features, details, leaks : mapping
        See `Outcome`.
    history : tuple of mapping
        One per evaluation of a training.
    versions : mapping of str to str
    predictions_file, predictions_sha256 : str
        Filled in when it is written.
    also : tuple of mapping
        Under which other names it was asked for.
    place : mapping of str to str
        What its computation was told beside the study: ``data_root``, ``device``.
    """

    key: Mapping[str, Any] = field(repr=False)
    asked: Mapping[str, Any] = field(repr=False)
    metric: str
    higher_is_better: bool
    val_score: float
    test_score: float
    test_interval: Interval | None
    n_train: int
    n_val: int
    n_test: int
    source: float | None
    chosen: Mapping[str, Any]
    cost: Mapping[str, float]
    features: Mapping[str, Any] = field(repr=False)
    details: Mapping[str, Any] = field(repr=False)
    leaks: Mapping[str, Any] = field(repr=False)
    history: tuple[Mapping[str, Any], ...] = field(repr=False)
    versions: Mapping[str, str] = field(repr=False)
    predictions_file: str = ""
    predictions_sha256: str = ""
    # Those in `_LATER` are missing in records of earlier versions.
    also: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    place: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def digest(self) -> str:
        """32 hexadecimal digits: the name of the record."""
        return digest_of(self.key)

    @property
    def identity(self) -> str:
        """32 hexadecimal digits: of what was computed, whatever it is called."""
        return digest_of({name: value for name, value in self.key.items() if name != "names"})

    @property
    def names(self) -> Names:
        """Network, data set, regime, seed: those under which it was last asked for."""
        return names_of(self.asked)

    @property
    def labels(self) -> tuple[Mapping[str, Any], ...]:
        """All that was asked for and is this result, the last first."""
        return (self.asked, *self.also)

    def asked_by(self, cell: Cell) -> StudyRecord:
        """The same result as that of a cell: with its names, and its network's accuracy on the source task."""
        return replace(self, asked=plain(cell.asked), also=(), source=cell.network.source)

    def labelled(self, cell: Cell, ours: Container[str] = ()) -> StudyRecord:
        """The same result with what a cell asks among its labels: the first, but behind another one of the same study.

        Parameters
        ----------
        cell : Cell
        ours : container of str
            Digests of all that the study asks.
        """
        asked, first = plain(cell.asked), plain(self.asked)
        others = [a for a in map(plain, self.labels) if names_of(a) != cell.names]
        if asked != first and digest_of(first) in ours and first in others:
            return replace(self, asked=first, also=(asked, *(a for a in others if a != first)))
        return replace(self, asked=asked, also=tuple(others), source=cell.network.source)

    def without(self, names: Names) -> StudyRecord | None:
        """The same result under its other names; None where it has no others."""
        left = [asked for asked in self.labels if names_of(asked) != names]
        return replace(self, asked=left[0], also=tuple(left[1:])) if left else None

    @classmethod
    def of(cls, cell: Cell, key: Mapping[str, Any], outcome: Outcome, versions: Mapping[str, str]) -> StudyRecord:
        """Make the record of what a regime returned."""
        said = {f.name: getattr(outcome, f.name) for f in fields(outcome) if f.name != "predictions"}
        return cls(
            key=key,
            asked=cell.asked,
            metric=cell.dataset.metric,
            source=cell.network.source,
            versions=versions,
            **{**said, "history": tuple(dict(row) for row in outcome.history)},
        )

    def to_json(self) -> dict[str, Any]:
        """The record as plain values, with its format and a checksum of all of it."""
        said = {"format": FORMAT, **plain(asdict(self))}
        return {**said, "self": checksum(said)}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> StudyRecord:
        """Make a record of what `to_json` gave."""
        given = {f.name: said[f.name] for f in fields(cls) if f.name in said or f.name not in _LATER}
        given["also"] = tuple(given.get("also", ()))
        ends = given["test_interval"]
        given["test_interval"] = None if ends is None else Interval(*(float(end) for end in ends))
        given |= {name: float(given[name]) for name in ("val_score", "test_score")}
        given["history"] = tuple(given["history"])
        return cls(**given)


_LATER = frozenset({"also", "place"})


def names_of(asked: Mapping[str, Any]) -> Names:
    """Network, data set, regime and seed of what was asked for, see `Cell.asked`."""
    network, dataset, regime = (str(asked[side]["name"]) for side in ("network", "dataset", "regime"))
    return network, dataset, regime, int(asked["seed"])


def unnamed(asked: Mapping[str, Any]) -> str:
    """Digest of what was asked for without the names that tables have for it."""
    sides = {side: {**asked[side], "name": ""} for side in ("network", "dataset", "regime")}
    return digest_of(plain({**asked, **sides}))


class Labelled:
    """Records by what was asked for.

    Parameters
    ----------
    records : sequence of StudyRecord
    """

    def __init__(self, records: Sequence[StudyRecord]) -> None:
        self._exactly: dict[str, StudyRecord] = {}
        self._unnamed: dict[str, StudyRecord] = {}
        for record in records:
            for asked in record.labels:
                if {"network", "dataset", "regime", "seed"} <= set(asked):
                    self._exactly[digest_of(plain(asked))] = self._unnamed[unnamed(asked)] = record

    def of(self, cell: Cell) -> StudyRecord | None:
        """The record of a cell, under its names or, where what it asks was only renamed, under others; None without one."""
        found = self._exactly.get(digest_of(plain(cell.asked)))
        return found or self._unnamed.get(unnamed(cell.asked))


@dataclass(frozen=True)
class Failure:
    """A cell that could not be computed.

    Attributes
    ----------
    asked : mapping
        See `Cell.asked`.
    sentence : str
        What went wrong.
    traceback : str
        Where; empty for errors that are sentences already.
    """

    asked: Mapping[str, Any]
    sentence: str
    traceback: str = field(default="", repr=False)

    @property
    def names(self) -> Names:
        """Network, data set, regime, seed."""
        return names_of(self.asked)


def failure_lines(failures: Sequence[Failure]) -> list[str]:
    """A line for each thing that went wrong, with the cells that it stopped."""
    by_sentence: dict[str, list[Failure]] = {}
    for failure in failures:
        by_sentence.setdefault(failure.sentence, []).append(failure)
    lines = []
    for sentence, found in by_sentence.items():
        network, dataset, regime, seed = found[0].names
        more = f" and {len(found) - 1} more cells" if len(found) > 1 else ""
        lines.append(f"failed: {network} on {dataset}, {regime}, seed {seed}{more}: {sentence}")
    return lines


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study; made when something is written."""

    path: Path

    def read(self, digest: str) -> StudyRecord | None:
        """Return a record, None where there is none.

        Raises
        ------
        DamagedRecord
            Where there is one that is not what was written.
        BadInput
            Where it was written by a later version.
        """
        path = self.path / "records" / f"{digest}.json"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadInput(f"The record '{path}' cannot be read: {error.strerror or error}.") from error
        record = parsed(content, path, StudyRecord.from_json, what="a record of a study", again=_AGAIN)
        if record.digest != digest:
            raise DamagedRecord(f"The record '{path}' describes {record.digest}, not what its name says: {_AGAIN}")
        self._content(record)
        return record

    def find(self, prefix: str) -> StudyRecord:
        """Return the one record whose digest starts with ``prefix``.

        Raises
        ------
        BadInput
            Where there is none, or several.
        """
        paths = sorted((self.path / "records").glob(f"{prefix}*.json")) if prefix.isalnum() else []
        names = [path.stem for path in paths if _DIGEST.fullmatch(path.stem)]
        record = self.read(names[0]) if len(names) == 1 else None
        if record is None:
            how_many = f"{len(names)} records start" if names else "No record starts"
            raise BadInput(f"{how_many} with '{prefix}' in the study '{self.path}'; its table names what is there.")
        return record

    def write(self, record: StudyRecord, predictions: Predictions) -> StudyRecord:
        """Keep a record and its predictions; returns the record as it would be read back."""
        content = predictions.to_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        record = replace(record, predictions_file=f"{record.digest}.{sha256[:8]}.npz", predictions_sha256=sha256)
        write_atomically(self.path / "records" / record.predictions_file, content)
        said = record.to_json()
        text = json.dumps(said, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(self.path / "records" / f"{record.digest}.json", text.encode())
        for asked in record.labels:
            self._failed(asked).unlink(missing_ok=True)
        return StudyRecord.from_json(json.loads(text))

    def predictions(self, record: StudyRecord) -> Predictions:
        """Return the predictions behind a record, checked against the checksum in it.

        Raises
        ------
        DamagedRecord
        """
        return Predictions.from_bytes(self._content(record), str(self.path / "records" / record.predictions_file))

    def unname(self, digest: str, names: Names) -> None:
        """Take names from a record that now mean another network, other images or labels; set it aside where it has no others."""
        with suppress(DamagedRecord):
            record = self.read(digest)
            left = None if record is None else record.without(names)
            if record is not None and left is not None:
                self.write(left, self.predictions(record))
                return
        self._supersede(digest)

    def _supersede(self, digest: str) -> None:
        aside = self.path / "superseded"
        aside.mkdir(exist_ok=True)
        with suppress(OSError):  # another process may have done it
            (self.path / "records" / f"{digest}.json").rename(aside / f"{digest}.json")

    def restore(self, digest: str) -> None:
        """Bring a record back that was set aside, if there is one and none in its place."""
        there = self.path / "records" / f"{digest}.json"
        with suppress(OSError):
            if not there.exists():
                (self.path / "superseded" / there.name).rename(there)

    def fail(self, cell: Cell, sentence: str, traceback: str = "") -> Failure:
        """Keep what went wrong with a cell."""
        failure = Failure(plain(cell.asked), sentence, traceback)
        write_atomically(self._failed(failure.asked), json.dumps(asdict(failure), indent=1).encode())
        return failure

    def records(self) -> tuple[list[StudyRecord], list[str]]:
        """Return the whole records, by name, and a sentence on each damaged one."""
        found, damaged = [], []
        for path in sorted((self.path / "records").glob("*.json")):
            if not _DIGEST.fullmatch(path.stem):
                continue
            try:
                record = self.read(path.stem)
            except DamagedRecord as error:
                damaged.append(str(error))
                continue
            if record is not None:
                found.append(record)
        return sorted(found, key=lambda r: (*r.names, r.digest)), damaged

    def failures(self) -> list[Failure]:
        """Return what could not be computed so far."""
        found = []
        for path in sorted((self.path / "failed").glob("*.json")):
            with suppress(OSError, ValueError, TypeError):  # a half-written one cannot be; an edited one says nothing
                found.append(Failure(**json.loads(path.read_bytes())))
        return sorted(found, key=lambda f: f.names)

    def keep_plan(self, study: Study) -> Path:
        """Keep what a study asks for, so that its results can be made again; equal studies are one file."""
        said = study.to_json()
        text = json.dumps(said, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        path = self.path / "plans" / f"{digest_of(said)[:12]}.json"
        if not path.exists():
            write_atomically(path, text.encode())
        return path

    def plans(self) -> dict[Path, dict[str, Any]]:
        """The studies that were run here, as plain values by file, the last one first; those that were edited are left out."""
        return self._plans()[0]

    def damaged_plans(self) -> list[str]:
        """A sentence on each plan that is not what was written."""
        return self._plans()[1]

    def _plans(self) -> tuple[dict[Path, dict[str, Any]], list[str]]:
        found, damaged = [], []
        for path in sorted((self.path / "plans").glob("*.json")):
            try:
                said = json.loads(path.read_bytes())
                if digest_of(said)[:12] != path.stem:
                    raise ValueError("it was changed after it was written")
                found.append((path.stat().st_mtime, path, said))
            except (OSError, ValueError, RecursionError) as error:
                damaged.append(
                    f"The plan '{path}' is not used ({error}): results that it asked for have no command here, unless another plan "
                    "asks for them. Running the study again keeps its plan anew."
                )
        return {path: said for _, path, said in sorted(found, key=lambda one: (-one[0], one[1]))}, damaged

    def claim(self, digest: str) -> AbstractContextManager[bool]:
        """Try to be the one that computes a result; gives whether nobody else does. Never waits. See `probe.claims`."""
        return claim(self.path, digest)

    def _failed(self, asked: Mapping[str, Any]) -> Path:
        return self.path / "failed" / f"{digest_of(plain(asked))}.json"

    def _content(self, record: StudyRecord) -> bytes:
        path = self.path / "records" / Path(record.predictions_file).name
        return predictions_bytes(path, record.predictions_sha256, again=_AGAIN)
