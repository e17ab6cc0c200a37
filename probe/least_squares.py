"""Penalised least squares on targets ±1, for every penalty at once: normal equations, their eigenbasis, certificate, refinement.

    F(W, b) = Σ_i s_i · ½ ‖W x_i + b − t_i‖² + ½ λ ‖W‖²

With ``Xᶜ = X − μ`` and ``XᶜᵀSXᶜ = V Λ Vᵀ`` (μ and the Gram matrix weighted by S = diag(s)) the optimum is, for every λ,

    W = Tᶜᵀ S Xᶜ V (Λ + λ)⁻¹ Vᵀ,    b = t̄ − W μ.

The Gram matrix squares the condition number. Where that loses too much (columns of very different scales, weak penalties), the
certificate falls short, and Newton steps repair it (``W − (Λ + λ)⁻¹ ∇F``, one step being exact but for rounding): first in the same
basis, then in that of a singular value decomposition of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from types import ModuleType

import numpy as np

from probe.arrays import Array, like, namespace, require_finite, to_numpy
from probe.certificate import Certificate, certify, gradients, meets
from probe.errors import BadInput
from probe.labels import Labels
from probe.objective import BatchedLoss
from probe.rotation import Rotation, eigenbasis, symmetric_eigen
from probe.sources import RowSource
from probe.streamed import Streamed

_BLOCK_ENTRIES = 1 << 22
_CANCELLED = (
    1e-6  # loss over its value at zero weights below which the quadratic form is all rounding, and rows are read
)


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted first and second moments of features and targets, in float64, from the data as given.

    Attributes
    ----------
    total : float
        Σ s.
    mean : array of shape (d,)
        Of the features; zero without an intercept.
    target_mean : array of shape (K,)
        Of the targets; zero without an intercept.
    target_square : numpy.ndarray of shape (K,)
        ``Σ s (t − t̄)²``.
    right : array of shape (K, d)
        ``Σ s (t − t̄)(x − μ)ᵀ``.
    zero_gradient : numpy.ndarray of shape (K,)
        ‖∇F‖∞ at zero weights and intercept.
    gram : array of shape (d, d) or None
        ``Σ s (x − μ)(x − μ)ᵀ``; None with fewer rows than columns.
    """

    total: float
    mean: Array
    target_mean: Array
    target_square: np.ndarray
    right: Array
    zero_gradient: np.ndarray
    gram: Array | None


@dataclass(frozen=True, eq=False)
class Basis:
    """Where the normal equations are diagonal.

    Attributes
    ----------
    vectors : array of shape (d, r), float64
        Orthonormal columns.
    spectrum : numpy.ndarray of shape (r,)
        Λ, not negative.
    """

    vectors: Array
    spectrum: np.ndarray

    def solve(self, right: Array, l2: np.ndarray) -> Array:
        """``right · V (Λ + λ)⁻¹ Vᵀ`` for every λ: (K, d) or (b, K, d) → (b, K, d)."""
        inverse = like(right, 1.0 / (self.spectrum[None, :] + l2[:, None]))[:, None, :]
        return ((right @ self.vectors) * inverse) @ self.vectors.T


@dataclass(frozen=True, eq=False)
class Fits:
    """Fits of b penalties: W (b, K, d), intercepts (b, K), certificate (b, K), steps of refinement and passes over X (b,)."""

    W: Array
    b: Array
    certificate: Certificate
    n_iter: np.ndarray
    passes: np.ndarray


