"""Threads for the problems of one batch: every thread walks with a share of the lanes, on products of one thread each.

Much of a walk is elementwise work, small factorisations and products with few columns, which the threads of a BLAS do not share
well. Lanes need nothing of each other but the features, so they are dealt to as many threads as a product would get.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from probe.arrays import Array, blas_threads, limited_threads

_MOST_TEAMS = 4  # more threads would wait for the interpreter's lock
_ENTRIES = 1 << 13  # scores of a team's lanes below which they do

Team = TypeVar("Team")


def shares(n_lanes: Sequence[int], n_scores: int, X: Array) -> list[list[int]]:
    """Deal problems to teams of about as many lanes each.

    Parameters
    ----------
    n_lanes : sequence of int
        Of every problem.
    n_scores : int
        Of a lane.
    X : array
        The features: only those on the host, in numpy, are shared by threads.

    Returns
    -------
    list of list of int
        Numbers of the problems of each team, ascending.
    """
    every = list(range(len(n_lanes)))
    most = min(len(every), _MOST_TEAMS, max(1, sum(n_lanes) * n_scores // _ENTRIES))
    if most == 1 or not isinstance(X, np.ndarray):
        return [every]
    n_teams = min(most, blas_threads())
    before = np.cumsum([0, *n_lanes[:-1]])
    team_of = before * n_teams // sum(n_lanes)
    teams = [[i for i in every if team_of[i] == t] for t in range(n_teams)]
    return [team for team in teams if team]


def at_once(work: Callable[[Team, Callable[[], bool]], bool], teams: Sequence[Team]) -> bool:
    """Let every team work in a thread of its own.

    Ctrl-C reaches the thread that waits here: the others are asked to stop, and are waited for.

    Parameters
    ----------
    work : callable
        (team, whether to stop) → whether it came to the end.
    teams : sequence

    Returns
    -------
    bool
        Whether all came to the end.
    """
    stop = threading.Event()
    with limited_threads(max(1, blas_threads() // len(teams))), ThreadPoolExecutor(len(teams)) as pool:
        waiting = [pool.submit(work, team, stop.is_set) for team in teams]
        try:
            whole = [one.result() for one in waiting]
            return all(whole)
        except KeyboardInterrupt:
            stop.set()
            for one in waiting:
                one.result()
            return False
        except BaseException:
            stop.set()
            raise
