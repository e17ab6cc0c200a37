"""How drawings look, and how they are kept: colours, axes, legends, captions, files. The one file that knows Matplotlib.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; markers, dashes and hatches differ too, so that a grey
copy can be read. Nothing global is touched: no pyplot, no settings; drawings are made on a figure of their own, or on axes that
are passed in. Names come from data: they are drawn as they are, whatever is in them.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from probe.chosen import a_mapping, a_name, names
from probe.errors import BadInput
from probe.files import as_path, write_atomically
from probe.logits import inverse_logit, logit
from probe.long_tables import need_table
from probe.reals import count, one_of, reals

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Style(NamedTuple):
    """How one line, or one group of points or bars, looks."""

    color: str
    marker: str
    dashes: Any
    hatch: str


STYLES = (
    Style("#0072B2", "o", "solid", ""),
    Style("#D55E00", "s", (0, (5, 2)), "////"),
    Style("#009E73", "^", (0, (5, 1, 1, 1)), "...."),
    Style("#CC79A7", "D", (0, (1, 1)), "xxxx"),
    Style("#E69F00", "v", (0, (3, 1, 1, 1, 1, 1)), "\\\\\\\\"),
    Style("#56B4E9", "P", (0, (8, 2)), "----"),
    Style("#000000", "X", (0, (2, 2)), "++++"),
)
"""Lines in the order in which they are used; an eighth begins again."""
_MORE_MARKERS = ("<", "*", ">", "p", "h", "d", "8")


def caption(ax: Axes, sentences: Sequence[str], *, width: int = 138) -> None:
    """Write sentences below a drawing that has a figure of its own, one paragraph each.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    sentences : sequence of str
    width : int
        Characters per line; 138 fill the width of the figures made here.
    """
    # A line must not end between a name and its number: "p = 0.03" stays together.
    held = (re.sub(r" ([=<×]) ", "\u00a0\\1\u00a0", sentence) for sentence in names(sentences, "sentences"))
    lines = "\n".join(textwrap.fill(sentence, max(1, count(width, "width"))) for sentence in held)
    figure = figure_of(ax)
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=7.5, linespacing=1.4)
    # Room for the text, so that the drawing keeps its height.
    figure.set_figheight(figure.get_figheight() + 7.5 / 72 * 1.4 * 1.15 * (lines.count("\n") + 1))


def save(ax: Axes, path: str | Path) -> None:
    """Write the figure of some axes to a file, its format by the ending: png, pdf, svg.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    path : str or Path
        Its folder is made where missing; a file that is there is replaced at once or not at all.

    Raises
    ------
    BadInput
        On an ending that names no format, or a place that cannot be written.
    """
    path = as_path(path, "The file to draw")
    content = io.BytesIO()
    try:
        figure_of(ax).savefig(content, format=path.suffix.lstrip(".").lower() or "png")
    except ValueError as error:
        raise BadInput(f"'{path}' cannot be drawn: {error}.") from error
    write_atomically(path, content.getvalue())


def svg_text(ax: Axes, salt: str) -> str:
    """The figure of some axes as SVG, words kept as words; equal drawings give equal text.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    salt : str
        What names inside the drawing are made from: drawings that share a page need different ones.
    """
    import matplotlib as mpl

    content = io.BytesIO()
    # Text as text is smaller than its outlines, can be searched, and is read aloud.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": a_name(salt, "salt")}):
        figure_of(ax).savefig(content, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return content.getvalue().decode()


def figure_of(ax: Axes) -> Figure:
    """The figure that axes belong to."""
    if not hasattr(ax, "get_figure"):
        raise BadInput(f"Axes are drawn, such as the functions of probe.plots return, not {type(ax).__name__}.")
    figure = ax.get_figure(root=True)
    assert figure is not None, "axes that belong to no figure cannot be drawn"
    return figure


def new_axes(size: tuple[float, float], ax: Axes | None = None) -> Axes:
    """Axes on a new figure of this size in inches; or those that are given, after a look at whether they are axes.

    Parameters
    ----------
    size : tuple of float
    ax : matplotlib.axes.Axes, optional

    Raises
    ------
    BadInput
    """
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    if ax is not None:
        return one_of(Axes, ax, "axes of matplotlib, or None for a new figure")
    return Figure(figsize=size, dpi=150, layout="constrained").subplots()


def styles(n: int) -> list[Style]:
    """Return looks for n things: beyond seven a colour comes again with another marker, dashes and hatch.

    No marker comes again before the fifteenth, as points in grey have nothing else.
    """
    k, found = len(STYLES), []
    for i in range(n):
        color, other = STYLES[i % k], STYLES[(i + i // k) % k]
        marker = _MORE_MARKERS[(i + i // k) % k] if (i // k) % 2 == 1 else other.marker
        found.append(Style(color.color, marker, other.dashes, other.hatch))
    return found


def spread(values: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move heights apart until neighbours are ``gap`` away, staying between ``low`` and ``high`` where they fit.

    Parameters
    ----------
    values : sequence of float
    gap, low, high : float

    Returns
    -------
    list of float
        In the order of ``values``; the order of heights is kept.
    """
    values = reals(values, "heights").tolist()
    gap, low, high = reals([gap, low, high], "gap, low and high").tolist()
    order = sorted(range(len(values)), key=lambda i: values[i])
    placed: list[float] = []
    for i in order:
        placed.append(max(values[i], placed[-1] + gap) if placed else max(values[i], low))
    top = high
    for j in reversed(range(len(placed))):
        placed[j] = min(placed[j], top)
        top = placed[j] - gap
    out = [0.0] * len(values)
    for i, height in zip(order, placed, strict=True):
        out[i] = height
    return out


