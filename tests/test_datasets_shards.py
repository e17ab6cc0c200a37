"""Images in tar shards and in parquet files: the same bytes come out, and what is not understood is said."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniatures import labels_of, photo, write

from featstore import BadInput, BadLabels, MissingData, MissingExtra, UnreadableImage, load_split

# ---- tar shards


def tar(path: Path, members: Sequence[tuple[str, bytes]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def shards(root: Path) -> list[bytes]:
    contents = [photo(i) for i in range(7)]
    for shard, rows in enumerate((range(4), range(4, 7))):
        members = [m for i in rows for m in ((f"s{i:04d}.cls", str(i % 3).encode()), (f"s{i:04d}.jpg", contents[i]))]
        tar(root / f"train-{shard:03d}.tar", members)
    write(root, {"classnames.txt": "ant\nbee\ncat\n"})
    return contents


@pytest.mark.parametrize("form", ["{root}", "{root}/train-{{000..001}}.tar", "{root}/train-*.tar"])
def test_shards_as_webdataset_writes_them(tmp_path: Path, form: str) -> None:
    contents = shards(tmp_path / "wds")
    split = load_split(f"webdataset:{form.format(root=tmp_path / 'wds')}")
    assert [split.samples.read(i) for i in range(7)] == contents
    assert labels_of(split) == [0, 1, 2, 0, 1, 2, 0]
    assert split.classes == ("ant", "bee", "cat")
    assert split.ids.tolist()[3:5] == ["train-000/s0003", "train-001/s0004"]
    assert split.samples.describe(4).endswith("train-001.tar/s0004.jpg")
    assert len({split.samples.describe(i) for i in range(7)}) == 7
    one = load_split(str(tmp_path / "wds/train-001.tar"))
    assert one.ids.tolist() == split.ids.tolist()[4:]


def test_shards_are_read_by_many_threads_at_once(tmp_path: Path) -> None:
    contents = shards(tmp_path)
    split = load_split(f"webdataset:{tmp_path}")
    order = np.random.default_rng(0).integers(0, 7, 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(split.samples.read, order)) == [contents[i] for i in order]


def test_shards_with_other_labels_and_other_files(tmp_path: Path) -> None:
    """Several labels per image, labels in json, masks beside the image, files that are no images, folders, links."""
    flags = io.BytesIO()
    np.save(flags, np.array([0, 1, 1], np.uint8))
    tar(
        tmp_path / "a.tar",
        [("d/x.jpg", photo(0)), ("d/x.npy", flags.getvalue()), ("d/x.seg.png", photo(1, "PNG")), ("d/x.txt", b"a dog")],
    )
    split = load_split(f"webdataset:{tmp_path / 'a.tar'}")
    assert split.labels is not None
    assert split.labels.tolist() == [[0, 1, 1]]
    assert split.ids.tolist() == ["a/d/x"]
    assert split.samples.read(0) == photo(0)
    tar(tmp_path / "b.tar", [("1.json", json.dumps({"label": 2}).encode()), ("1.PNG", photo(1, "PNG"))])
    assert labels_of(load_split(f"webdataset:{tmp_path / 'b.tar'}")) == [2]
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        link = tarfile.TarInfo("passwd.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        info = tarfile.TarInfo("1.jpg")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    assert load_split(f"webdataset:{tmp_path / 'c.tar'}").ids.tolist() == ["c/1"], "links are not followed"


@pytest.mark.parametrize(
    ("members", "error", "text"),
    [
        ([("../x.jpg", b"a")], BadInput, "leads out of"),
        ([("/etc/x.jpg", b"a")], BadInput, "leads out of"),
        ([("x.txt", b"a")], BadInput, "holds no images"),
        ([("x.jpg", b"a"), ("x.png", b"a")], BadInput, r"has 2 images \(jpg, png\)"),
        ([("x.cls", b"1")], BadInput, "has a label and no image"),
        ([("x.jpg", b"a"), ("y.jpg", b"a"), ("x.cls", b"1")], BadInput, "in two places"),
        ([("x.jpg", b"a"), ("x.cls", b"1"), ("y.jpg", b"a")], BadLabels, "has no label '.cls'"),
        ([("x.jpg", b"a"), ("x.cls", b"dog")], BadLabels, "cannot be read"),
        ([("x.jpg", b"a"), ("x.cls", b"999999999999")], BadLabels, "has the label 999999999999"),
        ([("x.jpg", b"a"), ("x.cls", b"9" * 40)], BadLabels, "must be whole numbers"),
        ([("x.jpg", b"a"), ("x.cls", b"-1")], BadLabels, "run from -1"),
        ([("x.jpg", b"a"), ("x.json", b"[")], BadLabels, "cannot be read"),
        ([("x.jpg", b"a"), ("x.npy", b"\x80\x04.")], BadLabels, "cannot be read"),
    ],
)
def test_shards_that_cannot_be_used(
    tmp_path: Path, members: list[tuple[str, bytes]], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        load_split(f"webdataset:{tar(tmp_path / 'a.tar', members)}")


def test_damaged_shards(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="no tar shard"):
        load_split(f"webdataset:{tmp_path}")
    tar(tmp_path / "z.tar", [("x.jpg", photo(0))], "w:gz")
    with pytest.raises(BadInput, match=r"not a plain tar file .* must be unpacked"):
        load_split(f"webdataset:{tmp_path / 'z.tar'}")
    path = tar(tmp_path / "cut.tar", [("x.jpg", photo(0)), ("y.jpg", photo(1))])
    split = load_split(f"webdataset:{path}")
    path.write_bytes(path.read_bytes()[: 512 + 100])
    with pytest.raises(UnreadableImage, match=r"cut\.tar/x\.jpg cannot be read: the shard ends"):
        split.image(0)
    path.unlink()
    with pytest.raises(UnreadableImage, match="No such file"):
        load_in_thread(split)


def load_in_thread(split: Any) -> None:
    """Read in a new thread, which has no file open yet."""
    caught: list[BaseException] = []

    def read() -> None:
        try:
            split.image(1)
        except UnreadableImage as error:
            caught.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    raise caught[0]


# ---- parquet


@pytest.fixture
def pq() -> Any:
    return pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed; the extra 'hf' brings it")


def table(
    contents: Sequence[bytes | None], labels: Sequence[Any], features: dict[str, Any] | None = None, **more: Any
) -> Any:
    """A table as Hugging Face writes it: images as structs of bytes and path, classes in the metadata."""
    import pyarrow as pa

    paths = more.pop("paths", [None] * len(contents))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": c, "path": p} for c, p in zip(contents, paths, strict=True)], kind)
    made = pa.table({"image": images, "label": labels, **more})
    features = features or {"image": {"_type": "Image"}, "label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def hub(pq: Any, root: Path) -> list[bytes]:
    contents = [photo(i) for i in range(9)]
    (root / "data").mkdir(parents=True)
    for k, rows in enumerate((range(5), range(5, 8))):
        chosen = table([contents[i] for i in rows], [i % 2 for i in rows])
        pq.write_table(chosen, root / f"data/train-{k:05d}-of-00002.parquet", row_group_size=2)
    pq.write_table(table([contents[8]], [1]), root / "data/test-00000-of-00001.parquet")
    return contents


def test_parquet_as_hugging_face_stores_it(pq: Any, tmp_path: Path) -> None:
    contents = hub(pq, tmp_path / "set")
    train = load_split(f"parquet:{tmp_path / 'set'}:train")
    assert [train.samples.read(i) for i in range(8)] == contents[:8]
    assert labels_of(train) == [0, 1] * 4
    assert train.classes == ("ant", "bee")
    assert train.ids[5] == "train-00001-of-00002/0000000"
    assert len({train.samples.describe(i) for i in range(8)}) == 8
    assert load_split(f"parquet:{tmp_path / 'set'}:test").samples.read(0) == contents[8]
    alone = load_split(str(tmp_path / "set/data/test-00000-of-00001.parquet"))
    assert (len(alone), labels_of(alone)) == (1, [1])
    order = np.random.default_rng(0).integers(0, 8, 200).tolist()  # more row groups than are kept
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(train.samples.read, order)) == [contents[i] for i in order]
    for spec, text in (
        (f"{tmp_path / 'set'}", "holds the splits test, train, and which"),
        (f"{tmp_path / 'set'}:val", "no 'val'"),
    ):
        with pytest.raises(BadInput, match=text):
            load_split(f"parquet:{spec}")
    with pytest.raises(MissingData, match="no parquet file"):
        load_split(f"parquet:{tmp_path / 'nowhere'}")


def test_parquet_of_several_configurations_is_not_mixed(pq: Any, tmp_path: Path) -> None:
    for config in ("fine", "coarse"):
        (tmp_path / "set" / config).mkdir(parents=True)
        pq.write_table(table([photo(0)], [1]), tmp_path / "set" / config / "train-00000-of-00001.parquet")
    with pytest.raises(BadInput, match="holds 'train' in several folders"):
        load_split(f"parquet:{tmp_path / 'set'}:train")
    assert len(load_split(f"parquet:{tmp_path / 'set/fine'}:train")) == 1


def test_parquet_without_labels(pq: Any, tmp_path: Path) -> None:
    """Labels of -1 in every row are no labels."""
    pq.write_table(table([photo(0), photo(1)], [-1, -1]), tmp_path / "a.parquet")
    assert load_split(f"parquet:{tmp_path / 'a.parquet'}").labels is None
    pq.write_table(table([photo(0), photo(1)], [-1, 1]), tmp_path / "a.parquet")
    with pytest.raises(BadLabels, match="run from -1"):
        load_split(f"parquet:{tmp_path / 'a.parquet'}")


def test_parquet_keeps_paths_as_ids_where_they_are_names(pq: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(table([photo(0), photo(1)], [0, 1], paths=["x/1.jpg", "x/2.jpg"]), path)
    assert load_split(f"parquet:{path}").ids.tolist() == ["x/1.jpg", "x/2.jpg"]
    pq.write_table(table([photo(0), photo(1)], [0, 1], paths=["0.jpg", "0.jpg"]), path)
    assert load_split(f"parquet:{path}").ids.tolist() == ["a/0000000", "a/0000001"]


def test_parquet_of_other_columns(pq: Any, tmp_path: Path) -> None:
    """Plain bytes without a word of metadata; several labels per image; two columns of classes."""
    import pyarrow as pa

    from featstore.datasets.parquet import parquet_split

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"jpg": [photo(0), photo(1)], "cls": [3, 1]}), path)
    split = load_split(f"parquet:{path}")
    assert (labels_of(split), split.classes, split.samples.read(1)) == ([3, 1], ("0", "1", "2", "3"), photo(1))
    many = {
        "image": {"_type": "Image"},
        "label": {"feature": {"names": list("abc"), "_type": "ClassLabel"}, "_type": "Sequence"},
    }
    pq.write_table(table([photo(0), photo(1)], [[0, 2], []], many), path)
    split = load_split(f"parquet:{path}")
    assert split.labels is not None
    assert (split.labels.tolist(), split.classes) == ([[1, 0, 1], [0, 0, 0]], ("a", "b", "c"))
    two = {
        "image": {"_type": "Image"},
        "make": {"names": ["x"], "_type": "ClassLabel"},
        "model": {"names": ["y", "z"], "_type": "ClassLabel"},
    }
    pq.write_table(table([photo(0)], [7], two, make=[0], model=[1]), path)
    with pytest.raises(BadInput, match=r"several columns of kind ClassLabel: make, model"):
        load_split(f"parquet:{path}")
    chosen = parquet_split(path, name="cars", label="model")
    assert (labels_of(chosen), chosen.classes) == ([1], ("y", "z"))
    with pytest.raises(BadInput, match="and no 'maker'"):
        parquet_split(path, name="cars", label="maker")
    pq.write_table(pa.table({"text": ["a"]}), path)
    with pytest.raises(BadInput, match="none of them holds images"):
        load_split(f"parquet:{path}")


def test_damaged_parquet(pq: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(BadInput, match="not a parquet file"):
        load_split(f"parquet:{path}")
    pq.write_table(table([photo(0), None], [0, None]), path)
    with pytest.raises(BadLabels, match=r"row 1 of .* has no label"):
        load_split(f"parquet:{path}")
    for label in (10**12, [10**12]):
        plain = {"image": {"_type": "Image"}}
        pq.write_table(table([photo(0)], [label], plain), path)
        with pytest.raises(BadLabels, match="has the label 1000000000000"):
            load_split(f"parquet:{path}")
    pq.write_table(table([photo(0), None], [0, 1]), path)
    split = load_split(f"parquet:{path}")
    assert split.image(0).size == (12, 9)
    with pytest.raises(UnreadableImage, match="holds no image"):
        split.image(1)
    fresh = load_split(f"parquet:{path}")
    path.unlink()
    with pytest.raises(UnreadableImage, match="cannot be read"):
        fresh.image(0)


WITHOUT = """
import sys
sys.modules["pyarrow"] = None
from featstore import MissingExtra, load_split
try:
    load_split("parquet:" + sys.argv[1])
