"""Newton directions: the linear system is solved by conjugate gradients on the rows that carry the curvature.

Few rows do, at the penalties that are hard: the fitted ones have none. They are gathered once per step, and the products with
the Hessian then leave the other rows alone. So one step costs two passes over X, like one of L-BFGS, and a path needs some
hundred of them instead of a thousand or more.

The preconditioner is that of L-BFGS, memory included: the conjugate directions of one step, with the products that were
made, are the memory of the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from probe.arrays import Array, like, namespace
from probe.lbfgs import inverse
from probe.minimize import Hessian, State, dot, objective, penalty

HISTORY = 20
_FORCING = 0.05  # of the preconditioned residual; 0.2 stalls at weak penalties
_SHARE = 0.999  # of the curvature that the rows must hold
_TIGHTER = 0.1  # both, after a step that did not help
_MOST_PRODUCTS = 400
_LOOK_EVERY = 3  # products: asking costs a rotation
_REBUILD_AFTER = 30  # products: the preconditioner no longer fits
_HARD = 60  # products: a better preconditioner pays, where there is one
_REBUILD_RATIO = 8.0  # change of λ


@dataclass
class Newton:
    """Inexact Newton steps of all lanes together.

    Attributes
    ----------
    scale : float
        Tightens the forcing term and the share of the curvature left out: 1 at first.
    """

    patience: ClassVar[Mapping[int, int]] = {4: 4, 8: 6}
    scale: float = 1.0

    def direction(self, s: State, G: Array) -> Array:
        """The step to the minimum of the quadratic model, as far as it helps."""
        if (s.since > 0).any():
            self.scale = max(self.scale * _TIGHTER, 1e-3)
        self._refresh(s)
        H = s.problem.hessian(s.R, 1.0 - (1.0 - _SHARE) * self.scale)
        D, pairs, count = _conjugate_gradients(s, G, H, _FORCING * self.scale)
        s.products = s.products + 2 * count * H.share_of_rows
        s.age = count
        s.memory = _chosen(pairs, s.memory)
        return D

    def moved(self, s: State, S: Array, change: Array) -> None:
        """Nothing: the conjugate directions are the memory."""

    @staticmethod
    def _refresh(s: State) -> None:
        for q, current in enumerate(s.preconditioners):
            l2 = float(s.problem.l2[q])
            is_far = current is None or max(current.l2 / l2, l2 / current.l2) > _REBUILD_RATIO
            if is_far or s.age[q] > _REBUILD_AFTER:
                s.preconditioners[q] = s.problem.preconditioner(s.R, q, bool(s.age[q] > _HARD))


def _conjugate_gradients(
    s: State, G: Array, H: Hessian, forcing: float
) -> tuple[Array, list[tuple[Array, Array]], np.ndarray]:
    """Solve ``(H + λ) D = −G`` for all lanes; also the directions with their products, and products per lane.

    A lane stops when its residual has fallen by the forcing term, in the norm of the preconditioner, or when the model says
    that the fit will be good enough; it then waits for the others, with directions of zero.
    """
    xp = namespace(G)
    dtype = s.Z.dtype
    r = -xp.astype(G, dtype)
    scaled = xp.astype(penalty(s), dtype)
    D = xp.zeros_like(r)
    z = inverse(s, r)
    p, rz = z, dot(r, z)
    enough = forcing**2 * rz
    is_open = rz > 0
    count = np.zeros(len(rz), dtype=int)
    pairs: list[tuple[Array, Array]] = []
    value = objective(s)
    for _ in range(_MOST_PRODUCTS):
        p = p * like(p, is_open * 1.0)[:, None, None]
        Hp = H(p)
        pairs.append((p, Hp))
        count += is_open
        Hp = Hp + scaled * p
        curvature = dot(p, Hp)
        is_open &= curvature > 0
        step = np.where(is_open, rz / np.where(curvature > 0, curvature, 1.0), 0.0)
        D = D + like(D, step)[:, None, None] * p
        r = r - like(r, step)[:, None, None] * Hp
        if len(pairs) % _LOOK_EVERY == 0:
            done, _ = s.is_converged(s.point(s.T + xp.astype(D, xp.float64), 2.0 * xp.astype(r, xp.float64), value))
            is_open &= ~done
            if not is_open.any():
                break
        z = inverse(s, r)
        before, rz = rz, dot(r, z)
        is_open &= rz > enough
        if not is_open.any():
            break
        p = z + like(z, np.where(is_open, rz / before, 0.0))[:, None, None] * p
    return D, pairs, count


def _chosen(pairs: list[tuple[Array, Array]], memory: list[tuple[Array, Array]]) -> list[tuple[Array, Array]]:
    """The memory of the next step: the newest pairs; of a long run some from its whole length."""
    if len(pairs) < HISTORY:
        return [*memory, *pairs][-HISTORY:]
    return [pairs[int(j)] for j in np.linspace(0, len(pairs) - 1, HISTORY)]
