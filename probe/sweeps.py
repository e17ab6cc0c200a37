"""Probing many units of a store with many seeds: nothing is computed twice, whatever is finished is kept.

The one file of this package, beside the command line, that knows featstore.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

import featstore
from probe import metrics
from probe.errors import BadInput, DamagedRecord
from probe.metrics import Metric
from probe.numbering import absent_classes, common_labels, labels_digest
from probe.progress import Progress
from probe.records import Record, ResultFolder, digest_of
from probe.results import Results, absent_sentence
from probe.trial import Part, Protocol, run

if TYPE_CHECKING:
    from featstore import Backbone, FeatureMatrix, Split, Store

PROTOCOL_VERSION = 1
"""Part of every record's key; raised when this package changes a number that a record holds."""

SplitLike: TypeAlias = "str | Split"


def sweep(
    store: Store | str | Path,
    *,
    train: SplitLike,
    val: SplitLike | float | None = None,
    test: SplitLike | None = None,
    out: str | Path,
    units: str | Sequence[str] = "all",
    C: Sequence[float] | np.ndarray | None = None,
    seeds: int | Sequence[int] = 1,
    per_class: int | None = None,
    metric: Metric | str = "accuracy",
    refit: bool | None = None,
    backbone: str | Backbone | None = None,
    pool: str | None = None,
    dtype: str | None = None,
    tol: float = 1e-6,
    device: str | None = None,
    progress: bool = True,
) -> Results:
    """Probe every unit of a stored network along a path of penalties.

    For each unit and seed: fit all penalties on train, choose one on val, fit it again on train + val (C is kept: sum
    form), read test once. Each result is a record in ``out``; a record that is there is not computed again.

    Parameters
    ----------
    store : Store, str or Path
        Or the folder of one.
    train, test : str or Split
        Stored splits, by name or themselves.
    val : str, Split, float or None
        A stored split; or the fraction of train to hold out, stratified, by id, anew for each seed; None holds out 0.2.
    out : str or Path
        Folder of the records. Several processes may share one.
    units : "all" or sequence of str
        "all" is every stored unit but the network's own classifier, "head".
    C : sequence of float, optional
        Inverse penalties; None is `probe.C_GRID`, the 45 values of Kornblith, Shlens and Le (2019).
    seeds : int or sequence of int
        How many, or which. A seed draws the hold-out and the few-shot subset.
    per_class : int, optional
        Few-shot: train on this many rows of each class. A held-out fraction is then taken out of these.
    metric : Metric or str
        Chooses C, and is reported; see `probe.metrics`.
    refit : bool, optional
        None refits, except for few-shot subsets with a val split of its own, which would make them larger.
    backbone : str or Backbone, optional
        Needed where several are stored: a name, the beginning of a weights digest, or the backbone itself.
    pool, dtype : str, optional
        Needed where several are stored.
    tol : float
        See `probe.fit_path`.
    device : str, optional
        Where to fit, for example "cuda"; None stays with numpy.
    progress : bool
        Whether to say on stderr what is finished.

    Returns
    -------
    Results
        By seed, then by unit in order of execution.

    Raises
    ------
    BadInput
        On arguments that do not fit each other, and features or labels that cannot be used.
    featstore.FeatstoreError
        On splits or units that are not stored.

    Notes
    -----
    Interrupting keeps every finished record; the same call goes on where it stopped.
    """
    store = featstore.open_store(store) if isinstance(store, str | Path) else store
    if not 0 < tol < 1:
        raise BadInput(f"tol is {tol}, but it must lie between 0 and 1: it bounds relative quantities.")
    if isinstance(val, float) and not 0 < val < 1:
        raise BadInput(f"The fraction of train to hold out as val is {val}; it must lie strictly between 0 and 1.")
    protocol = Protocol(_grid(C), _metric(metric), _refits(refit, per_class, val), float(tol))
    draw = _Draw(0.2 if val is None else val if isinstance(val, float) else None, per_class)
    val_split = val if draw.fraction is None and not isinstance(val, float) else None
    names: dict[str, SplitLike | None] = {"train": train, "val": val_split, "test": test}
    which = {"backbone": backbone, "pool": pool, "dtype": dtype}
    sources = _sources(store, _units(store, units, train, backbone), names, which)
    folder = ResultFolder(out)
    jobs = [_Job(source, seed, draw, protocol) for seed in _seeds(seeds, draw) for source in sources]
    report = Progress(len(jobs), "probe", enabled=progress)
    records: dict[str, Record] = {}
    for job in jobs:
        record = _kept(folder, job, report)
        if record is not None:
            records[job.digest] = record
    missing = [job for job in jobs if job.digest not in records]
    _announce(report, len(jobs), len(missing), folder, sources)
    # Unit by unit, so that each feature matrix is loaded once for all its seeds.
    missing.sort(key=lambda job: (job.source.depth, job.seed))
    report = Progress(len(missing), "probe", enabled=progress)
    try:
        for source, data, job in _loaded(missing, device):
            record, predictions = _result(source, data, job)
            records[job.digest] = folder.write(record, predictions)
            report.finished(_words(record))
    except KeyboardInterrupt:
        n_kept = sum(job.digest in records for job in jobs)
        report.say(
            f"interrupted; {n_kept} of {len(jobs)} results are kept in {folder.path}, the same call goes on there."
        )
        raise
    return Results(tuple(records[job.digest] for job in jobs), folder, len(missing), len(jobs) - len(missing))


