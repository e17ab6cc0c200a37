"""One matrix with its ids and labels in one file of a common format, written block by block.

========================  ============================================================================================
``.npz``                  arrays ``X``, ``ids``, ``labels``, ``classes``, ``manifest`` (JSON text); bfloat16 as float32
``.safetensors``          tensors ``X``, ``labels``, ``ids`` and ``id_offsets`` (UTF-8 bytes); classes and manifest as metadata
``.parquet``              columns ``id``, ``label`` (a number, or a list of 0 and 1), ``features`` (a list of fixed length);
                          shape, classes and manifest as metadata of the schema; bfloat16 as float32
========================  ============================================================================================
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from featstore.errors import BadInput, MissingExtra, UnknownName
from featstore.files import whole_file, write_errors
from featstore.manifest import canonical_json

if TYPE_CHECKING:
    from featstore.matrix import FeatureMatrix

__all__ = ["export"]


def export(matrix: FeatureMatrix, path: str | Path) -> Path:
    """Write a matrix with its ids, labels and manifest to a file whose suffix names the format.

    Parameters
    ----------
    matrix : FeatureMatrix
    path : str or Path
        ``.npz``, ``.safetensors`` or ``.parquet``. Written aside and renamed: the file is there whole, or as it was before.

    Returns
    -------
    Path

    Raises
    ------
    UnknownName
        If the suffix is another.
    BadInput
        If the folder does not exist.
    MissingExtra
        If pyarrow, which writes parquet, is not installed.
    CorruptChunk
        If stored bytes are not those that were written.
    StoreWrite
        If the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise UnknownName("format of a file", path.suffix, WRITERS)
    if not path.parent.is_dir():
        raise BadInput(f"there is no folder {path.parent} for {path.name}; make it first.")
    with write_errors(path.parent), whole_file(path) as file:
        WRITERS[path.suffix](matrix, file)
    return path


def _metadata(matrix: FeatureMatrix) -> dict[str, str]:
    """Return what no column holds, as text."""
    said = {"unit": matrix.unit, "split": matrix.split, "backbone": matrix.backbone, "key": matrix.key}
    classes = json.dumps(list(matrix.classes), ensure_ascii=False)
    return {**said, "classes": classes, "manifest": canonical_json(matrix.manifest)}


def _write_npz(matrix: FeatureMatrix, file: IO[bytes]) -> None:
    arrays: dict[str, np.ndarray] = {
        "ids": matrix.ids,
        "classes": np.array(matrix.classes, np.str_),
        "manifest": np.array(canonical_json(matrix.manifest)),
    }
    if matrix.labels is not None:
        arrays["labels"] = matrix.labels
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open("X.npy", "w", force_zip64=True) as member:
            head = {"descr": matrix.dtype.str, "fortran_order": False, "shape": matrix.shape}
            np.lib.format.write_array_header_2_0(member, head)
            for _, block in matrix.blocks():
                member.write(np.ascontiguousarray(block).data)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


SAFETENSORS_NAMES = {"float16": "F16", "float32": "F32", "bfloat16": "BF16", "int64": "I64", "uint8": "U8"}


def _write_safetensors(matrix: FeatureMatrix, file: IO[bytes]) -> None:
    """Write the format by hand: eight bytes of length, a header in JSON, then the bytes of the tensors."""
    listed = matrix.samples.to_arrays()
    small = {"ids": listed["ids"], "id_offsets": listed["id_offsets"]}
    if matrix.labels is not None:
        small["labels"] = matrix.labels
    kinds = [(name, str(array.dtype), array.shape, array.nbytes) for name, array in small.items()]
    stored = matrix.array.key.dtype
    kinds.append(("X", stored, matrix.shape, len(matrix) * matrix.array.grid.row_bytes))
    header: dict[str, Any] = {"__metadata__": _metadata(matrix)}
    at = 0
    for name, dtype, shape, n_bytes in kinds:
        offsets = [at, at + n_bytes]
        header[name] = {"dtype": SAFETENSORS_NAMES[dtype], "shape": list(shape), "data_offsets": offsets}
        at += n_bytes
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that tensors are aligned
    file.write(struct.pack("<Q", len(text)) + text)
    for array in small.values():
        file.write(np.ascontiguousarray(array).data)
    for _, block in matrix.raw_blocks():
        file.write(block.data)


def _write_parquet(matrix: FeatureMatrix, file: IO[bytes]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("pyarrow, which writes parquet, is not installed: pip install 'featprobe[hf]'.") from error
    width = int(np.prod(matrix.shape[1:]))
    columns = [("id", pyarrow.string()), ("features", pyarrow.list_(pyarrow.from_numpy_dtype(matrix.dtype), width))]
    labels = matrix.labels
    if labels is not None:
        kind = pyarrow.from_numpy_dtype(labels.dtype)
        columns.append(("label", kind if labels.ndim == 1 else pyarrow.list_(kind, labels.shape[1])))
    said = {**_metadata(matrix), "shape": json.dumps(list(matrix.shape))}
    schema = pyarrow.schema(columns, metadata={f"featstore.{name}": text for name, text in said.items()})

    def flat(rows: np.ndarray, kind: Any) -> Any:
        values = pyarrow.array(np.ascontiguousarray(rows).reshape(-1))
        return values if rows.ndim == 1 else pyarrow.FixedSizeListArray.from_arrays(values, kind.list_size)

    with pyarrow.parquet.ParquetWriter(file, schema, compression="none", use_dictionary=False) as writer:
        for where, block in matrix.blocks():
            parts = {"id": pyarrow.array(matrix.ids[where].tolist(), pyarrow.string())}
            parts["features"] = flat(block.reshape(len(block), -1), schema.field("features").type)
            if labels is not None:
                parts["label"] = flat(labels[where], schema.field("label").type)
            writer.write_batch(pyarrow.record_batch([parts[name] for name in schema.names], schema=schema))


WRITERS: Mapping[str, Callable[[FeatureMatrix, IO[bytes]], None]] = {
    ".npz": _write_npz,
    ".safetensors": _write_safetensors,
    ".parquet": _write_parquet,
}
