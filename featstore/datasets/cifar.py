"""CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 images of 32 × 32 in 10 classes, in any of the forms in which it
lies around."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from featstore.splits import Split

__all__ = ["cifar10"]

BATCHES = {"train": tuple(f"data_batch_{k}" for k in range(1, 6)), "test": ("test_batch",)}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDERS = ("", "cifar10", "cifar-10-batches-py", "CIFAR-10-images")
INSTRUCTION = (
    "Put there the folder 'cifar-10-batches-py' that torchvision downloads (torchvision.datasets.CIFAR10(root, "
    "download=True)), or 'train' and 'test' with one folder of images per class, or 'train.npz' and 'test.npz'"
)


def cifar10(which: str, data_root: Path | None) -> Split:
    """Return ``train`` or ``test`` of CIFAR-10.

    Parameters
    ----------
    which : str
    data_root : Path or None
        Holds torchvision's ``cifar-10-batches-py``, or folders ``train`` and ``test`` of class folders, or
        ``train.npz`` and ``test.npz`` (see `arrays.npz_split`); itself, or in a folder ``cifar10``.

    Raises
    ------
    BadInput
        If it is None, or holds none of these.
    """
    if which not in BATCHES:
        raise UnknownName("split of cifar10", which, BATCHES)
    name = f"cifar10:{which}"
    if data_root is None:
        raise BadInput(f"'{name}' needs to know where the data are: give --data-root (data_root=…). {INSTRUCTION}.")
    for folder in (data_root / f for f in FOLDERS):
        if all((folder / batch).is_file() for batch in BATCHES[which]):
            return _of_batches(folder, which, name)
        if (folder / which).is_dir():
            from featstore.datasets.folders import image_folder

            return image_folder(folder / which, name=name)
        if (folder / f"{which}.npz").is_file():
            from featstore.datasets.arrays import npz_split

            return npz_split(folder / f"{which}.npz", name=name)
    raise BadInput(f"no CIFAR-10 is at {data_root}. {INSTRUCTION}.")


def _of_batches(folder: Path, which: str, name: str) -> Split:
    """Return the split that the python batches hold: dicts of data (n, 3072) uint8, planes of red, green, blue, and
    labels."""
    from featstore.datasets.arrays import ArraySamples
    from featstore.splits import Split

    images, labels = [], []
    for batch in BATCHES[which]:
        found = _read_batch(folder / batch)
        images.append(found["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(np.asarray(found["labels"], np.int64))
    pixels = np.ascontiguousarray(np.concatenate(images))
    ids = np.array([f"{which}/{i:05d}" for i in range(len(pixels))])
    return Split(name, ids, np.concatenate(labels), CLASSES, ArraySamples(pixels, str(folder / f"{which} batches")))


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


def _read_batch(path: Path) -> dict[str, Any]:
    try:
        found = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        data = found["data"]
        good = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape == (len(found["labels"]), 3072)
    except (pickle.UnpicklingError, KeyError, TypeError, ValueError, EOFError, AttributeError, IndexError) as error:
        raise BadInput(f"{path} is not a batch of CIFAR-10: {error}.") from error
    if not good:
        raise BadInput(f"{path} is not a batch of CIFAR-10: 'data' must be (n, 3072) uint8 with n 'labels'.")
    return dict(found)
