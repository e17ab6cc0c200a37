"""What a report lists: results of any kind as lines of one kind."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probe.intervals import Interval
from probe.predictions import Predictions
from probe.records import Record
from probe.report.commands import Again, StudyCommands, sweep_command
from probe.results import Results, absent_sentence
from probe.studies.leaks import lacks
from probe.studies.records import StudyRecord
from probe.studies.results import StudyResults
from probe.thumbnails import path_of


@dataclass(frozen=True)
class Task:
    """What several candidates are compared on: equal data, equal question.

    Attributes
    ----------
    train, val, test : str
        What the splits are called; `test` is "" where there was none.
    per_class : int or None
        Training rows drawn per class; None is all.
    metric : str
    """

    train: str
    val: str
    test: str
    per_class: int | None
    metric: str

    @property
    def name(self) -> str:
        """The split that is reported on, and how few rows were trained on."""
        few = "" if self.per_class is None else f", {self.per_class} per class"
        return f"{self.test or self.val or self.train}{few}"

    @property
    def long_name(self) -> str:
        """The same with everything that tells tasks of one name apart."""
        held = "a part of it" if not self.val or self.val == self.train else self.val
        return f"{self.name} (train {self.train}, val {held}, {self.metric.replace('_', ' ')})"


@dataclass(frozen=True)
class Candidate:
    """What could be chosen for a task; seeds of one candidate are averaged."""

    model: str
    regime: str
    unit: str

    def __str__(self) -> str:
        said = f"{self.model}, {self.unit}" if self.unit else self.model
        return said if self.regime == "logistic" else f"{said}, {self.regime}"


@dataclass(frozen=True, eq=False)
class Entry:
    """One result.

    Attributes
    ----------
    digest : str
        Name of its record.
    task : Task
    candidate : Candidate
    depth : int
        Place of the unit in the network, from 0.
    d : int
        Features of it.
    seed : int
    higher_is_better : bool
        Of the task's metric.
    C : float or None
        The chosen inverse penalty; None where nothing was chosen along a path.
    at_edge : bool
        Whether it lies at the end of the grid.
    grid, val_scores : tuple of float
    val_score, test_score : float
        NaN where there was no such split.
    val_interval, test_interval : Interval or None
    n_train, n_val, n_test : int
    status : str
        Of the tested model.
    n_converged, n_fits : int
        Fits that met the tolerance, and all.
    worst_grad_norm, worst_gap : float
    n_iter, passes : int
    seconds : float
    notes : tuple of str
        What a reader must know: a widened grid, classes that train lacks.
    again : Again
        What computes it again.
    images : str
        Name of the split of images that `score` is about; a held-out share of train is among the images of train.
    thumbnails : Path or None
        Where small images of its test split are, if any were kept; None where there can be none.
    identity : mapping of str to str
        Digests of what went in.
    versions : mapping of str to str
    predictions : callable
        Gives the predictions behind it, checked.
    is_leaky : bool
        Whether images of test are, by content, among those of train or val; False where nobody looked.
    """

    digest: str
    task: Task
    candidate: Candidate
    depth: int
    d: int
    seed: int
    higher_is_better: bool
    C: float | None
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
    status: str
    n_converged: int
    n_fits: int
    worst_grad_norm: float
    worst_gap: float
    n_iter: int
    passes: int
    seconds: float
    notes: tuple[str, ...]
    again: Again = field(repr=False)
    images: str = field(repr=False)
    thumbnails: Path | None = field(repr=False)
    identity: Mapping[str, str] = field(repr=False)
    versions: Mapping[str, str] = field(repr=False)
    predictions: Callable[[], Predictions] = field(repr=False)
    is_leaky: bool = False

    @property
    def score(self) -> float:
        """The test score, or the validation score where there was no test split."""
        return self.test_score if self.task.test else self.val_score

    @property
    def interval(self) -> Interval | None:
        """Of `score`."""
        return self.test_interval if self.task.test else self.val_interval

    @property
    def n(self) -> int:
        """Rows behind `score`."""
        return self.n_test if self.task.test else self.n_val


def task_names(tasks: Iterable[Task]) -> dict[Task, str]:
    """What to call each task: its name, or its long name where another task has the same."""
    known = list(dict.fromkeys(tasks))
    counts = Counter(task.name for task in known)
    return {task: task.name if counts[task.name] == 1 else task.long_name for task in known}


def entries_of(results: Results | StudyResults) -> list[Entry]:
    """One entry per record, in their order."""
    if isinstance(results, StudyResults):
        again = StudyCommands(results.folder)
        return [_study_entry(record, results, again.of(record)) for record in results]
    return [_entry(record, results) for record in results]


def _entry(r: Record, results: Results) -> Entry:
    notes = [r.widened] if r.widened else []
    notes += [absent_sentence(split, names) for split, names in r.absent.items()]
    return Entry(
        digest=r.digest,
        task=Task(r.train, r.val, r.test, r.per_class, r.metric),
        candidate=Candidate(r.backbone, r.classifier, r.unit),
        predictions=lambda: results.predictions(r),
        notes=tuple(notes),
        again=sweep_command(r, results.folder.path),
        images=r.test or (r.val if r.key.get("held_out") is None else r.train),
        thumbnails=path_of(results.folder.path, r.place["images"]) if r.test and "images" in r.place else None,
        identity=_identity(r.key),
        n_fits=len(r.grid),
        **{name: getattr(r, name) for name in _SAME},
    )


_SAME = (
    "depth", "d", "seed", "higher_is_better", "C", "at_edge", "grid", "val_scores", "val_score", "test_score", "val_interval",
    "test_interval", "n_train", "n_val", "n_test", "status", "n_converged", "worst_grad_norm", "worst_gap", "n_iter", "passes",
    "seconds", "versions",
)  # fmt: skip


def _study_entry(r: StudyRecord, results: StudyResults, again: Again) -> Entry:
    network, dataset, regime, seed = r.names
    told, per_class = r.details, r.details.get("per_class")
    fitted = len(told.get("grid", ()))
    return Entry(
        digest=r.digest,
        task=Task(dataset, "", dataset, per_class, r.metric),
        candidate=Candidate(network, regime, str(r.chosen.get("unit", ""))),
        depth=0,
        d=int(told.get("d", 0)),
        seed=seed,
        higher_is_better=r.higher_is_better,
        C=r.chosen.get("C"),
        at_edge=bool(r.chosen.get("at_edge", False)),
        grid=tuple(told.get("grid", ())),
        val_scores=tuple(told.get("val_scores", ())),
        val_score=r.val_score,
        test_score=r.test_score,
        val_interval=None,
        test_interval=r.test_interval,
        n_train=r.n_train,
        n_val=r.n_val,
        n_test=r.n_test,
        status=str(told.get("status", "")),
        n_converged=int(told.get("n_converged", fitted)),
        n_fits=fitted,
        worst_grad_norm=float(told.get("worst_grad_norm", math.nan)),
        worst_gap=float(told.get("worst_gap", math.nan)),
        n_iter=int(told.get("n_iter", 0)),
        passes=int(told.get("passes", 0)),
        seconds=float(r.cost.get("seconds", math.nan)),
        notes=_leak_notes(r),
        is_leaky=any(n and where.startswith("test in ") for where, n in (r.leaks.get("identical") or {}).items()),
        again=again,
        images=str(r.asked["dataset"].get("test", dataset)),
        thumbnails=_thumbnails(r, results),
        identity={
            "network weights": str(r.key["network"]["weights_digest"]),
            "asked for": json.dumps(dict(r.asked), sort_keys=True),
        },
        versions=r.versions,
        predictions=lambda: results.predictions(r),
    )


def _thumbnails(r: StudyRecord, results: StudyResults) -> Path | None:
    content = r.key.get("data", {}).get("test", {}).get("content")
    return None if content is None else path_of(results.folder.path, str(content))


def _leak_notes(r: StudyRecord) -> tuple[str, ...]:
    """What was found when the splits were looked at for images and classes that should not, or should, be there."""
    notes = [str(r.details["widened"])] if r.details.get("widened") else []
    for kind, what in (("identical", "the same as"), ("near", "nearly the same as")):
        for where, n in (r.leaks.get(kind) or {}).items():
            inner, _, outer = where.partition(" in ")
            if n:
                images = "1 image" if n == 1 else f"{n:,} images"
                notes.append(f"{images} of {inner} {'is' if n == 1 else 'are'} {what} images of {outer}.")
    notes += [f"{lacks(split, names)}." for split, names in (r.leaks.get("absent") or {}).items() if names]
    return tuple(notes)


def _identity(key: Mapping[str, Any]) -> dict[str, str]:
    """Digests of features and labels by split: "train features" → …"""
    return {
        f"{split} {what}": str(digest)
        for split in ("train", "val", "test")
        for what, digest in (key.get(split) or {}).items()
    }
