"""The store: would it return other numbers than were written, or the numbers of something else?

Everything that is read back is compared with the numpy array that was written, and with what zarr reads from the same files.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import NETWORK, Memory, Toy, array_key, features_of, fill, pass_key, toy, toy_split, tree_bytes

from featstore import (
    Ambiguous,
    BadInput,
    BadLabels,
    CorruptChunk,
    FeatureMatrix,
    IdentityError,
    NotStored,
    StoreBusy,
    StoreFormat,
    StoreWrite,
    chunks,
    create_store,
    open_store,
)
from featstore.bfloat import narrow, widen
from featstore.chunks import Grid, default_block_rows, default_chunk_rows
from featstore.files import atomic_write, remove_partials
from featstore.passes import PassFolder

# ---- what is written is what is read


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_reading_is_numpy(data: st.DataObject) -> None:
    """Drawn shapes, dtypes, block sizes and orders of writing; every way of reading against the array that was written."""
    n = data.draw(st.integers(1, 40), label="n")
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3), label="shape")
    dtype = data.draw(st.sampled_from(["float16", "float32", "bfloat16"]), label="dtype")
    block_rows = data.draw(st.one_of(st.none(), st.integers(1, 50)), label="block_rows")
    split = toy_split(n)
    key = pass_key(split)
    array = array_key(key, "body", tuple(shape), dtype)
    other = array_key(key, "stem", data.draw(st.integers(1, 3), label="d of the other unit"))
    truth = {array: features_of(array, n), other: features_of(other, n)}
    with tempfile.TemporaryDirectory() as folder:
        store = create_store(Path(folder) / "s")
        n_blocks = -(-n // min(block_rows or 512, n))
        order = data.draw(st.permutations(range(n_blocks)), label="order of writing")
        assert fill(store, split, truth, block_rows=block_rows, order=order) == n_blocks
        assert store.verify() == []
        expected = seen(truth[array])
        _compare(store.features("body", "toy/train"), expected, data)
        rows = np.array(data.draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=2 * n), label="rows"))
        _compare(store.features("body", "toy/train").select(rows), expected[rows], data)


def seen(stored: np.ndarray) -> np.ndarray:
    """Return what numpy gets of an array as it is stored: bits of bfloat16 as torch understands them."""
    import torch

    return torch.from_numpy(stored).view(torch.bfloat16).float().numpy() if stored.dtype == np.uint16 else stored


def _compare(found: FeatureMatrix, truth: np.ndarray, data: st.DataObject) -> None:
    n = len(truth)
    assert found.shape == truth.shape
    assert (len(found), found.dtype, found.ndim, found.nbytes) == (n, truth.dtype, truth.ndim, truth.nbytes)
    a, b = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)), label="range"))
    out = np.full((b - a, *truth.shape[1:]), np.inf, truth.dtype)
    found.read_into(out, slice(a, b))  # first, so that a part of a chunk is what is checked
    assert np.array_equal(out, truth[a:b])
    index = np.array(data.draw(st.lists(st.integers(-n, n - 1), max_size=2 * n), label="index"), np.int64)
    assert np.array_equal(found.take(index), truth[index])
    assert np.array_equal(found.take(index), truth[index])  # again, now from checked chunks
    assert np.array_equal(found.numpy(), truth)
    assert np.array_equal(np.asarray(found), truth)
    wide = found.numpy(np.float64)
    assert wide.dtype == np.float64
    assert np.array_equal(wide, truth.astype(np.float64))
    rows = data.draw(st.one_of(st.none(), st.integers(1, n + 2)), label="rows per block")
    blocks = list(found.blocks(rows))
    assert [w.start for w, _ in blocks] == list(range(0, n, rows or len(blocks[0][1])))
    assert np.array_equal(np.concatenate([block for _, block in blocks]), truth)
    step = data.draw(st.integers(1, 3), label="step")
    assert np.array_equal(found[a:b:step], truth[a:b:step])
    assert np.array_equal(found[-1], truth[-1])
    assert np.array_equal(found[a:b, 0], truth[a:b, 0])
    mask = np.arange(n) % 2 == 0
    assert np.array_equal(found[mask], truth[mask])


@pytest.mark.parametrize("shift", [0, 1, 16, 64])
@pytest.mark.parametrize("first", [0, 3])
def test_memory_of_any_alignment_is_filled(tmp_path: Path, shift: int, first: int) -> None:
    """Into memory that begins within a line of the cache, chunks go by way of a piece; several of these, and a rest."""
    split = toy_split(900)
    key = pass_key(split)
    array = array_key(key, "body", 1000)
    features = features_of(array, 900)
    store = create_store(tmp_path)
    fill(store, split, {array: features}, key=key, block_rows=800)
    for _ in range(2):  # checked, and checked before
        raw = np.zeros(900 * 4000 + 256, np.uint8)
        begin = -raw.__array_interface__["data"][0] % 64 + shift
        out = raw[begin : begin + (900 - first) * 4000]
        store.stored_array(PassFolder(tmp_path, key.digest), array.digest).read_into(
            np.ndarray((900 - first, 1000), np.float32, raw.data, begin), first
        )
        assert out.tobytes() == features[first:].tobytes()
        assert not raw[:begin].any()
        assert not raw[begin + out.nbytes :].any()


def test_zarr_reads_the_same(tmp_path: Path) -> None:
    """The files are plain zarr v3: whoever has zarr needs nothing of ours. Opened here without any of our code."""
    import zarr

    made = toy(tmp_path / "s")
    for key, truth in made.features.items():
        array = zarr.open_array(str(made.folder(key.unit) / "data.zarr"), mode="r")
        assert np.array_equal(np.asarray(array[:]), truth)
        assert array.attrs["featstore"]["unit"] == key.unit
        found = made.store.features(key.unit, "toy/train")
        assert np.array_equal(np.asarray(found.zarr[5:20]), truth[5:20])
        with pytest.raises(Exception, match=r"read-only|read only"):
            found.zarr[0] = 0  # type: ignore[index]


def test_chunk_files_are_rows_padding_and_crc(tmp_path: Path) -> None:
    """The format of the files, byte by byte, against numpy and google's CRC."""
    made = toy(tmp_path / "s", n=50, block_rows=16)
    truth = made.features[made.body]
    for k in range(4):
        raw = made.chunk("body", k).read_bytes()
        rows = np.frombuffer(raw[:-4], "<f4").reshape(16, 5)
        assert np.array_equal(rows[: min(16, 50 - 16 * k)], truth[16 * k : 16 * k + 16])
        assert np.isnan(rows[50 - 16 * k :]).all()
        assert raw[-4:] == google_crc32c.value(raw[:-4]).to_bytes(4, "little")


