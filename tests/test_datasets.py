"""Data sets: read from the form in which they lie around, with stable ids; what is not there is said in a sentence."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featstore import BadInput, BadLabels, Split, UnknownName, UnreadableImage, load_split
from featstore.datasets.folders import ZipSamples

CLASSES = ("cat", "dog")


def encoded(value: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 5), (value, 0, 255 - value)).save(buffer, kind)
    return buffer.getvalue()


def members() -> dict[str, bytes]:
    """Return three images of cats and two of dogs by relative path, one of them deeper, and files that are no
    images."""
    images = {f"cat/{i}.png": encoded(i) for i in range(3)} | {
        "dog/deep/a.jpg": encoded(90, "JPEG"),
        "dog/b.PNG": encoded(91),
    }
    return images | {"readme.txt": b"hello", "cat/.hidden.png": b"", "cat/Thumbs.db": b"x"}


def write_folder(root: Path) -> Path:
    for name, content in members().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_zip(path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members().items():
            archive.writestr(prefix + name, content)
    return path


IDS = ["cat/0.png", "cat/1.png", "cat/2.png", "dog/b.PNG", "dog/deep/a.jpg"]


@pytest.mark.parametrize("form", ["folder", "zip", "wrapped zip"])
def test_image_folders(form: str, tmp_path: Path) -> None:
    """The same images have the same ids, labels and identity in a folder and in an archive, wherever it lies."""
    folder = load_split(f"imagefolder:{write_folder(tmp_path / 'here')}")
    if form == "folder":
        path = write_folder(tmp_path / "there")
    else:
        path = write_zip(tmp_path / "images.zip", "photos/" if form == "wrapped zip" else "")
    split = load_split(f"imagefolder:{path}")
    assert split.name == str(path)
    assert split.ids.tolist() == IDS
    assert split.classes == CLASSES
    assert split.labels is not None
    assert split.labels.tolist() == [0, 0, 0, 1, 1]
    assert split.image(1).getpixel((0, 0)) == (1, 0, 254)
    assert split.digest().content_digest == folder.digest().content_digest
    assert split.digest().ids_digest == folder.digest().ids_digest
    assert load_split(str(path)).digest().content_digest == folder.digest().content_digest, "a path needs no prefix"


def test_images_without_class_folders_have_no_labels(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(encoded(i))
    split = load_split(f"imagefolder:{tmp_path}")
    assert split.labels is None
    assert split.classes == ()
    assert split.ids.tolist() == ["0.png", "1.png"]


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        load_split(f"imagefolder:{tmp_path / 'nowhere'}")
    with pytest.raises(BadInput, match="holds no images"):
        load_split(f"imagefolder:{tmp_path}")
    write_folder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"class folders 'empty' .* hold no images"):
        load_split(f"imagefolder:{tmp_path}")
    (tmp_path / "empty").rmdir()
    (tmp_path / "loose.png").write_bytes(encoded(1))
    with pytest.raises(BadInput, match=r"1 images .* lie in no class folder \('loose.png'\) and 5 do"):
        load_split(f"imagefolder:{tmp_path}")
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(BadInput, match="not a zip archive"):
        load_split(f"imagefolder:{tmp_path / 'broken.zip'}")


def test_a_link_that_leads_back_up_ends(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "photos")
    (root / "dog" / "again").symlink_to(root, target_is_directory=True)
    assert load_split(f"imagefolder:{root}").ids.tolist() == IDS
    (root / "wolf").symlink_to(root / "dog", target_is_directory=True)
    assert load_split(f"imagefolder:{root}").ids.tolist() == [*IDS, "wolf/b.PNG", "wolf/deep/a.jpg"], (
        "a link elsewhere is followed"
    )


def test_damaged_images_are_named(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "photos")
    (root / "cat/1.png").write_bytes(encoded(1)[:40])
    (root / "cat/2.png").write_bytes(b"")
    split = load_split(f"imagefolder:{root}")
    for row, name in ((1, "1.png"), (2, "2.png")):
        with pytest.raises(UnreadableImage, match=name):
            split.image(row)
    (root / "cat/0.png").unlink()
    with pytest.raises(UnreadableImage, match=r"0\.png cannot be read"):
        split.image(0)


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    """A flipped bit in a member is found by the archive's checksum; a member that claims gigabytes is not unpacked."""
    path = write_zip(tmp_path / "images.zip")
    data = bytearray(path.read_bytes())
    at = data.find(members()["cat/1.png"])
    data[at + 30] ^= 1
    path.write_bytes(data)
    split = load_split(f"imagefolder:{path}")
    with pytest.raises(UnreadableImage, match=r"images\.zip/cat/1\.png cannot be read: Bad CRC"):
        split.image(1)
    info = data.find(b"PK\1\2")
    struct.pack_into("<I", data, info + 24, 2**31)  # the size that the directory claims
    path.write_bytes(data)
    with pytest.raises(UnreadableImage, match="unpacks to more than"):
        ZipSamples(path, ["cat/0.png"]).read(0)


