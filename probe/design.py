"""The features as a solver sees them: rotated for the walk, as given for the certificate.

`Whole` is one matrix in memory, for all lanes. `Subsets` holds a small matrix for every lane.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from probe.arrays import Array, is_on_cpu, namespace
from probe.certificate import Certificate, certify, zero_gradient
from probe.objective import BatchedLoss
from probe.rotation import Rotation, rotate
from probe.rows import Apart, Reads, Rows, Shared


class Design(Protocol):
    """Features, and their rotation."""

    reads: Reads

    @property
    def example(self) -> Array:
        """Any array where the computation lives, of the dtype of the features."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of a lane, and features."""

    @property
    def is_dear(self) -> bool:
        """Whether a pass over the rows costs so much that fewer passes are worth more arithmetic."""

    @property
    def penalised(self) -> np.ndarray:
        """One where a rotated coordinate is penalised, (r,)."""

    @property
    def stiffest(self) -> float:
        """Largest sum of squares of a rotated column that is penalised; zero where there is none."""

    def rows(self, dtype: object) -> Rows:
        """The rotated rows."""

    def largest(self, G: Array, lanes: np.ndarray) -> np.ndarray:
        """Largest entry of the gradients by weights and intercepts, from those by rotated coefficients (m, k, r); (m,)."""

    def to_features(self, T: Array) -> tuple[Array, Array]:
        """(b, L, k, r) → weights (b, L, k, d) and intercepts (b, L, k)."""

    def from_features(self, W: Array, b: Array) -> Array:
        """Weights (L, k, d) and intercepts (L, k) → (L, k, r)."""

    def scale(self, loss: BatchedLoss, k: int) -> np.ndarray:
        """‖∇F‖∞ at zero, (L,)."""

    def certify(
        self, loss: BatchedLoss, W: Array, b: Array, l2: np.ndarray, scale: np.ndarray
    ) -> tuple[Certificate, Array]:
        """See `probe.certificate.certify`."""


class Rotated:
    """What a design of one rotation answers from it."""

    rotation: Rotation

    @property
    def penalised(self) -> np.ndarray:
        """One where a rotated coordinate is penalised, (r,)."""
        return self.rotation.penalised

    @property
    def stiffest(self) -> float:
        """See `Design.stiffest`."""
        return float(np.max(self.rotation.spectrum * self.rotation.penalised, initial=0.0))

    def largest(self, G: Array, lanes: np.ndarray) -> np.ndarray:
        """Largest entry of the gradients by weights and intercepts, (m,)."""
        return self.rotation.largest(G)

    def to_features(self, T: Array) -> tuple[Array, Array]:
        """(b, L, k, r) → weights (b, L, k, d) and intercepts (b, L, k)."""
        xp = namespace(T)
        b, L, k, r = (int(s) for s in T.shape)
        W, offset = self.rotation.to_features(xp.reshape(T, (b * L, k, r)))
        return xp.reshape(W, (b, L, k, -1)), xp.reshape(offset, (b, L, k))

    def from_features(self, W: Array, b: Array) -> Array:
        """Weights (L, k, d) and intercepts (L, k) → (L, k, r)."""
        return self.rotation.from_features(W, b)