def test_all_zero_features_are_written(tmp_path: Path) -> None:
    """zarr's default leaves out chunks of zeros, so that "not yet computed" and "all zeros" would look the same."""
    split = toy_split(6)
    key = pass_key(split)
    array = array_key(key)
    fill(create_store(tmp_path / "s"), split, {array: np.zeros((6, 5), np.float32)}, block_rows=2)
    files = sorted(p.name for p in (tmp_path / "s").rglob("c.*"))
    assert files == ["c.0.0", "c.1.0", "c.2.0"]
    assert not open_store(tmp_path / "s").features("body", "toy/train").numpy().any()


def test_dask_and_torch(tmp_path: Path) -> None:
    import torch

    made = toy(tmp_path / "s")
    found, truth = made.store.features("stem", "toy/train"), next(iter(made.features.values()))
    lazy = found.dask()
    assert lazy.chunks == ((16, 16, 16, 2), (7,))
    assert lazy.dtype == np.float16
    assert np.array_equal(lazy.compute(), truth)
    assert np.array_equal(lazy.astype("f8").sum(0).compute(), truth.astype("f8").sum(0)) or np.allclose(
        lazy.astype("f8").sum(0).compute(), truth.astype("f8").sum(0), rtol=1e-12
    )
    tensor = found.load()
    assert tensor.dtype == torch.float16
    assert np.array_equal(tensor.numpy(), truth)
    assert found.load(dtype=torch.float32).dtype == torch.float32
    assert np.array_equal(found.load(dtype=torch.float64).numpy(), truth.astype("f8"))


@settings(max_examples=60)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_bfloat16_is_rounded_as_torch_does(values: list[float]) -> None:
    import torch

    numbers = np.array(values, np.float32)
    expected = torch.from_numpy(numbers).to(torch.bfloat16)
    assert np.array_equal(narrow(numbers), expected.view(torch.uint16).numpy())
    out = np.empty(len(values), np.float32)
    widen(narrow(numbers), out)
    assert np.array_equal(out, expected.float().numpy())


def test_bfloat16_in_files_for_zarr_and_for_torch(tmp_path: Path) -> None:
    """uint16 to zarr, with an attribute that says what the bits are; bfloat16 to torch, without a copy; format 2."""
    import torch
    import zarr

    split = toy_split(50)
    key = pass_key(split)
    array = array_key(key, "body", 5, "bfloat16")
    bits = features_of(array, 50)
    store = create_store(tmp_path / "s")
    fill(store, split, {array: bits}, block_rows=16)
    found = store.features("body", "toy/train")
    assert (found.dtype, found.nbytes, found.array.dtype) == (np.float32, 1000, np.uint16)
    tensor = found.load()
    assert tensor.dtype == torch.bfloat16
    assert np.array_equal(tensor.view(torch.uint16).numpy(), bits)
    assert np.array_equal(found.dask().compute(), seen(bits))
    raw = np.empty((50, 5), np.uint16)
    found.read_into(raw)
    assert np.array_equal(raw, bits)
    folder = store.root / key.digest / "arrays" / array.digest
    opened = zarr.open_array(str(folder / "data.zarr"), mode="r")
    assert (opened.dtype, opened.attrs["featstore"]["dtype"]) == (np.uint16, "bfloat16")
    assert np.array_equal(np.asarray(opened[:]), bits)
    padding = np.frombuffer((folder / "data.zarr" / "c.3.0").read_bytes()[:-4], np.uint16)[10:]
    assert (padding == 0xFFFF).all()
    assert json.loads((folder / "manifest.json").read_text())["format"] == 2
    assert json.loads((store.root / "featstore.json").read_text())["format"] == 1
    assert store.verify() == []


@pytest.mark.gpu
def test_loading_to_a_gpu_is_numpy(tmp_path: Path) -> None:
    """Through two pinned buffers, several times around, converted there."""
    import torch

    made = toy(tmp_path / "s", n=300, block_rows=16)
    found, truth = made.store.features("stem", "toy/train"), next(iter(made.features.values()))
    rows = np.arange(299, -1, -1)
    for matrix, expected in ((found, truth), (found.select(rows), truth[rows])):
        assert np.array_equal(matrix.load("cuda").cpu().numpy(), expected)
        wide = matrix.load("cuda", dtype=torch.float32)
        assert (wide.dtype, wide.device.type) == (torch.float32, "cuda")
        assert np.array_equal(wide.cpu().numpy(), expected.astype("f4"))
    late = array_key(made.key, "neck", 3, "bfloat16")
    bits = features_of(late, 300)
    fill(made.store, made.split, {late: bits}, block_rows=16)
    tensor = made.store.features("neck", "toy/train").load("cuda")
    assert (tensor.dtype, tensor.device.type) == (torch.bfloat16, "cuda")
    assert np.array_equal(tensor.cpu().view(torch.uint16).numpy(), bits)


def test_a_matrix_travels_to_another_process(tmp_path: Path) -> None:
    """A dask worker receives it pickled; open files and locks must not come along."""
    made = toy(tmp_path / "s")
    found = made.store.features("body", "toy/train")
    found.take(np.array([1, 2]))
    again = pickle.loads(pickle.dumps(found.select(np.array([3, 1]))))
    assert np.array_equal(again.numpy(), made.features[made.body][[3, 1]])
    assert again.ids.tolist() == ["img/00003.png", "img/00001.png"]
    assert again.key == found.select(np.array([3, 1])).key


def test_many_chunks_do_not_exhaust_file_descriptors(tmp_path: Path) -> None:
    """A mapped file holds a descriptor, and a process often has no more than 1024."""
    split = toy_split(1500)
    key = pass_key(split)
    array = array_key(key)
    truth = features_of(array, 1500)
    store = create_store(tmp_path / "s")
    with store.writing(key, split, {}, durable=False) as session:
        session.begin([array], 1)
        for block in session.missing_blocks():
            session.write(block, {array: truth[block.start : block.stop]}, wait=False)
        session.commit()
    found = store.features("body", "toy/train")
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for _ in range(2):
        assert np.array_equal(found.take(np.arange(1500)), truth)
    assert before == 0 or len(os.listdir("/proc/self/fd")) - before < 600


