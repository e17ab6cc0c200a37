"""Stores behind a URL: read as a folder is, checked as a folder is, and never written.

A store in fsspec's memory, and one that a real HTTP server of this machine gives out.
"""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import Toy, array_key, features_of, fill, pass_key, toy, tree_bytes

from featstore import BadInput, CorruptChunk, NotStored, StoreWrite, create_store, merge, open_store
from featstore.cli import main

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


class Quiet(SimpleHTTPRequestHandler):
    """Gives out files, and remembers which."""

    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        Quiet.asked.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def made(tmp_path: Path) -> Toy:
    made = toy(tmp_path / "s")
    late = array_key(made.key, "neck", (2, 3), "bfloat16")
    fill(made.store, made.split, {late: features_of(late, 50)}, block_rows=16)
    return made


@pytest.fixture
def served(made: Toy, tmp_path: Path) -> Iterator[str]:
    """The store's URL over HTTP."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/s"
        server.shutdown()
        thread.join()


def to_memory(root: Path) -> str:
    """Copy a store into fsspec's memory and return its URL."""
    import fsspec

    files = fsspec.filesystem("memory")
    if files.exists("/bucket"):
        files.rm("/bucket", recursive=True)
    for name, content in tree_bytes(root).items():
        files.pipe_file(f"/bucket/deep/s/{name}", content)
    return "memory://bucket/deep/s"


@pytest.fixture(params=["memory", "http"])
def url(request: pytest.FixtureRequest, made: Toy) -> str:
    return to_memory(made.store.root) if request.param == "memory" else str(request.getfixturevalue("served"))


def test_everything_is_read_as_from_a_folder(url: str, made: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    store, local = open_store(url), made.store
    assert str(store.root) == url
    assert store.verify() == []
    for unit in ("stem", "neck", "body"):
        found, expected = store.features(unit, "toy/train"), local.features(unit, "toy/train").numpy()
        assert np.array_equal(found.numpy(), expected)
        assert np.array_equal(np.concatenate([b for _, b in found.blocks(7)]), expected)
        rows = np.array([49, 3, 3, 17])
        for _ in range(2):
            assert np.array_equal(found.take(rows), expected[rows])
        assert np.array_equal(found[5:20:3], expected[5:20:3])
        assert np.array_equal(np.asarray(found.select(rows).load().float()), expected[rows].astype("f4"))
        assert np.array_equal(found.dask().compute(), expected)
        assert np.array_equal(pickle.loads(pickle.dumps(found)).numpy(), expected)
    body = store.features("body", made.split)
    assert np.array_equal(np.asarray(body.zarr[3:20]), made.features[made.body][3:20])
    assert body.ids.tolist() == made.split.ids.tolist()
    assert body.labels is not None
    part = made.split.subset(np.arange(5, 9), "part")
    assert np.array_equal(store.features("body", part).numpy(), made.features[made.body][5:9])
    assert main(["ls", url]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert main(["verify", url]) == 0


def test_it_is_streamed_and_every_chunk_fetched_once(served: str, made: Toy) -> None:
    """Opening reads descriptions alone; blocks smaller than chunks do not fetch a chunk twice."""
    Quiet.asked.clear()
    found = open_store(served).features("body", "toy/train")
    assert not [p for p in Quiet.asked if "/c." in p or p.endswith(".npz")]
    rows = [block for _, block in found.blocks(3)]
    assert np.array_equal(np.concatenate(rows), made.features[made.body])
    assert sorted(p.rsplit("/", 1)[1] for p in Quiet.asked if "/c." in p) == [f"c.{k}.0" for k in range(4)]


def test_damage_is_noticed_over_the_wire(served: str, made: Toy) -> None:
    chunk = made.chunk("body", 1)
    whole = chunk.read_bytes()
    for content in (
        whole[:-1],
        b"",
        whole[:5] + bytes([whole[5] ^ 2]) + whole[6:],
        made.chunk("body", 0).read_bytes(),
        None,
    ):
        if content is None:
            chunk.unlink()
        else:
            chunk.write_bytes(content)
        found = open_store(served).features("body", "toy/train")
        with pytest.raises(CorruptChunk, match="rows 16 to 31 of unit 'body'"):
            found.numpy()
        assert [p.rows for p in open_store(served).verify()] == [(16, 32)]
        assert np.array_equal(found.take(np.array([2, 40])), made.features[made.body][[2, 40]])


def test_nothing_is_written_and_that_is_said(url: str, made: Toy) -> None:
    store = open_store(url)
    words = "stores behind a URL are only read. Extract into a local folder and copy it there"
    late = array_key(pass_key(made.split), "late", 2)
    for change in (
        lambda: create_store(url),
        lambda: fill(store, made.split, {late: features_of(late, 50)}),
        lambda: store.set_targets("toy/train", np.zeros(50, int)),
        lambda: store.remove(store.entries()),
        lambda: store.collect_garbage(),
        lambda: merge(made.store, url, progress=False),
    ):
        with pytest.raises(StoreWrite, match=words):
            change()


def test_a_store_is_brought_home_by_merging(url: str, made: Toy, tmp_path: Path) -> None:
    done = merge(url, tmp_path / "home", progress=False)
    assert (done.n_copied, done.left) == (3, ())
    own = {k: v for k, v in tree_bytes(made.store.root).items() if not k.startswith("cache")}
    assert tree_bytes(tmp_path / "home") == own


def test_what_is_not_there_is_said(served: str) -> None:
    for wrong in ("memory://nowhere/s", served + "x", served.rsplit("/", 1)[0]):
        with pytest.raises(NotStored, match="there is no feature store at"):
            open_store(wrong)
    with pytest.raises(BadInput, match="no protocol that fsspec knows"):
        open_store("nosuch://x/y")


def test_a_file_url_is_a_folder(made: Toy) -> None:
    store = open_store(f"file://{made.store.root}")
    assert np.array_equal(store.features("body", "toy/train").numpy(), made.features[made.body])
    store.set_targets("toy/train", np.zeros(50, int))


def test_a_server_that_does_not_answer_is_one_sentence() -> None:
    """Not the network library's own exception, which the command line would show as a traceback."""
    with socket.socket() as taken:  # bound and not listening: whoever connects is refused
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(NotStored, match=r"/feats could not be fetched: Cannot connect"):
            open_store(f"http://127.0.0.1:{taken.getsockname()[1]}/feats")


def test_nobody_is_told_to_write_where_stores_are_only_read() -> None:
    with pytest.raises(NotStored) as found:
        open_store("memory://nowhere/s")
    assert "extract" not in str(found.value)
