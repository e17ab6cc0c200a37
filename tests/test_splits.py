"""Splits: would a sample land on the wrong side, lose its label, or pass for another one?"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from toys import Memory, toy_split

from featstore import BadInput, BadLabels, Split, UnknownName, UnreadableImage, digests, holdout_rows, open_store
from featstore.digests import DigestCache, SplitDigest, digest_split
from featstore.store import create_store

# ---- choosing samples


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(-3, 3),
)
def test_holdout_is_what_its_rule_says(labels: list[int], fraction: float, seed: int) -> None:
    """Against the rule written out for one class at a time: rank by hash, hold the first, keep at least one on each side."""
    ids = [f"a/{i * 7919 % 1000}.jpg" for i in range(len(labels))]
    held = holdout_rows(np.array(ids), np.array(labels), fraction, seed)
    expected: set[str] = set()
    for c in set(labels):
        ranked = sorted(
            (i for i, label in zip(ids, labels, strict=True) if label == c),
            key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest(),
        )
        expected |= set(ranked[: min(max(round(fraction * len(ranked)), 1), len(ranked) - 1)])
    assert {i for i, h in zip(ids, held, strict=True) if h} == expected


@given(st.permutations(range(30)))
def test_holdout_does_not_depend_on_the_order(order: list[int]) -> None:
    """The same files listed otherwise by another file system must fall on the same sides."""
    ids, labels = np.array([f"{i}.png" for i in range(30)]), np.arange(30) % 4
    held = set(ids[holdout_rows(ids, labels, 0.3, 1)])
    shuffled = np.array(order)
    assert set(ids[shuffled][holdout_rows(ids[shuffled], labels[shuffled], 0.3, 1)]) == held


def test_holdout_is_the_same_on_every_machine() -> None:
    """Pinned: published splits must not move."""
    split = toy_split(12, n_classes=2)
    rest, held = split.holdout(0.25, seed=0)
    assert held.ids.tolist() == ["img/00000.png", "img/00001.png", "img/00004.png", "img/00005.png"]
    assert (rest.name, held.name) == ("toy/train#rest(0.25,seed=0)", "toy/train#held(0.25,seed=0)")


def test_holdout_parts_fit_together() -> None:
    """Ids, labels and images of both sides, against the parent's by id."""
    split = toy_split(50, n_classes=3)
    rest, held = split.holdout(0.2, seed=4)
    assert sorted([*rest.ids, *held.ids]) == sorted(split.ids)
    for part in (rest, held):
        rows = [split.ids.tolist().index(i) for i in part.ids]
        assert rows == sorted(rows)
        assert part.labels is not None
        assert split.labels is not None
        assert part.labels.tolist() == split.labels[rows].tolist()
        assert [part.samples.read(i) for i in range(len(part))] == [split.samples.read(r) for r in rows]
        assert [part.samples.describe(i) for i in range(len(part))] == [split.samples.describe(r) for r in rows]
    inner, _ = rest.holdout(0.5, seed=1)
    assert [inner.samples.read(i) for i in range(len(inner))] == [f"content {int(i[4:9])}".encode() for i in inner.ids]


def test_holdout_without_single_labels_ranks_all_ids() -> None:
    ids = np.array([f"{i}" for i in range(20)])
    for labels in (None, np.eye(20, 3, dtype=np.uint8)):
        assert holdout_rows(ids, labels, 0.25).sum() == 5
    assert (holdout_rows(ids, None, 0.25) == holdout_rows(ids, np.zeros(20, int), 0.25)).all()


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_outside_is_refused(fraction: float) -> None:
    with pytest.raises(BadInput, match="between 0 and 1"):
        toy_split(4).holdout(fraction)


def test_subset_by_ids_rows_and_mask() -> None:
    split = toy_split(10)
    by_ids = split.subset(["img/00007.png", "img/00002.png"], "two")
    by_rows = split.subset(np.array([7, -8]), "two")
    mask = np.zeros(10, bool)
    mask[[2, 7]] = True
    assert by_ids.ids.tolist() == by_rows.ids.tolist() == ["img/00007.png", "img/00002.png"]
    assert split.subset(mask, "two").ids.tolist() == ["img/00002.png", "img/00007.png"]
    assert by_ids.samples.read(0) == b"content 7"
    assert len(split.subset([], "none")) == 0


