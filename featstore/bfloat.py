"""bfloat16 without a library that has it: the upper half of a float32, kept as uint16.

Neither numpy nor zarr has the type; torch takes the bits without a copy (``torch.from_numpy(bits).view(torch.bfloat16)``).
"""

from __future__ import annotations

import numpy as np

__all__ = ["BFLOAT16_MAX", "narrow", "widen"]

BFLOAT16_MAX = 3.3895313892515355e38


def widen(bits: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` (float32, C-contiguous) with the numbers whose bfloat16 bits are `bits` (uint16, same shape); exact."""
    whole = out.view(np.uint32)
    whole[...] = bits
    whole <<= np.uint32(16)


def narrow(values: np.ndarray) -> np.ndarray:
    """Return the bits (uint16) of float32 `values`, finite ones, rounded to the nearest bfloat16, ties to even."""
    whole = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = whole + np.uint32(0x7FFF) + ((whole >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype(np.uint16)
