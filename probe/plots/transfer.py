"""Many models on many data sets: against accuracy on the source task, and by regime (Kornblith et al., Figures 2 and 6)."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from probe import tables
from probe.averages import average_over_datasets, standard_errors
from probe.chosen import a_name, names, one_word
from probe.correlation import AVERAGE, Correlation, bootstrap_band, correlation, models_of
from probe.errors import BadInput
from probe.intervals import wilson
from probe.logits import inverse_logit, logit
from probe.long_tables import Crossed, Scale, checked
from probe.plots.style import (
    STYLES,
    figure_of,
    label_points,
    legend,
    logit_axis,
    new_axes,
    plain,
    quiet,
    references_of,
    styles,
)

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

MOST_LABELLED = 25
"""Models whose names fit beside their points."""

CHARACTER_INCHES = 0.068
"""Of the names below bars."""

WIDENED = 1.18
"""Axes are so much wider once the figure is laid out: 0.92 of it instead of 0.775."""

LINE, TIED = STYLES[0].color, STYLES[2].color


def source_scatter(
    table: pandas.DataFrame,
    ax: Axes | None = None,
    *,
    source: Mapping[str, float] | None = None,
    regime: str | None = None,
    dataset: str | None = None,
    tied: Collection[str] | None = None,
    scale: Scale = "logit",
    seed: int = 0,
) -> Axes:
    """Draw accuracy on data sets against accuracy on the source task, with the regression line and its band.

    Parameters
    ----------
    table : pandas.DataFrame
        See `probe.long_tables`; a column ``source``, or:
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where None.
    source : mapping of str to float, optional
        Accuracy on the source task by model.
    regime : str, optional
        May be left out where the table has one.
    dataset : str, optional
        One data set; the average over all where None, with error bars (`probe.averages.standard_errors`).
    tied : collection of str, optional
        Models that are not significantly different from the best, drawn filled and green; by default those that
        `probe.average_over_datasets` says, and for one data set none, because that takes predictions (`probe.compare`).
    scale : {"logit", "plain"}
        Of both axes.
    seed : int
        Of the bootstrap.

    Returns
    -------
    matplotlib.axes.Axes

    Notes
    -----
    Kornblith, Shlens and Le (2019), Figure 2. Bars on one data set are Wilson's 95 % intervals, where its metric is accuracy (or
    not named) and the number of samples is known. The line and its band need three models.
    """
    data, s = models_of(table, source, regime=regime)
    x = logit(s) if one_word(scale, ("logit", "plain"), "scale") == "logit" else s
    if dataset is None:
        y, heights = data.on(scale).mean(axis=1), data.accuracy.mean(axis=1)
    elif a_name(dataset, "dataset") in data.datasets:
        y, heights = data.on(scale)[:, data.datasets.index(dataset)], data.accuracy[:, data.datasets.index(dataset)]
    else:
        raise BadInput(f"The table has no data set '{dataset}'; there are {', '.join(data.datasets[:8])}.")
    found = correlation(x, y, dataset=dataset or AVERAGE, plain=(s, heights), scale=scale, seed=seed)
    if tied is None and dataset is None and len(x) > 1:
        averages = average_over_datasets(table, regime=regime, scale=scale)
        tied = set(averages["model"][averages["is_tied"]]) if len(data.datasets) > 1 else None
    green = () if tied is None else names(tied, "tied")
    ax = new_axes((5.6, 5.0), ax)
    back = inverse_logit if scale == "logit" else np.asarray
    low, high = _bars(data, y, dataset, scale)
    line = _line(ax, x, y, found, back, seed)
    bars = np.stack(np.broadcast_arrays(back(x)[:, None], back(np.linspace(low, high, 25, axis=1))), axis=-1)
    is_tied = np.array([name in green for name in data.models])
    for filled, rows in ((False, ~is_tied), (True, is_tied)):
        ax.errorbar(
            back(x)[rows], back(y)[rows], np.abs(back(y) - [back(low), back(high)])[:, rows], fmt="o", markersize=6.5,
            color="black", ecolor="0.55", elinewidth=1.0, markerfacecolor=TIED if filled else "white", zorder=3,
        )  # fmt: skip
    if scale == "logit":
        logit_axis(ax, "x", back(x))
        logit_axis(ax, "y", np.stack([back(low), back(high)]))
    else:  # not around the band, which a few models leave wide open
        margin = 0.07 * max(float(np.ptp([low, high])), 0.01)
        ax.set_ylim(float(low.min()) - margin, float(high.max()) + margin)
    _words(ax, data, found, dataset, has_tied=bool(is_tied.any()), has_bars=bool((low < y).any()))
    if len(x) <= MOST_LABELLED:
        label_points(ax, back(x), back(y), data.models, avoid=np.concatenate([line, bars.reshape(-1, 2)]))
    return ax


def _bars(data: Crossed, y: np.ndarray, dataset: str | None, scale: Scale) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of the error bars, on the scale; y itself where there are none."""
    if dataset is None:
        if len(y) < 2 or len(data.datasets) < 2:
            return y, y
        error = standard_errors(data.on(scale))
        return y - error, y + error
    j = data.datasets.index(dataset)
    if np.isnan(data.n[j]) or data.metrics[j] not in ("", "accuracy"):
        return y, y
    n = int(data.n[j])
    ends = np.array([wilson(round(p * n), n) for p in data.accuracy[:, j]]).T
    # A mean over seeds may be no whole number of samples: the rounding must not turn a bar round.
    low, high = logit(np.clip(ends, 1e-9, 1 - 1e-9)) if scale == "logit" else ends
    return np.minimum(low, y), np.maximum(high, y)


