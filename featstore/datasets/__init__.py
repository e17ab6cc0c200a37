"""Data sets by name: ``imagefolder:PATH``, ``npz:PATH``, ``webdataset:PATH``, ``parquet:PATH[:SPLIT]``; those of
`catalogue` as ``NAME:SPLIT[:VARIANT]`` (``digits:train``, ``cifar10:test``, ``dtd:val:2``);
``package.module:function``.

What may follow a name, any number of times, in the order in which it is applied::

    digits:train+blur(1.0)+rotate(30)              domain shifts, see `shifts`
    cct20:train+bgr()                              … of which the order of colours is one
    imagefolder:photos#rest(0.2,seed=0)            the two sides of `Split.holdout`
    imagefolder:photos#held(0.2,seed=0)
    cifar10:train#per_class(10,seed=0)             `Split.per_class`
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.datasets.catalogue import find_record, known_names
from featstore.errors import BadInput, MissingData, UnknownName

if TYPE_CHECKING:
    from featstore.datasets.catalogue import Record
    from featstore.datasets.official import Wanted
    from featstore.datasets.shifts import DomainShift
    from featstore.splits import Split

__all__ = ["load_split", "shifted"]

KINDS = ("imagefolder", "npz", "webdataset", "parquet")
BY_ENDING = {".zip": "imagefolder", ".npz": "npz", ".tar": "webdataset", ".parquet": "parquet"}
SUFFIX = re.compile(
    r"(?:\+(?P<shift>\w+)\((?P<arguments>[^()]*)\)"
    r"|#(?P<side>rest|held)\((?P<fraction>[\d.e-]+),seed=(?P<holdout_seed>-?\d+)\)"
    r"|#per_class\((?P<k>\d+),seed=(?P<draw_seed>-?\d+)\))$"
)


def load_split(spec: str, *, data_root: str | Path | None = None, download: bool = False) -> Split:
    """Return the split that a name stands for.

    Parameters
    ----------
    spec : str
        ``imagefolder:PATH`` (a folder, or a zip, of one folder of images per class), ``npz:PATH``, ``webdataset:PATH``
        (tar shards), ``parquet:PATH[:SPLIT]`` (as of Hugging Face), ``NAME:SPLIT[:VARIANT]`` of the catalogue
        (``featstore datasets``), ``package.module:function`` (called without arguments, returns a Split); an existing
        folder, zip, npz, tar or parquet without a prefix is understood, too. Shifts and subsets may follow.
    data_root : str, Path or None
        Where the data sets that have a name lie on this machine.
    download : bool
        Fetch what is missing into `data_root`, where torchvision knows how. Nothing is ever fetched without.

    Returns
    -------
    Split
        Its name is `spec`; for images and arrays by path the path alone.

    Raises
    ------
    UnknownName
        If there is no such data set, split or shift.
    MissingData
        If files are missing; the message says what to put where.
    BadInput
        If files are not what they should be.

    Examples
    --------
    >>> len(load_split("digits:train+blur(1.0)"))
    358
    """
    base, made = spec, []
    while (found := SUFFIX.search(base)) is not None:
        base = base[: found.start()]
        made.append(_suffix(found))
    split = _base(base, None if data_root is None else Path(data_root), download)
    name = split.name + spec[len(base) :]
    for apply in reversed(made):
        split = apply(split)
    return replace(split, name=name)  # as typed: '+blur(1)' and '+blur(1.0)' are found under what they were called


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


def _base(spec: str, data_root: Path | None, download: bool) -> Split:
    kind, colon, rest = spec.partition(":")
    if not colon or (kind not in (*KINDS, *known_names()) and Path(spec).exists()):
        kind, rest = _kind_of_path(spec), spec
    if kind == "imagefolder":
        from featstore.datasets.folders import image_folder

        return image_folder(Path(rest), name=rest)
    if kind == "npz":
        from featstore.datasets.arrays import npz_split

        return npz_split(Path(rest), name=rest)
    if kind == "webdataset":
        from featstore.datasets.shards import shard_split

        return shard_split(rest, name=rest)
    if kind == "parquet":
        from featstore.datasets.parquet import parquet_split

        path, _, which = (rest, "", "") if Path(rest).exists() else rest.rpartition(":")
        return parquet_split(Path(path or rest), name=rest, which=which or None)
    if kind in known_names():
        return _named(find_record(kind), rest, spec, data_root, download)
    return _of_function(spec)


def _named(record: Record, rest: str, spec: str, data_root: Path | None, download: bool) -> Split:
    """Return a split of the catalogue, fetched first if it is missing and the user asked for that."""
    from featstore.datasets.official import Wanted

    which, _, variant = rest.partition(":")
    if which not in record.splits:
        raise UnknownName(f"split of {record.name}", which, record.splits)
    if variant and not record.variants:
        raise BadInput(f"'{spec}' has a third part, and {record.name} has no variants; write '{record.name}:{which}'.")
    if variant and variant not in record.variants:
        raise UnknownName(f"variant of {record.name} ({record.variant_of})", variant, record.variants)
    wanted = Wanted(record, which, variant or (*record.variants, "")[0], spec, data_root)
    module, _, function = record.loader.partition(":")
    load: Callable[[Wanted], Split] = getattr(importlib.import_module(f"featstore.datasets.{module}"), function)
    try:
        return load(wanted)
    except MissingData:
        if not download:
            raise
    from featstore.datasets.downloads import download as fetch

    fetch(record, wanted.root)
    return load(wanted)


def _kind_of_path(spec: str) -> str:
    path = Path(spec)
    if path.is_dir():
        return "imagefolder"
    if path.is_file() and path.suffix in BY_ENDING:
        return BY_ENDING[path.suffix]
    if spec in known_names():
        raise BadInput(f"'{spec}' alone does not say which split; write for example '{spec}:train'.")
    raise UnknownName(
        "data set",
        spec,
        [f"{kind}:" for kind in (*KINDS, *known_names())],
        "No folder, zip or npz has that name, either.",
    )


def _of_function(spec: str) -> Split:
    from featstore.naming import function_named
    from featstore.splits import Split

    split = function_named(spec, "kind of data set", (*KINDS, *known_names()))()
    if not isinstance(split, Split):
        raise BadInput(f"the function {spec} returned a {type(split).__name__}; it must return a featstore.Split.")
    return split
