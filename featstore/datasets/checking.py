"""Is every image of a split readable, and is none of them there twice, here or in the splits it is compared with?

Two images are the same when their decoded pixels are: a copy in another folder, under another name or recompressed
without loss is found; one that was resized or compressed again with loss is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.errors import BadInput, FeatstoreError, UnreadableImage
from featstore.loading import default_workers
from featstore.preprocessing import Preprocessing
from featstore.progress import bar, say

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from featstore.splits import Split

__all__ = ["Check", "Duplicate", "check_split", "splits_beside"]

GROUP = 64


@dataclass(frozen=True)
class Duplicate:
    """An image that is there more than once.

    Attributes
    ----------
    ids : tuple of str
        In the split that was checked; one, if its copies are elsewhere.
    elsewhere : tuple of (str, str)
        Split and id of the copies in other splits.
    labels : tuple of str
        Names of the classes that the copies have, where they differ.
    """

    ids: tuple[str, ...]
    elsewhere: tuple[tuple[str, str], ...] = ()
    labels: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it as one line."""
        copies = [*self.ids, *(f"{name} {other}" for name, other in self.elsewhere)]
        differ = f" (labelled {' and '.join(self.labels)})" if self.labels else ""
        return " = ".join(copies) + differ


@dataclass(frozen=True)
class Check:
    """What was found in a split.

    Attributes
    ----------
    name : str
    n : int
        Images.
    per_class : mapping
        Class -> number of images.
    modes : mapping
        Mode of the decoded images, as PIL calls them -> number of images.
    unreadable : tuple of (str, str)
        Id and reason.
    within : tuple of Duplicate
        Images that are more than once in the split.
    across : tuple of Duplicate
        Images that are also in another split.
    compared : tuple of str
        The other splits.
    """

    name: str
    n: int
    per_class: dict[str, int]
    modes: dict[str, int]
    unreadable: tuple[tuple[str, str], ...]
    within: tuple[Duplicate, ...]
    across: tuple[Duplicate, ...]
    compared: tuple[str, ...]

    @property
    def empty_classes(self) -> tuple[str, ...]:
        """Classes without an image."""
        return tuple(c for c, n in self.per_class.items() if n == 0)

    @property
    def is_clean(self) -> bool:
        """Whether everything is readable, no class is empty, and nothing is there twice."""
        return not (self.unreadable or self.within or self.across or self.empty_classes)

    def to_json(self) -> dict[str, Any]:
        """Return everything as text and numbers."""
        return {
            "name": self.name,
            "n": self.n,
            "is_clean": self.is_clean,
            "per_class": self.per_class,
            "empty_classes": list(self.empty_classes),
            "modes": self.modes,
            "unreadable": [{"id": i, "reason": why} for i, why in self.unreadable],
            "duplicates": [{"ids": list(d.ids), "labels": list(d.labels)} for d in self.within],
            "duplicates_across": [
                {"id": d.ids[0], "elsewhere": [{"split": s, "id": i} for s, i in d.elsewhere], "labels": list(d.labels)}
                for d in self.across
            ],
            "compared_with": list(self.compared),
        }


@dataclass(frozen=True)
class _Looked:
    """What one image is: a digest of its pixels and its mode, or why it cannot be read."""

    digest: bytes = b""
    mode: str = ""
    reason: str = ""


def check_split(
    split: Split, others: Sequence[Split] = (), *, workers: int | None = None, progress: bool = True
) -> Check:
    """Decode every image of a split, and of the splits it is compared with.

    The same file in two splits is not a duplicate: ``trainval`` holds ``train`` by definition. Nor is one file under two
    ids.

    Parameters
    ----------
    split : Split
    others : sequence of Split
    workers : int or None
        Threads; None takes the cores, at most 16.
    progress : bool
        Show bars on stderr.
    """
    if workers is not None and workers < 1:
        raise BadInput(f"workers is {workers}; at least one thread must decode.")
    workers = workers or default_workers()
    looked = _look(split, workers, progress)
    rows: dict[bytes, list[int]] = {}
    for i, found in enumerate(looked):
        if not found.reason:
            rows.setdefault(found.digest, []).append(i)
    elsewhere: dict[bytes, list[tuple[Split, int]]] = {}
    here = {split.samples.describe(i) for i in range(len(split))}
    for other in others:
        for i, found in enumerate(_look(other, workers, progress)):
            if found.digest in rows and other.samples.describe(i) not in here:
                elsewhere.setdefault(found.digest, []).append((other, i))
    modes: dict[str, int] = {}
    for found in looked:
        if not found.reason:
            modes[found.mode] = modes.get(found.mode, 0) + 1
    return Check(
        name=split.name,
        n=len(split),
        per_class=_per_class(split),
        modes=modes,
        unreadable=tuple((str(split.ids[i]), found.reason) for i, found in enumerate(looked) if found.reason),
        within=tuple(_duplicate(split, same) for same in rows.values() if _is_several(split, same)),
        across=tuple(_duplicate(split, rows[digest][:1], copies) for digest, copies in elsewhere.items()),
        compared=tuple(other.name for other in others),
    )


