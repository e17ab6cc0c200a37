"""Which unit was tuned, and which would have been best (Royer and Lampert, 2020, Figure 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from probe.errors import BadInput
from probe.long_tables import need_table
from probe.plots.style import STYLES, legend, new_axes, plain, styles

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

MARKERS = ("^", "v", ">", "<", "D")
"""Of the methods, in their order."""


def unit_map(table: pandas.DataFrame, picks: pandas.DataFrame | None = None, ax: Axes | None = None) -> Axes:
    """Draw scenarios × units: the darker, the better tuning that unit alone was on test data; triangles are methods' picks.

    Parameters
    ----------
    table : pandas.DataFrame
        One row per scenario, unit and (where there are several) ratio of training data: scenario, unit, depth (order of the
        units, from input to output), test_accuracy, ratio.
    picks : pandas.DataFrame, optional
        One row per pick: scenario, method ("flex", "fast", "faster", …), unit, and ratio where there are several. A triangle
        that several ratios share is larger.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where None.

    Returns
    -------
    matplotlib.axes.Axes

    Notes
    -----
    As in the paper, units are ranked by test accuracy within a scenario and ratio, equal ones sharing a rank, and ranks are summed
    over ratios; here the sum is divided by the largest possible, so that scenarios with more ratios are not darker.
    """
    for frame, columns in (
        (table, ("scenario", "unit", "depth", "test_accuracy")),
        (picks, ("scenario", "method", "unit")),
    ):
        if frame is not None or columns[-1] != "unit":
            need_table(frame)
        missing = [] if frame is None else [c for c in columns if c not in frame]
        if missing:
            raise BadInput(f"A table lacks the columns {', '.join(missing)}; it needs {', '.join(columns)}.")
    table = table[table["test_accuracy"].notna()]
    if not len(table):
        raise BadInput("There is nothing to draw: no row has a test accuracy.")
    scenarios = list(dict.fromkeys(table["scenario"]))
    units = list(table.sort_values("depth", kind="stable").drop_duplicates("unit")["unit"])
    shades = rank_shares(table, scenarios, units)
    longest = max(len(plain(s, 32)) for s in scenarios)
    ax = new_axes((2.6 + 0.08 * longest + 0.55 * len(units), 1.6 + 0.42 * len(scenarios)), ax)
    # Black on the darkest grey could not be seen, nor white on white: greys from 0.98 to 0.35.
    image = ax.imshow(np.where(np.isnan(shades), np.nan, shades), cmap="Greys", vmin=0.0, vmax=1.45, aspect="auto")
    for i, j in np.argwhere(np.isnan(shades)):
        ax.plot(j, i, marker="x", color="0.7", markersize=5)
    ax.set_xticks(
        range(len(units)), [plain(u, 24) for u in units], rotation=40, ha="right", rotation_mode="anchor", fontsize=8
    )
    ax.set_yticks(range(len(scenarios)), [plain(s, 32) for s in scenarios], fontsize=8.5)
    ax.set_xlabel("unit that is tuned, from input to output")
    _draw_picks(ax, picks, scenarios, units)
    colour_bar = ax.figure.colorbar(image, ax=ax, boundaries=np.linspace(0, 1, 65), ticks=[0, 1])
    colour_bar.ax.set_yticklabels(["worst", "best"])
    n_ratios = table["ratio"].nunique() if "ratio" in table else 1
    over = f"\nsummed over {n_ratios} amounts of data" if n_ratios > 1 else ""
    colour_bar.set_label(f"rank on test data{over}", fontsize=8)
    return ax


def rank_shares(table: pandas.DataFrame, scenarios: list[str], units: list[str]) -> np.ndarray:
    """Summed ranks of units, from 0 (always last) to 1 (always first): (scenarios, units), NaN where there is no result."""
    table = (
        table.assign(ratio=table.get("ratio", 0))
        .groupby(["scenario", "ratio", "unit"], sort=False)["test_accuracy"]
        .mean()
        .reset_index()
    )
    groups = table.groupby(["scenario", "ratio"])["test_accuracy"]
    most = groups.transform("size") - 1
    share = ((groups.rank() - 1) / most.where(most > 0)).fillna(1.0)
    grid = table.assign(share=share).groupby(["scenario", "unit"])["share"].mean().unstack()
    shares: np.ndarray = grid.reindex(index=scenarios, columns=units).to_numpy(dtype=float)
    return shares


def _draw_picks(ax: Axes, picks: pandas.DataFrame | None, scenarios: list[str], units: list[str]) -> None:
    if picks is None or not len(picks):
        return
    unknown = picks[~picks["scenario"].isin(scenarios) | ~picks["unit"].isin(units)]
    if len(unknown):
        where = f"{unknown['unit'].iloc[0]}, {unknown['scenario'].iloc[0]}"
        raise BadInput(f"{len(unknown)} picks are of no scenario or unit in the table (first: {where}).")
    methods = list(dict.fromkeys(map(str, picks["method"])))
    handles = []
    for k, (method, style) in enumerate(zip(methods, styles(len(methods)), strict=True)):
        counts = picks[picks["method"].astype(str) == method].groupby(["scenario", "unit"], sort=False).size()
        at = [(units.index(unit), scenarios.index(scenario)) for scenario, unit in counts.index]
        shift = (k - (len(methods) - 1) / 2) * 0.6 / max(1, len(methods) - 1)
        handles.append(
            ax.scatter(
                [x + shift for x, _ in at], [y for _, y in at], s=42 * np.sqrt(counts.to_numpy()), color=style.color,
                marker=MARKERS[k % len(MARKERS)], edgecolor="white", linewidth=0.9, zorder=3,
            )
        )  # fmt: skip
    legend(
        ax,
        handles,
        methods,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=len(methods),
        fontsize=8.5,
        markerscale=1.0,
    )


assert len(MARKERS) <= len(STYLES)
