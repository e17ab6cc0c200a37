"""Which rows of a network's own head stand for the target's classes: by number, or by the names of its classes."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

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
    numbers = tuple(int(row) for row in rows if not isinstance(row, str))
    if len(numbers) == len(rows):
        return numbers
    names = [str(row) for row in rows]
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
