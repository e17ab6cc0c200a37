"""Removing, collecting, merging, exporting: is anything lost that somebody uses, or changed on its way?"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import Toy, array_key, features_of, fill, pass_key, toy, toy_split, tree_bytes

import featstore
from featstore import BadInput, Entry, IdentityError, StoreBusy, UnknownName, create_store, open_store
from featstore.cli import main
from featstore.holding import Hold


def entries_of(made: Toy, *units: str) -> list[Entry]:
    return [e for e in made.store.entries(damaged=True) if e.unit in units]


# ---- what is damaged is shown


@pytest.mark.parametrize("text", ["", '{"format": 1, "pa', "[]", "[" * 100_000])
def test_a_broken_key_hides_nothing_else(tmp_path: Path, text: str) -> None:
    """Its pass is shown as damaged; others are listed and found as if it were not there."""
    made = toy(tmp_path / "s")
    other = toy_split(5, name="other")
    array = array_key(pass_key(other))
    fill(made.store, other, {array: np.ones((5, 5), "f4")})
    (tmp_path / "s" / made.key.digest / "key.json").write_text(text)
    with pytest.raises(IdentityError, match=r"key\.json"):
        made.store.entries()
    (good,) = [e for e in made.store.entries(damaged=True) if not e.damage]
    (bad,) = [e for e in made.store.entries(damaged=True) if e.damage]
    assert (good.splits, bad.backbone, bad.is_complete) == (("other",), "?", False)
    assert bad.n_bytes > 50 * (7 * 2 + 5 * 4)
    for ask in ("other", other):
        assert np.array_equal(made.store.features("body", ask).numpy(), np.ones((5, 5)))
    for again in ("toy/train", made.split):
        with pytest.raises(IdentityError, match=r"key\.json"):
            made.store.features("body", again)


def test_without_its_names_a_split_is_found_by_its_images(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    (tmp_path / "s" / made.key.digest / "split.json").write_text('{"na')
    assert {(e.splits, e.is_complete) for e in made.store.entries(damaged=True)} == {(("?",), True)}
    assert np.array_equal(made.store.features("body", made.split).numpy(), made.features[made.body])
    with pytest.raises(IdentityError, match=r"split\.json"):
        made.store.features("body", "toy/train")
    assert ["split.json" in p.reason for p in made.store.verify()] == [True]


def test_ls_shows_damage_and_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = toy(tmp_path / "s")
    half = array_key(made.key, "neck", 3)
    with made.store.writing(made.key, made.split, {}) as session:
        session.begin([half], 16)
        for block in session.missing_blocks()[:3]:
            session.write(block, {half: features_of(half, 50)[block.start : block.stop]})
    manifest = made.folder("body") / "manifest.json"
    manifest.write_text(manifest.read_text()[:100])
    assert main(["ls", str(tmp_path / "s")]) == 0
    out, err = capsys.readouterr()
    states = {line.split()[4]: line for line in out.splitlines()[1:]}
    assert "no, 75 %" in states["neck"]
    assert "damaged" in states["body"]
    assert "20" in states["stem"]
    assert f"{manifest} is not valid JSON" in err
    assert main(["ls", str(tmp_path / "s"), "--json"]) == 0
    said = {e["unit"]: e for e in json.loads(capsys.readouterr().out)}
    assert (said["neck"]["share"], said["stem"]["share"], bool(said["body"]["damage"])) == (0.75, 1.0, True)
    assert main(["info", str(tmp_path / "s")]) == 0
    assert "unit body: mean, float32, 50×5, damaged" in capsys.readouterr().out
    with pytest.raises(IdentityError, match="not valid JSON"):
        made.store.features("body", "toy/train")
    assert np.array_equal(made.store.features("stem", "toy/train").numpy(), next(iter(made.features.values())))


def test_a_name_cannot_give_orders_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = toy_split(3, name="\x1b[2Jtrain\nfake line")
    key = pass_key(split, backbone="net\x07")
    fill(create_store(tmp_path / "s"), split, {array_key(key, "\x1b]0;x\x07"): np.ones((3, 5), "f4")}, key=key)
    for command in ("ls", "info"):
        assert main([command, str(tmp_path / "s")]) == 0
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "\x07" not in out
        assert "\\x1b[2Jtrain\\nfake line" in out


def test_an_npz_that_unfolds_is_refused(tmp_path: Path) -> None:
    """Ours are never compressed; 100 kB of zeros could otherwise fill the memory."""
    made = toy(tmp_path / "s")
    path = tmp_path / "s" / made.key.digest / "samples.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("ids.npy", "w") as member:
        np.lib.format.write_array(member, np.zeros(10_000_000, np.uint8))
    with pytest.raises(IdentityError, match="cannot be read as an npz"):
        _ = made.store.features("body", "toy/train").ids
    assert len(made.store.verify()) == 1


# ---- removing


def test_what_is_removed_is_gone_and_nothing_else_is(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    before = {k: v for k, v in tree_bytes(tmp_path / "s").items() if made.body.digest not in k}
    done = made.store.remove(entries_of(made, "body"))
    assert done.n_bytes > 1000
    assert tree_bytes(tmp_path / "s") == before
    assert made.store.units("toy/train") == ("stem",)
    made.store.remove(entries_of(made, "stem"))
    assert made.store.entries() == []
    assert [p for p in tree_bytes(tmp_path / "s") if not p.endswith(".lock")] == ["featstore.json"]
    assert fill(made.store, made.split, made.features) > 0, "and it can be extracted again"
    assert made.store.verify() == []


READER = """
import sys
import featstore
found = featstore.open_store(sys.argv[1]).features("body", "toy/train")
print("open", flush=True)
sys.stdin.readline()
print(float(found.numpy().sum()), flush=True)
"""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[tuple[Toy, subprocess.Popen[str]]]:
    """A store, and another process that has opened one of its matrices and not read it yet."""
    made = toy(tmp_path / "s")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen([sys.executable, "-c", READER, str(tmp_path / "s")], **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield made, process
        process.kill()


def test_what_another_process_reads_is_not_removed(reader: tuple[Toy, subprocess.Popen[str]]) -> None:
    made, process = reader
    before = tree_bytes(made.store.root)
    with pytest.raises(
        StoreBusy, match=r"unit 'body' of toy:net over 'toy/train' .* is in use: a process has opened it"
    ):
        made.store.remove(entries_of(made, "stem", "body"))
    made.store.collect_garbage(incomplete=True)
    assert {k: v for k, v in tree_bytes(made.store.root).items() if not k.endswith(".lock")} == {
        k: v for k, v in before.items() if not k.endswith(".lock")
    }, "all or nothing"
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert float(process.stdout.readline()) == pytest.approx(float(made.features[made.body].sum()), rel=1e-5)
    process.wait()
    assert made.store.remove(entries_of(made, "body")).n_files > 0


def test_a_killed_reader_holds_nothing(reader: tuple[Toy, subprocess.Popen[str]]) -> None:
    made, process = reader
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert made.store.remove(entries_of(made, "body")).n_files > 0


def test_a_matrix_in_this_process_is_in_use_while_it_is_referred_to(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    found = made.store.features("body", "toy/train")
    part = pickle.loads(pickle.dumps(found.select(np.arange(3))))
    del found
    with pytest.raises(StoreBusy, match="in use"):
        made.store.remove(entries_of(made, "body"))
    assert part.numpy().shape == (3, 5)
    del part
    made.store.remove(entries_of(made, "body"))
    assert Hold(tmp_path / "nowhere")._fd == -1


def test_what_is_being_written_is_not_removed(tmp_path: Path) -> None:
    made = toy(tmp_path / "s")
    late = array_key(made.key, "neck", 3)
    with made.store.writing(made.key, made.split, {}) as session:
        session.begin([late], 16)
        session.write(session.missing_blocks()[0], {late: features_of(late, 50)[:16]})
        with pytest.raises(StoreBusy, match="being written by process"):
            made.store.remove(entries_of(made, "neck"))
        done = made.store.collect_garbage(incomplete=True)
        assert (done.n_files, len(done.busy)) == (0, 1)
        for block in session.missing_blocks():
            session.write(block, {late: features_of(late, 50)[block.start : block.stop]})
        session.commit()
    assert set(made.store.units("toy/train")) == {"stem", "neck", "body"}


def test_garbage_is_what_killed_processes_left(tmp_path: Path) -> None:
    """Rows of an interrupted extraction are no garbage unless one says so."""
    made = toy(tmp_path / "s")
    late = array_key(made.key, "neck", 3)
    with made.store.writing(made.key, made.split, {}) as session:
        session.begin([late], 16)
        session.write(session.missing_blocks()[0], {late: features_of(late, 50)[:16]})
    whole = tree_bytes(tmp_path / "s")
    folder = tmp_path / "s" / made.key.digest
    (folder / "removed.0123.partial" / "data.zarr").mkdir(parents=True)
    (folder / "removed.0123.partial" / "data.zarr" / "c.0.0").write_bytes(b"123")
    (folder / "key.json.99.partial").write_bytes(b"12")
    assert made.store.collect_garbage().n_bytes == 5
    assert tree_bytes(tmp_path / "s") == whole
    assert made.store.collect_garbage(incomplete=True).n_files >= 3
    assert not (folder / "staging").exists()
    assert made.store.units("toy/train", complete=False) == ("stem", "body")
    assert made.store.verify() == []


def test_rm_and_gc_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, root = toy(tmp_path / "s"), str(tmp_path / "s")
    assert main(["rm", root]) == 1
    assert "or --all, not both" in capsys.readouterr().err
    assert main(["rm", root, "--unit", "bdy"]) == 1
    assert "'body'" in capsys.readouterr().err
    before = tree_bytes(tmp_path / "s")
    assert main(["rm", root, "--unit", "body", "--dry-run"]) == 0
    assert "body" in capsys.readouterr().out
    assert tree_bytes(tmp_path / "s") == before
    assert main(["rm", root, "--unit", "body"]) == 0
    assert capsys.readouterr().out.startswith("removed 1 matrix, ")
    assert made.store.units("toy/train") == ("stem",)
    (tmp_path / "s" / made.key.digest / "key.json").write_text("")
    assert main(["rm", root, "--all"]) == 0, "what is damaged can be removed"
    assert main(["gc", root]) == 0
    assert open_store(root).pass_folders() == []


# ---- merging


def test_merged_is_as_if_extracted_there(tmp_path: Path) -> None:
    """Byte for byte, labels and names included; what is there already is not copied."""
    made = toy(tmp_path / "a")
    other = toy_split(9, name="other")
    fill(made.store, other, {array_key(pass_key(other), "body", 4, "bfloat16"): np.ones((9, 4), np.uint16)})
    made.store.set_targets("other", np.arange(9), name="extra")
    done = featstore.merge(tmp_path / "a", tmp_path / "b", progress=False)
    assert (done.n_copied, done.n_same, done.conflicts, done.left) == (3, 0, (), ())
    assert tree_bytes(tmp_path / "b") == tree_bytes(tmp_path / "a")
    done = featstore.merge(tmp_path / "a", tmp_path / "b", progress=False)
    assert (done.n_copied, done.n_same, done.n_bytes) == (0, 3, 0)
    with pytest.raises(BadInput, match="into itself"):
        featstore.merge(tmp_path / "a", tmp_path / "a")


def test_what_both_have_and_not_the_same_is_said_and_kept(tmp_path: Path) -> None:
    made = toy(tmp_path / "a")
    wrong = {a: f + f.dtype.type(1) for a, f in made.features.items() if a.unit == "body"}
    there = create_store(tmp_path / "b")
    fill(there, made.split, wrong, block_rows=16)
    there.set_targets("toy/train", np.zeros(50, int), classes=("all",))
    before = tree_bytes(there.root / made.key.digest / "arrays" / made.body.digest)
    done = featstore.merge(made.store, there, progress=False)
    assert (done.n_copied, done.n_same) == (1, 0)
    assert [c.split(" ")[:2] for c in done.conflicts] == [["unit", "'body'"], ["the", "labels"]]
    assert tree_bytes(there.root / made.key.digest / "arrays" / made.body.digest) == before
    assert there.features("stem", "toy/train").classes == ("all",)
    assert np.array_equal(there.features("stem", "toy/train").numpy(), made.features[next(iter(made.features))])


def test_the_same_rows_in_other_chunks_are_the_same(tmp_path: Path) -> None:
    made, other = toy(tmp_path / "a"), toy(tmp_path / "b", block_rows=7)
    done = featstore.merge(made.store, other.store, progress=False)
    assert (done.n_copied, done.n_same, done.conflicts) == (0, 2, ())


def test_damage_is_not_copied_and_a_merge_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = toy(tmp_path / "a")
    whole = tree_bytes(tmp_path / "a")
    chunk = made.chunk("body", 2)
    raw = chunk.read_bytes()
    chunk.write_bytes(raw[:9] + bytes([raw[9] ^ 1]) + raw[10:])
    assert main(["merge", str(tmp_path / "a"), str(tmp_path / "b"), "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("copied 1 matrix")
    assert "not copied: rows 32 to 47 of unit 'body'" in err
    there = open_store(tmp_path / "b")
    assert [(e.unit, e.share) for e in there.entries() if not e.is_complete] == [("body", 0.25 * len(list(
        (tmp_path / "b" / made.key.digest / "staging" / made.body.digest / "data.zarr").glob("c.*"))))]  # fmt: skip
    chunk.write_bytes(raw)
    assert main(["merge", str(tmp_path / "a"), str(tmp_path / "b"), "--quiet"]) == 0
    assert tree_bytes(tmp_path / "b") == whole


# ---- exporting


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
@pytest.mark.parametrize("multi", [False, True])
def test_exported_is_what_is_stored(tmp_path: Path, suffix: str, dtype: str, multi: bool) -> None:
    """Read by the libraries that the formats belong to."""
    split = toy_split(50)
    key = pass_key(split)
    array = array_key(key, "body", (3, 2), dtype)
    store = create_store(tmp_path / "s")
    fill(store, split, {array: features_of(array, 50)}, block_rows=16)
    if multi:
        store.set_targets("toy/train", np.eye(50, 4, dtype=int), classes=tuple("abcd"))
    found = store.features("body", "toy/train").select(np.arange(49, 5, -1))
    path = featstore.export(found, tmp_path / f"x{suffix}")
    x, ids, labels, said = READ[suffix](path)
    assert np.array_equal(np.asarray(x, np.float32).reshape(found.shape), found.numpy().astype(np.float32))
    assert ids == found.ids.tolist()
    assert found.labels is not None
    assert np.array_equal(labels, found.labels)
    assert said["pass"]["weights_digest"] == key.weights_digest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s", f"x{suffix}"]


def read_npz(path: Path) -> tuple[Any, ...]:
    with np.load(path) as file:
        return file["X"], file["ids"].tolist(), file["labels"], json.loads(str(file["manifest"]))


def read_safetensors(path: Path) -> tuple[Any, ...]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        manifest = json.loads(file.metadata()["manifest"])
    text, ends = found["ids"].numpy().tobytes(), found["id_offsets"].tolist()
    ids = [text[a:b].decode() for a, b in itertools.pairwise(ends)]
    return found["X"].float().numpy(), ids, found["labels"].numpy(), manifest


def read_parquet(path: Path) -> tuple[Any, ...]:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(path)
    manifest = json.loads(table.schema.metadata[b"featstore.manifest"])
    return table["features"].to_pylist(), table["id"].to_pylist(), table["label"].to_pylist(), manifest


READ = {".npz": read_npz, ".safetensors": read_safetensors, ".parquet": read_parquet}


def test_export_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, root = toy(tmp_path / "s"), str(tmp_path / "s")
    assert main(["export", root, str(tmp_path / "x.npz")]) == 1
    assert "2 complete matrices fit" in capsys.readouterr().err
    assert main(["export", root, str(tmp_path / "x.csv"), "--unit", "body"]) == 1
    assert "'.npz'" in capsys.readouterr().err
    (tmp_path / "x.npz").write_bytes(b"before")
    shutil.copy(made.chunk("body", 0), made.chunk("body", 1))
    assert main(["export", root, str(tmp_path / "x.npz"), "--unit", "body"]) == 1
    assert (tmp_path / "x.npz").read_bytes() == b"before", "a file is replaced by a whole one or not at all"
    assert main(["export", root, str(tmp_path / "x.npz"), "--unit", "stem"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'x.npz'}\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s", "x.npz"]
    with pytest.raises(UnknownName, match="format of a file"):
        featstore.export(made.store.features("stem", "toy/train"), tmp_path / "x")
