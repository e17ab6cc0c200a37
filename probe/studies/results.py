"""All results of a study as tables: one long table for the statistics, and what lies behind it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe import tables
from probe.errors import BadInput, MissingExtra
from probe.files import as_path
from probe.predictions import Predictions
from probe.studies.records import Failure, Labelled, StudyFolder, StudyRecord, failure_lines, names_of

if TYPE_CHECKING:
    import pandas

    from probe.studies.cells import Study


@dataclass(frozen=True, eq=False)
class StudyResults:
    """What a study found.

    Attributes
    ----------
    records : tuple of StudyRecord
    failed : tuple of Failure
        Cells that could not be computed.
    folder : StudyFolder
    n_computed : int
        How many were computed now.
    damaged : tuple of str
        A sentence on each record that was not what had been written.
    """

    records: tuple[StudyRecord, ...] = field(repr=False)
    failed: tuple[Failure, ...]
    folder: StudyFolder
    n_computed: int = 0
    damaged: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[StudyRecord]:
        return iter(self.records)

    def predictions(self, record: StudyRecord) -> Predictions:
        """The predictions behind a record."""
        return self.folder.predictions(record)

    def table(self, *, failed: bool = True) -> pandas.DataFrame:
        """One row per result, as `probe.correlate` and the other statistics take it (`probe.long_tables`).

        Columns: model, dataset, regime, seed, accuracy (the metric on test), metric, n (test images), source, val_score, low,
        high (95 % interval of accuracy), unit, C, at_edge, per_class, chosen (text), n_train, n_val, seconds, images, bytes,
        identical, near (images of test in train or val, by content and by features), absent (classes), weights (digest), digest,
        status ("done" or "failed"), error.

        Parameters
        ----------
        failed : bool
            Whether cells that failed are rows, with an accuracy of NaN.
        """
        import pandas

        rows = [_row(record) for record in self.records]
        if failed:
            rows += [_failed_row(failure) for failure in self.failed]
        return pandas.DataFrame(rows, columns=COLUMNS)

    def histories(self) -> pandas.DataFrame:
        """One row per evaluation of a training: model, dataset, regime, seed, step, epoch, accuracy (on val), n (of val), …"""
        import pandas

        rows = [{**_names(r), **dict(row), "n": r.n_val} for r in self.records for row in r.history]
        return pandas.DataFrame(rows, columns=None if rows else [*_NAMES, "step", "epoch", "accuracy", "n"])

    def paths(self) -> pandas.DataFrame:
        """One row per result and penalty: model, dataset, regime, seed, unit, C, val_score, is_chosen."""
        import pandas

        rows = [
            {**_names(r), "unit": r.chosen.get("unit", ""), "C": C, "val_score": score, "is_chosen": r.chosen["C"] == C}
            for r in self.records
            for C, score in zip(r.details.get("grid", ()), r.details.get("val_scores", ()), strict=True)
        ]
        return pandas.DataFrame(rows, columns=[*_NAMES, "unit", "C", "val_score", "is_chosen"])

    def costs(self) -> pandas.DataFrame:
        """One row per result: model, dataset, regime, seed, images, seconds, bytes, and the parts of seconds that are known."""
        import pandas

        return pandas.DataFrame([{**_names(r), **dict(r.cost)} for r in self.records])

    def text(self) -> str:
        """The table for people."""
        if not self.records and not self.failed:
            return "no results"
        header = [
            "network",
            "data set",
            "regime",
            "seed",
            "val",
            "test",
            "95 % interval",
            "chosen",
            "seconds",
            "record",
        ]
        rows = [
            [*map(str, r.names), tables.number(r.val_score), tables.number(r.test_score),
             tables.interval(*(r.test_interval or (None, None))), chosen_text(r.chosen),
             tables.seconds(r.cost.get("seconds", math.nan)), r.digest[:8]]
            for r in self.records
        ]  # fmt: skip
        rows += [[*map(str, f.names), "", "", "", "failed", "", ""] for f in self.failed]
        return "\n".join([tables.text_table(header, rows), *failure_lines(self.failed)])

    def export(self, path: str | Path) -> Path:
        """Write the table as ``.csv`` or ``.parquet``, whole or not at all.

        Raises
        ------
        BadInput
            On another ending, or a path that cannot be written.
        MissingExtra
            Where parquet is asked for and pyarrow is not installed.
        """
        import io

        from probe.files import write_atomically

        path, table = as_path(path, "The file to write"), self.table()
        if path.suffix == ".csv":
            content = table.to_csv(index=False).encode()
        elif path.suffix == ".parquet":
            buffer = io.BytesIO()
            try:
                table.to_parquet(buffer, index=False, engine="pyarrow")
            except ImportError as error:
                raise MissingExtra(
                    f"Parquet needs pyarrow ({error}); install featprobe[hf], or export .csv."
                ) from error
            content = buffer.getvalue()
        else:
            raise BadInput(f"'{path}' is neither .csv nor .parquet; name a file that ends so.")
        write_atomically(path, content)
        return path


_NAMES = ("model", "dataset", "regime", "seed")
COLUMNS = [
    *_NAMES, "accuracy", "metric", "n", "source", "val_score", "low", "high", "unit", "C", "at_edge", "per_class", "chosen",
    "n_train", "n_val", "seconds", "images", "bytes", "identical", "near", "absent", "weights", "digest", "status", "error",
]  # fmt: skip


def load_study(folder: str | Path, study: Study | None = None) -> StudyResults:
    """Open the results of a study that another call or process left in a folder.

    Parameters
    ----------
    folder : str or Path
    study : Study, optional
        Of whose cells the results are, in their order and under their names; None takes every result in the folder, once, under
        the names by which it was last asked for.

    Raises
    ------
    BadInput
        Where there is no such folder.
    """
    kept = StudyFolder(as_path(folder, "The folder of a study"))
    if not any((kept.path / name).is_dir() for name in ("records", "failed")):
        raise BadInput(f"There are no results of a study in '{kept.path}'; `probe study PLAN.toml --run` makes some.")
    records, damaged = kept.records()
    failures = kept.failures()
    if study is not None:
        there = Labelled(records)
        records = [found.asked_by(cell) for cell in study.cells if (found := there.of(cell)) is not None]
        wanted = {cell.names for cell in study.cells}
        failures = [failure for failure in failures if failure.names in wanted]
    named = {names_of(asked) for record in records for asked in record.labels}
    failed = tuple(failure for failure in failures if failure.names not in named)
    return StudyResults(tuple(records), failed, kept, 0, tuple(damaged))


def chosen_text(chosen: Any) -> str:
    """What was chosen, in one line."""
    if "C" in chosen:
        edge = " at the edge" if chosen.get("at_edge") else ""
        return f"C = {tables.penalty(chosen['C'])}{edge}"
    shown = [f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}" for name, value in chosen.items()
             if isinstance(value, str | int | float) and not isinstance(value, bool)]  # fmt: skip
    return ", ".join(shown[:4])


def _names(record: StudyRecord) -> dict[str, Any]:
    return dict(zip(_NAMES, record.names, strict=True))


def _row(r: StudyRecord) -> dict[str, Any]:
    low, high = r.test_interval or (math.nan, math.nan)
    leaks = r.leaks
    in_test = [what for what in leaks.get("identical", {}) if what.startswith("test in ")]
    return {
        **_names(r), "accuracy": r.test_score, "metric": r.metric, "n": r.n_test,
        "source": math.nan if r.source is None else r.source, "val_score": r.val_score, "low": low, "high": high,
        "unit": r.chosen.get("unit", ""), "C": r.chosen.get("C", math.nan), "at_edge": bool(r.chosen.get("at_edge", False)),
        "per_class": r.details.get("per_class") or math.nan, "chosen": chosen_text(r.chosen),
        "n_train": r.n_train, "n_val": r.n_val,
        "seconds": r.cost.get("seconds", math.nan), "images": r.cost.get("images", math.nan),
        "bytes": r.cost.get("bytes", math.nan),
        "identical": sum(leaks["identical"][what] for what in in_test) if leaks else math.nan,
        "near": sum(leaks["near"][w] for w in leaks["near"] if w.startswith("test in ")) if leaks.get("near") else math.nan,
        "absent": sum(map(len, leaks["absent"].values())) if leaks else math.nan,
        "weights": r.key["network"]["weights_digest"], "digest": r.digest, "status": "done", "error": "",
    }  # fmt: skip


def _failed_row(failure: Failure) -> dict[str, Any]:
    names = dict(zip(_NAMES, failure.names, strict=True))
    metric = failure.asked.get("metric", "")
    return {**names, "accuracy": math.nan, "metric": metric, "status": "failed", "error": failure.sentence}