def _line(ax: Axes, x: np.ndarray, y: np.ndarray, found: Correlation, back: Any, seed: int) -> np.ndarray:
    """The regression line and its bootstrapped band, straight on the scale; returns points of the line, (g, 2)."""
    if len(x) < 3 or np.ptp(x) == 0:
        return np.zeros((0, 2))
    margin = 0.05 * np.ptp(x)
    at = np.linspace(x.min() - margin, x.max() + margin, 60)
    low, high = bootstrap_band(x, y, at, seed=seed)
    ax.fill_between(back(at), back(low), back(high), color=LINE, alpha=0.18, linewidth=0, zorder=0)
    line = np.stack([back(at), back(found.intercept + found.slope * at)], axis=1)
    ax.plot(line[:, 0], line[:, 1], color=LINE, linewidth=1.6, zorder=2)
    return line


def _words(ax: Axes, data: Crossed, found: Correlation, dataset: str | None, *, has_tied: bool, has_bars: bool) -> None:
    d, m = len(data.datasets), found.n_models
    unit = "logit scale" if found.scale == "logit" else "score"
    if dataset is None:
        what = f"average over {d} data set{'s' * (d != 1)}"
        ax.set_ylabel(f"mean accuracy ({unit})" + ("; bars: ± 1 standard error" if has_bars else ""))
        ax.set_title(f"{what[:1].upper()}{what[1:]}\n{_numbers(found)}", fontsize=10)
    else:
        j = data.datasets.index(dataset)
        n = "" if np.isnan(data.n[j]) else f", n = {int(data.n[j]):,}"
        metric = (data.metrics[j] or "accuracy").replace("_", " ")
        ax.set_ylabel(f"{metric} ({unit}{n})" + (";\nbars: 95 % interval" if has_bars else ""))
        ax.set_title(f"{plain(dataset)}\n{_numbers(found)}", fontsize=10)
    ax.set_xlabel(f"accuracy on the source task ({unit}); {m} model{'s' * (m != 1)}")
    quiet(ax)
    if has_tied:
        handle = ax.plot([], [], "o", color="black", markerfacecolor=TIED, markersize=6.5)[0]
        legend(ax, [handle], ["not significantly different from the best"], loc="lower right", fontsize=7.5)


