"""What stands beside the choice of a unit: baselines in one table, adapters as candidates, networks and stores that do
not fit."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_helpers import GREY8, RECIPE, UNITS, Branching, Plain, images_of, tune
from torch import nn

import featstore
import finetune
from finetune import Colour, Geometry, ImageToImage
from finetune.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = ("flex", "fast", "faster", "rgn")
BASELINES = ("ft-fc (1)", "ft-fc (2)", "ft-ss", "ft-all")


def compared(backbone: Any, digits: dict[str, featstore.Split], out: Path, **changes: Any) -> finetune.Comparison:
    """All methods but the probe's, with the network's own head, quietly."""
    options: dict[str, Any] = {
        "recipe": RECIPE,
        "head_rows": range(10),
        "progress": False,
        "methods": METHODS,
        **changes,
    }
    return finetune.compare_methods(backbone, digits["train"], digits["val"], out=out, **options)


@pytest.fixture(scope="module")
def table(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path_factory: pytest.TempPathFactory
) -> finetune.Comparison:
    """Methods and baselines on blurred digits."""
    return compared(backbone, digits, tmp_path_factory.mktemp("compared"), test=digits["test"])


def test_methods_and_baselines_stand_in_one_table(
    backbone: Any, digits: dict[str, featstore.Split], table: finetune.Comparison, tmp_path: Path
) -> None:
    """Each method says what it says alone; what flex trained is not trained again; flex is best on val by definition."""
    rows = {row.method: row for row in table.table}
    assert list(rows) == [*METHODS, *BASELINES]
    assert [row.n_trainings for row in table.table] == [5, 2, 2, 1, 1, 1, 1, 1]
    assert {rows[name].unit for name in BASELINES} == {"head", "penultimate+head", "scale-shift", "all"}
    assert all(row.val <= rows["flex"].val for row in table.table if row.unit in (*UNITS, "all"))
    assert not table.left_out
    shown = str(table).splitlines()
    assert [line.split("  ")[0] for line in shown[1:]] == [*METHODS, *BASELINES]
    assert json.loads(json.dumps(table.to_json()))["table"][5]["unit"] == "penultimate+head"
    trained = sorted(path.parent.name for path in table.flexes[0].best.path.parent.glob("candidates/*/run.json"))
    assert trained == sorted([*UNITS, "all", "all-one-epoch", "penultimate+head", "scale-shift"])
    alone = finetune.flex_tune(
        backbone, digits["train"], digits["val"], method="faster", recipe=RECIPE, head_rows=range(10),
        test=digits["test"], out=tmp_path / "alone", progress=False,
    )  # fmt: skip
    assert (alone.unit, alone.best.scores) == (rows["faster"].unit, dict(table.flexes[2].best.scores))


@pytest.mark.parametrize(
    ("baseline", "regime", "more"),
    [
        ("ft-fc (1)", finetune.tune_unit, {"unit": "head"}),
        ("ft-fc (2)", finetune.tune_head, {"n_units": 2}),
        ("ft-ss", finetune.tune_scale_shift, {}),
        ("ft-all", finetune.full_tune, {}),
    ],
)
def test_a_baseline_is_the_regime_of_its_name(
    backbone: Any,
    digits: dict[str, featstore.Split],
    table: finetune.Comparison,
    tmp_path: Path,
    baseline: str,
    regime: Any,
    more: dict[str, Any],
) -> None:
    """Called by itself and from images, the regime ends with the same weights, up to rounding where the table's is fed."""
    row = next(row for row in table.table if row.method == baseline)
    flex = next(flex for flex in table.flexes if flex.method == baseline)
    alone = tune(regime, backbone, digits, tmp_path / "alone", head_rows=range(10), **more)
    assert (row.val, row.test) == (alone.scores["val"], alone.scores["test"])
    np.testing.assert_array_equal(flex.best.predictions["test"].y_pred, alone.predictions["test"].y_pred)
    assert flex.cost.formulas["flex"] is None  # nothing was chosen among L units


