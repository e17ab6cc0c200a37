"""Which classes a model takes for which, and on which images it is most wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from probe.predictions import Predictions


class Pair(NamedTuple):
    """Rows of one class that were taken for another.

    Attributes
    ----------
    true, predicted : str
    n : int
        How many.
    share : float
        Of the rows of the true class.
    """

    true: str
    predicted: str
    n: int
    share: float


class ClassScores(NamedTuple):
    """How one class fares.

    Attributes
    ----------
    name : str
    n : int
        Rows of it.
    recall : float
        Share of its rows that are recognised; NaN where it has none.
    precision : float
        Share of the rows said to be of it that are; NaN where none were.
    """

    name: str
    n: int
    recall: float
    precision: float


class Mistake(NamedTuple):
    """A row that is predicted wrong.

    Attributes
    ----------
    id, true, predicted : str
    margin : float
        Score of the predicted class minus that of the true one: how sure the model is; NaN where no scores were kept.
    """

    id: str
    true: str
    predicted: str
    margin: float


@dataclass(frozen=True, eq=False)
class Confusion:
    """Counts of true against predicted classes.

    Attributes
    ----------
    names : tuple of str
        Of the k classes, in the order of the labels.
    counts : numpy.ndarray of shape (k, k), int64
        Rows are true classes, columns predicted ones.
    """

    names: tuple[str, ...]
    counts: np.ndarray

    @classmethod
    def of(cls, said: Predictions) -> Confusion:
        """Count.

        Parameters
        ----------
        said : Predictions
            With one label per row.
        """
        classes = np.unique(np.concatenate([said.y_true, said.y_pred]))
        if said.classes and classes.dtype.kind in "iu":
            classes = np.arange(len(said.classes))
        counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
        np.add.at(counts, (np.searchsorted(classes, said.y_true), np.searchsorted(classes, said.y_pred)), 1)
        return cls(tuple(said.label_names(classes).tolist()), counts)

    def by_class(self) -> list[ClassScores]:
        """Recall and precision of every class, the least recognised first; classes without rows last."""
        n, said, right = self.counts.sum(1), self.counts.sum(0), np.diag(self.counts)
        with np.errstate(invalid="ignore"):
            recall, precision = right / n, right / said
        order = np.lexsort((-n, np.where(n > 0, recall, 2.0)))
        return [ClassScores(self.names[i], int(n[i]), float(recall[i]), float(precision[i])) for i in order]

    def pairs(self, most: int) -> list[Pair]:
        """The most frequent confusions, at most ``most``; of equals the larger share of its class first."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        n = np.maximum(1, self.counts.sum(1))
        found = [
            Pair(self.names[i], self.names[j], int(wrong[i, j]), float(wrong[i, j] / n[i]))
            for i, j in zip(*np.nonzero(wrong), strict=True)
        ]
        return sorted(found, key=lambda pair: (-pair.n, -pair.share, pair.true, pair.predicted))[:most]


def worst_mistakes(said: Predictions, most: int) -> list[Mistake]:
    """Rows that are predicted wrong, those first of which the model is surest.

    Parameters
    ----------
    said : Predictions
        With one label per row.
    most : int
        How many at most. Without kept scores they are in the order of the rows.
    """
    rows = np.flatnonzero(~said.correct)
    margins = _margins(said)[rows]
    rows, margins = (x[np.argsort(-np.nan_to_num(margins), kind="stable")[:most]] for x in (rows, margins))
    true, predicted = said.label_names(said.y_true[rows]), said.label_names(said.y_pred[rows])
    return [
        Mistake(str(said.ids[row]), str(t), str(p), float(margin))
        for row, t, p, margin in zip(rows, true, predicted, margins, strict=True)
    ]


def _margins(said: Predictions) -> np.ndarray:
    """Score of the predicted minus score of the true class, ``(n,)`` float64; NaN where there are none to compare."""
    scores = said.scores
    nothing = np.full(len(said), np.nan)
    if scores is None or said.y_true.dtype.kind not in "iu":
        return nothing
    if scores.shape[1] == 1:  # two classes: one decision value, positive for the second
        return np.abs(scores[:, 0].astype(np.float64))
    if max(said.y_true.max(), said.y_pred.max()) >= scores.shape[1]:
        return nothing
    rows = np.arange(len(said))
    wide = scores.astype(np.float64)
    found: np.ndarray = wide[rows, said.y_pred] - wide[rows, said.y_true]
    return found
