"""The only file that knows zarr: the ``zarr.json`` beside the chunk files, and opening the array with zarr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.remote import RemotePath

if TYPE_CHECKING:
    import zarr

    from featstore.chunks import Grid
    from featstore.manifest import ArrayKey

__all__ = ["METADATA", "create", "open_read_only", "problems"]

METADATA = "zarr.json"


def create(folder: Path, key: ArrayKey, grid: Grid) -> None:
    """Write the ``zarr.json`` of an empty array into `folder`.

    bfloat16 is uint16 to zarr; the attribute ``featstore.dtype`` says what the bits are. The fill value is NaN so that a
    missing chunk is visible to whoever reads with zarr alone; shards are not used because a partial write of one rewrites
    all of it, compression because it does not pay for pooled features.
    """
    import zarr
    from zarr.codecs import BytesCodec, Crc32cCodec
    from zarr.storage import LocalStore

    from featstore.chunks import fill_value, stored_dtype

    dtype = stored_dtype(key.dtype)
    zarr.create_array(
        store=LocalStore(folder),
        shape=(grid.n, *key.shape),
        chunks=(grid.chunk_rows, *key.shape),
        dtype=dtype.name,
        filters=None,
        serializer=BytesCodec(endian="little"),
        compressors=[Crc32cCodec()],
        fill_value=fill_value(dtype),
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes={"featstore": {**key.to_json(), "array_digest": key.digest}},
        overwrite=False,
    )


def open_read_only(folder: Path) -> zarr.Array[Any]:
    """Open the array in `folder` with zarr, for whoever wants zarr's own interface."""
    import zarr
    from zarr.storage import FsspecStore, LocalStore

    if isinstance(folder, RemotePath):
        return zarr.open_array(store=FsspecStore.from_url(folder.url, read_only=True), mode="r")
    store = LocalStore(folder, read_only=True)
    return zarr.open_array(store=store, mode="r")


def problems(folder: Path, key: ArrayKey, grid: Grid) -> list[str]:
    """Return what the ``zarr.json`` in `folder` says otherwise than the key: zarr would read the array wrongly."""
    from featstore.chunks import stored_dtype

    try:
        array = open_read_only(folder)
        codecs = [type(codec).__name__ for codec in array.metadata.codecs]  # type: ignore[union-attr]
    except Exception as error:  # zarr raises KeyError, ValueError, FileNotFoundError and its own for broken metadata
        return [f"its {METADATA} cannot be opened by zarr: {type(error).__name__}: {error}"]
    pairs = {
        "shape": (array.shape, (grid.n, *key.shape)),
        "chunks": (array.chunks, (grid.chunk_rows, *key.shape)),
        "dtype": (str(array.dtype), stored_dtype(key.dtype).name),
        "codecs": (codecs, ["BytesCodec", "Crc32cCodec"]),
    }
    return [
        f"its {METADATA} says {what} {found} and the manifest {said}"
        for what, (found, said) in pairs.items()
        if found != said
    ]
