"""Data sets whose official splits are text lists beside the images: Food-101, DTD, FGVC Aircraft, Oxford-IIIT Pets,
SUN397, Birdsnap."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featstore.datasets.official import Wanted, numbered, read_lines, read_table, whole_number
from featstore.errors import BadInput
from featstore.progress import say

if TYPE_CHECKING:
    from featstore.splits import Split

__all__ = ["aircraft", "birdsnap", "dtd", "food101", "pets", "sun397"]

BOTH = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}
"""Which lists make a split where the authors have no list for train and val together."""


def food101(wanted: Wanted) -> Split:
    """Food-101 (Bossard et al. 2014): ``meta/train.txt`` and ``test.txt`` name images without ``.jpg``."""
    root = wanted.place("food-101", "food101", "", needs=("meta", "images"))
    names = read_lines(root / "meta" / f"{wanted.which}.txt")
    classes = sorted(read_lines(root / "meta" / "classes.txt"))
    labels = numbered([n.partition("/")[0] for n in names], classes, root / "meta")
    return wanted.files(root / "images", [f"{n}.jpg" for n in names], labels, classes)


def dtd(wanted: Wanted) -> Split:
    """Describable Textures (Cimpoi et al. 2014): ten partitions, of which the papers use the first."""
    root = wanted.place("dtd/dtd", "dtd", "", needs=("labels", "images"))
    lists = [root / "labels" / f"{part}{wanted.variant}.txt" for part in BOTH[wanted.which]]
    names = [name for path in lists for name in read_lines(path)]
    # The classes are those of all three lists together: a list that lacks a class must not renumber the others.
    everything = [
        n for part in BOTH if part != "trainval" for n in read_lines(root / "labels" / f"{part}{wanted.variant}.txt")
    ]
    classes = sorted({n.partition("/")[0] for n in everything})
    return wanted.files(
        root / "images", names, numbered([n.partition("/")[0] for n in names], classes, lists[0]), classes
    )


def aircraft(wanted: Wanted) -> Split:
    """FGVC Aircraft (Maji et al. 2013): 100 variants, or 70 families, or 30 manufacturers."""
    root = wanted.place(
        "fgvc-aircraft-2013b/data", "fgvc-aircraft-2013b", "aircraft/data", "aircraft", "data", "",
        needs=("images", f"images_variant_{wanted.which}.txt"),
    )  # fmt: skip
    plural = {"variant": "variants", "family": "families", "manufacturer": "manufacturers"}[wanted.variant]
    path = root / f"images_{wanted.variant}_{wanted.which}.txt"
    pairs = [line.partition(" ") for line in read_lines(path)]
    classes = read_lines(root / f"{plural}.txt")
    labels = numbered([label.strip() for _, _, label in pairs], classes, path)
    return wanted.files(root / "images", [f"{image}.jpg" for image, _, _ in pairs], labels, classes)


def pets(wanted: Wanted) -> Split:
    """Oxford-IIIT Pets (Parkhi et al. 2012): lines of image, class from 1 on, species, breed."""
    root = wanted.place("oxford-iiit-pet", "pets", "", needs=("annotations", "images"))
    path = root / "annotations" / f"{wanted.which}.txt"
    rows = [line.split() for line in read_lines(path) if not line.startswith("#")]
    if any(len(row) < 2 for row in rows):
        raise BadInput(f"{path} has a line that does not name an image and its class.")
    labels = np.array([whole_number(row[1], str(path)) - 1 for row in rows], np.int64)
    listed = [path, root / "annotations" / ("test.txt" if wanted.which == "trainval" else "trainval.txt")]
    breeds: dict[int, str] = {}
    for line in (line for p in listed if p.is_file() for line in read_lines(p) if not line.startswith("#")):
        image, label = line.split()[:2]
        breeds[whole_number(label, str(path)) - 1] = image.rpartition("_")[0].replace("_", " ")
    classes = [breeds.get(k, f"class {k + 1}") for k in range(max(breeds) + 1)]
    return wanted.files(root / "images", [f"{row[0]}.jpg" for row in rows], labels, classes)


def sun397(wanted: Wanted) -> Split:
    """SUN397 (Xiao et al. 2010): ten partitions of 50 + 50 images per class, lists ``Training_01.txt`` … that lie in
    an archive of their own; the papers use the first."""
    root = wanted.place("SUN397", "sun397", "", needs=("ClassName.txt",))
    name = f"{'Training' if wanted.which == 'train' else 'Testing'}_{int(wanted.variant):02d}.txt"
    found = [p / name for p in (root, root / "Partitions", root.parent / "Partitions") if (p / name).is_file()]
    if not found:
        raise wanted.missing([name])
    classes = [line.removeprefix("/") for line in read_lines(root / "ClassName.txt")]
    names = [line.removeprefix("/") for line in read_lines(found[0])]
    labels = numbered([n.rpartition("/")[0] for n in names], classes, found[0])
    short = [c.partition("/")[2] if len(c.partition("/")[0]) == 1 else c for c in classes]
    return wanted.files(root, names, labels, short)


def birdsnap(wanted: Wanted) -> Split:
    """Birdsnap (Berg et al. 2014) 1.1: lists of addresses, many of which are dead. The split is what is on this disk,
    and how much is missing is said."""
    root = wanted.place("birdsnap", "", needs=("images.txt", "test_images.txt", "species.txt"))
    images = next((p for p in (root / "images", root / "download" / "images") if p.is_dir()), None)
    if images is None:
        raise wanted.missing(["images"])
    rows = read_table(root / "images.txt", ("path", "species_id"), delimiter="\t")
    species = read_table(root / "species.txt", ("id", "common"), delimiter="\t")
    tested = set(read_lines(root / "test_images.txt")) - {"path"}
    listed = [row for row in rows if (row["path"] in tested) == (wanted.which == "test")]
    there = _below(images)
    present = [row for row in listed if row["path"] in there]
    species.sort(key=lambda s: whole_number(s["id"], "species.txt"))
    labels = numbered([r["species_id"] for r in present], [s["id"] for s in species], root / "images.txt")
    if len(present) < len(listed):
        n_empty = len(species) - len(np.unique(labels))
        say(
            f"{wanted.name} has {len(present)} of the {len(listed)} images of its list: the others are not on this disk "
            f"(their addresses may be dead); {n_empty} of {len(species)} classes are empty. Results are not "
            "comparable with those on the whole list."
        )
    return wanted.files(images, [row["path"] for row in present], labels, [s["common"] for s in species])


def _below(root: Path) -> set[str]:
    """Return the files below a folder, relative to it."""
    return {(Path(folder) / file).relative_to(root).as_posix() for folder, _, files in os.walk(root) for file in files}
