"""The ``finetune`` command, run in-process: exit codes, what is printed where, options that become a recipe."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featstore
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
        (
            ("--keep", "stop:0.5,10,last"),
            Recipe(lr=0.1, steps=20, batch_size=32, keep=StopEarly(drop=0.5, min_steps=10, restore_best=False)),
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
        ("--keep", "stop:0.5,10,first"),
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


COMMANDS = {
    "full": ("full_tune", ()),
    "scratch": ("from_scratch", ()),
    "unit": ("tune_unit", ("--unit", "layer1,head")),
    "scale-shift": ("tune_scale_shift", ()),
    "lp-ft": ("probe_then_tune", ("--C", "0.1,1")),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_regime_has_its_command(
    command: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command makes the run that the function makes; its table shows val and test."""
    regime, more = COMMANDS[command]
    arguments = [
        command, MODEL, "--train", f"npz:{data}/train.npz", "--val", "0.2", "--test", f"npz:{data}/test.npz",
        "--out", str(tmp_path / "run"), *RECIPE, *more, "--quiet",
    ]  # fmt: skip
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    run = finetune.open_run(tmp_path / "run")
    assert run.regime == regime
    assert lines[2].split()[:3] == ["test", "100", f"{run.scores['test']:.4f}"]
    train, val = featstore.load_split(f"npz:{data}/train.npz").holdout(0.2)
    keywords: dict[str, Any] = {"unit": {"unit": ("layer1", "head")}, "lp-ft": {"C": (0.1, 1.0)}}.get(command, {})
    again = getattr(finetune, regime)(
        featstore.load_backbone(MODEL), train, val, recipe=Recipe(lr=0.1, steps=20, batch_size=32),
        test=featstore.load_split(f"npz:{data}/test.npz"), out=tmp_path / "again", progress=False, **keywords,
    )  # fmt: skip
    assert again.scores == run.scores
    assert again.identity == run.identity


def test_switches_become_the_recipe(head: list[str], tmp_path: Path) -> None:
    """Every switch of the recipe can be said on the command line."""
    options = (
        "--no-bn-scale", "--dropout", "0.2", "--auxiliary", "layer1:0.3", "--augmentation", "fang2023:hpa+augmix-m3-w3-d2",
        "--precision", "bfloat16", "--view", "better", "--train-mode", "all", "--bn-momentum", "kornblith2019",
    )  # fmt: skip
    command = ["full", *[part for part in head[1:] if part != "--store" and not part.endswith("store")], *options]
    assert main(command) == 0
    expected = Recipe(
        lr=0.1, steps=20, batch_size=32, bn_scale=False, dropout=0.2, auxiliary=finetune.Auxiliary("layer1", 0.3),
        augmentation=finetune.Augmentation.fang2023("hpa", policy="augmix-m3-w3-d2"), precision="bfloat16",
        view="better", train_mode="all", bn_momentum=finetune.EpochShare(),
    )  # fmt: skip
    assert finetune.open_run(tmp_path / "run").recipe == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--paper", "kornblith2019", "--lr", "0.01", "--decay", "1e-5"), Recipe.kornblith2019(lr=0.01, decay=1e-5)),
        (
            ("--paper", "fang2023-scratch", "--lr", "0.01", "--decay", "0", "--epochs", "2"),
            Recipe.fang2023(lr=0.01, decay=0.0, pretrained=False, epochs=2),
        ),
        (("--paper", "royer2020:mnist:0.01"), Recipe.royer2020("mnist", ratio=0.01)),
        (("--paper", "surgical2022", "--lr", "1e-3"), Recipe.surgical2022(lr=1e-3)),
    ],
)
def test_papers_recipes_by_name(options: tuple[str, ...], expected: Recipe) -> None:
    """The recipe that the library makes, without a default typed again."""
    from finetune.cli import _parser
    from finetune.cli.options import take_recipe

    given = vars(_parser().parse_args(["full", MODEL, "--train", "x", "--out", "y", *options]))

    def fail(message: str) -> None:
        pytest.fail(message)

    assert take_recipe(given, fail) == expected


