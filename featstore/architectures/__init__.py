"""Networks that neither timm nor torchvision has, by the name that follows ``featstore:``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ARCHITECTURES", "Architecture"]

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Architecture:
    """A network of this package.

    Attributes
    ----------
    build : callable
        Returns the network with random weights.
    preprocessing : Preprocessing
        What its published weights expect.
    bundled : Path or None
        Weights that are installed with the package.
    """

    build: Callable[[], nn.Module]
    preprocessing: Preprocessing
    bundled: Path | None = None


def _digits_net() -> nn.Module:
    from featstore.architectures.digits_net import DigitsNet

    return DigitsNet()


def _lenet() -> nn.Module:
    from featstore.architectures.lenet import LeNet

    return LeNet()


def _cifar_resnet(depth: int) -> nn.Module:
    from featstore.architectures.cifar_resnet import CifarResNet

    return CifarResNet(depth)


_CIFAR = Preprocessing(input_size=(32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

ARCHITECTURES: Mapping[str, Architecture] = {
    "digits_net": Architecture(
        _digits_net,
        Preprocessing(input_size=(8, 8), mean=(0.0,), std=(1.0,), mode="L"),
        WEIGHTS / "digits_net.safetensors",
    ),
    "lenet": Architecture(_lenet, Preprocessing(input_size=(28, 28), mean=(0.0,), std=(1.0,), mode="L")),
    **{f"cifar_resnet{depth}": Architecture(partial(_cifar_resnet, depth), _CIFAR) for depth in (20, 32, 44, 56, 110)},
}
