"""Our reader of MATLAB files gives what scipy's gives, and refuses what is damaged instead of ending the process."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from featstore import BadInput, MissingData
from featstore.datasets import matfile
from featstore.datasets.matfile import read_mat

DTYPES = ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 4), min_size=2, max_size=4),
    is_compressed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_numbers_are_what_scipy_reads(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, shape: list[int], is_compressed: bool, seed: int
) -> None:
    path = tmp_path_factory.mktemp("mat") / "a.mat"
    values = np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)
    savemat(path, {"other": "text", "values": values}, do_compression=is_compressed)
    found = read_mat(path, ("values",))["values"]
    expected = loadmat(path)["values"]
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("is_compressed", [False, True])
def test_text_cells_and_structs(tmp_path: Path, is_compressed: bool) -> None:
    rows = np.zeros((1, 2), dtype=[("fname", object), ("class", object), ("box", object)])
    rows[0, 0] = ("1.jpg", np.uint8(3), np.array([[1.5, 2.0]]))
    rows[0, 1] = ("a longer name, größer.jpg", np.int16(-4), np.zeros((0, 0)))
    names = np.array([["one", "two words", ""]], object)
    content = {"rows": rows, "names": names, "text": "hello", "nested": {"inner": {"x": 5}}}
    savemat(tmp_path / "a.mat", content, do_compression=is_compressed)
    found = read_mat(tmp_path / "a.mat", ("rows", "names", "text", "nested"))
    assert [r["fname"] for r in found["rows"]] == ["1.jpg", "a longer name, größer.jpg"]
    assert [r["class"].item() for r in found["rows"]] == [3, -4]
    assert found["rows"][0]["box"].tolist() == [[1.5, 2.0]]
    assert found["names"][:2] == ["one", "two words"]
    assert found["text"] == "hello"
    assert found["nested"][0]["inner"][0]["x"].item() == 5


def element(kind: int, data: bytes, order: str) -> bytes:
    return struct.pack(f"{order}II", kind, len(data)) + data + (b"" if kind == 15 else bytes(-len(data) % 8))


def matrix(order: str, shape: tuple[int, ...], values: bytes, name: bytes = b"x", kind: int = 9) -> bytes:
    parts = [
        (6, struct.pack(f"{order}II", kind, 0)),
        (5, struct.pack(f"{order}{len(shape)}i", *shape)),
        (1, name),
        (2, values),
    ]
    return element(14, b"".join(element(k, d, order) for k, d in parts), order)


def header(order: str = "<") -> bytes:
    return b"MATLAB 5.0".ljust(124) + struct.pack(f"{order}H", 0x0100) + (b"IM" if order == "<" else b"MI")


def read(path: Path, content: bytes, name: str = "x") -> Any:
    path.write_bytes(content)
    return read_mat(path, (name,))[name]


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders(tmp_path: Path, order: str) -> None:
    found = read(tmp_path / "a.mat", header(order) + matrix(order, (2, 3), bytes(range(6))))
    assert found.tolist() == [[0, 2, 4], [1, 3, 5]], "columns first"


def nested(depth: int) -> bytes:
    """A cell in a cell in a cell …"""
    inner = matrix("<", (1, 1), b"\1")
    for _ in range(depth):
        parts = [(6, struct.pack("<II", 1, 0)), (5, struct.pack("<2i", 1, 1)), (1, b"x")]
        inner = element(14, b"".join(element(k, d, "<") for k, d in parts) + inner, "<")
    return inner


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "holds no 'x'"),
        (matrix("<", (1, 1), b"\1", b"y"), "holds no 'x'"),
        (matrix("<", (2, 3), b"12345"), r"has the shape \(2, 3\) and 5 values"),
        (matrix("<", (-1, 3), b""), "or the shape"),
        (matrix("<", (2**31 - 1, 2**31 - 1), b"1"), "and 1 values"),
        (matrix("<", (1, 1), b"1", kind=5), "that data sets do not use"),
        (matrix("<", (1, 1), b"1")[:-8], "claims"),
        (matrix("<", (1, 1), b"1") + b"\0\0\0", "cut off"),
        (nested(9), "more than 8 deep"),
        (element(15, zlib.compress(matrix("<", (1, 1), b"1"))[:-6], "<"), "cut off|incomplete"),
        (element(15, b"not zlib", "<"), "incorrect header"),
    ],
)
def test_what_is_damaged_is_refused(tmp_path: Path, body: bytes, text: str) -> None:
    with pytest.raises(BadInput, match=text):
        read(tmp_path / "a.mat", header() + body)


def test_depth_within_the_limit_is_read(tmp_path: Path) -> None:
    assert read(tmp_path / "a.mat", header() + nested(3))[0][0][0].item() == 1


def test_a_compressed_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that nobody asked for is not even unpacked."""
    monkeypatch.setattr(matfile, "MAX_BYTES", 10_000)
    bomb = element(15, zlib.compress(matrix("<", (1, 20_000), bytes(20_000))), "<")
    with pytest.raises(BadInput, match="unpacks to more than 10000 bytes"):
        read(tmp_path / "a.mat", header() + bomb)
    assert read(tmp_path / "a.mat", header() + bomb + matrix("<", (1, 1), b"\7", b"y"), "y").item() == 7


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="is missing"):
        read_mat(tmp_path / "nowhere.mat", ("x",))
    with pytest.raises(BadInput, match=r"version 7\.3, which is HDF5"):
        read(tmp_path / "a.mat", b"MATLAB 7.3 MAT-file".ljust(128) + b"\x89HDF")
    for content in (b"", b"hello", bytes(200)):
        with pytest.raises(BadInput, match="not a MATLAB file"):
            read(tmp_path / "a.mat", content)
