"""Extraction over a Dask cluster: the bytes of an extraction here, whoever is killed, and no image looked at twice."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster
from distributed.diagnostics.plugin import SchedulerPlugin
from logged_images import logged_split, readings
from PIL import Image
from torch import nn

import featstore
from featstore import Backbone, BadInput, ClusterFailed, Preprocessing, Split, Store, distributed, workers
from featstore.cli import main

ROOT = Path(__file__).parents[1]
N = 200


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As the workers have."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def two_workers() -> Iterator[LocalCluster]:
    """Two processes of one thread each."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=100) as cluster:
        yield cluster


@pytest.fixture
def cluster(two_workers: LocalCluster) -> LocalCluster:
    """Both workers there, also after a test has killed one."""
    two_workers.wait_for_workers(2, timeout=60)
    return two_workers


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster, set_as_default=False) as made:
        yield made


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """A network of the user's, which no worker could load by a name."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    prepared = Preprocessing(input_size=(8, 8), resize=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    return featstore.load_backbone(network, preprocessing=prepared)


def extract(backbone: Backbone, split: Split, root: Path | str, **arguments: Any) -> Store:
    given = {"dtype": "float32", "batch_size": 4, "block_rows": 8, "progress": False, **arguments}
    return featstore.extract(backbone, split, root, **given)


def contents(root: Path) -> dict[str, bytes]:
    """Every file but the cache of digests and locks."""
    found = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    return {k: v for k, v in found.items() if not k.startswith("cache/") and not k.endswith((".lock", ".holder"))}


class Watch(SchedulerPlugin):
    """Notes the tasks; kills a worker as soon as another one has finished its first blocks."""

    def __init__(self, pids: dict[str, int] | None = None) -> None:
        self.pids = pids or {}
        self.keys: set[str] = set()
        self.killed = ""

    def transition(self, key: Any, start: str, finish: str, *args: Any, **said: Any) -> None:
        name = key[0] if isinstance(key, tuple) else key
        self.keys.add(re.sub("-[0-9a-f]{32}$", "", name))
        done = (start, finish) == ("processing", "memory") and name.startswith("extract")
        if done and self.pids and not self.killed:
            self.killed = next(address for address in self.pids if address != said["worker"])
            os.kill(self.pids[self.killed], signal.SIGKILL)


# ---- the same result


def test_the_bytes_are_those_of_an_extraction_here(
    backbone: Backbone, cluster: LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By address; each image is read once, and by both workers; the tasks have names that say what they are."""
    split = logged_split(N, tmp_path / "log")
    extract(backbone, split, tmp_path / "here", units=["all", "head"], pool=["mean", "none"])
    (tmp_path / "log").unlink()
    watch = Watch()
    cluster.scheduler.add_plugin(watch, name="watch")
    address = cluster.scheduler_address
    store = extract(
        backbone, split, tmp_path / "there", units=["all", "head"], pool=["mean", "none"], client=address, progress=True
    )
    cluster.scheduler.remove_plugin("watch")
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert store.verify() == []
    assert readings(tmp_path / "log", but=os.getpid()) == dict.fromkeys(range(N), 1)
    assert len({line.split()[0] for line in (tmp_path / "log").read_text().splitlines()} - {str(os.getpid())}) == 2
    assert {"extract pictures", "images pictures", "network Sequential"} <= watch.keys
    assert f"'pictures' goes to 2 workers of {address}" in capsys.readouterr().err
    extract(backbone, split, tmp_path / "there", client="tcp://127.0.0.1:1")  # nothing to do: nobody is asked


