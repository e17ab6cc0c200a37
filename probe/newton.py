"""Newton directions: the linear system is solved by conjugate gradients on the rows that carry the curvature.

Few rows do, at the penalties that are hard: the fitted ones have none. They are gathered once per step, and the products with
the Hessian then leave the other rows alone. So one step costs two passes over X, like one of L-BFGS, and a path needs some
hundred of them instead of a thousand or more.

The preconditioner is that of L-BFGS, memory included: the conjugate directions of one step, with the products that were
made, are the memory of the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from probe.arrays import Array, is_on_cpu, like, namespace, plus_product, take, to_host, to_numpy
from probe.lbfgs import around, inverse_of
from probe.minimize import Hessian, Point, Preconditioner, State, inner, objective, penalty

HISTORY = 20
_STEPS = 10
_FORCING = 0.05  # of the preconditioned residual; 0.2 stalls at weak penalties
_SHARE = 0.999  # of the curvature that the rows must hold
_TIGHTER = 0.1  # both, after a step that did not help
_MOST_PRODUCTS = 400
_LOOK_EVERY = 4  # products between two looks at an accelerator, which waits for the host meanwhile; on a CPU every one
_MOST_WAITING = 0.9  # share of the lanes below which the stopped ones leave
_REBUILD_AFTER = 35  # products: the preconditioner no longer fits, and a better one pays where there is one
_EXACT_WITHIN = 24  # products that the inverse of the whole Hessian may take
_COMMON_FOR = 15  # the same where one preconditioner serves all lanes
_REBUILD_RATIO = 8.0  # change of λ,
_REBUILD_RATIO_EXACT = 1000.0  # or of an inverse of the whole Hessian that still serves:
_SERVES = 8  # products that the last step took at most


@dataclass
class Newton:
    """Inexact Newton steps of all lanes together.

    Attributes
    ----------
    is_hard : bool
        Whether the whole Hessian was needed before, so that nothing else is tried where it fits.
    scale : float
        Tightens the forcing term and the share of the curvature left out: 1 at first.
    steps : list of (S, change) pairs
        The last steps with the changes of the data's gradient.
    """

    patience: ClassVar[Mapping[int, int]] = {4: 8, 8: 12}
    is_hard: bool = False
    scale: float = 1.0
    steps: list[tuple[Array, Array]] = field(default_factory=list)

    def direction(self, s: State, G: Array) -> Array:
        """The step to the minimum of the quadratic model, as far as it helps."""
        if (s.since > 0).any():
            self.scale = max(self.scale * _TIGHTER, 1e-3)
        self._refresh(s)
        H = s.problem.hessian(s.R, 1.0 - (1.0 - _SHARE) * self.scale)
        G = namespace(G).astype(G, s.Z.dtype)

        def solve(g: Array) -> Array:
            D, pairs, count = _conjugate_gradients(s, -g, H, _FORCING * self.scale)
            s.products = s.products + 2 * count * H.share_of_rows
            s.memory, s.age = _chosen(pairs, s.memory), count
            s.since[_is_exact(s) & (count > _EXACT_WITHIN)] += self.patience[4]  # without progress, that was the end
            return D

        if not (H.is_part and self.steps):
            return solve(-G)
        return -around(s, self.steps, solve)(G)

    def moved(self, s: State, S: Array, change: Array) -> None:
        """The conjugate directions are the memory; the steps matter where rows count with their mean only."""
        self.steps = [*self.steps, (S, change)][-_STEPS:]

    def kept(self, lanes: np.ndarray) -> None:
        """The other lanes have left."""
        self.steps = [(take(S, lanes), take(change, lanes)) for S, change in self.steps]

    def _refresh(self, s: State) -> None:
        """Lanes that are alike have one preconditioner until it serves one of them badly, which then gets its own."""
        common: Preconditioner | None = None
        for q, current in enumerate(s.preconditioners):
            l2 = float(s.problem.l2[q])
            serves = current is not None and current.is_whole and s.age[q] <= _SERVES
            is_far = _ratio(current, l2) > (_REBUILD_RATIO_EXACT if serves else _REBUILD_RATIO)
            was_common = current is None or current.is_common
            is_worn = s.age[q] > (_COMMON_FOR if current is not None and current.is_common else _REBUILD_AFTER)
            if not is_far and not is_worn:
                continue
            if was_common and not is_worn and not self.is_hard and s.problem.is_alike:
                common = s.problem.preconditioner(s.R, None, False) if common is None else common
                s.preconditioners[q] = common
            else:
                is_hard = bool(s.age[q] > _REBUILD_AFTER) or (current is not None and current.is_whole)
                s.preconditioners[q] = s.problem.preconditioner(s.R, q, is_hard or self.is_hard)


@np.errstate(divide="ignore", invalid="ignore")  # ratios of lanes that wait are not used
def _conjugate_gradients(
    s: State, G: Array, H: Hessian, forcing: float
) -> tuple[Array, list[tuple[Array, Array]], np.ndarray]:
    """Solve ``(H + λ) D = −G`` for all lanes; also the directions with their products, and products per lane.

    A lane stops when its residual has fallen by the forcing term, in the norm of the preconditioner, or when the model says
    that the fit will be good enough. Stopped lanes wait with directions of zero, and leave when there are enough of them.
    All of this is said by numbers that stay where the arrays live; on an accelerator the host looks at them only now and
    then, since looking takes as long as several products.
    """
    xp = namespace(G)
    out = xp.zeros(G.shape, dtype=s.Z.dtype, device=G.device)
    count = np.zeros(len(s.ids), dtype=int)
    pairs: list[tuple[int, Array, Array]] = []
    lanes = np.arange(len(s.ids))
    inverse, scaled = inverse_of(s), xp.astype(penalty(s), out.dtype)
    here, exact = (objective(s), s.mass()), _is_exact(s)
    every = 1 if is_on_cpu(G) else _LOOK_EVERY
    r, D = -xp.astype(G, out.dtype), out
    z = inverse(r)
    p, rz = z, inner(r, z)
    enough, is_open, zero = forcing**2 * rz, rz > 0, xp.zeros_like(rz)
    since: list[Array] = []  # for each product since the last look, the lanes that it was made for
    for n in range(1, _MOST_PRODUCTS + 1):
        Hp = H(p)
        pairs.append((n, _spread(p, lanes, out), _spread(Hp, lanes, out)))
        if len(pairs) > 2 * HISTORY:  # some of a long run are enough, and all would fill the memory
            pairs = [*pairs[:-1:2], pairs[-1]]
        since.append(is_open)
        Hp = plus_product(Hp, scaled, p)
        curvature = inner(p, Hp)
        is_open = is_open & (curvature > 0)
        step = _each(xp.where(is_open, rz / curvature, zero), D)
        D, r = plus_product(D, step, p), plus_product(r, step, Hp, -1.0)
        is_look = n % every == 0 or n == _MOST_PRODUCTS
        if is_look:
            *ran, runs = to_host(*since, is_open)
            count[lanes] += np.sum(ran, axis=0)
            runs = runs & ~_is_enough(s, lanes, D, r, here) & ~(exact[lanes] & (n > _EXACT_WITHIN))
            since, is_open = [], like(rz, runs, xp.bool)
        if not is_look or runs.any():
            z = inverse(r)
            before, rz = rz, inner(r, z)
            is_open = is_open & (rz > enough)
        if is_look and (runs := to_numpy(is_open)).mean() < _MOST_WAITING:
            out[xp.asarray(lanes, device=out.device), ...] = D
            kept = np.flatnonzero(runs)
            if len(kept) == 0:
                break
            H, inverse, lanes = H.take(kept), inverse.take(kept), lanes[kept]
            D, r, z, p, scaled = (take(x, kept) for x in (D, r, z, p, scaled))
            rz, before, enough, is_open, zero = (take(x, kept) for x in (rz, before, enough, is_open, zero))
        p = plus_product(z, _each(xp.where(is_open, rz / before, zero), z), p) * _each(is_open, z)
    else:
        out[xp.asarray(lanes, device=out.device), ...] = D
    return out, [(S, Y) for n, S, Y in pairs if n <= count.max()], count


def _each(value: Array, x: Array) -> Array:
    """One number of every lane, (L,), for products with its array."""
    return namespace(x).astype(value, x.dtype)[:, None, None]


def _ratio(preconditioner: Preconditioner | None, l2: float) -> float:
    """How far the penalty is that it was made for."""
    return np.inf if preconditioner is None else max(preconditioner.l2 / l2, l2 / preconditioner.l2)


def _is_exact(s: State) -> np.ndarray:
    """Lanes with the inverse of their own Hessian, made not far away: where it does not solve, rounding is to blame."""
    inverses = zip(s.preconditioners, s.problem.l2, strict=True)
    return np.array(
        [p is not None and p.is_whole and not p.is_common and _ratio(p, l2) <= _REBUILD_RATIO for p, l2 in inverses]
    )


def _is_enough(s: State, lanes: np.ndarray, D: Array, r: Array, here: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Whether the rule would be met where the model leads, with twice the gradient that the model predicts.

    `here` are the objective and ‖R‖₁ of every lane at the point the step starts from.
    """
    xp = namespace(D)
    value, mass = here
    T = (s.T if len(lanes) == len(s.ids) else take(s.T, lanes)) + xp.astype(D, xp.float64)
    point = Point(T, 2.0 * xp.astype(r, xp.float64), value[lanes], mass[lanes], s.problem.l2[lanes], s.ids[lanes])
    done, _ = s.is_converged(point)
    return done


def _spread(x: Array, lanes: np.ndarray, example: Array) -> Array:
    """Arrays of some lanes as one of all, zero for the others."""
    if len(lanes) == int(example.shape[0]):
        return x
    xp = namespace(x)
    out = xp.zeros_like(example)
    out[xp.asarray(lanes, device=x.device), ...] = x
    return out


def _chosen(pairs: list[tuple[Array, Array]], memory: list[tuple[Array, Array]]) -> list[tuple[Array, Array]]:
    """The memory of the next step: the newest pairs; of a long run some from its whole length."""
    if len(pairs) < HISTORY:
        return [*memory, *pairs][-HISTORY:]
    return [pairs[int(j)] for j in np.linspace(0, len(pairs) - 1, HISTORY)]
