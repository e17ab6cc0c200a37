"""The penalties that were best, to be published and taken over: C per network and data set, in one JSON file.

::

    {"format": 1, "convention": "minimise C * sum of losses + …", "optima": [
        {"model": …, "weights": …, "dataset": …, "unit": …, "classifier": …, "metric": …, "C": …, "at_edge": …,
         "val_score": …, "n_train": …, "per_class": …, "seed": …}, …]}

C belongs to the sum over rows: with another number of rows it is kept, as on a refit. `probe.conventions.convert` translates it
to what other programs call C, λ or weight decay.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import BadInput
from probe.files import as_path, write_atomically
from probe.reals import several_of
from probe.saving import CONVENTION, read_json_object

if TYPE_CHECKING:
    from probe.records import Record
    from probe.results import Results
    from probe.studies.records import StudyRecord
    from probe.studies.results import StudyResults

FORMAT = 1


@dataclass(frozen=True)
class Optimum:
    """The chosen C of one network, unit and data set.

    Attributes
    ----------
    model, dataset, unit : str
        Of sweeps, the data set is the name of train.
    C : float
        In the convention of this package.
    classifier, metric : str
    at_edge : bool
        Whether it is the first or last of the grid, so that a better one may lie outside.
    val_score : float
    n_train : int
        Rows it was chosen with.
    per_class : int or None
        Of few-shot subsets.
    seed : int
    weights : str
        Digest of the network's weights, where it is known.
    """

    model: str
    dataset: str
    unit: str
    C: float
    classifier: str = "logistic"
    metric: str = "accuracy"
    at_edge: bool = False
    val_score: float = math.nan
    n_train: int = 0
    per_class: int | None = None
    seed: int = 0
    weights: str = ""


@dataclass(frozen=True)
class Optima:
    """Chosen penalties of many networks and data sets.

    Attributes
    ----------
    optima : tuple of Optimum
    convention : str
        What C means, in words.
    """

    optima: tuple[Optimum, ...]
    convention: str = CONVENTION

    def __len__(self) -> int:
        return len(self.optima)

    def find(self, model: str, dataset: str, **which: Any) -> tuple[Optimum, ...]:
        """The optima of a network and a data set, possibly none; ``which`` are further fields and their values."""
        wanted = {"model": model, "dataset": dataset, **which}
        unknown = set(wanted) - {f.name for f in fields(Optimum)}
        if unknown:
            raise BadInput(f"An optimum has no {', '.join(sorted(unknown))}.")
        return tuple(one for one in self.optima if all(getattr(one, name) == value for name, value in wanted.items()))

    def C(self, model: str, dataset: str, **which: Any) -> float:
        """The one C of a network and a data set.

        Parameters
        ----------
        model, dataset : str
        which
            Further fields: ``unit="penultimate"``, ``classifier="svm"``, ``seed=0`` …

        Raises
        ------
        BadInput
            Where there is none, or several differ.
        """
        found = self.find(model, dataset, **which)
        if not found:
            known = [f"{one.model} on {one.dataset}" for one in self.optima]
            near = difflib.get_close_matches(f"{model} on {dataset}", list(dict.fromkeys(known)), 3, 0.4)
            raise BadInput(
                f"No C was published for {model} on {dataset}{_words(which)}; nearest: {'; '.join(near) or 'none'}."
            )
        values = sorted({one.C for one in found})
        if len(values) > 1:
            names = [f.name for f in fields(Optimum) if len({getattr(one, f.name) for one in found}) > 1]
            raise BadInput(
                f"{len(found)} optima of {model} on {dataset} have C from {values[0]:.3g} to {values[-1]:.3g}; they differ in "
                f"{', '.join(names)}: say which one."
            )
        return values[0]


def export_optima(results: Results | StudyResults, path: str | Path) -> Optima:
    """Write the chosen penalties of a sweep or a study.

    Parameters
    ----------
    results : Results or StudyResults
        Of `probe.sweep`, `probe.load_results`, `probe.run_study` or `probe.load_study`. Trainings have no C and are left out.
    path : str or Path

    Returns
    -------
    Optima
        What was written.

    Raises
    ------
    BadInput
        Where nothing has a C, or the file cannot be written.
    """
    found = Optima(tuple(_optima(results)))
    if not len(found):
        raise BadInput("None of these results has a chosen C, so that there is nothing to export.")
    said = {"format": FORMAT, "convention": CONVENTION, "optima": [_plain(asdict(one)) for one in found.optima]}
    write_atomically(as_path(path), (json.dumps(said, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    return found


def import_optima(path: str | Path) -> Optima:
    """Read what `export_optima` wrote.

    Raises
    ------
    BadInput
        Where there is no such file, it says something else, has another convention, or was written by a later version.
    """
    said = read_json_object(as_path(path, "A file of optima"), "a file of optima")
    if not isinstance(said.get("format"), int) or said["format"] > FORMAT:
        raise BadInput(f"'{path}' has format {said.get('format')!r} but this version reads formats up to {FORMAT}.")
    if said.get("convention") != CONVENTION:
        raise BadInput(
            f"'{path}' has C in the convention '{said.get('convention')}', but here it is '{CONVENTION}': translate it with "
            "probe.conventions.convert."
        )
    try:
        found = tuple(Optimum(**{**one, "val_score": float(one.get("val_score", "nan"))}) for one in said["optima"])
        bad = [one for one in found if not (isinstance(one.C, int | float) and 0 < one.C < math.inf)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"'{path}' is not a file of optima: {error!r}.") from error
    if bad:
        raise BadInput(
            f"'{path}' has C = {bad[0].C!r} for {bad[0].model} on {bad[0].dataset}; C is positive and finite."
        )
    return Optima(found)


def _optima(results: Iterable[Any]) -> Iterable[Optimum]:
    from probe.records import Record
    from probe.studies.records import StudyRecord

    kinds: tuple[type[Any], ...] = (Record, StudyRecord)
    for record in several_of(kinds, results, "results, such as probe.load_results and probe.load_study return"):
        if isinstance(record, Record):
            yield _of_sweep(record)
        elif "C" in record.chosen:
            yield _of_study(record)


def _of_sweep(r: Record) -> Optimum:
    found = Optimum(r.backbone, r.train, r.unit, r.C, r.classifier, r.metric, r.at_edge, r.val_score, r.n_train)
    return Optimum(**{**asdict(found), "per_class": r.per_class, "seed": r.seed})


def _of_study(r: StudyRecord) -> Optimum:
    model, dataset, _, seed = r.names
    details, chosen = r.details, r.chosen
    return Optimum(
        model, dataset, str(chosen.get("unit", "penultimate")), float(chosen["C"]),
        str(details.get("classifier", "logistic")), r.metric, bool(chosen.get("at_edge", False)), r.val_score, r.n_train,
        details.get("per_class"), seed, str(r.key["network"]["weights_digest"]),
    )  # fmt: skip


def _plain(said: dict[str, Any]) -> dict[str, Any]:
    return {name: str(v) if isinstance(v, float) and not math.isfinite(v) else v for name, v in said.items()}


def _words(which: dict[str, Any]) -> str:
    return "".join(f", {name} {value}" for name, value in which.items())
