"""Identity of real networks and real images: everything that changes a feature changes its digest, and nothing else does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import featstore
from featstore import Backbone, IdentityError, Preprocessing, Split
from featstore.datasets.arrays import ArraySamples

SIDE = 16
PREPARED = Preprocessing(
    (SIDE, SIDE), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), resize=20, crop=(SIDE, SIDE), interpolation="bilinear"
)
N = 6


def network() -> nn.Module:
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3))
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))


@functools.cache
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (N, 20, 24, 3), np.uint8)


@dataclass
class Made:
    """Everything that a feature is made of; a change is applied to one of its parts."""

    module: nn.Module = field(default_factory=network)
    preparation: Preprocessing = PREPARED
    images: np.ndarray = field(default_factory=lambda: pixels().copy())
    ids: list[str] = field(default_factory=lambda: [f"{i}.png" for i in range(N)])
    shifts: str = "+blur(1.0)"
    name: str = "pictures"
    labels: np.ndarray = field(default_factory=lambda: np.arange(N) % 2)
    classes: tuple[str, ...] = ("a", "b")
    loading: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)

    def split(self) -> Split:
        from featstore.datasets.shifts import make_shift

        split = Split(self.name, np.array(self.ids), self.labels, self.classes, ArraySamples(self.images, self.name))
        name, _, arguments = self.shifts[1:-1].partition("(")
        return replace(split, transforms=(make_shift(name, arguments),)) if self.shifts else split

    def digests(self, root: Path = Path("no-such-store")) -> tuple[str, ...]:
        """Return the identities of the matrices that an extraction would store."""
        backbone = featstore.load_backbone(self.module, preprocessing=self.preparation, **self.loading)
        part = featstore.plan(backbone, self.split(), root, **{"dtype": "float32", **self.asked}).parts[0]
        return tuple(key.digest for key in part.arrays)


def ulp(made: Made, data: st.DataObject) -> None:
    """One weight, bias or running statistic by the smallest step that a float32 can take."""
    tensors = {k: v for k, v in made.module.state_dict().items() if v.is_floating_point() and not k.startswith("3.")}
    flat = tensors[data.draw(st.sampled_from(sorted(tensors)), label="tensor")].view(-1)
    i = data.draw(st.integers(0, len(flat) - 1), label="entry")
    flat[i] = torch.nextafter(flat[i], torch.tensor(data.draw(st.sampled_from([-9.0, 9.0]), label="towards")))


def setting(made: Made, data: st.DataObject) -> None:
    """What is no weight: eps, stride, padding, another activation."""
    features: Any = made.module[0]  # type: ignore[index]
    which = data.draw(st.sampled_from(["eps", "stride", "padding", "activation"]), label="setting")
    if which == "eps":
        features[1].eps = float(np.nextafter(features[1].eps, 1))
    elif which == "stride":
        features[3].stride = (2, 1)
    elif which == "padding":
        features[3].padding = (1, 1)
    else:
        features[2] = nn.GELU()


def preparation(made: Made, data: st.DataObject) -> None:
    """One field of the preprocessing; mean and std by one ulp."""
    which = data.draw(st.sampled_from(["resize", "whole", "interpolation", "mean", "std"]), label="field")
    changes: dict[str, Any] = {"resize": {"resize": 21}, "whole": {"resize": (SIDE, SIDE), "crop": None}}
    if which == "interpolation":
        kind = data.draw(st.sampled_from(["nearest", "bicubic", "lanczos"]), label="interpolation")
        changes[which] = {"interpolation": kind}
    elif which in ("mean", "std"):
        values = list(getattr(PREPARED, which))
        i = data.draw(st.integers(0, 2), label="channel")
        values[i] = float(np.nextafter(values[i], data.draw(st.sampled_from([0.0, 1.0]), label="towards")))
        changes[which] = {which: tuple(values)}
    made.preparation = replace(PREPARED, **changes[which])


def one_pixel(made: Made, data: st.DataObject) -> None:
    where = tuple(data.draw(st.integers(0, s - 1)) for s in made.images.shape)
    made.images[where] ^= 1 << data.draw(st.integers(0, 7), label="bit")


def ids(made: Made, data: st.DataObject) -> None:
    i = data.draw(st.integers(0, N - 1), label="id")
    made.ids[i] += data.draw(st.sampled_from(["x", " ", "\u0301"]), label="more")


def order(made: Made, data: st.DataObject) -> None:
    """Rows are in the order of the samples."""
    i = data.draw(st.integers(0, N - 2), label="swapped")
    made.ids[i], made.ids[i + 1] = made.ids[i + 1], made.ids[i]
    made.images[[i, i + 1]] = made.images[[i + 1, i]]


def fewer(made: Made, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, N - 1), label="n")
    made.ids, made.images, made.labels = made.ids[:n], made.images[:n], made.labels[:n]


def shift(made: Made, data: st.DataObject) -> None:
    made.shifts = data.draw(st.sampled_from(["", "+blur(1.0000000000000002)", "+blur(2)", "+invert()"]), label="shift")


def asked(made: Made, data: st.DataObject) -> None:
    """What is asked of the same pass: its pooling, dtype, arithmetic."""
    made.asked = data.draw(
        st.sampled_from(
            [{"dtype": "float16"}, {"dtype": "bfloat16"}, {"pool": "max"}, {"pool": "grid2"}, {"precision": "amp-bf16"},
             {"precision": "tf32"}, {"deterministic": True}]
        ), label="asked",
    )  # fmt: skip


def version(made: Made, data: st.DataObject) -> None:
    made.loading = {"version": data.draw(st.text("ab", min_size=1, max_size=2), label="version")}


CHANGES: list[Callable[[Made, st.DataObject], None]] = [
    ulp, setting, preparation, one_pixel, ids, order, fewer, shift, asked, version,
]  # fmt: skip


@functools.cache
def unchanged() -> tuple[str, ...]:
    return Made().digests()


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
def test_whatever_changes_a_feature_changes_its_digest(change: Callable[[Made, st.DataObject], None]) -> None:
    @settings(max_examples=8, deadline=None)
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        made = Made()
        change(made, data)
        assert not set(made.digests()) & set(unchanged())

    run()


def test_the_cut_is_identity() -> None:
    """Units of two cuts may have the same names and other outputs."""
    backbones = [featstore.load_backbone("featstore:cifar_resnet20", weights=None, units=u) for u in ("coarse", "fine")]
    split = Made(preparation=backbones[0].preprocessing).split()
    keys = [featstore.plan(b, split, Path("no-such-store")).parts[0].key for b in backbones]
    assert keys[0].digest != keys[1].digest


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_what_changes_no_feature_changes_no_digest(data: st.DataObject) -> None:
    """Names, labels, the order of classes, the place of the store: extracting again under these computes nothing."""
    made = Made()
    made.name = data.draw(st.text("abc/", min_size=1, max_size=5), label="name of the split")
    made.labels = np.array(data.draw(st.lists(st.integers(0, 1), min_size=N, max_size=N), label="labels"))
    made.classes = data.draw(st.sampled_from([("a", "b"), ("b", "a"), ("x", "y", "z")]), label="classes")
    if data.draw(st.booleans(), label="trains"):
        made.module.train()
    if data.draw(st.booleans(), label="head"):
        made.module[3].weight.data += 1  # type: ignore[index,union-attr]
        made.asked = {"units": "all"}
    changed_head = bool(made.asked)
    found = made.digests(Path(data.draw(st.sampled_from(["s", "/tmp/s", "a/../s"]), label="root")))
    assert changed_head or found == unchanged()


@pytest.mark.parametrize(
    "change", [{"batch_size": 1}, {"batch_size": 5}, {"workers": 1}, {"workers": 3}, {"block_rows": 2}]
)
def test_how_it_is_computed_is_no_identity(tmp_path: Path, change: dict[str, Any]) -> None:
    """A second extraction that differs in that, in a store that was moved, finds everything there."""
    made = Made()
    backbone = featstore.load_backbone(made.module, preprocessing=made.preparation)
    store = featstore.extract(backbone, made.split(), tmp_path / "s", dtype="float32", progress=False)
    before = {e.array_id: e.created for e in store.entries()}
    assert set(before) == set(unchanged())
    store.root.rename(tmp_path / "moved")
    again = featstore.extract(backbone, made.split(), tmp_path / "moved", dtype="float32", progress=False, **change)
    assert {e.array_id: e.created for e in again.entries()} == before


# ---- what has no identity


class Branching(nn.Module):
    """Cannot be traced: what its forward does is not known."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.fc((x if x.sum() > 0 else -x).mean((2, 3)))


