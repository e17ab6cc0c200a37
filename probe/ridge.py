"""Ridge classification, every penalty in closed form from one eigendecomposition: the screening path before the logistic one.

Least squares on targets of +1 for the class (or label) of a row and −1 for the others, as scikit-learn's ``RidgeClassifier``
with ``alpha = 1 / C``; see `probe.least_squares`. It ranks units, backbones and seeds at a fraction of the cost of logistic
paths; it is no replacement for them where probabilities or the papers' numbers are wanted.

Leaving out row i needs no fit either (Allen's PRESS; Hastie, Tibshirani & Friedman, The Elements of Statistical Learning,
equation 7.64): its residual is that of the whole fit divided by ``1 − h_i``, with the leverage

    h_i = s_i (1 / Σs + Σ_j (v_j · (x_i − μ))² / (Λ_j + λ)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from probe import metrics
from probe.arrays import Array, like, to_numpy
from probe.certificate import Certificate, meets
from probe.errors import BadInput
from probe.grids import C_GRID
from probe.labels import Labels, Loss
from probe.least_squares import Fits, LeastSquares
from probe.model import Model
from probe.path import Path, checked_flag, fitted, options_of
from probe.rotation import Rotation
from probe.selection import Choice, chosen, score_of
from probe.solver import Solution
from probe.sources import RowSource
from probe.status import ending

if TYPE_CHECKING:
    from probe.metrics import Metric

_SQUARES_AT_ONCE = 1 << 18


def ridge_path(
    X: Any,
    y: Any,
    C: Any = C_GRID,
    *,
    X_val: Any = None,
    y_val: Any = None,
    sample_weight: Any = None,
    class_weight: Any = None,
    fit_intercept: bool = True,
    tol: float = 1e-6,
    device: Any = None,
    memory: float | Literal["auto"] | None = None,
) -> Path:
    """Fit ridge classification at every C of a grid in closed form, each with a certificate.

    Minimises ``C · Σ_i s_i · ½ ‖W x_i + b − t_i‖² + ½ ‖W‖²`` with targets ``t`` of +1 for the class (or label) of a row and −1
    for the others: scikit-learn's ``RidgeClassifier`` with ``alpha = 1 / C``. The intercept is not penalised.

    A whole grid costs about as much as one Gram product of the features: meant for screening units, backbones and seeds
    before `fit_path` is run on the few that are left.

    Parameters
    ----------
    X, y, C, X_val, y_val, sample_weight, class_weight, fit_intercept, device
        As in `fit_path`.
    tol : float
        What a fit's certificate must meet to be CONVERGED, as in `fit_path`; the closed form usually ends far below it.
    memory : float or "auto", optional
        As in `fit_path`. Features that take more bytes are read twice, for all penalties together, and again for those whose
        certificate the moments cannot tell; n ≥ d only. The Gram matrix of the columns (d × d, float64) comes on top.

    Returns
    -------
    Path
        `n_iter` counts steps of refinement, which columns of very different scales need. ``predict_proba`` of its models
        refuses: scores near ±1 are not log-odds.

    Raises
    ------
    BadInput
        As `fit_path`; streamed features with more columns than rows.

    Warns
    -----
    NotConverged
        Once, naming every C whose certificate falls short by rounding.

    See Also
    --------
    select_ridge_loo : chooses C without validation data.

    Examples
    --------
    >>> import numpy as np, probe
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> path = probe.ridge_path(X, ["a", "a", "b", "b"], C=[1e6])
    >>> path.coef[0].round(3).tolist(), path.intercept[0].round(3).tolist()  # the straight line through −1, −1, 1, 1
    ([[0.8]], [-1.2])
    """
    solver = RidgeSolver(fit_intercept, tol)
    return fitted(
        X, y, C, solver, Loss.SQUARED_ERROR, X_val=X_val, y_val=y_val, sample_weight=sample_weight,
        class_weight=class_weight, device=device, memory=memory,
    )  # fmt: skip


def fit_ridge(X: Any, y: Any, C: float = 1.0, **options: Any) -> Model:
    """Fit ridge classification at one C: `ridge_path` with a grid of one value.

    Parameters
    ----------
    X : array-like of shape (n, d)
    y : array-like of shape (n,) or (n, k)
    C : float
        ``1 / alpha`` of ``RidgeClassifier``.
    **options
        Those of `ridge_path`.

    Returns
    -------
    Model

    Raises
    ------
    BadInput
        As `ridge_path`.
    """
    if np.ndim(C) != 0:
        raise BadInput(f"fit_ridge takes one C, got {np.size(C)} values; use ridge_path for a grid.")
    return ridge_path(X, y, [C], **options).model(0)


@dataclass(frozen=True, eq=False)
class LeftOut(Choice):
    """The penalty chosen by leaving out one row at a time.

    Attributes
    ----------
    C, index, scores, at_edge
        As in `Choice`.
    path : Path
        The fits on all rows; ``path.model(index)`` is the one that was chosen.
    """

    path: Path


def select_ridge_loo(
    X: Any,
    y: Any,
    C: Any = C_GRID,
    *,
    metric: Metric | Callable[[Any, Any], float] | None = None,
    fit_intercept: bool = True,
    tol: float = 1e-6,
    **options: Any,
) -> LeftOut:
    """Choose the C of ridge classification by leaving out one row at a time, exactly and without a single refit.

    Parameters
    ----------
    X : array-like of shape (n, d)
    y : array-like of shape (n,) or (n, k)
    C : array-like of shape (b,)
    metric : PredictionMetric, ScoreMetric or callable (y_true, y_pred) -> float, optional
        Of all n rows, each scored by the fit on the others and counted once. Default: accuracy.
    fit_intercept : bool
    tol : float
    **options
        Those of `ridge_path`: sample_weight, class_weight (balanced weights stay those of all rows), device.

    Returns
    -------
    LeftOut
        On a tie the strongest penalty.

    Raises
    ------
    BadInput
        As `ridge_path`; a metric that is finite nowhere.

    Examples
    --------
    >>> import numpy as np, probe
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> probe.select_ridge_loo(X, ["a", "a", "b", "b"], [1e-3, 1.0]).scores.tolist()
    [0.0, 1.0]
    """
    rule = metrics.as_metric(metrics.accuracy if metric is None else metric)
    if "memory" in options:
        raise BadInput(
            "Leaving rows out needs all rows at once: select_ridge_loo takes no memory; hold rows out (select_kfold)."
        )
    given = {"sample_weight": None, "class_weight": None, "device": None, **options}
    solver = RidgeSolver(fit_intercept, tol)
    path = fitted(X, y, C, solver, Loss.SQUARED_ERROR, X_val=None, y_val=None, **given)
    truth = np.asarray(to_numpy(y) if hasattr(y, "shape") else y)
    scores = [
        score_of(one, truth, rule, path.classes, path.task)
        for one in left_out_scores(solver.problem, 1.0 / path.C, fit_intercept)
    ]
    choice = chosen(path.C, np.array(scores), rule)
    return LeftOut(choice.C, choice.index, choice.scores, choice.at_edge, path)


class RidgeSolver:
    """The solver of `probe.path.fitted`; keeps the problem it solved.

    Parameters
    ----------
    fit_intercept : bool
    tol : float
    rotation : Rotation, optional
        Of the features, when it is already known (a logistic path of the same features has one); for rows without weights.
    """

    problem: LeastSquares

    def __init__(self, fit_intercept: bool, tol: float, rotation: Rotation | None = None) -> None:
        self._fit_intercept = checked_flag("fit_intercept", fit_intercept)
        self._tol, self._rotation = options_of(tol, 1)["tol"], rotation

    def __call__(self, X: Array | RowSource, labels: Labels, l2: np.ndarray) -> Solution:
        """Solve every penalty."""
        self.problem = LeastSquares(X, labels, self._fit_intercept, self._rotation)
        return self._solution(self.problem.fit(l2, self._tol))

    def _solution(self, fits: Fits) -> Solution:
        c = fits.certificate
        met: list[bool] = np.asarray(meets(c.grad_norm, c.gap, c.coef_error, self._tol).all(axis=1)).tolist()
        finite: list[bool] = np.asarray(np.isfinite(c.objective).all(axis=1)).tolist()
        worst = Certificate(
            c.objective.sum(axis=1), c.grad_norm.max(axis=1), c.gap.max(axis=1), c.coef_error.max(axis=1)
        )
        status = tuple(ending(is_met, is_finite, False) for is_met, is_finite in zip(met, finite, strict=True))
        precision = np.full(len(met), "float64", dtype="<U7")
        return Solution(fits.W, fits.b, worst, status, fits.n_iter, fits.passes, precision, reads=self.problem.n_reads)


def left_out_scores(problem: LeastSquares, l2: np.ndarray, fit_intercept: bool) -> Iterator[Array]:
    """Decision values of every row by the fit on all other rows, for one penalty after the other.

    With as many directions as rows (n ≤ d) both the residual and ``1 − h`` vanish with λ. They are then summed from their own
    expansions, ``1 − h_i = s_i Σ_j (v_j · (x_i − μ))² λ / (Λ_j (Λ_j + λ))``, and not left over by subtractions.

    Parameters
    ----------
    problem : LeastSquares
        Fitted, so that its basis is one that is good enough.
    l2 : numpy.ndarray of shape (b,)
    fit_intercept : bool

    Yields
    ------
    array of shape (n, K), float64
    """
    labels, moments, spectrum = problem.labels, problem.moments, problem.basis.spectrum
    A = problem.rotated()
    n = int(A.shape[0])
    weights = np.ones(n) if labels.weights is None else labels.weights
    targets = like(A, (2.0 * labels.codes - 1.0).T)
    right = moments.right @ problem.basis.vectors
    is_saturated = len(spectrum) + int(fit_intercept) >= int((weights > 0).sum())
    expands = is_saturated & (l2 < (spectrum.min() if len(spectrum) else 0.0))
    factors = 1.0 / (spectrum[None, :] + l2[:, None])
    factors[expands] *= l2[expands, None] / spectrum
    share = weights / moments.total if fit_intercept else np.zeros(n)
    for i, leverage in enumerate(_squared_rows_times(A, factors)):
        along = A @ (right * like(A, factors[i])[None, :]).T
        if not expands[i]:
            yield targets - (targets - moments.target_mean - along) / like(A, 1.0 - share - weights * leverage)[:, None]
            continue
        found = targets - along / like(A, np.where(weights > 0, weights * leverage, 1.0))[:, None]
        for row in np.flatnonzero(weights == 0).tolist():  # in no fit: the fit on all rows is the fit without it
            found[row, :] = moments.target_mean + right @ (A[row, :] * like(A, 1.0 / (spectrum + l2[i])))
        yield found


def _squared_rows_times(A: Array, factors: np.ndarray) -> np.ndarray:
    """``Σ_j A_ij² factors_bj``, shape (b, n), in pieces: a stored square of A would double the memory."""
    step = max(64, _SQUARES_AT_ONCE // max(1, int(A.shape[1])))
    columns = like(A, factors.T)
    blocks = (A[a : a + step, :] for a in range(0, int(A.shape[0]), step))
    return np.concatenate([to_numpy((block * block) @ columns) for block in blocks]).T
