"""Formats: is a store of an older version still read, and one of a newer version refused in words?

The store of format 1 is made here by hand, from the description of the format alone and without any of our code: it must
be readable for as long as this test exists.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from toys import Memory, array_key, features_of, fill, pass_key, toy_split, tree_bytes

from featstore import ArrayKey, PassKey, Split, StoreFormat, create_store, open_store

N, D, CHUNK_ROWS = 5, 3, 2
IDS = ("a/1.png", "a/2.png", "b/3.png", "b/é.png", "c/5.png")
CONTENTS = tuple(f"content {i}".encode() for i in range(N))
FEATURES = np.arange(N * D, dtype="<f4").reshape(N, D) / 7


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def compact(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def put_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def build_format_1(root: Path) -> tuple[str, str]:
    """Write a store of one matrix in three chunks; return the digests of its pass and of its array."""
    encoded = [name.encode() for name in IDS]
    digests = np.stack([np.frombuffer(hashlib.sha256(c).digest()[:16], np.uint8) for c in CONTENTS])
    lengths = np.array([N, *map(len, encoded)], "<i8").tobytes()
    network = {
        "backbone": "old:net", "weights_digest": "ab" * 16, "cut": "coarse:" + "cd" * 16, "precision": "fp32",
        "preprocessing": {"input_size": [8, 8], "mean": [0.5]}, "extractor_version": 1, "version": None,
    }  # fmt: skip
    samples = {
        "ids_digest": sha(lengths + b"".join(encoded))[:32],
        "content_digest": sha(digests.tobytes())[:32],
        "n": N,
    }
    key = {**network, **samples}
    pass_id = sha(compact({"format": 1, **key}))[:32]
    array = {"pass_digest": pass_id, "unit": "body", "pool": "mean", "dtype": "float32", "shape": [D]}
    array_id = sha(compact({"format": 1, **array}))[:32]
    put_json(root / "featstore.json", {"format": 1})
    folder = root / pass_id
    put_json(folder / "key.json", {"format": 1, "pass": key})
    put_json(folder / "split.json", {"names": ["old/train"]})
    text = np.frombuffer(b"".join(encoded), np.uint8)
    np.savez(folder / "samples.npz", ids=text, id_offsets=np.cumsum([0, *map(len, encoded)]), digests=digests)
    (folder / "targets").mkdir()
    np.savez(folder / "targets" / "labels.npz", labels=np.array([0, 0, 1, 1, 2]), classes=np.array(["a", "b", "c"]))
    place, crcs = folder / "arrays" / array_id, []
    data = place / "data.zarr"
    data.mkdir(parents=True)
    for k, start in enumerate(range(0, N, CHUNK_ROWS)):
        rows = np.full((CHUNK_ROWS, D), np.nan, "<f4")
        rows[: len(FEATURES[start : start + CHUNK_ROWS])] = FEATURES[start : start + CHUNK_ROWS]
        crcs.append(google_crc32c.value(rows.tobytes()))
        (data / f"c.{k}.0").write_bytes(rows.tobytes() + crcs[-1].to_bytes(4, "little"))
    zarr = {
        "zarr_format": 3, "node_type": "array", "shape": [N, D], "data_type": "float32", "fill_value": "NaN",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [CHUNK_ROWS, D]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "attributes": {"featstore": {**array, "array_digest": array_id}}, "storage_transformers": [],
    }  # fmt: skip
    put_json(data / "zarr.json", zarr)
    said = {"array": array, "chunk_rows": CHUNK_ROWS, "format": 1, "n": N}
    put_json(place / "array.json", {**said, "block_rows": CHUNK_ROWS})
    manifest = {**said, "crc32c": [f"{c:08x}" for c in crcs], "provenance": {"units": ["body"], "batch_size": 2}}
    put_json(place / "manifest.json", {**manifest, "self": sha(compact(manifest))})
    return pass_id, array_id


def test_a_store_of_format_1_stays_readable(tmp_path: Path) -> None:
    pass_id, array_id = build_format_1(tmp_path / "s")
    before = tree_bytes(tmp_path / "s")
    store = open_store(tmp_path / "s")
    assert store.verify() == []
    found = store.features("body", "old/train", backbone="old:net")
    assert np.array_equal(found.numpy(), FEATURES)
    assert np.array_equal(found.take(np.array([4, 0])), FEATURES[[4, 0]])
    assert np.array_equal(np.asarray(found.zarr[:]), FEATURES)
    assert found.ids.tolist() == list(IDS)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 0, 1, 1, 2]
    assert found.classes == ("a", "b", "c")
    (entry,) = store.entries()
    assert (entry.pass_id, entry.array_id, entry.is_complete) == (pass_id, array_id, True)
    split = Split("again", np.array(IDS), None, (), Memory(CONTENTS))
    assert np.array_equal(store.features("body", split).numpy(), FEATURES), "found by the contents of its images"
    assert tree_bytes(tmp_path / "s") == before, "reading changes nothing"


def test_a_store_of_format_1_may_be_added_to(tmp_path: Path) -> None:
    """What is there is recognised, so that it is not computed again; what is new joins it."""
    pass_id, _ = build_format_1(tmp_path / "s")
    key = PassKey.from_json(json.loads((tmp_path / "s" / pass_id / "key.json").read_text())["pass"])
    assert key.digest == pass_id
    split = Split("old/train", np.array(IDS), None, (), Memory(CONTENTS))
    old = ArrayKey(key.digest, "body", "mean", "float32", (D,))
    late = array_key(key, "late", 4, "bfloat16")
    store = open_store(tmp_path / "s")
    assert fill(store, split, {old: FEATURES, late: features_of(late, N)}, key=key) == 1
    assert np.array_equal(store.features("body", "old/train").numpy(), FEATURES)
    assert set(store.units("old/train")) == {"body", "late"}


@pytest.mark.parametrize("name", ["featstore.json", "key.json", "manifest.json"])
def test_a_newer_format_is_refused_politely(tmp_path: Path, name: str) -> None:
    """Nothing is guessed of what is not known, and nothing is written into it."""
    build_format_1(tmp_path / "s")
    (path,) = (tmp_path / "s").rglob(name)
    path.write_text(path.read_text().replace('"format": 1', '"format": 3'))
    before = tree_bytes(tmp_path / "s")
    words = r"is of format 3 .* up to 2: .*newer version. Update with `pip install -U featprobe`"
    with pytest.raises(StoreFormat, match=words):
        open_store(tmp_path / "s").features("body", "old/train")
    if name == "featstore.json":
        with pytest.raises(StoreFormat, match=words):
            create_store(tmp_path / "s")
        split = toy_split(3)
        with pytest.raises(StoreFormat, match=words):
            fill(create_store(tmp_path / "s"), split, {array_key(pass_key(split)): np.ones((3, 5), "f4")})
    assert tree_bytes(tmp_path / "s") == before