def test_a_baseline_that_cannot_be_is_left_out_and_said(
    digits: dict[str, featstore.Split], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network without convolutions has no kernels to scale: no row, a reason, and an error where it was asked for."""
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).eval()
    backbone = featstore.load_backbone(flat, preprocessing=GREY8)
    recipe = replace(RECIPE, epochs=1)
    found = compared(backbone, digits, tmp_path / "all", methods=["flex"], recipe=recipe, progress=True)
    assert [row.method for row in found.table] == ["flex", "ft-fc (1)", "ft-fc (2)", "ft-all"]
    assert list(found.left_out) == ["ft-ss"]
    assert "has none. It is left out." in capsys.readouterr().err
    with pytest.raises(finetune.BadInput, match="ft-ss scales and shifts two-dimensional convolutions"):
        compared(backbone, digits, tmp_path / "asked", methods=["rgn"], baselines=["ft-ss"], recipe=recipe)


def test_methods_that_do_not_exist_are_refused_together(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """Before anything is trained."""
    with pytest.raises(finetune.BadInput, match=r"(?s)no 'slow' among methods.*no 'ft-fc' among baselines"):
        compared(backbone, digits, tmp_path / "run", methods=["slow"], baselines=["ft-fc"])
    with pytest.raises(finetune.BadInput, match="no method was asked for"):
        compared(backbone, digits, tmp_path / "run", methods=[])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("adapter", [ImageToImage(1, 4), Colour(), Geometry(16)], ids=lambda a: type(a).__name__)
def test_every_kind_of_adapter_is_a_candidate(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, adapter: Any
) -> None:
    """Asked for, a unit in front is trained, ranked, and, being the best here, what the run opens and predicts with.

    Of inverted digits the head alone reads next to nothing, and one step of ft-all is too little.
    """
    dark = {name: replace(s, transforms=(featstore.datasets.shifts.invert(),)) for name, s in digits.items()}
    recipe = finetune.Recipe(lr=0.05, epochs=8, batch_size=32, keep=finetune.KeepBest())
    regime = functools.partial(finetune.tune_adapter, adapter=adapter)
    options: dict[str, Any] = {"recipe": recipe, "head_rows": range(10), "progress": False, "test": dark["test"]}
    found = finetune.flex_tune(
        backbone,
        dark["train"],
        dark["val"],
        units=["head"],
        others={"adapter": regime},
        out=tmp_path / "run",
        **options,
    )
    values = {row.candidate: row.val or 0.0 for row in found.table}
    assert list(values) == ["head", "adapter", "all"]
    assert found.unit == max(values, key=lambda name: values[name])
    alone = regime(backbone, dark["train"], dark["val"], out=tmp_path / "alone", **options)
    assert values["adapter"] == alone.scores["val"]
    run = finetune.open_run(tmp_path / "run" / "candidates" / "adapter")
    with torch.inference_mode():
        said = run.network(backbone)(images_of(backbone, dark["test"])).numpy()
    np.testing.assert_allclose(said, alone.predictions["test"].scores, rtol=1e-3, atol=1e-3)
    if found.unit == "adapter":
        assert found.best.scores["test"] == alone.scores["test"]
    with pytest.raises(finetune.DifferentRun, match=r"others\.adapter"):
        finetune.flex_tune(
            backbone, dark["train"], dark["val"], units=["head"], out=tmp_path / "run",
            others={"adapter": functools.partial(finetune.tune_adapter, adapter=Colour(5))}, **options,
        )  # fmt: skip


def test_an_adapter_and_pairs_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table lists them beside the units; for a method that cannot rank an adapter the reason is said."""
    words = ["flex", "featstore:digits_net", "--train", "digits:train+invert()", "--val", "0.3", "--head-rows", "0-9",
             "--candidates", "conv2,head", "--pairs", "conv2+head", "--adapter", "colour", "--lr", "0.05", "--steps", "5",
             "--quiet", "--out"]  # fmt: skip
    assert main([*words, str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[2:].split()[0] for line in lines[1:6]] == ["conv2", "head", "conv2+head", "adapter", "all"]
    assert main([*words, str(tmp_path / "fast"), "--method", "fast"]) == 1
    assert "adapter cannot be chosen by 'fast'" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["flex", "fast", "rgn"])
def test_a_network_that_cannot_be_cut_takes_the_plain_path(
    digits: dict[str, featstore.Split], tmp_path: Path, capsys: pytest.CaptureFixture[str], method: Any
) -> None:
    """Watched by hooks, no unit can be fed: images are taken, which is said with the reason, and a store or feed that
    was asked for is refused; every score is that of the same network, traced and run from images."""
    branching = featstore.load_backbone(Branching().eval(), preprocessing=GREY8, version="1")
    options: dict[str, Any] = {"recipe": replace(RECIPE, epochs=1), "method": method}
    splits = digits["train"], digits["val"]
    found = finetune.flex_tune(branching, *splits, out=tmp_path / "watched", store=tmp_path / "store", **options)
    said = capsys.readouterr().err
    for text in (said, found.best.details["feed"]):
        assert "fed with images" in text
        assert "cannot be run in parts" in text
        assert "the store is not used" in text
    assert not (tmp_path / "store").exists()
    traced = featstore.load_backbone(Plain().eval(), preprocessing=GREY8)
    plain = finetune.flex_tune(traced, *splits, out=tmp_path / "traced", feed="images", progress=False, **options)
    for ours, theirs in zip(found.table, plain.table, strict=True):
        assert (ours.candidate, ours.val, ours.fed_from) == (theirs.candidate, theirs.val, None)
        assert (ours.score or 0.0) == pytest.approx(
            theirs.score or 0.0, rel=1e-5
        )  # ft-all has none where it is not ranked
    with pytest.raises(finetune.BadInput, match=r"feed='memory': inputs of units cannot be stored: .* in parts"):
        finetune.flex_tune(branching, *splits, out=tmp_path / "asked", feed="memory", **options)


def test_a_store_of_another_network_is_refused(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """Whole outputs of these images by other weights, handed over as what to read: both digests are said.

    A store of several networks is a shared place, to which the right outputs are added; read from there, candidates are
    those of a store of their own. Pooled features, or outputs of other images, are no sign of a mistake.
    """
    other = featstore.load_backbone("featstore:digits_net", weights=None, seed=3)
    store = tmp_path / "store"
    splits = digits["train"], digits["val"]
    options: dict[str, Any] = {"units": ["penultimate"], "recipe": replace(RECIPE, epochs=1), "progress": False}
    featstore.extract(other, list(splits), store, units=["conv2"], pool="mean", dtype="float32", progress=False)
    finetune.flex_tune(other, *splits, out=tmp_path / "other", store=store, **options)
    with pytest.raises(finetune.BadInput, match="holds the outputs of another network") as refused:
        finetune.flex_tune(backbone, *splits, out=tmp_path / "mixed", store=store, **options)
    assert all(digest[:16] in str(refused.value) for digest in (backbone.weights_digest, other.weights_digest))
    assert "a store of its own" in str(refused.value)
    assert not (tmp_path / "mixed").exists()
    assert {entry.weights_digest for entry in featstore.open_store(store).entries()} == {other.weights_digest}
    third = featstore.load_backbone("featstore:digits_net", weights=None, seed=4)
    featstore.extract(third, list(splits), store, units=["conv2"], pool="none", dtype="float32", progress=False)
    mixed = finetune.flex_tune(backbone, *splits, out=tmp_path / "mixed", store=store, **options)
    clean = finetune.flex_tune(backbone, *splits, out=tmp_path / "clean", store=tmp_path / "clean_store", **options)
    assert [row.val for row in mixed.table] == [row.val for row in clean.table]
    elsewhere = {**options, "store": tmp_path / "elsewhere"}
    finetune.flex_tune(other, *(s.subset(np.arange(60), "few") for s in splits), out=tmp_path / "few", **elsewhere)
    finetune.flex_tune(backbone, *splits, out=tmp_path / "all", **elsewhere)
