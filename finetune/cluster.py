"""The cells of a search trained by the workers of a Dask cluster; the only file of `finetune` that knows distributed.

A task is one cell. Its worker writes the cell's run itself, into the folder that the client sees under the same path,
and sends back nothing but how it went. A worker that is lost loses what it trained since its last checkpoint, and
nothing else: Dask gives the cell to another one, which goes on from there.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pickle
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from finetune.errors import BadInput, FinetuneError, MissingExtra
from finetune.recipe import Recipe

if TYPE_CHECKING:
    from distributed import Client
    from torch import nn

    from featstore import Backbone, Preprocessing
    from finetune.searching import Work

_CONNECT_S = 10.0
_GPU = "GPU"
"""Name of the resource that workers with a GPU may declare (``dask worker --resources GPU=1``); then it is asked for."""


def on_workers(work: Work, grid: Mapping[str, Recipe], scheduler: str | Client) -> Iterator[tuple[str, str]]:
    """Train cells on a cluster.

    Parameters
    ----------
    work : Work
        What all cells have in common.
    grid : mapping of str to Recipe
        The cells.
    scheduler : str or distributed.Client
        Address of the scheduler, or a client, which is left open.

    Yields
    ------
    (name, note)
        Of each cell as it is done; the note is empty where there is a run. Where the iteration is left early, cells that
        no worker has begun are cancelled.

    Raises
    ------
    MissingExtra
        distributed is not installed.
    BadInput
        There is no such scheduler, or the network cannot be sent.
    FinetuneError
        What a training raises, or a cell that each worker was lost with.
    """
    sent = _packed(work)
    with _connected(scheduler) as client:
        from distributed import as_completed

        # Searches into folders of one name, of one scheduler's clients, are not each other's.
        place = hashlib.sha256(str(work.folder.resolve()).encode()).hexdigest()[:16]
        has_gpus = any(_GPU in worker.get("resources", {}) for worker in client.scheduler_info()["workers"].values())
        common = client.scatter(sent, broadcast=True, hash=False)  # type: ignore[no-untyped-call]
        futures = {
            client.submit(
                _train, common, name, recipe, key=f"finetune-{name}-{place}", pure=False,
                resources={_GPU: 1} if has_gpus else None,
            ): name
            for name, recipe in grid.items()
        }  # fmt: skip
        try:
            for future in as_completed(list(futures), loop=client.loop):  # type: ignore[no-untyped-call]
                if future.status != "finished":
                    raise _failed(future, futures[future])
                yield futures[future], future.result()
        finally:
            client.cancel(list(futures))  # type: ignore[no-untyped-call]


def _failed(future: Any, name: str) -> BaseException:
    from distributed import KilledWorker

    error = future.exception() if future.status == "error" else None
    if isinstance(error, KilledWorker) or error is None:
        return FinetuneError(
            f"cell {name} was given up: each worker that trained it was lost, or the scheduler was. What is done is kept, "
            "and the same call goes on there; a worker that needs more memory than it has is killed: give workers more."
        )
    found: BaseException = error
    return found


@dataclass(frozen=True, eq=False)
class _Network:
    """A backbone as it travels: its module, and what is needed to cut it into the same units again."""

    name: str
    module: nn.Module
    preprocessing: Preprocessing
    weights: str
    granularity: Any
    version: str | None
    cut: str

    @classmethod
    def of(cls, backbone: Backbone) -> _Network:
        names = ("name", "module", "preprocessing", "weights", "granularity", "version", "cut")
        return cls(**{name: getattr(backbone, name) for name in names})

    def backbone(self) -> Backbone:
        import featstore

        made = featstore.load_backbone(
            self.module, preprocessing=self.preprocessing, units=self.granularity, version=self.version or self.name
        )
        made = replace(made, name=self.name, weights=self.weights, version=self.version)
        if made.cut != self.cut:
            raise FinetuneError(
                f"{self.name} was cut into other units by a worker than by the client; install the same versions of torch "
                "and featprobe with both."
            )
        return made


def _packed(work: Work) -> bytes:
    """Everything but the network's units, which are found again on the other side."""
    import cloudpickle

    try:
        packed: bytes = cloudpickle.dumps(replace(work, backbone=_Network.of(work.backbone)))  # type: ignore[arg-type]
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise BadInput(f"network and images cannot be sent to workers: {error}. Search without a cluster.") from error
    return packed


@functools.lru_cache(maxsize=1)
def _unpacked(packed: bytes) -> Work:
    """What a worker keeps between its cells: network and images."""
    work: Work = pickle.loads(packed)
    network: Any = work.backbone
    return replace(work, backbone=network.backbone())


@functools.cache
def _one_at_a_time() -> threading.Lock:
    """Torch's generator belongs to the process: two trainings in its threads would take each other's numbers."""
    return threading.Lock()


def _train(packed: bytes, name: str, recipe: Recipe) -> str:
    """What a worker does."""
    from finetune.searching import run_cell

    with _one_at_a_time():
        work = _unpacked(packed)
        return run_cell(replace(work, options={**work.options, "progress": False}), name, recipe).note


@contextlib.contextmanager
def _connected(scheduler: str | Client) -> Iterator[Client]:
    try:
        import distributed
    except ImportError as error:
        raise MissingExtra(
            f"a search over a cluster needs distributed, which cannot be imported ({error}); install featprobe[cluster]."
        ) from error
    if not isinstance(scheduler, str):
        yield scheduler
        return
    try:
        client = distributed.Client(scheduler, timeout=_CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise BadInput(
            f"no Dask scheduler answers at '{scheduler}' ({(str(error).splitlines() or [type(error).__name__])[0]}); "
            "`dask scheduler` starts one and prints its address."
        ) from error
    try:
        yield client
    finally:
        client.close()  # type: ignore[no-untyped-call]
