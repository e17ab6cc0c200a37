"""Doing what a study asks: cell by cell, here or on a cluster, beside other processes that share the folder.

Each cell is claimed, computed and written before the next; who finds one claimed goes on and comes back for it at the end. A
process that is killed loses the cell it was at, and its claim with it. A cell that fails is written down with its sentence,
and the others go on.
"""

from __future__ import annotations

import importlib.metadata
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import BadInput, DamagedRecord, ProbeError
from probe.files import as_path
from probe.progress import Progress
from probe.reals import one_of
from probe.records import digest_of
from probe.studies.cells import Cell, Outcome, Study, Unnamed, plain
from probe.studies.plan import plan_study
from probe.studies.records import Failure, Names, StudyFolder, StudyRecord, names_of
from probe.studies.results import StudyResults
from probe.thumbnails import keep_thumbnails, path_of

if TYPE_CHECKING:
    from distributed import Client

    from probe.studies.probing import Place

POLL_S = 0.5
_OURS = ("probe", "featstore", "finetune")
_VERSIONS = ("featprobe", "numpy", "scipy", "torch", "torchvision", "timm")


def run_study(
    study: Study,
    folder: str | Path,
    *,
    device: str | None = None,
    data_root: str | Path | None = None,
    scheduler: str | Client | None = None,
    near: bool = True,
    thumbnails: bool = False,
    progress: bool = True,
) -> StudyResults:
    """Compute what a study lacks; what is there is not computed again.

    Parameters
    ----------
    study : Study
    folder : str or Path
        Of the results, features and trainings. Several processes, on several machines, may share one.
    device : str, optional
        For example "cuda"; None is the CPU.
    data_root : str or Path, optional
        Where data sets that have a name lie.
    scheduler : str or distributed.Client, optional
        Of a Dask cluster whose workers compute cells; they must see folder, weights and images under the same paths.
    near : bool
        Whether near-duplicates of train in test are looked for; see `probe.find_leaks`.
    thumbnails : bool
        Whether small images of the test splits are kept, about 3 kB each, so that reports show the most confused ones without
        the data; see `probe.keep_thumbnails`.
    progress : bool
        Whether to say on stderr what is finished.

    Returns
    -------
    StudyResults
        Of the cells of this study; what failed is in `failed`.

    Raises
    ------
    BadInput
        Where the folder cannot be used.
    ClusterFailed, MissingExtra
        See `probe.sweep`.

    Notes
    -----
    A record counts only for the network, images and labels it was computed from: where one of these has changed under its name,
    the cell is computed again and the old record is set aside, in ``superseded``.
    """
    from probe.studies.probing import Place

    one_of(Study, study, "a Study, such as probe.Study.from_toml reads")
    refuse_objects(study)
    kept = StudyFolder(as_path(folder, "The folder of a study"))
    root = None if data_root is None else Path(data_root)
    place = Place(kept.path, device, root, progress=False, near=near)
    made = plan_study(study, folder)
    work = _Work(study, kept, place, Progress(len(study.cells), "study", enabled=progress), keeps_images=thumbnails)
    work.report.say(made.text(most=0).splitlines()[0])
    kept.keep_plan(study)
    for record in kept.records()[0]:
        work.note(record)
    try:
        if scheduler is None:
            _run_here(work)
        else:
            _run_there(work, scheduler)
    except KeyboardInterrupt:
        work.report.say(f"interrupted; {len(work.records)} of {len(study.cells)} results are in {kept.path}.")
        raise
    records = tuple(work.records[cell.names] for cell in study.cells if cell.names in work.records)
    failed = tuple(work.failed[cell.names] for cell in study.cells if cell.names in work.failed)
    return StudyResults(records, failed, kept, work.n_computed, tuple(work.damaged))


