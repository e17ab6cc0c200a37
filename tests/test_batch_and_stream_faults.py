"""Faults that problems in one call and features larger than memory once had, each with what brought it to light."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import probe
from probe import batch, memory, minimize, streamed
from probe.certificate import intercept_step
from probe.design import Whole
from probe.errors import BadInput
from probe.labels import encode
from probe.newton import Newton
from probe.solver import PathSolver
from probe.sources import source_of
from probe.stopping import stopping_rule
from probe.streamed import Streamed

GRID = np.logspace(-4, 1, 6)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32), y


def relative(a: probe.Path, b: probe.Path) -> float:
    return float(np.abs(a.objective / b.objective - 1).max())


# Problems in one call


def test_sample_weights_are_of_all_rows(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """Weights of other lengths were indexed by row number: an IndexError, or, where long enough, silently taken."""
    X, y = digits
    for short in (50, 200):
        with pytest.raises(BadInput, match=rf"sample_weight has shape \({short},\) but X has 1797 rows"):
            probe.fit_paths(X, y, GRID, rows=[np.arange(100)], sample_weight=np.ones(short) * 2)
    one, _ = probe.fit_paths(X, y, GRID, rows=[np.arange(100), np.arange(200)], sample_weight=2.0)
    assert relative(one, probe.fit_path(X[:100], y[:100], GRID, sample_weight=2.0)) < 1e-5


@pytest.mark.parametrize("y", [None, 3])
def test_labels_that_are_none_are_refused(digits: tuple[np.ndarray, np.ndarray], y: Any) -> None:
    X, labels = digits
    with pytest.raises(BadInput, match="label set 0 is no list of labels"):
        probe.fit_paths(X, y, GRID, rows=[np.arange(100)])
    with pytest.raises(BadInput, match="Problem 1 of 2"):
        probe.fit_paths(X, [labels, y], GRID)


def test_a_table_of_lists_is_one_multilabel_problem(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """What `fit_path` takes for one label set is not n label sets of k labels."""
    X, y = digits
    table = (y[:, None] == np.arange(3)).astype(int)
    (found,) = probe.fit_paths(X, table.tolist(), GRID)
    assert relative(found, probe.fit_path(X, table, GRID)) < 1e-5
    assert len(probe.fit_paths(X, [y.tolist(), (y % 2).tolist()], [0.1])) == 2


@pytest.mark.parametrize("others", [[], [np.arange(100)], [np.arange(100), np.arange(1000, 1060)]])
def test_bad_features_are_named_by_their_rows_in_x(
    digits: tuple[np.ndarray, np.ndarray], others: list[np.ndarray]
) -> None:
    """They were named by their place in the subset, or in the union of all."""
    X, y = digits
    bad = X.copy()
    bad[700, 3] = np.nan
    with pytest.raises(BadInput, match=r"1 of 1797 rows \(first 700\) and 1 of 64 columns \(first 3\)"):
        probe.fit_paths(bad, y, GRID, rows=[np.arange(690, 750), *others])


def test_ctrl_c_between_and_after_batches_keeps_what_is_finished(
    digits: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Ctrl-C while a batch was certified, or the next one prepared, lost every fit."""
    X, y = digits
    certified, calls = PathSolver.certified, []

    def interrupted_once(self: Any, repair: bool = True) -> Any:
        calls.append(repair)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return certified(self, repair)

    with monkeypatch.context() as patch:
        patch.setattr(PathSolver, "certified", interrupted_once)
        with pytest.raises(probe.Interrupted) as stop:
            probe.fit_paths(X, [y, y % 2], GRID)
    assert calls == [True, False]
    assert [p is None for p in stop.value.paths] == [False, True]
    first = stop.value.paths[0]
    assert first is not None
    assert relative(first, probe.fit_path(X, y, GRID)) < 1e-5

    made, designs = batch._teams, []

    def interrupted_second(*arguments: Any) -> Any:
        designs.append(arguments)
        if len(designs) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return made(*arguments)

    monkeypatch.setattr(batch, "_teams", interrupted_second)
    with pytest.raises(probe.Interrupted, match="6 fits of 1 of 2 problems"):
        probe.fit_paths(X, [y, y % 2], GRID)


