"""Scale and shift of every convolution kernel: ft-ss of Royer and Lampert 2020, after Sun et al. 2019 (MTL).

W' = W ⊙ s with one s per pair of output and input channel, b' = b + t with one t per output channel where there is a
bias; s begins at 1, t at 0, and W and b stay as they are. Weight decay, where a recipe has any, pulls s and t to 0 like
all other parameters; neither paper says whether theirs did.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def add_scale_shift(network: nn.Module) -> list[str]:
    """Give every two-dimensional convolution its scales and shifts, in place; the output is the same to begin with.

    Parameters
    ----------
    network : nn.Module
        Modules stay the same objects, so that views of the network see the change too.

    Returns
    -------
    list of str
        Names of the parameters added.
    """
    import torch
    from torch import nn
    from torch.nn.utils import parametrize

    class Scaled(nn.Module):
        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones_like(weight[:, :, :1, :1]))

        def forward(self, weight: Tensor) -> Tensor:
            return weight * self.scale

    class Shifted(nn.Module):
        def __init__(self, bias: Tensor) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros_like(bias))

        def forward(self, bias: Tensor) -> Tensor:
            return bias + self.shift

    added = []
    for path, layer in list(network.named_modules()):
        if not isinstance(layer, nn.Conv2d):
            continue
        parametrize.register_parametrization(layer, "weight", Scaled(layer.weight.detach()))
        added.append(f"{path}.parametrizations.weight.0.scale")
        if layer.bias is not None:
            parametrize.register_parametrization(layer, "bias", Shifted(layer.bias.detach()))
            added.append(f"{path}.parametrizations.bias.0.shift")
    return added


def has_convolutions(network: nn.Module) -> bool:
    """Whether there is a two-dimensional convolution to scale and shift."""
    from torch import nn

    return any(isinstance(layer, nn.Conv2d) for layer in network.modules())


def fold_scale_shift(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Multiply and add stored scales and shifts into the weights of a plain network, in place.

    Parameters
    ----------
    network : nn.Module
        As it was before `add_scale_shift`.
    tensors : mapping of str to Tensor
        Under the names that `add_scale_shift` gave; others are left alone.
    """
    import torch

    with torch.no_grad():
        for name, tensor in tensors.items():
            path, _, rest = name.partition(".parametrizations.")
            if rest == "weight.0.scale":
                network.get_parameter(f"{path}.weight").mul_(tensor)
            elif rest == "bias.0.shift":
                network.get_parameter(f"{path}.bias").add_(tensor)
