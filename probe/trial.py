"""Probes of one feature matrix, from features to predictions: fit the paths on train, choose C on val, fit again on both,
read test once.

Several probes (seeds) that differ in their rows only are fitted together and share every pass over the features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from probe import intervals, metrics
from probe.arrays import to_numpy
from probe.classifiers import Classifier
from probe.intervals import Interval
from probe.metrics import Metric
from probe.predictions import Predictions
from probe.sources import concatenated

if TYPE_CHECKING:
    from probe.model import Model
    from probe.path import Path
    from probe.selection import Choice

KEPT_SCORES = 250_000
"""Decision values that are kept with the predictions, at most: 1 MB in float32. Of more, the predicted labels say what counts."""


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of one part of the data.

    Attributes
    ----------
    X : array of shape (n, d)
        numpy or torch; or stored features, which are not loaded.
    y : numpy.ndarray of shape (n,), int64
    ids : numpy.ndarray of shape (n,), text
    how : mapping
        How stored features are fitted: the options `memory` and `device` of `probe.fit_path`.
    """

    X: Any
    y: np.ndarray
    ids: np.ndarray
    how: Mapping[str, Any] = field(default_factory=dict)

    def take(self, rows: np.ndarray) -> Part:
        """The part that some rows (m,) int64 are."""
        from probe.joining import rows_of

        return replace(self, X=rows_of(self.X, rows), y=self.y[rows], ids=self.ids[rows])


@dataclass(frozen=True, eq=False)
class Drawn:
    """What one seed drew from the rows of train.

    Attributes
    ----------
    rows : numpy.ndarray of shape (m,), int64, or None
        To fit on; None is all.
    held : numpy.ndarray of shape (v,), int64, or None
        To choose C on; None where val is a split of its own.
    """

    rows: np.ndarray | None
    held: np.ndarray | None

    def n_rows(self, n: int) -> int:
        """How many rows of n are fitted on."""
        return n if self.rows is None else len(self.rows)


@dataclass(frozen=True)
class Protocol:
    """How a probe is fitted and judged.

    Attributes
    ----------
    C : tuple of float
        Inverse penalties, in the sum form.
    metric : Metric
        Chooses C on val, and is what is reported.
    refit : bool
        Whether the tested model is fitted again on train + val at the chosen C, which is kept: in the sum form the data
        term grows with the rows and the penalty stays.
    tol : float
    classifier : Classifier
    widen : bool
        Whether values beyond the grid are tried while the best one lies at its edge.
    """

    C: tuple[float, ...]
    metric: Metric
    refit: bool
    tol: float
    classifier: Classifier
    widen: bool


