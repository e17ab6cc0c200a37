"""Parts of the rows: what one split fits on and what it scores on, with weights checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probe import metrics
from probe.arrays import rectangular
from probe.errors import BadInput
from probe.joining import rows_of
from probe.labels import Loss, numbers
from probe.metrics import PredictionMetric
from probe.path import Path, fit_path
from probe.selection import select
from probe.workers import check_n_jobs

if TYPE_CHECKING:
    from probe.metrics import Metric


@dataclass(frozen=True, eq=False)
class Part:
    """Rows to fit on and rows to score on. Features are gathered when they are used: copies of every split add up."""

    X: Any
    y: np.ndarray
    weight: np.ndarray | None
    train: np.ndarray
    val: np.ndarray
    rule: Metric
    fitter: Callable[..., Path]
    memory: Any = None

    def fit(self, C: np.ndarray, options: dict[str, Any]) -> Path:
        weight = None if self.weight is None else self.weight[self.train]
        return self.fitter(rows_of(self.X, self.train), self.y[self.train], C, sample_weight=weight, **options)

    def scores(self, path: Path) -> np.ndarray:
        return select(path, rows_of(self.X, self.val), self.y[self.val], self.rule, memory=self.memory).scores


@dataclass(frozen=True, eq=False)
class Given:
    """Rows to fit on, and rows of their own to score on."""

    X: Any
    y: Any
    X_val: Any
    y_val: Any
    rule: Metric
    fitter: Callable[..., Path]
    memory: Any = None

    def fit(self, C: np.ndarray, options: dict[str, Any]) -> Path:
        return self.fitter(self.X, self.y, C, **options)

    def scores(self, path: Path) -> np.ndarray:
        return select(path, self.X_val, self.y_val, self.rule, memory=self.memory).scores


def fit_all(parts: Sequence[Part | Given], C: np.ndarray, options: dict[str, Any]) -> list[Path]:
    """The path of every part: in one batch that shares its passes over the features, where that is possible.

    Parameters
    ----------
    parts : sequence of Part or Given
        Those of one call of `parts_of`.
    C : numpy.ndarray of shape (b,)
    options : dict
        Those of the function that fits, and `n_jobs` of `probe.fit_paths`.

    Returns
    -------
    list of Path

    Raises
    ------
    BadInput
        `n_jobs` for parts that are not fitted in one batch.
    """
    options = dict(options)
    n_jobs = options.pop("n_jobs", None)
    check_n_jobs(n_jobs)
    together = [part for part in parts if isinstance(part, Part) and _can_share(part, options)]
    if len(together) < max(2, len(parts)):
        if n_jobs not in (None, 1) and len(parts) > 1:
            raise BadInput(
                f"n_jobs is {n_jobs!r}, but only splits that probe.fit_path fits with backend='auto' are dealt to processes; leave "
                "it out."
            )
        return [part.fit(C, options) for part in parts]
    from probe.batch import fit_paths

    shared = {name: value for name, value in options.items() if name != "backend"}
    first, rows = together[0], [part.train for part in together]
    return list(fit_paths(first.X, first.y, C, rows=rows, sample_weight=first.weight, n_jobs=n_jobs, **shared))


def _can_share(part: Part, options: dict[str, Any]) -> bool:
    """Whether a part can be a problem of `probe.fit_paths`: of our logistic solver."""
    return part.fitter is fit_path and options.get("backend", "auto") == "auto"


def fitter_of(loss: Loss) -> Callable[..., Path]:
    """The function that fits paths of a loss."""
    from probe.ridge import ridge_path
    from probe.svm import svm_path

    return {Loss.LOGISTIC: fit_path, Loss.SQUARED_HINGE: svm_path, Loss.SQUARED_ERROR: ridge_path}[loss]


def parts_of(
    X: Any,
    y: np.ndarray,
    splits: Iterable[tuple[Any, Any]],
    rule: Metric,
    sample_weight: Any,
    val_weight: Any,
    fitter: Callable[..., Path],
    memory: Any = None,
) -> list[Part]:
    """Check splits and weights, and make a part of every split."""
    n = int(X.shape[0])
    if len(y) != n:
        raise BadInput(f"X has {n} rows but y has {len(y)} labels; they must be of the same samples in the same order.")
    k = int(y.shape[1]) if y.ndim == 2 else None
    weight = None if sample_weight is None else _weight(sample_weight, n, "sample_weight", k)
    by_val = None if val_weight is None else _weight(val_weight, n, "val_weight")
    parts = []
    for i, split in enumerate(given_splits(splits)):
        train, val = (_numbers(rows, n) for rows in pair_of(split, i))
        if len(train) == 0 or len(val) == 0:
            raise BadInput(
                f"Split {i} has {len(train)} rows to train on and {len(val)} to validate on; both need at least one."
            )
        val, chosen_rule = _weighted(val, None if by_val is None else by_val[val], rule)
        parts.append(Part(X, y, weight, train, val, chosen_rule, fitter, memory))
    if not parts:
        raise BadInput("There is no split to choose C on; give at least one pair of rows to train and to validate on.")
    return parts


def given_splits(splits: Any) -> Iterable[Any]:
    """Splits that can be gone through; what makes them is none."""
    if not isinstance(splits, Iterable):
        remedy = "pass splitter.split(X, y)" if hasattr(splits, "split") else "give a list of them"
        raise BadInput(f"Splits are pairs (train rows, validation rows), but they are {splits!r}; {remedy}.")
    return splits


def pair_of(split: Any, i: int) -> tuple[Any, Any]:
    """Rows to train on and rows to validate on, of split i."""
    if not hasattr(split, "__len__") or isinstance(split, str) or len(split) != 2:
        held = f"of length {len(split)}" if hasattr(split, "__len__") else repr(split)
        raise BadInput(
            f"Split {i} is a {type(split).__name__} {held}, but must be a pair (train rows, validation rows); one split is a list "
            "of one pair."
        )
    return split[0], split[1]


def _weighted(rows: np.ndarray, weight: np.ndarray | None, rule: Metric) -> tuple[np.ndarray, Metric]:
    """Rows and metric such that the metric counts every row by its weight."""
    if weight is None or (weight == 1).all():
        return rows, rule
    if not (weight > 0).any():
        raise BadInput(f"All {len(rows)} validation rows of a split have weight zero; drop them, or split otherwise.")
    if rule is metrics.accuracy:

        def accuracy(y_true: Any, y_pred: Any) -> float:
            return float(np.average(np.asarray(y_true) == np.asarray(y_pred), weights=weight))

        return rows, PredictionMetric("accuracy", accuracy)
    if (weight != np.round(weight)).any():
        raise BadInput(
            f"The metric {rule.name} takes whole-number weights only (a row twice), but the validation weights hold "
            f"{weight[weight != np.round(weight)][0]!r}; choose C by accuracy, or leave val_weight out."
        )
    return np.repeat(rows, weight.astype(np.int64)), rule


def _weight(given: Any, n: int, name: str, k: int | None = None) -> np.ndarray:
    weight = numbers(given, name)
    if (
        (weight.shape != (n,) and (k is None or weight.shape != (n, k)))
        or not np.isfinite(weight).all()
        or (weight < 0).any()
    ):
        raise BadInput(
            f"{name} must be {n} finite numbers that are not negative, one per row of X; it has shape {weight.shape}."
        )
    return weight


def _numbers(rows: Any, n: int) -> np.ndarray:
    found = rectangular(rows, "a split")
    if found.dtype == bool:
        if found.shape != (n,):
            raise BadInput(f"A mask of rows has shape {found.shape}, but X has {n} rows.")
        return np.flatnonzero(found)
    if found.size and (found.ndim != 1 or found.dtype.kind not in "iu" or found.min() < -n or found.max() >= n):
        raise BadInput(f"A split must hold numbers of rows of X, below {n}; got {found.dtype} of shape {found.shape}.")
    numbers: np.ndarray = found.astype(np.int64) % n
    return numbers
