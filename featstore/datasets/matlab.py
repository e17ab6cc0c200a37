"""Data sets whose labels or images are MATLAB files: Stanford Cars, Oxford Flowers, SVHN."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.datasets.matfile import read_mat
from featstore.datasets.official import Wanted, plain_folders
from featstore.errors import BadInput, BadLabels

if TYPE_CHECKING:
    from featstore.splits import Split

__all__ = ["cars", "flowers", "svhn"]

N_SVHN_VAL = 10_000

FLOWERS = (
    "pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea", "english marigold", "tiger lily",
    "moon orchid", "bird of paradise", "monkshood", "globe thistle", "snapdragon", "colt's foot", "king protea",
    "spear thistle", "yellow iris", "globe-flower", "purple coneflower", "peruvian lily", "balloon flower",
    "giant white arum lily", "fire lily", "pincushion flower", "fritillary", "red ginger", "grape hyacinth",
    "corn poppy", "prince of wales feathers", "stemless gentian", "artichoke", "sweet william", "carnation",
    "garden phlox", "love in the mist", "mexican aster", "alpine sea holly", "ruby-lipped cattleya", "cape flower",
    "great masterwort", "siam tulip", "lenten rose", "barbeton daisy", "daffodil", "sword lily", "poinsettia",
    "bolero deep blue", "wallflower", "marigold", "buttercup", "oxeye daisy", "common dandelion", "petunia",
    "wild pansy", "primula", "sunflower", "pelargonium", "bishop of llandaff", "gaura", "geranium", "orange dahlia",
    "pink-yellow dahlia?", "cautleya spicata", "japanese anemone", "black-eyed susan", "silverbush",
    "californian poppy", "osteospermum", "spring crocus", "bearded iris", "windflower", "tree poppy", "gazania",
    "azalea", "water lily", "rose", "thorn apple", "morning glory", "passion flower", "lotus", "toad lily",
    "anthurium", "frangipani", "clematis", "hibiscus", "columbine", "desert-rose", "tree mallow", "magnolia",
    "cyclamen", "watercress", "canna lily", "hippeastrum", "bee balm", "ball moss", "foxglove", "bougainvillea",
    "camellia", "mallow", "mexican petunia", "bromelia", "blanket flower", "trumpet creeper", "blackberry lily",
)  # fmt: skip
"""Names of the classes 1 to 102, which the archive does not hold."""


def flowers(wanted: Wanted) -> Split:
    """102 Flowers (Nilsback and Zisserman 2008): ``setid.mat`` has the numbers of train, val and test images; the
    small lists are for training, the large one is the test."""
    root = wanted.place("flowers-102", "flowers102", "flowers", "", needs=("jpg", "imagelabels.mat", "setid.mat"))
    sets = read_mat(root / "setid.mat", ("trnid", "valid", "tstid"))
    every = _numbers(read_mat(root / "imagelabels.mat", ("labels",))["labels"], root / "imagelabels.mat")
    keys = {"train": ("trnid",), "val": ("valid",), "trainval": ("trnid", "valid"), "test": ("tstid",)}[wanted.which]
    numbers = np.concatenate([_numbers(sets[k], root / "setid.mat") for k in keys])
    if len(numbers) and (numbers.min() < 1 or numbers.max() > len(every)):
        raise BadLabels(f"{root / 'setid.mat'} names image {numbers.max()}, and {len(every)} images have labels.")
    return wanted.files(root / "jpg", [f"image_{n:05d}.jpg" for n in numbers], every[numbers - 1] - 1, FLOWERS)


def cars(wanted: Wanted) -> Split:
    """Stanford Cars (Krause et al. 2013), whose address is dead, in any of the forms in which it lies around: the
    devkit with ``cars_train`` and ``cars_test``; ``cars_annos.mat`` with ``car_ims``; ``train`` and ``test`` with one
    folder per class."""
    places = ("stanford_cars", "cars", "stanford-cars", "")
    folder = f"cars_{wanted.which}"
    root = wanted.find(*places, needs=("devkit/cars_meta.mat", folder))
    if root is not None:
        return _of_devkit(wanted, root, root / folder)
    root = wanted.find(*places, needs=("cars_annos.mat", "car_ims"))
    if root is not None:
        return _of_one_table(wanted, root)
    root = wanted.find(*places, "car_data", "car_data/car_data", needs=("train", "test"))
    if root is None:
        raise wanted.missing(["devkit/cars_meta.mat", folder])
    return plain_folders(wanted, root / wanted.which, 196)


def _of_devkit(wanted: Wanted, root: Path, images: Path) -> Split:
    name = "cars_train_annos.mat" if wanted.which == "train" else "cars_test_annos_withlabels.mat"
    path = next((p for p in (root / "devkit" / name, root / name) if p.is_file()), None)
    if path is None:
        raise wanted.missing([name])
    rows = read_mat(path, ("annotations",))["annotations"]
    names, labels = _texts(rows, "fname", path), _column(rows, "class", path)
    # Some copies of the images lie one folder deeper, as cars_train/cars_train.
    inner = images / images.name
    meta = root / "devkit" / "cars_meta.mat"
    classes = _class_names(read_mat(meta, ("class_names",))["class_names"], meta)
    return wanted.files(inner if inner.is_dir() else images, names, labels - 1, classes)


def _of_one_table(wanted: Wanted, root: Path) -> Split:
    path = root / "cars_annos.mat"
    found = read_mat(path, ("annotations", "class_names"))
    rows, is_test = found["annotations"], wanted.which == "test"
    kept = np.flatnonzero(_column(rows, "test", path).astype(bool) == is_test)
    names, labels = _texts(rows, "relative_im_path", path), _column(rows, "class", path)
    classes = _class_names(found["class_names"], path)
    return wanted.files(root, [names[i] for i in kept], labels[kept] - 1, classes)


def _class_names(found: Any, path: Path) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(c, str) for c in found):
        raise BadInput(f"'class_names' of {path} is not a list of text.")
    return found


def _column(rows: Any, name: str, path: Path) -> np.ndarray:
    """Return a number of every annotation: (n,) int64."""
    found = [_numbers(v, path) for v in _values(rows, name, path)]
    if any(len(v) != 1 for v in found):
        raise BadInput(f"'{name}' of an annotation in {path} is not one number.")
    return np.array([v[0] for v in found], np.int64)


def _texts(rows: Any, name: str, path: Path) -> list[str]:
    found = _values(rows, name, path)
    if not all(isinstance(v, str) for v in found):
        raise BadInput(f"'{name}' of an annotation in {path} is not text.")
    return found


def _values(rows: Any, name: str, path: Path) -> list[Any]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) and name in row for row in rows):
        raise BadInput(
            f"the annotations of {path} have no '{name}'; the test set needs cars_test_annos_withlabels.mat."
        )
    return [row[name] for row in rows]


def _numbers(values: Any, path: Path) -> np.ndarray:
    """Return whole numbers as (n,) int64."""
    if not isinstance(values, np.ndarray) or not (np.isfinite(values).all() and (values == np.rint(values)).all()):
        raise BadLabels(f"{path} holds labels or numbers of images that are not whole numbers.")
    return values.ravel().astype(np.int64)


def svhn(wanted: Wanted) -> Split:
    """SVHN, cropped digits (Netzer et al. 2011): X (32, 32, 3, n) uint8; the digit 0 has the label 10 there, 0 here.

    ``val`` is the first 10,000 of train and ``target`` the others, as Royer and Lampert 2020 have them.
    """
    from featstore.datasets.arrays import ArraySamples

    official = wanted.which if wanted.which in ("test", "extra") else "train"
    root = wanted.place("svhn", "SVHN", "", needs=(f"{official}_32x32.mat",))
    path = root / f"{official}_32x32.mat"
    found = read_mat(path, ("X", "y"))
    pixels, labels = np.asarray(found["X"]), _numbers(found["y"], path)
    if pixels.ndim == 3:  # MATLAB has no last axis of length 1
        pixels = pixels[..., None]
    if (
        pixels.ndim != 4
        or pixels.dtype != np.uint8
        or pixels.shape[:3] != (32, 32, 3)
        or pixels.shape[3] != len(labels)
    ):
        raise BadInput(
            f"{path} holds X of shape {pixels.shape} and {len(labels)} labels; (32, 32, 3, n) and n are needed."
        )
    images = np.ascontiguousarray(pixels.transpose(3, 0, 1, 2))
    ids = [f"{official}/{i:06d}" for i in range(len(images))]
    whole = wanted.split(ArraySamples(images, str(path)), ids, labels % 10, tuple("0123456789"))
    if wanted.which == official:
        return whole
    rows = np.arange(len(ids))
    return whole.subset(rows[:N_SVHN_VAL] if wanted.which == "val" else rows[N_SVHN_VAL:], wanted.name)
