"""What made a stored pass: its network and its images found again, by their identity, so that rows can be computed anew.

Names are only where the search begins. A network or a split that has the name and is another is never used.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.errors import FeatstoreError, IdentityError
from featstore.manifest import PassKey, differences, plain

if TYPE_CHECKING:
    from featstore.backbones import Backbone
    from featstore.passes import PassFolder
    from featstore.splits import Split
    from featstore.store import Store

__all__ = ["Maker", "Makers"]

RANDOM = re.compile(r"random\(seed=(-?\d+)\)")


@dataclass(frozen=True, eq=False)
class Maker:
    """What a pass is made of.

    Attributes
    ----------
    key : PassKey
        Of the pass.
    backbone : Backbone
    split : Split
    batch_size : int or None
        That it was made with, as far as its provenance tells.
    """

    key: PassKey
    backbone: Backbone
    split: Split
    batch_size: int | None


class Makers:
    """Finds what made the passes of a store: among what is given, and else by the names that the store has.

    Parameters
    ----------
    store : Store
    backbones : sequence of Backbone
    splits : sequence of Split
    data_root : str, Path or None
        Where data sets that have a name lie; see `featstore.load_split`.
    """

    def __init__(
        self,
        store: Store,
        backbones: Sequence[Backbone] = (),
        splits: Sequence[Split] = (),
        data_root: str | Path | None = None,
    ) -> None:
        self._store, self._backbones, self._splits = store, list(backbones), list(splits)
        self._data_root = data_root

    def of(self, folder: PassFolder) -> Maker:
        """Return what made a pass.

        Raises
        ------
        IdentityError
            If it cannot be found; says what is missing and how to give it.
        """
        try:
            key = folder.key()
        except IdentityError:
            key = self._key_from_parts(folder)
        said = _provenance(folder)
        batch_size = said.get("batch_size")
        found = Maker(key, self._backbone(key, said), self._split(key, folder), batch_size)
        return found if isinstance(batch_size, int) else replace(found, batch_size=None)

    def _key_from_parts(self, folder: PassFolder) -> PassKey:
        """Return the key of a pass whose ``key.json`` is damaged: the one of what was given that has its digest."""
        from featstore.devices import PRECISIONS, keyed_precision
        from featstore.planning import plan

        for backbone in self._backbones:
            for part in (
                plan(backbone, self._splits, self._store, units=backbone.units[-1:]).parts if self._splits else ()
            ):
                for name, alone in itertools.product(PRECISIONS, (False, True)):
                    key = replace(part.key, precision=keyed_precision(name, alone))
                    if key.digest == folder.id:
                        return key
        raise IdentityError(
            f"{folder.path / 'key.json'} is damaged, so that it is not known what made the pass {folder.id}. Give the "
            "network and the split that it was extracted from (--backbone and --split), and its digest will tell."
        )

    def _backbone(self, key: PassKey, provenance: Any) -> Backbone:
        from featstore.preprocessing import Preprocessing

        reasons: list[str] = []
        asked = _identity(key)
        for backbone in self._candidates(key, provenance, reasons):
            prepared = replace(backbone, preprocessing=Preprocessing.from_json(key.preprocessing))
            found = differences(asked, _identity_of(prepared))
            if not found:
                return prepared
            reasons.append(f"{backbone.name} is another: {'; '.join(found)}")
        raise IdentityError(
            f"the network {key.backbone} that made the pass {key.digest} is not at hand ({'; '.join(reasons)}). Give it "
            "with the options that it was extracted with: --backbone, --weights, --cut (in Python: backbones=[…])."
        )

    def _candidates(self, key: PassKey, provenance: Any, reasons: list[str]) -> Iterator[Backbone]:
        """Yield the networks that were given, then the one that the store's name for it leads to."""
        from featstore.backbones import load_backbone

        yield from (b for b in self._backbones if b.name == key.backbone)
        granularity = key.cut.partition(":")[0]
        random = RANDOM.fullmatch(str(provenance.get("weights", "")))
        options: dict[str, Any] = {"weights": None, "seed": int(random[1])} if random else {}
        if ":" not in key.backbone:
            reasons.append("it was given as a module, which has no name to load it by")
            return
        try:
            found = load_backbone(key.backbone, units=granularity, version=key.version, **options)  # type: ignore[arg-type]
        except FeatstoreError as error:
            reasons.append(str(error).rstrip("."))
            return
        self._backbones.append(found)
        yield found

    def _split(self, key: PassKey, folder: PassFolder) -> Split:
        from featstore.datasets import load_split

        reasons: list[str] = []
        cache = self._store.digest_cache
        for given in self._splits:
            split = _same(given, key, folder, cache)
            if split is not None:
                return split
        names = _names(folder)
        for name in names:
            try:
                split = _same(load_split(name, data_root=self._data_root), key, folder, cache)
                if split is not None:
                    self._splits.append(split)
                    return split
                reasons.append(f"'{name}' has other images now")
            except FeatstoreError as error:
                reasons.append(f"'{name}': {str(error).rstrip('.')}")
        raise IdentityError(
            f"the images of pass {key.digest}, called {', '.join(map(repr, names)) or 'nothing'}, are not at hand "
            f"({'; '.join(reasons) or 'none of the splits given are these'}). Give the split that they were extracted from: "
            "--split, with --data-root where it has a name (in Python: splits=[…])."
        )


def _same(split: Split, key: PassKey, folder: PassFolder, cache: Any) -> Split | None:
    """Return the split if its samples are those of the pass, without those that did not decode; else None."""
    found = split.digest(cache)
    if len(split) > key.n:
        try:
            split = split.subset(folder.samples().ids, split.name)
        except FeatstoreError:
            return None
        found = split.digest(cache)
    is_same = (found.ids_digest, found.content_digest) == (key.ids_digest, key.content_digest)
    return split if is_same else None


def _identity(key: PassKey) -> dict[str, Any]:
    """Return what a key says of the network, but for the arithmetic."""
    names = ("weights_digest", "cut", "preprocessing", "version")
    return {name: plain(getattr(key, name)) for name in names}


def _identity_of(backbone: Backbone) -> dict[str, Any]:
    return {
        "weights_digest": backbone.weights_digest,
        "cut": backbone.cut,
        "preprocessing": plain(backbone.preprocessing.to_json()),
        "version": backbone.version,
    }


def _provenance(folder: PassFolder) -> Any:
    """Return where the arrays came from, by any of them that can be read."""
    for array_id in folder.array_ids():
        try:
            if folder.is_complete(array_id):
                return folder.manifest(array_id).provenance
        except FeatstoreError:
            continue
    return {}


def _names(folder: PassFolder) -> tuple[str, ...]:
    try:
        return folder.names()
    except FeatstoreError:
        return ()
