"""How many threads the BLAS libraries have while fits are made. The only file of this package that knows threadpoolctl."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import numpy as np

from probe.arrays import Array

_SMALL_WORK = 1e7  # multiplications of one pass below which threads do not pay

_limiting = threading.Lock()
"""Held by the fit that has limited the libraries; of several at once, the first. A second would put back the first one's limit."""


@contextmanager
def threads_for(X: Array, k: int) -> Iterator[None]:
    """One BLAS thread while small products are computed: handing them to several costs more than the products.

    On a machine that is busy the difference is not small: threads that spin while they wait for each other made a path over
    358 × 32 features take 10 s instead of 0.4 s. The wheels of numpy and scipy bring a BLAS each, whose threads would be in each
    other's way as well: scipy's, which gets the small factors, has one thread at any size.

    Parameters
    ----------
    X : array of shape (n, d)
    k : int
        Columns of the products.
    """
    if not isinstance(X, np.ndarray):
        yield
        return
    import scipy.linalg  # noqa: F401  (it brings a BLAS of its own, and only loaded libraries are limited)
    from threadpoolctl import ThreadpoolController

    if not _limiting.acquire(blocking=False):
        yield
        return
    try:
        blas = ThreadpoolController().select(user_api="blas")
        work = int(X.shape[0]) * min(int(X.shape[0]), int(X.shape[1])) * k
        with (blas if work <= _SMALL_WORK else _second(blas)).limit(limits=1):
            yield
    finally:
        _limiting.release()


def _second(blas: Any) -> Any:
    """Of several BLAS libraries those that scipy brought; none where there is one only."""
    paths = [library["filepath"] for library in blas.info()]
    of_scipy = [path for path in paths if any(part.startswith("scipy") for part in PurePath(path).parts)]
    return blas.select(filepath=of_scipy if len(of_scipy) < len(paths) else [])
