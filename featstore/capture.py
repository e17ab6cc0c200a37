"""Every wanted unit's output from one forward pass, pooled as it appears: what is not asked for is never kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from featstore.compiled import CompiledChain
    from featstore.poolings import Pooling
    from featstore.stages import Clock
    from featstore.units import Chain

__all__ = ["capture"]


def capture(
    chain: Chain | CompiledChain,
    x: torch.Tensor,
    wanted: Collection[tuple[str, Pooling]],
    axes: Mapping[str, int],
    clock: Clock | None = None,
) -> dict[tuple[str, str], torch.Tensor]:
    """Return the pooled outputs of some units from one forward pass, which ends after the last of them.

    Parameters
    ----------
    chain : Chain
    x : torch.Tensor
        (n, c, h, w) preprocessed images.
    wanted : collection of (str, Pooling)
        Units, each with one pooling or with several.
    axes : mapping
        Unit -> axis of its channels, not counting the batch axis; see `featstore.poolings.channel_axis`.
    clock : Clock or None
        Measures the stage "pool", inside the stage "forward".

    Returns
    -------
    dict
        (unit, name of the pooling) -> (n, …) float32, on the device of `x`.
    """
    import torch

    pooled: dict[tuple[str, str], torch.Tensor] = {}
    of_unit: dict[str, list[Pooling]] = {}
    for unit, pooling in wanted:
        of_unit.setdefault(unit, []).append(pooling)

    def keep(unit: str, output: torch.Tensor) -> None:
        with nullcontext() if clock is None else clock("pool", "forward"):
            for pooling in of_unit[unit]:
                pooled[unit, pooling.name] = pooling(output, axes[unit])

    with torch.no_grad():
        chain.visit(x, of_unit, keep)
    return pooled