def test_out_of_memory_counts_every_label_set(
    digits: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Label sets of several shapes broke the sentence itself; two of n rows were taken for n classes."""
    X, y = digits

    def full(*_: Any) -> None:
        raise MemoryError("Unable to allocate")

    monkeypatch.setattr(batch, "Whole", full)
    table = (y[:, None] == np.arange(3)).astype(int)
    for labels, k in (([y, y], 20), ([y, table], 13), ([y.tolist(), y % 2], 12), (table.tolist(), 3)):
        with pytest.raises(probe.OutOfMemory, match=f"with {k} classes"):
            probe.fit_paths(X, labels, GRID)
    assert memory.needed_bytes(1797, 64, 20) > memory.needed_bytes(1797, 64, 10)


def test_the_warning_of_several_problems_points_at_the_caller(digits: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = digits
    with pytest.warns(probe.NotConverged) as said:
        probe.fit_paths(X, [y, y % 2], [1e4], max_iter=1)
    assert {one.filename for one in said} == {__file__}


# The minimiser and the walk


def test_a_lane_without_a_direction_does_not_stop_the_others(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """One direction that did not descend held all lanes where they were, until all counted as stalled."""
    X, y = digits
    design = Whole(X, True)
    labels = encode((y[:, None] == np.arange(3)).astype(int), len(y))
    solver = PathSolver(design, labels, True, 1e-6, 100)
    problem = solver._repeated(np.array([1.0]))
    rule = stopping_rule(design, solver._scale, 1e-6)

    class OneIsLost(Newton):
        def direction(self, s: minimize.State, G: Any) -> Any:
            D = super().direction(s, G)
            D[s.ids == 1] = 0.0
            return D

    lanes = minimize.minimize(problem, solver._intercept_only(), rule, OneIsLost())
    assert [lane.is_done for lane in lanes] == [True, False, True]
    assert [lane.is_stalled for lane in lanes] == [False, True, False]
    assert lanes[1].n_iter < 5


@pytest.mark.filterwarnings("ignore::probe.NotConverged")
@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("limit", [None, 100_000])
def test_max_iter_counts_the_repairs(digits: tuple[np.ndarray, np.ndarray], most: int, limit: int | None) -> None:
    """Each of two repairs took max_iter iterations of its own."""
    X, y = digits
    path = probe.fit_path(X, y, [1e-3, 1.0, 1e6], max_iter=most, memory=limit)
    assert path.n_iter.max() == most
    assert path.status[-1] is probe.Status.MAX_ITER


# Features larger than memory


def test_outliers_do_not_drown_the_ordinary_entries(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """Rows kept as 16-bit whole numbers had nothing left of a column with one entry a million times the others."""
    X, y = digits
    far = X.copy()
    far[5, 20], far[7, 21] = 1e6, -1e4
    whole = probe.fit_path(far, y, GRID[:5])
    found = probe.fit_path(far, y, GRID[:5], memory=200_000)
    assert found.status == whole.status == (probe.Status.CONVERGED,) * 5
    assert relative(found, whole) <= whole.gap.max() + found.gap.max()
    assert Streamed(source_of(X, 200_000), True).rows(np.float32).unit is not None


def test_kept_rows_hold_columns_far_from_zero(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """The mean is rounded to the features' dtype, which moved entries beyond the largest whole number: they changed sign."""
    X, y = digits
    far = X.copy()
    far[:, 20] = 1e8 + 8 * np.round(X[:, 20])
    design = Streamed(source_of(far, 200_000), True)
    rows = design.rows(np.float32)
    loss = encode(y % 2, len(y)).loss(design.example, np.float32)
    _, R = loss.evaluate(np.zeros((1, 1, len(y)), np.float32))
    rows.adjoint(R, lambda: loss.row_curvature(R))
    kept = rows.active(lambda: loss.row_curvature(R), 1.0)
    assert kept.index is not None
    assert rows.unit is not None
    centred = design.centred(far[kept.index], np.float32)
    assert np.abs(kept.A * rows.unit - centred).max() <= 0.51 * rows.unit.max()


def test_a_step_of_the_intercepts_never_goes_uphill(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """A full step of Newton's method from a poor intercept threw it far beyond the optimum."""
    X, y = digits
    for labels in (y, y % 2, (y > 0).astype(int)):
        encoded = encode(labels, len(y))
        loss = encoded.loss(X, np.float64)
        for size in (1e-3, 1.0, 6.0, 20.0):
            b = size * np.resize([1.0, -0.7, 0.4, -1.0, 0.1], encoded.k)
            before, R = loss.evaluate(np.zeros((1, encoded.k, len(y))) + b[None, :, None])
            step = streamed.damped(intercept_step(R.sum(2), loss.intercept_hessian(R), loss.has_gauge))
            after, _ = loss.evaluate(np.zeros((1, encoded.k, len(y))) + (b - step[0])[None, :, None])
            assert after[0] < before[0], (size, encoded.k)


def test_certificates_do_not_depend_on_how_many_rows_go_at_once(
    digits: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores of all fits of a block were held at once: many times the block itself."""
    X, y = digits
    whole = probe.fit_path(X, y, GRID, memory=200_000)
    monkeypatch.setattr(streamed, "_SCORES_AT_ONCE", 7 * len(GRID) * 10)
    pieces = probe.fit_path(X, y, GRID, memory=200_000)
    assert pieces.status == whole.status
    np.testing.assert_allclose(pieces.objective, whole.objective, rtol=1e-12)


@pytest.mark.parametrize("limit", [float("inf"), np.int64(100_000), np.float32(1e5)])
def test_memory_is_any_number(digits: tuple[np.ndarray, np.ndarray], limit: Any) -> None:
    X, y = digits
    assert relative(probe.fit_path(X, y, [0.1], memory=limit), probe.fit_path(X, y, [0.1])) < 1e-5


def chunked(X: np.ndarray, *parts: slice) -> Any:
    """A dask array of some rows after others."""
    import dask.array

    make: Any = dask.array
    return make.concatenate([make.from_array(X, chunks=(200, 64))[rows] for rows in parts])


def unreadable(X: np.ndarray) -> Iterator[tuple[Any, str]]:
    import scipy.sparse
    import torch

    yield scipy.sparse.csr_array(X), "sparse matrix"
    yield np.ma.masked_array(X, mask=X > 0.9), "masked array"
    yield X[:, 0], "Expected 2D array"
    yield X.astype(complex), "Complex data"
    yield torch.empty(X.shape, device="meta"), "meta device"
    known = chunked(X, slice(None))
    yield known[known[:, 20] > 0.1], "compute_chunk_sizes"


@pytest.mark.parametrize("limit", [1e5, 1e9])
def test_features_that_cannot_be_streamed_are_refused_as_without_memory(
    digits: tuple[np.ndarray, np.ndarray], limit: float
) -> None:
    """A masked array was taken without its mask, others ended in errors of other libraries."""
    X, y = digits
    for given, words in unreadable(X):
        with pytest.raises(BadInput, match=words):
            probe.fit_path(given, y, [0.1], memory=limit)
    with pytest.raises(BadInput, match="cannot be moved to device 'nowhere'"):
        probe.fit_path(X, y, [0.1], memory=1e5, device="nowhere")


def test_lists_and_tables_that_fit_are_read_and_tensors_lose_their_gradients(
    digits: tuple[np.ndarray, np.ndarray],
) -> None:
    import pandas as pd
    import torch

    X, y = digits
    expected = probe.fit_path(X, y, [0.1])
    for given in (X.tolist(), pd.DataFrame(X)):
        assert relative(probe.fit_path(given, y, [0.1], memory=1e9), expected) < 1e-5
        with pytest.raises(BadInput, match="Rows can be streamed from"):
            probe.fit_path(given, y, [0.1], memory=1e5)
    assert relative(probe.fit_path(torch.tensor(X, requires_grad=True), y, [0.1], memory=1e5), expected) < 1e-5


def test_empty_blocks_of_a_dask_array_are_passed_over(digits: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = digits
    holes = chunked(X, slice(0, 100), slice(100, None)).rechunk({0: (0, 100, 0, 1697)})
    assert 0 in holes.chunks[0]
    assert relative(probe.fit_path(holes, y, [0.1], memory=1e5), probe.fit_path(X, y, [0.1])) < 1e-5


def test_streamed_faults_are_told_of_all_rows_and_without_other_warnings(
    digits: tuple[np.ndarray, np.ndarray],
) -> None:
    """The number of rows was that of the block; overflows warned some thirty times before the error."""
    X, y = digits
    bad = X.copy()
    bad[900, 3] = np.inf
    with pytest.raises(BadInput, match=r"at least 1 of 1797 rows \(first 900\)"):
        probe.fit_path(bad, y, [0.1], memory=100_000)
    with pytest.raises(BadInput, match="squares of X are beyond float64"):
        probe.fit_path(X.astype(np.float64) * 1e200, y, [0.1], memory=100_000)
