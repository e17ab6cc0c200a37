"""Tar shards as WebDataset writes them: files of one sample lie together and share a name up to the first dot.

Nothing is unpacked: the headers are read once, images then straight from where they lie in the shard.
"""

from __future__ import annotations

import glob
import io
import json
import os
import re
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.datasets.folders import IMAGE_SUFFIXES, MAX_MEMBER_BYTES, stat_of
from featstore.datasets.official import class_numbers, inside, read_lines
from featstore.errors import BadInput, BadLabels, MissingData, UnreadableImage
from featstore.progress import bar

if TYPE_CHECKING:
    from featstore.splits import Split

__all__ = ["ShardSamples", "shard_split"]

LABELS = ("cls", "npy", "json")
"""Fields that may hold a sample's label: a number as text; 0 and 1 per class; an object with a 'label'."""
MAX_LABEL_BYTES = 2**20
SILENT_SHARDS = 8
"""More than these are listed with a bar: a header takes 50 µs, and a large data set has millions."""
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass
class _Sample:
    """Where the image of one sample lies, and what its label fields hold."""

    key: str
    shard: int
    images: dict[str, tuple[int, int]] = field(default_factory=dict)
    labels: dict[str, bytes] = field(default_factory=dict)


class _Handle:
    """A file descriptor that is closed when nobody needs it any more."""

    def __init__(self, path: Path) -> None:
        self.path, self.fd = path, os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


class ShardSamples:
    """Images inside tar files.

    Parameters
    ----------
    shards : list of Path
    where : numpy.ndarray
        (n, 3) int64: number of the shard, first byte, length.
    names : list of str
        Of the members.
    """

    def __init__(self, shards: list[Path], where: np.ndarray, names: list[str]) -> None:
        self.shards, self.where, self.names = shards, where, names
        self._open = threading.local()  # each thread keeps the shard it reads open: reading is nearly sequential

    def __reduce__(self) -> tuple[object, ...]:
        return ShardSamples, (
            [shard.absolute() for shard in self.shards],
            self.where,
            self.names,
        )  # open files cannot be sent to another process

    def __len__(self) -> int:
        return len(self.where)

    def read(self, i: int) -> bytes:
        shard, start, length = self.where[i].tolist()
        try:
            handle: _Handle | None = getattr(self._open, "handle", None)
            if handle is None or handle.path != self.shards[shard]:
                handle = self._open.handle = _Handle(self.shards[shard])
            found = os.pread(handle.fd, length, start)
        except OSError as error:
            raise UnreadableImage(f"{self.describe(i)} cannot be read: {error.strerror or error}.") from error
        if len(found) != length:
            raise UnreadableImage(f"{self.describe(i)} cannot be read: the shard ends in the middle of it.")
        return found

    def describe(self, i: int) -> str:
        return f"{self.shards[int(self.where[i, 0])]}/{self.names[i]}"

    def stat(self, i: int) -> tuple[int, ...] | None:
        return stat_of(self.shards[int(self.where[i, 0])])


def shard_split(pattern: str, *, name: str) -> Split:
    """Return the images of tar shards.

    Labels are the fields ``cls`` (a number as text), ``json`` (an object with ``label`` or ``cls``) or ``npy`` (0 and 1
    per class); class names are the lines of ``classnames.txt`` beside the shards or one folder up. Ids are the shard's
    name and the sample's key.

    Parameters
    ----------
    pattern : str
        A tar file; a folder of them; ``shards-{000..012}.tar``; or a pattern with ``*``.
    name : str
        Of the split.

    Raises
    ------
    MissingData
        If there is no shard.
    BadInput
        If a shard is no plain tar file, holds names that lead out of it, or samples without exactly one image.
    BadLabels
        If some samples have labels and some have none, or labels are not what they should be.
    """
    from featstore.splits import Split

    shards = _expand(pattern)
    samples: list[_Sample] = []
    with bar(len(shards), f"listing {name}", shown=len(shards) > SILENT_SHARDS, unit="shards") as shown:
        for number, shard in enumerate(shards):
            samples += _scan(shard, number)
            shown.update()
    if not samples:
        raise BadInput(f"{pattern} holds no images: no member ends in {', '.join(IMAGE_SUFFIXES)}.")
    chosen = [(s, _image_field(s, shards[s.shard])) for s in samples]
    where = np.array([(s.shard, *s.images[kind]) for s, kind in chosen], np.int64)
    labels = _labels(samples, shards)
    classes = _class_names(shards[0].parent, labels)
    ids = np.array([f"{shards[s.shard].stem}/{s.key}" for s in samples], np.str_)
    names = [f"{s.key}.{kind}" for s, kind in chosen]
    return Split(name, ids, labels, classes, ShardSamples(shards, where, names))


