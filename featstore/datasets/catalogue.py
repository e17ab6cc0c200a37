"""The data sets that have a name: what each is, what it is measured by, where it comes from, what goes wrong with it.

A `Record` is data only; `featstore.datasets.records` has one for each data set, and the loader that it names knows the
files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from featstore.errors import UnknownName

__all__ = ["Protocol", "Record", "find_record", "known_names", "records"]


@dataclass(frozen=True)
class Protocol:
    """Which splits the papers fit, select, refit and report on, as they are typed after ``NAME:``.

    Attributes
    ----------
    train, val : str
        Hyper-parameters are chosen by fitting the one and scoring the other.
    refit : str
        What is fitted with the chosen ones.
    test : str
        What is reported.
    rule : str
        Whose rule it is, in words.
    """

    train: str
    val: str
    refit: str
    test: str
    rule: str


@dataclass(frozen=True)
class Record:
    """One data set.

    Attributes
    ----------
    name : str
        What is typed.
    title : str
        What people call it.
    papers : tuple of str
        Which of the studies use it.
    sizes : mapping
        Split -> number of images as published; splits whose size nobody published are missing.
    n_classes : int
    metric : str
        A name in `probe.metrics`.
    protocol : Protocol
    splits : tuple of str
        What may stand after ``NAME:``.
    layout : str
        What must lie below the data root: a sentence that begins with "Put there".
    source : str
        Where to get it, in words.
    licence : str
    loader : str
        ``module:function`` below ``featstore.datasets``.
    variants : tuple of str
        What may stand after ``NAME:SPLIT:``; the first is meant where nothing does.
    variant_of : str
        What the variants are, in words.
    is_multi_label : bool
    can_download : bool
        Whether torchvision knows a place that has worked, and the checksum.
    traps : tuple of str
        What has gone wrong for others, and what is done about it here.
    """

    name: str
    title: str
    papers: tuple[str, ...]
    sizes: Mapping[str, int]
    n_classes: int
    metric: str
    protocol: Protocol
    splits: tuple[str, ...]
    layout: str
    source: str
    licence: str
    loader: str
    variants: tuple[str, ...] = ()
    variant_of: str = ""
    is_multi_label: bool = False
    can_download: bool = False
    traps: tuple[str, ...] = field(default=())

    def instruction(self) -> str:
        """Return what to do where it is missing: two or three sentences."""
        if not self.layout:
            return "It needs no files."
        more = " Or let torchvision fetch it: add --download (in Python: download=True)." if self.can_download else ""
        return f"{self.layout} {self.source}{more}"

    def to_json(self) -> dict[str, Any]:
        """Return everything but the loader as text and numbers."""
        found = asdict(self)
        del found["loader"]
        return found | {"sizes": dict(self.sizes)}


def records() -> tuple[Record, ...]:
    """Return every record, in the order of the papers."""
    from featstore.datasets.records import ALL

    return ALL


def known_names() -> tuple[str, ...]:
    """Return the names of all records."""
    return tuple(record.name for record in records())


def find_record(name: str) -> Record:
    """Return the record of a name.

    Raises
    ------
    UnknownName
        With the nearest known names.
    """
    for record in records():
        if record.name == name:
            return record
    raise UnknownName("data set", name, known_names())
