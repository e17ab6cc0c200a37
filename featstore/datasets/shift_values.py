"""Shifts of what pixels say: blur, noise, colours, parts that are hidden or blended.

Those of Royer and Lampert 2020 have the parameters of the paper as defaults; what the paper leaves open is said.
"""

from __future__ import annotations

import hashlib
from functools import cache
from math import erf, sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featstore.datasets.shift_base import DomainShift, check_numbers, image_of, plain, random_for, values_of
from featstore.errors import BadInput

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["bgr", "blend", "blur", "grey", "hsv", "invert", "kernel_blur", "noise", "occlude", "yuv"]

YUV = np.array([[0.299, 0.587, 0.114], [-0.14714119, -0.28886916, 0.43601035], [0.61497538, -0.51496512, -0.10001026]])
"""Analogue YUV of BT.601; U and V reach the values of `UV_RANGE` on both sides of 0."""
UV_RANGE = np.array([0.43601035, 0.61497538])


def blur(sigma: float) -> DomainShift:
    """Gaussian blur with a standard deviation of `sigma` pixels; the kernel ends at 4 sigma, borders are mirrored."""
    check_numbers("blur", sigma=sigma)
    if not 0 < sigma <= 100:
        raise BadInput(f"blur has a sigma of {sigma} pixels; it must be above 0 and at most 100.")
    reach = int(np.ceil(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()

    def apply(image: Image.Image, sample_id: str) -> Image.Image:
        values = values_of(image)
        for axis in (0, 1):
            values = _convolve(_mirrored(values, reach, axis), kernel, axis)
        return image_of(values)

    return DomainShift("blur", {"sigma": sigma}, apply)


def kernel_blur(length: float = 8, n_sigma: float = 1) -> DomainShift:
    """Blur with the kernel of Royer and Lampert 2020: ``(8, 1)`` for MNIST, ``(4, 0.5)`` for CIFAR, ``(5, 0.5)`` for
    QuickDraw.

    `length` bins of the normal distribution from below ``-n_sigma`` to above ``n_sigma``, the square root of their
    outer product, normalised; borders are black, and of an even kernel the middle lies left and above (TensorFlow's
    ``SAME``).
    """
    check_numbers("kernel_blur", length=length, n_sigma=n_sigma)
    if not 1 <= length <= 100 or length != int(length) or not 0 < n_sigma <= 10:
        raise BadInput(
            f"kernel_blur({length:g},{n_sigma:g}) cannot be made: the length is a whole number from 1 to 100, and n_sigma "
            "is above 0 and at most 10."
        )
    size = int(length)
    kernel = _root_of_normal_bins(size, n_sigma)
    before = (size - 1) // 2

    def apply(image: Image.Image, sample_id: str) -> Image.Image:
        values = values_of(image)
        for axis in (0, 1):
            around = [(before, size - 1 - before) if a == axis else (0, 0) for a in range(values.ndim)]
            values = _convolve(np.pad(values, around), kernel, axis)
        return image_of(values)

    return DomainShift("kernel_blur", {"length": length, "n_sigma": n_sigma}, apply)


def _root_of_normal_bins(size: int, n_sigma: float) -> np.ndarray:
    """Return one factor of the kernel: (size,), its sum 1."""
    half = n_sigma + (2 * n_sigma + 1) / size / 2
    edges = np.linspace(-half, half, size + 1)
    share = np.diff([0.5 * (1 + erf(x / sqrt(2))) for x in edges])
    root = np.sqrt(share)
    factor: np.ndarray = root / root.sum()
    return factor


def noise(std: float = 30, seed: float = 0) -> DomainShift:
    """Gaussian noise of `std` grey levels (0 to 255), its own for every image, cut off at 0 and 255."""
    check_numbers("noise", std=std, seed=seed)
    if not 0 < std <= 255:
        raise BadInput(f"noise has a standard deviation of {std}; it must be above 0 and at most 255 grey levels.")

    def apply(image: Image.Image, sample_id: str) -> Image.Image:
        values = values_of(image)
        return image_of(values + random_for("", seed, sample_id).normal(0, std, values.shape))

    return DomainShift("noise", {"std": std, "seed": seed}, apply)


def invert() -> DomainShift:
    """White becomes black: every value v becomes 255 - v."""
    return DomainShift("invert", {}, lambda image, sample_id: image_of(255 - values_of(image)))


def bgr() -> DomainShift:
    """Blue, green, red instead of red, green, blue, as ``cv2.imread`` gives them and some networks were trained."""
    return DomainShift("bgr", {}, lambda image, sample_id: image_of(_rgb(image)[:, :, ::-1]))


def grey() -> DomainShift:
    """The mean of red, green and blue, as Royer and Lampert 2020 have it (PIL's own grey weights them)."""
    return DomainShift("grey", {}, lambda image, sample_id: image_of(_rgb(image).mean(axis=2)))


def yuv() -> DomainShift:
    """Y, U, V (BT.601) in the place of red, green, blue; U and V rescaled from their range to 0 … 255."""

    def apply(image: Image.Image, sample_id: str) -> Image.Image:
        found = _rgb(image) / 255 @ YUV.T
        found[:, :, 1:] = (found[:, :, 1:] / UV_RANGE + 1) / 2
        return image_of(found * 255)

    return DomainShift("yuv", {}, apply)


def hsv() -> DomainShift:
    """Hue, saturation, value, each 0 … 255, in the place of red, green, blue."""

    def apply(image: Image.Image, sample_id: str) -> Image.Image:
        rgb = _rgb(image) / 255
        high, low = rgb.max(axis=2), rgb.min(axis=2)
        span = high - low
        safe = np.where(span > 0, span, 1)
        r, g, b = (rgb[:, :, k] for k in range(3))
        sixth = np.select([high == r, high == g], [(g - b) / safe % 6, (b - r) / safe + 2], (r - g) / safe + 4)
        hue = np.where(span > 0, sixth / 6, 0)
        saturation = span / np.where(high > 0, high, 1)
        return image_of(np.stack([hue, saturation, high], axis=2) * 255)

    return DomainShift("hsv", {}, apply)


def occlude(share: float = 0.5, seed: float = 0) -> DomainShift:
    """A black square whose side is `share` of the image's shorter side, at a place of its own for every image."""
    check_numbers("occlude", share=share, seed=seed)
    if not 0 < share <= 1:
        raise BadInput(f"occlude hides a square of {share} of the side; it must be above 0 and at most 1.")

    def apply(image: Image.Image, sample_id: str) -> Image.Image:
        values = values_of(image)
        side = max(round(share * min(values.shape[:2])), 1)
        random = random_for("occlude", seed, sample_id)
        y, x = (int(random.integers(0, n - side + 1)) for n in values.shape[:2])
        values[y : y + side, x : x + side] = 0
        return image_of(values)

    return DomainShift("occlude", {"share": share, "seed": seed}, apply)


def blend(folder: str, seed: float = 0) -> DomainShift:
    """MNIST-M (Ganin and Lempitsky 2015): the digit inverts a patch of a photograph below it.

    ``|patch - 255 · (pixel > 0)|``; of grey images the mean over the patch's colours is taken, as Royer and Lampert 2020
    do. Photograph and place are drawn for every image. The paper's photographs are the training images of BSDS500.

    Parameters
    ----------
    folder : str
        Of photographs, each at least as large as the images. What they hold is part of the identity, where they lie is
        not.
    seed : float
    """
    if not isinstance(folder, str | Path):
        raise BadInput(f"blend's folder is {folder!r:.80}; it must be the path of a folder of photographs.")
    check_numbers("blend", seed=seed)
    patches, digest = _photographs(Path(folder).resolve())

    def apply(image: Image.Image, sample_id: str) -> Image.Image:
        drawn = values_of(image) > 0
        random = random_for("blend", seed, sample_id)
        photograph = patches[int(random.integers(len(patches)))]
        room = [photograph.shape[a] - drawn.shape[a] for a in (0, 1)]
        if min(room) < 0:
            raise BadInput(
                f"a photograph of {folder} is {photograph.shape[0]} × {photograph.shape[1]} pixels, and images of "
                f"{drawn.shape[0]} × {drawn.shape[1]} are to be blended with it; remove it or shrink the images."
            )
        y, x = (int(random.integers(0, r + 1)) for r in room)
        patch = photograph[y : y + drawn.shape[0], x : x + drawn.shape[1]].astype(np.float64)
        mask = drawn[:, :, None] if drawn.ndim == 2 else drawn
        found = np.abs(patch - 255.0 * mask)
        return image_of(found.mean(axis=2) if drawn.ndim == 2 else found)

    return DomainShift("blend", {"photographs": digest, "seed": seed}, apply, (folder, seed))


@cache
def _photographs(folder: Path) -> tuple[tuple[np.ndarray, ...], str]:
    """Return the images of a folder, in order of their names, and the digest of what they hold."""
    from featstore.datasets.folders import IMAGE_SUFFIXES, read_file
    from featstore.splits import decode

    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if folder.is_dir() else []
    if not paths:
        raise BadInput(f"blend needs a folder of photographs, and there are none at {folder}.")
    images = tuple(np.asarray(decode(read_file(p), str(p)).convert("RGB")) for p in paths)
    running = hashlib.sha256()
    for image in images:
        running.update(f"{image.shape}".encode() + image.tobytes())
    return images, running.hexdigest()[:32]


def _rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(plain(image).convert("RGB"), dtype=np.float64)


def _mirrored(values: np.ndarray, reach: int, axis: int) -> np.ndarray:
    """Return `values` with mirrored borders, as often as a wide kernel needs it."""
    n = values.shape[axis]
    at = np.arange(-reach, n + reach) % (2 * n)
    found: np.ndarray = np.take(values, np.where(at < n, at, 2 * n - 1 - at), axis=axis)
    return found


def _convolve(padded: np.ndarray, kernel: np.ndarray, axis: int) -> np.ndarray:
    """Return what a symmetric kernel makes of an axis; it is shorter by the kernel's length less one."""
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=axis)
    smooth: np.ndarray = windows @ kernel
    return smooth
