"""Labels of any kind become class numbers at the door: binary, multinomial or multi-label, with weights checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import Any

import numpy as np

from probe.arrays import Array, like, namespace, rectangular, to_numpy
from probe.errors import BadInput
from probe.margins import Logistic, SquaredError, SquaredHinge
from probe.objective import BatchedLoss, Softmax


class Task(Enum):
    """What the labels ask for."""

    BINARY = "binary"
    MULTINOMIAL = "multinomial"
    MULTILABEL = "multi-label"


class Loss(StrEnum):
    """What is summed over the rows."""

    LOGISTIC = "logistic"
    SQUARED_HINGE = "squared_hinge"
    SQUARED_ERROR = "squared_error"


_MARGINS: dict[Loss, type[Logistic] | type[SquaredHinge] | type[SquaredError]] = {
    Loss.LOGISTIC: Logistic, Loss.SQUARED_HINGE: SquaredHinge, Loss.SQUARED_ERROR: SquaredError,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels as class numbers.

    Attributes
    ----------
    task : Task
    codes : numpy.ndarray of shape (L, n), int64
        Class numbers; L = 1 but for multi-label data, which has one lane of 0 and 1 per label, and for several classes under a
        loss that takes each against the rest, which have one lane per class.
    classes : numpy.ndarray of shape (k,)
        Sorted labels; for multi-label data 0 … k - 1.
    weights : numpy.ndarray of shape (n,) or (L, n), float64, or None
        (L, n) where lanes have weights of their own.
    kind : Loss
    """

    task: Task
    codes: np.ndarray
    classes: np.ndarray
    weights: np.ndarray | None
    kind: Loss = Loss.LOGISTIC

    @property
    def n_rows_of_coef(self) -> int:
        """Rows of the coefficients: 1 for binary, else the number of classes or labels."""
        return 1 if self.task is Task.BINARY else len(self.classes)

    @property
    def n_lanes(self) -> int:
        """Problems that advance together."""
        return len(self.codes)

    @property
    def k(self) -> int:
        """Rows of the coefficients in one lane: several for softmax only."""
        return len(self.classes) if self._is_softmax else 1

    @property
    def _is_softmax(self) -> bool:
        return self.task is Task.MULTINOMIAL and self.kind is Loss.LOGISTIC

    def against_rest(self, kind: Loss) -> Labels:
        """These labels for a loss of the margin: of several classes each is a lane, against the rest."""
        codes = self.codes
        if self.task is Task.MULTINOMIAL:
            codes = (codes == np.arange(len(self.classes))[:, None]).astype(np.int64)
        return replace(self, codes=codes, kind=kind)

    def loss(self, example: Array, dtype: Any) -> BatchedLoss:
        """The loss of these labels, on the device of `example`, in `dtype`."""
        weights = None if self.weights is None else like(example, np.atleast_2d(self.weights)[:, None, :], dtype)
        if self._is_softmax:
            hot = self.codes[:, None, :] == np.arange(len(self.classes))[None, :, None]
            return Softmax(like(example, hot, dtype), weights)
        return _MARGINS[self.kind](like(example, 2.0 * self.codes[:, None, :] - 1.0, dtype), weights)


