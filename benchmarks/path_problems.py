"""The problems of the path's benchmarks: features of real images, every unit of a network side by side.

=================  =================================================  ========  ======  ====  ======
name               images, network                                       train  val        d       k
=================  =================================================  ========  ======  ====  ======
digits             scikit-learn's digits, their 64 pixels                1,077     720    64      10
pacs-art           PACS paintings, MobileNet v1 0.25                     1,639     409  1,496      7
pacs-sketch        PACS sketches, MobileNet v1 0.25                      3,144     785  1,496      7
cifar10-resnet56   CIFAR-10 (lossy copy), ResNet-56                     20,000   5,000  1,024      10
pairs              two MNIST digits side by side, MobileNet v1 0.5       4,000   1,000  1,792     100
=================  =================================================  ========  ======  ====  ======

`prepare` makes the features from the shared images and weights and keeps them in a store; `load_problem` reads them. The
pooled input of the classifier is left out: it is the last block's mean once more, and d would count columns twice.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import featstore
from featstore import Split

TINY_IMAGES = 160


@dataclass(frozen=True, eq=False)
class Problem:
    """Features and labels of the rows to fit, and of those that choose C.

    Attributes
    ----------
    X, X_val : numpy.ndarray of shape (n, d), float32
    y, y_val : numpy.ndarray of shape (n,), integer
    """

    name: str
    X: np.ndarray
    y: np.ndarray
    X_val: np.ndarray
    y_val: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows to fit, columns, classes."""
        return int(self.X.shape[0]), int(self.X.shape[1]), len(np.unique(self.y))


@dataclass(frozen=True)
class Pairs:
    """Images of two digits side by side: 56 × 28 pixels in the middle of 64 × 64 black ones.

    The centre 87.5 % that the network's preprocessing cuts out is then exactly 56 × 56: both digits whole, nothing else.

    Attributes
    ----------
    digits : numpy.ndarray of shape (m, 28, 28), uint8
    rows : numpy.ndarray of shape (n, 2), integer
        The left and the right digit of every image.
    """

    digits: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, i: int) -> np.ndarray:
        canvas = np.zeros((64, 64), np.uint8)
        canvas[18:46, 4:60] = np.concatenate(self.digits[self.rows[i]], axis=1)
        return canvas

    def describe(self, i: int) -> str:
        return "digits {} and {}".format(*self.rows[i])

    def stat(self, i: int) -> None:
        return None


def pairs(shared: Path, n: int = 5_000) -> Split:
    """Pairs of MNIST's training digits, every digit at most once on each side; class 10 · left + right."""
    with np.load(shared / "data" / "mnist" / "train.npz") as file:
        digits, labels = file["images"], file["labels"].astype(np.int64)
    draw = np.random.default_rng(0)
    rows = np.stack([draw.permutation(len(digits)), draw.permutation(len(digits))], axis=1)[:n]
    ids = np.array([f"{a:05d}+{b:05d}" for a, b in rows])
    classes = tuple(f"{c:02d}" for c in range(100))
    return Split("mnist/pairs", ids, labels[rows] @ np.array([10, 1]), classes, Pairs(digits, rows))


def pacs(domain: str) -> Callable[[Path], Split]:
    """All images of one domain."""
    return lambda shared: replace(
        featstore.load_split(f"imagefolder:{shared}/data/pacs/{domain}.zip"), name=domain
    )  # fmt: skip


def cifar10(shared: Path) -> Split:
    """25,000 training images, classes in equal numbers."""
    every = replace(featstore.load_split(f"npz:{shared}/data/cifar10/train.npz"), name="cifar10/train")
    return every.per_class(2_500, seed=0)


@dataclass(frozen=True)
class Source:
    """Where the features of a problem come from.

    Attributes
    ----------
    network, weights : str
        Model name, and its file in ``weights/``.
    images : callable
        Shared folder → images.
    split : str
        The name of these.
    n_units : int or None
        How many of the last units are taken; None takes all.
    expected_s : float
        Seconds of our path on two cores, as an order of magnitude.
    """

    network: str
    weights: str
    images: Callable[[Path], Split]
    split: str
    n_units: int | None
    expected_s: float


_V1_025 = ("benchmarks.networks:mobilenetv1_025", "mobilenetv1_025_128.safetensors")
SOURCES = {
    "pacs-art": Source(*_V1_025, pacs("art_painting"), "art_painting", None, 5.0),
    "pacs-sketch": Source(*_V1_025, pacs("sketch"), "sketch", None, 20.0),
    "cifar10-resnet56": Source(
        "featstore:cifar_resnet56", "cifar10_resnet56.safetensors", cifar10, "cifar10/train#per_class(2500,seed=0)", None, 60.0
    ),
    "pairs": Source(
        "benchmarks.networks:mobilenetv1_050", "mobilenetv1_050_160.safetensors", pairs, "mnist/pairs", 5, 60.0
    ),
}  # fmt: skip
EXPECTED_S = {"digits": 0.3, **{name: source.expected_s for name, source in SOURCES.items()}}
"""Seconds of our path on two cores: what the first line of a benchmark is reckoned with."""


