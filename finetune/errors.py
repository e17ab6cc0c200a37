"""Every error that `finetune` raises on purpose.

::

    FinetuneError (Exception)
    ├── BadInput (also ValueError)   an argument, a split or a recipe that cannot be trained with
    ├── DifferentRun                 a folder or checkpoint of another recipe, network or data; differences in words
    ├── CorruptRun                   a file of a run is damaged or of a newer format
    ├── RunBusy                      another process is writing the same run
    ├── RunWrite                     the run's folder cannot be written: full disk, read-only
    ├── NotFinite                    logits that are NaN or infinite, which no metric can rank
    ├── Diverged                     the loss or a weight became NaN or infinite: step, rate, last good state
    ├── OutOfMemory                  the device's memory did not suffice: what to lower
    └── MissingExtra                 an optional library is not installed: which extra has it

Errors of `featstore` and `probe` that come up while `finetune` calls them pass through unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class FinetuneError(Exception):
    """Base of every error that `finetune` raises on purpose."""


class BadInput(FinetuneError, ValueError):
    """An argument, a split or a recipe that cannot be trained with."""

    @classmethod
    def of(cls, subject: str, problems: Sequence[str]) -> BadInput:
        """One error that reports every problem of one check.

        Parameters
        ----------
        subject : str
            What was checked, as the start of a sentence: ``"this recipe"``.
        problems : sequence of str
            A sentence each; at least one.
        """
        if len(problems) == 1:
            return cls(f"{subject}: {problems[0]}")
        listed = "\n".join(f"  {i}. {problem}" for i, problem in enumerate(problems, 1))
        return cls(f"{subject} has {len(problems)} problems:\n{listed}")


class DifferentRun(FinetuneError):
    """A folder or a checkpoint belongs to another training than the one asked for.

    Attributes
    ----------
    differences : tuple of str
        One sentence each, naming both values.
    """

    def __init__(self, where: Path, differences: Sequence[str]) -> None:
        self.differences = tuple(differences)
        listed = "\n".join(f"  {line}" for line in self.differences)
        super().__init__(
            f"{where} belongs to another training, so continuing it would mix two:\n{listed}\n"
            "Ask for what is stored there, or give this training a folder of its own."
        )
        self._where = where

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._where, self.differences)


class CorruptRun(FinetuneError):
    """A file of a run is damaged, incomplete or of a newer format."""


class RunBusy(FinetuneError):
    """Another process is writing the same run."""


class RunWrite(FinetuneError):
    """The folder of a run cannot be written."""


class NotFinite(FinetuneError):
    """Logits that are NaN or infinite: no metric can rank the network that gives them."""


class Diverged(FinetuneError):
    """The loss, a weight or the logits of validation images became NaN or infinite.

    Attributes
    ----------
    step : int
        Steps done when it was seen.
    lr : float
        Learning rate of that step.
    """

    def __init__(self, message: str, *, step: int, lr: float) -> None:
        super().__init__(message)
        self.step = step
        self.lr = lr

    def __reduce__(self) -> tuple[object, ...]:
        return _diverged, (str(self), self.step, self.lr)


class OutOfMemory(FinetuneError):
    """The device's memory did not suffice."""


class MissingExtra(FinetuneError):
    """An optional library is not installed; the message names the extra that has it."""


def _diverged(message: str, step: int, lr: float) -> Diverged:
    """A `Diverged` as it comes back from another process."""
    return Diverged(message, step=step, lr=lr)
