"""Who is held out: the same rows on every machine, every class on both sides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import featstore
from probe import BadInput, folds

LABELS = st.lists(st.integers(0, 4), min_size=4, max_size=60).map(np.array)


@settings(deadline=None, max_examples=60)
@given(LABELS, st.floats(0.05, 0.9), st.integers(0, 5))
def test_the_holdout_is_the_one_of_the_store(y: np.ndarray, fraction: float, seed: int) -> None:
    """Two packages state one rule; if they parted, a sweep and an estimator would validate on different images."""
    ids = np.array([f"image {i}" for i in range(len(y))])
    expected = featstore.holdout_rows(ids, y, fraction, seed)
    if not expected.any():
        with pytest.raises(BadInput, match="Nothing can be held out"):
            folds.holdout(y, fraction, seed=seed, ids=ids)
        return
    np.testing.assert_array_equal(folds.holdout(y, fraction, seed=seed, ids=ids) == 0, expected)


@settings(deadline=None, max_examples=80)
@given(LABELS, st.integers(2, 7), st.integers(0, 5))
def test_folds_share_out_every_class_evenly(y: np.ndarray, n_folds: int, seed: int) -> None:
    """Stratified: per class and in all, sizes differ by one at most; no training part lacks a class."""
    counts = np.bincount(y)
    holdable = counts[counts > 1].sum()
    if holdable < n_folds:
        with pytest.raises(BadInput, match=f"only {holdable} of {len(y)} rows"):
            folds.kfold(y, n_folds, seed=seed)
        return
    held = folds.kfold(y, n_folds, seed=seed)
    assert np.ptp(np.bincount(held[held >= 0], minlength=n_folds)) <= 1
    for label in np.unique(y):
        of_label = held[y == label]
        if len(of_label) == 1:
            assert of_label[0] == folds.NEVER
        else:
            assert np.ptp(np.bincount(of_label, minlength=n_folds)) <= 1
    parts = folds.splits(held)
    assert sorted(np.concatenate([val for _, val in parts])) == np.flatnonzero(held >= 0).tolist()
    for train, val in parts:
        assert set(y[train]) == set(y)
        assert sorted([*train, *val]) == list(range(len(y)))


def test_folds_go_by_id_and_seed_not_by_order() -> None:
    """Features loaded in another order must be validated on the same images; another seed draws others."""
    y = np.arange(40) % 3
    ids = np.array([f"photo_{i}.jpg" for i in range(40)])
    shuffled = np.random.default_rng(0).permutation(40)
    for rule in (folds.holdout, folds.kfold):
        held = rule(y, ids=ids)
        np.testing.assert_array_equal(rule(y[shuffled], ids=ids[shuffled]), held[shuffled])
        assert (rule(y, ids=ids, seed=1) != held).any()


def test_folds_refuse_what_means_nothing() -> None:
    """Wrong shares and lengths are said, not rounded into something."""
    y = np.arange(10) % 2
    with pytest.raises(BadInput, match=r"fraction to hold out is 1\.5"):
        folds.holdout(y, 1.5)
    with pytest.raises(BadInput, match="at least 2"):
        folds.kfold(y, 1)
    with pytest.raises(BadInput, match="9 ids for 10 labels"):
        folds.kfold(y, 2, ids=np.arange(9))
    with pytest.raises(BadInput, match="The id '7' stands for 2 rows"):
        folds.kfold(y, 2, ids=[*range(9), 7])


def test_multi_label_rows_are_one_class() -> None:
    """There is no one class per row to stratify by."""
    y = np.eye(3, dtype=int)[np.arange(30) % 3]
    assert (folds.holdout(y, 0.2) == 0).sum() == 6
    assert np.bincount(folds.kfold(y, 4)).tolist() == [8, 8, 7, 7]


def test_splits_among_kept_rows_are_numbered_anew() -> None:
    """A split names rows of the whole; after rows are dropped the same rows must be meant."""
    y = np.arange(10)
    kept = np.array([1, 2, 5, 8, 9])
    ((train, val),) = folds.among(kept, 10, [(np.array([0, 1, 2, 8]), np.array([5, 6, -1]))])
    assert y[kept][train].tolist() == [1, 2, 8]
    assert y[kept][val].tolist() == [5, 9]
