"""The training loop on plain torch modules: against torch written by hand, resumed to the bit, stopped, diverged,
refused."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from finetune.checkpoint import Checkpoint
from finetune.errors import BadInput, CorruptRun, DifferentRun, Diverged, OutOfMemory, RunWrite
from finetune.examples import TensorExamples, batch_rows, logits_of
from finetune.keeping import KeepBest, StopEarly
from finetune.loop import Trained, train
from finetune.optimizers import SGD, Adam, AdamW
from finetune.recipe import Recipe
from finetune.schedules import Constant, EpochShare
from finetune.stepping import stepper
from finetune.trainable import trainable

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(lr=0.05, steps=23, batch_size=7, weight_decay=1e-3, warmup_steps=3, label_smoothing=0.1)


def network() -> nn.Module:
    """Convolution, batch norm, dropout, head: everything that can move."""
    torch.manual_seed(1)
    stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3))
    middle = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3))
    tail = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(stem, middle, tail, nn.Linear(6, 10)).eval()


@pytest.fixture(scope="module")
def digits() -> TensorExamples:
    """The first 60 of scikit-learn's handwritten digits: real images of 8 × 8."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images[:60] / 16).float()[:, None]
    return TensorExamples(images, data.target[:60].astype(np.int64))


@dataclass(eq=False)
class Interrupted:
    """Examples that do something when a given step is reached."""

    inside: TensorExamples
    at_step: int
    what: Callable[[], Any]
    seen: int = 0
    labels: np.ndarray = field(init=False)
    workers: int = 0

    def __post_init__(self) -> None:
        self.labels = self.inside.labels

    def __len__(self) -> int:
        return len(self.inside)

    def inputs(self, rows: np.ndarray, epoch: int | None) -> torch.Tensor:
        self.seen += 1
        if self.seen == self.at_step:
            self.what()
        return self.inside.inputs(rows, epoch)


