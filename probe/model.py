"""One fitted probe: coefficients, what they predict, and the proof of how good they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.arrays import Array, as_matrix, device_of, like, namespace, require_finite, to_numpy
from probe.errors import BadInput
from probe.labels import Loss, Task, decode
from probe.sources import BLOCK_BYTES, can_stay, source_of
from probe.status import Status

_BLOCK_ENTRIES = 1 << 22


@dataclass(frozen=True, eq=False)
class Model:
    """A linear classifier fitted at one C.

    Attributes
    ----------
    coef : array of shape (k, d), float64
        One row per class; a single row for binary problems, of the second class.
    intercept : array of shape (k,), float64
    classes : numpy.ndarray of shape (k,) (two for binary problems)
        Sorted labels.
    C : float
        Inverse penalty: ``C · Σ s_i loss_i + ½ ‖W‖²`` was minimised.
    status : Status
    grad_norm, gap, coef_error, objective : float
        The certificate, see `probe.certificate`; `objective` is in the form with C.
    n_iter, passes : int
    task : Task
    loss : Loss
        What was summed over the rows.
    """

    coef: Array
    intercept: Array
    classes: np.ndarray
    C: float
    status: Status
    grad_norm: float
    gap: float
    coef_error: float
    objective: float
    n_iter: int
    passes: int
    task: Task
    loss: Loss = Loss.LOGISTIC

    def decision_function(self, X: Any) -> Array:
        """Decision values.

        Parameters
        ----------
        X : array-like of shape (n, d)

        Returns
        -------
        array of shape (n, k), or (n,) for binary problems, float64
            Where the coefficients live.
        """
        scores = linear_scores(X, self.coef[None, ...], self.intercept[None, ...])[0, ...]
        return scores[:, 0] if self.task is Task.BINARY else scores

    def predict(self, X: Any) -> np.ndarray:
        """Labels, shape (n,); (n, k) of 0 and 1 for multi-label models. On a tie the first class."""
        scores = linear_scores(X, self.coef[None, ...], self.intercept[None, ...])[0, ...]
        return decode(scores, self.classes, self.task)

    def predict_proba(self, X: Any) -> Array:
        """Probabilities, shape (n, k), two columns for binary problems; per label for multi-label models.

        Raises
        ------
        BadInput
            Of a model that has none: a support vector machine or ridge classification.
        """
        if self.loss is not Loss.LOGISTIC:
            raise BadInput(
                f"A model of the {self.loss} loss has no probabilities: its scores are fitted to margins, not to log-odds. Use "
                "decision_function to rank, or fit logistic regression (probe.fit)."
            )
        scores = linear_scores(X, self.coef[None, ...], self.intercept[None, ...])[0, ...]
        xp = namespace(scores)
        if self.task is Task.MULTINOMIAL:
            e = xp.exp(scores - xp.max(scores, axis=1, keepdims=True))
            return e / xp.sum(e, axis=1, keepdims=True)
        small = xp.exp(-xp.abs(scores))
        second = xp.where(scores > 0, 1 / (1 + small), small / (1 + small))
        if self.task is Task.MULTILABEL:
            return second
        first = xp.where(scores > 0, small / (1 + small), 1 / (1 + small))
        return xp.concat([first, second], axis=1)

    def score(self, X: Any, y: Any) -> float:
        """Share of rows (of entries, for multi-label models) that are predicted right."""
        return float(np.mean(self.predict(X) == (to_numpy(y) if hasattr(y, "shape") else np.asarray(y))))


def linear_scores(X: Any, coef: Array, intercept: Array) -> Array:
    """Decision values of b models, in float64, from row blocks.

    Parameters
    ----------
    X : array-like of shape (n, d)
    coef : array of shape (b, k, d), float64
    intercept : array of shape (b, k), float64

    Returns
    -------
    array of shape (b, n, k)

    Raises
    ------
    BadInput
        When `X` has another number of columns than the models, or holds NaN or infinity (rows named).
    """
    A = X if can_stay(X) else as_matrix(X)
    b, k, d = (int(s) for s in coef.shape)
    if len(A.shape) == 2 and int(A.shape[1]) != d:
        raise BadInput(f"X has {A.shape[1]} features, but the model is expecting {d} features as input.")
    xp = namespace(coef)
    flat = xp.permute_dims(xp.reshape(coef, (b * k, d)), (1, 0))
    parts, n = [xp.zeros((0, b * k), dtype=xp.float64, device=device_of(coef))], 0
    for where, block in _blocks(A, coef):
        parts.append(xp.astype(block, xp.float64) @ flat + xp.reshape(intercept, (1, b * k)))
        if not bool(xp.all(xp.isfinite(parts[-1]))):  # as NaN and infinity anywhere in a row make its scores
            if can_stay(A):
                require_finite(block, first=where.start, n_all=int(A.shape[0]))
            else:
                require_finite(A)
        n = where.stop
    return xp.permute_dims(xp.reshape(xp.concat(parts, axis=0), (n, b, k)), (1, 0, 2))


def _blocks(A: Any, coef: Array) -> Iterator[tuple[slice, Array]]:
    """Rows where the coefficients are; what is stored is read a block at a time and never whole."""
    if can_stay(A):
        for where, block in source_of(A, BLOCK_BYTES).blocks():
            yield where, block if isinstance(coef, np.ndarray) else like(coef, block)
        return
    if namespace(A) is not namespace(coef) or device_of(A) != device_of(coef):
        A = like(coef, to_numpy(A))
    b, k, d = (int(s) for s in coef.shape)
    n, step = int(A.shape[0]), max(1, _BLOCK_ENTRIES // max(d, b * k))
    for a in range(0, n, step):
        yield slice(a, min(a + step, n)), A[a : a + step, :]
