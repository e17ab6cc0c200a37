"""The summary in words: what is said follows from the numbers, and is no stronger than they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal, cast

from probe import tables
from probe.comparison import Comparison, compare
from probe.errors import ProbeError
from probe.report.entries import Candidate, Entry, Task

PAIRED: tuple[str, ...] = ("accuracy", "mean_per_class")
"""Metrics whose difference on the same rows has an exact test here."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """The candidates of one task, the best on validation data first.

    Attributes
    ----------
    task : Task
    order : tuple of tuple of Entry
        The seeds of each candidate.
    comparison : Comparison or None
        The best against the runner-up on the reported split, paired; None where there is none, or no such test.
    why_not : str
        Why there is no comparison; empty where there is one.
    """

    task: Task
    order: tuple[tuple[Entry, ...], ...]
    comparison: Comparison | None
    why_not: str

    @property
    def best(self) -> Entry:
        """One entry of the best candidate: its first seed."""
        return self.order[0][0]


def by_task(entries: Sequence[Entry]) -> dict[Task, list[Entry]]:
    """Entries of equal data and question, in order of first appearance."""
    found: dict[Task, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.task, []).append(entry)
    return found


def ranked(task: Task, entries: Sequence[Entry]) -> Ranked:
    """Rank the candidates of a task by mean validation score over seeds; the test split chooses nothing.

    Parameters
    ----------
    task : Task
    entries : sequence of Entry
        Of this task.
    """
    groups: dict[Candidate, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.candidate, []).append(entry)

    order = sorted(groups.values(), key=_value, reverse=True)
    comparison, why_not = _against_runner_up(task, order)
    return Ranked(task, tuple(map(tuple, order)), comparison, why_not)


def _value(group: Sequence[Entry]) -> float:
    """What candidates are ranked by: the mean validation score, larger is better."""
    score = mean(entry.val_score for entry in group)
    return -math.inf if math.isnan(score) else score if group[0].higher_is_better else -score


def _against_runner_up(task: Task, order: Sequence[Sequence[Entry]]) -> tuple[Comparison | None, str]:
    if len(order) < 2:
        return None, "there is no other candidate to compare it with"
    if task.metric not in PAIRED:
        return None, f"there is no exact paired test of {_metric(task)} here"
    if any(_differ(group) for group in order[:2]):
        return None, "several seeds were run, whose spread says more than a test of one pair"
    if not task.test:
        return None, "there was no test split, and the validation split has chosen"
    a, b = order[0][0], order[1][0]
    measure = cast(Literal["accuracy", "mean_per_class"], task.metric)
    try:
        return compare(a.predictions(), b.predictions(), measure=measure), ""
    except ProbeError as error:
        return None, f"the two cannot be compared row by row ({error})"


def task_sentence(found: Ranked, name: str) -> str:
    """Say which candidate was best on validation data, how it scores, and whether that is more than chance.

    Parameters
    ----------
    found : Ranked
    name : str
        What to call the task.
    """
    group, task, best = found.order[0], found.task, found.best
    chosen = f"{best.candidate} is the only candidate"
    if len(found.order) > 1:
        ahead = "was the best" if _value(group) != _value(found.order[1]) else "was first, level with the next,"
        chosen = f"{best.candidate} {ahead} of {len(found.order)} on validation data"
    what = f"{_metric(task)} {_score(group)} on {best.n:,} {'test' if task.test else 'validation'} samples"
    return f"{name}: {chosen}; {what}{_runner_up(found)}."


def _runner_up(found: Ranked) -> str:
    if len(found.order) < 2:
        return ""
    second, c = found.order[1], found.comparison
    named = f"the runner-up, {second[0].candidate} with {_score(second)}"
    if c is None:
        return f"; {named}, was not tested against it: {found.why_not}"
    p = f"p = {c.p_value:.2g}" if c.p_value >= 1e-4 else "p < 0.0001"
    if not c.is_significant:
        return f"; {named}, is apart by no more than chance can explain ({p})"
    if c.difference > 0:
        return f"; {named}, is worse by more than chance ({p})"
    return f"; {named}, is better by more than chance ({p}): validation chose badly"


def _differ(group: Sequence[Entry]) -> bool:
    """Whether the seed changed anything: where nothing is drawn by it, several seeds are one result several times."""
    return len({(entry.val_score, entry.score, entry.C) for entry in group}) > 1


def _score(group: Sequence[Entry]) -> str:
    if not _differ(group):
        entry = group[0]
        low, high = entry.interval or (None, None)
        ends = tables.interval(low, high, digits=3)
        same = f" (the same with all {len(group)} seeds)" if len(group) > 1 else ""
        return f"{entry.score:.3f} {ends}".strip() + same
    scores = [entry.score for entry in group]
    return f"{mean(scores):.3f} (mean of {len(scores)} seeds, {min(scores):.3f} to {max(scores):.3f})"


def certificate_sentence(entries: Sequence[Entry]) -> str:
    """Say how many fits met their tolerance; empty where nothing was fitted along a path."""
    n, good = sum(e.n_fits for e in entries), sum(e.n_converged for e in entries)
    if not n:
        return ""
    if good == n:
        return f"All {n:,} fits carry a certificate that they are optimal to the tolerance asked for."
    tested = sum(e.status != "converged" for e in entries if e.n_fits)
    return (
        f"{n - good:,} of {n:,} fits fall short of the tolerance asked for; {tested:,} of the {len(entries):,} models that "
        "were tested are among them. They are listed below."
    )


def leak_sentence(entries: Sequence[Entry]) -> str:
    """Say how many results were tested on images of train or val; empty where none was."""
    n = sum(e.is_leaky for e in entries)
    if not n:
        return ""
    was = "result was" if n == 1 else "results were"
    return (
        f"{n:,} of {len(entries):,} {was} tested on images some of which are in train or val, so that the scores are too good; "
        "how many is listed below."
    )


def edge_sentence(entries: Sequence[Entry]) -> str:
    """Say how many choices lie at the end of their grid; empty where none does."""
    n = sum(e.at_edge for e in entries)
    if not n:
        return ""
    return (
        f"{n:,} of {len(entries):,} chosen penalties lie at the edge of their grid, so that a better one may lie outside: "
        "widen it."
    )


def _metric(task: Task) -> str:
    return task.metric.replace("_", " ")
