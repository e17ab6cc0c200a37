"""Caltech Camera Traps, CCT-20 (Beery et al. 2018): animals at places seen in training (cis) and not (trans)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.datasets.official import Wanted, inside
from featstore.errors import BadInput

if TYPE_CHECKING:
    from featstore.splits import Split

__all__ = ["cct20"]

CATEGORIES = (1, 3, 5, 6, 7, 8, 9, 10, 11, 16, 21, 33, 34, 51, 99)
"""Numbers of the categories in the annotation files, in the order of the classes. 30, images without an animal, is
left out, as in Fang et al."""
FILES = {
    "train": "train", "cis_val": "cis_val", "cis_val_clean": "cis_val", "cis_test": "cis_test", "trans_val": "trans_val",
    "trans_test": "trans_test",
}  # fmt: skip


def cct20(wanted: Wanted) -> Split:
    """CCT-20, of the small images and the annotation files of the paper.

    ``annotations``: one sample for each annotation of an animal, so that an image with several has several samples, as
    in Fang et al.; ``images``: every image once, those that show animals of several kinds left out.
    ``cis_val_clean`` is cis_val without the images of sequences (bursts of one camera) that are in train, too.
    """
    from featstore.datasets.folders import FileSamples

    root = wanted.place(
        "CCT-20", "cct20", "caltech_camera_traps", "", needs=("eccv_18_annotation_files", "eccv_18_all_images_sm")
    )
    lists = root / "eccv_18_annotation_files"
    found = _read(lists / f"{FILES[wanted.which]}_annotations.json")
    called = {c["id"]: str(c["name"]) for c in found["categories"]}
    absent = [c for c in CATEGORIES if c not in called]
    if absent:
        raise BadInput(
            f"the annotation files of {lists} do not name category {absent[0]}, which is one of CCT-20's 15."
        )
    pairs = [(str(a["image_id"]), a["category_id"]) for a in found["annotations"] if a["category_id"] in CATEGORIES]
    if wanted.which == "cis_val_clean":
        pairs = _without_sequences(pairs, found, _read(lists / "train_annotations.json"))
    if wanted.variant == "images":
        pairs = _once(pairs)
    names = {str(i["id"]): str(i["file_name"]) for i in found["images"]}
    images = root / "eccv_18_all_images_sm"
    files = [inside(names.get(image, f"{image}.jpg"), images) for image, _ in pairs]
    labels = np.array([CATEGORIES.index(c) for _, c in pairs], np.int64)
    return wanted.split(FileSamples(images, files), _unique(files), labels, [called[c] for c in CATEGORIES])


def _unique(files: list[str]) -> list[str]:
    """Return ids: the file's name, with ``#2``, ``#3`` … for its further annotations."""
    seen: dict[str, int] = {}
    ids = []
    for file in files:
        seen[file] = seen.get(file, 0) + 1
        ids.append(file if seen[file] == 1 else f"{file}#{seen[file]}")
    return ids


def _once(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    kinds: dict[str, set[Any]] = {}
    for image, category in pairs:
        kinds.setdefault(image, set()).add(category)
    return [(image, next(iter(found))) for image, found in kinds.items() if len(found) == 1]


def _without_sequences(pairs: list[tuple[str, Any]], found: Any, train: Any) -> list[tuple[str, Any]]:
    seen = {i["seq_id"] for i in train["images"]}
    leaks = {str(i["id"]) for i in found["images"] if i["seq_id"] in seen}
    return [(image, category) for image, category in pairs if image not in leaks]


def _read(path: Path) -> Any:
    """Return an annotation file in the form of COCO."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        shaped = (
            all(isinstance(a["category_id"], int) and "image_id" in a for a in found["annotations"])
            and all("id" in i and "file_name" in i and "seq_id" in i for i in found["images"])
            and all(isinstance(c["id"], int) and "name" in c for c in found["categories"])
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(f"{path} is not an annotation file of CCT-20 that can be read: {error}.") from error
    if not shaped:
        raise BadInput(f"{path} is not an annotation file of CCT-20: ids, file names or sequences are missing.")
    return found
