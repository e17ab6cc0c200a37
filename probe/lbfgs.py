"""Preconditioned L-BFGS directions (Nocedal & Wright 2006, algorithm 7.4), and the inverse Hessian they are made with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from probe.arrays import Array, is_on_cpu, like, namespace, take
from probe.minimize import Problem, State, Together, penalty

HISTORY = 10
_REBUILD_AFTER = 20  # iterations a preconditioner serves
_REBUILD_RATIO = 2.0  # change of λ it serves


class LBFGS:
    """Limited-memory BFGS; the preconditioner takes the place of the initial inverse Hessian."""

    patience: ClassVar[Mapping[int, int]] = {4: 60, 8: 200}

    def direction(self, s: State, G: Array) -> Array:
        """−(inverse Hessian) · G."""
        self._refresh(s)
        return -inverse_of(s)(namespace(G).astype(G, s.Z.dtype))

    def moved(self, s: State, S: Array, change: Array) -> None:
        """Keep the newest pairs."""
        s.memory = [*s.memory, (S, change)][-HISTORY:]

    def kept(self, lanes: np.ndarray) -> None:
        """Nothing of its own to forget."""

    @staticmethod
    def _refresh(s: State) -> None:
        for q, current in enumerate(s.preconditioners):
            l2 = float(s.problem.l2[q])
            is_far = current is None or max(current.l2 / l2, l2 / current.l2) > _REBUILD_RATIO
            is_old = bool(s.age[q] >= _REBUILD_AFTER)
            if is_far or is_old:
                is_hard = is_old or (current is not None and current.is_whole)
                s.preconditioners[q], s.age[q] = s.problem.preconditioner(s.R, q, is_hard), 0
        s.age += 1


@dataclass(frozen=True, eq=False)
class Inverse:
    """Approximate inverse Hessians of L lanes: the two-loop recursion around their preconditioners; call it with (L, k, r).

    With pairs s_i, y_i and ``K_ij = s_i · y_j``, the first loop is the triangular system ``R α = S g`` with the upper part R of K,
    the second ``Rᵀ γ = diag(K) α − Y z``: a few products instead of two loops over the pairs.
    """

    preconditioners: tuple[Callable[[Array], Array], ...]
    _problem: Problem
    _S: Array | None = None  # (L, m, k r)
    _Y: Array | None = None
    _R: Array | None = None  # (L, m, m): the inverse of the upper part of K
    _curvature: Array | None = None  # (L, m)
    _together: Together | None = None

    def take(self, lanes: np.ndarray) -> Inverse:
        """The same for some of the lanes."""
        names = ("_S", "_Y", "_R", "_curvature")
        parts = {name: None if self._S is None else take(getattr(self, name), lanes) for name in names}
        chosen = tuple(self.preconditioners[q] for q in lanes)
        joined = None if self._together is None else self._together.take(lanes)
        return replace(self, preconditioners=chosen, _problem=self._problem.take(lanes), _together=joined, **parts)

    def __call__(self, g: Array) -> Array:
        """(L, k, r) → (L, k, r)."""
        if self._S is None or self._Y is None or self._R is None or self._curvature is None:
            return self._preconditioned(g)
        xp = namespace(g)
        flat = xp.reshape(g, (int(g.shape[0]), -1, 1))
        alpha = self._R @ _along(self._S, flat)
        z = self._preconditioned(xp.reshape(flat - xp.permute_dims(self._Y, (0, 2, 1)) @ alpha, g.shape))
        back = self._curvature[..., None] * alpha - _along(self._Y, xp.reshape(z, flat.shape))
        gamma = xp.permute_dims(self._R, (0, 2, 1)) @ back
        return z + xp.reshape(xp.permute_dims(self._S, (0, 2, 1)) @ gamma, g.shape)

    def _preconditioned(self, g: Array) -> Array:
        """Every lane's preconditioner applied; one that all lanes share, to all at once."""
        if self._together is not None and len(self.preconditioners) > 1:
            return self._problem.without_gauge(self._together(g))
        first = self.preconditioners[0]
        if all(p is first for p in self.preconditioners):
            return self._problem.without_gauge(first(g))
        out = namespace(g).empty_like(g)
        for p in set(self.preconditioners):
            lanes = np.flatnonzero([other is p for other in self.preconditioners])
            out[like(g, lanes, namespace(g).int64), ...] = p(take(g, lanes))
        return self._problem.without_gauge(out)