def run(
    train: Part,
    val: Part | None,
    test: Part | None,
    drawn: Sequence[Drawn],
    protocol: Protocol,
    classes: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Fit, choose and judge probes that differ in what was drawn from train.

    Parameters
    ----------
    train : Part
        All its rows.
    val : Part or None
        None where every probe holds out rows of train.
    test : Part or None
        Only the chosen models' predictions are computed: nothing is selected on it.
    drawn : sequence of Drawn
        One for each probe.
    protocol : Protocol
    classes : sequence of str
        Names of the labels, for the predictions.

    Returns
    -------
    list of dict
        For each probe the fields of `probe.records.Record` that come out of the fit, and "predictions".
    """
    rows = [one.rows for one in drawn]
    first = protocol.classifier.paths(train.X, train.y, protocol.C, rows, tol=protocol.tol, **train.how)
    vals = [_val(train, val, one) for one in drawn]
    paths, choices, sentences = [], [], []
    for path, part, one in zip(first, vals, drawn, strict=True):
        path, choice, sentence = _chosen(path, train, part, one, protocol)
        paths.append(path)
        choices.append(choice)
        sentences.append(sentence)
    models = [path.model(choice.index) for path, choice in zip(paths, choices, strict=True)]
    is_refitted = test is not None and protocol.refit
    tested = _refitted(train, val, drawn, [c.C for c in choices], protocol) if is_refitted else models
    return [
        {
            **_of_path(path, choice, sentence),
            **_judged(model, part, final, test, protocol.metric, float(choice.scores[choice.index]), classes),
            "is_refitted": is_refitted,
        }
        for path, choice, sentence, part, model, final in zip(
            paths, choices, sentences, vals, models, tested, strict=True
        )
    ]


def _val(train: Part, val: Part | None, drawn: Drawn) -> Part:
    if drawn.held is not None:
        return train.take(drawn.held)
    assert val is not None  # as rows of train are held out otherwise
    return val


def _chosen(path: Path, train: Part, val: Part, drawn: Drawn, protocol: Protocol) -> tuple[Path, Choice, str]:
    """The path, longer where it was widened, the choice on val, and a sentence on what was added."""
    if not protocol.widen:
        from probe.selection import select

        return path, select(path, val.X, val.y, metric=protocol.metric, memory=val.how.get("memory")), ""
    from probe.validation import widened

    fitted = train if drawn.rows is None else train.take(drawn.rows)
    options = {"metric": protocol.metric, "tol": protocol.tol, **train.how}
    found = widened(path, fitted.X, fitted.y, X_val=val.X, y_val=val.y, **options)
    return found.path, found.choice, found.sentence


def _refitted(
    train: Part, val: Part | None, drawn: Sequence[Drawn], C: Sequence[float], protocol: Protocol
) -> list[Model]:
    """Models at the chosen penalties, fitted on train + val."""
    n = len(train.y)
    if val is None:
        X, y = train.X, train.y
        parts = [[part for part in (one.rows, one.held) if part is not None] for one in drawn]
        rows = [np.sort(np.concatenate(both)) for both in parts]
        whole = [len(one) == n for one in rows]
    else:
        X, y = concatenated(train.X, val.X), np.concatenate([train.y, val.y])
        behind = np.arange(n, len(y))
        rows = [behind if one.rows is None else np.concatenate([one.rows, behind]) for one in drawn]
        whole = [one.rows is None for one in drawn]
    chosen = [None if is_whole else one for is_whole, one in zip(whole, rows, strict=True)]
    return protocol.classifier.models(X, y, C, chosen, tol=protocol.tol, **train.how)


def _of_path(path: Path, choice: Choice, sentence: str) -> dict[str, Any]:
    """What a record says of the path."""
    return {
        "C": float(choice.C),
        "index": int(choice.index),
        "at_edge": bool(choice.at_edge),
        "widened": sentence,
        "grid": tuple(float(c) for c in path.C),
        "val_scores": tuple(float(s) for s in choice.scores),
        "val_score": float(choice.scores[choice.index]),
        "k": len(path.classes),
        "statuses": _counted([s.value for s in path.status]),
        "worst_grad_norm": float(np.max(to_numpy(path.grad_norm))),
        "worst_gap": float(np.max(to_numpy(path.gap))),
        "n_iter": int(np.sum(to_numpy(path.n_iter))),
        "passes": int(np.sum(to_numpy(path.passes))),
    }


def _judged(
    model: Model, val: Part, tested: Model, test: Part | None, metric: Metric, val_score: float, classes: Sequence[str]
) -> dict[str, Any]:
    """What a record says of the chosen model on val, and of the tested one on test."""
    of_val = _predicted(model, val, classes)
    val_interval = interval(metric, val_score, of_val)
    if test is None:
        return {
            "status": str(model.status.value),
            "test_score": float("nan"),
            "val_interval": val_interval,
            "test_interval": None,
            "predictions_of": "val",
            "predictions": of_val,
        }
    score, predictions = judge(tested, test, metric, classes)
    return {
        "status": str(tested.status.value),
        "test_score": score,
        "val_interval": val_interval,
        "test_interval": interval(metric, score, predictions),
        "predictions_of": "test",
        "predictions": predictions,
    }


def judge(model: Model, part: Part, metric: Metric, classes: Sequence[str] = ()) -> tuple[float, Predictions]:
    """Score a model on rows, and keep what it said about each.

    Returns
    -------
    score : float
    predictions : Predictions
    """
    scores = model.decision_function(part.X)
    value = metrics.evaluate(metric, part.y, scores, model.classes)
    return value, _predicted(model, part, classes, scores)


def interval(metric: Metric, score: float, predictions: Predictions) -> Interval | None:
    """The 95 % interval of a score over other samples of the same kind, for the metrics that have one here."""
    if predictions.y_true.ndim != 1:
        return None
    if metric in (metrics.accuracy, metrics.top5):
        return intervals.wilson(round(score * len(predictions)), len(predictions))
    if metric == metrics.mean_per_class:
        return intervals.mean_per_class(predictions.y_true, predictions.correct)
    return None


def _predicted(model: Model, part: Part, classes: Sequence[str], scores: Any = None) -> Predictions:
    scores = model.decision_function(part.X) if scores is None else scores
    y_pred = to_numpy(metrics.predicted_labels(scores, model.classes, multi_label=part.y.ndim == 2))
    kept = to_numpy(scores).astype(np.float32) if math.prod(scores.shape) <= KEPT_SCORES else None
    return Predictions(part.ids, part.y, y_pred, tuple(classes), None if kept is None else kept.reshape(len(kept), -1))


def _counted(values: Sequence[str]) -> dict[str, int]:
    return {value: values.count(value) for value in dict.fromkeys(values)}
