"""tune_head against independent truths: the convex optimum, the whole network trained from images, scikit-learn, a
killed process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import featstore
import finetune
import probe
from finetune import SGD, Constant, KeepBest, Recipe, task
from finetune.checkpoint import Checkpoint
from finetune.examples import TensorExamples
from finetune.heads import head_from_rows, head_name, new_head
from finetune.loop import train as train_loop
from finetune.networks import with_head

pytestmark = pytest.mark.usefixtures("one_thread")

GREY = featstore.Preprocessing((8, 8), (0.0,), (1.0,), mode="L")
RECIPE = Recipe(lr=0.2, epochs=3, batch_size=32, weight_decay=1e-3)


@dataclass(frozen=True)
class Arrays:
    """Images in memory as the samples of a split."""

    images: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def read(self, i: int) -> np.ndarray:
        found: np.ndarray = self.images[i]
        return found

    def describe(self, i: int) -> str:
        return f"digit {i}"

    def stat(self, i: int) -> None:
        return None


def digit_splits() -> dict[str, featstore.Split]:
    """600 of scikit-learn's handwritten digits: 300 to train on, 150 to validate, 150 to test."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = (data.images[:600] * 15.9375).astype(np.uint8)
    names = np.array([f"digit{i:04d}" for i in range(600)])
    classes = tuple("0123456789")
    whole = featstore.Split("digits", names, data.target[:600].astype(np.int64), classes, Arrays(images))
    bounds = {"train": (0, 300), "val": (300, 450), "test": (450, 600)}
    return {name: whole.subset(np.arange(*bound), f"digits/{name}") for name, bound in bounds.items()}


@pytest.fixture(scope="module")
def digits() -> dict[str, featstore.Split]:
    """See `digit_splits`."""
    return digit_splits()


class Net(nn.Module):
    """Two convolutions with batch norm and dropout, and a head of 10 classes; counts the images it has seen."""

    def __init__(self, conv_head: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer1 = nn.Sequential(nn.Conv2d(1, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.2))
        self.layer2 = nn.Sequential(nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU())
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        if conv_head:
            self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(32, 10, 1), nn.ReLU(), *pool)
        else:
            self.pool, self.fc = pool, nn.Linear(32, 10)
        self.conv_head = conv_head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer2(self.layer1(x))
        y: torch.Tensor = self.classifier(x) if self.conv_head else self.fc(self.pool(x))
        return y


def network_and_preprocessing() -> tuple[nn.Module, featstore.Preprocessing]:
    """The network as ``package.module:function`` of the command line gives it."""
    return Net().eval(), GREY


@pytest.fixture(scope="module")
def backbone() -> Any:
    """A small random network: its features are those of real images."""
    return featstore.load_backbone(Net().eval(), preprocessing=GREY)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests of this file: features are extracted once."""
    return tmp_path_factory.mktemp("features")


def images_of(split: featstore.Split) -> torch.Tensor:
    """Network inputs of a split, ``(n, 1, 8, 8)``, made without featstore's extraction."""
    return torch.from_numpy(np.stack([np.asarray(split.image(i)) for i in range(len(split))]))[:, None].float() / 255


def tune(backbone: Any, digits: dict[str, featstore.Split], out: Path, store: Path, **changes: Any) -> finetune.Run:
    """tune_head on the digits, quietly."""
    options: dict[str, Any] = {"recipe": RECIPE, "test": digits["test"], "store": store, "progress": False, **changes}
    return finetune.tune_head(backbone, digits["train"], digits["val"], out=out, **options)


def same(a: finetune.Run, b: finetune.Run) -> bool:
    """Same weights, best and last, to the bit."""
    pairs = [(a.weights(which), b.weights(which)) for which in ("best", "last")]
    return all(x.keys() == y.keys() and all(torch.equal(x[n], y[n]) for n in x) for x, y in pairs)


