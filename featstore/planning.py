"""What an extraction has to do: decided first, by looking alone, so that it can be printed and tested before
anything is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featstore.deriving import stored_maps
from featstore.errors import BadInput, NotStored, UnknownName, UnreadableImage
from featstore.grouping import HEAD
from featstore.manifest import ArrayKey, PassKey
from featstore.poolings import Pooling, PoolingLike, as_poolings, channel_axis, token_units

if TYPE_CHECKING:
    from featstore.backbones import Backbone
    from featstore.splits import Split
    from featstore.store import Store

__all__ = ["EXTRACTOR_VERSION", "Plan", "SplitPlan", "plan"]

EXTRACTOR_VERSION = 1
"""Part of every pass's identity: raised when this code gives other numbers for the same input."""


@dataclass(frozen=True, eq=False)
class SplitPlan:
    """What is to be done for one split.

    Attributes
    ----------
    split : Split
        Without the images that are skipped.
    key : PassKey
    arrays : tuple of ArrayKey
        Of all wanted units, in order of execution.
    missing : tuple of ArrayKey
        Those of them that the store does not have complete.
    skipped : mapping
        Id -> why, of images that do not decode; only where that was allowed.
    maps : mapping
        Missing array -> stored map that it can be pooled from, if that is so for all of them: then no image is read and the
        network does not run. See `featstore.deriving`.
    """

    split: Split
    key: PassKey
    arrays: tuple[ArrayKey, ...]
    missing: tuple[ArrayKey, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    maps: Mapping[ArrayKey, ArrayKey] = field(default_factory=dict)

    @property
    def n_images(self) -> int:
        """Images that have to go through the network; fewer where an interrupted run has left some blocks."""
        return len(self.split) if self.missing and not self.maps else 0

    @property
    def n_bytes(self) -> int:
        """Bytes that will be stored, without checksums."""
        return sum(key.row_bytes for key in self.missing) * len(self.split)

    def __str__(self) -> str:
        skipped = f", {len(self.skipped)} unreadable left out" if self.skipped else ""
        there = [key.unit for key in self.arrays if key not in self.missing]
        text = (
            f"{self.split.name} ({len(self.split):,} images{skipped}): {len(there)} of {len(self.arrays)} units stored"
        )
        if not self.missing:
            return f"{text}, nothing to do"
        one_pooling = len({key.pool for key in self.arrays}) == 1
        units = ", ".join(
            f"{key.unit} {'' if one_pooling else key.pool + ' '}{'×'.join(map(str, key.shape))}" for key in self.missing
        )
        images = "pooled from stored maps, no images" if self.maps else f"{self.n_images:,} images"
        return f"{text}; to do: {units}; {images}, {_size(self.n_bytes)}"


@dataclass(frozen=True, eq=False)
class Plan:
    """What an extraction has to do, split by split; ``print(plan)`` shows it.

    Attributes
    ----------
    root : Path
        Of the store.
    backbone : str
        Its name.
    parts : tuple of SplitPlan
    """

    root: Path
    backbone: str
    parts: tuple[SplitPlan, ...]

    @property
    def is_done(self) -> bool:
        """Whether the store has everything."""
        return not any(part.missing for part in self.parts)

    @property
    def n_images(self) -> int:
        """Images that have to go through the network."""
        return sum(part.n_images for part in self.parts)

    @property
    def n_bytes(self) -> int:
        """Bytes that will be stored."""
        return sum(part.n_bytes for part in self.parts)

    def __str__(self) -> str:
        lines = [f"features of {self.backbone} in {self.root}:", *(f"  {part}" for part in self.parts)]
        return "\n".join(lines)


def checked_inputs(backbone: object, splits: object) -> list[Split]:
    """Return the splits as a list; what must be loaded first is refused with the call that loads it."""
    from featstore.backbones import Backbone
    from featstore.splits import Split

    if not isinstance(backbone, Backbone):
        given = repr(backbone) if isinstance(backbone, str) else f"a {type(backbone).__name__}"
        call = f"load_backbone({given})" if isinstance(backbone, str) else "load_backbone(module, preprocessing=…)"
        raise BadInput(f"the network is {given} and must be a Backbone: featstore.{call} makes one.")
    several: list[Split] = []
    for split in splits if isinstance(splits, Iterable) and not isinstance(splits, Split | str) else [splits]:
        if not isinstance(split, Split):
            given = repr(split) if isinstance(split, str) else f"a {type(split).__name__}"
            call = f": featstore.load_split({given}) makes one" if isinstance(split, str) else ""
            raise BadInput(f"one of the splits is {given} and must be a Split{call}.")
        several.append(split)
    if not several:
        raise BadInput("no split was given; there is nothing to extract.")
    return several


def plan(
    backbone: Backbone,
    splits: Split | Sequence[Split],
    root: str | Path | Store,
    *,
    units: str | Sequence[str] = "all",
    pool: PoolingLike | Sequence[PoolingLike] = "mean",
    dtype: str = "float16",
    precision: str = "fp32",
    deterministic: bool = False,
    skip_unreadable: bool = False,
) -> Plan:
    """Return what `extract` with the same arguments would do. Runs no network and writes no feature.

    Parameters
    ----------
    backbone : Backbone
    splits : Split or sequence of Split
    root : str, Path or Store
        Of the store, which need not exist.
    units : str or sequence of str
        Names of units; ``"all"`` are those up to ``"penultimate"``, ``["all", "head"]`` the logits of the classifier, too.
    pool : str, callable, Pooling or sequence of these
        What is kept of a unit's output: ``"mean"``, ``"max"``, ``"token"``, ``"grid2"`` …, ``"flatten"``, ``"none"``, or a
        function; see `featstore.poolings`.
    dtype : str
        ``"float16"`` or ``"float32"``.
    precision : str
        ``"fp32"``, ``"tf32"``, ``"amp-fp16"`` or ``"amp-bf16"``: the arithmetic of the forward pass.
    deterministic : bool
        See `featstore.extract`; part of the identity.
    skip_unreadable : bool
        Decode all images to find those that do not, and leave them out of the split.

    Raises
    ------
    UnknownName
        If there is no such unit or pooling.
    BadInput
        If the output of a unit cannot be pooled so.
    IdentityError
        If a pooling is a function that cannot be identified.
    UnreadableImage
        If a file cannot be read; an image that does not decode is found by `extract`.
    """
    from featstore.devices import PRECISIONS, keyed_precision

    several = checked_inputs(backbone, splits)
    if precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS)
    store, path = _opened(root)
    shapes = _shapes(backbone, _wanted(backbone, units), as_poolings(pool))
    weights_digest, cut = backbone.weights_digest, backbone.cut
    parts = []
    for split in several:
        skipped: Mapping[str, str] = {}
        if skip_unreadable:
            split, skipped = _readable(split, backbone, store)
        samples = split.digest(None if store is None else store.digest_cache)
        key = PassKey(
            backbone=backbone.name,
            weights_digest=weights_digest,
            cut=cut,
            preprocessing=backbone.preprocessing.to_json(),
            ids_digest=samples.ids_digest,
            content_digest=samples.content_digest,
            n=len(split),
            precision=keyed_precision(precision, deterministic),
            extractor_version=EXTRACTOR_VERSION,
            version=backbone.version,
        )
        arrays = tuple(ArrayKey(key.digest, unit, how.name, dtype, shape) for (unit, how), shape in shapes.items())
        missing = tuple(a for a in arrays if store is None or not store.has_complete(a))
        maps = stored_maps(store, missing, backbone.shapes, [how for _, how in shapes], to_the_bit=deterministic)
        parts.append(SplitPlan(split, key, arrays, missing, skipped, maps))
    return Plan(path, backbone.name, tuple(parts))


