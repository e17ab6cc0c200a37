"""Probing many units of a store with many seeds: nothing is computed twice, whatever is finished is kept.

Beside the probes of studies and the command line the one file of this package that knows featstore.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

import featstore
from probe import jobs as work
from probe import metrics, warned
from probe.claims import in_turns
from probe.classifiers import Classifier, named_classifier
from probe.errors import BadInput, DamagedRecord
from probe.grids import named_grid
from probe.jobs import Draw, Features, Job, Labels, Source
from probe.metrics import Metric
from probe.numbering import absent_classes, common_labels, labels_digest
from probe.path import checked_flag, checked_tol, grid_of
from probe.progress import Progress
from probe.reals import NUMBER
from probe.records import Record, ResultFolder
from probe.results import Results, absent_sentence
from probe.seeds import checked_draws, checked_seed
from probe.trial import Drawn, Protocol
from probe.widening import GridWidened

if TYPE_CHECKING:
    from distributed import Client

    from featstore import Backbone, FeatureMatrix, Split, Store

SplitLike: TypeAlias = "str | Split"


def sweep(
    store: Store | str | Path,
    *,
    train: SplitLike,
    val: SplitLike | float | None = None,
    test: SplitLike | None = None,
    out: str | Path,
    units: str | Sequence[str] = "all",
    C: Sequence[float] | np.ndarray | str | None = None,
    seeds: int | Sequence[int] = 1,
    per_class: int | None = None,
    classifier: str = "logistic",
    metric: Metric | str = "accuracy",
    widen: bool = False,
    refit: bool | None = None,
    backbone: str | Backbone | None = None,
    pool: str | None = None,
    dtype: str | None = None,
    tol: float = 1e-6,
    device: str | None = None,
    memory: float | None = None,
    scheduler: str | Client | None = None,
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
        Folder of the records. Several processes may share one: what another one is fitting is waited for, or fitted here once
        that process was ended.
    units : "all" or sequence of str
        "all" is every stored unit but the network's own classifier, "head".
    C : sequence of float or str, optional
        Inverse penalties, or the name of a grid, see `probe.named_grid`; None is the classifier's own: `probe.C_GRID`, the 45
        values of Kornblith, Shlens and Le (2019), or, for "svm", their 26 of `probe.SVM_GRID`.
    seeds : int or sequence of int
        How many, or which. A seed draws the hold-out and the few-shot subset. Seeds of a unit are fitted together, up to 16
        at a time, and share every pass over its features.
    per_class : int, optional
        Few-shot: train on this many rows of each class. A held-out fraction is then taken out of these.
    classifier : {"logistic", "svm", "ridge"}
        What is fitted. "svm": the squared hinge on rows of length one, as Kornblith, Shlens and Le (2019, Supp. G); "ridge": in
        closed form, for screening.
    metric : Metric or str
        Chooses C, and is reported; see `probe.metrics`.
    widen : bool
        Whether values beyond the grid are tried while the best one lies at its edge, see `probe.widen`; the record then
        holds the longer grid, and a sentence on it.
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
    memory : float, optional
        Bytes that the features of a unit (train, val and test) may take. Those of a unit that take more are not loaded but read
        block by block, again and again, by the function that fits with this `memory`: the same results, in as few readings as
        possible; ridge classification in two, where there are at least as many rows as columns.
    scheduler : str or distributed.Client, optional
        Address of a Dask scheduler, "tcp://host:8786", whose workers fit the units, see `probe.cluster`; None fits here.
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
    ClusterFailed
        When there is no such scheduler, it is lost, or a unit keeps killing the workers that fit it.
    MissingExtra
        When `scheduler` is given and distributed is not installed.
    featstore.FeatstoreError
        On splits or units that are not stored.

    Warns
    -----
    GridWidened
        Once, naming the results.
    NotConverged
        Naming penalties whose certificate falls short.

    Notes
    -----
    Interrupting keeps every finished record; the same call goes on where it stopped.

    Under ``joblib.parallel_config(n_jobs=2)`` the seeds of a unit are dealt to so many processes, see `fit_paths`; the results
    are the same.
    """
    store = _opened(store, for_others=scheduler is not None)
    tol = checked_tol(tol)
    draw, chosen = _draw(val, per_class), named_classifier(classifier)
    _check_memory(memory)
    widen, refit = checked_flag("widen", widen), refit if refit is None else checked_flag("refit", refit)
    protocol = Protocol(_grid(C, chosen), _metric(metric), _refits(refit, draw), tol, chosen, widen)
    splits = _splits(train, None if draw.fraction else val, test)
    which = {"backbone": backbone, "pool": pool, "dtype": dtype}
    sources = _sources(store, _units(store, units, train, backbone), splits, which)
    folder = ResultFolder(out)
    jobs = [Job(source, seed, draw, protocol) for seed in _seeds(seeds, draw) for source in sources]
    report = Progress(len(jobs), "probe", enabled=progress)
    records = _kept(folder, jobs, report)
    missing = [job for job in jobs if job.digest not in records]
    place = _place(store, sources, which, {"device": device, "memory": memory}) if missing else {}
    _announce(report, len(jobs), len(missing), folder, sources)
    report = Progress(len(missing), "probe", enabled=progress)
    fitted: list[Record] = []
    try:
        with closing(_fitted(missing, _There(folder, records, report), (device, memory), scheduler)) as found:
            for results in found:
                for record, predictions in results:
                    fitted.append(folder.write(replace(record, place=place), predictions))
                    records[record.digest] = fitted[-1]
                    report.finished(_words(record))
    except KeyboardInterrupt:
        n_kept = sum(job.digest in records for job in jobs)
        report.say(
            f"interrupted; {n_kept} of {len(jobs)} results are kept in {folder.path}, the same call goes on there."
        )
        raise
    _warn_widened(fitted)
    return Results(tuple(records[job.digest] for job in jobs), folder, len(fitted), len(jobs) - len(fitted))