@pytest.mark.parametrize(("batch_size", "within"), [(300, 1e-6), (50, 2e-3)])
def test_long_training_reaches_the_probes_optimum(
    backbone: Any, digits: dict[str, featstore.Split], store: Path, tmp_path: Path, batch_size: int, within: float
) -> None:
    """The objective is convex, so its optimum is the truth: scikit-learn's, and probe's, at C = 1 / (weight_decay · n).

    Full batches converge to it; cosine decay on small batches ends close to it, ``within`` in the mean objective,
    because the noise of the last steps is damped but not gone.
    """
    from sklearn.linear_model import LogisticRegression

    decay, n = 1e-3, 300
    recipe = Recipe(lr=1.0, steps=3000, batch_size=batch_size, weight_decay=decay, decay_biases=False)
    recipe = replace(recipe, evaluate_every=3000)
    run = tune(backbone, digits, tmp_path / "run", store, recipe=recipe)
    features = featstore.open_store(store).features("penultimate", digits["train"], backbone=backbone).numpy()
    x, y = features.astype(np.float64), digits["train"].labels

    def objective(weight: np.ndarray, bias: np.ndarray) -> float:
        logits = x @ weight.T + bias
        top = logits.max(1)
        losses = top + np.log(np.exp(logits - top[:, None]).sum(1)) - logits[np.arange(n), y]
        return float(losses.mean() + 0.5 * decay * (weight**2).sum())

    truth = LogisticRegression(C=1 / (decay * n), tol=1e-10, max_iter=10_000).fit(x, y)
    probed = probe.fit(features, y, C=1 / (decay * n))
    ours = {name.rpartition(".")[2]: tensor.double().numpy() for name, tensor in run.weights().items()}
    best = objective(truth.coef_, truth.intercept_)
    assert best <= objective(ours["weight"], ours["bias"]) <= best + within
    assert abs(objective(np.asarray(probed.coef), np.asarray(probed.intercept)) - best) < 1e-5
    test = featstore.open_store(store).features("penultimate", digits["test"], backbone=backbone).numpy()
    agreed = (truth.predict(test.astype(np.float64)) == run.predictions["test"].y_pred).mean()
    assert agreed >= 149 / 150
    assert run.scores["test"] == run.predictions["test"].accuracy() > 0.5  # features of a random network


def test_it_equals_training_the_last_layer_of_the_whole_network(
    backbone: Any, digits: dict[str, featstore.Split], store: Path, tmp_path: Path
) -> None:
    """Fed from the store or run from the images with everything below frozen: the same weights.

    The tolerance is float32's: batches of other sizes sum in another order.
    """
    fed = tune(backbone, digits, tmp_path / "fed", store)
    network = with_head(backbone, new_head(32, 10, seed=RECIPE.seed))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    examples = TensorExamples(images_of(digits["train"]), digits["train"].labels)
    checkpoint = Checkpoint(tmp_path / "whole" / "checkpoint", {})
    whole = train_loop(network, examples, recipe=RECIPE, checkpoint=checkpoint, parts=("fc",))
    assert whole.last.keys() == fed.weights("last").keys() == {"fc.weight", "fc.bias"}
    for name, tensor in fed.weights("last").items():
        torch.testing.assert_close(tensor, whole.last[name], rtol=1e-4, atol=1e-5)
        assert (tensor - before[name]).abs().max() > 1e-2  # it did move


def test_frozen_tensors_do_not_move(
    backbone: Any, digits: dict[str, featstore.Split], store: Path, tmp_path: Path
) -> None:
    """Every tensor of the backbone, batch-norm statistics and its own head included, keeps every bit, every module its
    mode."""
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    modes = [module.training for module in backbone.module.modules()]
    run = tune(backbone, digits, tmp_path / "run", store, head_rows=range(10))
    after = backbone.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert modes == [module.training for module in backbone.module.modules()]
    tuned = run.network(backbone).state_dict()
    assert {name for name in before if not torch.equal(before[name], tuned[name])} == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("conv_head", [False, True])
def test_whole_network_gives_the_stored_predictions(
    digits: dict[str, featstore.Split], tmp_path: Path, conv_head: bool
) -> None:
    """The trained head, put on the network and run from the images, says what the run stored from the features."""
    backbone = featstore.load_backbone(Net(conv_head).eval(), preprocessing=GREY)
    run = tune(backbone, digits, tmp_path / "run", tmp_path / "store")
    assert head_name(backbone) == ("head" if conv_head else "fc")
    with torch.inference_mode():
        logits = run.network(backbone)(images_of(digits["test"]))
    stored = run.predictions["test"]
    np.testing.assert_allclose(logits.numpy(), stored.scores, rtol=1e-4, atol=1e-4)
    assert np.array_equal(stored.ids, digits["test"].ids)
    assert np.array_equal(stored.y_true, digits["test"].labels)
    assert np.array_equal(stored.y_pred, stored.scores.argmax(1))


