"""From a decoded image to the network's input tensor, every step written out so that it can be part of an identity.

The steps are those of torchvision's and timm's evaluation transforms on PIL images, with the same numbers to the last
bit: resize the shorter side (or both), cut out the centre, divide by 255, subtract the mean, divide by the standard
deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.errors import BadInput, UnknownName, UnreadableImage

if TYPE_CHECKING:
    import torch
    from PIL import Image

__all__ = ["INTERPOLATIONS", "Preprocessing"]

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
MODES = {"RGB": 3, "L": 1}
DECODERS = ("pil", "nvjpeg")


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the network sees it.

    Attributes
    ----------
    input_size : tuple of int
        (h, w) of the network's input, pixels.
    mean, std : tuple of float
        One per channel, for pixels in 0..1.
    resize : int, tuple of int or None
        Length of the shorter side, keeping the aspect; or (h, w), changing it; None leaves the image as it is.
    crop : tuple of int or None
        (h, w) cut out of the centre after that; smaller images are framed in black. None cuts nothing.
    interpolation : str
        Of the resize, as PIL does it: ``"bilinear"``, ``"bicubic"``, ….
    mode : str
        ``"RGB"`` or ``"L"``: what the image is converted to first.
    antialias : bool
        Always true: PIL's resize takes every pixel into account. Written down because resizing tensors need not.
    decoder : str
        ``"pil"``, or ``"nvjpeg"``: JPEG files are decoded, and all images resized, on a CUDA device (`featstore.jpegs`), which
        gives other numbers.

    Examples
    --------
    >>> Preprocessing((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=256, crop=(224, 224)).n_channels
    3
    """

    input_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    mode: str = "RGB"
    antialias: bool = True
    decoder: str = "pil"

    def __post_init__(self) -> None:
        pairs = {"input_size": self.input_size, "crop": self.crop}
        if not isinstance(self.resize, int):
            pairs["resize"] = self.resize
        for name, value in pairs.items():
            if value is not None:
                object.__setattr__(self, name, _pair(name, value))
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        if isinstance(self.resize, int) and self.resize < 1:
            raise BadInput(f"resize is {self.resize}; the shorter side must be at least 1 pixel.")
        if self.interpolation not in INTERPOLATIONS:
            raise UnknownName("interpolation", self.interpolation, INTERPOLATIONS)
        if self.mode not in MODES:
            raise UnknownName("image mode", self.mode, MODES)
        if self.decoder not in DECODERS:
            raise UnknownName("decoder", self.decoder, DECODERS)
        if len(self.mean) != self.n_channels or len(self.std) != self.n_channels:
            raise BadInput(
                f"mean has {len(self.mean)} and std {len(self.std)} values; images of mode {self.mode} have "
                f"{self.n_channels} channels."
            )
        if min(self.std) <= 0:
            raise BadInput(f"std is {self.std}; pixels are divided by it, so it must be above 0.")
        if not self.antialias:
            raise BadInput("PIL's resize always antialiases; antialias=False cannot be had.")
        if self.crop is not None and self.crop != self.input_size:
            raise BadInput(f"the crop {self.crop} is not the network's input size {self.input_size}.")
        if self.crop is None and isinstance(self.resize, tuple) and self.resize != self.input_size:
            raise BadInput(f"images are resized to {self.resize} and the network's input size is {self.input_size}.")

    @property
    def n_channels(self) -> int:
        """Channels of the input tensor."""
        return MODES[self.mode]

    def to_json(self) -> dict[str, Any]:
        """Return everything as text and numbers: the part of a feature's identity that preprocessing is.

        PIL is not named, so that what was stored before there were other decoders is found.
        """
        said = asdict(self)
        if self.decoder == "pil":
            del said["decoder"]
        return said

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Preprocessing:
        """Return what `to_json` returned."""
        pairs = {
            k: tuple(v)
            for k, v in value.items()
            if k in ("input_size", "resize", "crop") and isinstance(v, list | tuple)
        }
        return cls(**{**value, **pairs})

    def whole_image(self) -> Preprocessing:
        """Return the same without a crop: the whole image is resized to the input size, whatever its aspect.

        So do Kornblith et al. (2019), supplement A.4, before they fit a linear probe.
        """
        return replace(self, resize=self.input_size, crop=None)

    def decoded_by(self, decoder: str) -> Preprocessing:
        """Return the same with another decoder."""
        return replace(self, decoder=decoder)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Return an image resized and cropped: (h, w, c) uint8.

        Raises
        ------
        UnreadableImage
            If the image has no defined range of values (floating point).
        BadInput
            If it does not come out at the network's input size, or another decoder is asked for than PIL.
        """
        from PIL import Image

        if self.decoder != "pil":
            raise BadInput(
                f"the preprocessing says decoder='{self.decoder}', which takes files, and an image is decoded already; extract "
                "with it, or use decoded_by('pil')."
            )
        image = self._in_mode(image)
        if self.resize is not None:
            height, width = self.resized_size(image.height, image.width)
            if (width, height) != image.size:
                image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        if self.crop is not None:
            image = _centre(image, *self.crop)
        if (image.height, image.width) != self.input_size:
            raise BadInput(
                f"the image is {image.height} × {image.width} after preprocessing and the network takes "
                f"{self.input_size[0]} × {self.input_size[1]}; give the preprocessing a resize and a crop."
            )
        return _with_channels(np.asarray(image))

    def eight_bit_pixels(self, image: Image.Image) -> np.ndarray:
        """Return an image of any size in the mode that the network takes: (h, w, c) uint8.

        Raises
        ------
        UnreadableImage
            If the image has no defined range of values (floating point).
        """
        return _with_channels(np.array(self._in_mode(image)))

    def _in_mode(self, image: Image.Image) -> Image.Image:
        image = eight_bit(image)
        return image if image.mode == self.mode else image.convert(self.mode)

    def normalize(self, pixels: torch.Tensor, *, channels_last: bool = False) -> torch.Tensor:
        """Return (n, h, w, c) uint8 pixels as (n, c, h, w) float32 on the same device, contiguous or with channels last."""
        import torch

        x = pixels.permute(0, 3, 1, 2)
        order = torch.channels_last if channels_last else torch.contiguous_format
        # of grey images contiguous() would leave the strides, by which convolutions choose the order of what they give
        x = x.clone(memory_format=order).to(torch.float32).div_(255)
        if any(self.mean):
            x.sub_(torch.tensor(self.mean, device=x.device).view(-1, 1, 1))
        if any(s != 1 for s in self.std):
            x.div_(torch.tensor(self.std, device=x.device).view(-1, 1, 1))
        return x

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return the network's input for one image: (c, h, w) float32."""
        import torch

        return self.normalize(torch.from_numpy(self.pixels(image)[None].copy()))[0]

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (h, w) after the resize; the longer side is cut off as torchvision does it."""
        if not isinstance(self.resize, int):
            return self.resize or (height, width)
        if height <= width:
            return self.resize, int(self.resize * width / height)
        return int(self.resize * height / width), self.resize


def _with_channels(pixels: np.ndarray) -> np.ndarray:
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _pair(name: str, value: Any) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(isinstance(v, int) and v > 0 for v in value):
        raise BadInput(f"{name} is {value!r}; it must be a height and a width in pixels.")
    return value[0], value[1]


def eight_bit(image: Image.Image) -> Image.Image:
    """Return 16-bit grey images scaled to 8 bit; PIL's own conversion would cut their values off at 255."""
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image)
        deep = image.mode != "I" or int(values.max(initial=0)) > 255
        return Image.fromarray((values.clip(0, 65535) >> 8 if deep else values.clip(0, 255)).astype(np.uint8))
    if image.mode == "F":
        raise UnreadableImage("the image holds floating-point values, which have no defined white.")
    return image


def _centre(image: Image.Image, height: int, width: int) -> Image.Image:
    """Return the centre of an image, framed in black where it is smaller; rounding as in torchvision."""
    from PIL import ImageOps

    left, top = max(width - image.width, 0) // 2, max(height - image.height, 0) // 2
    right, bottom = (max(width - image.width, 0) + 1) // 2, (max(height - image.height, 0) + 1) // 2
    if left or top or right or bottom:
        image = ImageOps.expand(image, (left, top, right, bottom), fill=0)
    x, y = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
    return image.crop((x, y, x + width, y + height))
