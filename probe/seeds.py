"""What chance is drawn from: a seed that a caller gives, checked, and how often is drawn."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from probe.errors import BadInput


def checked_seed(seed: Any, what: str = "seed") -> int:
    """A seed as an int.

    Parameters
    ----------
    seed : int
        From 0.
    what : str
        What it is called, for errors.

    Raises
    ------
    BadInput
        On anything but a whole number from 0: None would give other numbers each time.
    """
    is_whole = isinstance(seed, numbers.Integral | np.integer) and not isinstance(seed, bool | np.bool_)
    if not is_whole or seed < 0:
        shown = " ".join(repr(seed).split())
        raise BadInput(f"{what} is {shown[:60]} but must be a whole number from 0, so that the same is drawn again.")
    return int(seed)


def generator(seed: Any) -> np.random.Generator:
    """A generator of random numbers; for errors see `checked_seed`."""
    return np.random.default_rng(checked_seed(seed))


def checked_draws(n: Any, what: str) -> int:
    """How often is drawn, from 1.

    Parameters
    ----------
    n : int
    what : str
        What it is called, for errors: "n_draws".

    Raises
    ------
    BadInput
        On anything but a whole number from 1.
    """
    is_whole = isinstance(n, numbers.Integral | np.integer) and not isinstance(n, bool | np.bool_)
    if not is_whole or n < 1:
        shown = " ".join(repr(n).split())
        raise BadInput(f"{what} is {shown[:60]} but must be a whole number, at least one.")
    return int(n)
