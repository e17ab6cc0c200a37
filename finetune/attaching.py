"""A fitted probe put on its network as a layer: images to logits in one module, and that module in other formats.

ONNX and TorchScript files take what the network takes: images prepared as its `Preprocessing` says, ``(b, c, h, w)`` float32. The
one file of this package that knows onnx.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.errors import BadInput, MissingExtra
from finetune.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featstore import Backbone
    from probe import Model

OPSET = 17


def probe_layer(model: Model) -> nn.Linear:
    """A fitted probe as a layer, ``(b, d)`` features to ``(b, k)`` logits, float32.

    Parameters
    ----------
    model : Model
        Of two classes it gets two rows, the first of zeros: softmax and argmax of both are those of the probe.
    """
    import torch

    coef, intercept = np.atleast_2d(_host(model.coef)), np.atleast_1d(_host(model.intercept))
    if len(coef) == 1 and len(model.classes) == 2:
        coef, intercept = np.vstack([np.zeros_like(coef), coef]), np.concatenate([[0.0], intercept])
    layer = torch.nn.Linear(coef.shape[1], coef.shape[0])
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(coef))
        layer.bias.copy_(torch.from_numpy(intercept))
    return layer


def attach(backbone: Backbone, model: Model, *, unit: str = "penultimate") -> nn.Module:
    """A network as far as some unit with a fitted probe on top: prepared images ``(b, c, h, w)`` to logits ``(b, k)``.

    Parameters
    ----------
    backbone : Backbone
        Not changed; its tensors are copied.
    model : Model
        Fitted on mean-pooled features of that unit, as they are: what was done to them before (scaling to length one) is not.
    unit : str
        On "penultimate" the probe takes the place of the network's own classifier where that is one linear layer.

    Returns
    -------
    torch.nn.Module
        In evaluation mode. Logits are those of the probe up to rounding: features are stored in 16 bits unless asked
        otherwise, and coefficients are fitted in 64 and used in 32.

    Raises
    ------
    BadInput
        There is no such unit, or it has another number of features than the probe.
    """
    from finetune.heads import replaced_layer
    from finetune.networks import with_head

    d = _n_features(backbone, unit)
    layer = probe_layer(model)
    if layer.in_features != d:
        raise BadInput(
            f"the probe takes {layer.in_features} features and unit '{unit}' of {backbone.name} has {d} after mean pooling; "
            "attach it to the unit that it was fitted on."
        )
    if unit == "penultimate" and replaced_layer(backbone) is not None:
        return with_head(backbone, layer)
    return _on_unit(backbone, unit, layer)


def export_torchscript(network: nn.Module, backbone: Backbone, path: str | Path) -> Path:
    """Write a network of `attach` as TorchScript, traced on two images.

    Parameters
    ----------
    network : nn.Module
    backbone : Backbone
        Says what images look like.
    path : str or Path

    Returns
    -------
    Path
    """
    import io

    import torch

    buffer = io.BytesIO()
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # torch says that TorchScript is deprecated, and that sizes of images become constants
        traced = torch.jit.trace(network.eval(), backbone.example(2))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, buffer)
    write_atomically(Path(path), buffer.getvalue())
    return Path(path)


def export_onnx(network: nn.Module, backbone: Backbone, path: str | Path, *, classes: Sequence[Any] = ()) -> Path:
    """Write a network of `attach` as ONNX, for any number of images.

    Parameters
    ----------
    network : nn.Module
    backbone : Backbone
        Says what images look like; its name, weights digest and preprocessing are written into the file.
    path : str or Path
    classes : sequence
        Names of the logits, written into the file as JSON.

    Returns
    -------
    Path
        Input "images" (b, c, h, w), output "logits" (b, k), both float32.

    Raises
    ------
    MissingExtra
        Where onnx is not installed.
    """
    import io

    import torch

    try:
        import onnx
    except ImportError as error:
        raise MissingExtra(f"ONNX needs onnx ({error}); install featprobe[onnx].") from error
    buffer, free = io.BytesIO(), {0: "b"}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # torch would rather be asked for its other exporter: 30 times slower on these networks
        torch.onnx.export(
            network.eval(), (backbone.example(2),), buffer,  # type: ignore[arg-type]
            input_names=["images"], output_names=["logits"],
            dynamic_axes={"images": free, "logits": free}, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    proto = onnx.load_model_from_string(buffer.getvalue())
    about = {
        "backbone": backbone.name, "weights_digest": backbone.weights_digest,
        "preprocessing": json.dumps(backbone.preprocessing.to_json()), "classes": json.dumps([_plain(c) for c in classes]),
    }  # fmt: skip
    onnx.helper.set_model_props(proto, about)
    onnx.checker.check_model(proto)
    write_atomically(Path(path), proto.SerializeToString())
    return Path(path)


def _on_unit(backbone: Backbone, unit: str, layer: nn.Linear) -> nn.Module:
    from torch import nn

    import featstore

    chain = copy.deepcopy(backbone.chain)
    axis = featstore.channel_axis(backbone.shapes[unit], backbone.preprocessing.input_size)

    class OnUnit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = chain.module, layer

        def forward(self, x: Tensor) -> Tensor:
            output = chain.run(x, last=unit)
            logits: Tensor = self.head(featstore.mean_pool(chain.own(unit, output), axis))
            return logits

    return OnUnit().eval()


def _n_features(backbone: Backbone, unit: str) -> int:
    import featstore

    if unit not in backbone.units or unit == "head":
        there = ", ".join(name for name in backbone.units if name != "head")
        raise BadInput(f"{backbone.name} has no unit '{unit}' to attach a probe to; it has {there}.")
    shape = backbone.shapes[unit]
    return int(shape[featstore.channel_axis(shape, backbone.preprocessing.input_size)])


def _host(array: Any) -> np.ndarray:
    host: np.ndarray = np.asarray(array.detach().cpu() if hasattr(array, "detach") else array, dtype=np.float64)
    return host


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
