"""PACS, MNIST, SVHN and QuickDraw: the official files in miniature, and the real data of ``../shared`` where it is."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torchvision
from miniatures import labels_of, named_labels, photo, write
from scipy.io import savemat

from featstore import BadInput, MissingData, load_split
from featstore.datasets.drawings import DRAWN, read_idx

# ---- PACS


def pacs(root: Path) -> None:
    names = ["dog/1.jpg", "dog/2.jpg", "horse/1.jpg", "horse/2.jpg"]
    write(root, {f"kfold/{d}/{n}": photo(zlib.crc32(f"{d}{n}".encode())) for d in ("photo", "sketch") for n in names})
    lists = {"train": ["dog/1.jpg 1", "horse/1.jpg 5"], "crossval": ["dog/2.jpg 1"], "test": [f"{n} 1" for n in names]}
    for d in ("photo", "sketch"):
        write(root / "pacs_label", {f"{d}_{k}_kfold.txt": "".join(f"{d}/{n}\n" for n in v) for k, v in lists.items()})


def test_pacs_with_the_authors_lists(tmp_path: Path) -> None:
    pacs(tmp_path / "PACS")
    sketch = load_split("pacs:train:sketch", data_root=tmp_path)
    assert named_labels(sketch) == {"dog/1.jpg": "dog", "horse/1.jpg": "horse"}
    assert load_split("pacs:val:photo", data_root=tmp_path).ids.tolist() == ["dog/2.jpg"]
    assert len(load_split("pacs:test:photo", data_root=tmp_path)) == 4
    assert len(load_split("pacs:all", data_root=tmp_path)) == 4
    with pytest.raises(MissingData, match=r"cartoon, cartoon\.zip not found"):
        load_split("pacs:all:cartoon", data_root=tmp_path)
    write(tmp_path / "PACS/pacs_label", {"photo_crossval_kfold.txt": "photo/dog/9.jpg 1\n"})
    with pytest.raises(BadInput, match=r"names 'dog/9\.jpg', and there is no such image"):
        load_split("pacs:val:photo", data_root=tmp_path)


def test_pacs_of_the_shared_data(shared: Path) -> None:
    """Sizes as published, and as the README of the data counts them."""
    from featstore.datasets.catalogue import find_record

    root = shared / "data"
    for domain in ("art_painting", "cartoon", "sketch"):
        whole = load_split(f"pacs:all:{domain}", data_root=root)
        assert len(whole) == find_record("pacs").sizes[f"all:{domain}"]
        parts = [load_split(f"pacs:{which}:{domain}", data_root=root) for which in ("train", "test")]
        assert sorted(i for part in parts for i in part.ids) == whole.ids.tolist()
    assert np.bincount(labels_of(whole)).tolist() == [772, 740, 753, 608, 816, 80, 160]
    with pytest.raises(MissingData, match="photo"):
        load_split("pacs:all:photo", data_root=root)


# ---- MNIST


def idx(values: np.ndarray) -> bytes:
    return (
        struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    )


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_of_idx_files(tmp_path: Path, zipped: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    labels = np.array([3, 0, 9, 1, 1, 4, 5], np.uint8)
    for part, rows in (("train", slice(5)), ("t10k", slice(5, None))):
        for kind, values in (("images-idx3", images[rows]), ("labels-idx1", labels[rows])):
            content = gzip.compress(idx(values)) if zipped else idx(values)
            write(tmp_path / "MNIST/raw", {f"{part}-{kind}-ubyte{'.gz' if zipped else ''}": content})
    train, test = (load_split(f"mnist:{which}", data_root=tmp_path) for which in ("train", "test"))
    assert train.ids.tolist() == [f"train/{i:05d}" for i in range(5)]
    assert (labels_of(train), labels_of(test)) == ([3, 0, 9, 1, 1], [4, 5])
    assert np.array_equal(np.asarray(test.image(1)), images[6])
    if not zipped:
        theirs = torchvision.datasets.MNIST(tmp_path, train=True)
        assert np.array_equal(np.asarray(theirs[2][0]), np.asarray(train.image(2)))
        assert [theirs[i][1] for i in range(5)] == labels_of(train)


def test_idx_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "x-ubyte"
    for content, text in (
        (b"", "not an idx file"),
        (b"\0\0\x0d\1\0\0\0\1xxxx", "not an idx file"),
        (idx(np.zeros((3, 4), np.uint8))[:-1], "announces 12 bytes and holds 11"),
        (idx(np.zeros(2, np.uint8))[:6], "not an idx file"),
    ):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=text):
            read_idx(path)
    (tmp_path / "x.gz").write_bytes(gzip.compress(idx(np.zeros(9, np.uint8)))[:-9])
    with pytest.raises(BadInput, match="cannot be read"):
        read_idx(tmp_path / "x.gz")


def test_a_gzip_that_unpacks_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featstore.datasets.drawings.MAX_IDX_BYTES", 10_000)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(10_001)))
    with pytest.raises(BadInput, match="unpacks to more than 10000 bytes"):
        read_idx(tmp_path / "bomb.gz")


def test_parts_of_mnist_are_those_of_the_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first images are val; 25 of 55 of every class of the others are source; nothing is in two of them."""
    monkeypatch.setattr("featstore.datasets.drawings.N_MNIST_VAL", 20)
    labels = np.concatenate([np.arange(20) % 10, np.repeat(np.arange(10), 55)]).astype(np.uint8)
    names = {"images-idx3": np.zeros((len(labels), 28, 28), np.uint8), "labels-idx1": labels}
    write(tmp_path / "mnist", {f"train-{kind}-ubyte": idx(values) for kind, values in names.items()})
    val, source, target = (load_split(f"mnist:{which}", data_root=tmp_path) for which in ("val", "source", "target"))
    assert val.ids.tolist() == [f"train/{i:05d}" for i in range(20)]
    assert np.bincount(labels_of(source)).tolist() == [25] * 10
    assert np.bincount(labels_of(target)).tolist() == [30] * 10
    assert len({*val.ids, *source.ids, *target.ids}) == len(labels)


