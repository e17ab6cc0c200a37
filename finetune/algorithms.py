"""Algorithms 1 to 3 of Royer and Lampert (2020), and two choices beyond the paper, on nothing but names and numbers.

How a candidate is trained and how a proxy is scored is passed in: ``tuned(name)`` trains (or remembers having trained)
a candidate and gives its validation accuracy, ``score(name)`` gives what a cheap criterion says about it. Ties go to the
candidate that is listed first; the paper leaves its arg max open there. A candidate whose training diverged has no
accuracy (None) and is ruled out, as if it had not been listed; the paper knows no such case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Tuned: TypeAlias = Callable[[str], "float | None"]
"""Trains a candidate: its validation accuracy, None where it diverged."""

Method: TypeAlias = Literal["flex", "fast", "faster", "rgn", "probe"]

ALL = "all"
"""Name of the candidate that tunes every unit: ft-all."""


@dataclass(frozen=True)
class Choice:
    """What an algorithm ends with.

    Attributes
    ----------
    chosen : str or None
        The candidate whose network is the output: of the names, or `ALL`; None where all that was trained diverged.
    best : str or None
        The candidate that the criterion ranks first, of those that did not diverge; another than ``chosen`` where fast
        flex-tuning falls back to ft-all.
    scores : mapping of str to float
        What the criterion says about each candidate.
    tuned : mapping of str to float
        Validation accuracy of every candidate that was trained and did not diverge.
    """

    chosen: str | None
    best: str | None
    scores: Mapping[str, float]
    tuned: Mapping[str, float]


def flex(names: Sequence[str], tuned: Tuned) -> Choice:
    """Algorithm 1: train each candidate and ft-all, take the one that is best on val.

    Parameters
    ----------
    names : sequence of str
        Candidates without ft-all, in the order that breaks ties.
    tuned : callable
        See the module.
    """
    found = _known({name: tuned(name) for name in (*names, ALL)})  # lines 1 to 6
    best = first_best(found) if found else None  # line 7
    return Choice(best, best, found, found)


def fast(names: Sequence[str], tuned: Tuned, proxy: Callable[[str], float]) -> Choice:
    """Algorithm 2: proxies from ft-all choose a candidate; it or ft-all is the output.

    Parameters
    ----------
    names, tuned
        See `flex`.
    proxy : callable
        Validation accuracy of the source network with the candidate's units taken from ft-all; called after
        ``tuned(ALL)``, and not where that diverged.
    """
    a_all = tuned(ALL)  # lines 1 and 2
    if a_all is None:
        return Choice(None, None, {}, {})
    scores = {name: proxy(name) for name in names}  # lines 3 to 6
    best, a_best = _best_tuned(scores, tuned)  # lines 7 to 9
    found = _known({ALL: a_all, **({} if best is None else {best: a_best})})
    return Choice(best if a_best is not None and a_best >= a_all else ALL, best, scores, found)  # line 10


def by_score(names: Sequence[str], tuned: Tuned, score: Callable[[str], float]) -> Choice:
    """Train only the candidate with the highest score.

    With proxies from a network whose units were all tuned for a single epoch this is Algorithm 3, which never gives
    ft-all; with relative gradient norms or the accuracies of probes it is a choice without any training.

    Parameters
    ----------
    names, tuned
        See `flex`.
    score : callable
        See the module.
    """
    scores = {name: score(name) for name in names}  # lines 2 to 5
    best, a_best = _best_tuned(scores, tuned)  # lines 6 and 7
    return Choice(best, best, scores, {} if best is None or a_best is None else {best: a_best})


def fixed(name: str, tuned: Tuned) -> Choice:
    """Train one candidate without a choice: a baseline.

    Parameters
    ----------
    name : str
        Of the candidate.
    tuned : callable
        See the module.
    """
    found = _known({name: tuned(name)})
    chosen = name if found else None
    return Choice(chosen, chosen, {}, found)


def first_best(scores: Mapping[str, float]) -> str:
    """The name with the highest score, the first of them on ties."""
    return max(scores, key=lambda name: scores[name])


def _best_tuned(scores: Mapping[str, float], tuned: Tuned) -> tuple[str | None, float | None]:
    """Train the candidate with the highest score; where it diverges, the next. Its name and accuracy."""
    for name in sorted(scores, key=lambda name: -scores[name]):  # which keeps the order of ties
        accuracy = tuned(name)
        if accuracy is not None:
            return name, accuracy
    return None, None


def _known(found: Mapping[str, float | None]) -> dict[str, float]:
    return {name: accuracy for name, accuracy in found.items() if accuracy is not None}
