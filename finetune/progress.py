"""What a training says on stderr while it goes: a line every few seconds, nothing on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from finetune.checkpoint import Row

EVERY_S = 5.0
"""Seconds between two lines."""


def say(message: str) -> None:
    """Print one line to stderr, under the program's name."""
    print(f"finetune: {message}", file=sys.stderr, flush=True)


def reporter() -> Callable[[Row, int], None]:
    """A function for `finetune.loop.train` that prints a row of history every few seconds, and the last one."""
    said = time.monotonic()

    def report(row: Row, n_steps: int) -> None:
        nonlocal said
        if time.monotonic() - said < EVERY_S and row.step < n_steps:
            return
        said = time.monotonic()
        val = "" if row.val is None else f", val {row.val:.4f}"
        say(f"step {row.step} of {n_steps}, lr {row.lr:.3g}, train loss {row.train_loss:.4f}{val}, {row.seconds:.1f} s")

    return report
