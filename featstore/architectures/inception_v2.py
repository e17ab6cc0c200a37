"""Inception v2, which is the network of the batch normalisation paper (Ioffe and Szegedy, 2015), as two papers use it.

Their public implementations differ in the first convolution, in the scale of batch normalisation and in the width of two
projections: `SLIM` is TensorFlow-Slim's ``inception_v2``, the BN-Inception of Kornblith et al. (2019), and `TENSORNETS` the
``Inception2`` of Royer and Lampert (2020). Blocks have the latter's names; block3a to block5b are the former's Mixed_3b to 5c.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from featstore.architectures.same import SameConv2d, halving_max_pool

__all__ = ["SLIM", "TENSORNETS", "InceptionV2", "Variant"]

EPSILON = 1e-3


@dataclass(frozen=True)
class Variant:
    """Where the implementations differ.

    Attributes
    ----------
    stem_multiplier : int
        Filters per colour in the depthwise part of the first, separable convolution.
    is_stem_normalised : bool
        Whether batch normalisation follows it, instead of a bias.
    has_scale : bool
        Whether batch normalisation multiplies by a learned scale.
    late_projection : int
        Channels that pooling contributes to block4c and block4d.
    """

    stem_multiplier: int
    is_stem_normalised: bool
    has_scale: bool
    late_projection: int


SLIM = Variant(stem_multiplier=8, is_stem_normalised=True, has_scale=True, late_projection=96)
"""With the scale, as Kornblith et al. retrained it (their section 4.2); Slim's own weights have none."""
TENSORNETS = Variant(stem_multiplier=1, is_stem_normalised=False, has_scale=False, late_projection=128)


def _norm(n: int, variant: Variant) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(n, eps=EPSILON)
    if not variant.has_scale:
        norm.register_parameter("weight", None)
    return norm


class ConvNorm(nn.Module):
    """Convolution, batch normalisation, ReLU; at stride 2 padded as TensorFlow does."""

    def __init__(self, n_in: int, n_out: int, kernel: int, variant: Variant, stride: int = 1) -> None:
        super().__init__()
        even = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=False)
        self.conv = even if stride == 1 else SameConv2d(n_in, n_out, kernel)
        self.norm = _norm(n_out, variant)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, n_out, h / stride, w / stride)."""
        return F.relu(self.norm(self.conv(x)))


class Stem(nn.Module):
    """A separable 7 × 7 convolution of stride 2 and max pooling: 64 channels at a quarter of the size."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        n = 3 * variant.stem_multiplier
        self.depthwise = SameConv2d(3, n, 7, groups=3)
        self.pointwise = nn.Conv2d(n, 64, 1, bias=not variant.is_stem_normalised)
        self.norm = _norm(64, variant) if variant.is_stem_normalised else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, 64, h / 4, w / 4)."""
        return halving_max_pool(F.relu(self.norm(self.pointwise(self.depthwise(x)))))


class Second(nn.Module):
    """A 1 × 1 and a 3 × 3 convolution, and max pooling."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.reduce = ConvNorm(64, 64, 1, variant)
        self.conv = ConvNorm(64, 192, 3, variant)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, 192, h / 2, w / 2)."""
        return halving_max_pool(self.conv(self.reduce(x)))


class Mixed(nn.Module):
    """Four branches side by side: 1 × 1, 3 × 3, two times 3 × 3, and pooling with a 1 × 1 projection.

    Parameters
    ----------
    n_in : int
    single, twice : tuple of int
        Channels before and after the 3 × 3 convolutions.
    direct, projection : int
        Channels of the 1 × 1 branch, and of what is pooled.
    pools_max : bool
        Pool by the maximum instead of the mean.
    """

    def __init__(
        self,
        n_in: int,
        direct: int,
        single: tuple[int, int],
        twice: tuple[int, int],
        projection: int,
        variant: Variant,
        *,
        pools_max: bool = False,
    ) -> None:
        super().__init__()
        self.direct = ConvNorm(n_in, direct, 1, variant)
        self.single = nn.Sequential(ConvNorm(n_in, single[0], 1, variant), ConvNorm(*single, 3, variant))
        self.twice = nn.Sequential(
            ConvNorm(n_in, twice[0], 1, variant),
            ConvNorm(*twice, 3, variant),
            ConvNorm(twice[1], twice[1], 3, variant),
        )
        # TensorFlow's mean is over the pixels inside the map
        self.pool = nn.MaxPool2d(3, 1, 1) if pools_max else nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.projection = ConvNorm(n_in, projection, 1, variant)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, sum of the branches' channels, h, w)."""
        return torch.cat([self.direct(x), self.single(x), self.twice(x), self.projection(self.pool(x))], 1)


class Reduction(nn.Module):
    """Three branches of stride 2: 3 × 3, two times 3 × 3, and max pooling."""

    def __init__(self, n_in: int, single: tuple[int, int], twice: tuple[int, int], variant: Variant) -> None:
        super().__init__()
        self.single = nn.Sequential(ConvNorm(n_in, single[0], 1, variant), ConvNorm(*single, 3, variant, stride=2))
        self.twice = nn.Sequential(
            ConvNorm(n_in, twice[0], 1, variant),
            ConvNorm(*twice, 3, variant),
            ConvNorm(twice[1], twice[1], 3, variant, stride=2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, sum of the branches' channels + n_in, h / 2, w / 2)."""
        return torch.cat([self.single(x), self.twice(x), halving_max_pool(x)], 1)


class InceptionV2(nn.Module):
    """13 units with parameters: block1, block2, block3a to block3c, block4a to block4e, block5a, block5b, and the classifier.

    Parameters
    ----------
    variant : Variant
    n_classes : int
    """

    def __init__(self, variant: Variant = SLIM, n_classes: int = 1000) -> None:
        super().__init__()
        v, late = variant, variant.late_projection
        n_4c, n_4d = 160 + 160 + 160 + late, 96 + 192 + 192 + late
        self.block1 = Stem(v)
        self.block2 = Second(v)
        self.block3a = Mixed(192, 64, (64, 64), (64, 96), 32, v)
        self.block3b = Mixed(256, 64, (64, 96), (64, 96), 64, v)
        self.block3c = Reduction(320, (128, 160), (64, 96), v)
        self.block4a = Mixed(576, 224, (64, 96), (96, 128), 128, v)
        self.block4b = Mixed(576, 192, (96, 128), (96, 128), 128, v)
        self.block4c = Mixed(576, 160, (128, 160), (128, 160), late, v)
        self.block4d = Mixed(n_4c, 96, (128, 192), (160, 192), late, v)
        self.block4e = Reduction(n_4d, (128, 192), (192, 256), v)
        self.block5a = Mixed(448 + n_4d, 352, (192, 320), (160, 224), 128, v)
        self.block5b = Mixed(1024, 352, (192, 320), (192, 224), 128, v, pools_max=True)
        self.dropout = nn.Dropout(0.2)
        self.logits = nn.Linear(1024, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, n_classes) for images (n, 3, 224, 224) in -1..1."""
        x = self.block2(self.block1(x))
        x = self.block3c(self.block3b(self.block3a(x)))
        x = self.block4e(self.block4d(self.block4c(self.block4b(self.block4a(x)))))
        x = self.block5b(self.block5a(x))
        logits: torch.Tensor = self.logits(self.dropout(x.mean((2, 3))))
        return logits