def test_rows_of_the_own_head_are_where_training_begins(
    backbone: Any, digits: dict[str, featstore.Split], store: Path, tmp_path: Path
) -> None:
    """With a vanishing learning rate the run predicts what the network itself does, its classes in the order of the
    rows."""
    rows = [3, 1, 0, 2, 4, 5, 6, 7, 9, 8]
    still = Recipe(lr=1e-12, steps=1, batch_size=10, schedule=Constant())
    run = tune(backbone, digits, tmp_path / "run", store, recipe=still, head_rows=rows)
    with torch.inference_mode():
        own = backbone.module(images_of(digits["test"])).numpy()[:, rows]
    np.testing.assert_allclose(run.predictions["test"].scores, own, rtol=1e-4, atol=1e-5)


def test_features_are_extracted_once(digits: dict[str, featstore.Split], tmp_path: Path) -> None:
    """600 images pass the network for the first run (and a few to look at it); a second recipe costs none, nor does a
    repeat."""
    network = Net().eval()
    seen: list[int] = []
    backbone = featstore.load_backbone(network, preprocessing=GREY)
    network.layer1[0].register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    tune(backbone, digits, tmp_path / "a", tmp_path / "store")
    first = sum(seen)
    assert first <= 600
    again = tune(backbone, digits, tmp_path / "b", tmp_path / "store", recipe=replace(RECIPE, lr=0.1))
    repeated = tune(backbone, digits, tmp_path / "b", tmp_path / "store", recipe=replace(RECIPE, lr=0.1))
    assert sum(seen) == first
    assert [row.seconds for row in repeated.history] == [row.seconds for row in again.history]


def test_a_held_out_part_is_read_from_its_whole(
    backbone: Any, digits: dict[str, featstore.Split], store: Path, tmp_path: Path
) -> None:
    """A hold-out of a split whose features are stored needs no extraction; a subset that was extracted again would
    waste hours."""
    tune(backbone, digits, tmp_path / "a", store)
    n_entries = len(featstore.open_store(store).entries())
    rest, held = digits["train"].holdout(0.2)
    finetune.tune_head(backbone, rest, held, recipe=RECIPE, out=tmp_path / "b", store=store, progress=False)
    assert len(featstore.open_store(store).entries()) == n_entries


