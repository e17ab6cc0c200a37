"""The probe as a scikit-learn classifier: its tools and its answers."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from problems import digits
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import probe
from probe import LinearProbe, folds

GRID = np.logspace(-4, 2, 7)


def _digits(k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    X, y = digits(240, k)
    return X / 16, np.array(["zero", "one", "two", "three"])[y]


@pytest.mark.parametrize("k", [2, 4])
def test_one_C_is_scikit_learns_model(k: int) -> None:
    """Same attributes, same shapes, same coefficients as LogisticRegression run to its end."""
    X, y = _digits(k)
    ours = LinearProbe(C=0.3, tol=1e-9).fit(X, y)
    theirs = LogisticRegression(C=0.3, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=1e-5)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    assert ours.intercept_.shape == theirs.intercept_.shape
    assert ours.score(X, y) == theirs.score(X, y)
    assert (ours.C_, ours.choice_, len(ours.path_)) == (0.3, None, 1)
    assert ours.status_ is probe.Status.CONVERGED
    assert ours.gap_ < 1e-7
    assert ours.n_iter_ >= 1
    assert ours.n_features_in_ == 64


def test_a_path_is_selected_and_refitted_on_everything() -> None:
    """The estimator is fit_path, select and fit, in that order."""
    X, y = _digits()
    clf = LinearProbe(GRID, cv=0.25, random_state=2).fit(X, y)
    expected = probe.select_holdout(X, y, GRID, fraction=0.25, seed=2)
    assert clf.choice_ is not None
    assert (clf.C_, clf.choice_.index) == (expected.C, expected.index)
    np.testing.assert_array_equal(clf.choice_.scores, expected.scores)
    assert clf.path_ is clf.choice_.paths[0]
    np.testing.assert_allclose(clf.coef_, probe.fit(X, y, C=expected.C, tol=1e-7).coef, rtol=1e-9)
    unfitted = LinearProbe(GRID, cv=0.25, random_state=2, refit=False, tol=1e-6).fit(X, y)
    np.testing.assert_array_equal(unfitted.coef_, clf.path_.coef[clf.choice_.index])


@pytest.mark.parametrize("cv", [3, StratifiedKFold(3), "rows"], ids=["folds", "splitter", "rows"])
def test_every_way_of_splitting_is_taken(cv: Any) -> None:
    """Folds, a splitter, and rows of one's own lead to the mean over three splits."""
    X, y = _digits()
    given = {3: folds.splits(folds.kfold(y, 3)), "rows": list(StratifiedKFold(3).split(X, y))}.get(
        cv if isinstance(cv, int | str) else 0, list(StratifiedKFold(3).split(X, y))
    )
    clf = LinearProbe(GRID, cv=given if cv == "rows" else cv).fit(X, y)
    expected = probe.select_splits(X, y, given, GRID, tol=1e-6)
    assert clf.choice_ is not None
    np.testing.assert_array_equal(clf.choice_.split_scores, expected.split_scores)
    assert clf.C_ == expected.C


def test_rows_of_weight_zero_are_no_rows_in_splits_of_ones_own() -> None:
    """Splits name rows as given; dropping rows of weight zero must not shift them."""
    X, y = _digits()
    w = np.ones(len(y))
    w[::5] = 0
    kept = np.flatnonzero(w)
    given = list(StratifiedKFold(3).split(X, y))
    number = {int(row): i for i, row in enumerate(kept)}
    anew = [tuple(np.array([number[r] for r in part.tolist() if r in number]) for part in split) for split in given]
    weighted = LinearProbe(GRID, cv=given).fit(X, y, sample_weight=w)
    dropped = LinearProbe(GRID, cv=anew).fit(X[kept], y[kept])
    assert weighted.choice_ is not None
    assert dropped.choice_ is not None
    np.testing.assert_array_equal(weighted.choice_.split_scores, dropped.choice_.split_scores)
    np.testing.assert_array_equal(weighted.coef_, dropped.coef_)


