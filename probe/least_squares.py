"""Penalised least squares on targets ±1, for every penalty at once: normal equations, their eigenbasis, certificate, refinement.

    F(W, b) = Σ_i s_i · ½ ‖W x_i + b − t_i‖² + ½ λ ‖W‖²

With ``Xᶜ = X − μ`` and ``XᶜᵀSXᶜ = V Λ Vᵀ`` (μ and the Gram matrix weighted by S = diag(s)) the optimum is, for every λ,

    W = Tᶜᵀ S Xᶜ V (Λ + λ)⁻¹ Vᵀ,    b = t̄ − W μ.

The Gram matrix squares the condition number. Where that loses too much (columns of very different scales, weak penalties), the
certificate falls short, and Newton steps repair it (``W − (Λ + λ)⁻¹ ∇F``, one step being exact but for rounding): first in the same
basis, then in that of a singular value decomposition of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import ModuleType

import numpy as np

from probe.arrays import Array, like, namespace, to_numpy
from probe.certificate import Certificate, meets
from probe.errors import BadInput
from probe.labels import Labels
from probe.moments import certify_by_moments, moments_of
from probe.rotation import Rotation, eigenbasis, symmetric_eigen
from probe.row_blocks import Held, Read, about
from probe.sources import RowSource

_CANCELLED = (
    1e-6  # loss over its value at zero weights below which the quadratic form is all rounding, and rows are read
)


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
            has_rows = isinstance(self._rows, Held)  # which that basis is made of
            if needs_exact_basis and has_rows and not self._is_exact:
                self.basis, self._is_exact = self._singular_basis(), True
            self._refine(fits, short, l2[short])
        return fits

    def rotated(self) -> Array:
        """Centred rows in the basis, without their weights: ``(X − μ) V``, shape (n, r), float64."""
        blocks = [block @ self.basis.vectors for _, block in about(self._rows, self.moments.mean, None)]
        return self._xp.concat(blocks, axis=0)

    def _weighted_rows(self) -> Array:
        """``√s (X − μ)``, shape (n, d), float64."""
        blocks = [block for _, block in about(self._rows, self.moments.mean, self.labels.weights)]
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


def _put(into: Certificate, i: int, of: Certificate, j: int) -> None:
    for field in fields(Certificate):
        getattr(into, field.name)[i] = getattr(of, field.name)[j]
