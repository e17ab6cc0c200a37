"""Fits along a grid of penalties: `fit_path` and `fit`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NoReturn

import numpy as np

from probe import warned
from probe.arrays import Array, as_matrix, like, namespace, require_finite, take, to_numpy
from probe.backends import check_backend, features_for, solver_for
from probe.errors import BadInput, Interrupted, NotConverged
from probe.exactness import exact
from probe.grids import C_GRID
from probe.labels import Labels, Loss, Task, decode, encode
from probe.memory import allowing, said
from probe.model import Model, linear_scores
from probe.reals import NUMBER
from probe.solver import Solution
from probe.sources import RowSource, streamed
from probe.status import Status
from probe.threads import threads_for

_C_RANGE = (1e-30, 1e30)
"""What counts as a number where one is asked for."""


@dataclass(frozen=True, eq=False)
class Path:
    """Fits at b values of C, in the order they were asked for.

    Attributes
    ----------
    C : numpy.ndarray of shape (b,), float64
    coef : array of shape (b, k, d), float64
        k = 1 for binary problems. Where X lived.
    intercept : array of shape (b, k), float64
    classes : numpy.ndarray
        Sorted labels.
    status : tuple of Status, length b
    grad_norm : numpy.ndarray of shape (b,), float64
        ‖∇‖∞ of the mean form at the returned point, relative to its value at zero weights, in float64.
    gap : numpy.ndarray of shape (b,), float64
        Upper bound on ``(F − F*) / F``.
    coef_error : numpy.ndarray of shape (b,), float64
        Upper bound on ``‖W − W*‖ / ‖W‖``.
    objective : numpy.ndarray of shape (b,), float64
        ``C · Σ s_i loss_i + ½ ‖W‖²``.
    n_iter, passes : numpy.ndarray of shape (b,), int64
        Iterations, and products with X (X·D or Xᵀ·R, each one; certificates included).
    precision : numpy.ndarray of shape (b,), text
        Dtype the fit was finished in; float32 features that stall are finished in float64.
    seconds : float
        Of the whole path.
    reads : int
        Products with all rows of X that were made for the whole path; penalties that advance together share them.
    val_scores : numpy.ndarray of shape (b,) or None
        Accuracy on X_val at every C, when it was given.
    task : Task
    loss : Loss
        What was summed over the rows.
    """

    C: np.ndarray
    coef: Array
    intercept: Array
    classes: np.ndarray
    status: tuple[Status, ...]
    grad_norm: np.ndarray
    gap: np.ndarray
    coef_error: np.ndarray
    objective: np.ndarray
    n_iter: np.ndarray
    passes: np.ndarray
    precision: np.ndarray
    seconds: float
    task: Task
    val_scores: np.ndarray | None = None
    loss: Loss = Loss.LOGISTIC
    reads: int = 0

    def __len__(self) -> int:
        return len(self.C)

    def decision_function(self, X: Any, which: slice = slice(None)) -> Array:
        """Decision values of every fit, shape (b, n, k), float64; of some fits with `which`."""
        return linear_scores(X, self.coef[which, ...], self.intercept[which, ...])

    def predict(self, X: Any) -> np.ndarray:
        """Labels of every fit, shape (b, n); (b, n, k) of 0 and 1 for multi-label paths."""
        return decode(self.decision_function(X), self.classes, self.task)

    def model(self, i: int) -> Model:
        """The fit at ``C[i]``."""
        if isinstance(i, bool) or not isinstance(i, int | np.integer) or not -len(self) <= i < len(self):
            raise BadInput(
                f"The path has {len(self)} fits, numbered 0 to {len(self) - 1}, so there is no fit number {i!r}; "
                "`Path.C` says which C each has."
            )
        i %= len(self)
        return Model(
            coef=self.coef[i, ...], intercept=self.intercept[i, ...], classes=self.classes, C=float(self.C[i]),
            status=self.status[i], grad_norm=float(self.grad_norm[i]), gap=float(self.gap[i]),
            coef_error=float(self.coef_error[i]), objective=float(self.objective[i]), n_iter=int(self.n_iter[i]),
            passes=int(self.passes[i]), task=self.task, loss=self.loss,
        )  # fmt: skip


def fit_path(
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
    max_iter: int = 1000,
    device: Any = None,
    backend: str = "auto",
    memory: float | Literal["auto"] | None = None,
) -> Path:
    """Fit L2-regularised logistic regression at every C of a grid, each with a certificate.

    Minimises ``C · Σ_i s_i · loss_i + ½ ‖W‖²``, scikit-learn's objective: the sum form, intercept not penalised. The loss
    is softmax for three or more classes, logistic for two (one row of coefficients), and logistic per label for
    multi-label data.

    Parameters
    ----------
    X : array-like of shape (n, d)
        numpy, torch or cupy array, feature matrix of a store, or dask array; any floating dtype.
    y : array-like of shape (n,) or (n, k)
        Labels of any kind; (n, k) of 0 and 1 is multi-label.
    C : array-like of shape (b,)
        Inverse penalties, positive, in any order. Default: the 45 values of Kornblith et al. 2019.
    X_val, y_val : array-like, optional
        Adds `Path.val_scores`, the accuracy at every C.
    sample_weight : array-like of shape (n,), or (n, k) for multi-label data, optional
        With (n, k) every label weighs the rows in its own way; 0 leaves an entry out of the fit of its label.
    class_weight : mapping or "balanced", optional
    fit_intercept : bool
    tol : float
        What a fit's certificate must meet to be CONVERGED, see `probe.certificate.meets`: objective within ``100 tol``,
        and relative gradient or relative gap within ``tol``.
    max_iter : int
        Iterations per value of C.
    device : optional
        Moves `X`, and with it the answer; default: nothing is moved. "cuda" makes torch tensors of numpy features there.
    backend : {"auto", "numpy", "torch", "cupy", "cuml", "sklearn"}
        Who solves; the answer comes back to where `X` is. "auto" computes there, with the library that `X` belongs to;
        "numpy" on the host; "torch" where `X` is, sharing its memory; "cupy" on the GPU. "sklearn" (lbfgs, on the host) and
        "cuml" (``cuml.solvers.QN``, on the GPU) are other solvers, asked again until the certificate, which is ours, meets `tol`
        or they get no further; `passes` then counts two per iteration, for they do not say what their line searches took.
    memory : float or "auto", optional
        Bytes that features may take, on the device that computes. Where `X` has more, it stays where it is and is read block by
        block: the same answer in as few passes as possible, see `probe.streamed` (and `probe.wide` for few rows);
        `Path.reads` says how many. The scores of all rows (n · k numbers, several times) and a few matrices of d × d float64, or
        n × n where n ≤ 1.25 d, come on top. "auto": `X` is loaded and, where memory runs out, streamed, with a warning. Default:
        `X` is loaded.

    Returns
    -------
    Path
        Arrays live where the features were when fitted.

    Raises
    ------
    BadInput
        Wrong lengths, NaN or infinity (rows named), one class, C that is not positive and finite.
    MissingExtra
        When the library of `backend` is not installed; the extra that brings it is named.
    OutOfMemory
        With about how much is needed.
    Interrupted
        On Ctrl-C once a fit is finished: a KeyboardInterrupt whose `path` holds the finished fits, certified.

    Warns
    -----
    NotConverged
        Once, naming every C whose certificate falls short.
    NotInMemory
        When memory ran out and "auto" let the features be streamed.

    Examples
    --------
    >>> import numpy as np, probe
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> path = probe.fit_path(X, ["a", "a", "b", "b"], C=[0.1, 1.0])
    >>> path.coef.shape, path.status[0].value, path.predict(X)[1].tolist()
    ((2, 1, 1), 'converged', ['a', 'a', 'b', 'b'])
    """
    check_backend(backend, device)
    fit_intercept = checked_flag("fit_intercept", fit_intercept)
    solve = partial(walk, fit_intercept=fit_intercept, backend=backend, **options_of(tol, max_iter))
    return fitted(
        X, y, C, solve, Loss.LOGISTIC, X_val=X_val, y_val=y_val, sample_weight=sample_weight, class_weight=class_weight,
        device=device, memory=memory,
    )  # fmt: skip


def fitted(
    X: Any,
    y: Any,
    C: Any,
    solve: Callable[[Array, Labels, np.ndarray], Solution],
    loss: Loss,
    *,
    X_val: Any,
    y_val: Any,
    sample_weight: Any,
    class_weight: Any,
    device: Any,
    memory: float | Literal["auto"] | None = None,
) -> Path:
    """What the paths of all losses share: the checks at the door, the order of the grid, the warning, validation scores.

    Parameters
    ----------
    X, y, C, X_val, y_val, sample_weight, class_weight, device, memory
        As in `fit_path`.
    solve : callable
        (features, labels, λ falling) → Solution, in that order.
    loss : Loss

    Returns
    -------
    Path
    """
    grid = grid_of(C)
    if (X_val is None) != (y_val is None):
        raise BadInput("X_val and y_val go together: give both or neither.")

    def attempt(allowed: float | None) -> Path:
        started = time.perf_counter()
        with said(X, y, device):
            source = streamed(X, allowed, device)
            A = as_matrix(X, device) if source is None else source
            labels = encode(y, int(A.shape[0]), sample_weight, class_weight)
            if loss is not Loss.LOGISTIC:
                labels = labels.against_rest(loss)
            if source is None:
                A, labels = _counting(A, labels)
            return _along(A, labels, grid, solve, started)

    path = allowing(attempt, X, memory)
    warn(path)
    if X_val is None:
        return path
    from probe.selection import select

    try:
        with said(X_val, y_val, device):
            return replace(path, val_scores=select(path, X_val, y_val, memory=memory).scores)
    except KeyboardInterrupt:
        _interrupt(path, len(grid))


def _counting(A: Array, labels: Labels) -> tuple[Array, Labels]:
    """The rows that have a weight: another one, far away, would be what features are centred and scaled by."""
    if labels.weights is None or (rows := (np.atleast_2d(labels.weights) > 0).any(axis=0)).all():
        return A, labels
    require_finite(A)
    kept = np.flatnonzero(rows)
    return take(A, kept), replace(labels, codes=labels.codes[:, kept], weights=labels.weights[..., kept])


def _along(
    A: Array, labels: Labels, grid: np.ndarray, solve: Callable[[Array, Labels, np.ndarray], Solution], started: float
) -> Path:
    """Solve the values of a grid, each once and from strong to weak."""
    unique, where = np.unique(grid, return_inverse=True)

    def seconds() -> float:
        return time.perf_counter() - started

    try:
        with threads_for(A, labels.n_rows_of_coef):
            solution = solve(A, labels, 1.0 / unique)
    except Stopped as stop:
        n_done = len(stop.solution.status)
        _interrupt(path_of(stop.solution, unique[:n_done], where[where < n_done], labels, seconds()), len(grid))
    return path_of(solution, unique, where, labels, seconds())


class Stopped(KeyboardInterrupt):
    """Ctrl-C in the middle of a walk: `solution` holds the penalties that were solved until then, certified."""

    def __init__(self, solution: Solution) -> None:
        super().__init__()
        self.solution = solution


def _interrupt(path: Path, n_asked: int) -> NoReturn:
    raise Interrupted(
        f"Interrupted after {len(path)} of {n_asked} fits; they are in the attribute `path` of this error, certified.",
        path,
    ) from None


def walk(
    X: Array,
    labels: Labels,
    l2: np.ndarray,
    *,
    fit_intercept: bool,
    tol: float,
    max_iter: int,
    backend: str = "auto",
) -> Solution:
    """Solve one penalty after the other, from strong to weak.

    Parameters
    ----------
    X : array of shape (n, d)
    labels : Labels
    l2 : numpy.ndarray of shape (b,)
        λ, falling.
    fit_intercept, tol, max_iter, backend
        As in `fit_path`.

    Returns
    -------
    Solution
        Where `X` lives.

    Raises
    ------
    Stopped
        On Ctrl-C once a penalty is solved. What is solved is certified as it is, without repairs: a second Ctrl-C ends that.
    """
    A = X if isinstance(X, RowSource) else features_for(backend, X)
    with exact(A.example if isinstance(A, RowSource) else A):
        solver = solver_for(backend, A, labels, fit_intercept, tol, max_iter)
        try:
            solver.walk(l2)
            solution = solver.finish()
        except KeyboardInterrupt:
            if solver.n_done == 0:
                raise
            raise Stopped(_at_home(solver.finish(repair=False), A, X)) from None
        return _at_home(solution, A, X)


def _at_home(solution: Solution, A: Array, X: Array) -> Solution:
    """Coefficients found from A, where X lives."""
    if A is X:
        return solution
    double = namespace(X).float64
    return replace(solution, W=like(X, to_numpy(solution.W), double), b=like(X, to_numpy(solution.b), double))


def checked_flag(name: str, value: Any) -> bool:
    """An option that is True or False; "no" would count as true."""
    if not isinstance(value, bool | np.bool_):
        raise BadInput(f"{name} is {value!r}; it must be True or False.")
    return bool(value)


def checked_tol(tol: Any) -> float:
    """A tolerance."""
    if not isinstance(tol, NUMBER) or not 0 < tol < 1:
        shown = repr(tol) if isinstance(tol, str) else tol
        raise BadInput(f"tol is {shown}, but it must lie between 0 and 1: it bounds relative quantities.")
    return float(tol)


def options_of(tol: Any, max_iter: Any) -> dict[str, Any]:
    """The options of a solver, checked."""
    tol = checked_tol(tol)
    if not isinstance(max_iter, NUMBER) or not max_iter >= 1 or max_iter % 1 != 0:
        shown = repr(max_iter) if isinstance(max_iter, str) else max_iter
        raise BadInput(f"max_iter is {shown}, but it must be a whole number, and at least 1 iteration is needed.")
    return {"tol": tol, "max_iter": int(max_iter)}


def fit(X: Any, y: Any, C: float = 1.0, **options: Any) -> Model:
    """Fit at one C: `fit_path` with a grid of one value.

    Parameters
    ----------
    X : array-like of shape (n, d)
    y : array-like of shape (n,) or (n, k)
    C : float
        Inverse penalty, in the sum form.
    **options
        Those of `fit_path`: sample_weight, class_weight, fit_intercept, tol, max_iter, device, backend.

    Returns
    -------
    Model

    Raises
    ------
    BadInput
        As `fit_path`.
    """
    if np.ndim(C) != 0:
        raise BadInput(f"fit takes one C, got {np.size(C)} values; use fit_path for a grid.")
    return fit_path(X, y, [C], **options).model(0)


def grid_of(C: Any) -> np.ndarray:
    """The values of C as they were asked for, checked."""
    try:
        if any(isinstance(c, bool | np.bool_) for c in (C if isinstance(C, list | tuple) else [C])):
            raise TypeError("True and False are no penalties")
        grid = np.atleast_1d(np.asarray(to_numpy(C) if hasattr(C, "shape") else C, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise BadInput(f"C must be a positive number or a list of them, but it is {C!r}.") from error
    if grid.ndim != 1 or grid.size == 0:
        raise BadInput(f"C must be a list of one or more values, got an array of shape {grid.shape}.")
    bad = grid[~(np.isfinite(grid) & (grid > 0))]
    if bad.size:
        raise BadInput(
            f"C must be positive and finite, but {bad.size} of {grid.size} values are not (first {bad[0]}); C is the inverse of "
            "the penalty: small C is strong regularisation."
        )
    extreme = grid[(grid < _C_RANGE[0]) | (grid > _C_RANGE[1])]
    if extreme.size:
        raise BadInput(
            f"C = {float(extreme[0])!r} lies outside {_C_RANGE[0]:g} … {_C_RANGE[1]:g}, where float64 can certify nothing; the "
            "papers' grids run from 1e-6 to 1e6."
        )
    return grid


def path_of(s: Solution, unique: np.ndarray, where: np.ndarray, labels: Labels, seconds: float) -> Path:
    """A solution in ascending C as a path in the order that was asked for: ``unique[where]``."""
    same = len(where) == len(unique) and (where == np.arange(len(unique))).all()
    coef = s.W if same else s.W[where.tolist(), ...]
    intercept = s.b if same else s.b[where.tolist(), ...]
    return Path(
        C=unique[where], coef=coef, intercept=intercept, classes=labels.classes, status=tuple(s.status[i] for i in where),
        grad_norm=s.certificate.grad_norm[where], gap=s.certificate.gap[where], coef_error=s.certificate.coef_error[where],
        objective=s.certificate.objective[where] * unique[where], n_iter=s.n_iter[where], passes=s.passes[where],
        precision=s.precision[where], seconds=seconds, task=labels.task,
        loss=labels.kind, reads=s.reads,
    )  # fmt: skip


def warn(path: Path) -> None:
    """Name every C whose certificate falls short."""
    short = [i for i, status in enumerate(path.status) if status is not Status.CONVERGED]
    if not short:
        return
    named = ", ".join(f"{path.C[i]:.3g} ({path.status[i]}, gap {path.gap[i]:.1e})" for i in short[:6])
    more = f" and {len(short) - 6} more" if len(short) > 6 else ""
    warned.say(
        f"{len(short)} of {len(path)} fits fall short of the tolerance: C = {named}{more}. {path.status[short[0]].sentence}",
        NotConverged,
    )
