"""Small grey images in the formats of their authors: MNIST (idx files) and the bitmaps of QuickDraw (npy)."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featstore.datasets.official import Wanted
from featstore.errors import BadInput

if TYPE_CHECKING:
    from featstore.splits import Split

__all__ = ["mnist", "quickdraw", "read_idx"]

MAX_IDX_BYTES = 2**30
"""An idx file that unpacks to more is not MNIST; a gzip can claim, and hold, anything."""
N_MNIST_VAL = 5_000
SOURCE_SHARE = 25 / 55
"""Royer and Lampert 2020: of the 55,000 that are not val, 25,000 are the source domain and 30,000 the target."""

DRAWN = ("airplane", "car", "bird", "cat", "dog", "frog", "horse", "cruise ship", "truck")
"""The drawings that stand for CIFAR-10's classes without deer, in CIFAR's order."""
N_DRAWN = 10_000
DRAWN_SHARES = {"source": (0, 35), "train": (35, 65), "val": (65, 70), "test": (70, 85), "all": (0, 90)}
"""Ninetieths of the 90,000: 35,000, 30,000, 5,000 and 15,000; the paper's numbers leave 5,000 over."""


def mnist(wanted: Wanted) -> Split:
    """MNIST (LeCun et al. 1998), of idx files as they are or gzipped, or of ``train.npz`` and ``test.npz``.

    ``val`` is the first 5,000 of train; the others, drawn by a hash of their ids within each class, are ``source``
    (25,000) and ``target`` (30,000), the sizes of Royer and Lampert 2020.
    """
    from featstore.datasets.arrays import ArraySamples
    from featstore.splits import holdout_rows

    official = "test" if wanted.which == "test" else "train"
    images, labels, where = _digits(wanted, official)
    ids = np.array([f"{official}/{i:05d}" for i in range(len(images))])
    rows = np.arange(len(ids))
    first = labels[:N_MNIST_VAL]
    if wanted.which in ("val", "source", "target") and len(np.unique(first)) < len(np.unique(labels)):
        raise BadInput(
            f"the first {N_MNIST_VAL} images of {where} are of the classes {np.unique(first).tolist()} only: its images are "
            f"not in the order of the official files, so '{wanted.name}' would not be the paper's. Fetch the idx files, or "
            "draw parts of your own: mnist:train#held(0.0833,seed=0)."
        )
    if wanted.which == "val":
        rows = rows[:N_MNIST_VAL]
    elif wanted.which in ("source", "target"):
        rows = rows[N_MNIST_VAL:]
        is_source = holdout_rows(ids[rows], labels[rows], SOURCE_SHARE, seed=42)
        rows = rows[is_source == (wanted.which == "source")]
    whole = wanted.split(ArraySamples(images, where), ids, labels, tuple("0123456789"))
    return whole if len(rows) == len(ids) else whole.subset(rows, wanted.name)


def _digits(wanted: Wanted, official: str) -> tuple[np.ndarray, np.ndarray, str]:
    prefix = "t10k" if official == "test" else "train"
    names = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    places = ("MNIST/raw", "mnist/raw", "mnist", "MNIST", "raw", "")
    for end in ("", ".gz"):
        root = wanted.find(*places, needs=[n + end for n in names])
        if root is not None:
            images, labels = (read_idx(root / (n + end)) for n in names)
            if images.ndim != 3 or labels.shape != (len(images),):
                raise BadInput(f"{root} holds images of shape {images.shape} and labels of shape {labels.shape}.")
            return images, labels.astype(np.int64), str(root / names[0])
    root = wanted.find(*places, needs=(f"{official}.npz",))
    if root is None:
        raise wanted.missing(names)
    path = root / f"{official}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["images"], file["labels"].astype(np.int64), str(path)
    except Exception as error:  # numpy raises whatever it stumbles over: BadZipFile, KeyError, ValueError
        raise BadInput(f"{path} is not an npz of 'images' and 'labels' that can be read: {error}.") from error


def read_idx(path: Path) -> np.ndarray:
    """Return the array of an idx file of unsigned bytes, gzipped or not.

    The format: two zero bytes, the type (8), the number of axes, each length as 4 bytes big-endian, the bytes.

    Raises
    ------
    BadInput
        If it is another file, or cut off.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                content = file.read(MAX_IDX_BYTES + 1)
        else:
            content = path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from error
    if len(content) > MAX_IDX_BYTES:
        raise BadInput(f"{path} unpacks to more than {MAX_IDX_BYTES} bytes; MNIST is 47 million.")
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise BadInput(f"{path} is not an idx file of unsigned bytes.")
    n_axes = content[3]
    shape = tuple(np.frombuffer(content, ">u4", n_axes, 4).astype(int).tolist())
    start = 4 + 4 * n_axes
    if len(content) - start != math.prod(shape):
        raise BadInput(f"{path} announces {math.prod(shape)} bytes and holds {len(content) - start}; fetch it again.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def quickdraw(wanted: Wanted) -> Split:
    """QuickDraw's bitmaps (Ha and Eck 2017), the first 10,000 of each of nine drawings, white on black as they come.

    The papers invert them: ``quickdraw:train+invert()``. Which image is where is decided by a hash of its id within
    each class.
    """
    from featstore.datasets.arrays import ArraySamples
    from featstore.splits import rank_by_hash

    root, names = _bitmaps(wanted)
    images, ids, labels, chosen = [], [], [], []
    first, last = DRAWN_SHARES[wanted.which]
    for k, (drawn, name) in enumerate(zip(DRAWN, names, strict=True)):
        pixels = np.array(_read_bitmap(root / name)[:N_DRAWN])
        named = np.array([f"{drawn}/{i:06d}" for i in range(len(pixels))])
        rank = np.argsort(np.argsort(rank_by_hash(named, 42)))
        a, b = (round(len(pixels) * part / 90) for part in (first, last))
        images.append(pixels.reshape(-1, 28, 28))
        ids.append(named)
        labels.append(np.full(len(named), k, np.int64))
        chosen.append((rank >= a) & (rank < b))
    samples = ArraySamples(np.concatenate(images), str(root))
    whole = wanted.split(samples, np.concatenate(ids), np.concatenate(labels), DRAWN)
    return whole.subset(np.concatenate(chosen), wanted.name)


def _bitmaps(wanted: Wanted) -> tuple[Path, list[str]]:
    for form in ("{}.npy", "full_numpy_bitmap_{}.npy", "full-numpy_bitmap-{}.npy"):
        names = [form.format(drawn) for drawn in DRAWN]
        root = wanted.find("quickdraw", "", needs=names)
        if root is not None:
            return root, names
    raise wanted.missing([f"{drawn}.npy" for drawn in DRAWN])


def _read_bitmap(path: Path) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise BadInput(f"{path} is not an npy file that can be read: {error}.") from error
    if not isinstance(found, np.ndarray) or found.dtype != np.uint8 or found.ndim != 2 or found.shape[1] != 784:
        raise BadInput(f"{path} does not hold bitmaps: (n, 784) uint8 is needed.")
    return found