def test_a_network_that_cannot_be_looked_into_needs_a_version() -> None:
    with pytest.raises(IdentityError, match=r"cannot be identified: .*Pass version="):
        featstore.load_backbone(Branching(), preprocessing=PREPARED)
    digests = {Made(module=Branching().eval(), loading={"version": v}).digests()[0] for v in ("1", "2")}
    assert len(digests) == 2


@dataclass(frozen=True)
class Nameless:
    """A shift whose parameters are a function."""

    name: str = "mine"
    params: Any = field(default_factory=lambda: {"f": lambda x: x})

    def __call__(self, image: Image.Image, sample_id: str) -> Image.Image:
        return image


@pytest.mark.parametrize("transform", [lambda image, sample_id: image, Nameless(), Image.Image.copy])
def test_a_transform_that_cannot_be_identified_is_refused(transform: Any) -> None:
    """A lambda has no name that lasts and no text of what it does."""
    split = replace(Made(shifts="").split(), transforms=(transform,))
    with pytest.raises(IdentityError, match=r"version"):
        split.digest()


def test_a_transform_with_a_version_is_identified_by_it() -> None:
    def digest(text: str) -> str:
        shift = featstore.versioned(lambda image, sample_id: image, version=text)
        return replace(Made(shifts="").split(), transforms=(shift,)).digest().content_digest

    assert digest("1") == digest("1")
    assert len({digest("1"), digest("2"), Made(shifts="").split().digest().content_digest}) == 3
    with pytest.raises(IdentityError, match="version"):
        featstore.versioned(lambda image, sample_id: image, version="")


