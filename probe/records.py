"""Results on disk, one record each.

::

    <folder>/<digest>.json                    what was found, and everything that determines it
             <digest>.<first of sha256>.npz   the predictions behind it (see `probe.predictions`)

A record is found by the digest of its key: the identities of the features and labels, the penalties, the seed, … Equal
keys mean equal results, so nothing is computed twice. The predictions are written first and the record, which names
them and their checksum, last and at once: a record that is there is whole, and several processes may share a folder.
Only the standard library and numpy are needed to read one.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from probe.errors import BadInput, DamagedRecord
from probe.files import as_path, write_atomically
from probe.intervals import Interval
from probe.predictions import Predictions

R = TypeVar("R")

FORMAT = 1
"""Version of the records' layout; records of a later one are refused, not guessed at."""

_DIGEST = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Record:
    """One probe: what determined it, and what came out.

    Attributes
    ----------
    key : mapping
        Everything that determines the result, as JSON; its digest is the record's name.
    backbone, unit : str
    depth : int
        Place of the unit among those stored, from 0.
    train, val, test : str
        What the splits are called; no part of the identity. `test` is "" where there was none.
    seed : int
    per_class : int or None
        Training rows drawn per class; None is all.
    metric : str
    higher_is_better : bool
        Of the metric.
    C : float
        The chosen inverse penalty.
    index : int
        Its place in the grid.
    at_edge : bool
        Whether it is the first or last of the grid, so that a better one may lie outside.
    grid, val_scores : tuple of float
        All inverse penalties that were tried, and the validation score of each; where the grid was widened, ascending and
        longer than what was asked for, which is in the key.
    val_score, test_score : float
        Of the chosen model; `test_score` is NaN where there was no test split.
    val_interval, test_interval : Interval or None
        95 %: Wilson for accuracy, bootstrap within classes for mean per class; None for metrics without one here.
    n_train, n_val, n_test, d, k : int
        Rows, features and classes; `n_train` without validation rows.
    is_refitted : bool
        Whether the tested model was fitted again on train + val, at the chosen C.
    status : str
        Of the tested model.
    statuses : mapping of str to int
        How many penalties of the path ended how.
    worst_grad_norm, worst_gap : float
        The largest certificates of the path.
    n_iter, passes : int
        Iterations, and passes over the features, of the path.
    seconds : float
        Wall time of loading, fitting and scoring. Of results that were fitted together each says an equal share, so that
        the sum over records is the time that was spent.
    absent : mapping of str to list of str
        Classes of val or test that train lacks: their rows cannot be right.
    predictions_of : str
        "test", or "val" where there was no test split.
    versions : mapping of str to str
    predictions_file, predictions_sha256 : str
        Filled in by `ResultFolder.write`.
    classifier : str
        One of `probe.classifiers.CLASSIFIERS`.
    widened : str
        What the grid was widened by, and why; empty where it was not.
    n_together : int
        Results that were fitted together: this one, and other seeds of the same unit.
    place : mapping of str to str
        What the call was told of where things are: ``store``, and ``backbone``, ``pool``, ``dtype``, ``device`` where they were
        given; and ``images``, the digest of those it was tested on. No part of the identity: for the command that computes it
        again, and for its thumbnails.
    """

    key: Mapping[str, Any] = field(repr=False)
    backbone: str
    unit: str
    depth: int
    train: str
    val: str
    test: str
    seed: int
    per_class: int | None
    metric: str
    higher_is_better: bool
    C: float
    index: int
    at_edge: bool
    grid: tuple[float, ...] = field(repr=False)
    val_scores: tuple[float, ...] = field(repr=False)
    val_score: float
    test_score: float
    val_interval: Interval | None
    test_interval: Interval | None
    n_train: int
    n_val: int
    n_test: int
    d: int
    k: int
    is_refitted: bool
    status: str
    statuses: Mapping[str, int]
    worst_grad_norm: float
    worst_gap: float
    n_iter: int
    passes: int
    seconds: float
    absent: Mapping[str, list[str]]
    predictions_of: str
    versions: Mapping[str, str]
    predictions_file: str = ""
    predictions_sha256: str = ""
    # Those in `_LATER` are missing in records that were written before there was a choice.
    classifier: str = "logistic"
    widened: str = ""
    n_together: int = 1
    place: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def digest(self) -> str:
        """32 hexadecimal digits: the name of the record."""
        return digest_of(self.key)

    @property
    def n_converged(self) -> int:
        """Penalties of the path that met the tolerance."""
        return self.statuses.get("converged", 0)

    def to_json(self) -> dict[str, Any]:
        """What the file holds; ``"self"`` is the checksum of everything else, so that an edit is noticed."""
        said: dict[str, Any] = {"format": FORMAT}
        for f in fields(self):
            value = getattr(self, f.name)
            said[f.name] = _finite(list(value) if isinstance(value, tuple) else value)
        return {**said, "self": checksum(said)}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Record:
        """The record that `to_json` wrote; KeyError, TypeError or ValueError where it is another thing."""
        values = {f.name: said[f.name] for f in fields(cls) if f.name in said or f.name not in _LATER}
        for name in ("val_interval", "test_interval"):
            values[name] = None if values[name] is None else Interval(*(float(x) for x in values[name]))
        for name in ("grid", "val_scores"):
            values[name] = tuple(_number(x) for x in values[name])
        for name in ("val_score", "test_score", "worst_grad_norm", "worst_gap"):
            values[name] = _number(values[name])
        return cls(**values)


_LATER = frozenset({"classifier", "widened", "n_together", "place"})


