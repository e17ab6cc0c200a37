"""What a fit needs of memory, and one clear error where there is less."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from probe import warned
from probe.arrays import is_out_of_memory, library_of
from probe.errors import NotInMemory, OutOfMemory

Fitted = TypeVar("Fitted")

_SCORE_ARRAYS = (
    8  # arrays of scores at work at once: scores, derivative, direction, the line search's, the certificate's
)
_HISTORY = 24  # of coefficients: ten pairs of the minimiser's memory, three points of the path, the gradient
_PAIRS = 2048  # rows of the preconditioner's matrix, at most
_BLOCK = 1 << 23  # entries of X that are rotated at once
_BYTES = 1e9


def needed_bytes(n: int, d: int, k: int, itemsize: int = 4, rotated: int = 8) -> int:
    """About how much memory a path takes at its peak, features included.

    The features as given, and the most of three moments: the Gram product with its three float64 copies of the features; the
    rotation of the rows, a block at a time; the fits, with the arrays of scores, the minimiser's memory and the
    preconditioner's matrix, beside the rotated rows.

    Parameters
    ----------
    n, d, k : int
        Rows, columns, and rows of coefficients (all lanes together).
    itemsize : int
        Bytes of a feature.
    rotated : int
        Bytes of a rotated feature and of a score: 4 in float32, 8 in float64.

    Returns
    -------
    int

    Examples
    --------
    >>> needed_bytes(20_000, 1_344, 10) // 2**20
    759
    """
    small = min(n, d)
    pairs = min(_PAIRS, (96 * n * small * k) ** (1 / 3), n * k)
    rows = n * (small + 1) * rotated
    gram = 3 * 8 * (n * d + small**2)
    rotation = rows + 3 * 8 * min(n * d, _BLOCK)
    fits = rows + (_SCORE_ARRAYS * n + _HISTORY * small) * k * rotated + int(3 * 8 * pairs**2)
    return n * d * itemsize + max(gram, rotation, fits)


@contextmanager
def said(X: Any, y: Any, device: Any = None) -> Iterator[None]:
    """Turn whatever numpy, torch, cupy or CUDA say when memory runs out into one `OutOfMemory`.

    The arrays of the failed attempt are let go first, so that whoever catches the error can use their memory.

    Parameters
    ----------
    X, y : array-like
        Of the fit, as given.
    device : optional
        Where they are moved to.

    Raises
    ------
    OutOfMemory
        With about how much is needed, the library's own words, and what to do.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        sentence = _sentence(X, y, str(getattr(X, "device", "cpu") if device is None else device), error)
        traceback.clear_frames(error.__traceback__)
        raise OutOfMemory(sentence) from error


def allowing(attempt: Callable[[Any], Fitted], X: Any, memory: Any) -> Fitted:
    """Fit; where memory runs out and ``memory="auto"`` allows it, say so and fit once more from streamed rows.

    Parameters
    ----------
    attempt : callable
        What `memory` to fit with → the fits.
    X : array-like
        The features, as given.
    memory : float, "auto" or None

    Returns
    -------
    What `attempt` returned.

    Warns
    -----
    NotInMemory
        With the bytes that streamed rows may take: a quarter of what the features do.
    """
    if not isinstance(memory, str) or memory != "auto":
        return attempt(memory)
    try:
        return attempt(None)
    except OutOfMemory as error:
        if len(getattr(X, "shape", ())) != 2 or not hasattr(X, "dtype") or library_of(X) == "cupy":
            raise  # a list is in memory already, and rows of a cupy array are on the GPU
        reason = str(error).partition(" (")[0]
    itemsize = int(getattr(X.dtype, "itemsize", 8))
    allowed = max(int(X.shape[0]) * int(X.shape[1]) * itemsize // 4, 1)
    warned.say(
        f"{reason}. As memory='auto' allows, they are streamed instead, in {allowed:,} bytes: the same answer, but slower; "
        f"pass memory={allowed} to stream from the start.",
        NotInMemory,
    )
    return attempt(allowed)


def _rows_of_coef(y: Any) -> int:
    """Classes or labels of one label set, or of all in a list of them."""
    if hasattr(y, "shape"):
        return int(y.shape[1]) if len(y.shape) == 2 else len(set(y.tolist()))
    if any(hasattr(one, "shape") or isinstance(one, list | tuple) for one in y):
        is_table = len({len(one) for one in y}) == 1 and len(y[0]) < len(y)
        return len(y[0]) if is_table else sum(_rows_of_coef(one) for one in y)
    return len(set(y))


def _sentence(X: Any, y: Any, place: str, error: BaseException) -> str:
    shape = tuple(getattr(X, "shape", ()))
    reason = str(error).partition("\n")[0].strip().rstrip(".") or type(error).__name__
    if len(shape) != 2:
        return f"Memory ran out while features were read: {reason}. Read fewer rows, or use a machine with more memory."
    n, d = (int(s) for s in shape)
    itemsize = int(getattr(getattr(X, "dtype", None), "itemsize", 8))
    k = _rows_of_coef(y)
    low, high = (needed_bytes(n, d, k, itemsize, size) / _BYTES for size in (4, 8))
    return (
        f"Memory ran out on {place}: {n} × {d} features with {k} classes need about {low:.2g} GB in float32 "
        f"and {high:.2g} GB in float64, of which the features themselves are {n * d * itemsize / _BYTES:.2g} GB ({reason}). Let "
        "fit_path stream them with memory= ('auto' does so only when it must), fit fewer rows, columns or labels in one call, "
        "pass float32 or float16 features, or "
        "compute where there is more memory."
    )
