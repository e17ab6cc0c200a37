"""The six data sets of Fang et al. in miniature: official files, and the authors' own splits to the row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures import labels_of, named_labels, photo, photos, write
from PIL import Image

from featstore import BadInput, BadLabels, MissingData, UnreadableImage, load_split
from featstore.datasets.competitions import held_rows


def drawn_by_the_authors(labels: list[int], n_classes: int, seed: int) -> list[int]:
    """The rule of the authors' code, written out in plain Python: rows of val."""
    stream = np.random.RandomState(seed)  # np.random.seed(seed) and np.random.choice are this stream
    rows: list[int] = []
    for c in range(n_classes):
        of_class = [i for i, label in enumerate(labels) if label == c]
        rows += stream.choice(of_class, int(0.2 * len(of_class)), replace=False).tolist()
    return sorted(rows)


@pytest.mark.parametrize("seed", [414, 42])
def test_held_rows_are_the_authors(seed: int) -> None:
    labels = np.random.default_rng(0).integers(0, 5, 400).tolist()
    assert np.flatnonzero(held_rows(np.array(labels), seed)).tolist() == drawn_by_the_authors(labels, 5, seed)


@pytest.mark.parametrize(
    ("name", "folder", "head", "end"),
    [("aptos", "aptos2019", "id_code,diagnosis", ".png"),
     ("cassava", "cassava-leaf-disease-classification", "image_id,label", "")],
)  # fmt: skip
def test_aptos_and_cassava(tmp_path: Path, name: str, folder: str, head: str, end: str) -> None:
    labels = [0] * 12 + [1, 2, 3, 4, 0, 2] * 3
    names = [f"x{i * 7919 % 1000:03d}{'' if end else '.jpg'}" for i in range(len(labels))]
    lines = [f"{n},{label}" for n, label in zip(names, labels, strict=True)]
    write(tmp_path / folder, {"train.csv": "\n".join([head, *lines]) + "\n"})
    write(tmp_path / folder, photos("train_images", [f"{n}{end}" for n in names], "PNG"))
    train, val, every = (load_split(f"{name}:{w}", data_root=tmp_path) for w in ("train", "val", "all"))
    held = drawn_by_the_authors(labels, 5, 414)
    assert val.ids.tolist() == [f"{names[i]}{end}" for i in held]
    assert sorted([*train.ids, *val.ids]) == sorted(every.ids)
    assert labels_of(every) == labels
    assert len(every.classes) == 5
    assert every.image(0).size == (12, 9)
    write(tmp_path / folder, {"train.csv": f"{head}\n../../x,0\n"})
    with pytest.raises(BadInput, match="leads out of"):
        load_split(f"{name}:all", data_root=tmp_path)
    write(tmp_path / folder, {"train.csv": f"{head}\nx,mild\n"})
    with pytest.raises(BadLabels, match="'mild', which is not a whole number"):
        load_split(f"{name}:all", data_root=tmp_path)
    write(tmp_path / folder, {"train.csv": f"{head}\nx,999999999999\ny,0\n"})
    with pytest.raises(BadLabels, match="run from 0 to 999999999999"):
        load_split(f"{name}:all", data_root=tmp_path)
    write(tmp_path / folder, {"train.csv": "id,grade\nx,0\n"})
    with pytest.raises(BadInput, match=r"has the columns id, grade, and .* is missing"):
        load_split(f"{name}:all", data_root=tmp_path)


def test_eurosat(tmp_path: Path) -> None:
    """Rows are the files in the order of their names as text: AnnualCrop_10 comes before AnnualCrop_2."""
    sizes = {"AnnualCrop": 12, "Forest": 11, "SeaLake": 5}
    names = [f"{c}/{c}_{i}.jpg" for c, n in sizes.items() for i in range(1, n + 1)]
    write(tmp_path, photos("eurosat/2750", names))
    names.sort()
    labels = [list(sizes).index(n.partition("/")[0]) for n in names]
    held = drawn_by_the_authors(labels, 3, 42)
    assert load_split("eurosat:val", data_root=tmp_path).ids.tolist() == [names[i] for i in held]
    assert len(load_split("eurosat:train", data_root=tmp_path)) == 28 - len(held)
    assert load_split("eurosat:all", data_root=tmp_path).classes == tuple(sizes)


