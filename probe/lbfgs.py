"""Preconditioned L-BFGS directions (Nocedal & Wright 2006, algorithm 7.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from probe.arrays import Array, like, namespace
from probe.minimize import State, dot, penalty

HISTORY = 10
_REBUILD_AFTER = 20  # iterations a preconditioner serves
_REBUILD_RATIO = 2.0  # change of λ it serves


class LBFGS:
    """Limited-memory BFGS; the preconditioner takes the place of the initial inverse Hessian."""

    patience: ClassVar[Mapping[int, int]] = {4: 60, 8: 200}

    def direction(self, s: State, G: Array) -> Array:
        """−(inverse Hessian) · G."""
        self._refresh(s)
        return -inverse(s, namespace(G).astype(G, s.Z.dtype))

    def moved(self, s: State, S: Array, change: Array) -> None:
        """Keep the newest pairs."""
        s.memory = [*s.memory, (S, change)][-HISTORY:]

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


def inverse(s: State, g: Array) -> Array:
    """(Inverse Hessian) · g by the two-loop recursion; a pair of zeros (a lane with a shorter memory) has no effect.

    Parameters
    ----------
    s : State
        With a preconditioner for every lane.
    g : array of shape (L, k, r)

    Returns
    -------
    array of shape (L, k, r)
    """
    xp = namespace(g)
    scaled = xp.astype(penalty(s), g.dtype)
    used = []
    for S, Y_data in reversed(s.memory):
        Y = Y_data + scaled * S
        curvature = dot(S, Y)
        rho = np.where(curvature > 0, 1.0 / np.where(curvature > 0, curvature, 1.0), 0.0)
        alpha = rho * dot(S, g)
        g = g - like(g, alpha)[:, None, None] * Y
        used.append((S, Y, rho, alpha))
    D = s.problem.without_gauge(_preconditioned(s, g))
    for S, Y, rho, alpha in reversed(used):
        D = D + like(D, alpha - rho * dot(Y, D))[:, None, None] * S
    return D


def _preconditioned(s: State, g: Array) -> Array:
    """Every lane's preconditioner applied; one that all lanes share, to all at once."""
    first = s.preconditioners[0]
    if first is not None and all(p is first for p in s.preconditioners):
        return first(g)
    applied = [p(g[q : q + 1, ...]) for q, p in enumerate(s.preconditioners) if p is not None]
    return namespace(g).concat(applied, axis=0)
