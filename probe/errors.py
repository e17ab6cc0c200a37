"""Errors of the package.

ProbeError
├── BadInput (also a ValueError)     what was passed cannot be fitted, scored or compared
├── DamagedRecord                    a result on disk is not what was written
└── MissingExtra (also ImportError)  an optional library is not installed

Warnings: NotConverged, one per call, naming the penalties.
"""

from __future__ import annotations


class ProbeError(Exception):
    """Base of every error this package raises on purpose."""


class BadInput(ProbeError, ValueError):
    """What was passed cannot be used: the message has what is wrong, both values, and what to do."""


class DamagedRecord(ProbeError):
    """A result on disk is truncated, edited or of another format; it is never trusted."""


class MissingExtra(ProbeError, ImportError):
    """An optional library is needed; the message names the extra that installs it."""


class NotConverged(UserWarning):
    """Some fits carry a certificate weaker than was asked for; the message names their C and their status."""
