"""How a network is run: what changes the speed of an extraction and at most the rounding of its features.

None of this is part of a feature's identity, as the batch size is not; it is kept beside it (provenance). What changes more than
rounding is: the precision, the decoder of the preprocessing, the deterministic mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from featstore.errors import BadInput

if TYPE_CHECKING:
    import torch

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
        Order of a map's values in memory that tensor cores want. None: on a GPU, in every precision but ``"fp32"``.
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

    def is_channels_last(self, device: torch.device, precision: str, *, deterministic: bool) -> bool:
        """Return whether maps are kept with the channels last."""
        if self.channels_last is None:
            return device.type == "cuda" and precision != "fp32" and not deterministic
        return self.channels_last

    def provenance(self) -> dict[str, Any]:
        """Return what is not as it is by default; nothing of how images are decoded, which changes no bit."""
        mine, usual = asdict(self), asdict(Engine())
        return {name: mine[name] for name in ("channels_last", "compile") if mine[name] != usual[name]}


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
                parameter.data = parameter.data.contiguous()
