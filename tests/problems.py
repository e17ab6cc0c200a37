"""Classification problems that the tests of the solver share: real digits cut in many ways, and hard cases made by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Case:
    """Features and labels with a name."""

    name: str
    X: np.ndarray
    y: np.ndarray


def digits(n: int = 400, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """The first n handwritten digits of the first classes: (n, 64) float64 in 0 … 16, and their labels."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    kept = np.flatnonzero(y < classes)[:n]
    return X[kept], y[kept]


def cases() -> list[Case]:
    """Problems over which every solver test runs."""
    X, y = digits()
    X2, y2 = digits(300, 2)
    rng = np.random.default_rng(0)
    wide = np.concatenate([X[:40], X[:40] ** 2, rng.normal(size=(40, 40))], axis=1)
    scaled = X[:, :20] * 10.0 ** rng.uniform(-3, 3, 20)
    constant = np.concatenate([X[:150, :10], np.ones((150, 2)), X[:150, :3]], axis=1)
    return [
        Case("digits, 10 classes", X, y),
        Case("digits, binary", X2, y2),
        Case("fewer rows than columns", wide, y[:40]),
        Case("columns of very different scales", scaled, y),
        Case("constant and duplicated columns", constant, y[:150]),
        Case("three classes, one of five rows", *_imbalanced(X, y)),
    ]


def _imbalanced(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kept = np.concatenate([np.flatnonzero(y == 0), np.flatnonzero(y == 1), np.flatnonzero(y == 2)[:5]])
    return X[kept], y[kept]
