"""Removing matrices, and what interrupted work has left; never what is in use.

In use is what a process writes (it holds the lock of the pass) and what a process has opened (it holds a lock on the array,
see `featstore.holding`). A matrix leaves the sight of readers by one rename, before its files are deleted.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.errors import NotStored, StoreBusy
from featstore.files import PARTIAL, write_errors
from featstore.finding import folders_in
from featstore.holding import claim
from featstore.locking import locked
from featstore.passes import PassFolder

if TYPE_CHECKING:
    from featstore.entries import Entry
    from featstore.store import Store

__all__ = ["Collected", "collect_garbage", "remove"]


@dataclass(frozen=True)
class Collected:
    """What was removed, and what was left because it is in use.

    Attributes
    ----------
    n_bytes : int
        Freed.
    n_files : int
    busy : tuple of str
        One sentence for each pass that somebody writes.
    """

    n_bytes: int
    n_files: int
    busy: tuple[str, ...] = ()


def remove(store: Store, entries: Sequence[Entry]) -> Collected:
    """Remove matrices from a store: all of them, or none where one is in use; see `Store.remove`."""
    store.refuse_if_remote("removed from")
    by_pass: dict[str, list[Entry]] = {}
    for entry in entries:
        by_pass.setdefault(entry.pass_id, []).append(entry)
    n_files = n_bytes = 0
    with ExitStack() as held, write_errors(store.root):
        chosen: list[tuple[PassFolder, Path]] = []
        for pass_id, wanted in by_pass.items():
            folder = PassFolder(store.root, pass_id)
            held.enter_context(locked(folder, 0))
            for entry in wanted:
                paths = [p for p in _places(folder, entry) if p.is_dir()]
                if not paths:
                    raise NotStored(f"unit '{entry.unit}' of pass {pass_id} is not in {store.root} any more.")
                for path in paths:
                    what = f"unit '{entry.unit}' of {entry.backbone} over '{entry.split}' in {store.root}"
                    held.callback(os.close, claim(path, what))
                    chosen.append((folder, path))
        aside = [_set_aside(folder, path) for folder, path in chosen]
        for folder in {folder.id: folder for folder, _ in chosen}.values():
            aside += _descriptions(folder)
        for path in aside:
            size = _delete(path)
            n_files, n_bytes = n_files + size[0], n_bytes + size[1]
    return Collected(n_bytes, n_files)


def collect_garbage(store: Store, *, incomplete: bool = False) -> Collected:
    """Remove what nothing refers to; see `Store.collect_garbage`."""
    store.refuse_if_remote("removed from")
    n_files = n_bytes = 0
    busy: list[str] = []
    with write_errors(store.root):
        for folder in folders_in(store.root):
            try:
                with locked(folder, 0):
                    aside = list(_partials(folder.path))
                    if incomplete:
                        staged = folder.path / "staging"
                        aside += [_set_aside(folder, staged)] if staged.is_dir() else []
                    aside += _descriptions(folder)
                    for path in aside:
                        size = _delete(path)
                        n_files, n_bytes = n_files + size[0], n_bytes + size[1]
            except StoreBusy as error:
                busy.append(str(error))
    return Collected(n_bytes, n_files, tuple(busy))


def _places(folder: PassFolder, entry: Entry) -> list[Path]:
    """Return where the files of an entry may be; of a pass that is damaged as a whole, all its arrays."""
    if entry.array_id:
        return [folder.array_path(entry.array_id), folder.staging_path(entry.array_id)]
    return [folder.array_path(i) for i in folder.array_ids()] + [
        folder.staging_path(i) for i in folder.array_ids("staging")
    ]


def _set_aside(folder: PassFolder, path: Path) -> Path:
    """Take a folder out of everybody's sight by one rename, and return where it is."""
    aside = folder.path / f"removed.{uuid.uuid4().hex[:12]}{PARTIAL}"
    path.rename(aside)
    return aside


def _descriptions(folder: PassFolder) -> list[Path]:
    """Return the files that describe a pass, if it has no array any more; its lock stays, for somebody may wait for it."""
    if folder.array_ids() or folder.array_ids("staging"):
        return []
    names = ("key.json", "split.json", "samples.npz", "targets", "arrays", "staging")
    return [folder.path / name for name in names if (folder.path / name).exists()]


def _partials(path: Path) -> Iterator[Path]:
    """Yield what killed writers left, the outermost of what lies within one another."""
    for inner in path.iterdir():
        if inner.name.endswith(PARTIAL):
            yield inner
        elif inner.is_dir() and not inner.is_symlink():
            yield from _partials(inner)


def _delete(path: Path) -> tuple[int, int]:
    """Delete a file or a folder; return how many files and bytes that were."""
    files = [p for p in (path.rglob("*") if path.is_dir() else (path,)) if p.is_file()]
    n_bytes = sum(p.stat().st_size for p in files)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return len(files), n_bytes
