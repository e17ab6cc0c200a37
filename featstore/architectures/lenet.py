"""LeNet as Caffe has it: two convolutions without activation, each followed by max pooling, and two linear layers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["LeNet"]


class LeNet(nn.Module):
    """For grey images of 28 × 28 pixels in 0..1, white digit on black.

    Parameters
    ----------
    n_classes : int
    """

    def __init__(self, n_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, n_classes) for images (n, 1, 28, 28)."""
        x = F.max_pool2d(self.conv1(x), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        logits: torch.Tensor = self.fc2(x)
        return logits
