"""Data sets by name: ``imagefolder:PATH``, ``npz:PATH``, ``digits:train``, ``cifar10:test``,
``package.module:function``.

What may follow a name, any number of times, in the order in which it is applied::

    digits:train+blur(1.0)+rotate(30)              domain shifts, see `shifts`
    imagefolder:photos#rest(0.2,seed=0)            the two sides of `Split.holdout`
    imagefolder:photos#held(0.2,seed=0)
    cifar10:train#per_class(10,seed=0)             `Split.per_class`
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from featstore.datasets.shifts import DomainShift
    from featstore.splits import Split

__all__ = ["load_split", "shifted"]

KINDS = ("imagefolder", "npz", "digits", "cifar10")
SUFFIX = re.compile(
    r"(?:\+(?P<shift>\w+)\((?P<arguments>[^()]*)\)"
    r"|#(?P<side>rest|held)\((?P<fraction>[\d.e-]+),seed=(?P<holdout_seed>-?\d+)\)"
    r"|#per_class\((?P<k>\d+),seed=(?P<draw_seed>-?\d+)\))$"
)


def load_split(spec: str, *, data_root: str | Path | None = None) -> Split:
    """Return the split that a name stands for.

    Parameters
    ----------
    spec : str
        ``imagefolder:PATH`` (a folder, or a zip, of one folder of images per class), ``npz:PATH``, ``digits:source``
        (``train``, ``val``, ``test``), ``cifar10:train`` (``test``), ``package.module:function`` (called without
        arguments, returns a Split); the name of an existing folder, zip or npz without a prefix is understood, too.
        Shifts and subsets may follow.
    data_root : str, Path or None
        Where the data sets that have a name lie on this machine.

    Returns
    -------
    Split
        Its name is `spec`; for images and arrays by path the path alone.

    Raises
    ------
    UnknownName
        If there is no such data set, split or shift.
    BadInput
        If files are missing; the message says what to put where.

    Examples
    --------
    >>> len(load_split("digits:train+blur(1.0)"))
    358
    """
    base, made = spec, []
    while (found := SUFFIX.search(base)) is not None:
        base = base[: found.start()]
        made.append(_suffix(found))
    split = _base(base, None if data_root is None else Path(data_root))
    name = split.name + spec[len(base) :]
    for apply in reversed(made):
        split = apply(split)
    return replace(
        split, name=name
    )  # as it was typed: '+blur(1)' and '+blur(1.0)' are each found under what they were called


def shifted(split: Split, shift: DomainShift) -> Split:
    """Return the split whose images are shifted, after the shifts it has."""
    return replace(split, name=f"{split.name}+{shift}", transforms=(*split.transforms, shift))


def _suffix(found: re.Match[str]) -> Callable[[Split], Split]:
    from featstore.datasets.shifts import make_shift

    if found["shift"]:
        shift = make_shift(found["shift"], found["arguments"])
        return lambda split: shifted(split, shift)
    if found["side"]:
        side = ("rest", "held").index(found["side"])
        fraction, seed = float(found["fraction"]), int(found["holdout_seed"])
        return lambda split: split.holdout(fraction, seed=seed)[side]
    k, seed = int(found["k"]), int(found["draw_seed"])
    return lambda split: split.per_class(k, seed=seed)


def _base(spec: str, data_root: Path | None) -> Split:
    kind, colon, rest = spec.partition(":")
    if not colon or (kind not in KINDS and Path(spec).exists()):
        kind, rest = _kind_of_path(spec), spec
    if kind == "imagefolder":
        from featstore.datasets.folders import image_folder

        return image_folder(Path(rest), name=rest)
    if kind == "npz":
        from featstore.datasets.arrays import npz_split

        return npz_split(Path(rest), name=rest)
    if kind == "digits":
        from featstore.datasets.digits import digits

        return digits(rest)
    if kind == "cifar10":
        from featstore.datasets.cifar import cifar10

        return cifar10(rest, data_root)
    return _of_function(spec)


def _kind_of_path(spec: str) -> str:
    path = Path(spec)
    if path.is_dir() or (path.is_file() and path.suffix == ".zip"):
        return "imagefolder"
    if path.is_file() and path.suffix == ".npz":
        return "npz"
    if spec in KINDS:
        raise BadInput(f"'{spec}' alone does not say which split; write for example '{spec}:train'.")
    raise UnknownName("data set", spec, [f"{kind}:" for kind in KINDS], "No folder, zip or npz has that name, either.")


def _of_function(spec: str) -> Split:
    from featstore.naming import function_named
    from featstore.splits import Split

    split = function_named(spec, "kind of data set", KINDS)()
    if not isinstance(split, Split):
        raise BadInput(f"the function {spec} returned a {type(split).__name__}; it must return a featstore.Split.")
    return split
