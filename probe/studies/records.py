"""One record per result of a study, on disk.

::

    <folder>/records/<digest>.json                    what was asked, what came out
             records/<digest>.<first of sha256>.npz   the predictions behind it (see `probe.predictions`)
             superseded/                              records of what had the same names and is no more
             failed/<digest of what was asked>.json   a cell that could not be computed, with its sentence
             claims/<digest>.lock                     who computes it now; a lock of the system, gone with its process
             features/, probes/, runs/                what results were made from

A record is found by the digest of its key: the identities of network, images and labels, the regime and its options, the seed.
Names are part of it, too: a renamed network has a record of its own, and what was fitted is used again. Written first aside and
renamed, the predictions before the record that names them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from probe.errors import BadInput, DamagedRecord
from probe.files import write_atomically
from probe.intervals import Interval
from probe.predictions import Predictions
from probe.records import FORMAT, checksum, digest_of, parsed, predictions_bytes
from probe.studies.cells import Cell, Outcome, plain

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

    @property
    def digest(self) -> str:
        """32 hexadecimal digits: the name of the record."""
        return digest_of(self.key)

    @property
    def names(self) -> tuple[str, str, str, int]:
        """Network, data set, regime, seed."""
        return (
            str(self.asked["network"]["name"]),
            str(self.asked["dataset"]["name"]),
            str(self.asked["regime"]["name"]),
            int(self.asked["seed"]),
        )

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
        given = {f.name: said[f.name] for f in fields(cls)}
        ends = given["test_interval"]
        given["test_interval"] = None if ends is None else Interval(*(float(end) for end in ends))
        given |= {name: float(given[name]) for name in ("val_score", "test_score")}
        given["history"] = tuple(given["history"])
        return cls(**given)


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
    def names(self) -> tuple[str, str, str, int]:
        """Network, data set, regime, seed."""
        a = self.asked
        return str(a["network"]["name"]), str(a["dataset"]["name"]), str(a["regime"]["name"]), int(a["seed"])


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
        self._failed(record.asked).unlink(missing_ok=True)
        return StudyRecord.from_json(json.loads(text))

    def predictions(self, record: StudyRecord) -> Predictions:
        """Return the predictions behind a record, checked against the checksum in it.

        Raises
        ------
        DamagedRecord
        """
        return Predictions.from_bytes(self._content(record), str(self.path / "records" / record.predictions_file))

    def supersede(self, digest: str) -> None:
        """Set a record aside: what it is called now means another network, other images or labels."""
        aside = self.path / "superseded"
        aside.mkdir(exist_ok=True)
        with suppress(OSError):  # another process may have done it
            (self.path / "records" / f"{digest}.json").rename(aside / f"{digest}.json")

    def restore(self, digest: str) -> None:
        """Bring a record back that was set aside, if there is one."""
        with suppress(OSError):
            (self.path / "superseded" / f"{digest}.json").rename(self.path / "records" / f"{digest}.json")

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

    @contextmanager
    def claim(self, digest: str) -> Iterator[bool]:
        """Try to be the one that computes a result; yields whether nobody else does. Never waits."""
        from filelock import FileLock, Timeout

        folder = self.path / "claims"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"'{folder}' cannot be made: {error.strerror or error}.") from error
        lock = FileLock(folder / f"{digest}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _failed(self, asked: Mapping[str, Any]) -> Path:
        return self.path / "failed" / f"{digest_of(plain(asked))}.json"

    def _content(self, record: StudyRecord) -> bytes:
        path = self.path / "records" / Path(record.predictions_file).name
        return predictions_bytes(path, record.predictions_sha256, again=_AGAIN)
