"""The only file that knows zarr: the ``zarr.json`` beside the chunk files, and opening the array with zarr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import zarr

    from featstore.chunks import Grid
    from featstore.manifest import ArrayKey

__all__ = ["METADATA", "create", "open_read_only", "problems"]

METADATA = "zarr.json"


def create(folder: Path, key: ArrayKey, grid: Grid) -> None:
    """Write the ``zarr.json`` of an empty array into `folder`.

    The fill value is NaN so that a missing chunk is visible to whoever reads with zarr alone; shards are not used because
    a partial write of one rewrites all of it, compression because it does not pay for pooled features.
    """
    import numpy as np
    import zarr
    from zarr.codecs import BytesCodec, Crc32cCodec
    from zarr.storage import LocalStore

    zarr.create_array(
        store=LocalStore(folder),
        shape=(grid.n, *key.shape),
        chunks=(grid.chunk_rows, *key.shape),
        dtype=key.dtype,
        filters=None,
        serializer=BytesCodec(endian="little"),
        compressors=[Crc32cCodec()],
        fill_value=np.nan,
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes={"featstore": {**key.to_json(), "array_digest": key.digest}},
        overwrite=False,
    )


def open_read_only(folder: Path) -> zarr.Array[Any]:
    """Open the array in `folder` with zarr, for whoever wants zarr's own interface."""
    import zarr
    from zarr.storage import LocalStore

    return zarr.open_array(store=LocalStore(folder, read_only=True), mode="r")


def problems(folder: Path, key: ArrayKey, grid: Grid) -> list[str]:
    """Return what the ``zarr.json`` in `folder` says otherwise than the key: zarr would read the array wrongly."""
    try:
        array = open_read_only(folder)
        codecs = [type(codec).__name__ for codec in array.metadata.codecs]  # type: ignore[union-attr]
    except Exception as error:  # zarr raises KeyError, ValueError, FileNotFoundError and its own for broken metadata
        return [f"its {METADATA} cannot be opened by zarr: {type(error).__name__}: {error}"]
    pairs = {
        "shape": (array.shape, (grid.n, *key.shape)),
        "chunks": (array.chunks, (grid.chunk_rows, *key.shape)),
        "dtype": (str(array.dtype), key.dtype),
        "codecs": (codecs, ["BytesCodec", "Crc32cCodec"]),
    }
    return [
        f"its {METADATA} says {what} {found} and the manifest {said}"
        for what, (found, said) in pairs.items()
        if found != said
    ]
