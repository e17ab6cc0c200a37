"""Augmentation and images in training: pure functions of (seed, id, epoch), timm's own numbers, kept or streamed alike."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import featstore
import finetune
from finetune import Augmentation, Recipe
from finetune.ahead import ahead
from finetune.augmentation import _apply_policy, crop_box
from finetune.images import ImageExamples

pytestmark = pytest.mark.usefixtures("one_thread")

COLOUR = featstore.Preprocessing((24, 24), (0.5, 0.4, 0.3), (0.2, 0.2, 0.3), resize=24, crop=(24, 24))
POLICIES = ("rand-m9-mstd0.5-inc1", "augmix-m3-w3-d2")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> featstore.Split:
    """24 smooth colour images of different sizes, as PNG files in a folder of two classes."""
    root = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for i in range(24):
        small = Image.fromarray(draw.integers(0, 256, (5, 4, 3), dtype=np.uint8))
        folder = root / ("a" if i % 2 else "b")
        folder.mkdir(exist_ok=True)
        small.resize((30 + i, 44 - i), Image.Resampling.BICUBIC).save(folder / f"{i:02d}.png")
    return featstore.load_split(f"imagefolder:{root}")


def examples(split: featstore.Split, **changes: Any) -> ImageExamples:
    """Augmented images of a split."""
    assert split.labels is not None
    options: dict[str, Any] = {"augmentation": Augmentation(policy=POLICIES[0]), "seed": 3, **changes}
    return ImageExamples(split, COLOUR, split.labels, **options)


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_are_timms_own_numbers(policy: str) -> None:
    """Seeded alike, timm's transform in the process's generators gives the same bytes; those generators are left
    alone."""
    from timm.data.auto_augment import augment_and_mix_transform, rand_augment_transform

    make = augment_and_mix_transform if policy.startswith("augmix") else rand_augment_transform
    theirs = make(policy, {"translate_const": int(24 * 0.45), "img_mean": (128, 102, 76)})
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8))
    for seed in range(20):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 — what timm draws from
        expected = np.asarray(theirs(image))
        before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
        assert np.array_equal(np.asarray(_apply_policy(policy, image, COLOUR, seed)), expected)
        assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]  # noqa: NPY002


def test_posterize_to_no_bits_is_black(photos: featstore.Split) -> None:
    """timm's strongest step keeps no bit, which newer versions of PIL refuse: a training would die of it now and then."""
    image = Image.fromarray(np.full((4, 4, 3), 200, np.uint8))
    done = [np.asarray(_apply_policy("rand-m10-n4-inc1", image, COLOUR, seed)) for seed in range(200)]
    assert any((pixels == 0).all() for pixels in done)


def test_crops_are_torchvisions() -> None:
    """Torchvision's RandomResizedCrop is the truth for the law of the crops: areas and aspects agree in distribution.

    4,000 draws each; two-sample Kolmogorov distance below its 99.9 % point, 1.95 · sqrt(2 / n)."""
    from scipy.stats import ks_2samp
    from torchvision.transforms import RandomResizedCrop

    draw, n = random.Random(0), 4000
    ours = np.array([crop_box(60, 40, (0.08, 1.0), (3 / 4, 4 / 3), draw) for _ in range(n)])
    torch.manual_seed(0)
    image = torch.zeros(3, 40, 60)
    theirs = np.array([RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(n)])
    w, h = ours[:, 2] - ours[:, 0], ours[:, 3] - ours[:, 1]
    limit = 1.95 * np.sqrt(2 / n)
    for a, b in (
        (w * h, theirs[:, 2] * theirs[:, 3]),
        (w / h, theirs[:, 3] / theirs[:, 2]),
        (ours[:, 0], theirs[:, 1]),
    ):
        assert ks_2samp(a, b).statistic < limit
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 2] <= 60).all()
    assert (ours[:, 3] <= 40).all()
    assert crop_box(10, 100, (1.0, 1.0), (1.0, 1.0), draw) == (0, 45, 10, 55)  # none fits: the centre


@pytest.mark.parametrize("policy", ["", *POLICIES])
def test_an_augmented_image_depends_on_seed_id_and_epoch_alone(photos: featstore.Split, policy: str) -> None:
    """In any order, batch, subset or thread the same; another for another epoch or seed."""
    made = examples(photos, augmentation=Augmentation(policy=policy))
    rows = np.arange(len(photos))
    whole = made.inputs(rows, 4)
    backwards = made.inputs(rows[::-1].copy(), 4).flip(0)
    assert torch.equal(whole, backwards)
    part = examples(photos.subset(rows[5:9], "part"), augmentation=Augmentation(policy=policy))
    assert torch.equal(part.inputs(np.arange(4), 4), whole[5:9])
    by_threads = list(ahead(lambda i: made.inputs(np.array([i]), 4), rows.tolist(), workers=5))
    assert torch.equal(torch.cat(by_threads), whole)
    assert not torch.equal(made.inputs(rows, 5), whole)
    assert not torch.equal(examples(photos, augmentation=Augmentation(policy=policy), seed=4).inputs(rows, 4), whole)


