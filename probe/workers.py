"""Problems of one call dealt to several processes, as scikit-learn deals its folds: joblib's, whose count is `n_jobs`.

Much of a walk along the penalties is elementwise work and small factorisations on one processor. Threads would wait for the
interpreter's lock between them (on digits two of them took a third more processor time and no less of the clock's); processes
do not, and large arrays are mapped into all of them.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from probe.arrays import Array, library_of
from probe.errors import BadInput
from probe.sources import RowSource

Result = TypeVar("Result")


def n_workers(n_jobs: int | None, X: Array | RowSource, n_problems: int) -> int:
    """Processes for a number of problems over some features.

    Parameters
    ----------
    n_jobs : int or None
        As in scikit-learn: -1 is all processors, None is 1, or what `joblib.parallel_config` says.
    X : array or RowSource
    n_problems : int

    Returns
    -------
    int

    Raises
    ------
    BadInput
        Where it is no count, or where several processes cannot share the features.
    """
    check_n_jobs(n_jobs)
    if (
        n_jobs is None and "joblib" not in sys.modules
    ):  # then nothing has been configured, and importing it takes memory
        return 1
    from joblib import effective_n_jobs

    count = int(effective_n_jobs(n_jobs))
    if not isinstance(X, np.ndarray):
        if n_jobs is not None and count > 1:
            what = "streamed, with memory=" if isinstance(X, RowSource) else f"{library_of(X)}'s"
            raise BadInput(
                f"n_jobs={n_jobs} needs features in numpy, which processes can share; these are {what}. Leave n_jobs out, or "
                "give them as numpy arrays that fit into memory."
            )
        return 1
    return min(count, n_problems)


def check_n_jobs(n_jobs: int | None) -> None:
    """Refuse what is no number of processes.

    Parameters
    ----------
    n_jobs : int or None

    Raises
    ------
    BadInput
    """
    if n_jobs is not None and (isinstance(n_jobs, bool) or not isinstance(n_jobs, int | np.integer) or n_jobs == 0):
        raise BadInput(
            f"n_jobs must be a number of processes, -1 for one on each processor, or None for one; got {n_jobs!r}."
        )


def dealt(sizes: Sequence[int], n: int) -> list[list[int]]:
    """Deal things of some sizes to n places, about as much to each.

    Parameters
    ----------
    sizes : sequence of int
    n : int

    Returns
    -------
    list of list of int
        Numbers of the things of each place, ascending; no place is empty.
    """
    places: list[list[int]] = [[] for _ in range(n)]
    filled = [0] * n
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        least = filled.index(min(filled))
        places[least].append(i)
        filled[least] += sizes[i]
    return [sorted(place) for place in places if place]


def at_once(work: Callable[..., Result], tasks: Sequence[tuple[Any, ...]]) -> tuple[list[Result], bool]:
    """Let every task be worked on in a process of its own. On Ctrl-C they are asked to stop, and their results awaited.

    The processes are this machine's, whichever backend `joblib.parallel_config` names: threads would wait for each other, and
    another machine does not see the file that says to go on.

    Parameters
    ----------
    work : callable
        Called with the task's values and a function that says whether to stop; a function of a module.
    tasks : sequence of tuple

    Returns
    -------
    results : list
        Of `work`, in the order of the tasks.
    is_stopped : bool
        Whether Ctrl-C came.
    """
    from joblib import Parallel, delayed

    found: list[Result] = []
    failed: list[BaseException] = []
    with tempfile.TemporaryDirectory(prefix="probe-") as folder:
        # Work goes on while this file is there, so that it ends with whoever waits for it.
        going, is_done = Path(folder) / "going", threading.Event()
        going.touch()

        def run() -> None:
            try:
                found.extend(
                    Parallel(n_jobs=len(tasks), backend="loky")(
                        delayed(_undisturbed)(work, task, going) for task in tasks
                    )
                )
            except BaseException as error:
                failed.append(error)
            finally:
                is_done.set()

        # Ctrl-C comes to the main thread; joblib would kill its processes, and what they have found.
        threading.Thread(target=run, name="probe-workers", daemon=True).start()
        is_stopped = _awaited(is_done, going)
    if failed:
        raise failed[0]
    return found, is_stopped


def _awaited(is_done: threading.Event, going: Path) -> bool:
    """Wait for a thread, not with `join`, which takes it for dead after Ctrl-C; whether Ctrl-C came. A second one waits no more."""
    is_stopped = False
    while True:
        try:
            while not is_done.wait(0.1):
                pass
            return is_stopped
        except KeyboardInterrupt:
            if is_stopped:
                raise
            is_stopped = True
            going.unlink()


def _undisturbed(work: Callable[..., Result], task: tuple[Any, ...], going: Path) -> Result:
    """Work that Ctrl-C, which a terminal sends to every process, does not end in the middle: it is asked to stop."""

    def is_stopped() -> bool:
        return not going.exists()

    if threading.current_thread() is not threading.main_thread():  # where processes may have none of their own
        return work(*task, is_stopped)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return work(*task, is_stopped)
    finally:
        signal.signal(signal.SIGINT, before)
