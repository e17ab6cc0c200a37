"""Sweeps over a store: the right rows in the right roles, nothing computed twice, nothing finished lost."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_digits import NAMES, UNITS, digits, digits_store, features, split, write

import featstore
import probe
from probe import jobs, results, sweeps
from probe.classifiers import LOGISTIC
from probe.errors import BadInput
from probe.numbering import absent_classes, common_labels
from probe.records import ResultFolder
from probe.trial import Drawn, Protocol

GRID = (1e-3, 1e-2, 1e-1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> featstore.Store:
    return digits_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records that several tests look at; made once by the first."""
    return tmp_path_factory.mktemp("results")


def run(store: featstore.Store, out: Path, **changes: Any) -> probe.Results:
    arguments: dict[str, Any] = {"train": "train", "val": "val", "test": "test", "C": GRID, "progress": False}
    return probe.sweep(store, out=out, **{**arguments, **changes})


def by_hand(unit: str, train: np.ndarray, val: np.ndarray, test: np.ndarray) -> tuple[float, float, Any]:
    """The protocol written out: fit each C on train, take the best on val, refit on both, read test."""
    images, y = digits()
    X = features(images)[unit]
    scores = [probe.fit(X[train], y[train], C=c).score(X[val], y[val]) for c in GRID]
    best = GRID[int(np.argmax(scores))]
    rows = np.concatenate([train, val])
    return best, max(scores), probe.fit(X[rows], y[rows], C=best).predict(X[test])


def test_each_unit_equals_the_protocol_written_out(store: featstore.Store, folder: Path) -> None:
    """Every unit: the same chosen C, validation score and test predictions as the steps done one by one."""
    found = run(store, folder)
    assert [r.unit for r in found] == list(UNITS)
    assert (found.n_fitted, found.n_reused) == (3, 0)
    train, val, test = np.arange(300), np.arange(300, 500), np.arange(500, 800)
    for record in found:
        C, val_score, y_pred = by_hand(record.unit, train, val, test)
        said = found.predictions(record)
        assert (record.C, record.val_score) == (C, pytest.approx(val_score, abs=1e-12))
        assert np.array_equal(said.y_pred, y_pred)
        assert said.ids.tolist() == [f"{i:04d}" for i in test]
        assert record.test_score == said.accuracy()
        assert record.test_interval == said.interval()
        assert (record.n_train, record.n_val, record.n_test, record.k) == (300, 200, 300, 10)
        assert record.val_scores[record.index] == record.val_score
        assert record.statuses == {"converged": 3}
        assert said.classes == NAMES
    assert [r.d for r in found] == [4, 16, 64]
    assert found.records[0].test_score < found.records[2].test_score