@pytest.mark.parametrize("keep", ["block", "view", "torch"])
def test_a_block_that_is_held_is_not_overwritten(tmp_path: Path, keep: str) -> None:
    """Buffers are used again, but only those that nobody holds: a list of blocks must not end as one block many times."""
    import torch

    made = toy(tmp_path / "s", n=300, block_rows=16)
    keeps: dict[str, Callable[[np.ndarray], Any]] = {
        "block": lambda block: block,
        "view": lambda block: block[::-1][::-1],
        "torch": torch.from_numpy,
    }
    held = [
        (where, keeps[keep](block))
        for where, block in made.store.features("body", "toy/train").blocks(7)
        if where.start % 3
    ]
    assert len(held) > 20
    for where, block in held:
        assert np.array_equal(np.asarray(block), made.features[made.body][where])


def test_blocks_reuse_their_memory(tmp_path: Path) -> None:
    made = toy(tmp_path / "s", n=300, block_rows=16)
    places = {block.__array_interface__["data"][0] for _, block in made.store.features("body", "toy/train").blocks(3)}
    assert len(places) < 30  # of 100 blocks; five lie in each buffer, which is about a chunk of 16 rows


def test_small_blocks_check_every_chunk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that read halves of one chunk ahead would each check all of it: reading twice, at a third of the speed."""
    made = toy(tmp_path / "s", n=300, block_rows=16)
    found, real = made.store.features("body", "toy/train"), chunks.read_chunk
    checked: list[str] = []

    def counted(path: Path, *given: Any, **named: Any) -> Any:
        checked.append(path.name)
        return real(path, *given, **named)

    monkeypatch.setattr(chunks, "read_chunk", counted)
    for where, block in found.blocks(8):
        assert np.array_equal(block, made.features[made.body][where])
    assert sorted(checked) == sorted(set(checked))
    assert len(checked) == found.array.grid.n_chunks > 1


def test_leaving_blocks_early_leaves_no_thread(tmp_path: Path) -> None:
    made = toy(tmp_path / "s", n=300, block_rows=16)
    for _ in made.store.features("body", "toy/train").blocks(3):
        break
    assert not [t for t in threading.enumerate() if t.name.startswith("featstore")]


def test_buffers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    found = made.store.features("body", "toy/train")
    with pytest.raises(BadInput, match=r"do not fit a buffer of shape \(3, 5\)"):
        found.read_into(np.zeros((3, 5), np.float32))
    with pytest.raises(BadInput, match="C-contiguous"):
        found.read_into(np.zeros((5, 50), np.float32).T)
    with pytest.raises(BadInput, match="holds nothing"):
        found.blocks(0)
    with pytest.raises(BadInput, match="row 50 does not exist"):
        found.take(np.array([50]))
    with pytest.raises(ValueError, match="without a copy"):
        np.array(found, copy=False)


# ---- block sizes


@given(st.lists(st.integers(2, 1 << 26), min_size=1, max_size=20))
def test_default_blocks_hold_their_bounds(row_bytes: list[int]) -> None:
    """A chunk of 4 to 8 MiB; a block that fits in memory; never more than 4096 rows lost by a kill."""
    rows = default_block_rows(row_bytes)
    assert rows & (rows - 1) == 0
    assert 1 <= rows <= 4096
    assert rows == 1 or rows * sum(row_bytes) <= 512 << 20
    for one in row_bytes:
        chunk = default_chunk_rows(one) * one
        assert chunk <= 8 << 20 or default_chunk_rows(one) == 1
        assert 2 * chunk > 8 << 20


def test_known_widths_get_the_chunks_that_were_measured_best() -> None:
    assert default_chunk_rows(2048 * 4) == 1024
    assert default_chunk_rows(2048 * 2) == 2048
    assert default_chunk_rows(256 * 28 * 28 * 2) == 16


def test_arrays_of_one_session_may_have_other_chunks(tmp_path: Path) -> None:
    """Maps get chunks of few rows, vectors of many; a block holds whole chunks of both."""
    split = toy_split(130)
    key = pass_key(split)
    maps, vectors = array_key(key, "stem", (8, 128, 128)), array_key(key, "body", 4)
    truth = {maps: features_of(maps, 130), vectors: features_of(vectors, 130)}
    store = create_store(tmp_path / "s")
    with store.writing(key, split, {}) as session:
        session.begin([maps, vectors], 64)
        assert [len(b) for b in session.missing_blocks()] == [64, 64, 2]
        for block in session.missing_blocks():
            session.write(block, {a: truth[a][block.start : block.stop] for a in session.arrays})
        session.commit()
    for array in truth:
        found = store.features(array.unit, "toy/train")
        assert np.array_equal(found.numpy(), truth[array])
        assert found.manifest["chunk_rows"] == (16 if array is maps else 64)


# ---- a session


def test_a_second_session_has_nothing_to_do(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    before = tree_bytes(tmp_path / "s")
    assert fill(made.store, made.split, made.features) == 0
    assert tree_bytes(tmp_path / "s") == before


def test_units_added_later_join_their_pass(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    late = array_key(made.key, "neck", 3)
    added = {**made.features, late: features_of(late, 50)}
    with made.store.writing(made.key, made.split, {"units": ["stem", "neck", "body"]}) as session:
        session.begin(list(added), 16)
        assert session.arrays == (late,)
        for block in session.missing_blocks():
            session.write(block, {late: added[late][block.start : block.stop]})
        session.commit()
    assert set(made.store.units("toy/train")) == {"stem", "neck", "body"}
    assert made.store.verify() == []


def test_leaving_without_commit_keeps_what_was_written(tmp_path: Path) -> None:
    split = toy_split(50)
    key = pass_key(split)
    array = array_key(key)
    truth = features_of(array, 50)
    store = create_store(tmp_path / "s")
    with contextlib.suppress(KeyboardInterrupt), store.writing(key, split, {}) as session:
        session.begin([array], 16)
        block = session.missing_blocks()[1]
        session.write(block, {array: truth[16:32]})
        raise KeyboardInterrupt
    assert not store.has_complete(array)
    with pytest.raises(NotStored, match=r"not complete.*featstore extract toy:net toy/train"):
        store.features("body", "toy/train")
    assert [e.is_complete for e in store.entries()] == [False]
    assert store.units("toy/train") == ()
    assert store.units("toy/train", complete=False) == ("body",)
    with store.writing(key, split, {}) as session:
        session.begin([array])  # other rows per block than before: the chunks there are kept
        assert [b.index for b in session.missing_blocks()] == [0, 2, 3]
        with pytest.raises(NotStored, match="3 blocks are not written yet"):
            session.commit()


def test_what_an_interrupted_writer_left_is_checked(tmp_path: Path) -> None:
    """Damage in staging is computed again; strangers' files are removed."""
    made = toy(tmp_path / "whole")
    split, key, array = made.split, made.key, made.body
    truth = made.features[array]
    store = create_store(tmp_path / "s")
    with store.writing(key, split, {}) as session:
        session.begin([array], 16)
        for block in session.missing_blocks():
            session.write(block, {array: truth[block.start : block.stop]})
    data = store.root / key.digest / "staging" / array.digest / "data.zarr"
    raw = bytearray((data / "c.1.0").read_bytes())
    raw[7] ^= 1
    (data / "c.1.0").write_bytes(raw)
    (data / "c.2.0").write_bytes(raw[:40])
    for name in ("c.0.0.1234.partial", "c.9.0", "stranger"):
        (data / name).write_bytes(b"x")
    assert fill(store, split, {array: truth}) == 2
    assert np.array_equal(store.features("body", "toy/train").numpy(), truth)
    assert sorted(p.name for p in store.root.rglob("c.*")) == ["c.0.0", "c.1.0", "c.2.0", "c.3.0"]
    assert not list(store.root.rglob("*.partial"))


