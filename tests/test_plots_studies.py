"""Drawings of studies: what is on the axes is what the statistics say; names from data are drawn as they are."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_correlation import noisy
from test_long_tables import study
from test_many_models import calibrated, models
from test_training_curves import history, shots

import probe
from probe import plots
from probe.errors import BadInput
from probe.intervals import wilson
from probe.plots import style
from probe.plots.units import rank_shares

HOSTILE = "<script>alert('$x_1$')</script>"


def offsets(ax: Any) -> np.ndarray:
    """Centres of the points of all error bars, (n, 2), those that are filled last."""
    points = [line for line in ax.get_lines() if line.get_marker() == "o" and len(line.get_xdata())]
    return np.concatenate([np.stack([p.get_xdata(), p.get_ydata()], axis=1) for p in points])


# ------------------------------------------------------------------------------------------------- Kornblith, Figure 2


def test_scatter_has_every_model_the_line_and_its_band() -> None:
    table, s, x = noisy()
    ax = plots.source_scatter(table)
    expected = np.stack([1 / (1 + np.exp(-s)), 1 / (1 + np.exp(-x.mean(axis=1)))], axis=1)
    drawn = offsets(ax)
    assert drawn[drawn[:, 0].argsort()] == pytest.approx(expected[expected[:, 0].argsort()])
    (line,) = [found for found in ax.get_lines() if len(found.get_xdata()) == 60]
    c = probe.correlate(table)[-1]
    assert probe.logit(line.get_ydata()) == pytest.approx(c.intercept + c.slope * probe.logit(line.get_xdata()))
    low, high = probe.bootstrap_band(s, x.mean(axis=1), probe.logit(line.get_xdata()))
    band = ax.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((probe.inverse_logit(low.min()), probe.inverse_logit(high.max())))
    assert f"r = {probe.tables.signed(c.r)}" in ax.get_title()
    assert ax.get_xscale() == ax.get_yscale() == "logit"
    assert "16 models" in ax.get_xlabel()


def test_green_points_are_those_that_are_tied() -> None:
    """Filled and listed in the legend, and no others; error bars are Morey's."""
    table, _, _ = noisy(slope=0.3)
    ax = plots.source_scatter(table)
    averages = probe.average_over_datasets(table)
    filled = [
        line for line in ax.get_lines() if line.get_markerfacecolor() == style.STYLES[2].color and len(line.get_xdata())
    ]
    heights = np.concatenate([line.get_ydata() for line in filled])
    assert sorted(heights) == pytest.approx(sorted(averages["accuracy"][averages["is_tied"]]))
    assert ax.get_legend().get_texts()[0].get_text() == "not significantly different from the best"
    ends = np.concatenate([segment[:, 1] for bars in ax.collections[1:] for segment in bars.get_segments()])
    m, e = averages["mean"], averages["standard_error"]
    assert sorted(ends) == pytest.approx(sorted(probe.inverse_logit(np.concatenate([m - e, m + e]))))
    chosen = plots.source_scatter(table, dataset="set1", tied={"net3"})
    assert len(chosen.get_legend().get_texts()) == 1
    assert plots.source_scatter(table, dataset="set1").get_legend() is None


def test_scatter_of_one_data_set_has_the_intervals_of_its_samples() -> None:
    ax = plots.source_scatter(study(), dataset="set1")
    ends = np.concatenate([segment[:, 1] for bars in ax.collections[1:] for segment in bars.get_segments()])
    expected = [wilson(round(p * 200), 200) for p in study()[study()["dataset"] == "set1"]["accuracy"]]
    assert sorted(ends) == pytest.approx(sorted(np.ravel(expected)))
    assert "n = 200" in ax.get_ylabel()
    assert ax.get_title().startswith("set1\n")
    with pytest.raises(BadInput, match="no data set 'set9'; there are set0, set1, set2"):
        plots.source_scatter(study(), dataset="set9")


@pytest.mark.parametrize(("m", "d"), [(1, 1), (1, 3), (2, 1), (2, 2), (3, 1)])
def test_scatter_of_almost_nothing(m: int, d: int, tmp_path: Path) -> None:
    """One model, one data set: points without a line, a title that says so, and a file that can be written."""
    ax = plots.source_scatter(study(m, d))
    assert len(offsets(ax)) == m
    assert ("too few models" in ax.get_title()) == (m < 3)
    plots.save(ax, tmp_path / "few.png")


