"""Trainings asked with what makes no sense: one sentence of ours before any work, never an error of Python's or torch's,
and nothing that is quietly taken for something else."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from finetune_helpers import RECIPE, blurred_digits

import featstore
import finetune
import probe
from finetune import (
    Adam,
    Augmentation,
    Auxiliary,
    BadInput,
    Colour,
    Cosine,
    EpochShare,
    Geometry,
    ImageToImage,
    Recipe,
    StepDecay,
    StopEarly,
    grids,
)
from finetune.flex_steps import Steps

ONE_STEP = replace(RECIPE, epochs=None, steps=1)


def _with(**fields: Any) -> Callable[[], Any]:
    return lambda: Recipe(**{"lr": 0.1, "steps": 10, **fields})


RECIPES: dict[str, tuple[Callable[[], Any], str]] = {
    "a word for an optimiser": (_with(optimizer="adam"), r"optimizer is 'adam'; it must be a finetune.SGD"),
    "a class for an optimiser": (_with(optimizer=Adam), "optimizer is <class"),
    "a schedule for an optimiser": (_with(optimizer=Cosine()), r"optimizer is Cosine"),
    "no schedule": (_with(schedule=None), "schedule is None; it must be a finetune.Constant"),
    "a word for a rule": (_with(keep="best"), "keep is 'best'; it must be a finetune.KeepLast"),
    "a word for batch norm's rule": (_with(bn_momentum="kornblith2019"), "or a finetune.EpochShare"),
    "a word for a truth": (_with(decay_biases="no"), "decay_biases is 'no'; it must be True or False"),
    "a truth for a number": (_with(lr=True), "lr is True"),
    "a seed too large for torch": (_with(seed=2**63), "seed is"),
    "betas that are one": (_with(optimizer=Adam(betas=0.9)), "Adam's betas is 0.9; it must be a tuple of 2"),  # type: ignore[arg-type]
    "a word for a drop": (_with(keep=StopEarly("x")), "StopEarly's drop is 'x'; it must be a number"),  # type: ignore[arg-type]
    "half a step": (_with(keep=StopEarly(0.1, 1.5)), "min_steps is 1.5; it must be a whole number"),  # type: ignore[arg-type]
    "one epoch, no tuple": (_with(schedule=StepDecay(3)), "at_epochs is 3; it must be a tuple"),  # type: ignore[arg-type]
    "a word for a share": (_with(bn_momentum=EpochShare("a")), "EpochShare's share is 'a'"),  # type: ignore[arg-type]
    "a word for a weight": (_with(auxiliary=Auxiliary("conv1", "x")), "Auxiliary's weight is 'x'"),  # type: ignore[arg-type]
    "one scale": (lambda: Augmentation(scale=(1,)), r"Augmentation's scale is \(1,\)"),  # type: ignore[arg-type]
    "a section timm passes over": (lambda: Augmentation(policy="rand-m-mstd0.5"), "of which timm does not know 'm'"),
    "a misspelt section": (lambda: Augmentation(policy="rand-zz-m9"), "of which timm does not know 'zz'"),
    "a decay in words": (lambda: Recipe.kornblith2019(lr=0.1, decay="a"), "weight_decay is 'a'"),  # type: ignore[arg-type]
    "a ratio in words": (lambda: Recipe.royer2020("mnist", ratio="a"), "for ratio 'a' of mnist"),  # type: ignore[arg-type]
    "a value for a grid": (lambda: grids.product(RECIPE, lr=0.1), r"several values of it: lr=\(0.1,\)"),  # type: ignore[arg-type]
    "a value twice": (lambda: grids.product(RECIPE, lr=(0.1, 0.1)), "lr has 0.1 more than once"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_of_wrong_types(name: str) -> None:
    """Otherwise the first sign is an AttributeError of ours in the constructor, or of torch's after the images are read."""
    make, words = RECIPES[name]
    with pytest.raises(BadInput, match=words):
        make()