def test_several_splits_poolings_of_stored_maps_and_repairs(
    backbone: Backbone, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What needs no images is computed there, too; and chunks are read back by the workers, where there are many."""
    splits = [logged_split(60, tmp_path / "log", name) for name in ("one", "two")]
    splits[1] = splits[1].subset(np.arange(40), "two")
    monkeypatch.setattr(distributed, "READ_BACK_BYTES", 0)
    monkeypatch.setattr(distributed, "READ_BACK_CHUNKS", 3)
    for root, where in (("here", None), ("there", client)):
        for pool in ("none", "mean", "max"):
            (tmp_path / "log").unlink(missing_ok=True)
            extract(backbone, splits, tmp_path / root, pool=pool, client=where)
            if pool != "none" and where is not None:
                assert not readings(tmp_path / "log", but=os.getpid())
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    chunk = next(p for p in sorted((tmp_path / "there").rglob("c.2*")))
    chunk.write_bytes(chunk.read_bytes()[:-3] + b"abc")
    assert len(featstore.open_store(tmp_path / "there").verify()) == 1
    for pool in ("none", "mean", "max"):
        extract(backbone, splits, tmp_path / "there", pool=pool, client=client, repair=True)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_relative_paths_are_the_clients(
    backbone: Backbone, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        Path("photos", "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9, 3), 20 * i, np.uint8)).save(f"photos/{'ab'[i % 2]}/{i}.png")
    split = featstore.load_split("imagefolder:photos")
    store = extract(backbone, split, "there", client=client)
    extract(backbone, split, "here")
    assert store.root == Path("there")
    assert contents(Path("there")) == contents(Path("here"))


def test_the_command_takes_an_address(
    cluster: LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["extract", "featstore:digits_net", "digits:val", str(tmp_path)]
    assert main([*command, "--scheduler", cluster.scheduler_address, "--units", "penultimate"]) == 0
    said = capsys.readouterr()
    assert "goes to 2 workers" in said.err
    assert "penultimate" in said.out


# ---- whoever is lost


def test_a_worker_that_is_killed_costs_only_what_it_was_at(
    backbone: Backbone, client: Client, cluster: LocalCluster, tmp_path: Path
) -> None:
    """SIGKILL to one of two, midway: its blocks are computed again, no other is, and nothing of it is left over."""
    split = logged_split(N, tmp_path / "log", pause_s=0.002)
    extract(backbone, split, tmp_path / "here")
    (tmp_path / "log").unlink()
    watch = Watch(client.run(os.getpid))
    cluster.scheduler.add_plugin(watch, name="watch")
    extract(backbone, split, tmp_path / "there", client=client)
    cluster.scheduler.remove_plugin("watch")
    assert watch.killed
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert not list((tmp_path / "there").rglob("*.partial"))
    counts = readings(tmp_path / "log", but=os.getpid())
    assert set(counts) == set(range(N))
    assert max(counts.values()) <= 2
    assert sum(counts.values()) <= N + 3 * 8  # a block that was computed, one that was being written


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
from logged_images import logged_split
import featstore
split = logged_split({n}, Path({log!r}), pause_s=0.01)
backbone = featstore.load_backbone("featstore:cifar_resnet20", weights=None)
featstore.extract(backbone, split, {root!r}, dtype="float32", batch_size=4, block_rows=8, client={address!r})
"""


def test_a_client_that_is_killed_leaves_what_the_next_one_goes_on_with(cluster: LocalCluster, tmp_path: Path) -> None:
    root, log = tmp_path / "there", tmp_path / "log"
    code = KILLED.format(
        tests=str(ROOT / "tests"), n=N, log=str(log), root=str(root), address=cluster.scheduler_address
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    stop = time.monotonic() + 60
    while not list(root.rglob("c.3*")) and time.monotonic() < stop:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not featstore.create_store(root).passes()[0].array_ids()  # nothing is complete
    split = logged_split(N, log)
    there = featstore.load_backbone("featstore:cifar_resnet20", weights=None)
    extract(there, split, root, client=cluster.scheduler_address)  # while the workers may still be at it
    extract(there, split, tmp_path / "here")
    assert contents(root) == contents(tmp_path / "here")
    counts = readings(log, but=os.getpid())
    assert set(counts) == set(range(N))
    n_twice = sum(n - 1 for n in counts.values()) - sum(line.startswith(f"{process.pid} ") for line in log.open())
    assert n_twice <= 6 * 8  # of two workers, each with a block read, one computed and one being written


def test_a_scheduler_that_is_lost_is_one_sentence(backbone: Backbone, tmp_path: Path) -> None:
    code = (
        "from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, protocol='tcp')\n"
        "    print(cluster.scheduler_address, flush=True)\n"
        "    input()\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    split = logged_split(N, tmp_path / "log", pause_s=0.01)
    root = tmp_path / "there"

    def kill_midway() -> None:
        while not list(root.rglob("c.3*")):
            time.sleep(0.02)
        process.kill()

    threading.Thread(target=kill_midway, daemon=True).start()
    with pytest.raises(ClusterFailed, match="the scheduler was lost, or has cancelled them. What was written is kept"):
        extract(backbone, split, root, client=address)
    process.communicate()
    extract(backbone, split, root)
    extract(backbone, split, tmp_path / "here")
    assert contents(root) == contents(tmp_path / "here")


def test_two_clients_at_once_compute_once(backbone: Backbone, cluster: LocalCluster, tmp_path: Path) -> None:
    split = logged_split(N, tmp_path / "log", pause_s=0.002)
    split.digest()
    (tmp_path / "log").unlink()
    address, done = cluster.scheduler_address, []

    def ask() -> None:
        done.append(extract(backbone, split, tmp_path / "there", client=address))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 2
    assert readings(tmp_path / "log") == dict.fromkeys(range(N), 1)
    assert done[0].verify() == []
