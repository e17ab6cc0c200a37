"""What a caller chooses by a word, a name or a table of names: taken as it is, or refused in one sentence.

A data frame or an array in such a place cannot even be compared with a word; libraries then speak of ambiguous truth values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from probe.errors import BadInput


def shown(value: Any, most: int = 60) -> str:
    """A value in one line of an error: its repr where that is short, its type else.

    Parameters
    ----------
    value : object
    most : int
        Characters.
    """
    text = repr(value)
    return text if len(text) <= most and "\n" not in text else f"of type {type(value).__name__}"


def one_word(value: Any, known: Sequence[str], what: str) -> str:
    """One of a few words.

    Parameters
    ----------
    value : object
    known : sequence of str
    what : str
        The parameter, for errors: "scale".

    Raises
    ------
    BadInput
        On anything else.
    """
    if not isinstance(value, str) or value not in known:
        words = [repr(word) for word in known]
        raise BadInput(f"{what} is {shown(value)} but must be {', '.join(words[:-1])} or {words[-1]}.")
    return value


def a_name(value: Any, what: str) -> str:
    """Text, of which the caller then says whether it is known.

    Parameters
    ----------
    value : object
    what : str
        The parameter, for errors: "regime".

    Raises
    ------
    BadInput
        On what is no text.
    """
    if not isinstance(value, str):
        raise BadInput(f"{what} is {shown(value)} but must be a name, as text.")
    return value


def names(value: Any, what: str) -> tuple[str, ...]:
    """Several names.

    Parameters
    ----------
    value : iterable of str
    what : str

    Raises
    ------
    BadInput
        On one text, which would be taken for its letters, and on what is no text.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise BadInput(f"{what} is {shown(value)} but must be a list of names.")
    found = tuple(value)
    wrong = [one for one in found if not isinstance(one, str)]
    if wrong:
        raise BadInput(f"{what} must be a list of names, but {shown(wrong[0])} is in it.")
    return found


def a_mapping(value: Any, what: str, holds: str) -> Mapping[Any, Any]:
    """A mapping such as a dict.

    Parameters
    ----------
    value : object
    what : str
        The parameter, for errors: "source".
    holds : str
        What to what, for errors: "{model: accuracy}".

    Raises
    ------
    BadInput
        On anything else.
    """
    if not isinstance(value, Mapping):
        raise BadInput(f"{what} is {shown(value)} but must be a mapping, {holds}.")
    return value
