"""Stored features that trainings begin from: penultimate ones for what trains nothing below the head; a store's fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import BadInput

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


def refuse_store_of_another(store: str | Path | Store, backbone: Backbone, splits: Mapping[str, Split]) -> None:
    """Refuse a store whose unpooled outputs of these images are all of one other network.

    A store of several networks is a place that is shared, and an empty one, or one of other images, waits to be filled.
    One that holds the right images of the wrong network was most likely meant to be read: adding gigabytes beside would
    hide that weights, preprocessing or cut are not what they were.

    Parameters
    ----------
    store : str, Path or Store
        It need not exist.
    backbone : Backbone
        The network that is to be fed from it.
    splits : mapping of str to Split
        Whose outputs are wanted.

    Raises
    ------
    BadInput
        With the differences in words.
    """
    import featstore
    from finetune.task import network_identity

    try:
        opened = store if isinstance(store, featstore.Store) else featstore.open_store(store)
    except featstore.NotStored:
        return  # it will be made
    asked = network_identity(backbone)
    images = {(digest.ids_digest, digest.content_digest) for digest in (split.digest() for split in splits.values())}
    whole = {entry.pass_id for entry in opened.entries(damaged=True) if entry.pool == "none"}
    keys = [folder.key() for folder in opened.passes() if folder.id in whole]
    stored = [key.of_network() for key in keys if (key.ids_digest, key.content_digest) in images]
    networks = [{name: network[name] for name in asked} for network in stored]
    others = [network for i, network in enumerate(networks) if network not in networks[:i]]
    if len(others) != 1 or not (found := featstore.differences(others[0], asked)):
        return
    raise BadInput(
        f"the store {opened.root} holds the outputs of another network for these images: {'; '.join(found)}. Load the network that "
        "they are of, or give this one a store of its own; to keep both in one, add this one's outputs yourself first: "
        f"featstore.extract(backbone, splits, {str(opened.root)!r}, units=…, pool='none')."
    )