@pytest.mark.parametrize("broken", ["array.json", "zarr.json"])
@pytest.mark.parametrize("how", ["missing", "rubbish", "other"])
def test_broken_descriptions_in_staging_are_made_anew(tmp_path: Path, broken: str, how: str) -> None:
    made = toy(tmp_path / "whole")
    array, truth = made.body, made.features[made.body]
    store = create_store(tmp_path / "s")
    with store.writing(made.key, made.split, {}) as session:
        session.begin([array], 16)
        session.write(session.missing_blocks()[0], {array: truth[:16]})
    folder = store.root / made.key.digest / "staging" / array.digest
    path = folder / broken if broken == "array.json" else folder / "data.zarr" / broken
    text = path.read_text()
    path.unlink()
    if how != "missing":
        path.write_text("{" if how == "rubbish" else text.replace("50", "51"))
    fill(store, made.split, {array: truth}, block_rows=16)
    assert store.verify() == []
    assert np.array_equal(store.features("body", "toy/train").numpy(), truth)


def test_a_session_refuses_what_was_not_announced(tmp_path: Path) -> None:
    split = toy_split(20)
    key = pass_key(split)
    array = array_key(key)
    store = create_store(tmp_path / "s")
    with store.writing(key, split, {}) as session:
        session.begin([array], 8)
        block = session.missing_blocks()[0]
        for rows in (np.zeros((7, 5), "f4"), np.zeros((8, 5), "f8"), np.zeros((8, 6), "f4")):
            with pytest.raises(BadInput, match="was announced"):
                session.write(block, {array: rows})
        with pytest.raises(BadInput, match="without unit 'body'"):
            session.write(block, {})
        with pytest.raises(IdentityError, match="belongs to the pass"):
            session.begin([array_key(pass_key(toy_split(21)))])
        with pytest.raises(BadInput, match="holds nothing"):
            session.begin([array], 0)
    with pytest.raises(IdentityError, match="not those"), store.writing(key, toy_split(20, first=1), {}):
        pass


def test_a_write_without_waiting_arrives(tmp_path: Path) -> None:
    made = toy(tmp_path / "whole")
    array, truth = made.body, made.features[made.body]
    store = create_store(tmp_path / "s")
    with store.writing(made.key, made.split, {"units": ["stem", "body"]}) as session:
        session.begin([array], 16)
        for block in session.missing_blocks():
            session.write(block, {array: truth[block.start : block.stop].copy()}, wait=False)
        session.commit()
    assert tree_bytes(made.folder("body")) == tree_bytes(store.root / made.key.digest / "arrays" / array.digest)


# ---- one writer


def fill_within(made: Toy, timeout: float) -> None:
    with made.store.writing(made.key, made.split, {}, timeout=timeout):
        pass


def test_a_second_writer_is_told_who_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = toy(tmp_path / "s")
    with made.store.writing(made.key, made.split, {}):
        who = rf"process {os.getpid()} on \S+ \(since 20\d\d-"
        with pytest.raises(StoreBusy, match=who), made.store.writing(made.key, made.split, {}):
            pass  # the same thread: waiting for itself would take for ever
        with ThreadPoolExecutor(1) as other_thread:
            for timeout, said in ((0, ""), (0.2, f"featstore: waiting for process {os.getpid()} on ")):
                waiting = other_thread.submit(fill_within, made, timeout)
                with pytest.raises(StoreBusy, match=who):
                    waiting.result()
                assert capsys.readouterr().err.startswith(said)
        other = toy_split(5, name="other")
        fill(made.store, other, {array_key(pass_key(other)): np.ones((5, 5), "f4")})  # another pass is free
    assert fill(made.store, made.split, made.features) == 0


def test_a_waiting_writer_finds_the_work_done(tmp_path: Path) -> None:
    """Two extractions of the same thing: one computes, the other waits and has nothing left to do."""
    split = toy_split(200)
    key = pass_key(split)
    array = array_key(key)
    truth = features_of(array, 200)
    store = create_store(tmp_path / "s")
    counts: list[int] = []
    gate = threading.Barrier(3)

    def work() -> None:
        gate.wait()
        counts.append(fill(open_store(tmp_path / "s"), split, {array: truth}, block_rows=4))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts) == [0, 0, 50]
    assert np.array_equal(store.features("body", "toy/train").numpy(), truth)


# ---- damage


