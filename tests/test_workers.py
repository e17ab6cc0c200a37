"""Problems of one call in several processes: the same answers, and nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import digits

import probe
from probe import BadInput
from probe.workers import at_once, dealt, n_workers

GRID = 10.0 ** np.linspace(-4, 3, 8)
TESTS = str(Path(__file__).parent)


def _equal(found: tuple[probe.Path, ...], expected: tuple[probe.Path, ...]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.coef.shape == b.coef.shape
        assert a.classes.tolist() == b.classes.tolist()
        assert {s.value for s in a.status} == {"converged"}
        np.testing.assert_allclose(a.objective, b.objective, rtol=2e-5)


def test_problems_in_processes_are_those_of_one() -> None:
    """Label sets of several shapes, folds with weights, and few-shot subsets, which have a matrix each."""
    X, y = digits(300)
    weight = np.random.default_rng(0).uniform(0.5, 2.0, len(y))
    sets = [y, y % 2, (y[:, None] == np.arange(3)).astype(int), (y + 1) % 10, y]
    folds = [np.flatnonzero(np.arange(len(y)) % 3 != f) for f in range(3)]
    shots = [np.concatenate([np.flatnonzero(y == c)[s : s + 2] for c in range(10)]) for s in range(4)]
    for given in ({"y": sets}, {"y": y, "rows": folds, "sample_weight": weight}, {"y": y, "rows": shots}):
        _equal(probe.fit_paths(X, C=GRID, n_jobs=2, **given), probe.fit_paths(X, C=GRID, **given))


def test_more_processes_than_problems_and_all_processors() -> None:
    """As in scikit-learn."""
    X, y = digits(100)
    for n_jobs in (5, -1, 1, np.int64(2)):
        _equal(probe.fit_paths(X, [y, y % 5], GRID, n_jobs=n_jobs), probe.fit_paths(X, [y, y % 5], GRID))


def test_the_rotation_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here, with all threads; the processes get it with the features."""
    from probe import design

    made = []
    rotate = design.rotate
    monkeypatch.setattr(design, "rotate", lambda *given: made.append(1) or rotate(*given))
    X, y = digits(100)
    probe.fit_paths(X, [y, y % 5, y // 2], GRID[:2], n_jobs=2)
    assert len(made) == 2  # ten and five classes are batches of their own


def test_folds_and_estimators_take_processes() -> None:
    """The same C, the same scores."""
    X, y = digits(200)
    alone, dealt_out = (probe.select_kfold(X, y, GRID, n_folds=3, n_jobs=n) for n in (None, 2))
    np.testing.assert_allclose(dealt_out.split_scores, alone.split_scores, atol=1e-12)
    clf = probe.LinearProbe(GRID, cv=3, n_jobs=2).fit(X, y)
    assert clf.choice_ is not None
    assert clf.choice_.C == alone.C
    assert probe.LinearProbe(1.0, n_jobs=2).fit(X, y).C_ == 1.0  # nothing is chosen, nothing dealt


@pytest.mark.parametrize("n_jobs", [0, True, "2", 1.5])
def test_a_number_of_processes_that_is_none(n_jobs: Any) -> None:
    """Said in one sentence."""
    X, y = digits(50)
    with pytest.raises(BadInput, match="n_jobs must be a number of processes"):
        probe.fit_paths(X, y, [1.0], n_jobs=n_jobs)


@pytest.mark.parametrize("n_jobs", [0, True, "2"])
def test_a_number_of_processes_that_is_none_is_said_where_nothing_is_dealt_too(n_jobs: Any) -> None:
    """One split, or splits that another function fits: not only once there are folds."""
    X, y = digits(50)
    with pytest.raises(BadInput, match="n_jobs must be a number of processes"):
        probe.LinearProbe([0.1, 1.0], n_jobs=n_jobs).fit(X, y)
    with pytest.raises(BadInput, match="n_jobs must be a number of processes"):
        probe.select_kfold(X, y, GRID, n_folds=2, fit=probe.ridge_path, n_jobs=n_jobs)


def test_one_process_is_what_every_function_fits_in() -> None:
    """Nothing is dealt, so nothing is refused."""
    X, y = digits(50)
    one, none = (probe.select_kfold(X, y, GRID, n_folds=2, fit=probe.ridge_path, n_jobs=n) for n in (1, None))
    np.testing.assert_array_equal(one.split_scores, none.split_scores)


def _where(i: int, is_stopped: Callable[[], bool]) -> tuple[int, bool]:
    return os.getpid(), is_stopped()


def test_the_processes_are_this_machines_whatever_joblib_is_told() -> None:
    """Its number counts, its backend does not: a cluster would not see the file that says to go on, and stop at once."""
    import joblib

    with joblib.parallel_config(backend="threading", n_jobs=2):
        assert n_workers(None, np.zeros((2, 2)), 5) == 2
        found, is_stopped = at_once(_where, [(0,), (1,)])
    assert not is_stopped
    assert os.getpid() not in [pid for pid, _ in found]
    assert not any(stopped for _, stopped in found)


def test_features_that_processes_cannot_share() -> None:
    """Of torch, and larger than memory; and fits that are no problems of one batch."""
    import torch

    X, y = digits(50)
    with pytest.raises(BadInput, match="these are torch"):
        probe.fit_paths(torch.as_tensor(X), [y, y], [1.0], n_jobs=2)
    with pytest.raises(BadInput, match=r"only splits that probe\.fit_path fits"):
        probe.select_kfold(X, y, [1.0], fit=probe.svm_path, n_jobs=2)
    with pytest.raises(BadInput, match="these are streamed"):
        probe.fit_paths(X, [y, y], [1.0], memory=X.nbytes // 4, n_jobs=2)


def test_bad_features_are_found_in_processes_too() -> None:
    """With the row's number in X; every subset is looked at in its process."""
    X, y = digits(300)
    bad = X.copy()
    bad[250, 3] = np.nan
    rows = [np.arange(s, s + 60) for s in (0, 60, 200)]
    with pytest.raises(BadInput, match=r"1 of 300 rows \(first 250\)"):
        probe.fit_paths(bad, y, GRID, rows=rows, n_jobs=2)


def test_problems_are_dealt_by_their_size() -> None:
    """The largest first, to where there is least."""
    assert dealt([1, 1, 1, 1, 1], 2) == [[0, 2, 4], [1, 3]]
    assert dealt([1, 5, 1, 1, 2], 2) == [[1], [0, 2, 3, 4]]
    assert dealt([1, 1], 5) == [[0], [1]]


INTERRUPTED = """
import json, os, signal, sys, threading
sys.path.insert(0, sys.argv[1])
import numpy as np
from problems import digits
import probe

X, y = digits(1700)
r = np.random.default_rng(0)
sets = [np.where(r.random(len(y)) < 0.2, r.integers(0, 10, len(y)), y) for _ in range(6)]
probe.fit_paths(X, sets[:2], [1e-4], n_jobs=2)  # the processes are there
for seconds in (0.5, 1, 2, 4, 8, 16):
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        probe.fit_paths(X, sets, probe.C_GRID, n_jobs=2)
    except probe.Interrupted as stop:
        paths = [p for p in stop.paths if p is not None]
        print(json.dumps([[len(p), p.C.tolist(), float(p.gap.max()), list(p.status)] for p in paths]))
        break
    except KeyboardInterrupt:  # nothing was finished yet, on a machine that is busy
        continue
    sys.exit("not interrupted")
again = probe.fit_paths(X, sets[:2], [1e-4], n_jobs=2)  # and they still are
assert len(again) == 2
"""


@pytest.mark.slow
def test_ctrl_c_keeps_what_the_processes_have_finished() -> None:
    """A real SIGINT in the middle of several seconds: the strong penalties of the label sets, certified."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", INTERRUPTED, TESTS],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    paths = json.loads(done.stdout)
    assert 0 < len(paths) <= 6
    for n, C, gap, status in paths:
        assert 0 < n < 45
        np.testing.assert_allclose(C, probe.C_GRID[:n])
        assert set(status) == {"converged"}
        assert gap < 1e-4
