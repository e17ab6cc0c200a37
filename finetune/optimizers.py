"""The optimisers of the papers, as frozen records that build torch's.

Conventions
-----------
The loss of a step is the *mean* of the cross-entropy over the batch. ``weight_decay`` λ is torch's: `SGD` and `Adam`
add λ·w to the gradient (so the penalty is ½·λ·‖w‖², and a step moves w by −lr·λ·w), `AdamW` shrinks w by lr·λ·w apart
from the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

Groups = Sequence[Mapping[str, Any]]
"""Parameter groups: each has ``params`` (list of parameters) and ``weight_decay`` (float)."""


class Optimizer(Protocol):
    """What a recipe needs of an optimiser."""

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        ...

    def build(self, groups: Groups, lr: float) -> torch.optim.Optimizer:
        """Torch's optimiser over these parameter groups."""
        ...


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum.

    Parameters
    ----------
    momentum : float
        In [0, 1). 0.9 in Kornblith et al. 2019 (section 4.2) and in Fang et al. 2023.
    nesterov : bool
        Nesterov's form, as both papers; needs momentum > 0.
    """

    momentum: float = 0.9
    nesterov: bool = True

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        found = []
        if not 0 <= self.momentum < 1:
            found.append(f"SGD's momentum is {self.momentum}; it must be at least 0 and less than 1.")
        if self.nesterov and self.momentum == 0:
            found.append(
                "SGD has nesterov=True with momentum 0; Nesterov's form needs momentum: give one, or nesterov=False."
            )
        return found

    def build(self, groups: Groups, lr: float) -> torch.optim.Optimizer:
        """Torch's SGD over these parameter groups."""
        import torch

        return torch.optim.SGD([dict(g) for g in groups], lr=lr, momentum=self.momentum, nesterov=self.nesterov)


def _adam_problems(name: str, betas: tuple[float, float], eps: float) -> list[str]:
    found = []
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        found.append(f"{name}'s betas are {betas}; two values of at least 0 and less than 1 are needed.")
    if not eps > 0:
        found.append(f"{name}'s eps is {eps}; it must be greater than 0.")
    return found


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015), the optimiser of Royer and Lampert 2020 (section 4); weight decay is coupled.

    Parameters
    ----------
    betas : tuple of two float
        Decay rates of the first and second moment, each in [0, 1).
    eps : float
        Added to the root of the second moment.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        return _adam_problems("Adam", self.betas, self.eps)

    def build(self, groups: Groups, lr: float) -> torch.optim.Optimizer:
        """Torch's Adam over these parameter groups."""
        import torch

        return torch.optim.Adam([dict(g) for g in groups], lr=lr, betas=self.betas, eps=self.eps)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), one of the two optimisers of Fang et al. 2023.

    Parameters
    ----------
    betas : tuple of two float
        Decay rates of the first and second moment, each in [0, 1).
    eps : float
        Added to the root of the second moment.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        return _adam_problems("AdamW", self.betas, self.eps)

    def build(self, groups: Groups, lr: float) -> torch.optim.Optimizer:
        """Torch's AdamW over these parameter groups."""
        import torch

        return torch.optim.AdamW([dict(g) for g in groups], lr=lr, betas=self.betas, eps=self.eps)
