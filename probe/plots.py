"""Two drawings of results: accuracy against depth, and accuracy against the penalty.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; markers and dashes differ too, so that a grey
copy can be read. Nothing global is touched: no pyplot, no settings; drawings are made on a figure of their own, or on
axes that are passed in, and the axes are returned. `save` writes them to a file.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from probe.errors import BadInput
from probe.files import write_atomically

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


LEVEL_CHARACTERS, TURNED_NAMES = 72, 24
"""What fits below the axes: characters of level names side by side, and names turned by 45 degrees."""


class Style(NamedTuple):
    """How one line looks."""

    color: str
    marker: str
    dashes: Any


STYLES = (
    Style("#0072B2", "o", "solid"),
    Style("#D55E00", "s", (0, (5, 2))),
    Style("#009E73", "^", (0, (5, 1, 1, 1))),
    Style("#CC79A7", "D", (0, (1, 1))),
    Style("#E69F00", "v", (0, (3, 1, 1, 1, 1, 1))),
    Style("#56B4E9", "P", (0, (8, 2))),
    Style("#000000", "X", (0, (2, 2))),
)
"""Lines in the order in which they are used; an eighth begins again."""


def accuracy_by_depth(
    table: pandas.DataFrame,
    ax: Axes | None = None,
    *,
    by: str | None = None,
    references: Mapping[str, float] | None = None,
    reference_name: str = "source network",
) -> Axes:
    """Draw test accuracy against the depth of the unit, with intervals as bands.

    Parameters
    ----------
    table : pandas.DataFrame
        As `probe.results.table` makes it: unit, depth, d, metric, test, test_score, test_low, test_high, n_test (val_…
        and n_val where there was no test split).
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where None.
    by : str, optional
        Column whose values are the lines; by default the test split.
    references : mapping of str to float, optional
        Per line, a score to compare with, drawn as a thin dotted line of the same colour and named at the right.
    reference_name : str
        What the references are the scores of.

    Returns
    -------
    matplotlib.axes.Axes

    Notes
    -----
    Over several seeds the line is their mean and the band runs from the lowest to the highest.
    """
    if not len(table):
        raise BadInput("There is nothing to draw: the table has no rows.")
    ax = _new_axes((7.5, 4.6)) if ax is None else ax
    kind = "test" if table["test_score"].notna().any() else "val"
    by = by or ("test" if kind == "test" else "train")
    units = table.drop_duplicates(["depth", "unit"]).sort_values("depth")
    place = {unit: i for i, unit in enumerate(units["unit"])}
    several = table[by].nunique() > 1
    for (name, rows), style in zip(table.groupby(by, sort=False), _styles(), strict=False):
        middle, low, high = _over_seeds(rows, kind)
        x = [place[unit] for unit in middle.index]
        ax.fill_between(x, low, high, color=style.color, alpha=0.18, linewidth=0)
        ax.plot(
            x, middle, color=style.color, marker=style.marker, linestyle=style.dashes, linewidth=1.8, markersize=6,
            label=str(name) if several else None,
        )  # fmt: skip
    _depth_axis(ax, units)
    _score_axis(ax, table, kind)
    if several:
        ax.legend(frameon=False, title=None, loc="best")
    if references:
        _draw_references(ax, list(dict.fromkeys(str(v) for v in table[by])), references, reference_name)
    return ax


def accuracy_by_C(paths: pandas.DataFrame, ax: Axes | None = None, *, by: str = "unit") -> Axes:
    """Draw validation accuracy against the inverse penalty C, the chosen value marked.

    Parameters
    ----------
    paths : pandas.DataFrame
        As `probe.Results.paths` makes it: unit, seed, C, val_score, is_chosen, metric, n_val.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where None.
    by : str
        Column whose values are the lines.

    Returns
    -------
    matplotlib.axes.Axes
    """
    if not len(paths):
        raise BadInput("There is nothing to draw: the table has no rows.")
    ax = _new_axes((7.5, 4.6)) if ax is None else ax
    for (name, rows), style in zip(paths.groupby(by, sort=False), _styles(), strict=False):
        mean = rows.groupby("C")["val_score"].mean()
        ax.plot(mean.index, mean, color=style.color, linestyle=style.dashes, linewidth=1.6, label=str(name))
        chosen = rows[rows["is_chosen"]]
        ax.plot(
            chosen["C"], chosen["val_score"], color=style.color, marker=style.marker, markersize=8, linestyle="none",
            markeredgecolor="black", markeredgewidth=0.8,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlabel("C, inverse penalty (weak penalty to the right); marker: chosen on validation data")
    ax.set_ylabel(f"validation {_metric(paths)} (n = {_counts(paths['n_val'])})")
    _quiet(ax)
    ax.legend(frameon=False, loc="best", ncols=1 + paths[by].nunique() // 8)
    return ax


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
    held = (re.sub(r" ([=<×]) ", "\u00a0\\1\u00a0", sentence) for sentence in sentences)
    lines = "\n".join(textwrap.fill(sentence, width) for sentence in held)
    figure = _figure(ax)
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
    path = Path(path)
    content = io.BytesIO()
    try:
        _figure(ax).savefig(content, format=path.suffix.lstrip(".").lower() or "png")
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
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        _figure(ax).savefig(content, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return content.getvalue().decode()


def _figure(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert figure is not None, "axes that belong to no figure cannot be drawn"
    return figure


def _new_axes(size: tuple[float, float]) -> Axes:
    from matplotlib.figure import Figure

    return Figure(figsize=size, dpi=150, layout="constrained").subplots()


def _styles() -> list[Style]:
    return [*STYLES] * 20


def _over_seeds(rows: pandas.DataFrame, kind: str) -> tuple[Any, Any, Any]:
    """Score, lower and upper end of the band per unit, in order of depth."""
    units = rows.sort_values("depth").groupby("unit", sort=False)
    score = units[f"{kind}_score"]
    if (units.size() > 1).any():
        return score.mean(), score.min(), score.max()
    middle = score.first()
    return middle, units[f"{kind}_low"].first().fillna(middle), units[f"{kind}_high"].first().fillna(middle)


def _depth_axis(ax: Axes, units: pandas.DataFrame) -> None:
    """Name every unit and its number of features; turned where level names do not fit, thinned out where many."""
    pairs = list(zip(units["unit"], units["d"], strict=True))
    level = [f"{unit}\n{d:,} features" for unit, d in pairs]
    places = range(len(pairs))
    if len(level) * (2 + max(len(line) for name in level for line in name.split("\n"))) <= LEVEL_CHARACTERS:
        ax.set_xticks(places, level)
    else:
        step = 1 + (len(pairs) - 1) // TURNED_NAMES
        ax.set_xticks(places[::step], [f"{unit} ({d:,})" for unit, d in pairs[::step]])
        for label in ax.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    ax.set_xlim(-0.3, len(pairs) - 0.7)


def _score_axis(ax: Axes, table: pandas.DataFrame, kind: str) -> None:
    band = "range over seeds" if table.duplicated(["unit", "train", "test", "backbone"]).any() else "95 % interval"
    ax.set_xlabel(f"unit that is probed (its features), from input to output; shaded: {band}")
    ax.set_ylabel(f"{kind} {_metric(table)} (n = {_counts(table[f'n_{kind}'])})")
    _quiet(ax)


def _draw_references(ax: Axes, names: Sequence[str], references: Mapping[str, float], what: str) -> None:
    """Dotted lines, their names beside the right edge, pushed apart where they would overlap."""
    shown = [
        (references[name], name, style) for name, style in zip(names, _styles(), strict=False) if name in references
    ]
    for value, _, style in shown:
        ax.axhline(value, color=style.color, linestyle=(0, (1, 2)), linewidth=1.4, zorder=1)
    values = [value for value, _, _ in shown]
    low, high = ax.get_ylim()
    low, high = min([low, *(v - 0.02 for v in values)]), max([high, *(v + 0.02 for v in values)])
    ax.set_ylim(low, high)
    heights = spread(values, gap=0.1 * (high - low), low=low, high=high)
    for (value, name, style), height in zip(shown, heights, strict=True):
        ax.annotate(
            f"{what}\non {name}: {value:.3f}",
            xy=(1.0, value),
            xytext=(1.03, height),
            xycoords=ax.get_yaxis_transform(),
            textcoords=ax.get_yaxis_transform(),
            color=style.color,
            fontsize=8,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": style.color, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0},
        )


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


def _quiet(ax: Axes) -> None:
    ax.grid(axis="y", color="0.88", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _metric(table: pandas.DataFrame) -> str:
    return " / ".join(str(m).replace("_", " ") for m in table["metric"].unique())


def _counts(n: pandas.Series) -> str:
    low, high = int(n.min()), int(n.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
