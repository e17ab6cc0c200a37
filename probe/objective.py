"""The objective of L2-regularised linear classifiers: its definition, and what the solver asks of a batched loss.

Conventions
-----------
One *problem* is ``minimise F(W, b) = Σ_i s_i · loss(W x_i + b, y_i) + ½ λ ‖W‖²`` with ``λ = 1 / C``: scikit-learn's
``C · Σ loss + ½‖W‖²`` divided by C. The intercept b is never penalised.

``k``
    Rows of W: the number of classes for softmax (three or more), 1 for binary problems, where the score is the log-odds
    of the second class (two softmax rows would halve the penalty). Losses of a margin (`probe.margins`) have one row per
    lane, and several classes are as many lanes.
``L``
    Lanes: problems that share X and advance together (labels of a multi-label problem, folds, seeds).
``Z, R (L, k, n)``
    Scores of the rows, and the derivative of the loss by them. Rows run along the last axis: reductions over classes
    are then sums of contiguous vectors, several times faster on a CPU than reductions over a short last axis.

`value_and_gradient` is the definition, in plain float64 numpy; `hinge_value_and_gradient` and `ridge_value_and_gradient` are
those of the support vector machine and of ridge classification. Everything else in this package is tested against them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from probe.arrays import Array, is_on_cpu, like, namespace, to_numpy

_CACHE_ENTRIES = 1 << 16  # scores per piece of elementwise work on a CPU: 256 kB of float32


def value_and_gradient(
    W: np.ndarray,
    b: np.ndarray,
    X: np.ndarray,
    y: np.ndarray,
    C: float,
    sample_weight: np.ndarray | None = None,
) -> tuple[float, np.ndarray, np.ndarray]:
    """Evaluate F and its gradient, straight from the formula: the definition the fast paths are held to.

    Parameters
    ----------
    W : numpy.ndarray of shape (k, d), float64
        k = 1 for binary problems.
    b : numpy.ndarray of shape (k,), float64
    X : numpy.ndarray of shape (n, d)
    y : numpy.ndarray of shape (n,), integer
        Class numbers 0 … k - 1, or 0 and 1 when k = 1.
    C : float
        Inverse penalty, in the sum form.
    sample_weight : numpy.ndarray of shape (n,), optional

    Returns
    -------
    value : float
        ``Σ s_i loss_i + ‖W‖² / (2 C)``.
    grad_W : numpy.ndarray of shape (k, d)
    grad_b : numpy.ndarray of shape (k,)
    """
    X = X.astype(np.float64)
    s = np.ones(len(X)) if sample_weight is None else sample_weight.astype(np.float64)
    Z = X @ W.T + b
    if W.shape[0] == 1:
        loss = np.logaddexp(0.0, Z[:, 0]) - y * Z[:, 0]
        R = (0.5 * (1.0 + np.tanh(0.5 * Z[:, 0])) - y)[:, None]
    else:
        log_sum = np.logaddexp.reduce(Z, axis=1)
        loss = log_sum - Z[np.arange(len(y)), y]
        R = np.exp(Z - log_sum[:, None])
        R[np.arange(len(y)), y] -= 1.0
    R = R * s[:, None]
    return float(s @ loss + (W * W).sum() / (2.0 * C)), R.T @ X + W / C, R.sum(0)


def hinge_value_and_gradient(
    W: np.ndarray,
    b: np.ndarray,
    X: np.ndarray,
    S: np.ndarray,
    C: float,
    sample_weight: np.ndarray | None = None,
) -> tuple[float, np.ndarray, np.ndarray]:
    """The same for the squared hinge, ``loss_i = Σ_c max(0, 1 − S_ic (w_c · x_i + b_c))²``, one class against the rest.

    Parameters
    ----------
    W, b, X, C, sample_weight
        As in `value_and_gradient`.
    S : numpy.ndarray of shape (n, k)
        +1 where row i has class (or label) c, else −1.

    Returns
    -------
    value : float
    grad_W : numpy.ndarray of shape (k, d)
    grad_b : numpy.ndarray of shape (k,)
    """
    X = X.astype(np.float64)
    s = np.ones(len(X)) if sample_weight is None else sample_weight.astype(np.float64)
    slack = np.maximum(0.0, 1.0 - S * (X @ W.T + b))
    R = -2.0 * S * slack * s[:, None]
    return float(s @ (slack**2).sum(1) + (W * W).sum() / (2.0 * C)), R.T @ X + W / C, R.sum(0)


def ridge_value_and_gradient(
    W: np.ndarray,
    b: np.ndarray,
    X: np.ndarray,
    S: np.ndarray,
    C: float,
    sample_weight: np.ndarray | None = None,
) -> tuple[float, np.ndarray, np.ndarray]:
    """The same for ridge classification, ``loss_i = ½ Σ_c (w_c · x_i + b_c − S_ic)²``; arguments of `hinge_value_and_gradient`."""
    X = X.astype(np.float64)
    s = np.ones(len(X)) if sample_weight is None else sample_weight.astype(np.float64)
    residual = X @ W.T + b - S
    R = residual * s[:, None]
    return float(0.5 * s @ (residual**2).sum(1) + (W * W).sum() / (2.0 * C)), R.T @ X + W / C, R.sum(0)


class BatchedLoss(Protocol):
    """The loss of L lanes, as the minimiser, the preconditioner and the certificate use it."""

    has_gauge: ClassVar[bool]
    """Whether adding a number to all k scores of a row changes nothing."""

    @property
    def n_lanes(self) -> int:
        """Lanes it has labels for: L, or 1 where one label set serves all."""

    def take(self, lanes: np.ndarray) -> BatchedLoss:
        """The same loss for some of the lanes."""

    def part(self, lane: int, n: int) -> BatchedLoss:
        """One lane, and its first n rows."""

    def intercepts(self) -> np.ndarray:
        """Intercepts that are optimal at zero weights, shape (1 or L, k), float64."""

    def evaluate(self, Z: Array) -> tuple[np.ndarray, Array]:
        """(L, k, n) scores → loss of every lane (L,), float64, and its derivative by the scores, (L, k, n)."""

    def curvature(self, R: Array, lane: int | None) -> Curvature:
        """Curvature of one lane at the point whose derivative is R (L, k, n); of None, what lanes have on average."""

    def vectors(self, R: Array, lane: int | None, c: Array, i: Array) -> Array:
        """The vectors v of some pairs of one lane, shape (m, k)."""

    def hessian_row(self, R: Array, lane: int | None, c: int) -> Array:
        """Row c of the second derivative by the scores of one lane, shape (k, n), float64."""

    def intercept_hessian(self, R: Array) -> Array:
        """Second derivative of the loss by the intercepts, shape (L, k, k)."""

    def row_curvature(self, R: Array) -> np.ndarray:
        """How much every row bends, (L, n), on the host: an estimate of the trace of its second derivative."""

    def bend(self, R: Array) -> Bend:
        """Second derivatives by the scores."""

    def at_rows(self, rows: np.ndarray, times: np.ndarray | None = None) -> BatchedLoss:
        """The loss of some rows, each counted so many times."""


@dataclass(frozen=True, eq=False)
class Curvature:
    """Second derivative of the loss by the scores, as a sum of weighted outer products over (class, row) pairs.

    Row i of a lane has ``H_i = Σ_c weight_ci · v_ci v_ciᵀ``; softmax has ``v = e_c − p_i`` and ``weight = s_i p_ic``,
    losses of a margin ``v = 1`` and their second derivative.

    Attributes
    ----------
    trace : array of shape (k, n)
        ``weight · ‖v‖²``: how much each pair adds to the trace of H.
    weight : array of shape (k, n)
    """

    trace: Array
    weight: Array
    _loss: BatchedLoss
    _R: Array
    _lane: int | None

    def vectors(self, c: Array, i: Array) -> Array:
        """The vectors v of some pairs.

        Parameters
        ----------
        c, i : array of shape (m,), integer
            Classes and rows of the pairs.

        Returns
        -------
        array of shape (m, k)
        """
        return self._loss.vectors(self._R, self._lane, c, i)

    def row(self, c: int) -> Array:
        """Row c of every H_i, shape (k, n), float64: derivative of residual c by all scores."""
        return self._loss.hessian_row(self._R, self._lane, c)


@dataclass(frozen=True, eq=False)
class Bend:
    """Second derivatives of the loss by the scores, of some rows; call it with scores of directions, (L, k, m).

    Row i has ``diag(weight_i) − weight_i weight_iᵀ / mass_i``, without the second term where there is no mass.
    """

    weight: Array  # (L, k, m)
    mass: Array | None  # (L or 1, 1, m)

    def take(self, lanes: np.ndarray) -> Bend:
        """The same for some of the lanes."""
        return Bend(lanes_of(self.weight, lanes), None if self.mass is None else lanes_of(self.mass, lanes))

    def rows(self, part: slice) -> Bend:
        """The same for some of the rows."""
        return Bend(self.weight[..., part], None if self.mass is None else self.mass[..., part])

    def __call__(self, Z: Array) -> Array:
        """(L, k, m) → (L, k, m)."""
        xp = namespace(Z)
        if self.mass is None:
            return self.weight * Z
        if isinstance(Z, np.ndarray):  # without an array for the products
            along = np.einsum("lkm,lkm->lm", self.weight, Z)[:, None, :]
        else:
            along = xp.sum(self.weight * Z, axis=1, keepdims=True)
        out = Z - along / self.mass
        out *= self.weight
        return out


@dataclass(frozen=True, eq=False)
class Softmax:
    """Multinomial logistic loss of L label sets.

    Attributes
    ----------
    hot : array of shape (1 or L, k, n)
        One where the class is the row's label, else zero, in the working dtype.
    weights : array of shape (1 or L, 1, n) or None
        Sample weights.
    """

    hot: Array
    weights: Array | None = None
    has_gauge: ClassVar[bool] = True

    @property
    def n_lanes(self) -> int:
        """L, or 1 where one label set serves all lanes."""
        return (
            int(self.hot.shape[0]) if self.weights is None else max(int(self.hot.shape[0]), int(self.weights.shape[0]))
        )

    def take(self, lanes: np.ndarray) -> Softmax:
        """The same loss for some of the lanes."""
        return Softmax(lanes_of(self.hot, lanes), None if self.weights is None else lanes_of(self.weights, lanes))

    def part(self, lane: int, n: int) -> Softmax:
        """One lane, and its first n rows."""
        one = self.take(np.array([lane]))
        return Softmax(one.hot[..., :n], None if one.weights is None else one.weights[..., :n])

    def counts(self) -> np.ndarray:
        """Weight of every class, shape (1 or L, k), float64."""
        return counts_of(self.hot, self.weights)

    def intercepts(self) -> np.ndarray:
        """Logarithms of the class frequencies, orthogonal to the gauge; shape (1 or L, k)."""
        logs = np.log(np.maximum(self.counts(), 1e-12))
        centred: np.ndarray = logs - logs.mean(1, keepdims=True)
        return centred

    def evaluate(self, Z: Array) -> tuple[np.ndarray, Array]:
        """Loss of every lane and its derivative by the scores.

        ``1 − p_y`` is never formed by subtraction: ``r_y = −s / (s + e_y)`` with s the sum over the other classes, so
        that float32 keeps its relative precision when ``p_y → 1`` (with C large on separable data, all rows do that).

        Parameters
        ----------
        Z : array of shape (L, k, n)

        Returns
        -------
        loss : numpy.ndarray of shape (L,), float64
        R : array of shape (L, k, n)
        """
        xp = namespace(Z)
        R = xp.empty_like(Z)
        loss = np.zeros(int(Z.shape[0]))
        for lane, part in pieces(Z):
            hot, w = piece(self.hot, lane, part), piece(self.weights, lane, part)
            u = Z[lane, :, part]
            u = u - xp.max(u, axis=1, keepdims=True)
            u_y = xp.sum(u * hot, axis=1, keepdims=True)
            e = xp.exp(u) * (1 - hot)
            e_y = xp.exp(u_y)
            s = xp.sum(e, axis=1, keepdims=True)
            q = 1 / (s + e_y)
            value = xp.log1p(xp.astype(s + (e_y - 1), xp.float64)) - xp.astype(u_y, xp.float64)
            if w is not None:
                value, q = value * xp.astype(w, xp.float64), q * w
            loss[lane] += to_numpy(xp.sum(value, axis=(1, 2)))
            R[lane, :, part] = (e - hot * s) * q
        return loss, R

    def row_curvature(self, R: Array) -> np.ndarray:
        """An estimate of the trace of every row's second derivative, ``Σ_c |r| (1 − |r|)``: (L, n) on the host."""
        xp = namespace(R)
        size = xp.abs(R)
        w = self.weights
        relative = size if w is None else size / xp.where(w > 0, w, xp.ones_like(w))
        return to_numpy(xp.sum(size * (1 - relative), axis=1))

    def bend(self, R: Array) -> Bend:
        """Second derivatives at the point whose derivative is R (L, k, n)."""
        xp = namespace(R)
        w = self.weights
        weight = R + (self.hot if w is None else self.hot * w)
        weight = xp.where(weight > 0, weight, xp.zeros_like(weight))
        mass = xp.ones_like(weight[:1, :1, :]) if w is None else xp.where(w > 0, w, xp.ones_like(w))
        return Bend(weight, mass)

    def at_rows(self, rows: np.ndarray, times: np.ndarray | None = None) -> Softmax:
        """The loss of some rows, each counted so many times."""
        return Softmax(columns_of(self.hot, rows), weights_at(self.weights, self.hot, rows, times))

    def curvature(self, R: Array, lane: int | None) -> Curvature:
        """Curvature of one lane at the point whose derivative is R (L, k, n); of None, that of the mean probabilities.

        It is at least the mean of the lanes' curvatures, as ``diag(p) − p pᵀ`` is concave in p.
        """
        xp = namespace(R)
        hot, r, w = self._of(R, lane)
        p = r + hot
        p = xp.where(p > 0, p, xp.zeros_like(p))
        # ‖e_c − p‖² is 1 − 2 p_c + Σp², except at c = y, where it is Σr²: no cancellation when p_y → 1.
        squared = 1 - 2 * p + xp.sum(p * p, axis=0, keepdims=True)
        squared = xp.where(hot == 1, xp.broadcast_to(xp.sum(r * r, axis=0, keepdims=True), p.shape), squared)
        weight = p if w is None else p * w
        trace = weight * xp.where(squared > 0, squared, xp.zeros_like(squared))
        return Curvature(trace, weight, self, R, lane)

    def vectors(self, R: Array, lane: int | None, c: Array, i: Array) -> Array:
        """``e_c − p_i`` for pairs of one lane, shape (m, k)."""
        xp = namespace(R)
        hot, r, _ = self._of(R, lane, i)
        chosen = xp.astype(xp.arange(int(R.shape[1]), device=R.device)[:, None] == c[None, :], R.dtype)
        return (chosen - hot - r).T

    def hessian_row(self, R: Array, lane: int | None, c: int) -> Array:
        """``s (p_c e_c − p_c p)``, shape (k, n), float64; 1 − p_c is (1 − y_c) − r_c, which does not cancel."""
        xp = namespace(R)
        hot, r, w = self._of(R, lane)
        hot, r = xp.astype(hot, xp.float64), xp.astype(r, xp.float64)
        p = r + hot
        mine = xp.astype(xp.arange(int(p.shape[0]), device=p.device) == c, xp.float64)[:, None]
        row = -p[c, :][None, :] * (p * (1 - mine) - mine * ((1 - hot) - r))
        return row if w is None else row * xp.astype(w, xp.float64)

    def intercept_hessian(self, R: Array) -> Array:
        """``Σ_i s_i (diag(p_i) − p_i p_iᵀ)``, shape (L, k, k)."""
        xp = namespace(R)
        w = self.weights
        P = R + (self.hot if w is None else self.hot * w)  # s · p
        cross = (P if w is None else P / xp.where(w > 0, w, xp.ones_like(w))) @ xp.permute_dims(P, (0, 2, 1))
        return xp.eye(int(R.shape[1]), dtype=R.dtype, device=R.device) * xp.sum(P, axis=2)[..., None] - cross

    def _of(self, R: Array, lane: int | None, i: Array | None = None) -> tuple[Array, Array, Array | None]:
        """Labels (k, n), derivatives without their weights (k, n), and weights (1, n), of one lane or, of None, on average."""
        xp = namespace(R)

        def some(x: Array, lanes: slice) -> Array:
            x = x[lanes, ...] if int(x.shape[0]) > 1 else x
            return x if i is None else xp.take(x, i, axis=2)

        lanes = slice(None) if lane is None else slice(lane, lane + 1)
        hot, r = some(self.hot, lanes), xp.mean(some(R, lanes), axis=0)
        if self.weights is None:
            return xp.mean(hot, axis=0), r, None
        weights = some(self.weights, lanes)
        w = xp.mean(weights, axis=0)
        mass = xp.where(w > 0, w, xp.ones_like(w))
        if int(hot.shape[0]) == 1:
            return hot[0, ...], r / mass, w
        hot = xp.mean(hot * weights, axis=0) / mass
        return xp.where(hot > 1 - 1e-6, xp.ones_like(hot), hot), r / mass, w  # one label in all lanes, but for rounding


