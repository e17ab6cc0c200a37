"""A sweep's units fitted by the workers of a Dask cluster; the one file of this package that knows distributed.

A task is one unit: its worker loads the features, fits all that is asked of them, and sends back the results, which the client
writes. So every feature matrix is loaded once; where there are fewer units than workers, the batches of a unit are dealt to
several workers, and each of these loads it once. Workers must see the store under the same path as the client, and have
the same version of this package. The folder of results need be there for the client only.

A worker that is lost takes with it what it was fitting, and nothing else: Dask gives that to another one, and what was sent
back is on disk. Workers of one thread each are best: a fit uses the threads of its linear algebra, not those of Dask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from probe import jobs, warned
from probe.errors import BadInput, ClusterFailed, MissingExtra, NotConverged
from probe.jobs import PROTOCOL_VERSION, Batch, Result
from probe.records import digest_of

if TYPE_CHECKING:
    from distributed import Client, Future

    from probe.progress import Progress

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_CONNECT_S = 10.0
_QUIET_BYTES = "1 GiB"  # of a task, below which Dask need not say that labels and rows are large


def fitted(
    units: Sequence[Sequence[Batch]],
    device: str | None,
    scheduler: str | Client,
    report: Progress,
    memory: float | None = None,
) -> Iterator[list[Result]]:
    """Fit batches on a cluster.

    Parameters
    ----------
    units : sequence of sequences of Batch
        A sequence for each unit, in the order in which they are started.
    device : str or None
        Of the workers.
    scheduler : str or distributed.Client
        Address of the scheduler, or a client, which is left open.
    report : Progress
    memory : float or None
        Bytes that features may take on a worker, see `probe.jobs.fitted`.

    Yields
    ------
    list of (Record, Predictions)
        Of a task, as they come back. Where the iteration is left early, what is not finished is cancelled.

    Raises
    ------
    ClusterFailed
        When there is no such scheduler, it is lost, or a unit keeps killing the workers that fit it; then all others are
        finished before.
    MissingExtra
        When distributed is not installed.
    ProbeError, featstore.FeatstoreError
        What a fit raises.
    """
    with _connected(scheduler) as client:
        addresses = list(client.nthreads())  # type: ignore[no-untyped-call]
        tasks = _tasks(units, len(addresses))
        where = client.scheduler_info()["address"]
        report.say(
            f"{len(tasks)} tasks for the {len(addresses)} workers of {where}"
            if addresses
            else f"waiting for the first worker of {where}"
        )
        futures = _submitted(client, tasks, addresses, (device, memory))
        try:
            yield from _gathered(client, futures)
        finally:
            client.cancel(list(futures))  # type: ignore[no-untyped-call]


def _tasks(units: Sequence[Sequence[Batch]], n_workers: int) -> list[list[Batch]]:
    """Batches that are fitted by one worker each: a unit's, or some of them where there are workers for more."""
    n_each = max(1, n_workers // max(1, len(units)))
    return [list(batches[i::n_each]) for batches in units for i in range(min(n_each, len(batches)))]


def _submitted(
    client: Client, tasks: Sequence[Sequence[Batch]], addresses: Sequence[str], where: tuple[str | None, float | None]
) -> dict[Future[Any], str]:
    """The futures of the tasks, with the name of the unit of each."""
    import dask

    futures = {}
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": _QUIET_BYTES}):
        for i, batches in enumerate(tasks):
            # Parts of one unit are asked onto different workers, so that none loads it twice; others may take them over.
            home = [addresses[i % len(addresses)]] if addresses and len(tasks) <= len(addresses) else None
            # Of all that is asked: two clients that ask one scheduler for the same share the answer, others never.
            asked = digest_of({"jobs": [job.digest for batch in batches for job in batch.jobs]})
            key = f"probe-{batches[0].source.unit}-{asked}"
            future = client.submit(
                _fit,
                batches,
                where,
                PROTOCOL_VERSION,
                key=key,
                pure=False,
                workers=home,
                allow_other_workers=bool(home),
            )
            futures[future] = batches[0].source.unit
    return futures


def _fit(batches: Sequence[Batch], where: tuple[str | None, float | None], protocol_version: int) -> list[Result]:
    """What a worker does."""
    if protocol_version != PROTOCOL_VERSION:
        raise BadInput(
            f"The client speaks version {protocol_version} of the protocol of sweeps, and a worker {PROTOCOL_VERSION}; install "
            "the same version of featprobe with both."
        )
    return [result for results in jobs.fitted(batches, *where) for result in results]


def _gathered(client: Client, futures: dict[Future[Any], str]) -> Iterator[list[Result]]:
    from distributed import KilledWorker, as_completed

    killers: list[str] = []
    for future in as_completed(list(futures), loop=client.loop):  # type: ignore[no-untyped-call]
        unit = futures.pop(future)
        if future.status == "finished":
            results: list[Result] = future.result()
            future.release()
            _warn(results)
            yield results
            continue
        error = future.exception() if future.status == "error" else None
        if isinstance(error, KilledWorker):
            killers.append(unit)
        elif error is not None:
            raise error
        else:
            raise ClusterFailed(
                f"Unit '{unit}' will not be finished: the scheduler was lost, or cancelled it. What is finished is kept, and the "
                "same call goes on there."
            )
    if killers:
        raise ClusterFailed(
            f"{len(killers)} units were given up, as each worker that fitted one was lost: {', '.join(killers[:5])}. A worker "
            "that needs more memory than it has is killed; give workers more. What is finished is kept."
        )


def _warn(results: Sequence[Result]) -> None:
    """Say here what a worker's fits warned of there."""
    for record, _ in results:
        short = len(record.grid) - record.n_converged
        if short:
            warned.say(
                f"Unit '{record.unit}', seed {record.seed}: {short} of {len(record.grid)} fits fall short of the tolerance "
                f"(largest gap {record.worst_gap:.1e}).",
                NotConverged,
            )


@contextmanager
def _connected(scheduler: str | Client) -> Iterator[Client]:
    try:
        import distributed
    except ImportError as error:
        raise MissingExtra(
            f"A sweep over a cluster needs distributed, which cannot be imported ({error}); install featprobe[cluster]."
        ) from error
    if not isinstance(scheduler, str):
        if scheduler.asynchronous:
            raise BadInput(
                "The client is asynchronous, but a sweep waits for its results; pass the scheduler's address."
            )
        yield scheduler
        return
    try:
        _check_address(scheduler)
        client = distributed.Client(scheduler, timeout=_CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise ClusterFailed(
            f"No Dask scheduler answers at '{scheduler}' ({_first_line(error)}); `dask scheduler` starts one and prints its "
            "address."
        ) from error
    try:
        yield client
    finally:
        client.close()  # type: ignore[no-untyped-call]


def _check_address(address: str) -> None:
    """Raise `ValueError` for what is no address; a client that tried it would be left half made."""
    from distributed.comm.addressing import get_address_host_port, parse_address
    from distributed.comm.registry import get_backend

    scheme, _ = parse_address(address)
    get_backend(scheme)
    if scheme in ("tcp", "tls", "ws", "wss"):  # others have no port
        get_address_host_port(address)


def _first_line(error: Any) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def mapped(
    function: Callable[[Item], Answer], items: Iterator[Item], scheduler: str | Client, report: Progress
) -> Iterator[tuple[Item, Answer | None, Exception | None]]:
    """Apply a function to items on a cluster, drawing the items one by one as workers become free.

    Parameters
    ----------
    function : callable
    items : iterator
        Is asked for two items per worker in advance.
    scheduler : str or distributed.Client
    report : Progress

    Yields
    ------
    (item, answer or None, error or None)
        As they come back. An item that keeps killing its workers is a `ClusterFailed`.

    Raises
    ------
    ClusterFailed, MissingExtra
        As `fitted`.
    """
    with _connected(scheduler) as client:
        from distributed import as_completed

        n_workers = max(1, len(client.nthreads()))  # type: ignore[no-untyped-call]
        report.say(
            f"up to {2 * n_workers} cells at a time for the {n_workers} workers of {client.scheduler_info()['address']}"
        )
        asked = {client.submit(function, item, pure=False): item for item in islice(items, 2 * n_workers)}
        answers = as_completed(list(asked), loop=client.loop)  # type: ignore[no-untyped-call]
        try:
            for future in answers:
                yield (asked.pop(future), *_answer(future))
                for item in islice(items, 1):
                    another = client.submit(function, item, pure=False)
                    asked[another] = item
                    answers.add(another)  # type: ignore[no-untyped-call]
        finally:
            client.cancel(list(asked))  # type: ignore[no-untyped-call]


def _answer(future: Future[Any]) -> tuple[Any, Exception | None]:
    from distributed import KilledWorker

    if future.status == "finished":
        return future.result(), None
    error = future.exception() if future.status == "error" else None  # type: ignore[no-untyped-call]
    if isinstance(error, KilledWorker):
        return None, ClusterFailed("Each worker that computed it was lost; give workers more memory.")
    if error is None:
        raise ClusterFailed("The scheduler was lost, or cancelled what was asked. What is finished is kept.")
    return None, error
