"""scikit-learn's handwritten digits (1,797 of 8 × 8 pixels; Alpaydin and Kaynak, UCI 1998) as a source and a target
domain.

They come with scikit-learn, so that the whole way through this project can be walked without any download. Half of
them is the source domain, on which ``featstore:digits_net`` was trained; of the other half, the target, 40 % train, 10
% select and 50 % test.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from featstore.datasets.official import Wanted
    from featstore.splits import Split

__all__ = ["digits"]

TEST_SHARE, VAL_SHARE = 0.5, 0.2


def digits(wanted: Wanted) -> Split:
    """Return one of the splits ``source``, ``train``, ``val``, ``test``, or ``all`` of them.

    Images are grey, 8 × 8, their 17 levels spread over 0 to 255, white on black. Which image is where is decided by a
    hash of its id within each class, the same on every machine.
    """
    from featstore.datasets.arrays import ArraySamples
    from featstore.splits import Split

    table = _table()
    images = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    ids = np.array([f"digit{i:04d}" for i in range(len(images))])
    samples = ArraySamples(images, "scikit-learn's digits")
    whole = Split("digits:all", ids, table[:, -1], tuple("0123456789"), samples)
    target, source = whole.holdout(0.5, seed=0)
    rest, test = target.holdout(TEST_SHARE, seed=1)
    train, val = rest.holdout(VAL_SHARE, seed=2)
    chosen = {"source": source, "train": train, "val": val, "test": test, "all": whole}[wanted.which]
    return chosen.subset(np.arange(len(chosen)), wanted.name)


def _table() -> np.ndarray:
    """(1797, 65) int64: 64 pixels of 0 to 16 and the label. scikit-learn's file, where it is, without importing
    scikit-learn, which takes a second."""
    found = importlib.util.find_spec("sklearn")
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, delimiter=",", dtype=np.int64)
    from sklearn.datasets import load_digits

    data = load_digits()
    return np.column_stack([data.data, data.target]).astype(np.int64)