def test_npz_of_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)
    labels = np.arange(12) % 3
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    split = load_split(f"npz:{tmp_path / 'a.npz'}")
    assert np.array_equal(np.asarray(split.image(7)), images[7])
    assert split.ids.tolist() == [f"{i:02d}" for i in range(12)]
    assert split.classes == ("0", "1", "2")
    np.savez_compressed(
        tmp_path / "b.npz",
        images=images[..., 0],
        labels=labels,
        ids=np.array(list("abcdefghijkl")),
        classes=["x", "y", "z"],
    )
    grey = load_split(f"npz:{tmp_path / 'b.npz'}")
    assert grey.ids[2] == "c"
    assert grey.classes == ("x", "y", "z")
    assert np.array_equal(np.asarray(grey.image(2)), images[2, :, :, 0])


def test_npz_of_image_files(tmp_path: Path) -> None:
    files = [encoded(i, "JPEG") for i in range(5)]
    offsets = np.cumsum([0, *map(len, files)])
    flat = np.frombuffer(b"".join(files), np.uint8)
    np.savez(tmp_path / "a.npz", jpeg=flat, offsets=offsets, labels=np.zeros((5, 2), np.uint8))
    split = load_split(f"npz:{tmp_path / 'a.npz'}")
    assert [split.samples.read(i) for i in range(5)] == files
    assert split.labels is not None
    assert split.labels.shape == (5, 2)
    np.savez(tmp_path / "b.npz", jpeg=flat, offsets=offsets[:-1])
    with pytest.raises(BadInput, match="do not run from 0 to"):
        load_split(f"npz:{tmp_path / 'b.npz'}")
    np.savez(tmp_path / "c.npz", jpeg=flat)
    with pytest.raises(BadInput, match="no list of 'offsets'"):
        load_split(f"npz:{tmp_path / 'c.npz'}")


def test_npz_files_that_cannot_be_used(tmp_path: Path) -> None:
    images = np.zeros((3, 4, 4), np.uint8)
    with pytest.raises(BadInput, match="there is no npz file"):
        load_split(f"npz:{tmp_path / 'nowhere.npz'}")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(BadInput, match=r"not an npz file") as found:
        load_split(f"npz:{tmp_path / 'text.npz'}")
    assert "pickle" not in str(found.value), "numpy's advice is to run what is in it"
    np.savez(tmp_path / "x.npz", pictures=images)
    with pytest.raises(BadInput, match="holds pictures, but neither 'images'"):
        load_split(f"npz:{tmp_path / 'x.npz'}")
    np.savez(tmp_path / "x.npz", images=images.astype(np.float32))
    with pytest.raises(BadInput, match="float32 of shape"):
        load_split(f"npz:{tmp_path / 'x.npz'}")
    np.savez(tmp_path / "x.npz", images=images, labels=[0, 1])
    with pytest.raises(BadLabels, match="3 images and 2 labels"):
        load_split(f"npz:{tmp_path / 'x.npz'}")
    np.savez(tmp_path / "x.npz", images=images, labels=[0, 1, 2], classes=["a", "b"])
    with pytest.raises(BadLabels, match="run from 0 to 2"):
        load_split(f"npz:{tmp_path / 'x.npz'}")
    np.savez(tmp_path / "x.npz", images=images, labels=[0, 1, 10**12])
    with pytest.raises(BadLabels, match="has the label 1000000000000"):
        load_split(f"npz:{tmp_path / 'x.npz'}")
    np.savez(tmp_path / "x.npz", images=images, labels=np.array([{}, {}, {}], dtype=object))
    with pytest.raises(BadInput, match=r"cannot be read|can be read"):
        load_split(f"npz:{tmp_path / 'x.npz'}")


