"""Records on disk: whole or not there, never trusted when damaged, safe to share between processes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probe import results
from probe.errors import BadInput, DamagedRecord
from probe.intervals import Interval
from probe.predictions import Predictions
from probe.records import FORMAT, Record, ResultFolder, digest_of


def record(**changes: Any) -> Record:
    fields: dict[str, Any] = {
        "key": {"unit": "layer1", "seed": 0, "C": [0.1, 1.0]},
        "backbone": "net",
        "unit": "layer1",
        "depth": 0,
        "train": "photos/train",
        "val": "photos/val",
        "test": "photos/test",
        "seed": 0,
        "per_class": None,
        "metric": "accuracy",
        "higher_is_better": True,
        "C": 1.0,
        "index": 1,
        "at_edge": True,
        "grid": (0.1, 1.0),
        "val_scores": (0.5, 0.75),
        "val_score": 0.75,
        "test_score": 0.7,
        "val_interval": Interval(0.6, 0.85),
        "test_interval": Interval(0.55, 0.8),
        "n_train": 100,
        "n_val": 40,
        "n_test": 50,
        "d": 16,
        "k": 2,
        "is_refitted": True,
        "status": "converged",
        "statuses": {"converged": 2},
        "worst_grad_norm": 1e-7,
        "worst_gap": math.inf,
        "n_iter": 12,
        "passes": 30,
        "seconds": 0.5,
        "absent": {},
        "predictions_of": "test",
        "versions": {"numpy": "2"},
    }
    return Record(**{**fields, **changes})


def predictions(n: int = 50) -> Predictions:
    y = np.arange(n) % 2
    return Predictions(np.arange(n).astype(str), y, np.where(np.arange(n) < 35, y, 1 - y), ("no", "yes"), name="layer1")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Infinity and NaN survive although JSON has neither; the file is strict JSON."""
    folder = ResultFolder(tmp_path / "new" / "results")
    written = folder.write(record(test_score=math.nan), predictions())
    read = folder.read(written.digest)
    assert read is not None
    assert math.isnan(read.test_score)
    assert replace(read, test_score=0.0) == replace(written, test_score=0.0)
    assert read.worst_gap == math.inf
    assert read.val_interval == Interval(0.6, 0.85)
    assert np.array_equal(folder.predictions(read).y_pred, predictions().y_pred)
    text = (folder.path / f"{written.digest}.json").read_text()
    json.loads(text, parse_constant=lambda s: pytest.fail(f"{s} is not JSON"))


