"""The one training loop. Every regime calls `train`; it is meant to be read from top to bottom.

On a CPU a training is a function of its recipe, network and data: stopped at any step (Ctrl-C, kill -9) and called
again, it ends with the same weights, bit for bit, for the same number of threads. On a GPU torch does not promise that.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from finetune.ahead import ahead
from finetune.checkpoint import Checkpoint, Forward, Position, Row
from finetune.devices import memory_errors_explained
from finetune.errors import BadInput, Diverged, NotFinite
from finetune.examples import Examples, batch_rows
from finetune.recipe import Recipe
from finetune.stepping import stepper
from finetune.trainable import Moving, Parts, trainable

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training ends with.

    Attributes
    ----------
    kept, last : dict of str to Tensor
        Moving tensors that the recipe's rule keeps, and those after the last step done; on the CPU. The network holds
        ``kept``.
    kept_step : int
        Updates after which ``kept`` was taken.
    history : tuple of Row
        One row per evaluation.
    stopped : str
        Why the training ended, as a sentence.
    seconds : float
        Spent training and evaluating, interruptions left out.
    """

    kept: dict[str, Tensor]
    last: dict[str, Tensor]
    kept_step: int
    history: tuple[Row, ...]
    stopped: str
    seconds: float


def train(
    network: nn.Module,
    examples: Examples,
    *,
    recipe: Recipe,
    checkpoint: Checkpoint,
    parts: Collection[str] | Parts = ("",),
    evaluate: Callable[[], float] | None = None,
    device: str = "cpu",
    checkpoint_every_s: float = 30.0,
    report: Callable[[Row, int], None] | None = None,
) -> Trained:
    """Train some parts of a network as a recipe says, from the checkpoint where there is one.

    Parameters
    ----------
    network : nn.Module
        From inputs ``(b, …)`` to logits ``(b, k)``; on ``device``; changed in place.
    examples : Examples
        Training samples; labels in 0 … k − 1.
    recipe : Recipe
        Every hyper-parameter.
    checkpoint : Checkpoint
        Where the state is kept between steps, and continued from.
    parts : collection of str, or Parts
        What moves; see `finetune.trainable.trainable`.
    evaluate : callable or None
        Gives the validation score (higher is better) of the network as it is; called in evaluation mode.
    device : str
        ``"cpu"``, ``"cuda"`` …
    checkpoint_every_s : float
        Seconds between checkpoints. They are also written before the first step, so that a folder that cannot be
        written is found at once, at Ctrl-C, and at the end.
    report : callable or None
        Called with each new row of history and the number of steps in all.

    Raises
    ------
    BadInput
        The recipe does not fit the data, or a part that does not exist.
    Diverged
        A loss, a weight or validation logits that are NaN or infinite; the checkpoint keeps the last good state.
    DifferentRun
        The checkpoint belongs to another training.
    OutOfMemory
        The device's memory did not suffice.
    KeyboardInterrupt
        After Ctrl-C; the checkpoint holds every step done.
    """
    import torch

    from featstore import arithmetic

    recipe.check_for(len(examples), has_val=evaluate is not None)
    where, n = torch.device(device), len(examples)
    n_steps, per_epoch = recipe.n_steps(n), recipe.steps_per_epoch(n)
    momentum = recipe.bn_momentum_for(n)
    with (
        torch.random.fork_rng([where] if where.type == "cuda" else []),
        arithmetic("tf32" if recipe.precision == "tf32" else "fp32", where),
        trainable(network, parts, bn_momentum=momentum, train_mode=recipe.train_mode) as moving,
        memory_errors_explained(
            f"the memory of {device} did not suffice for batches of {recipe.batch_size}",
            "Lower batch_size (and lr with it), or choose a part of the network with fewer parameters.",
        ),
        _ctrl_c_between_steps() as is_interrupted,
        contextlib.ExitStack() as stack,
    ):
        torch.manual_seed(recipe.seed)
        steps = stepper(network, moving, recipe, where)
        at = checkpoint.resume(moving, steps, where)
        if at is None:
            at = Position()
            checkpoint.save(at, moving, steps, where)
        started, saved = time.monotonic() - at.seconds, time.monotonic()
        forward = Forward(moving, where)
        batches = stack.enter_context(contextlib.closing(_batches(examples, recipe, at.step, n_steps)))

        while at.step < n_steps and at.stopped is None:
            lr = recipe.lr_at(at.step, n_train=n)
            inputs, labels = next(batches)
            forward.note()
            loss = steps.update(inputs.to(where), labels.to(where), lr=lr)
            if not math.isfinite(loss):
                forward.undo()
                if moving.is_finite():
                    at.seconds = time.monotonic() - started
                    checkpoint.save(at, moving, steps, where)
                raise _diverged(f"the loss of step {at.step + 1} is {loss}", at.step + 1, lr, checkpoint)
            at.step, at.loss_sum, at.n_losses = at.step + 1, at.loss_sum + loss, at.n_losses + 1

            is_row = at.step % (recipe.evaluate_every or per_epoch) == 0 or at.step == n_steps
            is_end = at.step == n_steps or is_interrupted()  # asked once: what ends the loop must have been saved
            is_saved = is_end or time.monotonic() - saved >= checkpoint_every_s
            if (is_row or is_saved) and not moving.is_finite():
                raise _diverged(f"a weight is NaN or infinite after step {at.step}", at.step, lr, checkpoint)
            if is_row:
                at.seconds = time.monotonic() - started
                try:
                    _add_row(at, moving, recipe, evaluate, lr=lr, epoch=at.step / per_epoch)
                except NotFinite as error:
                    what = f"after step {at.step} {str(error).partition(',')[0]}"
                    raise _diverged(what, at.step, lr, checkpoint) from error
                if report is not None:
                    report(at.history[-1], n_steps)
            if is_saved or at.stopped is not None:
                at.seconds = time.monotonic() - started
                checkpoint.save(at, moving, steps, where)
                saved = time.monotonic()
            if is_end:
                break

        if is_interrupted():
            raise KeyboardInterrupt(f"stopped after step {at.step} of {n_steps}; the same call goes on from there")
        last = moving.state()
        kept = last if at.best is None else at.best
        moving.load(kept)
    kept_step = _best_row(at.history).step if at.best is not None else at.step
    stopped = at.stopped or f"All {n_steps} steps were done."
    return Trained(kept, last, kept_step, tuple(at.history), stopped, at.seconds)


