"""Sweeps and choices of C on features that are larger than they may be in memory: the same results, nothing loaded whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_digits import digits, digits_store, split, write

import featstore
import probe
from probe.errors import BadInput

GRID = (1e-3, 1e-2, 1e-1)
MEMORY = 2_000  # bytes: less than any unit of the store has


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> featstore.Store:
    return digits_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading more of a feature matrix than may be in memory fails."""
    _refuse_large(monkeypatch)


def _refuse_large(patch: pytest.MonkeyPatch, limit: int = MEMORY) -> None:
    read = featstore.FeatureMatrix.numpy

    def numpy(self: featstore.FeatureMatrix, dtype: Any = None) -> np.ndarray:
        if self.nbytes > limit:
            raise AssertionError(f"{self!r} was loaded whole")
        return read(self, dtype)

    patch.setattr(featstore.FeatureMatrix, "numpy", numpy)


@pytest.mark.parametrize(
    "how",
    [
        {"val": "val"},
        {"val": 0.3, "seeds": 2},
        {"val": "val", "per_class": 10, "seeds": 2, "refit": True},
        {"val": "val", "C": (1e-6, 1e-5), "widen": True},
        {"val": "val", "classifier": "svm", "refit": True},
        {"val": 0.3, "classifier": "svm", "seeds": 2, "per_class": 10},
        {"val": "val", "classifier": "ridge", "refit": True},
        {"val": 0.3, "classifier": "ridge", "seeds": 2, "per_class": 10},
    ],
    ids=["val split", "held out", "few-shot", "widened", "svm", "svm, few-shot", "ridge", "ridge, few-shot"],
)
@pytest.mark.filterwarnings("ignore::probe.GridWidened")
def test_results_do_not_depend_on_memory(store: featstore.Store, tmp_path: Path, how: dict[str, Any]) -> None:
    """Chosen C, scores, predictions and the identity of every record are those of features in memory."""
    arguments: dict[str, Any] = {"train": "train", "test": "test", "C": GRID, "progress": False, **how}
    loaded = probe.sweep(store, out=tmp_path / "loaded", **arguments)
    with pytest.MonkeyPatch.context() as patch:
        _refuse_large(patch)
        streamed = probe.sweep(store, out=tmp_path / "streamed", memory=MEMORY, **arguments)
    assert len(loaded) == len(streamed) > 0
    for a, b in zip(loaded, streamed, strict=True):
        assert (a.digest, a.C, a.grid, a.is_refitted, a.widened) == (b.digest, b.C, b.grid, b.is_refitted, b.widened)
        np.testing.assert_allclose(a.val_scores, b.val_scores, atol=1e-12)
        assert set(b.statuses) == {"converged"}
        assert np.array_equal(loaded.predictions(a).y_pred, streamed.predictions(b).y_pred)


