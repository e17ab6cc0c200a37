"""What the tests of finetune share: blurred digits, one recipe, a regime called quietly, inputs made one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import featstore
import finetune
from finetune import Recipe

RECIPE = Recipe(lr=0.02, epochs=3, batch_size=32, weight_decay=1e-4)
UNITS = ("conv1", "conv2", "penultimate", "head")
"""Of the bundled digits network."""


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