class Held:
    """Features in memory.

    Parameters
    ----------
    X : array of shape (n, d)
    fit_intercept : bool
    """

    n_reads = 0

    def __init__(self, X: Array, fit_intercept: bool) -> None:
        self.example = X
        self.shape = (int(X.shape[0]), int(X.shape[1]))
        self._fit_intercept = fit_intercept

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Rows in order, float64."""
        (n, d), xp = self.shape, namespace(self.example)
        step = max(1, _BLOCK_ENTRIES // d)
        for a in range(0, n, step):
            yield slice(a, min(a + step, n)), xp.astype(self.example[a : min(a + step, n), :], xp.float64)

    def require_finite(self) -> None:
        """Say which rows and columns are not."""
        require_finite(self.example)

    def certify(
        self, loss: BatchedLoss, W: Array, b: Array, l2: np.ndarray, scale: np.ndarray
    ) -> tuple[Certificate, Array]:
        """See `probe.certificate.certify`."""
        return certify(self.example, loss, W, b, l2, scale, self._fit_intercept)

    def gradients(self, loss: BatchedLoss, W: Array, b: Array, l2: np.ndarray) -> Array:
        """See `probe.certificate.gradients`."""
        return gradients(self.example, loss, W, b, l2)


class Read(Streamed):
    """Features that are read block by block: the same, and nothing of them stays.

    Parameters
    ----------
    source : RowSource
    fit_intercept : bool

    Raises
    ------
    BadInput
        More columns than rows: the closed form then needs the rows themselves.
    """

    def __init__(self, source: RowSource, fit_intercept: bool) -> None:
        n, d = source.shape
        if n < d:
            raise BadInput(
                f"Ridge classification reads features block by block where they have at least as many rows as columns, not "
                f"{n} × {d}; leave memory out to load them, or fit logistic regression (fit_path)."
            )
        self._prepare(source, fit_intercept)

    @property
    def n_reads(self) -> int:
        """Readings of all rows until now."""
        return self.reads.n

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Rows in order, float64."""
        xp = namespace(self.example)
        self.reads.n += 1
        for where, block in self.source.blocks(self.block_bytes):
            rows = xp.astype(block, xp.float64)
            if not bool(xp.all(xp.isfinite(xp.sum(rows, axis=0)))):
                require_finite(block, first=where.start, n_all=self.shape[0])
            yield where, rows

    def require_finite(self) -> None:
        """Every block was looked at."""

    def gradients(self, loss: BatchedLoss, W: Array, b: Array, l2: np.ndarray) -> Array:
        """See `probe.certificate.gradients`; one pass."""
        xp = namespace(W)
        g, L, k, d = (int(s) for s in W.shape)
        lanes = np.tile(np.arange(L), g)
        sums = self._pass(loss, lanes, xp.reshape(W, (g * L * k, d)), xp.reshape(b, (g * L, k)), with_weights=True)
        return xp.reshape(sums.by_W, W.shape) + like(W, l2)[:, None, None, None] * W


