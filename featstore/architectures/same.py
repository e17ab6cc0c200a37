"""TensorFlow's padding "SAME" at stride 2: the output is half the input, rounded up, and what is padded lies as far right as left.

Of an even input the left border gets one pixel less than the right one, which no fixed padding of PyTorch does. At stride 1
and odd kernels "SAME" is the usual even padding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    import torch

__all__ = ["SameConv2d", "halving_avg_pool", "halving_max_pool"]


class SameConv2d(nn.Conv2d):
    """A convolution of stride 2 without bias, padded as TensorFlow does.

    Parameters
    ----------
    n_in, n_out : int
        Channels.
    kernel : int
        Odd, pixels.
    groups : int
    """

    def __init__(self, n_in: int, n_out: int, kernel: int, groups: int = 1) -> None:
        super().__init__(n_in, n_out, kernel, 2, groups=groups, bias=False)
        self.reach = kernel // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, n_out, ⌈h / 2⌉, ⌈w / 2⌉)."""
        height, width = x.shape[2:]
        less_top, less_left = 1 - height % 2, 1 - width % 2
        x = F.pad(x, (self.reach - less_left, self.reach, self.reach - less_top, self.reach))
        return F.conv2d(x, self.weight, None, self.stride, groups=self.groups)


def halving_max_pool(x: torch.Tensor) -> torch.Tensor:
    """Return the largest of 3 × 3 pixels at stride 2: (n, c, ⌈h / 2⌉, ⌈w / 2⌉)."""
    # padded on both sides if odd; if even on the right alone, which is what ceil_mode adds
    y: torch.Tensor = F.max_pool2d(x, 3, 2, (x.shape[2] % 2, x.shape[3] % 2), ceil_mode=True)
    return y


def halving_avg_pool(x: torch.Tensor) -> torch.Tensor:
    """Return the mean of those of 3 × 3 pixels at stride 2 that lie inside the map: (n, c, ⌈h / 2⌉, ⌈w / 2⌉)."""
    padding = (x.shape[2] % 2, x.shape[3] % 2)
    return F.avg_pool2d(x, 3, 2, padding, ceil_mode=True, count_include_pad=False)