def flip(path: Path, at: int) -> None:
    """Flip one bit, `at` counted in bits from the start, modulo the size."""
    raw = bytearray(path.read_bytes())
    at %= 8 * len(raw)
    raw[at // 8] ^= 1 << at % 8
    path.write_bytes(raw)


@settings(max_examples=30, deadline=None)
@given(
    k=st.integers(0, 3),
    bit=st.integers(0, 8 * 16 * 7 * 2 + 31),
    how=st.sampled_from(["numpy", "take", "blocks", "part"]),
)
def test_a_flipped_bit_anywhere_is_noticed(k: int, bit: int, how: str) -> None:
    """In the rows, in the padding, in the checksum; by whatever way the chunk is read first."""
    with tempfile.TemporaryDirectory() as folder:
        made = toy(Path(folder) / "s")
        flip(made.chunk("stem", k), bit)
        found = made.store.features("stem", "toy/train")
        reads: dict[str, Callable[[], object]] = {
            "numpy": found.numpy,
            "take": lambda: found.take(np.array([16 * k + 1])),
            "blocks": lambda: list(found.blocks(3)),
            "part": lambda: found[16 * k : 16 * k + 1],
        }
        last = min(16 * k + 16, 50) - 1
        with pytest.raises(
            CorruptChunk, match=rf"rows {16 * k} to {last} of unit 'stem' of toy:net over 'toy/train'"
        ) as caught:
            reads[how]()
        assert caught.value.rows == (16 * k, last + 1)
        assert "--repair" in str(caught.value)
        assert str(made.store.root) in str(caught.value)
        good = [i for i in range(50) if i // 16 != k]
        assert np.array_equal(found.take(np.array(good)), next(iter(made.features.values()))[good])


def damage_truncate(made: Toy) -> None:
    path = made.chunk("body", 2)
    path.write_bytes(path.read_bytes()[:-5])


def damage_empty(made: Toy) -> None:
    made.chunk("body", 2).write_bytes(b"")


def damage_remove(made: Toy) -> None:
    made.chunk("body", 2).unlink()


def damage_flip(made: Toy) -> None:
    flip(made.chunk("body", 2), 77)


def damage_zero_tail(made: Toy) -> None:
    """What a power cut can leave: the size is right, the end was never written."""
    path = made.chunk("body", 2)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2].ljust(len(raw), b"\0"))


def damage_swap(made: Toy) -> None:
    """Another chunk's bytes, whole and with a good checksum."""
    made.chunk("body", 2).write_bytes(made.chunk("body", 1).read_bytes())


def damage_edit(made: Toy) -> None:
    """Edited with a checksum that fits: only the manifest knows."""
    raw = bytearray(made.chunk("body", 2).read_bytes()[:-4])
    raw[3] ^= 0xFF
    made.chunk("body", 2).write_bytes(bytes(raw) + google_crc32c.value(bytes(raw)).to_bytes(4, "little"))


DAMAGES = [damage_truncate, damage_empty, damage_remove, damage_flip, damage_zero_tail, damage_swap, damage_edit]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__[7:])
def test_damage_is_named_and_repaired(tmp_path: Path, damage: Callable[[Toy], None]) -> None:
    """Reported by reading and by verify with the same rows; repair computes those rows alone, to the same bytes."""
    made = toy(tmp_path / "s")
    before = tree_bytes(tmp_path / "s")
    damage(made)
    with pytest.raises(CorruptChunk, match="rows 32 to 47 of unit 'body'"):
        made.store.features("body", "toy/train").numpy()
    problems = open_store(tmp_path / "s").verify()
    assert [(p.rows, "unit 'body'" in p.where) for p in problems] == [((32, 48), True)]
    assert fill(made.store, made.split, made.features, repair=True) == 1
    assert tree_bytes(tmp_path / "s") == before
    assert np.array_equal(made.store.features("body", "toy/train").numpy(), made.features[made.body])


@pytest.mark.parametrize("damage", [damage_truncate, damage_empty, damage_remove], ids=lambda d: d.__name__[7:])
def test_what_is_gone_is_computed_again_without_being_asked(tmp_path: Path, damage: Callable[[Toy], None]) -> None:
    made = toy(tmp_path / "s")
    before = tree_bytes(tmp_path / "s")
    damage(made)
    with made.store.writing(made.key, made.split, {"units": ["stem", "body"]}) as session:
        session.begin(list(made.features))
        assert session.n_damaged == 1
        (block,) = session.missing_blocks()
        assert (block.start, block.stop) == (32, 48)
        session.write(block, {a: f[32:48] for a, f in made.features.items()})
        session.commit()
    assert tree_bytes(tmp_path / "s") == before


def test_a_chunk_cut_short_after_it_was_checked_is_noticed(tmp_path: Path) -> None:
    """Rows are taken from mapped files; touching one that has shrunk would kill the process."""
    made = toy(tmp_path / "s")
    found = made.store.features("body", "toy/train")
    found.take(np.array([33]))
    found.take(np.array([33]))
    damage_truncate(made)
    with pytest.raises(CorruptChunk, match="rows 32 to 47"):
        found.take(np.array([33]))
    with pytest.raises(CorruptChunk, match="rows 32 to 47"):
        found.numpy()


def test_a_repaired_chunk_is_read_by_who_had_opened_the_store_before(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    damage_flip(made)
    found = made.store.features("body", "toy/train")
    with pytest.raises(CorruptChunk):
        found.numpy()
    fill(open_store(tmp_path / "s"), made.split, made.features, repair=True)
    assert np.array_equal(found.numpy(), made.features[made.body])


# ---- manifests


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))


