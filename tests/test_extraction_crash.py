"""Killing a whole extraction, network and all, again and again: is the store in the end that of one that was left alone?

Real processes and real SIGKILL. They are forked from one that has imported torch, so that thirty of them take seconds.
"""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from featstore import open_store

ROOT = Path(__file__).parents[1]
MODEL, SPLIT, N = "featstore:digits_net", "digits:test", 451

FORKER = """
import os, signal, sys, tempfile, time
import torch
torch.set_num_threads(1)
import featstore, timm, zarr, PIL.Image
from featstore.cli import main
backbone, split = featstore.load_backbone({model!r}), featstore.load_split({split!r})
with tempfile.TemporaryDirectory() as folder:  # imports whatever an extraction imports; its threads end with it
    featstore.extract(backbone, split.subset(range(9), "few"), folder, workers=2, progress=False)
print("ready", flush=True)
for line in sys.stdin:
    root, log, kill_after_s = line.split()
    child = os.fork()
    if child == 0:
        def count(module, args, output):
            with open(log, "a") as file:
                file.write(f"{{len(args[0])}}\\n")
        backbone.module.get_submodule("conv1").register_forward_hook(count)
        featstore.extract(backbone, split, root, block_rows=16, batch_size=8, workers=2, progress=False)
        os._exit(0)
    if kill_after_s != "never":
        time.sleep(float(kill_after_s))
        os.kill(child, signal.SIGKILL)  # ended or not, its number is its own until it has been waited for
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Forker:
    """Starts extractions."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        code = FORKER.format(model=MODEL, split=SPLIT)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self._line() == "ready"

    def run(self, root: Path, log: Path, kill_after_s: float | None) -> int:
        """Extract, kill after some seconds, and return the status of the process."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{root} {log} {'never' if kill_after_s is None else kill_after_s}\n")
        self.process.stdin.flush()
        return int(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    made = Forker()
    yield made
    made.process.kill()
    made.process.communicate()


def contents(root: Path) -> dict[str, bytes]:
    """Every file but the cache of digests and locks."""
    found = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    return {k: v for k, v in found.items() if not k.startswith("cache/") and not k.endswith(".lock")}


def test_twenty_five_kills_in_one_extraction_change_no_byte(forker: Forker, tmp_path: Path) -> None:
    begun = time.monotonic()
    assert forker.run(tmp_path / "alone", tmp_path / "alone.log", None) == 0
    seconds = time.monotonic() - begun
    rng, n_kills, n_late = random.Random(0), 0, 0
    root, log = tmp_path / "s", tmp_path / "log"
    while n_kills < 25:
        # A process that ends before its kill is not counted, and some of what it has made goes, so that there is work left.
        status = forker.run(root, log, rng.uniform(0, 0.7 * seconds))
        n_kills += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if (root / "featstore.json").exists():
            store = open_store(root)
            assert store.verify() == []
            whole = [e for e in store.entries() if e.is_complete]
            for entry in whole:
                rows = store.features(entry.unit, SPLIT).numpy()
                assert np.array_equal(rows, open_store(tmp_path / "alone").features(entry.unit, SPLIT).numpy())
            if whole:
                n_late += 1
                assert n_late < 200
                store.remove(whole)
    assert forker.run(root, log, None) == 0
    assert contents(root) == contents(tmp_path / "alone")
    assert not list(root.rglob("*.partial"))


def test_a_killed_extraction_goes_on_where_it_was(forker: Forker, tmp_path: Path) -> None:
    """Each image goes through the network once, but for those of the blocks that were on their way."""
    root, log, n_kills = tmp_path / "s", tmp_path / "log", 0
    for kill_after_s in (0.15, 0.2, 0.25, 0.3):
        n_kills += os.WIFSIGNALED(forker.run(root, log, kill_after_s))
    assert forker.run(root, log, None) == 0
    n_images = sum(int(line) for line in log.read_text().split())
    assert N <= n_images <= N + n_kills * 3 * 16


FULL = """
import resource, sys
from featstore.cli import main
import featstore.backbones, torch, zarr, timm
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
raise SystemExit(main(sys.argv[1:]))
"""


def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(tmp_path: Path) -> None:
    root = tmp_path / "s"
    command = ["extract", MODEL, "digits:source", str(root), "--dtype", "float32", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(limit: int) -> subprocess.CompletedProcess[str]:
        script = [sys.executable, "-c", FULL.format(limit=limit), *command]
        return subprocess.run(script, env=environment, capture_output=True, text=True, timeout=120, check=False)

    done = run(100_000)
    assert done.returncode == 1
    assert re.fullmatch(
        r"featstore: error: the store .* could not be written: a file may not grow so large .* run the same command again: "
        r"it goes on where it stopped\.\n", done.stderr
    ), done.stderr  # fmt: skip
    assert not list(root.rglob("*.partial"))
    assert open_store(root).verify() == []
    done = run(resource.RLIM_INFINITY)
    assert (done.returncode, done.stderr) == (0, "")
    assert open_store(root).verify() == []
    assert all(e.is_complete for e in open_store(root).entries())


MEMORY = """
import sys, numpy as np
from pathlib import Path
sys.path.insert(0, {tests!r})
from toys import *
from featstore import open_store
import zarr
n, d = int(sys.argv[1]), 1024
split = toy_split(n)
key = pass_key(split)
array = array_key(key, "body", d)
store = create_store(Path({root!r}) / str(n))
block = np.ones((1024, d), np.float32)
with store.writing(key, split, {{}}, durable=False) as session:
    session.begin([array], 1024)
    for b in session.missing_blocks():
        session.write(b, {{array: block[:len(b)]}})
    session.commit()
found = open_store(store.root).features("body", "toy/train")
found.ids
total = sum(float(b[:, 0].sum()) for _, b in found.blocks())
assert total == n
print(peak_megabytes())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of a process of its own")
def test_the_memory_of_reading_in_blocks_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """17 MB and 170 MB of features, each in a process of its own: the peaks differ by less than 40 MB."""
    tests = Path(__file__).parent
    peaks = []
    for n in (4_200, 42_000):
        script = MEMORY.format(tests=str(tests), root=str(tmp_path))
        command = [sys.executable, "-c", script, str(n)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout))
    assert peaks[1] - peaks[0] < 40, peaks