def _batches(examples: Examples, recipe: Recipe, step: int, n_steps: int) -> Generator[tuple[Tensor, Tensor]]:
    """Inputs and labels of every update from ``step`` on, made ahead by threads where the examples ask for it."""
    import torch

    n = len(examples)
    per_epoch = recipe.steps_per_epoch(n)
    labels = torch.from_numpy(np.ascontiguousarray(examples.labels))

    def make(step: int) -> tuple[Tensor, Tensor]:
        rows = batch_rows(n, recipe.batch_size, seed=recipe.seed, step=step)
        return examples.inputs(rows, step // per_epoch), labels[torch.from_numpy(rows)]

    return ahead(make, range(step, n_steps), workers=examples.workers)


def _add_row(
    at: Position, moving: Moving, recipe: Recipe, evaluate: Callable[[], float] | None, *, lr: float, epoch: float
) -> None:
    """Evaluate, add a row, keep the weights if they are the best so far, see whether training ends."""
    score = None
    if evaluate is not None:
        with moving.evaluating():
            score = float(evaluate())
        if not math.isfinite(score):
            raise BadInput(
                f"the validation score after step {at.step} is {score}, which cannot rank weights; use another metric."
            )
    at.history.append(Row(at.step, epoch, at.seconds, lr, at.loss_sum / at.n_losses, score))
    at.loss_sum, at.n_losses = 0.0, 0
    if score is None:
        return
    if recipe.keep.keeps_best and _best_row(at.history) is at.history[-1]:
        at.best = moving.state()
    if recipe.keep.stops([(row.step, row.val) for row in at.history if row.val is not None]):
        at.stopped = (
            f"{recipe.keep} ended the training at step {at.step}, where the score fell from "
            f"{at.history[-2].val} to {score}."
        )


def _best_row(history: list[Row]) -> Row:
    """The row with the highest score, the earliest on ties."""
    return max((row for row in history if row.val is not None), key=lambda row: (row.val, -row.step))


def _diverged(what: str, step: int, lr: float, checkpoint: Checkpoint) -> Diverged:
    return Diverged(
        f"{what}, at learning rate {lr:.6g}: training cannot go on from there. The last good state, after step "
        f"{checkpoint.saved_step}, is in {checkpoint.path}. Lower the learning rate or warm up, in another folder.",
        step=step,
        lr=lr,
    )


@contextlib.contextmanager
def _ctrl_c_between_steps() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C end the training after the step at hand, with the state whole; a second one interrupts at once.

    Only the main thread can do this; elsewhere, and where SIGINT is ignored or not Python's, nothing is changed.
    """
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or not is_default:
        yield lambda: False
        return
    pressed = False

    def remember(number: int, frame: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(
            2, b"\nfinishing this step and writing a checkpoint; Ctrl-C again stops at once\n"
        )  # print may be re-entered here

    signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
