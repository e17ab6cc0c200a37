"""What a worker of a cluster does of an extraction: look whether it can, compute blocks of images, write their chunks.

Knows nothing of Dask; `featstore.distributed` calls it on the workers.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.devices import arithmetic, checked_device
from featstore.digests import DIGEST_BYTES, sample_digest
from featstore.errors import BadInput, ClusterFailed, IdentityError, UnreadableImage
from featstore.jpegs import check_decoder
from featstore.loading import default_workers
from featstore.locking import token_of
from featstore.passes import PassFolder
from featstore.progress import bar
from featstore.staging import Block, Staged, crcs_of
from featstore.store import open_store
from featstore.writing import BlockWriter

if TYPE_CHECKING:
    import torch

    from featstore.extraction import Run
    from featstore.planning import SplitPlan

__all__ = [
    "PROTOCOL_VERSION",
    "Here",
    "Shipped",
    "Work",
    "compute",
    "digests",
    "facts",
    "protocol_version",
    "why_unseen",
]

PROTOCOL_VERSION = 1
"""Raised when a client and workers of two versions would not understand each other."""

SEEN_S = 20.0
"""Network file systems show late what another machine has written."""

NANNYS_THRESHOLD = "65536"
"""What distributed sets where nobody says otherwise."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

one_at_a_time = threading.Lock()
"""Computes in a process: the arithmetic of torch, and the number of its threads, are settings of the process."""


@dataclass(frozen=True)
class Here:
    """The worker itself: its address, and the threads it was given."""

    address: str
    n_threads: int


class Shipped:
    """Something that workers need, pickled by the client; unpickled once in every worker.

    Parameters
    ----------
    payload : bytes
    folders : tuple of str
        Of the client, in which Python modules of its own may lie.
    """

    def __init__(self, payload: bytes, folders: tuple[str, ...]) -> None:
        self._payload, self._folders = payload, folders
        self._made: Any = None

    def __reduce__(self) -> tuple[object, ...]:
        return Shipped, (self._payload, self._folders)

    def __sizeof__(self) -> int:
        return len(self._payload)

    def get(self, prepare: Callable[[Any], None] | None = None) -> Any:
        """Return it, the same object every time, prepared once."""
        if self._made is None:
            try:
                made = pickle.loads(self._payload)
            except ModuleNotFoundError:
                sys.path.extend(folder for folder in self._folders if folder not in sys.path)
                made = pickle.loads(self._payload)
            if prepare is not None:
                prepare(made)
            self._made = made
        return self._made


@dataclass(frozen=True, eq=False)
class Work:
    """What a worker must know of a pass to compute blocks of it.

    Attributes
    ----------
    folder : PassFolder
    token : str
        Of the lock that the client holds.
    arrays : tuple of Staged
        Where chunks go.
    part : SplitPlan
        With the images.
    n_on_host : mapping
        Address of a host -> workers that share its cores.
    """

    folder: PassFolder
    token: str
    arrays: tuple[Staged, ...]
    part: SplitPlan
    n_on_host: Mapping[str, int]


def protocol_version() -> int:
    """Return `PROTOCOL_VERSION` of where this is called."""
    return PROTOCOL_VERSION


def facts(device: str | torch.device, precision: str) -> dict[str, Any]:
    """Return what a worker would compute with, ``"versions"``, ``"device"`` and ``"gpu"``, or a ``"problem"`` in words."""
    from featstore.devices import device_name
    from featstore.extraction import versions

    said: dict[str, Any] = {"versions": versions(), "protocol": PROTOCOL_VERSION}
    try:
        where = checked_device(device)
        with arithmetic(precision, where):
            pass
    except BadInput as error:
        return {**said, "problem": str(error), "device": "", "gpu": ""}
    gpu = ""
    if where.type == "cuda":
        import torch

        gpu = str(getattr(torch.cuda.get_device_properties(where), "uuid", ""))
    return {**said, "problem": "", "device": device_name(where), "gpu": gpu}


def digests(images: Shipped, rows: np.ndarray) -> np.ndarray:
    """Return the digests of the contents of some samples: (len(rows), 16) uint8."""
    with one_at_a_time:
        samples = images.get()
    found = np.empty((len(rows), DIGEST_BYTES), np.uint8)
    for k, i in enumerate(rows.tolist()):
        found[k] = np.frombuffer(sample_digest(samples.read(i)), np.uint8)
    return found


