"""What is said while work goes on: to stderr, so that stdout holds results only. The only file that knows tqdm."""

from __future__ import annotations

import sys
from typing import Any, Protocol, cast

__all__ = ["Bar", "bar", "say"]


class Bar(Protocol):
    """A progress bar: `update` says how much more is done; it is a context manager."""

    def update(self, n: int = 1) -> object: ...
    def __enter__(self) -> Bar: ...
    def __exit__(self, *args: object) -> object: ...


def say(text: str) -> None:
    """Print one line to stderr."""
    print(f"featstore: {text}", file=sys.stderr, flush=True)


def bar(total: int, what: str, *, done: int = 0, shown: bool = True, unit: str = "images") -> Bar:
    """Return a progress bar with rate and remaining time.

    Parameters
    ----------
    total, done : int
        Of all work, and of what an earlier run has left.
    what : str
        Put before the bar.
    shown : bool
        False counts silently.
    unit : str
        What is counted.
    """
    from tqdm import tqdm

    is_terminal = sys.stderr.isatty()
    made: Any = tqdm(
        total=total,
        initial=done,
        desc=f"featstore: {what}",
        unit=f" {unit}",
        disable=not shown,
        dynamic_ncols=is_terminal,
        leave=is_terminal,
        mininterval=0.2 if is_terminal else 30,  # a log file needs no ten lines a second
        delay=0 if is_terminal else 5,
    )
    return cast(Bar, made)
