"""The classifier on top: a new one for new classes, or rows of the network's own; cut off and put on again.

A head here is one linear layer, ``(b, d)`` penultimate features to ``(b, k)`` logits. Whether a network's own head is
that is not read off its type but measured: some end in a convolution with an activation behind it, and are not.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from finetune.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featstore import Backbone

_N_PROBES = 4


def new_head(n_features: int, n_classes: int, *, seed: int) -> nn.Linear:
    """A linear layer with torch's default initial values, drawn from ``seed`` without touching torch's generator.

    Parameters
    ----------
    n_features, n_classes : int
        d and k.
    seed : int
        Of the recipe.
    """
    import torch

    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return torch.nn.Linear(n_features, n_classes)


def head_from_rows(backbone: Backbone, rows: Sequence[int]) -> nn.Linear:
    """A copy of some rows of a network's own head.

    Parameters
    ----------
    backbone : Backbone
        The network.
    rows : sequence of int
        Row of the head for each class of the target, in the order of its classes.

    Raises
    ------
    BadInput
        The network's head is not one linear layer, or has no such rows.
    """
    import torch

    found = _linear_layer(backbone)
    if found is None:
        raise BadInput(
            f"the head of {backbone.name} is not one linear layer on its penultimate features, so its rows cannot be "
            "continued from; train a new head: head_rows=None."
        )
    weight, bias = found[1]
    n = len(weight)
    problems = [f"row {row} is not one of the {n} rows 0 to {n - 1}." for row in rows if not 0 <= row < n]
    repeated = sorted({row for row in rows if list(rows).count(row) > 1})
    if repeated:
        problems.append(f"rows {repeated} occur more than once; each class of the target needs a row of its own.")
    if problems:
        raise BadInput.of(f"the choice of rows of the head of {backbone.name}", problems)
    chosen = list(rows)
    head = torch.nn.Linear(weight.shape[1], len(chosen), bias=bias is not None)
    with torch.no_grad():
        head.weight.copy_(weight[chosen])
        if bias is not None:
            head.bias.copy_(bias[chosen])
    return head


def head_name(backbone: Backbone) -> str:
    """Where `with_head` puts the head: the path of the layer that it replaces, else ``"head"``."""
    return _replaced(backbone) or "head"


def with_head(backbone: Backbone, head: nn.Linear) -> nn.Module:
    """A copy of the network, images to logits, with another head in place of its own; in evaluation mode.

    Parameters
    ----------
    backbone : Backbone
        Not changed.
    head : nn.Linear
        From penultimate features to logits; used, not copied.
    """
    name = _replaced(backbone)
    if name is None:
        return _on_penultimate(backbone, head)
    network = copy.deepcopy(backbone.module)
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, head)
    return network.eval()


def _replaced(backbone: Backbone) -> str | None:
    """Path of the layer of the network that another head takes the place of; None where there is no such layer."""
    import torch

    found = _linear_layer(backbone)
    if found is None or not isinstance(backbone.module.get_submodule(found[0]), torch.nn.Linear):
        return None
    return found[0]


def _on_penultimate(backbone: Backbone, head: nn.Linear) -> nn.Module:
    """The network as far as its penultimate unit, averaged over positions, then the head."""
    from torch import nn

    chain = copy.deepcopy(backbone.chain)

    class OnPenultimate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = chain.module
            self.head = head

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(_pooled(backbone, chain.run(x, last="penultimate")))
            return logits

    return OnPenultimate().eval()


def _pooled(backbone: Backbone, output: Tensor) -> Tensor:
    """The penultimate unit's output ``(n, …)`` as the ``(n, d)`` float32 that a store holds."""
    import featstore

    axis = featstore.channel_axis(backbone.shapes["penultimate"], backbone.preprocessing.input_size)
    return featstore.mean_pool(output, axis)


def _linear_layer(backbone: Backbone) -> tuple[str, tuple[Tensor, Tensor | None]] | None:
    """Path, weight ``(k, d)`` and bias ``(k,)`` of the layer that the head unit is, if it is one: measured."""
    import torch

    if "head" not in backbone.units or backbone.chain.reason is not None:
        return None
    unit = backbone.chain.unit("head")
    layers = [(name, module) for name, module in unit.named_modules() if list(module.parameters(recurse=False))]
    if len(layers) != 1 or not isinstance(layers[0][1], (torch.nn.Linear, torch.nn.Conv2d)):
        return None
    name, layer = layers[0]
    weight = layer.weight.detach().flatten(1)
    bias = None if layer.bias is None else layer.bias.detach()
    features = torch.randn((_N_PROBES, *backbone.shapes["penultimate"]), generator=torch.Generator().manual_seed(0)).to(
        weight.device
    )
    vectors = _pooled(backbone, features)
    if weight.shape[1] != vectors.shape[1]:
        return None
    with torch.inference_mode():
        logits = unit(features)
        is_linear = logits.shape == (_N_PROBES, len(weight)) and torch.allclose(
            logits, torch.nn.functional.linear(vectors, weight, bias), rtol=1e-3, atol=1e-3
        )
    return (name, (weight, bias)) if is_linear else None
