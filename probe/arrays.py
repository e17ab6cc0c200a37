"""One namespace for numpy, torch and cupy: the array API standard, and the few things it lacks.

Feature matrices of any origin become one 2-d array here (`as_matrix`), and are trusted afterwards.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from probe.errors import BadInput

Array: TypeAlias = Any  # numpy.ndarray, torch.Tensor or cupy.ndarray: the standard has no common base class

_SMALL_WORK = 3e7  # multiplications of one pass below which threads do not pay


def namespace(x: Array) -> ModuleType:
    """The array API namespace of an array.

    Parameters
    ----------
    x : array

    Returns
    -------
    module
    """
    import array_api_compat

    found: ModuleType = array_api_compat.array_namespace(x)
    return found


def device_of(x: Array) -> Any:
    """The device an array lives on, in its library's own words."""
    import array_api_compat

    return array_api_compat.device(x)


def is_on_cpu(x: Array) -> bool:
    """Whether an array's rows are worth cutting into pieces that fit the processor's cache."""
    return isinstance(x, np.ndarray) or str(device_of(x)) == "cpu"


def to_numpy(x: Array) -> np.ndarray:
    """Copy an array to host memory.

    Parameters
    ----------
    x : array

    Returns
    -------
    numpy.ndarray
    """
    if isinstance(x, np.ndarray):
        return x
    if type(x).__module__.partition(".")[0] == "torch":
        host: np.ndarray = x.detach().cpu().numpy()
        return host
    if type(x).__module__.partition(".")[0] == "cupy":  # not whatever has a method get: tables of pandas have one too
        return np.asarray(x.get())
    return np.asarray(x)


def like(x: Array, value: Any, dtype: Any = None) -> Array:
    """Put host values where an array lives.

    Parameters
    ----------
    x : array
    value : array-like on the host
    dtype : dtype, optional
        Default: the dtype of `x`.

    Returns
    -------
    array
    """
    xp = namespace(x)
    return xp.asarray(np.asarray(value), dtype=x.dtype if dtype is None else dtype, device=device_of(x))


def threads_for(X: Array, k: int) -> AbstractContextManager[object]:
    """One BLAS thread while small products are computed: handing them to several costs more than the products.

    On a machine that is busy the difference is not small: threads that spin while they wait for each other made a path over
    358 × 32 features take 10 s instead of 0.4 s.

    Parameters
    ----------
    X : array of shape (n, d)
    k : int
        Columns of the products.

    Returns
    -------
    context manager
    """
    work = int(X.shape[0]) * min(int(X.shape[0]), int(X.shape[1])) * k
    if not isinstance(X, np.ndarray) or work > _SMALL_WORK:
        return nullcontext()
    import scipy.linalg  # noqa: F401  (it brings a BLAS of its own, and only loaded libraries are limited)
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits


def largest(x: Array, m: int) -> Array:
    """Positions of the `m` largest entries of a vector, in no particular order.

    Parameters
    ----------
    x : array of shape (n,)
    m : int

    Returns
    -------
    array of shape (m,), integer
    """
    if isinstance(x, np.ndarray):
        return np.argpartition(x, x.size - m)[x.size - m :]
    if hasattr(x, "topk"):  # torch
        return x.topk(m, sorted=False).indices
    return namespace(x).argsort(x, descending=True)[:m]


def spd_inverse(B: Array) -> Array:
    """Inverse of a symmetric positive definite matrix, by its Cholesky factor where the library offers that.

    Parameters
    ----------
    B : array of shape (m, m), float64

    Returns
    -------
    array of shape (m, m)
    """
    if isinstance(B, np.ndarray):
        from scipy.linalg.lapack import dpotrf, dpotri

        factor, info = dpotrf(B, lower=1)
        inverse, _ = dpotri(factor, lower=1, overwrite_c=1)
        if info == 0:
            lower = np.tril(inverse)
            whole: np.ndarray = lower + np.tril(lower, -1).T
            return whole
    elif type(B).__module__.partition(".")[0] == "torch":
        import torch

        return torch.cholesky_inverse(torch.linalg.cholesky(B))
    return namespace(B).linalg.inv(B)


