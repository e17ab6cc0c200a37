"""Parquet files with images in them, as Hugging Face's data sets are stored. The only data set file that knows
pyarrow."""

from __future__ import annotations

import json
import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.datasets.folders import stat_of
from featstore.datasets.official import MOST_CLASSES, class_numbers
from featstore.errors import BadInput, BadLabels, MissingData, MissingExtra, UnreadableImage

if TYPE_CHECKING:
    from featstore.splits import Split

__all__ = ["ParquetSamples", "parquet_split"]

IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp")
LABEL_NAMES = ("label", "labels", "fine_label", "cls", "target")
SHARD = re.compile(r"^(?P<split>.+)-\d{5}-of-\d{5}(-[0-9a-f]+)?$")
N_GROUPS = 3
"""Row groups kept in memory: rows are asked for in order, by several threads that are at most a batch apart."""


class ParquetSamples:
    """Images in a column of parquet files.

    Parameters
    ----------
    files : list of Path
    column : str
        Of binary values, or of structs with a field ``bytes``.
    groups : list of (int, int, int)
        File, row group in it, number of rows; in order.
    """

    def __init__(self, files: list[Path], column: str, groups: list[tuple[int, int, int]]) -> None:
        self.files, self.column, self.groups = files, column, groups
        self.starts = np.cumsum([0, *(n for _, _, n in groups)]).tolist()
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Any] = OrderedDict()

    def __reduce__(self) -> tuple[object, ...]:
        return ParquetSamples, (
            [file.absolute() for file in self.files],
            self.column,
            self.groups,
        )  # another process reads the files for itself

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, i: int) -> bytes:
        group = bisect_right(self.starts, i) - 1
        with self._lock:
            values = self._kept.get(group)
            if values is None:
                values = self._kept[group] = self._load(group, i)
                while len(self._kept) > N_GROUPS:
                    self._kept.popitem(last=False)
            else:
                self._kept.move_to_end(group)
        value = values[i - self.starts[group]].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise UnreadableImage(f"{self.describe(i)} holds no image, only a path to one elsewhere or nothing.")
        return content

    def _load(self, group: int, i: int) -> Any:
        file, number, n = self.groups[group]
        try:
            with _opened(self.files[file]) as opened:
                values = opened.read_row_group(number, columns=[self.column]).column(0)
        except (OSError, ValueError, BadInput) as error:  # pyarrow's own errors are ValueErrors or OSErrors
            raise UnreadableImage(f"{self.describe(i)} cannot be read: {error}.") from error
        if len(values) != n:
            raise UnreadableImage(f"{self.describe(i)} cannot be read: the file has changed.")
        return values

    def describe(self, i: int) -> str:
        group = bisect_right(self.starts, i) - 1
        return f"{self.files[self.groups[group][0]]} row group {self.groups[group][1]} row {i - self.starts[group]}"

    def stat(self, i: int) -> tuple[int, ...] | None:
        return stat_of(self.files[self.groups[bisect_right(self.starts, i) - 1][0]])


def parquet_split(
    path: Path, *, name: str, which: str | None = None, image: str | None = None, label: str | None = None
) -> Split:
    """Return the images of parquet files.

    Parameters
    ----------
    path : Path
        A file, or a folder of them (or with a folder ``data``) as it is downloaded from Hugging Face.
    name : str
        Of the split.
    which : str or None
        ``train`` takes ``train.parquet``, ``train-00000-of-00002.parquet`` … and what lies in a folder ``train``.
    image, label : str or None
        Columns; None looks for those that the file declares as such, then for usual names.

    Returns
    -------
    Split
        Ids are the paths that the images had, if all have one and no two the same, else file and row.

    Raises
    ------
    MissingExtra
        If pyarrow is not installed.
    MissingData
        If there is no such file.
    BadInput
        If a file cannot be read, or it is unclear which split or column is meant.
    """
    from featstore.splits import Split

    files = _files(path, which)
    schema, features = _schema(files[0])
    image = image or _chosen(schema, features, "Image", IMAGE_NAMES, files[0])
    if image is None:
        raise BadInput(f"{files[0]} has the columns {', '.join(schema.names)}, and none of them holds images.")
    label = label or _chosen(schema, features, "ClassLabel", LABEL_NAMES, files[0])
    for column in (image, label):
        if column is not None and column not in schema.names:
            raise BadInput(f"{files[0]} has the columns {', '.join(schema.names)}, and no '{column}'.")
    groups, paths, values = _read_rows(files, image, label, schema)
    names = _names(features, label)
    is_unlabelled = all(v == -1 for v in values)  # Hugging Face's way to publish a test set without its labels
    labels = None if label is None or is_unlabelled else _labels(values, names, files[0])
    samples = ParquetSamples(files, image, groups)
    if not len(samples):
        raise BadInput(f"{path} holds no rows.")
    classes = names or (() if labels is None else class_numbers(labels, path))
    return Split(name, _ids(paths, files, groups), labels, classes, samples)


