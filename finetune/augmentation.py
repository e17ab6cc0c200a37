"""What happens to training images: crops and flips as the papers say, AugMix and RandAugment as timm has them.

Everything random is a function of a key, made of the seed, the sample's id and the epoch, so that neither the order of
the samples nor the number of threads matters, and a resumed training sees the images that it would have seen. The only
file of `finetune` that knows timm and PIL.
"""

from __future__ import annotations

import functools
import hashlib
import math
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from finetune.checking import wrong_types
from finetune.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from featstore import Preprocessing

_TRIES = 10
_SECTIONS = {
    "rand": r"(m|n|mmax|inc)\d+|(mstd|p)\d+(\.\d+)?|t[a-z0-9]+",
    "augmix": r"(m|w|d|b)\d+|(mstd|a)\d+(\.\d+)?",
}
"""What stands between the dashes of a policy, by its first word."""

_FANG_FLIPS = {
    "cct20": (0.5, 0.0), "aptos": (0.5, 0.0), "hpa": (0.5, 0.5), "melanoma": (0.5, 0.5), "cassava": (0.5, 0.5),
    "eurosat": (0.0, 0.0),
}  # fmt: skip


@dataclass(frozen=True)
class Augmentation:
    """Random resized crops, flips, and a policy of timm's after them.

    Parameters
    ----------
    scale : tuple of two float, or None
        Smallest and largest share of the image's area that a crop takes, as in torchvision's RandomResizedCrop; None
        prepares the image as for evaluation.
    ratio : tuple of two float
        Smallest and largest aspect (width to height) of a crop.
    horizontal, vertical : float
        Probability of a flip.
    policy : str
        Of timm: ``"rand-m9-mstd0.5-inc1"`` (RandAugment), ``"augmix-m3-w3-d2"`` (AugMix), or ``""`` for none.

    Raises
    ------
    BadInput
        Values out of range, or a policy that timm does not know.

    Examples
    --------
    >>> Augmentation.kornblith2019().scale
    (0.08, 1.0)
    """

    scale: tuple[float, float] | None = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    horizontal: float = 0.5
    vertical: float = 0.0
    policy: str = ""

    def __post_init__(self) -> None:
        problems = wrong_types(self) or self.problems()
        if problems:
            raise BadInput.of("this augmentation", problems)

    @classmethod
    def kornblith2019(cls) -> Augmentation:
        """Random resized crops and horizontal flips (Kornblith, Shlens and Le 2019, supplement A.5).

        Scale and aspect are those of the Inception preprocessing, which the paper trains with.
        """
        return cls()

    @classmethod
    def fang2023(cls, data: str, *, policy: str = "") -> Augmentation:
        """Crops of 65 to 100 % and the flips of a data set, as in the authors' code (Fang, Kornblith and Schmidt 2023).

        Parameters
        ----------
        data : str
            ``"cct20"``, ``"aptos"``, ``"hpa"``, ``"melanoma"``, ``"cassava"`` or ``"eurosat"``.
        policy : str
            Their ablation (appendix G) adds AugMix or RandAugment.
        """
        if data not in _FANG_FLIPS:
            raise BadInput(f"the authors' code has no augmentation for {data!r}; it has {', '.join(_FANG_FLIPS)}.")
        horizontal, vertical = _FANG_FLIPS[data]
        return cls((0.65, 1.0), horizontal=horizontal, vertical=vertical, policy=policy)

    def problems(self) -> list[str]:
        """What is wrong with the values, a sentence each."""
        found = []
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] <= 1:
            found.append(f"scale is {self.scale}; two shares of the area are needed, 0 < smallest <= largest <= 1.")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            found.append(f"ratio is {self.ratio}; two aspects are needed, 0 < smallest <= largest.")
        for name in ("horizontal", "vertical"):
            if not 0 <= getattr(self, name) <= 1:
                found.append(f"{name} is {getattr(self, name)}; a probability is needed, from 0 to 1.")
        return found + _policy_problems(self.policy)

    def check_policy(self, preprocessing: Preprocessing) -> None:
        """Raise `BadInput` unless timm understands the policy; found otherwise with the first training image."""
        if self.policy:
            _policy(self.policy, (0, 0, 0), min(preprocessing.input_size))

    def pixels(self, image: Image.Image, preprocessing: Preprocessing, key: str) -> np.ndarray:
        """An image augmented and brought to the network's input size: ``(h, w, c)`` uint8.

        Parameters
        ----------
        image : PIL.Image.Image
            Decoded.
        preprocessing : Preprocessing
            Gives size, interpolation and colours.
        key : str
            All that the random choices depend on.
        """
        import numpy as np
        from PIL import Image

        draw = random.Random(hashlib.blake2b(key.encode(), digest_size=16).digest())
        if self.scale is not None:
            image = _upright(image, preprocessing)
            box = crop_box(image.width, image.height, self.scale, self.ratio, draw)
            height, width = preprocessing.input_size
            how = Image.Resampling[preprocessing.interpolation.upper()]
            image = image.crop(box).resize((width, height), how)
        else:
            pixels = preprocessing.pixels(image)
            image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        if draw.random() < self.horizontal:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if draw.random() < self.vertical:
            image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        if self.policy:
            image = _apply_policy(self.policy, image, preprocessing, draw.getrandbits(32))
        pixels = np.asarray(image)
        return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _policy_problems(policy: str) -> list[str]:
    """What timm would not understand, or pass over without a word: of a section without a number it takes no notice."""
    if not policy:
        return []
    kind, *sections = policy.split("-")
    if kind not in _SECTIONS:
        return [
            f"policy is {policy!r}; timm's are written 'rand-m9-mstd0.5-inc1' (RandAugment) or 'augmix-m3-w3-d2' (AugMix)."
        ]
    unknown = [section for section in sections if re.fullmatch(_SECTIONS[kind], section) is None]
    return [f"policy is {policy!r}, of which timm does not know {', '.join(map(repr, unknown))}."] if unknown else []


