"""Two splits as one: what the best recipe is trained on in the end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.errors import BadInput

if TYPE_CHECKING:
    from featstore import Samples, Split


@dataclass(frozen=True)
class _Both:
    """The samples of one split, then those of another."""

    first: Samples
    second: Samples

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def _of(self, i: int) -> tuple[Samples, int]:
        n = len(self.first)
        return (self.first, i) if i < n else (self.second, i - n)

    def read(self, i: int) -> bytes | np.ndarray:
        samples, i = self._of(i)
        return samples.read(i)

    def describe(self, i: int) -> str:
        samples, i = self._of(i)
        return samples.describe(i)

    def stat(self, i: int) -> tuple[int, ...] | None:
        samples, i = self._of(i)
        return samples.stat(i)


def joined(first: Split, second: Split) -> Split:
    """All samples of two splits with the same classes and shifts, those of the first before those of the second.

    Raises
    ------
    BadInput
        Splits that share ids, or differ in classes, in their kind of labels, or in shifts.
    """
    shared = np.intersect1d(first.ids, second.ids)
    problems = []
    if len(shared):
        problems.append(f"{len(shared)} ids are in both, '{shared[0]}' for one.")
    if first.classes != second.classes:
        problems.append("their classes differ.")
    if _shifts(first) != _shifts(second):
        problems.append("they are shifted differently.")
    if first.labels is None or second.labels is None or first.labels.shape[1:] != second.labels.shape[1:]:
        problems.append("their labels are not of one kind.")
    if problems:
        raise BadInput.of(f"'{first.name}' and '{second.name}' as one split", problems)
    return replace(
        first,
        name=f"{first.name} and {second.name}",
        ids=np.concatenate([first.ids, second.ids]),
        labels=np.concatenate([first.labels, second.labels]),
        samples=_Both(first.samples, second.samples),
    )


def _shifts(split: Split) -> list[tuple[str, dict[str, Any]]]:
    """What identifies the shifts of a split: two that are made alike are the same, whichever objects they are."""
    return [(shift.name, dict(shift.params)) for shift in split.transforms]
