"""scikit-learn's and cuML's solvers: one fit each, all with one signature, and what they mean by C and tol.

Conventions
-----------
All of them minimise ``Σ_i s_i loss_i + ½ λ ‖W‖²`` with λ = 1 / C and the intercept free, divided by the mass ``m = Σ_i s_i``,
and stop by ‖∇‖∞ of that mean form. This file is the only place where that is translated (`Aim`); how they differ:

============================  ============================  =======================  ======================================
.                             the penalty is given as       they stop where ‖∇‖∞     also
============================  ============================  =======================  ======================================
scikit-learn, lbfgs           C                             ≤ tol                    F stands still to 64 ε
cuML ``QN``                   λ (``penalty_normalized``     ≤ tol · max(F, tol)      F stands still to ``delta`` over ten
                              divides it by the rows n)                              iterations; off here (``delta=0``)
cuML ``LogisticRegression``   C                             ≤ tol · max(F, tol)      likewise, to tol / 100, which cannot be
                                                                                     turned off; no warm start
============================  ============================  =======================  ======================================

(scikit-learn: ``_logistic_regression_path``; cuML: ``python/cuml/cuml/solvers/qn.pyx`` and ``check_convergence`` in
``cpp/src/glm/qn/qn_util.cuh``.) cuML divides the penalty by n and not by m; weights are therefore scaled to the sum n, and λ
with them. None of their rules bounds the gap, which `probe.certificate.meets` asks for as well: where a certificate falls short,
the gradient that they are asked for is lowered and they go on from where they stopped, so that `tol` means the same for all.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.arrays import Array, library_of, to_library, to_numpy
from probe.errors import MissingExtra


@dataclass(frozen=True, eq=False)
class Problem:
    """One softmax or logistic regression, as other libraries are given it.

    Attributes
    ----------
    X : array of shape (n, d), float32 or float64
    codes : numpy.ndarray of shape (n,), int64
        Class numbers 0 … k - 1, or 0 and 1.
    k : int
        Rows of the coefficients: the number of classes, 1 for two.
    weights : numpy.ndarray of shape (n,), float64, or None
    fit_intercept : bool
    """

    X: Array
    codes: np.ndarray
    k: int
    weights: np.ndarray | None
    fit_intercept: bool

    @property
    def mass(self) -> float:
        """What the mean form is divided by."""
        return float(len(self.codes)) if self.weights is None else float(self.weights.sum())


@dataclass(frozen=True, eq=False)
class Answer:
    """What another library returned: ``W`` (k, d) and ``b`` (k,), float64 on the host, after `n_iter` iterations."""

    W: np.ndarray
    b: np.ndarray
    n_iter: int


@dataclass(frozen=True)
class Aim:
    """What is wanted of one fit, and the same in the words of every library.

    Attributes
    ----------
    l2 : float
        λ = 1 / C, in the sum form.
    gradient : float
        ‖∇‖∞ of the mean form to be reached.
    objective : float
        An upper bound of the mean form at the end: its value at the start.
    mass, n : float, int
        What the mean form is divided by, and the number of rows.
    """

    l2: float
    gradient: float
    objective: float
    mass: float
    n: int

    @property
    def sklearn_C(self) -> float:
        """scikit-learn's C, and that of cuML's LogisticRegression without weights."""
        return 1.0 / self.l2

    @property
    def sklearn_tol(self) -> float:
        """scikit-learn's tol."""
        return self.gradient

    @property
    def cuml_l2(self) -> float:
        """cuML's ``l2_strength``, to go with weights of sum n."""
        return self.l2 * self.n / self.mass

    @property
    def cuml_tol(self) -> float:
        """The largest t with ``t · max(F, t) ≤ gradient`` for every F up to `objective`: cuML's tol."""
        by_objective = self.gradient / self.objective if self.objective > 0 else np.inf
        return float(min(by_objective, np.sqrt(self.gradient)))


Fitter = Callable[[Problem, Aim, int, Answer | None], Answer]
"""``fit(problem, aim, max_iter, start)``: one fit by another library, from `start` where it can."""