def _opened(path: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra(
            f"{path} is a parquet file, and pyarrow, which reads it, is not installed: pip install 'featprobe[hf]'."
        ) from error
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is not a parquet file that can be read: {str(error).rstrip('.')}.") from error


def _files(path: Path, which: str | None) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(path.rglob("*.parquet")) if path.is_dir() else []
    if not found:
        raise MissingData(f"there is no parquet file at {path}.")
    by_split: dict[str, list[Path]] = {}
    for file in found:
        shard = SHARD.match(file.stem)
        split = shard["split"] if shard else file.parent.name if file.stem.isdigit() else file.stem
        by_split.setdefault(split, []).append(file)
    if which is None and len(by_split) == 1:
        which = next(iter(by_split))
    if which not in by_split:
        asked = "which one is meant was not said" if which is None else f"there is no '{which}'"
        raise BadInput(
            f"{path} holds the splits {', '.join(by_split)}, and {asked}; write parquet:{path}:{next(iter(by_split))}."
        )
    folders = sorted({str(file.parent) for file in by_split[which]})
    if len(folders) > 1:  # one for each configuration of a data set: other labels of the same images, or other images
        raise BadInput(
            f"{path} holds '{which}' in several folders, {', '.join(folders)}; give the path of one of them."
        )
    return by_split[which]


def _schema(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return the columns of a file, and what Hugging Face wrote about them."""
    with _opened(path) as file:
        schema = file.schema_arrow
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        features = {}
    return schema, features if isinstance(features, dict) else {}


def _kind(feature: Any) -> Any:
    """Return the type that a feature declares; that of its items for a list of them."""
    if isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
        return feature["feature"].get("_type")
    if isinstance(feature, list) and feature and isinstance(feature[0], dict):
        return feature[0].get("_type")
    return feature.get("_type") if isinstance(feature, dict) else None


def _chosen(schema: Any, features: dict[str, Any], kind: str, usual: tuple[str, ...], path: Path) -> str | None:
    """Return the column that is declared as a kind, or has a usual name; None where there is none."""
    declared = [c for c in schema.names if _kind(features.get(c)) == kind]
    candidates = declared or [c for c in usual if c in schema.names]
    usual_ones = [c for c in usual if c in candidates]
    if len(candidates) > 1 and declared and not usual_ones:
        raise BadInput(
            f"{path} has several columns of kind {kind}: {', '.join(candidates)}; write a function of your own that calls "
            "featstore.datasets.parquet.parquet_split(…, image=…, label=…)."
        )
    return (usual_ones or candidates or [None])[0]


def _names(features: dict[str, Any], label: str | None) -> tuple[str, ...]:
    feature = features.get(label or "")
    inner = feature[0] if isinstance(feature, list) and feature else feature
    if isinstance(inner, dict) and isinstance(inner.get("feature"), dict):
        inner = inner["feature"]
    names = inner.get("names") if isinstance(inner, dict) else None
    return tuple(str(n) for n in names) if isinstance(names, list) else ()


def _read_rows(
    files: list[Path], image: str, label: str | None, schema: Any
) -> tuple[list[tuple[int, int, int]], list[Any], list[Any]]:
    """Return the row groups, and of each row the path that its image had (or None) and its label."""
    import pyarrow.types

    has_paths = (
        pyarrow.types.is_struct(schema.field(image).type) and schema.field(image).type.get_field_index("path") >= 0
    )
    columns = [*([f"{image}.path"] if has_paths else []), *([label] if label else [])]
    groups: list[tuple[int, int, int]] = []
    paths: list[Any] = []
    values: list[Any] = []
    for number, path in enumerate(files):
        with _opened(path) as file:
            groups += [(number, g, file.metadata.row_group(g).num_rows) for g in range(file.num_row_groups)]
            if not columns:
                continue
            try:
                table = file.read(columns=columns)
                paths += [v["path"] for v in table.column(image).to_pylist()] if has_paths else []
                values += table.column(label).to_pylist() if label else []
            except (OSError, ValueError, KeyError) as error:
                raise BadInput(f"{path} cannot be read: {error}.") from error
    return groups, paths, values


def _labels(values: list[Any], names: tuple[str, ...], path: Path) -> np.ndarray:
    """Return (n,) int64, or (n, k) uint8 where rows hold lists of classes."""
    if any(v is None for v in values):
        raise BadLabels(f"row {values.index(None)} of {path} has no label.")
    if values and isinstance(values[0], list):
        k = len(names) or 1 + max((c for row in values for c in row if isinstance(c, int)), default=0)
        if k > MOST_CLASSES:
            raise BadLabels(f"{path} has the label {k - 1}, which is no class.")
        labels = np.zeros((len(values), k), np.uint8)
        for i, row in enumerate(values):
            if any(not isinstance(c, int) or not 0 <= c < k for c in row):
                raise BadLabels(f"row {i} of {path} has the classes {row}; there are 0 to {k - 1}.")
            labels[i, row] = 1
        return labels
    if not all(isinstance(v, int) for v in values):
        raise BadLabels(f"the labels of {path} are not whole numbers.")
    try:
        return np.array(values, np.int64)
    except OverflowError as error:
        raise BadLabels(f"the labels of {path} run up to {max(values)}, which is no class.") from error


def _ids(paths: list[Any], files: list[Path], groups: list[tuple[int, int, int]]) -> np.ndarray:
    if paths and all(isinstance(p, str) and p for p in paths) and len(set(paths)) == len(paths):
        return np.array(paths, np.str_)
    n_rows = [sum(n for f, _, n in groups if f == k) for k in range(len(files))]
    return np.array([f"{file.stem}/{i:07d}" for file, n in zip(files, n_rows, strict=True) for i in range(n)], np.str_)
