"""Damage to what a store says about its features, not to the features: named with the way out, and mended by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toys import Toy, fill, toy, tree_bytes

from featstore import FeatstoreError, StoreFormat, open_store
from featstore.matrix import FeatureMatrix


def read(made: Toy) -> FeatureMatrix:
    """Read all that is known about a matrix, with nothing remembered."""
    found = open_store(made.store.root).features("body", "toy/train")
    assert found.ids is not None
    assert found.labels is not None
    return found


def described(made: Toy, name: str) -> Path:
    """The file called `name`, in the pass or, failing that, beside the chunks of a unit."""
    of_pass = made.store.root / made.key.digest / name
    return of_pass if of_pass.exists() else made.folder("body") / name


FILES = ["key.json", "samples.npz", "split.json", "targets/labels.npz", "data.zarr/zarr.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["cut short", "empty"])
def test_a_damaged_description_is_named_and_mended(tmp_path: Path, name: str, how: str) -> None:
    """`verify` tells people to extract again with repair: that must help, to the same bytes, and without a forward pass."""
    made = toy(tmp_path / "s")
    path, before = described(made, name), tree_bytes(tmp_path / "s")
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2] if how == "cut short" else b"")
    assert open_store(tmp_path / "s").verify() != []
    if not name.endswith("zarr.json"):  # which only zarr reads
        with pytest.raises(FeatstoreError, match=r"(?s)edited.*--repair"):
            read(made)
    assert fill(open_store(tmp_path / "s"), made.split, made.features, repair=True) == 0
    assert open_store(tmp_path / "s").verify() == []
    read(made)
    assert tree_bytes(tmp_path / "s") == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("key.json", '{"format": 1}'),
        ("key.json", '{"format": 1, "pass": 3}'),
        ("split.json", "[]"),
        ("split.json", "{}"),
    ],
)
def test_a_description_of_something_else_is_refused(tmp_path: Path, name: str, text: str) -> None:
    """Valid JSON that is not ours."""
    made = toy(tmp_path / "s")
    described(made, name).write_text(text)
    with pytest.raises(FeatstoreError, match="edited"):
        read(made)


def test_labels_of_something_else_are_refused(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    np.savez(described(made, "targets/labels.npz"), other=np.arange(3))
    with pytest.raises(FeatstoreError, match=r"labels\.npz lacks what belongs into it.*--repair"):
        read(made)


def test_a_missing_list_of_samples_is_one_sentence(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    described(made, "samples.npz").unlink()
    with pytest.raises(FeatstoreError, match=r"samples\.npz is missing.*--repair"):
        read(made)


def test_a_damaged_format_file_says_what_belongs_there(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    path = tmp_path / "s" / "featstore.json"
    path.write_text("{")
    with pytest.raises(StoreFormat, match=r'write \{"format": 1\} into it'):
        open_store(tmp_path / "s")
    path.write_text('{"format": 1}')
    read(made)
