"""The image-to-image unit in front of a network: it begins as the identity, nothing behind it moves, it undoes a shift."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import featstore
import finetune
from finetune import Colour, Geometry, ImageToImage, Recipe
from finetune.adapters import adapted
from finetune.networks import with_head

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Recipe(lr=0.01, epochs=2, batch_size=32, optimizer=finetune.Adam(), keep=finetune.KeepBest())
IDENTITIES = (ImageToImage(n_blocks=2, n_filters=4), Colour(), Colour(n_hidden=16), Geometry(), Geometry(8, (4, 8)))


@pytest.fixture(scope="module")
def digits() -> dict[str, featstore.Split]:
    """Digits turned by 40 degrees."""
    train, val = featstore.load_split("digits:train+rotate(40)").holdout(0.3)
    return {"train": train, "val": val, "test": featstore.load_split("digits:test+rotate(40)")}


def tune(backbone: Any, digits: dict[str, featstore.Split], out: Path, adapter: Any, **changes: Any) -> finetune.Run:
    """An adapter on the digits, quietly, with the network's own head."""
    options: dict[str, Any] = {"head_rows": range(10), "recipe": RECIPE, "progress": False, **changes}
    return finetune.tune_adapter(backbone, digits["train"], digits["val"], adapter=adapter, out=out, **options)


@pytest.mark.parametrize("adapter", IDENTITIES, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_it_begins_as_the_identity(adapter: Any, channels: int) -> None:
    """The network behind says what it said without it, on grey and colour images that are not square.

    Bilinear reading at the pixels' own places, and undoing the normalisation, round in the sixth digit.
    """
    size, generator = (20, 28), torch.Generator().manual_seed(1)
    preprocessing = featstore.Preprocessing(
        size, (0.3,) * channels, (0.2,) * channels, mode="L" if channels == 1 else "RGB"
    )
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * size[0] * size[1], 5)).eval()
    images = preprocessing.normalize(
        torch.randint(0, 256, (6, *size, channels), dtype=torch.uint8, generator=generator)
    )
    with torch.inference_mode():
        said = adapted(network, adapter, preprocessing, seed=3)(images)
        torch.testing.assert_close(said, network(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("adapter", [ImageToImage(2, 4, is_residual=False), Colour(is_squashed=True), Colour(16, True)])
def test_the_authors_forms_give_pixels(adapter: Any) -> None:
    """Tanh or sigmoid at the end: values of images, whatever goes in; the linear squashed one is near the identity."""
    preprocessing = featstore.Preprocessing((16, 16), (0.0,) * 3, (1.0,) * 3)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = adapted(torch.nn.Identity(), adapter, preprocessing, seed=0)(images)
    assert found.shape == images.shape
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    if adapter == Colour(is_squashed=True):
        torch.testing.assert_close(found, torch.sigmoid(2.7 * (2 * images - 1)))
        assert float((found - images).abs().max()) < 0.1


def test_geometry_turns_scales_and_moves_and_nothing_else() -> None:
    """A quarter turn is numpy's; scale and translation give what a map of places computed by hand reads."""
    preprocessing = featstore.Preprocessing((8, 8), (0.0,), (1.0,), mode="L")
    network = adapted(torch.nn.Identity(), Geometry(), preprocessing, seed=0)
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    says = network.get_submodule("adapter.of_pixels.says")
    with torch.inference_mode():
        says.bias.copy_(torch.tensor([torch.pi / 2, 0.0, 0.0, 0.0, 0.0]))
        turned = network(image)[0, 0].numpy()
        np.testing.assert_allclose(turned, np.rot90(image[0, 0].numpy(), k=1), atol=1e-5)
        says.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 2 / 8, -4 / 8]))  # one pixel of the image's 2 units, and two
        moved = network(image)[0, 0].numpy()
    expected = np.zeros((8, 8), np.float32)
    expected[2:, :-1] = image[0, 0].numpy()[:-2, 1:]
    np.testing.assert_allclose(moved, expected, atol=1e-5)


@pytest.mark.parametrize("rows", [None, range(10)])
@pytest.mark.parametrize("adapter", [IDENTITIES[0], IDENTITIES[4]], ids=["pix2pix", "transformer"])
def test_nothing_behind_the_adapter_moves(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, adapter: Any, rows: Any
) -> None:
    """Every tensor of the network is the backbone's to the bit, but a new head; the adapter's tensors all move."""
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    run = tune(backbone, digits, tmp_path / "run", adapter, head_rows=rows, test=digits["test"])
    after = run.network(backbone).state_dict()
    head = {"head.weight", "head.bias"} if rows is None else set()
    own = {name for name in after if name.startswith("adapter.")}
    assert {name for name in before if not torch.equal(before[name], after[name])} == head
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.module.state_dict().items())
    assert set(run.weights()) == own | head
    begun = adapted(with_head(backbone, torch.nn.Linear(64, 10)), adapter, backbone.preprocessing, seed=0).state_dict()
    # a bias in front of instance or batch norm has no effect, and no gradient but rounding
    assert {name for name in own if torch.equal(begun[name], after[name])} <= {n for n in own if "num_batches" in n}
    opened = finetune.open_run(tmp_path / "run")
    said = finetune.predict(opened, backbone, digits["test"])
    np.testing.assert_allclose(said.scores, run.predictions["test"].scores, rtol=1e-4, atol=1e-4)


