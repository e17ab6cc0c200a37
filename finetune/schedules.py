"""How the learning rate and batch norm's momentum follow the step: pure functions of numbers, as frozen records.

Conventions
-----------
``step`` counts the updates already done: the first update uses ``step`` 0, the last one ``n_steps - 1``.
A schedule gives a factor of the recipe's learning rate; linear warm-up is the recipe's and comes on top.
Batch norm's momentum is torch's: running = (1 − momentum) · running + momentum · batch. TensorFlow's is one minus that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """What a recipe needs of a schedule."""

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        ...

    def factor(self, step: int, *, steps_per_epoch: int, n_steps: int, warmup_steps: int) -> float:
        """What the learning rate is multiplied by at ``step``, warm-up aside."""
        ...


@dataclass(frozen=True)
class Constant:
    """The learning rate stays as it is."""

    def problems(self) -> list[str]:
        """Nothing can be wrong."""
        return []

    def factor(self, step: int, *, steps_per_epoch: int, n_steps: int, warmup_steps: int) -> float:
        """One, at every step."""
        return 1.0


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 to 0 over the steps after warm-up: ½·(1 + cos(π·t/T)), without restarts.

    Parameters
    ----------
    per_epoch : bool
        Hold the value of an epoch's first step through the epoch, as Fang et al. 2023 do (``T_max`` = epochs);
        otherwise it falls at every step, as in Kornblith et al. 2019.
    """

    per_epoch: bool = False

    def problems(self) -> list[str]:
        """Nothing can be wrong."""
        return []

    def factor(self, step: int, *, steps_per_epoch: int, n_steps: int, warmup_steps: int) -> float:
        """Half a cosine over the steps after warm-up."""
        if self.per_epoch:
            step -= step % steps_per_epoch
        t = max(step - warmup_steps, 0) / max(n_steps - warmup_steps, 1)
        return 0.5 * (1.0 + math.cos(math.pi * t))


@dataclass(frozen=True)
class StepDecay:
    """Multiply by ``by`` at the start of each epoch in ``at_epochs``.

    Parameters
    ----------
    at_epochs : tuple of int
        Epochs already done, increasing. Fang et al. 2023: (15, 20, 25) of 30 when pretrained, (20, 30, 40) of 50 from
        scratch.
    by : float
        Greater than 0 and less than 1.
    """

    at_epochs: tuple[int, ...]
    by: float = 0.1

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        found = []
        if not self.at_epochs or any(b <= a for a, b in zip((0, *self.at_epochs), self.at_epochs, strict=False)):
            found.append(f"StepDecay's at_epochs is {self.at_epochs}; increasing epochs greater than 0 are needed.")
        if not 0 < self.by < 1:
            found.append(f"StepDecay's by is {self.by}; it must be greater than 0 and less than 1.")
        return found

    def factor(self, step: int, *, steps_per_epoch: int, n_steps: int, warmup_steps: int) -> float:
        """``by`` to the number of drops already passed."""
        epoch = step // steps_per_epoch
        return self.by ** sum(epoch >= at for at in self.at_epochs)


@dataclass(frozen=True)
class EpochShare:
    """Batch norm's momentum, torch's convention: min(``share`` / steps per epoch, ``at_most``).

    With the defaults it is Kornblith et al. 2019's rule, which in TensorFlow's convention reads max(1 − 10/s, 0.9) for
    s steps per epoch (stated in SimCLR, Chen et al. 2020, appendix B.8): the statistics remember about a tenth of an
    epoch.

    Parameters
    ----------
    share : float
        Greater than 0.
    at_most : float
        Greater than 0 and at most 1.
    """

    share: float = 10.0
    at_most: float = 0.1

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        found = []
        if not self.share > 0:
            found.append(f"EpochShare's share is {self.share}; it must be greater than 0.")
        if not 0 < self.at_most <= 1:
            found.append(f"EpochShare's at_most is {self.at_most}; it must be greater than 0 and at most 1.")
        return found

    def momentum(self, steps_per_epoch: int) -> float:
        """Torch's momentum for epochs of this many steps."""
        return min(self.share / steps_per_epoch, self.at_most)
