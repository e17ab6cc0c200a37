"""Images in an npz file, decoded or as encoded files one after another."""

from __future__ import annotations

import threading
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featstore.datasets.folders import stat_of
from featstore.datasets.official import class_numbers
from featstore.errors import BadInput, BadLabels

if TYPE_CHECKING:
    from featstore.splits import Split

__all__ = ["ArraySamples", "NpzSamples", "npz_split"]

ENCODED = ("jpeg", "png", "encoded")


class ArraySamples:
    """Decoded images: uint8 of shape (n, h, w) or (n, h, w, c).

    Parameters
    ----------
    images : numpy.ndarray
    where : str
        For messages.
    """

    def __init__(self, images: np.ndarray, where: str) -> None:
        self.images, self.where = images, where

    def __len__(self) -> int:
        return len(self.images)

    def read(self, i: int) -> np.ndarray:
        image: np.ndarray = self.images[i]
        return image

    def describe(self, i: int) -> str:
        return f"{self.where} row {i}"

    def stat(self, i: int) -> tuple[int, ...] | None:
        return None


class NpzSamples:
    """Images of an npz, read from the file when the first one is asked for: image files one after another, or decoded
    ones.

    Parameters
    ----------
    path : Path
    key : str
        Of the array ``(bytes,)`` uint8 with ``offsets``, or ``(n, h, w[, c])`` uint8.
    offsets : numpy.ndarray or None
        (n + 1,) where each image file begins; None for decoded images.
    n : int
    """

    def __init__(self, path: Path, key: str, offsets: np.ndarray | None, n: int) -> None:
        self.path, self.key, self.offsets, self.n = path, key, offsets, n
        self._array: np.ndarray | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        return NpzSamples, (
            self.path.absolute(),
            self.key,
            self.offsets,
            self.n,
        )  # another process reads the file for itself

    def __len__(self) -> int:
        return self.n

    def read(self, i: int) -> bytes | np.ndarray:
        with self._lock:
            if self._array is None:
                self._array = _arrays(self.path, [self.key])[self.key]
        if self.offsets is None:
            image: np.ndarray = self._array[i]
            return image
        return self._array[self.offsets[i] : self.offsets[i + 1]].tobytes()

    def describe(self, i: int) -> str:
        return f"{self.path} row {i}"

    def stat(self, i: int) -> tuple[int, ...] | None:
        return stat_of(self.path)


def npz_split(path: Path, *, name: str) -> Split:
    """Return the images of an npz file.

    It holds ``images`` (n, h, w) or (n, h, w, c) uint8; or ``jpeg`` (or ``png``, ``encoded``): the bytes of image
    files one after another, with ``offsets`` (n + 1,). Besides, where there are any: ``labels`` (n,) or (n, k),
    ``classes`` (k,) text, ``ids`` (n,) text, else the row numbers are the ids. Nothing is unpickled.

    Parameters
    ----------
    path : Path
    name : str
        Of the split.

    Raises
    ------
    BadInput
        If the file is missing, or holds other things.
    BadLabels
        If labels do not fit.
    """
    from featstore.splits import Split

    shapes = _shapes(path)
    key = next((k for k in ("images", *ENCODED) if k in shapes), None)
    if key is None:
        raise BadInput(
            f"{path} holds {', '.join(shapes) or 'nothing'}, but neither 'images' (n, h, w[, c]) uint8 "
            "nor 'jpeg' with 'offsets'."
        )
    small = _arrays(path, [k for k in ("offsets", "labels", "classes", "ids") if k in shapes])
    shape, dtype = shapes[key]
    n, offsets = shape[0], None
    if dtype != np.uint8 or (key == "images") != (len(shape) in (3, 4)):
        raise BadInput(f"'{key}' of {path} is {dtype} of shape {shape}; images are uint8, (n, h, w) or (n, h, w, c).")
    if key in ENCODED:
        offsets = _checked_offsets(small.get("offsets"), n, key, path)
        n = len(offsets) - 1
    if n == 0:
        raise BadInput(f"{path} holds no images.")
    labels = small.get("labels")
    if labels is not None and len(labels) != n:
        raise BadLabels(f"{path} holds {n} images and {len(labels)} labels; one row of labels per image is needed.")
    ids = small.get("ids", np.array([f"{i:0{len(str(n - 1))}d}" for i in range(n)]))
    classes = (
        tuple(str(c) for c in small["classes"])
        if "classes" in small
        else ()
        if labels is None
        else class_numbers(labels, path)
    )
    return Split(name, ids, labels, classes, NpzSamples(path, key, offsets, n))


def _checked_offsets(offsets: np.ndarray | None, n_bytes: int, key: str, path: Path) -> np.ndarray:
    if offsets is None or offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) < 2:
        raise BadInput(f"{path} holds '{key}' and no list of 'offsets' that says where each image begins.")
    offsets = offsets.astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != n_bytes or (np.diff(offsets) < 0).any():
        raise BadInput(f"the 'offsets' of {path} do not run from 0 to the {n_bytes} bytes of '{key}'.")
    return offsets


def _open(path: Path) -> np.lib.npyio.NpzFile:
    if not path.is_file():
        raise BadInput(f"there is no npz file at {path}.")
    if not zipfile.is_zipfile(path):  # numpy would advise to load it as a pickle
        raise BadInput(f"{path} is not an npz file, as numpy.savez makes them, or was cut short.")
    try:
        found: np.lib.npyio.NpzFile = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path} is not an npz file that can be read: {str(error).rstrip('.')}.") from error
    return found


def _arrays(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    with _open(path) as file:
        try:
            return {name: file[name] for name in names}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise BadInput(f"{path} cannot be read: {error}.") from error


def _shapes(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return shape and dtype of every array without reading it: the images may be gigabytes."""
    with _open(path) as file:
        names = file.files
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for name in names:
            with archive.open(f"{name}.npy") as member:
                try:
                    version = np.lib.format.read_magic(member)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(member)
                except ValueError as error:
                    raise BadInput(f"'{name}' of {path} is not an array that can be read: {error}.") from error
            shapes[name] = (tuple(shape), dtype)
        return shapes
