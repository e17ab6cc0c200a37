"""Approximate inverse of the Hessian of one lane: exact where that is cheap, else its stiffest part and the mean of the rest.

Very small problems get the whole Hessian, and L-BFGS becomes Newton's method, which no scaling of the columns can slow down.
Others get `StiffPairs`; those that are still small enough get the whole Hessian once the pairs have not been enough.

In rotated coordinates the Hessian is ``Σ_pairs w v vᵀ ⊗ x xᵀ + λ``. With weak penalties almost every row is fitted and the
curvature lives on few pairs. So the m pairs of largest leverage are kept exactly and the rest is replaced by its mean:

    M = D + U Uᵀ,    D = c · Λ + λ  (diagonal, the same for every class),    columns of U = √w · v ⊗ x,

inverted by the Woodbury identity with one m × m factorisation. Pairs are kept down to a leverage ``w ‖v‖² xᵀD⁻¹x`` of 0.1: at 1,
which looks natural, a path on real features (PACS, all units of a MobileNet) took 829 iterations instead of 502.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from probe.arrays import Array, is_on_cpu, largest, like, namespace, plus_product, spd_inverse, spd_solver, to_numpy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scipy.sparse import csc_array, csr_array

    from probe.objective import Curvature
    from probe.rows import Candidates

_LEVERAGE = 0.1
_MOST_PAIRS = 2048
_MOST_SHARED = 6  # lanes up to which fewer pairs each are taken
_MOST_UNION = 2.5  # rows of all lanes together, in those of a lane, up to which products with all pay
_WHOLE_SIZE = 192  # coefficients up to which the whole Hessian is inverted at once,
_WHOLE_SIZE_LATER = 3072  # or when the pairs were not enough,
_JITTER = 1e-14  # of the diagonal of the whole Hessian, so that rounding does not make it indefinite
_WHOLE_WORK = 4e10  # if forming it takes no more multiplications than this


@dataclass(frozen=True, eq=False)
class StiffPairs:
    """The preconditioner; call it with gradients of shape (L, k, r).

    Attributes
    ----------
    l2 : float
        The penalty λ it was built for; it serves neighbouring penalties too.
    n_pairs : int
        Pairs treated exactly.
    is_common : bool
        Whether it was made for the mean of several lanes.
    """

    l2: float
    n_pairs: int
    is_whole: ClassVar[bool] = False
    _inverse_diagonal: Array
    _pairs: _Pairs | None = None
    is_common: bool = False

    def __call__(self, G: Array) -> Array:
        """Apply the inverse.

        Parameters
        ----------
        G : array of shape (L, k, r)
            Of lanes that share it.

        Returns
        -------
        array of shape (L, k, r)
        """
        Q = G * self._inverse_diagonal
        return Q if self._pairs is None else plus_product(Q, self._pairs.part(Q), self._inverse_diagonal, -1.0)


@dataclass(frozen=True, eq=False)
class _Pairs(ABC):
    """The pairs that are kept, grouped by row: a row that is stiff for several classes is multiplied once."""

    source: Array  # (n, r), or what the rows are rotated from
    index: np.ndarray  # (u,), of u different rows
    rows: Array  # (u, r)
    solve: Callable[[Array], Array]  # with I + Uᵀ D⁻¹ U

    def part(self, Q: Array) -> Array:
        """``U (I + Uᵀ D⁻¹ U)⁻¹ Uᵀ Q``; (L, k, r) → (L, k, r)."""
        xp = namespace(Q)
        L, k, r = (int(s) for s in Q.shape)
        scores = xp.reshape(self.rows @ xp.reshape(Q, (L * k, r)).T, (-1, L, k))
        total = xp.reshape(self.between(scores), (-1, L * k))
        return xp.reshape(total.T @ self.rows, (L, k, r))

    @abstractmethod
    def between(self, scores: Array) -> Array:
        """What is between the two products with the rows: scores (u, L, k) → (u, L, k)."""


@dataclass(frozen=True, eq=False)
class _OnHost(_Pairs):
    """By sparse matrices, so that no scores are copied for the pairs of one row."""

    gather: csr_array  # (m, u k): √w v of every pair at the scores of its row
    scatter: csc_array  # its transpose

    def between(self, scores: Array) -> Array:
        """See `_Pairs`."""
        u, L, k = (int(s) for s in scores.shape)
        there = to_numpy(scores)
        along = self.gather @ (there.transpose(0, 2, 1).reshape(u * k, L) if L > 1 else there.reshape(u * k, 1))
        solved = self.solve(along.astype(np.float64)).astype(there.dtype)
        return like(scores, (self.scatter @ solved).reshape(u, k, L).transpose(0, 2, 1))


@dataclass(frozen=True, eq=False)
class _OnAccelerator(_Pairs):
    """By products of dense matrices, which cost least there."""

    vectors: Array  # (m, k), √w included
    member: Array  # (m, u): one where the pair is of the row

    def between(self, scores: Array) -> Array:
        """See `_Pairs`."""
        xp = namespace(scores)
        u, L, k = (int(s) for s in scores.shape)
        own = xp.reshape(self.member @ xp.reshape(scores, (u, L * k)), (-1, L, k))
        along = xp.sum(self.vectors[:, None, :] * own, axis=2, dtype=xp.float64)
        solved = xp.astype(self.solve(along), scores.dtype)
        back = xp.reshape(self.vectors[:, None, :] * solved[:, :, None], (-1, L * k))
        return xp.reshape(self.member.T @ back, (u, L, k))


@dataclass(frozen=True, eq=False)
class Together:
    """`StiffPairs` of several lanes, applied at once: their rows, gathered once, are multiplied with all lanes' columns.

    Every lane has its own pairs and its own factor. A product with the few columns of one lane runs far below what the
    processor can do; one with those of all lanes takes little longer.
    """

    rows: np.ndarray  # (u, r): those of any lane
    lanes: tuple[StiffPairs, ...]
    places: tuple[np.ndarray, ...]  # of the rows of each lane among these

    def take(self, lanes: np.ndarray) -> Together:
        """Some of the lanes."""
        return Together(self.rows, tuple(self.lanes[q] for q in lanes), tuple(self.places[q] for q in lanes))

    def __call__(self, G: np.ndarray) -> np.ndarray:
        """Apply the inverses; (L, k, r) → (L, k, r)."""
        L, k, r = G.shape
        inverse_diagonal: np.ndarray = np.stack([lane._inverse_diagonal for lane in self.lanes])[:, None, :]
        Q: np.ndarray = G * inverse_diagonal
        scores = self.rows @ Q.reshape(L * k, r).T
        total = np.zeros_like(scores)
        for q, (lane, place) in enumerate(zip(self.lanes, self.places, strict=True)):
            if lane._pairs is not None:
                mine = slice(q * k, (q + 1) * k)
                total[place, mine] = lane._pairs.between(scores[place, None, mine])[:, 0, :]
        Q -= (total.T @ self.rows).reshape(L, k, r) * inverse_diagonal
        return Q


def together(preconditioners: Sequence[object]) -> Together | None:
    """Preconditioners of several lanes as one, where they share most of their stiff rows, on the host.

    Parameters
    ----------
    preconditioners : sequence
        Of every lane.

    Returns
    -------
    Together or None
    """
    lanes = tuple(p for p in preconditioners if isinstance(p, StiffPairs))
    pairs = [p._pairs for p in lanes if p._pairs is not None]
    if len(lanes) < len(preconditioners) or len(pairs) < 2 or not isinstance(pairs[0].rows, np.ndarray):
        return None
    first = pairs[0]
    if all(p is lanes[0] for p in lanes):  # that one is applied to all at once already
        return None
    if first.source.dtype != first.rows.dtype or any(p.source is not first.source for p in pairs):
        return None
    union = np.unique(np.concatenate([p.index for p in pairs]))
    if len(union) * len(lanes) > _MOST_UNION * sum(len(p.index) for p in pairs):
        return None
    none = np.zeros(0, dtype=np.int64)
    places = tuple(none if p._pairs is None else np.searchsorted(union, p._pairs.index) for p in lanes)
    return Together(first.source[union], lanes, places)


@dataclass(frozen=True, eq=False)
class WholeHessian:
    """The inverse Hessian itself; call it with gradients of shape (L, k, r).

    Attributes
    ----------
    l2 : float
    """

    l2: float
    is_whole: ClassVar[bool] = True
    _inverse: Array  # (k r, k r)
    is_common: bool = False

    def __call__(self, G: Array) -> Array:
        """Apply the inverse; (L, k, r) → (L, k, r)."""
        xp = namespace(G)
        return xp.reshape(xp.reshape(G, (int(G.shape[0]), -1)) @ self._inverse, G.shape)


def is_small(n: int, r: int, k: int, is_hard: bool) -> bool:
    """Whether the whole Hessian is worth forming."""
    return k * r <= (_WHOLE_SIZE_LATER if is_hard else _WHOLE_SIZE) and n * r * r * k * (k + 1) / 2 <= _WHOLE_WORK


def whole(candidates: Candidates, curvature: Curvature, penalised: np.ndarray, l2: float) -> WholeHessian:
    """Form and invert ``Σ_i H_i ⊗ x_i x_iᵀ + λ``, class by class.

    Parameters
    ----------
    candidates : Candidates
        All rows, (n, r).
    curvature : Curvature
    penalised : numpy.ndarray of shape (r,)
    l2 : float

    Returns
    -------
    WholeHessian
    """
    A = candidates.example
    xp = namespace(A)
    r, k = candidates.shape[1], int(curvature.weight.shape[0])
    products = candidates.products
    H = _summed(candidates.every(), curvature, k) if products is None else _summed_once(products, curvature, r, k)
    own = to_numpy(xp.linalg.diagonal(xp.reshape(H, (k * r, k * r))))
    if (
        k > 1
    ):  # one vector added to every class has no curvature, which would leave rounding in charge; nothing ever needs it
        stiff = like(A, np.diag(own.reshape(k, r).max(axis=0)), xp.float64)
        H = H + stiff[None, :, None, :]
    # Relative to each entry: columns may be of very different scales, which a Cholesky factor does not mind.
    diagonal = like(A, np.diag(np.tile(l2 * penalised, k) + _JITTER * own + 1e-300), xp.float64)
    inverse = spd_inverse(xp.reshape(H, (k * r, k * r)) + diagonal)
    return WholeHessian(l2, xp.astype(inverse, A.dtype))


def _summed(A: Array, curvature: Curvature, k: int) -> Array:
    """``Σ_i H_i ⊗ x_i x_iᵀ``, (k, r, k, r), float64: a product for every class."""
    xp = namespace(A)
    n, r = (int(s) for s in A.shape)
    A64 = xp.astype(A, xp.float64)
    H = xp.zeros((k, r, k, r), dtype=xp.float64, device=A.device)
    for c in range(k):  # the blocks of classes c ≤ e; the others mirror them
        scaled = xp.reshape(A64[:, None, :] * curvature.row(c)[c:, :].T[:, :, None], (n, (k - c) * r))
        block = xp.reshape(A64.T @ scaled, (r, k - c, r))
        H[c, :, c:, :] = block
        H[c + 1 :, :, c, :] = xp.permute_dims(block[:, 1:, :], (1, 2, 0))
    return H


def _summed_once(products: np.ndarray, curvature: Curvature, r: int, k: int) -> np.ndarray:
    """The same from the products of the columns: one product in all, and half the arithmetic."""
    sums = np.concatenate([curvature.row(c)[c:, :] for c in range(k)]) @ products.T
    place = np.zeros((r, r), dtype=np.int64)
    place[np.triu_indices(r)] = np.arange(products.shape[0])
    place = np.maximum(place, place.T)
    H: np.ndarray = np.empty((k, r, k, r))
    for block, c, e in zip(sums, *np.triu_indices(k), strict=True):
        H[c, :, e, :] = H[e, :, c, :] = block[place]
    return H


def pairs_worth(n: int, r: int, k: int, n_lanes: int = 1) -> int:
    """How many pairs pay: the factorisation (∝ m³) should cost about as much as a dozen iterations (∝ n · r · k).

    Lanes share the products of an iteration, which are faster per lane then, and not the factorisation.
    """
    work = 96.0 * n * r * k / min(n_lanes, _MOST_SHARED)
    return int(min(_MOST_PAIRS, work ** (1 / 3), n * k))


def build(
    candidates: Candidates,
    curvature: Curvature,
    spectrum: np.ndarray,
    penalised: np.ndarray,
    l2: float,
    is_hard: bool,
    n_all: int | None = None,
    n_lanes: int = 1,
) -> StiffPairs | WholeHessian:
    """Invert the whole Hessian when that is cheap; else choose the pairs and factorise.

    Parameters
    ----------
    candidates : Candidates
        Rows, (n, r) once they are rotated.
    curvature : Curvature
        Of one lane.
    spectrum, penalised : numpy.ndarray of shape (r,)
    l2 : float
        λ.
    is_hard : bool
        Whether the preconditioner before this one was not enough.
    n_all : int, optional
        Number of the rows that `spectrum` sums over, where A holds some of them only.
    n_lanes : int
        Lanes that advance together.

    Returns
    -------
    StiffPairs or WholeHessian
    """
    A = candidates.example
    xp = namespace(A)
    n, r = candidates.shape
    k = int(curvature.trace.shape[0])
    if is_small(n, r, k, is_hard):
        return whole(candidates, curvature, penalised, l2)
    total = float(xp.sum(xp.astype(curvature.trace, xp.float64)))
    floor = max(1e-4 * total / k, 1e-30)

    def diagonal(rest: float) -> np.ndarray:
        c = max(rest, 1e-4 * total) / k / (n if n_all is None else n_all)
        d: np.ndarray = c * spectrum + l2 * penalised
        bounded: np.ndarray = np.where(penalised > 0, np.maximum(d, 1e-300), np.maximum(d, floor))
        return bounded

    d = diagonal(total)
    trace = xp.reshape(curvature.trace, (-1,))
    most, m, chosen = pairs_worth(n, r, k, n_lanes), 0, None
    for _ in range(2):  # what is left for the mean depends on the choice, and the choice on the mean
        reach = candidates.reach(like(A, 1.0 / d))
        leverage = xp.reshape(curvature.trace * reach[None, :], (-1,))
        m = min(int(xp.sum(xp.astype(leverage > _LEVERAGE, xp.int64))), most)
        if m == 0:
            break
        chosen = largest(leverage, m)
        d = diagonal(total - float(xp.sum(xp.astype(xp.take(trace, chosen), xp.float64))))
    inverse_diagonal = like(A, 1.0 / d)
    if m == 0 or chosen is None:
        return StiffPairs(l2, 0, inverse_diagonal)
    return StiffPairs(l2, m, inverse_diagonal, _pairs(candidates, curvature, to_numpy(chosen), inverse_diagonal))


def _pairs(candidates: Candidates, curvature: Curvature, chosen: np.ndarray, inverse_diagonal: Array) -> _Pairs:
    """Gather and factorise the chosen pairs; their numbers are ``class · n + row``."""
    A, (n, _) = candidates.example, candidates.shape
    xp = namespace(A)
    order = chosen[np.argsort(chosen % n, kind="stable")]
    different, row_of = np.unique(order % n, return_inverse=True)
    flat = like(A, order, xp.int64)
    i = like(A, row_of, xp.int64)
    rows = candidates.rows(like(A, different, xp.int64))
    weight = xp.take(xp.reshape(curvature.weight, (-1,)), flat)
    vectors = curvature.vectors(flat // n, flat % n)
    vectors = vectors * xp.sqrt(xp.where(weight > 0, weight, xp.zeros_like(weight)))[:, None]
    reach = (rows * inverse_diagonal[None, :]) @ rows.T
    B = xp.take(xp.take(reach, i, axis=0), i, axis=1) * (vectors @ vectors.T)
    B = xp.astype(B, xp.float64)
    diagonal = xp.arange(len(order), device=A.device)
    B[diagonal, diagonal] += 1.0
    if is_on_cpu(A):
        gather = _at_their_rows(to_numpy(vectors), row_of, len(different))
        return _OnHost(candidates.A, different, rows, spd_solver(to_numpy(B)), gather, gather.T)
    member = xp.astype(i[:, None] == xp.arange(len(different), device=A.device)[None, :], vectors.dtype)
    return _OnAccelerator(candidates.A, different, rows, spd_solver(B), vectors, member)


def _at_their_rows(vectors: np.ndarray, row_of: np.ndarray, u: int) -> csr_array:
    """The vectors of the pairs as one sparse matrix, (m, u k)."""
    from scipy.sparse import csr_array

    m, k = vectors.shape
    columns = (row_of[:, None] * k + np.arange(k)).astype(np.int32)
    return csr_array((vectors.ravel(), columns.ravel(), np.arange(0, m * k + 1, k, dtype=np.int32)), shape=(m, u * k))
