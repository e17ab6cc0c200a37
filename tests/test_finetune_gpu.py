"""Training on a GPU: what a run stores is what its network says anywhere, fed candidates are those trained from images, and
every method chooses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_helpers import RECIPE, UNITS, images_of, tune
from test_flex import flex

import featstore
import finetune
from finetune.retrieval import mean_average_precision

pytestmark = pytest.mark.gpu

REGIMES: dict[str, tuple[Any, dict[str, Any]]] = {
    "full_tune": (finetune.full_tune, {}),
    "from_scratch": (finetune.from_scratch, {}),
    "tune_unit": (finetune.tune_unit, {"unit": "conv2"}),
    "ft-fc (1)": (finetune.tune_head, {"n_units": 1}),
    "ft-fc (2)": (finetune.tune_head, {"n_units": 2}),
    "ft-ss": (finetune.tune_scale_shift, {}),
    "LP-FT": (finetune.probe_then_tune, {}),
}


@pytest.mark.parametrize("name", REGIMES)
def test_a_run_on_a_gpu_is_the_run_on_the_cpu_up_to_rounding(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, name: str
) -> None:
    """The draws are made on the host, so that both see the same batches; the stored weights give the stored logits on the CPU.

    Dropout is drawn on the device: without it, scores after three epochs differ by a few of 109 images at most.
    """
    regime, options = REGIMES[name]
    recipe = replace(RECIPE, dropout=0.0)
    host = tune(regime, backbone, digits, tmp_path / "cpu", recipe=recipe, **options)
    run = tune(regime, backbone, digits, tmp_path / "cuda", recipe=recipe, device="cuda", **options)
    assert next(backbone.module.parameters()).device.type == "cpu", "put back where it was"
    assert [r.step for r in run.history] == [r.step for r in host.history]
    assert run.history[-1].val == pytest.approx(host.history[-1].val, abs=5 / 109)
    assert run.history[0].train_loss == pytest.approx(host.history[0].train_loss, rel=0.02)
    assert all(tensor.device.type == "cpu" for tensor in run.weights().values())
    with torch.inference_mode():
        said = run.network(backbone).cpu()(images_of(backbone, digits["test"])).numpy()
    np.testing.assert_allclose(said, run.predictions["test"].scores, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16", "float16"])
def test_less_precision_learns_as_much(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, precision: str
) -> None:
    """Mixed precision keeps float32 weights; accuracies within a few of 109 validation images."""
    full = tune(finetune.full_tune, backbone, digits, tmp_path / "full", device="cuda")
    less = tune(
        finetune.full_tune, backbone, digits, tmp_path / precision, device="cuda",
        recipe=replace(RECIPE, precision=precision),
    )  # fmt: skip
    assert all(tensor.dtype != torch.float16 for tensor in less.weights().values())
    assert less.history[-1].val == pytest.approx(full.history[-1].val, abs=8 / 109)


@pytest.mark.parametrize("feed", ["memory", "disk"])
def test_fed_candidates_are_those_trained_from_images(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, feed: str
) -> None:
    """Every candidate, up to float32's rounding in convolutions over blocks of another size than the batches."""
    recipe = replace(RECIPE, dropout=0.0, epochs=2)
    plain = flex(backbone, digits, tmp_path / "plain", feed="images", device="cuda", recipe=recipe)
    fed = flex(backbone, digits, tmp_path / feed, feed=feed, device="cuda", recipe=recipe)
    assert {row.fed_from for row in fed.table} == {None, "conv2", "penultimate"}
    for row, expected in zip(fed.table, plain.table, strict=True):
        assert row.val == pytest.approx(expected.val, abs=2.5 / 109), row.candidate
        a, b = (finetune.open_run(one.best.path / "candidates" / row.candidate).weights("last") for one in (fed, plain))
        assert a.keys() == b.keys()
        for tensor in a:
            torch.testing.assert_close(a[tensor], b[tensor], rtol=5e-2, atol=5e-3)


@pytest.mark.parametrize("method", ["flex", "fast", "faster", "rgn", "probe"])
def test_every_method_chooses_on_a_gpu(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, method: str
) -> None:
    """A unit is chosen, its network runs on the CPU, and a second call reads what the first has kept."""
    options = {"method": method, "device": "cuda", "test": digits["test"]}
    found = flex(backbone, digits, tmp_path / "flex", **options)
    assert found.unit in (*UNITS, "all")
    again = flex(backbone, digits, tmp_path / "flex", **options)
    assert (again.unit, again.best.path) == (found.unit, found.best.path)
    with torch.inference_mode():
        said = found.best.network(backbone).cpu()(images_of(backbone, digits["test"])).numpy()
    np.testing.assert_allclose(said, found.best.predictions["test"].scores, rtol=2e-3, atol=2e-3)


def test_an_interrupted_run_goes_on_where_it_stopped(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state that is kept has the optimiser's tensors and the device's random numbers: as near as two whole runs are."""
    whole = tune(finetune.full_tune, backbone, digits, tmp_path / "whole", device="cuda")
    read, calls = featstore.Split.image, 0

    def interrupted(self: featstore.Split, i: int) -> Any:
        nonlocal calls
        calls += 1
        if calls == 600:
            raise KeyboardInterrupt
        return read(self, i)

    monkeypatch.setattr(featstore.Split, "image", interrupted)
    fresh = {name: replace(split) for name, split in digits.items()}
    with pytest.raises(KeyboardInterrupt):
        tune(finetune.full_tune, backbone, fresh, tmp_path / "run", device="cuda")
    monkeypatch.undo()
    run = tune(finetune.full_tune, backbone, digits, tmp_path / "run", device="cuda")
    assert [r.step for r in run.history] == [r.step for r in whole.history]
    assert run.history[-1].val == pytest.approx(whole.history[-1].val, abs=5 / 109)


def test_memory_that_does_not_suffice_is_one_clear_error(
    backbone: Any, digits: dict[str, featstore.Split], tmp_path: Path
) -> None:
    """It says what to lower, and the same call goes on once there is room."""
    options: dict[str, Any] = {"device": "cuda", "recipe": replace(RECIPE, batch_size=253, epochs=1)}
    tune(finetune.full_tune, backbone, digits, tmp_path / "before", **options)  # libraries take what they keep
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    filler = torch.empty(free - 3_000_000, dtype=torch.uint8, device="cuda")
    with pytest.raises(finetune.OutOfMemory, match="batch_size"):
        tune(finetune.full_tune, backbone, digits, tmp_path / "run", **options)
    del filler
    torch.cuda.empty_cache()
    assert tune(finetune.full_tune, backbone, digits, tmp_path / "run", **options).history


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_retrieval_on_a_gpu_is_that_on_the_cpu(distance: Any) -> None:
    """Exact there, too: the same neighbours in the same order, ties included."""
    random = np.random.Generator(np.random.PCG64(0))
    gallery = random.integers(-2, 3, (500, 6)) + np.eye(500, 6)
    queries, labels = gallery[::7] + 0.0, random.integers(0, 5, 500)
    options: dict[str, Any] = {"k": 20, "distance": distance}
    host = mean_average_precision(queries, labels[::7], gallery, labels, **options)
    there = mean_average_precision(queries, labels[::7], gallery, labels, device="cuda", **options)
    np.testing.assert_array_equal(there.nearest, host.nearest)
    assert there.score == host.score