def inverse_of(s: State) -> Inverse:
    """The inverse Hessians at a state, whose lanes all have a preconditioner.

    A pair of zeros (a lane with a shorter memory) and one without positive curvature have no effect.

    Parameters
    ----------
    s : State

    Returns
    -------
    Inverse
    """
    inner = tuple(p for p in s.preconditioners if p is not None)
    return replace(_with_pairs(s, s.memory, inner), _together=s.problem.together(inner))


def around(s: State, pairs: Sequence[tuple[Array, Array]], solve: Callable[[Array], Array]) -> Inverse:
    """The two-loop recursion with other pairs, around something that takes all lanes at once.

    Parameters
    ----------
    s : State
    pairs : sequence of (S, change), each of shape (L, k, r)
    solve : callable
        (L, k, r) → (L, k, r).

    Returns
    -------
    Inverse
    """
    return _with_pairs(s, pairs, (solve,) * len(s.ids))


def _with_pairs(s: State, pairs: Sequence[tuple[Array, Array]], inner: tuple[Callable[[Array], Array], ...]) -> Inverse:
    if not pairs:
        return Inverse(inner, s.problem)
    xp = namespace(s.Z)
    L = len(inner)
    S = _stacked([S for S, _ in pairs], L)
    Y = _stacked([Y for _, Y in pairs], L)
    scaled = xp.astype(xp.broadcast_to(penalty(s), pairs[0][0].shape), S.dtype)
    Y = Y + xp.reshape(scaled, (L, 1, -1)) * S
    # Lane by lane: a batch of products that sum over very many columns is slow on a GPU, which divides only the batch.
    K = xp.astype(xp.stack([S[q, ...] @ Y[q, ...].T for q in range(L)]), xp.float64)
    curvature = xp.linalg.diagonal(K)
    used = curvature > 0
    mask = xp.astype(used, S.dtype)[..., None]
    S, Y = S * mask, Y * mask
    K = xp.where(used[:, :, None] & used[:, None, :], K, xp.zeros_like(K))
    curvature = xp.where(used, curvature, xp.ones_like(curvature))
    identity = xp.eye(int(K.shape[1]), dtype=K.dtype, device=K.device)
    R = xp.triu(K) * (1 - identity) + identity * curvature[..., None]
    # Scaled to a unit diagonal: pairs of very different length would overflow the inverse.
    root = xp.sqrt(curvature)
    unit = xp.linalg.inv(R / root[..., None] / root[:, None, :])
    R = xp.astype(unit / root[..., None] / root[:, None, :], S.dtype)
    return Inverse(inner, s.problem, S, Y, R, xp.astype(curvature, S.dtype))


def _along(pairs: Array, flat: Array) -> Array:
    """Inner products of every lane's vectors (L, m, N) with its own one (L, N, 1): (L, m, 1)."""
    if is_on_cpu(flat):
        return pairs @ flat
    xp = namespace(flat)  # as a product of matrices it would keep one of a GPU's hundred processors busy
    return xp.sum(pairs * xp.permute_dims(flat, (0, 2, 1)), axis=2, keepdims=True)


def _stacked(parts: Sequence[Array], L: int) -> Array:
    """m arrays of shape (L, k, r) → (L, m, k r)."""
    xp = namespace(parts[0])
    return xp.stack([xp.reshape(part, (L, -1)) for part in parts], axis=1)
