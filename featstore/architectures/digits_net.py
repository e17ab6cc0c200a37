"""A small convolutional network of four units for the 8 × 8 digits; its weights are made by
``benchmarks/train_digits_net.py``.

Without normalisation layers and with little pooling, so that a change of the pixels (blur, rotation, inversion) goes
all the way through it: what the units keep of a shifted image differs from unit to unit, which is what it is there to
show.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["DigitsNet"]


class DigitsNet(nn.Module):
    """Units ``conv1``, ``conv2``, ``penultimate`` (fc) and ``head``, as in the MNIST network of Royer and Lampert
    (2020).

    Parameters
    ----------
    n_classes : int
    """

    def __init__(self, n_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc = nn.Linear(64 * 2 * 2, 128)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(128, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, n_classes) for grey images (n, 1, 8, 8) in 0..1."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc(x.flatten(1)))
        logits: torch.Tensor = self.head(self.dropout(x))
        return logits