def test_digits_are_two_domains_that_share_no_image() -> None:
    parts = {which: load_split(f"digits:{which}") for which in ("source", "train", "val", "test")}
    ids = [set(split.ids.tolist()) for split in parts.values()]
    assert sum(map(len, ids)) == len(set().union(*ids)) == 1797
    assert abs(len(parts["source"]) - 1797 / 2) < 10
    for split in parts.values():
        assert split.labels is not None
        assert np.bincount(split.labels).min() > 0, "every class is in every split"
    assert parts["train"].ids[:3].tolist() == ["digit0002", "digit0005", "digit0007"], "the same on every machine"
    from sklearn.datasets import load_digits

    image = np.asarray(load_split("digits:all").image(5), np.float64)
    assert np.abs(image * 16 / 255 - load_digits().images[5]).max() < 0.5 * 16 / 255 + 1e-9


def write_batches(folder: Path) -> np.ndarray:
    """Write a miniature in the official form: pickles of protocol 2 with a dict of data and labels; return the
    images."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    folder.mkdir(parents=True)
    for k, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        planes = images[2 * k : 2 * k + 2].transpose(0, 3, 1, 2).reshape(2, 3072)
        batch = {"batch_label": name, "labels": [k, 9 - k], "data": planes, "filenames": ["a.png", "b.png"]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return images


def test_cifar10_as_torchvision_downloads_it(tmp_path: Path) -> None:
    images = write_batches(tmp_path / "cifar-10-batches-py")
    train, test = (load_split(f"cifar10:{which}", data_root=tmp_path) for which in ("train", "test"))
    assert len(train) == 10
    assert np.array_equal(np.asarray(train.image(5)), images[5])
    assert np.array_equal(np.asarray(test.image(1)), images[11])
    assert train.labels is not None
    assert train.labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert train.classes[3] == "cat"
    assert test.ids.tolist() == ["test/00000", "test/00001"]


def test_cifar10_in_the_parts_of_royer_and_lampert(tmp_path: Path) -> None:
    """Batches 1 and 2, 3 and 4, and 5, under the ids that they have in train; nine classes without deer."""
    images = write_batches(tmp_path / "cifar-10-batches-py")
    train = load_split("cifar10:train", data_root=tmp_path)
    parts = [load_split(f"cifar10:{which}", data_root=tmp_path) for which in ("source", "target", "val")]
    assert [len(p) for p in parts] == [4, 4, 2]
    assert [i for p in parts for i in p.ids] == train.ids.tolist()
    assert np.array_equal(np.asarray(parts[1].image(2)), images[6])
    nine = load_split("cifar10:train:without_deer", data_root=tmp_path)
    assert nine.classes == ("airplane", "automobile", "bird", "cat", "dog", "frog", "horse", "ship", "truck")
    assert train.labels is not None
    assert nine.labels is not None
    by_name = {i: train.class_name(k) for i, k in zip(train.ids, train.labels, strict=True) if k != 4}
    assert {i: nine.class_name(k) for i, k in zip(nine.ids, nine.labels, strict=True)} == by_name
    np.savez(tmp_path / "train.npz", images=np.zeros((2, 32, 32, 3), np.uint8), labels=[0, 1])
    (tmp_path / "cifar-10-batches-py/data_batch_5").unlink()
    with pytest.raises(BadInput, match=r"data_batch_5 not found"):
        load_split("cifar10:val", data_root=tmp_path)
    with pytest.raises(BadInput, match="names no such class"):
        load_split("cifar10:train:without_deer", data_root=tmp_path)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil-was-here",)


def test_a_batch_that_wants_to_run_something_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_batches(tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(BadInput, match="it wants to call"):
        load_split("cifar10:test", data_root=tmp_path)
    assert not (tmp_path / "evil-was-here").exists()


def test_cifar10_as_folders_and_as_npz(tmp_path: Path) -> None:
    for name in "abcdefghij":
        write_folder(tmp_path / "a" / "test" / name)
    found = load_split("cifar10:test", data_root=tmp_path / "a")
    assert (len(found), found.classes) == (10 * len(IDS), tuple("abcdefghij"))
    shutil.rmtree(tmp_path / "a" / "test" / "j")
    with pytest.raises(BadInput, match=r"has 10 classes and .*test has 9 folders of them \(a, b, c …\): it is another"):
        load_split("cifar10:test", data_root=tmp_path / "a")
    (tmp_path / "b").mkdir()
    np.savez(tmp_path / "b" / "test.npz", images=np.zeros((4, 32, 32, 3), np.uint8), labels=[0, 1, 2, 3])
    assert load_split("cifar10:test", data_root=tmp_path / "b").name == "cifar10:test"
    with pytest.raises(BadInput, match="give --data-root"):
        load_split("cifar10:test")
    with pytest.raises(BadInput, match=r"no CIFAR-10 is at .* torchvision downloads"):
        load_split("cifar10:train", data_root=tmp_path / "b")
    with pytest.raises(UnknownName, match="'test'"):
        load_split("cifar10:tests", data_root=tmp_path / "b")


def test_the_shared_data_load(shared: Path) -> None:
    """Real data in the forms that ``../shared/data`` has them; counts from its README."""
    cifar = load_split("cifar10:test", data_root=shared / "data" / "cifar10")
    assert (len(cifar), cifar.classes[0], cifar.image(0).size) == (10_000, "airplane", (32, 32))
    mnist = load_split(f"npz:{shared / 'data/mnist/test.npz'}")
    assert (len(mnist), mnist.image(0).mode) == (10_000, "L")
    sketch = load_split(f"imagefolder:{shared / 'data/pacs/sketch.zip'}")
    assert sketch.labels is not None
    assert np.bincount(sketch.labels).tolist() == [772, 740, 753, 608, 816, 80, 160]
    assert sketch.image(0).size == (227, 227)


def a_split_of_my_own() -> Split:
    return load_split("digits:val")


def not_a_split() -> int:
    return 3


def test_functions_and_subsets_by_name() -> None:
    assert len(load_split(f"{__name__}:a_split_of_my_own")) == len(load_split("digits:val"))
    with pytest.raises(BadInput, match="returned a int"):
        load_split(f"{__name__}:not_a_split")
    with pytest.raises(UnknownName, match="a_split_of_my_own"):
        load_split(f"{__name__}:a_split_of_my")
    rest, held = load_split("digits:train").holdout(0.2, seed=3)
    by_name = load_split("digits:train#held(0.2,seed=3)")
    assert by_name.name == held.name
    assert by_name.ids.tolist() == held.ids.tolist()
    assert load_split("digits:train#rest(0.2,seed=3)").ids.tolist() == rest.ids.tolist()
    few = load_split("digits:train#per_class(3,seed=1)+blur(1.0)")
    assert few.name == "digits:train#per_class(3,seed=1)+blur(1.0)"
    assert (len(few), len(few.transforms)) == (30, 1)


def test_unknown_names_get_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownName) as error:
        load_split("digits:tarin")
    assert "train" in error.value.nearest
    with pytest.raises(UnknownName) as error:
        load_split("imagefolders:x/y")
    assert error.value.nearest[0] == "imagefolder"
    with pytest.raises(BadInput, match="write for example 'digits:train'"):
        load_split("digits")
    with pytest.raises(UnknownName, match="No folder, zip or npz"):
        load_split("nothing-of-that-name")
    with pytest.raises(BadInput, match="No module named 'nowhere'"):
        load_split("nowhere:function")
