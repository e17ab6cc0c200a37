"""``probe correlate``: over many models, does accuracy on the source task predict accuracy on other data sets?"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe import tables
from probe.cli import output
from probe.errors import BadInput

if TYPE_CHECKING:
    import pandas

PUBLIC_WEIGHTS = (
    "If the networks are public checkpoints: they differ in how they were regularised, which changes the features more than the "
    "accuracy on the source task; Kornblith et al. (2019) found r low and not significant until they trained all networks alike."
)


def add(commands: Any) -> None:
    """Add the subcommand."""
    sub = commands.add_parser(
        "correlate",
        argument_default=argparse.SUPPRESS,
        help="many models, many data sets: correlation with the source task, averages, regimes",
        description="Read a table of results (CSV, one row each: model, dataset, accuracy in [0, 1], and where there are several "
        "regime and seed; n, the test samples; source, the model's accuracy on the source task). For each regime print r, rho and "
        "slopes with their intervals for every data set and their average, the models' averages with error bars, and what so few "
        "models can show; compare regimes by signed-rank tests.",
    )
    sub.add_argument("table", type=Path, metavar="TABLE.csv")
    sub.add_argument(
        "--source", type=Path, metavar="FILE.csv", help="columns model and source, where the table has no source"
    )
    sub.add_argument("--regime", help="one of the table's; else all, one after the other")
    sub.add_argument(
        "--above", type=float, metavar="ACCURACY", help="only models at least this accurate on the source task"
    )
    sub.add_argument("--scale", choices=("logit", "plain"), help="log odds (default), or scores as they are")
    sub.add_argument("--level", type=float, help="of the intervals: 0.95")
    sub.add_argument(
        "--leave-out", choices=("models", "datasets"), help="those that lack results; else they are an error"
    )
    sub.add_argument("--dataset", help="to draw; the average over all where not given")
    sub.add_argument("--plot", type=Path, metavar="FILE", help="draw accuracy against the source task into this file")
    sub.add_argument("--json", dest="as_json", action="store_true", help="print JSON for programs")
    sub.set_defaults(command=command)


def command(
    table: Path,
    *,
    source: Path | None = None,
    regime: str | None = None,
    leave_out: str | None = None,
    dataset: str | None = None,
    plot: Path | None = None,
    as_json: bool = False,
    **options: Any,
) -> int:
    """Correlate, average, compare regimes, draw where asked."""
    from probe import long_tables

    data = long_tables.checked(long_tables.read_table(table), ("model", "dataset", "accuracy"))
    if source is not None:
        data = data.drop(columns="source", errors="ignore").merge(_sources(source), on="model", how="left")
    if leave_out is not None:
        data = long_tables.complete(data, keep="datasets" if leave_out == "models" else "models")
    data = data if "regime" in data else data.assign(regime="")
    regimes = [regime] if regime is not None else list(dict.fromkeys(map(str, data["regime"])))
    parts = [_part(data, name, **options) for name in regimes]
    pairs = [] if regime is not None else [_pair(data, a, b, options) for a, b in itertools.combinations(regimes, 2)]
    if as_json:
        output.print_json({"regimes": [part for part, _ in parts], "pairs": [pair for pair, _ in pairs]})
    else:
        print("\n\n".join(text for _, text in [*parts, *pairs]))
        print(f"\n{_verdict([part for part, _ in parts])}")
    if plot is not None:
        _draw(data, regimes, dataset, plot, **options)
    return 0


def _sources(path: Path) -> pandas.DataFrame:
    from probe import long_tables

    found = long_tables.read_table(path)
    missing = [column for column in ("model", "source") if column not in found]
    if missing:
        raise BadInput(f"'{path}' lacks the columns {', '.join(missing)}; it needs model and source.")
    return found[["model", "source"]].drop_duplicates()


def _part(data: pandas.DataFrame, regime: str, **options: Any) -> tuple[dict[str, Any], str]:
    """What one regime shows: as plain values, and as text."""
    from probe.averages import average_over_datasets
    from probe.correlation import correlate, rank_correlations

    found = correlate(data, regime=regime, **options)
    n_models, level = found[-1].n_models, found[-1].level
    kept = {"above": options.get("above"), "scale": options.get("scale", "logit")}
    rows = data[data["regime"].astype(str) == regime]
    if kept["above"] is not None:
        rows = rows[rows["source"] >= kept["above"]]
    averages = average_over_datasets(rows, scale=kept["scale"], level=level)
    value: dict[str, Any] = {"regime": regime, "n_models": n_models, "n_datasets": len(found) - 1}
    value["correlations"] = [{**asdict(c), "sentence": c.sentence} for c in found]
    value["averages"] = averages.to_dict("records")
    head = f"{_counted(n_models, 'model')} on {_counted(len(found) - 1, 'data set')}" + (
        f", {regime}" if regime else ""
    )
    text = [
        f"{head}; {'log odds' if kept['scale'] == 'logit' else 'scores'}, {100 * level:g} % intervals",
        _correlations_text(found),
    ]
    if len(found) > 2:
        ranks = rank_correlations(data, regime=regime, **kept)
        value["ranks"] = ranks.to_dict("records")
        text += ["Rank correlation with the source task and with the mean of the other data sets:", _ranks_text(ranks)]
    text += [
        "Averages (tied: not significantly different from the best, t-test over data sets):",
        _averages_text(averages),
    ]
    return value, "\n\n".join([*text, found[-1].sentence])


def _correlations_text(found: Any) -> str:
    rows = []
    for c in found:
        row = [c.dataset]
        for name in ("r", "rho"):
            row += [tables.signed(getattr(c, name)), _ends(getattr(c, f"{name}_interval"))]
            row += [tables.p_value(getattr(c, f"{name}_p"))]
        slopes = [
            tables.number(c.slope, 2),
            tables.interval(c.slope_interval.low, c.slope_interval.high, 2),
            tables.number(c.normalised_slope, 2),
        ]
        rows.append([*row, *slopes])
    header = ["data set", "r", "interval", "p", "rho", "interval", "p", "slope", "interval", "points per point"]
    return tables.text_table(header, rows)


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _ends(interval: Any) -> str:
    return "" if interval.low != interval.low else f"[{tables.signed(interval.low)}, {tables.signed(interval.high)}]"


def _ranks_text(ranks: pandas.DataFrame) -> str:
    columns = {"rho_source": tables.signed, "p_source": tables.p_value, "rho_others": tables.signed}
    columns |= {"p_others": tables.p_value, "p_beyond_source": tables.p_value}
    rows = [
        [str(row["dataset"]), *(write(row[name]) for name, write in columns.items())] for _, row in ranks.iterrows()
    ]
    return tables.text_table(["data set", "rho source", "p", "rho others", "p", "p beyond source"], rows)


def _averages_text(averages: pandas.DataFrame) -> str:
    rows = []
    for _, row in averages.iterrows():
        numbers = [
            tables.number(row["accuracy"], 3),
            f"{row['adjusted']:+.3f}",
            tables.number(row["standard_error"], 3),
        ]
        rows.append([str(row["model"]), *numbers, tables.p_value(row["p_value"]), "tied" if row["is_tied"] else ""])
    return tables.text_table(["model", "mean accuracy", "adjusted", "standard error", "p", ""], rows)


def _pair(data: pandas.DataFrame, a: str, b: str, options: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Two regimes, data set by data set."""
    from probe.regimes import compare_regimes

    if options.get("above") is not None:
        data = data[data["source"] >= options["above"]]
    found = compare_regimes(data, a, b, scale=options.get("scale", "logit"))
    better, total = int(found["n_better"].sum()), int((found["n_better"] + found["n_worse"] + found["n_equal"]).sum())
    rows = []
    for _, row in found.iterrows():
        p_values = [tables.p_value(row["p_value"]), tables.p_value(row["p_holm"])]
        counts = f"{row['n_better']} of {row['n_models']}"
        rows.append([str(row["dataset"]), counts, tables.number(row["odds_ratio"], 3), *p_values])
    text = tables.text_table(["data set", "better", "odds ratio", "p", "p (Holm)"], rows)
    head = f"{a} against {b}: better in {better} of {total} pairs of model and data set (Wilcoxon's signed-rank test over models)"
    return {"a": a, "b": b, "datasets": found.to_dict("records")}, f"{head}\n\n{text}"


def _verdict(parts: list[dict[str, Any]]) -> str:
    from probe.few_models import what_few_models_show

    level = parts[0]["correlations"][-1]["level"]
    return f"{what_few_models_show(parts[0]['n_models'], level=level)}\n{PUBLIC_WEIGHTS}"


def _draw(data: pandas.DataFrame, regimes: list[str], dataset: str | None, path: Path, **options: Any) -> None:
    from probe import plots

    if options.get("above") is not None:
        data = data[data["source"] >= options["above"]]
    row = plots.style.new_row(len(regimes), (5.6, 5.0))
    for name, ax in zip(regimes, row, strict=True):
        plots.source_scatter(data, ax, regime=name, dataset=dataset, scale=options.get("scale", "logit"))
        if len(regimes) > 1:
            ax.set_title(f"{plots.style.plain(name)}: {ax.get_title()}", fontsize=10)
    plots.save(row[0], path)
