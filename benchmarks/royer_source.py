"""The source networks of the blocks: trained from random weights once and read afterwards, or ImageNet's."""

from __future__ import annotations

from pathlib import Path

from royer_blocks import PACS_ROWS, Block, Size, parts_of, source_recipe
from safetensors.torch import save_file

import featstore
import finetune
from featstore import Backbone
from finetune.heads import replaced_layer


def source_run(block: Block, shared: Path, size: Size, out: Path) -> finetune.Run:
    """Train the source network of a block; a finished run is read, an interrupted one continued."""
    parts = parts_of(block.name, shared, size)
    random = featstore.load_backbone(block.network, weights=None)
    return finetune.from_scratch(
        random, parts["source"], parts["val"], test=parts["test"], recipe=source_recipe(block, size), out=out
    )


def source_backbone(block: Block, shared: Path, size: Size, out: Path) -> tuple[Backbone, float | None]:
    """The source network, and its accuracy on clean test images where it was trained here."""
    if block.weights is not None:
        return featstore.load_backbone(block.network, weights=shared / "weights" / block.weights), None
    path = out / "network.safetensors"
    if path.is_file() and finetune.open_run(out).recipe == source_recipe(block, size):
        run = finetune.open_run(out)  # without reading all of its images again
    else:
        run = source_run(block, shared, size, out)
        random = featstore.load_backbone(block.network, weights=None)
        aside = path.with_suffix(".part")
        save_file({name: tensor.contiguous() for name, tensor in run.network(random).state_dict().items()}, aside)
        aside.replace(path)
    return featstore.load_backbone(block.network, weights=path), run.scores["test"]


def head_rows(block: Block, backbone: Backbone, n_classes: int) -> tuple[int, ...] | None:
    """Rows of the source's head that stand for the target's classes; None where the head is no linear layer.

    SqueezeNet's is a convolution with an activation behind it: a new head is trained with every candidate there.
    """
    if replaced_layer(backbone) is None:
        return None
    return PACS_ROWS if block.data == "pacs" else tuple(range(n_classes))
