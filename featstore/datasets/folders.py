"""Folders of images, one folder per class, on disk or inside a zip archive."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from featstore.datasets.official import inside
from featstore.errors import BadInput, UnreadableImage

if TYPE_CHECKING:
    from featstore.splits import Split

__all__ = ["IMAGE_SUFFIXES", "MAX_MEMBER_BYTES", "FileSamples", "ZipSamples", "image_folder", "read_file", "stat_of"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
MAX_MEMBER_BYTES = 2**28
"""A member of a zip that unpacks to more is no photograph; a zip can claim, and hold, petabytes."""


def read_file(path: Path) -> bytes:
    """Return a file's bytes; one that cannot be read is an `UnreadableImage`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{path} cannot be read: {error.strerror or error}.") from error


def stat_of(path: Path) -> tuple[int, ...] | None:
    """Return what a file looks like from outside: size, mtime and ctime in ns, inode; None where it cannot be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


class FileSamples:
    """Image files below a folder.

    Parameters
    ----------
    root : Path
    names : list of str
        Relative to `root`, with forward slashes.
    """

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root, self.names = root, names

    def __reduce__(self) -> tuple[object, ...]:
        return FileSamples, (self.root.absolute(), self.names)  # another process may run in another folder

    def __len__(self) -> int:
        return len(self.names)

    def read(self, i: int) -> bytes:
        return read_file(self.root / self.names[i])

    def describe(self, i: int) -> str:
        return str(self.root / self.names[i])

    def stat(self, i: int) -> tuple[int, ...] | None:
        return stat_of(self.root / self.names[i])


class ZipSamples:
    """Members of a zip archive; nothing is unpacked to disk.

    Parameters
    ----------
    path : Path
    names : list of str
        Of the members.
    """

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path, self.names = path, names
        self._archive = zipfile.ZipFile(path)  # reading members is safe from several threads

    def __reduce__(self) -> tuple[object, ...]:
        return ZipSamples, (self.path.absolute(), self.names)  # an open archive cannot be sent to another process

    def __len__(self) -> int:
        return len(self.names)

    def read(self, i: int) -> bytes:
        try:
            if self._archive.getinfo(self.names[i]).file_size > MAX_MEMBER_BYTES:
                raise UnreadableImage(f"{self.describe(i)} unpacks to more than {MAX_MEMBER_BYTES} bytes.")
            return self._archive.read(self.names[i])
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError) as error:
            raise UnreadableImage(f"{self.describe(i)} cannot be read: {error}.") from error

    def describe(self, i: int) -> str:
        return f"{self.path}/{self.names[i]}"

    def stat(self, i: int) -> tuple[int, ...] | None:
        return stat_of(self.path)  # what is inside cannot change without the archive


def image_folder(path: Path, *, name: str) -> Split:
    """Return the images of a folder, or zip archive, of class folders.

    Classes are the names of the top folders in order; images may lie deeper. A zip whose only top folder holds the
    class folders is understood. Images that lie in no class folder make a split without labels, if there are no others.

    Parameters
    ----------
    path : Path
    name : str
        Of the split.

    Raises
    ------
    BadInput
        If there is nothing at `path`, no image in it, or a class without images.
    """
    from featstore.splits import Split

    if path.is_dir():
        found, folders = _list_folder(path)
    elif path.is_file():
        found, folders = _list_zip(path)
    else:
        raise BadInput(f"there is no folder of images at {path}: it does not exist.")
    prefix = _wrapping_folder(found) if path.is_file() else ""
    ids = sorted(member.removeprefix(prefix) for member in found)
    if not ids:
        raise BadInput(f"{path} holds no images: no file in it ends in {', '.join(IMAGE_SUFFIXES)}.")
    members = [prefix + member for member in ids]
    samples = FileSamples(path, members) if path.is_dir() else ZipSamples(path, members)
    labels, classes = _labels(path, ids, folders)
    return Split(name=name, ids=np.array(ids, np.str_), labels=labels, classes=classes, samples=samples)


def _labels(path: Path, ids: list[str], folders: list[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    tops = [i.partition("/")[0] if "/" in i else None for i in ids]
    loose = [i for i, top in zip(ids, tops, strict=True) if top is None]
    if len(loose) == len(ids):
        return None, ()
    if loose:
        raise BadInput(
            f"{len(loose)} images of {path} lie in no class folder ('{loose[0]}') and {len(ids) - len(loose)} do; "
            "put each into the folder of its class, or into another folder than these."
        )
    classes = sorted({top for top in tops if top is not None})
    empty = sorted(set(folders) - set(classes))
    if empty:
        raise BadInput(
            f"the class folders {', '.join(repr(e) for e in empty[:5])} of {path} hold no images; fill or remove "
            "them: class numbers depend on which folders there are."
        )
    number = {c: k for k, c in enumerate(classes)}
    return np.array([number[str(top)] for top in tops], np.int64), tuple(classes)


def _is_image(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name.lower().endswith(IMAGE_SUFFIXES) and not any(p.startswith(".") or p == "__MACOSX" for p in parts)


def _list_folder(root: Path) -> tuple[list[str], list[str]]:
    """Return the images below a folder and the names of its folders."""
    found = []
    above: dict[str, frozenset[str]] = {}
    for folder, inner, files in os.walk(root, followlinks=True):
        real, around = os.path.realpath(folder), above.get(os.path.dirname(folder), frozenset())
        if real in around:  # a link that leads back up would be followed for ever
            inner.clear()
            continue
        above[folder] = around | {real}
        inner[:] = sorted(d for d in inner if not d.startswith("."))
        relative = Path(folder).relative_to(root)
        found += [(relative / file).as_posix() for file in files]
    tops = [p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    return [f for f in found if _is_image(f)], tops


def _list_zip(path: Path) -> tuple[list[str], list[str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise BadInput(f"{path} is not a zip archive that can be read: {error}.") from error
    return [m for m in [inside(m, path) for m in members] if _is_image(m)], []


def _wrapping_folder(members: list[str]) -> str:
    """Return ``"name/"`` where all images lie at least two folders deep in one top folder."""
    tops = {m.partition("/")[0] for m in members}
    return f"{tops.pop()}/" if len(tops) == 1 and all(m.count("/") >= 2 for m in members) else ""
