"""Flex-tuning on the bundled digits network: fed from stored inputs it is what it is from images; what it looks at; kills."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_helpers import GREY8, UNITS, Cells, Plain, images_of
from torch import nn

import featstore
import finetune
from finetune import KeepBest, Recipe, StopEarly
from finetune.optimizers import Adam
from finetune.schedules import Constant

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(
    lr=1e-3, epochs=3, batch_size=32, optimizer=Adam(), schedule=Constant(), evaluate_every=4,
    keep=StopEarly(drop=0.05, min_steps=8),
)  # fmt: skip
ROWS = tuple(range(10))


def flex(backbone: Any, digits: dict[str, featstore.Split], out: Path, **changes: Any) -> finetune.Flex:
    """Flex-tuning of the digits, quietly."""
    options: dict[str, Any] = {"recipe": RECIPE, "head_rows": ROWS, "progress": False, **changes}
    return finetune.flex_tune(backbone, digits["train"], digits["val"], out=out, **options)


def accuracy(network: torch.nn.Module, images: torch.Tensor, labels: np.ndarray) -> float:
    """Share of right answers of a network in evaluation mode."""
    with torch.inference_mode():
        return float((network.eval()(images).argmax(1).numpy() == labels).mean())


@pytest.fixture(scope="module")
def plain(backbone: Any, digits: dict[str, featstore.Split], tmp_path_factory: pytest.TempPathFactory) -> finetune.Flex:
    """All candidates and pairs trained from images, the definition of what fed ones must give."""
    return flex(backbone, digits, tmp_path_factory.mktemp("plain") / "flex", feed="images", pairs=[("conv2", "head")])


@pytest.fixture(scope="module")
def whole(backbone: Any, digits: dict[str, featstore.Split], tmp_path_factory: pytest.TempPathFactory) -> finetune.Flex:
    """Flex-tuning as it is called, in one go."""
    return flex(backbone, digits, tmp_path_factory.mktemp("whole") / "flex", test=digits["test"])


@pytest.mark.parametrize("feed", ["memory", "disk"])
def test_fed_candidates_are_those_trained_from_images(
    backbone: Any, digits: dict[str, featstore.Split], plain: finetune.Flex, tmp_path: Path, feed: str
) -> None:
    """Every candidate: the same history of validation scores, the same weights.

    To the bit where a candidate enters at the images; else up to float32's rounding, for blocks of another size than the
    training's batches went through the units before: convolutions may sum in another order there.
    """
    fed = flex(backbone, digits, tmp_path / "fed", feed=feed, pairs=[("conv2", "head")])
    assert [row.candidate for row in fed.table] == [*UNITS, "conv2+head", "all"]
    assert {row.fed_from for row in fed.table} == {None, "conv2", "penultimate"}
    assert fed.unit == plain.unit
    for row, expected in zip(fed.table, plain.table, strict=True):
        runs = [finetune.open_run(one.best.path / "candidates" / row.candidate) for one in (fed, plain)]
        assert [r.val for r in runs[0].history] == [r.val for r in runs[1].history]
        assert row.val == expected.val
        assert runs[0].kept_step == runs[1].kept_step
        a, b = (run.weights("last") for run in runs)
        assert a.keys() == b.keys()
        for name in a:
            tolerance = {"rtol": 0, "atol": 0} if row.fed_from is None else {"rtol": 1e-3, "atol": 1e-5}
            torch.testing.assert_close(a[name], b[name], **tolerance)


def test_proxies_are_the_source_network_with_one_unit_of_the_tuned_one(
    backbone: Any, digits: dict[str, featstore.Split], plain: finetune.Flex, tmp_path: Path
) -> None:
    """Brute force: modules of ft-all put into a copy of the source network by hand, run from images; and then
    Algorithms 2 and 3 by hand on these numbers and the accuracies of plain flex-tuning."""
    images, labels = images_of(backbone, digits["val"]), digits["val"].labels
    assert labels is not None
    layer = {"conv1": "conv1", "conv2": "conv2", "penultimate": "fc", "head": "head"}
    names = dict(backbone.module.named_children())
    layer = {
        unit: next(n for n in names if any(t.startswith(n) for t in backbone.chain.tensors[unit])) for unit in layer
    }
    for method, folder in (("fast", "all"), ("faster", "all-one-epoch")):
        found = flex(backbone, digits, tmp_path / method, method=method)
        tuned = finetune.open_run(found.best.path / "candidates" / folder).network(backbone)
        expected = {}
        for unit in UNITS:
            proxy = copy.deepcopy(backbone.module)
            setattr(proxy, layer[unit], copy.deepcopy(getattr(tuned, layer[unit])))
            expected[unit] = accuracy(proxy, images, labels)
        assert {row.candidate: row.score for row in found.table if row.candidate != "all"} == pytest.approx(expected)
        best = max(UNITS, key=lambda unit: expected[unit])
        after = {row.candidate: row.val for row in plain.table}
        falls_back = method == "fast" and (after["all"] or 0) > (after[best] or 0)
        assert found.unit == ("all" if falls_back else best)
        trained = {row.candidate for row in found.table if row.val is not None}
        assert trained == ({best, "all"} if method == "fast" else {best})
    one = finetune.open_run(tmp_path / "faster" / "candidates" / "all-one-epoch")
    assert one.history[-1].epoch == 1.0
    assert not (tmp_path / "faster" / "candidates" / "all").exists()


def test_a_new_head_moves_with_every_candidate(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """Without head_rows nothing but the head could make a unit useful, so it is trained with each; fed as from images."""
    fed, plain = (flex(backbone, digits, tmp_path / kind, feed=kind, head_rows=None, method="fast", units=UNITS[1:])
                  for kind in ("memory", "images"))  # fmt: skip
    assert [(row.score, row.val) for row in fed.table] == [(row.score, row.val) for row in plain.table]
    assert {"head.weight", "head.bias"} <= set(fed.best.weights())


def test_relative_gradient_norms_are_those_of_autograd_by_hand(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """‖∂loss/∂W‖ / ‖W‖ over the first batches, computed in float64 from the images one more time."""
    from finetune.examples import batch_rows

    found = flex(backbone, digits, tmp_path / "rgn", method="rgn", recipe=replace(RECIPE, epochs=1))
    network = copy.deepcopy(backbone.module).double().eval()
    images, labels = images_of(backbone, digits["train"]).double(), torch.from_numpy(digits["train"].labels)
    ratios: dict[str, list[float]] = {unit: [] for unit in UNITS}
    for step in range(5):
        rows = torch.from_numpy(batch_rows(len(labels), 32, seed=0, step=step))
        network.zero_grad()
        torch.nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
        for unit in UNITS:
            own = [p for n, p in network.named_parameters() if n in backbone.chain.tensors[unit] and p.ndim >= 2]
            gradient = sum(float(p.grad.square().sum()) for p in own if p.grad is not None)
            ratios[unit].append((gradient / sum(float(p.detach().square().sum()) for p in own)) ** 0.5)
    for row in found.table[:-1]:
        assert row.score == pytest.approx(np.mean(ratios[row.candidate]), rel=1e-4)
    assert found.unit == max(UNITS, key=lambda unit: np.mean(ratios[unit]))


@pytest.mark.parametrize("feed", ["memory", "disk"])
def test_units_that_hand_on_two_tensors_are_no_source(
    digits: dict[str, featstore.Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, feed: str
) -> None:
    """Cells that read the two before them: one stored output is not their input; every candidate is as from images."""
    monkeypatch.setattr("finetune.feeding.FLOPS_PER_BYTE", 0.0)  # all that can be stored is
    cells = featstore.load_backbone(Cells().eval(), preprocessing=GREY8)
    assert set(cells.chain.passed) == {"cell_0", "cell_1", "cell_2", "cell_3"}
    few = {name: digits[name].per_class(n, seed=0) for name, n in (("train", 8), ("val", 5))}
    short = replace(RECIPE, epochs=1, evaluate_every=1)
    fed, plain = (flex(cells, few, tmp_path / kind, feed=kind, recipe=short) for kind in (feed, "images"))
    assert [(row.candidate, row.fed_from) for row in fed.table] == [
        ("stem", None), ("cell_0", "stem"), ("cell_1", "stem"), ("cell_2", "stem"), ("cell_3", "stem"), ("cell_4", "stem"),
        ("head", "penultimate"), ("all", None),
    ]  # fmt: skip
    assert fed.unit == plain.unit
    for row, expected in zip(fed.table, plain.table, strict=True):
        a, b = (finetune.open_run(one.best.path / "candidates" / row.candidate) for one in (fed, plain))
        assert row.val == expected.val
        assert [r.val for r in a.history] == [r.val for r in b.history]
        for name, tensor in a.weights("last").items():
            torch.testing.assert_close(tensor, b.weights("last")[name], rtol=1e-3, atol=1e-5)


class Unused(Plain):
    """With a classifier that only a training would use."""

    def __init__(self) -> None:
        super().__init__()
        self.beside = nn.Linear(3, 3)


def test_relative_gradient_norms_of_frozen_unused_and_zero_weights(
    digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """Frozen in the given network, which stays so, weights count as in a free one; what nothing depends on is passed
    over; weights of zero whose gradient is zero have a ratio of 0, and with another gradient none."""
    few = {name: digits[name].per_class(5, seed=0) for name in ("train", "val")}

    def scores(name: str, module: nn.Module) -> dict[str, float | None]:
        network = featstore.load_backbone(module.eval(), preprocessing=GREY8)
        found = flex(network, few, tmp_path / name, method="rgn", recipe=replace(RECIPE, epochs=1))
        return {row.candidate: row.score for row in found.table if row.candidate != "all"}

    free = scores("free", Plain())
    assert all(score is not None and score > 0 for score in free.values())
    assert scores("unused", Unused()) == free
    frozen = Plain().requires_grad_(False)
    assert scores("frozen", frozen) == free
    assert not any(p.requires_grad for p in frozen.parameters())
    zero = Plain()
    nn.init.zeros_(zero.two.get_submodule("0").weight)  # type: ignore[arg-type]
    assert scores("dead", copy.deepcopy(zero))["two"] == 0.0  # nothing passes the activation behind it
    nn.init.ones_(zero.two.get_submodule("1").bias)  # type: ignore[arg-type]
    with pytest.raises(finetune.BadInput, match=r"^two has weights that are all zero.*leave it out of units"):
        scores("zero", zero)


def test_the_test_split_is_looked_at_once_and_only_after_the_choice(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No network sees a test image but the chosen one, once, after every training; no candidate has test predictions;
    and other labels of the test split change nothing but its score."""
    seen: list[tuple[str, int]] = []
    images = featstore.Split.image

    def spied(self: featstore.Split, i: int) -> Any:
        seen.append((self.name, i))
        return images(self, i)

    monkeypatch.setattr(featstore.Split, "image", spied)
    found = flex(backbone, digits, tmp_path / "a", test=digits["test"])
    name = digits["test"].name
    assert sorted(i for split, i in seen if split == name) == list(range(len(digits["test"])))
    first = next(k for k, (split, _) in enumerate(seen) if split == name)
    assert {split for split, _ in seen[first:]} == {name}
    for candidate in [*UNITS, "all"]:
        run = finetune.open_run(tmp_path / "a" / "candidates" / candidate)
        assert set(run.scores) == {"val"}
        assert not (run.path / "predictions" / "test.npz").exists()
    labels = digits["test"].labels
    assert labels is not None
    other = flex(backbone, digits, tmp_path / "b", test=replace(digits["test"], labels=(labels + 1) % 10))
    assert (other.unit, other.best.scores["val"]) == (found.unit, found.best.scores["val"])
    assert other.best.scores["test"] != found.best.scores["test"]


