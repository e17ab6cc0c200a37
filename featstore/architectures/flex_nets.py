"""The two small networks of Royer and Lampert (2020): 4 units for MNIST, 7 for CIFAR and QuickDraw.

Convolutions keep the size, no batch normalisation. The paper does not say how weights are initialised; here as PyTorch does.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["FlexCifarNet", "FlexMnistNet"]


class FlexMnistNet(nn.Module):
    """Units ``conv1``, ``conv2``, ``penultimate`` (fc) and ``head``.

    Parameters
    ----------
    n_classes : int
    """

    def __init__(self, n_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc = nn.Linear(64 * 7 * 7, 1024)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(1024, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, n_classes) for grey images (n, 1, 28, 28) in 0..1."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc(x.flatten(1)))
        logits: torch.Tensor = self.head(self.dropout(x))
        return logits


class FlexCifarNet(nn.Module):
    """Units ``conv1`` to ``conv5``, ``penultimate`` (fc) and ``head``.

    Parameters
    ----------
    n_channels : int
        3 for CIFAR, 1 for QuickDraw.
    n_classes : int
        9: the classes that CIFAR-10 and QuickDraw share.
    """

    def __init__(self, n_channels: int = 3, n_classes: int = 9) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_channels, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 128, 3, padding=1)
        self.conv4 = nn.Conv2d(128, 256, 3, padding=1)
        self.conv5 = nn.Conv2d(256, 512, 3, padding=1)
        self.fc = nn.Linear(512 * 2 * 2, 1024)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(1024, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, n_classes) for images (n, n_channels, 32, 32), or 28 × 28, in 0..1."""
        x = F.relu(self.conv1(x))
        for conv in (self.conv2, self.conv3, self.conv4, self.conv5):
            x = F.max_pool2d(F.relu(conv(x)), 2, ceil_mode=True)  # 28 pixels become 14, 7, 4, 2
        x = F.relu(self.fc(x.flatten(1)))
        logits: torch.Tensor = self.head(self.dropout(x))
        return logits
