"""One update of a network: forward, loss, backward, step; in mixed precision where the recipe says so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.losses import loss_of
from finetune.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from finetune.trainable import Moving


@dataclass(eq=False)
class Stepper:
    """Makes updates.

    Parameters
    ----------
    network : nn.Module
        From inputs to logits.
    optimizer : torch.optim.Optimizer
        Over what moves.
    recipe : Recipe
        Loss and precision.
    scaler : torch.amp.GradScaler or None
        Of float16 training: its state is part of the training's.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    recipe: Recipe
    scaler: torch.amp.GradScaler | None

    def update(self, inputs: Tensor, labels: Tensor, *, lr: float) -> float:
        """One step; the mean loss of the batch before it. No step is taken on a loss that is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(inputs, labels)
        if self.scaler is None:
            loss.backward()  # type: ignore[no-untyped-call]
            value = loss.item()
            if math.isfinite(value):
                self.optimizer.step()
            return value
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        value = loss.item()
        if math.isfinite(value):
            self.scaler.step(self.optimizer)  # left out where a scaled gradient overflowed; the scale is halved
            self.scaler.update()
        return value

    def _loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        import torch

        recipe = self.recipe
        weight = 0.0 if recipe.auxiliary is None else recipe.auxiliary.weight
        if recipe.precision in ("float32", "tf32"):  # which of the two is a setting of the process
            return loss_of(self.network(inputs), labels, label_smoothing=recipe.label_smoothing, auxiliary=weight)
        with torch.autocast(inputs.device.type, dtype=getattr(torch, recipe.precision)):
            output = self.network(inputs)
        return loss_of(output, labels, label_smoothing=recipe.label_smoothing, auxiliary=weight)

    def scale_state(self) -> dict[str, Any] | None:
        """State of the scaler, as plain numbers; None without one."""
        return None if self.scaler is None else dict(self.scaler.state_dict())

    def load_scale(self, state: dict[str, Any] | None) -> None:
        """Put back what `scale_state` gave."""
        if self.scaler is not None and state is not None:
            self.scaler.load_state_dict(state)


def stepper(network: nn.Module, moving: Moving, recipe: Recipe, device: torch.device) -> Stepper:
    """What trains the moving parameters of a network as a recipe says."""
    import torch

    optimizer = recipe.optimizer.build(_parameter_groups(moving, recipe), recipe.lr)
    scaler = torch.amp.GradScaler(device.type) if recipe.precision == "float16" else None
    return Stepper(network, optimizer, recipe, scaler)


def _parameter_groups(moving: Moving, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters that decay, and those that do not."""
    tensors = list(moving.parameters.values())
    decayed = [p for p in tensors if recipe.decay_biases or p.ndim >= 2]
    spared = [p for p in tensors if not recipe.decay_biases and p.ndim < 2]
    groups = [(decayed, recipe.weight_decay), (spared, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]
