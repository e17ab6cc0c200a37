"""Accuracy against the size of the training set and against the length of training (Kornblith et al., Figures 9 and 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from probe.chosen import a_name, one_word
from probe.convergence import SHARE, converged_at
from probe.errors import BadInput
from probe.few_shot import few_shot_means
from probe.long_tables import checked
from probe.plots.style import counts_of, legend, log_axis, logit_axis, new_axes, plain, quiet, styles

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


def few_shot_curves(table: pandas.DataFrame, ax: Axes | None = None, *, dataset: str | None = None) -> Axes:
    """Draw accuracy against training samples per class, one line per regime (and model), with standard errors over subsets.

    Parameters
    ----------
    table : pandas.DataFrame
        See `probe.few_shot`; where there is ``n_train``, total numbers are at the top.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where None.
    dataset : str, optional
        May be left out where the table has one.

    Returns
    -------
    matplotlib.axes.Axes
    """
    means = few_shot_means(one_dataset(checked(table, ("dataset", "per_class", "accuracy")), dataset))
    lines = _lines(means)
    ax = new_axes((6.2, 4.6), ax)
    handles, heights = [], [means["accuracy"].to_numpy()]
    for (_, rows), style in zip(lines, styles(len(lines)), strict=True):
        error = rows["standard_error"].fillna(0.0).to_numpy()
        y = rows["accuracy"].to_numpy()
        ends = _inside([y - error, y + error])
        bars = ax.errorbar(
            rows["per_class"], np.clip(y, *ends), np.abs(ends - np.clip(y, *ends)), color=style.color, marker=style.marker,
            linestyle=style.dashes, linewidth=1.7, markersize=5.5, capsize=2.5, elinewidth=1.0,
        )  # fmt: skip
        handles.append(bars)
        heights.append(ends.ravel())
    ax.set_xscale("log")
    sizes = sorted(means["per_class"].unique())
    ax.set_xticks(sizes[:: 1 + (len(sizes) - 1) // 10], [f"{k:g}" for k in sizes[:: 1 + (len(sizes) - 1) // 10]])
    ax.set_xticks([], minor=True)
    logit_axis(ax, "y", np.concatenate(heights))
    n_subsets = sorted(means["n_subsets"].unique())
    over = f"{n_subsets[0]}" if len(n_subsets) == 1 else f"{n_subsets[0]} to {n_subsets[-1]}"
    bars_are = f"; bars: ± 1 standard error over {over} subsets" if n_subsets[-1] > 1 else "; one subset"
    ax.set_xlabel(f"training samples per class (log scale){bars_are}")
    _totals(ax, means)
    _accuracy_words(ax, means, lines, handles)
    return ax


def convergence_curves(
    history: pandas.DataFrame,
    ax: Axes | None = None,
    *,
    dataset: str | None = None,
    x: Literal["step", "epoch"] = "step",
) -> Axes:
    """Draw accuracy against steps or epochs, one line per regime (and model, and seed), the threshold of convergence marked.

    Parameters
    ----------
    history : pandas.DataFrame
        See `probe.convergence`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where None.
    dataset : str, optional
        May be left out where the table has one.
    x : {"step", "epoch"}

    Returns
    -------
    matplotlib.axes.Axes

    Notes
    -----
    The axis is logarithmic: an evaluation before the first step is not on it.
    """
    one_word(x, ("step", "epoch"), "x")
    table = one_dataset(checked(history, ("dataset", "regime", "step", "accuracy", x)), dataset)
    table = table[table["accuracy"].notna()]
    found = converged_at(table)
    keys = [column for column in ("model", "regime", "seed") if column in table]
    # Seeds of one regime look the same, unless there are several models to tell apart.
    regimes = list(dict.fromkeys(map(str, found["regime"])))
    looks = (
        styles(len(found))
        if "model" in keys
        else [styles(len(regimes))[regimes.index(str(r))] for r in found["regime"]]
    )
    ax = new_axes((6.2, 4.6), ax)
    lines, handles = [], []
    for (_, at), style in zip(found.iterrows(), looks, strict=True):
        rows = table[np.logical_and.reduce([table[key] == at[key] for key in keys])].sort_values(x)
        rows = rows[rows[x] > 0]
        y = _inside(rows["accuracy"])
        look: dict[str, Any] = {"color": style.color, "marker": style.marker}
        handles += ax.plot(rows[x], y, linestyle=style.dashes, linewidth=1.5, markersize=4.5, **look)
        if at[x] > 0:
            outline: dict[str, Any] = {
                "markersize": 10,
                "markeredgecolor": "black",
                "markeredgewidth": 1.4,
                "zorder": 4,
            }
            ax.plot([at[x]], _inside([at["accuracy"]]), **look, **outline)
        lines.append((tuple(at[key] for key in keys), rows))
    ax.set_xscale("log")
    log_axis(ax.xaxis, *ax.get_xlim())
    logit_axis(ax, "y", _inside(table[table[x] > 0]["accuracy"]))
    ax.set_xlabel(f"training {x}s (log scale); outlined: first at {SHARE:.0%} of the best odds".replace("%", " %"))
    _accuracy_words(ax, table, lines, handles)
    return ax


def one_dataset(table: pandas.DataFrame, dataset: str | None) -> pandas.DataFrame:
    """Take the rows of one data set; None where there is only one."""
    there = list(dict.fromkeys(map(str, table["dataset"])))
    dataset = None if dataset is None else a_name(dataset, "dataset")
    if dataset is None and len(there) > 1:
        raise BadInput(f"The table has {len(there)} data sets ({', '.join(there[:4])}): say which one, with dataset=.")
    if dataset is not None and dataset not in there:
        raise BadInput(f"The table has no data set '{dataset}'; there are {', '.join(there[:8])}.")
    return table if dataset is None else table[table["dataset"].astype(str) == dataset]


def _inside(accuracy: Any) -> np.ndarray:
    """Accuracies as a logit axis can show them: its ends, 0 and 1, are infinitely far away."""
    inside: np.ndarray = np.clip(np.asarray(accuracy, dtype=float), 1e-6, 1 - 1e-6)
    return inside


def _lines(means: pandas.DataFrame) -> list[tuple[tuple[Any, ...], pandas.DataFrame]]:
    keys = [column for column in ("model", "regime") if column in means]
    return [(tuple(names), rows) for names, rows in means.groupby(keys, sort=False)] if keys else [((), means)]


def _accuracy_words(ax: Axes, table: pandas.DataFrame, lines: list[Any], handles: list[Any]) -> None:
    """Label, title and legend that both drawings have."""
    metric = str(table["metric"].iloc[0]).replace("_", " ") if "metric" in table else "accuracy"
    size = f", n = {counts_of(table['n'].dropna())}" if "n" in table and table["n"].notna().any() else ""
    ax.set_ylabel(f"{metric} (logit scale{size})")
    ax.set_title(plain(table["dataset"].iloc[0]), fontsize=10)
    quiet(ax)
    if len(lines) > 1:
        # What does not vary needs no name.
        varied = [len({names[i] for names, _ in lines}) > 1 for i in range(len(lines[0][0]))]
        names = [", ".join(str(v) for v, is_varied in zip(key, varied, strict=True) if is_varied) for key, _ in lines]
        legend(ax, handles, names, loc="best", fontsize=8.5, ncols=1 + len(lines) // 10)


def _totals(ax: Axes, means: pandas.DataFrame) -> None:
    """Total numbers of training samples at the top, where they are one multiple of those per class."""
    if "n_train" not in means or means["n_train"].isna().any():
        return
    k = (means["n_train"] / means["per_class"]).to_numpy(dtype=float)
    if np.ptp(k) > 1e-9 * k.max():
        return
    top = ax.secondary_xaxis("top", functions=(lambda x: x * k[0], lambda x: x / k[0]))
    log_axis(top.xaxis, *(k[0] * end for end in ax.get_xlim()))
    top.set_xlabel("training samples", fontsize=9)
