"""The linear classifiers that a sweep can fit, by the names that are typed on the command line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from probe.errors import BadInput
from probe.grids import C_GRID, SVM_GRID
from probe.metrics.ranking import DIFFICULT

if TYPE_CHECKING:
    from probe.model import Model
    from probe.path import Path


@dataclass(frozen=True)
class Classifier:
    """What is fitted, on which form of the features, and along which grid where none is named.

    Attributes
    ----------
    name : str
    loss : str
        What is summed over the rows: the value of a `probe.Loss`.
    normalizes : bool
        Whether rows are divided by their length first, see `probe.l2_normalized`.
    grid : numpy.ndarray of shape (b,), float64
    """

    name: str
    loss: str
    normalizes: bool
    grid: np.ndarray = field(repr=False, compare=False)

    def features(self, X: Any) -> Any:
        """The form of features (n, d) that this classifier is fitted on; those of a store stay there."""
        from probe.sources import is_stored
        from probe.svm import Normalized, l2_normalized

        if not self.normalizes:
            return X
        return Normalized(X) if is_stored(X) else l2_normalized(X)

    def paths(
        self, X: Any, y: np.ndarray, C: Sequence[float], rows: Sequence[np.ndarray | None], **options: Any
    ) -> list[Path]:
        """Fit a path on each of several subsets of the rows; None is all of them.

        Parameters
        ----------
        X : array of shape (n, d), or stored features
        y : numpy.ndarray of shape (n,) or (n, k)
            Multi-label entries that are marked difficult (2) are left out of the fit of their label.
        C : sequence of float
        rows : sequence of (m,) int64 or None
        **options
            Those of the function that fits: tol, memory.

        Returns
        -------
        list of Path
        """
        y, weight = _without_difficult(y)
        if all(one is None for one in rows):
            return [self._alone(X, y, C, None, weight, options)] * len(rows)
        if self.loss != "logistic" or (len(rows) == 1 and "memory" not in options):
            return [self._alone(X, y, C, one, weight, options) for one in rows]
        from probe.batch import fit_paths

        every = np.arange(len(y))
        subsets = [every if one is None else one for one in rows]
        return list(fit_paths(X, y, C, rows=subsets, sample_weight=weight, **options))

    def models(
        self, X: Any, y: np.ndarray, C: Sequence[float], rows: Sequence[np.ndarray | None], **options: Any
    ) -> list[Model]:
        """Fit one model on each of several subsets of the rows, each at its own C; see `paths`."""
        found: dict[int, Model] = {}
        if all(one is None for one in rows):
            values = sorted(set(C))
            path = self.paths(X, y, values, [None], **options)[0]
            return [path.model(values.index(c)) for c in C]
        for value in sorted(set(C)):
            mine = [i for i, c in enumerate(C) if c == value]
            paths = self.paths(X, y, [value], [rows[i] for i in mine], **options)
            found |= {i: path.model(0) for i, path in zip(mine, paths, strict=True)}
        return [found[i] for i in range(len(rows))]

    def _alone(
        self,
        X: Any,
        y: np.ndarray,
        C: Sequence[float],
        rows: np.ndarray | None,
        weight: np.ndarray | None,
        options: dict[str, Any],
    ) -> Path:
        from probe.joining import rows_of
        from probe.labels import Loss
        from probe.parts import fitter_of

        fit = fitter_of(Loss(self.loss))
        if rows is not None:
            X, y, weight = rows_of(X, rows), y[rows], None if weight is None else weight[rows]
        return fit(X, y, C, sample_weight=weight, **options)


def _without_difficult(y: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Multi-label marks as 0 and 1, and weights that leave out the entries that are neither; None where all are."""
    if y.ndim != 2 or not (y == DIFFICULT).any():
        return y, None
    return (y == 1).astype(np.int64), (y != DIFFICULT).astype(np.float64)


LOGISTIC = Classifier("logistic", "logistic", False, C_GRID)
SVM = Classifier("svm", "squared_hinge", True, SVM_GRID)
RIDGE = Classifier("ridge", "squared_error", False, C_GRID)

CLASSIFIERS: Mapping[str, Classifier] = MappingProxyType({c.name: c for c in (LOGISTIC, SVM, RIDGE)})
"""Logistic regression; linear support vector machines as Kornblith, Shlens and Le (2019, Supp. G): squared hinge, rows of length
one, 26 values of C; ridge classification, in closed form, for screening."""


def named_classifier(name: str) -> Classifier:
    """Find a classifier by its name.

    Raises
    ------
    BadInput
        With the known names.
    """
    if name in CLASSIFIERS:
        return CLASSIFIERS[name]
    near = difflib.get_close_matches(str(name), CLASSIFIERS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(map(repr, CLASSIFIERS))}."
    raise BadInput(f"There is no classifier named {name!r}; {hint}")
