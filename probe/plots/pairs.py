"""Models on the same samples: their differences with intervals, and accuracy by confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from probe import tables
from probe.calibration import reliability
from probe.comparison import Comparison
from probe.errors import BadInput
from probe.plots.style import STYLES, legend, new_axes, plain, quiet
from probe.rank_tests import holm
from probe.reals import several_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from probe.predictions import Predictions


def differences(comparisons: Sequence[Comparison], ax: Axes | None = None) -> Axes:
    """Draw differences between models with their intervals, one line a pair.

    Parameters
    ----------
    comparisons : sequence of Comparison
        Of one measure; from `probe.compare` or `probe.compare_all`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where None.

    Returns
    -------
    matplotlib.axes.Axes
        Filled points are significant after Holm's correction over all pairs drawn; the grey bar around 0 holds the differences
        that could not have been told from chance.
    """
    comparisons = several_of(Comparison, comparisons, "Comparisons of probe.compare")
    measures = list(dict.fromkeys(c.measure for c in comparisons))
    if len(measures) != 1:
        raise BadInput(
            f"Differences of one measure are drawn, but there are {', '.join(measures) or 'no comparisons'}."
        )
    adjusted = holm([c.p_value for c in comparisons])
    n, level = len(comparisons), comparisons[0].level
    names = [f"{plain(c.name_a, 30)} − {plain(c.name_b, 30)}" for c in comparisons]
    ax = new_axes((4.6 + 0.062 * max(map(len, names)), 1.3 + 0.36 * n), ax)
    style = STYLES[0]
    for i, (c, p) in enumerate(zip(comparisons, adjusted, strict=True)):
        ax.barh(i, 2 * c.smallest_detectable, 0.5, -c.smallest_detectable, color="0.88", zorder=0)
        is_clear = p <= 1 - level
        ax.plot([c.interval.low, c.interval.high], [i, i], color="black", linewidth=1.6, zorder=2)
        ax.plot(
            c.difference, i, marker="o", markersize=7.5, color="black", zorder=3,
            markerfacecolor=style.color if is_clear else "white",
        )  # fmt: skip
        ax.annotate(
            f"p = {tables.p_value(float(p))}", (1.01, i), xycoords=ax.get_yaxis_transform(), va="center", fontsize=8,
            annotation_clip=False,
        )  # fmt: skip
    ax.axvline(0, color="black", linewidth=0.9, linestyle=(0, (3, 2)), zorder=1)
    ax.set_yticks(range(n), names, fontsize=8.5)
    ax.set_ylim(n - 0.4, -0.6)
    sizes = sorted({c.n for c in comparisons})
    size = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    what = measures[0].replace("_", " ")
    interval = f"{level:.0%}".replace("%", " %")
    ax.set_xlabel(
        f"difference in {plain(what)} (n = {size}); line: {interval} interval; p by Holm\n"
        "grey: too small to be told from chance; filled: significant",
        fontsize=8.5,
    )
    quiet(ax)
    ax.locator_params(axis="x", nbins=5)
    ax.grid(visible=False, axis="y")
    ax.grid(axis="x", color="0.92", linewidth=0.8)
    return ax


def reliability_bars(predictions: Predictions, ax: Axes | None = None) -> Axes:
    """Draw how often a model is right against how sure it is.

    Parameters
    ----------
    predictions : Predictions
        With scores.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where None.

    Returns
    -------
    matplotlib.axes.Axes

    Notes
    -----
    Guo, Pleiss, Sun and Weinberger (2017), Figure 1: bars below the diagonal are answers that are less often right than they are
    sure. The number of samples in each bar is above it.
    """
    bins = reliability(predictions)
    ax = new_axes((4.8, 4.6), ax)
    width = bins["high"] - bins["low"]
    bars = ax.bar(
        bins["low"],
        bins["accuracy"],
        width,
        align="edge",
        color=STYLES[0].color,
        alpha=0.6,
        edgecolor="black",
        linewidth=0.7,
    )
    diagonal = ax.plot([0, 1], [0, 1], color="black", linestyle=(0, (3, 2)), linewidth=1.1)[0]
    for _, row in bins.iterrows():
        ax.annotate(
            f"{int(row['n']):,}", ((row["low"] + row["high"]) / 2, row["accuracy"]), (0, 2), textcoords="offset points",
            ha="center", va="bottom", fontsize=6.5,
        )  # fmt: skip
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.06)
    ax.set_xlabel("confidence: the largest probability")
    ax.set_ylabel(f"accuracy (n = {len(predictions):,})")
    ax.set_title(plain(predictions.name), fontsize=10)
    quiet(ax)
    legend(
        ax,
        [bars, diagonal],
        ["share that is right, samples above", "perfectly calibrated"],
        loc="upper left",
        fontsize=8,
    )
    return ax