def test_an_edited_manifest_is_refused_in_words(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    path = made.folder("body") / "manifest.json"
    text = path.read_text()
    edit(path, lambda said: said["array"].update(unit="head"))
    for ask in (lambda: made.store.features("body", "toy/train"), made.store.entries):
        with pytest.raises(IdentityError, match="unit is 'body' when it was written and 'head' now"):
            ask()  # type: ignore[no-untyped-call]
    assert ["manifest.json" in str(p) for p in made.store.verify()] == [True]
    path.write_text(text)
    edit(path, lambda said: said["crc32c"].reverse())
    with pytest.raises(IdentityError, match=r"changed after it was written.*checksums"):
        made.store.features("body", "toy/train")
    path.write_text("{")
    with pytest.raises(IdentityError, match="not valid JSON"):
        made.store.features("body", "toy/train")
    path.write_text(text)
    before = tree_bytes(tmp_path / "s")
    path.write_text("{")
    assert fill(made.store, made.split, made.features, repair=True) == 0  # all chunks are good: nothing to compute
    assert tree_bytes(tmp_path / "s") == before


def test_a_manifest_of_another_array_is_refused(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    shutil.copy(made.folder("stem") / "manifest.json", made.folder("body") / "manifest.json")
    with pytest.raises(
        IdentityError, match=r"describes another array.*unit is 'body' when it was written and 'stem' now"
    ):
        made.store.features("body", "toy/train")


def test_an_edited_key_is_refused(tmp_path: Path) -> None:
    """Else features of one preprocessing would be handed out under another."""
    made = toy(tmp_path / "s")
    edit(tmp_path / "s" / made.key.digest / "key.json", lambda said: said["pass"].update(precision="tf32"))
    with pytest.raises(IdentityError, match="edited or moved"):
        made.store.features("body", "toy/train")
    with pytest.raises(IdentityError, match="edited or moved"):
        fill(made.store, made.split, made.features)
    assert len(made.store.verify()) > 0


def test_an_edited_list_of_samples_is_refused(tmp_path: Path) -> None:
    """Else rows would be paired with other ids."""
    made = toy(tmp_path / "s")
    path = tmp_path / "s" / made.key.digest / "samples.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["ids"] = arrays["ids"][::-1]
    np.savez(path, **arrays)
    with pytest.raises(IdentityError, match="one of them was edited"):
        _ = made.store.features("body", "toy/train").ids
    path.write_bytes(b"rubbish")
    with pytest.raises(IdentityError, match="cannot be read"):
        _ = open_store(tmp_path / "s").features("body", "toy/train").ids


def test_a_manifest_without_its_array_json_still_works(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    (made.folder("body") / "array.json").unlink()
    assert np.array_equal(made.store.features("body", "toy/train").numpy(), made.features[made.body])


def test_an_array_without_manifest_is_not_there(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    before = tree_bytes(tmp_path / "s")
    (made.folder("body") / "manifest.json").unlink()
    with pytest.raises(NotStored, match="not complete"):
        made.store.features("body", "toy/train")
    assert fill(made.store, made.split, made.features) == 0
    assert tree_bytes(tmp_path / "s") == before


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"format": "1"}', '{"format": true}', '{"format": 0}'])
def test_what_is_not_a_store_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "featstore.json").write_text(text)
    with pytest.raises(StoreFormat):
        open_store(tmp_path)


# ---- places


def test_where_there_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(NotStored, match="no such folder"):
        open_store(tmp_path / "nowhere")
    with pytest.raises(NotStored, match=r"without featstore\.json"):
        open_store(tmp_path)
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(BadInput, match=r"other things \('photo\.jpg'\)"):
        create_store(tmp_path)
    with pytest.raises(BadInput, match="is a file"):
        create_store(tmp_path / "photo.jpg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photo.jpg"]


def test_a_store_may_be_moved(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    shutil.move(tmp_path / "s", tmp_path / "elsewhere")
    store = open_store(tmp_path / "elsewhere")
    assert store.verify() == []
    assert np.array_equal(store.features("body", "toy/train").numpy(), made.features[made.body])
    assert fill(store, made.split, made.features) == 0
    text = "".join(p.read_text() for p in store.root.rglob("*.json"))
    assert str(tmp_path) not in text


@contextlib.contextmanager
def without_write_permission(folder: Path) -> Iterator[None]:
    """Close a folder to writing; root, whom permissions do not stop, becomes nobody for a while."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_read_only_store_is_readable_and_not_written(open_folder: Path) -> None:
    made = toy(open_folder / "s")
    found = made.store.features("stem", "toy/train")
    assert (found.zarr.shape, len(found.ids)) == (
        (50, 7),
        50,
    )  # imports what is needed while Python may read its own files
    other = toy_split(5, name="other")
    with without_write_permission(open_folder / "s"):
        store = open_store(open_folder / "s")
        assert store.verify() == []
        assert np.array_equal(store.features("body", made.split).numpy(), made.features[made.body])
        for split, arrays in (
            (other, {array_key(pass_key(other)): np.ones((5, 5), "f4")}),
            (made.split, made.features),
        ):
            with pytest.raises(StoreWrite, match="permission is denied"):
                fill(store, split, arrays)
        with pytest.raises(StoreWrite, match="permission is denied"):
            store.set_targets("toy/train", np.zeros(50, int))
        with pytest.raises(StoreWrite, match="permission is denied"):
            create_store(open_folder / "s" / "new")
    assert fill(made.store, made.split, made.features) == 0


FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from toys import *
from featstore import FeatstoreError
split = toy_split(20000)
key = pass_key(split)
small, large = array_key(key, "stem", 2), array_key(key, "body", 300)
store = create_store(Path({root!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (1_100_000, 1_100_000))
try:
    with store.writing(key, split, {{}}) as session:
        session.begin([small, large], 1000)
        for block in session.missing_blocks():
            session.write(block, {{a: features_of(a, 20000)[block.start : block.stop] for a in session.arrays}})
except FeatstoreError as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of a file, which the operating system reports as it does a full disk."""
    root, tests = tmp_path / "s", Path(__file__).parent
    script = FULL_DISK.format(root=str(root), tests=str(tests))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tests.parent)
    assert done.stdout.startswith(f"StoreWrite the store {root} could not be written: a file may not grow so large")
    assert done.stderr == ""
    assert not list(root.rglob("*.partial"))
    split = toy_split(20000)
    key = pass_key(split)
    arrays = {a: features_of(a, 20000) for a in (array_key(key, "stem", 2), array_key(key, "body", 300))}
    assert fill(open_store(root), split, arrays) == 20
    assert open_store(root).verify() == []


def test_a_disk_without_space(tmp_path: Path) -> None:
    """A real file system of 600 kB, where we may mount one."""
    room = tmp_path / "room"
    room.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(room)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        split = toy_split(500)
        key = pass_key(split)
        array = array_key(key, "body", 1000)
        truth = features_of(array, 500)
        store = create_store(room / "s")
        with pytest.raises(StoreWrite, match="no space is left"):
            fill(store, split, {array: truth}, block_rows=32)
        assert not list(room.rglob("*.partial"))
        n_kept = len(list(room.rglob("c.*")))
        assert n_kept > 0
        subprocess.run(["mount", "-o", "remount,size=8M", str(room)], check=True)
        assert fill(store, split, {array: truth}, block_rows=32) == 16 - n_kept
        assert np.array_equal(store.features("body", "toy/train").numpy(), truth)
    finally:
        subprocess.run(["umount", str(room)], check=True)


def test_who_cleans_up_does_not_harm_who_is_writing(tmp_path: Path) -> None:
    """Files that killed writers left are deleted without asking whose they are."""
    stop = threading.Event()

    def clean() -> None:
        while not stop.is_set():
            remove_partials(tmp_path)

    cleaner = threading.Thread(target=clean)
    cleaner.start()
    try:
        for i in range(200):
            atomic_write(tmp_path / "file", [f"{i}".encode(), np.arange(100)], durable=False)
            assert (tmp_path / "file").read_bytes() == f"{i}".encode() + np.arange(100).tobytes()
    finally:
        stop.set()
        cleaner.join()
    with pytest.raises(FileNotFoundError):
        atomic_write(tmp_path / "nowhere" / "file", [b""])


def test_what_a_killed_writer_left_anywhere_is_removed(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    (tmp_path / "s" / "cache").mkdir()
    for folder in (".", "cache", made.key.digest, f"{made.key.digest}/targets"):
        (tmp_path / "s" / folder / "x.123.partial").touch()
    fill(made.store, made.split, made.features)
    assert not list((tmp_path / "s").rglob("*.partial"))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "featstore.json.123.partial").touch()
    create_store(tmp_path / "new")


def test_names_cannot_leave_the_store(tmp_path: Path) -> None:
    """Ids, units, splits and backbones are never paths; names of labels are, and are checked."""
    split = replace(toy_split(4, name="../../split"), ids=np.array(["../../x", "/etc/passwd", "a\nb", "..\\y"]))
    key = pass_key(split, backbone="../../net")
    array = array_key(key, "../../../unit/a", 3)
    store = create_store(tmp_path / "a" / "b" / "s")
    fill(store, split, {array: features_of(array, 4)}, key=key)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["s"]
    names = {p.name for p in store.root.rglob("*")}
    assert not any("unit" in n or "split" in n.replace("split.json", "") or "net" in n for n in names)
    found = store.features("../../../unit/a", "../../split", backbone="../../net")
    assert found.ids.tolist() == split.ids.tolist()
    for name in ("../../x", "a/b", "", ".", "..", "a\0b", "x" * 200):
        with pytest.raises(BadInput, match="cannot be called"):
            store.set_targets("../../split", np.zeros(4, int), name=name)
        with pytest.raises(BadInput, match="cannot be called"):
            found.targets(name)


@dataclass
class Boom:
    """Its unpickling would be noticed."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("executed",))


@pytest.mark.parametrize("name", ["samples.npz", "targets/labels.npz"])
def test_nothing_in_a_store_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    made = toy(tmp_path / "s")
    monkeypatch.chdir(tmp_path)
    evil = np.array([Boom()], object)
    np.savez(
        tmp_path / "s" / made.key.digest / name, ids=evil, id_offsets=evil, digests=evil, labels=evil, classes=evil
    )
    found = made.store.features("body", "toy/train")
    for ask in (lambda: found.ids, lambda: found.labels, made.store.verify):
        try:
            ask()
        except IdentityError:
            continue
    assert not (tmp_path / "executed").exists()


# ---- finding


def test_the_same_rows_have_the_same_key_however_they_are_stored(tmp_path: Path) -> None:
    """Results are filed under this key: a subset extracted alone and one picked from the whole are one thing."""
    made = toy(tmp_path / "s")
    part = made.split.subset(np.arange(10, 30), "part")
    picked = made.store.features("body", part)
    assert picked.key == made.store.features("body", "toy/train").select(np.arange(10, 30)).key
    alone = create_store(tmp_path / "alone")
    array = array_key(pass_key(part))
    fill(alone, part, {array: made.features[made.body][10:30]})
    assert alone.features("body", "part").key == picked.key
    others = [
        made.store.features("body", "toy/train"),
        picked.select(np.arange(19, -1, -1)),
        made.store.features("stem", part),
    ]
    assert len({picked.key, *(o.key for o in others)}) == 4


def test_a_subset_is_answered_from_the_rows_of_the_whole(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    rest, held = made.split.holdout(0.3, seed=2)
    for part in (rest, held, made.split.subset([7, 3, 44], "three")):
        found = made.store.features("body", part)
        rows = made.split.rows(part.ids)
        assert np.array_equal(found.numpy(), made.features[made.body][rows])
        assert found.ids.tolist() == part.ids.tolist()
        assert np.array_equal(found.labels, part.labels)  # type: ignore[arg-type]
        assert found.split == part.name
    matrix = made.store.features("body", "toy/train")
    assert [m.ids.tolist() for m in matrix.holdout(0.3, seed=2)] == [rest.ids.tolist(), held.ids.tolist()]


def test_a_subset_with_other_contents_is_refused(tmp_path: Path) -> None:
    """Same ids, other images: their features are not here."""
    made = toy(tmp_path / "s")
    part = made.split.subset(np.arange(4), "toy/train")
    edited = replace(part, samples=Memory([b"content 0", b"edited", b"content 2", b"edited"]))
    with pytest.raises(
        IdentityError, match=r"4 ids in common, 2 of these with other contents or shifts, the first is 'img/00001"
    ):
        made.store.features("body", edited)
    with pytest.raises(NotStored, match="no split called 'other'"):
        made.store.features("body", replace(edited, name="other"))


def test_a_split_is_found_by_its_contents_under_any_name(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    renamed = replace(made.split, name="renamed", labels=None)
    found = made.store.features("body", renamed)
    assert found.split == "renamed"
    assert np.array_equal(found.labels, made.split.labels)  # type: ignore[arg-type]
    fill(made.store, renamed, made.features)
    assert made.store.entries()[0].splits == ("renamed", "toy/train")
    assert np.array_equal(made.store.features("body", "renamed").numpy(), made.features[made.body])


def test_what_is_not_stored_is_answered_with_what_is(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    root = made.store.root
    with pytest.raises(
        NotStored, match=r"no split called 'toy/tain' .* it has 'toy/train'. `featstore extract MODEL toy/tain"
    ):
        made.store.features("body", "toy/tain")
    with pytest.raises(
        NotStored,
        match=rf"no unit 'bdy' .* stored are 'body' ….*`featstore extract toy:net toy/train {root} --units bdy`",
    ):
        made.store.features("bdy", "toy/train")
    with pytest.raises(NotStored, match=r"no backbone 'toy:nut' .*'toy:net'"):
        made.store.features("body", "toy/train", backbone="toy:nut")
    with pytest.raises(NotStored, match=r"no pool 'max' .*'mean'"):
        made.store.features("body", "toy/train", pool="max")
    with pytest.raises(NotStored, match=r"no dtype 'float16' .*'float32'"):
        made.store.features("body", "toy/train", dtype="float16")
    with pytest.raises(NotStored, match="it is empty"):
        create_store(tmp_path / "empty").features("body", "toy/train")


def test_several_that_fit_are_listed(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    half = array_key(made.key, "body", 5, "float16")
    fill(made.store, made.split, {half: made.features[made.body].astype("f2")})
    with pytest.raises(
        Ambiguous, match=r"2 matrices .* dtype='float16'; dtype='float32'|2 .* dtype='float32'; dtype='float16'"
    ):
        made.store.features("body", "toy/train")
    assert made.store.features("body", "toy/train", dtype="float16").dtype == np.float16
    assert made.store.features("stem", "toy/train").dtype == np.float16
    other = pass_key(made.split, weights_digest="f" * 32)
    fill(made.store, made.split, {array_key(other): np.ones((50, 5), "f4")}, key=other)
    with pytest.raises(Ambiguous, match=r"weights_digest='f{32}'"):
        made.store.features("body", "toy/train", dtype="float32")
    assert made.store.features("body", "toy/train", backbone="f" * 8).numpy().all()
    exact = pass_key(made.split, precision="tf32")
    fill(made.store, made.split, {array_key(exact): np.zeros((50, 5), "f4")}, key=exact)
    assert not made.store.features("body", "toy/train", precision="tf32").numpy().any()


def network(**changes: Any) -> Any:
    """What a store asks of a backbone."""
    said = {**NETWORK, "version": None, **changes}
    return SimpleNamespace(
        name=said["backbone"],
        weights_digest=said["weights_digest"],
        cut=said["cut"],
        version=said["version"],
        preprocessing=SimpleNamespace(to_json=lambda: said["preprocessing"]),
    )


def test_a_backbone_is_found_by_what_it_is(tmp_path: Path) -> None:
    """A network of the same name with other weights or preprocessing: refused, with the differences in words."""
    made = toy(tmp_path / "s")
    assert made.store.units("toy/train", network()) == ("stem", "body")
    with pytest.raises(
        IdentityError, match=rf"weights_digest is '{NETWORK['weights_digest']}' stored and 'e{{32}}' asked for"
    ):
        made.store.features("body", "toy/train", backbone=network(weights_digest="e" * 32))
    larger = {**NETWORK["preprocessing"], "input_size": [16, 16]}
    with pytest.raises(IdentityError, match=r"preprocessing.input_size is \[8, 8\] stored and \[16, 16\] asked for"):
        made.store.features("body", "toy/train", backbone=network(preprocessing=larger))
    with pytest.raises(NotStored, match="no backbone 'toy:other'"):
        made.store.features("body", "toy/train", backbone=network(backbone="toy:other"))


def test_entries_say_what_is_there(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    entries = made.store.entries()
    assert [(e.unit, e.dtype, e.shape, e.n_bytes, e.is_complete) for e in entries] == [
        ("stem", "float16", (50, 7), 700, True),
        ("body", "float32", (50, 5), 1000, True),
    ]
    assert {(e.backbone, e.split, e.pool, e.pass_id) for e in entries} == {
        ("toy:net", "toy/train", "mean", made.key.digest)
    }
    assert all(made.store.has_complete(a) for a in made.features)
    assert not made.store.has_complete(array_key(made.key, "neck"))
    assert json.dumps([e.to_json() for e in entries])


# ---- labels


def test_labels_are_beside_and_may_be_replaced(tmp_path: Path) -> None:
    """No forward pass for other labels, and no change of the features' identity."""
    made = toy(tmp_path / "s")
    found = made.store.features("body", "toy/train")
    assert np.array_equal(found.labels, made.split.labels)  # type: ignore[arg-type]
    assert found.classes == ("class 0", "class 1", "class 2")
    made.store.set_targets("toy/train", np.arange(50) % 2, classes=("even", "odd"))
    made.store.set_targets(made.split, np.eye(50, 4, dtype=int), name="tags")
    again = made.store.features("body", "toy/train")
    assert again.labels.tolist() == [0, 1] * 25  # type: ignore[union-attr]
    assert again.classes == ("even", "odd")
    assert again.targets("tags").shape == (50, 4)
    assert again.select(np.array([3, 0])).targets("tags")[0].argmax() == 3
    assert again.key == found.key
    with pytest.raises(BadLabels, match=r"no labels called 'tgs'.*labels, tags"):
        again.targets("tgs")
    with pytest.raises(BadLabels, match=r"50 samples and labels of shape \(49,\)"):
        made.store.set_targets("toy/train", np.zeros(49, int))
    assert again.with_labels(np.ones(50, int)).labels.sum() == 50  # type: ignore[union-attr]
    part = made.split.subset(np.arange(5), "part")
    with pytest.raises(NotStored, match="larger split"):
        made.store.set_targets(part, np.zeros(5, int))


def test_extracting_with_other_labels_replaces_them(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    relabelled = toy_split(50, n_classes=2)
    assert fill(made.store, relabelled, made.features) == 0
    assert made.store.features("body", "toy/train").classes == ("class 0", "class 1")
    unlabelled = replace(relabelled, labels=None)
    assert fill(made.store, unlabelled, made.features) == 0
    assert made.store.features("body", "toy/train").labels is not None


def test_a_grid_knows_its_rows() -> None:
    grid = Grid.of(array_key(pass_key(toy_split(3)), "x", 2), 10, 4)
    assert (grid.n_chunks, [grid.rows(k) for k in range(3)]) == (3, [(0, 4), (4, 8), (8, 10)])
    assert grid.file_bytes == 4 * 2 * 4 + 4
    assert Grid.of(array_key(pass_key(toy_split(3)), "x", 2), 3, 4).chunk_rows == 3


@pytest.mark.parametrize("root", [None, 3, b"store"])
def test_what_names_no_store_is_said(root: Any) -> None:
    """Before anything is looked for."""
    with pytest.raises(BadInput, match="a store is named by the path of a folder or a URL"):
        open_store(root)
