"""The history of a training as TensorBoard event files; the only file that knows torch's writer of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.checkpoint import Row
from finetune.errors import MissingExtra

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def require_tensorboard() -> None:
    """Raise `MissingExtra` where tensorboard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingExtra(
            "event files for TensorBoard were asked for, and tensorboard is not installed; install featprobe[tensorboard], "
            "or leave tensorboard out: the history is in the run as well."
        )


@contextmanager
def event_writer(folder: Path) -> Iterator[Callable[[Row], None]]:
    """A function that writes each row of a history as scalars ``loss/train``, ``score/val`` and ``lr``.

    A resumed training writes a second file, in which TensorBoard takes the steps that were done twice for new.

    Parameters
    ----------
    folder : Path
        Of the event files; made with the first row.
    """
    writer: SummaryWriter | None = None

    def write(row: Row) -> None:
        nonlocal writer
        if writer is None:
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(str(folder), purge_step=row.step)
        scalars = {"loss/train": row.train_loss, "lr": row.lr, "epoch": row.epoch}
        for name, value in scalars.items() if row.val is None else [*scalars.items(), ("score/val", row.val)]:
            writer.add_scalar(name, value, row.step)
        writer.flush()

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
