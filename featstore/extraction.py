"""Extraction: run a network once over the images of some splits, and keep what every unit says.

`planning.plan` decides what is missing; `extract` carries it out block by block. A block goes through the network in batches
(`featstore.forwarding`) and is handed to the store whole; what is killed in between loses at most a block. Batches begin with their
block, so that a resumed run forms the same ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.bfloat import BFLOAT16_MAX, narrow
from featstore.chunks import stored_dtype
from featstore.deriving import pooled_from_maps
from featstore.devices import arithmetic, checked_device, device_name, memory_errors, named_device
from featstore.engine import Engine
from featstore.errors import BadInput, StoreBusy, StoreWrite
from featstore.forwarding import forward, roofline_of
from featstore.jpegs import check_decoder
from featstore.planning import Plan, SplitPlan, channel_axes, checked_inputs, plan
from featstore.poolings import PoolingLike, as_poolings
from featstore.progress import Bar, bar, say
from featstore.stages import Report, Stages

if TYPE_CHECKING:
    import torch
    from distributed import Client

    from featstore.backbones import Backbone
    from featstore.distributed import Cluster
    from featstore.manifest import ArrayKey
    from featstore.splits import Split
    from featstore.store import Store
    from featstore.writing import Block, Session

__all__ = ["Plan", "SplitPlan", "extract", "plan"]

FLOAT16_MAX = 65504.0


def extract(
    backbone: Backbone,
    splits: Split | Sequence[Split],
    root: str | Path | Store,
    *,
    units: str | Sequence[str] = "all",
    pool: PoolingLike | Sequence[PoolingLike] = "mean",
    dtype: str = "float16",
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    deterministic: bool = False,
    workers: int | None = None,
    skip_unreadable: bool = False,
    repair: bool = False,
    block_rows: int | None = None,
    progress: bool = True,
    client: Client | str | None = None,
    engine: Engine | None = None,
    report: Callable[[Report], object] | None = None,
) -> Store:
    """Compute the features that a store lacks, and return the store.

    What is complete is not computed again; an interrupted extraction goes on where it stopped. Other weights,
    preprocessing, units, pooling, dtype or precision make other entries and overwrite nothing.

    Parameters
    ----------
    backbone : Backbone
    splits : Split or sequence of Split
    root : str, Path or Store
        Of the store; made if there is none.
    units : str or sequence of str
        Names of units; ``"all"`` are those up to ``"penultimate"``, ``["all", "head"]`` the logits of the classifier, too.
    pool : str, callable, Pooling or sequence of these
        What is kept of a unit's output, always computed in float32: ``"mean"``, ``"max"``, ``"token"`` (the class token),
        ``"grid2"`` … (means over a k × k grid), ``"flatten"``, ``"none"`` (the whole map), or a function; several come from one
        pass. Where the whole maps are stored in float32 already, they are pooled and the network does not run
        (`featstore.deriving` has the rule).
    dtype : str
        What is stored: ``"float16"``, ``"float32"`` or ``"bfloat16"``.
    batch_size : int
        Images per forward pass; changes no feature beyond rounding.
    device : str or torch.device
        Where the network runs; it is put back where it was.
    precision : str
        Arithmetic of the forward pass: ``"fp32"``, ``"tf32"``, ``"amp-fp16"`` or ``"amp-bf16"``. Pooling is always in
        float32.
    deterministic : bool
        Run every image through the network alone, on the CPU with one thread, so that its features do not depend on the
        batch size, the number of cores, its neighbours or what was there already: they are the same to the bit (tested on
        the CPU in float32). Slower; such features are entries of their own (precision ``"fp32-deterministic"``).
    workers : int or None
        Threads that decode and preprocess; None takes the cores, at most 16.
    skip_unreadable : bool
        Leave out images that do not decode, and record which; they are found by decoding everything beforehand.
    repair : bool
        Read all that is stored, and compute damaged rows again.
    block_rows : int or None
        Rows that are computed and written together; None lets the store choose.
    progress : bool
        Show it on stderr.
    client : distributed.Client, str or None
        A Dask cluster, or the address of its scheduler, whose workers compute the blocks, each on `device` as it sees it; the
        bytes are those of an extraction here on the same kind of device. What `skip_unreadable` decodes beforehand is decoded
        here. See `featstore.distributed`.
    engine : Engine or None
        How the network is run: what changes the speed, and rounding at most. None is ``Engine()``.
    report : callable or None
        Is given a `Report` for every split of which something was computed: what its stages took, and which was the slowest.

    Raises
    ------
    UnreadableImage
        If an image does not decode; names it.
    BadInput
        If a feature is not finite, or too large for float16; names the unit and the images. If the device is not there.
    StoreWrite
        If the disk is full or the folder read-only; what was written before is kept.
    ClusterFailed
        If the cluster does not answer, cannot compute what is asked, or is lost; what was written before is kept.
    """
    from featstore.distributed import Cluster
    from featstore.store import Store, create_store

    several = checked_inputs(backbone, splits)
    counts: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "block_rows": block_rows}
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int | np.integer) or value < 1):
            raise BadInput(f"{name} is {value!r}; it must be a whole number, at least 1.")
    where = named_device(device) if client is not None else checked_device(device)
    if client is None:
        with arithmetic(precision, where):
            pass  # refuse what the device cannot do before anything is read
        check_decoder(backbone.preprocessing, where)
    engine = engine or Engine()
    engine.check(backbone.chain, deterministic=deterministic)
    store = root if isinstance(root, Store) else create_store(root)
    with Cluster(client) if client is not None else nullcontext() as cluster:
        if cluster is not None and not skip_unreadable:  # else what is unreadable is left out first
            for split in several:
                cluster.digest(split, store.digest_cache)
        made = plan(
            backbone,
            several,
            store,
            units=units,
            pool=pool,
            dtype=dtype,
            precision=precision,
            deterministic=deterministic,
            skip_unreadable=skip_unreadable,
        )
        if cluster is not None and not made.is_done:
            cluster.connect()
        run = Run(backbone, where, precision, pool, batch_size, workers, progress, deterministic, engine)
        for part in made.parts:
            for name, why in part.skipped.items():
                say(f"left out {name}: {why}")
            took = _extract_split(run, store, part, cluster, repair=repair, block_rows=block_rows)
            if took is not None and report is not None:
                report(took)
    return store


class Run:
    """What stays the same for all splits of one call of `extract`."""

    def __init__(
        self,
        backbone: Backbone,
        device: torch.device,
        precision: str,
        pool: PoolingLike | Sequence[PoolingLike],
        batch_size: int,
        workers: int | None,
        progress: bool,
        deterministic: bool = False,
        engine: Engine | None = None,
    ) -> None:
        self.deterministic, self.engine = deterministic, engine or Engine()
        self.backbone, self.device, self.precision = backbone, device, precision
        self.poolings = {pooling.name: pooling for pooling in as_poolings(pool)}
        self.axes = channel_axes(backbone)
        self.batch_size, self.workers, self.progress = batch_size, workers, progress

    def made_by(self) -> dict[str, Any]:
        """Return what computes here, for the provenance."""
        return {"device": device_name(self.device), "versions": versions()}

    def provenance(self, part: SplitPlan, made_by: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is worth knowing beside the identity. Nothing in it differs between two runs of the same
        command."""
        is_last = self.engine.is_channels_last(
            self.backbone, self.device, self.precision, deterministic=self.deterministic
        )
        said: dict[str, Any] = {
            "units": list(self.backbone.units),
            "weights": self.backbone.weights,
            "batch_size": self.batch_size,
            "channels_last": is_last,
            **made_by,
            **self.engine.provenance(),
        }
        if part.skipped:
            said["skipped"] = dict(part.skipped)
        return said


