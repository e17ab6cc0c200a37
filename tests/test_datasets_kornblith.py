"""The twelve data sets of Kornblith et al. in miniature: ids, labels and class numbers are those of the official lists.

Where torchvision reads the same files, it is the other opinion: same images, same class numbers, in the same order.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from miniatures import labels_of, named_labels, photo, photos, write
from scipy.io import savemat

from featstore import BadInput, BadLabels, MissingData, Split, UnknownName, load_split
from featstore.datasets import matlab


def assert_same_as(split: Split, theirs: Any, *, names: bool = True) -> None:
    """Same number of samples, same pixels, same class numbers, in the same order."""
    assert len(split) == len(theirs)
    for i, label in enumerate(labels_of(split)):
        image, their_label = theirs[i]
        assert np.array_equal(np.asarray(split.image(i)), np.asarray(image))
        assert label == their_label
    if names:
        assert split.classes == tuple(theirs.classes)


# ---- lists


def food101(root: Path) -> None:
    names = {"train": ["waffles/10", "apple_pie/11", "apple_pie/12"], "test": ["apple_pie/7", "waffles/8"]}
    by_class = {
        part: {c: [n for n in listed if n.startswith(c)] for c in ("apple_pie", "waffles")}
        for part, listed in names.items()
    }
    write(root / "food-101", photos("images", [f"{n}.jpg" for listed in names.values() for n in listed]))
    write(root / "food-101/meta", {"classes.txt": "apple_pie\nwaffles\n"})
    for part, listed in by_class.items():
        write(root / "food-101/meta", {f"{part}.json": json.dumps(listed)})
        write(root / "food-101/meta", {f"{part}.txt": "\n".join(n for found in listed.values() for n in found) + "\n"})


def test_food101(tmp_path: Path) -> None:
    food101(tmp_path)
    train, test = (load_split(f"food101:{which}", data_root=tmp_path) for which in ("train", "test"))
    assert train.ids.tolist() == ["apple_pie/11.jpg", "apple_pie/12.jpg", "waffles/10.jpg"]
    assert test.ids.tolist() == ["apple_pie/7.jpg", "waffles/8.jpg"]
    assert (train.name, train.metric, train.classes) == ("food101:train", "accuracy", ("apple_pie", "waffles"))
    assert_same_as(train, torchvision.datasets.Food101(tmp_path, split="train"))


def test_dtd(tmp_path: Path) -> None:
    listed = {
        "train1": ["banded/a.jpg", "zigzagged/b.jpg"], "val1": ["zigzagged/c.jpg"], "test1": ["banded/d.jpg", "woven/e.jpg"],
        "train2": ["woven/e.jpg"], "val2": ["banded/d.jpg"], "test2": ["zigzagged/b.jpg"],
    }  # fmt: skip
    for root in (tmp_path / "dtd" / "dtd", tmp_path / "plain" / "dtd"):
        write(root, photos("images", sorted({n for names in listed.values() for n in names})))
        write(root / "labels", {f"{part}.txt": "\n".join(names) + "\n" for part, names in listed.items()})
    train = load_split("dtd:train", data_root=tmp_path)
    assert named_labels(train) == {"banded/a.jpg": "banded", "zigzagged/b.jpg": "zigzagged"}
    assert train.classes == ("banded", "woven", "zigzagged"), "a list that lacks a class does not renumber the others"
    assert load_split("dtd:trainval", data_root=tmp_path).ids.tolist() == listed["train1"] + listed["val1"]
    assert load_split("dtd:test:2", data_root=tmp_path / "plain").ids.tolist() == listed["test2"]
    assert_same_as(
        load_split("dtd:test:1", data_root=tmp_path), torchvision.datasets.DTD(tmp_path, split="test"), names=False
    )
    with pytest.raises(UnknownName, match=r"variant of dtd .* called '11'"):
        load_split("dtd:test:11", data_root=tmp_path)
    (tmp_path / "dtd/dtd/labels/val1.txt").unlink()
    with pytest.raises(BadInput, match=r"val1\.txt is missing"):
        load_split("dtd:trainval", data_root=tmp_path)


def aircraft(root: Path) -> None:
    write(root, photos("images", [f"{n}.jpg" for n in ("0056978", "1025794", "0000003", "0000004")]))
    write(root, {"variants.txt": "707-320\nDH-82\nF/A-18\n", "families.txt": "Boeing 707\nF/A-18\nTiger Moth\n"})
    listed = {"train": "1025794 707-320\n", "val": "0056978 F/A-18\n", "test": "0000003 DH-82\n0000004 707-320\n"}
    listed["trainval"] = listed["train"] + listed["val"]
    write(root, {f"images_variant_{part}.txt": text for part, text in listed.items()})
    write(root, {"images_family_test.txt": "0000003 Tiger Moth\n0000004 Boeing 707\n"})


def test_aircraft(tmp_path: Path) -> None:
    """Names of variants hold spaces and slashes; numbers of images begin with zeros."""
    aircraft(tmp_path / "fgvc-aircraft-2013b" / "data")
    for which in ("train", "val", "trainval", "test"):
        theirs = torchvision.datasets.FGVCAircraft(tmp_path, split=which, annotation_level="variant")
        assert_same_as(load_split(f"aircraft:{which}", data_root=tmp_path), theirs)
    trainval = load_split("aircraft:trainval", data_root=tmp_path)
    assert trainval.ids.tolist() == ["1025794.jpg", "0056978.jpg"]
    assert trainval.metric == "mean_per_class"
    family = load_split("aircraft:test:family", data_root=tmp_path)
    assert named_labels(family) == {"0000003.jpg": "Tiger Moth", "0000004.jpg": "Boeing 707"}
    write(tmp_path / "fgvc-aircraft-2013b/data", {"images_variant_test.txt": "0000003 Spitfire\n"})
    with pytest.raises(BadLabels, match="into the class 'Spitfire', which is none of its 3 classes"):
        load_split("aircraft:test", data_root=tmp_path)


def test_pets(tmp_path: Path) -> None:
    listed = {
        "trainval": "Abyssinian_100 1 1 1\nyorkshire_terrier_2 3 2 2\nbasset_hound_9 2 2 1\n",
        "test": "basset_hound_1 2 2 1\n",
    }
    names = [line.split()[0] for text in listed.values() for line in text.splitlines()]
    write(tmp_path / "oxford-iiit-pet", photos("images", [f"{n}.jpg" for n in names]))
    write(tmp_path / "oxford-iiit-pet/annotations", {f"{part}.txt": text for part, text in listed.items()})
    train, test = (load_split(f"pets:{which}", data_root=tmp_path) for which in ("trainval", "test"))
    assert_same_as(train, torchvision.datasets.OxfordIIITPet(tmp_path, split="trainval"), names=False)
    assert train.classes == ("Abyssinian", "basset hound", "yorkshire terrier")
    assert named_labels(test) == {"basset_hound_1.jpg": "basset hound"}
    assert test.classes == train.classes, "test alone names no class that it lacks"
    with pytest.raises(UnknownName, match="split of pets called 'train'"):
        load_split("pets:train", data_root=tmp_path)


@pytest.mark.parametrize("where", [".", "Partitions", "../Partitions"])
def test_sun397(tmp_path: Path, where: str) -> None:
    """The lists of the partition decide; images beyond them belong to no split."""
    root = tmp_path / "SUN397"
    names = ["a/abbey/sun_1.jpg", "a/abbey/sun_2.jpg", "a/apse/indoor/sun_3.jpg", "z/zoo/sun_4.jpg", "z/zoo/sun_5.jpg"]
    write(root, photos(".", names))
    write(root, {"ClassName.txt": "/a/abbey\n/a/apse/indoor\n/z/zoo\n"})
    write(
        root / where,
        {"Training_01.txt": "/a/apse/indoor/sun_3.jpg\n/z/zoo/sun_4.jpg\n", "Testing_01.txt": "/a/abbey/sun_1.jpg\n"},
    )
    write(root / where, {"Training_10.txt": "/z/zoo/sun_5.jpg\n"})
    train = load_split("sun397:train", data_root=tmp_path)
    assert named_labels(train) == {"a/apse/indoor/sun_3.jpg": "apse/indoor", "z/zoo/sun_4.jpg": "zoo"}
    assert labels_of(load_split("sun397:test", data_root=tmp_path)) == [0]
    assert load_split("sun397:train:10", data_root=tmp_path).ids.tolist() == ["z/zoo/sun_5.jpg"]
    theirs = torchvision.datasets.SUN397(tmp_path)
    assert tuple(theirs.classes) == train.classes
    with pytest.raises(MissingData, match=r"Testing_02\.txt not found.*Partitions.zip"):
        load_split("sun397:test:2", data_root=tmp_path)


def birdsnap(root: Path, present: list[str]) -> None:
    write(
        root,
        {"species.txt": "id\tcommon\tscientific\tdir\n2\tBlue Jay\tC. cristata\tBlue_Jay\n1\tAcorn W.\tM. f.\tAcorn\n"},
    )
    rows = [("Acorn/1.jpg", 1), ("Acorn/2.jpg", 1), ("Blue_Jay/3.jpg", 2), ("Blue_Jay/4.jpg", 2)]
    write(root, {"images.txt": "url\tmd5\tpath\tspecies_id\n" + "".join(f"http://x\tm\t{p}\t{k}\n" for p, k in rows)})
    write(root, {"test_images.txt": "path\nAcorn/2.jpg\nBlue_Jay/4.jpg\n"})
    write(root, photos("images", present))


def test_birdsnap_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    birdsnap(tmp_path / "a/birdsnap", ["Acorn/1.jpg", "Acorn/2.jpg", "Blue_Jay/3.jpg", "Blue_Jay/4.jpg"])
    train = load_split("birdsnap:train", data_root=tmp_path / "a")
    assert named_labels(train) == {"Acorn/1.jpg": "Acorn W.", "Blue_Jay/3.jpg": "Blue Jay"}
    assert capsys.readouterr().err == ""
    birdsnap(tmp_path / "b/birdsnap", ["Acorn/1.jpg", "Blue_Jay/4.jpg"])
    test = load_split("birdsnap:test", data_root=tmp_path / "b")
    assert named_labels(test) == {"Blue_Jay/4.jpg": "Blue Jay"}
    assert test.classes == train.classes
    said = capsys.readouterr().err
    assert "has 1 of the 2 images of its list" in said
    assert "1 of 2 classes are empty" in said


# ---- MATLAB


def flowers(root: Path) -> None:
    write(root, photos("jpg", [f"image_{i:05d}.jpg" for i in range(1, 8)]))
    savemat(root / "imagelabels.mat", {"labels": np.array([[77, 77, 1, 102, 1, 5, 8]], np.uint8)})
    sets = {"trnid": [[3, 1]], "valid": [[2, 7]], "tstid": [[4, 5, 6]]}
    savemat(root / "setid.mat", {k: np.array(v, np.uint16) for k, v in sets.items()})


def test_flowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """train is trnid and test is tstid: the large list is the test."""
    flowers(tmp_path / "flowers-102")
    monkeypatch.setattr(torchvision.datasets.flowers102, "check_integrity", lambda *a: True)  # ours is no official file
    for which in ("train", "val", "test"):
        theirs = torchvision.datasets.Flowers102(tmp_path, split=which)
        assert_same_as(load_split(f"flowers:{which}", data_root=tmp_path), theirs)
    assert load_split("flowers:trainval", data_root=tmp_path).ids.tolist() == [
        "image_00003.jpg", "image_00001.jpg", "image_00002.jpg", "image_00007.jpg"
    ]  # fmt: skip
    assert named_labels(load_split("flowers:val", data_root=tmp_path)) == {
        "image_00002.jpg": "passion flower",
        "image_00007.jpg": "bird of paradise",
    }
    savemat(tmp_path / "flowers-102/setid.mat", {"trnid": [[9]], "valid": [[2]], "tstid": [[4]]})
    with pytest.raises(BadLabels, match="names image 9, and 7 images have labels"):
        load_split("flowers:train", data_root=tmp_path)
    (tmp_path / "flowers-102/setid.mat").write_bytes(b"MATLAB 5.0 and no more")
    with pytest.raises(BadInput, match="not a MATLAB file"):
        load_split("flowers:train", data_root=tmp_path)


CARS = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012")


def annotations(rows: list[tuple[str, int]], name: str = "fname", **more: list[int]) -> np.ndarray:
    kinds = [(name, object), ("class", object), *((k, object) for k in more)]
    found = np.zeros((1, len(rows)), dtype=kinds)
    for i, (file, label) in enumerate(rows):
        found[0, i] = (file, np.uint8(label), *(np.uint8(v[i]) for v in more.values()))
    return found


def cars_devkit(root: Path, deeper: str = "") -> None:
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit/cars_meta.mat", {"class_names": np.array([CARS], object)})
    savemat(root / "devkit/cars_train_annos.mat", {"annotations": annotations([("00001.jpg", 2), ("00002.jpg", 3)])})
    savemat(root / "cars_test_annos_withlabels.mat", {"annotations": annotations([("00001.jpg", 1)])})
    write(root, photos(f"cars_train{deeper}", ["00001.jpg", "00002.jpg"]) | {f"cars_test{deeper}/00001.jpg": photo(5)})


def test_cars_of_the_devkit(tmp_path: Path) -> None:
    cars_devkit(tmp_path / "stanford_cars")
    train, test = (load_split(f"cars:{which}", data_root=tmp_path) for which in ("train", "test"))
    assert named_labels(train) == {"00001.jpg": CARS[1], "00002.jpg": CARS[2]}
    assert named_labels(test) == {"00001.jpg": CARS[0]}
    assert_same_as(train, torchvision.datasets.StanfordCars(tmp_path, split="train"))
    cars_devkit(tmp_path / "mirror", "/cars_train")
    assert load_split("cars:train", data_root=tmp_path / "mirror").image(0).size == (12, 9)
    (tmp_path / "stanford_cars/cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(
        MissingData, match=r"cars_test_annos_withlabels\.mat not found.*address of the authors .* is dead"
    ):
        load_split("cars:test", data_root=tmp_path)


def test_cars_of_one_table_and_of_folders(tmp_path: Path) -> None:
    rows = annotations(
        [("car_ims/1.jpg", 2), ("car_ims/2.jpg", 1), ("car_ims/3.jpg", 3)], "relative_im_path", test=[0, 1, 0]
    )
    write(tmp_path / "a", photos("car_ims", ["1.jpg", "2.jpg", "3.jpg"]))
    savemat(tmp_path / "a/cars_annos.mat", {"annotations": rows, "class_names": np.array([CARS], object)})
    assert named_labels(load_split("cars:train", data_root=tmp_path / "a")) == {
        "car_ims/1.jpg": CARS[1],
        "car_ims/3.jpg": CARS[2],
    }
    assert named_labels(load_split("cars:test", data_root=tmp_path / "a")) == {"car_ims/2.jpg": CARS[0]}
    (tmp_path / "b/cars/train").mkdir(parents=True)
    names = [f"Car {k:03d}" for k in range(196)]
    write(tmp_path / "b/cars/test", {f"{name}/2.jpg": photo(1) for name in names})
    assert named_labels(load_split("cars:test", data_root=tmp_path / "b")) == {f"{name}/2.jpg": name for name in names}
    shutil.rmtree(tmp_path / "b/cars/test" / names[0])
    with pytest.raises(BadInput, match=r"has 196 classes and .*test has 195 folders of them"):
        load_split("cars:test", data_root=tmp_path / "b")


# ---- VOC


def voc(root: Path) -> None:
    root = root / "VOCdevkit/VOC2007"
    listed = {
        "train": ["000001", "000003"],
        "val": ["000002"],
        "trainval": ["000001", "000002", "000003"],
        "test": ["000004"],
    }
    marks = {
        "000001": {"dog": 1, "person": 0},
        "000002": {"person": 1},
        "000003": {"cat": 1},
        "000004": {"tvmonitor": 0},
    }
    write(root, photos("JPEGImages", [f"{n}.jpg" for n in marks]))
    from featstore.datasets.voc import CLASSES

    for part, names in listed.items():
        write(root / "ImageSets/Main", {f"{part}.txt": "\n".join(names) + "\n"})
        for c in CLASSES:
            lines = [f"{n} {marks[n].get(c, -1):2d}\n" for n in names]
            write(root / "ImageSets/Main", {f"{c}_{part}.txt": "".join(lines)})


@pytest.mark.parametrize(("policy", "difficult"), [("negative", 0), ("positive", 1), ("ignored", 2), ("", 0)])
def test_voc_has_three_policies_for_difficult(tmp_path: Path, policy: str, difficult: int) -> None:
    voc(tmp_path)
    split = load_split(f"voc2007:trainval{':' if policy else ''}{policy}", data_root=tmp_path)
    assert split.ids.tolist() == ["000001.jpg", "000002.jpg", "000003.jpg"]
    assert split.labels is not None
    assert split.labels.shape == (3, 20)
    at = {name: k for k, name in enumerate(split.classes)}
    assert split.labels[0, at["dog"]] == 1
    assert split.labels[0, at["person"]] == difficult
    assert split.labels[1, at["person"]] == 1
    assert split.labels.sum() == 3 + difficult
    assert (split.metric, split.classes[0], split.classes[19]) == ("map11", "aeroplane", "tvmonitor")


def test_voc_policies_are_labels_of_the_same_images(tmp_path: Path) -> None:
    """One extraction serves all three: identity is that of ids and contents."""
    voc(tmp_path)
    found = [load_split(f"voc2007:test:{p}", data_root=tmp_path).digest() for p in ("negative", "positive", "ignored")]
    assert len({(d.ids_digest, d.content_digest) for d in found}) == 1


def test_voc_metric_takes_the_mark_of_difficult(tmp_path: Path) -> None:
    """What the loader calls difficult is what the metric leaves out."""
    import probe

    voc(tmp_path)
    split = load_split("voc2007:trainval:ignored", data_root=tmp_path)
    assert split.labels is not None
    scores = np.where(split.labels == 1, 1.0, 0.0)
    scores[split.labels == 2] = 9.0  # ranked first: as a negative it would cost precision
    assert probe.metrics.map11(split.labels, scores) == 1
    assert probe.metrics.average_precision(difficult="negative")(split.labels, scores) < 1


def test_voc_lists_that_disagree(tmp_path: Path) -> None:
    voc(tmp_path)
    path = tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/dog_val.txt"
    path.write_text("000009 -1\n")
    with pytest.raises(BadLabels, match="says nothing about image 000002"):
        load_split("voc2007:val", data_root=tmp_path)
    path.write_text("000002 2\n")
    with pytest.raises(BadLabels, match="not an image and -1, 0 or 1"):
        load_split("voc2007:val", data_root=tmp_path)


# ---- Caltech-101, CIFAR-100


def caltech(root: Path, background: bool = True) -> None:
    content = photo(1)
    sizes = {"accordion": 33, "BACKGROUND_Google": 40, "wrench": 31} if background else {"accordion": 33, "wrench": 31}
    write(root, {f"{c}/image_{i:04d}.jpg": content for c, n in sizes.items() for i in range(1, n + 1)})


def test_caltech_counts_its_background_and_draws_without_replacement(tmp_path: Path) -> None:
    caltech(tmp_path / "caltech101/101_ObjectCategories")
    train, test = (load_split(f"caltech101:{which}", data_root=tmp_path) for which in ("train", "test"))
    assert train.classes == ("BACKGROUND_Google", "accordion", "wrench")
    assert np.bincount(labels_of(train)).tolist() == [30, 30, 30]
    assert np.bincount(labels_of(test)).tolist() == [10, 3, 1]
    assert not set(train.ids) & set(test.ids)
    assert len(set(train.ids)) == 90
    other = load_split("caltech101:train:1", data_root=tmp_path)
    assert set(other.ids) != set(train.ids)
    assert load_split("caltech101:train:0", data_root=tmp_path).ids.tolist() == train.ids.tolist()
    caltech(tmp_path / "b/101_ObjectCategories", background=False)
    with pytest.raises(BadInput, match="none called BACKGROUND_Google"):
        load_split("caltech101:train", data_root=tmp_path / "b")


def cifar100(root: Path) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    fine, coarse = [f"fine{i}" for i in range(100)], [f"coarse{i}" for i in range(20)]
    root.mkdir(parents=True)
    (root / "meta").write_bytes(pickle.dumps({"fine_label_names": fine, "coarse_label_names": coarse}, protocol=2))
    for k, which in enumerate(("train", "test")):
        planes = pixels[2 * k : 2 * k + 2].transpose(0, 3, 1, 2).reshape(2, 3072)
        batch = {"fine_labels": [99, k], "coarse_labels": [19, k], "data": planes, "filenames": ["a", "b"]}
        (root / which).write_bytes(pickle.dumps(batch, protocol=2))
    return pixels


def test_cifar100(tmp_path: Path) -> None:
    pixels = cifar100(tmp_path / "cifar-100-python")
    train, test = (load_split(f"cifar100:{which}", data_root=tmp_path) for which in ("train", "test"))
    assert labels_of(train) == [99, 0]
    assert (len(train.classes), train.class_name(99)) == (100, "fine99")
    assert np.array_equal(np.asarray(test.image(1)), pixels[3])
    coarse = load_split("cifar100:test:coarse", data_root=tmp_path)
    assert (labels_of(coarse), len(coarse.classes)) == ([19, 1], 20)
    (tmp_path / "cifar-100-python/test").write_bytes(pickle.dumps({"data": pixels, "fine_labels": 3}))
    with pytest.raises(BadInput, match=r"must be \(n, 3072\)"):
        load_split("cifar100:test", data_root=tmp_path)


def test_names_of_flowers_are_torchvisions() -> None:
    assert tuple(torchvision.datasets.Flowers102.classes) == matlab.FLOWERS


@pytest.mark.parametrize(
    ("build", "spec", "path", "text"),
    [
        (food101, "food101:train", "food-101/meta/train.txt", "apple_pie/../../../secret\n"),
        (lambda root: aircraft(root / "fgvc-aircraft-2013b/data"), "aircraft:test",
         "fgvc-aircraft-2013b/data/images_variant_test.txt", "/etc/secret DH-82\n"),
        (voc, "voc2007:test", "VOCdevkit/VOC2007/ImageSets/Main/test.txt", "../../secret\n"),
    ],
)  # fmt: skip
def test_lists_cannot_lead_out_of_their_folder(
    tmp_path: Path, build: Callable[[Path], None], spec: str, path: str, text: str
) -> None:
    build(tmp_path)
    (tmp_path / path).write_text(text)
    if "voc" in spec:
        for marks in (tmp_path / path).parent.glob("*_test.txt"):
            marks.write_text(text.strip() + " 1\n")
    with pytest.raises(BadInput, match="leads out of"):
        load_split(spec, data_root=tmp_path)