def as_matrix(X: Any, device: Any = None) -> Array:
    """Bring features of any origin into one 2-d floating array.

    Parameters
    ----------
    X : array-like of shape (n, d)
        numpy, torch or cupy array, feature matrix of a store, dask array, or anything ``numpy.asarray`` reads.
    device : str or device, optional
        Where to compute; None means where `X` lives. A device name such as "cuda" moves the features to torch there.

    Returns
    -------
    array of shape (n, d)
        float16, float32 or float64, as given; integers and booleans become float64.

    Raises
    ------
    BadInput
        When `X` is sparse, not 2-d, empty, complex or not numeric.
    """
    if hasattr(X, "toarray") and not hasattr(X, "__array_namespace__"):
        raise BadInput(
            f"X is a sparse matrix of shape {X.shape}, but features of networks are dense and so are the solvers here; "
            "pass X.toarray()."
        )
    if hasattr(X, "blocks") and hasattr(X, "ids"):  # a feature matrix of a store
        X = X.numpy() if device is None else X.load(device=device)
    elif hasattr(X, "compute") and hasattr(X, "dask"):
        X = X.compute()
    if isinstance(X, np.ma.MaskedArray):
        raise BadInput("X is a masked array, and a solver cannot leave entries out; fill them, or drop their rows.")
    if not _is_array(X):
        X = np.asarray(X)
    if getattr(X, "requires_grad", False):
        X = X.detach()
    if device is not None:
        X = _moved(X, device)
    return _checked(X)


def _is_array(X: Any) -> bool:
    import array_api_compat

    return bool(array_api_compat.is_array_api_obj(X))


def _moved(X: Array, device: Any) -> Array:
    if isinstance(X, np.ndarray) and str(device) == "cpu":
        return X
    import array_api_compat

    try:
        if isinstance(X, np.ndarray):
            import torch

            return torch.from_numpy(X).to(device)
        return array_api_compat.to_device(X, device)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise BadInput(
            f"The features cannot be moved to device {str(device)!r}: {reason}. Leave device out to compute where they are."
        ) from error


def _checked(X: Array) -> Array:
    if X.ndim != 2:
        hint = "pass X.reshape(-1, 1) for one feature, X.reshape(1, -1) for one sample" if X.ndim == 1 else "flatten it"
        raise BadInput(
            f"Expected 2D array of features (n, d), got {X.ndim}D array instead, shape {tuple(X.shape)}; {hint}."
        )
    n, d = (int(s) for s in X.shape)
    if n == 0:
        raise BadInput(f"Found array with 0 sample(s) (shape={(n, d)}) while a minimum of 1 is required.")
    if d == 0:
        raise BadInput(f"Found array with 0 feature(s) (shape={(n, d)}) while a minimum of 1 is required.")
    if isinstance(X, np.ndarray) and X.dtype.kind not in "fiub":
        if X.dtype.kind == "c":
            raise BadInput("Complex data not supported: features must be real numbers.")
        try:
            X = X.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise BadInput(f"Features must be numbers, but X has dtype {X.dtype}: {error}.") from error
    xp = namespace(X)
    if not xp.isdtype(X.dtype, "real floating") and str(X.dtype) not in {"float16", "torch.float16", "torch.bfloat16"}:
        return xp.astype(X, xp.float64)
    return X


def require_finite(X: Array, what: str = "X") -> None:
    """Refuse NaN and infinity, naming where they are.

    Parameters
    ----------
    X : array of shape (n, d)
    what : str
        What to call it.

    Raises
    ------
    BadInput
        Naming the first rows and columns that hold NaN or infinity.
    """
    xp = namespace(X)
    step = max(1, (1 << 22) // int(X.shape[1]))
    rows: list[int] = []
    columns: set[int] = set()
    for a in range(0, int(X.shape[0]), step):
        bad = ~xp.isfinite(X[a : a + step, :])
        if not bool(xp.any(bad)):
            continue
        r, c = np.nonzero(to_numpy(bad))
        rows.extend(int(i) + a for i in np.unique(r))
        columns.update(int(j) for j in c)
    if rows:
        raise BadInput(
            f"{what} contains NaN or infinity: {len(rows)} of {X.shape[0]} rows (first {_some(rows)}) and {len(columns)} "
            f"of {X.shape[1]} columns (first {_some(sorted(columns))}); remove them, or extract those samples again."
        )


def _some(values: list[int], most: int = 5) -> str:
    return ", ".join(map(str, values[:most])) + (", …" if len(values) > most else "")