def encode(y: Any, n: int, sample_weight: Any = None, class_weight: Any = None) -> Labels:
    """Read labels and weights.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, k)
        Labels of any kind; or 0 and 1 per label, for multi-label data.
    n : int
        Number of rows of X.
    sample_weight : array-like of shape (n,), or (n, k) for multi-label data, optional
        Not negative, not all zero. With (n, k) every label weighs the rows in its own way; 0 leaves an entry out of its fit.
    class_weight : mapping or "balanced", optional
        Weight of each class, multiplied into the sample weights; "balanced" is ``n / (k · count)``.

    Returns
    -------
    Labels

    Raises
    ------
    BadInput
        Wrong length, one class only, missing labels, weights that are negative or not finite.
    """
    if y is None:
        raise BadInput("This needs labels: y should be a 1d array of n labels, but it is None.")
    labels = rectangular(y, "y")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2):
        raise BadInput(
            f"y should be a 1d array (n,) of labels or (n, k) of 0 and 1, got an array of shape {labels.shape} instead."
        )
    if len(labels) != n:
        raise BadInput(
            f"X has {n} rows but y has {len(labels)} labels; they must be of the same samples in the same order."
        )
    weights = weights_of(sample_weight, n, labels.shape[1] if labels.ndim == 2 else None)
    if labels.ndim == 2:
        return _multilabel(labels, weights, class_weight)
    _require_classification(labels)
    try:
        classes, codes = np.unique(labels, return_inverse=True)
    except TypeError as error:
        kinds = ", ".join(sorted({type(label).__name__ for label in labels.tolist()}))
        raise BadInput(
            f"y mixes labels of several kinds ({kinds}), which have no order; make all of them text."
        ) from error
    if len(classes) < 2:
        raise BadInput(
            f"The data has only one class, {classes.tolist()[0]!r}, in all {n} rows (a solver needs samples of at least 2 classes "
            "in the data); check the split and the labels."
        )
    weights = _times_class_weight(weights, class_weight, codes, classes)
    if weights is not None:
        mass = np.bincount(codes, weights=weights, minlength=len(classes))
        if (mass == 0).any():
            empty = ", ".join(repr(c) for c in classes[mass == 0][:5].tolist())
            raise BadInput(
                f"All rows of class {empty} have weight zero, so its intercept has no finite optimum; drop these rows."
            )
    task = Task.BINARY if len(classes) == 2 else Task.MULTINOMIAL
    return Labels(task, codes[None, :].astype(np.int64), classes, weights)


def _require_classification(labels: np.ndarray) -> None:
    missing = np.flatnonzero(_is_missing(labels))
    if len(missing):
        held = "NaN or infinity" if labels.dtype.kind == "f" else repr(labels[missing[0]])
        raise BadInput(
            f"Input y contains {held}: {len(missing)} labels are missing (first at rows {missing[:5].tolist()}); drop these rows."
        )
    if labels.dtype.kind == "f" and not (labels == np.round(labels)).all():
        raise BadInput(
            f"Unknown label type: continuous. y holds values such as {labels[labels != np.round(labels)][0]}; "
            "labels must be classes (integers, text), not measurements."
        )


def _is_missing(labels: np.ndarray) -> np.ndarray:
    """Which labels are none: NaN, infinity, None, no date."""
    if labels.dtype.kind in "fmM":
        missing: np.ndarray = ~np.isfinite(labels)
        return missing
    if labels.dtype.kind != "O":
        return np.zeros(len(labels), dtype=bool)
    return np.array(
        [y is None or (isinstance(y, float | np.floating) and not np.isfinite(y)) for y in labels], dtype=bool
    )


def weights_of(sample_weight: Any, n: int, k: int | None = None) -> np.ndarray | None:
    """Read sample weights.

    Parameters
    ----------
    sample_weight : array-like of shape (n,) or (n, k), number, or None
    n : int
    k : int or None
        Labels of multi-label data, each of which may weigh the rows in its own way.

    Returns
    -------
    numpy.ndarray of shape (n,) or (k, n), float64, or None where all are one

    Raises
    ------
    BadInput
        When they are not n finite numbers, not negative, and not all zero (for any label).
    """
    if sample_weight is None:
        return None
    w = numbers(sample_weight, "sample_weight")
    if w.ndim == 0:
        w = np.full(n, float(w))
    if w.shape != (n,) and (k is None or w.shape != (n, k)):
        wanted = f"({n},)" if k is None else f"({n},) or ({n}, {k})"
        raise BadInput(f"sample_weight has shape {w.shape} but X has {n} rows: sample_weight.shape must be {wanted}.")
    if not np.isfinite(w).all() or (w < 0).any() or not (w > 0).any(axis=0).all():
        of_label = " for any label" if w.ndim == 2 else ""
        raise BadInput(
            f"Sample weights must be finite, not negative, and not all zero{of_label}; they run from {w.min()} to {w.max()}."
        )
    return None if (w == 1).all() else np.ascontiguousarray(w.T)