def _numbers(c: Correlation) -> str:
    if np.isnan(c.r) or c.n_models < 3:
        return "too few models for a correlation" if c.n_models < 3 else "no correlation can be computed"
    low, high = (tables.signed(end) for end in c.r_interval)
    return f"r = {tables.signed(c.r)} (95 % interval {low} to {high}), ρ = {tables.signed(c.rho)}"


def bars_by_dataset(
    table: pandas.DataFrame, ax: Axes | None = None, *, references: Mapping[str, float] | None = None
) -> Axes:
    """Draw accuracy by data set and regime: bars are means over models, points are the models.

    Parameters
    ----------
    table : pandas.DataFrame
        See `probe.long_tables`; cells that are missing are left out.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where None.
    references : mapping of str to float, optional
        Per data set, a score to compare with, such as the best published, drawn as a line across its bars.

    Returns
    -------
    matplotlib.axes.Axes

    Notes
    -----
    Kornblith, Shlens and Le (2019), Figure 6. Means and standard errors (over models) are of log odds; bars start at the lower
    edge, which means nothing on a logit scale.
    """
    table = checked(table, ("model", "dataset", "accuracy"))
    table = table.assign(n=table.get("n", np.nan), regime=table.get("regime", ""))
    table = table[table["accuracy"].notna()]
    if not len(table):
        raise BadInput("There is nothing to draw: no row has an accuracy.")
    datasets, regimes = list(dict.fromkeys(table["dataset"])), list(dict.fromkeys(map(str, table["regime"])))
    cells = _cells(table)
    shown = {d: v for d, v in references_of(references).items() if d in datasets}
    places, centres = _places(cells, datasets, regimes)
    inches = 0.9 * max(1, len(regimes) / 2)
    ax = new_axes((max(5.0, 1.6 + inches * (centres[-1] - centres[0] + 1)), 4.4), ax)
    logit_axis(ax, "y", np.concatenate([*map(inverse_logit, cells.values()), np.array([*shown.values()], dtype=float)]))
    floor = ax.get_ylim()[0]
    width, handles = 0.8 / len(regimes), dict[str, Any]()
    for regime, style in zip(regimes, styles(len(regimes)), strict=True):
        for dataset in datasets:
            if (dataset, regime) not in cells:
                continue
            x, place = cells[dataset, regime], places[dataset, regime]
            error = x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else 0.0
            middle, low, high = inverse_logit([x.mean(), x.mean() - error, x.mean() + error])
            handles[regime] = ax.bar(
                place, middle - floor, width * 0.94, floor, color=(style.color, 0.55), hatch=style.hatch, edgecolor="black",
                linewidth=0.6,
            )  # fmt: skip
            if len(x) > 1:
                ax.errorbar(
                    place, middle, [[middle - low], [high - middle]], color="black", capsize=3, linewidth=1.2, zorder=4
                )
                across = place + width * np.linspace(-0.3, 0.3, len(x))
                ax.scatter(across, inverse_logit(x), s=9, color="white", edgecolor="black", linewidth=0.6, zorder=3)
    for dataset, value in shown.items():
        here = [place for (name, _), place in places.items() if name == dataset]
        ends = min(here) - width / 2 - 0.05, max(here) + width / 2 + 0.05
        handles["reference"] = ax.hlines(value, *ends, color="black", linestyle=(0, (3, 2)))
    ax.set_xlim(-0.6, max(places.values()) + width / 2 + 0.2)
    _bar_words(ax, table, datasets, centres, [len(x) for x in cells.values()])
    if len(handles) > 1:
        legend(
            ax,
            [*handles.values()],
            handles,
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=_columns(ax, [plain(name) for name in handles]),
            fontsize=8.5,
        )
    return ax


