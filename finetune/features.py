"""Penultimate features of every split, from a store, for what trains nothing below the head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featstore import Backbone, FeatureMatrix, Split, Store
    from finetune.task import Asked


def penultimate_features(backbone: Backbone, asked: Asked, store: str | Path | Store) -> dict[str, FeatureMatrix]:
    """Penultimate features ``(n, d)`` of every split, float32, from a store; extracted where they are missing.

    Parameters
    ----------
    backbone : Backbone
        The network.
    asked : Asked
        Splits, device.
    store : str, Path or Store
        Made where it is missing.
    """
    import featstore

    opened = store if isinstance(store, featstore.Store) else featstore.create_store(store)
    what: dict[str, Any] = {"units": ("penultimate",), "pool": "mean", "dtype": "float32"}
    planned = featstore.plan(backbone, list(asked.splits.values()), opened, **what)

    def stored(split: Split) -> FeatureMatrix:
        return opened.features("penultimate", split, backbone=backbone, pool="mean", dtype="float32")

    def is_stored(part: Any) -> bool:
        """Whether exactly these features are there: also among the rows of a larger split, unseen by a plan."""
        try:
            return not part.missing or stored(part.split).manifest["network"] == part.key.of_network()
        except (featstore.NotStored, featstore.IdentityError, featstore.Ambiguous):
            return False

    missing = [part.split for part in planned.parts if not is_stored(part)]
    if missing:
        featstore.extract(backbone, missing, opened, **what, device=asked.device, progress=asked.progress)
    return {name: stored(split) for name, split in asked.splits.items()}
