"""Algorithms 1 to 3 of Royer and Lampert (2020), and two choices beyond the paper, on nothing but names and numbers.

How a candidate is trained and how a proxy is scored is passed in: ``tuned(name)`` trains (or remembers having trained)
a candidate and gives its validation accuracy, ``score(name)`` gives what a cheap criterion says about it. Ties go to the
candidate that is listed first; the paper leaves its arg max open there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Method: TypeAlias = Literal["flex", "fast", "faster", "rgn", "probe"]

ALL = "all"
"""Name of the candidate that tunes every unit: ft-all."""


@dataclass(frozen=True)
class Choice:
    """What an algorithm ends with.

    Attributes
    ----------
    chosen : str
        The candidate whose network is the output: of the names, or `ALL`.
    best : str
        The candidate that the criterion ranks first; another than ``chosen`` where fast flex-tuning falls back to ft-all.
    scores : mapping of str to float
        What the criterion says about each candidate.
    tuned : mapping of str to float
        Validation accuracy of every candidate that was trained.
    """

    chosen: str
    best: str
    scores: Mapping[str, float]
    tuned: Mapping[str, float]


def flex(names: Sequence[str], tuned: Callable[[str], float]) -> Choice:
    """Algorithm 1: train each candidate and ft-all, take the one that is best on val.

    Parameters
    ----------
    names : sequence of str
        Candidates without ft-all, in the order that breaks ties.
    tuned : callable
        See the module.
    """
    found = {name: tuned(name) for name in (*names, ALL)}  # lines 1 to 6
    best = first_best(found)  # line 7
    return Choice(best, best, found, found)


def fast(names: Sequence[str], tuned: Callable[[str], float], proxy: Callable[[str], float]) -> Choice:
    """Algorithm 2: proxies from ft-all choose a candidate; it or ft-all is the output.

    Parameters
    ----------
    names, tuned
        See `flex`.
    proxy : callable
        Validation accuracy of the source network with the candidate's units taken from ft-all; called after
        ``tuned(ALL)``.
    """
    found = {ALL: tuned(ALL)}  # lines 1 and 2
    scores = {name: proxy(name) for name in names}  # lines 3 to 6
    best = first_best(scores)  # line 7
    found[best] = tuned(best)  # lines 8 and 9
    return Choice(best if found[best] >= found[ALL] else ALL, best, scores, found)  # line 10


def by_score(names: Sequence[str], tuned: Callable[[str], float], score: Callable[[str], float]) -> Choice:
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
    best = first_best(scores)  # line 6
    return Choice(best, best, scores, {best: tuned(best)})  # line 7


def fixed(name: str, tuned: Callable[[str], float]) -> Choice:
    """Train one candidate without a choice: a baseline.

    Parameters
    ----------
    name : str
        Of the candidate.
    tuned : callable
        See the module.
    """
    return Choice(name, name, {}, {name: tuned(name)})


def first_best(scores: Mapping[str, float]) -> str:
    """The name with the highest score, the first of them on ties."""
    return max(scores, key=lambda name: scores[name])
