"""Domain shifts: pure functions of a decoded image and its id, with a name and parameters that are part of the
identity.

``digits:test+blur(1.0)+rotate(30)`` applies them in that order. What is random is drawn from a hash of the seed and
the sample's id: the same for the same image on every machine, whatever the order of the samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["SHIFTS", "DomainShift", "bgr", "blur", "invert", "make_shift", "noise", "rotate"]


@dataclass(frozen=True)
class DomainShift:
    """A named function of an image.

    Attributes
    ----------
    name : str
    params : mapping
        Everything that changes what it does, in numbers.
    apply : callable
        (image, id) -> image of the same size and mode.
    """

    name: str
    params: Mapping[str, float]
    apply: Callable[[Image.Image, str], Image.Image]

    def __call__(self, image: Image.Image, sample_id: str) -> Image.Image:
        return self.apply(image, sample_id)

    def __str__(self) -> str:
        return f"{self.name}({','.join(str(v) for v in self.params.values())})"


def blur(sigma: float) -> DomainShift:
    """Gaussian blur with a standard deviation of `sigma` pixels; the kernel ends at 4 sigma, borders are mirrored."""
    if not 0 < sigma <= 100:
        raise BadInput(f"blur has a sigma of {sigma} pixels; it must be above 0 and at most 100.")
    reach = int(np.ceil(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()

    def apply(image: Image.Image, sample_id: str) -> Image.Image:
        values = _values(image)
        for axis in (0, 1):
            values = _convolve(values, kernel, axis)
        return _image(values)

    return DomainShift("blur", {"sigma": sigma}, apply)


def rotate(degrees: float) -> DomainShift:
    """Rotation about the centre, counter-clockwise by `degrees`; bilinear, corners filled with black."""

    def apply(image: Image.Image, sample_id: str) -> Image.Image:
        from PIL import Image

        return _plain(image).rotate(degrees, resample=Image.Resampling.BILINEAR)

    return DomainShift("rotate", {"degrees": degrees}, apply)


def invert() -> DomainShift:
    """White becomes black: every value v becomes 255 - v."""
    return DomainShift("invert", {}, lambda image, sample_id: _image(255 - _values(image)))


def bgr() -> DomainShift:
    """Blue, green, red instead of red, green, blue, as ``cv2.imread`` gives them and some networks were trained."""
    return DomainShift("bgr", {}, lambda image, sample_id: _image(np.asarray(image.convert("RGB"))[:, :, ::-1]))


def noise(std: float, seed: float = 0) -> DomainShift:
    """Gaussian noise of `std` grey levels (0 to 255), its own for every image, cut off at 0 and 255."""
    if not 0 < std <= 255:
        raise BadInput(f"noise has a standard deviation of {std}; it must be above 0 and at most 255 grey levels.")

    def apply(image: Image.Image, sample_id: str) -> Image.Image:
        values = _values(image)
        return _image(values + _generator(seed, sample_id).normal(0, std, values.shape))

    return DomainShift("noise", {"std": std, "seed": seed}, apply)


SHIFTS: Mapping[str, Callable[..., DomainShift]] = {
    "bgr": bgr,
    "blur": blur,
    "invert": invert,
    "noise": noise,
    "rotate": rotate,
}


def make_shift(name: str, arguments: str) -> DomainShift:
    """Return the shift that a user typed as ``name(arguments)``.

    Raises
    ------
    UnknownName
        If there is no such shift.
    BadInput
        If the arguments are not the numbers it takes.
    """
    if name not in SHIFTS:
        raise UnknownName("domain shift", name, SHIFTS)
    try:
        values = [float(a) for a in arguments.split(",")] if arguments.strip() else []
        return SHIFTS[name](*values)
    except BadInput:
        raise
    except (ValueError, TypeError) as error:
        raise BadInput(f"the shift '{name}({arguments})' cannot be made: {error}.") from error


def _plain(image: Image.Image) -> Image.Image:
    """Return grey images as they are and all others in RGB: palettes and alpha have no meaningful average."""
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _values(image: Image.Image) -> np.ndarray:
    return np.asarray(_plain(image), dtype=np.float64)


def _image(values: np.ndarray) -> Image.Image:
    from PIL import Image

    return Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8))


def _convolve(values: np.ndarray, kernel: np.ndarray, axis: int) -> np.ndarray:
    """Return `values` convolved along one axis, mirrored at the borders as often as a wide kernel needs it."""
    reach, n = len(kernel) // 2, values.shape[axis]
    at = np.arange(-reach, n + reach) % (2 * n)
    padded = np.take(values, np.where(at < n, at, 2 * n - 1 - at), axis=axis)
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=axis)
    smooth: np.ndarray = windows @ kernel
    return smooth


def _generator(seed: float, sample_id: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed:g}:{sample_id}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
