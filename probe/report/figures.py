"""The drawings of a report, from its entries."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from probe import plots
from probe.report.entries import Entry
from probe.report.svg import svg_of
from probe.report.words import Ranked

if TYPE_CHECKING:
    import pandas

MOST_LINES = 5
"""Candidates whose path is drawn: the best on validation data."""

MOST_NETWORKS = 3
"""Networks whose units are drawn, likewise; the table has all."""


class Figure(NamedTuple):
    """A drawing and what it shows.

    Attributes
    ----------
    svg : str
    caption : str
    """

    svg: str
    caption: str


def figures_of(found: Ranked, name: str) -> list[Figure]:
    """Accuracy against depth for each network with several units, and validation score against C.

    Parameters
    ----------
    found : Ranked
    name : str
        What the drawings are named after in the page.
    """
    entries = [entry for group in found.order for entry in group]
    networks = _by_depth(entries)
    many = f" One of the {MOST_NETWORKS} best of {len(networks)} networks." if len(networks) > MOST_NETWORKS else ""
    drawn = []
    for i, (model, rows) in enumerate(list(networks.items())[:MOST_NETWORKS]):
        ax = plots.accuracy_by_depth(depth_table(rows), by="regime")
        drawn.append(
            Figure(svg_of(ax, f"{name}-depth-{i}"), f"{model}: score of every unit, from input to output.{many}")
        )
    if (paths := path_table(found)) is not None:
        ax = plots.accuracy_by_C(paths, by="candidate")
        many = f" of the {MOST_LINES} best of {len(found.order)}" if len(found.order) > MOST_LINES else ""
        drawn.append(
            Figure(
                svg_of(ax, f"{name}-C", _chosen_names(paths)), f"Validation score along the path of penalties{many}."
            )
        )
    return drawn


def depth_table(entries: Sequence[Entry]) -> pandas.DataFrame:
    """The columns that `probe.plots.accuracy_by_depth` reads, and the regime.

    Parameters
    ----------
    entries : sequence of Entry
        Of one task and one network.
    """
    import pandas

    def ends(entry: Entry, kind: str) -> dict[str, float]:
        low, high = getattr(entry, f"{kind}_interval") or (math.nan, math.nan)
        return {f"{kind}_score": getattr(entry, f"{kind}_score"), f"{kind}_low": low, f"{kind}_high": high}

    return pandas.DataFrame(
        [
            {"unit": e.candidate.unit, "depth": e.depth, "d": e.d, "regime": e.candidate.regime, "seed": e.seed}
            | {"backbone": e.candidate.model, "metric": e.task.metric, "train": e.task.train, "test": e.task.test}
            | {"n_val": e.n_val, "n_test": e.n_test, **ends(e, "val"), **ends(e, "test")}
            for e in entries
        ]
    )


def path_table(found: Ranked) -> pandas.DataFrame | None:
    """The columns that `probe.plots.accuracy_by_C` reads, of the best candidates; None where no C was chosen."""
    import pandas

    rows = [
        {"candidate": str(e.candidate), "C": c, "val_score": score, "is_chosen": c == e.C}
        | {"metric": e.task.metric, "n_val": e.n_val}
        for group in found.order[:MOST_LINES]
        for e in group
        for c, score in zip(e.grid, e.val_scores, strict=True)
        if math.isfinite(score)
    ]
    return pandas.DataFrame(rows) if rows else None


def _chosen_names(paths: pandas.DataFrame) -> Callable[[float, float], str]:
    """Whose choice a mark is: that of the chosen penalty and score nearest to it."""
    rows = paths[paths["is_chosen"]]
    columns = (rows["C"].tolist(), rows["val_score"].tolist(), rows["candidate"].tolist())
    chosen: list[tuple[float, float, str]] = list(zip(*columns, strict=True))

    def name(x: float, y: float) -> str:
        near = min(chosen, key=lambda c: (abs(math.log(c[0] / x)), abs(c[1] - y)))
        who = dict.fromkeys(c[2] for c in chosen if c[:2] == near[:2])
        return f"{' and '.join(who)} at C = {near[0]:.2e}"

    return name


def _by_depth(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Entries of each network of which several units were probed, in the order of the entries."""
    by_model: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.candidate.unit and math.isfinite(entry.score):
            by_model.setdefault(entry.candidate.model, []).append(entry)
    return {model: rows for model, rows in by_model.items() if len({e.candidate.unit for e in rows}) > 1}
