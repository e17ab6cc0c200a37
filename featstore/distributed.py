"""An extraction cut into ranges of blocks for the workers of a Dask cluster; the one file of this package that knows distributed.

The client plans, holds the lock and commits. A worker decodes the images of its blocks, runs the network, and writes whole
chunks where the client would have written them, by the same rules (`featstore.writing`); what it sends back is their checksums.
So the result is that of one process, byte for byte, where devices and libraries are the same. Client, workers and scheduler may
be killed at any moment: the chunks that are there count, and the same call goes on from them. A worker that was given up and
still runs stops at its next block, since it looks for the token of the lock that it works for.

A worker gets network and list of images once, over the scheduler or from another worker. Tasks begin with one block each and
grow to `TASK_S` of work; two per worker are on their way. Workers must see store and images under the client's paths, and
have its versions of what computes. One worker per GPU is best: a worker computes one block at a time, whatever its threads are.

On paper: 10^9 images of 110 kB, ResNet-50's 2,048 penultimate values in float16, 64 GPUs at 2,400 images/s (decoded by 16 cores
each). Features 4.1 TB (all units pooled, 5,952 values: 12 TB), 488,282 chunks of 8 MiB; 154,000 images/s make 1.8 h, in which the
file system reads 17 GB/s. What would break, in this order, and what was done:

1. Lists of 10^9 names: 120 bytes each as numpy text, 120 GB in the client and in every worker. Not mended: cut the data set into
   100 splits of 10^7, each a pass of its own, of 4,883 chunk files in one folder, 0.07 MB of manifest (14 bytes a chunk) and 0.6
   GB of ``samples.npz`` (54 bytes an image, and 8 of label). A split's list is 1.7 GB (165 bytes an image); once per worker,
   from 64 sides, some seconds of the 65 that its images take.
2. Reading 110 TB for the identity of the images in one process, 30 h at 1 GB/s: workers read them, at the price of reading every
   image twice (17 GB/s for 3.6 h).
3. The client's own 20 µs per image (names, stat, hashes): 50,000 images/s, a third of what the GPUs do. Clients of different
   splits do not wait for each other: let four share the scheduler.
4. Reading 4.1 TB back before the commit, 1.1 h in one process: workers do that, too, a minute for 64.
5. 488,282 tasks known to the scheduler at once, some 10 kB each: they are ranges of up to `MAX_BLOCKS` blocks, 21,000 in all, of
   which it knows some 130 at a time; at about 2 ms each it is idle for 99 % of the time.
6. One folder of 488,282 files, and 6.8 MB of manifest with as many checksums, were there a single split: slow to list, not wrong.
"""

from __future__ import annotations

import itertools
import os
import sys
import uuid
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from featstore import workers
from featstore.agreeing import agreed
from featstore.digests import hash_here
from featstore.errors import BadInput, ClusterFailed, MissingExtra
from featstore.locking import token_of
from featstore.passes import PassFolder
from featstore.progress import Bar, say
from featstore.staging import Block, crcs_of
from featstore.workers import Here, Shipped, Work

if TYPE_CHECKING:
    from distributed import Client, Future

    from featstore.chunks import Grid
    from featstore.digests import DigestCache, Progress
    from featstore.extraction import Run
    from featstore.planning import SplitPlan
    from featstore.splits import Samples, Split
    from featstore.writing import Session

__all__ = ["Cluster"]

T = TypeVar("T")

TASK_S = 20.0
"""Seconds that a task is meant to take: long against what a task costs, short against what a lost worker may cost."""
MAX_BLOCKS = 64
READ_BACK_BYTES = 1 << 30
"""Chunks of less than this in all are read back by the client itself."""
READ_BACK_CHUNKS = 64
HASH_ROWS, HASH_GROUP = 20_000, 2_000
"""Images whose contents are read by the client itself, below which it is not worth asking; images per task."""
CONNECT_S = 10.0


