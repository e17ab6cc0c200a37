"""One namespace for numpy, torch and cupy: the array API standard, and the few things it lacks.

Feature matrices of any origin become one 2-d array here (`as_matrix`), and are trusted afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from probe.errors import BadInput, MissingExtra

Array: TypeAlias = Any  # numpy.ndarray, torch.Tensor or cupy.ndarray: the standard has no common base class

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED", "bad_alloc")
_DEVICE_ERRORS = {"CUDARuntimeError", "CUDADriverError", "CUBLASError", "CUSOLVERError"}


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

    if isinstance(x, np.ndarray):  # asked some hundred thousand times per path
        import array_api_compat.numpy as xp

        return xp
    if type(x).__module__ == "torch":
        import array_api_compat.torch as torch_xp

        return torch_xp
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
    """Bring an array to host memory; what is there is not copied.

    Parameters
    ----------
    x : array

    Returns
    -------
    numpy.ndarray
    """
    if isinstance(x, np.ndarray):
        return x
    if library_of(x) == "torch":
        if x.is_meta:
            raise BadInput(f"A tensor of shape {tuple(x.shape)} lives on torch's meta device, which keeps no numbers.")
        is_bfloat = str(x.dtype) == "torch.bfloat16"  # which numpy lacks; float32 holds every one of its numbers
        host: np.ndarray = (x.float() if is_bfloat else x).detach().cpu().numpy()
        return host
    if library_of(x) == "cupy":  # not whatever has a method get: tables of pandas have one too
        return np.asarray(x.get())
    return np.asarray(x)


def to_host(*arrays: Array) -> tuple[np.ndarray, ...]:
    """Bring several arrays of one shape and dtype to host memory in one transfer: an accelerator is waited for once."""
    if isinstance(arrays[0], np.ndarray):
        return arrays
    return tuple(to_numpy(namespace(arrays[0]).stack(arrays)))


def plus_product(y: Array, a: Array, x: Array, sign: float = 1.0) -> Array:
    """``y + sign · a · x`` for a sign of 1 or −1; with torch in one operation, which is what time goes by on a GPU."""
    if library_of(y) == "torch":
        import torch

        return torch.addcmul(y, a, x, value=sign)
    return y + a * x if sign > 0 else y - a * x


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
    dtype = x.dtype if dtype is None else dtype
    if isinstance(x, np.ndarray):
        return np.asarray(value, dtype=dtype)
    return namespace(x).asarray(np.asarray(value), dtype=dtype, device=device_of(x))


def to_library(X: Array, library: str) -> Array:
    """The same numbers as an array of another library; without a copy where both can read the memory.

    numpy and torch share host memory, torch and cupy share a GPU's. Nothing goes to a GPU but by cupy, which has no other
    place; what lives on one is copied to the host for numpy.

    Parameters
    ----------
    X : array
    library : str
        "numpy", "torch" or "cupy".

    Returns
    -------
    array

    Raises
    ------
    MissingExtra
        When cupy is asked for and not installed.
    BadInput
        When cupy finds no GPU.
    """
    if library == "numpy":
        return to_numpy(X)
    home = library_of(X)
    if home == library:
        return X
    if library == "torch":
        import torch
        from torch.utils.dlpack import from_dlpack

        return from_dlpack(X) if home == "cupy" else torch.from_numpy(_writable(to_numpy(X)))
    cupy = _cupy()
    try:
        return cupy.from_dlpack(X) if home == "torch" and X.device.type == "cuda" else cupy.asarray(to_numpy(X))
    except cupy.cuda.runtime.CUDARuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise BadInput(
            f"cupy cannot reach a GPU: {error}. Use backend='auto', which computes where the features are."
        ) from error


def library_of(X: Array) -> str:
    """The top-level name of the library an array belongs to: "numpy", "torch", "cupy" …"""
    return "numpy" if isinstance(X, np.ndarray) else type(X).__module__.partition(".")[0]


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise MissingExtra(
            f"backend='cupy' needs cupy, which cannot be imported ({error}); install featprobe[cuda12] or featprobe[cuda13], "
            "by the CUDA version of the driver."
        ) from error
    return cupy


def _writable(X: np.ndarray) -> np.ndarray:
    """An array that torch can share: copied where it is read-only, reversed or of foreign byte order."""
    is_shared = X.flags.writeable and X.dtype.isnative and all(s >= 0 for s in X.strides)
    return X if is_shared else np.array(X, dtype=X.dtype.newbyteorder("="), order="C", copy=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a host or a device ran out of memory, in the words of any of the libraries used here.

    numpy, cupy and RMM raise kinds of MemoryError; torch its OutOfMemoryError for its own blocks, and a RuntimeError for the
    host's memory or inside cuBLAS and cuSOLVER; the CUDA runtime an error of its own.

    Parameters
    ----------
    error : BaseException

    Returns
    -------
    bool
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    is_from_device = isinstance(error, RuntimeError) or type(error).__name__ in _DEVICE_ERRORS
    return is_from_device and any(words.lower() in str(error).lower() for words in _OUT_OF_MEMORY)


def take(x: Array, lanes: np.ndarray) -> Array:
    """Some entries along the first axis, on the host's word."""
    xp = namespace(x)
    return xp.take(x, xp.asarray(lanes, device=x.device), axis=0)


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
            whole: np.ndarray = inverse + np.tril(inverse, -1).T  # the factor left zeros above the diagonal
            return whole
    elif library_of(B) == "torch":
        import torch

        factor, info = torch.linalg.cholesky_ex(B)
        if int(info) == 0:  # else rounding has made it indefinite
            return torch.cholesky_inverse(factor)
    return namespace(B).linalg.inv(B)


