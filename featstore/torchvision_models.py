"""Networks of torchvision: classification models by name, with the weights' tag and their preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from featstore.errors import BadInput, UnknownName
from featstore.preprocessing import Preprocessing
from featstore.weights import no_download

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["build_torchvision", "preprocessing_of_preset"]

WITH_AUXILIARY = {"googlenet": "aux1.conv.conv.weight", "inception_v3": "AuxLogits.fc.weight"}
"""Networks with auxiliary classifiers, and a tensor that tells whether a file of weights has them."""


def build_torchvision(
    name: str, *, pretrained: bool, tensors: Mapping[str, torch.Tensor] | None = None
) -> tuple[nn.Module, str, Preprocessing]:
    """Return a network of torchvision, its resolved name ``torchvision:name.tag``, and the preprocessing of these
    weights.

    Parameters
    ----------
    name : str
        ``"resnet50"`` for torchvision's default weights, or ``"resnet50.IMAGENET1K_V1"``.
    pretrained : bool
        Download the weights. False builds the same network with random ones.
    tensors : mapping or None
        The weights that will be loaded, where they come from a file: some networks are built differently for them.

    Raises
    ------
    UnknownName
        If there is no such model or tag.
    BadInput
        If its weights cannot be downloaded.
    """
    import torchvision

    bare, _, tag = name.partition(".")
    known = torchvision.models.list_models(module=torchvision.models)
    if bare not in known:
        raise UnknownName("model of torchvision", name, known)
    choices = torchvision.models.get_model_weights(bare)
    if tag and tag not in choices.__members__:
        raise UnknownName("tag of torchvision", tag, choices.__members__)
    weights = choices[tag] if tag else choices.DEFAULT
    resolved = f"torchvision:{bare}.{weights.name}"
    if pretrained:
        try:
            module = torchvision.models.get_model(bare, weights=weights, progress=False)
        except Exception as error:  # urllib, hashing, unpickling: anything may go wrong on the way
            raise BadInput(no_download("torchvision", name, error)) from error
    else:
        module = torchvision.models.get_model(bare, weights=None, **_arguments(bare, tensors))
    return module, resolved, preprocessing_of_preset(weights.transforms())


def _arguments(bare: str, tensors: Mapping[str, torch.Tensor] | None) -> dict[str, Any]:
    """Return how a network must be built for weights from a file: as torchvision itself builds it for its own."""
    if bare not in WITH_AUXILIARY:
        return {}
    if tensors is None:
        return {"init_weights": True, "aux_logits": False}
    return {"init_weights": False, "transform_input": True, "aux_logits": WITH_AUXILIARY[bare] in tensors}


def preprocessing_of_preset(preset: Any) -> Preprocessing:
    """Return the preprocessing that a preset of torchvision (``weights.transforms()``) describes, fully written out."""
    crop = preset.crop_size[0]
    return Preprocessing(
        input_size=(crop, crop),
        resize=preset.resize_size[0],
        crop=(crop, crop),
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )
