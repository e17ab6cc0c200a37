"""What a sweep has to compute: one job per record, seeds of one unit in batches that are fitted together.

Works on features of any origin; `probe.sweeps` takes them from a store.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any, Protocol, TypeAlias

import numpy as np

from probe import metrics
from probe.arrays import require_finite
from probe.classifiers import LOGISTIC
from probe.errors import BadInput
from probe.metrics import Metric
from probe.numbering import absent_classes
from probe.predictions import Predictions
from probe.records import Record, digest_of
from probe.trial import Drawn, Part, run
from probe.trial import Protocol as FitProtocol

PROTOCOL_VERSION = 1
"""Part of every record's key; raised when this package changes a number that a record holds."""

_MOST_TOGETHER = 16  # seeds: what an interrupted batch loses, and from about where sharing gains nothing more
_BATCH_BYTES = 1 << 28  # of the decision values of a batch

Result: TypeAlias = "tuple[Record, Predictions]"


class Features(Protocol):
    """What is asked of stored features (n, d): `featstore.FeatureMatrix` has it."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def split(self) -> str: ...
    @property
    def backbone(self) -> str: ...
    @property
    def ids(self) -> np.ndarray: ...
    @property
    def samples(self) -> Any: ...
    def numpy(self) -> np.ndarray: ...
    def load(self, device: Any = ...) -> Any: ...


@dataclass(frozen=True)
class Draw:
    """What a seed draws: a held-out fraction of train, a few-shot subset of it, both, or nothing."""

    fraction: float | None
    per_class: int | None

    @property
    def is_random(self) -> bool:
        return self.fraction is not None or self.per_class is not None


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of the splits in one common numbering: the same object for all units of one network.

    Attributes
    ----------
    of : dict of str to numpy.ndarray
        Part of the data to labels (n,) int64 or (n, k).
    classes : tuple of str
    digests : dict of str to str
        Of the labels as they were stored: part of what determines a result.
    """

    of: dict[str, np.ndarray]
    classes: tuple[str, ...]
    digests: dict[str, str]


@dataclass(frozen=True, eq=False)
class Source:
    """One unit's stored features over the splits, with their labels."""

    unit: str
    depth: int
    features: dict[str, Features]
    labels: Labels
    identity: dict[str, dict[str, str]] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Job:
    """One record to be: a unit, a seed, and how to fit."""

    source: Source
    seed: int
    draw: Draw
    protocol: FitProtocol
    key: dict[str, Any] = field(init=False, repr=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        how = self.protocol
        key = {
            "protocol_version": PROTOCOL_VERSION,
            **self.source.identity,
            "held_out": self.draw.fraction,
            "per_class": self.draw.per_class,
            "seed": self.seed if self.draw.is_random else None,
            "C": list(how.C),
            "tol": how.tol,
            "metric": how.metric.name,
            "refit": how.refit and "test" in self.source.features,
        }
        # Only where they are not what they were before they could be chosen: records from then stay findable.
        if how.classifier != LOGISTIC:
            key["classifier"] = how.classifier.name
        if how.widen:
            key["widen"] = True
        if how.metric not in metrics.NAMED and (more := _beside_its_name(how.metric)):
            key["metric_is"] = more
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "digest", digest_of(key))


def _beside_its_name(metric: Metric) -> dict[str, str]:
    """What makes a metric of the user's own another one than its namesake: its direction, and arguments that are fixed."""
    found = {} if metric.higher_is_better else {"higher_is_better": "False"}
    if isinstance(function := metric.function, partial):
        found["arguments"] = repr((function.args, sorted(function.keywords.items())))
    return found


@dataclass(frozen=True, eq=False)
class Batch:
    """Jobs of one unit that are fitted together, and what each of them drew."""

    jobs: tuple[Job, ...]
    drawn: tuple[Drawn, ...]

    @property
    def source(self) -> Source:
        return self.jobs[0].source


