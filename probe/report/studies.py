"""What only a study can show: networks against their source task, data sets and regimes side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from probe import plots
from probe.correlation import correlate, what_few_models_show
from probe.errors import ProbeError
from probe.long_tables import complete
from probe.report.figures import Figure
from probe.report.svg import svg_of

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

    from probe.studies.results import StudyResults


def study_overview(found: StudyResults, name: str) -> tuple[list[Figure], list[str]]:
    """Drawings of a whole study, and sentences on what it shows and cannot show.

    Parameters
    ----------
    found : StudyResults
    name : str
        What the drawings are named after in the page.
    """
    figures: list[Figure] = []
    sentences = [f"{len(found.failed):,} cells failed; why stands below."] if found.failed else []
    table = found.table(failed=False)
    if not len(table):
        return figures, sentences

    def add(
        slug: str, words: str, draw: Callable[[], Axes], names: Callable[[float, float], str] | None = None
    ) -> None:
        try:
            figures.append(Figure(svg_of(draw(), f"{name}-{slug}", names), words))
        except ProbeError:  # the table has too little for this drawing: one model, one size, an accuracy of 1 without n
            return

    regimes = list(dict.fromkeys(table["regime"]))
    whole = table[table["per_class"].isna()]
    if len(whole) and (whole["dataset"].nunique() > 1 or whole["regime"].nunique() > 1):
        bars = lambda: plots.bars_by_dataset(whole)  # noqa: E731
        add("bars", "Accuracy by data set and regime; points are networks.", bars, _bar_names(whole))
    for i, regime in enumerate(regimes):
        rows = whole[whole["regime"] == regime]
        n_models = rows["model"].nunique()
        rows = rows[rows["source"].notna()]
        if rows["model"].nunique() < 3:
            continue
        words = _correlations(rows, regime)
        if not words:
            continue
        sentences += words
        unknown = n_models - rows["model"].nunique()
        without = f" Without the {unknown:,} whose accuracy there is not known." if unknown else ""
        draw = lambda rows=rows: plots.source_scatter(complete(rows))  # noqa: E731
        add(
            f"source-{i}", f"{regime}: accuracy against accuracy on the source task.{without}", draw, _model_names(rows)
        )
    few = table[table["per_class"].notna()]
    several = few.groupby("dataset", sort=False)["per_class"].nunique()
    for i, dataset in enumerate(several.index[several > 1]):  # a curve through one size is none
        curves = lambda dataset=dataset: plots.few_shot_curves(few, dataset=dataset)  # noqa: E731
        add(f"few-{i}", f"{dataset}: accuracy against training images per class.", curves)
    histories = found.histories()
    for i, dataset in enumerate(dict.fromkeys(histories["dataset"]) if len(histories) else ()):
        lines = lambda dataset=dataset: plots.convergence_curves(histories, dataset=dataset)  # noqa: E731
        add(f"steps-{i}", f"{dataset}: validation accuracy against steps of training.", lines)
    return figures, sentences


def _correlations(rows: pandas.DataFrame, regime: str) -> list[str]:
    """The average over data sets in words, and what so few networks can show."""
    try:
        average = correlate(complete(rows))[-1]
    except ProbeError:
        return []
    return [f"{regime}: {average.sentence} {what_few_models_show(average.n_models)}"]


def _model_names(rows: pandas.DataFrame) -> Callable[[float, float], str]:
    """The network of a point, by its accuracy on the source task."""
    by_source = {
        float(str(source)): " or ".join(map(str, found["model"].unique())) for source, found in rows.groupby("source")
    }

    def name(x: float, y: float) -> str:
        return by_source[min(by_source, key=lambda source: abs(source - x))]

    return name


def _bar_names(rows: pandas.DataFrame) -> Callable[[float, float], str]:
    """Data set and regime of a point, by its place."""
    places = plots.bar_places(rows)

    def name(x: float, y: float) -> str:
        dataset, regime = min(places, key=lambda bar: abs(places[bar] - x))
        return f"{dataset}, {regime}"

    return name