def test_names_of_models_do_not_cover_each_other() -> None:
    table, _, _ = noisy(m=16)
    ax = plots.source_scatter(table.replace({"model": {f"net{i}": f"Network v{i} of this size" for i in range(16)}}))
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == 16
    covered = [
        (min(a.x1, b.x1) - max(a.x0, b.x0)) * (min(a.y1, b.y1) - max(a.y0, b.y0)) / (a.width * a.height)
        for a, b in itertools.combinations(boxes, 2)
        if a.overlaps(b)
    ]
    assert max([0.0, *covered]) < 0.15


# ------------------------------------------------------------------------------------------------- Kornblith, Figure 6


def test_bars_are_means_of_log_odds_over_models(tmp_path: Path) -> None:
    table = study(regimes=("logistic", "tuned"))
    holed = table.drop(table[(table["dataset"] == "set2") & (table["regime"] == "tuned")].index)
    ax = plots.bars_by_dataset(holed, references={"set0": 0.9, "elsewhere": 0.1})
    tops = {round(p.get_x() + p.get_width() / 2, 1): p.get_y() + p.get_height() for p in ax.patches}
    assert len(tops) == 5
    for (j, k), accuracy in table.groupby([table["dataset"].str[3:].astype(int), "regime"])["accuracy"]:
        if (j, k) != (2, "tuned"):
            place = round(j + (0.2 if k == "tuned" else -0.2), 1)
            assert tops[place] == pytest.approx(probe.inverse_logit(probe.logit(accuracy).mean()))
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["logistic", "tuned", "reference"]
    assert len({p.get_hatch() for p in ax.patches}) == 2
    assert ax.get_xticklabels()[1].get_text() == "set1\nn = 200"
    plots.save(ax, tmp_path / "bars.svg")
    with pytest.raises(BadInput, match="no row has an accuracy"):
        plots.bars_by_dataset(table.assign(accuracy=np.nan))


def test_only_bars_that_are_there_take_room() -> None:
    """Regimes that ran on one data set of many left gaps on all others; and a mean of one model is not a mean of all."""
    table = study(d=3, regimes=("logistic", "tuned", "scratch"))
    alone = table[(table["regime"] == "logistic") | ((table["dataset"] == "set1") & (table["model"] == "net0"))]
    places = plots.bar_places(alone)
    centres = sorted(round(p.get_x() + p.get_width() / 2, 6) for p in plots.bars_by_dataset(alone).patches)
    assert centres == sorted(round(place, 6) for place in places.values())
    width = 0.8 / 3
    assert places["set1", "logistic"] - places["set0", "logistic"] == pytest.approx(width + 0.2)
    assert places["set1", "tuned"] - places["set1", "logistic"] == pytest.approx(width)
    assert "mean of 1 to " in plots.bars_by_dataset(alone).get_ylabel()


def test_a_legend_covers_no_line() -> None:
    """Where lines fill the axes there is no room inside: the legend goes beside them, and the drawing keeps its width."""
    C = np.logspace(-3, 3, 30)
    lines = [{"unit": f"unit {i}", "seed": 0, "C": c, "val_score": 0.2 + 0.1 * i + 0.05 * np.sin(i + np.log(c)), "n_val": 50,
              "metric": "accuracy", "is_chosen": c == C[9]} for i in range(8) for c in C]  # fmt: skip
    ax = plots.accuracy_by_C(pd.DataFrame(lines))
    ax.figure.draw_without_rendering()
    assert ax.get_legend().get_window_extent().x0 > ax.get_window_extent().x1
    few = plots.accuracy_by_C(pd.DataFrame(lines[:30]))
    few.figure.draw_without_rendering()
    assert few.get_window_extent().width == pytest.approx(ax.get_window_extent().width, rel=0.05)


# ------------------------------------------------------------------------------------- few-shot, convergence, unit map


def test_few_shot_curves_have_means_bars_and_totals() -> None:
    table = shots({"logistic": (0, 0.3), "tuned": (-1, 0.8)}, noise=0.2).assign(n_train=lambda t: t["per_class"] * 7)
    ax = plots.few_shot_curves(table)
    means = probe.few_shot_means(table)
    for line, regime in zip([c.lines[0] for c in ax.containers], ("logistic", "tuned"), strict=True):
        rows = means[means["regime"] == regime]
        assert line.get_ydata() == pytest.approx(rows["accuracy"])
    assert "1 standard error over 3 subsets" in ax.get_xlabel()
    assert "n = 1,000" in ax.get_ylabel()
    assert ax.child_axes[0].get_xlabel() == "training samples"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["logistic", "tuned"]
    two = pd.concat([table, table.assign(dataset="dogs")])
    with pytest.raises(BadInput, match=r"2 data sets \(cars, dogs\): say which one"):
        plots.few_shot_curves(two)
    assert plots.few_shot_curves(two, dataset="dogs").get_title() == "dogs"


