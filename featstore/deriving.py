"""A second pooling from stored maps: no image is decoded, and the network does not run.

The rule. A unit's whole output (``pool="none"``) stored in float32 is what the network said, and every pooling of it is what
a forward pass would give, up to the order of summation, as with another batch size. Stored in 16 bits it was rounded before it
is pooled, and a mean of rounded values is not the rounded mean: then the network runs again. Poolings that only select values
(``"max"``, ``"token"``, ``"flatten"``, ``"none"``) commute with rounding: a map of the dtype they are stored in serves, too.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from featstore.bfloat import widen
from featstore.manifest import ArrayKey
from featstore.passes import PassFolder
from featstore.poolings import Pooling

if TYPE_CHECKING:
    import torch

    from featstore.store import Store

__all__ = ["pooled_from_maps", "stored_maps"]


def stored_maps(
    store: Store | None, missing: Sequence[ArrayKey], shapes: Mapping[str, tuple[int, ...]], poolings: Sequence[Pooling]
) -> dict[ArrayKey, ArrayKey]:
    """Return for every missing array the stored map that it can be pooled from; nothing unless there is one for each.

    Parameters
    ----------
    store : Store or None
    missing : sequence of ArrayKey
        Of one pass.
    shapes : mapping
        Unit -> shape of its output for one image.
    poolings : sequence of Pooling
        Those of `missing`.
    """
    if store is None:
        return {}
    by_name = {pooling.name: pooling for pooling in poolings}
    found: dict[ArrayKey, ArrayKey] = {}
    for key in missing:
        dtypes = ("float32", key.dtype) if by_name[key.pool].selects else ("float32",)
        maps = [ArrayKey(key.pass_digest, key.unit, "none", dtype, shapes[key.unit]) for dtype in dtypes]
        source = next((a for a in maps if a != key and store.has_complete(a)), None)
        if source is None:
            return {}
        found[key] = source
    return found


def pooled_from_maps(
    store: Store,
    maps: Mapping[ArrayKey, ArrayKey],
    poolings: Mapping[str, Pooling],
    axes: Mapping[str, int],
    batches: Sequence[range],
) -> Generator[tuple[range, dict[tuple[str, str], torch.Tensor]]]:
    """Yield the rows of each batch and (unit, name of the pooling) -> (n, …) float32, read from the store.

    Parameters
    ----------
    store : Store
    maps : mapping
        Array that is computed -> stored map.
    poolings : mapping
        By name.
    axes : mapping
        Unit -> axis of its channels.
    batches : sequence of range
        Rows, in order.

    Raises
    ------
    CorruptChunk
        If a stored map is damaged.
    """
    import torch

    folder = {key.pass_digest: PassFolder(store.root, key.pass_digest) for key in maps}
    arrays = {source: store.stored_array(folder[source.pass_digest], source.digest) for source in set(maps.values())}
    for rows in batches:
        features = {}
        for source, array in arrays.items():
            stored = np.empty((len(rows), *source.shape), array.dtype)
            array.read_into(stored, rows.start)
            output = np.empty(stored.shape, np.float32)
            if source.dtype == "bfloat16":
                widen(stored, output)
            else:
                output[...] = stored
            for key in (k for k, s in maps.items() if s == source):
                with torch.no_grad():
                    features[key.unit, key.pool] = poolings[key.pool](torch.from_numpy(output), axes[key.unit])
        yield rows, features