def test_without_randomness_an_augmented_image_is_the_prepared_one(photos: featstore.Split) -> None:
    """No crop, no flip: what evaluation sees; a certain flip mirrors it; evaluation itself is never augmented."""
    rows = np.arange(len(photos))
    plain = torch.stack([COLOUR(photos.image(i)) for i in range(len(photos))])
    still = Augmentation(None, horizontal=0.0)
    assert torch.equal(examples(photos, augmentation=still).inputs(rows, 0), plain)
    assert torch.equal(examples(photos, augmentation=replace(still, horizontal=1.0)).inputs(rows, 0), plain.flip(3))
    assert torch.equal(examples(photos, augmentation=replace(still, vertical=1.0)).inputs(rows, 0), plain.flip(2))
    assert torch.equal(examples(photos).inputs(rows, None), plain)


def test_grey_images_stay_grey(photos: featstore.Split) -> None:
    """A policy works on RGB; a network of one channel must get one channel back."""
    grey = featstore.Preprocessing((12, 12), (0.5,), (0.5,), resize=12, crop=(12, 12), mode="L")
    assert photos.labels is not None
    for policy in ("", *POLICIES):
        made = ImageExamples(photos, grey, photos.labels, augmentation=Augmentation(policy=policy))
        assert made.inputs(np.arange(6), 0).shape == (6, 1, 12, 12)


def test_kept_and_streamed_inputs_are_the_same_bits(photos: featstore.Split) -> None:
    """In memory as float32, as 8-bit pixels, or prepared for each batch: one truth, PIL's, image by image."""
    rows = np.array([3, 20, 3, 0])
    truth = torch.stack([COLOUR(photos.image(i)) for i in rows])
    n_bytes = len(photos) * 24 * 24 * 3
    for cache, workers in ((1 << 31, 0), (2 * n_bytes, 0), (n_bytes - 1, 4)):
        made = examples(photos, augmentation=None, cache_bytes=cache, n_workers=4)
        assert made.workers == workers
        assert torch.equal(made.inputs(rows, 0), truth)
        assert torch.equal(made.inputs(rows, None), truth)
    kept = examples(photos, augmentation=None, cache_bytes=2 * n_bytes)
    kept.inputs(rows, 0)
    assert kept._kept is not None
    assert kept._kept.dtype == torch.uint8


def test_an_unreadable_image_is_named(photos: featstore.Split, tmp_path: Path) -> None:
    """Found in the middle of a training, it must say which file it is."""
    (tmp_path / "a").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "a" / "good.png")
    (tmp_path / "a" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnot an image")
    split = featstore.load_split(f"imagefolder:{tmp_path}")
    for augmentation in (None, Augmentation()):
        with pytest.raises(featstore.UnreadableImage, match=r"bad\.png"):
            examples(split, augmentation=augmentation).inputs(np.arange(2), 0)


@pytest.mark.parametrize("n_workers", [0, 3])
def test_the_number_of_threads_changes_no_weight(
    photos: featstore.Split, tmp_path: Path, n_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streamed and augmented, with threads and without, and once with threads that take their time: the same bits."""
    import time

    backbone = featstore.load_backbone("timm:mobilenetv3_small_050", weights=None, preprocessing=COLOUR)
    recipe = Recipe(lr=0.01, steps=7, batch_size=5, augmentation=Augmentation(policy=POLICIES[1]))
    options: dict[str, Any] = {"unit": "head", "recipe": recipe, "progress": False}
    reference = finetune.tune_unit(backbone, photos, out=tmp_path / "a", workers=1, **options)
    inputs = ImageExamples.inputs

    def slow(self: ImageExamples, rows: np.ndarray, epoch: int | None) -> torch.Tensor:
        time.sleep(0.01 * (int(rows[0]) % 3))
        return inputs(self, rows, epoch)

    monkeypatch.setattr(ImageExamples, "inputs", slow)
    run = finetune.tune_unit(backbone, photos, out=tmp_path / "b", workers=n_workers, **options)
    assert all(torch.equal(tensor, run.weights()[name]) for name, tensor in reference.weights().items())


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"scale": (0.0, 1.0)}, "scale is (0.0, 1.0)"),
        ({"ratio": (2.0, 1.0)}, "ratio is (2.0, 1.0)"),
        ({"horizontal": 1.5}, "horizontal is 1.5"),
        ({"policy": "cutmix"}, "policy is 'cutmix'; timm's are written"),
    ],
)
def test_bad_augmentations_are_named(fields: dict[str, Any], part: str) -> None:
    """The field, its value, and what would be right."""
    with pytest.raises(finetune.BadInput) as caught:
        Augmentation(**fields)
    assert part in str(caught.value)


def test_papers_augmentations() -> None:
    """Crops and flips as protocols A1.4 and A2.1 have them."""
    assert Augmentation.kornblith2019() == Augmentation((0.08, 1.0), (3 / 4, 4 / 3), 0.5, 0.0)
    assert Recipe.kornblith2019(lr=0.1, decay=0).augmentation == Augmentation.kornblith2019()
    flips = {"cct20": (0.5, 0.0), "aptos": (0.5, 0.0), "hpa": (0.5, 0.5), "melanoma": (0.5, 0.5), "eurosat": (0.0, 0.0)}
    for data, (horizontal, vertical) in flips.items():
        found = Recipe.fang2023(lr=0.1, decay=0, data=data).augmentation
        assert found == Augmentation((0.65, 1.0), (3 / 4, 4 / 3), horizontal, vertical)
    assert Recipe.royer2020("mnist", ratio=1).augmentation is None
    with pytest.raises(finetune.BadInput, match="no augmentation for 'food'"):
        Augmentation.fang2023("food")
