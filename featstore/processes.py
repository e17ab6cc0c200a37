"""Images decoded and preprocessed by processes, which write their pixels into memory that they share with the one that asked.

Processes are started afresh, not forked: a fork would copy the locks of whatever threads were running. They import what decodes,
but no torch.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.shared_memory import SharedMemory
from threading import Lock, Thread
from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import BadInput, WorkerLost
from featstore.loading import MAX_TASK, Costs, Submit, fill

if TYPE_CHECKING:
    from featstore.preprocessing import Preprocessing
    from featstore.splits import Split

__all__ = ["in_processes"]

_work: tuple[Split, Preprocessing, SharedMemory] | None = None
"""What a worker process works on; set once, when it starts."""


def _begin(payload: bytes, memory: str) -> None:
    """Start a worker process, which ends with the one that started it, even if that one is killed."""
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the one that asked ends the others
    Thread(target=_end_with_parent, daemon=True).start()
    split, preprocessing = pickle.loads(payload)
    _work = split, preprocessing, SharedMemory(memory)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _fill(rows: Sequence[int], offset: int) -> Costs:
    """Fill the shared memory from `offset` on with the pixels of some rows."""
    assert _work is not None
    split, preprocessing, memory = _work
    shape = (len(rows), *preprocessing.input_size, preprocessing.n_channels)
    return fill(split, preprocessing, rows, np.ndarray(shape, np.uint8, memory.buf, offset))


class _Slots:
    """Places in the shared memory, one per task that is on its way; a task waits in the queue until there is one."""

    def __init__(self, pool: ProcessPoolExecutor, memory: SharedMemory, n: int, n_bytes: int) -> None:
        self._pool, self._memory = pool, memory
        self._free = [k * n_bytes for k in range(n)]
        self._queue: list[tuple[Sequence[int], np.ndarray, Future[Costs]]] = []
        self._lock = Lock()

    def submit(self, rows: Sequence[int], out: np.ndarray) -> Future[Costs]:
        """Begin to fill `out`; see `featstore.loading.Submit`."""
        promised: Future[Costs] = Future()
        with self._lock:
            self._queue.append((rows, out, promised))
        self._start()
        return promised

    def _start(self) -> None:
        with self._lock:
            if not self._queue or not self._free:
                return
            rows, out, promised = self._queue.pop(0)
            offset = self._free.pop()
        try:
            running = self._pool.submit(_fill, rows, offset)
        except (BrokenProcessPool, RuntimeError) as error:
            promised.set_exception(_lost(error))
            return
        running.add_done_callback(lambda done: self._finish(done, out, offset, promised))

    def _finish(self, done: Future[Costs], out: np.ndarray, offset: int, promised: Future[Costs]) -> None:
        if done.cancelled():
            promised.cancel()
            return
        error = done.exception()
        if error is None:
            out[...] = np.ndarray(out.shape, np.uint8, self._memory.buf, offset)
        with self._lock:
            self._free.append(offset)
        if error is None:
            promised.set_result(done.result())
        else:
            promised.set_exception(_lost(error) if isinstance(error, BrokenProcessPool) else error)
        self._start()


def _lost(error: BaseException) -> WorkerLost:
    return WorkerLost(
        f"a process that decodes images was lost ({type(error).__name__}): it was killed, perhaps because memory ran out, or it "
        "could not start (a script that starts processes does its work under `if __name__ == '__main__':`). What was stored is "
        "kept, and the same command goes on there; use fewer workers, or threads."
    )


@contextmanager
def in_processes(split: Split, preprocessing: Preprocessing, workers: int) -> Iterator[Submit]:
    """Give what fills arrays by processes; they end with the block.

    Parameters
    ----------
    split : Split
        It travels to the processes, so it must be possible to pickle it.
    preprocessing : Preprocessing
    workers : int
        Processes.

    Raises
    ------
    BadInput
        If the split cannot be pickled, or this process may not start others.
    WorkerLost
        From what is submitted: if a process is killed.
    """
    if multiprocessing.current_process().daemon:
        raise BadInput(
            "this process may not start others (it is a daemon, as the workers of Dask are unless the setting "
            "distributed.worker.daemon is false), so images can be decoded by its threads only."
        )
    bare = replace(split, labels=None, classes=())  # neither is needed there, and the digests are not copied either
    try:
        payload = pickle.dumps((bare, preprocessing))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise BadInput(
            f"the images of '{split.name}' cannot be handed to other processes ({error}); decode them by threads."
        ) from error
    n_bytes = MAX_TASK * preprocessing.input_size[0] * preprocessing.input_size[1] * preprocessing.n_channels
    n_slots = 2 * workers
    memory = SharedMemory(create=True, size=n_slots * n_bytes)
    try:
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (payload, memory.name))
        try:
            yield _Slots(pool, memory, n_slots, n_bytes).submit
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    finally:
        memory.close()
        memory.unlink()
