"""Miniatures of data sets in the forms in which their authors distribute them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from featstore import Split


def photo(seed: int, kind: str = "JPEG", size: tuple[int, int] = (12, 9)) -> bytes:
    """An image file of noise, another one for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write(root: Path, files: Mapping[str, bytes | str]) -> Path:
    """Write files by relative path."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def photos(folder: str, names: list[str], kind: str = "JPEG") -> dict[str, bytes]:
    """Different images under some names."""
    return {f"{folder}/{name}": photo(1000 + i, kind) for i, name in enumerate(names)}


def labels_of(split: Split) -> list[int]:
    """Labels as a list."""
    assert split.labels is not None
    found: list[int] = split.labels.tolist()
    return found


def named_labels(split: Split) -> dict[str, str]:
    """Id -> name of the class."""
    return {str(i): split.class_name(k) for i, k in zip(split.ids, labels_of(split), strict=True)}
