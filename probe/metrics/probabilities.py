"""Metrics of the probabilities behind decision values: log loss and calibration error."""

from __future__ import annotations

from probe.arrays import Array
from probe.errors import BadInput
from probe.metrics.inputs import histogram, multi_label, ndim, scored_codes, softmax


def log_loss(y_true: Array, scores: Array, classes: Array | None = None) -> float:
    """Mean negative log-likelihood of the true labels, in nats; smaller is better.

    Parameters
    ----------
    y_true : array of shape (n,) or (n, k)
    scores : array of shape (n, k), (n, 1) or (n,), floating
        Decision values; computed from them directly, so that nothing is clipped.
    classes : array, optional

    Returns
    -------
    float
        Mean over rows; multi-label: mean over rows and columns of the binary loss.

    Raises
    ------
    BadInput
        Where a row's class has no column: its probability is zero and the loss infinite.
    """
    if ndim(y_true) == 2:
        truth, scores, xp = multi_label(y_true, scores, "log_loss")
        z = xp.astype(scores, xp.float64)
        signed = xp.where(truth == 1, -z, z)
        losses = xp.maximum(signed, xp.zeros_like(signed)) + xp.log1p(xp.exp(-xp.abs(signed)))
        return float(xp.mean(losses))
    codes, scores, xp = scored_codes(y_true, scores, classes, "log_loss")
    n_unknown = int(xp.count_nonzero(codes < 0))
    if n_unknown:
        raise BadInput(
            f"log_loss is infinite: the class of {n_unknown} of {int(codes.shape[0])} rows has no column in scores "
            "(it was absent from train); leave those rows out or use a metric of predictions."
        )
    z = xp.astype(scores, xp.float64)
    own = xp.take_along_axis(z, codes[:, None], axis=1)[:, 0]
    top = xp.max(z, axis=1)
    spread = xp.log(xp.sum(xp.exp(z - top[:, None]), axis=1))
    # (top - own) first: both are exact in the scores' precision and the difference is 0 for a row that is right.
    return float(xp.mean((top - own) + spread))


def calibration_error(y_true: Array, scores: Array, classes: Array | None = None, *, n_bins: int = 15) -> float:
    """Expected calibration error: mean gap between how sure the predictions are and how often they are right.

    Rows are put into ``n_bins`` equal intervals (lower, upper] of the largest probability; the value is the mean over
    rows of the |accuracy - mean confidence| of their bin. Smaller is better.

    Parameters
    ----------
    y_true : array of shape (n,)
    scores : array of shape (n, k), (n, 1) or (n,), floating
    classes : array, optional
    n_bins : int

    Returns
    -------
    float
        In [0, 1].

    Notes
    -----
    Guo, Pleiss, Sun and Weinberger (2017), equation 3, with their 15 bins.
    """
    if n_bins < 1:
        raise BadInput(f"n_bins is {n_bins} but there must be at least one bin.")
    codes, scores, xp = scored_codes(y_true, scores, classes, "calibration_error")
    p = softmax(scores, xp)
    confidence = xp.max(p, axis=1)
    # The prediction is the argmax of the scores, not of p: rounding in the softmax must not move it.
    right = xp.argmax(scores, axis=1) == codes
    bins = xp.clip(xp.astype(xp.ceil(confidence * n_bins), xp.int64) - 1, 0, n_bins - 1)
    error = 0.0
    for b in [i for i, count in enumerate(histogram(bins, n_bins, xp)) if int(count)]:
        inside = bins == b
        error += abs(float(xp.sum(confidence[inside])) - int(xp.count_nonzero(right & inside)))
    return error / int(codes.shape[0])
