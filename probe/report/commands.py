"""The command that computes a result again: one that can be copied, and run where the results were made."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from probe.errors import BadInput
from probe.grids import C_GRID, GRIDS
from probe.records import Record, digest_of
from probe.studies.cells import Study, plain
from probe.studies.records import StudyFolder, StudyRecord, names_of
from probe.studies.written import is_runnable


class Again(NamedTuple):
    """How a result is computed again.

    Attributes
    ----------
    command : str
        Empty where none is known.
    remark : str
        Why none is known, or what must be filled in.
    """

    command: str
    remark: str = ""


def sweep_command(r: Record, folder: Path) -> Again:
    """The command that computes a record of `probe.sweep` again, into a folder beside the one where it is.

    Parameters
    ----------
    r : Record
    folder : Path
        Of the record.

    Returns
    -------
    Again
        STORE stands for the folder of the features where the record was made by a version that did not note it.
    """
    key, place = r.key, r.place
    options: list[tuple[str, Any]] = [("--train", r.train)]
    held_out = key.get("held_out")
    options.append(("--val", f"{held_out:g}" if held_out is not None else r.val))
    if r.test:
        options.append(("--test", r.test))
    options += [("--units", r.unit), ("--backbone", place.get("backbone", r.backbone))]
    options += [(f"--{name}", place[name]) for name in ("pool", "dtype", "device", "memory") if name in place]
    own = GRIDS["svm"] if r.classifier == "svm" else C_GRID
    if (grid := _grid_text(key.get("C", r.grid), own)) is not None:
        options.append(("--C", grid))
    if r.classifier != "logistic":
        options.append(("--classifier", r.classifier))
    if r.metric != "accuracy":
        options.append(("--metric", r.metric))
    if r.per_class is not None:
        options.append(("--per-class", r.per_class))
    if key.get("seed") is not None:
        options.append(("--seeds", f"{r.seed},"))
    if key.get("tol", 1e-6) != 1e-6:
        options.append(("--tol", f"{key['tol']:g}"))
    words = [
        "probe",
        "sweep",
        place.get("store", "STORE"),
        *(part for name, value in options for part in (name, str(value))),
    ]
    words += ["--widen"] if key.get("widen") else []
    words += ["--refit" if r.is_refitted else "--no-refit"] if r.test else []
    remark = (
        "" if "store" in place else "STORE is the folder of the features, which was not noted when this was computed."
    )
    return Again(shlex.join([*words, "--out", beside(folder)]), remark)


def unread_plans(folder: StudyFolder) -> list[str]:
    """A sentence on each plan that is kept in a study's folder and cannot be used: of a later version, edited or damaged."""
    return _plans(folder)[1]


def _plans(folder: StudyFolder) -> tuple[list[tuple[Path, Study, bool]], list[str]]:
    """The plans of a folder, the last one first, with whether each can be run; and what is wrong with the others."""
    found, unread = [], folder.damaged_plans()
    for path, said in folder.plans().items():
        try:
            found.append((path, Study.from_json(said), is_runnable(said)))
        except (BadInput, TypeError, AttributeError) as error:
            unread.append(
                f"The plan '{path}' was written by another version of this library, which this one cannot read: {error} Results "
                "that it asked for have no command here, unless another plan asks for them; make the report with the version that "
                "wrote it."
            )
    return found, unread


class StudyCommands:
    """The commands of the results in a study's folder, by the plans that are kept there.

    Parameters
    ----------
    folder : StudyFolder
    """

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder.path
        self._plans: dict[str, tuple[Path, Study, bool]] = {}
        plans, unread = _plans(folder)
        self._is_unread = bool(unread)
        for plan in plans:
            for cell in plan[1].cells:
                self._plans.setdefault(digest_of(plain(cell.asked)), plan)

    def of(self, r: StudyRecord) -> Again:
        """How a record is computed again, into a folder beside this one."""
        asked = next((asked for asked in r.labels if digest_of(plain(asked)) in self._plans), None)
        if asked is None:
            lost = "is among those that this version can read; see below" if self._is_unread else "was kept"
            return Again(
                "",
                f"No plan of this result {lost}; `probe study PLAN.toml --run` with the plan it came from keeps it.",
            )
        path, study, is_whole = self._plans[digest_of(plain(asked))]
        if not is_whole:
            made = "was run with objects of Python, which no file can name"
            if study.command:
                return Again(study.command, f"The study '{study.name}' {made}: this computes all of it.")
            return Again("", f"The study '{study.name}' {made}: run the program that made it; its plan is {path}.")
        options = [*zip(("--network", "--dataset", "--regime", "--seed"), map(str, names_of(asked)), strict=True)]
        options += [
            (f"--{name.replace('_', '-')}", r.place[name]) for name in ("data_root", "device") if name in r.place
        ]
        words = ["probe", "study", str(path), "--run", *(part for option in options for part in option)]
        return Again(shlex.join([*words, "--out", beside(self._folder)]))


def beside(folder: Path) -> str:
    """A folder beside this one, where what is there already hinders nothing from being computed."""
    name = folder.name or folder.resolve().name
    return str(folder.parent / f"{name}-again") if folder.name else str(Path("..") / f"{name}-again")


def _grid_text(asked: Iterable[float], own: Iterable[float]) -> str | None:
    """How penalties are asked for on the command line; None where they are what is used when nobody asks."""
    values = [float(c) for c in asked]
    if values == [float(c) for c in own]:
        return None
    for name, grid in GRIDS.items():
        if values == [float(c) for c in grid]:
            return name
    return ",".join(repr(c) for c in values)