def _expand(pattern: str) -> list[Path]:
    found = BRACES.search(pattern)
    if Path(pattern).is_dir():
        paths = sorted(Path(pattern).glob("*.tar"))
    elif found:
        first, last = found.groups()
        names = [f"{k:0{len(first)}d}" for k in range(int(first), int(last) + 1)]
        paths = [Path(pattern[: found.start()] + n + pattern[found.end() :]) for n in names]
    else:
        paths = [Path(p) for p in sorted(glob.glob(pattern))] or [Path(pattern)]
    absent = [p for p in paths if not p.is_file()]
    if absent or not paths:
        raise MissingData(
            f"there is no tar shard at {absent[0] if absent else pattern}; give a tar file or a folder of them."
        )
    return paths


def _scan(shard: Path, number: int) -> Iterator[_Sample]:
    """Yield the samples of a shard, in order; files of one sample follow one another."""
    current: _Sample | None = None
    keys: set[str] = set()
    for key, kind, start, content, length in _members(shard):
        if current is None or key != current.key:
            if current is not None:
                yield current
            if key in keys:
                raise BadInput(f"{shard} has files of sample '{key}' in two places; they must follow one another.")
            keys.add(key)
            current = _Sample(key, number)
        if content is None:
            current.images[kind] = (start, length)
        else:
            current.labels[kind] = content
    if current is not None:
        yield current


def _members(shard: Path) -> Iterator[tuple[str, str, int, bytes | None, int]]:
    """Yield (key, field, first byte, content of a label or None, length) of the members that matter."""
    try:
        # "r:" takes plain tar files only: in a compressed one no image could be found without unpacking all before it
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                base, dot, kind = member.name.rpartition("/")[2].partition(".")
                if not member.isreg() or member.issparse() or not dot or not base:
                    continue
                key = inside(member.name[: len(member.name) - len(kind) - 1], shard)
                kind = kind.lower()
                if f".{kind}".endswith(IMAGE_SUFFIXES):
                    if member.size > MAX_MEMBER_BYTES:
                        raise BadInput(
                            f"{shard}/{member.name} has {member.size} bytes; no image has more than {MAX_MEMBER_BYTES}."
                        )
                    yield key, kind, member.offset_data, None, member.size
                elif kind in LABELS and member.size <= MAX_LABEL_BYTES:
                    opened = archive.extractfile(member)
                    yield key, kind, member.offset_data, opened.read() if opened else b"", member.size
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BadInput(
            f"{shard} is not a plain tar file that can be read: {error}. A compressed one must be unpacked to .tar first."
        ) from error


def _image_field(sample: _Sample, shard: Path) -> str:
    """Return which field is the image; ``jpg`` goes before ``seg.png``."""
    plain = [kind for kind in sample.images if "." not in kind]
    kinds = plain or list(sample.images)
    if len(kinds) != 1:
        what = f"{len(kinds)} images ({', '.join(kinds)})" if kinds else "a label and no image"
        raise BadInput(f"sample '{sample.key}' of {shard} has {what}; one is needed.")
    return kinds[0]


def _labels(samples: list[_Sample], shards: list[Path]) -> np.ndarray | None:
    kind = next((k for k in LABELS if any(k in s.labels for s in samples)), None)
    if kind is None:
        return None
    found = []
    for s in samples:
        where = f"sample '{s.key}' of {shards[s.shard]}"
        if kind not in s.labels:
            raise BadLabels(f"{where} has no label '.{kind}', and other samples have one.")
        found.append(_label(kind, s.labels[kind], where))
    if len({np.shape(v) for v in found}) > 1:
        raise BadLabels(f"the labels of {shards[0].parent} differ in their number of classes.")
    return np.array(found)


def _label(kind: str, content: bytes, where: str) -> Any:
    try:
        if kind == "cls":
            return int(content.decode().strip())
        if kind == "npy":
            return np.load(io.BytesIO(content), allow_pickle=False).reshape(-1).astype(np.uint8)
        value = json.loads(content)
        return int(value["label"] if "label" in value else value["cls"])
    except (ValueError, KeyError, TypeError, EOFError, OSError) as error:
        raise BadLabels(f"the label '.{kind}' of {where} cannot be read: {error}.") from error


def _class_names(folder: Path, labels: np.ndarray | None) -> tuple[str, ...]:
    if labels is None:
        return ()
    for path in (folder / "classnames.txt", folder.parent / "classnames.txt"):
        if path.is_file():
            return tuple(read_lines(path))
    return class_numbers(labels, folder)
