"""Words on the command line as values of the library; a word that is none of them is wrong usage."""

from __future__ import annotations

import argparse
import contextlib

from finetune.adapters import Adapter, Colour, Geometry, ImageToImage
from finetune.augmentation import Augmentation
from finetune.auxiliary import Auxiliary
from finetune.errors import BadInput
from finetune.keeping import Keep, KeepBest, KeepLast, StopEarly
from finetune.optimizers import SGD, Adam, AdamW, Optimizer
from finetune.schedules import Constant, Cosine, EpochShare, Schedule, StepDecay

_OPTIMIZERS: dict[str, Optimizer] = {"sgd": SGD(), "adam": Adam(), "adamw": AdamW()}
_SCHEDULES: dict[str, Schedule] = {
    "constant": Constant(),
    "cosine": Cosine(),
    "cosine-per-epoch": Cosine(per_epoch=True),
}
_KEEPS: dict[str, Keep] = {"last": KeepLast(), "best": KeepBest()}
_RESTORES = {"best": True, "last": False}


def rows(text: str) -> tuple[int, ...]:
    """``"0-9"`` or ``"167,385,354"``, or both mixed."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            found += range(int(first), int(last) + 1) if dash else [int(first)]
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of rows like 0-9 or 167,385,354") from error
    return tuple(found)


def optimizer(text: str) -> Optimizer:
    """One of `_OPTIMIZERS`."""
    if text not in _OPTIMIZERS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(_OPTIMIZERS)}")
    return _OPTIMIZERS[text]


def schedule(text: str) -> Schedule:
    """One of `_SCHEDULES`, or ``"step:15,20,25"``."""
    name, _, epochs = text.partition(":")
    if text in _SCHEDULES:
        return _SCHEDULES[text]
    with contextlib.suppress(ValueError):
        if name == "step":
            return StepDecay(tuple(int(epoch) for epoch in epochs.split(",")))
    raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(_SCHEDULES)}, step:15,20,25")


def keep(text: str) -> Keep:
    """One of `_KEEPS`, or ``"stop:DROP"``, ``"stop:DROP,MIN_STEPS"``, ``"stop:DROP,MIN_STEPS,last"``."""
    name, _, numbers = text.partition(":")
    if text in _KEEPS:
        return _KEEPS[text]
    with contextlib.suppress(ValueError, KeyError):
        if name == "stop":
            given = numbers.split(",")
            drop, min_steps, kept = given + ["0", "best"][len(given) - 1 :]
            return StopEarly(drop=float(drop), min_steps=int(min_steps), restore_best=_RESTORES[kept])
    raise argparse.ArgumentTypeError(
        f"{text!r} is none of {', '.join(_KEEPS)}, stop:0.025, stop:0.025,800, stop:0.025,800,last"
    )


def bn_momentum(text: str) -> float | EpochShare:
    """A number, or ``"kornblith2019"`` for the paper's rule."""
    if text == "kornblith2019":
        return EpochShare()
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor kornblith2019") from error


def auxiliary(text: str) -> Auxiliary:
    """``"UNIT"`` or ``"UNIT:WEIGHT"``."""
    unit, _, weight = text.partition(":")
    try:
        return Auxiliary(unit, float(weight)) if weight else Auxiliary(unit)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a unit, or unit:weight") from error


def augmentation(text: str) -> Augmentation:
    """``"kornblith2019"``, ``"fang2023:cct20"``, or one of timm's policies behind crops and flips; ``+`` joins the two."""
    name, _, policy = text.partition("+")
    paper, _, data = name.partition(":")
    try:
        if paper == "fang2023":
            return Augmentation.fang2023(data, policy=policy)
        if name == "kornblith2019":
            return Augmentation(policy=policy)
        return Augmentation(policy=name)
    except BadInput as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of kornblith2019, fang2023:DATA, rand-m9-mstd0.5-inc1, augmix-m3-w3-d2, "
            f"fang2023:DATA+augmix-m3-w3-d2: {error}"
        ) from error


def adapter(text: str) -> Adapter:
    """``"image"`` or ``"image:BLOCKS"``, ``"colour"`` or ``"colour:HIDDEN"``, ``"geometry"`` or ``"geometry:HIDDEN"``."""
    kind, _, size = text.partition(":")
    with contextlib.suppress(ValueError):
        if kind == "image":
            return ImageToImage(n_blocks=int(size)) if size else ImageToImage()
        if kind == "colour":
            return Colour(n_hidden=int(size)) if size else Colour()
        if kind == "geometry":
            return Geometry(n_hidden=int(size)) if size else Geometry()
    raise argparse.ArgumentTypeError(f"{text!r} is none of image, image:2, colour, colour:16, geometry, geometry:64")


def numbers(text: str) -> tuple[float, ...]:
    """``"0.1,0.01"``."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers like 0.1,0.01") from error


def names(text: str) -> tuple[str, ...]:
    """``"conv1,conv2"``."""
    return tuple(part for part in text.split(",") if part)