class LeastSquares:
    """The problem of one feature matrix and its labels.

    Parameters
    ----------
    X : array of shape (n, d), or RowSource
    labels : Labels
        Of `Labels.against_rest`.
    fit_intercept : bool
    rotation : Rotation, optional
        Of `X`, with the same `fit_intercept`, when it is already known; for rows without weights.
    """

    def __init__(
        self, X: Array | RowSource, labels: Labels, fit_intercept: bool, rotation: Rotation | None = None
    ) -> None:
        if rotation is not None and labels.weights is not None:
            raise BadInput("A rotation found without weights does not diagonalise weighted rows; leave it out.")
        if labels.weights is not None and labels.weights.ndim == 2:
            raise BadInput(
                f"sample_weight has shape {labels.weights.T.shape}, a weight for every label, but ridge classification solves all "
                "labels with one factorisation of the rows; give (n,) weights, or fit logistic regression (fit_path)."
            )
        self._rows = Read(X, fit_intercept) if isinstance(X, RowSource) else Held(X, fit_intercept)
        self.labels = labels
        self.loss = labels.loss(self._rows.example, self._xp.float64)
        n, d = self._rows.shape
        self.moments = moments_of(self._rows, labels, fit_intercept, with_gram=n >= d and rotation is None)
        self.basis = self._first_basis(rotation)
        self._is_exact = False

    @property
    def _xp(self) -> ModuleType:
        return namespace(self._rows.example)

    @property
    def n_reads(self) -> int:
        """Readings of all rows until now, where they are streamed."""
        return self._rows.n_reads

    def fit(self, l2: np.ndarray, tol: float) -> Fits:
        """Solve every penalty, certify it, and repair what falls short of `tol`."""
        W = self.basis.solve(self.moments.right, l2)
        certificate, b = self._certified(W, l2)
        cost = 1 if self.moments.gram is not None else 3
        fits = Fits(W, b, certificate, np.zeros(len(l2), dtype=np.int64), np.full(len(l2), cost, dtype=np.int64))
        for needs_exact_basis in (False, True, True):
            short = np.flatnonzero(
                ~meets(certificate.grad_norm, certificate.gap, certificate.coef_error, tol).all(axis=1)
            )
            if len(short) == 0:
                break
            if (
                needs_exact_basis and not self._is_exact and isinstance(self._rows, Held)
            ):  # for which all rows are needed
                self.basis, self._is_exact = self._singular_basis(), True
            self._refine(fits, short, l2[short])
        return fits

    def rotated(self) -> Array:
        """Centred rows in the basis, without their weights: ``(X − μ) V``, shape (n, r), float64."""
        blocks = [block @ self.basis.vectors for _, block in _centred(self._rows, self.moments.mean, None)]
        return self._xp.concat(blocks, axis=0)

    def _weighted_rows(self) -> Array:
        """``√s (X − μ)``, shape (n, d), float64."""
        blocks = [block for _, block in _centred(self._rows, self.moments.mean, self.labels.weights)]
        return self._xp.concat(blocks, axis=0)

    def _first_basis(self, rotation: Rotation | None) -> Basis:
        if rotation is not None and rotation.basis is not None:
            width = int(rotation.basis.shape[1])
            return Basis(rotation.basis, rotation.spectrum[:width])
        if self.moments.gram is None:
            values, vectors = eigenbasis(self._weighted_rows())
            return Basis(vectors, values)
        values, vectors = symmetric_eigen(self.moments.gram)
        first = int(
            (values <= 4 * np.finfo(np.float64).eps * max(values[-1], 0.0)).sum()
        )  # constant, duplicated columns
        return Basis(vectors[:, first:], values[first:])

    def _singular_basis(self) -> Basis:
        _, sizes, Vt = self._xp.linalg.svd(self._weighted_rows(), full_matrices=False)
        values = to_numpy(sizes)
        kept = int((values > values[0] * np.finfo(np.float64).eps).sum())
        return Basis(Vt[:kept, :].T, values[:kept] ** 2)

    def _refine(self, fits: Fits, short: np.ndarray, l2: np.ndarray) -> None:
        """A Newton step for some of the fits; each is replaced where that makes its certificate better."""
        xp = namespace(fits.W)
        where = like(fits.W, short, xp.int64)
        W, b = xp.take(fits.W, where, axis=0), xp.take(fits.b, where, axis=0)
        gradient = self._rows.gradients(self.loss, W[:, :, None, :], b[..., None], l2)[:, :, 0, :]
        W = W - self.basis.solve(gradient, l2)
        again, moved = self._from_rows(W, self._intercepts(W), l2)
        fits.n_iter[short] += 1
        fits.passes[short] += 4
        for j, i in enumerate(short):
            if again.gap[j].max() < fits.certificate.gap[i].max():
                fits.W[int(i), ...], fits.b[int(i), ...] = W[j, ...], moved[j, :]
                _put(fits.certificate, int(i), again, j)

    def _certified(self, W: Array, l2: np.ndarray) -> tuple[Certificate, Array]:
        """From the moments, which costs no pass over X; from the rows where there is no Gram matrix or the loss cancels."""
        b = self._intercepts(W)
        if self.moments.gram is None:
            return self._from_rows(W, b, l2)
        found, share = certify_by_moments(self.moments, W, b, l2)
        lost = np.flatnonzero(share.min(axis=1) < _CANCELLED)
        if len(lost):
            xp, where = namespace(W), like(W, lost, namespace(W).int64)
            rows, moved = self._from_rows(xp.take(W, where, axis=0), xp.take(b, where, axis=0), l2[lost])
            for j, i in enumerate(lost):
                b[int(i), ...] = moved[j, :]
                _put(found, int(i), rows, j)
        return found, b

    def _from_rows(self, W: Array, b: Array, l2: np.ndarray) -> tuple[Certificate, Array]:
        """Certificates, and the intercepts at their optimum (b, K), from the rows: two passes."""
        found, moved = self._rows.certify(self.loss, W[:, :, None, :], b[..., None], l2, self.moments.zero_gradient)
        return found, moved[..., 0]

    def _intercepts(self, W: Array) -> Array:
        return self.moments.target_mean - W @ self.moments.mean