def test_melanoma(tmp_path: Path) -> None:
    """Whole folds of each year, one stream of random numbers for both; duplicates (fold -1) in neither."""
    rows = {year: [(f"I{year}{i:03d}", i % 5 == 0, i % 11 - 1) for i in range(60)] for year in (2020, 2019)}
    for year, found in rows.items():
        text = "image_name,target,sex,tfrecord\n" + "".join(f"{n},{int(t)},male,{f}\n" for n, t, f in found)
        write(tmp_path / f"melanoma/melanoma-{year}", {"train.csv": text})
        write(tmp_path / f"melanoma/melanoma-{year}", photos("train", [f"{n}.jpg" for n, _, _ in found[:3]]))
    stream = np.random.RandomState(23)
    expected = []
    for year in (2020, 2019):
        chosen = stream.choice(list(range(10)), size=8, replace=False).tolist()
        expected += [f"melanoma-{year}/train/{n}.jpg" for n, _, f in rows[year] if f in chosen]
    train, val, every = (load_split(f"melanoma:{w}", data_root=tmp_path) for w in ("train", "val", "all"))
    assert train.ids.tolist() == expected
    assert not set(train.ids) & set(val.ids)
    assert len(train) + len(val) == len(every) == sum(f >= 0 for found in rows.values() for _, _, f in found)
    assert (every.metric, every.classes) == ("roc_auc", ("benign", "malignant"))
    assert labels_of(every)[:5] == [0, 0, 0, 0, 1]
    assert every.image(0).size == (12, 9)


# ---- Human Protein Atlas


def hpa(root: Path) -> dict[str, np.ndarray]:
    rows = [("a-1", "16 0", "train"), ("b-2", "25", "val"), ("c-3", "0", "test_val")]
    write(root, {"split.stratified.small.0.csv": "Id,Target,Split\n" + "".join(f"{i},{t},{s}\n" for i, t, s in rows)})
    write(root, {"train.csv": "Id,Target\n" + "".join(f"{i},{t}\n" for i, t, _ in rows)})
    pixels = {}
    for k, (name, _, _) in enumerate(rows):
        pixels[name] = np.random.default_rng(k).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    return pixels


def test_hpa_of_one_file_per_stain(tmp_path: Path) -> None:
    pixels = hpa(tmp_path / "hpa")
    (tmp_path / "hpa/train").mkdir()
    for name, four in pixels.items():
        for k, stain in enumerate(("red", "green", "blue", "yellow")):
            Image.fromarray(four[:, :, k]).save(tmp_path / f"hpa/train/{name}_{stain}.png")
    train = load_split("hpa:train", data_root=tmp_path)
    assert train.ids.tolist() == ["a-1"]
    assert train.labels is not None
    assert np.flatnonzero(train.labels[0]).tolist() == [0, 16]
    assert (train.class_name(16), train.metric) == ("cytokinetic bridge", "macro_f1")
    assert np.array_equal(np.asarray(train.image(0)), pixels["a-1"][:, :, :3])
    every = load_split("hpa:all", data_root=tmp_path)
    assert every.ids.tolist() == ["a-1", "b-2", "c-3"]
    (tmp_path / "hpa/train/b-2_green.png").unlink()
    with pytest.raises(UnreadableImage, match="b-2_green"):
        every.image(1)


def test_hpa_of_merged_files(tmp_path: Path) -> None:
    pixels = hpa(tmp_path / "hpa")
    (tmp_path / "hpa/rgby/train").mkdir(parents=True)
    for name, four in pixels.items():
        Image.fromarray(four).save(tmp_path / f"hpa/rgby/train/{name}.png")
    (tmp_path / "splits").mkdir()
    (tmp_path / "hpa/split.stratified.small.0.csv").rename(tmp_path / "splits/list")
    with pytest.raises(MissingData, match=r"split\.stratified\.small\.0\.csv not found"):
        load_split("hpa:val", data_root=tmp_path)
    (tmp_path / "splits/hpa").mkdir()
    (tmp_path / "splits/list").rename(tmp_path / "splits/hpa/split.stratified.small.0.csv")
    val = load_split("hpa:val", data_root=tmp_path)
    assert np.array_equal(np.asarray(val.image(0).convert("RGBA")), pixels["b-2"])
    write(tmp_path / "hpa", {"train.csv": "Id,Target\na-1,28\n"})
    with pytest.raises(BadLabels, match="the label 28; there are 0 to 27"):
        load_split("hpa:all", data_root=tmp_path)


