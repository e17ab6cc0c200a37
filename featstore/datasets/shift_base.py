"""What every domain shift is made of: a named function of an image and its id, and the numbers in and out of images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from featstore.errors import BadInput
from featstore.preprocessing import eight_bit

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["DomainShift", "check_numbers", "image_of", "plain", "random_for", "values_of"]


@dataclass(frozen=True)
class DomainShift:
    """A named function of an image.

    Attributes
    ----------
    name : str
    params : mapping
        Everything that changes what it does: numbers, and digests of what it reads.
    apply : callable
        (image, id) -> image of the same size; grey or RGB.
    arguments : tuple
        What a user types; None takes the values of `params`.
    """

    name: str
    params: Mapping[str, float | str]
    apply: Callable[[Image.Image, str], Image.Image]
    arguments: tuple[float | str, ...] | None = None

    def __post_init__(self) -> None:
        # 2 and 2.0 are the same shift, and must not be two identities
        numbers = {k: v if isinstance(v, str) else float(v) for k, v in self.params.items()}
        object.__setattr__(self, "params", numbers)

    def __call__(self, image: Image.Image, sample_id: str) -> Image.Image:
        return self.apply(image, sample_id)

    def __str__(self) -> str:
        return f"{self.name}({','.join(str(v) for v in self._typed())})"

    def __reduce__(self) -> tuple[object, ...]:
        from featstore.datasets.shifts import SHIFTS

        if self.name in SHIFTS:  # what it does is a function inside one, which cannot be sent to another process
            return _made_again, (self.name, self._typed())
        return DomainShift, (self.name, dict(self.params), self.apply, self.arguments)

    def _typed(self) -> tuple[float | str, ...]:
        return tuple(self.params.values()) if self.arguments is None else self.arguments


def check_numbers(shift: str, **given: object) -> None:
    """Refuse what is no finite number among the arguments of a shift.

    Raises
    ------
    BadInput
        With every such argument.
    """
    wrong = [
        f"{name} is {value!r:.80}"
        for name, value in given.items()
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value)
    ]
    if wrong:
        raise BadInput(f"the shift {shift} cannot be made: {' and '.join(wrong)}; give finite numbers.")


def _made_again(name: str, arguments: tuple[float | str, ...]) -> DomainShift:
    from featstore.datasets.shifts import SHIFTS

    return SHIFTS[name](*arguments)


def plain(image: Image.Image) -> Image.Image:
    """Return grey images as they are, of 16 bits scaled to 8, and all others in RGB: palettes and alpha have no meaningful
    average."""
    image = eight_bit(image)
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def values_of(image: Image.Image) -> np.ndarray:
    """Return the grey levels 0 to 255 of an image: (h, w) or (h, w, 3) float64."""
    return np.asarray(plain(image), dtype=np.float64)


def image_of(values: np.ndarray) -> Image.Image:
    """Return the image of grey levels, rounded and cut off at 0 and 255."""
    from PIL import Image

    return Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8))


def random_for(name: str, seed: float, sample_id: str) -> np.random.Generator:
    """Return a generator for one image: the same on every machine, whatever the order of the samples."""
    written = str(int(seed)) if float(seed).is_integer() else repr(float(seed))
    digest = hashlib.sha256(f"{name}{written}:{sample_id}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