def test_it_undoes_a_shift_of_colours(backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path) -> None:
    """Of inverted digits the network reads next to nothing; one multiplication and one addition per pixel mend that.

    Whatever the adapter is given, an adapter without gradients would stay at the first number.
    """
    dark = {name: replace(s, transforms=(featstore.datasets.shifts.invert(),)) for name, s in digits.items()}
    recipe = replace(RECIPE, lr=0.05, epochs=25, schedule=finetune.Constant())
    run = tune(backbone, dark, tmp_path / "run", Colour(), recipe=recipe)
    plain = {name: replace(s, transforms=()) for name, s in digits.items()}
    source = finetune.predict(tune(backbone, plain, tmp_path / "plain", Colour()), backbone, plain["test"]).accuracy()
    begun = finetune.predict(tune(backbone, plain, tmp_path / "plain", Colour()), backbone, dark["test"]).accuracy()
    mended = finetune.predict(run, backbone, dark["test"]).accuracy()
    assert begun < 0.3
    assert mended > source - 0.05
    weight, bias = (run.weights()[f"adapter.of_pixels.out.{name}"].item() for name in ("weight", "bias"))
    assert weight < 0 < bias  # 1 - v, up to what the network does not mind


def test_what_does_not_fit_is_said(backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path) -> None:
    """Eight pixels cannot be halved four times; an auxiliary head is not an adapter's; nothing is written."""
    with pytest.raises(finetune.BadInput, match="8 × 8 pixels 4 times"):
        tune(backbone, digits, tmp_path / "run", ImageToImage(n_blocks=4))
    with pytest.raises(finetune.BadInput, match="set auxiliary=None"):
        tune(
            backbone, digits, tmp_path / "run", Colour(), recipe=replace(RECIPE, auxiliary=finetune.Auxiliary("conv1"))
        )
    with pytest.raises(finetune.BadInput, match="-1 hidden"):
        tune(backbone, digits, tmp_path / "run", Colour(n_hidden=-1))
    assert not (tmp_path / "run").exists()


def test_dropout_acts_where_the_head_is_trained(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """As in `tune_unit`: a head that stays as it is has no dropout, whatever the recipe says, and a new one has.

    Refused instead, a recipe with dropout could not have an adapter among its candidates.
    """
    for rows, is_same in ((range(10), True), (None, False)):
        runs = [
            tune(
                backbone, digits, tmp_path / f"{rows}-{rate}", Colour(), recipe=replace(RECIPE, dropout=rate), head_rows=rows
            )
            for rate in (0.0, 0.5)
        ]  # fmt: skip
        before, after = (run.weights()["adapter.of_pixels.out.weight"] for run in runs)
        assert torch.equal(before, after) == is_same


def test_an_adapter_that_does_not_fit_is_said_before_any_unit_is_tuned(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """As a candidate it is asked for with a day of other trainings, which must not have to be done first."""
    others = {"adapter": functools.partial(finetune.tune_adapter, adapter=ImageToImage(n_blocks=4))}
    with pytest.raises(finetune.BadInput, match="8 × 8 pixels 4 times"):
        finetune.flex_tune(
            backbone, digits["train"], digits["val"], recipe=RECIPE, others=others, out=tmp_path / "flex", progress=False
        )  # fmt: skip
    assert not (tmp_path / "flex" / "candidates").exists()


def test_another_adapter_is_another_run(backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path) -> None:
    """A folder holds one training; the same call reads it, another adapter is refused with the difference."""
    tune(backbone, digits, tmp_path / "run", Colour())
    tune(backbone, digits, tmp_path / "run", Colour())
    with pytest.raises(finetune.DifferentRun, match="n_hidden"):
        tune(backbone, digits, tmp_path / "run", Colour(n_hidden=4))


def test_a_colour_image_through_three_channels() -> None:
    """The default adapter on a timm network of three channels keeps its logits to begin with."""
    backbone = featstore.load_backbone("timm:resnet10t", weights=None)
    images = backbone.preprocessing.normalize(
        torch.randint(0, 256, (2, *backbone.preprocessing.input_size, 3), dtype=torch.uint8)
    )
    network = backbone.module.eval()
    with torch.inference_mode():
        said = adapted(network, ImageToImage(), backbone.preprocessing, seed=0)(images)
        torch.testing.assert_close(said, network(images), rtol=1e-3, atol=1e-3)