class ResultFolder:
    """A folder of records.

    Parameters
    ----------
    path : str or Path
        Need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = as_path(path, "A folder of results")

    def __repr__(self) -> str:
        return f"ResultFolder({str(self.path)!r})"

    def read(self, digest: str) -> Record | None:
        """Return the record of a key, checked with its predictions; None where there is none.

        Raises
        ------
        DamagedRecord
            Where there is one that is not what was written. It is not trusted; computing it again replaces it.
        BadInput
            Where it was written by a later version.
        """
        path = self.path / f"{_checked(digest)}.json"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadInput(
                f"The record '{path}' cannot be read: {error.strerror or error}. Choose another folder for the results."
            ) from error
        record = parsed(content, path, Record.from_json, what="a record", again=_AGAIN)
        if record.digest != digest:
            raise DamagedRecord(f"The record '{path}' describes {record.digest}, not what its name says: {_AGAIN}")
        self._predictions_bytes(record)
        return record

    def write(self, record: Record, predictions: Predictions) -> Record:
        """Keep a record and its predictions; returns the record as it would be read back."""
        content = predictions.to_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        record = replace(record, predictions_file=f"{record.digest}.{sha256[:8]}.npz", predictions_sha256=sha256)
        write_atomically(self.path / record.predictions_file, content)
        text = json.dumps(record.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(self.path / f"{record.digest}.json", text.encode())
        return record

    def predictions(self, record: Record) -> Predictions:
        """Return the predictions behind a record, checked against the checksum in it.

        Raises
        ------
        DamagedRecord
        """
        return Predictions.from_bytes(self._predictions_bytes(record), str(self.path / record.predictions_file))

    def records(self) -> tuple[list[Record], list[str]]:
        """Return the whole records of the folder, by split, depth and seed, and a sentence on each damaged one.

        Raises
        ------
        BadInput
            Where the folder does not exist.
        """
        if not self.path.is_dir():
            raise BadInput(
                f"There is no folder of results at '{self.path}'; `probe sweep … --out {self.path}` makes one."
            )
        found, damaged = [], []
        for path in sorted(self.path.glob("*.json")):
            if not _DIGEST.fullmatch(path.stem):
                continue
            try:
                record = self.read(path.stem)
            except DamagedRecord as error:
                damaged.append(str(error))
                continue
            if record is not None:
                found.append(record)
        found.sort(key=lambda r: (r.backbone, r.train, r.test, r.per_class or 0, r.depth, r.unit, r.seed, r.digest))
        return found, damaged

    def find(self, prefix: str) -> Record:
        """Return the one record whose digest starts with ``prefix``.

        Raises
        ------
        BadInput
            Where there is none, or several.
        """
        names = sorted(p.stem for p in self.path.glob(f"{re.escape(prefix)}*.json")) if prefix.isalnum() else []
        names = [name for name in names if _DIGEST.fullmatch(name)]
        record = self.read(names[0]) if len(names) == 1 else None
        if record is None:
            how_many = f"{len(names)} records start" if names else "No record starts"
            raise BadInput(
                f"{how_many} with '{prefix}' in '{self.path}'; `probe results {self.path}` lists what is there."
            )
        return record

    def _predictions_bytes(self, record: Record) -> bytes:
        return predictions_bytes(
            self.path / Path(record.predictions_file).name, record.predictions_sha256, again=_AGAIN
        )


def digest_of(key: Mapping[str, Any]) -> str:
    """First 32 hexadecimal digits of the sha256 of a key's canonical JSON."""
    canonical = json.dumps(key, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


_AGAIN = "it was edited or damaged and is not used; the same sweep computes it again."


def _checked(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise BadInput(f"'{digest}' is not the name of a record: 32 hexadecimal digits.")
    return digest


def parsed(content: bytes, path: Path, make: Callable[[Mapping[str, Any]], R], *, what: str, again: str) -> R:
    """The record in a file, once its format and its checksum are found right.

    Parameters
    ----------
    content : bytes
    path : Path
        Names the file in errors.
    make : callable
        Makes a record of the values; KeyError, TypeError or ValueError where they are another thing.
    what, again : str
        What the record is called, and what can be done about a damaged one.

    Raises
    ------
    DamagedRecord
        Where it is not what was written.
    BadInput
        Where it was written by a later version.
    """
    try:
        said = json.loads(content)
        newer = isinstance(said, dict) and isinstance(said.get("format"), int) and said["format"] > FORMAT
    except ValueError as error:
        raise DamagedRecord(f"The record '{path}' is not valid JSON ({error}): {again}") from error
    if newer:
        raise BadInput(
            f"The record '{path}' has format {said['format']} but this version reads formats up to {FORMAT}; "
            "read it with the newer version that wrote it, or choose another folder."
        )
    try:
        rest = {name: value for name, value in said.items() if name != "self"}
        if said["self"] != checksum(rest):
            raise DamagedRecord(f"The record '{path}' was changed after it was written: {again}")
        return make(said)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedRecord(f"The record '{path}' is not {what} ({error!r}): {again}") from error


def checksum(said: Mapping[str, Any]) -> str:
    """Sha256 of the JSON of a record's values, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(said, sort_keys=True, allow_nan=False).encode()).hexdigest()


def predictions_bytes(path: Path, sha256: str, *, again: str) -> bytes:
    """The content of a file of predictions, once it is found to be what the record says; DamagedRecord otherwise."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedRecord(f"The predictions '{path}' cannot be read ({error.strerror or error}): {again}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedRecord(f"The predictions '{path}' are not those that were written: {again}")
    return content


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are kept as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return [_finite(x) for x in value]
    return value


def _number(value: Any) -> float:
    return float(value)