@pytest.mark.parametrize("x", ["step", "epoch"])
def test_convergence_curves_outline_the_threshold(x: str) -> None:
    table = history({("cars", "tuned"): 3, ("cars", "scratch"): 50})
    ax = plots.convergence_curves(table, x=x)  # type: ignore[arg-type]
    outlined = [line for line in ax.get_lines() if line.get_markersize() == 10]
    assert [line.get_xdata()[0] for line in outlined] == probe.converged_at(table)[x].tolist()
    curves = [line for line in ax.get_lines() if line.get_markersize() != 10]
    assert all(len(line.get_xdata()) == 14 for line in curves)
    assert x in ax.get_xlabel()
    seeds = pd.concat([table.assign(seed=s) for s in range(3)])
    drawn = [line for line in plots.convergence_curves(seeds).get_lines() if line.get_markersize() != 10]
    assert len({line.get_color() for line in drawn}) == 2
    with pytest.raises(BadInput, match="x is 'hour'"):
        plots.convergence_curves(table, x="hour")  # type: ignore[arg-type]


def units_table() -> pd.DataFrame:
    """Two scenarios, three units, two ratios; the rank sums by hand are below."""
    accuracies = {("blur", 1): (0.5, 0.7, 0.6), ("blur", 2): (0.5, 0.8, 0.9), ("noise", 1): (0.3, 0.3, 0.1)}
    return pd.DataFrame(
        [
            {"scenario": s, "ratio": r, "unit": f"u{i}", "depth": i, "test_accuracy": v}
            for (s, r), values in accuracies.items()
            for i, v in enumerate(values)
        ]
    )


def test_unit_map_shades_by_summed_ranks_and_marks_picks() -> None:
    """Blur: ranks 1 3 2 and 1 2 3, of 3; noise: 2.5 2.5 1."""
    shares = rank_shares(units_table(), ["blur", "noise"], ["u0", "u1", "u2"])
    assert shares == pytest.approx(np.array([[0, 0.75, 0.75], [0.75, 0.75, 0]]))
    picks = pd.DataFrame(
        {"scenario": ["blur", "blur", "noise"], "method": ["flex", "flex", "fast"], "unit": ["u1", "u1", "u0"]}
    )
    ax = plots.unit_map(units_table(), picks)
    assert np.asarray(ax.get_images()[0].get_array()) == pytest.approx(shares)
    flex, fast = ax.collections
    assert np.round(flex.get_offsets()).tolist() == [[1, 0]]
    assert np.round(fast.get_offsets()).tolist() == [[0, 1]]
    assert flex.get_sizes()[0] > fast.get_sizes()[0]
    with pytest.raises(BadInput, match=r"1 picks are of no scenario or unit in the table \(first: u9, blur\)"):
        plots.unit_map(units_table(), picks.assign(unit=["u1", "u9", "u0"]))
    with pytest.raises(BadInput, match="lacks the columns depth"):
        plots.unit_map(units_table().drop(columns="depth"))
    with pytest.raises(BadInput, match="no row has a test accuracy"):
        plots.unit_map(units_table().assign(test_accuracy=math.nan))


# -------------------------------------------------------------------------------------- differences, calibration, t-SNE


def test_differences_are_filled_where_holm_says_so() -> None:
    found = probe.compare_all(models(2000, (0.9, 0.8, 0.79)))
    ax = plots.differences(found)
    points = [line for line in ax.get_lines() if line.get_marker() == "o"]
    assert [p.get_xdata()[0] for p in points] == [c.difference for c in found]
    filled = [p.get_markerfacecolor() != "white" for p in points]
    assert filled == [p <= 0.05 for p in probe.holm([c.p_value for c in found])]
    assert filled == [True, True, False]
    intervals = [list(line.get_xdata()) for line in ax.get_lines() if line.get_linewidth() == 1.6]
    assert intervals == [[c.interval.low, c.interval.high] for c in found]
    assert "n = 2,000" in ax.get_xlabel()
    with pytest.raises(BadInput, match="one measure"):
        plots.differences([*found, probe.compare(*models()[:2], measure="mean_per_class")])