def test_mnist_of_the_shared_data(shared: Path) -> None:
    """A copy sorted by class has the official splits, but no first 5,000 that were a sample of all digits."""
    root = shared / "data"
    train, test = (load_split(f"mnist:{which}", data_root=root) for which in ("train", "test"))
    assert (len(train), len(test)) == (60_000, 10_000)
    assert np.bincount(labels_of(test))[0] == 980
    with pytest.raises(BadInput, match=r"of the classes \[0\] only.* not in the order of the official files"):
        load_split("mnist:val", data_root=root)


# ---- SVHN, QuickDraw


def svhn(root: Path) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 5), dtype=np.uint8)
    for which, n in (("train", 5), ("test", 2)):
        labels = np.array([[1], [10], [9], [2], [10]][:n], np.uint8)
        savemat(root / f"{which}_32x32.mat", {"X": pixels[..., :n], "y": labels}, do_compression=which == "train")
    return pixels


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The label 10 is the digit 0; val is the beginning of train and target the rest."""
    pixels = svhn(tmp_path)
    monkeypatch.setattr("featstore.datasets.matlab.N_SVHN_VAL", 2)
    train, val, target = (load_split(f"svhn:{w}", data_root=tmp_path) for w in ("train", "val", "target"))
    assert labels_of(train) == [1, 0, 9, 2, 0]
    assert train.class_name(0) == "0"
    assert [*val.ids, *target.ids] == train.ids.tolist()
    assert len(val) == 2
    monkeypatch.setattr(torchvision.datasets.svhn, "check_integrity", lambda *a: True)  # ours is no official file
    theirs = torchvision.datasets.SVHN(tmp_path, split="train")
    assert np.array_equal(np.asarray(train.image(4)), np.asarray(theirs[4][0]))
    assert theirs.labels.tolist() == labels_of(train)
    savemat(tmp_path / "test_32x32.mat", {"X": pixels[:16], "y": [[1]] * 5})
    with pytest.raises(BadInput, match=r"\(32, 32, 3, n\)"):
        load_split("svhn:test", data_root=tmp_path)


def test_quickdraw(tmp_path: Path) -> None:
    drawings = {c: np.random.default_rng(k).integers(0, 256, (180, 784), dtype=np.uint8) for k, c in enumerate(DRAWN)}
    (tmp_path / "quickdraw").mkdir()
    for name, pixels in drawings.items():
        np.save(tmp_path / f"quickdraw/{name}.npy", pixels)
    parts = {w: load_split(f"quickdraw:{w}", data_root=tmp_path) for w in ("source", "train", "val", "test", "all")}
    assert {w: len(s) for w, s in parts.items()} == {"source": 630, "train": 540, "val": 90, "test": 270, "all": 1620}
    four = [set(parts[w].ids) for w in ("source", "train", "val", "test")]
    assert sum(map(len, four)) == len(set.union(*four))
    test = parts["test"]
    row = int(str(test.ids[7]).rpartition("/")[2])
    assert np.array_equal(np.asarray(test.image(7)).ravel(), drawings[str(test.ids[7]).partition("/")[0]][row])
    assert np.bincount(labels_of(test)).tolist() == [30] * 9
    inverted = load_split("quickdraw:test+invert()", data_root=tmp_path)
    assert np.array_equal(np.asarray(inverted.image(0)), 255 - np.asarray(test.image(0)))
    np.save(tmp_path / "quickdraw/cat.npy", np.zeros((3, 100), np.uint8))
    with pytest.raises(BadInput, match="does not hold bitmaps"):
        load_split("quickdraw:train", data_root=tmp_path)
    np.save(tmp_path / "quickdraw/cat.npy", np.array([{}], dtype=object))
    with pytest.raises(BadInput, match="not an npy file"):
        load_split("quickdraw:train", data_root=tmp_path)