def test_the_digest_is_of_the_key_alone_and_of_all_of_it() -> None:
    assert record().digest == record(seconds=9.0, test_score=0.1).digest == digest_of(record().key)
    assert digest_of({"a": 1, "b": 2.5}) == digest_of({"b": 2.5, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest_of({"a": math.nan})


def test_a_missing_record_is_none_and_a_folder_need_not_exist(tmp_path: Path) -> None:
    assert ResultFolder(tmp_path / "nowhere").read("0" * 32) is None
    with pytest.raises(BadInput, match="no folder of results"):
        ResultFolder(tmp_path / "nowhere").records()
    with pytest.raises(BadInput, match="not the name of a record"):
        ResultFolder(tmp_path).read("../../etc/passwd")


def test_no_damage_to_a_record_goes_unnoticed(tmp_path: Path) -> None:
    """Every byte of the JSON changed in turn, and every way of losing it: refused, or (blanks) the same record."""
    folder = ResultFolder(tmp_path)
    written = folder.write(record(), predictions())
    path = tmp_path / f"{written.digest}.json"
    good = path.read_bytes()
    refusals = []
    for i in range(0, len(good), 7):
        path.write_bytes(good[:i] + bytes([good[i] ^ 0x01]) + good[i + 1 :])
        try:
            assert folder.read(written.digest) == written, f"byte {i}"
        except (DamagedRecord, BadInput) as error:  # BadInput: the digit of the format became a later one
            refusals.append(str(error))
    assert len(refusals) > len(good) / 7 / 2
    assert all(str(path) in refusal for refusal in refusals)
    for content in (b"", b"{}", b"[1]", b"null", good[: len(good) // 2]):
        path.write_bytes(content)
        with pytest.raises(DamagedRecord):
            folder.read(written.digest)


def test_damaged_predictions_damage_the_record(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path)
    written = folder.write(record(), predictions())
    path = tmp_path / written.predictions_file
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"?")
    with pytest.raises(DamagedRecord, match="not those that were written"):
        folder.read(written.digest)
    path.unlink()
    with pytest.raises(DamagedRecord, match="No such file"):
        folder.read(written.digest)
    whole, damaged = folder.records()
    assert whole == []
    assert len(damaged) == 1


def test_a_record_under_another_name_and_one_of_a_later_version_are_refused(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path)
    written = folder.write(record(), predictions())
    (tmp_path / f"{'0' * 32}.json").write_bytes((tmp_path / f"{written.digest}.json").read_bytes())
    with pytest.raises(DamagedRecord, match="not what its name says"):
        folder.read("0" * 32)
    later = {**written.to_json(), "format": FORMAT + 1}
    (tmp_path / f"{written.digest}.json").write_text(json.dumps(later))
    with pytest.raises(BadInput, match=f"format {FORMAT + 1} but this version reads formats up to {FORMAT}"):
        folder.read(written.digest)


def test_records_from_before_there_was_a_choice_are_read(tmp_path: Path) -> None:
    """Written without the fields that came later: a logistic path, not widened, fitted alone."""
    folder = ResultFolder(tmp_path)
    written = folder.write(record(), predictions())
    later = {"self", "classifier", "widened", "n_together"}
    old = {name: value for name, value in written.to_json().items() if name not in later}
    checksum = hashlib.sha256(json.dumps(old, sort_keys=True).encode()).hexdigest()
    (tmp_path / f"{written.digest}.json").write_text(json.dumps({**old, "self": checksum}))
    read = folder.read(written.digest)
    assert read == written
    assert (written.classifier, written.widened, written.n_together) == ("logistic", "", 1)
    del old["seconds"]
    checksum = hashlib.sha256(json.dumps(old, sort_keys=True).encode()).hexdigest()
    (tmp_path / f"{written.digest}.json").write_text(json.dumps({**old, "self": checksum}))
    with pytest.raises(DamagedRecord, match="seconds"):
        folder.read(written.digest)


def test_a_file_name_in_a_record_cannot_leave_the_folder(tmp_path: Path) -> None:
    """A record that points outside with a valid checksum still reads only beside itself."""
    secret = tmp_path / "secret.npz"
    secret.write_bytes(predictions().to_bytes())
    folder = ResultFolder(tmp_path / "results")
    written = folder.write(record(), predictions())
    outside = replace(written, predictions_file="../secret.npz")
    (folder.path / f"{written.digest}.json").write_text(json.dumps(outside.to_json()))
    with pytest.raises(DamagedRecord, match="cannot be read"):
        folder.read(written.digest)


def test_find_by_the_beginning_of_the_digest(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path)
    a, b = (folder.write(record(key={"n": n}), predictions()) for n in (1, 2))
    assert folder.find(a.digest[:8]) == a
    assert folder.find(b.digest) == b
    for prefix, message in (("zzz", "No record starts with 'zzz'"), ("", "No record"), ("*", "No record")):
        with pytest.raises(BadInput, match=message):
            folder.find(prefix)


WRITER = """
import sys
sys.path[:0] = {paths!r}
from test_results import predictions, record
from probe.records import ResultFolder
folder = ResultFolder(sys.argv[1])
print("ready", flush=True)
i = 0
while True:
    folder.write(record(key={{"n": i % 3}}, seconds=float(i)), predictions(50 + i % 40))
    i += 1
"""


def test_two_writers_killed_at_any_moment_leave_only_whole_records(tmp_path: Path) -> None:
    """Two processes write the same three records, with different predictions, until they are killed."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    command = [sys.executable, "-c", WRITER.format(paths=paths), str(tmp_path)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
        folder, n_read, stop = ResultFolder(tmp_path), 0, time.monotonic() + 1.0
        while time.monotonic() < stop:
            n_read += sum(folder.read(digest_of({"n": n})) is not None for n in range(3))
    finally:
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()
    whole, damaged = folder.records()
    assert n_read > 0
    assert len(whole) == 3
    assert damaged == []


def test_table_and_text() -> None:
    records = [record(), record(unit="layer2", depth=1, absent={"test": ["emu", "yak"]}, val_interval=None)]
    table = results.table(records)
    assert table["unit"].tolist() == ["layer1", "layer2"]
    assert table["val_low"].isna().tolist() == [False, True]
    assert table["n_converged"].tolist() == table["n_penalties"].tolist() == [2, 2]
    text = results.text(records)
    assert "net: train photos/train (n = 100), val photos/val (40), test photos/test (50); metric accuracy" in text
    assert "1.00e+00 at the edge" in text
    assert "[0.5500, 0.8000]" in text
    assert "test has 2 classes that train lacks (emu, yak)" in text
    assert len({len(line) for line in text.splitlines()[2:5]}) == 1  # columns are aligned
    assert results.text([]) == "no results"


def test_several_seeds_become_one_line_with_their_spread() -> None:
    records = [record(seed=s, test_score=0.7 + s / 10, key={"seed": s}) for s in range(3)]
    line = results.text(records).splitlines()[-1].split()
    assert line[:4] == ["layer1", "16", "1.00e+00", "3"]
    assert line[6:8] == ["0.8000", "0.1000"]
    assert line[8] == "6/6"


def test_records_that_differ_in_more_than_the_seed_are_not_averaged() -> None:
    """Other weights under one name, and other grids: lines and tables of their own."""
    weights = results.text([record(key={"w": 1}), record(key={"w": 2}, test_score=0.1)])
    assert weights.count("layer1") == 2
    grids = results.text([record(), record(grid=(0.1, 1.0, 10.0), key={"g": 2})])
    assert grids.count("net: train") == 2


def test_best_is_chosen_on_validation_in_the_direction_of_the_metric(tmp_path: Path) -> None:
    records = (record(), record(unit="layer2", val_score=0.9, test_score=0.1))
    found = results.Results(records, ResultFolder(tmp_path), 2, 0)
    assert found.best().unit == "layer2"
    losses = tuple(replace(r, higher_is_better=False) for r in records)
    assert results.Results(losses, ResultFolder(tmp_path), 2, 0).best().unit == "layer1"
    assert len(found) == 2
    paths = found.paths()
    assert paths[paths["is_chosen"]]["C"].tolist() == [1.0, 1.0]
    assert len(paths) == 4


def test_load_results_lists_what_a_folder_holds(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path)
    folder.write(record(unit="b", depth=1, key={"u": "b"}), predictions())
    folder.write(record(unit="a", depth=0, key={"u": "a"}), predictions())
    (tmp_path / "notes.json").write_text("not ours")
    damaged = folder.write(record(key={"u": "c"}), predictions())
    (tmp_path / f"{damaged.digest}.json").write_text("{")
    found = results.load_results(tmp_path)
    assert [r.unit for r in found] == ["a", "b"]
    assert len(found.damaged) == 1
    assert np.array_equal(found.predictions(found.records[0]).y_true, predictions().y_true)
