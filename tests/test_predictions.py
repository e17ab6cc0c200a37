"""Predictions: what goes in comes back, damaged files are named, nothing in a file is executed."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probe.errors import BadInput
from probe.files import write_atomically
from probe.predictions import FORMAT, Predictions


def some(**changes: Any) -> Predictions:
    fields: dict[str, Any] = {
        "ids": np.array(["b/1.png", "a/2.png", "ü/3.png"]),
        "y_true": np.array([0, 1, 1]),
        "y_pred": np.array([0, 0, 1]),
        "classes": ("cat", "dog"),
        "scores": np.array([[1.0], [-2.0], [3.0]], np.float32),
        "name": "penultimate",
    }
    return Predictions(**{**fields, **changes})


def test_accuracy_correct_and_interval() -> None:
    p = some()
    assert p.correct.tolist() == [True, False, True]
    assert p.accuracy() == 2 / 3
    low, high = p.interval()
    assert 0 < low < 2 / 3 < high < 1
    assert p.interval(0.5).low > low


@pytest.mark.parametrize("scores", [None, np.ones((3, 2), np.float64)])
@pytest.mark.parametrize("labels", [np.array([0, 1, 1], np.int32), np.array(["x", "yy", "z"])])
def test_what_is_saved_is_loaded(tmp_path: Path, scores: np.ndarray | None, labels: np.ndarray) -> None:
    p = some(scores=scores, y_true=labels, y_pred=labels[::-1])
    p.save(tmp_path / "new folder" / "p.npz")
    q = Predictions.load(tmp_path / "new folder" / "p.npz")
    for key in ("ids", "y_true", "y_pred"):
        assert getattr(q, key).dtype == getattr(p, key).dtype
        assert np.array_equal(getattr(q, key), getattr(p, key))
    assert (q.classes, q.name) == (p.classes, p.name)
    assert (q.scores is None) == (scores is None)
    assert scores is None or np.array_equal(np.asarray(q.scores), scores)
    with np.load(tmp_path / "new folder" / "p.npz", allow_pickle=False) as plain:
        assert plain["y_true"].tolist() == labels.tolist()


def test_equal_predictions_are_equal_bytes() -> None:
    """No time stamp: two processes that find the same write the same file."""
    assert some().to_bytes() == some().to_bytes()
    assert some().to_bytes() != some(name="other").to_bytes()


def test_multi_label_predictions_are_kept_but_have_no_single_accuracy(tmp_path: Path) -> None:
    y = np.array([[0, 1], [1, 1], [0, 0]], np.uint8)
    p = some(y_true=y, y_pred=y)
    p.save(tmp_path / "p.npz")
    assert np.array_equal(Predictions.load(tmp_path / "p.npz").y_true, y)
    with pytest.raises(BadInput, match="2 labels each"):
        p.accuracy()


def test_tensors_and_booleans_become_integers() -> None:
    import torch

    p = some(y_true=torch.tensor([0, 1, 1]), y_pred=np.array([False, True, True]))
    assert p.y_true.dtype == p.y_pred.dtype == np.int64
    assert p.accuracy() == 1.0
    assert some(y_true=np.array([0.0, 1.0, 1.0])).y_true.dtype == np.int64


def test_take_reorders_everything() -> None:
    p = some().take(np.array(["ü/3.png", "b/1.png"]))
    assert p.y_true.tolist() == [1, 0]
    assert p.y_pred.tolist() == [1, 0]
    assert np.asarray(p.scores).ravel().tolist() == [3.0, 1.0]
    with pytest.raises(BadInput, match=r"1 of 2 ids are not among the 3 predictions of 'penultimate' \(first: 'zz'\)"):
        some().take(np.array(["a/2.png", "zz"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_pred": np.array([0, 1])}, r"y_pred of shape \(2,\)"),
        ({"ids": np.array(["a", "b", "a"])}, r"1 ids occur more than once \(first: 'a'\)"),
        ({"scores": np.ones((2, 2))}, r"must have shape \(3, k\)"),
        ({"y_true": np.array([0.5, 1, 1])}, "integers or text"),
        ({"ids": np.array([]), "y_true": np.array([], int), "y_pred": np.array([], int), "scores": None}, "at least 1"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        some(**changes)


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    with pytest.raises(BadInput, match=r"p\.npz' cannot be read"):
        Predictions.load(path)
    some().save(path)
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(BadInput, match="not a readable npz"):
        Predictions.load(path)
    np.savez(path, X=np.ones(3))
    with pytest.raises(BadInput, match="lacks classes, format, ids, name, scores, y_pred, y_true"):
        Predictions.load(path)
    rest = {"name": "", "classes": [], "ids": ["a"], "y_true": [0], "y_pred": [0], "scores": np.zeros((1, 0))}
    np.savez(path, format=FORMAT + 1, **rest)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=f"format {FORMAT + 1} but this version reads formats up to {FORMAT}"):
        Predictions.load(path)


def test_no_flipped_byte_changes_what_is_read() -> None:
    """Every byte of a file inverted in turn: an error that names the file, or (in parts that do not matter, such as a
    date) the same content; never other predictions."""
    good = some().to_bytes()
    refusals = []
    for position in range(len(good)):
        damaged = good[:position] + bytes([good[position] ^ 0xFF]) + good[position + 1 :]
        try:
            assert Predictions.from_bytes(damaged, "p.npz").to_bytes() == good
        except BadInput as error:
            refusals.append(str(error))
    assert len(refusals) > 0.5 * len(good)
    assert all("p.npz" in refusal for refusal in refusals)


class Bomb:
    """Makes a folder when unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    bomb = np.array([Bomb(tmp_path / "exploded")], dtype=object)
    np.savez(tmp_path / "p.npz", format=1, ids=bomb, y_true=[0], y_pred=[0], allow_pickle=True)
    with pytest.raises(BadInput, match="not a readable npz"):
        Predictions.load(tmp_path / "p.npz")
    assert not (tmp_path / "exploded").exists()
    pickle.loads(pickle.dumps(bomb))  # the bomb does go off where pickles are read
    assert (tmp_path / "exploded").exists()


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(BadInput, match=r"cannot be written: (Not a directory|File exists)"):
        write_atomically(path / "below a file", b"new")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match="cannot be written: Is a directory"):
        write_atomically(tmp_path / "folder", b"new")
    assert path.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real error of a full device, reached by opening /dev/full in place of the file put aside."""
    real = open

    def full(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return real("/dev/full", "wb") if mode == "xb" else real(file, mode, *args, **kwargs)

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(BadInput, match="cannot be written: No space left on device; nothing was changed"):
        write_atomically(tmp_path / "file", b"content")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="this user may write everywhere")
def test_a_read_only_folder_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(BadInput, match="cannot be written: Permission denied"):
            write_atomically(tmp_path / "file", b"content")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_have_a_class(label: int) -> None:
    """-1 would be the name of the last class, and 2 of two classes no name at all."""
    with pytest.raises(BadInput, match=r"y_pred goes from .* and there are 2 classes, 0 to 1"):
        Predictions(np.array(["x", "y"]), np.array([0, 1]), np.array([1, label]), ("cat", "dog"))
