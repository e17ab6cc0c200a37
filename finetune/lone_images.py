"""Whether a network can be trained on a batch of one image, asked before a training that would come to one."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from finetune.errors import BadInput
from finetune.trainable import Parts, trainable

if TYPE_CHECKING:
    from torch import nn

    from finetune.examples import Examples
    from finetune.recipe import Recipe

_TOO_FEW = "more than 1 value per channel"  # torch has no class of its own for it


def refuse_lone_image(
    network: nn.Module,
    examples: Examples,
    *,
    recipe: Recipe,
    parts: Collection[str] | Parts = ("",),
    device: str = "cpu",
) -> None:
    """Refuse a training with a batch of one image of which batch norm, in training mode, would see a single value.

    Only where there is such a batch is anything run: one image, as the training would, without a gradient. Over a map of
    several positions batch norm takes one image, and nothing is refused.

    Parameters
    ----------
    network : nn.Module
        From inputs to logits, on ``device``; left as it was.
    examples : Examples
        Of the training split.
    recipe : Recipe
        Batch size, steps, which modules are in training mode.
    parts : collection of str, or Parts
        What moves; see `finetune.trainable.trainable`.
    device : str
        ``"cpu"``, ``"cuda"`` …

    Raises
    ------
    BadInput
        How many images there are, and which batch sizes leave no single one.
    """
    import torch

    n, size, where = len(examples), recipe.batch_size, torch.device(device)
    if n == 0 or (n - 1) % size or (size > 1 and recipe.n_steps(n) < recipe.steps_per_epoch(n)):
        return
    with (
        torch.random.fork_rng([where] if where.type == "cuda" else []),
        trainable(network, parts, train_mode=recipe.train_mode) as moving,
        torch.no_grad(),
    ):
        before = moving.state()
        try:
            network(examples.inputs(np.array([0]), 0).to(where))
        except ValueError as error:
            if _TOO_FEW not in str(error):
                raise
            which = "every batch has" if size == 1 else "the last batch of an epoch has"
            raise BadInput(
                f"{which} 1 of {n} training images at batch_size={size}, and batch norm over a map of one position needs "
                f"two values per channel; {_advice(n, size)}, or train_mode='none', which leaves batch norm as it is, in "
                "another folder."
            ) from error
        finally:
            moving.load(before)


def _advice(n: int, size: int) -> str:
    """The nearest batch sizes of which no batch of one image is left over."""
    near = sorted(range(2, max(2 * size, 4) + 1), key=lambda other: abs(other - size))
    fitting = [other for other in near if (n - 1) % other]
    return f"take another batch_size, such as {fitting[0]}" if fitting else "give more images"
