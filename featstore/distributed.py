"""An extraction cut into ranges of blocks for the workers of a Dask cluster; the one file of this package that knows distributed.

The client plans, holds the lock, and commits; a worker decodes the images of its blocks, runs the network, and writes whole
chunks where the client would have written them, under the same rules (`featstore.writing`). What comes back is checksums. So
the result is that of one process, byte for byte, where devices and libraries are the same; and client, workers and scheduler
may be killed at any moment: chunks that are there count, and the same call goes on from them.

A worker gets the network and the list of images once. Tasks begin with one block each and then grow to some `TASK_S` of
work; few are on their way at a time, so that slow workers get fewer, and the scheduler never knows more than some hundred.
A worker that was lost and still runs stops at its next block: it compares the token of the lock that it works for.

Workers must see the store and the images under the client's paths, and have its version of this package. One worker per GPU is
best: a worker computes one block at a time, whatever its threads are.

On paper: 10^9 images of 110 kB, a ResNet-50's penultimate unit in float16 (4 kB), 64 GPUs, blocks of 2,048 rows
--------------------------------------------------------------------------------------------------------------------
TODO
"""

from __future__ import annotations

import os
import sys
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore import workers
from featstore.errors import BadInput, ClusterFailed, MissingExtra
from featstore.locking import token_of
from featstore.passes import PassFolder
from featstore.progress import Bar, say
from featstore.staging import Block, crcs_of
from featstore.workers import Here, Shipped, Work

if TYPE_CHECKING:
    from distributed import Client, Future

    from featstore.chunks import Grid
    from featstore.extraction import Run
    from featstore.planning import SplitPlan
    from featstore.writing import Session

__all__ = ["Cluster"]

