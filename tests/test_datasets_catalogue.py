"""The catalogue says what the papers say; what is missing is asked for in words; nothing is fetched unasked."""

from __future__ import annotations

import hashlib
import http.server
import importlib
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torchvision
from miniatures import photos, write

import probe
from featstore import BadInput, MissingData, UnknownName, load_split
from featstore.cli import main
from featstore.datasets import downloads
from featstore.datasets.catalogue import Record, find_record, known_names, records

EVERY = [pytest.param(record, id=record.name) for record in records()]

TABLE_1 = {
    "food101": (101, 75_750, 25_250, "accuracy"),
    "cifar10": (10, 50_000, 10_000, "accuracy"),
    "cifar100": (100, 50_000, 10_000, "accuracy"),
    "birdsnap": (500, 47_386, 2_443, "accuracy"),
    "sun397": (397, 19_850, 19_850, "accuracy"),
    "cars": (196, 8_144, 8_041, "accuracy"),
    "aircraft": (100, 6_667, 3_333, "mean_per_class"),
    "voc2007": (20, 5_011, 4_952, "map11"),
    "dtd": (47, 3_760, 1_880, "accuracy"),
    "pets": (37, 3_680, 3_669, "mean_per_class"),  # the table prints 3,369, which is a misprint
    "caltech101": (102, 3_060, 6_084, "mean_per_class"),
    "flowers": (102, 2_040, 6_149, "mean_per_class"),
}
"""Kornblith et al. 2019, Table 1: classes, training images (val included), test images, measure."""

