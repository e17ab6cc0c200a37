"""Shifts of where pixels are: rotation, affine maps, and images shrunk into a mirrored or stretched border.

Those of Royer and Lampert 2020 have the parameters of the paper as defaults; what the paper leaves open is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featstore.datasets.shift_base import DomainShift, check_numbers, image_of, plain, random_for, values_of
from featstore.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

__all__ = ["affine", "fixed_affine", "kaleido", "rotate", "stretch", "turn"]

KEPT = 0.75 * (1 + 2 * 0.25)
"""Of `turn`: share of the image's sides that is seen: the middle 0.75 of what a quarter was added to on each side."""


def rotate(degrees: float) -> DomainShift:
    """Rotation about the centre, counter-clockwise by `degrees`; bilinear, corners filled with black."""
    check_numbers("rotate", degrees=degrees)
    if not -360 <= degrees <= 360:
        raise BadInput(f"rotate turns by {degrees} degrees; a whole turn is 360.")

    def apply(image: Image.Image, sample_id: str) -> Image.Image:
        from PIL import Image

        return plain(image).rotate(degrees, resample=Image.Resampling.BILINEAR)

    return DomainShift("rotate", {"degrees": degrees}, apply)


def turn(radians: float = 0.6) -> DomainShift:
    """The rotation of Royer and Lampert 2020: mirrored borders of a quarter of the side, rotated counter-clockwise, the
    middle three quarters kept, resized to what it was (bilinear, which they leave open).

    The mirrored borders are made wide enough that no corner is black, whatever the angle and the shape of the image.
    """
    check_numbers("turn", radians=radians)
    if not -3.2 <= radians <= 3.2:
        raise BadInput(f"turn rotates by {radians} radians; a half turn is 3.14.")

    def apply(image: Image.Image, sample_id: str) -> Image.Image:
        from PIL import Image

        values = np.asarray(plain(image))
        wide = max(image.size)
        around = [(wide, wide) if a < 2 else (0, 0) for a in range(values.ndim)]
        padded = Image.fromarray(np.pad(values, around, mode="symmetric"))
        turned = padded.rotate(np.degrees(radians), resample=Image.Resampling.BILINEAR)
        kept = [KEPT * n / 2 for n in image.size]
        x, y = turned.width / 2, turned.height / 2
        box = (x - kept[0], y - kept[1], x + kept[0], y + kept[1])
        return turned.resize(image.size, Image.Resampling.BILINEAR, box=box)

    return DomainShift("turn", {"radians": radians}, apply)


def affine(max_radians: float = 1.5, max_scale: float = 2.5, seed: float = 0) -> DomainShift:
    """A random affine map of its own for every image: angle in ± `max_radians`, the image shrunk by factors in 1 …
    `max_scale` of its own in x and y, and moved by at most what leaves its frame inside; nearest neighbour, black
    around.

    Places of the shifted image are turned about the centre, then scaled, then moved, to places of the image; that order
    is not in the paper.
    """
    _checked_affine("affine", max_radians, max_scale, seed)

    def apply(image: Image.Image, sample_id: str) -> Image.Image:
        return _mapped(image, random_for("affine", seed, sample_id), max_radians, max_scale)

    return _named("affine", max_radians, max_scale, seed, apply)


def fixed_affine(max_radians: float = 1.5, max_scale: float = 2.5, seed: float = 0) -> DomainShift:
    """One draw of `affine` for all images."""
    _checked_affine("fixed_affine", max_radians, max_scale, seed)

    def apply(image: Image.Image, sample_id: str) -> Image.Image:
        return _mapped(image, random_for("fixed_affine", seed, ""), max_radians, max_scale)

    return _named("fixed_affine", max_radians, max_scale, seed, apply)


def _named(
    name: str, max_radians: float, max_scale: float, seed: float, apply: Callable[[Image.Image, str], Image.Image]
) -> DomainShift:
    """A shift whose identity has the unit of the move, which was another one once."""
    params: dict[str, float | str] = {"max_radians": max_radians, "max_scale": max_scale, "seed": seed}
    params["move"] = "pixels"
    return DomainShift(name, params, apply, (max_radians, max_scale, seed))


def _checked_affine(name: str, max_radians: float, max_scale: float, seed: float) -> None:
    check_numbers(name, max_radians=max_radians, max_scale=max_scale, seed=seed)
    if not 0 <= max_radians <= 3.2 or not 1 <= max_scale <= 100:
        raise BadInput(
            f"an affine map turns by at most {max_radians} radians and shrinks by at most {max_scale}; the first must lie in "
            "0 … 3.2 and the second in 1 … 100."
        )


def _mapped(image: Image.Image, random: np.random.Generator, max_radians: float, max_scale: float) -> Image.Image:
    values = values_of(image)
    shape = np.array(values.shape[1::-1], np.float64)  # width, height
    angle = random.uniform(-max_radians, max_radians)
    scale = random.uniform(1, max_scale, 2)
    move = random.uniform(-0.5, 0.5, 2) * (scale - 1)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    y, x = np.mgrid[: values.shape[0], : values.shape[1]]
    places = (np.stack([x, y], axis=-1) - shape / 2) @ turned.T * scale + shape / 2 + move
    at = np.rint(places).astype(np.int64)
    is_inside = ((at >= 0) & (at < shape)).all(axis=-1)
    found = np.zeros_like(values)
    found[is_inside] = values[at[is_inside][:, 1], at[is_inside][:, 0]]
    return image_of(found)


def kaleido(scale: float = 1.8) -> DomainShift:
    """The image shrunk by `scale`, its mirror image around it: padded symmetrically, then resized (bilinear)."""
    return _shrunk("kaleido", "symmetric", scale)


def stretch(scale: float = 2.0) -> DomainShift:
    """The image shrunk by `scale`, its border pixels drawn out around it: padded with them, then resized (bilinear)."""
    return _shrunk("stretch", "edge", scale)


def _shrunk(name: str, mode: str, scale: float) -> DomainShift:
    check_numbers(name, scale=scale)
    if not 1 <= scale <= 20:
        raise BadInput(f"{name} shrinks by {scale}; it must be at least 1 and at most 20.")

    def apply(image: Image.Image, sample_id: str) -> Image.Image:
        from PIL import Image

        values = np.asarray(plain(image))
        around = []
        for n in values.shape[:2]:
            more = round(scale * n) - n
            around.append((more // 2, more - more // 2))
        around += [(0, 0)] * (values.ndim - 2)
        padded = np.pad(values, around, mode=mode)  # type: ignore[call-overload]
        return Image.fromarray(padded).resize(image.size, Image.Resampling.BILINEAR)

    return DomainShift(name, {"scale": scale}, apply)
