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
from probe.progress import Progress
from probe.records import digest_of
from probe.studies.cells import Cell, Outcome, Study, plain
from probe.studies.plan import plan_study
from probe.studies.records import Failure, StudyFolder, StudyRecord
from probe.studies.results import StudyResults

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

    kept = StudyFolder(Path(folder))
    root = None if data_root is None else Path(data_root)
    place = Place(kept.path, device, root, progress=False, near=near)
    made = plan_study(study, folder)
    work = _Work(study, kept, place, Progress(len(study.cells), "study", enabled=progress))
    work.report.say(made.text(most=0).splitlines()[0])
    for record in kept.records()[0]:
        work.digests.setdefault(record.names, set()).add(record.digest)
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


@dataclass(eq=False)
class _Work:
    """What is done so far."""

    study: Study
    kept: StudyFolder
    place: Place
    report: Progress
    records: dict[tuple[str, str, str, int], StudyRecord] = field(default_factory=dict)
    failed: dict[tuple[str, str, str, int], Failure] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    n_computed: int = 0
    digests: dict[tuple[str, str, str, int], set[str]] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def key(self, cell: Cell) -> dict[str, Any] | None:
        """The identity of a cell; None where it failed."""
        try:
            return self.place.key(cell)
        except Exception as error:
            self.fail(cell, error)
            return None

    def found(self, cell: Cell, digest: str) -> bool:
        """Whether its record is there; then it is counted."""
        if digest not in self.digests.get(cell.names, {digest}):
            self.kept.restore(digest)
        try:
            record = self.kept.read(digest)
        except DamagedRecord as error:
            if str(error) not in self.damaged:
                self.damaged.append(str(error))
                self.report.say(str(error))
            return False
        if record is None:
            return False
        if plain(dict(record.asked)) != plain(cell.asked) or record.source != cell.network.source:
            record = replace(record, asked=plain(cell.asked), source=cell.network.source)
            record = self.kept.write(record, self.kept.predictions(record))
        self.records[cell.names] = record
        self._set_aside_others(record)
        self.report.finished(f"{cell}: there already")
        return True

    def _set_aside_others(self, record: StudyRecord) -> None:
        for digest in self.digests.get(record.names, set()) - {record.digest}:
            self.report.say(f"{' on '.join(record.names[:2])} is not what it was; the old record is set aside")
            self.kept.supersede(digest)
        self.digests[record.names] = {record.digest}

    def finish(self, cell: Cell, key: dict[str, Any], outcome: Outcome) -> None:
        """Write what came out."""
        record = StudyRecord.of(cell, key, outcome, _versions())
        self.records[cell.names] = record = self.kept.write(record, outcome.predictions)
        self._set_aside_others(record)
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
    digest = digest_of(key)
    if work.found(cell, digest):
        return True
    with work.kept.claim(digest) as is_mine:
        if not is_mine:
            return False
        if work.found(cell, digest):  # finished by another one since
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

    held: dict[tuple[str, str, str, int], ExitStack] = {}
    keys: dict[tuple[str, str, str, int], dict[str, Any]] = {}
    others: list[Cell] = []
    sent = work.place.emptied()

    def claimed() -> Iterator[tuple[Cell, Place]]:
        for cell in work.study.cells:
            key = work.key(cell)
            if key is None or work.found(cell, digest_of(key)):
                continue
            stack = ExitStack()
            if not stack.enter_context(work.kept.claim(digest_of(key))):
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
