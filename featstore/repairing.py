"""Repair: what in a store is not as it was written is computed again from the images, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.devices import base_precision, is_deterministic
from featstore.entries import announced
from featstore.errors import FeatstoreError
from featstore.makers import Maker, Makers
from featstore.verifying import Problem, verify

if TYPE_CHECKING:
    import torch

    from featstore.backbones import Backbone
    from featstore.manifest import ArrayKey
    from featstore.passes import PassFolder
    from featstore.splits import Split
    from featstore.store import Store

__all__ = ["Repair", "repair"]


@dataclass(frozen=True)
class Repair:
    """What a repair found and did.

    Attributes
    ----------
    found, remaining : tuple of Problem
        Before and after; the reason of a remaining one says why it could not be repaired.
    n_changed : int
        Chunks that were computed anew and whose bytes are not those that had been there: another version of torch, another
        device or another batch size rounds otherwise. The others are the same to the bit.
    """

    found: tuple[Problem, ...]
    remaining: tuple[Problem, ...]
    n_changed: int


def repair(
    root: str | Path | Store,
    *,
    backbones: Sequence[Backbone] = (),
    splits: Sequence[Split] = (),
    data_root: str | Path | None = None,
    device: str | torch.device = "cpu",
    batch_size: int | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Repair:
    """Read a whole store, and compute anew the rows that cannot be trusted.

    The network and the images are found by their identity: among those given, else by the names that the store has. With
    another network or other images nothing is ever repaired.

    Parameters
    ----------
    root : str, Path or Store
    backbones, splits : sequence
        Needed where a name does not lead back to them: networks passed in as modules, weights of a file, splits made by hand.
    data_root : str, Path or None
        Where data sets that have a name lie.
    device, workers
        As in `featstore.extract`.
    batch_size : int or None
        None takes that of the extraction, so that rows come back with the bytes that they had.
    progress : bool
        Show it on stderr.

    Raises
    ------
    NotStored
        If there is no store.
    StoreWrite
        If the disk is full or the folder read-only.
    """
    from featstore.store import Store, open_store

    store = root if isinstance(root, Store) else open_store(root)
    store.refuse_if_remote("repaired")
    found = verify(store)
    if not found:
        return Repair((), (), 0)
    makers = Makers(store, backbones, splits, data_root)
    reasons: dict[str, str] = {}
    damaged = sorted({problem.pass_id for problem in found if problem.pass_id})
    folders = [folder for folder in store.pass_folders() if folder.id in damaged]
    before = {folder.id: _crcs(folder) for folder in folders}
    running: dict[str, Any] = {"device": device, "workers": workers, "progress": progress}
    for folder in folders:
        mine = {problem.array_id for problem in found if problem.pass_id == folder.id}
        try:
            maker = makers.of(folder)
            _compute(store, folder, maker, mine, batch_size or maker.batch_size, running)
        except FeatstoreError as error:
            reasons[folder.id] = str(error)
    left = [
        replace(p, reason=f"{p.reason}. It was not repaired: {reasons[p.pass_id]}") if p.pass_id in reasons else p
        for p in verify(store, passes=damaged)
    ]
    left += [problem for problem in found if not problem.pass_id]
    return Repair(tuple(found), tuple(left), sum(_n_changed(before[folder.id], _crcs(folder)) for folder in folders))


def _compute(
    store: Store, folder: PassFolder, maker: Maker, array_ids: set[str], batch_size: int | None, running: dict[str, Any]
) -> None:
    """Extract again what is damaged of one pass; what is good in it is kept by the store."""
    from featstore.extraction import extract

    options = {**running, **({} if batch_size is None else {"batch_size": batch_size})}
    for (pool, dtype), units in _groups(_arrays(folder, array_ids)).items():
        extract(
            maker.backbone,
            maker.split,
            store,
            units=units,
            pool=pool,
            dtype=dtype,
            precision=base_precision(maker.key.precision),
            deterministic=is_deterministic(maker.key.precision),
            repair=True,
            **options,
        )


def _arrays(folder: PassFolder, array_ids: set[str]) -> list[ArrayKey]:
    """Return the damaged arrays; any one where only the description of their pass is, which is written by entering it."""
    known = [announced(folder.array_path(i)) for i in folder.array_ids()]
    arrays = [array for array in known if array is not None]
    return [array for array in arrays if array.digest in array_ids] or arrays[:1]


def _groups(arrays: Iterable[ArrayKey]) -> dict[tuple[str, str], list[str]]:
    groups: dict[tuple[str, str], list[str]] = {}
    for array in arrays:
        groups.setdefault((array.pool, array.dtype), []).append(array.unit)
    return groups


def _crcs(folder: PassFolder) -> dict[str, tuple[int, ...]]:
    found = {}
    for array_id in folder.array_ids():
        with suppress(FeatstoreError, OSError):
            found[array_id] = folder.manifest(array_id).crcs
    return found


def _n_changed(before: dict[str, tuple[int, ...]], after: dict[str, tuple[int, ...]]) -> int:
    pairs = [(crcs, after[i]) for i, crcs in before.items() if i in after]
    return sum(a != b for old, new in pairs for a, b in zip(old, new, strict=False))