def refuse_objects(study: Study) -> None:
    """Say that a study cannot be run that was read from a plan of objects.

    Parameters
    ----------
    study : Study

    Raises
    ------
    BadInput
        With what has no name to load it by.
    """
    given = [n.spec for n in study.networks] + [one for d in study.datasets for one in (d.train, d.val, d.test)]
    lost = [one.name for one in given if isinstance(one, Unnamed)]
    if lost:
        how = f": {study.command}" if study.command else ""
        raise BadInput(
            f"The study '{study.name}' was run with objects of Python that a file cannot name ({', '.join(lost[:3])}"
            f"{' …' if len(lost) > 3 else ''}), so that it cannot be run from its plan; its table can be printed and exported. "
            f"Run what made it{how}."
        )


@dataclass(eq=False)
class _Work:
    """What is done so far."""

    study: Study
    kept: StudyFolder
    place: Place
    report: Progress
    keeps_images: bool = False
    records: dict[Names, StudyRecord] = field(default_factory=dict)
    failed: dict[Names, Failure] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    n_computed: int = 0
    ours: set[str] = field(init=False)
    by_names: dict[Names, set[str]] = field(default_factory=dict)
    by_identity: dict[str, set[str]] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.ours = {digest_of(plain(cell.asked)) for cell in self.study.cells}

    def note(self, record: StudyRecord) -> None:
        """Remember which record has which names, and what it is the result of."""
        self.by_identity.setdefault(record.identity, set()).add(record.digest)
        for asked in record.labels:
            self.by_names.setdefault(names_of(asked), set()).add(record.digest)

    def key(self, cell: Cell) -> dict[str, Any] | None:
        """The identity of a cell; None where it failed."""
        try:
            key = self.place.key(cell)
            if self.keeps_images:
                self._keep_images(cell, key["data"]["test"]["content"])
        except Exception as error:
            self.fail(cell, error)
            return None
        return key

    def _keep_images(self, cell: Cell, content: str) -> None:
        """Keep thumbnails of a test split, unless they are there or another process makes them."""
        if path_of(self.kept.path, content).exists():
            return
        with self.kept.claim(content) as is_mine:
            if is_mine:
                test = self.place.splits(cell)["test"]
                path = keep_thumbnails(self.kept.path, test, content)
                size = path.stat().st_size / 1e6
                self.report.say(f"{cell.dataset.name}: thumbnails of {len(test):,} test images kept, {size:.1f} MB")

    def found(self, cell: Cell, key: dict[str, Any]) -> bool:
        """Whether its record is there; then it is counted."""
        record = self._read(cell, key)
        if record is None:
            return False
        labelled = record.labelled(cell, self.ours)
        if plain(labelled.labels) != plain(record.labels) or labelled.source != record.source:
            record = self.kept.write(labelled, self.kept.predictions(record))
        self.records[cell.names] = record.asked_by(cell)
        self._take_names(record, cell)
        self.report.finished(f"{cell}: there already")
        return True

    def _read(self, cell: Cell, key: dict[str, Any]) -> StudyRecord | None:
        """The record of what a cell asks; those of earlier versions had its names in their key."""
        digest = digest_of(key)
        older = digest_of({**key, "names": list(cell.names[:3])})
        for name in dict.fromkeys((digest, older, *sorted(self.by_identity.get(digest, ())))):
            self.kept.restore(name)
            try:
                record = self.kept.read(name)
            except DamagedRecord as error:
                if str(error) not in self.damaged:
                    self.damaged.append(str(error))
                    self.report.say(str(error))
                continue
            if record is not None:
                return record
        return None

    def _take_names(self, record: StudyRecord, cell: Cell) -> None:
        """The names of a cell are those of its record alone."""
        for digest in self.by_names.get(cell.names, set()) - {record.digest}:
            self.report.say(f"{' on '.join(cell.names[:2])} is not what it was; the old record is set aside")
            self.kept.unname(digest, cell.names)
        self.by_names[cell.names] = {record.digest}

    def finish(self, cell: Cell, key: dict[str, Any], outcome: Outcome) -> None:
        """Write what came out."""
        record = replace(StudyRecord.of(cell, key, outcome, _versions()), place=self.place.said)
        self.records[cell.names] = record = self.kept.write(record, outcome.predictions)
        self._take_names(record, cell)
        self.n_computed += 1
        for sentence in _leak_sentences(record):
            if (cell.dataset.name + sentence) not in self._said:
                self._said.add(cell.dataset.name + sentence)
                self.report.say(f"{cell.dataset.name}: {sentence}")
        chosen = f" at C = {record.chosen['C']:.2e}" if "C" in record.chosen else ""
        spent = record.cost.get("seconds", 0.0)
        self.report.finished(
            f"{cell}: val {record.val_score:.4f}{chosen}, test {record.test_score:.4f} ({record.metric}), {spent:.1f} s"
        )

    def fail(self, cell: Cell, error: Exception) -> None:
        """Write down what went wrong."""
        sentence, where = told(error)
        self.failed[cell.names] = self.kept.fail(cell, sentence, where)
        said = sentence.removesuffix(".")  # as the time that is left may follow
        self.report.finished(f"{cell}: failed: {said}")