class Cluster:
    """The workers of a Dask cluster; asked for when there is something to do, not before.

    Parameters
    ----------
    client : str or distributed.Client
        Address of the scheduler, or a client, which is left open.
    """

    def __init__(self, client: str | Client) -> None:
        self._given = client

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        if isinstance(self._given, str) and "client" in self.__dict__:
            self.client.close()  # type: ignore[no-untyped-call]

    def connect(self) -> None:
        """Have the connection now; see `client`."""
        assert self.client

    @cached_property
    def client(self) -> Client:
        """The client, connected.

        Raises
        ------
        ClusterFailed
            If there is no such scheduler.
        MissingExtra
            If distributed is not installed.
        """
        return _connected(self._given)

    def made_by(self, run: Run) -> dict[str, Any]:
        """Return what all workers compute with, for the provenance; waits for the first worker.

        Raises
        ------
        ClusterFailed
            If workers lack the package, the device or the precision, or have other versions; all of them are named.
        """
        from featstore.extraction import versions

        try:
            self.client.run_on_scheduler(workers.protocol_version)  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever it is that Dask makes of an import that fails there
            raise ClusterFailed(
                f"the scheduler {self._address} cannot import what an extraction needs ({error}). It looks into the tasks, so it "
                "needs the same version of featprobe as the workers and the client."
            ) from error
        found: dict[str, Any] = {}
        while not found:
            if not self._workers:
                say(f"waiting for the first worker of {self._address}")
                self.client.wait_for_workers(1)
            found = self._ask(workers.facts, run.device, run.precision)
        return agreed(found, versions())

    def digest(self, split: Split, cache: DigestCache) -> None:
        """Have the workers read what is needed to identify the images of a split, where that is much."""
        split.digest(cache, self._hash_rows)

    def _hash_rows(self, samples: Samples, missing: np.ndarray, rows: np.ndarray, progress: Progress) -> None:
        if len(missing) < HASH_ROWS:
            hash_here(samples, missing, rows, progress)
            return
        with self._shipped("images", samples) as images:
            groups = (missing[a : a + HASH_GROUP] for a in range(0, len(missing), HASH_GROUP))
            tasks = ((group, (workers.digests, images, group)) for group in groups)
            for group, found in self.done("identify", tasks, lambda group: f"{len(group)} images to identify"):
                rows[group] = found
                progress.add(len(group))
            progress.end()

    def compute(self, run: Run, part: SplitPlan, session: Session, shown: Bar) -> None:
        """Have the blocks that are missing computed and written; the session then lacks nothing.

        Raises
        ------
        ClusterFailed
            If a worker does not see the store; if blocks keep killing the workers that compute them; if the scheduler is lost.
            What was written until then is kept.
        FeatstoreError
            What a worker raises.
        """
        folder = PassFolder(session.folder.root.absolute(), session.folder.id)
        token = token_of(folder) or ""
        seen = self._ask(workers.why_unseen, folder, token)
        blind = {address: why for address, why in seen.items() if why}
        if blind:
            address, why = next(iter(blind.items()))
            raise ClusterFailed(
                f"{len(blind)} of {len(seen)} workers do not see the store {folder.root} ({address}: {why}): they write the "
                "features themselves, so they must have it under this path, on a file system that all share."
            )
        arrays = tuple(replace(staged, folder=staged.folder.absolute(), done={}) for staged in session.staged)
        unlabelled = replace(part, split=replace(part.split, labels=None, classes=()), skipped={})
        work = Work(folder, token, arrays, unlabelled, Counter(_host(address) for address in seen))
        if run.progress:
            say(f"'{part.split.name}' goes to {len(seen)} workers of {self._address}")
        with (
            self._shipped(f"network {run.backbone.name}", run) as network,
            self._shipped(f"images {part.split.name}", work) as images,
        ):
            ranges = _Ranges(session.missing_blocks(), lambda: len(self._workers))
            tasks = ((blocks, (_compute, network, images, blocks)) for blocks in ranges)
            with closing(self.done(f"extract {part.split.name}", tasks, _rows)) as coming:
                for blocks, (written, seconds) in coming:
                    session.adopt(written)
                    shown.update(sum(map(len, blocks)))
                    ranges.learn(len(blocks), seconds)

    def read_back(self, data: Path, grid: Grid, numbers: Sequence[int]) -> dict[int, int | str]:
        """Read whole chunks, the workers a share of them each; see `featstore.staging.crcs_of`."""
        if len(numbers) * grid.file_bytes < READ_BACK_BYTES:
            return crcs_of(data, grid, numbers)
        groups = (numbers[a : a + READ_BACK_CHUNKS] for a in range(0, len(numbers), READ_BACK_CHUNKS))
        tasks = ((group, (crcs_of, data.absolute(), grid, list(group))) for group in groups)
        found: dict[int, int | str] = {}
        for _, part in self.done("read back", tasks, lambda group: f"the checksums of {len(group)} chunks"):
            found.update(part)
        return found

    # ---- the workers

    @property
    def _address(self) -> str:
        return str(self.client.scheduler_info()["address"])

    @property
    def _workers(self) -> list[str]:
        return list(self.client.nthreads())  # type: ignore[no-untyped-call]

    def _ask(self, question: Any, *args: Any) -> dict[str, Any]:
        """Ask every worker that is there now, and not lost meanwhile."""
        answers = self.client.run(question, *args, on_error="return")
        found: dict[str, Any] = {a: said for a, said in answers.items() if not isinstance(said, OSError)}
        failed = {address: said for address, said in found.items() if isinstance(said, Exception)}
        if failed:
            address, error = next(iter(failed.items()))
            # Dask puts the name of the error into the text of another where the question itself could not be unpickled
            if any(kind in repr(error) for kind in ("ModuleNotFoundError", "ImportError", "AttributeError")):
                raise ClusterFailed(
                    f"{len(failed)} of {len(found)} workers cannot import what an extraction needs: {address} says '{error}'. "
                    "Install the same version of featprobe for all of them."
                ) from error
            raise error
        return found

    def done(
        self, name: str, tasks: Iterable[tuple[T, tuple[Any, ...]]], what: Callable[[T], str]
    ) -> Generator[tuple[T, Any]]:
        """Have tasks done, and yield each with its result as it comes.

        Parameters
        ----------
        name : str
            Of the tasks on the dashboard.
        tasks : iterable of (T, (function, arguments …))
            What the task is called here, and what it does; asked for the next ones only when workers need them.
        what : callable
            What will be missing if a task is given up, in words.
        """
        from distributed import as_completed

        waiting = zip(itertools.count(), tasks)
        running: dict[Future[Any], T] = {}
        completed = as_completed(loop=self.client.loop)  # type: ignore[no-untyped-call]
        key = f"{name}-{uuid.uuid4().hex}"

        def feed() -> None:
            n_wanted = 2 * max(len(self._workers), 1) + 1 - len(running)
            for i, (which, call) in itertools.islice(waiting, max(n_wanted, 0)):
                future = self.client.submit(*call, key=(key, i), pure=False)
                running[future] = which
                completed.add(future)  # type: ignore[no-untyped-call]

        try:
            feed()
            for future in completed:
                which = running.pop(future)
                yield which, _result(future, what(which))
                feed()
        finally:
            self.client.cancel(list(running))  # type: ignore[no-untyped-call]

    @contextmanager
    def _shipped(self, name: str, what: Any) -> Iterator[Future[Any]]:
        """Give a future of something that workers need; it goes over the scheduler once, and from worker to worker."""
        import cloudpickle

        folders = tuple(dict.fromkeys((os.getcwd(), *sys.path[:1])))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sending large graph")  # a network is large, and sent once
            key = f"{name}-{uuid.uuid4().hex}"
            future = self.client.submit(Shipped, cloudpickle.dumps(what), folders, key=key, pure=False)
        try:
            yield future
        finally:
            self.client.cancel([future])  # type: ignore[no-untyped-call]