class Whole(Rotated):
    """One feature matrix in memory.

    Parameters
    ----------
    X : array of shape (n, d)
    fit_intercept : bool
    rotation : Rotation, optional
        Of `X`, when it is already known.
    """

    def __init__(self, X: Array, fit_intercept: bool, rotation: Rotation | None = None) -> None:
        self.X = X
        self.reads = Reads()
        self._fit_intercept = fit_intercept
        self.rotation = rotate(X, fit_intercept) if rotation is None else rotation

    @property
    def example(self) -> Array:
        """The features."""
        return self.X

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and features."""
        return int(self.X.shape[0]), int(self.X.shape[1])

    @property
    def is_dear(self) -> bool:
        """On an accelerator: it is the number of kernels that takes the time there, not the arithmetic."""
        return not is_on_cpu(self.X)

    def rows(self, dtype: object) -> Shared:
        """The rotated rows."""
        return Shared(self.rotation.rows(self.X, dtype), self.rotation.spectrum, self.reads)

    def scale(self, loss: BatchedLoss, k: int) -> np.ndarray:
        """‖∇F‖∞ at zero, (L,)."""
        self.reads.n += 1
        return zero_gradient(self.X, loss, k, self._fit_intercept)

    def certify(
        self, loss: BatchedLoss, W: Array, b: Array, l2: np.ndarray, scale: np.ndarray
    ) -> tuple[Certificate, Array]:
        """See `probe.certificate.certify`."""
        self.reads.n += 2
        return certify(self.X, loss, W, b, l2, scale, self._fit_intercept)


class Subsets:
    """A small feature matrix for every lane.

    The rows of all are filled up with zeros to the longest, which must have weight zero; the rotated columns are filled up to
    the widest, where zero coefficients are optimal.

    Parameters
    ----------
    designs : sequence of Whole
        One per lane; several lanes may have the same.
    """

    def __init__(self, designs: Sequence[Whole]) -> None:
        self.reads = Reads()
        self.designs = tuple(designs)
        self._has_intercept = designs[0].rotation.has_intercept
        self._n = max(design.shape[0] for design in designs)
        self._r = max(len(design.rotation.spectrum) for design in self.designs)

    @property
    def example(self) -> Array:
        """The features of the first problem."""
        return self.designs[0].X

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of the largest problem, and features."""
        return self._n, int(self.example.shape[1])

    @property
    def is_dear(self) -> bool:
        """Never: overhead is what takes the time, and batches have it once."""
        return False

    @property
    def penalised(self) -> np.ndarray:
        """One where a rotated coordinate is penalised, (r,)."""
        mask = np.ones(self._r)
        if self._has_intercept:
            mask[-1] = 0.0
        return mask

    @property
    def stiffest(self) -> float:
        """See `Design.stiffest`."""
        return max(design.stiffest for design in self.designs)

    def _padded(self, values: np.ndarray | Array, width: int) -> Array:
        """Fill up the last axis with zeros, before the intercept."""
        missing = self._r - width
        if missing == 0:
            return values
        xp = namespace(values)
        zero = xp.zeros((*values.shape[:-1], missing), dtype=values.dtype, device=values.device)
        if not self._has_intercept:
            return xp.concat([values, zero], axis=-1)
        return xp.concat([values[..., :-1], zero, values[..., -1:]], axis=-1)

    def _cut(self, T: Array, design: Whole) -> Array:
        """The coordinates that a problem has."""
        width = len(design.rotation.spectrum)
        if width == self._r:
            return T
        if not self._has_intercept:
            return T[..., :width]
        return namespace(T).concat([T[..., : width - 1], T[..., -1:]], axis=-1)

    def rows(self, dtype: object) -> Apart:
        """The rotated rows of every problem."""
        xp = namespace(self.example)
        A = xp.zeros((len(self.designs), self._n, self._r), dtype=dtype, device=self.example.device)
        spectra = []
        for i, design in enumerate(self.designs):
            part = design.rotation.rows(design.X, dtype)
            A[i, : int(part.shape[0]), :] = self._padded(part, int(part.shape[1]))
            spectra.append(self._padded(design.rotation.spectrum, len(design.rotation.spectrum)))
        return Apart(A, np.stack(spectra), self.reads)

    def largest(self, G: Array, lanes: np.ndarray) -> np.ndarray:
        """Largest entry of the gradients by weights and intercepts, (m,)."""
        parts = [self.designs[int(lane) % len(self.designs)] for lane in lanes]
        return np.array(
            [design.largest(self._cut(G[i : i + 1, ...], design), lanes)[0] for i, design in enumerate(parts)]
        )

    def to_features(self, T: Array) -> tuple[Array, Array]:
        """(b, L, k, r) → weights (b, L, k, d) and intercepts (b, L, k)."""
        xp = namespace(T)
        parts = [d.to_features(self._cut(T[:, i : i + 1, ...], d)) for i, d in enumerate(self.designs)]
        return xp.concat([W for W, _ in parts], axis=1), xp.concat([b for _, b in parts], axis=1)

    def from_features(self, W: Array, b: Array) -> Array:
        """Weights (L, k, d) and intercepts (L, k) → (L, k, r)."""
        xp = namespace(W)
        parts = []
        for i, design in enumerate(self.designs):
            T = design.from_features(W[i : i + 1, ...], b[i : i + 1, ...])
            parts.append(self._padded(T, int(T.shape[-1])))
        return xp.concat(parts, axis=0)

    def scale(self, loss: BatchedLoss, k: int) -> np.ndarray:
        """‖∇F‖∞ at zero, (L,)."""
        return np.concatenate([d.scale(loss.part(i, d.shape[0]), k) for i, d in enumerate(self.designs)])

    def certify(
        self, loss: BatchedLoss, W: Array, b: Array, l2: np.ndarray, scale: np.ndarray
    ) -> tuple[Certificate, Array]:
        """See `probe.certificate.certify`."""
        self.reads.n += 2
        found = [
            d.certify(loss.part(i, d.shape[0]), W[:, i : i + 1, ...], b[:, i : i + 1, ...], l2, scale[i : i + 1])
            for i, d in enumerate(self.designs)
        ]
        names = ("objective", "grad_norm", "gap", "coef_error")
        joined = {name: np.concatenate([getattr(c, name) for c, _ in found], axis=1) for name in names}
        return Certificate(**joined), namespace(b).concat([moved for _, moved in found], axis=1)