def _run_here(work: _Work) -> None:
    waiting = [cell for cell in work.study.cells if not _tried(work, cell)]
    if waiting:
        work.report.say(f"waiting for {len(waiting)} cells that other processes compute")
    while waiting:
        time.sleep(POLL_S)
        waiting = [cell for cell in waiting if not _tried(work, cell)]


def _tried(work: _Work, cell: Cell) -> bool:
    """Compute a cell, or find it done; False where another process is at it."""
    key = work.key(cell)
    if key is None:
        return True
    if work.found(cell, key):
        return True
    with work.kept.claim(work.place.computation(cell, key)) as is_mine:
        if not is_mine:
            return False
        if work.found(cell, key):  # finished by another one since
            return True
        try:
            outcome = compute(cell, work.place)
        except Exception as error:
            work.fail(cell, error)
        else:
            work.finish(cell, key, outcome)
    return True


def _run_there(work: _Work, scheduler: str | Client) -> None:
    from probe import cluster

    held: dict[Names, ExitStack] = {}
    keys: dict[Names, dict[str, Any]] = {}
    others: list[Cell] = []
    sent = work.place.emptied()

    def claimed() -> Iterator[tuple[Cell, Place]]:
        for cell in work.study.cells:
            key = work.key(cell)
            if key is None or work.found(cell, key):
                continue
            stack = ExitStack()
            if not stack.enter_context(work.kept.claim(work.place.computation(cell, key))):
                others.append(cell)
                continue
            held[cell.names], keys[cell.names] = stack, key
            yield cell, sent

    try:
        for (cell, _), outcome, error in cluster.mapped(_compute_pair, claimed(), scheduler, work.report):
            if error is None and outcome is not None:
                work.finish(cell, keys[cell.names], outcome)
            elif error is not None:
                work.fail(cell, error)
            held.pop(cell.names).close()
    finally:
        for stack in held.values():
            stack.close()
    waiting: Sequence[Cell] = others
    while waiting:
        time.sleep(POLL_S)
        waiting = [cell for cell in waiting if not _tried(work, cell)]


def _compute_pair(pair: tuple[Cell, Place]) -> Outcome:
    return compute(*pair)


def compute(cell: Cell, place: Place) -> Outcome:
    """Run the regime of a cell, and check what it returned.

    Raises
    ------
    BadInput
        Where it is no `Outcome`.
    Exception
        Whatever the regime raises.
    """
    outcome = cell.regime.resolve()(cell, place)
    if not isinstance(outcome, Outcome):
        raise BadInput(
            f"The regime {cell.regime.function} returned {type(outcome).__name__}, but must return a probe.Outcome."
        )
    return outcome


def told(error: Exception) -> tuple[str, str]:
    """What went wrong as a sentence, and where, for errors that are not sentences of ours."""
    if isinstance(error, ProbeError) or type(error).__module__.partition(".")[0] in _OURS:
        return str(error), ""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__, "".join(
        traceback.format_exception(error)
    )


def _leak_sentences(record: StudyRecord) -> list[str]:
    from probe.studies.leaks import Leaks, Pair

    if not record.leaks:
        return []
    said = dict(record.leaks)
    pairs = tuple(Pair(**pair) for pair in said.pop("pairs"))
    return list(Leaks(pairs=pairs, **said).sentences)


def _versions() -> dict[str, str]:
    out = {}
    for name in _VERSIONS:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out
