"""Caltech-101 (Fei-Fei et al. 2004): no official split; 30 images of each of the 102 folders are drawn for training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featstore.datasets.official import Wanted
from featstore.errors import BadInput

if TYPE_CHECKING:
    from featstore.splits import Split

__all__ = ["BACKGROUND", "caltech101"]

BACKGROUND = "BACKGROUND_Google"
N_PER_CLASS = 30


def caltech101(wanted: Wanted) -> Split:
    """Caltech-101 with its background class, without which 3,060 + 6,084 images cannot be had.

    ``train`` is the 30 images of each class with the lowest hash of (seed, id), ``test`` all others; the variant is
    the seed.
    """
    from featstore.datasets.folders import image_folder
    from featstore.splits import per_class_rows

    root = wanted.place(
        "caltech101/101_ObjectCategories", "101_ObjectCategories", "caltech101", "", needs=("accordion",)
    )
    whole = image_folder(root, name=wanted.name)
    if BACKGROUND not in whole.classes:
        raise BadInput(
            f"{root} has {len(whole.classes)} class folders and none called {BACKGROUND}: the papers count it as the 102nd "
            "class, and without it the drawn split is another one. Unpack the official archive again."
        )
    drawn = per_class_rows(
        whole.ids, whole.labels, N_PER_CLASS, int(wanted.variant), name=wanted.name, classes=whole.classes
    )
    rows = np.flatnonzero(drawn if wanted.which == "train" else ~drawn)
    part = whole.subset(rows, wanted.name)
    return wanted.split(part.samples, part.ids, part.labels, part.classes)