def test_a_repeat_reads_records_and_imports_nothing_heavy(store: featstore.Store, folder: Path) -> None:
    """In a fresh process: nothing fitted, in under 50 ms of the processor (best of ten), without torch, zarr, scipy or pandas."""
    run(store, folder)
    code = f"""
import sys, time, probe
seconds = []
for _ in range(10):
    started = time.process_time()
    found = probe.sweep({str(store.root)!r}, train="train", val="val", test="test", out={str(folder)!r}, C={GRID!r},
                        progress=False)
    seconds.append(time.process_time() - started)
assert (found.n_fitted, found.n_reused) == (0, 3)
print(min(seconds), *({{"torch", "zarr", "dask", "scipy", "sklearn", "pandas", "matplotlib"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seconds, *heavy = done.stdout.split()
    assert heavy == []
    assert float(seconds) < 0.05


@pytest.mark.parametrize(
    "changes",
    [
        {"C": (1e-3, 1e-2)},
        {"tol": 1e-5},
        {"metric": "mean_per_class"},
        {"refit": False},
        {"test": None},
        {"val": 0.5},
        {"test": "val", "val": 0.2},
        {"val": 0.2, "seeds": [7]},
        {"per_class": 5},
        {"classifier": "ridge"},
        {"widen": True},
    ],
)
def test_every_argument_that_changes_a_result_makes_another_record(
    store: featstore.Store, folder: Path, changes: dict[str, Any]
) -> None:
    """A stale answer to a new question would be the worst error of a results folder."""
    run(store, folder, units=["coarse"])
    assert run(store, folder, units=["coarse"], **changes).n_fitted == 1
    assert run(store, folder, units=["coarse"], **changes).n_fitted == 0


def test_labels_are_part_of_the_identity(tmp_path: Path) -> None:
    """Features stay, labels are replaced: the old results must not answer."""
    store = digits_store(tmp_path / "store")
    before = run(store, tmp_path / "results", units=["coarse"])
    labels = store.features("coarse", "train").labels
    assert labels is not None
    store.set_targets("train", (labels + 1) % 10, classes=NAMES)
    after = run(store, tmp_path / "results", units=["coarse"])
    assert after.n_fitted == 1
    assert after.records[0].digest != before.records[0].digest


def test_a_held_out_fraction_is_drawn_by_id_and_seed(store: featstore.Store, tmp_path: Path) -> None:
    """Rows are those of `featstore.holdout_rows`, another choice per seed; val rows join train in the refit."""
    found = run(store, tmp_path, val=0.25, units=["middle"], seeds=2)
    ids, y = np.array([f"{i:04d}" for i in range(300)]), digits()[1][:300]
    for seed, record in enumerate(found):
        held = featstore.holdout_rows(ids, y, 0.25, seed)
        C, val_score, y_pred = by_hand("middle", np.flatnonzero(~held), np.flatnonzero(held), np.arange(500, 800))
        assert (record.C, record.val_score) == (C, pytest.approx(val_score, abs=1e-12))
        # The refit sees the same rows in another order: its optimum is the same up to the tolerance.
        assert (found.predictions(record).y_pred != y_pred).mean() < 0.01
        assert (record.seed, record.n_train, record.n_val) == (seed, 300 - held.sum(), held.sum())
    assert found.records[0].val_scores != found.records[1].val_scores
    assert run(store, tmp_path, val=None, units=["middle"]).records[0].n_val == pytest.approx(60, abs=3)


def test_few_shot_subsets_have_k_rows_a_class_and_are_not_refitted_on_val(
    store: featstore.Store, tmp_path: Path
) -> None:
    found = run(store, tmp_path, per_class=4, units=["pixels"], seeds=3)
    images, y = digits()
    ids, X = np.array([f"{i:04d}" for i in range(300)]), features(images)["pixels"]
    for record in found:
        assert (record.n_train, record.n_val, record.is_refitted) == (40, 200, False)
        rows = np.flatnonzero(featstore.per_class_rows(ids, y[:300], 4, record.seed))
        assert np.bincount(y[rows]).tolist() == [4] * 10
        expected = probe.fit(X[rows], y[rows], C=record.C).predict(X[500:800])
        assert np.array_equal(found.predictions(record).y_pred, expected)
    assert len({r.test_score for r in found}) > 1
    inside = run(store, tmp_path, per_class=5, val=0.2, units=["pixels"]).records[0]
    assert (inside.n_train, inside.n_val, inside.is_refitted) == (40, 10, True)
    assert "4 per class" in found.text()


def test_ctrl_c_keeps_what_is_finished(
    store: featstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted in the second unit: both seeds of the first stay, and the same call computes only the others."""
    real, n_calls = jobs.run, 0

    def interrupted(*args: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(jobs, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(store, tmp_path, val=0.2, seeds=2, progress=True)
    assert f"interrupted; 2 of 6 results are kept in {tmp_path}" in capsys.readouterr().err
    monkeypatch.undo()
    found = run(store, tmp_path, val=0.2, seeds=2, progress=True)
    assert (found.n_fitted, found.n_reused) == (4, 2)
    assert "2 of 6 results are in" in capsys.readouterr().err


def test_seeds_fitted_together_are_those_fitted_alone(store: featstore.Store, tmp_path: Path) -> None:
    """Few-shot subsets with a hold-out, and hold-outs of all rows: the same choice, scores and predictions, up to `tol`."""
    for name, more in (("few", {"per_class": 8, "val": 0.25}), ("all", {"val": 0.25}), ("val", {"per_class": 8})):
        together = run(store, tmp_path / name, units=["middle"], seeds=3, **more)
        assert [r.n_together for r in together] == [3, 3, 3]
        for seed, record in enumerate(together):
            alone = run(store, tmp_path / f"{name}{seed}", units=["middle"], seeds=[seed], **more)
            (other,) = alone
            assert other.n_together == 1
            assert other.digest == record.digest
            assert (other.C, other.val_scores, other.n_train) == (record.C, record.val_scores, record.n_train)
            assert (other.statuses, other.is_refitted) == (record.statuses, record.is_refitted)
            differ = together.predictions(record).y_pred != alone.predictions(other).y_pred
            assert differ.mean() < 0.01


def test_the_seconds_of_a_batch_are_divided(store: featstore.Store, tmp_path: Path) -> None:
    """Summed over records they are what was spent, never several times the same batch."""
    started = time.perf_counter()
    found = run(store, tmp_path, seeds=4, val=0.2)
    spent = time.perf_counter() - started
    assert sum(r.seconds for r in found) < spent
    assert len({r.seconds for r in found if r.unit == "pixels"}) == 1


def test_units_share_the_label_side(store: featstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a seed draws is drawn once for all units, and labels are numbered once."""
    calls: list[str] = []

    def counted(name: str, real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return real(*args, **options)

        return call

    monkeypatch.setattr(featstore, "holdout_rows", counted("holdout", featstore.holdout_rows))
    monkeypatch.setattr(sweeps, "common_labels", counted("labels", sweeps.common_labels))
    assert run(store, tmp_path, val=0.2, seeds=2).n_fitted == 6
    assert sorted(calls) == ["holdout", "holdout", "labels"]


def test_batches_are_bounded(store: featstore.Store) -> None:
    """16 seeds at most, and fewer of large data: an interruption loses one batch, and its scores must fit into memory."""
    labels = np.arange(200_000) % 100

    def sizes(n_rows: int | None) -> list[int]:
        rows = None if n_rows is None else np.arange(n_rows)
        source = jobs.Source("unit", 0, {}, jobs.Labels({"train": labels}, (), {}), {})
        how = Protocol(GRID, probe.metrics.accuracy, True, 1e-6, LOGISTIC, False)
        asked = [jobs.Job(source, seed, jobs.Draw(None, 5), how) for seed in range(20)]
        (batches,) = jobs.batches_by_unit(asked, lambda job: Drawn(rows, None))
        assert [job.seed for batch in batches for job in batch.jobs] == list(range(20))
        return [len(batch.jobs) for batch in batches]

    assert sizes(500) == [16, 4]
    assert sizes(100_000) == [3, 3, 3, 3, 3, 3, 2]
    assert sizes(None) == [1] * 20


SHORT = (1e-5, 10**-4.75, 10**-4.5)


def test_a_grid_that_is_too_short_is_widened_on_request(
    store: featstore.Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each seed as far as its own best asks for; said, kept in the record, and another record than without."""
    more: dict[str, Any] = {"C": SHORT, "val": 0.25, "units": ["middle"], "seeds": 2}
    narrow = run(store, tmp_path, **more)
    assert all(r.at_edge and not r.widened for r in narrow)
    with pytest.warns(
        probe.GridWidened, match="The grid was widened for 2 of 2 results. middle seed 0: The best C was"
    ):
        wide = run(store, tmp_path, widen=True, progress=True, **more)
    assert "(widened)" in capsys.readouterr().err
    X, y = features(digits()[0][:300])["middle"], digits()[1][:300]
    ids = np.array([f"{i:04d}" for i in range(300)])
    for record, other in zip(wide, narrow, strict=True):
        held = featstore.holdout_rows(ids, y, 0.25, record.seed)
        path = probe.fit_path(X[~held], y[~held], SHORT)
        with pytest.warns(probe.GridWidened) as said:
            expected = probe.widen(path, X[~held], y[~held], X_val=X[held], y_val=y[held])
        assert record.widened == str(said[0].message)
        assert record.grid == tuple(expected.path.C)
        assert len(record.grid) > len(SHORT)
        assert (record.C, record.at_edge) == (expected.choice.C, False)
        assert record.val_score > other.val_score
        assert record.key["C"] == list(SHORT)
        assert record.digest != other.digest
    again = run(store, tmp_path, widen=True, **more)  # without a warning: nothing is tried
    assert (again.n_reused, again.records) == (2, wide.records)
    inside = run(store, tmp_path, widen=True, val=0.25, units=["middle"], C=(1e-4, 1.0, 1e4))
    assert inside.records[0].widened == ""


def test_one_table_of_seeds_whose_grids_were_widened_differently() -> None:
    from test_results import record

    key = {"C": [0.1, 1.0], "widen": True}
    found = [record(key={**key, "seed": i}, seed=i, grid=(0.1, 1.0, 10.0)[: 2 + i], widened="so" * i) for i in range(2)]
    assert results.text(found).count("net: train") == 1


@pytest.mark.parametrize("name", ["kornblith", "clip", "svm"])
def test_grids_by_name(store: featstore.Store, tmp_path: Path, name: str) -> None:
    """The same record as the values themselves."""
    first = run(store, tmp_path, units=["coarse"], C=name)
    assert first.records[0].grid == tuple(probe.named_grid(name))
    assert run(store, tmp_path, units=["coarse"], C=probe.named_grid(name)).n_reused == 1


@pytest.mark.parametrize(("name", "path_of"), [("svm", probe.svm_path), ("ridge", probe.ridge_path)])
def test_other_classifiers(store: featstore.Store, tmp_path: Path, name: str, path_of: Any) -> None:
    """The protocol written out; "svm" scales rows to length one in every part and has a grid of its own."""
    found = run(store, tmp_path, classifier=name, C=None, val=0.25, seeds=2, units=["pixels"])
    images, y = digits()
    X = features(images[:800])["pixels"]
    X = probe.l2_normalized(X) if name == "svm" else X
    ids = np.array([f"{i:04d}" for i in range(300)])
    for record in found:
        held = featstore.holdout_rows(ids, y[:300], 0.25, record.seed)
        path = path_of(X[:300][~held], y[:300][~held])
        choice = probe.select(path, X[:300][held], y[:300][held])
        assert (record.classifier, record.grid) == (name, tuple(path.C))
        assert (record.C, record.val_scores) == (choice.C, tuple(choice.scores))
        final = path_of(X[:300], y[:300], [choice.C])
        assert np.array_equal(found.predictions(record).y_pred, final.predict(X[500:800])[0])
    assert f"; {name}, metric accuracy" in found.text()
    assert found.table()["classifier"].tolist() == [name] * 2


def test_what_could_not_be_chosen_before_is_in_no_old_key(store: featstore.Store, folder: Path) -> None:
    """Records that were written before there were classifiers and widening are still found."""
    record = run(store, folder).records[0]
    assert not {"classifier", "widen"} & set(record.key)


def test_a_damaged_record_is_named_and_computed_again(
    store: featstore.Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = run(store, tmp_path, units=["coarse"]).records[0]
    path = tmp_path / f"{before.digest}.json"
    path.write_text(path.read_text().replace('"test_score": 0.', '"test_score": 0.9'))
    found = run(store, tmp_path, units=["coarse"], progress=True)
    assert found.n_fitted == 1
    assert f"'{path}' was changed after it was written" in capsys.readouterr().err
    after = ResultFolder(tmp_path).read(before.digest)
    assert after is not None
    assert replace(after, seconds=0.0) == replace(before, seconds=0.0)


def test_progress_and_absent_classes_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Train lacks "nine" and numbers its classes otherwise: labels meet by name, the missing class is stated."""
    store = featstore.create_store(tmp_path / "store")
    y = digits()[1]
    few = split("train", np.flatnonzero(y[:300] != 9))
    assert few.labels is not None
    reversed_names = NAMES[8::-1]
    write(store, replace(few, labels=8 - few.labels, classes=reversed_names))
    write(store, split("test", slice(500, 600)))
    found = run(store, tmp_path / "results", val=0.2, units=["pixels"], progress=True)
    record = found.records[0]
    nines = y[500:600] == 9
    said = found.predictions(record)
    assert record.absent == {"test": ["nine"]}
    assert not said.correct[nines].any()
    assert said.correct[~nines].mean() > 0.7
    err = capsys.readouterr().err
    assert "test has 1 class that train lacks (nine)" in err
    assert "1/1 pixels" in err
    assert "test has 1 class that train lacks (nine)" in found.text()


def test_images_that_two_splits_share_are_said(
    store: featstore.Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A test split that was trained on must not pass for a test; found by content, whatever the splits are called."""
    run(store, tmp_path, units="pixels", test="train", progress=True)
    said = capsys.readouterr().err
    assert said.count("warning: 300 of 300 images of test ('train') are in train ('train') as well") == 1
    run(store, tmp_path, units="pixels", progress=True)
    assert "as well" not in capsys.readouterr().err


def test_units_are_in_order_of_execution_whatever_order_is_asked(store: featstore.Store, tmp_path: Path) -> None:
    found = run(store, tmp_path, units=["pixels", "coarse", "pixels"])
    assert [(r.unit, r.depth) for r in found] == [("coarse", 0), ("pixels", 2)]
    assert [r.unit for r in run(store, tmp_path, units="coarse")] == ["coarse"]


def test_a_split_itself_may_be_given(store: featstore.Store, tmp_path: Path) -> None:
    """A subset of a stored split, by content: the rows are found in the larger one."""
    half = split("train", slice(0, 300)).subset(np.arange(0, 300, 2), "half")
    record = run(store, tmp_path, train=half, units=["coarse"]).records[0]
    assert record.n_train == 150
    assert record.train == "half"


def test_without_test_the_validation_predictions_are_kept(store: featstore.Store, tmp_path: Path) -> None:
    found = run(store, tmp_path, test=None, units=["middle"])
    record = found.records[0]
    assert (record.test, record.predictions_of, record.is_refitted) == ("", "val", False)
    assert np.isnan(record.test_score)
    assert found.predictions(record).accuracy() == pytest.approx(record.val_score, abs=1e-12)
    assert record.val_interval == found.predictions(record).interval()


def test_several_seeds_without_test_are_printed(store: featstore.Store, tmp_path: Path) -> None:
    """The standard deviation of scores that are not there is an exception of `statistics`."""
    found = run(store, tmp_path, test=None, val=0.2, seeds=2, units=["middle"])
    row = found.text().splitlines()[-1].split()
    assert len(found.records) == 2
    assert row[4:6] == [
        f"{np.mean([r.val_score for r in found]):.4f}",
        f"{np.std([r.val_score for r in found], ddof=1):.4f}",
    ]


@pytest.mark.parametrize("metric", ["mean_per_class", "top5", "log_loss"])
def test_other_metrics_choose_and_are_reported(store: featstore.Store, tmp_path: Path, metric: str) -> None:
    record = run(store, tmp_path, metric=metric, units=["middle"]).records[0]
    best = min(record.val_scores) if metric == "log_loss" else max(record.val_scores)
    assert record.val_score == best
    assert (record.test_interval is None) == (metric == "log_loss")
    if record.test_interval is not None:
        assert record.test_interval.low < record.test_score < record.test_interval.high


def test_a_metric_of_ones_own_is_not_taken_for_another(store: featstore.Store, tmp_path: Path) -> None:
    """Records are known by the metric's name: what could be another one's is refused, or makes another record."""
    first = run(store, tmp_path, units=["middle"])
    with pytest.raises(probe.BadInput, match=r"named 'accuracy', as one of probe\.metrics"):
        run(store, tmp_path, units=["middle"], metric=probe.metrics.PredictionMetric("accuracy", lambda y, said: 0.5))
    for nameless in (lambda y, said: 0.5, partial(_share, of=1)):
        with pytest.raises(probe.BadInput, match="has no name of its own"):
            run(store, tmp_path, units=["middle"], metric=nameless)
    rules = [probe.metrics.PredictionMetric("share", partial(_share, of=k)) for k in (1, 2)]
    found = [run(store, tmp_path, units=["middle"], metric=rule) for rule in (*rules, rules[0])]
    least = probe.metrics.PredictionMetric("share", partial(_share, of=1), higher_is_better=False)
    found.append(run(store, tmp_path, units=["middle"], metric=least))
    assert [one.n_reused for one in found] == [0, 0, 1, 0]
    assert run(store, tmp_path, units=["middle"]).n_reused == 1 == len(first.records)


def _share(y: np.ndarray, said: np.ndarray, of: int) -> float:
    """How many of a class are found."""
    return float((said[y == of] == of).mean())


def test_multi_label_data_by_average_precision(tmp_path: Path) -> None:
    """Two labels a digit has at once; the reported value is the metric of the refitted model's own decision values."""
    from probe import metrics

    store = featstore.create_store(tmp_path / "store")
    y = digits()[1]
    both = np.stack([y % 2, y > 4], axis=1).astype(np.uint8)
    for name, rows in (("train", slice(0, 300)), ("test", slice(500, 700))):
        write(store, replace(split(name, rows), labels=both[rows], classes=("odd", "large")))
    found = run(store, tmp_path / "r", val=0.2, metric="map11", units=["pixels"])
    record = found.records[0]
    X = features(digits()[0])["pixels"]
    scores = probe.fit(X[:300], both[:300], C=record.C).decision_function(X[500:700])
    assert record.test_score == pytest.approx(metrics.map11(both[500:700], scores), abs=1e-3)
    assert record.test_interval is None
    assert found.predictions(record).y_pred.shape == (200, 2)


def test_bad_features_are_named_with_their_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import stored_digits

    spoilt = features(digits()[0][:60])
    spoilt["middle"][7, 3] = np.nan
    monkeypatch.setattr(stored_digits, "features", lambda images: spoilt)
    store = featstore.create_store(tmp_path / "store")
    write(store, split("train", slice(0, 60)))
    with pytest.raises(BadInput, match=r"Unit 'middle' of 'train' cannot be probed: .*NaN.*\(first 7\)"):
        run(store, tmp_path / "r", val=split("train", slice(0, 60)), test=None)
    assert len(ResultFolder(tmp_path / "r").records()[0]) == 1


def test_a_seed_that_cannot_be_fitted_is_told_from_the_others(tmp_path: Path) -> None:
    """A label that one image has is held out by some seeds: what is left of it cannot be fitted."""
    store = featstore.create_store(tmp_path / "store")
    y = digits()[1][:60]
    labels = np.stack([y % 2, np.arange(60) == 7], axis=1).astype(np.uint8)
    write(store, replace(split("train", slice(0, 60)), labels=labels, classes=("odd", "rare")))
    message = r"cannot be probed \(the problems are the seeds 3, 4, 5, 6, 7\): Problem \d of 5: .*label"
    with pytest.raises(BadInput, match=message):
        run(store, tmp_path / "r", val=0.5, test=None, metric="map11", seeds=[3, 4, 5, 6, 7])


@pytest.mark.parametrize(
    "more",
    [{"val": "val"}, {"val": 0.2, "seeds": 2, "classifier": "svm"}, {"per_class": 8, "refit": True, "seeds": 2}],
    ids=["plain", "svm", "few-shot"],
)
def test_torch_tensors_give_the_same_choice(store: featstore.Store, tmp_path: Path, more: dict[str, Any]) -> None:
    """A device means torch: seeds together, the scaling to length one, the refit on train + val."""
    a, b = (run(store, tmp_path / str(device), units=["middle"], device=device, **more) for device in (None, "cpu"))
    for one, other in zip(a, b, strict=True):
        assert (one.C, one.val_scores, one.digest) == (other.C, other.val_scores, other.digest)
        assert one.test_score == pytest.approx(other.test_score, abs=0.01)


@pytest.mark.gpu
def test_features_on_a_device_give_the_same_choice(store: featstore.Store, tmp_path: Path) -> None:
    a, b = run(store, tmp_path / "cpu"), run(store, tmp_path / "cuda", device="cuda")
    assert [r.C for r in a] == [r.C for r in b]


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"train": "tarin"}, featstore.NotStored, "train"),
        ({"units": ["pixel"]}, featstore.NotStored, "pixels"),
        ({"metric": "acuracy"}, BadInput, "did you mean accuracy"),
        ({"classifier": "smv"}, BadInput, "did you mean 'svm'"),
        ({"C": "kornblit"}, BadInput, "did you mean 'kornblith'"),
        ({"seeds": 3}, BadInput, "3 seeds were asked for but nothing is drawn"),
        ({"seeds": 0}, BadInput, "at least 1"),
        ({"seeds": [1, 1], "val": 0.2}, BadInput, "different seeds"),
        ({"C": []}, BadInput, "one or more values"),
        ({"C": ["a"]}, BadInput, r"must be a positive number or a list of them, but it is \['a'\]"),
        ({"C": True}, BadInput, "but it is True"),
        ({"tol": "tight"}, BadInput, "tol is 'tight'"),
        ({"per_class": 2.5}, BadInput, "per_class is 2.5 but must be a whole number"),
        ({"per_class": "a"}, BadInput, "per_class is 'a'"),
        ({"val": True}, BadInput, "is True; it must lie strictly between 0 and 1"),
        ({"val": 1}, BadInput, "is 1; it must lie strictly between 0 and 1"),
        ({"val": ["val"]}, BadInput, r"val is \['val'\], but must be a split"),
        ({"train": 5}, BadInput, "train is 5, but must be a split, or the name of one that is stored"),
        ({"units": 5}, BadInput, "units is 5, but must be 'all', the name of a unit, or a list of names"),
        ({"units": [5]}, BadInput, r"units is \[5\]"),
        ({"C": [1.0, -1.0]}, BadInput, "positive"),
        ({"per_class": 1000}, featstore.BadLabels, "1000 of each class"),
        ({"per_class": 1, "val": 0.2}, BadInput, "one row only"),
        ({"val": 1.5}, BadInput, "strictly between 0 and 1"),
        ({"val": float("nan")}, BadInput, "is nan; it must lie strictly between 0 and 1"),
        ({"tol": float("nan")}, BadInput, "tol is nan, but it must lie between 0 and 1"),
        ({"device": "gpu"}, featstore.BadInput, "'gpu' is no device"),
    ],
)
def test_bad_arguments(
    store: featstore.Store, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(store, tmp_path, **changes)
    assert [path.name for path in tmp_path.iterdir() if path.name != "claims"] == []


def test_splits_without_labels_or_of_one_class_are_refused(tmp_path: Path) -> None:
    store = featstore.create_store(tmp_path / "store")
    write(store, replace(split("bare", slice(0, 50)), labels=None, classes=()))
    zeros = np.flatnonzero(digits()[1] == 0)
    write(store, split("zeros", zeros[:60]))
    with pytest.raises(BadInput, match="split 'bare' has no labels"):
        run(store, tmp_path / "r", train="bare", val=0.2, test=None)
    with pytest.raises(BadInput, match="one class"):
        run(store, tmp_path / "r", train="zeros", val=0.2, test=None)


def test_a_results_folder_that_cannot_be_written_is_one_sentence(store: featstore.Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match="Not a directory"):
        run(store, tmp_path / "file" / "results", units=["coarse"])


# ------------------------------------------------------------------------------------------------------ numbering


def test_common_labels_by_name() -> None:
    a, b = np.array([0, 1, 1]), np.array([0, 1, 2])
    classes, labels = common_labels({"train": (a, ("cat", "dog")), "test": (b, ("ant", "cat", "dog"))})
    assert classes == ("cat", "dog", "ant")
    assert labels["train"].tolist() == [0, 1, 1]
    assert labels["test"].tolist() == [2, 0, 1]
    assert absent_classes(labels, classes) == {"test": ["ant"]}
    same, labels = common_labels({"train": (a, ("cat", "dog")), "test": (a, ("cat", "dog"))})
    assert same == ("cat", "dog")
    assert absent_classes(labels, same) == {}
    assert common_labels({"train": (a, ()), "test": (b, ())})[0] == ()
    with pytest.raises(BadInput, match="classes of train have names and those of test do not"):
        common_labels({"train": (a, ("cat", "dog")), "test": (b, ())})
    wide = np.zeros((2, 2), np.uint8)
    with pytest.raises(BadInput, match="multi-label columns"):
        common_labels({"train": (wide, ("cat", "dog")), "test": (wide, ("dog", "cat"))})
