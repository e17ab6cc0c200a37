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
    public : str
        Which public weights fit, as a sentence.
    """

    build: Callable[[], nn.Module]
    preprocessing: Preprocessing
    bundled: Path | None = None
    public: str = ""


def _digits_net() -> nn.Module:
    from featstore.architectures.digits_net import DigitsNet

    return DigitsNet()


def _lenet() -> nn.Module:
    from featstore.architectures.lenet import LeNet

    return LeNet()


def _cifar_resnet(depth: int) -> nn.Module:
    from featstore.architectures.cifar_resnet import CifarResNet

    return CifarResNet(depth)


def _inception_v2(*, flex: bool) -> nn.Module:
    from featstore.architectures.inception_v2 import SLIM, TENSORNETS, InceptionV2

    return InceptionV2(TENSORNETS if flex else SLIM)


def _nasnet_a_mobile() -> nn.Module:
    from featstore.architectures.nasnet import NasNetA

    return NasNetA()


def _flex_mnist() -> nn.Module:
    from featstore.architectures.flex_nets import FlexMnistNet

    return FlexMnistNet()


def _flex_cifar() -> nn.Module:
    from featstore.architectures.flex_nets import FlexCifarNet

    return FlexCifarNet()


_CIFAR = Preprocessing(input_size=(32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_HALF = (0.5, 0.5, 0.5)
_TENSORFLOW = Preprocessing(input_size=(224, 224), resize=256, crop=(224, 224), mean=_HALF, std=_HALF)
"""What TensorFlow-Slim does with an image in evaluation: the inner 87.5 %, values in -1..1."""

ARCHITECTURES: Mapping[str, Architecture] = {
    "digits_net": Architecture(
        _digits_net,
        Preprocessing(input_size=(8, 8), mean=(0.0,), std=(1.0,), mode="L"),
        WEIGHTS / "digits_net.safetensors",
    ),
    "lenet": Architecture(_lenet, Preprocessing(input_size=(28, 28), mean=(0.0,), std=(1.0,), mode="L")),
    **{f"cifar_resnet{depth}": Architecture(partial(_cifar_resnet, depth), _CIFAR) for depth in (20, 32, 44, 56, 110)},
    "inception_v2": Architecture(
        partial(_inception_v2, flex=False),
        _TENSORFLOW,
        public="TensorFlow-Slim's inception_v2_2016_08_28 fits after conversion, with scales of 1.",
    ),
    "inception_v2_flex": Architecture(partial(_inception_v2, flex=True), _TENSORFLOW),
    "nasnet_a_mobile": Architecture(
        _nasnet_a_mobile, _TENSORFLOW, public="The public file nasnetamobile-7e03cead.pth fits as it is."
    ),
    "flex_mnist": Architecture(_flex_mnist, Preprocessing(input_size=(28, 28), mean=(0.0,), std=(1.0,), mode="L")),
    "flex_cifar": Architecture(_flex_cifar, Preprocessing(input_size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)),
}
