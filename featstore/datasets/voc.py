"""PASCAL VOC 2007 classification (Everingham et al. 2007): 20 labels per image, some of them 'difficult'.

``ImageSets/Main/CLASS_SPLIT.txt`` says 1 (present), -1 (absent) or 0 (all its objects are difficult). The devkit leaves
the third kind out of the average precision, other code in use counts it as absent, or as present. The variants say
which: ``negative`` and ``positive`` give labels of 0 and 1, ``ignored`` keeps 2 for the third kind, as
`probe.metrics` takes it. Images and ids are the same, so that one extraction serves all three.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featstore.datasets.official import Wanted, read_lines
from featstore.errors import BadLabels
from featstore.splits import DIFFICULT

if TYPE_CHECKING:
    from featstore.splits import Split

__all__ = ["CLASSES", "voc2007"]

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
POLICIES = {"negative": 0, "positive": 1, "ignored": DIFFICULT}


def voc2007(wanted: Wanted) -> Split:
    """VOC 2007, of the lists in ``ImageSets/Main``; boxes are not read: they would also find what the lists call
    difficult, and what is cut off."""
    lists = f"ImageSets/Main/{wanted.which}.txt"
    root = wanted.place("VOCdevkit/VOC2007", "VOC2007", "voc2007/VOCdevkit/VOC2007", "", needs=(lists, "JPEGImages"))
    names = [line.split()[0] for line in read_lines(root / lists)]
    columns = [_marks(root / "ImageSets" / "Main" / f"{c}_{wanted.which}.txt", names) for c in CLASSES]
    marks = np.stack(columns, axis=1)
    labels = np.where(marks == 0, POLICIES[wanted.variant], marks > 0).astype(np.uint8)
    return wanted.files(root / "JPEGImages", [f"{n}.jpg" for n in names], labels, CLASSES)


def _marks(path: Path, names: list[str]) -> np.ndarray:
    """Return the mark of one class for each image: (n,) of -1, 0, 1."""
    pairs = [line.split() for line in read_lines(path)]
    if any(len(p) != 2 or p[1] not in ("-1", "0", "1") for p in pairs):
        raise BadLabels(f"{path} has a line that is not an image and -1, 0 or 1.")
    found = {name: int(mark) for name, mark in pairs}
    absent = next((n for n in names if n not in found), None)
    if absent is not None:
        raise BadLabels(f"{path} says nothing about image {absent}, which is in the split.")
    return np.array([found[n] for n in names], np.int64)
