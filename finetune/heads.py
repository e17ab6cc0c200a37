"""The classifier on top: a new one for new classes, or rows of the network's own; cut off and put on again.

A head here is one linear layer, ``(b, d)`` penultimate features to ``(b, k)`` logits. Whether a network's own head is
that is not read off its type but measured: some end in a convolution with an activation behind it, and are not.
"""

from __future__ import annotations

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
    """Where `finetune.networks` puts the head: the path of the layer that it replaces, else ``"head"``."""
    return replaced_layer(backbone) or "head"


def head_for(backbone: Backbone, n_classes: int, rows: Sequence[int] | None, *, seed: int) -> nn.Linear:
    """A new head for so many classes, or some rows of the network's own.

    Parameters
    ----------
    backbone : Backbone
        The network.
    n_classes : int
        Of the target.
    rows : sequence of int or None
        See `head_from_rows`; None makes a new head.
    seed : int
        Of the recipe.
    """
    return new_head(n_features(backbone), n_classes, seed=seed) if rows is None else head_from_rows(backbone, rows)


def n_features(backbone: Backbone) -> int:
    """Number of penultimate features, d."""
    return backbone.shapes["penultimate"][_channels(backbone)]


def replaced_layer(backbone: Backbone) -> str | None:
    """Path of the layer of the network that another head takes the place of; None where there is no such layer."""
    import torch

    found = _linear_layer(backbone)
    if found is None or not isinstance(backbone.module.get_submodule(found[0]), torch.nn.Linear):
        return None
    return found[0]


def pooled(backbone: Backbone, output: Tensor) -> Tensor:
    """The penultimate unit's output ``(n, …)`` as the ``(n, d)`` float32 that a store holds."""
    import featstore

    return featstore.mean_pool(output, _channels(backbone))


def _channels(backbone: Backbone) -> int:
    import featstore

    return featstore.channel_axis(backbone.shapes["penultimate"], backbone.preprocessing.input_size)


def _linear_layer(backbone: Backbone) -> tuple[str, tuple[Tensor, Tensor | None]] | None:
    """Path, weight ``(k, d)`` and bias ``(k,)`` of the layer that the head unit is, if it is one: measured."""
    import torch

    if "head" not in backbone.units:
        return None
    if backbone.chain.reason is not None:
        return _watched_layer(backbone)
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
    vectors = pooled(backbone, features)
    if weight.shape[1] != vectors.shape[1]:
        return None
    with torch.inference_mode():
        logits = unit(features)
        is_linear = logits.shape == (_N_PROBES, len(weight)) and torch.allclose(
            logits, torch.nn.functional.linear(vectors, weight, bias), rtol=1e-3, atol=1e-3
        )
    return (name, (weight, bias)) if is_linear else None


def _watched_layer(backbone: Backbone) -> tuple[str, tuple[Tensor, Tensor | None]] | None:
    """The same of a network whose units cannot be run alone: its penultimate features and its logits are compared."""
    import torch

    chain = backbone.chain
    paths = {tensor.rpartition(".")[0] for tensor in chain.tensors["head"]}
    layer = chain.module.get_submodule(next(iter(paths))) if len(paths) == 1 else None
    if not isinstance(layer, torch.nn.Linear):
        return None
    seen: list[Tensor] = []
    with torch.inference_mode():
        x = backbone.example(_N_PROBES).to(layer.weight.device)
        chain.visit(x, ["penultimate"], lambda _, output: seen.append(output.clone()))
        vectors, logits = pooled(backbone, seen[0]), chain.run(x)
        is_linear = vectors.shape[1] == layer.in_features and torch.allclose(
            logits, layer(vectors), rtol=1e-3, atol=1e-3
        )
    bias = None if layer.bias is None else layer.bias.detach()
    return (next(iter(paths)), (layer.weight.detach(), bias)) if is_linear else None
