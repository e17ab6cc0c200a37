"""`tune_adapter`: train a module in front of a network that stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from finetune.adapters import Adapter, ImageToImage, adapted
from finetune.errors import BadInput
from finetune.folder import RunFolder, check_folder
from finetune.records import plain
from finetune.regimes import network_for
from finetune.task import Options, asked_for, carry_out, network_identity, run_of
from finetune.trainable import Parts

if TYPE_CHECKING:
    from featstore import Backbone, Split
    from finetune.recipe import Recipe
    from finetune.run import Run

_PIX2PIX = ImageToImage()


def tune_adapter(
    backbone: Backbone,
    train: Split,
    val: Split | None = None,
    *,
    recipe: Recipe,
    out: str | Path,
    adapter: Adapter = _PIX2PIX,
    **options: Unpack[Options],
) -> Run:
    """Train an image-to-image unit in front of the network, and nothing of the network (Royer and Lampert 2020, 5.4).

    A new head is trained with it, since nothing else could make it useful; with ``head_rows`` the head stays too, as in
    the paper. It is a candidate of flex-tuning like any unit: ``flex_tune(…, others={"adapter": tune_adapter})``.

    Parameters
    ----------
    adapter : ImageToImage, Colour or Geometry
        What stands in front; see `finetune.adapters`.
    backbone, train, val, recipe, out, **options
        As of `full_tune`.

    Returns
    -------
    Run
        With the adapter's tensors, under ``adapter.``; `Run.network` gives adapter and network in one.

    Raises
    ------
    BadInput
        Also an adapter that does not fit the images, and a recipe with an auxiliary head.
    """
    check_folder(out)
    asked = asked_for(train, val, recipe, backbone=backbone, **options)
    if recipe.auxiliary is not None:
        raise BadInput("an auxiliary head is for trainings of the whole network; set auxiliary=None for an adapter.")
    target = network_for(backbone, asked)
    network = adapted(target.module, adapter, backbone.preprocessing, seed=recipe.seed)
    modules = {name for name, _ in network.named_modules() if name.split(".")[0] == "adapter"}
    parameters = {name for name, _ in network.named_parameters() if name.split(".")[0] == "adapter"}
    if asked.head_rows is None:
        new = target.parts(["head"])
        parameters, modules = parameters | new.parameters, modules | new.modules
    identity = asked.identity("tune_adapter", network_identity(backbone), asked.image_identity())
    identity |= {
        "units": ["adapter"] if asked.head_rows is not None else ["adapter", "head"],
        "adapter": plain(adapter),
    }

    def work(folder: RunFolder) -> Run:
        other = asked.images(backbone, "crop") if recipe.view == "better" else None
        return carry_out(
            asked, folder, network.to(asked.device), asked.images(backbone),
            parts=Parts(frozenset(parameters), frozenset(modules)), other_view=other,
        )  # fmt: skip

    n_values = sum(p.numel() for name, p in network.named_parameters() if name in parameters)
    return run_of(asked, out, identity, what=f"{adapter} of {n_values} values in front of {backbone.name}", work=work)