def test_test_split_is_read_after_the_training(
    backbone: Any, digits: dict[str, featstore.Split], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """val selects, test is looked at once: its features are not even loaded while training can still see them."""
    order: list[str] = []
    load = featstore.FeatureMatrix.load

    def spied(self: Any, *args: Any, **kwargs: Any) -> Any:
        order.append(self.split)
        return load(self, *args, **kwargs)

    def trained(*args: Any, **kwargs: Any) -> Any:
        done = train_loop(*args, **kwargs)
        order.append("trained")
        return done

    monkeypatch.setattr(featstore.FeatureMatrix, "load", spied)
    monkeypatch.setattr(task, "train_loop", trained)
    tune(backbone, digits, tmp_path / "run", store)
    assert sorted(order[:2]) == ["digits/train", "digits/val"]
    assert order[2:] == ["trained", "digits/test"]


KILLED = """
import functools, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import test_tune_head as t
from finetune import loop, task
from pathlib import Path
task.train_loop = functools.partial(loop.train, checkpoint_every_s=0.0)
digits = t.digit_splits()
backbone = t.featstore.load_backbone(t.Net().eval(), preprocessing=t.GREY)
print("ready", flush=True)
t.tune(backbone, digits, Path(sys.argv[2]), Path(sys.argv[3]), recipe=t.LONG)
print("done", flush=True)
"""
LONG = Recipe(lr=0.2, steps=1500, batch_size=32, weight_decay=1e-3, keep=KeepBest(), evaluate_every=37)


def test_killed_and_resumed_gives_the_same_weights_to_the_bit(
    backbone: Any, digits: dict[str, featstore.Split], store: Path, tmp_path: Path
) -> None:
    """kill -9 in the middle, then the same call: the run of a process that was never disturbed, and nothing begun
    anew."""
    whole = tune(backbone, digits, tmp_path / "whole", store, recipe=LONG)
    out = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(out), str(store)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    while not (out / "checkpoint.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    with pytest.raises(finetune.BadInput, match="not finished"):
        finetune.open_run(out)
    from finetune.files import read_tensors

    step = read_tensors(out / "checkpoint.safetensors")[1]["position"]["step"]
    assert 0 < step < 1500
    resumed = tune(backbone, digits, out, store, recipe=LONG)
    assert same(whole, resumed)
    assert len(resumed.sessions) == 2
    assert [replace(row, seconds=0.0) for row in whole.history] == [
        replace(row, seconds=0.0) for row in resumed.history
    ]
    assert whole.predictions["test"].to_bytes() == replace(resumed.predictions["test"], name=str(whole.path)).to_bytes()
    assert not (out / "checkpoint.safetensors").exists()


def test_another_run_in_the_folder_is_refused_in_words(
    backbone: Any, digits: dict[str, featstore.Split], store: Path, tmp_path: Path
) -> None:
    """Recipe, labels, network: what differs is named with both values, and the run that is there stays as it is."""
    run = tune(backbone, digits, tmp_path / "run", store)
    record = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(finetune.DifferentRun, match=r"recipe\.lr is 0\.2 stored and 0\.5 asked for"):
        tune(backbone, digits, tmp_path / "run", store, recipe=replace(RECIPE, lr=0.5))
    relabelled = replace(digits["train"], labels=digits["train"].labels[::-1].copy())
    with pytest.raises(finetune.DifferentRun, match=r"data\.train\.labels"):
        tune(backbone, {**digits, "train": relabelled}, tmp_path / "run", store)
    other = Net().eval()
    nn.init.ones_(other.layer1[0].weight)
    with pytest.raises(finetune.DifferentRun, match="weights_digest"):
        tune(featstore.load_backbone(other, preprocessing=GREY), digits, tmp_path / "run", store)
    assert (tmp_path / "run" / "run.json").read_bytes() == record
    assert same(run, finetune.open_run(tmp_path / "run"))


def test_opened_run_is_the_one_returned(
    backbone: Any, digits: dict[str, featstore.Split], store: Path, tmp_path: Path
) -> None:
    """Recipe, history, scores and predictions survive the disk."""
    run = tune(backbone, digits, tmp_path / "run", store, recipe=replace(RECIPE, keep=KeepBest()))
    opened = finetune.open_run(tmp_path / "run")
    assert opened.to_json() == run.to_json()
    assert opened.recipe == run.recipe
    assert opened.regime == "tune_head"
    best = max(row.val for row in run.history if row.val is not None)
    assert opened.predictions["val"].accuracy() == opened.scores["val"] == best
    with pytest.raises(finetune.BadInput, match="'first'"):
        opened.weights("first")


def test_weights_of_another_network_do_not_get_the_head(
    backbone: Any, digits: dict[str, featstore.Split], store: Path, tmp_path: Path
) -> None:
    """A head on features that it was not trained on would predict nonsense without an error."""
    run = tune(backbone, digits, tmp_path / "run", store)
    other = Net().eval()
    nn.init.ones_(other.layer1[0].weight)
    with pytest.raises(finetune.BadInput, match="began from weights"):
        run.network(featstore.load_backbone(other, preprocessing=GREY))


def test_everything_wrong_with_the_splits_is_said_at_once(
    backbone: Any, digits: dict[str, featstore.Split], store: Path, tmp_path: Path
) -> None:
    """Found one by one, each would cost an extraction; and none may leave a folder behind."""
    unlabelled = replace(digits["val"], labels=None)
    empty = digits["test"].subset(np.zeros(0, np.int64), "nothing")
    with pytest.raises(finetune.BadInput) as caught:
        tune(
            backbone, {**digits, "val": unlabelled}, tmp_path / "run", store, test=empty, metric=probe.metrics.log_loss
        )
    for part in (
        "3 problems",
        "'digits/val' has no labels",
        "'nothing' has no images",
        "log_loss is better when lower",
    ):
        assert part in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"head_rows": [0, 1]}, "head_rows has 2 rows and there are 10 classes"),
        ({"head_rows": [*range(9), 10]}, "row 10 is not one of the 10 rows 0 to 9"),
        ({"head_rows": [*range(9), 8]}, "rows [8] occur more than once"),
        ({"recipe": replace(RECIPE, warmup_steps=99)}, "warmup_steps is 99"),
    ],
)
def test_bad_arguments_are_named(
    backbone: Any, digits: dict[str, featstore.Split], store: Path, tmp_path: Path, change: dict[str, Any], part: str
) -> None:
    """What is wrong, with the values, before anything is trained."""
    with pytest.raises(finetune.BadInput) as caught:
        tune(backbone, digits, tmp_path / "run", store, **change)
    assert part in str(caught.value)