def spd_solver(B: Array) -> Callable[[Array], Array]:
    """A function that solves ``B x = v`` for a symmetric positive definite matrix.

    On a CPU two triangular solves: the inverse would take three times as long to make, and serves a dozen times. On an
    accelerator the inverse, as a product with it is what runs well there.

    Parameters
    ----------
    B : array of shape (m, m), float64
        Overwritten.

    Returns
    -------
    callable
        (m, q) → (m, q), float64.
    """
    if isinstance(B, np.ndarray):
        from scipy.linalg.blas import dtrsm, dtrsv
        from scipy.linalg.lapack import dpotrf

        diagonal = B.diagonal().copy()
        upper, info = dpotrf(B.T, lower=0, overwrite_a=1, clean=0)  # the transpose of a C matrix is LAPACK's own order
        if info == 0:

            def solve(v: np.ndarray) -> np.ndarray:
                if v.shape[1] == 1:
                    one: np.ndarray = dtrsv(upper, dtrsv(upper, v[:, 0], trans=1), overwrite_x=1)[:, None]
                    return one
                several: np.ndarray = dtrsm(1.0, upper, dtrsm(1.0, upper, v, trans_a=1), overwrite_b=1)
                return several

            return solve
        below = np.tril(upper, -1)  # LAPACK has left this triangle as it was
        B = below + below.T + np.diag(diagonal)
    inverse = spd_inverse(B)
    return lambda v: inverse @ v


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
        X = rectangular(X, "X")
    if isinstance(X, np.ndarray):
        X = _numeric(X)
    if getattr(X, "requires_grad", False):
        X = X.detach()
    if device is not None:
        X = _moved(X, device)
    return _checked(X)


def rectangular(given: Any, name: str) -> np.ndarray:
    """Anything array-like as a numpy array.

    Parameters
    ----------
    given : array-like
        Of any library, on any device; lists, tables and the like.
    name : str
        What it is called, for errors.

    Raises
    ------
    BadInput
        When its rows have different lengths.
    """
    if hasattr(given, "shape"):
        return to_numpy(given)
    try:
        return np.asarray(given)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise BadInput(f"The rows of {name} have different lengths ({error}); give each as many numbers.") from None


def _is_array(X: Any) -> bool:
    import array_api_compat

    return bool(array_api_compat.is_array_api_obj(X))


def _moved(X: Array, device: Any) -> Array:
    if isinstance(X, np.ndarray) and str(device) == "cpu":
        return X
    import array_api_compat

    try:
        if library_of(X) == "cupy" and str(device).partition(":")[0] == "cuda":
            return _on_gpu(X, str(device))
        if isinstance(X, np.ndarray):
            return to_library(X, "torch").to(device)
        return array_api_compat.to_device(X, device)
    except (RuntimeError, AssertionError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0]
        raise BadInput(
            f"The features cannot be moved to device {str(device)!r}: {reason}. Leave device out to compute where they are."
        ) from error


def _on_gpu(X: Array, device: str) -> Array:
    """A cupy array, which is on a GPU already: on the one that is named."""
    number = device.partition(":")[2]
    if not number or int(number) == X.device.id:
        return X
    cupy = _cupy()
    with cupy.cuda.Device(int(number)):
        return cupy.asarray(X)


def _numeric(X: np.ndarray) -> np.ndarray:
    """An array of numbers that every library has; before it is moved, for torch takes no objects and no long doubles."""
    if X.dtype.kind == "c":
        raise BadInput("Complex data not supported: features must be real numbers.")
    if X.dtype.kind in "iub" or (X.dtype.kind == "f" and X.dtype.itemsize <= 8):
        return X
    try:
        return X.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"Features must be numbers, but X has dtype {X.dtype}: {error}.") from error


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
    if getattr(X, "is_meta", False):
        raise BadInput(f"X of shape {(n, d)} lives on torch's meta device, which keeps no numbers; load the features.")
    xp = namespace(X)
    if xp.isdtype(X.dtype, "complex floating"):
        raise BadInput("Complex data not supported: features must be real numbers.")
    if not xp.isdtype(X.dtype, "real floating") and str(X.dtype) not in {"float16", "torch.float16", "torch.bfloat16"}:
        return xp.astype(X, xp.float64)
    return X


def require_finite(
    X: Array, what: str = "X", first: int = 0, n_all: int | None = None, names: np.ndarray | None = None
) -> None:
    """Refuse NaN and infinity, naming where they are.

    Parameters
    ----------
    X : array of shape (n, d)
    what : str
        What to call it.
    first : int
        Number of its first row.
    n_all : int, optional
        Number of the rows that X is a block of.
    names : numpy.ndarray of shape (n,), optional
        Numbers of the rows, where they do not follow one another.

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
        rows.extend(int(i) + a + first if names is None else int(names[int(i) + a]) for i in np.unique(r))
        columns.update(int(j) for j in c)
    if rows:
        counted = f"{len(rows)} of {X.shape[0]}" if n_all is None else f"at least {len(rows)} of {n_all}"
        raise BadInput(
            f"{what} contains NaN or infinity: {counted} rows (first {_some(rows)}) and {len(columns)} "
            f"of {X.shape[1]} columns (first {_some(sorted(columns))}); remove them, or extract those samples again."
        )


def _some(values: list[int], most: int = 5) -> str:
    return ", ".join(map(str, values[:most])) + (", …" if len(values) > most else "")