def folder(features: Path, tiny: bool) -> Path:
    """Where the features lie; tiny ones apart, for they go by the same names."""
    return features / "tiny" if tiny else features


def prepare(name: str, shared: Path, features: Path, *, tiny: bool = False, device: str = "cpu") -> None:
    """Extract what a problem needs and the store lacks.

    Parameters
    ----------
    name : str
        Of `SOURCES`.
    shared : Path
        Folder with ``data`` and ``weights``.
    features : Path
        Of the store.
    tiny : bool
        A few hundred images only.
    device : str
        Where the network runs.
    """
    extract_units(SOURCES[name], _images(SOURCES[name], shared, tiny), shared, folder(features, tiny), device)


def extract_units(source: Source, images: Split, shared: Path, root: Path, device: str) -> None:
    """Extract every unit of a network but the pooled input of its classifier, and that; float32."""
    here = str(Path(__file__).resolve().parents[1])
    if here not in sys.path:
        sys.path.insert(0, here)  # benchmarks.networks
    backbone = featstore.load_backbone(source.network, weights=str(shared / "weights" / source.weights), units="fine")
    units = [unit for unit in backbone.units if unit not in ("penultimate", "head")]
    featstore.extract(backbone, images, root, units=units, dtype="float32", batch_size=128, device=device)


def _images(source: Source, shared: Path, tiny: bool) -> Split:
    images = source.images(shared)
    if not tiny:
        return images
    assert images.labels is not None
    some = np.arange(len(images))
    if len(images.classes) == 100:  # a few digits on either side: five rows of a hundred classes would fit nothing
        some = np.flatnonzero((images.labels // 10 < 5) & (images.labels % 10 < 4))
    chosen = np.sort(np.random.default_rng(0).permutation(some)[:TINY_IMAGES])
    return images.subset(chosen, images.name)


def is_prepared(name: str, features: Path, tiny: bool) -> bool:
    """Whether `load_problem` finds what it needs."""
    if name not in SOURCES:
        return True
    try:
        return bool(featstore.open_store(folder(features, tiny)).units(SOURCES[name].split, SOURCES[name].network))
    except featstore.FeatstoreError:
        return False


def read_units(source: Source, root: Path, n_units: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The last units of a stored network side by side, (n, d) float32, and the labels (n,)."""
    store = featstore.open_store(root)
    units = [u for u in store.units(source.split, source.network) if u not in ("penultimate", "head")]
    units = units if n_units is None else units[-n_units:]
    matrices = [store.features(unit, source.split, backbone=source.network) for unit in units]
    labels = matrices[0].labels
    assert labels is not None
    return np.concatenate([matrix.numpy(np.float32) for matrix in matrices], axis=1), labels


def load_problem(name: str, features: Path, tiny: bool) -> Problem:
    """The features and labels of a problem; a fifth of the rows (of digits 720), drawn with seed 0, choose C.

    Parameters
    ----------
    name : str
        "digits", or a name of `SOURCES`.
    features : Path
        The store that `prepare` made.
    tiny : bool

    Returns
    -------
    Problem
    """
    if name == "digits":
        from sklearn.datasets import load_digits

        pixels, y = load_digits(return_X_y=True)
        X = pixels.astype(np.float32)
        return _held_out(name, X[:300], y[:300], 100) if tiny else _held_out(name, X, y, 720)
    source = SOURCES[name]
    X, y = read_units(source, folder(features, tiny), source.n_units)
    return _held_out(name, X, y, len(y) // 5)


def _held_out(name: str, X: np.ndarray, y: np.ndarray, n_val: int) -> Problem:
    order = np.random.default_rng(0).permutation(len(y))
    val, train = order[:n_val], order[n_val:]
    return Problem(name, X[train], y[train], X[val], y[val])


def label_sets(problem: Problem, m: int = 10) -> tuple[str, list[np.ndarray]]:
    """Ten labellings of the same rows, and how they come about.

    Pairs of digits have many real ones: what the left digit is, what the right one is, their sum, difference, …, all modulo
    10. The others get their true labels with a tenth of them replaced at random, another tenth in every set: a study of label
    noise.

    Returns
    -------
    what : str
    sets : list of numpy.ndarray of shape (n,), integer
    """
    if problem.name == "pairs":
        left, right = problem.y // 10, problem.y % 10
        made = [
            left,
            right,
            *((a * left + b * right) % 10 for a, b in ((1, 1), (1, 9), (1, 2), (2, 1), (1, 3), (3, 1))),
        ]
        return "functions of the two digits", [*made, np.maximum(left, right), np.minimum(left, right)][:m]
    classes, sets = np.unique(problem.y), []
    for seed in range(m):
        draw = np.random.default_rng(seed)
        y = problem.y.copy()
        noisy = draw.permutation(len(y))[: len(y) // 10]
        y[noisy] = draw.choice(classes, len(noisy))
        sets.append(y)
    return "a tenth of the labels replaced at random, ten times", sets


def fold_rows(problem: Problem, m: int = 10) -> list[np.ndarray]:
    """Training rows of ten stratified folds."""
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(m, shuffle=True, random_state=0)
    return [train for train, _ in folds.split(problem.X, problem.y)]
