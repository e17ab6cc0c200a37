"""A second classifier on an earlier unit, whose loss is added to that of the head: one of the four regularisers whose
effect Kornblith, Shlens and Le 2019 study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor, nn

    from finetune.networks import TargetNetwork

NAME = "auxiliary"
"""Under which the classifier hangs in the network; its tensors are no part of the network that a run gives."""


@dataclass(frozen=True)
class Auxiliary:
    """An auxiliary classifier.

    Parameters
    ----------
    unit : str
        Whose output it reads, averaged over positions; its own where it hands on that of an earlier unit beside it.
    weight : float
        Of its loss, greater than 0. The Inception networks' 0.4 is the default.
    """

    unit: str
    weight: float = 0.4

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        return [] if self.weight > 0 else [f"the auxiliary head's weight is {self.weight}; it must be greater than 0."]


def with_auxiliary(target: TargetNetwork, auxiliary: Auxiliary, n_classes: int, *, seed: int) -> nn.Module:
    """The network with an auxiliary classifier: in training it gives both logits, in evaluation the head's alone.

    In training the units are run one after another, as they were traced: what a forward does differently in training
    outside of modules is done as in evaluation.

    Parameters
    ----------
    target : TargetNetwork
        Its tensors are shared.
    auxiliary : Auxiliary
        Which unit, what weight.
    n_classes : int
        Of the target.
    seed : int
        Of the recipe; the classifier's values are drawn from it.

    Raises
    ------
    BadInput
        There is no such unit below the head, or the network cannot be run in parts.
    """
    import torch
    from torch import nn

    import featstore
    from finetune.heads import new_head

    names = target.chain.names
    below = names[: names.index("penultimate")]
    if auxiliary.unit not in below or target.chain.reason is not None:
        raise BadInput(
            f"an auxiliary head on unit '{auxiliary.unit}' of {target.backbone.name} cannot be had; "
            + (target.chain.reason or f"it can read the output of {', '.join(below)}.")
        )
    rest = target.suffix(names[names.index(auxiliary.unit) + 1])
    shape = target.chain.shapes[auxiliary.unit]
    axis = featstore.channel_axis(shape, target.backbone.preprocessing.input_size)
    classifier = new_head(shape[axis], n_classes, seed=seed + 1)  # not the head's values over again

    class WithAuxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, child in target.module.named_children():
                self.add_module(name, child)
            for name, parameter in target.module.named_parameters(recurse=False):
                self.register_parameter(name, parameter)
            self._buffers = target.module._buffers
            self.add_module(NAME, classifier)

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            if not torch.is_grad_enabled():
                logits: Tensor = target.module(x)
                return logits
            y = target.chain.run(x, last=auxiliary.unit)
            said: Tensor = classifier(featstore.mean_pool(target.chain.own(auxiliary.unit, y), axis))
            return rest(y), said

    if hasattr(target.module, NAME):
        raise BadInput(
            f"{target.backbone.name} has a part named '{NAME}' of its own; an auxiliary head cannot be added."
        )
    return WithAuxiliary()
