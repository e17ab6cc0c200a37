"""Which rows of a network's own head stand for the target's classes: by number, or by the names of its classes."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Sequence
from typing import Any

from finetune.errors import BadInput


def rows_among(rows: Sequence[int] | Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """The row for each class of the target.

    Parameters
    ----------
    rows : sequence of int or of str
        Row numbers in the order of ``classes``, given back as they are; or the names of the network's own classes, in
        the order of its rows.
    classes : sequence of str
        Names of the target's classes.

    Raises
    ------
    BadInput
        A class that is not among the names; the nearest ones.

    Examples
    --------
    >>> rows_among(("cat", "dog", "ship"), ("ship", "cat"))
    (2, 0)
    """
    if isinstance(rows, str) or not isinstance(rows, Iterable):
        raise BadInput(f"head_rows is {rows!r}; a row for each class is needed, or the names of the network's classes.")
    given: list[Any] = list(rows)
    wrong = [row for row in given if not isinstance(row, str) and not _is_row(row)]
    if wrong:
        raise BadInput(f"head_rows holds {wrong[0]!r}; rows are whole numbers, or the names of the network's classes.")
    if not any(isinstance(row, str) for row in given):
        return tuple(int(row) for row in given)
    names = [str(row) for row in given]
    found, problems = [], []
    for name in classes:
        if names.count(name) == 1:
            found.append(names.index(name))
            continue
        near = ", ".join(difflib.get_close_matches(name, names, n=3, cutoff=0.5)) or "none"
        how = "not among" if name not in names else f"{names.count(name)} times among"
        problems.append(
            f"class '{name}' is {how} the {len(names)} names of the network's classes (near it: {near}); "
            "give the names that it was trained with, or row numbers."
        )
    if not classes:
        problems.append("head_rows are names and the classes of train have none; give row numbers.")
    if problems:
        raise BadInput.of("the choice of rows by name", problems)
    return tuple(found)


def _is_row(row: Any) -> bool:
    """Whether a value is a whole number, of Python, numpy or torch; True and False are none."""
    try:
        operator.index(row)
    except TypeError:
        return False
    return not isinstance(row, bool)
