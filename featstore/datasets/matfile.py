"""MATLAB files of version 5 to 7 (MAT-File Format, The MathWorks): numbers, text, cells and structs.

Our own reader, because files of data sets come from anywhere and scipy's ends the process on some damaged ones. Every
length is checked against the bytes that are there, compressed parts may unpack to `MAX_BYTES` at most, and nothing is
executed.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featstore.errors import BadInput, MissingData

__all__ = ["read_mat"]

MAX_BYTES = 2**31
MAX_DEPTH = 8
PEEKED = 512
"""Bytes unpacked of a compressed variable to learn its name, so that those nobody asked for stay packed."""

STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Types of stored numbers, by their codes in the format."""
NUMERIC = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""Classes of numeric arrays; numbers may be stored in a smaller type than their class."""
TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
MATRIX, COMPRESSED = 14, 15
CELL, STRUCT, CHARS = 1, 2, 4


class _Broken(Exception):
    """The bytes are not what the format says; the reason, in words."""


def read_mat(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return variables of a MATLAB file.

    Parameters
    ----------
    path : Path
    names : sequence of str

    Returns
    -------
    dict
        Arrays of numbers as numpy arrays with all their axes; text as str; cells as a flat list; structs as a flat list
        of dicts, one for each element.

    Raises
    ------
    MissingData
        If there is no such file.
    BadInput
        If it is no such file, is damaged, or lacks one of `names`.
    """
    if not path.is_file():
        raise MissingData(f"{path} is missing; fetch the file that belongs there.")
    try:
        content = memoryview(path.read_bytes())
        found = _variables(content, names)
    except (_Broken, OSError, zlib.error, struct.error, UnicodeDecodeError, ValueError, OverflowError) as error:
        raise BadInput(f"{path} is not a MATLAB file that can be read: {error}.") from error
    absent = [n for n in names if n not in found]
    if absent:
        raise BadInput(f"{path} holds no '{absent[0]}'.")
    return found


def _variables(content: memoryview, names: Sequence[str]) -> dict[str, Any]:
    if bytes(content[:10]) == b"MATLAB 7.3":
        raise _Broken("it is of version 7.3, which is HDF5; save it with -v7")
    order = {b"IM": "<", b"MI": ">"}.get(bytes(content[126:128]))
    if order is None:
        raise _Broken("it does not begin as one of version 5 to 7")
    found = {}
    for kind, data in _elements(content[128:], order):
        if kind == COMPRESSED:
            if _name_of(_unpacked(data, PEEKED, whole=False), order) not in names:
                continue
            inner = next(_elements(_unpacked(data, MAX_BYTES), order), None)
            kind, data = inner or (0, data)
        if kind == MATRIX:
            name, value = _matrix(data, order, MAX_DEPTH)
            if name in names:
                found[name] = value
    return found


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield type and bytes of the elements that lie one after another."""
    at = 0
    while at < len(content):
        if len(content) - at < 8:
            raise _Broken("it is cut off in front of an element")
        first, length = struct.unpack_from(f"{order}II", content, at)
        if first >> 16:  # up to four bytes lie in the tag itself
            kind, length, start, end = first & 0xFFFF, first >> 16, at + 4, at + 8
            if length > 4:
                raise _Broken(f"a small element claims {length} bytes")
        else:
            kind, start = first, at + 8
            end = start + length + (0 if kind == COMPRESSED else -length % 8)
        if start + length > len(content):
            raise _Broken(f"an element claims {length} bytes, and {len(content) - start} are left")
        yield kind, content[start : start + length]
        at = end


def _unpacked(data: memoryview, most: int, *, whole: bool = True) -> memoryview:
    machine = zlib.decompressobj()
    found = machine.decompress(data, most)
    if whole and machine.unconsumed_tail:
        raise _Broken(f"a part of it unpacks to more than {most} bytes")
    if whole and not machine.eof:
        raise _Broken("a compressed part is cut off")
    return memoryview(found)


def _name_of(begun: memoryview, order: str) -> str:
    """Return the name of a variable, of the first bytes of its element."""
    parts = _elements(begun[8:], order)
    next(parts, None)
    next(parts, None)
    _, name = next(parts, (0, memoryview(b"")))
    return bytes(name).decode("latin-1")


def _matrix(data: memoryview, order: str, depth: int) -> tuple[str, Any]:
    """Return name and value of an array element."""
    if not len(data):
        return "", np.zeros((0, 0))
    if depth == 0:
        raise _Broken(f"cells and structs lie in one another more than {MAX_DEPTH} deep")
    parts = _elements(data, order)
    flags = _numbers(*_next(parts), order)
    shape = tuple(int(n) for n in _numbers(*_next(parts), order))
    name = bytes(_next(parts)[1]).decode("latin-1")
    if not len(flags) or any(n < 0 for n in shape):
        raise _Broken(f"the variable '{name}' has no kind, or the shape {shape}")
    kind, n = int(flags[0]) & 0xFF, math.prod(shape)
    if kind == CHARS:
        stored, raw = _next(parts)
        return name, _text(stored, raw, order)
    if kind in NUMERIC:
        if int(flags[0]) & 0x800:
            raise _Broken(f"the variable '{name}' is complex")
        values = _numbers(*_next(parts), order)
        if len(values) != n:
            raise _Broken(f"the variable '{name}' has the shape {shape} and {len(values)} values")
        return name, values.astype(NUMERIC[kind], copy=False).reshape(shape, order="F")
    if kind == CELL:
        return name, [_inner(parts, order, depth) for _ in range(n)]
    if kind == STRUCT:
        return name, _structs(parts, n, order, depth)
    raise _Broken(f"the variable '{name}' is of a kind ({kind}) that data sets do not use")


def _structs(parts: Iterator[tuple[int, memoryview]], n: int, order: str, depth: int) -> list[dict[str, Any]]:
    width = _numbers(*_next(parts), order)
    raw = bytes(_next(parts)[1])
    if len(width) != 1 or not 1 <= int(width[0]) <= 64 or len(raw) % int(width[0]):
        raise _Broken("the names of a struct's fields are cut off")
    step = int(width[0])
    fields = [raw[a : a + step].partition(b"\0")[0].decode("latin-1") for a in range(0, len(raw), step)]
    if not fields:
        raise _Broken("a struct has no fields")
    return [{f: _inner(parts, order, depth) for f in fields} for _ in range(n)]


def _inner(parts: Iterator[tuple[int, memoryview]], order: str, depth: int) -> Any:
    kind, data = _next(parts)
    if kind != MATRIX:
        raise _Broken(f"a cell or field holds an element of type {kind} instead of an array")
    return _matrix(data, order, depth - 1)[1]


def _next(parts: Iterator[tuple[int, memoryview]]) -> tuple[int, memoryview]:
    found = next(parts, None)
    if found is None:
        raise _Broken("a variable is cut off")
    return found


def _numbers(kind: int, data: memoryview, order: str) -> np.ndarray:
    if kind not in STORED:
        raise _Broken(f"numbers are stored as type {kind}, which there is not")
    return np.frombuffer(data, np.dtype(f"{order}{STORED[kind]}"))


def _text(kind: int, data: memoryview, order: str) -> str:
    if kind not in TEXT:
        raise _Broken(f"text is stored as type {kind}, which there is not")
    end = {"<": "-le", ">": "-be"}[order] if TEXT[kind] in ("utf-16", "utf-32") else ""
    return bytes(data).decode(TEXT[kind] + end)
