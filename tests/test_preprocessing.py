"""Preprocessing equals the evaluation transforms of timm and torchvision to the last bit."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from featstore import BadInput, Preprocessing, UnknownName, UnreadableImage


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Return a picture with edges and noise: what distinguishes one resize from another."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.NEAREST), np.int16)
    noisy = smooth + generator.integers(-9, 10, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


SIZES = [(64, 64), (300, 200), (200, 301), (257, 500), (40, 30), (640, 41)]


@pytest.mark.parametrize(
    "name",
    [
        "resnet18.tv_in1k",
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        "inception_v3.tf_in1k",
        "convnext_atto.d2_in1k",
        "efficientnet_b0.ra_in1k",
        "mobilenetv1_100.ra4_e3600_r224_in1k",
        "vit_base_patch16_clip_224.openai",
    ],
)
@pytest.mark.parametrize("size", SIZES)
def test_equals_timm(name: str, size: tuple[int, int]) -> None:
    import timm
    from timm.data import create_transform, resolve_data_config

    from featstore.timm_models import preprocessing_of_config

    config = timm.get_pretrained_cfg(name).to_dict()
    reference = create_transform(**resolve_data_config(pretrained_cfg=config), is_training=False)
    ours = preprocessing_of_config(resolve_data_config(pretrained_cfg=config))
    image = picture(*size)
    assert torch.equal(ours(image), reference(image))


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("squeezenet1_1", "IMAGENET1K_V1"),
        ("resnet50", "IMAGENET1K_V1"),
        ("resnet50", "IMAGENET1K_V2"),
        ("inception_v3", "IMAGENET1K_V1"),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1"),
        ("swin_t", "IMAGENET1K_V1"),
    ],
)
@pytest.mark.parametrize("size", SIZES)
def test_equals_torchvision(name: str, tag: str, size: tuple[int, int]) -> None:
    import torchvision

    from featstore.torchvision_models import preprocessing_of_preset

    preset = torchvision.models.get_model_weights(name)[tag].transforms()
    image = picture(*size)
    assert torch.equal(preprocessing_of_preset(preset)(image), preset(image))


def test_json_holds_everything() -> None:
    """What is not in it would not be part of a feature's identity."""
    for made in (
        Preprocessing((8, 8), (0.0,), (1.0,), mode="L"),
        Preprocessing((32, 48), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), resize=(32, 48), interpolation="bicubic"),
        Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3, resize=40, crop=(32, 32)),
    ):
        assert Preprocessing.from_json(made.to_json()) == made


def test_grey_and_deep_images_keep_their_values() -> None:
    """PIL cuts 16-bit values off at 255, which would make a scan white."""
    grey = Preprocessing((2, 2), (0.0,), (1.0,), mode="L")
    deep = np.array([[0, 65535], [32768, 256]], np.uint16)
    expected = torch.tensor([[[0.0, 255.0], [128.0, 1.0]]]) / 255
    assert torch.equal(grey(Image.fromarray(deep)), expected)
    buffer = io.BytesIO()
    Image.fromarray(deep).save(buffer, "PNG")
    assert torch.equal(grey(Image.open(buffer)), expected)
    assert torch.equal(grey(Image.fromarray(deep.astype(np.int32))), expected)
    colour = Preprocessing((2, 2), (0.0,) * 3, (1.0,) * 3)
    assert torch.equal(
        colour(Image.fromarray(np.array([[7, 9], [0, 255]], np.uint8)))[1], torch.tensor([[7, 9], [0, 255]]) / 255
    )
    with pytest.raises(UnreadableImage, match="floating-point"):
        grey(Image.fromarray(np.zeros((2, 2), np.float32)))


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "CMYK", "1", "L"])
def test_every_mode_becomes_three_channels(mode: str) -> None:
    prepare = Preprocessing((16, 16), (0.5,) * 3, (0.5,) * 3, resize=20, crop=(16, 16))
    image = picture(33, 21, "RGB").convert("L").convert(mode) if mode == "LA" else picture(33, 21).convert(mode)
    assert torch.equal(prepare(image), prepare(image.convert("RGB")))


def test_an_image_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(BadInput, match=r"28 × 28 after preprocessing and the network takes 32 × 32"):
        Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3)(picture(28, 28))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mean": (0.5,)}, "mean has 1 and std 3 values"),
        ({"std": (0.5, 0.0, 0.5)}, "above 0"),
        ({"crop": (31, 32)}, "crop"),
        ({"resize": (31, 32)}, "resized to"),
        ({"resize": 0}, "at least 1 pixel"),
        ({"antialias": False}, "always antialiases"),
        ({"input_size": 32}, "height and a width"),
    ],
)
def test_contradictions_are_refused(arguments: dict[str, object], words: str) -> None:
    good = {"input_size": (32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    with pytest.raises(BadInput, match=words):
        Preprocessing(**{**good, **arguments})  # type: ignore[arg-type]


def test_an_unknown_interpolation_gets_the_nearest() -> None:
    with pytest.raises(UnknownName) as error:
        Preprocessing((8, 8), (0.0,), (1.0,), mode="L", interpolation="bicubik")
    assert error.value.nearest[0] == "bicubic"