def splits_beside(spec: str, *, data_root: str | Path | None = None) -> tuple[Split, ...]:
    """Return the other splits that a data set's papers fit, select and report on; those that are there.

    Parameters
    ----------
    spec : str
        As for `load_split`; what is not in the catalogue has no others.
    data_root : str, Path or None
    """
    from featstore.datasets import load_split
    from featstore.datasets.catalogue import find_record, known_names

    base = spec.partition("+")[0].partition("#")[0]
    name, _, rest = base.partition(":")
    if name not in known_names():
        return ()
    protocol = find_record(name).protocol
    _, colon, variant = rest.partition(":")
    sides = [p.partition("#")[0] for p in (protocol.train, protocol.val, protocol.refit, protocol.test)]
    found = []
    for other in dict.fromkeys(f"{name}:{side}{colon}{variant}" for side in sides):
        if other == spec:
            continue
        try:
            found.append(load_split(other, data_root=data_root))
        except FeatstoreError as error:
            say(f"not compared with '{other}': {error}")
    return tuple(found)


def _is_several(split: Split, rows: list[int]) -> bool:
    """Return whether rows are several files, and not one that is several samples, as CCT-20 has them."""
    return len(rows) > 1 and len({split.samples.describe(i) for i in rows}) > 1


def _look(split: Split, workers: int, progress: bool) -> list[_Looked]:
    """Decode every image of a split, groups of them in threads."""
    found: list[_Looked] = []
    groups = (range(a, min(a + GROUP, len(split))) for a in range(0, len(split), GROUP))
    with (
        bar(len(split), f"checking {split.name}", shown=progress) as shown,
        ThreadPoolExecutor(workers, thread_name_prefix="featstore-check") as pool,
    ):
        try:
            for part in pool.map(lambda rows: [_look_at(split, i) for i in rows], groups):
                found += part
                shown.update(len(part))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C must not wait for a million images
    return found


def _look_at(split: Split, i: int) -> _Looked:
    try:
        image = split.image(i)
    except UnreadableImage as error:
        return _Looked(reason=str(error))
    except (OSError, ValueError) as error:  # PIL finds some damage only when it decodes
        return _Looked(reason=f"{split.samples.describe(i)} does not decode to an image: {error}.")
    try:
        plain = Preprocessing((image.height, image.width), (0.0,) * 3, (1.0,) * 3)
        plain.pixels(image)  # what every extraction does first, and may refuse
        return _Looked(_pixel_digest(image), image.mode)
    except UnreadableImage as error:
        return _Looked(reason=f"{split.samples.describe(i)}: {error}")
    except (OSError, ValueError) as error:  # PIL finds some damage only when it converts
        return _Looked(reason=f"{split.samples.describe(i)} does not decode to an image: {error}.")


def _pixel_digest(image: Image.Image) -> bytes:
    """Return 16 bytes of the sha256 of size and pixels; a grey image and its copy in colour are the same."""
    if image.mode in ("1", "L", "P", "CMYK", "YCbCr") and "transparency" not in image.info:
        image = image.convert("RGB")
    kind = image.mode if image.mode not in ("RGB", "RGBA", "LA", "PA", "P", "L") else "RGBA"
    if kind == "RGBA":
        image = image.convert("RGBA")
    pixels = np.ascontiguousarray(np.asarray(image))
    head = f"{kind}{image.size}\0".encode()
    return hashlib.sha256(head + pixels.tobytes()).digest()[:16]


def _duplicate(split: Split, rows: list[int], copies: Sequence[tuple[Split, int]] = ()) -> Duplicate:
    labels = [_label(split, i) for i in rows] + [_label(other, i) for other, i in copies]
    different = tuple(dict.fromkeys(labels)) if len(set(labels)) > 1 else ()
    return Duplicate(
        tuple(str(split.ids[i]) for i in rows), tuple((other.name, str(other.ids[i])) for other, i in copies), different
    )


def _label(split: Split, i: int) -> str:
    if split.labels is None:
        return "nothing"
    if split.labels.ndim == 1:
        return split.class_name(int(split.labels[i]))
    return "+".join(split.class_name(int(c)) for c in np.flatnonzero(split.labels[i])) or "nothing"


def _per_class(split: Split) -> dict[str, int]:
    """Return how many images each class has; of a multi-label split, how many have it and not as difficult."""
    if split.labels is None:
        return {}
    if split.labels.ndim == 2:
        counts = (split.labels == 1).sum(axis=0)
    else:
        counts = np.bincount(split.labels, minlength=len(split.classes))
    return {split.class_name(k): int(n) for k, n in enumerate(counts)}
