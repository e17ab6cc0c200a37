"""The regimes: which part of a network is trained on what. Each is a function that returns a `Run`.

All take a backbone, which is not changed, the splits ``train`` and ``val`` with the same classes, a recipe and a folder
``out``, and what `finetune.task.Options` lists, by keyword. ``val`` chooses among the weights of the training where the
recipe says so; ``test`` is looked at once, after it. Every call is idempotent: a finished run is returned, an
interrupted one continued, another one refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from finetune.auxiliary import with_auxiliary
from finetune.errors import BadInput
from finetune.examples import Examples, TensorExamples
from finetune.features import penultimate_features
from finetune.folder import RunFolder, check_folder
from finetune.fresh import fresh_backbone
from finetune.heads import head_for, head_name
from finetune.networks import TargetNetwork, last_units, target_network, unit_names
from finetune.probing import ProbedHead, grid_of_C, probed_head
from finetune.progress import say
from finetune.recipe import Recipe
from finetune.run import Run
from finetune.scale_shift import add_scale_shift
from finetune.switches import batch_norm_scales, has_own_dropout, own_dropout, set_dropout, with_dropout
from finetune.task import Asked, Options, asked_for, carry_out, network_identity, run_of
from finetune.trainable import Parts, whole

if TYPE_CHECKING:
    import numpy as np

    from featstore import Backbone, Split, Store


def full_tune(
    backbone: Backbone,
    train: Split,
    val: Split | None = None,
    *,
    recipe: Recipe,
    out: str | Path,
    **options: Unpack[Options],
) -> Run:
    """Train the whole network from its weights (fine-tuning in Kornblith et al. 2019, ft-all in Royer and Lampert 2020).

    Parameters
    ----------
    backbone : Backbone
        Not changed.
    train, val : Split
        See the conventions of this module.
    recipe : Recipe
        Every hyper-parameter.
    out : str or Path
        The run's folder.
    **options
        See `finetune.task.Options`.

    Returns
    -------
    Run
        With every tensor of the network.

    Raises
    ------
    BadInput
        Splits, recipe or rows that do not fit together; all of it in one error.
    DifferentRun
        ``out`` holds another run; the differences in words.
    Diverged, OutOfMemory, RunWrite, RunBusy, CorruptRun
        See `finetune.errors`.
    """
    check_folder(out)
    asked = asked_for(train, val, recipe, backbone=backbone, **options)
    return tune_images(asked, backbone, out, regime="full_tune", units=None, network=network_for(backbone, asked))


def from_scratch(
    backbone: Backbone,
    train: Split,
    val: Split | None = None,
    *,
    recipe: Recipe,
    out: str | Path,
    **options: Unpack[Options],
) -> Run:
    """Train the whole network from random weights, drawn from the recipe's seed as the network's library draws them.

    Parameters
    ----------
    backbone, train, val, recipe, out, **options
        As of `full_tune`; what weights the backbone has does not matter. ``head_rows`` cannot be given.

    Returns
    -------
    Run
        With every tensor of the network.

    Raises
    ------
    BadInput
        Also where a part of the network does not say how it is initialised.
    """
    check_folder(out)
    asked = asked_for(train, val, recipe, backbone=backbone, **options)
    if asked.head_rows is not None:
        raise BadInput(
            "from_scratch trains a head from random weights; head_rows, which start from the old, do not fit."
        )
    begun = fresh_backbone(backbone, seed=recipe.seed)
    return tune_images(asked, begun, out, regime="from_scratch", units=None, network=network_for(begun, asked))


def tune_unit(
    backbone: Backbone,
    train: Split,
    val: Split | None = None,
    *,
    unit: str | Sequence[str],
    recipe: Recipe,
    out: str | Path,
    **options: Unpack[Options],
) -> Run:
    """Train one unit, or several; parameters, batch-norm statistics and dropout of the others do not move.

    A new head is trained with the unit, since nothing else could make it useful; rows of the network's own head stay as
    they are unless ``"head"`` is among the units. ft-fc (2) of Royer and Lampert 2020 is ``unit=("penultimate",
    "head")``. The authors' looser freezing is the recipe's ``train_mode="all"``.

    Parameters
    ----------
    unit : str or sequence of str
        Of ``backbone.units``.
    backbone, train, val, recipe, out, **options
        As of `full_tune`.

    Returns
    -------
    Run
        With the tensors that moved.

    Raises
    ------
    BadInput
        Also a unit that does not exist or has no parameters.
    """
    check_folder(out)
    asked = asked_for(train, val, recipe, backbone=backbone, **options)
    units = unit_names(backbone, unit)
    network = network_for(backbone, asked)
    network.parts(units)  # refuses units without parameters, which a new head would hide
    if asked.head_rows is None and "head" not in units:
        units = (*units, "head")
    return tune_images(asked, backbone, out, regime="tune_unit", units=units, network=network)


def tune_head(
    backbone: Backbone,
    train: Split,
    val: Split | None = None,
    *,
    recipe: Recipe,
    out: str | Path,
    n_units: int = 1,
    store: str | Path | Store | None = None,
    **options: Unpack[Options],
) -> Run:
    """Train the last layer alone, or the last units (ft-fc (1) and ft-fc (2) in Royer and Lampert 2020).

    For the last layer the frozen part is run once: its penultimate features come from a feature store, in float32, and
    are extracted into it where they are missing. There is no augmentation, and the network's own dropout in front of the
    layer is kept, so this is what training the last layer of the whole network would give. For more units the network
    is trained from images, as `tune_unit` does.

    Parameters
    ----------
    n_units : int
        How many units, counted from the head, of those that have parameters.
    store : str, Path, Store or None
        Where the features are and go; None is a store of the run's own, ``out/features``.
    backbone, train, val, recipe, out, **options
        As of `full_tune`.

    Returns
    -------
    Run
        Its moving tensors are the layer's weight ``(k, d)`` and bias ``(k,)``, and those of the units before.

    Raises
    ------
    BadInput
        Also, for the last layer alone, a recipe with augmentation: what is run once cannot vary.
    """
    out = check_folder(out)
    asked = asked_for(train, val, recipe, backbone=backbone, **options)
    if n_units != 1:
        network = network_for(backbone, asked)
        return tune_images(
            asked, backbone, out, regime="tune_head", units=last_units(network, n_units), network=network
        )
    asked.refuse_image_switches("tune_head runs everything below the head once; use tune_unit(unit='head')")
    features = penultimate_features(backbone, asked, store or out / "features")
    head = head_for(backbone, asked.n_classes, asked.head_rows, seed=recipe.seed)
    rate = own_dropout(network_for(backbone, asked)) if recipe.dropout is None else recipe.dropout
    head = with_dropout(head, rate) if rate else head
    data = {name: {"features": matrix.key} for name, matrix in features.items()}
    identity = asked.identity("tune_head", features["train"].manifest["network"], data)

    def load(name: str) -> Examples:
        import torch

        return TensorExamples(features[name].load(asked.device, dtype=torch.float32), asked.labels(name))

    what = f"{_head_in_words(asked)}: {head.in_features} features to {asked.n_classes} classes"
    prefix = f"{head_name(backbone)}."
    return run_of(
        asked, out, identity, what=what,
        work=lambda folder: carry_out(asked, folder, head.to(asked.device), load, prefix=prefix),
    )  # fmt: skip


def tune_scale_shift(
    backbone: Backbone,
    train: Split,
    val: Split | None = None,
    *,
    recipe: Recipe,
    out: str | Path,
    **options: Unpack[Options],
) -> Run:
    """Train the last layer, and a scale per convolution kernel and a shift per bias (ft-ss in Royer and Lampert 2020).

    Convolutions keep their weights; see `finetune.scale_shift`. `Run.network` gives the network with scales and shifts
    folded in.

    Parameters
    ----------
    backbone, train, val, recipe, out, **options
        As of `full_tune`.

    Returns
    -------
    Run
        With the head, and ``….parametrizations.weight.0.scale`` and ``….bias.0.shift`` of every convolution.

    Raises
    ------
    BadInput
        Also a network without convolutions.
    """
    check_folder(out)
    asked = asked_for(train, val, recipe, backbone=backbone, **options)
    network = network_for(backbone, asked)
    added = add_scale_shift(network.module)
    if not added:
        raise BadInput(f"{backbone.name} has no two-dimensional convolution, so there is nothing to scale and shift.")
    head = network.parts(["head"])
    parts = Parts(head.parameters | set(added), head.modules)
    return tune_images(
        asked,
        backbone,
        out,
        regime="tune_scale_shift",
        units=("scales and shifts", "head"),
        network=network,
        parts=parts,
    )


def probe_then_tune(
    backbone: Backbone,
    train: Split,
    val: Split,
    *,
    recipe: Recipe,
    out: str | Path,
    C: Sequence[float] | None = None,
    store: str | Path | Store | None = None,
    **options: Unpack[Options],
) -> Run:
    """Train the whole network from its weights, with a fitted linear probe for a head (LP-FT, Kumar et al. 2022).

    The probe is fitted to the penultimate features of ``train`` for every C, and the one that is best on ``val`` taken;
    ``run.details["probe"]`` says which. Its features are not normalised, so that it is a head as it stands (the authors'
    code scales them by one number and takes the best on val of 100 values of C from 1e-7 to 1e2).

    A probe is fitted to features that nothing is dropped from, and where it is weakly regularised its weights are large:
    dropout in front of it would turn the first losses into noise that drives the network away from where it began. So
    the network's own dropout there is off unless ``recipe.dropout`` asks for one, which is said. (Blurred digits, C =
    1e4, SGD, 5 epochs: the probe has 0.963 on val; with the bundled network's dropout of one half training ends at 0.13
    for a learning rate of 0.01 and at 0.84 for 0.001; without, at 0.963 for both.) A training that ends below its probe
    is said, too: the learning rate is too high.

    Parameters
    ----------
    C : sequence of float or None
        Increasing, in the sum form of `probe`; None is ``probe.C_GRID``.
    store : str, Path, Store or None
        Where the features are and go; None is a store of the run's own, ``out/features``.
    backbone, train, val, recipe, out, **options
        As of `full_tune`, without ``head_rows``.

    Returns
    -------
    Run
        With every tensor of the network.
    """
    import probe

    out = check_folder(out)
    asked = asked_for(train, val, recipe, backbone=backbone, **options)
    if val is None:
        raise BadInput("the probe's C is chosen on a validation split, and there is none: pass val.")
    if asked.head_rows is not None:
        raise BadInput("probe_then_tune begins with the head that a probe is; head_rows name another: leave them out.")
    grid = probe.C_GRID if C is None else grid_of_C(C)
    if recipe.dropout is None and has_own_dropout(network_for(backbone, asked)):
        asked = replace(asked, recipe=replace(recipe, dropout=0.0))
        if asked.progress:
            say(
                f"the dropout in front of the head of {backbone.name} is off, since the probe is fitted without any; "
                "dropout=… in the recipe turns it on"
            )

    def probed() -> ProbedHead:
        return probed_head(asked, penultimate_features(backbone, asked, store or out / "features"), grid)

    return tune_images(
        asked,
        backbone,
        out,
        regime="probe_then_tune",
        units=None,
        network=network_for(backbone, asked),
        C=grid,
        begin=probed,
    )


def network_for(backbone: Backbone, asked: Asked) -> TargetNetwork:
    """The network with the target's head, and the recipe's dropout in front of it: what a regime trains."""
    rate = asked.recipe.dropout
    head = head_for(backbone, asked.n_classes, asked.head_rows, seed=asked.recipe.seed)
    network = target_network(backbone, head)
    if rate is None:
        return network
    if has_own_dropout(network):
        set_dropout(network, rate)
        return network
    return target_network(backbone, with_dropout(head, rate))


def tune_images(
    asked: Asked,
    backbone: Backbone,
    out: str | Path,
    *,
    regime: str,
    units: tuple[str, ...] | None,
    network: TargetNetwork,
    parts: Parts | None = None,
    C: np.ndarray | None = None,
    begin: Callable[[], ProbedHead] | None = None,
) -> Run:
    """Train some units of a network, or (None) all of it, from images; ``parts`` where those are not the units'."""
    recipe = asked.recipe
    if recipe.augmentation is not None:
        recipe.augmentation.check_policy(backbone.preprocessing)
    identity = asked.identity(regime, network_identity(backbone), asked.image_identity())
    identity["units"] = None if units is None else list(units)
    if C is not None:
        identity["C"] = C.tolist()
    if recipe.auxiliary is not None and units is not None:
        raise BadInput("an auxiliary head is for trainings of the whole network; set auxiliary=None for single units.")
    module = network.module
    if recipe.auxiliary is not None:
        module = with_auxiliary(network, recipe.auxiliary, asked.n_classes, seed=recipe.seed)
    frozen = [] if recipe.bn_scale else batch_norm_scales(module)
    moving = parts or (whole(module, frozen) if units is None else network.parts(units, frozen=frozen))

    def work(folder: RunFolder) -> Run:
        details = {}
        if begin is not None:
            found = begin()
            network.module.get_submodule(network.head).load_state_dict(found.head.state_dict())
            details["probe"] = {"C": found.C, "val": found.val, "at_edge": found.at_edge}
            if asked.progress:
                say(f"the head begins as the probe of C = {found.C:.4g}, {found.val:.4f} on val")
        network.to(asked.device)
        other = asked.images(backbone, "crop") if recipe.view == "better" else None
        run = carry_out(
            asked, folder, module.to(asked.device), asked.images(backbone),
            parts=moving, keeps_all=units is None, other_view=other, details=details,
        )  # fmt: skip
        if begin is not None and run.scores["val"] < found.val:
            say(
                f"the training ended at {run.scores['val']:.4f} on val, below the {found.val:.4f} of the probe that it began "
                "as: lower lr, warm up, or keep the best weights"
            )
        return run

    what = f"{'the whole network' if units is None else ' and '.join(units)} with {_head_in_words(asked)}"
    return run_of(asked, out, identity, what=what, work=work)


def _head_in_words(asked: Asked) -> str:
    if asked.head_rows is None:
        return f"a new head for {asked.n_classes} classes"
    return "rows of the network's own head"