def test_weights_are_repetitions_at_a_tight_tolerance() -> None:
    """With one C there is no split: a row of weight 2 is the row twice, to the tolerance."""
    X, y = _digits()
    w = np.random.default_rng(0).integers(0, 3, len(y))
    a = LinearProbe(C=10.0, tol=1e-10).fit(X, y, sample_weight=w)
    b = LinearProbe(C=10.0, tol=1e-10).fit(X.repeat(w, axis=0), y.repeat(w))
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), rtol=1e-6, atol=1e-9)


def test_it_works_in_scikit_learns_tools() -> None:
    """Pipeline, GridSearchCV and cross_val_score, with LogisticRegression's scores."""
    X, y = _digits()
    pipe = make_pipeline(StandardScaler(), LinearProbe(C=1.0))
    search = GridSearchCV(pipe, {"linearprobe__C": [0.001, 0.1, 10.0]}, cv=3).fit(X, y)
    theirs = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky", tol=1e-10)),
        {"logisticregression__C": [0.001, 0.1, 10.0]},
        cv=3,
    ).fit(X, y)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"])
    scores = cross_val_score(LinearProbe(GRID), X, y, cv=3)
    by_hand = [LinearProbe(GRID).fit(X[a], y[a]).score(X[b], y[b]) for a, b in StratifiedKFold(3).split(X, y)]
    np.testing.assert_array_equal(scores, by_hand)
    auc = cross_val_score(LinearProbe(C=1.0), X, y == "one", cv=3, scoring="roc_auc")
    assert auc.mean() > 0.99


def test_it_clones_and_pickles() -> None:
    """A clone is unfitted with equal parameters; a pickle predicts the same."""
    X, y = _digits()
    clf = LinearProbe(GRID, metric=probe.metrics.log_loss, class_weight="balanced").fit(X, y)
    again = pickle.loads(pickle.dumps(clf))
    assert clf.choice_ is not None
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert again.choice_.index == clf.choice_.index
    bare = clone(clf)
    assert not hasattr(bare, "coef_")
    assert bare.get_params()["class_weight"] == "balanced"
    assert repr(LinearProbe()) == "LinearProbe()"


def test_balanced_classes_count_all_rows() -> None:
    """The weights belong to the objective, which is one: they are not recomputed on every split."""
    X, y = _digits()
    kept = np.flatnonzero((y != "zero") | (np.arange(len(y)) % 4 == 0))
    X, y = X[kept], y[kept]
    names, counts = np.unique(y, return_counts=True)
    by_hand = dict(zip(names.tolist(), len(y) / (len(names) * counts), strict=True))
    a = LinearProbe(GRID, cv=3, class_weight="balanced").fit(X, y)
    b = LinearProbe(GRID, cv=3, class_weight=by_hand).fit(X, y)
    np.testing.assert_array_equal(a.coef_, b.coef_)
    assert a.choice_ is not None
    assert b.choice_ is not None
    np.testing.assert_array_equal(a.choice_.paths[0].objective, b.choice_.paths[0].objective)