# ---- deterministic


def stored(backbone: Backbone, split: Split, root: Path, **options: Any) -> dict[str, np.ndarray]:
    store = featstore.extract(
        backbone, split, root, **{"dtype": "float32", "deterministic": True, "progress": False, **options}
    )
    return {unit: store.features(unit, split).numpy() for unit in store.units(split)}


@pytest.mark.parametrize("model", ["featstore:cifar_resnet20", "torchvision:mobilenet_v3_small"])
def test_deterministic_rows_depend_on_their_image_alone(tmp_path: Path, model: str) -> None:
    """To the bit, whatever the batch size, the workers, torch's threads, the neighbours and what was there before."""
    threads = torch.get_num_threads()
    backbone = featstore.load_backbone(model, weights=None)
    images = np.random.default_rng(0).integers(0, 256, (13, 40, 40, 3), np.uint8)
    size = backbone.preprocessing.input_size
    backbone = replace(backbone, preprocessing=replace(backbone.preprocessing, resize=size, crop=None))
    split = Split("p", np.array([f"{i}" for i in range(13)]), None, (), ArraySamples(images, "p"))
    expected = stored(backbone, split, tmp_path / "s")
    variants: list[dict[str, Any]] = [{"batch_size": 1, "workers": 1}, {"batch_size": 5, "workers": 4, "block_rows": 7}]
    try:
        for i, options in enumerate(variants):
            torch.set_num_threads(i + 1)
            found = stored(backbone, split, tmp_path / f"s{i}", **options)
            assert all(np.array_equal(found[unit], expected[unit]) for unit in expected)
        part = split.subset(np.array([11, 4, 7]), "part")
        found = stored(backbone, part, tmp_path / "part", batch_size=2)
        assert all(np.array_equal(found[unit], expected[unit][[11, 4, 7]]) for unit in expected)
    finally:
        torch.set_num_threads(threads)


def test_deterministic_features_are_entries_of_their_own(tmp_path: Path) -> None:
    """Who asks for them must not get what a batch happened to give."""
    made = Made()
    backbone = featstore.load_backbone(made.module, preprocessing=made.preparation)
    for deterministic in (False, True):
        featstore.extract(backbone, made.split(), tmp_path / "s", deterministic=deterministic, progress=False)
    store = featstore.open_store(tmp_path / "s")
    assert {e.precision for e in store.entries()} == {"fp32", "fp32-deterministic"}
    assert (
        store.features("penultimate", "pictures", precision="fp32-deterministic").manifest["provenance"]["batch_size"]
        == 256
    )
