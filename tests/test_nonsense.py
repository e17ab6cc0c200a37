"""Statistics and fits given what is no data: one sentence that says what is wrong, never an error of numpy's and never a number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from problems import digits

import probe
from probe.permutation import mcnemar, sign_flip_scores
from probe.rank_tests import pearson, signed_rank, spearman

OF_NUMBERS: dict[str, Callable[[Any], Any]] = {
    "holm": probe.holm,
    "logit": probe.logit,
    "inverse_logit": probe.inverse_logit,
    "signed_rank": signed_rank,
    "sign_flip_scores": sign_flip_scores,
    "pearson": lambda x: pearson(x, np.arange(2.0)),
    "spearman": lambda x: spearman(x, np.arange(2.0)),
    "bootstrap_band": lambda x: probe.bootstrap_band(x, np.arange(3.0), np.arange(2.0)),
    "bootstrap_band, at": lambda x: probe.bootstrap_band(np.arange(3.0), np.arange(3.0), x),
}


@pytest.mark.parametrize(
    "values",
    [["a", "b"], "ab", None, [object(), 1], [1j, 0j], [[0.1], [0.2, 0.3]]],
    ids=["words", "word", "None", "objects", "complex", "ragged"],  # of an object's text every process has another
)
@pytest.mark.parametrize("name", OF_NUMBERS)
def test_what_are_no_numbers_is_refused(name: str, values: Any) -> None:
    with pytest.raises(probe.BadInput, match="must be numbers but are"):
        OF_NUMBERS[name](values)


@pytest.mark.parametrize("name", ["signed_rank", "sign_flip_scores", "pearson", "spearman", "bootstrap_band"])
def test_nan_is_no_number_to_rank_or_to_draw(name: str) -> None:
    """A NaN has a rank in numpy, behind all others: a p-value of it would be made up."""
    with pytest.raises(probe.BadInput, match=r"must be finite, but 1 of \d"):
        OF_NUMBERS[name]([math.nan, 0.1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pearson([1.0], [1.0, 2.0]), "there are 1 and 2"),
        (lambda: probe.holm([[0.1]]), r"shape \(1, 1\)"),
        (lambda: probe.holm([0.1, 1.5]), "one is 1.5"),
        (lambda: probe.logit([0.0, 1.0], [3, 4, 5]), "one n for all, or one for each"),
        (lambda: probe.logit([1.0], "many"), r"\(n\) must be numbers"),
        (lambda: mcnemar(-1, 3), "whole number from 0 but is -1"),
        (lambda: mcnemar(1.5, 3), "whole number from 0 but is 1.5"),
        (lambda: probe.what_few_models_show("many"), "whole number"),
        (lambda: probe.what_few_models_show(5, level=95), "between 0 and 1"),
        (lambda: probe.what_few_models_show(5, level="high"), "between 0 and 1 but is 'high'"),
    ],
)
def test_what_does_not_fit_together_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(probe.BadInput, match=message):
        call()


WITH_SEEDS: dict[str, Callable[[Any], Any]] = {
    "bootstrap_band": lambda s: probe.bootstrap_band(np.arange(3.0), np.arange(3.0), [1.0], seed=s),
    "spearman": lambda s: spearman(np.arange(3.0), np.arange(3.0), seed=s),
    "sign_flip_scores": lambda s: sign_flip_scores([0.1, 0.2], seed=s),
    "correlate": lambda s: probe.correlate(few(), seed=s),
    "rank_correlations": lambda s: probe.rank_correlations(few(), seed=s),
    "source_scatter": lambda s: probe.plots.source_scatter(few(), seed=s),
    "compare": lambda s: probe.compare(said(), said(), seed=s),
    "compare_all": lambda s: probe.compare_all([said(), said(name="o")], seed=s),
    "bootstrap_difference": lambda s: probe.bootstrap_difference(said(), said(), probe.metrics.accuracy, seed=s),
    "calibration_table": lambda s: probe.calibration_table([said()], seed=s),
    "chosen_classes": lambda s: probe.chosen_classes(FEATURES, np.arange(60) % 3, [0], seed=s),
    "tsne": lambda s: probe.tsne(FEATURES, seed=s),
    "select_holdout": lambda s: probe.select_holdout(FEATURES, np.arange(60) % 3, [1.0], seed=s),
    "select_kfold": lambda s: probe.select_kfold(FEATURES, np.arange(60) % 3, [1.0], seed=s),
}


@pytest.mark.parametrize("seed", ["x", -1, 0.5, None, True], ids=repr)
@pytest.mark.parametrize("name", WITH_SEEDS)
def test_a_seed_is_a_whole_number(name: str, seed: Any) -> None:
    """Whether a call draws or computes exactly is its own affair: what is no seed is refused by both."""
    with pytest.raises(probe.BadInput, match=r"seed is .* but must be a whole number from 0"):
        WITH_SEEDS[name](seed)


def few(**columns: Any) -> pd.DataFrame:
    rows = [
        {"model": m, "dataset": d, "accuracy": 0.5 + 0.05 * i + 0.02 * j, "n": 100, "source": 0.5 + 0.1 * i}
        for i, m in enumerate("abcd")
        for j, d in enumerate("xyz")
    ]
    return pd.DataFrame(rows).assign(regime="logistic", **columns)


OF_TABLES: dict[str, Callable[[Any], Any]] = {
    "average": probe.average_over_datasets,
    "correlate": probe.correlate,
    "rank_correlations": probe.rank_correlations,
    "compare_regimes": lambda table: probe.compare_regimes(table, "logistic", "fine-tuned"),
    "few_shot_means": probe.few_shot_means,
    "converged_at": probe.converged_at,
    "crossings": lambda table: probe.crossings(table, "logistic", "fine-tuned"),
    "complete": probe.complete,
}


@pytest.mark.parametrize(
    "table", [None, [1, 2], pd.DataFrame(), few()[:0]], ids=["None", "list", "no columns", "no rows"]
)
@pytest.mark.parametrize("name", OF_TABLES)
def test_what_is_no_table_is_refused(name: str, table: Any) -> None:
    with pytest.raises(probe.BadInput):
        OF_TABLES[name](table)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"accuracy": "high"}, "accuracy"),
        ({"accuracy": 50.0}, "accurac"),
        ({"accuracy": math.inf}, "accurac"),
        ({"source": math.nan}, "source"),
        ({"n": -5}, "n"),
    ],
)
def test_columns_of_nonsense_are_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(probe.BadInput, match=message):
        probe.correlate(few(**columns))


def test_equal_values_have_no_correlation_and_no_difference() -> None:
    """Neither a division by zero nor a significance of rounding errors."""
    flat = few(accuracy=0.5)
    assert all(math.isnan(c.r) and math.isnan(c.rho) and not c.is_significant for c in probe.correlate(flat))
    assert probe.average_over_datasets(flat)["is_tied"].all()
    both = pd.concat([flat, flat.assign(regime="fine-tuned")])
    assert (probe.compare_regimes(both, "logistic", "fine-tuned")["p_value"] == 1).all()
    one = probe.correlate(few()[:3])
    assert all(math.isnan(c.r) and not c.is_significant for c in one)


def said(n: int = 12, name: str = "m") -> probe.Predictions:
    labels = np.arange(n) % 3
    scores = np.eye(3, dtype=np.float32)[labels]
    return probe.Predictions(np.array([f"i{i}" for i in range(n)]), labels, labels, ("a", "b", "c"), scores, name=name)


FEATURES = np.random.default_rng(0).normal(size=(60, 5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: probe.compare(said(), None), "not NoneType"),
        (lambda: probe.compare([1, 0], [0, 1]), "not list"),
        (lambda: probe.compare(said(), said(), measure=lambda p: ["a"] * len(p)), "must be numbers but are"),
        (lambda: probe.compare_all([said(), 3]), "not int"),
        (lambda: probe.bootstrap_difference(said(), "b", probe.metrics.accuracy), "not str"),
        (lambda: probe.comparison_text([]), "at least one"),
        (lambda: probe.comparison_table([0.5]), "Comparisons of probe.compare"),
        (lambda: probe.calibration_table([1]), "not of int"),
        (lambda: probe.reliability(None), "not NoneType"),
        (lambda: probe.history_table(["a"]), "rows with step, epoch and val"),
        (lambda: probe.speed_up(None, "a", "b"), "not NoneType"),
        (lambda: probe.chosen_classes(FEATURES, [0, 1, 2], [0]), r"60 rows but y has shape \(3,\)"),
        (lambda: probe.chosen_classes(FEATURES, np.zeros(60), [0], per_class=0), "at least one row"),
        (lambda: probe.chosen_classes(FEATURES, np.zeros(60), None), "classes must be a list of labels of y"),
        (lambda: probe.chosen_classes(None, np.zeros(60), [0]), "X must be an array of features"),
        (lambda: probe.chosen_classes(FEATURES, np.zeros(60), [0], per_class="many"), "per_class.* is 'many'"),
        (lambda: probe.correlation_table([1]), "Correlations of probe.correlate is needed, not of int"),
        (lambda: probe.correlation_table(None), "Correlations of probe.correlate is needed, not NoneType"),
        (lambda: probe.plots.differences([0.1]), "Comparisons of probe.compare is needed, not of float"),
        (lambda: probe.import_optima(None), "A file of optima is needed by its path"),
        (lambda: probe.export_optima([1], "x.json"), "not of int"),
        (lambda: probe.export_optima(None, "x.json"), "not NoneType"),
        (lambda: probe.load_model(None), "A saved probe is needed by its path"),
        (lambda: probe.load_study(None), "The folder of a study is needed by its path"),
        (lambda: probe.load_results(3), "A folder of results is needed by its path"),
        (lambda: probe.write_report(None, "a.html"), "not NoneType"),
        (lambda: probe.write_report([1], "a.html"), "not of int"),
        (lambda: probe.write_report([], None), "The page to write is needed by its path"),
        (lambda: probe.plan_study(None, "x"), "takes a Study.*not NoneType"),
        (lambda: probe.run_study("plan.toml", "x"), "takes a Study.*not str"),
        (lambda: probe.keep_thumbnails("x", None), "not of NoneType"),
        (lambda: probe.results.table(None), "not NoneType"),
        (lambda: probe.named_grid(None), "name of a grid is text"),
        (lambda: probe.plots.accuracy_by_depth(None), "data frame is needed"),
        (lambda: probe.plots.accuracy_by_depth(few()), "lacks the columns unit, depth"),
        (lambda: probe.plots.accuracy_by_C(few()), "lacks the columns C, val_score"),
        (lambda: probe.plots.unit_map(None), "data frame is needed"),
        (lambda: probe.plots.embedding_scatter(None), "takes an Embedding"),
        (lambda: probe.plots.save(None, "x.png"), "not NoneType"),
        (lambda: probe.Study.from_toml(None), "plan of a study is needed by its path"),
        (lambda: probe.label_accuracy([1]), "not list"),
        (lambda: probe.calibration_table(5), "Predictions is needed, not int"),
        (lambda: probe.compare(said(), said(), n_permutations="many"), "n_permutations is 'many'"),
        (lambda: probe.bootstrap_band(np.arange(3.0), np.arange(3.0), [1.0], n_draws=None), "n_draws is None"),
        (lambda: probe.find_leaks(None), "labels must be a mapping of splits"),
        (lambda: probe.find_leaks({"train": np.zeros(2), "test": np.zeros(2)}, {"train": []}), "contents lacks test"),
        (lambda: probe.find_leaks({}, closeness="near"), "closeness of near-duplicates is near"),
        (lambda: probe.tsne(np.full((60, 5), math.nan)), "NaN"),
        (lambda: probe.tsne(np.ones((60, 5))), "rows are the same"),
    ],
)
def test_what_are_no_predictions_histories_or_features_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(probe.BadInput, match=message):
        call()


NO_WORDS = [few(), np.arange(4.0), np.ones((2, 2)), few()["accuracy"], 5, object(), ["logistic"], {"a": 1}, b"x"]
NO_WORD: dict[str, Callable[[Any], Any]] = {
    "correlate, regime": lambda v: probe.correlate(few(), regime=v),
    "correlate, scale": lambda v: probe.correlate(few(), scale=v),
    "rank_correlations, scale": lambda v: probe.rank_correlations(few(), scale=v),
    "average_over_datasets, regime": lambda v: probe.average_over_datasets(few(), regime=v),
    "compare_regimes, a": lambda v: probe.compare_regimes(few(), v, "logistic"),
    "compare_regimes, scale": lambda v: probe.compare_regimes(two_regimes(), "fine-tuned", "logistic", scale=v),
    "crossings, b": lambda v: probe.crossings(two_regimes(per_class=5), "logistic", v),
    "compare, measure": lambda v: probe.compare(said(), said(), measure=v),
    "complete, keep": lambda v: probe.complete(few(), v),
    "source_scatter, regime": lambda v: probe.plots.source_scatter(few(), regime=v),
    "source_scatter, dataset": lambda v: probe.plots.source_scatter(few(), dataset=v),
    "source_scatter, scale": lambda v: probe.plots.source_scatter(few(), scale=v),
    "few_shot_curves, dataset": lambda v: probe.plots.few_shot_curves(few(per_class=5), dataset=v),
    "metric": lambda v: probe.metrics.get(v),
    "Dataset, metric": lambda v: probe.Dataset("d", "digits:train", "digits:test", metric=v),
    "Network, name": lambda v: probe.Network(v),
}


def two_regimes(**columns: Any) -> pd.DataFrame:
    return pd.concat([few(**columns), few(**columns).assign(regime="fine-tuned")])


@pytest.mark.parametrize("value", NO_WORDS, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("name", NO_WORD)
def test_a_word_is_no_table_and_no_number(name: str, value: Any) -> None:
    """A data frame compared with a word is a data frame, and its truth ambiguous: a mixed-up argument is said as that."""
    with pytest.raises(probe.BadInput):
        NO_WORD[name](value)


NO_MAPPING: dict[str, Callable[[Any], Any]] = {
    "correlate": lambda v: probe.correlate(few(), source=v),
    "source_scatter": lambda v: probe.plots.source_scatter(few(), source=v),
    "bars_by_dataset": lambda v: probe.plots.bars_by_dataset(few(), references=v),
    "Study.from_json": probe.Study.from_json,
    "Network, options": lambda v: probe.Network("n", options=v),
}


@pytest.mark.parametrize(
    "value", [5, math.nan, [1], few(), np.arange(4.0), object(), "word", {"a"}], ids=lambda v: type(v).__name__
)
@pytest.mark.parametrize("name", NO_MAPPING)
def test_what_is_looked_up_is_a_mapping(name: str, value: Any) -> None:
    with pytest.raises(probe.BadInput):
        NO_MAPPING[name](value)


def test_accuracies_on_the_source_task_are_numbers() -> None:
    """Text in a mapping is no accuracy; models of the mapping that the table lacks do not matter."""
    with pytest.raises(probe.BadInput, match="source of 'b' must be numbers"):
        probe.correlate(few(), source={"a": 0.5, "b": "high", "c": 0.6, "d": 0.7})
    given = {name: 0.5 + 0.1 * i for i, name in enumerate("abcd")}
    assert probe.correlate(few(), source={**given, "unknown": None})[-1].r == probe.correlate(few(), given)[-1].r


DRAWN: dict[str, Callable[[Any], Any]] = {
    "source_scatter": lambda ax: probe.plots.source_scatter(few(), ax),
    "bars_by_dataset": lambda ax: probe.plots.bars_by_dataset(few(), ax),
    "few_shot_curves": lambda ax: probe.plots.few_shot_curves(few(per_class=5), ax, dataset="x"),
    "differences": lambda ax: probe.plots.differences([probe.compare(said(), said(name="o"))], ax),
    "embedding_scatter": lambda ax: probe.plots.embedding_scatter(
        probe.Embedding(FEATURES[:, :2], None, 5.0, 0.1, "scikit-learn", 0), ax
    ),
}


@pytest.mark.parametrize("ax", [5, "axes", few(), [None], object()], ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("name", DRAWN)
def test_axes_are_axes(name: str, ax: Any) -> None:
    """Table and axes are easily swapped."""
    with pytest.raises(probe.BadInput, match="axes of matplotlib"):
        DRAWN[name](ax)


STUDIES: dict[str, Callable[[], Any]] = {
    "numbers for networks": lambda: probe.Study((1,), (2,)),  # type: ignore[arg-type]
    "one network, no list": lambda: probe.Study(probe.Network("n"), (DIGITS,)),  # type: ignore[arg-type]
    "a seed, no list": lambda: probe.Study((probe.Network("n"),), (DIGITS,), seeds=0),  # type: ignore[arg-type]
    "a list of seeds in a list": lambda: probe.Study((probe.Network("n"),), (DIGITS,), seeds=([0],)),  # type: ignore[arg-type]
    "a list for JSON": lambda: probe.Study.from_json([1]),  # type: ignore[arg-type]
    "keys that are no text": lambda: probe.Study.from_json({None: 1}),  # type: ignore[dict-item]
    "a name with a null": lambda: probe.Study.from_toml("a\0b"),
    "names that are one text": lambda: probe.Regime("logistic", datasets="digits"),  # type: ignore[arg-type]
    "text for a source": lambda: probe.Network("n", source="0.9"),  # type: ignore[arg-type]
    "no function": lambda: probe.Regime("r", 5),
    "a table for a split": lambda: probe.Dataset("d", "digits:train", few()),
    "a part by a number": lambda: probe.Study((probe.Network("n"),), (DIGITS,)).only(networks=5),  # type: ignore[arg-type]
}
DIGITS = probe.Dataset("d", "digits:train", "digits:test")


@pytest.mark.parametrize("name", STUDIES)
def test_what_is_no_study_is_refused(name: str) -> None:
    with pytest.raises(probe.BadInput):
        STUDIES[name]()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X, y: probe.fit_path([[1.0, 2.0], [3.0]], [0, 1], [1.0]), "rows of X have different lengths"),
        (lambda X, y: probe.fit_path(X, [[1, 0], [1]] * (len(X) // 2), [1.0]), "rows of y have different lengths"),
        (lambda X, y: probe.fit_path(X, y, [1.0], sample_weight=[[1], [1, 2]]), "sample_weight must hold numbers"),
        (lambda X, y: probe.fit_path(X, y, [1.0, True]), r"C must be .* but it is \[1.0, True\]"),
        (lambda X, y: probe.fit_paths(X, y, [1.0], rows=5), "rows is 5, but it must be a list of subsets"),
        (lambda X, y: probe.fit(X, y).predict([[1.0, 2.0], [3.0]]), "rows of X have different lengths"),
        (lambda X, y: probe.select_kfold(X, y, n_folds="a"), "'a' folds were asked for"),
        (lambda X, y: probe.select_kfold(X, y, n_folds=2.5), "2.5 folds were asked for"),
        (lambda X, y: probe.select_holdout(X, y, fraction="a"), "fraction to hold out is 'a'"),
        (lambda X, y: probe.select_splits(X, y, [[1]], [1.0]), "Split 0 is a list of length 1"),
        (lambda X, y: probe.LinearProbe(C=[1.0, 2.0], cv=[[1]]).fit(X, y), "Split 0 is a list of length 1"),
        (lambda X, y: probe.LinearProbe(C=[1.0, 2.0], cv=object()).fit(X, y), "Splits are pairs"),
    ],
)
def test_features_labels_and_splits_that_are_none(call: Any, message: str) -> None:
    """What numpy and scikit-learn would raise from within speaks of arrays that the caller has never seen."""
    X, y = digits(60, 3)
    with pytest.raises(probe.BadInput, match=message):
        call(X, y)