def _splits(train: Any, val: Any, test: Any) -> dict[str, SplitLike | None]:
    """The splits that are asked for, checked."""
    splits: dict[str, SplitLike | None] = {"train": train, "val": val, "test": test}
    for part, split in splits.items():
        if not isinstance(split, str | featstore.Split) and (part == "train" or split is not None):
            raise BadInput(f"{part} is {split!r}, but must be a split, or the name of one that is stored.")
    return splits


def _check_memory(memory: float | None) -> None:
    if memory is None:
        return
    if isinstance(memory, bool) or not isinstance(memory, NUMBER) or not memory >= 1:
        raise BadInput(f"memory is {memory!r}, but it must be a number of bytes that features may take, such as 4e9.")


def _opened(store: Store | str | Path, *, for_others: bool) -> Store:
    """The store; for workers, who may run in another folder, by its absolute path. A URL is one already."""
    store = featstore.open_store(store) if isinstance(store, str | Path) else store
    is_relative = "://" not in str(store.root) and not store.root.is_absolute()
    return featstore.open_store(store.root.absolute()) if for_others and is_relative else store


def _fitted(
    missing: Sequence[Job],
    there: _There,
    where: tuple[str | None, float | None],
    scheduler: str | Client | None,
) -> Generator[list[work.Result], None, None]:
    """Results as they are finished, here or on a cluster; unit by unit, so that each feature matrix is loaded once."""
    drawn = _drawer()
    for job in missing:
        drawn(job)  # what cannot be drawn is said before anything is claimed
    groups = work.by_unit(missing) if scheduler is None else [missing]
    with closing(in_turns(groups, there.folder.path, there, there.waits)) as turns:
        for jobs in turns:
            units = work.batches_by_unit(jobs, drawn)
            if scheduler is None:
                for batches in units:
                    yield from work.fitted(batches, *where)
                continue
            from probe import cluster

            device, memory = where
            yield from cluster.fitted(list(units), device, scheduler, there.report, memory)


@dataclass(frozen=True, eq=False)
class _There:
    """Whether the result of a job is there; what other processes finish meanwhile is put into ``records``."""

    folder: ResultFolder
    records: dict[str, Record]
    report: Progress

    def __call__(self, job: Job) -> bool:
        if job.digest not in self.records:
            with suppress(DamagedRecord):  # said when the sweep began, and computed again
                record = self.folder.read(job.digest)
                if record is not None:
                    self.records[job.digest] = record
                    self.report.finished(f"{_words(record)}, by another process")
        return job.digest in self.records

    def waits(self, n: int) -> None:
        one = "1 result that another process is fitting"
        self.report.say(f"waiting for {one if n == 1 else f'{n} results that other processes are fitting'}")


