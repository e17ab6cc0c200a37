"""Fits on a GPU beyond the plain path: several problems at once, features that go by, full maps, stores, float16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import stored_digits
import torch
from problems import Case, cases, digits

import probe
from probe import Status

pytestmark = pytest.mark.gpu

GRID = 10.0 ** np.linspace(-4, 4, 9)
DTYPES = [torch.float32, torch.float64]


def certified(path: probe.Path, expected: probe.Path, rtol: float = 2e-5) -> None:
    """Converged, to the objective of another path of the same rows."""
    assert [s.value for s in path.status] == ["converged"] * len(path)
    np.testing.assert_allclose(path.objective, expected.objective, rtol=rtol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", cases(), ids=lambda c: c.name)
def test_every_case_in_memory_and_streamed(case: Case, dtype: torch.dtype) -> None:
    """The objective of the same numbers fitted by numpy; the coefficients stay on the device."""
    X = torch.from_numpy(case.X).to("cuda", dtype)
    expected = probe.fit_path(X.cpu().numpy(), case.y, GRID)
    certified(probe.fit_path(X, case.y, GRID), expected)
    streamed = probe.fit_path(X.cpu(), case.y, GRID, device="cuda", memory=X.nbytes // 4)
    certified(streamed, expected)


def test_half_precision_is_converted_on_the_device() -> None:
    """float16 and bfloat16 features are exact numbers, and the fit is that of the same numbers."""
    X, y = digits(300, 5)
    for dtype in (torch.float16, torch.bfloat16):
        half = torch.from_numpy(X / 7.0).to("cuda", dtype)
        certified(probe.fit_path(half, y, GRID), probe.fit_path(half.double().cpu().numpy(), y, GRID), 1e-4)


def test_several_label_sets_folds_and_weights_share_the_passes() -> None:
    """Each problem of one call as if it had been fitted alone, multi-label and binary ones among them."""
    X, y = digits(600)
    there = torch.from_numpy(X.astype(np.float32)).cuda()
    labels = [y, y % 2, (y[:, None] == np.arange(3)).astype(int)]
    for path, one in zip(probe.fit_paths(there, labels, GRID), labels, strict=True):
        certified(path, probe.fit_path(X, one, GRID), 1e-4)
    rows = [np.arange(len(y))[np.arange(len(y)) % 5 != fold] for fold in range(5)]
    for path, some in zip(probe.fit_paths(there, y, GRID, rows=rows), rows, strict=True):
        certified(path, probe.fit_path(X[some], y[some], GRID), 1e-4)
    weight = np.random.default_rng(0).uniform(0.1, 3.0, len(y))
    for options in ({"sample_weight": weight}, {"class_weight": "balanced"}, {"fit_intercept": False}):
        certified(probe.fit_path(there, y, GRID, **options), probe.fit_path(X, y, GRID, **options), 1e-4)


def test_folds_choose_what_they_choose_on_the_host() -> None:
    """k folds of tensors on the device."""
    X, y = digits(500, 5)
    there = torch.from_numpy(X.astype(np.float32)).cuda()
    a, b = (probe.select_kfold(x, y, GRID, n_folds=4, seed=0) for x in (there, X))
    assert a.C == b.C
    np.testing.assert_allclose(a.scores, b.scores, atol=0.01)


def test_full_maps_go_through_the_gram_matrix() -> None:
    """Many more columns than rows, in blocks of columns, on the device."""
    X, y = digits(120, 4)
    maps = np.tile(X.astype(np.float32), (1, 60)) + np.random.default_rng(0).normal(size=(len(X), 60 * 64)).astype(
        np.float32
    )
    path = probe.fit_path(maps, y, GRID, device="cuda", memory=maps.nbytes // 4)
    certified(path, probe.fit_path(maps, y, GRID))


def test_rows_come_from_a_store_through_pinned_buffers(tmp_path: Path) -> None:
    """A feature matrix that does not fit goes by; one that fits is loaded."""
    F = stored_digits.digits_store(tmp_path / "store").features("pixels", "train")
    expected = probe.fit_path(F.numpy(), F.labels, GRID)
    for memory in (F.nbytes // 4, 2 * F.nbytes, None):
        path = probe.fit_path(F, F.labels, GRID, device="cuda", memory=memory)
        certified(path, expected)


def test_the_objective_is_that_of_the_coefficients() -> None:
    """By hand, in float64 on the host: C · Σ loss + ½ ‖W‖²."""
    from scipy.special import logsumexp

    X, y = digits(400)
    there = torch.from_numpy(X.astype(np.float32)).cuda()
    path = probe.fit_path(there, y, GRID)
    for C, W, b, said in zip(
        path.C, path.coef.double().cpu(), path.intercept.double().cpu(), path.objective, strict=True
    ):
        Z = there.double().cpu().numpy() @ W.numpy().T + b.numpy()
        loss = (logsumexp(Z, axis=1) - Z[np.arange(len(y)), y]).sum()
        assert said == pytest.approx(C * loss + 0.5 * float((W * W).sum()), rel=1e-5)


def test_estimator_ridge_and_svm() -> None:
    """What is built on the path takes tensors of a device, and its predictions are on it."""
    X, y = digits(300, 4)
    there = torch.from_numpy(X.astype(np.float32)).cuda()
    for fitted in (probe.fit(there, y, C=0.1), probe.fit_ridge(there, y), probe.fit_svm(there, y)):
        assert fitted.status is Status.CONVERGED
        assert (np.asarray(probe.arrays.to_numpy(fitted.predict(there))) == y).mean() > 0.9
