"""Work done ahead of its use by threads, in order: what makes batches while the network trains."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def default_workers() -> int:
    """Number of cores that this process may use, at most 16."""
    allowed = getattr(os, "sched_getaffinity", None)
    return min(len(allowed(0)) if allowed else os.cpu_count() or 1, 16)


def ahead(make: Callable[[K], V], keys: Iterable[K], *, workers: int) -> Generator[V]:
    """What ``make`` gives for each key, in the order of the keys.

    Parameters
    ----------
    make : callable
        A pure function of the key, called from several threads at once.
    keys : iterable
        Read as needed: one more than there are threads is under way.
    workers : int
        Threads; 0 calls ``make`` where the value is used.
    """
    if workers == 0:
        yield from map(make, keys)
        return
    waiting: deque[Future[V]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="finetune-batches") as pool:
        try:
            for key in keys:
                waiting.append(pool.submit(make, key))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error or Ctrl-C nobody wants the rest