def crop_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], draw: random.Random
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a random crop, drawn as torchvision's RandomResizedCrop does.

    Ten times a share of the area is drawn uniformly and an aspect uniformly in its logarithm; the first that fits is
    placed uniformly. If none fits, the largest crop of the nearest allowed aspect is taken from the centre.
    """
    for _ in range(_TRIES):
        area = width * height * draw.uniform(*scale)
        aspect = math.exp(draw.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = draw.randint(0, width - w), draw.randint(0, height - h)
            return left, top, left + w, top + h
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, max(round(height * aspect), 1)), min(height, max(round(width / aspect), 1))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _upright(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The image at its own size in the network's colours, converted as in evaluation."""
    from dataclasses import replace

    from PIL import Image

    size = (image.height, image.width)
    pixels = replace(preprocessing, input_size=size, resize=None, crop=None).pixels(image)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _apply_policy(policy: str, image: Image.Image, preprocessing: Preprocessing, seed: int) -> Image.Image:
    """Run timm's policy on an image, with its draws from ``seed``; grey images become RGB for it and grey again."""
    module = _timm_with_own_draws()
    fill = tuple(round(255 * m) for m in preprocessing.mean) * (3 // preprocessing.n_channels)
    transform = _policy(policy, fill, min(preprocessing.input_size))
    module.random.seed(seed)
    module.np.random.seed(seed)
    done: Image.Image = transform(image.convert("RGB"))
    return done.convert(preprocessing.mode)


@functools.lru_cache(maxsize=8)
def _policy(policy: str, fill: tuple[int, ...], side: int) -> Callable[[Any], Any]:
    """timm's transform for a policy, set as timm sets it for training: shifts of up to 45 % of the shorter side."""
    module = _timm_with_own_draws()
    make = module.augment_and_mix_transform if policy.startswith("augmix") else module.rand_augment_transform
    try:
        found: Callable[[Any], Any] = make(policy, {"translate_const": int(side * 0.45), "img_mean": fill})
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise BadInput(
            f"timm does not understand the policy {policy!r} ({error or 'a part it does not know'})."
        ) from error
    return found


class _ByThread(threading.local):
    """Generators of one thread, under the names by which timm calls Python's and numpy's."""

    def __init__(self) -> None:
        import numpy as np

        self.python = random.Random(0)
        self.numpy = np.random.RandomState(0)


class _Python:
    """Stands for the module ``random``."""

    def __init__(self, own: _ByThread) -> None:
        self._own = own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own.python, name)


class _ImageOps:
    """Stands for ``PIL.ImageOps``: of no bits at all, timm's lowest step, newer versions of PIL will not hear."""

    def __getattr__(self, name: str) -> Any:
        from PIL import ImageOps

        return getattr(ImageOps, name)

    def posterize(self, image: Image.Image, bits: int) -> Image.Image:
        """The highest bits of each value; of none of them, as older versions of PIL have it, black."""
        from PIL import ImageOps

        return ImageOps.posterize(image, bits) if bits > 0 else image.point([0] * 256 * len(image.getbands()))


class _Numpy:
    """Stands for the module ``numpy``, whose ``random`` is the thread's own."""

    def __init__(self, own: _ByThread) -> None:
        self._own = own

    def __getattr__(self, name: str) -> Any:
        import numpy as np

        return self._own.numpy if name == "random" else getattr(np, name)


@functools.lru_cache(maxsize=1)
def _timm_with_own_draws() -> ModuleType:
    """A private copy of ``timm.data.auto_augment`` whose random numbers come from the calling thread's generators.

    timm draws from the process's global generators, which threads would share. The module that other code imports is
    not touched.
    """
    import importlib.util

    import timm.data.auto_augment  # so that its own imports are done

    spec = importlib.util.spec_from_file_location("finetune._timm_auto_augment", timm.data.auto_augment.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    own = _ByThread()
    module.random = _Python(own)  # type: ignore[attr-defined]
    module.np = _Numpy(own)  # type: ignore[attr-defined]
    module.ImageOps = _ImageOps()  # type: ignore[attr-defined]
    return module
