"""Killing a writer, at any moment: would the store lie afterwards, or would the work be lost?

Real processes and real SIGKILL, at random moments; what is there in the end is compared, byte for byte, with the store of a
writer that was left alone.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from crash_writer import BLOCK_ROWS, N
from toys import array_key, features_of, pass_key, toy_split, tree_bytes

from featstore import NotStored, StoreBusy, open_store

SCRIPT = Path(__file__).parent / "crash_writer.py"
N_BLOCKS = -(-N // BLOCK_ROWS)


def start(root: Path, log: Path, seconds_per_block: float = 0.0) -> subprocess.Popen[str]:
    """Start a writer."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(SCRIPT), str(root), str(log), str(seconds_per_block)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def wait_for(writer: subprocess.Popen[str], word: str) -> bool:
    """Wait until the writer says `word`; False if it ended before."""
    assert writer.stdout is not None
    return any(line.strip() == word for line in iter(writer.stdout.readline, ""))


def kill(writer: subprocess.Popen[str]) -> None:
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert writer.stdout is not None
    writer.stdout.close()


def finish(writer: subprocess.Popen[str]) -> None:
    assert wait_for(writer, "done")
    assert writer.wait() == 0
    assert writer.stdout is not None
    writer.stdout.close()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A store whose writer was left alone, and the seconds from its first block to its end."""
    folder = tmp_path_factory.mktemp("alone")
    writer = start(folder / "s", folder / "log")
    assert wait_for(writer, "begun")
    begun = time.monotonic()
    finish(writer)
    return folder / "s", time.monotonic() - begun


def check_alive(root: Path) -> None:
    """After a kill: the store opens, and says either nothing or the truth."""
    if not (root / "featstore.json").exists():
        return
    store = open_store(root)
    assert store.verify() == []
    key = pass_key(toy_split(N))
    for unit, shape in (("neck", (3, 2, 2)), ("body", (700,))):
        try:
            found = store.features(unit, "toy/train").numpy()
        except NotStored:
            continue
        assert np.array_equal(found, features_of(array_key(key, unit, shape), N))


def test_kills_at_random_moments_change_nothing(alone: tuple[Path, float], tmp_path: Path) -> None:
    """While starting, while writing, while committing; then one that is left to finish."""
    whole, seconds = alone
    root, log, rng = tmp_path / "s", tmp_path / "log", random.Random(0)
    for turn in range(26):
        writer = start(root, log)
        if turn == 0:
            time.sleep(rng.uniform(0.3, 1.0))  # wherever it is in making the folder
        elif turn < 18:
            wait_for(writer, "begun")
            time.sleep(rng.uniform(0, seconds / 12))
        else:
            wait_for(writer, "committing")
            time.sleep(rng.uniform(0, seconds / 12))
        kill(writer)
        check_alive(root)
    finish(start(root, log))
    assert tree_bytes(root) == tree_bytes(whole)
    computed = [int(line) for line in log.read_text().split()]
    assert set(computed) == set(range(N_BLOCKS))
    assert len(computed) <= N_BLOCKS + 2 * 18  # a kill loses the block on its way to the disk and the one before it


def test_who_waits_takes_over_from_who_is_killed(alone: tuple[Path, float], tmp_path: Path) -> None:
    """The kernel frees the lock of a dead process: the next one goes on at once, with what is missing only."""
    root, log = tmp_path / "s", tmp_path / "log"
    first = start(root, log, 0.02)
    assert wait_for(first, "begun")
    second = start(root, tmp_path / "log 2")
    time.sleep(0.3)
    split = toy_split(N)
    with (
        pytest.raises(StoreBusy, match=f"process {first.pid} on "),
        open_store(root).writing(pass_key(split), split, {}, timeout=0),
    ):
        pass
    kill(first)
    finish(second)
    assert tree_bytes(root) == tree_bytes(alone[0])
    counts = [len((tmp_path / name).read_text().split()) for name in ("log", "log 2")]
    assert 0 < counts[0] < N_BLOCKS
    assert N_BLOCKS <= sum(counts) <= N_BLOCKS + 2


def test_writers_at_the_same_time_do_the_work_once(alone: tuple[Path, float], tmp_path: Path) -> None:
    root, log = tmp_path / "s", tmp_path / "log"
    for writer in [start(root, log) for _ in range(3)]:
        finish(writer)
    assert tree_bytes(root) == tree_bytes(alone[0])
    assert sorted(int(line) for line in log.read_text().split()) == list(range(N_BLOCKS))


def test_an_interrupted_writer_leaves_by_the_door(alone: tuple[Path, float], tmp_path: Path) -> None:
    """Ctrl-C is an exception: what was written stays, nothing half-written is left."""
    root, log = tmp_path / "s", tmp_path / "log"
    writer = start(root, log, 0.01)
    assert wait_for(writer, "begun")
    time.sleep(0.15)
    writer.send_signal(signal.SIGINT)
    assert writer.wait() != 0
    assert writer.stdout is not None
    writer.stdout.close()
    assert not list(root.rglob("*.partial"))
    assert not list(root.rglob(".holder"))
    finish(start(root, log))
    assert tree_bytes(root) == tree_bytes(alone[0])
    assert len(log.read_text().split()) <= N_BLOCKS + 1
