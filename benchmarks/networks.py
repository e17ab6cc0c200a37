"""Networks for ``package.module:function``: pretrained weights that no hub serves under a name.

    featstore extract benchmarks.networks:mobilenetv1_025@weights/mobilenetv1_025_128.safetensors imagefolder:photos
    runs/features

Each function returns the network, with random weights until a file is given, and the preprocessing that its weights
were trained for.
"""

from __future__ import annotations

from torch import nn

from featstore import Preprocessing

HALF = (0.5, 0.5, 0.5)
CROP_SHARE = 0.875


def tensorflow_preprocessing(size: int) -> Preprocessing:
    """Return what TensorFlow's MobileNets take: bilinear, the centre 87.5 %, values from -1 to 1."""
    return Preprocessing((size, size), HALF, HALF, resize=round(size / CROP_SHARE), crop=(size, size))


def _mobilenetv1(width: float, size: int) -> tuple[nn.Module, Preprocessing]:
    from timm.models.efficientnet import _gen_mobilenet_v1

    # timm has no public name for widths other than 1 and 1.25; TensorFlow pads at the end, not on both sides
    module = _gen_mobilenet_v1("mobilenetv1_100", width, pretrained=False, pad_type="same")
    return module, tensorflow_preprocessing(size)


def mobilenetv1_025() -> tuple[nn.Module, Preprocessing]:
    """MobileNet v1 of a quarter of the width, for 128 × 128 pixels."""
    return _mobilenetv1(0.25, 128)


def mobilenetv1_050() -> tuple[nn.Module, Preprocessing]:
    """MobileNet v1 of half the width, for 160 × 160 pixels."""
    return _mobilenetv1(0.5, 160)


def mobilenetv2_keras() -> tuple[nn.Module, Preprocessing]:
    """MobileNet v2 as Keras has it, for 224 × 224 pixels."""
    import timm

    return timm.create_model("mobilenetv2_100", pretrained=False, pad_type="same"), tensorflow_preprocessing(224)


def mobilenetv2_100() -> tuple[nn.Module, Preprocessing]:
    """MobileNet v2 as TensorFlow pads it, for 224 × 224 pixels."""
    import timm

    return timm.create_model("mobilenetv2_100", pretrained=False, pad_type="same"), tensorflow_preprocessing(224)