def fit_sklearn(problem: Problem, aim: Aim, max_iter: int, start: Answer | None = None) -> Answer:
    """One fit by scikit-learn's lbfgs, from a given point.

    Parameters
    ----------
    problem : Problem
        ``X`` may be anything that scikit-learn takes; tensors of a GPU need its ``array_api_dispatch``.
    aim : Aim
    max_iter : int
    start : Answer, optional
        Default: zero.

    Returns
    -------
    Answer
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=aim.sklearn_C, tol=aim.sklearn_tol, max_iter=max_iter, fit_intercept=problem.fit_intercept, warm_start=True
    )
    if start is not None:
        model.coef_, model.intercept_ = start.W, start.b
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the certificate says it, and more exactly
        model.fit(problem.X, problem.codes, sample_weight=problem.weights)
    return _answer(problem, model.coef_, model.intercept_, model.n_iter_)


def fit_cuml(problem: Problem, aim: Aim, max_iter: int, start: Answer | None = None) -> Answer:
    """One fit by cuML's quasi-Newton solver, from zero: what its LogisticRegression does but for `delta`.

    Parameters
    ----------
    problem : Problem
        ``X`` on the host or on a GPU.
    aim : Aim
    max_iter : int
    start : Answer, optional
        Not used: see `cuml_walk`, which goes on from the fit before.

    Returns
    -------
    Answer

    Raises
    ------
    MissingExtra
        When cuML is not installed.
    """
    return cuml_walk()(problem, aim, max_iter, None)


def cuml_walk() -> Fitter:
    """cuML's quasi-Newton solver along a path: every fit starts where the one before ended.

    cuML keeps that point in the solver, and takes no other; `start` tells only whether to keep it.

    Returns
    -------
    callable
        A `Fitter` for the fits of one problem, one after the other.
    """
    solver: Any = None
    dtype: Any = None

    def fit(problem: Problem, aim: Aim, max_iter: int, start: Answer | None = None) -> Answer:
        nonlocal solver, dtype
        X = _for_cuml(problem.X)
        # Until 25.10 cuML went on in the memory of the fit before, whatever was in it: float32 read as float64.
        if solver is None or start is None or dtype != X.dtype:
            dtype = X.dtype
            solver = cuml_part("solvers").QN(
                loss="sigmoid" if problem.k == 1 else "softmax", fit_intercept=problem.fit_intercept, delta=0.0,
                penalty_normalized=True, warm_start=True, output_type="numpy",
            )  # fmt: skip
        solver.set_params(l2_strength=aim.cuml_l2, tol=aim.cuml_tol, max_iter=max_iter)
        solver.fit(X, problem.codes.astype(np.int32), sample_weight=_cuml_weights(problem))
        return _answer(problem, solver.coef_, solver.intercept_, _iterations(solver))

    return fit


def fit_cuml_estimator(problem: Problem, aim: Aim, max_iter: int, start: Answer | None = None) -> Answer:
    """One fit by cuML's LogisticRegression, which always starts from zero: how DINOv2 fits its 45 values.

    Parameters
    ----------
    problem : Problem
        ``X`` on the host or on a GPU.
    aim : Aim
    max_iter : int
    start : Answer, optional
        Not used: the estimator has no warm start.

    Returns
    -------
    Answer

    Raises
    ------
    MissingExtra
        When cuML is not installed.
    """
    model = cuml_part("linear_model").LogisticRegression(
        C=1.0 / aim.cuml_l2,
        tol=aim.cuml_tol,
        max_iter=max_iter,
        fit_intercept=problem.fit_intercept,
        output_type="numpy",
    )
    model.fit(_for_cuml(problem.X), problem.codes.astype(np.int32), sample_weight=_cuml_weights(problem))
    return _answer(problem, model.coef_, model.intercept_, _iterations(model))


def _for_cuml(X: Array) -> Array:
    """Features as cuML is sure to take them: tensors as arrays of numpy or cupy that share their memory."""
    if library_of(X) != "torch":
        return X
    return to_library(X, "cupy" if X.device.type == "cuda" else "numpy")


def _iterations(model: Any) -> Any:
    """How many iterations cuML took; until 25.10 its solver calls them num_iters, until 25.06 the estimator
    has them there only."""
    for holder, name in ((model, "n_iter_"), (model, "num_iters"), (getattr(model, "solver_model", None), "num_iters")):
        if hasattr(holder, name):
            return getattr(holder, name)
    raise AttributeError(f"{type(model).__name__} of this cuML does not say how many iterations it took.")


def _cuml_weights(problem: Problem) -> np.ndarray | None:
    """Weights of sum n, see the conventions."""
    return None if problem.weights is None else problem.weights * (len(problem.codes) / problem.mass)


def _answer(problem: Problem, W: Any, b: Any, n_iter: Any) -> Answer:
    weights = to_numpy(W).astype(np.float64).reshape(problem.k, int(problem.X.shape[1]))
    offset = np.broadcast_to(np.asarray(to_numpy(b), dtype=np.float64).ravel(), (problem.k,))
    return Answer(weights, offset.copy(), int(np.max(to_numpy(n_iter))))


def cuml_part(part: str) -> Any:
    """A part of cuML, which must be installed.

    Parameters
    ----------
    part : str
        "solvers", "linear_model" or "manifold".

    Returns
    -------
    module

    Raises
    ------
    MissingExtra
        Naming the extra.
    """
    try:
        import cuml

        return importlib.import_module(f"{cuml.__name__}.{part}")
    except ImportError as error:
        raise MissingExtra(
            f"backend='cuml', and t-SNE on a GPU, need cuML, which cannot be imported ({error}); install featprobe[cuda12] or "
            "featprobe[cuda13], by the CUDA version of the driver."
        ) from error
