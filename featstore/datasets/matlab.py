"""Data sets whose labels or images are MATLAB files: Stanford Cars, Oxford Flowers, SVHN."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.datasets.official import Wanted, read_mat
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
    every = np.atleast_1d(read_mat(root / "imagelabels.mat", ("labels",))["labels"]).astype(np.int64)
    keys = {"train": ("trnid",), "val": ("valid",), "trainval": ("trnid", "valid"), "test": ("tstid",)}[wanted.which]
    numbers = np.concatenate([np.atleast_1d(sets[k]).astype(np.int64) for k in keys])
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
    from featstore.datasets.folders import image_folder

    found = image_folder(root / wanted.which, name=wanted.name)
    return wanted.split(found.samples, found.ids, found.labels, found.classes)


def _of_devkit(wanted: Wanted, root: Path, images: Path) -> Split:
    name = "cars_train_annos.mat" if wanted.which == "train" else "cars_test_annos_withlabels.mat"
    path = next((p for p in (root / "devkit" / name, root / name) if p.is_file()), None)
    if path is None:
        raise wanted.missing([name])
    rows = np.atleast_1d(read_mat(path, ("annotations",))["annotations"])
    names, labels = _column(rows, "fname", path), _column(rows, "class", path)
    # Some copies of the images lie one folder deeper, as cars_train/cars_train.
    inner = images / images.name
    classes = np.atleast_1d(read_mat(root / "devkit" / "cars_meta.mat", ("class_names",))["class_names"])
    return wanted.files(
        inner if inner.is_dir() else images,
        [str(n) for n in names],
        np.array(labels, np.int64) - 1,
        [str(c) for c in classes],
    )


def _of_one_table(wanted: Wanted, root: Path) -> Split:
    path = root / "cars_annos.mat"
    found = read_mat(path, ("annotations", "class_names"))
    rows = np.atleast_1d(found["annotations"])
    chosen = rows[np.array(_column(rows, "test", path), np.int64) == (wanted.which == "test")]
    names = [str(n) for n in _column(chosen, "relative_im_path", path)]
    labels = np.array(_column(chosen, "class", path), np.int64) - 1
    return wanted.files(root, names, labels, [str(c) for c in np.atleast_1d(found["class_names"])])


def _column(rows: np.ndarray, name: str, path: Path) -> list[Any]:
    if rows.dtype.names is None or name not in rows.dtype.names:
        raise BadInput(
            f"the annotations of {path} have no '{name}'; the test set needs cars_test_annos_withlabels.mat."
        )
    return [row[name] for row in rows]


def svhn(wanted: Wanted) -> Split:
    """SVHN, cropped digits (Netzer et al. 2011): X (32, 32, 3, n) uint8; the digit 0 has the label 10 there, 0 here.

    ``val`` is the first 10,000 of train and ``target`` the others, as Royer and Lampert 2020 have them.
    """
    from featstore.datasets.arrays import ArraySamples

    official = wanted.which if wanted.which in ("test", "extra") else "train"
    root = wanted.place("svhn", "SVHN", "", needs=(f"{official}_32x32.mat",))
    path = root / f"{official}_32x32.mat"
    found = read_mat(path, ("X", "y"))
    pixels, labels = np.asarray(found["X"]), np.atleast_1d(found["y"]).astype(np.int64)
    if pixels.ndim == 3:  # a single image loses its last axis when it is squeezed
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.shape[:3] != (32, 32, 3) or pixels.shape[3] != len(labels):
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
