"""One folder, several processes: each result is computed by one of them, and what a killed one was at by another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from stored_digits import digits_store

import probe
from probe import claims
from probe.claims import claim, in_turns

SLOW = """
import json, sys, time
from probe import jobs
import probe
root, out, calls, seconds, arguments = sys.argv[1:]
real = jobs.run
def slow(train, val, test, drawn, *how):
    with open(calls, "a") as file:
        file.write(f"{train.X.shape[1]}\\n" * len(drawn))
    time.sleep(float(seconds))
    return real(train, val, test, drawn, *how)
jobs.run = slow
print("ready", flush=True)
sys.stdin.readline()
found = probe.sweep(root, train="train", test="test", out=out, C=(0.01, 0.1), **json.loads(arguments))
print(json.dumps({"n": [found.n_fitted, found.n_reused], "digests": [r.digest for r in found]}))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    digits_store(root)
    return root


def process(store: Path, folder: Path, seconds: float, **arguments: Any) -> subprocess.Popen[str]:
    """A sweep in a process of its own, which waits for a line before it begins."""
    said = [store, folder / "results", folder / "calls", seconds, json.dumps(arguments)]
    pipe = subprocess.PIPE
    found = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, said)], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    assert found.stdout is not None
    assert found.stdout.readline() == "ready\n"
    return found


def go(one: subprocess.Popen[str]) -> None:
    assert one.stdin is not None
    one.stdin.write("\n")
    one.stdin.flush()


def calls(folder: Path) -> list[int]:
    path = folder / "calls"
    return sorted(map(int, path.read_text().split())) if path.exists() else []


def test_two_sweeps_that_spell_the_same_units_differently_fit_each_once(store: Path, tmp_path: Path) -> None:
    """Both find nothing there, at one time: only claims keep them from fitting the units that both want twice."""
    both = [
        process(store, tmp_path, 0.5, units="all", seeds=2),
        process(store, tmp_path, 0.5, units=["coarse", "pixels"], seeds=[1, 0], val=0.2),
    ]
    for one in both:
        go(one)
    said = [one.communicate(timeout=120) for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    found = [json.loads(out) for out, _ in said]
    assert sum(one["n"][0] for one in found) == 6
    assert [sum(one["n"]) for one in found] == [6, 4]  # both end with all they asked for
    assert set(found[1]["digests"]) < set(found[0]["digests"])
    assert calls(tmp_path) == [4, 4, 16, 16, 64, 64]  # features, once for each of the two seeds
    assert sum(err.count("by another process") for _, err in said) == 4


def test_what_a_killed_sweep_was_at_is_fitted_by_the_one_that_waits(store: Path, tmp_path: Path) -> None:
    """The claim goes with its process, so that nobody waits for the dead."""
    killed = process(store, tmp_path, 600, units="all", seeds=[0])
    waiting = process(store, tmp_path, 0, units=["coarse"], seeds=1)
    try:
        go(killed)
        stop = time.monotonic() + 60
        while not calls(tmp_path) and time.monotonic() < stop:
            time.sleep(0.02)
        go(waiting)
        assert waiting.stderr is not None
        assert any("waiting for 1 result that another process is fitting" in line for line in waiting.stderr)
        assert calls(tmp_path) == [4]
        os.kill(killed.pid, signal.SIGKILL)
        out, err = waiting.communicate(timeout=60)
        assert waiting.returncode == 0, err
        assert json.loads(out)["n"] == [1, 0]
        assert calls(tmp_path) == [4, 4]
    finally:
        for one in (killed, waiting):
            one.kill()
            one.communicate()


@dataclass(frozen=True)
class Named:
    digest: str


def test_turns_are_what_nobody_else_is_at_and_hold_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may have about a thousand open files: more claims than that would end a large sweep."""
    monkeypatch.setattr(claims, "MOST_HELD", 3)
    monkeypatch.setattr(claims, "POLL_S", 0)
    jobs = [Named(f"{i:032x}") for i in range(8)]
    done: set[str] = set()
    told: list[int] = []
    turns = []
    other = claim(tmp_path, jobs[4].digest)
    assert other.__enter__()

    def is_there(job: Named) -> bool:
        return job.digest in done

    def waits(n: int) -> None:
        told.append(n)
        other.__exit__(None, None, None)

    for turn in in_turns([jobs[:7], jobs[7:]], tmp_path, is_there, waits):
        for job in turn:
            with claim(tmp_path, job.digest) as is_free:
                assert not is_free  # held while it is computed
        turns.append([jobs.index(job) for job in turn])
        done |= {job.digest for job in turn}
    assert turns == [[0, 1, 2], [3, 5], [6], [7], [4]]
    assert told == [1]
    for job in jobs:
        with claim(tmp_path, job.digest) as is_free:
            assert is_free


def test_claims_that_cannot_be_written_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(probe.BadInput, match=r"claims' cannot be written: Not a directory; who computes"),
        claim(tmp_path / "file", "0" * 32),
    ):
        pass