# ---- camera traps


def annotation_file(images: list[tuple[str, str]], found: list[tuple[str, int]]) -> str:
    names = {1: "opossum", 3: "raccoon", 30: "empty", 99: "rodent"}
    ids = (1, 3, 5, 6, 7, 8, 9, 10, 11, 16, 21, 30, 33, 34, 51, 99)
    content: dict[str, Any] = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "seq_id": s} for i, s in images],
        "annotations": [{"image_id": i, "category_id": c, "bbox": [0, 0, 1, 1]} for i, c in found],
        "categories": [{"id": c, "name": names.get(c, f"animal {c}")} for c in reversed(ids)],
    }
    return json.dumps(content)


def cct20(root: Path) -> None:
    lists = {
        "train": annotation_file(
            [("a", "s1"), ("b", "s2"), ("c", "s3"), ("d", "s4")],
            [("a", 1), ("b", 99), ("b", 99), ("c", 30), ("d", 1), ("d", 3)],
        ),
        "cis_val": annotation_file([("e", "s1"), ("f", "s9")], [("e", 3), ("f", 99)]),
    }
    write(root / "eccv_18_annotation_files", {f"{k}_annotations.json": v for k, v in lists.items()})
    write(root, photos("eccv_18_all_images_sm", [f"{n}.jpg" for n in "abcdef"]))


def test_cct20(tmp_path: Path) -> None:
    cct20(tmp_path / "CCT-20")
    train = load_split("cct20:train", data_root=tmp_path)
    assert named_labels(train) == {
        "a.jpg": "opossum", "b.jpg": "rodent", "b.jpg#2": "rodent", "d.jpg": "opossum", "d.jpg#2": "raccoon",
    }  # fmt: skip
    assert (len(train.classes), labels_of(train)[1]) == (15, 14), "empty images are left out and are no class"
    assert train.samples.read(1) == train.samples.read(2)
    once = load_split("cct20:train:images", data_root=tmp_path)
    assert named_labels(once) == {"a.jpg": "opossum", "b.jpg": "rodent"}, "an image of two animals has no single label"
    assert load_split("cct20:cis_val", data_root=tmp_path).ids.tolist() == ["e.jpg", "f.jpg"]
    assert load_split("cct20:cis_val_clean", data_root=tmp_path).ids.tolist() == ["f.jpg"], (
        "e is of a sequence in train"
    )
    with pytest.raises(BadInput, match=r"cis_test_annotations\.json is not an annotation file"):
        load_split("cct20:cis_test", data_root=tmp_path)
    write(
        tmp_path / "CCT-20/eccv_18_annotation_files",
        {"cis_test_annotations.json": '{"images": [], "annotations": [{}]}'},
    )
    with pytest.raises(BadInput, match="not an annotation file"):
        load_split("cct20:cis_test", data_root=tmp_path)


def test_bgr_is_what_the_authors_networks_saw(tmp_path: Path) -> None:
    """cv2.imread gives blue first; as a shift it is part of the identity."""
    cct20(tmp_path / "CCT-20")
    plain, swapped = (load_split(f"cct20:cis_val{end}", data_root=tmp_path) for end in ("", "+bgr()"))
    assert np.array_equal(np.asarray(swapped.image(0)), np.asarray(plain.image(0))[:, :, ::-1])
    assert plain.digest().content_digest != swapped.digest().content_digest


def test_an_image_that_is_missing_is_named_when_it_is_read(tmp_path: Path) -> None:
    write(
        tmp_path / "aptos2019",
        {"train.csv": "id_code,diagnosis\nhere,0\ngone,1\n", "train_images/here.png": photo(0, "PNG")},
    )
    split = load_split("aptos:all", data_root=tmp_path)
    with pytest.raises(UnreadableImage, match=r"gone\.png cannot be read: No such file"):
        split.image(1)
