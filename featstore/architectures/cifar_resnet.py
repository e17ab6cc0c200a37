"""The residual networks for CIFAR of He et al. (2015), section 4.2, with parameter-free shortcuts (option A)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from featstore.errors import BadInput

__all__ = ["CifarResNet"]


class Block(nn.Module):
    """Two 3 × 3 convolutions around a shortcut; where the shape changes, it skips pixels and pads channels with
    zeros."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.stride, self.n_added = stride, n_out - n_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, n_out, h / stride, w / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride != 1 or self.n_added:
            before = self.n_added // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.n_added - before))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """6n + 2 layers: a convolution, three stages of n blocks with 16, 32 and 64 channels, mean over the map, a
    classifier.

    Parameters
    ----------
    depth : int
        20, 32, 44, 56, 110, …
    n_classes : int
    """

    def __init__(self, depth: int, n_classes: int = 10) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise BadInput(f"a CIFAR ResNet has 6n + 2 layers (20, 32, 44, 56, 110, …), not {depth}.")
        n_blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, n_blocks, 1)
        self.layer2 = _stage(16, 32, n_blocks, 2)
        self.layer3 = _stage(32, 64, n_blocks, 2)
        self.fc = nn.Linear(64, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, n_classes) for images (n, 3, 32, 32)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: torch.Tensor = self.fc(x.mean((2, 3)))
        return logits


def _stage(n_in: int, n_out: int, n_blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(n_in, n_out, stride), *(Block(n_out, n_out, 1) for _ in range(n_blocks - 1)))
