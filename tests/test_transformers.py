"""Transformers, CLIP's and DINO's networks: cut at their blocks, with the class token where the networks themselves have it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from test_extraction import FIRST, extract, pictures
from test_published import stretch_statistics
from test_units import AUXILIARY, check_chain
from torch import nn

from featstore import Backbone, BadInput, Preprocessing, load_backbone
from featstore.poolings import token_units

BLOCKS = tuple(f"blocks.{i}" for i in range(12))
STAGES = tuple(f"stages.{i}" for i in range(4))


class Family:
    """A network of timm at a small size, and what is expected of it.

    Parameters
    ----------
    size : int
        Pixels; a multiple of the patches.
    units : tuple of str
        Up to the penultimate.
    n_prefix : int
        Class token and registers, 0 where there is no class token.
    first : int
        Of the units, the first with the class token.
    """

    def __init__(
        self,
        size: int,
        units: tuple[str, ...],
        *,
        n_prefix: int = 0,
        first: int = 0,
        has_head: bool = True,
        **arguments: Any,
    ) -> None:
        self.size, self.units, self.n_prefix, self.first, self.has_head = size, units, n_prefix, first, has_head
        self.arguments = arguments


VIT = ("patch_embed", *BLOCKS)
FAMILIES = {
    "vit_small_patch16_224.dino": Family(64, VIT, n_prefix=1, has_head=False, img_size=64),
    "vit_small_patch14_reg4_dinov2.lvd142m": Family(56, VIT, n_prefix=5, has_head=False, img_size=56),
    "vit_small_patch16_dinov3.lvd1689m": Family(64, VIT, n_prefix=5, first=1, has_head=False),
    "vit_base_patch32_clip_224.openai": Family(64, VIT, n_prefix=1, img_size=64),
    "eva02_tiny_patch14_224.mim_in22k": Family(56, VIT, n_prefix=1, has_head=False, img_size=56),
    "resnet50_clip.openai": Family(64, ("stem", *STAGES), has_head=False, img_size=64),
    "convnext_pico.d1_in1k": Family(64, ("stem", *STAGES)),
    "convnextv2_atto.fcmae_ft_in1k": Family(64, ("stem", *STAGES)),
}


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


def prepared(size: int) -> Preprocessing:
    return Preprocessing((size, size), (0.5,) * 3, (0.5,) * 3)


def load(name: str, units: Any = "coarse") -> Backbone:
    """Return the network with random weights, tokens and statistics that are not zero."""
    family = FAMILIES[name]
    if not timm.is_model(name.partition(".")[0]):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    torch.manual_seed(0)
    module = timm.create_model(name, **family.arguments).eval()
    stretch_statistics(module)
    for parameter_name, parameter in module.named_parameters():
        if parameter_name.endswith(("_token", "pos_embed")):
            nn.init.normal_(parameter)
    return load_backbone(module, preprocessing=prepared(family.size), units=units)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_units_are_the_blocks_and_the_network(name: str) -> None:
    family = FAMILIES[name]
    backbone = load(name)
    assert backbone.units == (*family.units, "penultimate", *(["head"] if family.has_head else []))
    x = torch.randn(2, 3, family.size, family.size)
    check_chain(backbone.chain, x, has_head=family.has_head, unused=(*AUXILIARY, "rope.bands"))
    fine = load(name, "fine")
    if fine.units != backbone.units:
        check_chain(fine.chain, x, has_head=family.has_head)
    assert len(fine.units) >= len(backbone.units)


@pytest.mark.parametrize("name", [n for n, family in FAMILIES.items() if family.n_prefix])
def test_the_class_token_is_timms(name: str, tmp_path: Path) -> None:
    """timm's own way to intermediate tokens is the witness."""
    family = FAMILIES[name]
    backbone, split = load(name), pictures(3, size=family.size)
    with_token = family.units[family.first :]
    assert token_units(backbone.chain) == with_token
    assert backbone.shapes["blocks.3"][0] == family.n_prefix + (family.size // int(name.split("patch")[1][:2])) ** 2
    store = extract(
        backbone, split, tmp_path / "s", pool="token", units=["blocks.3", "blocks.11", "penultimate"], engine=FIRST
    )
    x = torch.stack([backbone.preprocessing(split.image(i)) for i in range(3)])
    module: Any = backbone.module
    found = module.forward_intermediates(x, indices=[3, 11], return_prefix_tokens=True, intermediates_only=True)
    for unit, (_, prefix) in zip(("blocks.3", "blocks.11"), found, strict=True):
        assert np.array_equal(store.features(unit, split).numpy(), prefix[:, 0].numpy()), unit
    pooled = module.forward_head(module.forward_features(x), pre_logits=True)
    assert np.array_equal(store.features("penultimate", split).numpy(), pooled.numpy())


def test_blocks_that_need_the_size_say_so() -> None:
    """DINOv3's blocks read an embedding of the positions: units made for one size would be wrong at another."""
    chain = load("vit_small_patch16_dinov3.lvd1689m").chain
    with pytest.raises(BadInput, match=r"cut for an input of 3 × 64 × 64.*unit 'patch_embed' takes .* got 3 × 96 × 64"):
        chain.run(torch.zeros(1, 3, 96, 64))
    with pytest.raises(BadInput, match=r"unit 'blocks\.3' takes 21 × 384 and got 37 × 384"):
        chain.run(torch.zeros(1, 37, 384), "blocks.3", "blocks.4")
    with pytest.raises(BadInput, match="3 × 96 × 96"):
        chain.visit(torch.zeros(1, 3, 96, 96), ["blocks.3"], lambda unit, y: None)
    other = load("vit_small_patch14_reg4_dinov2.lvd142m").chain
    assert other.run(torch.zeros(1, 37, 384), "blocks.3", "blocks.4").shape == (1, 37, 384), (
        "no reason to refuse it here"
    )


def test_their_weights_come_from_a_file_like_any_others(tmp_path: Path) -> None:
    torch.manual_seed(3)
    module = timm.create_model("eva02_tiny_patch14_224.mim_in22k")
    save_file(module.state_dict(), tmp_path / "eva.safetensors")
    by_file = load_backbone(f"timm:eva02_tiny_patch14_224.mim_in22k@{tmp_path / 'eva.safetensors'}")
    assert by_file.weights_digest == load_backbone(module.eval(), preprocessing=by_file.preprocessing).weights_digest
    assert by_file.preprocessing.interpolation == "bicubic"
    assert len(by_file.units) == 14


def test_a_classifier_that_normalises_is_a_head() -> None:
    """LeViT's two classifiers begin with batch norm; its features are what they read, not their logits."""
    torch.manual_seed(0)
    module = timm.create_model("levit_128s").eval()
    stretch_statistics(module)
    backbone = load_backbone(module, preprocessing=prepared(224))
    assert backbone.units == ("stem", "stages.0", "stages.1", "stages.2", "penultimate", "head")
    x = torch.randn(2, 3, 224, 224)
    check_chain(backbone.chain, x)
    assert torch.equal(backbone.chain.run(x, last="penultimate"), module.forward_features(x).mean(1))
