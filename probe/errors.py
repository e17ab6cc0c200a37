"""Errors of the package.

ProbeError
├── BadInput (also a ValueError)     what was passed cannot be fitted, scored or compared
├── ClusterFailed                    a Dask cluster cannot be reached, or lost what it was fitting
├── DamagedRecord                    a result on disk is not what was written
├── MissingExtra (also ImportError)  an optional library is not installed
└── OutOfMemory (also MemoryError)   the host or the device has less memory than a fit needs

Interrupted (a KeyboardInterrupt)    Ctrl-C in the middle of a path; carries the fits that are finished

Warnings: NotConverged, one per call, naming the penalties; ZeroRows, naming rows that cannot be scaled to length one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from probe.path import Path


class ProbeError(Exception):
    """Base of every error this package raises on purpose."""


class BadInput(ProbeError, ValueError):
    """What was passed cannot be used: the message has what is wrong, both values, and what to do."""


class ClusterFailed(ProbeError):
    """A Dask cluster cannot be reached, or has lost its scheduler or too many workers; what is finished is kept."""


class DamagedRecord(ProbeError):
    """A result on disk is truncated, edited or of another format; it is never trusted."""


class MissingExtra(ProbeError, ImportError):
    """An optional library is needed; the message names the extra that installs it."""


class OutOfMemory(ProbeError, MemoryError):
    """The host or the device has less memory than a fit needs; the message has about how much that is, and what to do."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a path: `path` holds what was finished until then, certified.

    It is a KeyboardInterrupt and no `ProbeError`, so that a program that is told to stop does stop: ``except Exception`` does
    not catch it, ``except KeyboardInterrupt`` does as ever.

    Parameters
    ----------
    message : str
    path : Path
        The fits that were finished, at the values of C that were asked for, in that order.
    paths : sequence of (Path or None), optional
        Of `probe.fit_paths`: what is finished of every problem.

    Examples
    --------
    >>> import probe
    >>> try:
    ...     path = probe.fit_path([[0.0], [1.0], [2.0]], [0, 0, 1], [0.1, 1.0])
    ... except probe.Interrupted as stop:
    ...     path = stop.path
    >>> len(path)
    2
    """

    def __init__(self, message: str, path: Path, paths: Sequence[Path | None] | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.paths = (path,) if paths is None else tuple(paths)


class NotConverged(UserWarning):
    """Some fits carry a certificate weaker than was asked for; the message names their C and their status."""


class NotInMemory(UserWarning):
    """Memory ran out, and the features are streamed instead, as ``memory="auto"`` allows; the message says with how much."""


class ZeroRows(UserWarning):
    """Some rows are zero, so that they have no direction to scale to length one; the message names them."""
