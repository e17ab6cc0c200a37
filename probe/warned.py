"""Warnings that point at the line outside this package that asked for what is warned of."""

from __future__ import annotations

import inspect
import warnings


def say(message: str, category: type[Warning]) -> None:
    """Warn, at the first line outside this package.

    Parameters
    ----------
    message : str
    category : type of Warning
    """
    level, frame = 1, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] == "probe":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=max(1, level - 1 if frame is None else level))