def quiet(ax: Axes) -> None:
    """Faint lines at the heights, no frame at the top and the right."""
    ax.grid(axis="y", color="0.88", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def need_columns(table: Any, columns: Sequence[str]) -> None:
    """Refuse what is no table with these columns and a row, in one sentence.

    Parameters
    ----------
    table : pandas.DataFrame
    columns : sequence of str
    """
    need_table(table)
    if not len(table):
        raise BadInput("There is nothing to draw: the table has no rows.")
    missing = [column for column in columns if column not in table]
    if missing:
        known = ", ".join(map(str, table.columns[:12])) or "none"
        raise BadInput(f"The table lacks the columns {', '.join(missing)}; it has {known}.")


def references_of(references: Any) -> Mapping[Any, float]:
    """Scores to compare with, by name; none where None.

    Parameters
    ----------
    references : mapping of str to float, or None

    Raises
    ------
    BadInput
        Where it is no mapping, or a score no number.
    """
    given = {} if references is None else a_mapping(references, "references", "{name: score}")
    return {
        name: reals(value, f"The reference of '{name}'", ndim=0, finite=True).item() for name, value in given.items()
    }


def metric_of(table: pandas.DataFrame) -> str:
    """The metrics of a table in words."""
    return " / ".join(str(m).replace("_", " ") for m in table["metric"].unique())


def counts_of(n: pandas.Series) -> str:
    """A number, or the smallest and the largest of several."""
    low, high = int(n.min()), int(n.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def shortened(name: object, most: int = 48) -> str:
    """A name on one line, the middle of long ones left out.

    Parameters
    ----------
    name : object
    most : int
        Characters.

    Returns
    -------
    str
    """
    text = " ".join(str(name).split())
    return text if len(text) <= most else f"{text[: most - most // 3 - 1]}…{text[-(most // 3) :]}"


def plain(name: object, most: int = 48) -> str:
    """A name from data as Matplotlib draws it as it is: `shortened`, and dollar signs are no formulas."""
    return shortened(name, most).replace("$", r"\$")


def new_row(n: int, size: tuple[float, float], columns: int | None = None, *, dpi: int = 150) -> list[Axes]:
    """Axes side by side on a new figure, each of this size in inches; in several rows, where they are more than ``columns``."""
    from matplotlib.figure import Figure

    columns = min(n, columns or n)
    rows = -(-n // columns)
    figure = Figure(figsize=(columns * size[0], rows * size[1]), dpi=dpi, layout="constrained")
    axes = [*figure.subplots(rows, columns, squeeze=False).ravel()]
    for ax in axes[n:]:
        ax.remove()
    return axes[:n]


def legend(ax: Axes, handles: Sequence[Any], names: Iterable[object], **options: Any) -> None:
    """A legend whose names are drawn as they are; Matplotlib would leave out those that begin with an underscore.

    With ``loc="best"`` it goes to the right of the axes, where it would cover what is drawn in every place inside.
    """
    drawn = ax.legend(handles, [str(i) for i in range(len(handles))], frameon=False, **options)
    for text, name in zip(drawn.get_texts(), names, strict=True):
        text.set_text(plain(name))
    if options.get("loc") != "best":
        return
    figure = figure_of(ax)
    figure.draw_without_rendering()
    box = drawn.get_window_extent()
    if not _is_covered(ax, box):
        return
    if len(figure.axes) == 1:  # room for it, so that the drawing keeps its width
        columns = int(options.get("ncols", 1))
        drawn.set_loc("upper left")
        drawn.set_bbox_to_anchor((1.0, 1.0))
        figure.set_figwidth(figure.get_figwidth() + box.width / figure.dpi * (1 if columns == 1 else 1.02))
    else:
        drawn.set_frame_on(True)
        drawn.get_frame().set(alpha=0.85, linewidth=0)


def _is_covered(ax: Axes, box: Any) -> bool:
    """Whether a line, a point or a bar of some axes lies in a box, in pixels; bands may."""
    from matplotlib.collections import LineCollection, PathCollection

    for line in ax.get_lines():
        if line.get_transform().transform_path(line.get_path()).intersects_bbox(box, filled=False):
            return True
    for found in ax.collections:
        if isinstance(found, LineCollection):
            paths = (found.get_transform().transform_path(path) for path in found.get_paths())
            if any(path.intersects_bbox(box, filled=False) for path in paths):
                return True
        elif isinstance(found, PathCollection):
            at = found.get_offset_transform().transform(found.get_offsets())
            if any(box.contains(x, y) for x, y in at):
                return True
    return any(box.overlaps(patch.get_window_extent()) for patch in ax.patches)


def log_axis(axis: Any, low: float, high: float) -> None:
    """Ticks at round numbers, written out, on a logarithmic axis that shows values from ``low`` to ``high``."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 300 * low else (1.0,), numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))


def logit_axis(ax: Axes, which: Literal["x", "y"], values: np.ndarray) -> None:
    """Give an axis the logit scale, limits around accuracies (any shape, NaN left out), and ticks at round numbers."""
    values = np.asarray(values, dtype=np.float64)
    x = logit(np.clip(values[np.isfinite(values)], 1e-6, 1 - 1e-6))
    low, high = (float(x.min()), float(x.max())) if len(x) else (-1.0, 1.0)
    margin = max(0.07 * (high - low), 0.05)
    ends = inverse_logit([low - margin, high + margin])
    ticks = _ticks(float(ends[0]), float(ends[1]))
    if which == "x":
        ax.set_xscale("logit")
        ax.set_xlim(*ends)
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
        ax.set_xticks([], minor=True)
    else:
        ax.set_yscale("logit")
        ax.set_ylim(*ends)
        ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
        ax.set_yticks([], minor=True)


_ROUND = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9998, 0.99998, 0.999998)


def _ticks(low: float, high: float) -> list[float]:
    """Round accuracies between two ends: usual ones over wide ranges, equal steps over narrow ones."""
    usual = [t for t in sorted({*_ROUND, *(round(1 - t, 6) for t in _ROUND)}) if low <= t <= high]
    if len(usual) >= 4:
        return usual
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= max(f for f in (1, 2, 5) if f * step <= (high - low) / 3 or f == 1)
    first = math.ceil(low / step)
    return [round(i * step, 9) for i in range(first, math.floor(high / step) + 1) if 0 < i * step < 1]


def label_points(
    ax: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str], *, avoid: np.ndarray | None = None, size: float = 7.0
) -> None:
    """Write names beside points (n,), where they cover neither points nor each other, as far as there is room.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        With its final scales and limits.
    x, y : numpy.ndarray of shape (n,)
    names : sequence of str
    avoid : numpy.ndarray of shape (g, 2), optional
        Points of a line that should not be covered either.
    size : float
        Of the letters, in points.
    """
    figure_of(ax).draw_without_rendering()
    at = ax.transData.transform(np.stack([x, y], axis=1))
    box, pixels = ax.get_window_extent(), figure_of(ax).dpi / 72
    line = np.zeros((0, 2)) if avoid is None else ax.transData.transform(avoid.reshape(-1, 2))
    thin = [(px - pixels, py - pixels, px + pixels, py + pixels) for px, py in line]
    taken = [(px - 4 * pixels, py - 4 * pixels, px + 4 * pixels, py + 4 * pixels) for px, py in at]
    for i in np.argsort(-at[:, 1], kind="stable"):
        name = plain(names[i], 28)
        text = ax.annotate(name, (x[i], y[i]), (0, 0), textcoords="offset points", fontsize=size, annotation_clip=False)
        extent = text.get_window_extent()
        width, height = extent.width, extent.height
        found = []
        for distance in (7, 14, 24, 38):
            for angle in (0, 180, 20, 160, -20, 200, 50, 130, -50, 230, 90, 270):
                dx, dy = (distance * pixels * f(math.radians(angle)) for f in (math.cos, math.sin))
                # The nearest edge of the name is what is at that distance.
                left = at[i, 0] + dx - width * (1 - math.cos(math.radians(angle))) / 2
                bottom = at[i, 1] + dy - height * (1 - math.sin(math.radians(angle))) / 2
                own = (left, bottom, left + width, bottom + height)
                cost = sum(_overlap(own, other) for j, other in enumerate(taken) if j != i)
                cost += sum(_overlap(own, other) for other in thin)
                outside = width * height - _overlap(own, (box.x0, box.y0, box.x1, box.y1))
                found.append((cost + outside + distance * 0.3, own))
        _, own = min(found)
        taken.append(own)
        text.set_position(((own[0] - at[i, 0]) / pixels, (own[1] - at[i, 1]) / pixels))
        centre = np.array([(own[0] + own[2]) / 2, (own[1] + own[3]) / 2])
        if np.abs((centre - at[i]) / [width / 2 + 12 * pixels, height / 2 + 12 * pixels]).max() > 1:
            nearest = np.clip(at[i], [own[0], own[1]], [own[2], own[3]])
            line = ax.transData.inverted().transform([at[i], nearest])
            ax.plot(line[:, 0], line[:, 1], color="0.6", linewidth=0.6, zorder=1)


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Area that two boxes (left, bottom, right, top) share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
