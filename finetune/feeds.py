"""Gives candidates of flex-tuning their inputs, as `finetune.feeding` has planned: from memory, a store, or images.

Outputs of units are computed by the source network, which no candidate changes, in evaluation mode. In memory only one
is held at a time: in float32, that of a later unit is made from that of an earlier one, so that, over all candidates,
every image passes every unit once. Blocks have the same rows whatever they are made from, so that a resumed call makes
the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from finetune.devices import memory_errors_explained
from finetune.examples import Examples, TensorExamples
from finetune.feeding import FeedPlan

if TYPE_CHECKING:
    from torch import Tensor

    from featstore import Backbone, Store
    from finetune.images import ImageExamples
    from finetune.networks import TargetNetwork
    from finetune.task import Asked

BLOCK_ROWS = 64
"""Images that pass the network at once; on a CPU, more than what its caches hold takes longer per image."""

Load = Callable[[str], Examples]


class Feed(Protocol):
    """What gives the examples of train and val."""

    @property
    def made(self) -> Mapping[tuple[str, str], Made]:
        """What was stored so far: (unit, split) -> seconds and bytes."""
        ...

    def load(self, source: str | None) -> Load:
        """Examples of ``"train"`` or ``"val"``: the stored output of a unit, or (None) images; made when asked for."""
        ...


@dataclass(frozen=True)
class Made:
    """What storing one output of one split took.

    Attributes
    ----------
    seconds : float
        Computing it, and reading it from disk where it is there.
    n_bytes : int
        Of what is stored.
    """

    seconds: float
    n_bytes: int


@dataclass(eq=False)
class MemoryFeed:
    """Outputs in memory; also the feed of images alone, where the plan stores nothing.

    Parameters
    ----------
    network : TargetNetwork
        The source network, on ``asked.device``.
    asked : Asked
        Splits without test; recipe and device.
    plan : FeedPlan
        What is stored.
    images : callable
        Gives the images of a split as network inputs.
    """

    network: TargetNetwork
    asked: Asked
    plan: FeedPlan
    images: Callable[[str], ImageExamples]
    made: dict[tuple[str, str], Made] = field(default_factory=dict, init=False)
    _held: dict[str, tuple[str, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def load(self, source: str | None) -> Load:
        """See `Feed`."""
        if source is None:
            return self.images
        return lambda name: TensorExamples(
            self._output(name, source), self.asked.labels(name), self.images(name).channels_last
        )

    def _output(self, name: str, source: str) -> Tensor:
        """Output of a unit for every sample of a split, ``(n, …)`` in the plan's dtype; one of each split is held."""
        import torch

        from featstore import arithmetic

        held = self._held.get(name)
        if held is not None and held[0] == source:
            return held[1]
        began = time.monotonic()
        first, examples = self._begin(name, source)
        n, where = len(examples), torch.device(self.asked.device)
        with memory_errors_explained(
            f"the output of {source} did not fit into the memory of {where}",
            "Take feed='disk' or 'images', or dtype='float16'.",
        ):
            out = torch.empty((n, *self.plan.shapes[source]), dtype=getattr(torch, self.plan.dtype), device=where)
            with torch.inference_mode(), arithmetic("fp32", where):
                for start in range(0, n, BLOCK_ROWS):
                    rows = np.arange(start, min(start + BLOCK_ROWS, n))
                    x = self.network.chain.run(examples.inputs(rows, None).to(where), first, source)
                    _refuse_overflow(x, source, self.plan.dtype)
                    out[start : start + len(rows)] = x
        self._held[name] = source, out
        self.made[source, name] = Made(time.monotonic() - began, out.numel() * out.element_size())
        return out

    def _begin(self, name: str, source: str) -> tuple[str | None, Examples]:
        """What an output is made from, and the unit that takes it: the output held, where it is an earlier one."""
        units = self.plan.units
        held = self._held.pop(name, None)
        # what is made from rounded outputs would not be the network's
        if held is None or self.plan.dtype != "float32" or units.index(held[0]) > units.index(source):
            return None, self.images(name)
        kept = TensorExamples(held[1], self.asked.labels(name), self.images(name).channels_last)
        return self.plan.entry(held[0]), kept


@dataclass(eq=False)
class StoreFeed:
    """Outputs in a feature store, whole maps; one of each split is in memory at a time.

    Parameters
    ----------
    backbone : Backbone
        The source network, not changed.
    asked, plan, images
        As of `MemoryFeed`.
    store : str, Path or Store
        Where they are, and go where they are missing.
    at_once : bool
        Whether the first output of the training split that is asked for brings all others with it, in one pass.
    """

    backbone: Backbone
    asked: Asked
    plan: FeedPlan
    images: Callable[[str], ImageExamples]
    store: str | Path | Store
    at_once: bool
    made: dict[tuple[str, str], Made] = field(default_factory=dict, init=False)
    _held: dict[str, tuple[str, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def load(self, source: str | None) -> Load:
        """See `Feed`."""
        if source is None:
            return self.images
        return lambda name: TensorExamples(
            self._output(name, source), self.asked.labels(name), self.images(name).channels_last
        )

    def _output(self, name: str, source: str) -> Tensor:
        """Output of a unit for every sample of a split, read from the store."""
        import torch

        import featstore

        held = self._held.pop(name, None)
        if held is None or held[0] != source:
            began, split, dtype = time.monotonic(), self.asked.splits[name], self.plan.dtype
            held = None  # two at once need not fit
            opened = featstore.extract(
                self.backbone,
                split,
                self.store,
                units=list(self.plan.stored) if self.at_once or name != "train" else [source],
                pool="none",
                dtype=dtype,
                device=self.asked.device,
                progress=self.asked.progress,
            )
            matrix = opened.features(source, split, backbone=self.backbone, pool="none", dtype=dtype)
            held = source, matrix.load(self.asked.device, dtype=getattr(torch, dtype))
            n_bytes = held[1].numel() * held[1].element_size()
            self.made[source, name] = Made(time.monotonic() - began, n_bytes)
        self._held[name] = held
        return held[1]


def _refuse_overflow(x: Tensor, source: str, dtype: str) -> None:
    import torch

    limit = torch.finfo(getattr(torch, dtype)).max
    if dtype != "float32" and float(x.abs().max()) > limit:
        from finetune.errors import BadInput

        raise BadInput(
            f"the output of {source} exceeds {limit:g}, where {dtype} ends: it would become infinite. Take "
            "dtype='float32' or 'bfloat16'."
        )