def lanes_of(x: Array, lanes: np.ndarray) -> Array:
    """Some lanes of labels or weights; what serves all lanes stays one."""
    if int(x.shape[0]) == 1:
        return x
    xp = namespace(x)
    return xp.take(x, xp.asarray(lanes, device=x.device), axis=0)


def columns_of(x: Array | None, rows: np.ndarray | None) -> Array:
    """Some rows of labels, weights or scores, which run along the last axis; all where `rows` is None."""
    if x is None or rows is None:
        return x
    xp = namespace(x)
    return xp.take(x, xp.asarray(rows, device=x.device), axis=2)


def weights_at(weights: Array | None, example: Array, rows: np.ndarray, times: np.ndarray | None) -> Array | None:
    """Weights of some rows, each counted so many times; None where all are one."""
    chosen = columns_of(weights, rows)
    if times is None:
        return chosen
    counted = like(example, times)[None, None, :]
    return counted if chosen is None else chosen * counted


def own(x: Array, lane: int) -> int:
    """Where a lane's labels or weights are."""
    return 0 if int(x.shape[0]) == 1 else lane


def counts_of(hot: Array, weights: Array | None) -> np.ndarray:
    """Weight of the marked rows: (1 or L, k, n) → (1 or L, k), float64, on the host."""
    xp = namespace(hot)
    total = xp.sum(xp.astype(hot if weights is None else hot * weights, xp.float64), axis=2)
    return to_numpy(total)


def pieces(Z: Array) -> list[tuple[slice, slice]]:
    """Slices over lanes and rows whose scores fit the processor's cache; everything at once on an accelerator."""
    L, k, n = (int(s) for s in Z.shape)
    if not is_on_cpu(Z):
        return [(slice(0, L), slice(0, n))]
    step = max(256, _CACHE_ENTRIES // k)
    lanes = max(1, _CACHE_ENTRIES // (k * min(step, n)))
    return [
        (slice(a, min(a + lanes, L)), slice(i, min(i + step, n))) for a in range(0, L, lanes) for i in range(0, n, step)
    ]


def piece(x: Array | None, lane: slice, part: slice) -> Array:
    """Labels or weights that belong to a piece of the scores."""
    if x is None:
        return None
    return x[:, :, part] if int(x.shape[0]) == 1 else x[lane, :, part]
