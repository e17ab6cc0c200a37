"""Images of a split, decoded and preprocessed ahead of the network, in order.

By threads, as a rule: PIL decodes and resizes without holding Python's lock, batches are filled in place, and nothing has to be
copied between address spaces. Processes (`featstore.processes`) do the same where that lock is what limits threads. Who prepares a
batch changes no bit of it. ``benchmarks/bench_extract.py`` measures both.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from featstore.errors import BadInput, UnreadableImage

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from featstore.preprocessing import Preprocessing
    from featstore.splits import Split
    from featstore.stages import Stages

__all__ = ["Loader", "Submit", "default_workers", "in_order", "load_batches", "naming_sample", "unreadable_rows"]

MAX_TASK = 32
"""Images per task: enough that queueing costs nothing, few enough that a batch is shared among all threads."""

T = TypeVar("T")
R = TypeVar("R")
Costs = tuple[float, float]
"""Seconds of reading and decoding, and of preprocessing."""
Submit = Callable[[Sequence[int], np.ndarray], "Future[Costs]"]
"""Begins to fill an array with the pixels of some rows of a split."""


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
    return naming_sample(split, i, partial(preprocessing.pixels, image))


def naming_sample(split: Split, i: int, prepare: Callable[[], T]) -> T:
    """Return what `prepare` makes of sample `i`, which its errors name."""
    try:
        return prepare()
    except (UnreadableImage, BadInput) as error:
        raise type(error)(f"{split.samples.describe(i)}: {error}") from error
    except OSError as error:  # PIL finds some damage only when it converts
        raise UnreadableImage(f"{split.samples.describe(i)} does not decode to an image: {error}.") from error


def fill(split: Split, preprocessing: Preprocessing, rows: Sequence[int], out: np.ndarray) -> Costs:
    """Fill (n, h, w, c) uint8 with the pixels of some rows, and return what that took."""
    decoding = preparing = 0.0
    for k, i in enumerate(rows):
        begun = time.perf_counter()
        image = split.image(i)
        decoded = time.perf_counter()
        out[k] = naming_sample(split, i, partial(preprocessing.pixels, image))
        decoding += decoded - begun
        preparing += time.perf_counter() - decoded
    return decoding, preparing


@dataclass(frozen=True)
class Loader:
    """Who prepares batches, and how far ahead.

    Attributes
    ----------
    workers : int
        Threads, or processes.
    ahead : int
        Batches that are prepared while the caller works on one.
    processes : bool
    pinned : bool
        Into memory that a GPU copies from while others go on.
    """

    workers: int
    ahead: int = 0
    processes: bool = False
    pinned: bool = False

    def open(self, split: Split, preprocessing: Preprocessing) -> AbstractContextManager[Submit]:
        """Start the threads or processes."""
        if self.processes:
            from featstore.processes import in_processes

            return in_processes(split, preprocessing, self.workers)
        return _in_threads(split, preprocessing, self.workers)


@contextmanager
def _in_threads(split: Split, preprocessing: Preprocessing, workers: int) -> Iterator[Submit]:
    with ThreadPoolExecutor(workers, thread_name_prefix="featstore-decode") as pool:
        try:
            yield lambda rows, out: pool.submit(fill, split, preprocessing, rows, out)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error or Ctrl-C nobody wants the rest


def load_batches(
    split: Split, preprocessing: Preprocessing, batches: Sequence[range], loader: Loader, stages: Stages
) -> Generator[tuple[range, torch.Tensor]]:
    """Yield the rows and the pixels (n, h, w, c) uint8 of each batch, in order, while the next ones are prepared.

    Parameters
    ----------
    split : Split
    preprocessing : Preprocessing
    batches : sequence of range
        Rows of the split.
    loader : Loader
    stages : Stages
        Is told what decoding and preprocessing took, and how long the caller had to wait.
    """
    import torch

    shape = (*preprocessing.input_size, preprocessing.n_channels)
    stages.shared_by(loader.workers, "read and decode", "preprocess")
    with loader.open(split, preprocessing) as submit:

        def begin(rows: range) -> tuple[torch.Tensor, list[Future[Costs]]]:
            pixels = torch.empty((len(rows), *shape), dtype=torch.uint8, pin_memory=loader.pinned)
            out = pixels.numpy()
            step = min(-(-len(rows) // loader.workers), MAX_TASK)
            parts = [slice(a, a + step) for a in range(0, len(rows), step)]
            return pixels, [submit(rows[p], out[p]) for p in parts]

        for rows, pixels, costs in in_order(batches, loader.ahead, begin, stages):
            for decoding, preparing in costs:
                stages.add("read and decode", decoding)
                stages.add("preprocess", preparing)
            yield rows, pixels


def in_order(
    batches: Sequence[range],
    ahead: int,
    begin: Callable[[range], tuple[T, list[Future[R]]]],
    stages: Stages,
) -> Generator[tuple[range, T, list[R]]]:
    """Yield the rows of each batch, what it goes into, and the results of its tasks, while those of the next `ahead` run."""
    begun: deque[tuple[range, T, list[Future[R]]]] = deque()
    for upcoming in (*batches, *[None] * ahead):
        if upcoming is not None:
            begun.append((upcoming, *begin(upcoming)))
        if begun and (upcoming is None or len(begun) > ahead):
            rows, into, tasks = begun.popleft()
            with stages.waiting():
                found = [task.result() for task in tasks]
            yield rows, into, found


def unreadable_rows(split: Split, preprocessing: Preprocessing, rows: Sequence[int], workers: int) -> dict[int, str]:
    """Return which of some rows of a split do not become an input, and why: row -> message."""
    by_pil = preprocessing.decoded_by("pil")

    def look(i: int) -> str | None:
        try:
            pixels_of(split, i, by_pil)
        except UnreadableImage as error:
            return str(error)
        return None

    with ThreadPoolExecutor(workers, thread_name_prefix="featstore-decode") as pool:
        try:
            found = list(pool.map(look, rows))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return {row: why for row, why in zip(rows, found, strict=True) if why is not None}
