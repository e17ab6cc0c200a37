"""Metrics of the order of decision values: top-k accuracy, average precision, ROC AUC."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from probe.arrays import Array
from probe.errors import BadInput
from probe.metrics.inputs import finite_mean, multi_label, ndim, scored_codes, softmax

DIFFICULT = 2
"""Mark, beside 0 and 1 in multi-label truth, of a class that is in the image but annotated as difficult (VOC)."""

Points: TypeAlias = Literal["11", "all", "step"]
Difficult: TypeAlias = Literal["ignored", "negative", "positive"]


def top_k_accuracy(y_true: Array, scores: Array, classes: Array | None = None, *, k: int = 5) -> float:
    """Share of rows whose true class is among the ``k`` columns of largest score.

    Of equal scores the earlier column comes first, so that ``k=1`` is exactly the accuracy of the argmax. A row whose
    class has no column is wrong.

    Parameters
    ----------
    y_true : array of shape (n,)
    scores : array of shape (n, c), floating
    classes : array of shape (c,), optional
    k : int
        At least 1; with k >= c every row whose class has a column is right.

    Returns
    -------
    float
        In [0, 1].
    """
    codes, scores, xp = scored_codes(y_true, scores, classes, f"top{k}")
    known = codes >= 0
    safe = xp.where(known, codes, xp.zeros_like(codes))[:, None]
    own = xp.take_along_axis(scores, safe, axis=1)
    columns = xp.arange(scores.shape[1], dtype=safe.dtype, device=scores.device)[None, :]
    ahead = (scores > own) | ((scores == own) & (columns < safe))
    rank = xp.sum(xp.astype(ahead, xp.int64), axis=1)
    return int(xp.count_nonzero(known & (rank < k))) / int(codes.shape[0])


def roc_auc(y_true: Array, scores: Array, classes: Array | None = None) -> float:
    """Area under the ROC curve: how often a positive row scores above a negative one, ties counting one half.

    Parameters
    ----------
    y_true : array of shape (n,) or (n, k)
    scores : array of shape (n, k), (n, 1) or (n,), floating
    classes : array, optional

    Returns
    -------
    float
        Binary: the area itself. One label of several per row: the mean over classes of one against the rest, on
        softmax probabilities. Multi-label: the mean over columns. Classes without a positive or without a negative row
        are left out.

    Notes
    -----
    Computed exactly from the Mann-Whitney counts. Binary: the metric of Melanoma in Fang et al. (2023).
    """
    if ndim(y_true) == 2:
        relevant, scores, xp = multi_label(y_true, scores, "roc_auc")
        relevant = relevant == 1
    else:
        codes, scores, xp = scored_codes(y_true, scores, classes, "roc_auc")
        if scores.shape[1] == 2:
            scores, relevant = (scores[:, 1] - scores[:, 0])[:, None], (codes == 1)[:, None]
        else:
            scores = softmax(scores, xp)
            relevant = codes[:, None] == xp.arange(scores.shape[1], dtype=codes.dtype, device=scores.device)[None, :]
    areas = [_auc(scores[:, c], relevant[:, c], xp) for c in range(scores.shape[1])]
    return finite_mean(
        [a for a in areas if a is not None], "roc_auc", "no class has both a positive and a negative row."
    )


def mean_average_precision(
    y_true: Array,
    scores: Array,
    classes: Array | None = None,
    *,
    points: Points = "11",
    difficult: Difficult = "ignored",
) -> float:
    """Mean over the classes of average precision, for multi-label data.

    Rows of equal score enter the ranking together, so that the value does not depend on the order of the rows. A class
    without a positive row is left out of the mean.

    Parameters
    ----------
    y_true : array of shape (n, k)
        0 absent, 1 present, 2 (`DIFFICULT`) present but marked difficult.
    scores : array of shape (n, k), floating
    classes : array of shape (k,), optional
        Not needed: the columns of both arrays are the classes.
    points : {"11", "all", "step"}
        "11": mean over the recalls 0, 0.1, … 1 of the best precision at that recall or above (VOC 2007).
        "all": area under the precision curve made monotone (VOC 2010 and later).
        "step": sum of precision × increase of recall, not made monotone (scikit-learn's).
    difficult : {"ignored", "negative", "positive"}
        What a difficult entry counts as. The devkit of VOC 2007 ignores it; other code in use makes it negative, or
        positive.

    Returns
    -------
    float
        In [0, 1].

    Notes
    -----
    Everingham et al. (2010), section 4.2. ``points="11", difficult="ignored"`` is the metric of VOC2007 in Kornblith,
    Shlens and Le (2019), Table 1.
    """
    truth, scores, xp = multi_label(y_true, scores, "mean_average_precision")
    if points not in ("11", "all", "step") or difficult not in ("ignored", "negative", "positive"):
        raise BadInput(
            f"points is {points!r} and difficult is {difficult!r}; points must be '11', 'all' or 'step', "
            "difficult must be 'ignored', 'negative' or 'positive'."
        )
    values = []
    for c in range(scores.shape[1]):
        column, s = truth[:, c], scores[:, c]
        if difficult == "ignored":
            keep = column != DIFFICULT
            column, s = column[keep], s[keep]
        relevant = (column == 1) | (column == DIFFICULT) if difficult == "positive" else column == 1
        value = _average_precision(s, relevant, points, xp)
        if value is not None:
            values.append(value)
    return finite_mean(values, "mean_average_precision", "no class has a positive row.")


def map11(y_true: Array, scores: Array, classes: Array | None = None) -> float:
    """11-point mean average precision, difficult entries ignored: VOC 2007's own. See `mean_average_precision`."""
    return mean_average_precision(y_true, scores, classes)


def map_all(y_true: Array, scores: Array, classes: Array | None = None) -> float:
    """All-point mean average precision, difficult entries ignored: VOC 2010's own. See `mean_average_precision`."""
    return mean_average_precision(y_true, scores, classes, points="all")


def ranked(scores: Array, relevant: Array, xp: Any) -> tuple[Array, Array, Array]:
    """Walk down a ranking, stopping after each group of equal scores.

    Parameters
    ----------
    scores : array of shape (n,)
    relevant : array of shape (n,), bool

    Returns
    -------
    n_taken, n_hits : arrays of shape (m,), int64
        Rows at or above the m-th distinct score, and the relevant ones among them.
    values : array of shape (m,)
        The distinct scores, descending.
    """
    order = xp.argsort(scores, descending=True)
    s = xp.take(scores, order, axis=0)
    hits = xp.cumulative_sum(xp.astype(xp.take(relevant, order, axis=0), xp.int64))
    taken = xp.arange(1, s.shape[0] + 1, dtype=xp.int64, device=scores.device)
    ends = xp.concat([s[1:] != s[:-1], xp.ones(1, dtype=xp.bool, device=scores.device)])
    return taken[ends], hits[ends], s[ends]


def _auc(scores: Array, relevant: Array, xp: Any) -> float | None:
    positive, negative = scores[relevant], xp.sort(scores[~relevant])
    n_pairs = int(positive.shape[0]) * int(negative.shape[0])
    if n_pairs == 0:
        return None
    below = xp.sum(xp.searchsorted(negative, positive, side="left"))
    up_to = xp.sum(xp.searchsorted(negative, positive, side="right"))
    return (int(below) + int(up_to)) / (2 * n_pairs)


def _average_precision(scores: Array, relevant: Array, points: Points, xp: Any) -> float | None:
    n_positive = int(xp.count_nonzero(relevant))
    if n_positive == 0:
        return None
    taken, hits, _ = ranked(scores, relevant, xp)
    precision = xp.astype(hits, xp.float64) / xp.astype(taken, xp.float64)
    if points == "11":
        # 10 · hits >= i · n_positive is "recall >= i / 10" in integers: no rounding decides which points count.
        return sum(float(xp.max(precision[10 * hits >= i * n_positive])) for i in range(11)) / 11
    if points == "all":
        precision = _best_from_here(precision, xp)
    gained = xp.concat([hits[:1], hits[1:] - hits[:-1]])
    return float(xp.sum(precision * xp.astype(gained, xp.float64))) / n_positive


def _best_from_here(x: Array, xp: Any) -> Array:
    """Running maximum from the end, by doubling: the standard has no cumulative maximum."""
    shift = 1
    while shift < x.shape[0]:
        x = xp.concat([xp.maximum(x[:-shift], x[shift:]), x[-shift:]])
        shift *= 2
    return x
