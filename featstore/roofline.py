"""What a device can do at most, measured on it, and what a forward pass asks of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import cache, partial
from typing import TYPE_CHECKING

from featstore.devices import arithmetic

if TYPE_CHECKING:
    import torch

    from featstore.units import Chain

__all__ = ["flops_per_image", "peak_flops"]

SIZES = {"cuda": 8192, "cpu": 1024}
"""Of the square matrices: large enough that starting the product costs nothing."""
AT_LEAST_S = 0.3


def flops_per_image(chain: Chain, x: torch.Tensor, units: Collection[str]) -> float:
    """Return the floating-point operations of a forward pass up to the last of some units, for one image.

    Products of matrices, convolutions and attention are counted, a multiplication with its addition as two; what is done once per
    value (norm, activation, pooling) is not.

    Parameters
    ----------
    chain : Chain
    x : torch.Tensor
        (1, c, h, w) an image, on the network's device.
    units : collection of str
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        chain.visit(x, units, lambda unit, output: None)
    return float(counter.get_total_flops())


@cache
def peak_flops(device: torch.device, precision: str) -> float:
    """Return the floating-point operations per second that products of large matrices reach; measured once per process."""
    import torch

    size = SIZES.get(device.type, SIZES["cpu"])
    a = torch.randn(size, size, device=device)
    halves = {"amp-fp16": torch.float16, "amp-bf16": torch.bfloat16}
    if precision in halves:
        a = a.to(halves[precision])  # autocast would convert it each time
    wait: Callable[[], None] = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    with torch.no_grad(), arithmetic(precision, device):
        for _ in range(3):
            a @ a
        wait()
        n, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < AT_LEAST_S:
            for _ in range(4):
                a @ a
            wait()
            n += 4
        return 2.0 * n * size**3 / (time.perf_counter() - begun)