def _drawer() -> Callable[[Job], Drawn]:
    """A function that draws the rows of jobs; what a seed draws is the same for all units, and drawn once."""
    known: dict[tuple[Labels, int], Drawn] = {}

    def drawn(job: Job) -> Drawn:
        where = (job.source.labels, job.seed if job.draw.is_random else 0)
        if where not in known:
            known[where] = _drawn(job)
        return known[where]

    return drawn


def _drawn(job: Job) -> Drawn:
    """Rows of the train split to fit on, and those held out as val (None where val is a split of its own)."""
    matrix, labels, draw = job.source.features["train"], job.source.labels.of["train"], job.draw
    if not draw.is_random:
        return Drawn(None, None)
    ids, rows = matrix.ids, np.arange(len(labels))
    if draw.per_class is not None:
        classes = job.source.labels.classes
        rows = np.flatnonzero(
            featstore.per_class_rows(ids, labels, draw.per_class, job.seed, name=matrix.split, classes=classes)
        )
    if draw.fraction is None:
        return Drawn(rows, None)
    held = featstore.holdout_rows(ids[rows], labels[rows], draw.fraction, job.seed)
    if not held.any():
        raise BadInput(
            f"Holding out {draw.fraction:g} of {len(rows)} rows of '{matrix.split}' leaves none for "
            "validation, as every class has one row only; name a val split."
        )
    return Drawn(rows[~held], rows[held])


def _sources(
    store: Store, units: list[tuple[int, str]], splits: dict[str, SplitLike | None], which: dict[str, Any]
) -> list[Source]:
    wanted = [unit for _, unit in units]
    stored = {part: store.matrices(wanted, split, **which) for part, split in splits.items() if split is not None}
    known: dict[tuple[int, ...], Labels] = {}
    sources = []
    for depth, unit in units:
        found = {part: matrices[unit] for part, matrices in stored.items()}
        # Units of one forward pass share its samples: their labels are read, numbered and digested once.
        where = tuple(id(matrix.stored) for matrix in found.values())
        if where not in known:
            known[where] = _labels(found)
        for matrix in found.values():
            if len(matrix.shape) != 2:
                raise BadInput(
                    f"Unit '{unit}' holds maps of shape {matrix.shape[1:]}; probe pooled features, for example mean."
                )
        labels = known[where]
        identity = {part: {"features": m.key, "labels": labels.digests[part]} for part, m in found.items()}
        sources.append(Source(unit, depth, dict(found), labels, identity))
    return sources


def _place(store: Store, sources: Sequence[Source], which: Mapping[str, Any], how: Mapping[str, Any]) -> dict[str, str]:
    """What is no part of a result's identity but of the command that computes it again."""
    said = {"store": store.root, **which, **how}
    if "test" in sources[0].features:
        said["images"] = sources[0].features["test"].samples.content_digest
    if which["backbone"] is not None and not isinstance(which["backbone"], str):
        matrix: Any = sources[0].features["train"]
        said["backbone"] = matrix.manifest["network"]["weights_digest"][:16]
    return {name: str(value) for name, value in said.items() if value is not None}


def _labels(found: dict[str, FeatureMatrix]) -> Labels:
    said: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {}
    for part, matrix in found.items():
        if matrix.labels is None:
            raise BadInput(
                f"The {part} split '{matrix.split}' has no labels in the store; add them with Store.set_targets."
            )
        said[part] = (matrix.labels, matrix.classes)
    classes, labels = common_labels(said)
    return Labels(labels, classes, {part: labels_digest(*one) for part, one in said.items()})


def _draw(val: SplitLike | float | None, per_class: int | None) -> Draw:
    if isinstance(val, NUMBER) and not 0 < val < 1:
        raise BadInput(f"The fraction of train to hold out as val is {val}; it must lie strictly between 0 and 1.")
    if per_class is not None:
        checked_draws(per_class, "per_class")
    return Draw(0.2 if val is None else float(val) if isinstance(val, NUMBER) else None, per_class)


def _grid(C: Sequence[float] | np.ndarray | str | None, classifier: Classifier) -> tuple[float, ...]:
    given = classifier.grid if C is None else named_grid(C) if isinstance(C, str) else C
    return tuple(map(float, grid_of(given)))


