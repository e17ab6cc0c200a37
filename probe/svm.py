"""Linear support vector machines with the squared hinge, on the machinery of the logistic paths: `svm_path` and `fit_svm`.

Kornblith et al. 2019 (Supp. G) compare them with logistic regression: features scaled to length one (`l2_normalized`), 26
values of C from 1e-3 to 1e2 (`SVM_GRID`).

Difference from liblinear, and so from scikit-learn's ``LinearSVC``
-------------------------------------------------------------------
The objective is liblinear's, ``½ ‖w‖² + C Σ_i s_i max(0, 1 − y_i (w · x_i + b))²``, one class against the rest, but for the
intercept: liblinear appends a column of ``intercept_scaling`` to X and penalises its weight, which adds
``½ (b / intercept_scaling)²``; here the intercept is free. The two agree exactly with ``fit_intercept=False``, and in the limit of
a large ``intercept_scaling``; with 1, the default there, they do not, for the intercept of one class against many lies near −1.

``class_weight`` multiplies the rows of a class wherever they occur, as sample weights do; liblinear's multiplies them in
the problem of that class only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from probe import warned
from probe.arrays import Array, as_matrix, namespace, require_finite, to_numpy
from probe.backends import check_backend
from probe.errors import BadInput, ZeroRows
from probe.grids import SVM_GRID
from probe.labels import Loss
from probe.model import Model
from probe.path import Path, checked_flag, fitted, options_of, walk


def svm_path(
    X: Any,
    y: Any,
    C: Any = SVM_GRID,
    *,
    X_val: Any = None,
    y_val: Any = None,
    sample_weight: Any = None,
    class_weight: Any = None,
    fit_intercept: bool = True,
    tol: float = 1e-6,
    max_iter: int = 1000,
    device: Any = None,
    backend: str = "auto",
    memory: float | Literal["auto"] | None = None,
) -> Path:
    """Fit a linear support vector machine with the squared hinge at every C of a grid, each with a certificate.

    Minimises ``C · Σ_i s_i max(0, 1 − y_i (w · x_i + b))² + ½ ‖w‖²``, one class (or label) against the rest; the intercept is
    not penalised, see the top of `probe.svm` for what that means beside ``LinearSVC``. The problems of all classes
    advance together and share every pass over X.

    Parameters
    ----------
    X : array-like of shape (n, d)
        As in `fit_path`. For the protocol of Kornblith et al. 2019, Supp. G, pass ``l2_normalized(X)`` here and wherever the
        path is asked for scores.
    y : array-like of shape (n,) or (n, k)
        Labels of any kind; (n, k) of 0 and 1 is multi-label.
    C : array-like of shape (b,)
        Default: the 26 values of Kornblith et al. 2019.
    X_val, y_val, sample_weight, class_weight, fit_intercept, tol, max_iter, device, memory
        As in `fit_path`.
    backend : {"auto", "numpy", "torch", "cupy"}
        As in `fit_path`; the solvers of other libraries are for logistic regression.

    Returns
    -------
    Path
        The certificate is that of the worst class, the objective the sum over them, iterations the most that one needed. A C far
        weaker than the one before is approached in decades, whose products count among its `passes`.
        ``predict_proba`` of its models refuses: margins are not log-odds.

    Raises
    ------
    BadInput
        As `fit_path`.

    Warns
    -----
    NotConverged
        Once, naming every C whose certificate falls short.

    Examples
    --------
    >>> import numpy as np, probe
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> path = probe.svm_path(X, ["a", "a", "b", "b"], C=[1.0, 1e6])
    >>> path.coef[1].round(3).tolist(), path.intercept[1].round(3).tolist()  # the widest margin: from 1 to 2
    ([[2.0]], [-3.0])
    """
    check_backend(backend, device)
    fit_intercept = checked_flag("fit_intercept", fit_intercept)
    solve = partial(walk, fit_intercept=fit_intercept, backend=backend, **options_of(tol, max_iter))
    return fitted(
        X, y, C, solve, Loss.SQUARED_HINGE, X_val=X_val, y_val=y_val, sample_weight=sample_weight,
        class_weight=class_weight, device=device, memory=memory,
    )  # fmt: skip


def fit_svm(X: Any, y: Any, C: float = 1.0, **options: Any) -> Model:
    """Fit a linear support vector machine at one C: `svm_path` with a grid of one value.

    Parameters
    ----------
    X : array-like of shape (n, d)
    y : array-like of shape (n,) or (n, k)
    C : float
        Inverse penalty, in the sum form.
    **options
        Those of `svm_path`.

    Returns
    -------
    Model

    Raises
    ------
    BadInput
        As `svm_path`.
    """
    if np.ndim(C) != 0:
        raise BadInput(f"fit_svm takes one C, got {np.size(C)} values; use svm_path for a grid.")
    return svm_path(X, y, [C], **options).model(0)


def l2_normalized(X: Any, device: Any = None) -> Array:
    """Rows divided by their length, as Kornblith et al. 2019 do for support vector machines (Supp. G).

    A function and not an option of `svm_path`, so that training, validation and test features are seen to get the same.

    Parameters
    ----------
    X : array-like of shape (n, d)
        As in `fit_path`.
    device : optional
        Where to compute; default: where `X` lives.

    Returns
    -------
    array of shape (n, d)
        In the dtype of the features; lengths are computed in float64. A row of zeros stays zero.

    Raises
    ------
    BadInput
        NaN or infinity (rows named).

    Warns
    -----
    ZeroRows
        Naming rows of zeros, which have no direction.

    Examples
    --------
    >>> import probe
    >>> probe.l2_normalized([[3.0, 4.0], [0.0, 2.0]]).tolist()
    [[0.6, 0.8], [0.0, 1.0]]
    """
    A = as_matrix(X, device)
    out, zero = _normalized(A)
    _warn_of(zero, int(A.shape[0]))
    return out


@dataclass(frozen=True, eq=False)
class Normalized:
    """Stored features whose rows are divided by their length as they are read: what `l2_normalized` is for those in memory.

    Attributes
    ----------
    stored : feature matrix
    """

    stored: Any
    _said: list[bool] = field(default_factory=list, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        n, d = self.stored.shape
        return int(n), int(d)

    @property
    def dtype(self) -> np.dtype:
        """Of what is stored."""
        dtype: np.dtype = np.dtype(self.stored.dtype)
        return dtype

    @property
    def ids(self) -> np.ndarray:
        """Names of the rows, (n,)."""
        return np.asarray(self.stored.ids)

    def blocks(self, rows: int) -> Iterator[tuple[slice, Array]]:
        """(slice, block) over all rows in order; NaN and infinity are left for whoever reads to find."""
        zero: list[int] = []
        for where, block in self.stored.blocks(rows):
            if not np.isfinite(block).all():
                yield where, block
                continue
            A, found = _normalized(block)
            zero.extend(where.start + i for i in found)
            yield where, A
        if not self._said:
            self._said.append(True)
            _warn_of(zero, self.shape[0])

    def select(self, rows: np.ndarray) -> Normalized:
        """Some rows, whose numbers ascend."""
        return Normalized(self.stored.select(rows), self._said)

    def numpy(self) -> np.ndarray:
        """All rows in memory."""
        return to_numpy(l2_normalized(self.stored.numpy()))

    def load(self, device: Any) -> Array:
        """All rows as a torch tensor on a device."""
        return l2_normalized(self.stored.load(device))


def _normalized(A: Array) -> tuple[Array, list[int]]:
    """Rows divided by their length, and the numbers of those that have none."""
    xp = namespace(A)
    out = xp.empty_like(A)
    zero: list[int] = []
    step = max(1, (1 << 22) // int(A.shape[1]))
    for a in range(0, int(A.shape[0]), step):
        stop = min(a + step, int(A.shape[0]))
        block = xp.astype(A[a:stop, :], xp.float64)
        largest = xp.max(xp.abs(block), axis=1, keepdims=True)  # taken out first: squares of 1e200 are beyond float64
        if not bool(xp.all(xp.isfinite(largest))):
            require_finite(A)
        is_zero = largest == 0
        block = block / xp.where(is_zero, xp.ones_like(largest), largest)
        length = xp.sqrt(xp.sum(block * block, axis=1, keepdims=True))
        out[a:stop, :] = xp.astype(block / xp.where(is_zero, xp.ones_like(length), length), A.dtype)
        zero.extend(int(i) + a for i in np.flatnonzero(to_numpy(is_zero)))
    return out, zero


def _warn_of(zero: list[int], n: int) -> None:
    if zero:
        shown = ", ".join(map(str, zero[:5])) + (", …" if len(zero) > 5 else "")
        warned.say(
            f"{len(zero)} of {n} rows are zero (first {shown}) and stay zero: they have no direction to scale.",
            ZeroRows,
        )
