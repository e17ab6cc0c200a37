"""A small real store for tests: scikit-learn's digits, pooled to three resolutions, as the units of a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import featstore

UNITS = ("coarse", "middle", "pixels")
"""2 × 2, 4 × 4 and 8 × 8 pixels: 4, 16 and 64 features, each telling more than the one before."""


NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Pixels:
    """Images in memory, as `featstore.Samples`."""

    images: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def read(self, i: int) -> np.ndarray:
        image: np.ndarray = self.images[i]
        return image

    def describe(self, i: int) -> str:
        return f"digit {i}"

    def stat(self, i: int) -> None:
        return None


def digits() -> tuple[np.ndarray, np.ndarray]:
    """(1797, 8, 8) uint8 images and their (1797,) int64 labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images * 15).astype(np.uint8), data.target.astype(np.int64)


def split(name: str, rows: slice | np.ndarray, *, classes: bool = True) -> featstore.Split:
    """Some of the digits under a name of their own."""
    images, labels = digits()
    ids = np.array([f"{i:04d}" for i in range(len(labels))])[rows]
    return featstore.Split(name, ids, labels[rows], NAMES if classes else (), Pixels(images[rows]))


def features(images: np.ndarray) -> dict[str, np.ndarray]:
    """What the three units say: block means of the pixels, float32."""
    x = images.astype(np.float32) / 16
    return {
        unit: x.reshape(len(x), side, 8 // side, side, 8 // side).mean((2, 4)).reshape(len(x), -1)
        for unit, side in zip(UNITS, (2, 4, 8), strict=True)
    }


def write(store: featstore.Store, data: featstore.Split, given: dict[str, np.ndarray] | None = None) -> None:
    """Store the features of a split, as extraction does: those of its images, or others (n, d) float32 by unit."""
    digest = data.digest(store.digest_cache)
    key = featstore.PassKey(
        "pooled pixels", "0" * 32, "three", {}, digest.ids_digest, digest.content_digest, len(data), "fp32"
    )
    if given is None:
        given = features(np.stack([np.asarray(data.samples.read(i)) for i in range(len(data))]))
    arrays = {featstore.ArrayKey(key.digest, unit, "mean", "float32", x.shape[1:]): x for unit, x in given.items()}
    with store.writing(key, data, {"units": list(given)}, durable=False) as session:
        session.begin(list(arrays))
        for block in session.missing_blocks():
            session.write(block, {a: x[block.start : block.stop] for a, x in arrays.items()})
        session.commit()


def digits_store(root: Path) -> featstore.Store:
    """A store of "train" (300 digits), "val" (200) and "test" (300)."""
    store = featstore.create_store(root)
    for name, rows in (("train", slice(0, 300)), ("val", slice(300, 500)), ("test", slice(500, 800))):
        write(store, split(name, rows))
    return store
