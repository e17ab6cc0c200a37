"""The image-to-image unit of Royer and Lampert 2020, section 5.4: a module in front of a network that stays as it is.

::

    normalised image ──► pixels in 0 … 1 ──► adapter ──► normalised again ──► the network

It maps images of the target domain to what the network can read. Three kinds, each a frozen record: `ImageToImage` (a
small pix2pix encoder and decoder), `Colour` (1×1 convolutions, for shifts of single pixels) and `Geometry` (a spatial
transformer that can turn, scale and move, no more). All begin as the identity unless the paper's other form is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from finetune.checking import wrong_types
from finetune.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featstore import Preprocessing


@dataclass(frozen=True)
class ImageToImage:
    """The small pix2pix network (Isola et al. 2017): encoder and decoder with skips.

    Convolutions of 4 × 4 with stride 2, leaky ReLU, instance norm, transposed convolutions with the encoder's maps beside
    their input, tanh; weights drawn from N(0, 0.02), as in the authors' code.

    Parameters
    ----------
    n_blocks : int
        Times that the image is halved.
    n_filters : int
        Of the first block; each further one has twice as many. 32 in the authors' code.
    is_residual : bool
        True adds the decoder's output to the image, and its last layer begins at 0, so that the whole begins as the
        identity. False is the authors' form: the output alone, mapped from −1 … 1 to 0 … 1.
    """

    n_blocks: int = 3
    n_filters: int = 32
    is_residual: bool = True

    def problems(self, size: tuple[int, int]) -> list[str]:
        """What is wrong with the values for images of this size, a sentence each."""
        found = []
        if self.n_blocks < 1 or self.n_filters < 1:
            found.append(
                f"ImageToImage has {self.n_blocks} blocks of {self.n_filters} filters; both must be at least 1."
            )
        elif min(size) < 2 ** (self.n_blocks + 1):
            found.append(
                f"ImageToImage halves images of {size[0]} × {size[1]} pixels {self.n_blocks} times, and fewer than 2 × 2 "
                "would be left, which instance norm cannot scale; ask for fewer blocks."
            )
        return found

    def build(self, n_channels: int, size: tuple[int, int]) -> nn.Module:
        """Pixels ``(b, n_channels, h, w)`` in 0 … 1 to pixels of the same shape."""
        return _encoder_decoder(self, n_channels)


@dataclass(frozen=True)
class Colour:
    """1 × 1 convolutions: the same function of every pixel's channels.

    Parameters
    ----------
    n_hidden : int
        0 is one linear map of the channels; 16 in the authors' code is the width of a hidden layer with tanh.
    is_squashed : bool
        False begins as the identity: the linear map as it is, or a hidden layer whose output is added to the pixel and
        begins at 0. True is the authors' form, which ends in a sigmoid: of 2.7 times the map of pixels in −1 … 1, which
        begins near the identity, or of the hidden layer's output.
    """

    n_hidden: int = 0
    is_squashed: bool = False

    def problems(self, size: tuple[int, int]) -> list[str]:
        """What is wrong with the values, a sentence each."""
        return [f"Colour has {self.n_hidden} hidden channels; it must be at least 0."] if self.n_hidden < 0 else []

    def build(self, n_channels: int, size: tuple[int, int]) -> nn.Module:
        """Pixels ``(b, n_channels, h, w)`` in 0 … 1 to pixels of the same shape."""
        return _pixelwise(self, n_channels)


@dataclass(frozen=True)
class Geometry:
    """A spatial transformer (Jaderberg et al. 2015) that turns, scales in x and y, and moves; it begins as the identity.

    A small network reads angle, scales and translation off the image; pixels are read bilinearly, black around.

    Parameters
    ----------
    n_hidden : int
        Width of its hidden layer: 128 for MNIST and 64 for ImageNet in the authors' code.
    filters : tuple of int
        Of convolutions with stride 2 and batch norm before it: none for MNIST, (32, 64, 128) for ImageNet there.
    """

    n_hidden: int = 128
    filters: tuple[int, ...] = ()

    def problems(self, size: tuple[int, int]) -> list[str]:
        """What is wrong with the values for images of this size, a sentence each."""
        if self.n_hidden < 1 or any(width < 1 for width in self.filters):
            return [f"Geometry has {self.n_hidden} hidden values and filters {self.filters}; all must be at least 1."]
        return []

    def build(self, n_channels: int, size: tuple[int, int]) -> nn.Module:
        """Pixels ``(b, n_channels, h, w)`` in 0 … 1 to pixels of the same shape."""
        return _transformer(self, n_channels, size)


Adapter: TypeAlias = ImageToImage | Colour | Geometry


def adapted(network: nn.Module, adapter: Adapter, preprocessing: Preprocessing, *, seed: int) -> nn.Module:
    """A network with an adapter in front, its tensors under ``adapter.``; those of the network keep their names.

    Parameters
    ----------
    network : nn.Module
        From normalised images to logits; shares its tensors with what is returned.
    adapter : Adapter
        Which.
    preprocessing : Preprocessing
        How the network's images are normalised.
    seed : int
        Draws the initial values, without touching torch's generator.

    Raises
    ------
    BadInput
        Values of the adapter that do not fit the images.
    """
    import torch
    from torch import nn

    if not isinstance(adapter, (ImageToImage, Colour, Geometry)):
        raise BadInput(
            f"adapter is {adapter!r}; it must be a finetune.ImageToImage(…), a finetune.Colour(…) or a finetune.Geometry(…)."
        )
    problems = wrong_types(adapter) or adapter.problems(preprocessing.input_size)
    if "adapter" in dict(network.named_children()):
        problems.append("the network has a part named 'adapter' already; rename it.")
    if problems:
        raise BadInput.of("this adapter", problems)
    n_channels = preprocessing.n_channels
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        of_pixels = adapter.build(n_channels, preprocessing.input_size)

    class OfNormalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.of_pixels = of_pixels
            for name in ("mean", "std"):
                values = torch.tensor(getattr(preprocessing, name)).view(n_channels, 1, 1)
                self.register_buffer(name, values, persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            mean, std = self.get_buffer("mean"), self.get_buffer("std")
            pixels: Tensor = self.of_pixels(x * std + mean)
            return (pixels - mean) / std

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._modules = {"adapter": OfNormalised(), **network._modules}
            # the network's own dictionaries: what is moved or loaded in one is in the other, under the same name
            self._parameters, self._buffers = network._parameters, network._buffers

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = network(self._modules["adapter"](x))  # type: ignore[misc]
            return logits

    return Adapted().train(network.training)


def _encoder_decoder(asked: ImageToImage, n_channels: int) -> nn.Module:
    import torch
    from torch import nn

    widths = [asked.n_filters * 2**i for i in range(asked.n_blocks)]

    class EncoderDecoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            before = [n_channels, *widths[:-1]]
            self.down = nn.ModuleList(
                nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip(before, widths, strict=True)
            )
            after = [n_channels, *widths[:-1]]
            self.up = nn.ModuleList(
                nn.ConvTranspose2d(widths[i] * (1 if i == asked.n_blocks - 1 else 2), after[i], 4, stride=2, padding=1)
                for i in reversed(range(asked.n_blocks))
            )
            for name, values in self.named_parameters():
                nn.init.normal_(values, 0, 0.02) if name.endswith("weight") else nn.init.zeros_(values)
            if asked.is_residual:
                nn.init.zeros_(self.get_parameter(f"up.{asked.n_blocks - 1}.weight"))

        def forward(self, pixels: Tensor) -> Tensor:
            x, skips = 2 * pixels - 1, [pixels]
            for i, layer in enumerate(self.down):
                x = layer(x)
                x = nn.functional.leaky_relu(
                    nn.functional.instance_norm(x) if i else x, 0.2
                )  # as pix2pix: not the first
                skips.append(x)
            for i, layer in enumerate(self.up):
                skip = skips[-1 - i]
                x = layer(x if i == 0 else torch.cat([x, skip], 1), output_size=skips[-2 - i].shape[-2:])
                if i + 1 < len(self.up):
                    x = nn.functional.relu(nn.functional.instance_norm(x))
            change = torch.tanh(x)
            return pixels + change if asked.is_residual else (change + 1) / 2

    return EncoderDecoder()


def _pixelwise(asked: Colour, n_channels: int) -> nn.Module:
    from torch import nn

    class Pixelwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if asked.n_hidden:
                self.hidden = nn.Conv2d(n_channels, asked.n_hidden, 1)
            self.out = nn.Conv2d(asked.n_hidden or n_channels, n_channels, 1)
            if not asked.n_hidden:
                nn.init.dirac_(self.out.weight)
            elif not asked.is_squashed:
                nn.init.zeros_(self.out.weight)
            if not (asked.n_hidden and asked.is_squashed):
                nn.init.zeros_(self.get_parameter("out.bias"))

        def forward(self, pixels: Tensor) -> Tensor:
            found: Tensor
            if asked.is_squashed:
                found = 2 * pixels - 1
                found = self.out(self.hidden(found).tanh()) if asked.n_hidden else 2.7 * self.out(found)
                return found.sigmoid()
            found = pixels + self.out(self.hidden(pixels).tanh()) if asked.n_hidden else self.out(pixels)
            return found

    return Pixelwise()


def _transformer(asked: Geometry, n_channels: int, size: tuple[int, int]) -> nn.Module:
    import torch
    from torch import nn

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            channels, (height, width) = n_channels, size
            for n in asked.filters:
                layers += [nn.Conv2d(channels, n, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(n), nn.ReLU()]
                channels, height, width = n, -(-height // 2), -(-width // 2)
            layers += [nn.Flatten(), nn.Linear(channels * height * width, asked.n_hidden), nn.ReLU()]
            self.reads = nn.Sequential(*layers)
            self.says = nn.Linear(asked.n_hidden, 5)
            nn.init.zeros_(self.says.weight)
            nn.init.zeros_(self.says.bias)

        def forward(self, pixels: Tensor) -> Tensor:
            angle, log_x, log_y, x, y = self.says(self.reads(pixels)).unbind(1)
            across, down = log_x.exp(), log_y.exp()  # scales cannot become 0 or negative
            wide = size[1] / size[0]  # places run from -1 to 1 on both axes, whatever the image's shape
            rows = (
                torch.stack([across * angle.cos(), -across * angle.sin() / wide, x], 1),
                torch.stack([down * angle.sin() * wide, down * angle.cos(), y], 1),
            )
            places = nn.functional.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
            return nn.functional.grid_sample(pixels, places, align_corners=False)

    return Transformer()