def versions() -> dict[str, str | None]:
    """Return the versions of what decides about the numbers."""
    import PIL
    import torch

    import featstore

    return {
        "featstore": getattr(featstore, "__version__", None) or _version("featprobe"),
        "torch": str(torch.__version__),
        "pillow": PIL.__version__,
        "numpy": np.__version__,
    }


def _version(distribution: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _extract_split(
    run: Run, store: Store, part: SplitPlan, cluster: Cluster | None, *, repair: bool, block_rows: int | None
) -> Report | None:
    """Compute what the store lacks of one split, as the one writer of its pass; return what it took, None for nothing."""
    nothing_to_do = not part.missing and not repair
    try:
        # a complete pass is entered, too: its labels may be new, and files cut short are found by their size
        with store.writing(part.key, part.split, {}, timeout=0 if nothing_to_do else None) as session:
            if cluster is not None:
                session.read_back = cluster.read_back
            session.begin(part.arrays, block_rows, repair=repair)
            if session.n_damaged:
                say(f"{session.n_damaged} damaged chunks of '{part.split.name}' are computed again")
            if session.arrays:
                made_by = run.made_by() if cluster is None else cluster.made_by(run)
                session.provenance = run.provenance(part, made_by)
                with memory_errors(run.batch_size):
                    took = _compute(run, part, session, store, cluster)
                session.commit()
                return took
    except (StoreBusy, StoreWrite):
        if not nothing_to_do:
            raise  # else somebody adds other units, or the store is read-only: what is wanted is there all the same
    if run.progress:
        say(
            f"nothing to extract: {len(part.arrays)} units of '{part.split.name}' ({len(part.split):,} images) "
            f"are complete in {store.root}"
        )
    return None


def _compute(run: Run, part: SplitPlan, session: Session, store: Store, cluster: Cluster | None) -> Report:
    """Compute the blocks that are missing, hand each to the store, and return what it took."""
    blocks = session.missing_blocks()
    n_missing = sum(len(block) for block in blocks)
    if run.progress:
        resumed = f", {len(part.split) - n_missing:,} are there already" if n_missing < len(part.split) else ""
        what = ", ".join(dict.fromkeys(key.unit for key in session.arrays))
        pooled = _maps(part, session.arrays) is not None
        how = f"of {what}, pooled from stored maps" if pooled else f"through {run.backbone.name} for {what}"
        say(f"'{part.split.name}': {n_missing:,} images {how}{resumed}")
    peaks: tuple[float, float] | None = None
    if run.engine.roofline and cluster is None and _maps(part, session.arrays) is None:
        peaks = roofline_of(run, session.arrays)
    stages = Stages()
    begun = time.monotonic()
    with bar(len(part.split), part.split.name, done=len(part.split) - n_missing, shown=run.progress) as shown:
        if cluster is not None:
            cluster.compute(run, part, session, shown)
        else:
            session.count(stages)
            computed = blocks_of(run, part, session.arrays, blocks, store, shown, stages)
            with closing(computed):
                for block, features in computed:
                    session.write(block, features, wait=False)
            session.drain()
    took = Report(
        part.split.name,
        n_missing,
        time.monotonic() - begun,
        {} if cluster is not None else stages.seconds,
        stages.waiting_s,
        *(peaks or (None, None)),
    )
    if run.progress:
        say(str(took))
    return took


def _maps(part: SplitPlan, keys: Sequence[ArrayKey]) -> dict[ArrayKey, ArrayKey] | None:
    """Return the stored maps that arrays are pooled from; None where the network runs."""
    # not all of them may be in the plan: something stored was damaged
    return {key: part.maps[key] for key in keys} if all(key in part.maps for key in keys) else None


def blocks_of(
    run: Run,
    part: SplitPlan,
    keys: Sequence[ArrayKey],
    blocks: Sequence[Block],
    store: Store,
    shown: Bar,
    stages: Stages | None = None,
) -> Generator[tuple[Block, dict[ArrayKey, np.ndarray]]]:
    """Yield blocks, in order, and what is stored of each, (rows, …) of the stored dtype for every key."""
    batches = [(block, rows) for block in blocks for rows in _batches(block, run.batch_size)]
    ordered = [rows for _, rows in batches]
    maps = _maps(part, keys)
    if maps is None:
        computed = forward(run, part.split, keys, ordered, stages or Stages())
    else:
        computed = pooled_from_maps(store, maps, run.poolings, run.axes, ordered)
    with closing(computed):
        gathered: dict[ArrayKey, np.ndarray] = {}
        for (block, _), (rows, features) in zip(batches, computed, strict=True):
            if rows.start == block.start:
                # new arrays for every block: the store writes those of the last one while this one is computed
                gathered = {key: np.empty((len(block), *key.shape), stored_dtype(key.dtype)) for key in keys}
            for key, out in gathered.items():
                values = _checked(features[key.unit, key.pool], key, part.split, rows)
                out[rows.start - block.start : rows.stop - block.start] = values
            shown.update(len(rows))
            if rows.stop == block.stop:
                yield block, gathered


def _batches(block: Block, size: int) -> Iterator[range]:
    for start in range(block.start, block.stop, size):
        yield range(start, min(start + size, block.stop))


def _checked(features: torch.Tensor, key: ArrayKey, split: Split, rows: range) -> np.ndarray:
    """Return features as numbers that can be stored.

    Raises
    ------
    BadInput
        If some are not finite, or too large for the dtype, or not of the shape that was announced.
    """
    values: np.ndarray = features.numpy()
    if values.shape != (len(rows), *key.shape):
        raise BadInput(
            f"unit '{key.unit}' pooled by '{key.pool}' gave {values.shape} for {len(rows)} images, and "
            f"{(len(rows), *key.shape)} was announced: a pooling must make the same of every image."
        )
    largest = np.abs(values).max()  # NaN and infinity come through
    if not np.isfinite(largest):
        bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))
        ids = ", ".join(f"'{split.ids[rows[i]]}'" for i in bad[:5])
        raise BadInput(
            f"unit '{key.unit}' gives NaN or infinity for {len(bad)} of {len(rows)} images of '{split.name}': {ids}"
            f"{', …' if len(bad) > 5 else ''}. No probe can be fitted to that: look at the weights and at these "
            "images; in half precision try precision='fp32'."
        )
    limit = {"float16": FLOAT16_MAX, "bfloat16": BFLOAT16_MAX}.get(key.dtype)
    if limit is not None and largest > limit:
        raise BadInput(
            f"unit '{key.unit}' reaches {largest:g}, and {key.dtype} ends at {limit:g}: the features would become "
            "infinite. Store them as dtype='float32'."
        )
    return narrow(values) if key.dtype == "bfloat16" else values
