"""Progress of long work, on stderr: one line per finished piece."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Counts finished pieces and says how long the rest will take.

    Parameters
    ----------
    n : int
        Pieces in all.
    name : str
        What begins every line.
    enabled : bool
        False says nothing.
    stream : text file, optional
        stderr as it is at the time of the call, where None.
    """

    def __init__(self, n: int, name: str, *, enabled: bool = True, stream: TextIO | None = None) -> None:
        self._n, self._name, self._enabled = n, name, enabled
        self._stream = sys.stderr if stream is None else stream
        self._done, self._started = 0, time.monotonic()

    def say(self, sentence: str) -> None:
        """Print a line about the whole."""
        if self._enabled:
            print(f"{self._name}: {sentence}", file=self._stream, flush=True)

    def finished(self, what: str) -> None:
        """Count one piece, with a few words about it."""
        self._done += 1
        spent = time.monotonic() - self._started
        left = spent / self._done * (self._n - self._done)
        rest = f", about {left:.0f} s left" if self._done < self._n and left >= 1 else ""
        self.say(f"{self._done}/{self._n} {what}{rest}")
