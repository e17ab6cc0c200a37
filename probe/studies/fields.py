"""What the fields of a study may hold, and a sentence on those that hold something else."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping
from typing import Any

from probe.chosen import shown
from probe.errors import BadInput


def _is_whole(value: Any, least: int) -> bool:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        return False
    return int(value) >= least


def _is_object(value: Any) -> bool:
    """Text, or something that says what it is called: a Backbone, a Split."""
    return isinstance(value, str) or (
        hasattr(value, "name") and not hasattr(value, "dtype")
    )  # a column has a name, too


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


_SIZES = ("d", "n_train", "n_test", "n_classes", "images_per_cell")
_MUST_BE: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("name", "metric"), ("text", lambda v: isinstance(v, str) and bool(v))),
    **dict.fromkeys(_SIZES, ("a whole number from 1", lambda v: v is None or _is_whole(v, 1))),
    "n_val": ("a whole number from 0", lambda v: v is None or _is_whole(v, 0)),
    "source": ("a number between 0 and 1", lambda v: v is None or _is_number(v)),
    "spec": ("the name of a network or a featstore.Backbone", _is_object),
    **dict.fromkeys(("train", "test"), ("the name of a split or a featstore.Split", _is_object)),
    "val": ("a split, its name, or a share of train", lambda v: _is_object(v) or _is_number(v)),
    "options": ("a mapping", lambda v: isinstance(v, Mapping)),
    "function": ("a function or its name, package.module:function", lambda v: isinstance(v, str) or callable(v)),
    "seeds": ("a list of whole numbers", lambda v: v is None or isinstance(v, list | tuple | range)),
    **dict.fromkeys(
        ("datasets", "networks"),
        ("a list of names", lambda v: isinstance(v, list | tuple) and all(isinstance(one, str) for one in v)),
    ),
}


def need_fields(one: Any, what: str) -> None:
    """Check the types of all fields of a network, a data set or a regime.

    Parameters
    ----------
    one : dataclass
    what : str
        What it is, for errors: "network".

    Raises
    ------
    BadInput
        With all that is wrong.
    """
    problems = []
    for key in one.__dataclass_fields__:
        must_be, is_right = _MUST_BE[key]
        value = getattr(one, key)
        if not is_right(value):
            problems.append(f"'{key}' is {shown(value)} but must be {must_be}")
    if problems:
        raise BadInput(f"The {what} {shown(one.name)} cannot be understood: {'; '.join(problems)}.")