class _Ranges:
    """Ranges of blocks, one for each task, as long as makes a task of `TASK_S`.

    Parameters
    ----------
    blocks : sequence of Block
    n_workers : callable
    """

    def __init__(self, blocks: Sequence[Block], n_workers: Callable[[], int]) -> None:
        self._todo, self._n_workers, self._n_each = deque(blocks), n_workers, 1

    def __iter__(self) -> Iterator[tuple[Block, ...]]:
        while self._todo:
            # the last tasks are short, so that all workers end together
            fair = max(len(self._todo) // max(2 * self._n_workers(), 1), 1)
            yield tuple(self._todo.popleft() for _ in range(min(self._n_each, fair)))

    def learn(self, n_blocks: int, seconds: float) -> None:
        """Take note of how long some blocks took."""
        self._n_each = min(max(round(TASK_S * n_blocks / max(seconds, 1e-3)), 1), MAX_BLOCKS)


def _rows(blocks: Sequence[Block]) -> str:
    return f"rows {blocks[0].start} to {blocks[-1].stop - 1}"


def _compute(network: Shipped, images: Shipped, blocks: tuple[Block, ...]) -> Any:
    """What a task does."""
    from distributed import get_worker

    worker = get_worker()
    return workers.compute(network, images, blocks, Here(worker.address, worker.state.nthreads))


def _connected(client: str | Client) -> Client:
    try:
        import distributed
    except ImportError as error:
        raise MissingExtra(
            f"an extraction over a cluster needs distributed, which cannot be imported ({error}); install featprobe[cluster]."
        ) from error
    if isinstance(client, distributed.Client):
        if client.asynchronous:
            raise BadInput(
                "the client is asynchronous, but an extraction waits for its workers; pass the scheduler's address."
            )
        return client
    if not isinstance(client, str):
        raise BadInput(
            f"client is a {type(client).__name__}; give a distributed.Client, or the address of a scheduler."
        )
    try:
        _check_address(client)
        return distributed.Client(client, timeout=CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ClusterFailed(
            f"no Dask scheduler answers at '{client}' ({first}); `dask scheduler` starts one and prints its address."
        ) from error


def _check_address(address: str) -> None:
    """Raise `ValueError` for what is no address; a client that tried it would be left half made."""
    from distributed.comm.addressing import get_address_host_port, parse_address
    from distributed.comm.registry import get_backend

    scheme, _ = parse_address(address)
    get_backend(scheme)
    if scheme in ("tcp", "tls", "ws", "wss"):  # others have no port
        get_address_host_port(address)


def _result(future: Future[Any], what: str) -> Any:
    """Return what a task has returned, or raise what it raised, in words where Dask raised it."""
    from distributed import KilledWorker

    if future.status == "finished":
        return future.result()
    error = future.exception() if future.status == "error" else None  # type: ignore[no-untyped-call]
    kept = "What was written is kept, and the same call goes on there."
    if isinstance(error, KilledWorker):
        raise ClusterFailed(
            f"{what} were given up, as every worker that computed them was lost. A worker that needs more memory than it has is "
            f"killed: give workers more, or use a smaller batch_size or block_rows. {kept}"
        ) from error
    if isinstance(error, ModuleNotFoundError):
        raise ClusterFailed(
            f"a worker cannot import what the network, the images or a pooling is made of: {error}. Install it for the workers, "
            f"or send it with client.upload_file. {kept}"
        ) from error
    if error is not None:
        raise error
    raise ClusterFailed(f"{what} will not be finished: the scheduler was lost, or has cancelled them. {kept}")


def _host(address: str) -> str:
    return address.rpartition(":")[0]
