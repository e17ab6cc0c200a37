"""Whether the values of a record are of the types that its fields are declared with, which its own checks rely on."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Union, get_args, get_origin, get_type_hints

from finetune.errors import BadInput

_WORDS = {float: "a number", int: "a whole number", bool: "True or False", str: "a text", type(None): "None"}


def wrong_types(record: Any) -> list[str]:
    """Fields of a record that are not what they are declared as, a sentence each.

    Parameters
    ----------
    record : dataclass instance
        Of numbers, booleans, texts, and tuples of them; a list will do for a tuple.
    """
    hints = get_type_hints(type(record))
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return [
        f"{type(record).__name__}'s {name} is {value!r}; it must be {_in_words(hints[name])}."
        for name, value in values.items()
        if not _fits(value, hints[name])
    ]


def refuse_other_types(wanted: Mapping[str, tuple[Any, type[Any], str]], what: str) -> None:
    """Refuse arguments that are no split, no backbone, no run at all, before anything is asked of them.

    Parameters
    ----------
    wanted : mapping of str to (value, type, str)
        Name -> what was given, what it must be, and how that is made.
    what : str
        What they are for: "this prediction".

    Raises
    ------
    BadInput
        With every problem.
    """
    found = [
        f"{name} is {value!r:.80}; it must be a {kind.__name__}: {how}."
        for name, (value, kind, how) in wanted.items()
        if not isinstance(value, kind)
    ]
    if found:
        raise BadInput.of(what, found)


def is_number(value: Any) -> bool:
    """Whether a value is an int or a float; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Whether a value is an int; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _fits(value: Any, hint: Any) -> bool:
    inside = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, one) for one in inside)
    if get_origin(hint) is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        each = [inside[0]] * len(value) if inside[-1] is Ellipsis else inside
        return len(value) == len(each) and all(map(_fits, value, each))
    if hint in (float, int):
        return is_number(value) if hint is float else is_whole(value)
    return isinstance(value, hint)


def _in_words(hint: Any) -> str:
    inside = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_in_words(one) for one in inside)
    if get_origin(hint) is tuple:
        n = "" if inside[-1] is Ellipsis else f" of {len(inside)}"
        return f"a tuple{n}, each {_in_words(inside[0])}"
    return _WORDS[hint]
