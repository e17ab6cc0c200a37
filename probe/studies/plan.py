"""What a study has to do: decided by looking at names and records alone, so that it can be printed before anything is done.

Costs are estimated from what was measured before, in records of the same folder: seconds per image of a network (of the others,
where it has not run yet; then said), seconds of fitting per feature. What nothing is known about is not made up: it is
counted as unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from probe import tables
from probe.files import as_path
from probe.reals import one_of
from probe.studies.cells import Cell, Study
from probe.studies.records import Failure, Labelled, StudyFolder, StudyRecord, failure_lines

STORED_BYTES = 2  # of a number, as features are stored where nothing else is asked for
ON_FEATURES = "probe.studies.probing:"  # regimes of this module share the features of a network and a data set


@dataclass(frozen=True)
class Cost:
    """What one cell is expected to take; None where nothing is known.

    Attributes
    ----------
    images : int or None
        Through the network; none where the features are there or another cell extracts them.
    seconds : float or None
        Of one machine such as the one that was measured.
    bytes : int or None
        Features to be stored.
    is_borrowed : bool
        Whether the seconds per image are those of other networks.
    """

    images: int | None
    seconds: float | None
    bytes: int | None
    is_borrowed: bool = False


@dataclass(frozen=True, eq=False)
class StudyPlan:
    """What of a study is there, and what the rest will take; ``print(plan)`` shows it.

    Attributes
    ----------
    study : Study
    folder : Path
    done : tuple of Cell
        With a record of what is asked, under these or other names. Whether network, images and labels are still those is looked
        at by `run_study`, which loads them.
    missing : tuple of Cell
        The others, failed ones included.
    failed : tuple of Failure
        What could not be computed when it was last tried; it is tried again.
    costs : tuple of Cost
        Of the missing cells.
    """

    study: Study
    folder: Path
    done: tuple[Cell, ...]
    missing: tuple[Cell, ...]
    failed: tuple[Failure, ...]
    costs: tuple[Cost, ...]

    @property
    def is_done(self) -> bool:
        """Whether every cell has a record."""
        return not self.missing

    @property
    def images(self) -> int:
        """Images that must go through networks, of the cells for which that is known."""
        return sum(cost.images or 0 for cost in self.costs)

    @property
    def seconds(self) -> float | None:
        """Expected seconds; None where some are unknown."""
        found = [cost.seconds for cost in self.costs]
        return None if None in found else sum(s for s in found if s is not None)

    @property
    def bytes(self) -> int:
        """Bytes that will be stored, of the cells for which that is known."""
        return sum(cost.bytes or 0 for cost in self.costs)

    @property
    def n_unknown(self) -> int:
        """Missing cells whose seconds are unknown."""
        return sum(cost.seconds is None for cost in self.costs)

    def to_json(self) -> dict[str, object]:
        """The plan as plain values."""
        cells = [
            {"cell": list(cell.names), "images": cost.images, "seconds": cost.seconds, "bytes": cost.bytes}
            for cell, cost in zip(self.missing, self.costs, strict=True)
        ]
        failed = [{"cell": list(f.names), "error": f.sentence} for f in self.failed]
        return {
            "study": self.study.name, "n_cells": len(self.done) + len(self.missing), "n_done": len(self.done),
            "n_missing": len(self.missing), "images": self.images, "seconds": self.seconds, "bytes": self.bytes,
            "n_unknown": self.n_unknown, "missing": cells, "failed": failed,
        }  # fmt: skip

    def __str__(self) -> str:
        return self.text()

    def text(self, most: int = 12) -> str:
        """The plan for people; at most so many of the missing cells are named."""
        study = self.study
        n = len(self.done) + len(self.missing)
        head = (
            f"{study.name}: {len(study.networks)} networks × {len(study.datasets)} data sets, "
            f"{len(study.regimes)} regimes: {n:,} cells, of which {len(self.done):,} are done and "
            f"{len(self.missing):,} missing"
        )
        parts = [head + (f"; {len(self.failed):,} failed when last tried" if self.failed else "")]
        parts.append(self._by_regime())
        if self.missing:
            parts.append(self._totals())
            parts.append("\n".join(f"  {cell}" for cell in self.missing[:most]))
            if len(self.missing) > most:
                parts[-1] += f"\n  and {len(self.missing) - most:,} more"
        parts += failure_lines(self.failed)
        return "\n".join(parts)

    def _by_regime(self) -> str:
        rows = []
        for regime in self.study.regimes:
            costs = [c for cell, c in zip(self.missing, self.costs, strict=True) if cell.regime.name == regime.name]
            n_done = sum(cell.regime.name == regime.name for cell in self.done)
            rows.append(
                [
                    regime.name,
                    f"{n_done + len(costs):,}",
                    f"{n_done:,}",
                    f"{len(costs):,}",
                    _sum(c.images for c in costs),
                    _duration(c.seconds for c in costs),
                    _sum((c.bytes for c in costs), "B"),
                ]
            )
        return tables.text_table(["regime", "cells", "done", "missing", "images", "time", "to store"], rows)

    def _totals(self) -> str:
        images, stored = _sum(c.images for c in self.costs), _sum((c.bytes for c in self.costs), "B")
        text = f"to do: {images} images through networks, {stored} to store, "
        known = sum(c.seconds or 0.0 for c in self.costs)
        text += (
            f"about {words_of(known)}" if self.n_unknown < len(self.costs) else "time unknown: nothing was measured yet"
        )
        if 0 < self.n_unknown < len(self.costs):
            text += f" and {self.n_unknown:,} cells of unknown time"
        if any(c.is_borrowed for c in self.costs):
            text += " (networks that have not run yet: by the seconds per image of the others)"
        return text


def plan_study(study: Study, folder: str | Path) -> StudyPlan:
    """Decide what a study has to do. Loads no network and no image.

    Parameters
    ----------
    study : Study
    folder : str or Path
        Where its results are, or will be.
    """
    one_of(Study, study, "a Study, such as probe.Study.from_toml reads")
    kept = StudyFolder(as_path(folder, "The folder of a study"))
    records, _ = kept.records()
    there = Labelled(records)
    failures = {failure.names: failure for failure in kept.failures()}
    done: list[Cell] = []
    missing: list[Cell] = []
    for cell in study.cells:
        (missing if there.of(cell) is None else done).append(cell)
    failed = tuple(failures[cell.names] for cell in missing if cell.names in failures)
    costs = tuple(_costs(missing, done, _Ledger(records)))
    return StudyPlan(study, kept.path, tuple(done), tuple(missing), failed, costs)


class _Ledger:
    """What was measured, by network, data set and regime."""

    def __init__(self, records: Sequence[StudyRecord]) -> None:
        self.sizes: dict[str, tuple[int, int, int]] = {}
        self.d: dict[str, int] = {}
        self._extracted: dict[str, list[float]] = {}
        self._fitted: dict[str, list[float]] = {}
        self._trained: dict[tuple[str, str], list[float]] = {}
        self._images: dict[str, list[float]] = {}
        for record in records:
            network, dataset, _, _ = record.names
            self.sizes[dataset] = (record.n_train, record.n_val, record.n_test)
            self._read(record, network)

    def _read(self, record: StudyRecord, network: str) -> None:
        cost, function = record.cost, str(record.asked["regime"]["function"])
        images, seconds = cost.get("images", 0), cost.get("seconds", 0.0)
        if function.startswith(ON_FEATURES):
            d = int(record.details.get("d", 0))
            if d:
                self.d[network] = d
                self._fitted.setdefault(function, []).append(cost.get("fit_s", seconds) / max(1, record.n_train * d))
            if images and cost.get("extract_s"):
                self._extracted.setdefault(network, []).append(cost["extract_s"] / images)
        elif images:
            self._trained.setdefault((network, function), []).append(seconds / images)
            self._images.setdefault(record.names[2], []).append(images)

    def per_image_s(self, network: str) -> tuple[float | None, bool]:
        """Seconds of one image through a network, and whether they are those of others."""
        return _own_or_others(self._extracted.get(network), self._extracted.values())

    def per_trained_s(self, network: str, function: str) -> tuple[float | None, bool]:
        """Seconds of one image of a training."""
        others = [found for (_, f), found in self._trained.items() if f == function]
        return _own_or_others(self._trained.get((network, function)), others)

    def fit_s(self, function: str, n: int, d: int) -> float | None:
        """Seconds to fit n rows of d features."""
        found = self._fitted.get(function)
        return None if not found else median(found) * n * d

    def images_of(self, regime: str) -> int | None:
        """Images of a cell of a regime."""
        found = self._images.get(regime)
        return None if not found else round(median(found))


def _own_or_others(own: list[float] | None, others: Iterable[list[float]]) -> tuple[float | None, bool]:
    if own:
        return median(own), False
    every = [value for found in others for value in found]
    return (median(every), True) if every else (None, False)


def _costs(missing: Sequence[Cell], done: Sequence[Cell], ledger: _Ledger) -> Iterable[Cost]:
    on_features = [c for c in done if c.regime.function.startswith(ON_FEATURES)]
    extracted = {(cell.network.name, cell.dataset.name) for cell in on_features}
    for cell in missing:
        where = (cell.network.name, cell.dataset.name)
        if not cell.regime.function.startswith(ON_FEATURES):
            yield _training(cell, ledger)
            continue
        yield _probing(cell, ledger, is_extracted=where in extracted)
        extracted.add(where)


def _sizes(cell: Cell, ledger: _Ledger) -> tuple[int | None, int | None]:
    """Rows of train, and images of all splits."""
    d = cell.dataset
    if d.name in ledger.sizes:
        sizes = ledger.sizes[d.name]
        return sizes[0], sum(sizes)
    return d.n_train, d.n_images


def _probing(cell: Cell, ledger: _Ledger, *, is_extracted: bool) -> Cost:
    n_train, n_images = _sizes(cell, ledger)
    images = 0 if is_extracted else n_images
    d = cell.network.d or ledger.d.get(cell.network.name)
    stored = None if images is None or d is None else images * d * STORED_BYTES
    per_image, is_borrowed = ledger.per_image_s(cell.network.name)
    if images == 0:
        per_image, is_borrowed = 0.0, False
    fit = None if n_train is None or d is None else ledger.fit_s(cell.regime.function, n_train, d)
    known = images is not None and per_image is not None and fit is not None
    seconds = images * per_image + fit if known else None  # type: ignore[operator]
    return Cost(images, seconds, stored, is_borrowed and known)


def _training(cell: Cell, ledger: _Ledger) -> Cost:
    images = cell.regime.images_per_cell or ledger.images_of(cell.regime.name) or _steps(cell)
    per_image, is_borrowed = ledger.per_trained_s(cell.network.name, cell.regime.function)
    seconds = None if images is None or per_image is None else images * per_image
    return Cost(images, seconds, 0, is_borrowed and seconds is not None)


def _steps(cell: Cell) -> int | None:
    """Images of a training whose length is among its options."""
    said = cell.regime.options.get("recipe", {})
    if not isinstance(said, dict) or "batch_size" not in said:
        return None
    if "steps" in said:
        return int(said["steps"]) * int(said["batch_size"])
    n = cell.dataset.n_train
    return int(said["epochs"]) * n if "epochs" in said and n else None


def tables_size(n_bytes: float) -> str:
    """Bytes in words: "1.5 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def words_of(seconds: float) -> str:
    """A duration in words: "3.5 h"."""
    for size, unit in ((86_400.0, "days"), (3_600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _sum(values: Iterable[int | None], unit: str = "") -> str:
    found = list(values)
    if found and all(value is None for value in found):
        return "?"
    total = sum(value or 0 for value in found)
    text = tables_size(total) if unit else f"{total:,}"
    return f"{text} + ?" if None in found else text


def _duration(values: Iterable[float | None]) -> str:
    found = list(values)
    if not found:
        return ""
    if all(value is None for value in found):
        return "?"
    text = words_of(sum(value or 0.0 for value in found))
    return f"{text} + ?" if None in found else text
