"""Many results at once: what a sweep returns, as a data frame for programs and as text for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median, stdev
from typing import TYPE_CHECKING, Any

from probe import tables
from probe.predictions import Predictions
from probe.reals import one_of
from probe.records import Record, ResultFolder

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Results:
    """What a sweep found.

    Attributes
    ----------
    records : tuple of Record
        By seed and, within a seed, in the order of the units.
    folder : ResultFolder
    n_fitted, n_reused : int
        How many were computed now, and how many were there.
    damaged : tuple of str
        A sentence on each record that was not what had been written; a sweep computes those again.
    """

    records: tuple[Record, ...] = field(repr=False)
    folder: ResultFolder
    n_fitted: int
    n_reused: int
    damaged: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def best(self) -> Record:
        """The record of best validation score; of equals the earliest."""
        return max(self.records, key=lambda r: r.val_score if r.higher_is_better else -r.val_score)

    def predictions(self, record: Record) -> Predictions:
        """The predictions behind a record."""
        return self.folder.predictions(record)

    def table(self) -> pandas.DataFrame:
        """One row per record; see `table`."""
        return table(self.records)

    def paths(self) -> pandas.DataFrame:
        """One row per record and penalty: unit, depth, seed, C, val_score, is_chosen, metric, n_val, train, test."""
        import pandas

        rows = [
            {"unit": r.unit, "depth": r.depth, "seed": r.seed, "C": c, "val_score": score, "is_chosen": i == r.index}
            | {"metric": r.metric, "n_val": r.n_val, "train": r.train, "test": r.test}
            for r in self.records
            for i, (c, score) in enumerate(zip(r.grid, r.val_scores, strict=True))
        ]
        return pandas.DataFrame(rows)

    def text(self) -> str:
        """The table for people; see `text`."""
        return text(self.records)


def table(source: str | Path | Results | Sequence[Record]) -> pandas.DataFrame:
    """Return one row per record.

    Parameters
    ----------
    source : str, Path, Results or sequence of Record
        A folder of results, what `probe.sweep` returned, or some records.

    Returns
    -------
    pandas.DataFrame
        Columns: backbone, unit, depth, d, k, train, val, test (names), seed, per_class, classifier, metric, C, at_edge,
        val_score, val_low, val_high, test_score, test_low, test_high, n_train, n_val, n_test, is_refitted, status,
        n_converged, n_penalties, worst_grad_norm, worst_gap, n_iter, passes, seconds, digest, widened.

    Raises
    ------
    BadInput
        Where there is no such folder.
    """
    records = load_results(source) if isinstance(source, str | Path) else source
    import pandas

    one_of((Results, list, tuple), records, "Results of probe.sweep, or the folder of some")
    return pandas.DataFrame([row(record) for record in records])


def row(record: Record) -> dict[str, Any]:
    """The row of `table` for one record, as plain values; JSON can hold it but for NaN."""
    names = [
        "backbone", "unit", "depth", "d", "k", "train", "val", "test", "seed", "per_class", "classifier", "metric", "C",
        "at_edge",
    ]  # fmt: skip
    out = {name: getattr(record, name) for name in names}
    for split in ("val", "test"):
        ends = getattr(record, f"{split}_interval") or (math.nan, math.nan)
        out |= {f"{split}_score": getattr(record, f"{split}_score"), f"{split}_low": ends[0], f"{split}_high": ends[1]}
    names = ["n_train", "n_val", "n_test", "is_refitted", "status", "n_converged"]
    out |= {name: getattr(record, name) for name in names}
    out["n_penalties"] = len(record.grid)
    names = ["worst_grad_norm", "worst_gap", "n_iter", "passes", "seconds", "digest", "widened"]
    return out | {name: getattr(record, name) for name in names}


def text(records: Sequence[Record]) -> str:
    """Return a table for people: a line per unit, or per unit over its seeds where there are several.

    Parameters
    ----------
    records : sequence of Record

    Returns
    -------
    str
    """
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        data = (record.backbone, record.train, record.val, record.test)
        # What was asked for: a grid that was widened differs from seed to seed.
        grid = tuple(record.key.get("C", record.grid)) if record.key.get("widen") else record.grid
        how = (record.classifier, record.metric, record.per_class, record.is_refitted, grid, record.key.get("tol"))
        groups.setdefault((*data, *how), []).append(record)
    parts = []
    for members in groups.values():
        r = members[0]
        few = f", {r.per_class} per class" if r.per_class else ""
        sizes = f"train {r.train} (n = {r.n_train:,}{few}), val {r.val} ({r.n_val:,})"
        sizes += f", test {r.test} ({r.n_test:,})" if r.test else ""
        what = "" if r.classifier == "logistic" else f"{r.classifier}, "
        parts.append(f"{r.backbone}: {sizes}; {what}metric {r.metric}\n{_group_text(members)}{_absent_text(members)}")
    return "\n\n".join(parts) if parts else "no results"


def _group_text(members: list[Record]) -> str:
    by_unit: dict[str, list[Record]] = {}
    for record in members:
        by_unit.setdefault(record.unit, []).append(record)
    # Two records of one unit and seed differ in something else, such as the weights: those must not be averaged.
    is_mixed = any(len({r.seed for r in found}) < len(found) for found in by_unit.values())
    if is_mixed or all(len(seeds) == 1 for seeds in by_unit.values()):
        header = ["unit", "d", "C", "val", "test", "95 % interval", "converged", "seconds", "record"]
        rows = [_line(record) for found in by_unit.values() for record in found]
    else:
        header = ["unit", "d", "C (median)", "seeds", "val", "sd", "test", "sd", "converged", "seconds"]
        rows = [_seeds_line(seeds) for seeds in by_unit.values()]
    return tables.text_table(header, rows)


def _line(r: Record) -> list[str]:
    ends = r.test_interval if r.test else r.val_interval
    edge = " at the edge" if r.at_edge else " widened" if r.widened else ""
    return [
        r.unit,
        str(r.d),
        tables.penalty(r.C) + edge,
        tables.number(r.val_score),
        tables.number(r.test_score),
        tables.interval(*(ends or (None, None))),
        f"{r.n_converged}/{len(r.grid)}",
        tables.seconds(r.seconds),
        r.digest[:8],
    ]


def _seeds_line(records: list[Record]) -> list[str]:
    val, test = [r.val_score for r in records], [r.test_score for r in records]
    return [
        records[0].unit,
        str(records[0].d),
        tables.penalty(median(r.C for r in records)),
        str(len(records)),
        tables.number(mean(val)),
        tables.number(_spread(val)),
        tables.number(mean(test)),
        tables.number(_spread(test)),
        f"{sum(r.n_converged for r in records)}/{sum(len(r.grid) for r in records)}",
        tables.seconds(sum(r.seconds for r in records)),
    ]


def _spread(scores: list[float]) -> float | None:
    """Standard deviation over seeds; None where there is one only, or no score at all (a sweep without test)."""
    return stdev(scores) if len(scores) > 1 and all(map(math.isfinite, scores)) else None


def _absent_text(members: list[Record]) -> str:
    """A line for each split with classes that train lacks."""
    lines = dict.fromkeys(absent_sentence(split, names) for r in members for split, names in r.absent.items())
    return "".join(f"\n{line}" for line in lines)


def absent_sentence(split: str, names: Sequence[str]) -> str:
    """Say which classes a split has that train lacks, and what follows."""
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    what = "class" if len(names) == 1 else "classes"
    end = "they are never predicted and their rows count as wrong."
    return f"{split} has {len(names)} {what} that train lacks ({shown}): {end}"


def load_results(folder: str | Path) -> Results:
    """Open the results another call or process left in a folder.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    Results
        All whole records; `Results.damaged` says which are not.

    Raises
    ------
    BadInput
        Where there is no such folder.
    """
    kept = ResultFolder(folder)
    records, damaged = kept.records()
    return Results(tuple(records), kept, n_fitted=0, n_reused=len(records), damaged=tuple(damaged))