FANG = {
    "cct20": (15, "accuracy"), "aptos": (5, "quadratic_kappa"), "hpa": (28, "macro_f1"), "melanoma": (2, "roc_auc"),
    "cassava": (5, "accuracy"), "eurosat": (10, "accuracy"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE_1)
def test_the_twelve_are_those_of_table_1(name: str) -> None:
    record = find_record(name)
    protocol = record.protocol
    found = record.n_classes, record.sizes[protocol.refit], record.sizes[protocol.test], record.metric
    assert found == TABLE_1[name]
    if "trainval" in record.sizes and "val" in record.sizes:
        assert record.sizes["train"] + record.sizes["val"] == record.sizes["trainval"]
        assert (protocol.train, protocol.val, protocol.refit) == ("train", "val", "trainval")


def test_official_validation_splits_are_those_of_four() -> None:
    """Kornblith et al., supplement A.4: Aircraft, VOC 2007, DTD and Flowers; the others hold out a part of train."""
    official = {r.name for r in records() if "Kornblith 2019" in r.papers and r.protocol.val == "val"}
    assert official == {"aircraft", "voc2007", "dtd", "flowers"}
    assert {r.name for r in records() if "Kornblith 2019" in r.papers} == set(TABLE_1)


def test_the_six_are_those_of_fang() -> None:
    found = {r.name: (r.n_classes, r.metric) for r in records() if "Fang 2023" in r.papers}
    assert found == FANG
    without_bgr = {r.name for r in records() if r.name in FANG and not any("+bgr()" in t for t in r.traps)}
    assert without_bgr == {"cassava", "eurosat"}, "whose code converts to RGB, or never leaves it"


@pytest.mark.parametrize("record", EVERY)
def test_records_are_consistent(record: Record) -> None:
    """Loaders exist, metrics are probe's, protocols and sizes name splits that there are."""
    module, _, function = record.loader.partition(":")
    assert callable(getattr(importlib.import_module(f"featstore.datasets.{module}"), function))
    assert probe.metrics.get(record.metric).name == record.metric
    sides = (record.protocol.train, record.protocol.val, record.protocol.refit, record.protocol.test)
    assert {side.partition("#")[0] for side in sides} <= set(record.splits)
    assert {size.partition(":")[0] for size in record.sizes} <= set(record.splits)
    assert bool(record.variants) == bool(record.variant_of)
    assert record.can_download == (record.name in downloads.FETCHERS)
    assert (record.layout.startswith("Put there") and record.source) or record.name == "digits"


def test_names_are_unique() -> None:
    assert len(set(known_names())) == len(known_names())


@pytest.mark.parametrize("record", [p for p in EVERY if p.id != "digits"])
def test_what_is_missing_gets_an_instruction(
    record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For every split and variant: one sentence of what and where, no traceback; without a root, that one is needed."""
    for which in record.splits:
        with pytest.raises(MissingData) as error:
            load_split(f"{record.name}:{which}", data_root=tmp_path)
        assert record.layout in str(error.value)
        assert record.source in str(error.value)
        assert record.title in str(error.value)
    with pytest.raises(BadInput, match="give --data-root"):
        load_split(f"{record.name}:{record.splits[0]}")
    with pytest.raises(MissingData, match="is not a folder"):
        load_split(f"{record.name}:{record.splits[0]}", data_root=tmp_path / "nowhere")
    assert main(["check", f"{record.name}:{record.splits[0]}", "--data-root", str(tmp_path)]) == 1
    assert record.layout in capsys.readouterr().err


@pytest.mark.parametrize("record", EVERY)
def test_unknown_splits_and_variants(record: Record, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=re.escape(f"split of {record.name} called 'tst'")):
        load_split(f"{record.name}:tst", data_root=tmp_path)
    error: type[BadInput] = UnknownName if record.variants else BadInput
    with pytest.raises(error, match="variant"):
        load_split(f"{record.name}:{record.splits[0]}:sideways", data_root=tmp_path)


def test_digits_sizes() -> None:
    """The one that needs no files."""
    assert {w: len(load_split(f"digits:{w}")) for w in find_record("digits").splits} == dict(
        find_record("digits").sizes
    )


# ---- the command


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["name", "data"]
    assert [line.split()[0] for line in lines[1 : 1 + len(records())]] == list(known_names())
    pets = next(line for line in lines if line.startswith("pets"))
    assert "3,669" in pets
    assert "mean_per_class" in pets
    assert main(["datasets", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [f["name"] for f in found] == list(known_names())
    assert found[0]["sizes"] == {"train": 75_750, "test": 25_250}


def test_one_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "caltech101"]) == 0
    said = capsys.readouterr().out
    assert "BACKGROUND_Google" in said
    assert "caltech101:train → caltech101:test" in said
    assert main(["datasets", "caltech"]) == 1
    assert "caltech101" in capsys.readouterr().err
    assert main(["datasets", "dtd", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["protocol"]["refit"] == "trainval"


# ---- fetching


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which this machine serves it."""
    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: _Quiet(*a, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def dtd_archive(folder: Path) -> str:
    """Pack a miniature as DTD is packed; return the checksum."""
    write(folder / "dtd", photos("images", ["banded/a.jpg", "woven/b.jpg"]))
    lists = {"train1.txt": "banded/a.jpg\nwoven/b.jpg\n", "val1.txt": "woven/b.jpg\n", "test1.txt": "woven/b.jpg\n"}
    write(folder / "dtd/labels", lists)
    with tarfile.open(folder / "dtd-r1.0.1.tar.gz", "w:gz") as archive:
        archive.add(folder / "dtd", "dtd")
    return hashlib.md5((folder / "dtd-r1.0.1.tar.gz").read_bytes()).hexdigest()


def test_what_is_asked_for_is_fetched(
    tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over HTTP from this machine, through torchvision, with its checksum; never unless asked for; not twice."""
    folder, address = served
    monkeypatch.setattr(torchvision.datasets.DTD, "_MD5", dtd_archive(folder))
    monkeypatch.setattr(torchvision.datasets.DTD, "_URL", f"{address}/dtd-r1.0.1.tar.gz")
    root = tmp_path / "data"
    root.mkdir()
    with pytest.raises(MissingData, match="add --download"):
        load_split("dtd:train", data_root=root)
    assert list(root.iterdir()) == []
    split = load_split("dtd:train", data_root=root, download=True)
    assert split.ids.tolist() == ["banded/a.jpg", "woven/b.jpg"]
    (folder / "dtd-r1.0.1.tar.gz").unlink()
    assert len(load_split("dtd:val", data_root=root, download=True)) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "fetching Describable Textures" in captured.err
    assert main(["check", "dtd:train", "--data-root", str(root), "--alone"]) == 0


def test_a_wrong_checksum_or_a_dead_address_is_one_sentence(
    tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, address = served
    dtd_archive(folder)
    monkeypatch.setattr(torchvision.datasets.DTD, "_MD5", "0" * 32)
    monkeypatch.setattr(torchvision.datasets.DTD, "_URL", f"{address}/dtd-r1.0.1.tar.gz")
    assert main(["datasets", "dtd", "--download", "--data-root", str(tmp_path / "a")]) == 1
    assert "could not be fetched: File not found or corrupted. Do it by hand: Put there" in capsys.readouterr().err
    monkeypatch.setattr(torchvision.datasets.DTD, "_URL", f"{address}/nothing.tar.gz")
    with pytest.raises(MissingData, match=r"could not be fetched: .*404"):
        downloads.download(find_record("dtd"), tmp_path / "b")


@pytest.mark.parametrize("name", ["../../evil.txt", "{root}/evil.txt"])
def test_an_archive_cannot_write_outside_its_folder(
    tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """One that climbs is refused; an absolute name is taken for one below the folder."""
    folder, address = served
    archive = folder / "dtd-r1.0.1.tar.gz"
    with tarfile.open(archive, "w:gz") as made:
        made.addfile(tarfile.TarInfo(name.format(root=tmp_path)))
    monkeypatch.setattr(torchvision.datasets.DTD, "_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(torchvision.datasets.DTD, "_URL", f"{address}/dtd-r1.0.1.tar.gz")
    with pytest.raises(MissingData, match=r"could not be fetched: "):
        downloads.download(find_record("dtd"), tmp_path / "data")
    assert not list(tmp_path.glob("evil*"))
    assert not list((tmp_path / "data").glob("evil*"))
    assert "extraction_filter" not in vars(tarfile.TarFile)


def test_what_nobody_can_fetch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MissingData, match=r"cannot be fetched for you\. Put there"):
        load_split("cars:train", data_root=tmp_path, download=True)
    assert main(["datasets", "dtd", "--download"]) == 1
    assert "--data-root" in capsys.readouterr().err