def test_subset_of_what_is_not_there_is_refused() -> None:
    split = toy_split(10)
    with pytest.raises(UnknownName, match=r"img/00003\.pn'.*nearest.*img/00003\.png"):
        split.subset(["img/00003.pn"], "x")
    with pytest.raises(BadInput, match="row 10 does not exist"):
        split.subset([3, 10], "x")
    with pytest.raises(BadInput, match="shape"):
        split.subset(np.ones(9, bool), "x")
    with pytest.raises(BadInput, match="whole numbers"):
        split.subset(np.array([0.5]), "x")


def test_per_class_takes_the_lowest_ranks() -> None:
    split = toy_split(30, n_classes=3)
    few = split.per_class(2, seed=5)
    assert few.name == "toy/train#per_class(2,seed=5)"
    assert split.labels is not None
    for c in range(3):
        ids = sorted(split.ids[split.labels == c], key=lambda i: hashlib.sha256(f"5:{i}".encode()).hexdigest())[:2]
        assert sorted(few.ids[few.labels == c]) == sorted(ids)
    with pytest.raises(BadLabels, match=r"class 0.*10 samples and 11"):
        split.per_class(11)
    with pytest.raises(BadLabels, match="single label"):
        replace(split, labels=None).per_class(1)


# ---- what a split refuses


