"""Numbers that a caller passes to a statistic: taken as float64, or refused in one sentence."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np

from probe.errors import BadInput

T = TypeVar("T")

NUMBER: Any = (int, float, np.integer, np.floating)
"""What counts as a number where options are looked at; True and False are whole numbers to Python."""


def reals(values: Any, what: str, *, ndim: int | None = 1, finite: bool = False) -> np.ndarray:
    """Values as float64.

    Parameters
    ----------
    values : array-like of numbers
    what : str
        What they are, for errors: "p-values".
    ndim : int or None
        Dimensions that they must have; None takes any.
    finite : bool
        Whether NaN and infinities are refused.

    Raises
    ------
    BadInput
        On what is no number, another shape, or, where asked, NaN.
    """
    try:
        given = np.asarray(values)
        if given.dtype.kind not in "biufO" or (given.dtype.kind == "O" and not _are_numbers(given)):
            raise TypeError
        found = given.astype(np.float64)
    except (TypeError, ValueError):  # numpy has a sentence on ragged lists, but not on what is asked here
        shown = repr(values)
        raise BadInput(f"{what} must be numbers but are {shown[:60]}{' …' if len(shown) > 60 else ''}.") from None
    if ndim is not None and found.ndim != ndim:
        shape = {0: "one number", 1: "a list of numbers, (n,)"}.get(ndim, f"numbers in {ndim} dimensions")
        raise BadInput(f"{what} must be {shape}, but have shape {found.shape}.")
    n_bad = int((~np.isfinite(found)).sum())
    if finite and n_bad:
        raise BadInput(f"{what} must be finite, but {n_bad} of {found.size} are NaN or infinite: leave these out.")
    return found


def pairs(x: Any, y: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Two lists of finite numbers that belong together.

    Raises
    ------
    BadInput
        Where one has other numbers than the other, or see `reals`.
    """
    a, b = reals(x, f"The first {what}", finite=True), reals(y, f"The second {what}", finite=True)
    if len(a) != len(b):
        raise BadInput(f"The {what} belong together in pairs, but there are {len(a)} and {len(b)} of them.")
    return a, b


def count(value: Any, what: str) -> int:
    """A whole number from 0.

    Raises
    ------
    BadInput
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral | np.integer) or value < 0:
        raise BadInput(f"{what} must be a whole number from 0 but is {value!r}.")
    return int(value)


def one_of(kind: type[T] | tuple[type[T], ...], given: Any, what: str) -> T:
    """A record of one kind.

    Parameters
    ----------
    kind : type, or tuple of types
    given : object
    what : str
        What it is and where it comes from, for errors: "a Study, such as probe.Study.from_toml reads".

    Raises
    ------
    BadInput
        Where it is something else.
    """
    if not isinstance(given, kind):
        raise BadInput(f"This takes {what}, not {type(given).__name__}.")
    return given


def several_of(kind: type[T] | tuple[type[T], ...], given: Any, what: str) -> list[T]:
    """A list of records of one kind.

    Parameters
    ----------
    kind : type, or tuple of types
    given : iterable of it
    what : str
        What they are and where they come from, for errors: "Comparisons of probe.compare".

    Raises
    ------
    BadInput
        Where it is none, or is empty, or something else is in it.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(given, (*kinds, str, bytes)) or not isinstance(given, Iterable):
        raise BadInput(f"A list of {what} is needed, not {type(given).__name__}.")
    found = list(given)
    wrong = next((one for one in found if not isinstance(one, kind)), None)
    if wrong is not None or any(one is None for one in found):
        raise BadInput(f"A list of {what} is needed, not of {type(wrong).__name__}.")
    return found


def _are_numbers(given: np.ndarray) -> bool:
    """Whether an array of Python objects holds numbers; None is none."""
    return all(isinstance(value, numbers.Real) for value in given.ravel())
