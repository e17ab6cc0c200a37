"""The page: what goes where. The template escapes every name; nothing is fetched when it is opened."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe import metrics, tables
from probe.errors import BadInput, DamagedRecord, ProbeError
from probe.files import as_path, write_atomically
from probe.predictions import Predictions
from probe.reals import several_of
from probe.report import words
from probe.report.commands import unread_plans
from probe.report.confusion import Confusion, worst_mistakes
from probe.report.entries import Entry, Task, entries_of, task_names
from probe.report.figures import Figure, figures_of
from probe.report.studies import study_overview
from probe.results import Results
from probe.studies.records import Failure, failure_lines
from probe.studies.results import StudyResults
from probe.thumbnails import Kept, Thumbnail, thumbnail

if TYPE_CHECKING:
    from markupsafe import Markup
    from PIL import Image

MOST_TASKS = 40
"""Tasks with drawings and confusions of their own."""

MOST_BYTES = 4_500_000
"""Of the page: once the table and the tasks before are that large, those that follow have no drawings and images."""

MOST_CLASSES = 25
"""Classes of a confusion matrix that can still be read; of more, the most frequent confusions are listed."""

TAG_BYTES, ROW_BYTES = 20, 250
"""Around a value, and around a row of the table of results."""

MOST_PAIRS, MOST_IMAGES = 12, 16

MOST_IMAGES_IN_ALL = 320
"""Over all tasks: about 4 kB each."""

_COLUMNS = (
    ("task", False), ("model", False), ("unit", False), ("regime", False), ("seed", True), ("C", True), ("validation", True),
    ("test", True), ("95 % interval", False), ("n", True), ("converged", True), ("seconds", True), ("record", False),
)  # fmt: skip


def write_report(
    results: Results | StudyResults | Sequence[Results | StudyResults],
    out: str | Path,
    *,
    title: str = "Results",
    image_of: Callable[[str, str], Image.Image | None] | None = None,
) -> Path:
    """Write a report of results: one HTML page without other files, that asks no network for anything.

    Parameters
    ----------
    results : Results, StudyResults, or sequence of them
        As `probe.sweep`, `probe.load_results`, `probe.run_study` and `probe.load_study` return them.
    out : str or Path
        The file; one that is there is replaced at once or not at all.
    title : str
    image_of : callable, optional
        Gives the image of ``(name of a split, id)``, or None where there is none: the most confused ones are shown. Without it
        they are those that were kept beside the results, see `probe.keep_thumbnails`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    BadInput
        Where there is no result, or the file cannot be written.
    """
    out = as_path(out, "The page to write")
    if out.suffix.lower() not in (".html", ".htm"):
        raise BadInput(f"The report is a web page but '{out}' does not end in .html; name it so that browsers open it.")
    write_atomically(out, report_html(results, title=title, image_of=image_of).encode())
    return out


def report_html(
    results: Results | StudyResults | Sequence[Results | StudyResults],
    *,
    title: str = "Results",
    image_of: Callable[[str, str], Image.Image | None] | None = None,
) -> str:
    """The page that `write_report` writes; for parameters and errors see there."""
    import jinja2
    from markupsafe import Markup

    several = [results] if isinstance(results, Results | StudyResults) else results
    several = several_of(
        (Results, StudyResults), several, "Results, such as probe.load_results and probe.load_study return"
    )
    entries = [entry for found in several for entry in entries_of(found)]
    if not entries:
        where = ", ".join(f"'{found.folder.path}'" for found in several) or "no folder"
        failed = [failure for found in several if isinstance(found, StudyResults) for failure in found.failed]
        if failed:
            raise BadInput(
                f"There is nothing to report: in {where} all {len(failed):,} cells failed. "
                f"{' '.join(failure_lines(failed))}"
            )
        raise BadInput(
            f"There is nothing to report: {where} holds no results; `probe sweep … --out FOLDER` makes some."
        )
    files = importlib.resources.files("probe.report")
    style, script = (files.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(files.joinpath("page.html").read_text("utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template.render(
        **_content(entries, several, image_of),
        title=title,
        style=Markup(style),  # ours, not data
        script=Markup(script),
        script_sha256=digest,
        draw=_drawn,
    )


def _content(entries: list[Entry], several: Sequence[Results | StudyResults], image_of: Any) -> dict[str, Any]:
    """Everything that the template shows but for the page's own style and script."""
    by_task = words.by_task(entries)
    names = task_names(by_task)
    ranked = [words.ranked(task, found) for task, found in by_task.items()]
    rows = [_row(entry, names[entry.task]) for entry in entries]
    short = [line for entry in entries for line in _short(entry, names[entry.task])]
    studies = [found for found in several if isinstance(found, StudyResults)]
    overviews = [study_overview(found, f"study-{i}") for i, found in enumerate(studies)]
    pictures = _Pictures(image_of, max(2, min(MOST_IMAGES, MOST_IMAGES_IN_ALL // min(MOST_TASKS, len(ranked)))))
    tasks = _tasks(ranked, names, pictures, MOST_BYTES - ROW_BYTES * len(rows) - _size([rows, short, overviews]))
    shown = ranked[: len(tasks)]
    why = f"a page holds {MOST_TASKS} at most, and as many as keep it below 5 MB; the table has all"
    left_out = f"The first {len(shown)} of {len(ranked)} tasks: {why}." if len(ranked) > len(shown) else ""
    n_models = len({entry.candidate.model for entry in entries})
    folders = ", ".join(str(found.folder.path) for found in several)
    return {
        "about": f"{len(entries):,} results of {n_models} {_plural(n_models, 'network')} on {len(by_task)} "
        f"{_plural(len(by_task), 'task')}, from {folders}.",
        "summary": [
            *(sentence for _, said in overviews for sentence in said),
            *(words.task_sentence(found, names[found.task]) for found in shown),
            *_about_all(entries),
        ],
        "overview": [figure for figures, _ in overviews for figure in figures],
        "columns": [{"name": name, "is_number": is_number} for name, is_number in _COLUMNS],
        "rows": rows,
        "choices": _choices(entries, names),
        "tasks": tasks,
        "tasks_left_out": left_out,
        "short": [
            *short,
            *(_failed(failure) for found in studies for failure in found.failed),
        ],
        "damaged": [
            *(sentence for found in several for sentence in found.damaged),
            *(sentence for found in studies for sentence in unread_plans(found.folder)),
            *pictures.damaged,
        ],
        "cost": _cost(entries, of_studies=bool(studies)),
        "versions": _versions(entries),
        "footer": "Made by probe report. This page is complete: it fetches nothing.",
    }


def _tasks(
    ranked: Sequence[words.Ranked], names: Mapping[Task, str], pictures: _Pictures, room: int
) -> list[dict[str, Any]]:
    """What is shown of each task, as long as there is room for it, in bytes; of the first in any case."""
    tasks: list[dict[str, Any]] = []
    for i, found in enumerate(ranked[:MOST_TASKS], 1):
        task = _task(found, names[found.task], f"task-{i}", pictures)
        room -= _size(task)
        if room < 0 and tasks:
            break
        tasks.append(task)
    return tasks


def _size(value: Any) -> int:
    """About how many bytes of the page are what is shown of something, with the tags around it."""
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_size, value))
    return TAG_BYTES + len(str(value).encode())


def _about_all(entries: list[Entry]) -> list[str]:
    sentences = [words.leak_sentence(entries), words.certificate_sentence(entries), words.edge_sentence(entries)]
    sentences.append(f"All of it took {_duration(sum(entry.seconds for entry in entries))} of computing.")
    return [sentence for sentence in sentences if sentence]


def _drawn(figure: Figure) -> Markup:
    """A figure as HTML; matplotlib has escaped the words in its drawing."""
    from markupsafe import Markup

    hint = "Arrow keys go from mark to mark."
    return Markup(
        '<figure tabindex="0" aria-label="{}">{}<figcaption>{} <span class="hint">{}</span></figcaption></figure>'
    ).format(f"{figure.caption} {hint}", Markup(figure.svg), figure.caption, hint)


def _row(e: Entry, task: str) -> dict[str, Any]:
    edge = " (edge)" if e.at_edge else ""
    cells = [
        (task, None),
        (e.candidate.model, None),
        (e.candidate.unit, None),
        (e.candidate.regime, None),
        (str(e.seed), e.seed),
        ("" if e.C is None else tables.penalty(e.C) + edge, _sortable(e.C)),
        (tables.number(e.val_score), _sortable(e.val_score)),
        (tables.number(e.test_score), _sortable(e.test_score)),
        (tables.interval(*(e.interval or (None, None))).replace(" ", "\u00a0"), None),
        (f"{e.n:,}", e.n),
        (f"{e.n_converged}/{e.n_fits}" if e.n_fits else "", e.n_converged / e.n_fits if e.n_fits else "NaN"),
        (tables.seconds(e.seconds), _sortable(e.seconds)),
    ]
    return {
        "cells": [{"text": text, "value": value} for text, value in cells],
        "digest": e.digest,
        "command": e.again.command,
        "remark": e.again.remark,
        "identity": e.identity,
    }


def _choices(entries: list[Entry], names: Mapping[Task, str]) -> list[dict[str, Any]]:
    """A choice per column of names that has several."""
    columns = {0: [names[e.task] for e in entries], 1: [e.candidate.model for e in entries]}
    columns |= {2: [e.candidate.unit for e in entries], 3: [e.candidate.regime for e in entries]}
    return [
        {"label": _COLUMNS[i][0], "column": i, "options": sorted(set(values))}
        for i, values in columns.items()
        if len(set(values)) > 1
    ]


def _task(found: words.Ranked, name: str, slug: str, pictures: _Pictures) -> dict[str, Any]:
    best = found.best
    shown: dict[str, Any] = dict.fromkeys(("calibration", "matrix", "pairs", "classes", "images"))
    shown |= {"name": name, "candidate": str(best.candidate), "figures": figures_of(found, slug)}
    shown["sentence"] = words.task_sentence(found, name)
    try:
        said = best.predictions()
        said.correct  # noqa: B018  refuses rows with several labels, which have no confusion
    except ProbeError:
        return shown
    confusion = Confusion.of(said)
    if len(confusion.names) <= MOST_CLASSES:
        shown["matrix"] = _matrix(confusion)
    shown["pairs"] = confusion.pairs(MOST_PAIRS)
    shown["classes"] = [
        {
            "name": c.name,
            "n": f"{c.n:,}",
            "recall": tables.number(c.recall, 3),
            "precision": tables.number(c.precision, 3),
        }
        for c in confusion.by_class()
    ]
    shown["calibration"] = _calibration(best, said)
    shown["images"] = pictures.of(best, said)
    return shown


def _matrix(confusion: Confusion) -> dict[str, Any]:
    n = confusion.counts.sum(1)

    def cell(i: int, j: int) -> dict[str, Any]:
        count = int(confusion.counts[i, j])
        share = count / n[i] if n[i] else 0.0
        return {"n": count, "is_right": i == j, "step": math.ceil(4 * share) if count else 0}

    k = range(len(confusion.names))
    return {
        "names": confusion.names,
        "lines": [{"name": confusion.names[i], "cells": [cell(i, j) for j in k]} for i in k],
    }


def _calibration(entry: Entry, said: Predictions) -> str:
    """How far the stated probabilities are off, beside the accuracy; empty where there are no probabilities."""
    if entry.candidate.regime != "logistic" or said.scores is None or said.y_true.dtype.kind not in "iu":
        return ""
    try:
        error = metrics.calibration_error(said.y_true, said.scores)
    except ProbeError:  # classes that train lacks have no probability
        return ""
    return f"Calibration: its stated confidence is off by {float(error):.3f} on average (ECE), at accuracy {said.accuracy():.3f}."


class _Pictures:
    """The most confused images: read again, or those that were kept beside the results."""

    def __init__(self, image_of: Any, most: int) -> None:
        self._image_of, self._most = image_of, most
        self.damaged: list[str] = []

    def of(self, entry: Entry, said: Predictions) -> list[dict[str, Any]]:
        """What the page shows of the mistakes of a result."""
        find = self._read_again if self._image_of is not None else self._kept(entry)
        found = []
        for mistake in worst_mistakes(said, self._most) if find is not None else ():
            try:
                picture = find(entry, mistake.id)  # type: ignore[misc]
            except DamagedRecord as error:
                self.damaged.append(str(error))
                break
            if picture is not None:
                found.append(mistake._asdict() | picture._asdict())
        return found

    def _read_again(self, entry: Entry, sample: str) -> Thumbnail | None:
        image = self._image_of(entry.images, sample)
        return None if image is None else thumbnail(image)

    def _kept(self, entry: Entry) -> Callable[[Entry, str], Thumbnail | None] | None:
        if entry.thumbnails is None or not entry.thumbnails.exists():
            return None
        try:
            kept = Kept(entry.thumbnails)
        except DamagedRecord as error:
            self.damaged.append(str(error))
            return None
        return lambda _, sample: kept.get(sample)


def _short(e: Entry, task: str) -> list[dict[str, str]]:
    """What a reader must know of one result, a line each."""
    said = list(e.notes)
    if e.n_converged < e.n_fits:
        worst = f"largest relative gradient {e.worst_grad_norm:.1e}, largest relative gap {e.worst_gap:.1e}"
        said.append(
            f"{e.n_fits - e.n_converged} of {e.n_fits} fits did not converge ({worst}); the tested model: {e.status}."
        )
    if e.at_edge:
        said.append(f"The chosen C of {tables.penalty(e.C or math.nan)} lies at the edge of the grid.")
    name = f"{task}: {e.candidate}, seed {e.seed}"
    return [{"digest": e.digest, "name": name, "what": sentence} for sentence in said]


def _failed(failure: Failure) -> dict[str, str]:
    network, dataset, regime, seed = failure.names
    return {"digest": "", "name": f"{dataset}: {network}, {regime}, seed {seed}", "what": f"failed: {failure.sentence}"}


def _cost(entries: list[Entry], *, of_studies: bool) -> dict[str, Any]:
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.candidate.model, entry.candidate.regime), []).append(entry)

    def line(name: str, found: list[Entry]) -> list[str]:
        sums = [sum(e.n_fits for e in found), sum(e.n_iter for e in found), sum(e.passes for e in found)]
        seconds = sum(e.seconds for e in found)
        return [name, f"{len(found):,}", *(f"{n:,}" for n in sums), _duration(seconds), f"{seconds / len(found):.2f}"]

    return {
        "header": [
            "network, regime",
            "results",
            "fits",
            "iterations",
            "passes over the features",
            "time",
            "seconds each",
        ],
        "lines": [line(f"{model}, {regime}", found) for (model, regime), found in groups.items()],
        "total": line("all", entries),
        "note": "Time is that of extracting what was not stored yet, loading, fitting or training, and scoring."
        if of_studies
        else "Time is that of loading, fitting and scoring; extracting the features is not in it. Results that were fitted "
        "together share their time equally.",
    }


def _versions(entries: list[Entry]) -> list[dict[str, Any]]:
    counted = Counter(", ".join(f"{name} {version}" for name, version in sorted(e.versions.items())) for e in entries)
    return [{"name": name, "n": f"{n:,}"} for name, n in counted.most_common()]


def _sortable(x: float | None) -> float | str:
    return "NaN" if x is None or math.isnan(x) else x


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{tables.seconds(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _plural(n: int, word: str) -> str:
    return word if n == 1 else f"{word}s"