def test_multi_label_data_has_one_column_per_label() -> None:
    """Every label is a binary problem: its column is LogisticRegression's on that label."""
    X, y = _digits()
    Y = np.stack([y == "one", y == "two"], axis=1).astype(int)
    clf = LinearProbe(C=0.5, tol=1e-9).fit(X, Y)
    for j in range(2):
        theirs = LogisticRegression(C=0.5, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(X, Y[:, j])
        np.testing.assert_allclose(clf.predict_proba(X)[:, j], theirs.predict_proba(X)[:, 1], atol=1e-6)
    chosen = LinearProbe(GRID).fit(X, Y)
    assert chosen.choice_ is not None
    held = folds.holdout(Y, 0.2) == 0
    path = chosen.path_.predict(X[held])
    np.testing.assert_allclose(chosen.choice_.scores, (path == Y[held]).mean(axis=(1, 2)), rtol=1e-14)


def test_torch_features_stay_torch() -> None:
    """The answer lives where the features live; labels come back as numpy."""
    import torch

    X, y = _digits()
    clf = LinearProbe(GRID).fit(torch.from_numpy(X), y)
    assert isinstance(clf.coef_, torch.Tensor)
    assert isinstance(clf.decision_function(torch.from_numpy(X)), torch.Tensor)
    host = LinearProbe(GRID).fit(X, y)
    assert clf.C_ == host.C_
    np.testing.assert_array_equal(clf.predict(torch.from_numpy(X)), host.predict(X))
    with pytest.raises(ValueError, match="expecting 64 features"):
        clf.predict(torch.from_numpy(X[:, :3]))


def test_tables_of_pandas_are_read_everywhere() -> None:
    """Labels and weights in a Series are taken by the solver, too, not by the estimator alone."""
    X, y = _digits()
    table, labels, weights = pd.DataFrame(X).add_prefix("f"), pd.Series(y), pd.Series(np.ones(len(y)))
    model = probe.fit(X, labels, C=0.5, sample_weight=weights)
    np.testing.assert_array_equal(model.coef, probe.fit(X, y, C=0.5).coef)
    assert probe.select(probe.fit_path(table, labels, GRID[:2]), table, labels).scores.shape == (2,)
    clf = LinearProbe(C=0.5).fit(table, labels, sample_weight=weights)
    assert clf.feature_names_in_.tolist() == table.columns.tolist()
    with pytest.raises(ValueError, match="feature names"):
        clf.predict(table.iloc[:, ::-1])


def test_widening_is_said() -> None:
    """A grid that ends before its best value is extended on request only, with a warning at the caller's line."""
    X, y = _digits()
    short = [1e-4, 1e-3]
    assert LinearProbe(short, metric="log_loss").fit(X, y).choice_.at_edge  # type: ignore[union-attr]
    with pytest.warns(probe.GridWidened, match="tried beyond it") as said:
        clf = LinearProbe(short, metric="log_loss", widen=True).fit(X, y)
    assert said[0].filename == __file__
    assert clf.choice_ is not None
    assert not clf.choice_.at_edge
    assert clf.C_ > 1e-3


def test_grids_go_by_name() -> None:
    """ "path" is the 45 values, the others go by the names they have in probe.GRIDS."""
    X, y = digits(60, 2)
    for name, n in (("path", 45), ("kornblith", 45), ("svm", 26)):
        assert len(LinearProbe(name).fit(X, y).path_) == n


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"C": "paths"}, "no grid of penalties named 'paths'"),
        ({"C": -1.0}, "C must be positive"),
        ({"C": [1.0, float("nan")]}, "C must be positive"),
        ({"cv": None}, "cv is None"),
        ({"cv": True}, "cv is True"),
        ({"cv": 1.5}, r"hold out is 1\.5"),
        ({"cv": 5, "refit": False}, "refit is False, but C is chosen on 5 splits"),
        ({"metric": "acuracy"}, "did you mean accuracy"),
        ({"tol": 0.0}, "tol is 0"),
        ({"max_iter": 0}, "max_iter is 0"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(parameters: dict[str, Any], match: str) -> None:
    """At fit, as scikit-learn has it, with what to do instead."""
    X, y = digits(60, 2)
    with pytest.raises(probe.BadInput, match=match):
        LinearProbe(**parameters).fit(X, y)


def test_nan_is_named_by_row_and_column() -> None:
    """In fit and in predict."""
    X, y = digits(60, 2)
    clf = LinearProbe(C=1.0).fit(X, y)
    X = X.copy()
    X[7, 3] = np.nan
    for use in (lambda: clf.predict(X), lambda: LinearProbe(C=1.0).fit(X, y)):
        with pytest.raises(probe.BadInput, match=r"1 of 60 rows \(first 7\) and 1 of 64 columns \(first 3\)"):
            use()


def test_importing_probe_does_not_import_scikit_learn() -> None:
    """The estimator costs nothing to those who do not use it."""
    code = "import probe, sys; assert 'sklearn' not in sys.modules; probe.LinearProbe; assert 'sklearn' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
