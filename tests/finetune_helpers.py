"""What the tests of finetune share: blurred digits, one recipe, a regime called quietly, inputs made one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

import featstore
import finetune
from finetune import Recipe

RECIPE = Recipe(lr=0.02, epochs=3, batch_size=32, weight_decay=1e-4)
UNITS = ("conv1", "conv2", "penultimate", "head")
"""Of the bundled digits network."""
GREY8 = featstore.Preprocessing((8, 8), (0.0,), (1.0,), mode="L")


def blurred_digits() -> dict[str, featstore.Split]:
    """Digits that the bundled network has not been trained on."""
    train, val = featstore.load_split("digits:train+blur(1.0)").holdout(0.3)
    return {"train": train, "val": val, "test": featstore.load_split("digits:test+blur(1.0)")}


def images_of(backbone: Any, split: featstore.Split) -> torch.Tensor:
    """Network inputs of a split, one by one."""
    return torch.stack([backbone.preprocessing(split.image(i)) for i in range(len(split))])


def tune(regime: Any, backbone: Any, digits: dict[str, featstore.Split], out: Path, **changes: Any) -> finetune.Run:
    """A regime on the digits, quietly."""
    options: dict[str, Any] = {"recipe": RECIPE, "test": digits["test"], "progress": False, **changes}
    run: finetune.Run = regime(backbone, digits["train"], digits["val"], out=out, **options)
    return run


class Plain(nn.Module):
    """Two convolutions and a head without dropout, for 8 × 8 digits; some of the kernels in groups."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.one = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(8, 12, 3, groups=2, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc(self.pool(self.two(self.one(x))))
        return y


class Cell(nn.Module):
    """Reads the outputs of the two cells before it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)

    def forward(self, x: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.one(x) + self.two(previous))


class Cells(nn.Module):
    """NASNet's way of connecting cells, for 8 × 8 digits: most units hand on two tensors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.cell_0, self.cell_1, self.cell_2, self.cell_3, self.cell_4 = (Cell() for _ in range(5))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        a = self.cell_0(x, x)
        b = self.cell_1(a, x)
        c = self.cell_2(b, a)
        d = self.cell_3(c, b)
        y: torch.Tensor = self.fc(self.pool(self.cell_4(d, c)))
        return y


class Branching(Plain):
    """A network that torch cannot trace: what it does depends on its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.mean()) < -1e9:
            return self.fc(x.flatten(1)[:, :12])  # type: ignore[no-any-return]
        return super().forward(x)
