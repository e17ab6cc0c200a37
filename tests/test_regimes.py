"""The regimes that train from images, on the bundled digits network: what moves, what stays, and one training three
ways."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import featstore
import finetune
from finetune import Recipe
from finetune.examples import TensorExamples, logits_of
from finetune.heads import head_for
from finetune.networks import target_network, unit_names
from finetune.task import asked_for, carry_out, run_of

RECIPE = Recipe(lr=0.02, epochs=3, batch_size=32, weight_decay=1e-4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only wait for each other's threads."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="module")
def backbone() -> Any:
    """The four units of the bundled digits network."""
    return featstore.load_backbone("featstore:digits_net")


@pytest.fixture(scope="module")
def digits() -> dict[str, featstore.Split]:
    """Blurred digits, which the network has not been trained on."""
    train, val = featstore.load_split("digits:train+blur(1.0)").holdout(0.3)
    return {"train": train, "val": val, "test": featstore.load_split("digits:test+blur(1.0)")}


def images_of(backbone: Any, split: featstore.Split) -> torch.Tensor:
    """Network inputs of a split, one by one."""
    return torch.stack([backbone.preprocessing(split.image(i)) for i in range(len(split))])


def tune(regime: Any, backbone: Any, digits: dict[str, featstore.Split], out: Path, **changes: Any) -> finetune.Run:
    """A regime on the digits, quietly."""
    options: dict[str, Any] = {"recipe": RECIPE, "test": digits["test"], "progress": False, **changes}
    run: finetune.Run = regime(backbone, digits["train"], digits["val"], out=out, **options)
    return run


UNITS = ("conv1", "conv2", "penultimate", "head")


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


def test_training_the_head_from_images_or_from_features_is_the_same(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """With the network's own dropout off, tune_head from its store and tune_unit('head') from images agree."""
    still = replace(backbone, module=backbone.module)
    stored = tune(finetune.tune_head, still, digits, tmp_path / "stored")
    target = target_network(backbone, head_for(backbone, 10, None, seed=0))
    examples = TensorExamples(images_of(backbone, digits["test"]), digits["test"].labels)
    target.module.load_state_dict(stored.weights(), strict=False)
    logits = logits_of(target.module, examples, device="cpu")
    np.testing.assert_allclose(logits, stored.predictions["test"].scores, rtol=1e-4, atol=1e-4)


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
