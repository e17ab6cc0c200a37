"""Networks of timm: by name, with the tag that says which weights, and the preprocessing that these were trained
for."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from featstore.errors import BadInput, UnknownName
from featstore.preprocessing import Preprocessing
from featstore.weights import no_download

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["build_timm", "checkpoint_filter", "preprocessing_of_config", "preprocessing_of_timm"]


def build_timm(name: str, *, pretrained: bool, **arguments: Any) -> tuple[nn.Module, str]:
    """Return a network of timm and its resolved name ``timm:name.tag``.

    Which tag a bare name stands for changes between releases of timm, so that the resolved one must be kept.

    Raises
    ------
    UnknownName
        If timm has no such model or tag.
    BadInput
        If its weights cannot be downloaded, or there are none.
    """
    import timm

    bare = name.partition(".")[0]
    if not timm.is_model(bare):
        raise UnknownName("model of timm", name, timm.list_models(), "`timm.list_models()` lists all of them.")
    tags = timm.list_pretrained(f"{bare}*")
    if name != bare and name not in tags:
        raise UnknownName("tag of timm", name, [t for t in tags if t.partition(".")[0] == bare])
    if pretrained:
        try:
            module: Any = timm.create_model(name, pretrained=True, **arguments)
        except Exception as error:  # hub, network and cache have many kinds of error, and change them between versions
            raise BadInput(no_download("timm", name, error)) from error
    else:
        module = timm.create_model(name, pretrained=False, **arguments)
    config: Mapping[str, Any] = module.pretrained_cfg
    tag = config.get("tag") or ""
    return module, f"timm:{config.get('architecture') or bare}{'.' if tag else ''}{tag}"


def preprocessing_of_timm(module: nn.Module) -> Preprocessing:
    """Return the evaluation preprocessing that belongs to a timm network; see `preprocessing_of_config`."""
    from timm.data.config import resolve_model_data_config

    resolve: Any = resolve_model_data_config
    return preprocessing_of_config(resolve(module))


def preprocessing_of_config(found: Mapping[str, Any]) -> Preprocessing:
    """Return the evaluation preprocessing that a data configuration of timm describes, fully written out.

    Raises
    ------
    BadInput
        If it is of a kind that `Preprocessing` does not have (padding to the longer side, input that is not square).
    """
    _, height, width = found["input_size"]
    scaled = math.floor(height / found["crop_pct"]), math.floor(width / found["crop_pct"])
    squashed = found["crop_mode"] == "squash"
    if found["crop_mode"] not in ("center", "squash") or (scaled[0] != scaled[1] and not squashed):
        raise BadInput(
            f"timm prepares images for this network in the way '{found['crop_mode']}' at {height} × {width}, which "
            "is not supported; pass preprocessing=Preprocessing(…)."
        )
    return Preprocessing(
        input_size=(height, width),
        resize=scaled if squashed else scaled[0],
        crop=(height, width),
        interpolation=found["interpolation"],
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
    )


def checkpoint_filter(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors under the names that a timm network has, where its authors published them under others."""
    rename = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    return dict(rename(dict(tensors), module)) if rename else dict(tensors)
