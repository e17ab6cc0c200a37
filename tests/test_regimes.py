"""The regimes that train from images, on the bundled digits network: what moves, what stays, and one training three
ways."""

from __future__ import annotations

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
from finetune import Recipe
from finetune.examples import TensorExamples
from finetune.heads import head_for
from finetune.networks import target_network, unit_names
from finetune.task import asked_for, carry_out, run_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("units", [("conv1",), ("conv2",), ("penultimate", "head"), ("head", "conv2")])
@pytest.mark.parametrize("rows", [None, range(10)])
def test_only_the_units_that_were_asked_for_move(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, units: tuple[str, ...], rows: Any
) -> None:
    """Every tensor of the network that `Run.network` gives is the backbone's own, to the bit, outside the units."""
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    run = tune(finetune.tune_unit, backbone, digits, tmp_path / "run", unit=units, head_rows=rows)
    after = run.network(backbone).state_dict()
    moving = {name for unit in units for name in backbone.chain.tensors[unit]}
    if rows is None:
        moving |= {"head.weight", "head.bias"}
    assert {name for name in before if not torch.equal(before[name], after[name])} == moving == set(run.weights())
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.module.state_dict().items())


@pytest.mark.parametrize("regime", ["full_tune", "from_scratch", "tune_unit", "tune_head"])
def test_the_network_of_a_run_says_what_the_run_stored(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, regime: str
) -> None:
    """Opened again from the disk and run on the test images: the stored logits, by id, up to float32's rounding."""
    more = {"unit": "conv1"} if regime == "tune_unit" else {}
    tune(getattr(finetune, regime), backbone, digits, tmp_path / "run", **more)
    run = finetune.open_run(tmp_path / "run")
    assert run.regime == regime
    with torch.inference_mode():
        said = run.network(backbone)(images_of(backbone, digits["test"])).numpy()
    np.testing.assert_allclose(said, run.predictions["test"].scores, rtol=1e-4, atol=1e-4)
    assert np.array_equal(run.predictions["test"].ids, digits["test"].ids)


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_fed_with_its_stored_input_trains_to_the_same_weights(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, unit: str
) -> None:
    """What flex-tuning rests on: the units before are the same at every step, so their output can be computed once.

    Equal up to float32's rounding, which batches of another size cause below the unit; dropout of the unit draws the
    same numbers, that of the others none.
    """
    plain = tune(finetune.tune_unit, backbone, digits, tmp_path / "plain", unit=unit, head_rows=range(10))
    asked = asked_for(digits["train"], digits["val"], RECIPE, test=digits["test"], head_rows=range(10), progress=False)
    target = target_network(backbone, head_for(backbone, 10, asked.head_rows, seed=0))

    def load(name: str) -> TensorExamples:
        inputs = images_of(backbone, digits[name])
        before = UNITS.index(unit)
        with torch.inference_mode():
            stored = backbone.chain.run(inputs, last=UNITS[before - 1]).clone() if before else inputs
        return TensorExamples(stored, asked.labels(name))

    fed = run_of(
        asked, tmp_path / "fed", {**plain.identity, "fed": True}, what=unit,
        work=lambda folder: carry_out(asked, folder, target.suffix(unit), load, parts=target.parts([unit])),
    )  # fmt: skip
    assert plain.weights().keys() == fed.weights().keys()
    for name, tensor in plain.weights("last").items():
        torch.testing.assert_close(tensor, fed.weights("last")[name], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(plain.predictions["test"].y_pred, fed.predictions["test"].y_pred)
    with torch.inference_mode():
        said = fed.network(backbone)(images_of(backbone, digits["test"])).numpy()
    np.testing.assert_allclose(said, fed.predictions["test"].scores, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def plain() -> Any:
    """`Plain` as a backbone."""
    return featstore.load_backbone(Plain().eval(), preprocessing=GREY8)


def test_training_the_head_from_images_or_from_features_is_the_same(
    plain: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """Without dropout in front of the head, ft-fc (1) from its store and from images agree up to rounding."""
    stored = tune(finetune.tune_head, plain, digits, tmp_path / "stored")
    images = tune(finetune.tune_unit, plain, digits, tmp_path / "images", unit="head")
    for name, tensor in stored.weights().items():
        torch.testing.assert_close(tensor, images.weights()[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [None, 0.0, 0.25])
def test_the_networks_own_dropout_is_in_front_of_the_head_alone_too(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, rate: float | None
) -> None:
    """The bundled network drops half of the features; a head trained without that is another method's."""
    recipe = replace(RECIPE, dropout=rate)
    stored = tune(finetune.tune_head, backbone, digits, tmp_path / "stored", recipe=recipe)
    images = tune(finetune.tune_unit, backbone, digits, tmp_path / "images", unit="head", recipe=recipe)
    for name, tensor in stored.weights().items():
        torch.testing.assert_close(tensor, images.weights()[name], rtol=1e-4, atol=1e-5)


def test_looser_freezing_has_nothing_to_act_on_below_a_head_alone(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """The features are made once: what would vary them is refused, not left out."""
    with pytest.raises(
        finetune.BadInput, match="train_mode is 'all', but tune_head runs everything below the head once"
    ):
        tune(finetune.tune_head, backbone, digits, tmp_path / "run", recipe=replace(RECIPE, train_mode="all"))


def test_the_last_two_units(backbone: Any, plain: Any, digits: dict[str, featstore.Split], tmp_path: Path) -> None:
    """ft-fc (2): the head and the last unit before it that has parameters, wherever that is."""
    run = tune(finetune.tune_head, backbone, digits, tmp_path / "a", n_units=2)
    assert set(run.weights()) == {"fc.weight", "fc.bias", "head.weight", "head.bias"}
    assert run.identity["units"] == ["penultimate", "head"]
    named = tune(finetune.tune_unit, backbone, digits, tmp_path / "b", unit=("penultimate", "head"))
    assert all(torch.equal(tensor, named.weights()[name]) for name, tensor in run.weights().items())
    run = tune(finetune.tune_head, plain, digits, tmp_path / "c", n_units=2)
    assert run.identity["units"] == ["two", "head"]
    with pytest.raises(finetune.BadInput, match=r"n_units is 9, and .* has 3 units with parameters: one, two, head"):
        tune(finetune.tune_head, plain, digits, tmp_path / "d", n_units=9)


def test_scales_and_shifts_move_and_nothing_else(
    plain: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """One scale per output and input channel of a group, one shift per bias, and the head; batch norm stays whole.

    The network of the run has them multiplied in: W · s and b + t, computed here, and says what the run stored.
    """
    recipe = replace(RECIPE, lr=0.5, weight_decay=0.0)
    run = tune(finetune.tune_scale_shift, plain, digits, tmp_path / "run", recipe=recipe)
    shapes = {name: tuple(tensor.shape) for name, tensor in run.weights().items()}
    assert shapes == {
        "one.0.parametrizations.weight.0.scale": (8, 1, 1, 1),
        "one.0.parametrizations.bias.0.shift": (8,),
        "two.0.parametrizations.weight.0.scale": (12, 4, 1, 1),
        "fc.weight": (10, 12),
        "fc.bias": (10,),
    }
    before, after = plain.module.state_dict(), run.network(plain).state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"one.0.weight", "one.0.bias", "two.0.weight", "fc.weight", "fc.bias"}
    scale = run.weights()["two.0.parametrizations.weight.0.scale"]
    assert (scale - 1).abs().max() > 1e-3
    torch.testing.assert_close(after["two.0.weight"], before["two.0.weight"] * scale, rtol=0, atol=0)
    with torch.inference_mode():
        said = run.network(plain)(images_of(plain, digits["test"])).numpy()
    np.testing.assert_allclose(said, run.predictions["test"].scores, rtol=1e-4, atol=1e-4)


def test_scales_and_shifts_begin_as_the_network(plain: Any, digits: dict[str, featstore.Split], tmp_path: Path) -> None:
    """With a vanishing learning rate the network does what it did; a network without convolutions is refused."""
    still = replace(RECIPE, lr=1e-12, epochs=None, steps=1, weight_decay=0.0)
    run = tune(finetune.tune_scale_shift, plain, digits, tmp_path / "run", recipe=still, head_rows=range(10))
    with torch.inference_mode():
        own = plain.module(images_of(plain, digits["test"])).numpy()
    np.testing.assert_allclose(run.predictions["test"].scores, own, rtol=1e-4, atol=1e-5)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).eval()
    without = featstore.load_backbone(flat, preprocessing=plain.preprocessing)
    with pytest.raises(finetune.BadInput, match="no two-dimensional convolution"):
        tune(finetune.tune_scale_shift, without, digits, tmp_path / "b")


def test_a_weakly_regularised_probe_is_not_driven_to_chance_by_dropout(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The probe is fitted without the network's dropout of one half, whose noise its large weights would multiply: switched
    off, and said, the tuned network keeps what the probe could; asked for, it loses most of that, which is said too."""
    options = {"C": (1e4,), "progress": True, "test": None}
    kept = tune(finetune.probe_then_tune, backbone, digits, tmp_path / "off", **options)
    said = capsys.readouterr().err
    assert "the dropout in front of the head of" in said
    assert kept.recipe.dropout == 0.0
    assert kept.scores["val"] > kept.details["probe"]["val"] - 0.02
    lost = tune(
        finetune.probe_then_tune, backbone, digits, tmp_path / "on", recipe=replace(RECIPE, dropout=0.5), **options
    )
    assert lost.scores["val"] < kept.scores["val"] - 0.3
    assert f"below the {lost.details['probe']['val']:.4f} of the probe" in capsys.readouterr().err


@pytest.mark.parametrize("n_classes", [10, 2])
def test_probe_then_tune_begins_as_the_probe(
    plain: Any, digits: dict[str, featstore.Split], tmp_path: Path, n_classes: int
) -> None:
    """With a vanishing learning rate the network says what scikit-learn's fit at the chosen C says, on features that
    are computed here; two classes, one row in a probe, are two rows of a head."""
    from sklearn.linear_model import LogisticRegression

    chosen = {name: split.subset(np.asarray(split.labels) < n_classes, name) for name, split in digits.items()}
    chosen = {name: replace(split, classes=split.classes[:n_classes]) for name, split in chosen.items()}
    still = replace(RECIPE, lr=1e-12, epochs=None, steps=1, weight_decay=0.0, train_mode="none")
    run = tune(finetune.probe_then_tune, plain, chosen, tmp_path / "run", recipe=still, C=(1e-2, 1.0, 1e2))
    with torch.inference_mode():
        features = {
            name: plain.chain.run(images_of(plain, split), last="penultimate").double().numpy()
            for name, split in chosen.items()
        }
    C = run.details["probe"]["C"]
    fits = {c: LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(features["train"], chosen["train"].labels)
            for c in (1e-2, 1.0, 1e2)}  # fmt: skip
    val = {c: fit.score(features["val"], chosen["val"].labels) for c, fit in fits.items()}
    assert val[C] == max(val.values()) == run.details["probe"]["val"]
    expected = fits[C].predict_proba(features["test"])
    ours = torch.softmax(torch.from_numpy(run.predictions["test"].scores).double(), 1).numpy()
    np.testing.assert_allclose(ours, expected, atol=2e-3)  # both fits are optimal to their tolerances
    assert set(run.weights()) == set(plain.module.state_dict())


def test_from_scratch_begins_from_the_seed_and_forgets_the_weights(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """One vanishing step: the weights are random, the same for the same seed whatever the backbone's, others for
    another."""
    still = replace(RECIPE, epochs=None, steps=1, lr=1e-12, weight_decay=0.0)
    a = tune(finetune.from_scratch, backbone, digits, tmp_path / "a", recipe=still)
    other = featstore.load_backbone("featstore:digits_net", weights=None, seed=5)
    b = tune(finetune.from_scratch, other, digits, tmp_path / "b", recipe=still)
    c = tune(finetune.from_scratch, backbone, digits, tmp_path / "c", recipe=replace(still, seed=1))
    own = backbone.module.state_dict()
    for name, tensor in a.weights().items():
        torch.testing.assert_close(tensor, b.weights()[name], rtol=0, atol=1e-9)
        assert not torch.allclose(tensor, c.weights()[name], rtol=0, atol=1e-6)
        assert name.startswith("head") or not torch.allclose(tensor, own[name], atol=1e-3)


def test_names_of_classes_find_the_rows_of_the_head(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """Given by name in another order, the same rows as by number; classes that the network lacks are refused."""
    source = [str(9 - i) for i in range(10)]
    by_name = asked_for(digits["train"], None, RECIPE, head_rows=source)
    assert by_name.head_rows == tuple(9 - int(name) for name in digits["train"].classes)
    with pytest.raises(finetune.BadInput, match="class '3' is not among the 9 names"):
        asked_for(digits["train"], None, RECIPE, head_rows=[name for name in source if name != "3"])


def test_units_that_cannot_be_trained_are_named(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """One that does not exist gets the nearest names; one without parameters those that have some."""
    with pytest.raises(finetune.BadInput, match=r"no unit 'conv3'; the nearest names are conv2, conv1"):
        tune(finetune.tune_unit, backbone, digits, tmp_path / "run", unit="conv3")
    resnet = featstore.load_backbone("torchvision:resnet18", weights=None)
    with pytest.raises(finetune.BadInput, match=r"'penultimate' .* has no parameters.* layer4, head"):
        tune(finetune.tune_unit, resnet, digits, tmp_path / "run", unit="penultimate")
    assert not (tmp_path / "run").exists()
    assert unit_names(resnet, ("layer2", "conv1", "layer2")) == ("conv1", "layer2")


@pytest.mark.parametrize("regime", ["full_tune", "tune_unit", "tune_head", "tune_scale_shift"])
def test_a_network_that_cannot_be_run_in_parts_can_be_trained(
    plain: Any, digits: dict[str, featstore.Split], tmp_path: Path, regime: str
) -> None:
    """Watched instead of traced, it ends with the weights that the same network, traced, ends with; augmentation,
    which needs no parts, works; an auxiliary head, which does, is refused with the reason."""
    branching = featstore.load_backbone(Branching().eval(), preprocessing=plain.preprocessing, version="1")
    assert branching.chain.reason is not None
    more = {"unit": "two"} if regime == "tune_unit" else {}
    a = tune(getattr(finetune, regime), branching, digits, tmp_path / "a", **more)
    b = tune(getattr(finetune, regime), plain, digits, tmp_path / "b", **more)
    assert a.weights().keys() == b.weights().keys()
    for name, tensor in a.weights().items():
        torch.testing.assert_close(tensor, b.weights()[name], rtol=1e-5, atol=1e-6)
    with torch.inference_mode():
        said = a.network(branching)(images_of(plain, digits["test"])).numpy()
    np.testing.assert_allclose(said, a.predictions["test"].scores, rtol=1e-4, atol=1e-4)
    recipe = replace(RECIPE, auxiliary=finetune.Auxiliary("one"))
    with pytest.raises(finetune.BadInput, match="cannot be had"):
        tune(finetune.full_tune, branching, digits, tmp_path / "c", recipe=recipe)


def test_a_real_network_on_shifted_real_images(shared: Path, tmp_path: Path) -> None:
    """The CIFAR-10 ResNet-20 on noisy images: tuning its first unit on 150 of them undoes much of the damage, and of its
    60-odd tensors, batch-norm statistics included, only those of that unit move.

    0.05 is far more than what 300 test images could gain by chance (standard error of a paired difference: 0.02).
    """
    backbone = featstore.load_backbone(
        f"featstore:cifar_resnet20@{shared / 'weights' / 'cifar10_resnet20.safetensors'}"
    )
    noisy = featstore.load_split(f"npz:{shared / 'data' / 'cifar10_lossless4000' / 'train4000.npz'}+noise(40)")
    train, test = noisy.subset(np.arange(150), "train"), noisy.subset(np.arange(200, 500), "test")
    first = backbone.units[0]
    options: dict[str, Any] = {"unit": first, "head_rows": range(10), "test": test, "progress": False}
    still = Recipe(lr=1e-12, steps=1, batch_size=50, train_mode="none")
    source = finetune.tune_unit(backbone, train, recipe=still, out=tmp_path / "source", **options)
    recipe = Recipe(lr=0.02, epochs=5, batch_size=50)
    run = finetune.tune_unit(backbone, train, recipe=recipe, out=tmp_path / "run", **options)
    assert run.scores["test"] > source.scores["test"] + 0.05
    before, after = backbone.module.state_dict(), run.network(backbone).state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    owned = set(backbone.chain.tensors[first])
    assert moved == owned | {name for name in before if name.endswith("num_batches_tracked") and name in moved}
    assert owned
    assert all(name.rpartition(".")[0] + ".running_mean" in owned for name in moved - owned)


class Viewing(Plain):
    """The same network, written so that it depends on the order of its maps in memory."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.two(self.one(x)).view(len(x), -1)
        return self.fc(flat.view(len(x), 12, -1).mean(2))  # type: ignore[no-any-return]


def test_the_order_of_maps_in_memory_does_not_change_a_training(
    digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """Channels are last on a CPU where the network takes that; one that does not is trained all the same, to the same end."""
    ends = []
    for kind in (Plain, Viewing):
        backbone = featstore.load_backbone(kind(), preprocessing=GREY8, version="1")
        assert backbone.prefers_channels_last("cpu") == (kind is Plain)
        run = tune(finetune.full_tune, backbone, digits, tmp_path / kind.__name__, head_rows=range(10))
        ends.append(run.weights())
    assert all(torch.allclose(tensor, ends[1][name], atol=2e-4) for name, tensor in ends[0].items())