def why_unseen(folder: PassFolder, token: str) -> str:
    """Return in words why a worker does not see the store that the client writes; an empty text if it does."""
    stop = time.monotonic() + SEEN_S
    while token_of(folder) != token:
        if not folder.root.exists():
            return "there is no such folder"
        if time.monotonic() > stop:
            return "the folder of that name is another one, or shows what the client writes too late"
        time.sleep(0.2)
    return ""


def compute(
    network: Shipped, images: Shipped, blocks: Sequence[Block], here: Here
) -> tuple[dict[str, dict[int, int]], float]:
    """Compute some blocks and write their chunks.

    Chunks that are there and whole stay as they are: a worker that was lost before it could say so has written them.

    Returns
    -------
    written : dict
        Digest of an array -> number of every chunk of these blocks -> its CRC.
    seconds : float

    Raises
    ------
    ClusterFailed
        If the client has let go of the lock, or the store is not seen.
    FeatstoreError
        What extractions raise.
    """
    from featstore.extraction import blocks_of

    with one_at_a_time:
        begun = time.monotonic()
        work: Work = images.get(partial(_look, here))
        _check_token(work, here)
        arrays = [replace(staged, done=_there(staged, blocks)) for staged in work.arrays]
        todo = [block for block in blocks if any(staged.lacks(block) for staged in arrays)]
        if todo:
            run: Run = network.get(partial(_prepare, work, here))
            keys, store = [staged.key for staged in arrays], open_store(work.folder.root)
            writer = BlockWriter(work.folder.root)
            with closing(writer), bar(0, "", shown=False) as silent, _threads(here.n_threads), _says_where(here):
                with closing(blocks_of(run, work.part, keys, todo, store, silent)) as computed:
                    for block, features in computed:
                        _check_token(work, here)
                        writer.write(arrays, block, features, wait=False)
                writer.drain()
    return {staged.key.digest: staged.done for staged in arrays}, time.monotonic() - begun


def _look(here: Here, work: Work) -> None:
    """Make sure that a worker, which may have come later than others, sees the store."""
    why = why_unseen(work.folder, work.token)
    if why:
        raise ClusterFailed(f"the worker {here.address} does not see the store {work.folder.root}: {why}.")


def _check_token(work: Work, here: Here) -> None:
    if token_of(work.folder) != work.token:
        raise ClusterFailed(
            f"the worker {here.address} stops to write into {work.folder.root}: the client has ended, or lost its lock."
        )


def _there(staged: Staged, blocks: Sequence[Block]) -> dict[int, int]:
    """Return the CRC of every chunk of some blocks that is there and whole."""
    numbers = [k for block in blocks for k in staged.chunks_of(block)]
    found = crcs_of(staged.folder, staged.grid, [k for k in numbers if (staged.folder / staged.grid.name(k)).exists()])
    return {k: crc for k, crc in found.items() if isinstance(crc, int)}


def _prepare(work: Work, here: Here, run: Run) -> None:
    """Have a network on the worker's device, and make sure that it is the one that was planned with."""
    _keep_freed_memory()
    run.device = checked_device(run.device)
    check_decoder(run.backbone.preprocessing, run.device)
    run.backbone.chain.to(run.device)
    if run.workers is None:  # of those that share a machine, each takes its part of the cores
        run.workers = max(default_workers() // work.n_on_host.get(here.address.rpartition(":")[0], 1), 1)
    key = work.part.key
    found = {"weights digest": run.backbone.weights_digest, "units": run.backbone.cut}
    asked = {"weights digest": key.weights_digest, "units": key.cut}
    if found != asked:
        different = ", ".join(
            f"{name} {found[name]} there and {asked[name]} here" for name in found if found[name] != asked[name]
        )
        raise IdentityError(
            f"the network {run.backbone.name} has become another one on its way to the worker {here.address}: {different}. Is "
            "its code the same there?"
        )


def _keep_freed_memory() -> None:
    """Have malloc keep what is freed, as far as glibc does by itself.

    The nanny of a worker sets a threshold at which memory is given back, by which glibc also stops learning which sizes come
    again: activations are then mapped anew for every batch, which costs a fifth of the CPU. What a user has set stays.
    """
    if os.environ.get("MALLOC_TRIM_THRESHOLD_") != NANNYS_THRESHOLD:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc would go to, and twice as much for the other
        mallopt(M_TRIM_THRESHOLD, 64 << 20)


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """Have torch use the threads that the worker was given: they all work at one block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _says_where(here: Here) -> Iterator[None]:
    """Add to what is said of images that cannot be read who could not."""
    try:
        yield
    except UnreadableImage as error:
        raise UnreadableImage(
            f"{error} (Said the worker {here.address}, which must see the images as the client does.)"
        ) from error
