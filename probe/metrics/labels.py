"""Metrics of predicted labels: accuracy, mean per class, quadratic weighted kappa, macro F1."""

from __future__ import annotations

from probe.arrays import Array, namespace
from probe.errors import BadInput
from probe.metrics.inputs import histogram, label_pair, single_label


def accuracy(y_true: Array, y_pred: Array) -> float:
    """Share of rows whose predicted label is the true one.

    Parameters
    ----------
    y_true, y_pred : arrays of shape (n,)
        Labels of any kind, numpy or torch.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    BadInput
        On shapes that differ, empty or multi-label arrays.
    """
    y_true, y_pred, xp = single_label(y_true, y_pred, "accuracy")
    return int(xp.count_nonzero(y_true == y_pred)) / int(y_true.shape[0])


def mean_per_class(y_true: Array, y_pred: Array) -> float:
    """Mean over the classes of the share of their rows that is predicted right (macro recall, balanced accuracy).

    A class that does not occur in ``y_true`` has no recall and is left out of the mean, whatever is predicted; so the
    value over a subset that lacks a class is a mean over fewer classes.

    Parameters
    ----------
    y_true, y_pred : arrays of shape (n,)

    Returns
    -------
    float
        In [0, 1].

    Notes
    -----
    The metric of Aircraft, Pets, Caltech-101 and Flowers in Kornblith, Shlens and Le (2019), Table 1.
    """
    y_true, y_pred, xp = single_label(y_true, y_pred, "mean_per_class")
    values, codes = xp.unique_inverse(y_true)
    k = int(values.shape[0])
    n_rows = histogram(codes, k, xp)
    n_right = histogram(codes[y_true == y_pred], k, xp)
    return float(xp.mean(xp.astype(n_right, xp.float64) / xp.astype(n_rows, xp.float64)))


def quadratic_kappa(y_true: Array, y_pred: Array) -> float:
    """Cohen's kappa with quadratic weights, for ordered grades.

    Parameters
    ----------
    y_true, y_pred : arrays of shape (n,)
        Grades: integers (or other numbers) whose differences mean something. The value, not the rank among those
        present, is the grade.

    Returns
    -------
    float
        At most 1; 0 is what independent predictions with the same margins would reach.

    Raises
    ------
    BadInput
        On labels that are not numbers, or where both arrays hold one and the same grade only (0 / 0).

    Notes
    -----
    With weights (i - j)^2 the sum over the confusion matrix collapses:
    kappa = 1 - E[(a - b)^2] / (E[a^2] + E[b^2] - 2 E[a] E[b]). The metric of APTOS 2019 in Fang et al. (2023).
    """
    y_true, y_pred, xp = single_label(y_true, y_pred, "quadratic_kappa")
    if not hasattr(xp, "isdtype") or not _numeric(y_true) or not _numeric(y_pred):
        raise BadInput(
            f"quadratic_kappa needs grades that are numbers but y_true is {y_true.dtype} and y_pred is {y_pred.dtype}; "
            "give the grades as integers in their order."
        )
    a, b = xp.astype(y_true, xp.float64), xp.astype(y_pred, xp.float64)
    by_chance = float(xp.mean(a * a)) + float(xp.mean(b * b)) - 2.0 * float(xp.mean(a)) * float(xp.mean(b))
    constant = bool(xp.all(a == a[0])) and bool(xp.all(b == a[0]))
    if constant:
        raise BadInput(f"quadratic_kappa is undefined: y_true and y_pred hold the single grade {float(a[0]):g}.")
    return 1.0 - float(xp.mean((a - b) ** 2)) / by_chance


def macro_f1(y_true: Array, y_pred: Array) -> float:
    """Mean over the classes of F1 = 2 TP / (true + predicted).

    Parameters
    ----------
    y_true, y_pred : arrays of shape (n,), or (n, k) of 0 and 1
        With one label per row the classes are those in either array; with many, the columns, and a column without a
        true or predicted row counts as 0, as in scikit-learn's ``zero_division=0``.

    Returns
    -------
    float
        In [0, 1].
    """
    y_true, y_pred, xp = label_pair(y_true, y_pred)
    if y_true.ndim == 2:
        hits = xp.sum(xp.astype((y_true == 1) & (y_pred == 1), xp.int64), axis=0)
        total = xp.sum(xp.astype(y_true == 1, xp.int64), axis=0) + xp.sum(xp.astype(y_pred == 1, xp.int64), axis=0)
    else:
        n = int(y_true.shape[0])
        values, codes = xp.unique_inverse(xp.concat([y_true, y_pred]))
        k = int(values.shape[0])
        codes_true, codes_pred = codes[:n], codes[n:]
        hits = histogram(codes_true[codes_true == codes_pred], k, xp)
        total = histogram(codes_true, k, xp) + histogram(codes_pred, k, xp)
    total = xp.where(total == 0, xp.ones_like(total), total)
    return float(xp.mean(2.0 * xp.astype(hits, xp.float64) / xp.astype(total, xp.float64)))


def _numeric(y: Array) -> bool:
    """Tell numbers from strings and objects; numpy's own isdtype refuses to answer for those."""
    xp = namespace(y)
    try:
        return bool(xp.isdtype(y.dtype, ("integral", "real floating", "bool")))
    except (TypeError, ValueError):
        return False
