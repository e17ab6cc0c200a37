"""Several labels per image, some of them marked as difficult: every regime, against scores computed here from what it says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finetune_helpers import RECIPE, blurred_digits

import featstore
import finetune
import probe
from probe.metrics import DIFFICULT

CLASSES = ("even", "big", "with a loop")


def several(split: featstore.Split, *, difficult: bool = True) -> featstore.Split:
    """What digits have in common as three labels; one in ten is not decided."""
    marks = np.stack([split.labels % 2 == 0, split.labels > 4, np.isin(split.labels, [0, 6, 8, 9])], axis=1).astype(
        np.uint8
    )  # type: ignore[operator]
    hard = np.random.Generator(np.random.PCG64(len(split))).random(marks.shape) < 0.1
    return replace(split, labels=np.where(hard & difficult, DIFFICULT, marks), classes=CLASSES)


def eleven_points(marks: np.ndarray, scores: np.ndarray) -> float:
    """Mean over recalls 0, 0.1 … 1 of the largest precision from there on (Everingham et al. 2010), by its definition."""
    decided = marks != DIFFICULT
    right = marks[decided][np.argsort(-scores[decided], kind="stable")] == 1
    recall, precision = np.cumsum(right) / right.sum(), np.cumsum(right) / np.arange(1, len(right) + 1)
    return float(np.mean([precision[recall >= t - 1e-12].max() for t in np.linspace(0, 1, 11)]))


REGIMES: dict[str, Callable[..., finetune.Run]] = {
    "full": finetune.full_tune,
    "head": finetune.tune_head,
    "unit": functools.partial(finetune.tune_unit, unit="conv1"),
    "probe then all": finetune.probe_then_tune,
    "adapter": functools.partial(finetune.tune_adapter, adapter=finetune.Colour()),
}


@pytest.mark.parametrize("name", REGIMES)
def test_every_regime_is_scored_by_eleven_point_map(name: str, tmp_path: Path) -> None:
    """Difficult marks take part in neither the loss, the probe nor the score; without them there is no VOC 2007."""
    net = featstore.load_backbone("featstore:digits_net")
    splits = {which: several(split) for which, split in blurred_digits().items()}
    run = REGIMES[name](
        net, splits["train"], splits["val"], recipe=RECIPE, test=splits["test"], out=tmp_path, progress=False
    )  # fmt: skip
    assert run.identity["metric"] == "map11"
    for which in ("val", "test"):
        said = run.predictions[which]
        np.testing.assert_array_equal(said.y_true, splits[which].labels)
        scores = np.asarray(said.scores)
        expected = np.mean([eleven_points(said.y_true[:, c], scores[:, c]) for c in range(3)])
        assert run.scores[which] == pytest.approx(expected, abs=1e-9)


def test_the_probe_of_decided_labels_is_the_head_that_is_begun_with(tmp_path: Path) -> None:
    """A difficult image left out of one label's probe must be in those of the others: scikit-learn's, label by label."""
    from sklearn.linear_model import LogisticRegression

    net = featstore.load_backbone("featstore:digits_net")
    splits = {which: several(split) for which, split in blurred_digits().items()}
    recipe = replace(RECIPE, epochs=None, steps=1, lr=1e-12, weight_decay=0.0)
    run = finetune.probe_then_tune(
        net, splits["train"], splits["val"], recipe=recipe, out=tmp_path, C=[0.1], progress=False
    )
    store = featstore.open_store(tmp_path / "features")
    X = store.features("penultimate", splits["train"], backbone=net, pool="mean", dtype="float32").numpy()
    y: Any = splits["train"].labels
    for c in range(3):
        decided = y[:, c] != DIFFICULT
        fitted = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(X[decided], y[decided, c])
        np.testing.assert_allclose(run.weights()["head.weight"][c].numpy(), fitted.coef_[0], atol=2e-3)


def test_thresholds_are_not_chosen_on_undecided_labels(tmp_path: Path) -> None:
    """F1 has no third answer: quietly taken for absent, difficult marks would lower it and move the thresholds."""
    net = featstore.load_backbone("featstore:digits_net")
    digits = blurred_digits()
    options: dict[str, Any] = {"recipe": RECIPE, "metric": finetune.MacroF1AtThresholds(), "progress": False}
    train, val, test = (several(digits[which]) for which in ("train", "val", "test"))
    with pytest.raises(finetune.BadInput, match="labels are marked as difficult"):
        finetune.full_tune(net, train, val, out=tmp_path / "hard", **options)
    decided = {which: several(split, difficult=False) for which, split in digits.items()}
    run = finetune.full_tune(
        net, decided["train"], decided["val"], test=decided["test"], out=tmp_path / "decided", **options
    )  # fmt: skip
    val_said, test_said = run.predictions["val"], run.predictions["test"]
    for which, said in (("val", val_said), ("test", test_said)):
        hits = (said.y_true & said.y_pred).sum(0)
        f1 = 2 * hits / (said.y_true.sum(0) + said.y_pred.sum(0))
        assert run.scores[which] == pytest.approx(f1.mean())
    assert len(test) == len(test_said)
    for c in range(3):  # no cut is better on val
        scores, truth = np.asarray(val_said.scores)[:, c], val_said.y_true[:, c]
        best = max(2 * (truth & (scores > cut)).sum() / (truth.sum() + (scores > cut).sum()) for cut in (*scores, -np.inf)
                   if (scores > cut).any())  # fmt: skip
        chosen = val_said.y_pred[:, c]
        assert 2 * (truth & chosen).sum() / (truth.sum() + chosen.sum()) == pytest.approx(best)


def low(labels: Any, logits: Any) -> np.ndarray:
    """A rule of one's own: no name in `probe.metrics` leads to it."""
    return np.array([-np.inf, *[float(np.median(logits))] * (labels.shape[1] - 1)])


def test_decisions_of_a_run_are_at_the_thresholds_that_it_chose(tmp_path: Path) -> None:
    """Known by its name alone, one's own rule gave way to a threshold of 0 for other images, and in a search."""
    net = featstore.load_backbone("featstore:digits_net")
    decided = {which: several(split, difficult=False) for which, split in blurred_digits().items()}
    pair, test, metric = (decided["train"], decided["val"]), decided["test"], finetune.MacroF1AtThresholds(low)
    options: dict[str, Any] = {"progress": False, "test": test}
    once = replace(RECIPE, epochs=None, steps=3)
    run = finetune.full_tune(net, *pair, recipe=once, out=tmp_path / "run", metric=metric, **options)
    chosen = low(decided["val"].labels, run.predictions["val"].scores)
    expected = np.asarray(run.predictions["test"].scores) > chosen
    assert not np.array_equal(expected, np.asarray(run.predictions["test"].scores) > 0)
    assert np.array_equal(finetune.predict(finetune.open_run(run.path), net, test).y_pred, expected)
    found = finetune.search(
        functools.partial(finetune.full_tune, metric=metric), net, pair[0], val=pair[1], grid={"a": once}, refit=False,
        out=tmp_path / "search", **options,
    )  # fmt: skip
    stored = probe.Predictions.load(tmp_path / "search" / "predictions" / "test.npz")
    assert np.array_equal(stored.y_pred, expected)
    assert found.scores["test"] == pytest.approx(run.scores["test"])