def test_what_fits_is_loaded(store: featstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is on train, val and test of a unit together; units below it are read once."""
    limit = sum(store.features("middle", part).nbytes for part in ("train", "val"))
    _refuse_large(monkeypatch, -1)
    with pytest.raises(AssertionError, match=r"unit 'middle'.* was loaded whole"):
        probe.sweep(
            store, train="train", val="val", units="middle", out=tmp_path, C=GRID, memory=limit, progress=False
        )  # fmt: skip
    monkeypatch.undo()
    _refuse_large(monkeypatch)
    probe.sweep(store, train="train", val="val", units="middle", out=tmp_path, C=GRID, memory=MEMORY, progress=False)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"memory": "much"}, "must be a number of bytes"),
        ({"memory": 0}, "must be a number of bytes"),
    ],
)
def test_memory_that_cannot_be(store: featstore.Store, tmp_path: Path, wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        probe.sweep(store, train="train", out=tmp_path, progress=False, **wrong)


def test_folds_are_streamed(store: featstore.Store) -> None:
    """k folds of a stored matrix choose as those of the same rows in memory, and share every reading."""
    F = store.features("pixels", "train")
    loaded = probe.select_kfold(F.numpy(), F.labels, GRID, n_folds=3)
    with pytest.MonkeyPatch.context() as patch:
        _refuse_large(patch)
        streamed = probe.select_kfold(F, F.labels, GRID, n_folds=3, memory=F.nbytes // 4)
    assert loaded.C == streamed.C
    np.testing.assert_allclose(loaded.split_scores, streamed.split_scores, atol=1e-12)
    assert len({path.reads for path in streamed.paths}) == 1
    assert streamed.paths[0].reads > 0


def test_folds_of_other_fits(store: featstore.Store) -> None:
    """Ridge classification streams every fold; a function of one's own that does not know `memory` is refused."""
    F = store.features("pixels", "train")
    loaded = probe.select_kfold(F.numpy(), F.labels, GRID, n_folds=3, fit=probe.ridge_path)
    with pytest.MonkeyPatch.context() as patch:
        _refuse_large(patch)
        streamed = probe.select_kfold(F, F.labels, GRID, n_folds=3, fit=probe.ridge_path, memory=F.nbytes // 4)
    np.testing.assert_allclose(loaded.split_scores, streamed.split_scores, atol=1e-12)

    def mine(X: Any, y: Any, C: Any, sample_weight: Any = None) -> probe.Path:
        return probe.ridge_path(X, y, C)

    with pytest.raises(BadInput, match="mine has no such option"):
        probe.select_kfold(F, F.labels, GRID, fit=mine, memory=F.nbytes // 4)


@pytest.mark.usefixtures("never_whole")
def test_predictions_read_blocks(store: featstore.Store) -> None:
    """What a model says of a stored matrix needs one block at a time, whatever its size."""
    F = store.features("pixels", "test")
    path = probe.fit_path(F[:200], F.labels[:200], GRID)
    assert np.array_equal(path.predict(F), path.predict(F[:]))
    assert np.array_equal(path.model(1).decision_function(F), path.model(1).decision_function(F[:]))


def test_nan_in_a_block_is_named(tmp_path: Path) -> None:
    """A streamed row that holds NaN is said with its number, as a loaded one is."""
    images, labels = digits()
    X = images.reshape(len(images), -1).astype(np.float32)
    X[250, 3] = np.nan
    store = featstore.create_store(tmp_path)
    write(store, split("train", slice(0, 300)), {"pixels": X[:300]})
    F = store.features("pixels", "train")
    model = probe.fit(X[:200], labels[:200])
    with pytest.raises(BadInput, match="first 250"):
        model.predict(F)


def test_difficult_entries_of_val_are_left_out_of_the_refit(tmp_path: Path) -> None:
    """VOC's third kind of mark (2): no evidence for its label, and still evidence for the others, fitted or judged."""
    images, labels = digits()
    X = images.reshape(len(images), -1).astype(np.float32) / 16
    marks = np.stack([labels % 2, labels > 4, labels % 3 == 0], axis=1).astype(np.int64)
    marks[np.random.default_rng(0).random(marks.shape) < 0.1] = 2
    parts = {"train": slice(0, 300), "val": slice(300, 500), "test": slice(500, 800)}
    store = featstore.create_store(tmp_path / "store")
    for name, rows in parts.items():
        marked = replace(split(name, rows), labels=marks[rows], classes=("odd", "large", "three"))
        write(store, marked, {"pixels": X[rows]})
    found = probe.sweep(
        store, train="train", val="val", test="test", out=tmp_path / "out", C=GRID, metric="map11", refit=True, progress=False,
    )  # fmt: skip
    record = found.records[0]
    both, seen = np.arange(500), marks[:500]
    by_label = [
        probe.fit(X[both][seen[:, j] != 2], seen[seen[:, j] != 2, j], C=record.C).decision_function(X[500:800])
        for j in range(3)
    ]
    expected = probe.metrics.map11(marks[500:800], np.stack(by_label, axis=1))
    assert record.is_refitted
    assert record.test_score == pytest.approx(expected, abs=1e-4)
