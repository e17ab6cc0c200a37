"""One change of coordinates per feature matrix, reused for every penalty, label set, fold and seed.

The columns are centred and rotated into the eigenbasis of their covariance: ``x̃ = Vᵀ(x − μ)``, with a column of ones
appended for the intercept. The penalty does not see a rotation (‖W‖ = ‖WV‖), and centring only moves the intercept by
μᵀW, so the problem is the same; but its Hessian is now close to diagonal, and with n < d it has n − 1 columns instead of
d, exactly. Directions without variance are dropped: the penalty keeps their weights at zero anyway.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from probe.arrays import Array, like, namespace, require_finite, to_numpy
from probe.errors import BadInput

_GRADED = 1e5  # largest column over the median one; above this a Gram matrix in float64 loses the ordinary columns


@dataclass(frozen=True, eq=False)
class Rotation:
    """Centring and rotation of a feature matrix, and the way back.

    Attributes
    ----------
    mean : array of shape (d,), float64
        Zero without an intercept.
    basis : array of shape (d, r), float64, or None
        Orthonormal columns; None is the identity (columns of very different scales: rotating would lose the small).
    spectrum : numpy.ndarray of shape (r,) or (r + 1,), float64
        Sum of squares of every rotated column; the last is the column of ones, when there is an intercept.
    has_intercept : bool
    """

    mean: Array
    basis: Array | None
    spectrum: np.ndarray
    has_intercept: bool

    @property
    def penalised(self) -> np.ndarray:
        """One for every coordinate that is penalised, zero for the intercept; shape of the spectrum."""
        mask = np.ones(len(self.spectrum))
        if self.has_intercept:
            mask[-1] = 0.0
        return mask

    def rows(self, X: Array, dtype: object) -> Array:
        """Rotate rows.

        Parameters
        ----------
        X : array of shape (n, d)
        dtype : dtype
            Of the result; the arithmetic is float64.

        Returns
        -------
        array of shape (n, r) or (n, r + 1)
        """
        xp = namespace(X)
        n, r = int(X.shape[0]), len(self.spectrum)
        out = xp.ones((n, r), dtype=dtype, device=X.device)
        width = r - 1 if self.has_intercept else r
        step = max(1, (1 << 23) // int(X.shape[1]))
        for a in range(0, n, step):
            block = xp.astype(X[a : a + step, :], xp.float64) - self.mean[None, :]
            out[a : a + step, :width] = xp.astype(block if self.basis is None else block @ self.basis, dtype)
        return out

    def to_features(self, T: Array) -> tuple[Array, Array]:
        """Coefficients in rotated coordinates → weights and intercepts of the features as given.

        Parameters
        ----------
        T : array of shape (L, k, r) or (L, k, r + 1), float64

        Returns
        -------
        W : array of shape (L, k, d)
        b : array of shape (L, k)
        """
        xp = namespace(T)
        if not self.has_intercept:
            return self._unrotated(T), xp.zeros(T.shape[:2], dtype=T.dtype, device=T.device)
        W = self._unrotated(T[..., :-1])
        return W, T[..., -1] - W @ self.mean

    def from_features(self, W: Array, b: Array) -> Array:
        """Weights and intercepts → coefficients in rotated coordinates; the inverse of `to_features` on its range."""
        xp = namespace(W)
        T = W if self.basis is None else _rows_times(W, self.basis)
        return xp.concat([T, (b + W @ self.mean)[..., None]], axis=-1) if self.has_intercept else T

    def largest(self, G: Array) -> np.ndarray:
        """Largest entry of the gradients by (W, b), from those by rotated coefficients: (L, k, r) → (L,), to six digits.

        It is asked for often, so it is rotated in float32.
        """
        xp = namespace(G)
        by_W = G[..., :-1] if self.has_intercept else G
        if by_W.shape[-1] == 0:  # no direction has any variance
            by_W = self._unrotated(by_W)
        elif self._short_basis is not None:
            size = xp.max(xp.abs(by_W), axis=(1, 2), keepdims=True)
            size = xp.where(size > 0, size, xp.ones_like(size))
            by_W = size * xp.astype(_rows_times(xp.astype(by_W / size, xp.float32), self._short_basis), xp.float64)
        if not self.has_intercept:
            return to_numpy(xp.max(xp.abs(by_W), axis=(1, 2)))
        by_b = G[..., -1:]
        found = xp.max(xp.abs(by_W + by_b * self.mean), axis=(1, 2))
        return to_numpy(xp.maximum(found, xp.max(xp.abs(by_b), axis=(1, 2))))

    @cached_property
    def _short_basis(self) -> Array | None:
        """The transposed basis in float32."""
        return None if self.basis is None else namespace(self.basis).astype(self.basis.T, namespace(self.basis).float32)

    def _unrotated(self, T: Array) -> Array:
        return T if self.basis is None else _rows_times(T, self.basis.T)


def _rows_times(T: Array, M: Array) -> Array:
    """``T @ M`` as one product: with several axes it would be many small ones, each of which reads all of M."""
    xp = namespace(T)
    flat = xp.reshape(T, (math.prod(T.shape[:-1]), int(T.shape[-1]))) @ M
    return xp.reshape(flat, (*T.shape[:-1], int(M.shape[1])))


def rotate(X: Array, fit_intercept: bool = True) -> Rotation:
    """Find the rotation of a feature matrix; one Gram product and one eigendecomposition, in float64.

    Parameters
    ----------
    X : array of shape (n, d)
    fit_intercept : bool
        Without an intercept nothing is centred.

    Returns
    -------
    Rotation

    Raises
    ------
    BadInput
        When X holds NaN or infinity (found while summing, without a pass of its own).
    """
    xp = namespace(X)
    n = int(X.shape[0])
    X64 = xp.astype(X, xp.float64)
    mean = xp.sum(X64, axis=0) / n
    if not bool(xp.all(xp.isfinite(mean))):
        require_finite(X)
        raise BadInput("The sum of a column of X is beyond float64; divide the features by a constant.")
    centre = mean if fit_intercept else xp.zeros_like(mean)
    Xc = X64 - centre[None, :]
    tail = [float(n)] if fit_intercept else []
    with np.errstate(over="ignore"):
        squares = to_numpy(xp.sum(Xc * Xc, axis=0))
    if not np.isfinite(squares).all():
        largest = float(xp.max(xp.abs(X64)))
        raise BadInput(
            f"X reaches {largest:.3g}, and its squares are beyond float64; divide the features by a constant."
        )
    if graded(squares, n, to_numpy(mean)):
        return Rotation(centre, None, np.concatenate([squares, tail]), fit_intercept)
    values, basis = eigenbasis(Xc)
    return Rotation(centre, basis, np.concatenate([values, tail]), fit_intercept)


def graded(squares: np.ndarray, n: int, mean: np.ndarray) -> bool:
    """Whether columns differ so much in scale that a Gram matrix would lose the ordinary ones.

    Parameters
    ----------
    squares : numpy.ndarray of shape (d,)
        Sums of squares of the columns about `mean`.
    n : int
    mean : numpy.ndarray of shape (d,)

    Returns
    -------
    bool
    """
    seen = squares > (np.finfo(np.float64).eps * n) ** 2 * (squares + n * mean**2)
    return bool(seen.any() and squares[seen].max() > _GRADED**2 * np.median(squares[seen]))


def symmetric_eigen(gram: Array) -> tuple[np.ndarray, Array]:
    """Eigenvalues of a symmetric matrix, ascending, on the host, and its eigenvectors as columns, where it lives."""
    if isinstance(gram, np.ndarray):
        from scipy.linalg import eigh  # divide and conquer: half the time of numpy's driver on large matrices

        values, columns = eigh(gram, driver="evd", check_finite=False)
        return values, columns
    spectrum, vectors = namespace(gram).linalg.eigh(gram)
    return to_numpy(spectrum), vectors


def eigenbasis(Xc: Array) -> tuple[np.ndarray, Array]:
    """Non-zero eigenvalues of XᵀX, largest first, with their eigenvectors, from the smaller of the two Gram matrices.

    Parameters
    ----------
    Xc : array of shape (n, d), float64

    Returns
    -------
    values : numpy.ndarray of shape (r,)
    vectors : array of shape (d, r)
    """
    xp = namespace(Xc)
    n, d = (int(s) for s in Xc.shape)
    wide = n < d
    values, vectors = symmetric_eigen(Xc @ Xc.T if wide else Xc.T @ Xc)
    kept = np.flatnonzero(values > max(values[-1], 0.0) * np.finfo(np.float64).eps * max(n, d))[::-1]
    vectors = xp.take(vectors, xp.asarray(kept.copy(), device=Xc.device), axis=1)
    values = values[kept]
    if wide:
        vectors = (Xc.T @ vectors) / like(Xc, np.sqrt(values))[None, :]
    if isinstance(vectors, np.ndarray):
        vectors = np.ascontiguousarray(vectors)
    return values, vectors
