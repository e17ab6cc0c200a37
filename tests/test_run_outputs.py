"""What a run leaves for people and other programs: event files; and what is said when a training cannot go on."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_helpers import tune

import featstore
import finetune
from finetune import SGD, Constant, KeepBest, Recipe

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(lr=0.02, epochs=3, batch_size=64)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the libraries that read event files
def test_event_files_hold_the_history(backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path) -> None:
    """Read back by tensorboard's own reader: loss, learning rate and score of every row at its step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tune(finetune.full_tune, backbone, digits, tmp_path / "run", recipe=RECIPE, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    for tag, field in (("loss/train", "train_loss"), ("score/val", "val"), ("lr", "lr")):
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        expected = [(row.step, getattr(row, field)) for row in run.history]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    plain = tune(finetune.full_tune, backbone, digits, tmp_path / "plain", recipe=RECIPE)
    assert not (tmp_path / "plain" / "tensorboard").exists()
    assert all(torch.equal(tensor, plain.weights()[name]) for name, tensor in run.weights().items())


def test_event_files_without_tensorboard_name_the_extra(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found after a training, the missing library would cost the training."""
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(finetune.MissingExtra, match=r"install featprobe\[tensorboard\]"):
        tune(finetune.full_tune, backbone, digits, tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


REGIMES = ("full_tune", "from_scratch", "tune_unit", "tune_scale_shift", "probe_then_tune", "tune_head")


@pytest.mark.parametrize("regime", REGIMES)
def test_what_cannot_be_trained_on_is_said_before_any_work(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, regime: str
) -> None:
    """An empty val, a class missing from train, a rule that needs val: one sentence each, together, and no folder."""
    more = {"unit": "conv1"} if regime == "tune_unit" else {}
    labels = digits["train"].labels
    assert labels is not None
    broken = {
        **digits,
        "train": digits["train"].subset(labels != 7, "no sevens"),
        "val": digits["val"].subset(np.zeros(0, np.int64), "nothing"),
    }
    with pytest.raises(finetune.BadInput, match="val 'nothing' has no images"):
        tune(getattr(finetune, regime), backbone, broken, tmp_path / "run", recipe=RECIPE, **more)
    broken["val"] = digits["val"]
    with pytest.raises(finetune.BadInput, match=r"no image of train 'no sevens' is of class \(7\)"):
        tune(getattr(finetune, regime), backbone, broken, tmp_path / "run", recipe=RECIPE, **more)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("regime", ["full_tune", "from_scratch", "tune_unit", "tune_scale_shift", "probe_then_tune"])
def test_a_training_that_diverges_keeps_its_last_good_state(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, regime: str
) -> None:
    """Step and learning rate in the message, finite weights in the checkpoint, and the run is not called finished."""
    from finetune.files import read_tensors

    more = {"unit": "conv1"} if regime == "tune_unit" else {}
    wild = replace(RECIPE, lr=3e38, optimizer=SGD(0.0, nesterov=False), schedule=Constant())
    with pytest.raises(
        finetune.Diverged, match=r"step \d+.*learning rate 3e\+38.*last good state, after step \d+"
    ) as caught:
        tune(getattr(finetune, regime), backbone, digits, tmp_path / "run", recipe=wild, **more)
    assert caught.value.lr == pytest.approx(3e38)
    tensors, _ = read_tensors(tmp_path / "run" / "checkpoint.safetensors")
    assert all(bool(t.isfinite().all()) for name, t in tensors.items() if name.startswith("moving/"))
    with pytest.raises(finetune.BadInput, match="not finished"):
        finetune.open_run(tmp_path / "run")


def test_validation_logits_that_are_no_numbers_are_a_divergence(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """One step leaves weights that are huge and finite: no loss sees that any more, and the evaluation after it must not
    call it bad input, which nothing would rule out."""
    wild = replace(RECIPE, lr=1e38, epochs=1, batch_size=1000, schedule=Constant())
    with pytest.raises(finetune.Diverged, match=r"after step 1 the logits of \d+ of \d+ images are NaN.*rate 1e\+38"):
        tune(finetune.full_tune, backbone, digits, tmp_path / "run", recipe=wild, test=None)


def test_lack_of_memory_in_a_forward_pass_says_what_to_lower(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device's message names bytes, ours the batch size, and what was done is kept."""

    def full(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", full)
    with pytest.raises(finetune.OutOfMemory, match=r"batches of 64: .*20\.00 GiB\. Lower batch_size"):
        tune(finetune.full_tune, backbone, digits, tmp_path / "run", recipe=RECIPE)
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_lack_of_memory_after_the_training_costs_nothing(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the last step ended with is kept: the second call predicts, and takes no step."""
    from finetune import task

    predicted = task._predicted
    monkeypatch.setattr(task, "_predicted", lambda *_: torch.empty(10**15))
    with pytest.raises(finetune.OutOfMemory, match="did not suffice to predict with the trained network"):
        tune(finetune.full_tune, backbone, digits, tmp_path / "run", recipe=RECIPE)
    monkeypatch.setattr(task, "_predicted", predicted)
    monkeypatch.setattr(torch.optim.SGD, "step", None)
    run = tune(finetune.full_tune, backbone, digits, tmp_path / "run", recipe=RECIPE)
    assert run.predictions["test"].accuracy() == run.scores["test"]


@pytest.mark.parametrize(
    ("device", "part"), [("cuda:99", r"torch sees \d+ CUDA devices"), ("gpu", "torch does not know")]
)
def test_a_device_that_is_not_there_is_said_before_any_work(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, device: str, part: str
) -> None:
    """Torch would say it with a traceback, after the images were read."""
    with pytest.raises(finetune.BadInput, match=part):
        tune(finetune.full_tune, backbone, digits, tmp_path / "run", device=device)
    assert not (tmp_path / "run").exists()


def test_tf32_on_a_processor_is_refused(backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path) -> None:
    """It would be float32 under another name."""
    with pytest.raises(finetune.BadInput, match="precision is 'tf32', which GPUs have, and device is 'cpu'"):
        tune(finetune.full_tune, backbone, digits, tmp_path / "run", recipe=replace(RECIPE, precision="tf32"))


def test_a_folder_of_another_regime_recipe_or_unit_is_refused_in_words(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """Each difference with both values; images count by their content."""
    tune(finetune.tune_unit, backbone, digits, tmp_path / "run", unit="conv1", recipe=RECIPE)
    with pytest.raises(
        finetune.DifferentRun, match=r"(?s)recipe\.seed is 0 stored and 1.*units is \['conv1', 'head'\]"
    ):
        tune(finetune.tune_unit, backbone, digits, tmp_path / "run", unit="conv2", recipe=replace(RECIPE, seed=1))
    with pytest.raises(finetune.DifferentRun, match="regime is 'tune_unit' stored and 'full_tune'"):
        tune(finetune.full_tune, backbone, digits, tmp_path / "run", recipe=RECIPE)
    with pytest.raises(finetune.DifferentRun) as refused:  # what only one of two regimes has would bury the rest
        tune(finetune.tune_head, backbone, digits, tmp_path / "run", recipe=replace(RECIPE, lr=0.5))
    assert refused.value.differences == (
        "regime is 'tune_unit' stored and 'tune_head' asked for",
        "recipe.lr is 0.02 stored and 0.5 asked for",
    )
    other = {**digits, "val": replace(digits["val"], transforms=())}
    with pytest.raises(finetune.DifferentRun, match=r"data\.val\.images is"):
        tune(finetune.tune_unit, backbone, other, tmp_path / "run", unit="conv1", recipe=RECIPE)


def test_predict_says_what_the_test_split_would_have_been_told(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """The same logits as the run's own test predictions; a split of other classes is refused."""
    recipe = replace(RECIPE, view="better", keep=KeepBest())
    run = tune(finetune.full_tune, backbone, digits, tmp_path / "run", recipe=recipe)
    again = finetune.predict(run, backbone, digits["test"])
    assert np.array_equal(again.scores, run.predictions["test"].scores)
    assert np.array_equal(again.y_pred, run.predictions["test"].y_pred)
    with pytest.raises(finetune.BadInput, match="other classes"):
        finetune.predict(run, backbone, replace(digits["test"], classes=tuple("abcdefghij")))