def fit(examples: Any, folder: Path, net: nn.Module | None = None, recipe: Recipe = RECIPE, **options: Any) -> Trained:
    """Train with the validation score that the accuracy on the training samples is."""
    net = net or network()
    checkpoint = Checkpoint(folder / "checkpoint.safetensors", {"recipe": recipe.to_json()})

    def evaluate() -> float:
        plain = examples.inside if isinstance(examples, Interrupted) else examples
        return float((logits_of(net, plain, batch_size=60, device="cpu").argmax(1) == plain.labels).mean())

    return train(net, examples, recipe=recipe, checkpoint=checkpoint, evaluate=evaluate, **options)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Same names and same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Asking(nn.Module):
    """A layer that notes what torch may do with products of float32 while it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.said = nn.Linear(64, 10), set[str]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.said.add(torch.get_float32_matmul_precision())
        logits: torch.Tensor = self.inside(x.flatten(1))
        return logits


def test_float32_is_float32_whatever_torch_is_set_to(digits: TensorExamples, tmp_path: Path) -> None:
    """torch allows TF32 in convolutions by default: the same recipe must not mean three digits on one machine, seven on another."""
    net = Asking()
    torch.set_float32_matmul_precision("medium")
    try:
        fit(digits, tmp_path, net, RECIPE)
        assert net.said == {"highest"}, "in training and in evaluation"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("optimizer", [SGD(), SGD(momentum=0.0, nesterov=False), Adam(), AdamW()])
def test_loop_equals_torch_written_by_hand(
    digits: TensorExamples, tmp_path: Path, optimizer: SGD | Adam | AdamW
) -> None:
    """Two dozen plain lines of torch are the truth; equal to the bit, because the same operations run in the same
    order."""
    recipe = replace(RECIPE, optimizer=optimizer)
    ours = fit(digits, tmp_path, recipe=recipe)
    net = network().train()
    torch.manual_seed(recipe.seed)
    common: dict[str, Any] = {"lr": 1.0, "weight_decay": recipe.weight_decay}
    if isinstance(optimizer, SGD):
        common |= {"momentum": optimizer.momentum, "nesterov": optimizer.nesterov}
    kind: Any = getattr(torch.optim, type(optimizer).__name__)
    by_hand = kind(net.parameters(), **common)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    for step in range(23):
        rows = batch_rows(60, 7, seed=0, step=step)
        by_hand.param_groups[0]["lr"] = recipe.lr_at(step, n_train=60)
        by_hand.zero_grad()
        criterion(net(digits.tensor[rows]), torch.from_numpy(digits.labels[rows])).backward()
        by_hand.step()
    assert same(ours.last, {name: tensor.detach() for name, tensor in net.state_dict().items()})


def test_every_epoch_visits_every_sample_once() -> None:
    """A sampler with replacement would train on other data than the recipe says."""
    for epoch in range(3):
        steps = range(epoch * 9, epoch * 9 + 9)
        rows = np.concatenate([batch_rows(60, 7, seed=5, step=step) for step in steps])
        assert sorted(rows) == list(range(60))
    assert not np.array_equal(batch_rows(60, 7, seed=5, step=0), batch_rows(60, 7, seed=5, step=9))
    assert not np.array_equal(batch_rows(60, 7, seed=5, step=0), batch_rows(60, 7, seed=6, step=0))


def test_history_has_a_row_per_epoch_and_one_for_the_last_step(digits: TensorExamples, tmp_path: Path) -> None:
    """60 samples in batches of 7 are 9 steps: rows at 9, 18 and at the end, 23."""
    history = fit(digits, tmp_path).history
    assert [row.step for row in history] == [9, 18, 23]
    assert history[0].epoch == 1.0
    assert history[-1].lr == RECIPE.lr_at(22, n_train=60)
    assert all(row.val is not None and 0 < row.train_loss < 3 for row in history)


@pytest.mark.parametrize("parts", [("1",), ("3",), ("0.1", "1.0.bias")])
def test_frozen_means_frozen(digits: TensorExamples, tmp_path: Path, parts: tuple[str, ...]) -> None:
    """Parameters, batch-norm statistics and step counters outside the moving parts keep every bit; all inside move."""
    net = network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fit(digits, tmp_path, net, parts=parts)
    for name, tensor in net.state_dict().items():
        is_moving = any(name == part or name.startswith(f"{part}.") for part in parts)
        assert torch.equal(tensor, before[name]) != is_moving, name


def test_frozen_dropout_does_nothing(digits: TensorExamples, tmp_path: Path) -> None:
    """If the frozen parts' dropout were active, features below the head would be random; equal to training on them
    once."""
    net = network()
    with torch.no_grad():
        features = net[:3](digits.tensor)
    a = fit(digits, tmp_path / "a", net, parts=("3",))
    b = fit(TensorExamples(features, digits.labels), tmp_path / "b", network()[3])
    for name in ("weight", "bias"):
        torch.testing.assert_close(a.last[f"3.{name}"], b.last[name], rtol=1e-5, atol=1e-6)  # other batch shapes below


def test_the_authors_looser_freezing_is_available(digits: TensorExamples, tmp_path: Path) -> None:
    """With train_mode="all" the statistics of frozen batch norms drift, their parameters do not."""
    net = network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fit(digits, tmp_path, net, recipe=replace(RECIPE, train_mode="all"), parts=("3",))
    moved = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    statistics = {
        f"{unit}.1.{name}" for unit in "01" for name in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert moved == {"3.weight", "3.bias"} | statistics


def test_switches_are_put_back_even_after_an_error() -> None:
    """A network left in training mode or without gradients would silently change whatever its owner does next."""
    net = network()
    net[1].train()
    net[3].weight.requires_grad_(False)
    net[3].bias.grad = torch.ones(10)

    def switches() -> list[Any]:
        norms = [module.momentum for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        return [*norms, *(m.training for m in net.modules()), *((p.requires_grad, p.grad) for p in net.parameters())]

    before = switches()
    with contextlib.suppress(RuntimeError), trainable(net, ("0",), bn_momentum=0.5) as moving:
        assert switches() != before
        assert set(moving.parameters) == {"0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias"}
        with moving.evaluating():
            assert not any(module.training for module in net.modules())
        assert net[0][1].training
        raise RuntimeError("inside")
    assert switches() == before


def test_batch_norm_momentum_is_the_recipes(digits: TensorExamples, tmp_path: Path) -> None:
    """One full batch, momentum 0.25: running = 0.75 · old + 0.25 · batch mean, computed in numpy."""
    net = network()
    with torch.no_grad():
        batch = net[0][0](digits.tensor).double().numpy().mean((0, 2, 3))
    recipe = Recipe(lr=1e-9, steps=1, batch_size=60, bn_momentum=EpochShare(share=0.25, at_most=0.9))
    fit(digits, tmp_path, net, recipe=recipe, parts=("0",))
    np.testing.assert_allclose(net[0][1].running_mean.numpy(), 0.25 * batch, rtol=1e-5, atol=1e-7)
    assert net[0][1].momentum == 0.1


def test_weight_decay_spares_biases_when_asked(digits: TensorExamples, tmp_path: Path) -> None:
    """With a zero gradient (saturated loss is avoided by one class) only decay moves: w shrinks, the bias does not."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    one_class = TensorExamples(digits.tensor, np.zeros(60, np.int64))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    plain = {"optimizer": SGD(0.0, nesterov=False), "schedule": Constant(), "weight_decay": 0.5}
    recipe = Recipe(lr=0.1, steps=1, batch_size=60, decay_biases=False, **plain)  # type: ignore[arg-type]
    train(net, one_class, recipe=recipe, checkpoint=Checkpoint(tmp_path / "c", {}))
    torch.testing.assert_close(net[1].weight, before["1.weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(net[1].bias, before["1.bias"])


@pytest.mark.parametrize("keep", [KeepBest(), StopEarly(drop=0.0), StopEarly(drop=0.0, restore_best=False)])
def test_kept_weights_are_those_the_rule_names(
    digits: TensorExamples, tmp_path: Path, keep: KeepBest | StopEarly
) -> None:
    """The kept weights, put into a fresh network, score what the history says for the kept step."""
    recipe = Recipe(lr=0.3, epochs=12, batch_size=7, schedule=Constant(), keep=keep)
    trained = fit(digits, tmp_path, recipe=recipe)
    scores = [row.val for row in trained.history]
    best = next(row for row in trained.history if row.val == max(s for s in scores if s is not None))
    expected = best if keep.keeps_best else trained.history[-1]
    assert trained.kept_step == expected.step
    net = network()
    net.load_state_dict(trained.kept)
    accuracy = (logits_of(net, digits, batch_size=60, device="cpu").argmax(1) == digits.labels).mean()
    assert accuracy == expected.val
    if isinstance(keep, StopEarly):
        assert "ended the training" in trained.stopped
        assert len(trained.history) < 12


@pytest.mark.parametrize("step", [1, 9, 13, 23])
@pytest.mark.parametrize("optimizer", [SGD(), AdamW()])
def test_ctrl_c_leaves_a_checkpoint_that_continues_to_the_bit(
    digits: TensorExamples, tmp_path: Path, optimizer: SGD | AdamW, step: int
) -> None:
    """Interrupted in the first, an epoch's last, a middle or the last step, then continued anew: the same bits."""
    recipe = replace(RECIPE, optimizer=optimizer, keep=KeepBest())
    whole = fit(digits, tmp_path / "whole", recipe=recipe)
    pressing = Interrupted(digits, step, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match=f"after step {step} of 23"):
        fit(pressing, tmp_path / "cut", recipe=recipe)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    torch.manual_seed(99)  # whatever the process did before must not matter
    again = Interrupted(digits, 10**9, lambda: None)
    resumed = fit(again, tmp_path / "cut", recipe=recipe)
    assert again.seen == 23 - step
    assert same(whole.last, resumed.last)
    assert same(whole.kept, resumed.kept)
    without_clock = [[replace(row, seconds=0.0) for row in trained.history] for trained in (whole, resumed)]
    assert without_clock[0] == without_clock[1]
    assert (whole.kept_step, whole.stopped) == (resumed.kept_step, resumed.stopped)


def test_second_ctrl_c_stops_at_once(digits: TensorExamples, tmp_path: Path) -> None:
    """Nobody should have to wait for a step that hangs; the checkpoint from before stays good."""

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    pressing = Interrupted(digits, 13, twice)
    with pytest.raises(KeyboardInterrupt):
        fit(pressing, tmp_path, checkpoint_every_s=0.0)
    again = Interrupted(digits, 10**9, lambda: None)
    resumed = fit(again, tmp_path)
    assert again.seen == 11  # 12 steps were done and saved, the 13th was lost
    assert same(resumed.last, fit(digits, tmp_path / "whole").last)


def test_global_random_state_is_left_alone(digits: TensorExamples, tmp_path: Path) -> None:
    """A training that reseeded the process would change results of code that has nothing to do with it."""
    net = network()
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    fit(digits, tmp_path, net)
    assert torch.equal(torch.rand(3), expected)


def test_nan_loss_stops_and_keeps_the_last_good_state(digits: TensorExamples, tmp_path: Path) -> None:
    """Step and learning rate are named; the checkpoint is the state before, with finite weights, and it can be read."""
    bad = TensorExamples(digits.tensor.clone(), digits.labels)
    bad.tensor[batch_rows(60, 7, seed=0, step=11)[0]] = torch.nan
    recipe = replace(RECIPE, batch_size=5)
    first = next(s for s in range(12) if torch.isnan(bad.tensor[batch_rows(60, 5, seed=0, step=s)]).any())
    with pytest.raises(Diverged, match=f"the loss of step {first + 1} is nan") as caught:
        fit(bad, tmp_path, recipe=recipe, checkpoint_every_s=0.0)
    assert caught.value.step == first + 1
    assert caught.value.lr == recipe.lr_at(first, n_train=60)
    assert f"after step {first}," in str(caught.value)
    with trainable(network()) as moving:
        steps = stepper(moving.network, moving, recipe, torch.device("cpu"))
        checkpoint = Checkpoint(tmp_path / "checkpoint.safetensors", {"recipe": recipe.to_json()})
        position = checkpoint.resume(moving, steps, torch.device("cpu"))
        assert position is not None
        assert position.step == first
        assert moving.is_finite()


def test_what_was_done_until_the_loss_was_nan_is_kept(digits: TensorExamples, tmp_path: Path) -> None:
    """However rarely checkpoints are written: steps, history, best weights, statistics and generators of the step before."""
    from finetune.files import read_tensors

    bad = TensorExamples(digits.tensor.clone(), digits.labels)
    bad.tensor[batch_rows(60, 7, seed=0, step=11)[0]] = torch.nan
    recipe = replace(RECIPE, batch_size=5, evaluate_every=1, keep=KeepBest())
    found = {}
    for every_s in (0.0, 1e9):
        checkpoint = Checkpoint(tmp_path / f"{every_s}" / "checkpoint.safetensors", {"recipe": recipe.to_json()})
        checkpoint.path.parent.mkdir()
        with pytest.raises(Diverged, match="is nan"):
            train(
                network(), bad, recipe=recipe, checkpoint=checkpoint, evaluate=lambda: 0.5, checkpoint_every_s=every_s
            )
        found[every_s] = read_tensors(tmp_path / f"{every_s}" / "checkpoint.safetensors")
    (often, about), (seldom, last) = found[0.0], found[1e9]
    assert often.keys() == seldom.keys()
    assert all(torch.equal(tensor, seldom[name]) for name, tensor in often.items())
    assert any(name.startswith("best/") for name in seldom)
    assert any("running_mean" in name for name in seldom)
    steps = [[row["step"] for row in one["position"]["history"]] for one in (about, last)]
    assert steps[0] == steps[1] == list(range(1, last["position"]["step"] + 1))


def test_weights_that_overflow_are_not_checkpointed(digits: TensorExamples, tmp_path: Path) -> None:
    """A learning rate of 1e38 makes weights infinite after a finite loss; such a state must not replace a good one."""
    recipe = replace(RECIPE, lr=3e38, warmup_steps=0, optimizer=SGD(0.0, nesterov=False), weight_decay=0.0)
    scaled = TensorExamples(digits.tensor * 1e3, digits.labels)
    with pytest.raises(Diverged, match="Lower the learning rate"):
        fit(scaled, tmp_path, recipe=recipe, checkpoint_every_s=0.0)
    from finetune.files import read_tensors

    tensors, _ = read_tensors(tmp_path / "checkpoint.safetensors")
    assert all(bool(tensor.isfinite().all()) for name, tensor in tensors.items() if name.startswith("moving/"))


def test_checkpoint_of_another_recipe_is_refused_in_words(digits: TensorExamples, tmp_path: Path) -> None:
    """Continuing under other hyper-parameters would make a run that no recipe describes."""
    fit(digits, tmp_path)
    with pytest.raises(DifferentRun) as caught:
        fit(digits, tmp_path, recipe=replace(RECIPE, lr=0.06, optimizer=Adam()))
    message = str(caught.value)
    for part in ("lr is 0.05 stored and 0.06 asked for", "optimizer.kind is 'SGD' stored and 'Adam'"):
        assert part in message
    assert len(caught.value.differences) >= 3


@pytest.mark.parametrize("damage", ["truncate", "flip", "other"])
def test_damaged_checkpoint_is_refused(digits: TensorExamples, tmp_path: Path, damage: str) -> None:
    """A flipped bit in a weight is invisible to the file format; the checksum must see it."""
    fit(digits, tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        content = content[: len(content) // 2]
    elif damage == "flip":
        content[-100] ^= 1
    else:
        content = bytearray(b"not a checkpoint at all, but long enough to be looked at")
    path.write_bytes(content)
    with pytest.raises(CorruptRun, match=r"checkpoint\.safetensors"):
        fit(digits, tmp_path)


def test_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a later version, read as if it were ours, could resume from misread numbers."""
    from finetune import files

    monkeypatch.setattr(files, "FORMAT", 2)
    files.write_tensors(tmp_path / "x", {"a": torch.ones(2)}, {})
    monkeypatch.setattr(files, "FORMAT", 1)
    with pytest.raises(CorruptRun, match="newer version"):
        files.read_tensors(tmp_path / "x")


def test_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC at the flush: one error that names the file, the old content whole, nothing partial beside it."""
    from finetune import files

    files.write_atomically(tmp_path / "x", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunWrite, match="No space left on device"):
        files.write_atomically(tmp_path / "x", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_folder_that_cannot_be_written_is_found_before_training(digits: TensorExamples, tmp_path: Path) -> None:
    """Found only at the first checkpoint, half a minute of training would be lost."""
    (tmp_path / "file").write_text("in the way")
    counting = Interrupted(digits, 10**9, lambda: None)
    with pytest.raises(RunWrite, match=r"checkpoint\.safetensors"):
        fit(counting, tmp_path / "file")
    assert counting.seen == 0


def test_lack_of_memory_says_what_to_lower(digits: TensorExamples, tmp_path: Path) -> None:
    """Torch's own message names bytes, ours the batch size: a GPU's error made by hand, and a processor's real one, which
    has no class of its own; another error of the runtime passes through."""

    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with pytest.raises(OutOfMemory, match=r"batches of 7: .*20\.00 GiB\. Lower batch_size"):
        fit(Interrupted(digits, 3, full), tmp_path)
    with pytest.raises(
        OutOfMemory, match=r"(?s)batches of 7: .*you tried to allocate 4000000000000000 bytes.*Lower batch"
    ):
        fit(Interrupted(digits, 3, lambda: torch.empty(10**15)), tmp_path)
    with pytest.raises(RuntimeError, match="must match"):
        fit(Interrupted(digits, 3, lambda: torch.zeros(2) + torch.zeros(3)), tmp_path)


def test_a_score_that_is_not_a_number_is_refused(digits: TensorExamples, tmp_path: Path) -> None:
    """NaN compares as neither better nor worse: the weights kept would be arbitrary."""
    net = network()
    checkpoint = Checkpoint(tmp_path / "c", {})
    with pytest.raises(BadInput, match="after step 9 is nan"):
        train(net, digits, recipe=RECIPE, checkpoint=checkpoint, evaluate=lambda: float("nan"))


def test_bad_parts_are_reported_together() -> None:
    """A part that does not exist gets the nearest names; one without parameters cannot be trained."""
    net = network()
    with pytest.raises(BadInput) as caught, trainable(net, ("1.2", "3.weigth")):
        pass
    assert "'1.2' has no parameters" in str(caught.value)
    assert "3.weight" in str(caught.value)
    with pytest.raises(BadInput, match="no part"), trainable(net, ()):
        pass


def test_checkpoints_hold_no_code(digits: TensorExamples, tmp_path: Path) -> None:
    """The file is safetensors with JSON: reading it executes nothing."""
    fit(digits, tmp_path)
    content = (tmp_path / "checkpoint.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert set(header["__metadata__"]) == {"finetune", "blake2b"}
