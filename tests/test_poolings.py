"""Poolings: each against its definition in numpy, from one pass, and from stored maps without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_extraction import FIRST, PLAIN, Calls, extract, pictures
from torch import nn
from torch.nn import functional as F

import featstore
from featstore import Backbone, BadInput, IdentityError, Pooling, UnknownName
from featstore.poolings import as_poolings, pool_name, token_units
from featstore.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


class Small(nn.Module):
    """Maps of 16 × 16 with channels first and of 8 × 8 with channels last, and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 4, 3, 2, 1)
        self.mix, self.fc = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(F.relu(self.first(x)))
        x = self.mix(x.permute(0, 2, 3, 1))
        return self.fc(x.mean((1, 2)))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return featstore.load_backbone(Small(), preprocessing=PLAIN)


def maps_of(backbone: Backbone, n: int) -> dict[str, np.ndarray]:
    """Return the outputs of all units by running the chain, in float64 (n, h, w, c) or (n, c)."""
    x = torch.stack([backbone.preprocessing(pictures(n).image(i)) for i in range(n)])
    found = {}
    with torch.no_grad():
        for unit in ("first", "second", "mix", "penultimate"):
            output = backbone.chain.run(x, None, unit).numpy().astype(np.float64)
            found[unit] = output.transpose(0, 2, 3, 1) if unit == "first" else output
    return found


