"""What the training loop reads: inputs by row number, and their labels.

Randomness of an input (augmentation, later) is a function of (seed, sample, epoch), never of a running generator, and
the order of the samples is a function of (seed, epoch): so the position in the data is the step number, and a resumed
training sees the same batches.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from finetune.ahead import ahead

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


EVALUATION_VALUES = {"cpu": 1 << 18, "else": 1 << 23}
"""Values of the inputs that pass the network at once in evaluation. A network makes a few dozen times as much of them: on
a CPU that stays in its caches (blocks of 512 CIFAR images take twice as long per image as blocks of 64)."""


class Examples(Protocol):
    """A labelled sample list that gives network inputs by row."""

    @property
    def labels(self) -> np.ndarray:
        """Class of each sample: ``(n,)`` int64."""
        ...

    @property
    def workers(self) -> int:
        """Threads that should prepare batches ahead of their use; 0 where that would gain nothing."""
        ...

    def __len__(self) -> int:
        """Number of samples n."""
        ...

    def inputs(self, rows: np.ndarray, epoch: int | None) -> Tensor:
        """Network inputs of these rows.

        Parameters
        ----------
        rows : ndarray of shape (b,), int64
            Row numbers.
        epoch : int or None
            Epochs already done, for augmentation; None for evaluation, without any.

        Returns
        -------
        Tensor of shape (b, …), float32
        """
        ...


@dataclass(frozen=True, eq=False)
class TensorExamples:
    """Examples held in memory.

    Parameters
    ----------
    tensor : Tensor of shape (n, …), floating point
        Inputs, given to the network as float32.
    labels : ndarray of shape (n,), int64
        Classes.
    channels_last : bool
        Whether the network is to get maps with the channels last in memory, however they are held.
    """

    tensor: Tensor
    labels: np.ndarray
    channels_last: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def workers(self) -> int:
        """0: there is nothing to prepare."""
        return 0

    def inputs(self, rows: np.ndarray, epoch: int | None) -> Tensor:
        """The rows, as float32 where the tensor is."""
        import torch

        chosen = self.tensor[torch.from_numpy(rows).to(self.tensor.device)].float()
        is_map = self.channels_last and chosen.ndim == 4
        return chosen.contiguous(memory_format=torch.channels_last) if is_map else chosen


def batch_rows(n: int, batch_size: int, *, seed: int, step: int) -> np.ndarray:
    """Rows of the batch that follows ``step`` updates.

    Every epoch is a fresh order of all n rows, a function of (seed, epoch) alone; its last batch may be smaller.

    Parameters
    ----------
    n : int
        Training samples.
    batch_size : int
        Rows of a full batch.
    seed : int
        Of the recipe.
    step : int
        Updates already done.

    Returns
    -------
    ndarray of shape (b,), int64
    """
    epoch, position = divmod(step, -(-n // batch_size))
    return _order(n, seed, epoch)[position * batch_size : (position + 1) * batch_size].copy()


@functools.lru_cache(maxsize=1)  # the steps of an epoch ask for the same order one after another
def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch]))).permutation(n)


def logits_of(
    network: nn.Module, examples: Examples, *, device: str | torch.device, batch_size: int | None = None
) -> np.ndarray:
    """The network's output for every sample, in order; the caller has set the network to evaluation mode.

    Parameters
    ----------
    network : nn.Module
        From inputs ``(b, …)`` to logits ``(b, k)``.
    examples : Examples
        What to run it on.
    device : str or torch.device
        Where the network is.
    batch_size : int or None
        Samples per forward pass; None goes by their size.

    Returns
    -------
    ndarray of shape (n, k), float32
    """
    import torch

    from featstore import arithmetic

    rows = np.arange(len(examples))
    size = batch_size or evaluation_batch(examples.inputs(rows[:1], None).numel(), device)
    blocks = [rows[start : start + size] for start in range(0, len(rows), size)]
    with (
        torch.inference_mode(),
        arithmetic("fp32", torch.device(device)),
        contextlib.closing(
            ahead(lambda block: examples.inputs(block, None), blocks, workers=examples.workers)
        ) as batches,
    ):
        parts = [network(inputs.to(device)).float().cpu() for inputs in batches]
    found: np.ndarray = torch.cat(parts).numpy()
    return found


def evaluation_batch(n_values: int, device: str | torch.device) -> int:
    """Samples per forward pass of an evaluation, for inputs of so many values each."""
    import torch

    if torch.device(device).type == "cpu":
        return min(max(EVALUATION_VALUES["cpu"] // n_values, 32), 4096)
    return min(max(EVALUATION_VALUES["else"] // n_values, 64), 4096 if n_values < 4096 else 1024)
