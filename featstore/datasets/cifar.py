"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 and 10,000 images of 32 × 32 in any of the forms in which they lie
around."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.datasets.official import Wanted, plain_folders
from featstore.errors import BadInput

if TYPE_CHECKING:
    from featstore.splits import Split

__all__ = ["cifar10", "cifar100"]

BATCHES = {"train": tuple(f"data_batch_{k}" for k in range(1, 6)), "test": ("test_batch",)}
PARTS = {"source": (0.0, 0.4), "target": (0.4, 0.8), "val": (0.8, 1.0)}
"""Batches 1 and 2, 3 and 4, and 5 of train, as shares of it: Royer and Lampert 2020 have them so."""
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10(wanted: Wanted) -> Split:
    """CIFAR-10, of the python batches, of ``train`` and ``test`` with a folder per class, or of ``train.npz`` and
    ``test.npz`` (see `arrays.npz_split`).

    The parts of train that are made of batches need the batches. ``without_deer`` has the other nine classes, numbered
    0 to 8 in the same order: those that QuickDraw has, too.
    """
    folders = ("", "cifar10", "cifar-10-batches-py", "CIFAR-10-images")
    official = "test" if wanted.which == "test" else "train"
    root = wanted.find(*folders, needs=BATCHES[official])
    if root is not None:
        split = _of_batches(wanted, root, BATCHES[official], "labels", CLASSES)
    elif wanted.which in BATCHES:
        split = _of_other_forms(wanted, folders, 10)
    else:
        raise wanted.missing(BATCHES[official])
    if wanted.which in PARTS:
        first, last = (round(share * len(split)) for share in PARTS[wanted.which])
        split = split.subset(np.arange(first, last), wanted.name)
    return _without(wanted, split, "deer") if wanted.variant == "without_deer" else split


def _without(wanted: Wanted, split: Split, left_out: str) -> Split:
    """Return a split without one of its classes; the numbers of the classes behind it go down by one."""
    if split.labels is None or left_out not in split.classes:
        raise BadInput(
            f"'{wanted.name}' leaves out the class {left_out}, and the copy of CIFAR-10 names no such class."
        )
    k = split.classes.index(left_out)
    kept = np.flatnonzero(split.labels != k)
    part = split.subset(kept, wanted.name)
    labels = split.labels[kept]
    return wanted.split(part.samples, part.ids, labels - (labels > k), split.classes[:k] + split.classes[k + 1 :])


def cifar100(wanted: Wanted) -> Split:
    """CIFAR-100 with its 100 fine classes, or its 20 coarse ones; in the same forms."""
    folders = ("", "cifar100", "cifar-100-python")
    root = wanted.find(*folders, needs=(wanted.which, "meta"))
    if root is not None and (root / wanted.which).is_file():
        meta = _load(root / "meta")
        names = meta.get(f"{wanted.variant}_label_names")
        if not isinstance(names, list):
            raise BadInput(f"{root / 'meta'} does not hold the names of CIFAR-100's {wanted.variant} classes.")
        return _of_batches(wanted, root, (wanted.which,), f"{wanted.variant}_labels", [str(n) for n in names])
    return _of_other_forms(wanted, folders, 20 if wanted.variant == "coarse" else 100)


def _of_other_forms(wanted: Wanted, folders: tuple[str, ...], n_classes: int) -> Split:
    root = wanted.find(*folders, needs=(wanted.which,))
    if root is not None and (root / wanted.which).is_dir():
        return plain_folders(wanted, root / wanted.which, n_classes)
    root = wanted.find(*folders, needs=(f"{wanted.which}.npz",))
    if root is None:
        raise wanted.missing()
    from featstore.datasets.arrays import npz_split

    return npz_split(root / f"{wanted.which}.npz", name=wanted.name)


def _of_batches(wanted: Wanted, folder: Path, batches: tuple[str, ...], key: str, classes: Any) -> Split:
    """Return the split that the python batches hold: dicts of data (n, 3072) uint8, planes of red, green, blue, and
    labels."""
    from featstore.datasets.arrays import ArraySamples

    images, labels = [], []
    for batch in batches:
        found = _read_batch(folder / batch, key)
        images.append(found["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(np.asarray(found[key], np.int64))
    pixels = np.ascontiguousarray(np.concatenate(images))
    official = "test" if wanted.which == "test" else "train"
    ids = np.array([f"{official}/{i:05d}" for i in range(len(pixels))])
    samples = ArraySamples(pixels, str(folder / f"{official} batches"))
    return wanted.split(samples, ids, np.concatenate(labels), classes)


class _ArraysOnly(pickle.Unpickler):
    """Reads numpy arrays and plain containers; whatever else a pickle names is refused, so that nothing can be
    executed."""

    ALLOWED: frozenset[tuple[str, str]] = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it wants to call {module}.{name}")
        if name == "_reconstruct":
            return _empty_array
        found: Callable[..., Any] = super().find_class(module, name)
        return found


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """Return what numpy's own pickles begin with; the state that follows gives dtype, shape and bytes."""
    return np.ndarray.__new__(np.ndarray, (0,), np.uint8)


def _load(path: Path) -> dict[str, Any]:
    try:
        found = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise BadInput(f"{path} is not a batch of CIFAR: {error}.") from error
    if not isinstance(found, dict):
        raise BadInput(f"{path} is not a batch of CIFAR: it holds a {type(found).__name__}.")
    return found


def _read_batch(path: Path, key: str) -> dict[str, Any]:
    found = _load(path)
    data, labels = found.get("data"), found.get(key, ())
    is_whole = isinstance(labels, list) and all(isinstance(v, int) for v in labels)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or not is_whole or data.shape != (len(labels), 3072):
        raise BadInput(f"{path} is not a batch of CIFAR: 'data' must be (n, 3072) uint8 with n numbers in '{key}'.")
    return found
