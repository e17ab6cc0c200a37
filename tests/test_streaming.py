"""Features larger than memory: the answer of the whole matrix, from blocks of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import stored_digits
from problems import Case, cases, digits

import probe
from probe.sources import source_of
from probe.streamed import Streamed, sampled
from probe.wide import Wide

GRID = 10.0 ** np.linspace(-4, 4, 9)


def _same(a: probe.Path, b: probe.Path) -> None:
    np.testing.assert_allclose(a.objective, b.objective, rtol=2e-5)
    assert [s.value for s in a.status] == [s.value for s in b.status] == ["converged"] * len(a)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", cases(), ids=lambda c: c.name)
def test_a_quarter_of_the_memory_gives_the_same_answer(case: Case, dtype: type) -> None:
    """Every case, certified on the rows as given."""
    X = case.X.astype(dtype)
    _same(probe.fit_path(X, case.y, GRID, memory=X.nbytes // 4), probe.fit_path(X, case.y, GRID))


def test_store_dask_and_memory_map_give_the_same_path(tmp_path: Path) -> None:
    """Where rows come from does not matter; they are never loaded whole."""
    import dask.array

    X, y = digits(900)
    X = X.astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    chunked = dask.array.from_array(X, chunks=(130, 40))
    whole = probe.fit_path(X, y, GRID)
    for rows in (mapped, chunked):
        path = probe.fit_path(rows, y, GRID, memory=X.nbytes // 4)
        _same(path, whole)
        assert path.reads > 0


def test_rows_come_from_a_store(tmp_path: Path) -> None:
    """A feature matrix goes by in blocks that fit, as often as the path says."""
    F = stored_digits.digits_store(tmp_path / "store").features("pixels", "train")
    read: list[int] = []
    blocks = F.blocks
    loaded = probe.fit_path(F.numpy(), F.labels, GRID)

    class Counted:
        """The matrix, saying how its rows are read."""

        shape, dtype, ids, labels = F.shape, F.dtype, F.ids, F.labels

        def blocks(self, rows: int) -> object:
            read.append(rows)
            return blocks(rows)

    path = probe.fit_path(Counted(), F.labels, GRID, memory=F.nbytes // 4)
    _same(path, loaded)
    assert path.reads == len(read)
    assert max(read) * F.shape[1] * F.dtype.itemsize <= max(F.nbytes // 16, 1 << 16)


def test_other_tasks_and_weights() -> None:
    """Binary, multi-label, sample weights, no intercept."""
    X, y = digits(400)
    hot = (y[:, None] == np.arange(3)).astype(int)
    weight = np.random.default_rng(0).uniform(0.1, 3.0, len(y))
    for labels, options in ((y % 2, {}), (hot, {"sample_weight": weight}), (y, {"fit_intercept": False})):
        streamed = probe.fit_path(X, labels, GRID, memory=X.nbytes // 4, **options)
        _same(streamed, probe.fit_path(X, labels, GRID, **options))


def test_what_fits_is_loaded() -> None:
    """Memory for all rows changes nothing."""
    X, y = digits(100)
    a, b = probe.fit_path(X, y, [1.0], memory=X.nbytes), probe.fit_path(X, y, [1.0])
    np.testing.assert_array_equal(a.coef, b.coef)


def test_nan_is_named_by_its_row_in_the_whole() -> None:
    """Not by its row in a block."""
    X, y = digits(400)
    X[317, 5] = np.nan
    with pytest.raises(probe.BadInput, match=r"first 317.*first 5"):
        probe.fit_path(X, y, [1.0], memory=X.nbytes // 8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory": "a"}, "number of bytes"),
        ({"memory": 0}, "number of bytes"),
        ({"memory": 999, "backend": "sklearn"}, "backend"),
    ],
)
def test_what_cannot_be_streamed_says_why(options: dict[str, object], words: str) -> None:
    """One sentence."""
    X, y = digits(100)
    with pytest.raises(probe.BadInput, match=words):
        probe.fit_path(X, y, [1.0], **options)
    with pytest.raises(probe.BadInput, match="streamed from"):
        probe.fit_path(X.tolist(), y, [1.0], memory=100)


def test_scores_and_gradients_are_not_rounded() -> None:
    """Only the model of Newton's method is made of whole numbers."""
    X, _ = digits(300)
    design = Streamed(source_of(X, X.nbytes // 4), True)
    rows = design.rows(np.float64)
    r = np.random.default_rng(0)
    T = r.normal(size=(2, 3, len(design.penalised)))
    W, b = design.to_features(T[None, ...])
    Z = rows.scores(T)
    np.testing.assert_allclose(Z, W[0] @ X.T + b[0][..., None], atol=1e-9)
    R = r.normal(size=Z.shape)
    curvature = r.random((2, 300))
    slope = (rows.adjoint(R, lambda: curvature) * T).sum()
    np.testing.assert_allclose(slope, (R * Z).sum(), rtol=1e-9)


def test_a_sample_stands_for_all_rows() -> None:
    """Sums over the drawn rows estimate sums over all, every lane; heavy rows are certain, and lots do not change."""
    r = np.random.default_rng(0)
    curvature = r.gamma(0.3, size=(2, 5000))
    index, weights = sampled(curvature, 1.0, 1200)
    assert weights is not None
    assert 900 <= len(index) <= 1200
    assert (weights >= 1 - 1e-12).all()
    np.testing.assert_allclose((curvature[:, index] * weights).sum(1), curvature.sum(1), rtol=0.05)
    heavy = np.argsort(curvature.max(0))[-100:]
    assert np.isin(heavy, index).all()
    assert weights[np.isin(index, heavy)] == pytest.approx(1.0)
    again, _ = sampled(curvature * r.uniform(0.95, 1.05, curvature.shape), 1.0, 1200)
    assert len(np.intersect1d(index, again)) > 0.9 * len(index)
    everything, none = sampled(curvature, 1.0, 5000)
    assert none is None
    assert len(everything) == 5000


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("width", [320, 104])
def test_few_rows_go_through_their_gram_matrix(width: int, fit_intercept: bool) -> None:
    """Fewer rows than columns, or hardly more: exact, with a fraction of the matrix in memory; the walk itself reads nothing."""
    X, y = digits(120)
    maps = np.concatenate([X, np.cos(X), X**2, np.sqrt(X), np.tanh(X - 8)], axis=1).astype(np.float32)[:, :width] + 3.0
    assert maps.shape == (120, width)
    path = probe.fit_path(maps, y, GRID, memory=maps.nbytes // 4, fit_intercept=fit_intercept)
    _same(path, probe.fit_path(maps, y, GRID, fit_intercept=fit_intercept))
    assert path.reads < 25
    design = Wide(source_of(maps, maps.nbytes // 4), fit_intercept)
    r = np.random.default_rng(0)
    T = r.normal(size=(2, 1, 3, len(design.penalised)))
    W, b = design.to_features(T)
    np.testing.assert_allclose(design.from_features(W[1], b[1]), T[1], atol=1e-8)
    Z = design.rows(np.float64).scores(T[1])
    np.testing.assert_allclose(Z, W[1] @ maps.T + b[1][..., None], atol=1e-7)
    G = r.normal(size=(2, 3, len(design.penalised)))
    assert (design.largest(G, np.arange(2)) > 0).all()
