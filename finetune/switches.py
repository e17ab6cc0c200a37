"""Two of the four regularisers whose effect Kornblith, Shlens and Le 2019 study, as switches of a training: dropout in
front of the head, and batch norm's scale. (Label smoothing is in `finetune.losses`, the auxiliary head in
`finetune.auxiliary`.)"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from finetune.networks import TargetNetwork


def with_dropout(head: nn.Linear, rate: float) -> nn.Linear:
    """The same layer, tensors shared, with dropout of its input in training.

    Parameters
    ----------
    head : nn.Linear
        From penultimate features to logits.
    rate : float
        In [0, 1).
    """
    from torch import nn

    class DropoutLinear(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            dropped = nn.functional.dropout(input, rate, self.training)
            return nn.functional.linear(dropped, self.weight, self.bias)

    layer = DropoutLinear(head.in_features, head.out_features, bias=head.bias is not None)
    layer.weight, layer.bias = head.weight, head.bias
    return layer


def has_own_dropout(target: TargetNetwork) -> bool:
    """Whether the network has dropout between its penultimate features and its head."""
    return bool(_own_dropouts(target))


def own_dropout(target: TargetNetwork) -> float:
    """Rate of the network's own dropout in front of the head: of several layers, what is dropped by any; 0 without."""
    return 1.0 - math.prod(1.0 - layer.p for layer in _own_dropouts(target))


def set_dropout(target: TargetNetwork, rate: float) -> None:
    """Give the network's own dropout in front of the head another rate."""
    for layer in _own_dropouts(target):
        layer.p = rate


def batch_norm_scales(network: nn.Module) -> list[str]:
    """Names of the scales of all batch norms, of any library: layers with a running mean and a weight."""
    return [
        f"{path}.weight" if path else "weight"
        for path, layer in network.named_modules()
        if hasattr(layer, "running_mean") and getattr(layer, "weight", None) is not None
    ]


def _own_dropouts(target: TargetNetwork) -> list[nn.Dropout]:
    from torch import nn

    if target.chain.reason is not None or not target.is_in_place:
        return []
    return [layer for layer in target.chain.unit("head").modules() if isinstance(layer, nn.Dropout)]