def _metric(metric: Metric | str) -> Metric:
    """The metric, by which records are known: one of another function must not find them."""
    if isinstance(metric, str):
        return metrics.get(metric)
    found = metrics.as_metric(metric)
    if any(found.name == one.name and found != one for one in metrics.NAMED):
        raise BadInput(
            f"The metric of your own is named '{found.name}', as one of probe.metrics; give it another name."
        )
    if found is not metric and (isinstance(metric, partial) or not found.name or "<" in found.name):
        raise BadInput(
            f"The metric {metric!r:.80} has no name of its own, and records of another would be taken for its: pass a function "
            "of a module, or a PredictionMetric with a name."
        )
    return found


def _refits(refit: bool | None, draw: Draw) -> bool:
    """Few-shot with a val split of its own: training on val as well would no longer be few-shot."""
    return refit if refit is not None else draw.per_class is None or draw.fraction is not None


def _seeds(seeds: int | Sequence[int], draw: Draw) -> list[int]:
    given: Any = seeds
    if isinstance(given, str) or not isinstance(given, int | np.integer | Iterable):
        raise BadInput(f"seeds is {seeds!r} but must be a number of at least 1, or different seeds.")
    chosen = [checked_seed(s, "A seed") for s in ([*range(seeds)] if isinstance(seeds, int | np.integer) else seeds)]
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
    given: Any = [units] if isinstance(units, str) else units
    named = list(given) if isinstance(given, Iterable) else [given]
    if not all(isinstance(unit, str) for unit in named):
        raise BadInput(f"units is {units!r}, but must be 'all', the name of a unit, or a list of names.")
    stored = [unit for unit in store.units(train, backbone) if unit != "head"]
    wanted = stored if units == "all" else list(dict.fromkeys(named))
    if not wanted:
        # The store's own error says what is there and how to get more.
        store.features("penultimate", train, backbone=backbone)
        raise BadInput("No unit was named and none but 'head' is stored.")
    order = {unit: depth for depth, unit in enumerate(stored)}
    return sorted((order.get(unit, len(order)), unit) for unit in wanted)


def _kept(folder: ResultFolder, jobs: Sequence[Job], report: Progress) -> dict[str, Record]:
    """The records that are there, by digest; those that are damaged are said, and are not there."""
    found = {}
    for job in jobs:
        try:
            record = folder.read(job.digest)
        except DamagedRecord as error:
            report.say(str(error))
            continue
        if record is not None:
            found[job.digest] = record
    return found


def _announce(report: Progress, n: int, n_missing: int, folder: ResultFolder, sources: Sequence[Source]) -> None:
    first = sources[0]  # the labels are those of the splits, the same for every unit
    for part, absent in absent_classes(first.labels.of, first.labels.classes).items():
        report.say(absent_sentence(part, absent))
    if n_missing == 0:
        report.say(f"all {n} results are in {folder.path}; nothing to fit.")
        return
    if n_missing < n:
        report.say(f"{n - n_missing} of {n} results are in {folder.path}; fitting the other {n_missing}.")
    for sentence in _shared_images(first.features):
        report.say(sentence)


def _shared_images(features: Mapping[str, Features]) -> Iterable[str]:
    """Say which splits hold the same images, by content: a score on an image that was fitted or chosen on says nothing."""
    contents = {part: {row.tobytes() for row in matrix.samples.rows} for part, matrix in features.items()}
    for part, other in (("val", "train"), ("test", "train"), ("test", "val")):
        shared = len(contents.get(part, set()) & contents.get(other, set()))
        if shared:
            where = f"{part} ('{features[part].split}') are in {other} ('{features[other].split}')"
            yield f"warning: {shared:,} of {len(contents[part]):,} images of {where} as well; the {part} scores are too good."


def _words(r: Record) -> str:
    seed = f" seed {r.seed}" if r.key.get("seed") is not None else ""
    test = f", test {r.test_score:.4f}" if r.test else ""
    sizes = f"{r.n_train:,} × {r.d:,}"
    wide = " (widened)" if r.widened else ""
    return f"{r.unit}{seed} ({sizes}): val {r.val_score:.4f} at C = {r.C:.2e}{wide}{test}, {r.seconds:.1f} s"


def _warn_widened(records: Sequence[Record]) -> None:
    wide = [r for r in records if r.widened]
    if not wide:
        return
    named = [f"{r.unit}{f' seed {r.seed}' if r.key.get('seed') is not None else ''}: {r.widened}" for r in wide[:3]]
    more = f" And {len(wide) - 3} more." if len(wide) > 3 else ""
    warned.say(
        f"The grid was widened for {len(wide)} of {len(records)} results. {' '.join(named)}{more}",
        GridWidened,
    )
