"""`featstore check` finds what is planted: unreadable, duplicate and leaked images; and says nothing of what is well."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from miniatures import photo, photos, write
from PIL import Image

from featstore import BadInput, load_split
from featstore.cli import main
from featstore.datasets.checking import check_split, splits_beside


def folders(root: Path) -> Path:
    """A train and a test folder of two classes; all images differ."""
    names = [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(3)]
    write(root / "train", {n: photo(i, "PNG") for i, n in enumerate(names)})
    write(root / "test", {n: photo(100 + i, "PNG") for i, n in enumerate(names[:4])})
    return root


def test_nothing_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folders(tmp_path)
    assert main(["check", f"imagefolder:{root / 'train'}", "--against", f"imagefolder:{root / 'test'}"]) == 0
    said = capsys.readouterr().out
    assert "6 images (6 RGB)" in said
    assert f"none is there twice, nor in {root / 'test'}" in said
    assert [line.split() for line in said.splitlines()[1:3]] == [["cat", "3"], ["dog", "3"]]


def test_everything_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folders(tmp_path)
    again = io.BytesIO()
    Image.open(io.BytesIO(photo(0, "PNG"))).save(again, "BMP")  # the same pixels in another format
    planted = {
        "train/dog/zero.png": b"",
        "train/dog/cut.png": photo(7, "PNG")[:60],
        "train/dog/text.jpg": b"hello",
        "train/dog/again.bmp": again.getvalue(),
        "test/cat/leak.png": photo(4, "PNG"),
    }
    write(root, planted)
    arguments = ["check", f"imagefolder:{root / 'train'}", "--against", f"imagefolder:{root / 'test'}"]
    assert main([*arguments, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [u["id"] for u in found["unreadable"]] == ["dog/cut.png", "dog/text.jpg", "dog/zero.png"]
    assert all("does not decode" in u["reason"] for u in found["unreadable"])
    assert found["duplicates"] == [{"ids": ["cat/0.png", "dog/again.bmp"], "labels": ["cat", "dog"]}]
    leak = {
        "id": "dog/1.png",
        "elsewhere": [{"split": str(root / "test"), "id": "cat/leak.png"}],
        "labels": ["dog", "cat"],
    }
    assert found["duplicates_across"] == [leak]
    assert found["per_class"] == {"cat": 3, "dog": 7}
    assert not found["is_clean"]
    assert main(arguments) == 1
    said = capsys.readouterr().out
    assert "3 unreadable:" in said
    assert "cat/0.png = dog/again.bmp (labelled cat and dog)" in said
    assert "1 in another split, too:" in said
    assert "every image is readable" not in said


def test_a_grey_copy_is_the_same_and_a_transparent_one_is_not(tmp_path: Path) -> None:
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    clear = grey.convert("RGBA")
    clear.putpixel((3, 3), (9, 9, 9, 0))
    deep = Image.fromarray((np.arange(64).reshape(8, 8) * 257).astype(np.uint16))
    for name, image in {"a": grey, "b": grey.convert("RGB"), "c": clear, "d": deep, "e": grey.resize((4, 16))}.items():
        (tmp_path / "x").mkdir(exist_ok=True)
        image.save(tmp_path / f"x/{name}.png")
    found = check_split(load_split(f"imagefolder:{tmp_path}"), progress=False)
    assert [d.ids for d in found.within] == [("x/a.png", "x/b.png")]
    assert sum(found.modes.values()) == 5


def test_what_an_extraction_refuses_is_unreadable(tmp_path: Path) -> None:
    """Floating-point pixels decode, and no network gets them: a check that passed them would promise too much."""
    root = folders(tmp_path)
    Image.fromarray(np.zeros((8, 8), np.float32)).save(root / "train" / "dog" / "float.tiff")
    found = check_split(load_split(f"imagefolder:{root / 'train'}"), progress=False)
    ((name, reason),) = found.unreadable
    assert name == "dog/float.tiff"
    assert "no defined white" in reason


def test_an_empty_class_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "a.npz", images=np.eye(8, dtype=np.uint8)[None], labels=[0], classes=["here", "gone"])
    assert main(["check", f"npz:{tmp_path / 'a.npz'}", "--quiet"]) == 1
    assert "1 class is empty: gone" in capsys.readouterr().out


def test_several_labels_and_difficult_ones_are_counted(tmp_path: Path) -> None:
    labels = np.array([[1, 0, 2], [1, 1, 0]], np.uint8)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, labels=labels, classes=["a", "b", "c"])
    found = check_split(load_split(f"npz:{tmp_path / 'a.npz'}"), progress=False)
    assert found.per_class == {"a": 2, "b": 1, "c": 0}


def test_named_sets_are_compared_with_their_other_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A leak from train into test is found without being asked for; trainval holding train is no leak."""
    root = tmp_path / "fgvc-aircraft-2013b/data"
    images = photos("images", ["1.jpg", "2.jpg", "3.jpg", "4.jpg"])
    images["images/4.jpg"] = images["images/1.jpg"]
    write(root, images)
    write(root, {"variants.txt": "a\nb\n"})
    lists = {"train": "1.jpg a", "val": "2 b", "trainval": "1 a\n2 b", "test": "3 a\n4 b"}
    write(root, {f"images_variant_{k}.txt": v.replace(".jpg", "") for k, v in lists.items()})
    others = [s.name for s in splits_beside("aircraft:test", data_root=tmp_path)]
    assert others == ["aircraft:train", "aircraft:val", "aircraft:trainval"]
    assert main(["check", "aircraft:test", "--data-root", str(tmp_path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [d["id"] for d in found["duplicates_across"]] == ["4.jpg"]
    assert {e["split"] for e in found["duplicates_across"][0]["elsewhere"]} == {"aircraft:train", "aircraft:trainval"}
    assert main(["check", "aircraft:trainval", "--data-root", str(tmp_path), "--against", "aircraft:train"]) == 0
    assert main(["check", "aircraft:test", "--data-root", str(tmp_path), "--alone"]) == 0
    (root / "images_variant_val.txt").unlink()
    capsys.readouterr()
    splits_beside("aircraft:test", data_root=tmp_path)
    assert "not compared with 'aircraft:val'" in capsys.readouterr().err


def test_one_file_under_two_ids_is_no_duplicate(tmp_path: Path) -> None:
    """CCT-20 has a sample for each animal in an image."""
    from test_datasets_fang import cct20

    cct20(tmp_path / "CCT-20")
    split = load_split("cct20:train", data_root=tmp_path)
    assert len(split) == len(set(split.ids)) > len({split.samples.read(i) for i in range(len(split))})
    assert check_split(split, progress=False).within == ()


def test_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folders(tmp_path)
    assert main(["check", str(root / "train"), "--alone", "--against", str(root / "test")]) == 1
    assert "give one of them" in capsys.readouterr().err
    with pytest.raises(BadInput, match="at least one thread"):
        check_split(load_split(str(root / "train")), workers=0)
    assert main(["check", "nothing:at-all"]) == 1


def test_ids_are_printed_without_orders_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, {"a/x\x1b[2J.png": b"", "a/b.png": photo(0, "PNG")})
    assert main(["check", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "x\\x1b[2J.png" in said


def test_real_data_is_clean(shared: Path) -> None:
    """2,344 cartoons as they were packed: all decode, no two the same."""
    found = check_split(load_split("pacs:all:cartoon", data_root=shared / "data"), progress=False)
    assert found.is_clean
    assert found.per_class["dog"] == 389
