"""Many problems over the same features in one call: label sets, folds, few-shot subsets and seeds advance together.

Problems with as many classes are lanes of one batch. Where they share most of their rows, the batch is one matrix, and the
rows a problem leaves out have weight zero in its lane; small subsets of many rows are a small matrix for each lane.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NoReturn

import numpy as np

from probe.arrays import Array, as_matrix, require_finite
from probe.design import Design, Subsets, Whole
from probe.errors import BadInput, Interrupted
from probe.exactness import exact
from probe.grids import C_GRID
from probe.joining import rows_of
from probe.labels import Labels, Task
from probe.memory import allowing, said
from probe.path import Path, checked_flag, grid_of, options_of, path_of, warn
from probe.several import Problem, groups_of, problems_of
from probe.solver import PathSolver
from probe.sources import RowSource, streamed
from probe.status import Status
from probe.streamed import Streamed
from probe.threads import threads_for
from probe.wide import Wide, is_wide
from probe.workers import at_once, dealt, n_workers

_APART = 0.5  # of the entries: below this, a matrix for each lane beats one for all


def fit_paths(
    X: Any,
    y: Any,
    C: Any = C_GRID,
    *,
    rows: Sequence[Any] | None = None,
    sample_weight: Any = None,
    class_weight: Any = None,
    fit_intercept: bool = True,
    tol: float = 1e-6,
    max_iter: int = 1000,
    device: Any = None,
    memory: float | Literal["auto"] | None = None,
    n_jobs: int | None = None,
) -> tuple[Path, ...]:
    """Fit several problems over the same features along a grid of penalties, sharing every pass over X.

    Problem p is ``fit_path(X[rows[p]], y[p][rows[p]], C)``, with the same certificate; only the work is shared: the rotation
    of the features, every product with them, and the overhead.

    Parameters
    ----------
    X : array-like of shape (n, d)
        As in `fit_path`.
    y : array-like, or list or tuple of array-like
        One label set, (n,) or (n, k) as in `fit_path`, or a list of them: one for each problem.
    C : array-like of shape (b,)
    rows : sequence of array-like, optional
        Numbers of the rows of each problem (or masks): folds, few-shot subsets, seeds, bootstraps. A row that stands twice
        counts twice. None: all rows for every problem.
    sample_weight : array-like of shape (n,), or (n, k) for multi-label data, optional
        The same for every problem.
    class_weight : mapping or "balanced", optional
        "balanced" counts the rows of each problem.
    fit_intercept, tol, max_iter, device, memory
        As in `fit_path`; streamed features are read whole for every problem, unless the rows of all problems together fit:
        then these are loaded.
    n_jobs : int, optional
        Processes that the problems are dealt to, as in scikit-learn: -1 is one for every processor, None is one (or what
        `joblib.parallel_config` says, of which the number counts and not the backend). Each has its share of the processors for
        its products; the rotation is still made once. For features in numpy. The first call with it waits about a second for
        the processes to start.

    Returns
    -------
    tuple of Path
        In the order of the problems; `seconds` is the time of the batch a problem was in, and `reads` its products with X.

    Raises
    ------
    BadInput
        As `fit_path`; where `y` and `rows` are lists of different length; `n_jobs` for features that processes cannot share.
    Interrupted
        On Ctrl-C once a penalty is solved for all problems of a batch; `paths` holds what is finished, None where nothing is.

    Warns
    -----
    NotConverged
        Once for every problem with fits that fall short.

    Examples
    --------
    >>> import numpy as np, probe
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> one, other = probe.fit_paths(X, [["a", "a", "b", "b"], ["a", "b", "b", "b"]], C=[0.1, 1.0])
    >>> one.predict(X)[1].tolist(), other.predict(X)[1].tolist()
    (['a', 'a', 'b', 'b'], ['b', 'b', 'b', 'b'])
    """
    grid, options = grid_of(C), options_of(tol, max_iter)
    fit_intercept = checked_flag("fit_intercept", fit_intercept)
    found: dict[int, Path] = {}
    problems: list[Problem] = []

    def attempt(allowed: float | None) -> None:
        with said(X, y, device):
            source = streamed(X, allowed, device)
            A = as_matrix(X, device) if source is None else source
            problems[:] = problems_of(y, rows, int(A.shape[0]), sample_weight, class_weight)
            if source is not None:
                A, problems[:] = _gathered(X, source, problems, device)
            with exact(A.example if isinstance(A, RowSource) else A):
                for group in groups_of(problems):
                    _solve(A, group, grid, fit_intercept, options, found, n_workers(n_jobs, A, len(group)))
                    if len(group) > 1 and not isinstance(A, RowSource):
                        _solve_again(A, group, grid, fit_intercept, options, found)

    try:
        allowing(attempt, X, memory)
    except KeyboardInterrupt:
        if not found:
            raise
        _interrupt(found, len(problems))
    paths = tuple(found[p.number] for p in problems)
    for path in paths:
        warn(path)
    return paths


@dataclass(frozen=True, eq=False)
class _Team:
    """Problems that advance together, and what makes their features and labels."""

    problems: list[Problem]
    make: Callable[[list[Problem]], tuple[Design, Labels]]


def _solve(
    A: Array, group: list[Problem], grid: np.ndarray, fit_intercept: bool, options: dict[str, Any],
    found: dict[int, Path], n_processes: int,
) -> None:  # fmt: skip
    """Solve a batch and add its paths to those found; on Ctrl-C as many penalties as it came to, as they are."""
    started = time.perf_counter()
    unique, where = np.unique(grid, return_inverse=True)
    teams = _teams(A, group, fit_intercept, n_processes)
    tasks = [(team, unique, where, fit_intercept, options) for team in teams]
    results, was_stopped = at_once(_walk, tasks) if len(tasks) > 1 else ([_walk(*tasks[0])], False)
    seconds = time.perf_counter() - started
    for paths, _ in results:
        found |= {number: replace(path, seconds=seconds) for number, path in paths.items()}
    if was_stopped or any(is_stopped for _, is_stopped in results):
        raise KeyboardInterrupt


def _solve_again(
    A: Array, group: list[Problem], grid: np.ndarray, fit_intercept: bool, options: dict[str, Any],
    found: dict[int, Path],
) -> None:  # fmt: skip
    """Solve alone what rounding has ended in company.

    The rotation is that of the rows of all problems. Where one of them has a row very far away, the coordinates of those
    without it are small differences of large numbers; over their own rows they are not.
    """
    for problem in group:
        first = found[problem.number]
        if problem.rows is None or Status.PRECISION not in first.status:
            continue
        alone: dict[int, Path] = {}
        _solve(A, [problem], grid, fit_intercept, options, alone, 1)
        path = alone[problem.number]
        reads, seconds = first.reads + path.reads, first.seconds + path.seconds
        better = path if path.status.count(Status.CONVERGED) > first.status.count(Status.CONVERGED) else first
        found[problem.number] = replace(better, reads=reads, seconds=seconds)


def _walk(
    team: _Team, unique: np.ndarray, where: np.ndarray, fit_intercept: bool, options: dict[str, Any],
    is_stopped: Callable[[], bool] | None = None,
) -> tuple[dict[int, Path], bool]:  # fmt: skip
    """The paths of a team, by the numbers of its problems, and whether it was stopped before the last penalty."""
    design, labels = team.make(team.problems)
    small = (
        threads_for(design.example, labels.k * labels.n_lanes) if isinstance(design, Whole | Subsets) else nullcontext()
    )
    with small:
        solver = PathSolver(design, labels, fit_intercept, **options)
        try:
            solver.walk(1.0 / unique, is_stopped)
            return _paths(solver, team.problems, unique, where, True), False
        except KeyboardInterrupt:
            return _paths(solver, team.problems, unique, where, False), True


def _interrupt(found: dict[int, Path], n: int) -> NoReturn:
    kept = [found.get(i) for i in range(n)]
    n_fits = sum(len(path) for path in found.values())
    raise Interrupted(
        f"Interrupted after {n_fits} fits of {len(found)} of {n} problems; they are in the attribute `paths` of this error, "
        "certified.",
        next(iter(found.values())),
        kept,
    ) from None


def _paths(
    solver: PathSolver, group: list[Problem], unique: np.ndarray, where: np.ndarray, is_whole: bool
) -> dict[int, Path]:
    """The paths of a batch that was solved, or of as many penalties as it came to."""
    if solver.n_done == 0:
        return {}
    n_done = solver.n_done
    certified = solver.certified(repair=is_whole)
    found, begin = {}, 0
    for problem in group:
        lanes = slice(begin, begin + problem.labels.n_lanes)
        solution = certified.solution(lanes)
        grid = unique[:n_done], where[where < n_done]
        found[problem.number] = path_of(solution, *grid, problem.labels, 0.0)  # `_solve` knows the seconds
        begin = lanes.stop
    return found


def _teams(A: Array, group: list[Problem], fit_intercept: bool, n: int) -> list[_Team]:
    """Problems that advance together, dealt to so many processes, and how their features and labels are made."""
    if isinstance(A, RowSource):
        return [_Team(group, partial(_from_blocks, A, fit_intercept))]
    n_rows, d = (int(s) for s in A.shape)
    every = np.arange(n_rows)
    subsets = [every if p.rows is None else p.rows for p in group]
    union = every if any(p.rows is None for p in group) else np.unique(np.concatenate(subsets))
    longest = max(len(rows) for rows in subsets)
    make: Callable[[list[Problem]], tuple[Design, Labels]]
    if len(group) > 1 and longest * min(longest, d) < _APART * len(union) * min(len(union), d):
        make = partial(_apart, A, fit_intercept)
    elif len(group) == 1:
        make = partial(_alone, _whole(A, group[0].rows, fit_intercept))
    else:
        make = partial(_joined, _whole(A, None if len(union) == n_rows else union, fit_intercept), union)
    return [_Team([group[i] for i in place], make) for place in dealt([p.labels.n_lanes for p in group], n)]


def _alone(design: Whole, problems: list[Problem]) -> tuple[Design, Labels]:
    """One problem over its rows."""
    return design, problems[0].labels


def _joined(design: Whole, union: np.ndarray, problems: list[Problem]) -> tuple[Design, Labels]:
    """Problems over the rows of all of them."""
    every = np.arange(len(union))
    parts = [(p.labels, every if p.rows is None else np.searchsorted(union, p.rows)) for p in problems]
    return design, _merged(parts, len(union))


def _gathered(
    X: Any, source: RowSource, problems: list[Problem], device: Any
) -> tuple[Array | RowSource, list[Problem]]:
    """The rows of all problems, loaded, where these fit: a few subsets of very many rows. Else everything as it is."""
    n, d = source.shape
    subsets = [np.arange(n) if p.rows is None else p.rows for p in problems]
    union = np.unique(np.concatenate(subsets))
    if len(union) * d * source.dtype.itemsize > source.memory:
        return source, problems
    A = as_matrix(rows_of(X, union), device)
    require_finite(A, names=union, n_all=n)
    return A, [replace(p, rows=np.searchsorted(union, mine)) for p, mine in zip(problems, subsets, strict=True)]


def _from_blocks(A: RowSource, fit_intercept: bool, problems: list[Problem]) -> tuple[Design, Labels]:
    """Rows that are read for every product: all of them, as every problem reads them with the others."""
    n, d = A.shape
    labels = _merged([(p.labels, np.arange(n) if p.rows is None else p.rows) for p in problems], n)
    return Wide(A, fit_intercept) if is_wide(n, d) else Streamed(A, fit_intercept), labels


def _whole(A: Array, rows: np.ndarray | None, fit_intercept: bool) -> Whole:
    """Some rows as a design; those that hold NaN are named as in X."""
    X = A if rows is None else rows_of(A, rows)
    try:
        return Whole(X, fit_intercept)
    except BadInput:
        require_finite(X, names=rows, n_all=None if rows is None else int(A.shape[0]))
        raise


def _apart(A: Array, fit_intercept: bool, problems: list[Problem]) -> tuple[Design, Labels]:
    """A matrix for each problem."""
    subsets = [np.arange(int(A.shape[0])) if p.rows is None else p.rows for p in problems]
    designs = []
    for problem, rows in zip(problems, subsets, strict=True):
        designs.extend([_whole(A, rows, fit_intercept)] * problem.labels.n_lanes)
    parts = [(p.labels, np.arange(len(rows))) for p, rows in zip(problems, subsets, strict=True)]
    return Subsets(designs), _merged(parts, max(len(rows) for rows in subsets))


def _merged(parts: list[tuple[Labels, np.ndarray]], n: int) -> Labels:
    """Labels of all lanes over n rows; the rows that a problem does not have get weight zero."""
    codes, weights = [], []
    for labels, place in parts:
        own = np.zeros((labels.n_lanes, n), dtype=np.int64)
        own[:, place] = labels.codes
        weight = np.zeros((labels.n_lanes, n))
        weight[:, place] = 1.0 if labels.weights is None else labels.weights
        codes.append(own)
        weights.append(weight)
    first = parts[0][0]
    task = Task.MULTINOMIAL if first.k > 1 else Task.MULTILABEL
    weight = np.concatenate(weights)
    return replace(
        first, task=task, codes=np.concatenate(codes), weights=None if (weight == 1.0).all() else weight,
        classes=np.arange(first.k),
    )  # fmt: skip