def channel_axes(backbone: Backbone) -> dict[str, int]:
    """Return the axis of the channels of every unit's output, not counting the batch axis."""
    return {unit: channel_axis(shape, backbone.preprocessing.input_size) for unit, shape in backbone.shapes.items()}


def _shapes(
    backbone: Backbone, units: Sequence[str], poolings: Sequence[Pooling]
) -> dict[tuple[str, Pooling], tuple[int, ...]]:
    """Return the shape of one image's features for every wanted unit and pooling, in order of execution."""
    axes, with_token = channel_axes(backbone), token_units(backbone.chain)
    shapes = {}
    for unit in units:
        for how in poolings:
            shape = backbone.shapes[unit]
            if how.name == "token" and len(shape) > 1 and unit not in with_token:
                raise BadInput(
                    f"unit '{unit}' of {backbone.name} gives {' × '.join(map(str, shape))} without a class token in front; "
                    f"units that have one: {', '.join(with_token) or 'none'}. Pool the others with 'mean' or 'max'."
                )
            shapes[unit, how] = how.shape(unit, shape, axes[unit])
    return shapes


def _opened(root: str | Path | Store) -> tuple[Store | None, Path]:
    from featstore.store import Store, open_store

    if isinstance(root, Store):
        return root, root.root
    try:
        store = open_store(root)
    except NotStored:
        return None, Path(root)
    return store, store.root


def _wanted(backbone: Backbone, units: str | Sequence[str]) -> list[str]:
    """Return the names of the wanted units in order of execution."""
    names = [units] if isinstance(units, str) else list(units)
    if not names:
        raise BadInput("no unit was asked for; name some, or 'all'.")
    if "all" in names:
        names += [unit for unit in backbone.units if unit != HEAD]
    for name in names:
        if name != "all":
            backbone.chain.index(name)
    return [unit for unit in backbone.units if unit in names]


def _readable(split: Split, backbone: Backbone, store: Store | None) -> tuple[Split, dict[str, str]]:
    """Return the split without the images that do not decode, and these with the reason.

    The identity of what is stored is that of the images that were run. Images whose content is in the store have
    decoded before, and are not decoded again.
    """
    from featstore.loading import default_workers, unreadable_rows

    known: set[tuple[str, bytes]] = set()
    rows = list(range(len(split)))
    if store is not None:
        for folder in store.passes():
            # a pass of which nothing is complete may have stopped at the image that does not decode
            if split.name in folder.names() and any(map(folder.is_complete, folder.array_ids())):
                samples = folder.samples()
                known |= {(str(name), row.tobytes()) for name, row in zip(samples.ids, samples.rows, strict=True)}
    if known:
        try:
            found = split.digest(store.digest_cache if store else None)
            rows = [i for i in rows if (str(split.ids[i]), found.rows[i].tobytes()) not in known]
        except UnreadableImage:
            pass  # a file cannot even be read; then all are looked at
    bad = unreadable_rows(split, backbone.preprocessing, rows, default_workers())
    if len(bad) == len(split):
        raise UnreadableImage(f"none of the {len(split)} images of '{split.name}' decodes; the first: {bad[0]}")
    if not bad:
        return split, {}
    kept = np.setdiff1d(np.arange(len(split)), np.array(sorted(bad)))
    return split.subset(kept, split.name), {str(split.ids[i]): why for i, why in sorted(bad.items())}


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"