def numbers(given: Any, name: str) -> np.ndarray:
    """Read numbers of any origin.

    Parameters
    ----------
    given : array-like
    name : str
        What to call them.

    Returns
    -------
    numpy.ndarray, float64

    Raises
    ------
    BadInput
        When they are not numbers.
    """
    try:
        return np.asarray(to_numpy(given) if hasattr(given, "shape") else given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        is_one = isinstance(given, str) or not hasattr(given, "__len__")
        shown = repr(given) if is_one else f"{repr(given)[:60]} ({error})"
        raise BadInput(f"{name} must hold numbers, but it is {shown}.") from error


def _times_class_weight(
    weights: np.ndarray | None, class_weight: Any, codes: np.ndarray, classes: np.ndarray
) -> np.ndarray | None:
    if class_weight is None:
        return weights
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise BadInput(
                f"class_weight is {class_weight!r}; give a mapping from class to weight, 'balanced', or None."
            )
        mass = np.bincount(codes, weights=weights, minlength=len(classes))
        factor = mass.sum() / (len(classes) * np.maximum(mass, 1e-300))
    else:
        if not isinstance(class_weight, Mapping):
            raise BadInput(
                f"class_weight is {class_weight!r}; give a mapping from class to weight, 'balanced', or None."
            )
        unknown = [c for c in class_weight if c not in classes.tolist()]
        if unknown:
            raise BadInput(f"class_weight names classes that y does not have: {unknown}; y has {classes.tolist()}.")
        factor = numbers([class_weight.get(c, 1.0) for c in classes.tolist()], "class_weight")
        if not np.isfinite(factor).all() or (factor < 0).any():
            raise BadInput(f"Class weights must be finite and not negative, got {dict(class_weight)}.")
    total: np.ndarray = factor[codes] * (1.0 if weights is None else weights)
    return total


def _multilabel(labels: np.ndarray, weights: np.ndarray | None, class_weight: Any) -> Labels:
    if class_weight is not None:
        raise BadInput(
            "class_weight has no meaning for multi-label data, where every label is a problem of its own; use sample_weight."
        )
    if labels.shape[1] == 0:
        raise BadInput(f"y has shape {labels.shape}: no label at all; one column per label is needed.")
    values = np.unique(labels)
    if not np.isin(values, [0, 1]).all():
        is_marked = np.isin(values, [0, 1, 2]).all()
        remedy = "pass (n,) class labels for one label per row"
        marked = "where 2 marks difficult entries (VOC), pass y == 1, with sample_weight=(y != 2) to leave these out"
        raise BadInput(
            f"y of shape {labels.shape} is read as multi-label, which holds 0 and 1 only, but it holds {values[:5].tolist()}; "
            f"{f'{marked}; else {remedy}' if is_marked else remedy}."
        )
    counts = np.broadcast_to(True if weights is None else (np.atleast_2d(weights) > 0).T, labels.shape)
    count, all_of = (labels * counts).sum(0), counts.sum(0)
    constant = np.flatnonzero((count == 0) | (count == all_of))
    if len(constant):
        n_counted = int(all_of[constant[0]])
        where = "row" if n_counted == len(labels) else f"one of the {n_counted} rows that have weight"
        raise BadInput(
            f"{len(constant)} of {labels.shape[1]} labels (columns {constant[:5].tolist()}) are the same in every {where}, so "
            "nothing can be learnt about them; drop these columns."
        )
    return Labels(Task.MULTILABEL, labels.T.astype(np.int64), np.arange(labels.shape[1]), weights)


def decode(scores: Array, classes: np.ndarray, task: Task) -> np.ndarray:
    """Decision values → labels, on the host.

    Parameters
    ----------
    scores : array of shape (..., k)
        k = 1 for binary problems.
    classes : numpy.ndarray
    task : Task

    Returns
    -------
    numpy.ndarray of shape (...), or (..., k) of 0 and 1 for multi-label data
        On a tie the first class.
    """
    xp = namespace(scores)
    if task is Task.MULTILABEL:
        return to_numpy(scores > 0).astype(np.int64)
    code = (
        to_numpy(scores[..., 0] > 0).astype(np.int64) if task is Task.BINARY else to_numpy(xp.argmax(scores, axis=-1))
    )
    found: np.ndarray = classes[code]
    return found