def by_definition(pool: str, x: np.ndarray) -> np.ndarray:
    """The definitions, for maps with channels last; a vector is pooled already."""
    if x.ndim == 2:
        return x
    if pool == "mean":
        return x.mean((1, 2))
    if pool == "max":
        return x.max((1, 2))
    size = int(pool[4:])
    h, w = x.shape[1:3]
    edges = [
        [(i * extent // size, -(-(i + 1) * extent // size)) for i in range(size)] for extent in (h, w)
    ]  # adaptive bins: floor and ceiling, so that they may overlap
    bins = [[x[:, a:b, c:d].mean((1, 2)) for c, d in edges[1]] for a, b in edges[0]]
    return np.stack([np.stack(row, 1) for row in bins], 1).transpose(0, 3, 1, 2).reshape(len(x), -1)


def test_the_units_of_the_small_network(backbone: Backbone) -> None:
    assert backbone.units == ("first", "second", "mix", "penultimate", "head")
    assert backbone.shapes == {
        "first": (6, 16, 16),
        "second": (8, 8, 4),
        "mix": (8, 8, 5),
        "penultimate": (5,),
        "head": (2,),
    }


@pytest.mark.parametrize("pool", ["mean", "max", "grid1", "grid2", "grid3", "grid8"])
def test_a_pooling_is_what_its_definition_says(backbone: Backbone, tmp_path: Path, pool: str) -> None:
    """Float32 sums of up to 256 values against float64: 1e-5 of the largest is far above their rounding."""
    store = extract(backbone, pictures(7), tmp_path / "s", pool=pool)
    for unit, maps in maps_of(backbone, 7).items():
        found, expected = store.features(unit, "pictures"), by_definition(pool, maps)
        assert found.shape == expected.shape, unit
        assert np.abs(found.numpy() - expected).max() <= 1e-5 * np.abs(expected).max(), unit


def test_whole_and_flat_maps_are_the_networks_own_numbers(backbone: Backbone, tmp_path: Path) -> None:
    store = extract(backbone, pictures(7), tmp_path / "s", pool=["none", "flatten"], engine=FIRST)
    x = torch.stack([backbone.preprocessing(pictures(7).image(i)) for i in range(7)])
    for unit in ("first", "second", "mix", "penultimate"):
        with torch.no_grad():
            expected = backbone.chain.run(x, None, unit).numpy()
        assert np.array_equal(store.features(unit, "pictures", pool="none").numpy(), expected)
        assert np.array_equal(store.features(unit, "pictures", pool="flatten").numpy(), expected.reshape(7, -1))


def test_a_map_of_one_pixel_is_a_vector(tmp_path: Path) -> None:
    """Some networks end with pooling to 1 × 1: a grid for all units must not fail there."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 2, 1), nn.Flatten())
    backbone = featstore.load_backbone(module, preprocessing=PLAIN)
    assert backbone.shapes == {"0": (6, 8, 8), "penultimate": (6, 1, 1), "head": (2,)}
    store = extract(backbone, pictures(4), tmp_path / "s", pool=["grid2", "mean"])
    vectors = [store.features("penultimate", "pictures", pool=pool).numpy() for pool in ("grid2", "mean")]
    assert vectors[0].shape == (4, 6)
    assert np.array_equal(*vectors)


def test_several_poolings_come_from_one_pass(backbone: Backbone, tmp_path: Path) -> None:
    split, first = pictures(20), backbone.module.get_submodule("first")
    with Calls(first) as calls:
        store = extract(backbone, split, tmp_path / "s", pool=("mean", "max", "grid2"), units=["first", "second"])
        assert (calls.n_batches, calls.n_images) == (3, 20)
    entries = {(e.unit, e.pool): e.shape for e in store.entries()}
    assert entries == {
        ("first", "grid2"): (20, 24),
        ("first", "max"): (20, 6),
        ("first", "mean"): (20, 6),
        ("second", "grid2"): (20, 16),
        ("second", "max"): (20, 4),
        ("second", "mean"): (20, 4),
    }
    alone = extract(backbone, split, tmp_path / "t", pool="max", units="first")
    assert np.array_equal(alone.features("first", split).numpy(), store.features("first", split, pool="max").numpy()), (
        "what is captured beside must not matter"
    )
    with pytest.raises(featstore.Ambiguous, match=r"3 matrices of unit 'first'.*pool='max', shape"):
        store.features("first", split)


def generalized_mean(x: torch.Tensor, axis: int) -> torch.Tensor:
    """A pooling of the user's."""
    return x.clamp(min=1e-6).pow(3).movedim(axis + 1, 1).flatten(2).mean(2).pow(1 / 3)


def own_pool(x: torch.Tensor, axis: int) -> torch.Tensor:
    return x.movedim(axis + 1, 1).flatten(1)[:, :3]


def test_a_function_is_a_pooling(backbone: Backbone, tmp_path: Path) -> None:
    store = extract(backbone, pictures(7), tmp_path / "s", pool=[own_pool, "max"], units=["first", "mix"], engine=FIRST)
    maps = maps_of(backbone, 7)
    assert np.array_equal(
        store.features("first", "pictures", pool=own_pool).numpy(), maps["first"][:, 0, :3, 0].astype(np.float32)
    )
    names = {e.pool for e in store.entries()}
    assert names == {"max", pool_name(own_pool)}
    assert pool_name(own_pool).startswith("test_poolings:own_pool#")
    with Calls(backbone.module.get_submodule("first")) as calls:
        extract(backbone, pictures(7), store, pool="test_poolings:own_pool", units=["first", "mix"])
        assert calls.n_images == 0, "named as on the command line it is the same pooling"


def viewing(output: torch.Tensor, axis: int) -> torch.Tensor:
    return output.view(len(output), -1)[:, :8]


def test_a_function_may_view_its_map(backbone: Backbone, tmp_path: Path) -> None:
    """It sees the order in memory that it knows, whatever order the network works in."""
    store = extract(backbone, pictures(7), tmp_path / "s", pool=[viewing, "flatten"], units="first")
    found = store.features("first", "pictures", pool=viewing).numpy()
    assert np.array_equal(found, store.features("first", "pictures", pool="flatten").numpy()[:, :8])


def test_a_pooling_is_identified_by_what_it_does() -> None:
    """A changed function with the old features would be found under them: source and version are part of the name."""
    namespace: dict[str, Any] = {"__name__": "mine"}
    exec("def unread(x, axis):\n    return x.flatten(1)", namespace)
    factor = 2.0
    refused = {
        "a lambda has no name": lambda x, axis: x.flatten(1),
        "it reads variables .*factor": _closing_over(factor),
        "its source cannot be read": namespace["unread"],
        "it is a Conv2d": nn.Conv2d(1, 1, 1),
        "default arguments": _with_default,
    }
    for why, function in refused.items():
        with pytest.raises(IdentityError, match=f"cannot be identified: .*{why}.*version='…'"):
            as_poolings(function)
        named = [featstore.pooling(function, version=v).name for v in ("1", "1", "2")]
        assert named[0] == named[1] != named[2]
    assert pool_name(own_pool) != pool_name(generalized_mean)
    changed = {"own_pool": "3", "generalized_mean": "1"}
    assert len({featstore.pooling(own_pool, version=v).name for v in changed.values()}) == 2


def test_featstores_names_are_featstores() -> None:
    for name in ("mean", "grid2"):
        with pytest.raises(IdentityError, match=f"called '{name}' and is not featstore's"):
            as_poolings(Pooling(name, own_pool))
        (known,) = as_poolings(name)
        assert as_poolings([known, name]) == (known,)


def _closing_over(factor: float) -> Any:
    def scaled(x: torch.Tensor, axis: int) -> torch.Tensor:
        return x.flatten(1) * factor

    return scaled


def _with_default(x: torch.Tensor, axis: int, weights: Any = torch) -> torch.Tensor:
    return x.flatten(1)


def test_an_edited_source_is_another_pooling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    names = []
    for k in (1, 2):
        (tmp_path / "my_pools.py").write_text(f"def head(x, axis):\n    return x.flatten(1)[:, :{k}]\n")
        importlib.invalidate_caches()
        sys.modules.pop("my_pools", None)
        import linecache

        linecache.clearcache()
        names.append(as_poolings("my_pools:head")[0].name)
    sys.modules.pop("my_pools", None)
    assert names[0] != names[1]


def test_what_cannot_be_pooled_is_refused_before_anything_runs(backbone: Backbone, tmp_path: Path) -> None:
    split, root = pictures(3), tmp_path / "s"
    with Calls(backbone.module.get_submodule("first")) as calls:
        with pytest.raises(UnknownName, match=r"no pooling called 'map'.*'none' keeps the whole map"):
            extract(backbone, split, root, pool="map")
        with pytest.raises(BadInput, match="unit 'second' gives maps of 8 × 8: a grid of 9 × 9 would only repeat"):
            extract(backbone, split, root, pool="grid9")
        with pytest.raises(BadInput, match=r"unit 'first' of Small gives 6 × 16 × 16 without a class token .*: none"):
            extract(backbone, split, root, pool="token")
        with pytest.raises(BadInput, match=r"function of the user's.*Pass the function itself"):
            extract(backbone, split, root, pool=pool_name(own_pool))
        with pytest.raises(BadInput, match="no pooling was asked for"):
            extract(backbone, split, root, pool=[])
        with pytest.raises(BadInput, match=r"made \(4,\) of an output of shape \(2, 8, 8, 4\) of unit 'second'"):
            extract(backbone, split, root, pool=Pooling("sum", lambda x, axis: x.sum((0, 1, 2))), units="second")
        assert calls.n_images == 0
    odd = Pooling("odd", lambda x, axis: x.flatten(1)[:, : 2 if float(x.detach().abs().sum()) == 0 else 3])
    with pytest.raises(BadInput, match=r"pooled by 'odd' gave \(3, 3\) for 3 images, and \(3, 2\) was announced"):
        extract(backbone, split, root, pool=odd, units="first")


def vit() -> Backbone:
    """A vision transformer of 4 × 4 patches of 8 pixels, two blocks, and a class token."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    module = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=5, reg_tokens=3
    )
    for parameter in (module.cls_token, module.reg_token, module.pos_embed):
        assert parameter is not None
        nn.init.normal_(parameter)
    return featstore.load_backbone(module.eval(), preprocessing=PLAIN)


def test_the_class_token_is_the_one_in_front(tmp_path: Path) -> None:
    backbone, split = vit(), pictures(5)
    assert backbone.units == ("patch_embed", "blocks.0", "blocks.1", "penultimate", "head")
    assert token_units(backbone.chain) == ("patch_embed", "blocks.0", "blocks.1")
    assert backbone.shapes["blocks.0"] == (1 + 3 + 16, 24)
    store = extract(backbone, split, tmp_path / "s", pool=["token", "mean"])
    x = torch.stack([PLAIN(split.image(i)) for i in range(5)])
    tokens: dict[str, torch.Tensor] = {}
    module: Any = backbone.module
    for i in (0, 1):
        module.blocks[i].register_forward_hook(lambda m, a, out, i=i: tokens.update({f"blocks.{i}": out.clone()}))
    with torch.no_grad():
        features = module.forward_head(module.forward_features(x), pre_logits=True)
    for unit, output in tokens.items():
        assert np.array_equal(store.features(unit, split, pool="token").numpy(), output[:, 0].numpy())
        assert np.allclose(store.features(unit, split, pool="mean").numpy(), output.mean(1).numpy(), atol=1e-6)
    assert np.array_equal(store.features("penultimate", split, pool="token").numpy(), features.numpy())
    first = store.features("patch_embed", split, pool="token").numpy()
    assert np.array_equal(first, np.broadcast_to(first[:1], first.shape)), "before the blocks no image has reached it"
    with pytest.raises(BadInput, match="tokens and no map, of which there is no 2 × 2 grid"):
        extract(backbone, split, store, pool="grid2")


@pytest.fixture
def with_maps(backbone: Backbone, tmp_path: Path) -> Store:
    return extract(backbone, pictures(40), tmp_path / "maps", pool="none", dtype="float32", block_rows=16)


def test_a_second_pooling_needs_no_pass(
    backbone: Backbone, with_maps: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither is an image read. Sums may be in another order: 1e-6 of the largest is a few roundings of float32."""
    split, pools = pictures(40), ["mean", "max", "grid2", "flatten", own_pool]
    direct = extract(backbone, split, tmp_path / "direct", pool=pools, dtype="float32")
    planned = featstore.plan(backbone, split, with_maps, pool=pools, dtype="float32")
    assert planned.n_images == 0
    assert not planned.is_done
    assert "pooled from stored maps, no images" in str(planned)
    with Calls(backbone.module.get_submodule("first")) as calls:
        extract(backbone, split, with_maps, pool=pools, dtype="float32", progress=True, batch_size=7)
        assert calls.n_images == 0
    assert "of first, second, mix, penultimate, pooled from stored maps" in capsys.readouterr().err
    for unit in ("first", "second", "mix", "penultimate"):
        for pool in pools:
            found, expected = (s.features(unit, split, pool=pool).numpy() for s in (with_maps, direct))
            assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max(), (unit, pool)
            if pool in ("max", "flatten", own_pool):
                assert np.array_equal(found, expected), (unit, pool)
    assert with_maps.verify() == []


def test_a_unit_without_a_map_needs_the_pass(backbone: Backbone, tmp_path: Path) -> None:
    split, first = pictures(10), backbone.module.get_submodule("first")
    store = extract(backbone, split, tmp_path / "s", pool="none", units="first")
    with Calls(first) as calls:
        extract(backbone, split, store, pool="mean", units=["first", "second"])
        assert calls.n_images == 10
    with Calls(first) as calls:
        extract(backbone, pictures(10, seed=1), store, pool="max", units="first")
        assert calls.n_images == 10, "maps of other images say nothing about these"


@pytest.mark.parametrize(
    ("stored", "wanted", "pool", "runs"),
    [
        ("float16", "float16", "max", False),
        ("float16", "float16", "mean", True),
        ("float16", "float32", "max", True),
        ("bfloat16", "bfloat16", "max", False),
        ("bfloat16", "float16", "flatten", True),
        ("float32", "float16", "mean", False),
        ("float32", "float16", "none", False),
        ("float32", "bfloat16", "grid2", False),
    ],
)
def test_rounded_maps_serve_where_rounding_does_not_matter(
    backbone: Backbone, tmp_path: Path, stored: str, wanted: str, pool: str, runs: bool
) -> None:
    """A mean of rounded values is not the rounded mean. Whether the network runs or not, the features are the same."""
    split = pictures(12)
    store = extract(backbone, split, tmp_path / "s", pool="none", dtype=stored)
    with Calls(backbone.module.get_submodule("first")) as calls:
        extract(backbone, split, store, pool=pool, dtype=wanted)
        assert calls.n_images == (12 if runs else 0)
    direct = extract(backbone, split, tmp_path / "t", pool=pool, dtype=wanted)
    for unit in ("first", "mix", "penultimate"):
        found = store.features(unit, split, pool=pool, dtype=wanted).numpy().astype(np.float64)
        expected = direct.features(unit, split).numpy().astype(np.float64)
        if pool in ("max", "flatten", "none") or runs:
            assert np.array_equal(found, expected), unit
        else:  # sums in another order may round to the neighbour
            step = {"float16": 2**-10, "bfloat16": 2**-7}[wanted]
            assert np.abs(found - expected).max() <= step * np.abs(expected).max(), unit


def test_a_deterministic_pass_is_pooled_by_selection_alone(backbone: Backbone, tmp_path: Path) -> None:
    """Its features are promised to the bit, and sums over a stored map may be in another order."""
    split = pictures(9)
    store = extract(backbone, split, tmp_path / "s", pool="none", deterministic=True)
    for pool, runs in (("max", 0), ("mean", 9)):
        with Calls(backbone.module.get_submodule("first")) as calls:
            extract(backbone, split, store, pool=pool, deterministic=True)
            assert calls.n_images == runs, pool


def test_a_damaged_map_is_not_pooled(backbone: Backbone, with_maps: Store) -> None:
    chunk = sorted(with_maps.root.glob("*/arrays/*/data.zarr/c.0.0.0.0"))[0]
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(featstore.CorruptChunk, match="rows 0 to"):
        extract(backbone, pictures(40), featstore.open_store(with_maps.root), pool="mean")
    with Calls(backbone.module.get_submodule("first")) as calls:
        extract(backbone, pictures(40), with_maps, pool=["none", "mean"], repair=True)
        assert calls.n_images > 0, "what is damaged comes from the images"
    assert with_maps.verify() == []


def test_poolings_of_half_precision_outputs_are_float32(backbone: Backbone, tmp_path: Path) -> None:
    """Under autocast a pooling that multiplies would compute in bfloat16 otherwise."""

    def weighted(x: torch.Tensor, axis: int) -> torch.Tensor:
        flat = x.movedim(axis + 1, 1).flatten(2)
        return flat @ torch.linspace(0, 1, flat.shape[2])

    split = pictures(6)
    pools = [featstore.pooling(weighted, version="1"), "none"]
    store = extract(backbone, split, tmp_path / "s", pool=pools, units="first", precision="amp-bf16")
    maps = store.features("first", split, pool="none").numpy()
    assert maps.dtype == np.float32
    expected = maps.reshape(6, 6, -1).astype(np.float64) @ np.linspace(0, 1, 256)
    found = store.features("first", split, pool=pools[0]).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
