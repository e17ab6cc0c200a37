"""Tables for people: aligned text, and numbers written the way they are read."""

from __future__ import annotations

import math
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


def digits(smallest_detectable: float, n: int | None = None) -> int:
    """Decimals worth printing of a proportion: so many that values just told from chance do not look the same.

    Parameters
    ----------
    smallest_detectable : float
        Differences below this could not be told from chance (`probe.Comparison`); where it is 0 or NaN, 1 / n is taken.
    n : int, optional
        Samples.

    Returns
    -------
    int
        The smallest with 10^-digits at most `smallest_detectable`; 2 (whole per cents) to 6.
    """
    least = smallest_detectable if smallest_detectable > 0 else 1 / n if n else math.nan
    if not math.isfinite(least):
        return 4
    # 0.001 has a logarithm just above -3.
    return min(6, max(2, math.ceil(-math.log10(least) - 1e-9)))


def number(x: float | None, digits: int = 4) -> str:
    """A score with a fixed number of decimals; empty where there is none."""
    return "" if x is None or x != x else f"{x:.{digits}f}"


def interval(low: float | None, high: float | None, digits: int = 4) -> str:
    """An interval as ``[0.8123, 0.8456]``; empty where there is none."""
    return "" if low is None or high is None or low != low else f"[{low:.{digits}f}, {high:.{digits}f}]"


def signed(r: float) -> str:
    """A correlation: two decimals, three where they would round to 1; empty where there is none."""
    return "" if r != r else f"{r:.3f}" if 0.995 <= abs(r) < 1 else f"{r:.2f}"


def p_value(p: float) -> str:
    """A p-value with one or two figures, never as 0; empty where there is none."""
    return (
        ""
        if p != p
        else "<1e-99"
        if p < 1e-99
        else f"{p:.2f}"
        if p >= 0.095
        else f"{p:.2g}"
        if p >= 1e-4
        else f"{p:.0e}"
    )


def penalty(C: float) -> str:
    """An inverse penalty, short: ``5.62e-02``."""
    return f"{C:.2e}"


def seconds(s: float) -> str:
    """A duration in seconds with two figures or more."""
    return f"{s:.2f}" if s < 10 else f"{s:.1f}" if s < 100 else f"{s:.0f}"