def moments_of(X: Held | Read, labels: Labels, fit_intercept: bool, with_gram: bool) -> Moments:
    """Sum the moments from row blocks.

    Parameters
    ----------
    X : Held or Read
        Features of shape (n, d).
    labels : Labels
    fit_intercept : bool
        Without an intercept nothing is centred.
    with_gram : bool

    Returns
    -------
    Moments

    Raises
    ------
    BadInput
        NaN or infinity (rows named); squares beyond float64.
    """
    xp, device = namespace(X.example), X.example.device
    (n, d), K = X.shape, len(labels.codes)
    s = np.ones(n) if labels.weights is None else labels.weights
    t = 2.0 * labels.codes - 1.0
    t_mean = (t @ s) / s.sum() if fit_intercept else np.zeros(K)
    mean = _mean(X, labels)
    mean = mean if fit_intercept else xp.zeros_like(mean)
    targets = like(mean, (t - t_mean[:, None]) * np.sqrt(s))
    right = xp.zeros((K, d), dtype=xp.float64, device=device)
    gram = xp.zeros((d, d), dtype=xp.float64, device=device) if with_gram else None
    with np.errstate(over="ignore", invalid="ignore"):
        squares = xp.zeros_like(mean)
        for rows, block in _centred(X, mean, labels.weights):
            right = right + targets[:, rows] @ block
            squares = squares + xp.sum(block * block, axis=0)
            if gram is not None:
                gram = gram + block.T @ block
    if not bool(xp.all(xp.isfinite(squares))):
        raise BadInput("The squares of X are beyond float64; divide the features by a constant.")
    total = float(s.sum())
    sums = total * like(mean, t_mean)
    by_W = to_numpy(xp.max(xp.abs(right + sums[:, None] * mean[None, :]), axis=1))
    largest = np.maximum(by_W, np.abs(total * t_mean)) if fit_intercept else by_W
    squared = ((t - t_mean[:, None]) ** 2) @ s
    return Moments(
        total, mean, like(mean, t_mean), squared, right, np.maximum(largest, np.finfo(np.float64).tiny), gram
    )


def certify_by_moments(m: Moments, W: Array, b: Array, l2: np.ndarray) -> tuple[Certificate, np.ndarray]:
    """Certify fits without reading a row: the gradient of a quadratic is its Gram matrix times W.

    Parameters
    ----------
    m : Moments
        With a Gram matrix.
    W : array of shape (b, K, d), float64
    b : array of shape (b, K), float64
    l2 : numpy.ndarray of shape (b,)

    Returns
    -------
    certificate : Certificate
        Arrays of shape (b, K).
    share : numpy.ndarray of shape (b, K)
        Loss over the loss at zero weights; digits are lost in proportion to its inverse.
    """
    xp = namespace(W)
    by_gram = W @ m.gram
    G = by_gram - m.right + like(W, l2)[:, None, None] * W
    by_b = m.total * (b + W @ m.mean - m.target_mean)
    by_W = G + by_b[..., None] * m.mean
    residual = to_numpy(xp.sum(W * by_gram, axis=-1) - 2.0 * xp.sum(W * m.right, axis=-1)) + m.target_square
    sum_b = to_numpy(by_b)
    loss = 0.5 * np.maximum(residual, 0.0) + 0.5 * sum_b**2 / m.total
    weights = to_numpy(xp.sum(W * W, axis=-1))
    objective = loss + 0.5 * l2[:, None] * weights
    squared = to_numpy(xp.sum(G * G, axis=-1))
    bound = squared / (2.0 * l2[:, None]) + 0.5 * sum_b**2 / m.total
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = bound / objective
        error = np.where(squared == 0, 0.0, np.sqrt(squared) / (l2[:, None] * np.sqrt(weights)))
        share = residual / m.target_square
    largest = np.maximum(to_numpy(xp.max(xp.abs(by_W), axis=-1)), np.abs(sum_b))
    return Certificate(objective, largest / m.zero_gradient, gap, error), share


def _mean(X: Held | Read, labels: Labels) -> Array:
    """Weighted mean of the rows, float64; NaN, infinity and overflow are found here."""
    xp, (n, d) = namespace(X.example), X.shape
    s = np.ones(n) if labels.weights is None else labels.weights
    total = xp.zeros((d,), dtype=xp.float64, device=X.example.device)
    weight = like(total, s / s.sum())
    finite = total
    with np.errstate(over="ignore", invalid="ignore"):
        for rows, block in X.blocks():
            total = total + weight[rows] @ block
            finite = finite + xp.sum(block, axis=0)  # rows of weight zero too
    if not bool(xp.all(xp.isfinite(finite))):
        X.require_finite()
        raise BadInput("The sum of a column of X is beyond float64; divide the features by a constant.")
    return total


def _centred(X: Held | Read, mean: Array, weights: np.ndarray | None) -> Iterator[tuple[slice, Array]]:
    """Blocks of ``√s (x − μ)``, float64, with the rows they are of."""
    root = None if weights is None else like(mean, np.sqrt(weights))[:, None]
    for rows, block in X.blocks():
        centred = block - mean[None, :]
        yield rows, centred if root is None else centred * root[rows, :]


def _put(into: Certificate, i: int, of: Certificate, j: int) -> None:
    for field in fields(Certificate):
        getattr(into, field.name)[i] = getattr(of, field.name)[j]