@dataclass(frozen=True)
class _Draw:
    """What a seed draws: a held-out fraction of train, a few-shot subset of it, both, or nothing."""

    fraction: float | None
    per_class: int | None

    @property
    def is_random(self) -> bool:
        return self.fraction is not None or self.per_class is not None


@dataclass(frozen=True, eq=False)
class _Source:
    """One unit's stored features over the splits, with labels in one common numbering."""

    unit: str
    depth: int
    features: dict[str, FeatureMatrix]
    labels: dict[str, np.ndarray]
    classes: tuple[str, ...]
    identity: dict[str, dict[str, str]] = field(repr=False)

    @classmethod
    def of(cls, unit: str, depth: int, found: dict[str, FeatureMatrix]) -> _Source:
        said: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {}
        for part, matrix in found.items():
            if matrix.labels is None:
                raise BadInput(
                    f"The {part} split '{matrix.split}' has no labels in the store; add them with Store.set_targets."
                )
            if len(matrix.shape) != 2:
                raise BadInput(
                    f"Unit '{unit}' holds maps of shape {matrix.shape[1:]}; probe pooled features, for example mean."
                )
            said[part] = (matrix.labels, matrix.classes)
        classes, labels = common_labels(said)
        identity = {p: {"features": m.key, "labels": labels_digest(*said[p])} for p, m in found.items()}
        return cls(unit, depth, found, labels, classes, identity)


def _sources(
    store: Store, units: list[tuple[int, str]], names: dict[str, SplitLike | None], which: dict[str, Any]
) -> list[_Source]:
    wanted = [unit for _, unit in units]
    stored = {part: store.matrices(wanted, name, **which) for part, name in names.items() if name is not None}
    return [_Source.of(unit, depth, {part: m[unit] for part, m in stored.items()}) for depth, unit in units]


