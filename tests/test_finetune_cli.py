"""The ``finetune`` command, run in-process: exit codes, what is printed where, options that become a recipe."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import finetune
from finetune import Adam, KeepBest, Recipe, StepDecay, StopEarly, regimes, task
from finetune.cli import main

MODEL = "test_tune_head:network_and_preprocessing"
RECIPE = ("--steps", "20", "--lr", "0.1", "--batch-size", "32")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Handwritten digits as npz files, 200 to train on and 100 to test, and a store that all tests share."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    images = (digits.images * 15.9375).astype(np.uint8)
    for name, rows in (("train", slice(0, 200)), ("test", slice(200, 300))):
        np.savez(folder / f"{name}.npz", images=images[rows], labels=digits.target[rows])
    return folder


@pytest.fixture
def head(data: Path, tmp_path: Path) -> list[str]:
    """The shortest useful command."""
    return [
        "head", MODEL, "--train", f"npz:{data}/train.npz", "--val", "0.2", "--test", f"npz:{data}/test.npz",
        "--out", str(tmp_path / "run"), "--store", str(data / "store"), *RECIPE,
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def sigint() -> Iterator[None]:
    """The command leaves SIGINT ignored on its way out; pytest goes on."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def test_head_prints_a_table_and_repeats_it_without_training(
    head: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results on stdout, the rest on stderr; the second call reads what the first one wrote."""
    assert main(head) == 0
    first = capsys.readouterr()
    run = finetune.open_run(tmp_path / "run")
    lines = first.out.splitlines()
    assert lines[0].split() == ["split", "n", "accuracy", "95", "%", "interval"]
    assert lines[1].split()[:3] == ["val", str(len(run.predictions["val"])), f"{run.scores['val']:.4f}"]
    assert lines[2].split()[:3] == ["test", "100", f"{run.scores['test']:.4f}"]
    low, high = run.predictions["test"].interval()
    assert f"{low:.4f} – {high:.4f}" in lines[2]
    assert "step 20" in first.out
    assert "finetune: " in first.err
    monkeypatch.setattr(task, "train_loop", None)  # must not be called
    assert main(head) == 0
    assert capsys.readouterr().out == first.out
    assert main(["show", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == first.out


def test_json_is_the_run(head: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Programs get the record that the library gives, and nothing else on stdout."""
    assert main([*head, "--json", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == finetune.open_run(tmp_path / "run").to_json()
    assert "training" not in printed.err
    assert main(["show", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(printed.out)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), Recipe(lr=0.1, steps=20, batch_size=32)),
        (
            ("--optimizer", "adam", "--schedule", "step:2,3", "--keep", "best", "--no-decay-biases", "--seed", "7"),
            Recipe(lr=0.1, steps=20, batch_size=32, optimizer=Adam(), schedule=StepDecay((2, 3)), keep=KeepBest(),
                   decay_biases=False, seed=7),
        ),
        (
            ("--keep", "stop:0.5,10", "--warmup-steps", "3", "--weight-decay", "1e-4", "--evaluate-every", "5",
             "--label-smoothing", "0.1"),
            Recipe(lr=0.1, steps=20, batch_size=32, keep=StopEarly(drop=0.5, min_steps=10), warmup_steps=3,
                   weight_decay=1e-4, evaluate_every=5, label_smoothing=0.1),
        ),
    ],
)  # fmt: skip
def test_options_become_the_recipe(head: list[str], tmp_path: Path, options: tuple[str, ...], expected: Recipe) -> None:
    """An option that is not given must leave the library's default; one that is given must arrive."""
    assert main([*head, *options]) == 0
    assert finetune.open_run(tmp_path / "run").recipe == expected


def test_rows_and_metric_arrive(head: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows are written as ranges and lists; an interval is shown for accuracy only."""
    assert main([*head, "--head-rows", "0-7,9,8", "--metric", "mean_per_class"]) == 0
    assert "mean_per_class" in capsys.readouterr().out.splitlines()[0]
    identity = finetune.open_run(tmp_path / "run").identity
    assert identity["head_rows"] == [0, 1, 2, 3, 4, 5, 6, 7, 9, 8]
    assert identity["metric"] == "mean_per_class"


@pytest.mark.parametrize(
    "wrong",
    [
        ("--epochs", "3"),
        ("--schedule", "linear"),
        ("--schedule", "step:a"),
        ("--keep", "stop:"),
        ("--keep", "worst"),
        ("--optimizer", "lion"),
        ("--head-rows", "a-b"),
        ("--lr", "fast"),
    ],
)
def test_wrong_usage_is_exit_2(head: list[str], wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Usage errors name the option and come with the usage, before anything is loaded."""
    with pytest.raises(SystemExit) as caught:
        main([*head, *wrong])
    assert caught.value.code == 2
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"--lr": "-1"}, "lr is -1.0"),
        ({"--train": "npz:/nowhere/at/all.npz"}, "nowhere"),
        ({"--train": "no_such_data"}, "no_such_data"),
        ({"--metric": "acuracy"}, "accuracy"),
        ({"--head-rows": "0-3"}, "head_rows has 4 rows and there are 10 classes"),
    ],
)
def test_our_errors_are_one_message_and_exit_1(
    head: list[str], changes: dict[str, str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors of all three packages come out the same way: one message, no traceback."""
    for option, value in changes.items():
        head = [*head, option, value]
    assert main(head) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    message = printed.err[printed.err.index("finetune: error: ") :]
    assert part in message
    assert "Traceback" not in printed.err


def test_another_recipe_is_refused(head: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The difference is said in words."""
    assert main(head) == 0
    assert main([*head, "--lr", "0.3"]) == 1
    assert "recipe.lr is 0.1 stored and 0.3 asked for" in capsys.readouterr().err


def test_ctrl_c_is_exit_130_and_the_same_command_goes_on(
    head: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says where it stopped; the run is finished by the same command."""
    batches = 0
    inputs = regimes.TensorExamples.inputs

    def pressed(self: Any, rows: Any, epoch: Any) -> Any:
        nonlocal batches
        batches += epoch is not None
        if batches == 8 and epoch is not None:
            signal.raise_signal(signal.SIGINT)
        return inputs(self, rows, epoch)

    monkeypatch.setattr(regimes.TensorExamples, "inputs", pressed)
    assert main(head) == 130
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert "finetune: interrupted; stopped after step 8 of 20" in capsys.readouterr().err
    assert main(["show", str(tmp_path / "run")]) == 1
    assert "not finished" in capsys.readouterr().err
    assert main(head) == 0
    assert batches == 20


def test_errors_that_are_not_ours_are_not_hidden(head: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug must show its traceback; a message without one could not be reported."""

    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(task, "train_loop", broken)
    with pytest.raises(ZeroDivisionError):
        main(head)