except MissingExtra as error:
    print(error)
"""


def test_splits_of_every_kind_can_be_sent_to_another_process(tmp_path: Path, pq: Any) -> None:
    """Open archives, locks and functions inside functions stay behind; images, labels and identity do not change."""
    shards(tmp_path / "wds")
    hub(pq, tmp_path / "hub")
    write(tmp_path / "folder", {"a/1.jpg": photo(0), "b/2.jpg": photo(1)})
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "folder/a/1.jpg", "a/1.jpg")
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 8, 8), np.uint8), labels=[0, 1])
    specs = [
        f"webdataset:{tmp_path}/wds",
        f"parquet:{tmp_path}/hub:train",
        *(f"{tmp_path}/{n}" for n in ("folder", "a.zip", "a.npz")),
    ]
    shifts = "+noise(30)+blur(1)+affine()+yuv()+invert()"
    for spec in [*specs, "digits:val"]:
        split = load_split(spec + shifts)
        split.image(0)
        again = pickle.loads(pickle.dumps(split))
        assert again.ids.tolist() == split.ids.tolist()
        assert again.image(0).tobytes() == split.image(0).tobytes()
        assert again.digest().content_digest == split.digest().content_digest


def test_without_pyarrow_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path / "a.parquet")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "pip install 'featprobe[hf]'" in done.stdout
    assert issubclass(MissingExtra, Exception)