@dataclass(frozen=True, eq=False)
class _Job:
    """One record to be: a unit, a seed, and how to fit."""

    source: _Source
    seed: int
    draw: _Draw
    protocol: Protocol
    key: dict[str, Any] = field(init=False, repr=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        key = {
            "protocol_version": PROTOCOL_VERSION,
            **self.source.identity,
            "held_out": self.draw.fraction,
            "per_class": self.draw.per_class,
            "seed": self.seed if self.draw.is_random else None,
            "C": list(self.protocol.C),
            "tol": self.protocol.tol,
            "metric": self.protocol.metric.name,
            "refit": self.protocol.refit and "test" in self.source.features,
        }
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "digest", digest_of(key))

    def rows(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Rows of the train split to fit on, and those held out as val (None where val is a split of its own)."""
        matrix, labels = self.source.features["train"], self.source.labels["train"]
        rows = np.arange(len(matrix))
        if self.draw.per_class is not None:
            chosen = featstore.per_class_rows(
                matrix.ids, labels, self.draw.per_class, self.seed, name=matrix.split, classes=self.source.classes
            )
            rows = np.flatnonzero(chosen)
        if self.draw.fraction is None:
            return rows, None
        held = featstore.holdout_rows(matrix.ids[rows], labels[rows], self.draw.fraction, self.seed)
        if not held.any():
            raise BadInput(
                f"Holding out {self.draw.fraction:g} of {len(rows)} rows of '{matrix.split}' leaves none for "
                "validation, as every class has one row only; name a val split."
            )
        return rows[~held], rows[held]


def _grid(C: Sequence[float] | np.ndarray | None) -> tuple[float, ...]:
    if C is None:
        from probe.grids import C_GRID

        C = C_GRID
    values = tuple(float(c) for c in np.asarray(C, dtype=np.float64).ravel())
    if not values or not all(np.isfinite(values)) or min(values) <= 0:
        raise BadInput(f"C must be positive numbers, at least one, but is {values[:5]}.")
    return values


def _metric(metric: Metric | str) -> Metric:
    return metrics.get(metric) if isinstance(metric, str) else metrics.as_metric(metric)


def _refits(refit: bool | None, per_class: int | None, val: object) -> bool:
    """Few-shot with a val split of its own: training on val as well would no longer be few-shot."""
    return refit if refit is not None else per_class is None or val is None or isinstance(val, float)


def _seeds(seeds: int | Sequence[int], draw: _Draw) -> list[int]:
    chosen = list(range(seeds)) if isinstance(seeds, int) else [int(s) for s in seeds]
    if not chosen or len(set(chosen)) < len(chosen):
        raise BadInput(f"seeds is {seeds!r} but must be a number of at least 1, or different seeds.")
    if len(chosen) > 1 and not draw.is_random:
        raise BadInput(
            f"{len(chosen)} seeds were asked for but nothing is drawn: train and val are fixed splits. Give val as a "
            "fraction, or per_class for few-shot subsets, or one seed."
        )
    return chosen


def _units(
    store: Store, units: str | Sequence[str], train: SplitLike, backbone: str | Backbone | None
) -> list[tuple[int, str]]:
    """The units to probe with their depth among the stored ones, in order of execution."""
    stored = [unit for unit in store.units(train, backbone) if unit != "head"]
    wanted = stored if units == "all" else [units] if isinstance(units, str) else list(dict.fromkeys(units))
    if not wanted:
        # The store's own error says what is there and how to get more.
        store.features("penultimate", train, backbone=backbone)
        raise BadInput("No unit was named and none but 'head' is stored.")
    order = {unit: depth for depth, unit in enumerate(stored)}
    return sorted((order.get(unit, len(order)), unit) for unit in wanted)


def _kept(folder: ResultFolder, job: _Job, report: Progress) -> Record | None:
    try:
        return folder.read(job.digest)
    except DamagedRecord as error:
        report.say(str(error))
        return None


def _announce(report: Progress, n: int, n_missing: int, folder: ResultFolder, sources: Sequence[_Source]) -> None:
    first = sources[0]  # the labels are those of the splits, the same for every unit
    for part, absent in absent_classes(first.labels, first.classes).items():
        report.say(absent_sentence(part, absent))
    if n_missing == 0:
        report.say(f"all {n} results are in {folder.path}; nothing to fit.")
        return
    if n_missing < n:
        report.say(f"{n - n_missing} of {n} results are in {folder.path}; fitting the other {n_missing}.")
    for sentence in _shared_images(first.features):
        report.say(sentence)


def _shared_images(features: dict[str, FeatureMatrix]) -> Iterable[str]:
    """Say which splits hold the same images, by content: a score on an image that was fitted or chosen on says nothing."""
    contents = {part: {row.tobytes() for row in matrix.samples.rows} for part, matrix in features.items()}
    for part, other in (("val", "train"), ("test", "train"), ("test", "val")):
        shared = len(contents.get(part, set()) & contents.get(other, set()))
        if shared:
            where = f"{part} ('{features[part].split}') are in {other} ('{features[other].split}')"
            yield f"warning: {shared:,} of {len(contents[part]):,} images of {where} as well; the {part} scores are too good."


def _loaded(jobs: Iterable[_Job], device: str | None) -> Iterable[tuple[_Source, dict[str, Any], _Job]]:
    """Load each source's features once, just before its first job."""
    source: _Source | None = None
    data: dict[str, Any] = {}
    for job in jobs:
        if job.source is not source:
            source, data = job.source, {}
            data = {p: m.numpy() if device is None else m.load(device) for p, m in source.features.items()}
        yield source, data, job


def _result(source: _Source, data: dict[str, Any], job: _Job) -> tuple[Record, Any]:
    rows, held = job.rows()
    matrix, labels = source.features["train"], source.labels["train"]
    whole = held is None and len(rows) == len(matrix)
    train = Part(data["train"] if whole else data["train"][rows], labels[rows], matrix.ids[rows])
    if held is None:
        val = _part(source, data, "val")
    else:
        val = Part(data["train"][held], labels[held], matrix.ids[held])
    test = _part(source, data, "test") if "test" in data else None
    try:
        found = run(train, val, test, job.protocol, source.classes)
    except BadInput as error:
        raise BadInput(f"Unit '{source.unit}' of '{matrix.split}' cannot be probed: {error}") from error
    predictions = found.pop("predictions")
    name = source.unit if not job.draw.is_random else f"{source.unit}, seed {job.seed}"
    described = {part: m.split for part, m in source.features.items()}
    trained_on = {"train": train.y, "val": val.y, **({} if test is None else {"test": test.y})}
    record = Record(
        key=job.key,
        backbone=matrix.backbone,
        unit=source.unit,
        depth=source.depth,
        train=described["train"],
        val=described.get("val", f"{job.draw.fraction or 0:g} of train"),
        test=described.get("test", ""),
        seed=job.seed,
        per_class=job.draw.per_class,
        metric=job.protocol.metric.name,
        higher_is_better=job.protocol.metric.higher_is_better,
        n_train=len(train.y),
        n_val=len(val.y),
        n_test=0 if test is None else len(test.y),
        d=int(matrix.shape[1]),
        absent=absent_classes(trained_on, source.classes),
        versions=_versions(),
        **found,
    )
    return record, _renamed(predictions, name)


def _part(source: _Source, data: dict[str, Any], part: str) -> Part:
    return Part(data[part], source.labels[part], source.features[part].ids)


def _renamed(predictions: Any, name: str) -> Any:
    from dataclasses import replace

    return replace(predictions, name=name)


def _words(r: Record) -> str:
    seed = f" seed {r.seed}" if r.key.get("seed") is not None else ""
    test = f", test {r.test_score:.4f}" if r.test else ""
    sizes = f"{r.n_train:,} × {r.d:,}"
    return f"{r.unit}{seed} ({sizes}): val {r.val_score:.4f} at C = {r.C:.2e}{test}, {r.seconds:.1f} s"


def _versions() -> dict[str, str]:
    names = ("featprobe", "numpy", "scipy", "torch")
    out = {}
    for name in names:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out
