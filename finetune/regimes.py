"""The regimes: which part of a network is trained on what. Each is a function that returns a `Run`.

All take a backbone, which is not changed, the splits ``train`` and ``val`` with the same classes, a recipe and a folder
``out``, and what `finetune.task.Options` lists, by keyword. ``val`` chooses among the weights of the training where the
recipe says so; ``test`` is looked at once, after it. Every call is idempotent: a finished run is returned, an
interrupted one continued, another one refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from finetune.errors import BadInput
from finetune.examples import Examples, TensorExamples
from finetune.features import penultimate_features
from finetune.folder import check_folder
from finetune.fresh import fresh_backbone
from finetune.heads import head_for, head_name
from finetune.networks import TargetNetwork, target_network, unit_names
from finetune.recipe import Recipe
from finetune.run import Run
from finetune.task import Asked, Options, asked_for, carry_out, network_identity, run_of

if TYPE_CHECKING:
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
    check_folder(Path(out))
    asked = asked_for(train, val, recipe, **options)
    return _tune_images(asked, backbone, out, regime="full_tune", units=None, network=_network(backbone, asked))


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
    check_folder(Path(out))
    asked = asked_for(train, val, recipe, **options)
    if asked.head_rows is not None:
        raise BadInput(
            "from_scratch trains a head from random weights; head_rows, which start from the old, do not fit."
        )
    begun = fresh_backbone(backbone, seed=recipe.seed)
    return _tune_images(asked, begun, out, regime="from_scratch", units=None, network=_network(begun, asked))


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
    "head")``. The recipe's ``frozen_in_train_mode`` is the authors' looser freezing.

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
    check_folder(Path(out))
    asked = asked_for(train, val, recipe, **options)
    units = unit_names(backbone, unit)
    network = _network(backbone, asked)
    network.parts(units)  # refuses units without parameters, which a new head would hide
    if asked.head_rows is None and "head" not in units:
        units = (*units, "head")
    return _tune_images(asked, backbone, out, regime="tune_unit", units=units, network=network)


def tune_head(
    backbone: Backbone,
    train: Split,
    val: Split | None = None,
    *,
    recipe: Recipe,
    out: str | Path,
    store: str | Path | Store | None = None,
    **options: Unpack[Options],
) -> Run:
    """Train the last layer alone (ft-fc in Royer and Lampert 2020); everything below it is frozen.

    The frozen part is run once: its penultimate features come from a feature store, in float32, and are extracted into
    it where they are missing. There is no augmentation, so this is what training the last layer of the whole network
    would give.

    Parameters
    ----------
    store : str, Path, Store or None
        Where the features are and go; None is a store of the run's own, ``out/features``.
    backbone, train, val, recipe, out, **options
        As of `full_tune`.

    Returns
    -------
    Run
        Its moving tensors are the layer's weight ``(k, d)`` and bias ``(k,)``.

    Raises
    ------
    BadInput
        Also a recipe with augmentation: what is run once cannot vary.
    """
    out = Path(out)
    check_folder(out)
    asked = asked_for(train, val, recipe, **options)
    if recipe.augmentation is not None:
        raise BadInput(
            "this recipe augments images, and tune_head runs everything below the head once; train the head with "
            "tune_unit(unit='head'), or set augmentation=None."
        )
    features = penultimate_features(backbone, asked, store or out / "features")
    head = head_for(backbone, asked.n_classes, asked.head_rows, seed=recipe.seed)
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


def _network(backbone: Backbone, asked: Asked) -> TargetNetwork:
    head = head_for(backbone, asked.n_classes, asked.head_rows, seed=asked.recipe.seed)
    return target_network(backbone, head)


def _tune_images(
    asked: Asked,
    backbone: Backbone,
    out: str | Path,
    *,
    regime: str,
    units: tuple[str, ...] | None,
    network: TargetNetwork,
) -> Run:
    """Train some units of a network, or (None) all of it, from images."""
    identity = asked.identity(regime, network_identity(backbone), asked.image_identity())
    identity["units"] = None if units is None else list(units)
    parts = network.parts(network.units if units is None else units) if units is not None else ("",)
    what = f"{'the whole network' if units is None else ' and '.join(units)} with {_head_in_words(asked)}"
    return run_of(
        asked, out, identity, what=what,
        work=lambda folder: carry_out(
            asked, folder, network.to(asked.device).module, asked.images(backbone), parts=parts, keeps_all=units is None
        ),
    )  # fmt: skip


def _head_in_words(asked: Asked) -> str:
    if asked.head_rows is None:
        return f"a new head for {asked.n_classes} classes"
    return "rows of the network's own head"
