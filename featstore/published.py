"""The networks of published studies by the names that these give them, each with the closest weights that are public.

``load_backbone("kornblith2019:resnet_v1_50")`` is ``load_backbone("timm:resnet50.tv_in1k")``: what is stored is filed under the
latter. Kornblith et al. trained all of their networks again, with the scale of batch normalisation and without label smoothing,
dropout and auxiliary classifiers, and these weights are not public. With public ones the accuracy of a linear probe does not follow
that on ImageNet as it does in their figure 1; their appendix B says so, too.

Parameters are counted without the classifier. Published counts and accuracies of Kornblith et al. are those of table 3 of their
supplement, of which no copy was at hand to confirm them; those of the weights are what timm, torchvision or their authors state,
top-1 on ImageNet in percent. Images are prepared as the weights want it; Kornblith et al. resize the whole image instead
(`Preprocessing.whole_image`), Fang et al. feed 224 or 256 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from featstore.errors import UnknownName

__all__ = ["FANG_2023", "KORNBLITH_2019", "STUDIES", "Published", "published_spec"]


@dataclass(frozen=True)
class Published:
    """One network of a study.

    Attributes
    ----------
    paper_name : str
        As the study prints it.
    spec : str
        What stands in for it, for `featstore.load_backbone`, with the tag of the weights.
    penultimate : int
        Length of the penultimate vector.
    n_parameters : int
        Of what stands in for it, without the classifier.
    millions : float or None
        Published number of parameters in millions, likewise; None where the study states none.
    published_top1 : float or None
        Of the study's own weights; None where they are the public ones.
    top1 : float or None
        Of the weights in `spec`; None where there are none to be had by that name.
    differences : str
        What differs from the study, in words.
    """

    paper_name: str
    spec: str
    penultimate: int
    n_parameters: int
    millions: float | None
    published_top1: float | None
    top1: float | None
    differences: str = ""


_V15 = "halves the map in the 3 × 3 convolution of a block ('v1.5'), where v1 does in the 1 × 1 before it"
_SLIM_TRAINED = (
    "TensorFlow-Slim's weights: label smoothing, dropout, auxiliary classifier, no scale in batch normalisation"
)

KORNBLITH_2019: Mapping[str, Published] = {
    "inception_v1": Published(
        "Inception v1", "torchvision:googlenet.IMAGENET1K_V1", 1024, 5_599_904, 5.6, 73.6, 69.778,
        "ported from TensorFlow-Slim, with batch normalisation; 3 × 3 convolutions where the first paper has 5 × 5; trained with "
        "auxiliary classifiers, which are not run",
    ),
    "bn_inception": Published(
        "BN-Inception", "featstore:inception_v2", 1024, 10_163_288, 10.2, 75.3, None,
        "no weights in any library: TensorFlow-Slim's inception_v2_2016_08_28 (73.9) fits after conversion, with scales of 1; "
        "other ports called bninception have another first convolution and biases, and do not fit",
    ),
    "inception_v3": Published(
        "Inception v3", "timm:inception_v3.tf_in1k", 2048, 21_785_568, 21.8, 78.6, 77.866, _SLIM_TRAINED
    ),
    "inception_v4": Published(
        "Inception v4", "timm:inception_v4.tf_in1k", 1536, 41_142_816, 41.1, 79.9, 80.144, _SLIM_TRAINED
    ),
    "inception_resnet_v2": Published(
        "Inception-ResNet v2", "timm:inception_resnet_v2.tf_in1k", 1536, 54_306_464, 54.2, 80.3, 80.434,
        f"{_SLIM_TRAINED}; 0.1 million parameters more than the table says",
    ),
    "resnet_v1_50": Published("ResNet-50 v1", "timm:resnet50.tv_in1k", 2048, 23_508_032, 23.5, 76.9, 76.156, _V15),
    "resnet_v1_101": Published("ResNet-101 v1", "timm:resnet101.tv_in1k", 2048, 42_500_160, 42.5, 78.6, 77.404, _V15),
    "resnet_v1_152": Published("ResNet-152 v1", "timm:resnet152.tv_in1k", 2048, 58_143_808, 58.1, 79.3, 78.330, _V15),
    "densenet_121": Published("DenseNet-121", "timm:densenet121.tv_in1k", 1024, 6_953_856, 7.0, 75.6, 74.750),
    "densenet_169": Published("DenseNet-169", "timm:densenet169.tv_in1k", 1664, 12_484_480, 12.5, 76.7, 75.922),
    "densenet_201": Published("DenseNet-201", "timm:densenet201.tv_in1k", 1920, 18_092_928, 18.1, 77.1, 77.284),
    "mobilenet_v1": Published(
        "MobileNet v1", "timm:mobilenetv1_100.ra4_e3600_r224_in1k", 1024, 3_206_976, 3.2, 72.4, 75.388,
        "trained 3,600 epochs with RandAugment, mixup and dropout; padded evenly, not as TensorFlow does",
    ),
    "mobilenet_v2": Published(
        "MobileNet v2", "timm:mobilenetv2_100.ra_in1k", 1280, 2_223_872, 2.2, 71.6, 72.910,
        "trained with RandAugment and dropout; padded evenly, not as TensorFlow does",
    ),
    "mobilenet_v2_1.4": Published(
        "MobileNet v2 (1.4)", "timm:mobilenetv2_140.ra_in1k", 1792, 4_315_776, 4.3, 74.7, 76.528,
        "trained with RandAugment and dropout; padded evenly, not as TensorFlow does",
    ),
    "nasnet_a_mobile": Published(
        "NASNet-A Mobile", "featstore:nasnet_a_mobile", 1056, 4_232_978, 4.2, 73.6, None,
        "the file nasnetamobile-7e03cead.pth (74.08, converted from TensorFlow-Slim's) fits; trained with label smoothing, "
        "dropout, drop path and an auxiliary classifier",
    ),
    "nasnet_a_large": Published(
        "NASNet-A Large", "timm:nasnetalarge.tf_in1k", 4032, 84_720_150, 84.7, 80.8, 82.638,
        "TensorFlow-Slim's weights: label smoothing, dropout, drop path, auxiliary classifier; timm counts the border in means of "
        "stride 2, TensorFlow does not",
    ),
}  # fmt: skip
"""The 16 networks of Kornblith, Shlens and Le (2019)."""

_V1 = "the weights that the authors' code asks for"

FANG_2023: Mapping[str, Published] = {
    "alexnet": Published("AlexNet", "torchvision:alexnet.IMAGENET1K_V1", 4096, 57_003_840, None, None, 56.522, _V1),
    "squeezenet1_1": Published(
        "SqueezeNet 1.1", "torchvision:squeezenet1_1.IMAGENET1K_V1", 512, 722_496, None, None, 58.178,
        f"{_V1}; its classifier is a convolution, and the penultimate map is stored pooled",
    ),
    "shufflenet_v2_x0_5": Published(
        "ShuffleNetV2 ×0.5", "torchvision:shufflenet_v2_x0_5.IMAGENET1K_V1", 1024, 341_792, None, None, 60.552, _V1
    ),
    "shufflenet_v2_x1_0": Published(
        "ShuffleNetV2 ×1.0", "torchvision:shufflenet_v2_x1_0.IMAGENET1K_V1", 1024, 1_253_604, None, None, 69.362, _V1
    ),
    "mobilenet_v3_small": Published(
        "MobileNetV3-small", "torchvision:mobilenet_v3_small.IMAGENET1K_V1", 1024, 1_517_856, None, None, 67.668, _V1
    ),
    "vgg13_bn": Published("VGG-13-BN", "torchvision:vgg13_bn.IMAGENET1K_V1", 4096, 128_956_736, None, None, 71.586, _V1),
    "vgg16_bn": Published("VGG-16-BN", "torchvision:vgg16_bn.IMAGENET1K_V1", 4096, 134_268_992, None, None, 73.360, _V1),
    "densenet121": Published("DenseNet-121", "torchvision:densenet121.IMAGENET1K_V1", 1024, 6_953_856, None, None, 74.434, _V1),
    "resnet50": Published("ResNet-50", "torchvision:resnet50.IMAGENET1K_V1", 2048, 23_508_032, None, None, 76.130, _V1),
    "resnet152": Published("ResNet-152", "torchvision:resnet152.IMAGENET1K_V1", 2048, 58_143_808, None, None, 78.312, _V1),
    "resnext50_32x4d": Published(
        "ResNeXt-50-32x4d", "torchvision:resnext50_32x4d.IMAGENET1K_V1", 2048, 22_979_904, None, None, 77.618, _V1
    ),
    "efficientnet_b0": Published(
        "EfficientNet-B0", "timm:efficientnet_b0.ra_in1k", 1280, 4_007_548, None, None, 77.698, f"{_V1}, at 256 pixels there"
    ),
    "efficientnet_b4": Published(
        "EfficientNet-B4", "timm:efficientnet_b4.ra2_in1k", 1792, 17_548_616, None, None, 82.658,
        f"{_V1}, at 256 pixels there; 320 here, where the accuracy was measured",
    ),
    "inception_resnet_v2": Published(
        "Inception-ResNet v2", "timm:inception_resnet_v2.tf_in1k", 1536, 54_306_464, None, None, 80.434,
        f"{_V1}, at 256 pixels there",
    ),
    "pnasnet5large": Published(
        "PNASNet-5-large", "timm:pnasnet5large.tf_in1k", 4320, 81_736_668, None, None, 82.814, f"{_V1}, at 256 pixels there"
    ),
    "deit_tiny": Published("DeiT-tiny", "timm:deit_tiny_patch16_224.fb_in1k", 192, 5_524_416, None, None, 72.190, _V1),
    "deit_small": Published("DeiT-small", "timm:deit_small_patch16_224.fb_in1k", 384, 21_665_664, None, None, 79.856, _V1),
    "convnext_tiny": Published(
        "ConvNeXt-tiny", "timm:convnext_tiny.fb_in1k", 768, 27_820_128, None, None, 82.066,
        "the weights of the bare name at the time of the study; today timm's bare name may mean others, pretrained on ImageNet-22k",
    ),
    "vit_b_16": Published(
        "ViT-B/16", "torchvision:vit_b_16.IMAGENET1K_V1", 768, 85_798_656, None, None, 81.072,
        "which checkpoint the study used is not confirmed by its code",
    ),
}  # fmt: skip
"""The 19 networks of Fang, Kornblith and Schmidt (2023)."""

STUDIES: Mapping[str, Mapping[str, Published]] = {"kornblith2019": KORNBLITH_2019, "fang2023": FANG_2023}
"""By what stands before the colon."""


def published_spec(study: str, name: str) -> str:
    """Return what stands in for a network of a study, as `featstore.load_backbone` takes it.

    Raises
    ------
    UnknownName
        If the study has no such network.
    """
    networks = STUDIES[study]
    if name not in networks:
        raise UnknownName(f"network of {study}", name, networks)
    return networks[name].spec