def by_unit(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs of each unit, in order of execution of the units, then by seed."""
    ordered = sorted(jobs, key=lambda job: (job.source.depth, job.source.unit, job.seed))
    return [list(group) for _, group in groupby(ordered, key=lambda job: id(job.source))]


def batches_by_unit(jobs: Sequence[Job], drawn: Callable[[Job], Drawn]) -> Iterator[list[Batch]]:
    """Group jobs by unit, and the seeds of each unit into batches: the same for the same jobs, wherever they are run.

    Parameters
    ----------
    jobs : sequence of Job
    drawn : callable
        Draws the rows of a job.

    Yields
    ------
    list of Batch
        Of one unit, in order of execution of the units.
    """
    for group in by_unit(jobs):
        members = [(job, drawn(job)) for job in group]
        labels = members[0][0].source.labels.of["train"]
        n_scores = max(one.n_rows(len(labels)) for _, one in members) * _n_columns(labels)
        size = min(_MOST_TOGETHER, max(1, _BATCH_BYTES // (8 * n_scores)))
        yield [Batch(*zip(*members[a : a + size], strict=True)) for a in range(0, len(members), size)]


def _n_columns(labels: np.ndarray) -> int:
    return labels.shape[1] if labels.ndim == 2 else len(np.unique(labels))


def fitted(batches: Sequence[Batch], device: str | None, memory: float | None = None) -> Iterator[list[Result]]:
    """Fit batches of one unit, whose features are loaded once.

    Parameters
    ----------
    batches : sequence of Batch
    device : str or None
        Where to fit; None stays with numpy.
    memory : float or None
        Bytes that features may take; those of a unit that take more are read from the store again and again.

    Yields
    ------
    list of (Record, Predictions)
        Of a batch, when it is finished.
    """
    started = time.perf_counter()
    source, classifier = batches[0].source, batches[0].jobs[0].protocol.classifier
    # Together, as they are all needed at once: what is chosen on val is fitted again on both, and then judged.
    stays = memory is not None and sum(matrix.nbytes for matrix in source.features.values()) > memory
    how = {"memory": memory, "device": device} if stays else {}
    parts = {}
    for part, matrix in source.features.items():
        X = matrix if stays else matrix.numpy() if device is None else matrix.load(device)
        parts[part] = Part(classifier.features(X), source.labels.of[part], matrix.ids, how)
    # What is shared is divided, so that the seconds of all records are those that were spent.
    share = (time.perf_counter() - started) / sum(len(batch.jobs) for batch in batches)
    for batch in batches:
        yield _fitted(batch, parts, share)


def _fitted(batch: Batch, parts: dict[str, Part], loading_s: float) -> list[Result]:
    started = time.perf_counter()
    source, protocol = batch.source, batch.jobs[0].protocol
    train, val, test = parts["train"], parts.get("val"), parts.get("test")
    try:
        found = run(train, val, test, batch.drawn, protocol, source.labels.classes)
    except BadInput as error:
        part, reason = _reason(parts, error)
        split = source.features[part].split
        # An error of one problem among several has its number; whoever asked knows seeds.
        seeds = [job.seed for job in batch.jobs]
        of = f" (the problems are the seeds {', '.join(map(str, seeds))})" if reason.startswith("Problem ") else ""
        raise BadInput(f"Unit '{source.unit}' of '{split}' cannot be probed{of}: {reason}") from error
    seconds = loading_s + (time.perf_counter() - started) / len(batch.jobs)
    each = zip(batch.jobs, batch.drawn, found, strict=True)
    return [_result(job, drawn, {**said, "seconds": seconds}, len(batch.jobs)) for job, drawn, said in each]


def _reason(parts: dict[str, Part], error: BadInput) -> tuple[str, str]:
    """The part that cannot be used, and why: with rows as they are stored, where the fit saw a subset of them."""
    for part, data in parts.items():
        if data.how:
            continue  # what streams them has said where
        try:
            require_finite(data.X)
        except BadInput as found:
            return part, str(found)
    return "train", str(error)


def _result(job: Job, drawn: Drawn, found: dict[str, Any], n_together: int) -> Result:
    source, metric = job.source, job.protocol.metric
    labels, splits = source.labels.of, {part: matrix.split for part, matrix in source.features.items()}
    train = labels["train"] if drawn.rows is None else labels["train"][drawn.rows]
    seen = {"train": train, "val": labels["val"] if drawn.held is None else labels["train"][drawn.held]}
    if "test" in labels:
        seen["test"] = labels["test"]
    predictions = found.pop("predictions")
    record = Record(
        key=job.key,
        backbone=source.features["train"].backbone,
        unit=source.unit,
        depth=source.depth,
        train=splits["train"],
        val=splits.get("val", f"{job.draw.fraction or 0:g} of train"),
        test=splits.get("test", ""),
        seed=job.seed,
        per_class=job.draw.per_class,
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        n_train=len(seen["train"]),
        n_val=len(seen["val"]),
        n_test=len(labels["test"]) if "test" in labels else 0,
        d=int(source.features["train"].shape[1]),
        absent=absent_classes(seen, source.labels.classes),
        versions=_versions(),
        classifier=job.protocol.classifier.name,
        n_together=n_together,
        **found,
    )
    name = source.unit if not job.draw.is_random else f"{source.unit}, seed {job.seed}"
    return record, replace(predictions, name=name)


def _versions() -> dict[str, str]:
    names = ("featprobe", "numpy", "scipy", "torch")
    out = {}
    for name in names:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out
