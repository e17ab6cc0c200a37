"""How a network is run: what changes the speed of an extraction and at most the rounding of its features.

None of this is part of a feature's identity, as the batch size is not; it is kept beside it (provenance). What changes more than
rounding is: the precision, the decoder of the preprocessing, the deterministic mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featstore.errors import BadInput

if TYPE_CHECKING:
    import torch
    from torch import fx

    from featstore.backbones import Backbone
    from featstore.units import Chain

__all__ = ["Engine"]


@dataclass(frozen=True)
class Engine:
    """How a network is run.

    Attributes
    ----------
    processes : bool
        Decode and preprocess in processes instead of threads. Threads are enough while PIL does the work, which it does without
        Python's lock; with many cores, small images or shifts written in Python the lock is what limits them.
    ahead : int
        Batches that are prepared while a GPU works on one. On a CPU none are: they would take its cores away.
    channels_last : bool or None
        Order of a map's values in memory that tensor cores want, and in which convolutions on a CPU are 1.0 to 2.4 times as fast.
        None: on a CPU, and on a GPU in every precision but ``"fp32"``, where the network takes it; never if deterministic.
    compile : bool
        Have ``torch.compile`` fuse the operations of the network; takes a minute or so before the first batch.
    roofline : bool
        Count the floating-point operations and measure the peak of the device, for the report; takes a second or two.

    Raises
    ------
    BadInput
        If `ahead` is negative.
    """

    processes: bool = False
    ahead: int = 3
    channels_last: bool | None = None
    compile: bool = False
    roofline: bool = False

    def __post_init__(self) -> None:
        if self.ahead < 0:
            raise BadInput(f"ahead is {self.ahead}; batches can be prepared 0 or more ahead.")

    def check(self, chain: Chain, *, deterministic: bool) -> None:
        """Refuse what a network, or the deterministic mode, cannot have.

        Raises
        ------
        BadInput
        """
        if deterministic and (self.compile or self.channels_last):
            raise BadInput(
                "deterministic features are promised to the bit, and a compiled network or another order in memory rounds "
                "otherwise; leave out compile and channels_last."
            )
        if self.compile and chain.reason is not None:
            raise BadInput(f"the units of {type(chain.module).__name__} cannot be compiled: {chain.reason}")

    def is_channels_last(
        self, backbone: Backbone, device: torch.device, precision: str, *, deterministic: bool
    ) -> bool:
        """Return whether maps are kept with the channels last.

        Raises
        ------
        BadInput
            Where that is asked for and the network does not take it.
        """
        if self.channels_last is None:
            return not deterministic and backbone.prefers_channels_last(device, precision)
        if self.channels_last and not backbone.takes_channels_last:
            name = type(backbone.module).__name__
            raise BadInput(
                f"{name} views its maps in a way that depends on their order in memory: leave out channels_last."
            )
        return self.channels_last

    def provenance(self) -> dict[str, Any]:
        """Return what is not as it is by default and changes bits, but for the order in memory, which the device decides."""
        return {"compile": True} if self.compile else {}


def takes_channels_last(chain: Chain, x: torch.Tensor) -> bool:
    """Return whether a network computes the same whatever the order of its maps in memory.

    One that views a map as ``(n, -1)`` does not. Graphs without a view are known to; other networks are tried.

    Parameters
    ----------
    chain : Chain
    x : torch.Tensor
        (1, c, h, w).
    """
    import torch
    from torch import fx

    from featstore.devices import on_device

    units = [chain.unit(name) for name in chain.names] if chain.reason is None else []
    if units and all(isinstance(unit, fx.GraphModule) and not _may_view(unit) for unit in units):
        return True
    device = next((tensor.device for tensor in chain.module.parameters()), torch.device("cpu"))
    with on_device(chain, device), channels_last(chain, True), torch.inference_mode():
        try:
            chain.module(x.to(device).clone(memory_format=torch.channels_last))
        except RuntimeError as error:
            if "view size is not compatible" in str(error):
                return False
            raise
    return True


def _may_view(unit: fx.GraphModule) -> bool:
    """Return whether there is a view in a graph, or a module whose inside the graph does not show."""
    leaves = [unit.get_submodule(str(node.target)) for node in unit.graph.nodes if node.op == "call_module"]
    return any(node.op == "call_method" and node.target == "view" for node in unit.graph.nodes) or any(
        not type(leaf).__module__.startswith("torch.nn.") for leaf in leaves
    )


@contextmanager
def channels_last(chain: Chain, wanted: bool) -> Iterator[None]:
    """Have the weights of a network in the order in memory that maps with the channels last want, and put them back."""
    import torch

    if not wanted:
        yield
        return
    before = {id(t): t.is_contiguous() for t in chain.module.parameters()}
    chain.module.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for parameter in chain.module.parameters():
            if before.get(id(parameter)):
                # of a kernel with one channel, contiguous() would leave the strides, and the order of maps with them
                parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
