"""Metrics against scikit-learn, or against plain loops written from the definition, on every kind of array."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from probe import metrics
from probe.errors import BadInput

ARRAYS = ["numpy", "torch", "strict"]


def make(kind: str, x: Any) -> Any:
    """An array of the named library; `strict` refuses everything that is not in the array API standard."""
    x = np.asarray(x)
    if kind == "torch":
        import torch

        return torch.from_numpy(x.copy())
    if kind == "strict":
        import array_api_strict

        return array_api_strict.asarray(x)
    return x


def problem(seed: int, n: int = 60, k: int = 4, *, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Labels of k classes and decision values that know something about them; with ties, values on a coarse grid."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    z = rng.normal(size=(n, k)) + 1.5 * np.eye(k)[y]
    return y, np.round(2 * z) / 2 if ties else z


def multi_problem(seed: int, n: int = 40, k: int = 3, *, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random((n, k)) < [0.1, 0.4, 0.7]).astype(np.uint8)
    y[0] = 1
    z = rng.normal(size=(n, k)) + y
    return y, np.round(z) if ties else z


def probabilities(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


# ---------------------------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("seed", range(5))
def test_prediction_metrics_agree_with_scikit_learn(kind: str, seed: int) -> None:
    """Four definitions, one independent implementation; 1e-12 is rounding of float64 sums of 60 terms."""
    from sklearn import metrics as sk

    y, z = problem(seed)
    p = z.argmax(1)
    a, b = make(kind, y), make(kind, p)
    assert metrics.accuracy(a, b) == sk.accuracy_score(y, p)
    assert metrics.mean_per_class(a, b) == pytest.approx(sk.balanced_accuracy_score(y, p), abs=1e-12)
    kappa = sk.cohen_kappa_score(y, p, weights="quadratic", labels=range(4))
    assert metrics.quadratic_kappa(a, b) == pytest.approx(kappa, abs=1e-12)
    assert metrics.macro_f1(a, b) == pytest.approx(sk.f1_score(y, p, average="macro"), abs=1e-12)


def test_labels_may_be_strings() -> None:
    y, p = np.array(["cat", "dog", "dog", "emu"]), np.array(["cat", "cat", "dog", "yak"])
    assert metrics.accuracy(y, p) == 0.5
    assert metrics.mean_per_class(y, p) == pytest.approx((1 + 0.5 + 0) / 3)
    assert metrics.macro_f1(y, p) == pytest.approx((2 / 3 + 2 / 3 + 0 + 0) / 4)
    assert metrics.accuracy(list(y), list(p)) == 0.5


def test_mean_per_class_leaves_out_classes_absent_from_the_truth() -> None:
    """Class 9 is predicted but never true: it must neither count as 0 nor divide by 0."""
    assert metrics.mean_per_class(np.array([0, 0, 1]), np.array([0, 9, 1])) == pytest.approx(0.75)


def test_kappa_uses_the_value_of_a_grade_not_its_rank() -> None:
    """Grades 0, 1 and 4: scikit-learn agrees only when told of the grades in between."""
    from sklearn.metrics import cohen_kappa_score

    y, p = np.array([0, 1, 4, 4, 0, 1]), np.array([0, 4, 4, 1, 1, 1])
    expected = cohen_kappa_score(y, p, weights="quadratic", labels=range(5))
    assert metrics.quadratic_kappa(y, p) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(BadInput, match="single grade 3"):
        metrics.quadratic_kappa(np.array([3, 3]), np.array([3, 3]))
    with pytest.raises(BadInput, match="numbers"):
        metrics.quadratic_kappa(np.array(["a", "b"]), np.array(["a", "a"]))


@pytest.mark.parametrize("kind", ARRAYS)
def test_macro_f1_of_multi_label_decisions(kind: str) -> None:
    from sklearn.metrics import f1_score

    y, z = multi_problem(0)
    p = (z > 0.5).astype(np.uint8)
    p[:, 0] = 0  # nothing called: F1 of that column is 0, not an error
    expected = f1_score(y, p, average="macro", zero_division=0)
    assert metrics.macro_f1(make(kind, y), make(kind, p)) == pytest.approx(expected, abs=1e-12)


# --------------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(3))
def test_score_metrics_agree_with_scikit_learn(kind: str, dtype: str, seed: int) -> None:
    """Decision values of a multinomial problem; scikit-learn is given the float64 probabilities of the same values."""
    from sklearn import metrics as sk

    y, z = problem(seed, k=7)
    z = z.astype(dtype)
    p = probabilities(z.astype(np.float64))
    a, s = make(kind, y), make(kind, z)
    assert metrics.top5(a, s) == sk.top_k_accuracy_score(y, z, k=5)
    assert metrics.top_k(2)(a, s) == sk.top_k_accuracy_score(y, z, k=2)
    assert metrics.log_loss(a, s) == pytest.approx(sk.log_loss(y, p, labels=range(7)), abs=1e-12)
    expected = sk.roc_auc_score(y, p, multi_class="ovr", average="macro", labels=range(7))
    assert metrics.roc_auc(a, s) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("ties", [False, True])
def test_binary_scores(kind: str, ties: bool) -> None:
    """One column, (n,) or (n, 1), positive means the second class: AUC with ties, log loss of the sigmoid."""
    from sklearn import metrics as sk

    y, z = problem(3, k=2, ties=ties)
    d = z[:, 1] - z[:, 0]
    p = 1 / (1 + np.exp(-d))
    for s in (make(kind, d), make(kind, d[:, None])):
        assert metrics.roc_auc(make(kind, y), s) == pytest.approx(sk.roc_auc_score(y, d), abs=1e-12)
        assert metrics.log_loss(make(kind, y), s) == pytest.approx(sk.log_loss(y, p), abs=1e-12)
        assert metrics.evaluate(metrics.accuracy, make(kind, y), s) == sk.accuracy_score(y, d > 0)


@pytest.mark.parametrize("kind", ARRAYS)
def test_top_k_breaks_ties_by_column_so_that_top_1_is_accuracy(kind: str) -> None:
    y, z = problem(1, ties=True)
    assert metrics.top_k(1)(make(kind, y), make(kind, z)) == metrics.accuracy(y, z.argmax(1))
    brute = np.mean([t in np.argsort(-row, kind="stable")[:2] for t, row in zip(y, z, strict=True)])
    assert metrics.top_k(2)(make(kind, y), make(kind, z)) == brute


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("n_bins", [1, 4, 15])
def test_calibration_error_against_a_loop_over_bins(kind: str, n_bins: int) -> None:
    """Guo et al., equation 3, read aloud: bins (lower, upper], gap weighted by the share of rows."""
    y, z = problem(5, n=200)
    p = probabilities(z)
    sure, right = p.max(1), z.argmax(1) == y
    expected = 0.0
    for b in range(n_bins):
        rows = (sure > b / n_bins) & (sure <= (b + 1) / n_bins)
        if rows.any():
            expected += rows.mean() * abs(right[rows].mean() - sure[rows].mean())
    assert metrics.calibration(n_bins)(make(kind, y), make(kind, z)) == pytest.approx(expected, abs=1e-12)


def test_calibration_bins_are_closed_above() -> None:
    """A confidence of exactly one half belongs to (0, 1/2]: right at 0.5 and wrong at 0.75 must not cancel."""
    y, z = np.array([0, 0]), np.array([[0.0, 0.0], [0.0, np.log(3.0)]])
    assert metrics.calibration(2)(y, z) == pytest.approx((0.5 + 0.75) / 2)


def test_log_loss_does_not_clip_extreme_scores() -> None:
    """A wrong decision by 1,000 costs 1,000 nats; probabilities clipped at 1e-16 would say 37."""
    assert metrics.log_loss(np.array([0]), np.array([[0.0, 1000.0]])) == 1000.0
    assert metrics.log_loss(np.array([[1, 0]]), np.array([[-1000.0, -5.0]])) == pytest.approx(
        (1000 + np.log1p(np.exp(-5))) / 2
    )


# -------------------------------------------------------------------------------------------------- average precision


def slow_average_precision(y: np.ndarray, z: np.ndarray, points: str) -> float:
    """From the definition: precision and recall at every threshold, then the three readings of the curve."""
    curve = [((y[z >= t] == 1).mean(), (y[z >= t] == 1).sum() / (y == 1).sum()) for t in sorted(set(z), reverse=True)]
    if points == "11":
        return float(np.mean([max(p for p, r in curve if r >= i / 10 - 1e-9) for i in range(11)]))
    total, before = 0.0, 0.0
    for i, (p, r) in enumerate(curve):
        total += (r - before) * (max(q for q, _ in curve[i:]) if points == "all" else p)
        before = r
    return total


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("points", ["11", "all", "step"])
@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_against_the_definition(kind: str, points: Any, ties: bool) -> None:
    y, z = multi_problem(2, ties=ties)
    expected = np.mean([slow_average_precision(y[:, c], z[:, c], points) for c in range(3)])
    got = metrics.average_precision(points)(make(kind, y), make(kind, z))
    assert got == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_step_average_precision_and_multi_label_auc_are_scikit_learns(ties: bool) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    y, z = multi_problem(4, ties=ties)
    expected = average_precision_score(y, z, average="macro")
    assert metrics.average_precision("step")(y, z) == pytest.approx(expected, abs=1e-12)
    assert metrics.roc_auc(y, z) == pytest.approx(roc_auc_score(y, z, average="macro"), abs=1e-12)


def test_the_three_policies_for_difficult_entries() -> None:
    """Each policy equals the plain metric on truth rewritten by hand; the three values differ on this data."""
    y, z = multi_problem(6)
    y[3:9] = metrics.DIFFICULT
    values = {}
    for policy in ("negative", "positive"):
        rewritten = np.where(y == metrics.DIFFICULT, int(policy == "positive"), y)
        values[policy] = metrics.average_precision("11", policy)(y, z)  # type: ignore[arg-type]
        assert values[policy] == metrics.map11(rewritten, z)
    kept = [y[:, c] != metrics.DIFFICULT for c in range(3)]
    expected = np.mean([slow_average_precision(y[kept[c], c], z[kept[c], c], "11") for c in range(3)])
    values["ignored"] = metrics.map11(y, z)
    assert values["ignored"] == pytest.approx(expected, abs=1e-12)
    assert len(set(values.values())) == 3


def test_a_class_without_positives_is_left_out_of_map() -> None:
    y, z = multi_problem(7)
    y[:, 1] = 0
    expected = np.mean([slow_average_precision(y[:, c], z[:, c], "all") for c in (0, 2)])
    assert metrics.map_all(y, z) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(BadInput, match="no class has a positive row"):
        metrics.map11(np.zeros_like(y), z)


# ----------------------------------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("ties", [False, True])
def test_thresholds_by_f1_are_the_best_of_all_combinations(kind: str, ties: bool) -> None:
    """Every combination of every cut of three classes, tried: none has a larger macro F1."""
    from sklearn.metrics import f1_score

    y, z = multi_problem(8, n=9, ties=ties)
    chosen = metrics.thresholds_by_f1(make(kind, y), make(kind, z))
    got = metrics.macro_f1_at(chosen)(make(kind, y), make(kind, z))
    cuts = [[-np.inf, *sorted(set(z[:, c]))] for c in range(3)]
    best = max(
        f1_score(y, (z > np.array(t)).astype(int), average="macro", zero_division=0) for t in itertools.product(*cuts)
    )
    assert got == pytest.approx(best, abs=1e-12)


def test_thresholds_by_f1_survive_neighbouring_floats_and_missing_classes() -> None:
    """Between a float32 and the next one there is no middle; a class nobody has must never be called."""
    low = np.float32(1.0)
    z = np.array([[low, 5.0], [np.nextafter(low, np.float32(2)), 6.0]], np.float32)
    y = np.array([[0, 0], [1, 0]], np.uint8)
    chosen = metrics.thresholds_by_f1(y, z)
    assert np.isposinf(chosen[1])
    assert (z[:, 0] > chosen[0]).tolist() == [False, True]
    assert metrics.macro_f1_at(chosen)(y, z) == 0.5


def test_thresholds_by_proportion_against_the_published_loop() -> None:
    """The Human Protein Atlas search as a loop over probabilities."""
    y, z = multi_problem(9, n=120)
    p = 1 / (1 + np.exp(-z))
    expected = []
    for c in range(3):
        differences = [abs((p[:, c] > t).mean() - y[:, c].mean()) for t in np.arange(0.05, 1.0, 0.01)]
        expected.append(np.arange(0.05, 1.0, 0.01)[int(np.argmin(np.round(differences, 9)))])
    chosen = metrics.thresholds_by_proportion(y, z)
    assert 1 / (1 + np.exp(-chosen)) == pytest.approx(expected, abs=1e-12)


# ------------------------------------------------------------------------------------------------ kinds and errors


def test_the_two_kinds_are_told_apart_by_type_and_attribute() -> None:
    for metric in metrics.NAMED:
        takes_scores = isinstance(metric, metrics.ScoreMetric)
        assert metric.takes is (metrics.Takes.SCORES if takes_scores else metrics.Takes.PREDICTIONS)
        assert metric.__doc__
        assert pickle.loads(pickle.dumps(metric)) == metric
    assert [m.name for m in metrics.NAMED if not m.higher_is_better] == ["log_loss", "calibration_error"]


@pytest.mark.parametrize("metric", metrics.NAMED, ids=lambda m: m.name)
@pytest.mark.parametrize("kind", ARRAYS)
def test_evaluate_applies_either_kind_to_decision_values(metric: metrics.Metric, kind: str) -> None:
    """`evaluate` equals the direct call on the same scores, or on their argmax, for every named metric."""
    multi = metric.name.startswith("map")
    y, z = multi_problem(1) if multi else problem(1, k=6)
    direct = metric(y, z) if metric.takes is metrics.Takes.SCORES else metric(y, z.argmax(1))
    assert metrics.evaluate(metric, make(kind, y), make(kind, z)) == pytest.approx(direct, abs=1e-12)


def test_classes_name_the_columns_in_any_order_and_of_any_kind() -> None:
    """String labels, unsorted columns, and a true label that has no column: wrong for accuracy and top-k."""
    import torch

    classes = np.array(["emu", "cat", "dog"])
    z = np.array([[3.0, 0.0, 1.0], [0.0, 3.0, 1.0], [0.0, 1.0, 3.0], [9.0, 0.0, 0.0]])
    y = np.array(["emu", "cat", "cat", "yak"])
    for scores in (z, torch.from_numpy(z)):
        assert metrics.evaluate(metrics.accuracy, y, scores, classes) == 0.5
        assert metrics.top_k(2)(y, scores, classes) == 0.75
        assert metrics.top_k(3)(y, scores, classes) == 0.75
        with pytest.raises(BadInput, match="1 of 4 rows has no column"):
            metrics.log_loss(y, scores, classes)
    integers = metrics.predicted_labels(torch.from_numpy(z), np.array([7, 3, 5]))
    assert isinstance(integers, torch.Tensor)
    assert integers.tolist() == [7, 3, 5, 7]


def test_labels_move_to_the_scores_and_a_plain_function_is_a_metric() -> None:
    import torch

    y, z = problem(2)
    assert metrics.top5(y, torch.from_numpy(z)) == 1.0
    assert metrics.accuracy(y, torch.from_numpy(z.argmax(1))) == metrics.accuracy(y, z.argmax(1))
    mine = metrics.as_metric(lambda a, b: float((a != b).mean()))
    assert metrics.evaluate(mine, y, z) == pytest.approx(1 - metrics.accuracy(y, z.argmax(1)))
    assert metrics.as_metric(metrics.accuracy) is metrics.accuracy


@pytest.mark.gpu
@pytest.mark.parametrize("metric", metrics.NAMED, ids=lambda m: m.name)
def test_on_a_cuda_device(metric: metrics.Metric) -> None:
    """The same value from tensors on the device as from numpy."""
    import torch

    y, z = multi_problem(1) if metric.name.startswith("map") else problem(1, k=6)
    on_device = metrics.evaluate(metric, torch.from_numpy(y).cuda(), torch.from_numpy(z).cuda())
    assert on_device == pytest.approx(metrics.evaluate(metric, y, z), abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.accuracy(np.arange(3), np.arange(4)), r"shape \(3,\) but y_pred has shape \(4,\)"),
        (lambda: metrics.accuracy(np.array([]), np.array([])), "empty"),
        (lambda: metrics.accuracy(np.zeros((2, 2)), np.zeros((2, 2))), "one label per row"),
        (lambda: metrics.top5(np.arange(3), np.zeros((3, 2))), "column numbers 0 to 1 but range from 0 to 2"),
        (lambda: metrics.top5(np.arange(3), np.zeros((4, 6))), "3 rows but scores has 4"),
        (lambda: metrics.top5(np.arange(2), np.zeros((2, 3)), ["a", "b"]), "2 labels but scores has 3 columns"),
        (lambda: metrics.log_loss(np.arange(2), np.array([0, 1])), "floating-point"),
        (lambda: metrics.log_loss(np.arange(2), np.array([[0.0, 1.0], [np.nan, 0.0]])), "first: row 1"),
        (lambda: metrics.map11(np.arange(2), np.zeros((2, 3))), "multi-label"),
        (lambda: metrics.roc_auc(np.zeros(3, int), np.zeros(3)), "undefined"),
        (lambda: metrics.average_precision("12")(np.ones((1, 1)), np.ones((1, 1))), "'11', 'all' or 'step'"),  # type: ignore[arg-type]
        (lambda: metrics.macro_f1_at([0.0])(np.ones((1, 2)), np.ones((1, 2))), "1 thresholds but 2 columns"),
        (lambda: metrics.macro_f1_at([np.nan]), "one number per class"),
        (lambda: metrics.top_k(0), "at least 1"),
        (lambda: metrics.calibration(0)(np.arange(2), np.eye(2)), "at least one bin"),
        (lambda: metrics.get("acuracy"), "did you mean accuracy"),
        (lambda: metrics.get("zzz"), "known are accuracy, mean_per_class"),
        (lambda: metrics.as_metric("accuracy"), "must be callable"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_one_clear_sentence(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        call()
