"""Where the next fits are expected: polynomials in log λ through the fits that are known, judged on stored scores.

Scores are linear in the coefficients, so a guess comes with its scores, and judging it costs no pass over X.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from probe.arrays import Array, like, namespace, to_numpy
from probe.problem import RotatedProblem


@dataclass(frozen=True, eq=False)
class Known:
    """All lanes of one penalty.

    Attributes
    ----------
    l2 : float
    T : array of shape (L, k, r), float64
    Z : array of shape (L, k, n)
    """

    l2: float
    T: Array
    Z: Array


def guess(problem: RotatedProblem, known: Sequence[Known], l2: np.ndarray) -> tuple[Array, Array]:
    """The best of several guesses for every lane: the nearest fit, and polynomials through two, three and four.

    Parameters
    ----------
    problem : RotatedProblem
        Of ``p · L`` lanes: those of one penalty stand together.
    known : sequence of Known
        At least one.
    l2 : numpy.ndarray of shape (p,)
        The penalties asked for.

    Returns
    -------
    T : array of shape (p · L, k, r), float64
    Z : array of shape (p · L, k, n)
        Its scores.
    """
    xp = namespace(known[0].T)
    mask = like(known[0].T, problem.penalised)
    logs = np.log([point.l2 for point in known])
    best = np.full(len(problem.l2), np.inf)
    T, Z = None, None
    for order in range(1, min(len(known), 4) + 1):
        parts_T, parts_Z = [], []
        for value in np.log(l2):
            near = np.argsort(np.abs(logs - value), kind="stable")[:order]
            weights = _lagrange(logs[near], value)
            used = [(float(w), known[int(j)]) for w, j in zip(weights, near, strict=True)]
            parts_T.append(sum(w * point.T for w, point in used))
            parts_Z.append(sum(w * point.Z for w, point in used))
        tried_T, tried_Z = xp.concat(parts_T, axis=0), xp.astype(xp.concat(parts_Z, axis=0), problem.rows.dtype)
        loss, _ = problem.evaluate(tried_Z)
        value_of = loss + 0.5 * problem.l2 * to_numpy(xp.sum(mask * tried_T * tried_T, axis=(1, 2)))
        better = value_of < best
        if T is None or Z is None or better.all():
            T, Z = tried_T, tried_Z
        elif better.any():
            index = xp.asarray(np.flatnonzero(better), device=T.device)
            T[index, ...], Z[index, ...] = xp.take(tried_T, index, axis=0), xp.take(tried_Z, index, axis=0)
        best = np.fmin(best, value_of)
    return T, Z


def _lagrange(nodes: np.ndarray, x: float) -> np.ndarray:
    """Weights of the values at the nodes in the polynomial through them, at x."""
    return np.array([np.prod([(x - v) / (u - v) for v in nodes if v != u]) for u in nodes])