def test_reliability_bars_are_the_bins() -> None:
    p = calibrated(300)
    ax = plots.reliability_bars(p)
    bins = probe.reliability(p)
    assert [bar.get_height() for bar in ax.patches] == pytest.approx(bins["accuracy"])
    assert [t.get_text() for t in ax.texts] == [f"{n:,}" for n in bins["n"]]


def test_embedding_is_drawn_class_by_class() -> None:
    rng = np.random.default_rng(0)
    points, y = rng.normal(size=(40, 2)), np.arange(40) % 9
    found = probe.Embedding(points, y, 10.0, 0.5, "scikit-learn", 0)
    ax = plots.embedding_scatter(found, names={0: "owl"})
    for value, drawn in enumerate(ax.collections):
        assert np.asarray(drawn.get_offsets()) == pytest.approx(points[y == value])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["owl", *map(str, range(1, 9))]
    assert "40 samples, 9 classes" in ax.get_xlabel()


# ------------------------------------------------------------------------------------------------------- all of them


def drawings(name: str) -> dict[str, Any]:
    """One of each, everything in them called `name`."""
    named = noisy(m=4, d=2)[0].assign(regime=name).replace({"set0": name, "net0": name})
    shot = shots({name: (0, 0.3), "_tuned": (-1, 0.8)}).assign(dataset=name)
    curves = history({(name, name): 3, (name, "_b"): 50})
    a, b, _ = models(60)
    pair = probe.compare_all([probe.Predictions(a.ids, a.y_true, a.y_pred, name=name), b])
    embedded = probe.Embedding(
        np.random.default_rng(0).normal(size=(6, 2)), np.array([name, "_b"] * 3), 2.0, 0.1, "", 0
    )
    return {
        "scatter": plots.source_scatter(named, dataset=name),
        "average": plots.source_scatter(named),
        "bars": plots.bars_by_dataset(pd.concat([named, named.assign(regime="_other")])),
        "few": plots.few_shot_curves(shot),
        "convergence": plots.convergence_curves(curves),
        "units": plots.unit_map(units_table().replace({"blur": name, "u0": name})),
        "differences": plots.differences(pair),
        "embedding": plots.embedding_scatter(embedded),
    }


def words(ax: Any) -> str:
    legend = ax.get_legend()
    texts = [*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels(), *(legend.get_texts() if legend else []), ax.title]
    return "\n".join(text.get_text() for text in texts)


@pytest.mark.parametrize("name", [HOSTILE, "_$100 & up\nand more", "x" * 200])
def test_names_from_data_are_drawn_as_they_are(name: str, tmp_path: Path) -> None:
    """A tag is text and never markup of the SVG, a dollar sign no formula, an underscore no reason to be left out."""
    start = style.plain(name, 20)[:8]
    for what, ax in drawings(name).items():
        assert start in words(ax), what
        if what in ("few", "convergence", "embedding", "bars"):
            assert len(ax.get_legend().get_texts()) >= 2
        if name == HOSTILE:
            plots.save(ax, tmp_path / f"{what}.svg")
            assert "<script" not in (tmp_path / f"{what}.svg").read_text()


@pytest.mark.parametrize(
    "values", [[0.5], [0.1, 0.9], [0.72, 0.81], [0.9991, 0.9993], [0.001, 0.9999], [0.0, 1.0], [math.nan]]
)
def test_logit_ticks_are_round_and_inside(values: list[float]) -> None:
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    style.logit_axis(ax, "y", np.array(values))
    low, high = ax.get_ylim()
    ticks = ax.get_yticks()
    assert 2 <= len(ticks) <= 30
    assert all(low <= t <= high for t in ticks)
    assert [float(t.get_text()) for t in ax.get_yticklabels()] == pytest.approx(ticks)


def test_looks_of_many_groups_differ() -> None:
    """49 groups before any look comes again."""
    looks = style.styles(49)
    assert len({(s.color, s.marker) for s in looks}) == 49
    assert looks[:7] == list(style.STYLES)


def test_axes_of_the_caller_are_used() -> None:
    for draw, table in (
        (plots.source_scatter, study()),
        (plots.bars_by_dataset, study()),
        (plots.few_shot_curves, shots({"a": (0, 1)})),
        (plots.convergence_curves, history({("cars", "a"): 3})),
        (plots.differences, probe.compare_all(models())),
        (plots.reliability_bars, calibrated(50)),
    ):
        (ax,) = style.new_row(1, (4, 4))
        assert draw(table, ax) is ax  # type: ignore[operator]