def test_no_cell_of_a_grid_is_lost_to_a_short_name() -> None:
    """Cells are kept by name: of two with the same name the search would quietly train one."""
    close = grids.product(RECIPE, lr=(0.1, 0.1001), seed=(0, 1))
    assert list(close) == ["lr=0.1,seed=0", "lr=0.1,seed=1", "lr=0.1001,seed=0", "lr=0.1001,seed=1"]
    assert sorted({recipe.lr for recipe in close.values()}) == [0.1, 0.1001]
    parts = grids.product(RECIPE, keep=(StopEarly(0.1), StopEarly(0.2)))
    assert [recipe.keep for recipe in parts.values()] == [StopEarly(0.1), StopEarly(0.2)]
    seeds = grids.product(RECIPE, seed=np.array([123456, 123457]).tolist())
    assert list(seeds) == ["seed=123456", "seed=123457"]


@pytest.fixture(scope="module")
def digits() -> dict[str, featstore.Split]:
    return blurred_digits()


@pytest.fixture(scope="module")
def net() -> featstore.Backbone:
    return featstore.load_backbone("featstore:digits_net")


def _raises(y_true: Any, y_pred: Any) -> float:
    raise ZeroDivisionError("nothing to divide by")


def _gives_none(y_true: Any, y_pred: Any) -> float:
    return None  # type: ignore[return-value]


def _gives_nan(y_true: Any, y_pred: Any) -> float:
    return float("nan")


ASKED: dict[str, tuple[dict[str, Any], str]] = {
    "train": ({"train": "digits:train"}, r"train is 'digits:train'; it must be a Split: featstore.load_split"),
    "val": ({"val": "digits:val"}, "val is 'digits:val'; it must be a Split"),
    "test": ({"test": "digits:test"}, "test is 'digits:test'; it must be a Split"),
    "recipe": ({"recipe": {"lr": 0.1}}, "recipe is {'lr': 0.1}; it must be a Recipe"),
    "no backbone": ({"backbone": None}, "backbone is None; it must be a Backbone"),
    "backbone": ({"backbone": "featstore:digits_net"}, "it must be a Backbone: featstore.load_backbone"),
    "option": ({"wrkers": 2}, "no option 'wrkers' of a training; near it is workers"),
    "workers": ({"workers": -1}, "workers is -1"),
    "device": ({"device": "meta"}, "device is 'meta', which torch cannot use here"),
    "half rows": ({"head_rows": [i + 0.5 for i in range(10)]}, "head_rows holds 0.5"),
    "rows in a word": ({"head_rows": "0123456789"}, "head_rows is '0123456789'"),
    "one row": ({"head_rows": 5}, "head_rows is 5"),
    "a lambda": ({"metric": lambda y, p: 0.5}, "the metric is <function <lambda>.*has no name of its own"),
    "a partial": ({"metric": functools.partial(_gives_nan)}, "the metric is functools.partial.*has no name of its own"),
    "a rule of lambda": (
        {"metric": finetune.MacroF1AtThresholds(lambda y, s: np.zeros(10))}, "the rule that chooses thresholds is <function"
    ),
    "a metric that raises": ({"metric": _raises}, "_raises cannot score these images: ZeroDivisionError: nothing to divide"),
    "a metric without a number": ({"metric": _gives_none}, "_gives_none cannot score these images: .*gave None"),
    "a metric of NaN": ({"metric": _gives_nan}, "_gives_nan is nan of made-up logits"),
    "thresholds of single labels": ({"metric": finetune.MacroF1AtThresholds()}, "needs multi-label y_true"),
}  # fmt: skip


