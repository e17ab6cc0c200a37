"""Drawings: what is on the axes is what is in the table; nothing global is touched; nothing overlaps."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from probe import plots
from probe.errors import BadInput


def table(n_units: int = 3, series: tuple[str, ...] = ("blurred", "inverted"), seeds: int = 1) -> pd.DataFrame:
    rows = []
    for (s, name), depth, seed in itertools.product(enumerate(series), range(n_units), range(seeds)):
        score = 0.5 + 0.1 * depth / n_units + 0.2 * s + 0.01 * seed
        rows.append(
            {"unit": f"layer{depth}", "depth": depth, "d": 16 * (depth + 1), "metric": "accuracy", "test": name}
            | {"train": name, "backbone": "net", "seed": seed, "n_test": 451, "n_val": 90, "val_score": score - 0.1}
            | {"test_score": score, "test_low": score - 0.03, "test_high": score + 0.03}
            | {"val_low": score - 0.2, "val_high": score}
        )  # fmt: skip
    return pd.DataFrame(rows)


def lines(ax: Any) -> dict[str, np.ndarray]:
    """Label -> heights, of the lines with markers."""
    return {line.get_label(): np.asarray(line.get_ydata()) for line in ax.get_lines() if line.get_marker() != "None"}


def test_depth_draws_every_unit_of_every_line_with_its_interval() -> None:
    data = table()
    ax = plots.accuracy_by_depth(data)
    drawn = lines(ax)
    assert set(drawn) == {"blurred", "inverted"}
    for name, heights in drawn.items():
        assert heights == pytest.approx(data[data["test"] == name]["test_score"])
    band = ax.collections[0].get_paths()[0].get_extents()
    first = data[data["test"] == "blurred"]
    assert (band.y0, band.y1) == pytest.approx((first["test_low"].min(), first["test_high"].max()))
    assert ax.get_xticklabels()[0].get_text() == "layer0\n16 features"
    assert ax.get_ylabel() == "test accuracy (n = 451)"
    assert "95 % interval" in ax.get_xlabel()


def test_lines_differ_in_colour_marker_and_dashes() -> None:
    """A reader without colours must be able to tell them apart; so must one who sees other colours."""
    for a, b in itertools.combinations(plots.STYLES, 2):
        assert a.color != b.color
        assert a.marker != b.marker
        assert a.dashes != b.dashes


def test_several_seeds_are_drawn_as_mean_and_range() -> None:
    ax = plots.accuracy_by_depth(table(series=("blurred",), seeds=3))
    (heights,) = lines(ax).values()
    assert heights[0] == pytest.approx(0.51)
    band = ax.collections[0].get_paths()[0].get_extents()
    assert band.y0 == pytest.approx(0.50)
    assert "range over seeds" in ax.get_xlabel()
    assert ax.get_legend() is None


def test_networks_with_other_units_share_relative_depth() -> None:
    """Three units and five: both lines run from 0 to 1, and no name is below the axis that belongs to one of them only."""
    small, large = table(3, series=("small",)), table(5, series=("large",))
    both = pd.concat([small, large.assign(unit=large["unit"].str.replace("layer", "block"))])
    ax = plots.accuracy_by_depth(both)
    drawn = {line.get_label(): line.get_xdata().tolist() for line in ax.get_lines()}
    assert drawn == {"small": [0, 0.5, 1], "large": [0, 0.25, 0.5, 0.75, 1]}
    assert ax.get_xlabel().startswith("relative depth")
    assert not any("layer" in t.get_text() for t in ax.get_xticklabels())


def test_a_line_that_lacks_units_keeps_the_names_of_the_others() -> None:
    both = pd.concat([table(4, series=("whole",)), table(4, series=("part",)).iloc[[1, 3]]])
    ax = plots.accuracy_by_depth(both)
    assert {line.get_label(): line.get_xdata().tolist() for line in ax.get_lines()}["part"] == [1, 3]
    assert ax.get_xticklabels()[3].get_text() == "layer3\n64 features"


def test_without_test_scores_validation_is_drawn() -> None:
    data = table(series=("photos",)).assign(test_score=np.nan, test="")
    ax = plots.accuracy_by_depth(data)
    (heights,) = lines(ax).values()
    assert heights == pytest.approx(data["val_score"])
    assert ax.get_ylabel() == "val accuracy (n = 90)"


def test_references_are_lines_with_names_that_do_not_overlap() -> None:
    """Three references within half a per cent: their names are moved apart."""
    data = table(series=("a", "b", "c"))
    references = {"a": 0.300, "b": 0.302, "c": 0.304}
    ax = plots.accuracy_by_depth(data, references=references)
    dotted = [line.get_ydata()[0] for line in ax.get_lines() if line.get_marker() == "None"]
    assert dotted == pytest.approx(list(references.values()))
    ax.figure.draw_without_rendering()
    boxes = [Text.get_window_extent(t) for t in ax.texts]  # of the words, without the line that leads to them
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("n_units", [1, 2, 5, 6, 7, 8, 12, 30, 60, 120])
def test_unit_names_do_not_overlap(n_units: int) -> None:
    """Level names: their boxes are apart. Names turned by 45 degrees: they start a line height apart."""
    ax = plots.accuracy_by_depth(table(n_units, series=("photos",)))
    ax.figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in ax.get_xticklabels()]
    if n_units < 5:
        assert not any(t.get_rotation() for t in ax.get_xticklabels())
    if not ax.get_xticklabels()[0].get_rotation():
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
        return
    line_height = 8 * ax.figure.dpi / 72
    assert all((b.x1 - a.x1) / np.sqrt(2) > line_height for a, b in itertools.pairwise(boxes))


def test_penalty_curve_marks_the_chosen_values() -> None:
    C = 10.0 ** np.arange(-2, 3)
    rows = [
        {"unit": u, "seed": 0, "C": c, "val_score": s / 10, "is_chosen": s == 5, "metric": "accuracy", "n_val": 90}
        for u in ("conv1", "conv2")
        for c, s in zip(C, (3, 4, 5, 4, 3), strict=True)
    ]
    ax = plots.accuracy_by_C(pd.DataFrame(rows))
    assert ax.get_xscale() == "log"
    marked = [line for line in ax.get_lines() if line.get_marker() != "None"]
    assert [(m.get_xdata().tolist(), m.get_ydata().tolist()) for m in marked] == [([1.0], [0.5])] * 2
    assert ax.get_ylabel() == "validation accuracy (n = 90)"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["conv1", "conv2"]


def test_axes_of_the_caller_are_used_and_returned() -> None:
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert plots.accuracy_by_depth(table(), ax) is ax


def test_save_and_caption(tmp_path: Path) -> None:
    ax = plots.accuracy_by_depth(table())
    height = ax.figure.get_figheight()
    plots.caption(ax, ["one sentence " * 20, "another"])
    assert ax.figure.get_figheight() > height
    for ending, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        plots.save(ax, tmp_path / "new" / f"figure.{ending}")
        assert (tmp_path / "new" / f"figure.{ending}").read_bytes().startswith(magic)
    with pytest.raises(BadInput, match="cannot be drawn"):
        plots.save(ax, tmp_path / "figure.doc")
    with pytest.raises(BadInput, match="no rows"):
        plots.accuracy_by_depth(table().iloc[:0])
    with pytest.raises(BadInput, match="no rows"):
        plots.accuracy_by_C(pd.DataFrame())


def test_nothing_global_is_touched(tmp_path: Path) -> None:
    """pyplot is not imported, and no setting or current figure changes."""
    code = """
import sys, matplotlib
sys.path.insert(0, sys.argv[1])
before = matplotlib.rcParams.copy()
import test_plots
from probe import plots
plots.accuracy_by_depth(test_plots.table()).figure.savefig(sys.argv[2])
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "figure.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5, 0.5], [0.0, 1.0], [0.98, 0.99, 1.0], [0.0, 0.01, 0.9]])
def test_spread_keeps_order_and_distance(values: list[float]) -> None:
    placed = plots.spread(values, gap=0.1, low=0.0, high=1.0)
    assert all(b - a >= 0.1 - 1e-12 for a, b in itertools.pairwise(placed))
    assert min(placed) >= -1e-12
    assert max(placed) <= 1.0
    if values == [0.0, 1.0]:
        assert placed == values
