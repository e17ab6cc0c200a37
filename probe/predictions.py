"""What a model said about which sample: kept with the ids, so that two models can be compared row by row."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from probe import intervals
from probe.chosen import shown
from probe.errors import BadInput
from probe.files import write_atomically
from probe.intervals import Interval

FORMAT = 1
"""Version of the npz layout; a file of a later one is refused instead of guessed at."""


# What zipfile, zlib and numpy say about damaged archives. RuntimeError: a flipped bit that claims encryption.
_UNREADABLE = (ValueError, EOFError, OSError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predicted and true labels of named samples.

    Attributes
    ----------
    ids : numpy.ndarray of shape (n,), text
        Unique names of the samples: the key by which two models' rows are paired.
    y_true, y_pred : numpy.ndarray of shape (n,), or (n, k) of 0 and 1
        Labels: integers or text.
    classes : tuple of str
        Names of the integer labels 0 … k-1; empty where labels name themselves.
    scores : numpy.ndarray of shape (n, k) or (n, 1), or None
        Decision values, where they were kept.
    name : str
        What to call the model in tables; not compared.

    Raises
    ------
    BadInput
        On lengths that differ, or ids that occur twice.
    """

    ids: np.ndarray
    y_true: np.ndarray
    y_pred: np.ndarray
    classes: tuple[str, ...] = ()
    scores: np.ndarray | None = field(default=None, repr=False)
    name: str = ""

    def __post_init__(self) -> None:
        ids = np.atleast_1d(np.asarray(self.ids).astype(np.str_))
        y_true, y_pred = _labels(self.y_true, "y_true"), _labels(self.y_pred, "y_pred")
        classes: Any = self.classes
        problems = []
        if ids.ndim != 1 or not len(ids):
            problems.append(f"ids must have shape (n,) with n of at least 1 but have shape {ids.shape}")
        if y_true.shape != y_pred.shape or y_true.shape[:1] != ids.shape:
            problems.append(f"{ids.shape[0]} ids, y_true of shape {y_true.shape} and y_pred of shape {y_pred.shape}")
        scores = None if self.scores is None else np.asarray(self.scores)
        if scores is not None and (scores.ndim != 2 or scores.shape[:1] != ids.shape):
            problems.append(f"scores must have shape ({len(ids)}, k) but have shape {scores.shape}")
        names, counts = np.unique(ids, return_counts=True)
        if len(names) < len(ids):
            problems.append(f"{int((counts > 1).sum())} ids occur more than once (first: '{names[counts > 1][0]}')")
        if isinstance(classes, str | bytes) or not isinstance(classes, Iterable):
            problems.append(f"classes must be a list of names but are {shown(classes)}")
        elif classes := tuple(classes):
            n = len(classes)
            problems += [
                f"{name} goes from {labels.min()} to {labels.max()} and there are {n} classes, 0 to {n - 1}"
                for name, labels in (("y_true", y_true), ("y_pred", y_pred))
                if labels.ndim == 1
                and len(labels)
                and labels.dtype.kind in "iu"
                and not 0 <= labels.min() <= labels.max() < n
            ]
        if problems:
            raise BadInput(
                f"These are not predictions: {'; '.join(problems)}. Give one label of each kind per unique id."
            )
        inside = {"ids": ids, "y_true": y_true, "y_pred": y_pred, "scores": scores, "classes": tuple(self.classes)}
        for key, value in inside.items():
            object.__setattr__(self, key, value)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def correct(self) -> np.ndarray:
        """Which rows are right: (n,) bool. Multi-label rows have no one answer and are refused."""
        if self.y_true.ndim != 1:
            raise BadInput(
                f"Rows with {self.y_true.shape[1]} labels each are not simply right or wrong; use probe.metrics.map11, "
                "macro_f1 or roc_auc on y_true and scores, and probe.label_accuracy to compare two models."
            )
        right: np.ndarray = self.y_true == self.y_pred
        return right

    def accuracy(self) -> float:
        """Share of rows that are right."""
        return int(self.correct.sum()) / len(self)

    def interval(self, level: float = 0.95) -> Interval:
        """Wilson's interval for the accuracy: what other samples of the same kind could have shown."""
        return intervals.wilson(int(self.correct.sum()), len(self), level=level)

    def take(self, ids: np.ndarray) -> Predictions:
        """The same predictions in the order of ``ids``, (m,) text, all of which must be among these.

        Raises
        ------
        BadInput
            With the number of ids that are not here.
        """
        wanted = np.asarray(ids).astype(np.str_)
        order = np.argsort(self.ids)
        place = np.clip(np.searchsorted(self.ids[order], wanted), 0, len(self) - 1)
        rows = order[place]
        missing = self.ids[rows] != wanted
        if missing.any():
            raise BadInput(
                f"{int(missing.sum())} of {len(wanted)} ids are not among the {len(self)} predictions"
                f"{_of(self.name)} (first: '{wanted[missing][0]}')."
            )
        scores = None if self.scores is None else self.scores[rows]
        return replace(self, ids=wanted, y_true=self.y_true[rows], y_pred=self.y_pred[rows], scores=scores)

    def label_names(self, labels: np.ndarray) -> np.ndarray:
        """Labels as text: class names for integer labels that have one, the label itself otherwise."""
        if self.classes and labels.dtype.kind in "iu":
            names: np.ndarray = np.asarray(self.classes, dtype=np.str_)[labels]
            return names
        return labels.astype(np.str_)

    def save(self, path: str | Path) -> None:
        """Write to an npz file without pickled objects; a file that is there is replaced at once or not at all."""
        write_atomically(Path(path), self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of the npz file that `save` writes; equal predictions give equal bytes."""
        arrays: dict[str, np.ndarray] = {
            "format": np.array(FORMAT),
            "name": np.array(self.name, dtype=np.str_),
            "classes": np.array(self.classes, dtype=np.str_),
            "ids": self.ids,
            "y_true": self.y_true,
            "y_pred": self.y_pred,
            # Always there, without columns where none were kept: a file that lost an array is told from a whole one.
            "scores": np.zeros((len(self), 0), np.float32) if self.scores is None else self.scores,
        }
        buffer = io.BytesIO()
        # Not np.savez: it stamps the time of day into the file, and equal results should be equal files.
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for key, value in arrays.items():
                content = io.BytesIO()
                np.lib.format.write_array(content, np.ascontiguousarray(value).reshape(value.shape), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{key}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED, 1)
        return buffer.getvalue()

    @classmethod
    def load(cls, path: str | Path) -> Predictions:
        """Read a file that `save` wrote. Nothing in it is executed.

        Raises
        ------
        BadInput
            Where the file is missing, damaged, not of this kind, or of a later format.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise BadInput(f"Predictions '{path}' cannot be read: {error.strerror or error}.") from error
        return cls.from_bytes(content, str(path))

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> Predictions:
        """Read the content of an npz file; ``where`` names it in errors."""
        try:
            file = np.load(io.BytesIO(content), allow_pickle=False)
            if not hasattr(file, "files"):
                raise BadInput(f"'{where}' holds no predictions: it is one array.")
            with file:
                arrays: dict[str, Any] = {key: file[key] for key in file.files}
        except _UNREADABLE as error:
            raise BadInput(f"'{where}' is not a readable npz file of predictions: {error}.") from error
        missing = {"format", "name", "classes", "ids", "y_true", "y_pred", "scores"} - set(arrays)
        if missing:
            raise BadInput(f"'{where}' holds no predictions: it lacks {', '.join(sorted(missing))}.")
        if int(arrays["format"]) > FORMAT:
            raise BadInput(
                f"'{where}' has format {int(arrays['format'])} but this version reads formats up to {FORMAT}; "
                "read it with the newer version that wrote it."
            )
        scores = arrays["scores"] if arrays["scores"].size else None
        classes = tuple(str(c) for c in arrays["classes"])
        return cls(arrays["ids"], arrays["y_true"], arrays["y_pred"], classes, scores, str(arrays["name"]))


def _labels(y: Any, what: str) -> np.ndarray:
    """Labels as numpy integers or text; floats that are whole numbers become integers."""
    host = np.asarray(y.detach().cpu() if hasattr(y, "detach") else y)
    if host.dtype.kind == "O":
        host = host.astype(np.str_)
    if host.dtype.kind == "f" and np.array_equal(host, np.round(host)):
        host = host.astype(np.int64)
    if host.ndim not in (1, 2) or host.dtype.kind not in "biuU":
        raise BadInput(f"{what} must be integers or text of shape (n,) or (n, k) but is {host.dtype} of {host.shape}.")
    return host.astype(np.int64) if host.dtype.kind == "b" else host


def _of(name: str) -> str:
    return f" of '{name}'" if name else ""


def need_predictions(*given: Any) -> None:
    """Refuse what are no predictions.

    Raises
    ------
    BadInput
    """
    for one in given:
        if not isinstance(one, Predictions):
            raise BadInput(
                f"probe.Predictions are compared, not {type(one).__name__}: they know which sample each answer is about. Results "
                "have them (results.predictions(record)); or make them of ids, true and predicted labels."
            )