def made(ids: Any = ("a", "b"), labels: Any = (0, 1), classes: tuple[str, ...] = ("x", "y"), n: int = 2) -> Split:
    return Split("made", ids, None if labels is None else np.asarray(labels), classes, Memory([b""] * n))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ids": ["a", "a"]}, BadInput, "more than once, the first is 'a'"),
        ({"ids": [1, 2]}, BadInput, "must be a list of text"),
        ({"ids": ["a"]}, BadInput, "1 ids and 2 samples"),
        ({"labels": [0]}, BadLabels, r"2 samples and labels of shape \(1,\)"),
        ({"labels": [0.0, 1.0]}, BadLabels, "float64"),
        ({"labels": [0, 2]}, BadLabels, "from 0 to 2, and its 2 classes"),
        ({"labels": [-1, 0]}, BadLabels, "from -1 to 0"),
        ({"labels": [[0, 3], [1, 0]]}, BadLabels, "other than 0, 1 and 2"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        made(**arguments)


def test_labels_become_one_inside_form() -> None:
    assert made(labels=np.array([1, 0], np.uint8)).labels.dtype == np.int64  # type: ignore[union-attr]
    assert made(labels=[[True, False], [True, True]]).labels.dtype == np.uint8  # type: ignore[union-attr]
    assert made(labels=None).labels is None


# ---- images


def png(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_images_are_decoded_upright() -> None:
    """A photo held sideways carries a note in its EXIF; networks were trained on upright ones."""
    array = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    contents = [png(array), png(array, exif=exif), array, array[:, :, 0], array[:, :, :1]]
    split = Split("images", list("abcde"), None, (), Memory(contents))  # type: ignore[arg-type]
    assert (np.asarray(split.image(0)) == array).all()
    assert (np.asarray(split.image(1)) == np.rot90(array, -1)).all()
    assert (np.asarray(split.image(2)) == array).all()
    for grey in (3, 4):
        assert split.image(grey).mode == "L"
        assert (np.asarray(split.image(grey)) == array[:, :, 0]).all()


@pytest.mark.parametrize(
    "broken",
    [b"", b"not an image", png(np.zeros((8, 8, 3), np.uint8))[:45], np.zeros((2, 2)), np.zeros(3, np.uint8)],
    ids=["empty", "text", "cut short", "float", "one axis"],
)
def test_an_unreadable_image_is_named(broken: bytes | np.ndarray) -> None:
    split = Split("images", ["a"], None, (), Memory([broken]))  # type: ignore[arg-type]
    with pytest.raises(UnreadableImage, match=r"memory row 0 .*--skip-unreadable") as error:
        split.image(0)
    assert "object at 0x" not in str(error.value)


@dataclass(frozen=True)
class Brighter:
    """A shift, as `featstore.Shift` asks for it."""

    by: int
    name: str = "brighter"

    @property
    def params(self) -> Mapping[str, Any]:
        return {"by": self.by}

    def __call__(self, image: Image.Image, sample_id: str) -> Image.Image:
        return Image.fromarray(np.asarray(image) + np.uint8(self.by))


def test_shifts_are_applied_in_order_and_are_identity() -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    plain = Split("s", ["a"], None, (), Memory([array]))  # type: ignore[arg-type]
    shifted = replace(plain, transforms=(Brighter(3), Brighter(4)))
    assert (np.asarray(shifted.image(0)) == array + 7).all()
    found = {s.digest().content_digest for s in (plain, shifted, replace(plain, transforms=(Brighter(4), Brighter(3))))}
    assert len(found) == 3
    assert plain.digest().ids_digest == shifted.digest().ids_digest


# ---- identity


def test_digests_are_sha256_of_what_they_say() -> None:
    """Recomputed by hand, so that stores of today are found by the code of tomorrow."""
    split = toy_split(3)
    found = split.digest()
    ids = [i.encode() for i in split.ids]
    lengths = np.array([3, *map(len, ids)], "<i8").tobytes()
    rows = [hashlib.sha256(f"content {i}".encode()).digest()[:16] for i in range(3)]
    assert found.ids_digest == hashlib.sha256(lengths + b"".join(ids)).hexdigest()[:32]
    assert found.rows.tobytes() == b"".join(rows)
    assert found.content_digest == hashlib.sha256(b"".join(rows)).hexdigest()[:32]


@pytest.mark.parametrize("names", [["a", "bc", ""], ["a", "grün", "日本"], []])
def test_ids_of_any_letters_are_hashed_and_kept_alike(names: list[str]) -> None:
    """Ids that are all ASCII take a shorter way; the digest is that of the bytes, not of the letters, on both."""
    ids = np.array(names, np.str_)
    lengths = np.array([len(ids), *(len(name.encode()) for name in names)], "<i8").tobytes()
    assert digests.ids_digest(ids) == hashlib.sha256(lengths + "".join(names).encode()).hexdigest()[:32]
    kept = SplitDigest(ids, np.zeros((len(ids), 16), np.uint8)).to_arrays()
    assert SplitDigest.from_arrays(kept).ids.tolist() == names


def test_arrays_are_identified_by_shape_and_type_too() -> None:
    a = np.arange(6, dtype=np.uint8)
    kinds = [a, a.reshape(2, 3), a.reshape(3, 2), a.astype(np.int8), a.tobytes()]
    assert len({digests.sample_digest(k) for k in kinds}) == len(kinds)
    assert digests.sample_digest(a.reshape(2, 3)) == digests.sample_digest(np.asfortranarray(a.reshape(2, 3)))


def test_names_and_labels_are_not_identity() -> None:
    """Relabelling must not cost a forward pass."""
    a, b = toy_split(6), replace(toy_split(6, name="other", n_classes=2))
    assert a.digest().content_digest == b.digest().content_digest
    assert a.digest().ids_digest == b.digest().ids_digest


def test_order_ids_and_contents_are_identity() -> None:
    split = toy_split(5)
    turned = split.subset([1, 0, 2, 3, 4], "turned")
    renamed = replace(split, ids=np.array(list("abcde")))
    for other in (turned, toy_split(6)):
        assert other.digest().content_digest != split.digest().content_digest
    assert turned.digest().ids_digest != split.digest().ids_digest
    assert renamed.digest().content_digest == split.digest().content_digest
    assert renamed.digest().ids_digest != split.digest().ids_digest


def test_ids_do_not_run_together() -> None:
    assert digests.ids_digest(np.array(["ab", "c"])) != digests.ids_digest(np.array(["a", "bc"]))


def test_a_subset_is_identified_like_the_same_samples_alone() -> None:
    """Else features of a subset would not be found among those of the whole."""
    whole = toy_split(10)
    before = whole.subset([2, 3, 4], "part").digest()
    whole.digest()
    samples = whole.samples
    assert isinstance(samples, Memory)
    samples.reads.clear()
    after = whole.subset([2, 3, 4], "part").digest()
    alone = toy_split(3, first=2).digest()
    assert samples.reads == []
    for found in (before, after):
        assert (found.ids_digest, found.content_digest) == (alone.ids_digest, alone.content_digest)


@given(st.lists(st.text(max_size=8), unique=True, max_size=8))
def test_ids_come_back_from_the_store_as_they_were(ids: list[str]) -> None:
    ids = sorted({i.rstrip("\0") for i in ids})  # numpy's fixed-width text cannot end with NUL
    samples = SplitDigest(np.array(ids, np.str_), np.zeros((len(ids), 16), np.uint8))
    assert SplitDigest.from_arrays(samples.to_arrays()).ids.tolist() == ids


# ---- the cache of digests


@dataclass
class Files:
    """Samples that are files, and how often they are read."""

    paths: list[Path]
    n_reads: int = 0
    lock: Any = field(default=None)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, i: int) -> bytes:
        self.n_reads += 1
        return self.paths[i].read_bytes()

    def describe(self, i: int) -> str:
        return str(self.paths[i])

    def stat(self, i: int) -> tuple[int, ...]:
        status = self.paths[i].stat()
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Ten files."""
    paths = [tmp_path / f"{i}.bin" for i in range(10)]
    for i, path in enumerate(paths):
        path.write_bytes(f"content {i}".encode())
    return Files(paths)


def later(monkeypatch: pytest.MonkeyPatch, seconds: float = 10) -> None:
    """Let the cache think that the files were written some time ago; ctime cannot be set back."""
    real = time.time
    monkeypatch.setattr(digests.time, "time", lambda: real() + seconds)


def digest_of(files: Files, cache: DigestCache | None) -> str:
    split = Split("files", [p.name for p in files.paths], None, (), files)  # type: ignore[arg-type]
    return digest_split(split, cache).content_digest


def test_what_has_not_changed_is_not_read_again(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch)
    cache = DigestCache(tmp_path / "cache" / "digests.npz")
    first = digest_of(files, cache)
    assert files.n_reads == 10
    assert digest_of(files, cache) == first == digest_of(files, None)
    assert files.n_reads == 20  # the second with the cache read nothing
    files.paths[3].write_bytes(b"another")
    assert digest_of(files, cache) == digest_of(files, None) != first
    assert files.n_reads == 31


def test_an_edit_that_hides_its_time_is_seen(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same size, modification time put back: the inode's change time tells."""
    later(monkeypatch)
    cache = DigestCache(tmp_path / "digests.npz")
    first = digest_of(files, cache)
    status = files.paths[3].stat()
    time.sleep(0.02)  # the kernel's clock ticks every 4 to 10 ms
    files.paths[3].write_bytes(b"CONTENT 3")
    os.utime(files.paths[3], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digest_of(files, cache) != first


def test_files_just_written_are_not_trusted(files: Files, tmp_path: Path) -> None:
    """Within the clock's resolution a file could change again under the same stat, as in git's index."""
    cache = DigestCache(tmp_path / "digests.npz")
    digest_of(files, cache)
    digest_of(files, cache)
    assert files.n_reads == 20
    assert not cache.path.exists()


@pytest.mark.parametrize("rubbish", [b"", b"rubbish", b"PK\x03\x04"], ids=["empty", "text", "broken zip"])
def test_a_broken_cache_is_ignored(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rubbish: bytes
) -> None:
    later(monkeypatch)
    cache = DigestCache(tmp_path / "digests.npz")
    cache.path.write_bytes(rubbish)
    assert digest_of(files, cache) == digest_of(files, None)
    assert digest_of(files, cache) == digest_of(files, None)
    assert files.n_reads == 30


def test_the_cache_is_kept_in_the_store_and_survives_it(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch)
    create_store(tmp_path / "store")
    for _ in range(2):
        digest_of(files, open_store(tmp_path / "store").digest_cache)
    assert files.n_reads == 10
    assert (tmp_path / "store" / "cache" / "digests.npz").is_file()


def test_a_cache_that_cannot_be_written_does_no_harm(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch)
    (tmp_path / "file").touch()
    assert digest_of(files, DigestCache(tmp_path / "file" / "digests.npz")) == digest_of(files, None)


def test_reading_for_long_is_said(
    files: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digest_of(files, None)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(digests, "SILENT_S", -1.0)
    digest_of(files, None)
    assert "reading what 'files' holds: 10 of 10" in capsys.readouterr().err


def test_digest_is_json_free_of_the_machine() -> None:
    """Nothing of a path, a time or a host may enter: the same images elsewhere are the same split."""
    a = Split("a", ["x"], None, (), Memory([b"1"])).digest()  # type: ignore[arg-type]
    b = Split("b", ["x"], None, (), Files([Path(os.devnull)])).digest()  # type: ignore[arg-type]
    assert a.ids_digest == b.ids_digest
    assert a.content_digest == hashlib.sha256(hashlib.sha256(b"1").digest()[:16]).hexdigest()[:32]
    assert json.dumps(a.ids_digest)
