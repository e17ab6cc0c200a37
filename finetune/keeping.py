"""Which weights a training ends with, and when it ends early: frozen records that read the validation scores so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Scores = Sequence[tuple[int, float]]
"""Evaluations so far: (steps done, validation score), in order."""


class Keep(Protocol):
    """What a recipe needs of a rule for keeping weights."""

    @property
    def keeps_best(self) -> bool:
        """Whether the weights kept are those of the best evaluation, not the last."""
        ...

    @property
    def needs_val(self) -> bool:
        """Whether the rule reads validation scores."""
        ...

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        ...

    def stops(self, scores: Scores) -> bool:
        """Whether training ends here, after its latest evaluation."""
        ...


@dataclass(frozen=True)
class KeepLast:
    """The weights after the last step; validation is reported, never used. Kornblith et al. 2019 do not stop early."""

    @property
    def keeps_best(self) -> bool:
        """False."""
        return False

    @property
    def needs_val(self) -> bool:
        """False."""
        return False

    def problems(self) -> list[str]:
        """Nothing can be wrong."""
        return []

    def stops(self, scores: Scores) -> bool:
        """Never."""
        return False


@dataclass(frozen=True)
class KeepBest:
    """The weights of the best evaluation, the earliest on ties, after all steps are done (Fang et al. 2023)."""

    @property
    def keeps_best(self) -> bool:
        """True."""
        return True

    @property
    def needs_val(self) -> bool:
        """True."""
        return True

    def problems(self) -> list[str]:
        """Nothing can be wrong."""
        return []

    def stops(self, scores: Scores) -> bool:
        """Never."""
        return False


@dataclass(frozen=True)
class StopEarly:
    """Stop when the score falls by more than ``drop`` between two evaluations (Royer and Lampert 2020).

    The comparison is with the *previous* evaluation, not with the best, and there is no patience, as in the authors'
    code (ameroyer/Flextuning, ``graph_manager.py``).

    Parameters
    ----------
    drop : float
        In units of the score, at least 0. The authors: 0.0025 for MNIST, 0.025 for PACS.
    min_steps : int
        No stop before this many steps. The authors: 250 for MNIST, 800 for PACS.
    restore_best : bool
        True keeps the best evaluation's weights, the reading of the paper's "early stopping based on validation
        accuracy"; False keeps those at the stop, which is what the authors' code evaluates.
    """

    drop: float
    min_steps: int = 0
    restore_best: bool = True

    @property
    def keeps_best(self) -> bool:
        """Whether the best weights are restored."""
        return self.restore_best

    @property
    def needs_val(self) -> bool:
        """True."""
        return True

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        found = []
        if not self.drop >= 0:
            found.append(f"StopEarly's drop is {self.drop}; it must be at least 0.")
        if self.min_steps < 0:
            found.append(f"StopEarly's min_steps is {self.min_steps}; it must be at least 0.")
        return found

    def stops(self, scores: Scores) -> bool:
        """Whether the score fell by more than ``drop`` at the latest evaluation, no earlier than ``min_steps``."""
        if len(scores) < 2 or scores[-2][0] < self.min_steps:  # the authors' code takes no score before min_steps
            return False
        return scores[-2][1] - scores[-1][1] > self.drop
