"""Images of a split, decoded and preprocessed ahead of the network, in order.

Threads, not processes: PIL decodes and resizes without holding Python's lock, batches are filled in place, and nothing
has to be copied between address spaces. ``benchmarks/bench_extract.py`` measures both.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import BadInput, UnreadableImage

if TYPE_CHECKING:
    from featstore.preprocessing import Preprocessing
    from featstore.splits import Split

__all__ = ["default_workers", "load_batches", "unreadable_rows"]

MAX_TASK = 32
"""Images per task: enough that queueing costs nothing, few enough that a batch is shared among all threads."""


def default_workers() -> int:
    """Return the number of cores that this process may use, at most 16."""
    allowed = getattr(os, "sched_getaffinity", None)
    return min(len(allowed(0)) if allowed else os.cpu_count() or 1, 16)


def pixels_of(split: Split, i: int, preprocessing: Preprocessing) -> np.ndarray:
    """Return sample `i` of a split as the network takes it, before normalisation: (h, w, c) uint8.

    Raises
    ------
    UnreadableImage, BadInput
        Naming the sample.
    """
    image = split.image(i)
    try:
        return preprocessing.pixels(image)
    except (UnreadableImage, BadInput) as error:
        raise type(error)(f"{split.samples.describe(i)}: {error}") from error
    except OSError as error:  # PIL finds some damage only when it converts
        raise UnreadableImage(f"{split.samples.describe(i)} does not decode to an image: {error}.") from error


def load_batches(
    split: Split, preprocessing: Preprocessing, batches: Sequence[range], *, workers: int, ahead: int
) -> Generator[tuple[range, np.ndarray]]:
    """Yield the rows and the pixels (n, h, w, c) uint8 of each batch, in order, while threads prepare the next ones.

    Parameters
    ----------
    split : Split
    preprocessing : Preprocessing
    batches : sequence of range
        Rows of the split.
    workers : int
        Threads.
    ahead : int
        Batches that are prepared while the caller works on one.
    """
    waiting: deque[tuple[range, np.ndarray, list[Future[None]]]] = deque()
    shape = (*preprocessing.input_size, preprocessing.n_channels)

    def fill(rows: range, out: np.ndarray) -> None:
        for k, i in enumerate(rows):
            out[k] = pixels_of(split, i, preprocessing)

    with ThreadPoolExecutor(workers, thread_name_prefix="featstore-decode") as pool:
        try:
            for upcoming in (*batches, *[None] * ahead):
                if upcoming is not None:
                    out = np.empty((len(upcoming), *shape), np.uint8)
                    step = min(-(-len(upcoming) // workers), MAX_TASK)
                    parts = [slice(a, a + step) for a in range(0, len(upcoming), step)]
                    waiting.append((upcoming, out, [pool.submit(fill, upcoming[p], out[p]) for p in parts]))
                if waiting and (upcoming is None or len(waiting) > ahead):
                    rows, pixels, tasks = waiting.popleft()
                    for task in tasks:
                        task.result()
                    yield rows, pixels
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error or Ctrl-C nobody wants the rest


def unreadable_rows(split: Split, preprocessing: Preprocessing, rows: Sequence[int], workers: int) -> dict[int, str]:
    """Return which of some rows of a split do not become an input, and why: row -> message."""

    def look(i: int) -> str | None:
        try:
            pixels_of(split, i, preprocessing)
        except UnreadableImage as error:
            return str(error)
        return None

    with ThreadPoolExecutor(workers, thread_name_prefix="featstore-decode") as pool:
        try:
            found = list(pool.map(look, rows))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return {row: why for row, why in zip(rows, found, strict=True) if why is not None}
