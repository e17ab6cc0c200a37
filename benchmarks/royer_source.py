"""The source networks of the blocks: trained from random weights once, read from their run afterwards."""

from __future__ import annotations

from pathlib import Path

from royer_blocks import Block, Size, fresh, parts_of, source_recipe
from safetensors.torch import save_file

import featstore
import finetune
from featstore import Backbone


def source_run(block: Block, shared: Path, size: Size, out: Path) -> finetune.Run:
    """Train the source network of a block; a finished run is read, an interrupted one continued."""
    parts = parts_of(block, shared, size)
    return finetune.from_scratch(
        fresh(block), parts["source"], parts["val"], test=parts["test"], recipe=source_recipe(block, size), out=out
    )


def source_backbone(block: Block, run: finetune.Run) -> Backbone:
    """The network of a source run as a backbone."""
    path = run.path / "network.safetensors"
    if not path.is_file():
        aside = path.with_suffix(".part")
        save_file({name: tensor.contiguous() for name, tensor in run.network(fresh(block)).state_dict().items()}, aside)
        aside.replace(path)
    return featstore.load_backbone(block.network, weights=path)
