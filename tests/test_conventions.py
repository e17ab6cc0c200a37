"""Penalty conventions against a plain minimiser of every convention's own objective; the grids against their papers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import digits

import probe
from probe import conventions as c

N = 60
"""Rows of the tiny problem; not a power of ten, so that a forgotten n shows."""

# What each of them minimises, as its own code has it: losses (n,), squared norm of the weights, the number reported.
OBJECTIVES: dict[c.Convention, tuple[float, Callable[[np.ndarray, float, float], float]]] = {
    c.SCIKIT_LEARN: (0.3, lambda loss, w2, C: C * loss.sum() + 0.5 * w2),
    c.CUML: (0.3, lambda loss, w2, C: loss.mean() + 0.5 * (1 / C / len(loss)) * w2),
    c.CUML_QN: (2.0, lambda loss, w2, l2: loss.mean() + 0.5 * (l2 / len(loss)) * w2),
    c.CUML_QN_AS_GIVEN: (0.03, lambda loss, w2, l2: loss.mean() + 0.5 * l2 * w2),
    c.LINEAR_EVAL: (1.7, lambda loss, w2, l2: loss.sum() + l2 * w2),
    c.SSL_TRANSFER: (2.3, lambda loss, w2, wd: (1 / wd) * loss.sum() + 0.5 * w2),
    c.DINOV2: (0.3, lambda loss, w2, C: loss.mean() + 0.5 * (1 / C / len(loss)) * w2),
    c.WEIGHT_DECAY: (0.03, lambda loss, w2, wd: loss.mean() + 0.5 * wd * w2),
    c.LIBLINEAR_SVM: (0.3, lambda loss, w2, C: 0.5 * w2 + C * loss.sum()),
    c.RIDGE: (0.7, lambda loss, w2, alpha: 2 * loss.sum() + alpha * w2),  # of its loss (z − t)², ours being half of it
    c.Convention("mean without ½", c.Parameter.STRENGTH, c.Reduction.MEAN, False): (
        0.02,
        lambda loss, w2, l2: loss.mean() + l2 * w2,
    ),
    c.Convention("C of a mean without ½", c.Parameter.INVERSE, c.Reduction.MEAN, False): (
        40.0,
        lambda loss, w2, C: loss.mean() + w2 / C,
    ),
}


def _tiny(k: int) -> tuple[np.ndarray, np.ndarray]:
    X, y = digits(N, k)
    return X[:, [10, 20, 36]] / 16, y


def _minimised(k: int, objective: Callable[[np.ndarray, float, float], float], value: float) -> np.ndarray:
    """Weights (k or 1, 3) that a general-purpose minimiser finds, with derivatives by differences of the formula."""
    from scipy.optimize import minimize

    X, y = _tiny(k)
    rows = 1 if k == 2 else k

    def of(point: np.ndarray) -> float:
        W, b = point[: rows * 3].reshape(rows, 3), point[rows * 3 :]
        Z = X @ W.T + b
        if k == 2:
            loss = np.logaddexp(0, -(2 * y - 1) * Z[:, 0])
        else:
            loss = np.logaddexp.reduce(Z, axis=1) - Z[np.arange(len(y)), y]
        return objective(loss, float((W**2).sum()), value)

    found = minimize(of, np.zeros(rows * 4), jac="3-point", method="BFGS", options={"gtol": 1e-9})
    return np.asarray(found.x[: rows * 3].reshape(rows, 3))


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("convention", OBJECTIVES, ids=lambda convention: convention.name)
def test_the_translated_penalty_has_the_optimum_of_the_original(convention: c.Convention, k: int) -> None:
    """A factor of two or n in a converter gives another model under the name of a paper's."""
    value, objective = OBJECTIVES[convention]
    theirs = _minimised(k, objective, value)
    model = probe.fit(_tiny(k)[0], _tiny(k)[1], C=c.convert(value, convention, n=N), tol=1e-9)
    assert np.abs(theirs).max() > 0.1  # the penalty neither rules nor vanishes
    np.testing.assert_allclose(model.coef, theirs, atol=2e-5)  # BFGS on differences ends at about 1e-6
    halved = probe.fit(_tiny(k)[0], _tiny(k)[1], C=c.convert(value, convention, n=N) / 2, tol=1e-9)
    assert np.abs(halved.coef - theirs).max() > 1e-2  # the tolerance above would notice ½


def test_every_named_convention_is_tested() -> None:
    """A convention without its objective above has only been typed."""
    assert set(c.ALL) <= set(OBJECTIVES)
    assert len({convention.name for convention in c.ALL}) == len(c.ALL)


@given(st.sampled_from(c.ALL), st.sampled_from(c.ALL), st.floats(1e-9, 1e9), st.integers(1, 10**7))
def test_there_and_back_is_the_same(of: c.Convention, to: c.Convention, value: float, n: int) -> None:
    """Both directions are one formula; rounding is all that may change."""
    assert c.convert(c.convert(value, of, to, n=n), to, of, n=n) == pytest.approx(value, rel=1e-14)


def test_grids_are_translated_whole() -> None:
    """Kornblith's λ grid as C: half its inverse, in the order given."""
    found = c.convert(probe.C_GRID, c.LINEAR_EVAL)
    np.testing.assert_allclose(found, 1 / (2 * probe.C_GRID), rtol=1e-15)
    assert isinstance(found, np.ndarray)
    assert isinstance(c.convert(2.0, c.LINEAR_EVAL), float)


def test_what_cannot_be_translated_is_said() -> None:
    """A mean needs the number of rows, and a penalty is positive; guessing either would change the model silently."""
    with pytest.raises(probe.BadInput, match="pass n, the number of training rows"):
        c.convert(1.0, c.WEIGHT_DECAY)
    with pytest.raises(probe.BadInput, match="n is 0"):
        c.convert(1.0, c.WEIGHT_DECAY, n=0)
    with pytest.raises(probe.BadInput, match=r"1 of 2 are not \(first -1.0\)"):
        c.convert([1.0, -1.0], c.LINEAR_EVAL)
    with pytest.raises(probe.BadInput, match=r"WEIGHT_DECAY, .* not 'weight decay'"):
        c.convert(1.0, "weight decay", n=10)  # type: ignore[arg-type]
    with pytest.raises(probe.BadInput, match="A penalty must hold numbers, but it is 'a'"):
        c.convert("a", c.LINEAR_EVAL)
    assert "½" in str(c.SCIKIT_LEARN)
    assert "½" not in str(c.LINEAR_EVAL)


def test_grids_are_the_papers() -> None:
    """Number of values, ends and equal steps on the logarithmic scale, as protocols state them."""
    for name, n, low, high in (("kornblith", 45, -6, 5), ("clip", 96, -6, 6), ("svm", 26, -3, 2)):
        logs = np.log10(probe.named_grid(name))
        assert len(logs) == n
        np.testing.assert_allclose(logs[[0, -1]], [low, high], atol=1e-12)
        np.testing.assert_allclose(np.diff(logs), (high - low) / (n - 1), rtol=1e-9)
        with pytest.raises(ValueError, match="read-only"):
            probe.named_grid(name)[0] = 1.0
    with pytest.raises(probe.BadInput, match="did you mean 'kornblith'"):
        probe.named_grid("kornblit")