def test_the_chosen_network_says_what_was_stored_and_a_second_call_reads_it(
    backbone: Any, digits: dict[str, featstore.Split], whole: finetune.Flex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its test logits come back from the network that the run opens; called again, nothing is trained."""
    found, out = whole, whole.best.path
    with torch.inference_mode():
        said = found.best.network(backbone)(images_of(backbone, digits["test"])).numpy()
    np.testing.assert_allclose(said, found.best.predictions["test"].scores, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr("finetune.task.train_loop", None)
    again = flex(backbone, digits, out, test=digits["test"])
    assert again.to_json() == found.to_json() == finetune.flex_of(finetune.open_run(out)).to_json()
    with pytest.raises(finetune.DifferentRun, match="method"):
        flex(backbone, digits, out, test=digits["test"], method="fast")


def test_another_training_is_a_candidate(backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path) -> None:
    """What is passed in by name is trained, ranked and, being best here, opened as the chosen network."""
    others = {"scale_shift": finetune.tune_scale_shift}
    found = flex(backbone, digits, tmp_path / "run", units=["head"], others=others, test=digits["test"])
    values = {row.candidate: row.val or 0.0 for row in found.table}
    assert list(values) == ["head", "scale_shift", "all"]
    assert found.unit == max(values, key=lambda name: values[name])
    alone = finetune.tune_scale_shift(
        backbone, digits["train"], digits["val"], recipe=RECIPE, out=tmp_path / "alone", head_rows=ROWS, progress=False
    )
    assert alone.scores["val"] == values["scale_shift"]


def test_the_probe_curve_chooses(backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path) -> None:
    """The score of a unit is the validation accuracy of the best probe on its pooled output, fitted here once more."""
    import probe

    found = flex(backbone, digits, tmp_path / "run", method="probe", units=["conv2", "head"])
    store = featstore.open_store(tmp_path / "run" / "features")
    x, x_val = (store.features("conv2", digits[name]).numpy(np.float64) for name in ("train", "val"))
    path = probe.fit_path(x, digits["train"].labels, C=probe.C_GRID)
    expected = max(probe.select(path, x_val, digits["val"].labels).scores)
    assert found.table[0].score == pytest.approx(expected, abs=1 / len(x_val))  # float32 there: one sample may turn
    assert found.unit == max(found.table[:-1], key=lambda row: row.score or 0.0).candidate


_SCRIPT = """
import sys, torch, featstore
sys.path.insert(0, {here!r})
from test_flex import RECIPE, flex
torch.set_num_threads(1)
train, val = featstore.load_split("digits:train+blur(1.0)").holdout(0.3)
flex(featstore.load_backbone("featstore:digits_net"), {{"train": train, "val": val}}, {out!r})
"""


def test_killed_in_the_middle_and_called_again(
    backbone: Any, digits: dict[str, featstore.Split], whole: finetune.Flex, tmp_path: Path
) -> None:
    """kill -9 while the third candidate trains; the second call keeps the finished ones and ends as if nothing had been."""
    out = tmp_path / "run"
    script = _SCRIPT.format(here=str(Path(__file__).parent), out=str(out))
    process = subprocess.Popen([sys.executable, "-c", script])
    third = out / "candidates" / "penultimate" / "run.json"
    deadline = time.monotonic() + 120
    while not third.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("candidates/conv*/best.safetensors")}
    assert len(kept) == 2
    assert not (out / "best.safetensors").exists()
    found = flex(backbone, digits, out)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())
    timeless = [replace(row, seconds=None) for row in found.table]
    assert timeless == [replace(row, seconds=None) for row in whole.table]
    assert found.unit == whole.unit
    for candidate in (*UNITS, "all"):
        a, b = (finetune.open_run(p / "candidates" / candidate).weights("last") for p in (out, whole.best.path))
        assert all(torch.equal(a[name], b[name]) for name in b)


def test_half_precision_is_near(
    backbone: Any, digits: dict[str, featstore.Split], plain: finetune.Flex, tmp_path: Path
) -> None:
    """float16 keeps 11 bits: half the bytes; accuracies within two of the 109 validation images."""
    half = flex(backbone, digits, tmp_path / "half", dtype="float16", units=["penultimate", "head"])
    full = flex(backbone, digits, tmp_path / "full", units=["penultimate", "head"])
    assert half.cost.stored_bytes * 2 == full.cost.stored_bytes
    for a, b in zip(half.table, full.table, strict=True):
        assert a.val == pytest.approx(b.val, abs=2.5 / 109)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unit": ({"units": ["conv3"]}, r"no unit 'conv3'; the nearest names are conv2, conv1"),
    "auxiliary": ({"recipe": replace(RECIPE, auxiliary=finetune.Auxiliary("conv2"))}, "single units are tuned here"),
    "pair": ({"pairs": [("conv1", "conv1")]}, "is not a pair of two different units"),
    "method": ({"method": "slow"}, "no method 'slow'.* flex, fast, faster, rgn, probe"),
    "feed": ({"feed": "tape"}, "is 'tape'; it is one of memory, disk, images"),
    "dtype": ({"dtype": "int8"}, "is 'int8'; it is one of float32"),
    "store and images": ({"feed": "images", "store": "x"}, "give one of the two"),
    "others": ({"others": {"a": finetune.full_tune}, "method": "fast"}, "Use method='flex'"),
    "name": ({"others": {"conv1": finetune.full_tune}}, "cannot name another training"),
    "choice of a baseline": ({"method": "ft-fc (2)", "units": ["head"]}, "'ft-fc .2.' chooses nothing"),
    "probe pairs": ({"pairs": "all", "method": "probe"}, "cannot rank pairs"),
    "looser freezing": ({"recipe": replace(RECIPE, train_mode="all"), "feed": "memory"}, "batch norm of frozen units"),
    "augmentation": ({"recipe": replace(RECIPE, augmentation=finetune.Augmentation((0.65, 1.0))), "feed": "disk"}, "augments"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused_before_anything_is_done(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, case: str
) -> None:
    """One sentence that says what to do, and no folder left behind."""
    changes, message = BAD[case]
    with pytest.raises(finetune.BadInput, match=message):
        flex(backbone, digits, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_units_without_parameters_and_empty_val_are_refused(
    digits: dict[str, featstore.Split], backbone: Any, tmp_path: Path
) -> None:
    """All units of a network are those with parameters; asked for by name, the others are refused; val has to be there."""
    resnet = featstore.load_backbone("featstore:cifar_resnet20", weights=None)
    with pytest.raises(finetune.BadInput, match=r"'penultimate' of .* has no parameters.*layer3, head"):
        flex(resnet, digits, tmp_path / "run", units=["penultimate"], head_rows=ROWS)
    plan = finetune.flex_plan(resnet, digits["train"], digits["val"], recipe=RECIPE)
    assert "penultimate" not in plan.sources
    assert plan.source("head") == "penultimate"
    with pytest.raises(finetune.BadInput, match="has no images"):
        flex(backbone, {**digits, "val": digits["val"].subset([], "empty")}, tmp_path / "run")


def test_what_does_not_fit_is_refused_with_its_size(
    backbone: Any,
    digits: dict[str, featstore.Split],
    whole: finetune.Flex,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The estimate is what is stored, to the byte, and is held against what is free before anything is trained."""
    plan = finetune.flex_plan(backbone, digits["train"], digits["val"], recipe=RECIPE, head_rows=ROWS)
    assert plan.total_bytes == whole.cost.stored_bytes
    monkeypatch.setattr("finetune.feeding.free_memory", lambda device: plan.peak_bytes - 1)
    with pytest.raises(finetune.OutOfMemory, match=r"549.9 kB of memory are free.*dtype='float16'"):
        flex(backbone, digits, tmp_path / "run")
    monkeypatch.setattr("finetune.feeding.free_disk", lambda path: 10)
    with pytest.raises(finetune.OutOfMemory, match="10 bytes are free there"):
        flex(backbone, digits, tmp_path / "run", feed="disk")
    assert not (tmp_path / "run").exists()


def test_augmentation_falls_back_to_images_and_says_so(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """What differs in every epoch cannot be stored; the run says that it was computed from images, and why."""
    recipe = replace(RECIPE, epochs=1, augmentation=finetune.Augmentation((0.65, 1.0)), keep=KeepBest())
    found = flex(backbone, digits, tmp_path / "run", recipe=recipe, units=["head"])
    assert "the recipe augments images" in found.best.details["feed"]
    assert found.cost.stored_bytes == 0


def test_what_diverges_is_ruled_out_and_the_search_goes_on(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a learning rate that only single units survive: ft-all is marked with step and rate, its last good state stays on
    disk, the best of the others is chosen, alone or among all methods; an error only where nothing is left."""
    recipe = Recipe(lr=1e30, epochs=2, batch_size=64, keep=KeepBest())
    found = flex(backbone, digits, tmp_path / "flex", recipe=recipe)
    rows = {row.candidate: row for row in found.table}
    assert rows["all"].diverged is not None
    assert rows["all"].val is rows["all"].epochs is None
    assert (rows["all"].diverged["step"], rows["all"].diverged["lr"]) == (2, pytest.approx(9.62e29, rel=1e-3))
    assert "candidate all diverged and is ruled out: the loss of step 2 is nan" in capsys.readouterr().err
    assert (tmp_path / "flex" / "candidates" / "all" / "checkpoint.safetensors").is_file()
    vals = {name: row.val for name, row in rows.items() if row.diverged is None}
    assert set(vals) == set(UNITS)
    assert found.unit == max(vals, key=lambda name: vals[name] or 0.0)
    assert finetune.flex_of(finetune.open_run(tmp_path / "flex")).to_json() == found.to_json()

    shared = {"recipe": recipe, "head_rows": ROWS, "progress": False}
    compared = finetune.compare_methods(
        backbone, digits["train"], digits["val"], out=tmp_path / "all", methods=["flex", "fast", "faster"],
        baselines=["ft-fc (1)", "ft-all"], **shared,
    )  # fmt: skip
    assert [row.method for row in compared.table] == ["flex", "ft-fc (1)"]
    assert "'fast' makes its proxies from ft-all, which diverged" in compared.left_out["fast"]
    assert set(compared.left_out) == {"fast", "faster", "ft-all"}
    with pytest.raises(finetune.Diverged, match=r"all 5 candidates diverged \(conv1 at step 2"):
        flex(backbone, digits, tmp_path / "none", recipe=replace(recipe, lr=3e38))
