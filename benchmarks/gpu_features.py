"""Features for the path's benchmark on a GPU: real ones, resampled from real ones, or made up."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np

N_UNITS = 6  # the last blocks of MobileNet v1 0.5: 2,048 columns

Data: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""X, y, X_val, y_val."""


def made_up(n: int, n_val: int, d: int, k: int) -> Data:
    """Rectified mixtures with a spectrum that falls like a power law: X, y, X_val, y_val."""
    draw = np.random.default_rng(0)
    r = min(256, d)
    spectrum = np.arange(1, r + 1, dtype=np.float32) ** -0.5
    means = draw.standard_normal((k, r), np.float32)
    mixing = draw.standard_normal((r, d), np.float32) / r**0.5
    y = np.concatenate([np.arange(k), draw.integers(0, k, n + n_val - k)])
    Z = (means[y] + 1.5 * draw.standard_normal((len(y), r), np.float32)) * spectrum
    X = np.maximum(Z @ mixing + 0.02 * draw.standard_normal((len(y), d), np.float32), 0.0).astype(np.float32)
    return X[:n], y[:n], X[n:], y[n:]


def resampled(X: np.ndarray, y: np.ndarray, n: int) -> Data:
    """X, y of n rows between real ones of a class, and a fifth of the real ones, left alone, as X_val, y_val."""
    draw = np.random.default_rng(0)
    order = draw.permutation(len(y))
    val, base = order[: len(y) // 5], order[len(y) // 5 :]
    by_class = {c: base[y[base] == c] for c in np.unique(y[base])}
    first = base[np.arange(n) % len(base)]
    second = np.array([draw.choice(by_class[y[i]]) for i in first])
    t = draw.uniform(0, 0.5, (n, 1)).astype(np.float32)
    noise = 0.05 * X[base].std(axis=0) * draw.standard_normal((n, X.shape[1]), np.float32)
    return (X[first] + t * (X[second] - X[first]) + noise).astype(np.float32), y[first], X[val], y[val]


def base_of(features: Path) -> tuple[np.ndarray, np.ndarray]:
    """Real features (m, 2048) float32 and labels (m,) from a store of `bench_path.py`, or from an npz of `--export`."""
    if features.suffix == ".npz":
        with np.load(features) as file:
            return file["X"].astype(np.float32), file["y"]
    from path_problems import SOURCES, read_units

    return read_units(SOURCES["pairs"], features, N_UNITS)


def extracted(shared: Path, features: Path, n: int, device: str) -> Data:
    """Real features of n images to fit and a fifth of that to choose C, extracted on the device."""
    from path_problems import SOURCES, extract_units, pairs, read_units

    images = pairs(shared, n + n // 5)
    root = features / "gpu"
    extract_units(SOURCES["pairs"], images, shared, root, device)
    X, y = read_units(SOURCES["pairs"], root, N_UNITS)
    return X[:n], y[:n], X[n:], y[n:]
