"""The switches of a recipe, each against what it should do written by hand: losses, regularisers, precision, views,
metrics."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_helpers import GREY8, Cells, images_of, tune
from torch import nn
from torch.nn import functional as F

import featstore
import finetune
import probe
from finetune import Augmentation, Auxiliary, KeepBest, MacroF1AtThresholds, Recipe
from finetune.auxiliary import with_auxiliary
from finetune.examples import TensorExamples
from finetune.heads import head_for
from finetune.lone_images import refuse_lone_image
from finetune.losses import loss_of
from finetune.networks import target_network
from finetune.switches import batch_norm_scales

pytestmark = pytest.mark.usefixtures("one_thread")

STILL = Recipe(lr=1e-12, steps=1, batch_size=64)
RECIPE = Recipe(lr=0.02, epochs=3, batch_size=32)


class Normed(nn.Module):
    """A convolution with batch norm and a head, for 8 × 8 digits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3))
        self.block = nn.Sequential(nn.Conv2d(8, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc(self.pool(self.block(self.stem(x))))
        return y


@pytest.fixture(scope="module")
def normed() -> Any:
    """`Normed` as a backbone."""
    return featstore.load_backbone(
        Normed().eval(), preprocessing=featstore.Preprocessing((8, 8), (0.0,), (1.0,), mode="L")
    )


def marks(split: featstore.Split) -> featstore.Split:
    """Several labels per image: is the digit even, is it below five, is it a one (difficult: where it is a seven)."""
    assert split.labels is not None
    digit = split.labels
    columns = [digit % 2 == 0, digit < 5, digit == 1]
    labels = np.stack(columns, 1).astype(np.uint8)
    labels[digit == 7, 2] = probe.metrics.DIFFICULT
    return replace(split, labels=labels, classes=("even", "low", "one"))


def test_losses_are_the_formulae() -> None:
    """Cross-entropy with smoothing, binary cross-entropy over what is not difficult, an auxiliary loss on top: numpy."""
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(size=(6, 4)), draw.integers(0, 4, 6)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = 0.9 * np.eye(4)[labels] + 0.1 / 4
    expected = -(wanted * np.log(p)).sum(1).mean()
    ours = loss_of(torch.tensor(logits), torch.tensor(labels), label_smoothing=0.1, auxiliary=0.0)
    assert float(ours) == pytest.approx(expected, rel=1e-6)  # float32
    several = draw.integers(0, 3, (6, 4))
    q = 1 / (1 + np.exp(-logits))
    target = 0.8 * (several == 1) + 0.1
    losses = -(target * np.log(q) + (1 - target) * np.log(1 - q))
    ours = loss_of(torch.tensor(logits), torch.tensor(several), label_smoothing=0.2, auxiliary=0.0)
    assert float(ours) == pytest.approx(losses[several != 2].mean(), rel=1e-6)
    both = (torch.tensor(logits), torch.tensor(logits * 2))
    alone = [float(loss_of(part, torch.tensor(labels), label_smoothing=0, auxiliary=0)) for part in both]
    ours = loss_of(both, torch.tensor(labels), label_smoothing=0, auxiliary=0.4)
    assert float(ours) == pytest.approx(alone[0] + 0.4 * alone[1], rel=1e-6)
    assert float(loss_of(both, torch.tensor(labels), label_smoothing=0, auxiliary=0)) == pytest.approx(alone[0])


@pytest.mark.parametrize("name", ["map11", "macro_f1_at_thresholds_by_f1", "roc_auc"])
def test_several_labels_per_image(backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, name: str) -> None:
    """Marks are learned; scores are the metric's on the stored logits, with thresholds that val chose, not test."""
    several = {part: marks(split) for part, split in digits.items()}
    if name.startswith("macro"):  # F1 has no difficult marks; they are refused
        several = {part: replace(split, labels=np.asarray(split.labels) % 2) for part, split in several.items()}
    recipe = replace(RECIPE, keep=KeepBest(), epochs=12)
    metric: Any = {"map11": None, "roc_auc": probe.metrics.roc_auc}.get(name, MacroF1AtThresholds())
    run = tune(finetune.full_tune, backbone, several, tmp_path / "run", metric=metric, recipe=recipe)
    assert run.identity["metric"] == name
    val, test = run.predictions["val"], run.predictions["test"]
    if name.startswith("macro"):
        thresholds = probe.metrics.thresholds_by_f1(val.y_true, val.scores)
        assert np.array_equal(test.y_pred, test.scores > thresholds)
        assert run.scores["test"] == probe.metrics.macro_f1(test.y_true, test.y_pred)
    else:
        truth: Any = getattr(probe.metrics, name)
        assert run.scores["test"] == truth(test.y_true, test.scores)
        assert np.array_equal(test.y_pred, test.scores > 0)
    assert run.scores["test"] > 0.6
    best = max(row.val for row in run.history if row.val is not None)
    assert run.scores["val"] == best


def test_a_class_without_a_mark_is_refused(backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path) -> None:
    """A new head cannot learn a class that no training image is marked with."""
    several = {part: marks(split) for part, split in digits.items()}
    several["train"] = several["train"].subset(several["train"].labels[:, 2] != 1, "no ones")
    with pytest.raises(finetune.BadInput, match=r"'no ones' is of class \(one\)"):
        tune(finetune.full_tune, backbone, several, tmp_path / "run")


def test_other_metrics_choose_and_are_reported(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """The history holds the metric that was asked for, and the kept step is its best."""
    for metric in (probe.metrics.top5, probe.metrics.mean_per_class, probe.metrics.quadratic_kappa):
        recipe = replace(RECIPE, keep=KeepBest())
        run = tune(
            finetune.tune_unit, backbone, digits, tmp_path / metric.name, unit="head", recipe=recipe, metric=metric
        )
        said = run.predictions["test"]
        assert run.scores["test"] == probe.metrics.evaluate(metric, said.y_true, said.scores)
        best = max(run.history, key=lambda row: (row.val, -row.step))
        assert (run.kept_step, run.scores["val"]) == (best.step, best.val)


def test_dropout_of_the_recipe_is_in_front_of_the_head(backbone: Any, normed: Any) -> None:
    """The network's own gets the rate; where there is none, the head's input is dropped in training and only there."""
    from finetune.regimes import network_for
    from finetune.task import asked_for

    train = featstore.load_split("digits:train")
    own = network_for(backbone, asked_for(train, None, replace(STILL, dropout=0.25)))
    assert own.module.get_submodule("dropout").p == 0.25
    assert backbone.module.dropout.p == 0.5
    added = network_for(normed, asked_for(train, None, replace(STILL, dropout=0.9))).module
    x = normed.example(64)
    plain = network_for(normed, asked_for(train, None, STILL)).module
    with torch.no_grad():
        assert torch.equal(added(x), plain(x))
        added.get_submodule("fc").train()
        assert not torch.equal(added(x), plain(x))
    assert added.state_dict().keys() == plain.state_dict().keys()


def test_scales_of_batch_norm_stay_when_asked(normed: Any, digits: dict[str, featstore.Split], tmp_path: Path) -> None:
    """Shifts, statistics and all else move; from scratch the scales are 1."""
    assert batch_norm_scales(normed.module) == ["stem.1.weight", "block.1.weight"]
    run = tune(finetune.full_tune, normed, digits, tmp_path / "a", recipe=replace(RECIPE, bn_scale=False))
    before, after = normed.module.state_dict(), run.network(normed).state_dict()
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {"stem.1.weight", "block.1.weight"}
    other = featstore.load_backbone(Normed().eval(), preprocessing=normed.preprocessing)
    nn.init.constant_(other.module.stem[1].weight, 3.0)
    run = tune(finetune.from_scratch, other, digits, tmp_path / "b", recipe=replace(RECIPE, bn_scale=False))
    assert bool((run.network(other).state_dict()["stem.1.weight"] == 1).all())


def test_auxiliary_head_adds_its_loss_and_leaves_no_trace(
    normed: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """Its gradient reaches the unit below it; in evaluation, and in the network of the run, it is not there."""
    target = target_network(normed, head_for(normed, 10, None, seed=0))
    both = with_auxiliary(target, Auxiliary("stem"), 10, seed=0)
    x = normed.example(4)
    head, aux = both(x)
    torch.testing.assert_close(head, target.module(x))
    pooled = target.module.get_submodule("stem")(x).mean((2, 3))
    layer: Any = both.get_submodule("auxiliary")
    torch.testing.assert_close(aux, F.linear(pooled, layer.weight, layer.bias))
    with torch.no_grad():
        assert torch.equal(both(x), target.module(x))
    run = tune(
        finetune.full_tune, normed, digits, tmp_path / "a", recipe=replace(RECIPE, auxiliary=Auxiliary("stem", 0.4))
    )
    plain = tune(finetune.full_tune, normed, digits, tmp_path / "b")
    assert not torch.equal(run.weights()["stem.0.weight"], plain.weights()["stem.0.weight"])
    with torch.inference_mode():
        said = run.network(normed)(images_of(normed, digits["test"])).numpy()
    np.testing.assert_allclose(said, run.predictions["test"].scores, rtol=1e-4, atol=1e-4)
    with pytest.raises(finetune.BadInput, match=r"unit 'fc' .* it can read the output of stem, block"):
        tune(finetune.full_tune, normed, digits, tmp_path / "c", recipe=replace(RECIPE, auxiliary=Auxiliary("fc")))
    recipe = replace(RECIPE, auxiliary=Auxiliary("stem"))
    with pytest.raises(finetune.BadInput, match="trainings of the whole network"):
        tune(finetune.tune_unit, normed, digits, tmp_path / "d", unit="block", recipe=recipe)


def test_auxiliary_head_on_a_unit_that_hands_on_two_tensors(digits: dict[str, featstore.Split], tmp_path: Path) -> None:
    """It reads the unit's own output, averaged; the head gets both."""
    cells = featstore.load_backbone(Cells().eval(), preprocessing=GREY8)
    target = target_network(cells, head_for(cells, 10, None, seed=0))
    both, x, seen = with_auxiliary(target, Auxiliary("cell_1"), 10, seed=0), cells.example(4), []
    hook = target.module.get_submodule("cell_1").register_forward_hook(lambda *call: seen.append(call[2]))
    torch.testing.assert_close(both(x)[0], target.module(x))
    hook.remove()
    layer: Any = both.get_submodule("auxiliary")
    expected = F.linear(seen[-1].mean((2, 3)), layer.weight, layer.bias)
    torch.testing.assert_close(both(x)[1], expected)
    few, recipe = {k: s.per_class(4, seed=0) for k, s in digits.items()}, replace(STILL, auxiliary=Auxiliary("cell_1"))
    assert tune(finetune.full_tune, cells, few, tmp_path, recipe=recipe).kept_step == 1


class Narrow(nn.Module):
    """Batch norm over a map of a single position."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.one = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.flat, self.fc = nn.Flatten(), nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc(self.flat(self.two(self.one(x))))
        return y


def test_a_last_batch_of_one_image_is_refused_where_batch_norm_needs_two(
    normed: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """Before the first step, with a batch size that works; only where a step would fail."""
    narrow = featstore.load_backbone(Narrow().eval(), preprocessing=normed.preprocessing)
    few = {name: split.per_class(4, seed=0) for name, split in digits.items()}
    few["train"] = few["train"].subset(range(33), "33")
    recipe = Recipe(lr=0.01, epochs=1, batch_size=32)

    def trained(backbone: Any, name: str, regime: Any = finetune.full_tune, **changes: Any) -> finetune.Run:
        options = {key: changes.pop(key) for key in ("unit",) if key in changes}
        return tune(
            regime, backbone, few, tmp_path / name, recipe=replace(recipe, **changes), head_rows=range(10), **options
        )

    with pytest.raises(finetune.BadInput, match=r"the last batch of an epoch has 1 of 33 .* batch_size, such as 31"):
        trained(narrow, "a")
    assert not list((tmp_path / "a").glob("*.safetensors"))
    assert trained(narrow, "fits", batch_size=31).history[-1].step == 2
    with pytest.raises(finetune.BadInput, match=r"every batch has 1 of 33 .* such as 3,"):
        trained(narrow, "b", batch_size=1)
    trained(narrow, "still", train_mode="none")
    trained(narrow, "other", finetune.tune_unit, unit="one")  # batch norm of the frozen unit stays in evaluation mode
    trained(narrow, "short", epochs=None, steps=1)  # never comes to the last batch
    trained(normed, "wide")  # over a map of several positions one image is enough
    asked, before = copy.deepcopy(normed.module), normed.module.state_dict()
    refuse_lone_image(asked, TensorExamples(torch.rand(33, 1, 8, 8), np.zeros(33, dtype=np.int64)), recipe=recipe)
    assert all(torch.equal(tensor, before[name]) for name, tensor in asked.state_dict().items())


@pytest.mark.parametrize("train_mode", ["moving", "all", "none"])
def test_who_is_in_training_mode(
    normed: Any, digits: dict[str, featstore.Split], tmp_path: Path, train_mode: Any
) -> None:
    """Statistics of the unit alone, of all units (Royer and Lampert's code), or of none (Lee et al.'s) move."""
    recipe = replace(RECIPE, train_mode=train_mode)
    run = tune(finetune.tune_unit, normed, digits, tmp_path / "run", unit="block", head_rows=range(10), recipe=recipe)
    before, after = normed.module.state_dict(), run.network(normed).state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    expected = {"block.0.weight", "block.1.weight", "block.1.bias"}
    expected |= {f"block.1.{name}" for name in statistics if train_mode != "none"}
    expected |= {f"stem.1.{name}" for name in statistics if train_mode == "all"}
    assert moved == expected


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_trains_and_resumes(
    normed: Any, digits: dict[str, featstore.Split], tmp_path: Path, precision: Any
) -> None:
    """The weights stay float32, differ from a float32 training by its rounding only, and go on after Ctrl-C to the
    bit, float16's loss scale included."""
    from finetune.images import ImageExamples

    recipe = replace(RECIPE, precision=precision)
    full = tune(finetune.full_tune, normed, digits, tmp_path / "full")
    mixed = tune(finetune.full_tune, normed, digits, tmp_path / "mixed", recipe=recipe)
    for name, tensor in mixed.weights().items():
        assert tensor.dtype == full.weights()[name].dtype
        if name.endswith("weight"):
            assert not torch.equal(tensor, full.weights()[name])
            torch.testing.assert_close(tensor, full.weights()[name], rtol=0.1, atol=0.05)  # 8 bits, 20-odd steps
    seen = 0
    inputs = ImageExamples.inputs

    def pressed(self: Any, rows: Any, epoch: Any) -> Any:
        nonlocal seen
        seen += epoch is not None
        if seen == 9 and epoch is not None:
            raise KeyboardInterrupt
        return inputs(self, rows, epoch)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ImageExamples, "inputs", pressed)
        patched.setattr("finetune.loop.train.__kwdefaults__", {**finetune_train_defaults(), "checkpoint_every_s": 0.0})
        with pytest.raises(KeyboardInterrupt):
            tune(finetune.full_tune, normed, digits, tmp_path / "cut", recipe=recipe)
    resumed = tune(finetune.full_tune, normed, digits, tmp_path / "cut", recipe=recipe)
    assert all(torch.equal(tensor, resumed.weights()[name]) for name, tensor in mixed.weights().items())


def finetune_train_defaults() -> dict[str, Any]:
    """Defaults of the loop's keywords."""
    from finetune.loop import train

    return dict(train.__kwdefaults__ or {})


@pytest.mark.parametrize("view", ["whole", "crop", "better"])
def test_views_of_the_test_images(normed: Any, digits: dict[str, featstore.Split], tmp_path: Path, view: Any) -> None:
    """What is stored are the logits of the view, prepared here by PIL; the better one on val is the one of the test."""
    from PIL import Image

    run = tune(finetune.full_tune, normed, digits, tmp_path / "run", recipe=replace(RECIPE, view=view))
    network = run.network(normed)

    def prepared(split: featstore.Split, crop: bool) -> torch.Tensor:
        images = [split.image(i).convert("L") for i in range(len(split))]
        if crop:  # 8 / 0.875 is 9: one row and one column of 9 are cut off
            images = [image.resize((9, 9), Image.Resampling.BILINEAR).crop((0, 0, 8, 8)) for image in images]
        return torch.from_numpy(np.stack([np.asarray(image) for image in images]))[:, None].float() / 255

    def logits(part: str, crop: bool) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = network(prepared(digits[part], crop)).numpy()
        return found

    def score(crop: bool) -> float:
        return float((logits("val", crop).argmax(1) == digits["val"].labels).mean())

    crop = view == "crop" or (view == "better" and score(True) > score(False))
    np.testing.assert_allclose(logits("test", crop), run.predictions["test"].scores, rtol=1e-4, atol=1e-4)
    if view == "better":
        assert run.details["view"] == {
            "chosen": "crop" if crop else "whole", "val": {"whole": score(False), "crop": score(True)},
        }  # fmt: skip
        assert run.scores["val"] == score(crop)


def test_switches_that_a_regime_cannot_honour_are_refused(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """A recipe that says crops must not be trained without them in silence."""
    recipe = replace(RECIPE, augmentation=Augmentation(), view="whole")
    with pytest.raises(finetune.BadInput, match=r"(?s)2 problems.*augmentation.*view is 'whole'"):
        tune(finetune.tune_head, backbone, digits, tmp_path / "run", recipe=recipe)
    with pytest.raises(finetune.BadInput, match="view is 'better', which is chosen on a validation split"):
        finetune.full_tune(
            backbone, digits["train"], recipe=replace(RECIPE, view="better"), out=tmp_path / "b", progress=False
        )


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"train_mode": "eval"}, "train_mode is 'eval'; it must be one of moving, all, none"),
        ({"precision": "fp16"}, "precision is 'fp16'"),
        ({"view": "ten-crop"}, "view is 'ten-crop'"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"augmentation": "augmix"}, "augmentation is 'augmix'; it must be a finetune.Augmentation"),
        ({"auxiliary": Auxiliary("stem", 0.0)}, "auxiliary head's weight is 0.0"),
    ],
)
def test_bad_switches_are_named(fields: dict[str, Any], part: str) -> None:
    """The field, its value, and what it may be."""
    with pytest.raises(finetune.BadInput) as caught:
        Recipe(lr=0.1, steps=1, **fields)
    assert part in str(caught.value)
