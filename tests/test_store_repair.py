"""Repair and recheck: do damaged rows come back from the images, and is it noticed when the network says otherwise?

Real networks over real images; the store's own names lead back to what made it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from toys import tree_bytes

import featstore
from featstore import Entry, IdentityError, Split, open_store
from featstore.cli import main
from featstore.datasets.arrays import ArraySamples

MODEL, SPLIT = "featstore:digits_net", "digits:test#per_class(10,seed=0)"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 100 digits in four chunks per unit."""
    root = tmp_path_factory.mktemp("repair") / "s"
    split, backbone = featstore.load_split(SPLIT), featstore.load_backbone(MODEL)
    featstore.extract(backbone, split, root, block_rows=32, batch_size=16, progress=False)
    return root


@pytest.fixture
def feats(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    shutil.copytree(made, tmp_path / "s")
    return tmp_path / "s"


def entry_of(root: Path, unit: str) -> Entry:
    return next(e for e in open_store(root).entries() if e.unit == unit)


def folder_of(root: Path, unit: str) -> Path:
    entry = entry_of(root, unit)
    return root / entry.pass_id / "arrays" / entry.array_id


def without_cache(root: Path) -> dict[str, bytes]:
    return {k: v for k, v in tree_bytes(root).items() if not k.startswith("cache/")}


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[9] ^= 4
    path.write_bytes(raw)


DAMAGES = {
    "flipped bit": lambda array: flip(array / "data.zarr" / "c.1.0"),
    "missing": lambda array: (array / "data.zarr" / "c.2.0").unlink(),
    "truncated": lambda array: (array / "data.zarr" / "c.0.0").write_bytes(b"12"),
    "empty": lambda array: (array / "data.zarr" / "c.3.0").write_bytes(b""),
    "swapped": lambda array: shutil.copy(array / "data.zarr" / "c.0.0", array / "data.zarr" / "c.1.0"),
    "manifest edited": lambda array: (array / "manifest.json").write_text("{}"),
    "zarr.json edited": lambda array: (array / "data.zarr" / "zarr.json").write_text("{"),
    "samples cut short": lambda array: (array.parents[1] / "samples.npz").write_bytes(b"PK"),
    "labels cut short": lambda array: (array.parents[1] / "targets" / "labels.npz").write_bytes(b"PK"),
    "split.json cut short": lambda array: (array.parents[1] / "split.json").write_text('{"na'),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_repair_brings_back_the_same_bytes(feats: Path, damage: str) -> None:
    """By the names in the store alone, to the bit, and no other file is written anew."""
    before = without_cache(feats)
    array = folder_of(feats, "conv2")
    keep = array.parents[1] / "arrays" / entry_of(feats, "conv1").array_id / "data.zarr" / "c.0.0"
    untouched = keep.stat().st_mtime_ns
    DAMAGES[damage](array)
    given = {"splits": [featstore.load_split(SPLIT)]} if damage == "split.json cut short" else {}
    done = featstore.repair(feats, progress=False, **given)  # type: ignore[arg-type]
    assert len(done.found) >= 1
    assert done.remaining == ()
    assert done.n_changed == 0
    assert without_cache(feats) == before
    assert keep.stat().st_mtime_ns == untouched
    assert featstore.repair(feats, progress=False).found == ()


def test_an_array_that_has_lost_both_descriptions(feats: Path) -> None:
    """Its zarr.json still says what it is. How its rows were cut into chunks is not known any more; the numbers come back."""
    expected = open_store(feats).features("conv2", SPLIT).numpy()
    array = folder_of(feats, "conv2")
    for name in ("manifest.json", "array.json"):
        (array / name).write_text("")
    assert featstore.repair(feats, progress=False).remaining == ()
    assert np.array_equal(open_store(feats).features("conv2", SPLIT).numpy(), expected)


def test_only_damaged_rows_go_through_the_network(feats: Path) -> None:
    array = folder_of(feats, "penultimate")
    flip(array / "data.zarr" / "c.1.0")
    backbone, n_images = featstore.load_backbone(MODEL), [0]
    backbone.module.get_submodule("conv1").register_forward_hook(lambda m, args, out: n_images.append(len(args[0])))
    n_images.clear()  # loading runs the network once
    done = featstore.repair(feats, backbones=[backbone], progress=False)
    assert ([p.rows for p in done.found], sum(n_images)) == ([(32, 64)], 32)


def test_a_damaged_key_needs_what_it_described(feats: Path) -> None:
    """The digest of the folder tells whether what is given is what it was made of."""
    before = without_cache(feats)
    key = folder_of(feats, "conv1").parents[1] / "key.json"
    key.write_text(key.read_text().replace('"fp32"', '"tf32"'))
    done = featstore.repair(feats, progress=False)
    assert "Give the network and the split" in done.remaining[0].reason
    key.unlink()
    given = {"backbones": [featstore.load_backbone(MODEL)], "splits": [featstore.load_split(SPLIT)]}
    other = [featstore.load_split("digits:val")]
    assert featstore.repair(feats, **{**given, "splits": other}, progress=False).remaining != ()  # type: ignore[arg-type]
    assert featstore.repair(feats, **given, progress=False).remaining == ()  # type: ignore[arg-type]
    assert without_cache(feats) == before


def in_memory(seed: int = 0) -> Split:
    images = np.random.default_rng(seed).integers(0, 256, (40, 8, 8, 1), np.uint8)
    return Split("mine", np.array([f"{i}" for i in range(40)]), None, (), ArraySamples(images, "mine"))


def test_another_network_or_other_images_repair_nothing(tmp_path: Path) -> None:
    root = tmp_path / "s"
    backbone = featstore.load_backbone(MODEL)
    featstore.extract(backbone, in_memory(), root, progress=False)
    flip(folder_of(root, "conv1") / "data.zarr" / "c.0.0")
    before = without_cache(root)
    other = featstore.load_backbone(MODEL, weights=None, seed=3)
    for given, said in (
        ({}, "called 'mine', are not at hand"),
        ({"splits": [in_memory(1)]}, "called 'mine', are not at hand"),
    ):
        done = featstore.repair(root, progress=False, **given)  # type: ignore[arg-type]
        assert said in done.remaining[0].reason
    trained = tmp_path / "t"
    featstore.extract(other, in_memory(), trained, progress=False)
    (trained / open_store(trained).passes()[0].id / "arrays").joinpath(
        entry_of(trained, "conv1").array_id, "data.zarr", "c.0.0"
    ).unlink()
    assert featstore.repair(trained, splits=[in_memory()], progress=False).remaining == (), (
        "the seed is in its provenance"
    )
    assert without_cache(root) == before
    assert featstore.repair(root, splits=[in_memory()], progress=False).remaining == ()


def test_recheck_confirms_what_the_network_says(feats: Path) -> None:
    split, backbone = featstore.load_split(SPLIT), featstore.load_backbone(MODEL)
    featstore.extract(backbone, split, feats, dtype="float32", progress=False, batch_size=7)
    featstore.extract(backbone, split, feats, dtype="bfloat16", progress=False, deterministic=True)
    checks = featstore.recheck(feats, 12)
    assert len(checks) == 9
    assert all(c.is_good and c.n == 12 for c in checks), [str(c) for c in checks]
    assert "allowed: 0.0001" in str(checks[0])


def test_recheck_finds_features_of_something_else(feats: Path) -> None:
    """Written whole, with good checksums, by code that was wrong: only the network can tell."""
    store = open_store(feats)
    split = featstore.load_split(SPLIT)
    folder, key = store.passes()[0], store.passes()[0].key()
    array = folder.manifest(entry_of(feats, "conv2").array_id).array
    wrong = store.features("conv2", split).numpy()
    wrong[[5, 6]] = wrong[[6, 5]]
    shutil.rmtree(folder.array_path(array.digest))
    with store.writing(key, split, dict(folder.provenance())) as session:
        session.begin([array], 32)
        for block in session.missing_blocks():
            session.write(block, {array: wrong[block.start : block.stop]})
        session.commit()
    assert open_store(feats).verify() == []
    checks = {c.where.split("'")[1]: c for c in featstore.recheck(feats, 1000)}
    assert checks["conv1"].is_good
    assert set(checks["conv2"].wrong) == set(split.ids[[5, 6]].tolist())
    assert "2 are not what the network says" in str(checks["conv2"])


def test_the_commands(feats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(feats), "--recompute", "5"]) == 0
    out = capsys.readouterr().out
    assert out.count("5 images again, largest difference beyond rounding") == 3
    flip(folder_of(feats, "conv1") / "data.zarr" / "c.1.0")
    assert main(["verify", str(feats)]) == 1
    assert f"`featstore repair {feats}` computes damaged rows again" in capsys.readouterr().err
    assert main(["repair", str(feats), "--quiet", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert ([p["rows"] for p in said["found"]], said["remaining"], said["n_changed"]) == ([[32, 64]], [], 0)
    assert main(["repair", str(feats), "--quiet"]) == 0
    assert capsys.readouterr().out == "nothing is damaged\n"
    flip(folder_of(feats, "conv1") / "data.zarr" / "c.1.0")
    names = folder_of(feats, "conv1").parents[1] / "split.json"
    names.write_text('{"names": ["digits:val"]}\n')
    assert main(["repair", str(feats), "--quiet"]) == 1
    assert "'digits:val' has other images now" in capsys.readouterr().err
    assert main(["repair", str(feats), "--quiet", "--backbone", MODEL, "--split", SPLIT]) == 0
    assert capsys.readouterr().out.startswith("repaired: rows 32 to 63 of unit 'conv1'")


def test_a_split_and_network_by_other_names_are_refused_in_words(feats: Path) -> None:
    names = folder_of(feats, "conv1").parents[1] / "split.json"
    names.write_text('{"names": ["nowhere:at all"]}\n')
    (check, *_) = featstore.recheck(feats, 3)
    assert not check.is_good
    assert "not computed again: the images of pass" in str(check)
    assert "'nowhere:at all': there is no" in str(check)
    names.write_text('{"names": ["digits:val"]}\n')
    with pytest.raises(IdentityError, match=r"the split 'digits:val' in .* is not the one asked for"):
        open_store(feats).features("conv1", featstore.load_split("digits:val"))