def _columns(ax: Axes, names: Sequence[str]) -> int:
    """How many names of a legend fit side by side above axes."""
    inches = figure_of(ax).get_figwidth() * ax.get_position().width * WIDENED
    return max(1, min(len(names), int(inches / (0.55 + 0.078 * max(map(len, names))))))


def _cells(table: pandas.DataFrame) -> dict[tuple[Any, str], np.ndarray]:
    """Log odds of the models by data set and regime, seeds averaged."""
    out = {}
    for (dataset, regime), rows in table.groupby(["dataset", "regime"], sort=False):
        means = rows.groupby("model", sort=False)[["accuracy", "n"]].mean()
        out[dataset, str(regime)] = logit(means["accuracy"].to_numpy(), means["n"].to_numpy())
    return out


def bar_places(table: pandas.DataFrame) -> dict[tuple[Any, str], float]:
    """Where on the horizontal axis `bars_by_dataset` draws the bar of each data set and regime.

    Parameters
    ----------
    table : pandas.DataFrame
        As there.

    Returns
    -------
    dict of (data set, regime) to float
    """
    table = checked(table, ("model", "dataset", "accuracy"))
    table = table.assign(regime=table.get("regime", "")).loc[table["accuracy"].notna()]
    regimes = list(dict.fromkeys(map(str, table["regime"])))
    there = {(d, str(r)) for d, r in zip(table["dataset"], table["regime"], strict=True)}
    return _places(there, list(dict.fromkeys(table["dataset"])), regimes)[0]


def _places(
    there: Container[tuple[Any, str]], datasets: Sequence[Any], regimes: Sequence[str]
) -> tuple[dict[tuple[Any, str], float], list[float]]:
    """Places of the bars, and the middle of each data set: only what is there takes room, a whole group that of 1."""
    width, left = 0.8 / len(regimes), -0.5
    places: dict[tuple[Any, str], float] = {}
    centres: list[float] = []
    for dataset in datasets:
        own = [regime for regime in regimes if (dataset, regime) in there]
        centres.append(left + 0.1 + len(own) * width / 2)
        places |= {(dataset, regime): left + 0.1 + (i + 0.5) * width for i, regime in enumerate(own)}
        left += len(own) * width + 0.2
    return places, centres


def _bar_words(ax: Axes, table: pandas.DataFrame, datasets: list[Any], centres: list[float], sizes: list[int]) -> None:
    n = table.dropna(subset="n").groupby("dataset")["n"].first()
    metrics = table.groupby("dataset")["metric"].first().to_dict() if "metric" in table else {}
    others = {d: f"{plain(m).replace('_', ' ')}, " for d, m in metrics.items() if m not in ("", "accuracy")}
    labels = [f"{plain(d, 24)}\n{others.get(d, '')}" + (f"n = {int(n[d]):,}" if d in n.index else "") for d in datasets]
    labels = [label.rstrip(", \n") for label in labels]
    ax.set_xticks(centres, labels, fontsize=8)
    longest = [max(map(len, label.split("\n"))) for label in labels]
    inches = figure_of(ax).get_figwidth() * ax.get_position().width * WIDENED / float(np.ptp(ax.get_xlim()))
    beside = zip(longest, longest[1:], np.diff(centres), strict=False)
    if any((a + b + 2) / 2 * CHARACTER_INCHES > inches * apart for a, b, apart in beside):
        for text in ax.get_xticklabels():
            text.set(rotation=30, ha="right", rotation_mode="anchor")
    low, m = min(sizes), max(sizes)
    many = f"{m}" if low == m else f"{low} to {m}"
    is_one = table["model"].nunique() == 1
    whose = plain(table["model"].iloc[0]) if is_one else f"mean of {many} model{'s' * (m > 1)} ± 1 standard error"
    ax.set_ylabel(f"accuracy (logit scale)\n{whose}")
    quiet(ax)