TASK_S = 20.0
"""Seconds that a task is meant to take: long against what a task costs, short against what a lost worker may cost."""
MAX_BLOCKS = 64
READ_BACK_BYTES = 1 << 30
"""Chunks of less than this in all are read back by the client itself."""
READ_BACK_CHUNKS = 64
CONNECT_S = 10.0
QUIET_BYTES = "16 GiB"
"""Of a task, below which Dask need not say that a network is large."""


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
        if not self._workers:
            say(f"waiting for the first worker of {self._address}")
            self.client.wait_for_workers(1)
        found = self._ask(workers.facts, run.device, run.precision)
        mine = workers.facts("cpu", "fp32")["versions"]
        problems = [f"{address} says: {said['problem']}" for address, said in found.items() if said["problem"]]
        problems += [
            f"{address} has {_named(said['versions'], mine)}, and here is {_named(mine, said['versions'])}"
            for address, said in found.items()
            if _differ(said["versions"], mine)
        ]
        if problems:
            raise ClusterFailed(
                f"{len(problems)} of {len(found)} workers cannot compute what is asked, or not the same: {'; '.join(problems)}"
            )
        shared = [gpu for gpu, n in Counter(said["gpu"] for said in found.values() if said["gpu"]).items() if n > 1]
        if shared:
            say(f"several workers share a GPU ({', '.join(shared)}); start one worker per GPU, as dask-cuda does")
        devices = sorted({said["device"] for said in found.values()})
        if len(devices) > 1:
            say(f"the workers compute on different devices ({', '.join(devices)}), whose results differ by rounding")
        versions = dict(found[min(found)]["versions"])
        versions.pop("protocol of workers")
        return {"device": ", ".join(devices), "versions": versions}

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
        say(f"'{part.split.name}' goes to {len(seen)} workers of {self._address}")
        with (
            self._shipped(f"network {run.backbone.name}", run) as network,
            self._shipped(f"images {part.split.name}", work) as images,
        ):
            self._spread(f"extract {part.split.name}", network, images, session, shown)

    def read_back(self, data: Path, grid: Grid, numbers: Sequence[int]) -> dict[int, int | str]:
        """Read whole chunks, the workers a share of them each; see `featstore.staging.crcs_of`."""
        if len(numbers) * grid.file_bytes < READ_BACK_BYTES:
            return crcs_of(data, grid, numbers)
        import dask

        token = uuid.uuid4().hex
        shares = [list(numbers[a : a + READ_BACK_CHUNKS]) for a in range(0, len(numbers), READ_BACK_CHUNKS)]
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": QUIET_BYTES}):
            futures = [
                self.client.submit(crcs_of, data.absolute(), grid, share, key=(f"read back-{token}", i), pure=False)
                for i, share in enumerate(shares)
            ]
        try:
            found: dict[int, int | str] = {}
            for future in _completed(self.client, futures):
                found.update(_result(future, "chunks"))
            return found
        finally:
            self.client.cancel(futures)  # type: ignore[no-untyped-call]

    # ---- the workers

    @property
    def _address(self) -> str:
        return str(self.client.scheduler_info()["address"])

    @property
    def _workers(self) -> list[str]:
        return list(self.client.nthreads())  # type: ignore[no-untyped-call]

    def _ask(self, question: Any, *args: Any) -> dict[str, Any]:
        """Ask every worker that is there now."""
        found: dict[str, Any] = self.client.run(question, *args, on_error="return")
        failed = {address: said for address, said in found.items() if isinstance(said, Exception)}
        if failed:
            address, error = next(iter(failed.items()))
            if isinstance(error, ImportError | AttributeError):
                raise ClusterFailed(
                    f"{len(failed)} of {len(found)} workers cannot import what an extraction needs: {address} says '{error}'. "
                    "Install the same version of featprobe for all of them."
                ) from error
            if isinstance(error, OSError):
                raise ClusterFailed(f"the worker {address} was lost while it was asked: {error}.") from error
            raise error
        return found

    @contextmanager
    def _shipped(self, name: str, what: Any) -> Iterator[Future[Any]]:
        """Give a future of something that workers need; it goes over the scheduler once, and from worker to worker."""
        import cloudpickle
        import dask

        folders = tuple(dict.fromkeys((os.getcwd(), *sys.path[:1])))
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": QUIET_BYTES}):
            key = f"{name}-{uuid.uuid4().hex}"
            future = self.client.submit(Shipped, cloudpickle.dumps(what), folders, key=key, pure=False)
        try:
            yield future
        finally:
            self.client.cancel([future])  # type: ignore[no-untyped-call]

    def _spread(self, name: str, network: Future[Any], images: Future[Any], session: Session, shown: Bar) -> None:
        """Keep every worker busy with ranges of the missing blocks, and note what is written."""
        from distributed import as_completed

        todo, token, n_each, n_started = deque(session.missing_blocks()), uuid.uuid4().hex, 1, 0
        running: dict[Future[Any], tuple[Block, ...]] = {}
        completed = as_completed(loop=self.client.loop)  # type: ignore[no-untyped-call]

        def feed() -> None:
            nonlocal n_started
            n_workers = max(len(self._workers), 1)
            while todo and len(running) < 2 * n_workers + 1:
                fair = max(
                    len(todo) // (2 * n_workers), 1
                )  # the last tasks are small, so that all workers end together
                blocks = tuple(todo.popleft() for _ in range(min(n_each, fair)))
                key = (f"{name}-{token}", n_started)
                future = self.client.submit(_compute, network, images, blocks, key=key, pure=False)
                running[future], n_started = blocks, n_started + 1
                completed.add(future)  # type: ignore[no-untyped-call]

        try:
            feed()
            for future in completed:
                blocks = running.pop(future)
                written, seconds = _result(future, f"rows {blocks[0].start} to {blocks[-1].stop - 1}")
                session.adopt(written)
                shown.update(sum(map(len, blocks)))
                n_each = min(max(round(TASK_S * len(blocks) / max(seconds, 1e-3)), 1), MAX_BLOCKS)
                feed()
        finally:
            self.client.cancel(list(running))  # type: ignore[no-untyped-call]


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
        return distributed.Client(client, timeout=CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ClusterFailed(
            f"no Dask scheduler answers at '{client}' ({first}); `dask scheduler` starts one and prints its address."
        ) from error


def _completed(client: Client, futures: Sequence[Future[Any]]) -> Iterator[Future[Any]]:
    from distributed import as_completed

    yield from as_completed(list(futures), loop=client.loop)  # type: ignore[no-untyped-call]


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


def _differ(theirs: Mapping[str, str | None], mine: Mapping[str, str | None]) -> bool:
    return any(_plain(theirs.get(name)) != _plain(mine.get(name)) for name in {*theirs, *mine})


def _plain(version: str | None) -> str | None:
    """A version without the part that says what it was built for: ``2.9.0+cu130`` and ``2.9.0+cpu`` are one."""
    return None if version is None else version.partition("+")[0]


def _named(versions: Mapping[str, str | None], other: Mapping[str, str | None]) -> str:
    """Name those versions that differ from others."""
    names = [name for name in {**versions, **other} if _plain(versions.get(name)) != _plain(other.get(name))]
    return ", ".join(f"{name} {versions.get(name)}" for name in names)
