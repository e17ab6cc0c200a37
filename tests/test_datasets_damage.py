"""Whatever is damaged in a data set's files, one kind of error comes out: lists, tables, MATLAB, pickles, tar, parquet."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import test_datasets_domains as domains
import test_datasets_fang as fang
import test_datasets_kornblith as kornblith
import test_datasets_shards as shards
from miniatures import photos, write

from featstore import FeatstoreError, load_split

N_DAMAGES = 60


def mnist(root: Path) -> None:
    for part in ("train", "t10k"):
        write(root / "MNIST/raw", {f"{part}-images-idx3-ubyte": domains.idx(np.zeros((3, 28, 28), np.uint8))})
        write(root / "MNIST/raw", {f"{part}-labels-idx1-ubyte": domains.idx(np.arange(3, dtype=np.uint8))})


def pets(root: Path) -> None:
    write(root / "oxford-iiit-pet", photos("images", ["a_1.jpg", "b_1.jpg"]))
    write(
        root / "oxford-iiit-pet/annotations", {"trainval.txt": "#\na_1 1 1 1\nb_1 2 1 1\n", "test.txt": "a_1 1 1 1\n"}
    )


def hub(root: Path) -> None:
    shards.hub(
        pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed; the extra 'hf' brings it"),
        root / "hub",
    )


BUILT: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "food101": (kornblith.food101, "food101:train", "**/*.txt"),
    "aircraft": (lambda root: kornblith.aircraft(root / "data"), "aircraft:trainval", "**/*.txt"),
    "pets": (pets, "pets:trainval", "**/*.txt"),
    "birdsnap": (lambda root: kornblith.birdsnap(root, ["Acorn/1.jpg"]), "birdsnap:train", "*.txt"),
    "flowers": (lambda root: kornblith.flowers(root), "flowers:trainval", "*.mat"),
    "cars": (lambda root: kornblith.cars_devkit(root), "cars:train", "**/*.mat"),
    "svhn": (domains.svhn, "svhn:train", "*.mat"),
    "voc2007": (kornblith.voc, "voc2007:trainval", "**/*trainval.txt"),
    "cifar100": (lambda root: kornblith.cifar100(root / "cifar-100-python"), "cifar100:train", "**/*"),
    "hpa": (lambda root: (fang.hpa(root), (root / "train").mkdir()), "hpa:train", "*.csv"),
    "cct20": (lambda root: fang.cct20(root), "cct20:cis_val_clean", "**/*.json"),
    "pacs": (lambda root: domains.pacs(root / "PACS"), "pacs:train:photo", "**/*.txt"),
    "mnist": (mnist, "mnist:train", "**/*ubyte"),
    "webdataset": (lambda root: shards.shards(root / "wds"), "webdataset:{root}/wds", "**/*.tar"),
    "parquet": (hub, "parquet:{root}/hub:train", "**/*.parquet"),
}


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """Cut off, overwritten in a few places, with something inserted, or doubled."""
    at = int(generator.integers(0, len(content) + 1))
    kind = int(generator.integers(4))
    if kind == 0:
        return content[:at]
    if kind == 1:
        changed = bytearray(content)
        for place in generator.integers(0, len(content), 4).tolist():
            changed[place] = int(generator.integers(256))
        return bytes(changed)
    if kind == 2:
        inserts = [b"\0", b"\xff\xfe", b"../../x ", b"99999999999999999999 ", b'"', b"\t\n", b"-1 ", b",", b"nan,"]
        return content[:at] + inserts[int(generator.integers(len(inserts)))] + content[at:]
    return content + content[:at]


@pytest.mark.filterwarnings("ignore::Warning")  # of numpy and scipy, about what they find in damaged files
@pytest.mark.parametrize("name", BUILT)
def test_damage_gives_a_split_or_one_of_our_errors(name: str, tmp_path: Path) -> None:
    """A traceback of numpy, scipy, json or pyarrow is no message for users; and what loads can be asked for its images."""
    build, spec, pattern = BUILT[name]
    whole, root = tmp_path / "whole", tmp_path / "damaged"
    whole.mkdir()
    build(whole)
    generator = np.random.default_rng(0)
    paths = sorted(p.relative_to(whole) for p in whole.glob(pattern) if p.is_file())
    shutil.copytree(whole, root)
    n_refused = 0
    for _ in range(N_DAMAGES):
        path = paths[int(generator.integers(len(paths)))]
        (root / path).write_bytes(damaged((whole / path).read_bytes(), generator))
        try:
            split = load_split(spec.format(root=root), data_root=root)
            split.image(0)
        except FeatstoreError:
            n_refused += 1
        (root / path).write_bytes((whole / path).read_bytes())
    assert n_refused > 0
    assert len(load_split(spec.format(root=root), data_root=root)) > 0
