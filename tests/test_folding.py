"""Batch norm merged into convolutions: the unit itself, in float64, is what a merged one must compute; flex-tuning with
them is flex-tuning from images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_helpers import GREY8, Plain

import featstore
import finetune
from finetune.folding import folded, folded_units
from finetune.optimizers import Adam
from finetune.regimes import network_for
from finetune.task import asked_for

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = finetune.Recipe(lr=1e-3, epochs=2, batch_size=32, optimizer=Adam(), keep=finetune.KeepBest())


def with_statistics(module: torch.nn.Module) -> torch.nn.Module:
    """Batch norm that is not the identity: seeded statistics, scales and shifts."""
    torch.manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            for tensor in (norm.running_mean, norm.bias):
                torch.nn.init.normal_(tensor)  # type: ignore[arg-type]
            for tensor in (norm.running_var, norm.weight):
                torch.nn.init.uniform_(tensor, 0.5, 2.0)  # type: ignore[arg-type]
    return module.eval()


def network_of(splits: dict[str, featstore.Split], backbone: featstore.Backbone) -> Any:
    """The network that flex-tuning works on."""
    return network_for(backbone, asked_for(splits["train"], splits["val"], RECIPE, head_rows=range(10)))


@pytest.fixture(scope="module")
def normed() -> featstore.Backbone:
    """A network with batch norm in its second convolution, for digits."""
    return featstore.load_backbone(with_statistics(Plain()), preprocessing=GREY8)


@pytest.mark.parametrize("name", ["featstore:cifar_resnet20", "torchvision:mobilenet_v2", "torchvision:densenet121"])
def test_a_merged_unit_computes_what_the_unit_does(name: str) -> None:
    """Every unit of networks with batch norm after, before and without its convolution, outputs and gradients in float64:
    equal to rounding, nothing left to train, the unit as it was."""
    chain = featstore.load_backbone(name, weights=None).chain
    with_statistics(chain.module.double())
    chain.to("cpu")
    torch.manual_seed(0)
    x, n_merged = torch.randn(2, 3, 32, 32, dtype=torch.float64), 0
    for unit in chain.names:
        own = chain.unit(unit)
        before = {key: value.clone() for key, value in own.state_dict().items()}
        merged = folded(own)
        with torch.no_grad():
            y = chain.run(x.clone(), unit, unit)
        if merged is not None:
            n_merged += 1
            assert not any(p.requires_grad for p in merged.parameters())
            norms = [sum(isinstance(m, torch.nn.BatchNorm2d) for m in one.modules()) for one in (merged, own)]
            assert norms[0] < norms[1]
            inputs = [x.clone().requires_grad_() for _ in range(2)]
            outputs = [one(given.clone()) for one, given in zip((merged, own), inputs, strict=True)]
            torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-9, atol=1e-9)
            gradients = [torch.autograd.grad(out.square().sum(), given)[0]
                         for out, given in zip(outputs, inputs, strict=True)]  # fmt: skip
            torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-8)
        assert all(torch.equal(before[key], value) for key, value in own.state_dict().items())
        x = y
    assert n_merged >= 3


def test_what_moves_is_never_merged(digits: dict[str, featstore.Split], normed: featstore.Backbone) -> None:
    """A merged copy of a moving unit would not see what it learns."""
    network = network_of(digits, normed)
    unit = next(name for name in normed.chain.names if any("two" in tensor for tensor in normed.chain.tensors[name]))
    assert set(folded_units(network, network.parts(("head",)))) == {unit}
    assert folded_units(network, network.parts((unit,))) == {}


def test_flex_tuning_with_merged_units_is_flex_tuning_from_images(
    digits: dict[str, featstore.Split], normed: featstore.Backbone, tmp_path: Path
) -> None:
    """Every candidate's weights within float32's rounding, Adam's steps of 1e-3 counted in; the same accuracies."""
    fed, plain = (
        finetune.flex_tune(
            normed, digits["train"], digits["val"], recipe=RECIPE, out=tmp_path / feed, feed=feed,  # type: ignore[arg-type]
            head_rows=range(10), progress=False,
        )
        for feed in ("memory", "images")
    )  # fmt: skip
    assert [(row.candidate, row.val) for row in fed.table] == [(row.candidate, row.val) for row in plain.table]
    for row in fed.table:
        a, b = (finetune.open_run(one.best.path / "candidates" / row.candidate).weights("last") for one in (fed, plain))
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-5)