@pytest.mark.parametrize("name", ASKED)
def test_what_is_no_training(
    name: str, net: featstore.Backbone, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """Found after the first epoch, such a thing has cost an epoch; found by torch, it is said in torch's words."""
    changes, words = ASKED[name]
    given = {"backbone": net, "train": digits["train"], "val": digits["val"], "recipe": ONE_STEP, **changes}
    first = [given.pop(key) for key in ("backbone", "train", "val")]
    with pytest.raises((BadInput, finetune.FinetuneError), match=words):
        finetune.full_tune(*first, out=tmp_path / "run", progress=False, **given)
    assert not (tmp_path / "run").exists()  # nothing was begun


def test_the_error_of_a_users_metric_is_kept(
    net: featstore.Backbone, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """The sentence names the metric; where in it something went wrong only the error itself says."""
    calls = 0

    def fails_later(y_true: Any, y_pred: Any) -> float:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise KeyError("a class")
        return 0.5

    later = probe.metrics.PredictionMetric("fails_later", fails_later)
    with pytest.raises(BadInput, match="fails_later cannot score these images: KeyError") as caught:
        finetune.full_tune(
            net, digits["train"], digits["val"], recipe=ONE_STEP, metric=later, out=tmp_path, progress=False
        )  # fmt: skip
    assert isinstance(caught.value.__cause__, KeyError)


PARTS: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "no unit": (finetune.tune_unit, {"unit": None}, "has no unit 'None'"),
    "a number for a unit": (finetune.tune_unit, {"unit": 3}, "has no unit '3'"),
    "n_units in words": (finetune.tune_head, {"n_units": "2"}, "n_units is '2'"),
    "C in words": (finetune.probe_then_tune, {"C": ["a"]}, r"C is \['a'\]; it must be a list"),
    "C that falls": (finetune.probe_then_tune, {"C": [2, 1]}, "each larger than the one before"),
    "C of NaN": (finetune.probe_then_tune, {"C": [float("nan")]}, r"C is \[nan\]"),
    "a word for an adapter": (finetune.tune_adapter, {"adapter": "image"}, "adapter is 'image'; it must be a finetune.Imag"),
    "blocks in words": (finetune.tune_adapter, {"adapter": ImageToImage("a")}, "n_blocks is 'a'"),  # type: ignore[arg-type]
    "channels in words": (finetune.tune_adapter, {"adapter": Colour("a")}, "n_hidden is 'a'"),  # type: ignore[arg-type]
    "filters in words": (finetune.tune_adapter, {"adapter": Geometry(filters="a")}, "filters is 'a'"),  # type: ignore[arg-type]
    "pairs in a word": (finetune.flex_tune, {"pairs": "conv1"}, "pairs is 'conv1'; it must be 'all'"),
    "one pair, no list": (finetune.flex_tune, {"pairs": 3}, "pairs is 3"),
    "a pair's name for another": (
        finetune.flex_tune, {"pairs": "all", "others": {"conv1+conv2": finetune.tune_adapter}}, "another candidate has it"
    ),
    "the proxy's folder": (finetune.flex_tune, {"others": {"all-one-epoch": finetune.tune_adapter}}, "another candidate has"),
    "a number for another": (finetune.flex_tune, {"others": {"x": 3}}, "'x' is 3; a training of another kind is called"),
    "a list of others": (finetune.flex_tune, {"others": [finetune.tune_adapter]}, "it must be a mapping"),
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_what_is_no_part(
    name: str, net: featstore.Backbone, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """A part that does not exist must be told from one that does before anything is trained."""
    regime, changes, words = PARTS[name]
    with pytest.raises(BadInput, match=words):
        regime(net, digits["train"], digits["val"], recipe=ONE_STEP, out=tmp_path / "run", progress=False, **changes)
    assert not (tmp_path / "run" / "run.json").exists()


def test_candidates_are_kept_out_of_other_folders(
    net: featstore.Backbone, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """Otherwise a slip of the keyboard fills somebody's folder with the runs of all units."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match="holds other things"):
        finetune.flex_tune(
            net, digits["train"], digits["val"], recipe=ONE_STEP, out=tmp_path / "flex", candidates=tmp_path / "mine",
            progress=False,
        )  # fmt: skip
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


SEARCHES: dict[str, tuple[dict[str, Any], str]] = {
    "a list of recipes": ({"grid": [ONE_STEP]}, "it must be a mapping from a cell's name"),
    "a number for a name": ({"grid": {3: ONE_STEP}}, "cells are called 3"),
    "a number for a recipe": ({"grid": {"a": 3}}, "cell 'a' is 3; it must be a Recipe"),
    "no val": ({"val": None}, "chooses on a validation split"),
    "a word for a regime": ({"regime": "full_tune"}, "the regime is 'full_tune'"),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_what_is_no_search(
    name: str, net: featstore.Backbone, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """A search runs for days: what it cannot end with must be said before it begins."""
    changes, words = SEARCHES[name]
    given = {"regime": finetune.full_tune, "val": digits["val"], "grid": {"a": ONE_STEP}, **changes}
    with pytest.raises(BadInput, match=words):
        finetune.search(given.pop("regime"), net, digits["train"], out=tmp_path / "s", progress=False, **given)


def test_images_that_splits_share_are_counted_whatever_their_ids(
    net: featstore.Backbone, digits: dict[str, featstore.Split], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A validation score on images of the training is too good, and nothing else in a run would show it."""
    train, test = digits["train"], digits["test"]
    some = train.subset(np.arange(7), "seen")
    renamed = replace(some, ids=np.array([f"other/{i}" for i in range(7)]))
    run = finetune.full_tune(net, train, renamed, recipe=ONE_STEP, out=tmp_path / "run", test=test)
    assert run.details["shared_images"] == {"val in train": 7}
    assert "7 images of val in train by content" in capsys.readouterr().err
    apart = finetune.full_tune(net, train, digits["val"], recipe=ONE_STEP, out=tmp_path / "apart", test=test)
    assert "shared_images" not in apart.details
    assert "in train by content" not in capsys.readouterr().err
    flex = finetune.flex_tune(net, train, renamed, recipe=ONE_STEP, out=tmp_path / "flex", units=["conv1"])
    assert flex.best.details["shared_images"] == {"val in train": 7}
    assert capsys.readouterr().err.count("in train by content") == 1


def test_damage_of_a_finished_run_says_to_train_again(
    net: featstore.Backbone, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """Of a finished run the weights are not made anew by another call: to remove only them would leave nothing."""
    run = finetune.full_tune(net, digits["train"], digits["val"], recipe=ONE_STEP, out=tmp_path / "run", progress=False)
    weights = run.path / "best.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(finetune.CorruptRun, match="Remove the folder and train again"):
        run.weights()
    record = run.path / "run.json"
    record.write_text(record.read_text().replace('"lr": 0.02', '"lr": -0.02'))
    with pytest.raises(finetune.CorruptRun, match=r"run.json is damaged \(this recipe: lr is -0.02"):
        finetune.open_run(run.path)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="how much is in use is read from /proc")
def test_a_thread_that_cannot_begin_is_a_lack_of_memory() -> None:
    """Under a limit of address space Python says so first, in words that name neither memory nor what to do."""
    import resource
    import threading

    from finetune.devices import memory_errors_explained

    limits, size = resource.getrlimit(resource.RLIMIT_AS), threading.stack_size()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    try:
        threading.stack_size(1 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28), limits[1]))
        with (
            pytest.raises(finetune.OutOfMemory, match=r"can't start new thread\. Lower it"),
            memory_errors_explained("the memory did not suffice", "Lower it."),
        ):
            threading.Thread(target=int).start()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        threading.stack_size(size)


def test_a_name_makes_a_metric_of_its_own(
    net: featstore.Backbone, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """A closure is refused for want of a name; with one it is another training than the same closure under another."""

    def made(name: str, value: float) -> Any:
        def metric(y_true: Any, y_pred: Any) -> float:
            return value

        metric.name = name  # type: ignore[attr-defined]
        return metric

    def tuned(metric: Any) -> finetune.Run:
        return finetune.full_tune(
            net, digits["train"], digits["val"], recipe=ONE_STEP, metric=metric, out=tmp_path, progress=False,
            device=torch.device("cpu"),  # type: ignore[arg-type]
        )  # fmt: skip

    assert tuned(made("a", 0.25)).scores == {"val": 0.25}
    with pytest.raises(finetune.DifferentRun, match="metric is 'a' stored and 'b'"):
        tuned(made("b", 0.5))


def test_what_is_no_prediction(net: featstore.Backbone, digits: dict[str, featstore.Split], tmp_path: Path) -> None:
    """Found by torch or numpy it is said in their words; labels of other kinds or classes would be scored without any."""
    run: Any = finetune.tune_unit(
        net, digits["train"], digits["val"], unit="head", recipe=ONE_STEP, out=tmp_path / "run", progress=False
    )
    test: Any = digits["test"]
    train, val = (replace(digits[which], classes=()) for which in ("train", "val"))
    nameless: Any = finetune.tune_unit(
        net, train, val, unit="head", recipe=ONE_STEP, out=tmp_path / "nameless", progress=False
    )
    several = replace(test, labels=np.eye(10, dtype=np.uint8)[test.labels])
    empty = test.subset(np.zeros(0, np.int64), "nothing")
    colder = featstore.load_backbone(
        "featstore:digits_net", preprocessing=replace(net.preprocessing, mean=(0.5,), std=(2.0,))
    )
    word: Any = "x"
    asked: dict[str, Callable[[], Any]] = {
        "split is 'x'; it must be a Split": lambda: finetune.predict(run, net, word),
        "backbone is 'x'; it must be a Backbone": lambda: finetune.predict(run, word, test),
        "run is 'x'; it must be a Run": lambda: finetune.predict(word, net, test),
        "device is 'bogus', which torch does not know": lambda: finetune.predict(run, net, test, device="bogus"),
        "workers is -3": lambda: finetune.predict(run, net, test, workers=-3),
        "'nothing' has no images": lambda: finetune.predict(run, net, empty),
        "has several labels per image and the run": lambda: finetune.predict(run, net, several),
        "has labels from 20 to 29": lambda: finetune.predict(
            nameless, net, replace(test, classes=(), labels=test.labels + 20)
        ),
        r"another preprocessing than .*mean is \[0.0\] of the run and \[0.5\] of the backbone": (
            lambda: finetune.predict(run, colder, test)
        ),
        r"this network: backbone is 'x'": lambda: run.network(word),
        "queries is 'x'; it must be a Split": lambda: finetune.retrieve(net, test, word),
        "backbone is 'x'": lambda: finetune.retrieve(word, test, test),
        "run is 'x'; it": lambda: finetune.retrieve(net, test, test, run=word),
        "the gallery 'nothing' has no images": lambda: finetune.retrieve(net, empty, test),
        "5 is no path": lambda: finetune.open_run(5),  # type: ignore[arg-type]
    }
    for words, call in asked.items():
        with pytest.raises(BadInput, match=words):
            call()


def test_what_is_no_comparison(net: featstore.Backbone, digits: dict[str, featstore.Split], tmp_path: Path) -> None:
    """A name for a backbone was cut into units, a number was walked through."""
    options: Any = {"recipe": ONE_STEP, "out": tmp_path, "progress": False}
    pair = digits["train"], digits["val"]
    with pytest.raises(BadInput, match="backbone is 'timm:resnet18'; it must be a Backbone"):
        finetune.compare_methods("timm:resnet18", *pair, **options)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="methods is 5; it must be a list of names"):
        finetune.compare_methods(net, *pair, methods=5, **options)  # type: ignore[arg-type]
    (tmp_path / "inputs.json").write_text('{"a')
    with pytest.raises(finetune.CorruptRun, match="is damaged"):
        Steps._all_made(SimpleNamespace(folder=tmp_path))  # type: ignore[arg-type]


@pytest.mark.parametrize("out", [None, 5, "", b"run"], ids=repr)
@pytest.mark.parametrize(
    "name",
    [
        "full_tune",
        "from_scratch",
        "tune_unit",
        "tune_head",
        "tune_scale_shift",
        "probe_then_tune",
        "flex_tune",
        "search",
    ],
)
def test_a_run_has_a_folder(backbone: Any, digits: dict[str, featstore.Split], name: str, out: Any) -> None:
    """None would be a folder of that name, or an error of pathlib's."""
    options: dict[str, Any] = {"out": out, "progress": False}
    options |= {"unit": "conv1"} if name == "tune_unit" else {}
    given: tuple[Any, ...] = (backbone, digits["train"], digits["val"])
    if name == "search":
        options |= {"grid": {"a": ONE_STEP}, "val": given[2]}
        given = (finetune.full_tune, *given[:2])
    else:
        options["recipe"] = ONE_STEP
    with pytest.raises(BadInput, match=r"out is .*name a folder"):
        getattr(finetune, name)(*given, **options)