def test_classes_must_be_the_same_and_all_there(
    backbone: Any, digits: dict[str, featstore.Split], store: Path, tmp_path: Path
) -> None:
    """A class without an image cannot be learned; other class names mean that logits and labels do not belong
    together."""
    without_seven = digits["train"].subset(digits["train"].labels != 7, "no sevens")
    with pytest.raises(finetune.BadInput, match=r"'no sevens' is of class \(7\)"):
        tune(backbone, {**digits, "train": without_seven}, tmp_path / "run", store)
    swapped = replace(digits["val"], classes=tuple("9876543210"))
    with pytest.raises(finetune.BadInput, match="logits belong to one list of classes"):
        tune(backbone, {**digits, "val": swapped}, tmp_path / "run", store)
    several = replace(digits["train"], labels=np.eye(10, dtype=np.uint8)[digits["train"].labels])
    with pytest.raises(finetune.BadInput, match="give the same kind of labels"):
        tune(backbone, {**digits, "train": several}, tmp_path / "run", store)


def test_best_on_val_needs_a_val(
    backbone: Any, digits: dict[str, featstore.Split], store: Path, tmp_path: Path
) -> None:
    """Without a validation split KeepBest has nothing to choose by; with KeepLast none is needed."""
    with pytest.raises(finetune.BadInput, match="needs a validation split"):
        finetune.tune_head(
            backbone, digits["train"], recipe=replace(RECIPE, keep=KeepBest()), out=tmp_path / "a", store=store
        )
    run = finetune.tune_head(backbone, digits["train"], recipe=RECIPE, out=tmp_path / "b", store=store, progress=False)
    assert run.predictions == {}
    assert all(row.val is None for row in run.history)


def test_rows_of_a_head_that_is_not_one_layer_are_refused(digits: dict[str, featstore.Split], tmp_path: Path) -> None:
    """A convolution with an activation behind it is not a linear layer on pooled features; its rows would mean
    something else."""
    backbone = featstore.load_backbone(Net(conv_head=True).eval(), preprocessing=GREY)
    with pytest.raises(finetune.BadInput, match="not one linear layer"):
        tune(backbone, digits, tmp_path / "run", tmp_path / "store", head_rows=range(10))


def test_folders_that_cannot_hold_a_run_are_refused(
    backbone: Any, digits: dict[str, featstore.Split], store: Path, tmp_path: Path
) -> None:
    """A file, a folder of other things, a damaged record, a run that another process is writing."""
    from filelock import FileLock

    (tmp_path / "file").write_text("x")
    with pytest.raises(finetune.BadInput, match="is a file"):
        tune(backbone, digits, tmp_path / "file", store)
    with pytest.raises(finetune.BadInput, match="holds other things"):
        tune(backbone, digits, tmp_path, store)
    run = tmp_path / "run"
    run.mkdir()
    with FileLock(run / ".lock"), pytest.raises(finetune.RunBusy, match="another process"):
        tune(backbone, digits, run, store)
    for damaged in ("{}", "[", '{"format": 9, "state": 1, "identity": 1, "classes": 1, "sessions": 1}'):
        (run / "run.json").write_text(damaged)
        with pytest.raises(finetune.CorruptRun, match=r"damaged|newer"):
            tune(backbone, digits, run, store)
    with pytest.raises(finetune.BadInput, match="holds no run"):
        finetune.open_run(tmp_path / "nowhere")


