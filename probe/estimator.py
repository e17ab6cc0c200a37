"""The probe as a scikit-learn classifier. The only file that knows scikit-learn; imported when `LinearProbe` is first used."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from probe import folds, metrics, warned
from probe.arrays import Array, as_matrix, like, namespace, require_finite, to_numpy
from probe.errors import BadInput
from probe.grids import C_GRID, named_grid
from probe.joining import rows_of
from probe.labels import Loss, encode, numbers
from probe.metrics import PredictionMetric
from probe.model import Model
from probe.parts import fitter_of, given_splits, pair_of
from probe.path import checked_flag
from probe.reals import NUMBER
from probe.validation import FoldChoice, select_splits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sklearn.utils import Tags

    from probe.metrics import Metric
    from probe.path import Path

_Splits: TypeAlias = "list[tuple[np.ndarray, np.ndarray]]"

_FLOATING = (np.float64, np.float32, np.float16)


def _has_probabilities(probe: LinearProbe) -> bool:
    if probe.loss != Loss.LOGISTIC:
        raise AttributeError(f"A probe of loss {probe.loss!r} has no probabilities; use decision_function to rank.")
    return True


class LinearProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """L2-regularised logistic regression (or a support vector machine) with C chosen along a path, for scikit-learn.

    With one C it is ``probe.fit``. With several it is ``probe.fit_path`` on a part of the rows, the best C on the rest, and
    ``probe.fit`` on all of them at that C.

    Parameters
    ----------
    C : "path", float or array-like of shape (b,)
        Inverse penalty in the sum form, ``C · Σ s_i loss_i + ½ ‖W‖²``. "path" is the 45 values of `probe.C_GRID`; the grids
        of `probe.GRIDS` go by their names; a number is fitted as it is, without `cv`, `metric`, `refit` and `widen`.
    loss : {"logistic", "squared_hinge"}
        "squared_hinge" is the support vector machine of ``probe.svm_path``, which has no `predict_proba`.
    tol : float
        What the certificate of the model must meet, see `probe.fit_path`; tighter than the default there, for scikit-learn asks
        that a row of weight two and the row twice give the same probabilities to seven digits. A path that C is only chosen
        from is fitted to ``10 tol``.
    max_iter : int
        Iterations per value of C.
    fit_intercept : bool
    class_weight : mapping, "balanced" or None
        Weights of the classes in the fits; "balanced" counts all rows, and is then the same for every split.
    cv : float, int, scikit-learn splitter, or iterable of (train rows, validation rows)
        How C is chosen: a fraction is held out, stratified (`probe.select_holdout`); a whole number is that many stratified
        folds (`probe.select_kfold`).
    metric : str, metric or callable
        What is maximised (or minimised, by a metric that says so): a name of `probe.metrics.NAMED`, one of these metrics, or a
        function of (y_true, y_pred). For multi-label data "accuracy" is the share of entries that are right.
    refit : bool
        Whether the model is fitted again on all rows at the chosen C. False keeps the fit that was chosen, which has not seen
        the validation rows; that needs one split.
    widen : bool
        Whether values of C beyond the grid are tried while the best is at its edge; said in a `GridWidened` warning.
    random_state : int, RandomState instance or None
        Seed of the hold-out or the folds. They do not depend on anything else: the default gives the same rows every time.
    device : optional
        Where the features are moved to for the fits, see `probe.fit_path`; the model comes back to where they were.
    backend : {"auto", "numpy", "torch", "cupy", "cuml", "sklearn"}
        Who solves, see `probe.fit_path`.
    n_jobs : int or None
        Processes that folds are dealt to while C is chosen, see `probe.fit_paths`.

    Attributes
    ----------
    coef_ : array of shape (k, d), float64
        One row for binary problems, of ``classes_[1]``. Where `X` lived.
    intercept_ : array of shape (k,), float64
    classes_ : numpy.ndarray
        Sorted labels; for multi-label data the numbers of the columns.
    C_ : float
        The C of this model.
    choice_ : FoldChoice or None
        How it was chosen: every C with its score. None for one C.
    path_ : Path
        The fits along C that it was chosen from: on the rows that were not held out, of the first split where there are
        several (all are in ``choice_.paths``). For one C, its fit on all rows. On `device`, where one is given.
    status_ : Status
    grad_norm_, gap_ : float
        The certificate of this model, see `probe.certificate`.
    n_iter_ : int
    n_features_in_ : int
    feature_names_in_ : numpy.ndarray of shape (d,)
        Only after a fit on a table with names.

    See Also
    --------
    probe.fit_path, probe.select : the same without scikit-learn.

    Notes
    -----
    Rows of weight zero are dropped. Weighted rows count by their weight when C is chosen, too; metrics other than accuracy
    take whole numbers there. Arrays of torch and cupy stay where they are, and so do coefficients and decision values;
    predicted labels are numpy's.

    Examples
    --------
    >>> import probe
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = probe.LinearProbe(C=[0.01, 0.1, 1.0, 10.0]).fit(X, y)
    >>> clf.status_.value, clf.path_.coef.shape
    ('converged', (4, 3, 4))
    """

    coef_: Array
    intercept_: Array
    classes_: np.ndarray
    n_features_in_: int

    def __init__(
        self,
        C: str | float | Any = "path",
        *,
        loss: str = "logistic",
        tol: float = 1e-7,
        max_iter: int = 1000,
        fit_intercept: bool = True,
        class_weight: Any = None,
        cv: float | int | Iterable[tuple[Any, Any]] | Any = 0.2,
        metric: str | Metric | Callable[[Any, Any], float] = "accuracy",
        refit: bool = True,
        widen: bool = False,
        random_state: Any = 0,
        device: Any = None,
        backend: str = "auto",
        n_jobs: int | None = None,
    ) -> None:
        self.C = C
        self.loss = loss
        self.tol = tol
        self.max_iter = max_iter
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.cv = cv
        self.metric = metric
        self.refit = refit
        self.widen = widen
        self.random_state = random_state
        self.device = device
        self.backend = backend
        self.n_jobs = n_jobs

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LinearProbe:
        """Fit, choosing C where several are given.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Anything that `probe.fit_path` takes, or a table.
        y : array-like of shape (n,), or (n, k) of 0 and 1
        sample_weight : array-like of shape (n,), optional

        Returns
        -------
        LinearProbe
            Itself.

        Raises
        ------
        BadInput
            As `probe.fit_path` and `probe.select_splits`; parameters that mean nothing.

        Warns
        -----
        NotConverged
            Naming every C whose certificate falls short of `tol`.
        """
        for name in ("refit", "widen"):
            checked_flag(name, getattr(self, name))
        A = self._features(X, is_new=True)
        labels = _labels(y)
        weight = _weights(sample_weight, int(A.shape[0]))
        every_label, kept = labels, None
        if weight is not None and len(labels) == len(weight) and (weight == 0).any() and (weight > 0).any():
            kept = np.flatnonzero(weight)
            A, labels, weight = rows_of(A, kept), labels[kept], weight[kept]
        in_fits = encode(labels, int(A.shape[0]), weight, self.class_weight).weights
        grid, fitter = self._grid(), self._fitter()
        self.choice_: FoldChoice | None = None
        if grid is None:
            self.path_ = fitter(A, labels, [self.C], sample_weight=in_fits, **self._options())
            return self._keep(self.path_.model(0), A)
        splits = self._splits(labels, every_label, kept)
        self.choice_ = self._choose(A, labels, grid, splits, in_fits, weight)
        self.path_ = self.choice_.paths[0]
        if not self.refit:
            return self._keep(self.path_.model(self.choice_.index), A)
        whole = fitter(A, labels, [self.choice_.C], sample_weight=in_fits, **self._options())
        return self._keep(whole.model(0), A)

    def decision_function(self, X: Any) -> Array:
        """Decision values, shape (n, k), or (n,) for binary problems, float64."""
        return self._model().decision_function(self._features(X))

    def predict(self, X: Any) -> np.ndarray:
        """Labels, shape (n,); (n, k) of 0 and 1 after a fit on multi-label data."""
        return self._model().predict(self._features(X))

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]  # scikit-learn has no types
    def predict_proba(self, X: Any) -> Array:
        """Probabilities, shape (n, k), in the order of ``classes_``; per label after a fit on multi-label data."""
        return self._model().predict_proba(self._features(X))

    def _model(self) -> Model:
        check_is_fitted(self)
        return self.model_

    def _keep(self, model: Model, A: Array) -> LinearProbe:
        if self.device is not None:
            double = namespace(A).float64
            home = [like(A, to_numpy(x), double) for x in (model.coef, model.intercept)]
            model = replace(model, coef=home[0], intercept=home[1])
        self.model_ = model
        self.coef_, self.intercept_, self.classes_ = model.coef, model.intercept, model.classes
        self.C_, self.status_, self.n_iter_ = model.C, model.status, model.n_iter
        self.grad_norm_, self.gap_ = model.grad_norm, model.gap
        return self

    def _options(self) -> dict[str, Any]:
        return {
            "fit_intercept": self.fit_intercept, "tol": self.tol, "max_iter": self.max_iter, "device": self.device,
            "backend": self.backend,
        }  # fmt: skip

    def _options_of_choice(self) -> dict[str, Any]:
        options = self._options()
        if self.refit and isinstance(self.tol, NUMBER) and 0 < self.tol < 0.1:
            options["tol"] = 10 * self.tol
        return options

    def _fitter(self) -> Callable[..., Path]:
        losses = (Loss.LOGISTIC, Loss.SQUARED_HINGE)
        if self.loss not in losses:
            raise BadInput(f"loss is {self.loss!r}; known are {', '.join(repr(str(loss)) for loss in losses)}.")
        return fitter_of(Loss(self.loss))

    def _grid(self) -> Any:
        """The grid to choose from, or None for one C."""
        if isinstance(self.C, str):
            return C_GRID if self.C == "path" else named_grid(self.C)
        return None if np.ndim(self.C) == 0 else self.C

    def _choose(
        self,
        A: Array,
        y: np.ndarray,
        grid: Any,
        splits: _Splits,
        weight: np.ndarray | None,
        val_weight: np.ndarray | None,
    ) -> FoldChoice:
        if not self.refit and len(splits) > 1:
            raise BadInput(
                f"refit is False, but C is chosen on {len(splits)} splits, each with a fit of its own, and none of them is "
                "the model; set refit=True, or hold out a fraction with cv=0.2."
            )
        rule = metrics.get(self.metric) if isinstance(self.metric, str) else metrics.as_metric(self.metric)
        if y.ndim == 2 and rule is metrics.accuracy:
            rule = PredictionMetric("accuracy of entries", _entries)
        return select_splits(
            A, y, splits, grid, fit=self._fitter(), metric=rule, sample_weight=weight, val_weight=val_weight, widen=self.widen,
            n_jobs=self.n_jobs, **self._options_of_choice(),
        )  # fmt: skip

    def _splits(self, y: np.ndarray, every_y: np.ndarray, kept: np.ndarray | None) -> _Splits:
        """Splits of the rows that are kept; one's own are numbers of all rows."""
        cv = self.cv
        if isinstance(cv, bool | str) or cv is None:
            raise BadInput(
                f"cv is {cv!r}; give a fraction to hold out (0.2), a number of folds (5), a splitter, or splits."
            )
        if isinstance(cv, float | np.floating):
            return folds.splits(folds.holdout(y, float(cv), seed=self._seed()))
        if isinstance(cv, int | np.integer):
            return folds.splits(folds.kfold(y, int(cv), seed=self._seed()))
        given = list(cv.split(np.zeros((len(every_y), 1)), every_y) if hasattr(cv, "split") else given_splits(cv))
        given = [pair_of(split, i) for i, split in enumerate(given)]
        return given if kept is None else folds.among(kept, len(every_y), given)

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _features(self, X: Any, is_new: bool = False) -> Array:
        """Features at the door: arrays of torch and cupy as they are, everything else by scikit-learn's checks."""
        module = type(X).__module__.partition(".")[0]
        if module in {"torch", "cupy"} or (hasattr(X, "blocks") and hasattr(X, "ids")):
            A = as_matrix(X)
            if is_new:
                self.n_features_in_ = int(A.shape[1])
        else:
            A = validate_data(self, X, reset=is_new, dtype=_FLOATING, ensure_all_finite=False)
        require_finite(A)
        return A


def _labels(y: Any) -> np.ndarray:
    if y is None:
        raise BadInput("LinearProbe requires y to be passed, but the target y is None: it learns from labels.")
    labels = np.asarray(to_numpy(y) if hasattr(y, "shape") else y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        warned.say(
            "A column-vector y was passed when a 1d array was expected. Please change the shape of y to (n_samples,), for "
            "example using ravel().",
            DataConversionWarning,
        )
        return labels[:, 0]
    return labels


def _weights(sample_weight: Any, n: int) -> np.ndarray | None:
    if sample_weight is None:
        return None
    weight = numbers(sample_weight, "sample_weight")
    weight = np.full(n, float(weight)) if weight.ndim == 0 else weight
    if weight.shape != (n,):
        raise BadInput(
            f"sample_weight has shape {weight.shape} but X has {n} rows: sample_weight.shape must be ({n},)."
        )
    return weight


def _entries(y_true: Array, y_pred: Array) -> float:
    return float(np.mean(to_numpy(y_true) == to_numpy(y_pred)))
