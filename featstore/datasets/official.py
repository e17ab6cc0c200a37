"""What the loaders of official layouts share: finding the folder, reading its lists, refusing names that lead out of
it."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featstore.datasets.catalogue import Record
from featstore.errors import BadInput, BadLabels, MissingData

if TYPE_CHECKING:
    from featstore.splits import Samples, Split

__all__ = ["Wanted", "class_numbers", "inside", "numbered", "plain_folders", "read_lines", "read_table", "whole_number"]


MOST_CLASSES = 2**20
"""More names than these are not made up for classes that have only numbers."""


@dataclass(frozen=True)
class Wanted:
    """What a user asked for, checked against the record.

    Attributes
    ----------
    record : Record
    which : str
        One of ``record.splits``.
    variant : str
        One of ``record.variants``; empty where there are none.
    name : str
        As it was typed: the name of the split.
    data_root : Path or None
    """

    record: Record
    which: str
    variant: str
    name: str
    data_root: Path | None

    @property
    def root(self) -> Path:
        """The data root.

        Raises
        ------
        BadInput
            If none was given, or it is no folder.
        """
        if self.data_root is None:
            raise BadInput(
                f"'{self.name}' needs to know where the data are: give --data-root (data_root=…). "
                f"{self.record.instruction()}"
            )
        if not self.data_root.is_dir():
            raise MissingData(f"the data root {self.data_root} is not a folder. {self.record.instruction()}")
        return self.data_root

    def find(self, *folders: str, needs: Sequence[str]) -> Path | None:
        """Return the first of some folders below the root (``""`` is the root) that holds all that is needed."""
        for folder in folders:
            if all((self.root / folder / need).exists() for need in needs):
                return self.root / folder
        return None

    def place(self, *folders: str, needs: Sequence[str]) -> Path:
        """Return what `find` returns.

        Raises
        ------
        MissingData
            If there is no such folder; the message says what to put where.
        """
        found = self.find(*folders, needs=needs)
        if found is None:
            raise self.missing(needs)
        return found

    def missing(self, needs: Sequence[str] = ()) -> MissingData:
        """Return the error that says what to put where."""
        what = f" ({', '.join(needs)} not found)" if needs else ""
        return MissingData(f"no {self.record.title} is at {self.data_root}{what}. {self.record.instruction()}")

    def split(
        self, samples: Samples, ids: Sequence[str] | np.ndarray, labels: np.ndarray | None, classes: Sequence[str]
    ) -> Split:
        """Return the split, under the name that was typed and with the metric of the record.

        Raises
        ------
        BadInput
            If there are no samples.
        """
        from featstore.splits import Split

        if not len(ids):
            raise BadInput(
                f"'{self.name}' is empty: the lists of {self.record.title} at {self.data_root} name no images."
            )
        return Split(
            name=self.name,
            ids=np.asarray(ids, np.str_),
            labels=labels,
            classes=tuple(classes),
            samples=samples,
            metric=self.record.metric,
        )

    def files(
        self,
        folder: Path,
        names: Sequence[str],
        labels: Sequence[int] | np.ndarray,
        classes: Sequence[str],
    ) -> Split:
        """Return the split of image files: `names` are relative to `folder`, and are the ids."""
        from featstore.datasets.folders import FileSamples

        checked = [inside(name, folder) for name in names]
        return self.split(FileSamples(folder, checked), checked, np.asarray(labels), classes)


def inside(name: str, where: str | Path) -> str:
    """Return a name that a list or an archive gives, if it stays below the folder it belongs to.

    Raises
    ------
    BadInput
        If it is absolute, climbs with ``..`` (also as Windows would read it), or holds a NUL.
    """
    parts = re.split(r"[/\\]", name)  # what is one name here is a path on Windows
    if parts[0] == "" or ".." in parts or "\0" in name or re.match(r"[A-Za-z]:", name):
        raise BadInput(
            f"{name!r} leads out of {where}, to which it should belong; the list or archive was tampered with."
        )
    return name


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty, stripped.

    Raises
    ------
    BadInput
        If it is missing or no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BadInput(f"{path} is missing; unpack the archive again, or fetch the file that belongs there.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as text: {error}.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_table(path: Path, columns: Sequence[str], *, delimiter: str = ",") -> list[dict[str, str]]:
    """Return the rows of a table with a header.

    Raises
    ------
    BadInput
        If it is missing or lacks one of `columns`.
    """
    lines = read_lines(path)
    rows = list(csv.DictReader(lines, delimiter=delimiter))
    header = next(csv.reader(lines[:1], delimiter=delimiter), [])
    absent = [c for c in columns if c not in header]
    if absent:
        raise BadInput(f"{path} has the columns {', '.join(header)}, and {', '.join(absent)} is missing.")
    for number, row in enumerate(rows, 2):
        if any(row[c] is None for c in columns):
            raise BadInput(f"line {number} of {path} has fewer columns than its header.")
    return rows


def numbered(names: Sequence[str], classes: Sequence[str], where: str | Path) -> np.ndarray:
    """Return the class number of each name: (n,) int64.

    Raises
    ------
    BadLabels
        If a name is no class.
    """
    number = {c: k for k, c in enumerate(classes)}
    for name in names:
        if name not in number:
            raise BadLabels(
                f"{where} puts an image into the class '{name}', which is none of its {len(classes)} classes."
            )
    return np.fromiter((number[n] for n in names), np.int64, count=len(names))


def class_numbers(labels: np.ndarray, where: str | Path) -> tuple[str, ...]:
    """Return the class numbers as names, where classes have none: of labels (n,) or (n, k).

    Raises
    ------
    BadLabels
        If labels are so large that they can be no classes.
    """
    if labels.dtype.kind not in "iub" or not len(labels):
        return ()
    k = labels.shape[1] if labels.ndim == 2 else max(int(labels.max()) + 1, 0)
    if k > MOST_CLASSES:
        raise BadLabels(
            f"{where} has the label {k - 1}; classes are numbered from 0 on, at most to {MOST_CLASSES - 1}."
        )
    return tuple(str(c) for c in range(k))


def whole_number(text: str, where: str) -> int:
    """Return a whole number.

    Raises
    ------
    BadLabels
        If it is none.
    """
    try:
        return int(float(text)) if float(text).is_integer() else int(text)
    except (ValueError, OverflowError) as error:
        raise BadLabels(f"{where} gives the label '{text}', which is not a whole number.") from error


def plain_folders(wanted: Wanted, path: Path, n_classes: int) -> Split:
    """Return the images of one folder per class; nothing but the number of these tells a data set from any other there.

    Raises
    ------
    BadInput
        If it is another number.
    """
    from featstore.datasets.folders import image_folder

    found = image_folder(path, name=wanted.name)
    if len(found.classes) != n_classes:
        names = ", ".join(found.classes[:3]) + (" …" if len(found.classes) > 3 else "")
        raise BadInput(
            f"'{wanted.name}' has {n_classes} classes and {path} has {len(found.classes)} folders of them ({names}): it is "
            f"another data set. Load it as 'imagefolder:{path}', or give another --data-root. {wanted.record.instruction()}"
        )
    return wanted.split(found.samples, found.ids, found.labels, found.classes)