@pytest.mark.parametrize("paper", [(), ("--paper", "surgical2022"), ("--paper", "royer2020:mnist:0.01")])
def test_a_decay_that_no_paper_reads_is_wrong_usage(
    paper: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Passed over, it would look as if the training had it."""
    with pytest.raises(SystemExit) as caught:
        main(["full", MODEL, "--train", "x", "--out", str(tmp_path / "r"), "--lr", "0.1", "--decay", "1e-4", *paper])
    assert caught.value.code == 2
    assert "--decay belongs to --paper kornblith2019 and fang2023" in capsys.readouterr().err


def test_search_prints_the_table_and_show_repeats_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cells from best to worst, the choice and the test score; show reads it from the disk, as JSON too."""
    arguments = [
        "search", MODEL, "--regime", "head", "--train", f"npz:{data}/train.npz", "--val", "0.2",
        "--test", f"npz:{data}/test.npz", "--out", str(tmp_path / "s"), "--store", str(data / "store"),
        "--steps", "20", "--batch-size", "32", "--lr", "0.1,1e-6", "--weight-decay", "0,1e-3", "--quiet",
    ]  # fmt: skip
    assert main(arguments) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].split() == ["cell", "val", "kept", "step", "seconds"]
    vals = [float(line.split()[1]) for line in lines[1:5]]
    assert vals == sorted(vals, reverse=True)
    assert lines[5].startswith(f"best on val: {lines[1].split()[0]}")
    assert lines[6].startswith("test ")
    assert "trained again on train and val" in lines[6]
    assert main(["show", str(tmp_path / "s")]) == 0
    assert capsys.readouterr().out == out
    assert main(["show", str(tmp_path / "s"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["best"] == lines[1].split()[0]


@pytest.mark.parametrize(
    ("options", "regime"),
    [(("head", "--n-units", "2"), "tune_head"), (("adapter", "--adapter", "colour"), "tune_adapter"),
     (("lp-ft", "--C", "0.01,1"), "probe_then_tune")],
)  # fmt: skip
def test_searches_of_other_regimes_take_their_options(
    options: tuple[str, ...], regime: str, data: Path, tmp_path: Path
) -> None:
    """Every cell is trained as the command of the regime would."""
    own = ["--train", f"npz:{data}/test.npz", "--val", "0.3", "--out", str(tmp_path / "s"), "--no-refit", "--quiet"]
    grid = ["--steps", "2", "--batch-size", "8", "--lr", "0.01"]
    assert main(["search", MODEL, "--regime", *options, *own, *grid]) == 0
    identity = json.loads((next((tmp_path / "s" / "cells").iterdir()) / "run.json").read_text())["identity"]
    assert identity["regime"] == regime
    found = {"tune_head": '["layer2", "head"]', "tune_adapter": '"adapter"', "probe_then_tune": '"C"'}[regime]
    assert found in json.dumps(identity)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--regime", "full"), "--lr and one of --steps and --epochs are needed"),
        (("--regime", "unit", "--grid", "surgical2022"), "--regime unit needs --unit"),
        (("--regime", "full", "--unit", "conv2", "--grid", "surgical2022"), "--unit belongs to --regime unit"),
        (("--regime", "full", "--n-units", "2", "--grid", "surgical2022"), "--n-units belongs to --regime head"),
        (
            ("--regime", "head", "--adapter", "colour", "--grid", "surgical2022"),
            "--adapter belongs to --regime adapter",
        ),
        (("--regime", "full", "--C", "1,10", "--grid", "surgical2022"), "--C belongs to --regime lp-ft"),
        (
            ("--regime", "unit", "--unit", "conv2", "--store", "s", "--grid", "surgical2022"),
            "--store belongs to --regime head and lp-ft",
        ),
        (("--regime", "full", "--grid", "fang2024"), "--grid fang2024 is none of kornblith2019"),
        (("--regime", "full", "--grid", "kornblith2019", "--lr", "0.1"), "of its own; leave out --lr"),
        (("--regime", "flux", "--grid", "kornblith2019"), "invalid choice: 'flux'"),
        (("--regime", "full", "--lr", "0.1,x", "--steps", "3"), "'0.1,x' is not a list of numbers"),
    ],
)
def test_wrong_searches_are_exit_2(
    options: tuple[str, ...], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before anything is loaded."""
    with pytest.raises(SystemExit) as caught:
        main(["search", MODEL, "--train", "x", "--val", "0.2", "--out", str(tmp_path / "s"), *options])
    assert caught.value.code == 2
    assert part in capsys.readouterr().err


def test_names_of_the_networks_classes_choose_rows(head: list[str], tmp_path: Path) -> None:
    """A file with one name a line; the images' classes are found among them."""
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(str(9 - i) for i in range(10)) + "\n")
    assert main([*head, "--head-classes", str(classes)]) == 0
    identity = finetune.open_run(tmp_path / "run").identity
    assert identity["head_rows"] == [9 - i for i in range(10)]


def test_a_comparison_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A png beside the table; refused as wrong usage where nothing is compared or the name is no png's."""
    common = ["flex", "featstore:digits_net", "--train", "digits:train+blur(1.0)", "--val", "0.3", "--head-rows", "0-9",
              "--lr", "1e-3", "--epochs", "1", "--quiet", "--out", str(tmp_path / "run")]  # fmt: skip
    drawn = tmp_path / "methods.png"
    assert main([*common, "--method", "compare", "--plot", str(drawn)]) == 0
    assert f"drawn in {drawn}" in capsys.readouterr().out
    assert drawn.read_bytes().startswith(b"\x89PNG")
    for wrong in (["--plot", str(drawn)], ["--method", "compare", "--plot", "methods.svg"]):
        with pytest.raises(SystemExit) as left:
            main([*common, *wrong])
        assert left.value.code == 2
        assert "--plot draws what --method compare finds" in capsys.readouterr().err