def test_read_only_folder_is_said_plainly(
    backbone: Any, digits: dict[str, featstore.Split], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence with the folder's name instead of a traceback."""

    def read_only(*args: Any, **kwargs: Any) -> None:
        raise OSError(30, "Read-only file system")

    run = tune(backbone, digits, tmp_path / "first", store)
    monkeypatch.setattr("finetune.files.os.replace", read_only)
    monkeypatch.setattr("filelock.FileLock.acquire", read_only)
    with pytest.raises(finetune.RunWrite, match="Read-only file system"):
        tune(backbone, digits, tmp_path / "run", store)
    assert same(run, tune(backbone, digits, tmp_path / "first", store))  # a finished run can be read from there


@pytest.mark.parametrize("nth", range(1, 8))
def test_failure_at_any_write_leaves_a_run_that_continues(
    backbone: Any, digits: dict[str, featstore.Split], store: Path, tmp_path: Path, nth: int
) -> None:
    """Every file of a run is written once in full or not; whichever write fails, the same call gives the undisturbed
    run."""
    from finetune import files

    whole = tune(backbone, digits, tmp_path / "whole", store)
    writes = 0
    replace_file = os.replace

    def failing(source: Any, target: Any) -> None:
        nonlocal writes
        writes += str(target).startswith(str(tmp_path / "run"))
        if writes == nth:
            raise OSError(28, "No space left on device")
        replace_file(source, target)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(files.os, "replace", failing)
        with pytest.raises(finetune.RunWrite, match="No space left on device"):
            tune(backbone, digits, tmp_path / "run", store)
    assert not list((tmp_path / "run").rglob("*.partial"))
    assert same(whole, tune(backbone, digits, tmp_path / "run", store))


def test_divergence_is_reported_with_step_and_rate(
    backbone: Any, digits: dict[str, featstore.Split], store: Path, tmp_path: Path
) -> None:
    """Through the whole regime: the error names them, and the folder can be opened by the same call only."""
    wild = Recipe(lr=1e38, steps=50, batch_size=32, optimizer=SGD(0.0, nesterov=False))
    with pytest.raises(finetune.Diverged, match=r"at learning rate \d") as caught:
        tune(backbone, digits, tmp_path / "run", store, recipe=wild)
    assert 1 <= caught.value.step <= 50
    assert f"{caught.value.lr:.6g}" in str(caught.value)
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_real_network_on_real_images(shared: Path, tmp_path: Path) -> None:
    """The CIFAR-10 ResNet-20 on clean CIFAR-10 images it was trained on, for which its card says 0.997.

    Its own rows, continued for one vanishing step, do what the network does; a new layer, trained on 300 of its
    features, finds the classes again: 0.97 allows for 3 of 100 images lost for want of training data.
    """
    backbone = featstore.load_backbone(
        f"featstore:cifar_resnet20@{shared / 'weights' / 'cifar10_resnet20.safetensors'}"
    )
    images = featstore.load_split(f"npz:{shared / 'data' / 'cifar10_lossless4000' / 'train4000.npz'}")
    train, test = images.subset(np.arange(300), "train"), images.subset(np.arange(300, 600), "test")
    common: dict[str, Any] = {"test": test, "store": tmp_path / "store", "progress": False}
    still = Recipe(lr=1e-12, steps=1, batch_size=10, schedule=Constant())
    own = finetune.tune_head(backbone, train, recipe=still, head_rows=range(10), out=tmp_path / "own", **common)
    inputs = torch.stack([backbone.preprocessing(test.image(i)) for i in range(len(test))])
    with torch.inference_mode():
        said = backbone.module(inputs).argmax(1).numpy()
    assert np.array_equal(own.predictions["test"].y_pred, said)
    assert own.scores["test"] > 0.99
    recipe = Recipe(lr=0.1, epochs=30, batch_size=50, weight_decay=1e-3)
    new = finetune.tune_head(backbone, train, recipe=recipe, out=tmp_path / "new", **common)
    assert new.scores["test"] > 0.97
    verdict = probe.compare(own.predictions["test"], new.predictions["test"])
    assert verdict.n == 300


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("torchvision:resnet18", "fc"),
        ("timm:mobilenetv3_small_050", "classifier"),
        ("timm:vit_tiny_patch16_224", "head"),
    ],
)
def test_own_rows_put_back_are_the_same_network(name: str, path: str) -> None:
    """Cutting the head off and putting a copy of it on again must not change a bit of what a library's network
    computes."""
    backbone = featstore.load_backbone(name, weights=None)
    assert head_name(backbone) == path
    again = with_head(backbone, head_from_rows(backbone, range(1000)))
    with torch.inference_mode():
        assert torch.equal(again(backbone.example(2)), backbone.module(backbone.example(2)))
