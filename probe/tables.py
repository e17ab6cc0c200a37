"""Tables for people: aligned text, and numbers written the way they are read."""

from __future__ import annotations

from collections.abc import Sequence

RIGHT = frozenset("0123456789+-.")
"""A cell that starts with one of these is a number and is aligned to the right."""


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out cells in columns, numbers to the right, separated by two spaces.

    Parameters
    ----------
    header : sequence of str
    rows : sequence of sequences of str
        Each as long as the header.

    Returns
    -------
    str
        Lines without trailing blanks, no newline at the end.
    """
    widths = [max(len(row[j]) for row in [header, *rows]) for j in range(len(header))]
    numeric = [
        bool(rows) and all(row[j][:1] in RIGHT or row[j] in ("", "nan") for row in rows) for j in range(len(header))
    ]
    lines = []
    for row in [header, ["-" * w for w in widths], *rows]:
        cells = (cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(row, widths, numeric, strict=True))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def number(x: float | None, digits: int = 4) -> str:
    """A score with a fixed number of decimals; empty where there is none."""
    return "" if x is None or x != x else f"{x:.{digits}f}"


def interval(low: float | None, high: float | None, digits: int = 4) -> str:
    """An interval as ``[0.8123, 0.8456]``; empty where there is none."""
    return "" if low is None or high is None or low != low else f"[{low:.{digits}f}, {high:.{digits}f}]"


def penalty(C: float) -> str:
    """An inverse penalty, short: ``5.62e-02``."""
    return f"{C:.2e}"


def seconds(s: float) -> str:
    """A duration in seconds with two figures or more."""
    return f"{s:.2f}" if s < 10 else f"{s:.1f}" if s < 100 else f"{s:.0f}"
