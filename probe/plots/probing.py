"""Accuracy of probes against the depth of the unit, and against the penalty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probe.chosen import a_name
from probe.plots.style import (
    counts_of,
    legend,
    metric_of,
    need_columns,
    new_axes,
    plain,
    quiet,
    references_of,
    spread,
    styles,
)

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


LEVEL_CHARACTERS, TURNED_NAMES = 72, 24
"""What fits below the axes: characters of level names side by side, and names turned by 45 degrees."""

UNITS = "unit that is probed (its features), from input to output"


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
    Over several seeds the line is their mean and the band runs from the lowest to the highest. Lines of networks with other units
    share an axis of relative depth, from the first unit (0) to the last (1), without names.
    """
    references, by = references_of(references), None if by is None else a_name(by, "by")
    need_columns(
        table, ["unit", "depth", "d", "metric", "train", "test", "test_score", "n_test", *([by] if by else [])]
    )
    ax = new_axes((7.5, 4.6), ax)
    kind = "test" if table["test_score"].notna().any() else "val"
    by = by or ("test" if kind == "test" else "train")
    lines = {name: rows.drop_duplicates("unit").sort_values("depth") for name, rows in table.groupby(by, sort=False)}
    units = max(lines.values(), key=len)
    has_names = all(set(own["unit"]) <= set(units["unit"]) for own in lines.values())
    handles: list[Any] = []
    for (name, rows), style in zip(table.groupby(by, sort=False), styles(table[by].nunique()), strict=True):
        middle, low, high = _over_seeds(rows, kind)
        own = list((units if has_names else lines[name])["unit"])
        x = np.array([own.index(unit) for unit in middle.index]) / (1 if has_names else max(1, len(own) - 1))
        ax.fill_between(x, low, high, color=style.color, alpha=0.18, linewidth=0)
        handles += ax.plot(
            x, middle, color=style.color, marker=style.marker, linestyle=style.dashes, linewidth=1.8, markersize=6,
            label=str(name),
        )  # fmt: skip
    _score_axis(ax, table, kind, by)
    of = [plain(table[column].iloc[0]) for column in ("backbone", "test" if kind == "test" else "train")
          if column in table and table[column].nunique() == 1]  # fmt: skip
    ax.set_title(" on ".join(of), fontsize=10)
    if has_names:
        _depth_axis(ax, units)
    else:
        ax.set_xlabel(
            ax.get_xlabel().replace(UNITS, "relative depth of the unit, 0 the first and 1 the last that was probed")
        )
    if len(handles) > 1:
        legend(ax, handles, [handle.get_label() for handle in handles], loc="best")
    if references:
        _draw_references(ax, list(dict.fromkeys(str(v) for v in table[by])), references, reference_name)
    return ax


def accuracy_by_C(paths: pandas.DataFrame, ax: Axes | None = None, *, by: str = "unit") -> Axes:
    """Draw validation accuracy against the inverse penalty C, the mean over seeds, the values chosen marked on it.

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
    need_columns(paths, ["C", "val_score", "is_chosen", "metric", "n_val", a_name(by, "by")])
    ax = new_axes((7.5, 4.6), ax)
    handles: list[Any] = []
    for (name, rows), style in zip(paths.groupby(by, sort=False), styles(paths[by].nunique()), strict=True):
        mean = rows.groupby("C")["val_score"].mean()
        handles += ax.plot(mean.index, mean, color=style.color, linestyle=style.dashes, linewidth=1.6, label=str(name))
        chosen = rows.loc[rows["is_chosen"], "C"].unique()
        ax.plot(
            chosen, mean.loc[chosen], color=style.color, marker=style.marker, markersize=8, linestyle="none",
            markeredgecolor="black", markeredgewidth=0.8,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlabel("C, inverse penalty (weak penalty to the right); marker: chosen on validation data")
    ax.set_ylabel(f"validation {metric_of(paths)} (n = {counts_of(paths['n_val'])})")
    quiet(ax)
    legend(ax, handles, [handle.get_label() for handle in handles], loc="best", ncols=1 + paths[by].nunique() // 8)
    return ax


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
    level = [f"{plain(unit)}\n{d:,} features" for unit, d in pairs]
    places = range(len(pairs))
    if len(level) * (2 + max(len(line) for name in level for line in name.split("\n"))) <= LEVEL_CHARACTERS:
        ax.set_xticks(places, level)
    else:
        step = 1 + (len(pairs) - 1) // TURNED_NAMES
        ax.set_xticks(places[::step], [f"{plain(unit)} ({d:,})" for unit, d in pairs[::step]])
        for label in ax.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    ax.set_xlim(-0.3, len(pairs) - 0.7)


def _score_axis(ax: Axes, table: pandas.DataFrame, kind: str, by: str) -> None:
    band = "range over seeds" if table.duplicated([by, "unit"]).any() else "95 % interval"
    ax.set_xlabel(f"{UNITS}; shaded: {band}")
    ax.set_ylabel(f"{kind} {metric_of(table)} (n = {counts_of(table[f'n_{kind}'])})")
    quiet(ax)


def _draw_references(ax: Axes, names: Sequence[str], references: Mapping[str, float], what: str) -> None:
    """Dotted lines, their names beside the right edge, pushed apart where they would overlap."""
    shown = [
        (references[name], name, style)
        for name, style in zip(names, styles(len(names)), strict=True)
        if name in references
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
            f"{what}\non {plain(name)}: {value:.3f}",
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
