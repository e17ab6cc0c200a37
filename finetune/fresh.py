"""A network with new random weights, drawn as those who wrote it draw them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from finetune.errors import BadInput

if TYPE_CHECKING:
    from torch import nn

    from featstore import Backbone

_LIBRARIES = ("timm:", "torchvision:", "featstore:")


def fresh_backbone(backbone: Backbone, *, seed: int) -> Backbone:
    """The same network with random weights.

    A network of a library's name is made anew by its library, so that it begins as the library's trainings do. Of any
    other network a copy is taken, and every layer's own initialisation is run again.

    Parameters
    ----------
    backbone : Backbone
        Not changed.
    seed : int
        Of the recipe; torch's generator is left alone.

    Raises
    ------
    BadInput
        A parameter that no initialisation reaches: it would keep what it has learnt.
    """
    import featstore

    if backbone.name.startswith(_LIBRARIES):
        made = featstore.load_backbone(
            backbone.name, weights=None, preprocessing=backbone.preprocessing, units=backbone.granularity, seed=seed
        )
        if made.cut == backbone.cut:
            return made
    chain = copy.deepcopy(backbone.chain)
    _initialise(chain.module, backbone.name, seed)
    return replace(backbone, module=chain.module, chain=chain, weights=f"random(seed={seed})")


def _initialise(module: nn.Module, name: str, seed: int) -> None:
    """Run every layer's ``reset_parameters``, then the network's own ``init_weights`` where it has one."""
    import torch

    for parameter in module.parameters():
        parameter.data.fill_(torch.nan)
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(seed)
        for layer in module.modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()
        own = getattr(module, "init_weights", None)
        if callable(own):
            own()
    missed = [path for path, parameter in module.named_parameters() if bool(parameter.isnan().any())]
    if missed:
        raise BadInput(
            f"{name} does not say how {', '.join(missed[:5])}{' …' if len(missed) > 5 else ''} "
            f"{'is' if len(missed) == 1 else 'are'} initialised: the layers need a reset_parameters, or the network an "
            "init_weights, that sets them."
        )
