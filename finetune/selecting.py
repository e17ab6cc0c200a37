"""The cheap criteria of flex-tuning: proxies by network surgery, relative gradient norms, probes of units."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune.errors import BadInput
from finetune.examples import batch_rows, logits_of
from finetune.losses import loss_of
from finetune.scoring import settled
from finetune.trainable import trainable, whole

if TYPE_CHECKING:
    from torch import Tensor

    from featstore import Backbone, Store
    from finetune.examples import Examples
    from finetune.networks import TargetNetwork
    from finetune.task import Asked
    from finetune.trainable import Parts

N_GRADIENT_BATCHES = 5
"""Batches whose gradients are compared, as in the code of Lee et al. (2022)."""


def proxy_score(
    network: TargetNetwork,
    tuned: Mapping[str, Tensor],
    units: Collection[str],
    *,
    asked: Asked,
    entry: str,
    val: Examples,
) -> float:
    """Validation score of the source network with some units taken from ft-all (line 4 of Algorithms 2 and 3).

    Parameters
    ----------
    network : TargetNetwork
        The source network with the target's head, on the device; put back as it was.
    tuned : mapping of str to Tensor
        Every tensor of ft-all.
    units : collection of str
        Those that are taken; parameters and batch-norm statistics.
    asked : Asked
        Metric and device.
    entry : str
        The unit that takes what ``val`` gives.
    val : Examples
        Of the validation split.
    """
    import torch

    parts = network.parts(units)
    own = network.module.state_dict()
    taken = {name: tensor for name, tensor in own.items() if _belongs(name, parts)}
    before = {name: tensor.clone() for name, tensor in taken.items()}
    try:
        for name, tensor in taken.items():
            tensor.copy_(tuned[name])
        with torch.inference_mode():
            logits = logits_of(network.suffix(entry).eval(), val, device=asked.device)
        return settled(asked.metric, val.labels, logits).score(val.labels, logits)
    finally:
        for name, tensor in taken.items():
            tensor.copy_(before[name])


def relative_gradient_norms(
    network: TargetNetwork, candidates: Mapping[str, Sequence[str]], *, asked: Asked, train: Examples
) -> dict[str, float]:
    """‖gradient‖ / ‖weights‖ of each candidate's units in the source network (Auto-RGN, Lee et al. 2022).

    The mean over the first `N_GRADIENT_BATCHES` batches of the training, in evaluation mode, over tensors with at least
    two axes: the authors' code leaves batch norm out. Both norms are over all such tensors of the units together.
    Parameters count whether or not the given network had them frozen, since tuning would move them; those that the loss
    does not depend on have a gradient of zero. Where every gradient is zero the ratio is 0, also of weights that are all
    zero; with another gradient such weights have no ratio, and are refused rather than ranked first.

    Parameters
    ----------
    network : TargetNetwork
        The source network with the target's head, on the device; left as it was.
    candidates : mapping of str to sequence of str
        Name -> units.
    asked : Asked
        Recipe and device.
    train : Examples
        Images of the training split.

    Raises
    ------
    BadInput
        Units without a tensor of two axes, or whose weights are all zero and their gradient is not; all in one error.
    """
    import torch

    module, recipe = network.module, asked.recipe
    weights = {name: p for name, p in module.named_parameters() if p.ndim >= 2}
    labels = torch.from_numpy(np.ascontiguousarray(train.labels))
    of = {name: sorted(network.parts(units).parameters & set(weights)) for name, units in candidates.items()}
    _refuse([name for name, tensors in of.items() if not tensors], "no tensor of two axes or more")
    sizes = {name: _norm([weights[t] for t in tensors]) for name, tensors in of.items()}
    found: dict[str, list[float]] = {name: [] for name in candidates}
    per_epoch = recipe.steps_per_epoch(len(train))
    for step in range(min(N_GRADIENT_BATCHES, per_epoch)):
        rows = batch_rows(len(train), recipe.batch_size, seed=recipe.seed, step=step)
        inputs, targets = train.inputs(rows, 0).to(asked.device), labels[torch.from_numpy(rows)].to(asked.device)
        with trainable(module, whole(module), train_mode="none"), torch.enable_grad():
            loss = loss_of(module(inputs), targets, label_smoothing=recipe.label_smoothing, auxiliary=0.0)
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        by_name = {name: g for name, g in zip(weights, gradients, strict=True) if g is not None}
        norms = {name: _norm([by_name[t] for t in tensors if t in by_name]) for name, tensors in of.items()}
        _refuse([name for name in of if norms[name] and not sizes[name]], "weights that are all zero")
        for name, norm in norms.items():
            found[name].append(norm / sizes[name] if norm else 0.0)
    return {name: float(np.mean(values)) for name, values in found.items()}


def probe_scores(backbone: Backbone, units: Sequence[str], asked: Asked, store: str | Path | Store) -> dict[str, float]:
    """Validation score of a probe on each unit's pooled output: the probe curve, its C chosen on val.

    Parameters
    ----------
    backbone : Backbone
        The source network.
    units : sequence of str
        Names; ``"head"`` is scored by its logits, by the penultimate features where the network has no classifier.
    asked : Asked
        Splits, metric, device.
    store : str, Path or Store
        Where features are and go.
    """
    import featstore
    import probe
    from finetune.probing import probed_head

    stored_as = {unit: unit if unit in backbone.units else "penultimate" for unit in units}
    wanted = list(dict.fromkeys(stored_as.values()))
    opened = featstore.extract(
        backbone,
        list(asked.splits.values()),
        store,
        units=wanted,
        pool="mean",
        dtype="float32",
        device=asked.device,
        progress=asked.progress,
    )
    curve = {}
    for unit in wanted:
        features = {
            name: opened.features(unit, split, backbone=backbone, pool="mean", dtype="float32")
            for name, split in asked.splits.items()
        }
        curve[unit] = probed_head(asked, features, probe.C_GRID).val
    return {unit: curve[stored_as[unit]] for unit in units}


def _belongs(name: str, parts: Parts) -> bool:
    return name in parts.parameters or name.rpartition(".")[0] in parts.modules


def _refuse(names: Sequence[str], what: str) -> None:
    """Refuse candidates that have no relative gradient norm, if there are any."""
    if names:
        raise BadInput(
            f"{' and '.join(names)} {'has' if len(names) == 1 else 'have'} {what}, so the relative gradient norm is not "
            "defined there; choose by another method, or leave it out of units."
        )


def _norm(tensors: Sequence[Tensor]) -> float:
    squares = [float(t.detach().double().square().sum()) for t in tensors]
    return math.sqrt(sum(squares))
