"""Every wanted unit's output from one forward pass, pooled to one vector per image.

Conventions: maps are (n, c, h, w) or (n, h, w, c), tokens (n, t, c), vectors (n, c). Pooling is done in float32,
whatever the network computes in, and as each output appears: full maps are never kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from featstore.errors import UnknownName

if TYPE_CHECKING:
    import torch

    from featstore.units import Chain

__all__ = ["POOLS", "capture", "channel_axis", "mean_pool", "pooled_shape"]


def mean_pool(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the mean over all axes but the first and the channels': (n, c) float32.

    Parameters
    ----------
    x : torch.Tensor
        (n, …) of any floating type.
    axis : int
        Of the channels, not counting the batch axis.
    """
    import torch

    others = [a for a in range(1, x.ndim) if a != axis + 1]
    x = x.to(torch.float32)
    return x.mean(others) if others else x.clone()  # the next unit may write into its input


POOLS: Mapping[str, Callable[[torch.Tensor, int], torch.Tensor]] = {"mean": mean_pool}


def channel_axis(shape: tuple[int, ...], input_size: tuple[int, int]) -> int:
    """Return which axis of a unit's output, not counting the batch axis, is the channels'.

    Of vectors the only one, of tokens the last. Of maps the first, unless only the other two have the aspect of the
    image: then the network keeps channels last.

    Examples
    --------
    >>> channel_axis((512, 7, 7), (224, 224)), channel_axis((7, 7, 768), (224, 224)), channel_axis((197, 192), (224,
    224)) (0, 2, 1)
    """
    if len(shape) < 3:
        return len(shape) - 1

    def has_aspect(height: int, width: int) -> bool:
        return abs(height / width - input_size[0] / input_size[1]) < 1 / width

    return 2 if len(shape) == 3 and has_aspect(*shape[:2]) and not has_aspect(*shape[1:]) else 0


def pooled_shape(pool: str, shape: tuple[int, ...], input_size: tuple[int, int]) -> tuple[int, ...]:
    """Return the shape of one sample's features.

    Raises
    ------
    UnknownName
        If there is no such pooling.
    """
    if pool not in POOLS:
        raise UnknownName("pooling", pool, POOLS)
    return (shape[channel_axis(shape, input_size)],)


def capture(
    chain: Chain,
    x: torch.Tensor,
    axes: Mapping[str, int],
    pool: Callable[[torch.Tensor, int], torch.Tensor] = mean_pool,
) -> dict[str, torch.Tensor]:
    """Return the pooled outputs of some units from one forward pass, which ends after the last of them.

    Parameters
    ----------
    chain : Chain
    x : torch.Tensor
        (n, c, h, w) preprocessed images.
    axes : mapping
        Unit -> axis of its channels, not counting the batch axis; see `channel_axis`.
    pool : callable
        (output, axis) -> (n, d) float32 that shares no memory with the output.

    Returns
    -------
    dict
        Unit -> (n, d) float32, on the device of `x`.
    """
    import torch

    pooled: dict[str, torch.Tensor] = {}

    def keep(name: str, output: torch.Tensor) -> None:
        pooled[name] = pool(output, axes[name])

    with torch.no_grad():
        chain.visit(x, axes, keep)
    return pooled
