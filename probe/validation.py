"""Choosing C without validation data of one's own: hold-out and k-fold selection; widening a grid that was too short."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from probe import folds, metrics
from probe.arrays import as_matrix, rectangular
from probe.backends import check_backend
from probe.errors import BadInput
from probe.grids import C_GRID
from probe.joining import joined, reordered
from probe.parts import Given, Part, fit_all, fitter_of, parts_of
from probe.path import Path, checked_flag, fit_path, grid_of
from probe.selection import Choice
from probe.sources import can_stay, streamed
from probe.widening import DECADES, Searched, say, search

if TYPE_CHECKING:
    from probe.metrics import Metric


@dataclass(frozen=True, eq=False)
class FoldChoice(Choice):
    """The penalty chosen by fitting on one part of the rows and scoring on the rest, once or several times.

    Attributes
    ----------
    C, index, scores, at_edge
        As in `Choice`; the scores are the mean over the splits, every split counted once.
    grid : numpy.ndarray of shape (b,), float64
        The values of C that the scores belong to; longer than what was asked for, and ascending, when it was widened.
    split_scores : numpy.ndarray of shape (s, b), float64
        The metric of every split.
    paths : tuple of Path
        The fits of every split.
    sentence : str
        What a widened grid was extended by, and why; else empty.
    """

    grid: np.ndarray
    split_scores: np.ndarray
    paths: tuple[Path, ...]
    sentence: str


def select_holdout(
    X: Any, y: Any, C: Any = C_GRID, *, fraction: float = 0.2, seed: int = 0, ids: Any = None, **options: Any
) -> FoldChoice:
    """Choose C on a stratified hold-out, see `probe.folds.holdout`.

    Parameters
    ----------
    X : array-like of shape (n, d)
    y : array-like of shape (n,) or (n, k)
    C : array-like of shape (b,)
    fraction : float
        Of the rows of every class, held out.
    seed : int
    ids : array-like of shape (n,), optional
        Names of the rows, by which they are drawn: the same rows on every machine and in every order.
    **options
        Those of `select_splits`.

    Returns
    -------
    FoldChoice
        ``paths[0]`` is the path fitted on the rest. Refit with ``probe.fit(X, y, C=choice.C)``.

    Raises
    ------
    BadInput
    """
    held = folds.holdout(y, fraction, seed=seed, ids=ids)
    return select_splits(X, y, folds.splits(held), C, **options)


def select_kfold(
    X: Any, y: Any, C: Any = C_GRID, *, n_folds: int = 5, seed: int = 0, ids: Any = None, **options: Any
) -> FoldChoice:
    """Choose C by stratified k-fold cross-validation, see `probe.folds.kfold`.

    Parameters
    ----------
    X : array-like of shape (n, d)
    y : array-like of shape (n,) or (n, k)
    C : array-like of shape (b,)
    n_folds : int
    seed : int
    ids : array-like of shape (n,), optional
        Names of the rows, by which they are dealt: the same folds on every machine and in every order.
    **options
        Those of `select_splits`.

    Returns
    -------
    FoldChoice
        Refit with ``probe.fit(X, y, C=choice.C)``: in the sum form C is kept though the rows are more.

    Raises
    ------
    BadInput

    Examples
    --------
    >>> import numpy as np, probe
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]])
    >>> choice = probe.select_kfold(X, [0, 0, 0, 1, 1, 1], [0.01, 1.0], n_folds=3)
    >>> choice.split_scores.shape
    (3, 2)
    """
    held = folds.kfold(y, n_folds, seed=seed, ids=ids)
    return select_splits(X, y, folds.splits(held), C, **options)


def select_splits(
    X: Any,
    y: Any,
    splits: Iterable[tuple[Any, Any]],
    C: Any = C_GRID,
    *,
    fit: Callable[..., Path] = fit_path,
    metric: Metric | Callable[[Any, Any], float] | None = None,
    sample_weight: Any = None,
    val_weight: Any = None,
    widen: bool = False,
    device: Any = None,
    memory: float | Literal["auto"] | None = None,
    n_jobs: int | None = None,
    **options: Any,
) -> FoldChoice:
    """Choose C by the mean of a metric over splits of the rows; on a tie the strongest penalty.

    Parameters
    ----------
    X : array-like of shape (n, d)
    y : array-like of shape (n,) or (n, k)
    splits : iterable of (train rows, validation rows)
        Row numbers or boolean masks, as scikit-learn's splitters give them.
    C : array-like of shape (b,)
    fit : callable
        What fits a path: `fit_path`, `svm_path`, `ridge_path`, or a function with their first three arguments.
    metric : metric or callable, optional
        As in `probe.select`. Default: accuracy.
    sample_weight : array-like of shape (n,), optional
        Weights in the fits.
    val_weight : array-like of shape (n,), optional
        Weights in the metric. Accuracy takes any; for other metrics a weight is a number of repetitions.
    widen : bool
        Whether values beyond the grid are tried while the best one lies at its edge, see `probe.widening.search`.
    device : optional
        Moves `X`, once for all splits, and with it the answers, see `fit_path`.
    memory : float or "auto", optional
        As in `fit_path`: features of a store or a dask array that take more bytes are never loaded whole. Folds that are fitted
        together share every reading of them.
    n_jobs : int, optional
        Processes that the splits are dealt to, see `probe.fit_paths`.
    **options
        Those of `fit`: class_weight, fit_intercept, tol, max_iter, backend.

    Returns
    -------
    FoldChoice

    Raises
    ------
    BadInput
        As `fit_path` and `select`; splits without rows; weights that the metric cannot take.

    Warns
    -----
    GridWidened
        Naming what was added.
    """
    check_backend(options.get("backend", "auto"), device)
    if not callable(fit):
        raise BadInput(f"fit is {fit!r}, but must be a function that fits a path: fit_path, svm_path, ridge_path.")
    grid, widen = grid_of(C), checked_flag("widen", widen)
    rule = metrics.as_metric(metrics.accuracy if metric is None else metric)
    stays = _stays(X, memory, device)
    if stays:
        if "memory" not in inspect.signature(fit).parameters:
            name = getattr(fit, "__name__", repr(fit))
            raise BadInput(
                f"memory is {memory!r}, but {name} has no such option: it needs all features loaded. Leave memory out, or fit "
                "with fit_path, svm_path or ridge_path."
            )
        options = {**options, "memory": memory, "device": device}
    options["n_jobs"] = n_jobs
    A = X if stays else as_matrix(X, device)
    parts = parts_of(A, rectangular(y, "y"), splits, rule, sample_weight, val_weight, fit, memory)
    paths = fit_all(parts, grid, options)
    paths, scores, found = _search(parts, paths, options, DECADES if widen else 0.0)
    say(found)
    mean = scores.mean(axis=0)
    return FoldChoice(
        float(found.C[found.index]), found.index, mean, found.at_edge, found.C, scores, tuple(paths), found.sentence
    )


def _stays(X: Any, memory: Any, device: Any) -> bool:
    """Whether features are left where they are, for the functions that fit to load or to stream."""
    if isinstance(memory, str) and memory == "auto":
        return can_stay(X)
    return streamed(X, memory, device) is not None


@dataclass(frozen=True, eq=False)
class Widened:
    """A path whose grid was extended as far as its best C asked for.

    Attributes
    ----------
    path : Path
        Every fit, in ascending order of C when some were added.
    choice : Choice
        Of that path.
    sentence : str
        What was added, and why; empty when the best C was not at an edge.
    """

    path: Path
    choice: Choice
    sentence: str


def widen(
    path: Path,
    X: Any,
    y: Any,
    *,
    X_val: Any,
    y_val: Any,
    metric: Metric | Callable[[Any, Any], float] | None = None,
    decades: float = DECADES,
    **options: Any,
) -> Widened:
    """Extend a path while the best C on validation data lies at the edge of its grid.

    Parameters
    ----------
    path : Path
    X, y : array-like
        What the path was fitted on.
    X_val, y_val : array-like
        What C is chosen on.
    metric : metric or callable, optional
        As in `probe.select`.
    decades : float
        How far beyond the grid, at most.
    **options
        Those that the path was fitted with: sample_weight, class_weight, fit_intercept, tol, max_iter, device, backend, memory.

    Returns
    -------
    Widened

    Raises
    ------
    BadInput
        As `fit_path` and `select`; rows of another width or labels of other classes than the path's.

    Warns
    -----
    GridWidened
        Naming what was added.

    Examples
    --------
    >>> import numpy as np, probe, warnings
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0], [9.0]]), [0, 0, 1, 1, 1]
    >>> path = probe.fit_path(X, y, [1e-6, 1e-5])
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", probe.GridWidened)
    ...     wide = probe.widen(path, X, y, X_val=X, y_val=y)
    >>> wide.choice.at_edge, len(wide.path) > 2
    (False, True)
    """
    wide, found = _widened(path, X, y, X_val, y_val, metric, decades, options)
    say(found)
    return wide


def widened(
    path: Path,
    X: Any,
    y: Any,
    *,
    X_val: Any,
    y_val: Any,
    metric: Metric | Callable[[Any, Any], float] | None = None,
    decades: float = DECADES,
    **options: Any,
) -> Widened:
    """As `widen`, for callers that say themselves what was added: there is no warning."""
    return _widened(path, X, y, X_val, y_val, metric, decades, options)[0]


def _widened(
    path: Path, X: Any, y: Any, X_val: Any, y_val: Any, metric: Any, decades: float, options: dict[str, Any]
) -> tuple[Widened, Searched]:
    if not decades >= 0:
        raise BadInput(f"decades is {decades}, but how far to look beyond the grid cannot be negative.")
    rule = metrics.as_metric(metrics.accuracy if metric is None else metric)
    part = Given(X, y, X_val, y_val, rule, fitter_of(path.loss), options.get("memory"))
    paths, scores, found = _search([part], [path], options, decades)
    choice = Choice(float(found.C[found.index]), found.index, scores[0], found.at_edge)
    return Widened(paths[0], choice, found.sentence), found


def _search(
    parts: Sequence[Part | Given], paths: list[Path], options: dict[str, Any], decades: float
) -> tuple[list[Path], np.ndarray, Searched]:
    """Score the paths, extend them where that is wanted, and put everything into one order."""
    sign = 1.0 if parts[0].rule.higher_is_better else -1.0
    scores = np.array([part.scores(path) for part, path in zip(parts, paths, strict=True)])

    def more(values: np.ndarray) -> np.ndarray:
        nonlocal scores
        fresh = fit_all(parts, values, options)
        new = np.array([part.scores(path) for part, path in zip(parts, fresh, strict=True)])
        paths[:] = [joined(old, path) for old, path in zip(paths, fresh, strict=True)]
        scores = np.concatenate([scores, new], axis=1)
        ranked: np.ndarray = sign * new.mean(axis=0)
        return ranked

    found = search(paths[0].C, sign * scores.mean(axis=0), more, decades)
    if found.added:
        paths = [reordered(path, found.order) for path in paths]
    return paths, scores[:, found.order], found
