"""Extraction over a Dask cluster: the bytes of an extraction here, whoever is killed, and no image looked at twice."""

from __future__ import annotations

import json
import os
import pickle
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
from featstore.agreeing import agreed
from featstore.cli import main
from featstore.locking import token_of
from featstore.staging import Block

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[1]
N = 200


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
    assert readings(tmp_path / "log", os.getpid()) == dict.fromkeys(range(N), 1)
    assert len({line.split()[0] for line in (tmp_path / "log").read_text().splitlines()} - {str(os.getpid())}) == 2
    assert {"extract pictures", "images pictures", "network Sequential"} <= watch.keys
    assert f"'pictures' goes to 2 workers of {address}" in capsys.readouterr().err
    extract(backbone, split, tmp_path / "there", client="tcp://127.0.0.1:1")  # nothing to do: nobody is asked


def test_several_splits_poolings_of_stored_maps_and_repairs(
    backbone: Backbone, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What needs no images is computed there, too; and chunks are read back by the workers, where there are many."""
    monkeypatch.setattr(distributed, "READ_BACK_BYTES", 0)
    monkeypatch.setattr(distributed, "READ_BACK_CHUNKS", 3)
    monkeypatch.setattr(distributed, "HASH_ROWS", 0)
    monkeypatch.setattr(distributed, "HASH_GROUP", 7)
    for root, where in (("here", None), ("there", client)):
        splits = [logged_split(60, tmp_path / "log", name) for name in ("one", "two")]
        splits[1] = splits[1].subset(np.arange(40), "two")
        for pool in ("none", "mean", "max"):
            (tmp_path / "log").unlink(missing_ok=True)
            extract(backbone, splits, tmp_path / root, pool=pool, client=where)
            if where is not None:
                n_read = sum(readings(tmp_path / "log").values())
                assert n_read == (200 if pool == "none" else 0)  # to identify them, and to compute
                assert n_read == sum(readings(tmp_path / "log", os.getpid()).values())
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
    counts = readings(tmp_path / "log", os.getpid())
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
split = logged_split({n}, Path({log!r}), size=32, pause_s=0.01)
backbone = featstore.load_backbone("featstore:cifar_resnet20", weights=None)
featstore.extract(backbone, split, {root!r}, dtype="float32", batch_size=4, block_rows=8, client={address!r})
"""


def test_a_client_that_is_killed_leaves_what_the_next_one_goes_on_with(cluster: LocalCluster, tmp_path: Path) -> None:
    root, log = tmp_path / "there", tmp_path / "log"
    code = KILLED.format(
        tests=str(ROOT / "tests"), n=N, log=str(log), root=str(root), address=cluster.scheduler_address
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    stop = time.monotonic() + 300
    while not list(root.rglob("c.3*")) and process.poll() is None and time.monotonic() < stop:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not featstore.create_store(root).passes()[0].array_ids()  # nothing is complete
    split = logged_split(N, log, size=32)
    there = featstore.load_backbone("featstore:cifar_resnet20", weights=None)
    extract(there, split, root, client=cluster.scheduler_address)  # while the workers may still be at it
    extract(there, split, tmp_path / "here")
    assert contents(root) == contents(tmp_path / "here")
    counts = readings(log, os.getpid(), process.pid)
    assert set(counts) == set(range(N))
    assert (
        sum(counts.values()) <= N + 6 * 8
    )  # of two workers, each with a block read, one computed and one being written


def test_a_scheduler_that_is_lost_is_one_sentence(backbone: Backbone, tmp_path: Path) -> None:
    code = (
        "from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=':0', protocol='tcp')\n"
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
    with pytest.raises(ClusterFailed, match=r"the scheduler was lost, or has cancelled them. What was written is kept"):
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


# ---- what is wrong, in a sentence


def ask(client: Client, work: Any, *args: Any, only: int | None = None) -> None:
    """Have something done by all workers, or by one of them."""
    addresses = sorted(client.nthreads())
    client.run(work, *args, workers=addresses if only is None else [addresses[only]])


def hurry() -> None:
    workers.SEEN_S = 0.2


def be_of_another_version(version: str) -> None:
    np.__version__ = version


def forget_the_package(missing: bool) -> None:
    known = sys.modules.pop("featstore.workers", None) or workers
    sys.modules["featstore.workers"] = None if missing else known  # type: ignore[assignment]


def test_a_store_that_workers_do_not_see(
    backbone: Backbone, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that leads elsewhere there: first to nothing, then to another store."""
    monkeypatch.chdir(tmp_path)
    split = logged_split(16, tmp_path / "log")
    (tmp_path / "elsewhere").mkdir()
    ask(client, os.chdir, tmp_path / "elsewhere")
    ask(client, hurry)
    root = "/proc/self/cwd/store"
    if not Path("/proc/self/cwd").exists():
        pytest.skip("this system has no path that means something else in every process")
    for why in ("there is no such folder", "the folder of that name is another one"):
        with pytest.raises(
            ClusterFailed, match=f"2 of 2 workers do not see the store {root} .*: {why}.* on a file system that"
        ):
            extract(backbone, split, root, client=client)
        featstore.create_store(tmp_path / "elsewhere" / "store")
    assert not readings(tmp_path / "log", os.getpid())


def test_workers_of_other_versions_are_all_named(backbone: Backbone, client: Client, tmp_path: Path) -> None:
    split = logged_split(16, tmp_path / "log")
    mine = np.__version__
    ask(client, be_of_another_version, "0.1", only=1)
    with pytest.raises(ClusterFailed, match=f"1 of 2 workers cannot .* has numpy 0.1, and here is numpy {mine}"):
        extract(backbone, split, tmp_path / "s", client=client)
    ask(client, be_of_another_version, mine, only=1)
    if not torch.cuda.is_available():
        with pytest.raises(ClusterFailed, match=r"2 of 2 workers cannot .* says: the device 'cuda' is not there"):
            extract(backbone, split, tmp_path / "s", client=client, device="cuda")
    with pytest.raises(ClusterFailed, match="precision 'tf32' exists on CUDA devices only"):
        extract(backbone, split, tmp_path / "s", client=client, precision="tf32")
    extract(backbone, split, tmp_path / "s", client=client)


def said_by(gpu: str = "", device: str = "cpu", problem: str = "", **versions: str) -> dict[str, Any]:
    """What a worker says of itself."""
    return {"problem": problem, "gpu": gpu, "device": device, "versions": {"torch": "2.9.0+cu130", **versions}}


def test_what_workers_must_have_in_common(capsys: pytest.CaptureFixture[str]) -> None:
    """What torch was built for may differ from the client's, and is kept as the workers have it; a GPU for two is said."""
    found = {"a:1": said_by("GPU-7", "H100"), "a:2": said_by("GPU-7", "H100"), "b:1": said_by("GPU-9", "A100")}
    made_by = agreed(found, {"torch": "2.9.0+cpu"})
    assert made_by == {"device": "A100, H100", "versions": {"torch": "2.9.0+cu130"}}
    said = capsys.readouterr().err
    assert "several workers share a GPU (GPU-7)" in said
    assert "the workers compute on different devices (A100, H100), whose results differ by rounding" in said
    found |= {"c:1": said_by(torch="2.8.0"), "c:2": said_by(problem="no cuda"), "c:3": said_by(pillow="9")}
    with pytest.raises(
        ClusterFailed, match=r"3 of 6 workers .*: c:2 says: no cuda; c:1 has torch 2\.8\.0, and here .* pillow None"
    ):
        agreed(found, {"torch": "2.9.0+cpu"})


def test_tasks_grow_to_some_seconds_and_end_small() -> None:
    """Every block once, in order; the first tasks are one block, later ones what fits, the last ones leave none idle."""
    blocks = [Block(i, 10 * i, 10 * i + 10) for i in range(500)]
    ranges = distributed._Ranges(blocks, lambda: 2)
    sizes, given = [], []
    for task in ranges:
        given += task
        sizes.append(len(task))
        ranges.learn(len(task), 2.0 * len(task))
    assert given == blocks
    assert sizes[0] == 1
    assert max(sizes) == distributed.TASK_S / 2
    assert sizes[-4:] == [1, 1, 1, 1]
    assert sizes[1:] == sorted(sizes[1:], reverse=True)


def test_workers_without_the_package(backbone: Backbone, client: Client, tmp_path: Path) -> None:
    address = min(client.nthreads())
    client.run(forget_the_package, True, workers=[address])
    with pytest.raises(
        ClusterFailed, match=r"1 of 2 workers cannot import what an extraction needs: .*Install the same version"
    ):
        extract(backbone, logged_split(16, tmp_path / "log"), tmp_path / "s", client=client)
    client.run(forget_the_package, False, workers=[address])


def test_code_of_the_users_that_lies_beside_the_client_is_found(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module in the folder that the client runs in; one that lies nowhere is named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    code = "from torch import nn\nclass {name}(nn.Sequential): pass\n"
    Path("beside_the_client.py").write_text(code.format(name="Beside"))
    Path("gone_meanwhile.py").write_text(code.format(name="Gone"))
    import beside_the_client  # type: ignore[import-not-found]
    import gone_meanwhile  # type: ignore[import-not-found]

    Path("gone_meanwhile.py").unlink()
    prepared = Preprocessing(input_size=(8, 8), resize=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    split = logged_split(16, tmp_path / "log")

    def made(kind: Any) -> Backbone:
        network = kind(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        return featstore.load_backbone(network, preprocessing=prepared)

    extract(made(beside_the_client.Beside), split, "s", client=client)
    with pytest.raises(ClusterFailed, match=r"cannot import what the network, .*: No module named 'gone_meanwhile'"):
        extract(made(gone_meanwhile.Gone), split, "s", client=client)


def deadly(output: torch.Tensor, axis: int) -> torch.Tensor:
    """Kills whoever pools more than the two rows with which shapes are found out."""
    if len(output) > 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return output.flatten(1)


def hungry(output: torch.Tensor, axis: int) -> torch.Tensor:
    """Wants a petabyte for more than two rows."""
    return output.flatten(1) if len(output) <= 2 else torch.empty(1 << 50).reshape(len(output), -1)


def test_blocks_that_kill_their_workers_are_given_up(
    backbone: Backbone, cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As do those that need more memory than a worker has."""
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    split = logged_split(16, tmp_path / "log")
    with pytest.raises(
        ClusterFailed, match=r"rows \d+ to \d+ were given up, as every worker .* What was written is kept"
    ):
        extract(backbone, split, tmp_path / "s", pool=deadly, client=cluster.scheduler_address)


def test_what_a_worker_stumbles_over_is_said_here(backbone: Backbone, client: Client, tmp_path: Path) -> None:
    split = logged_split(16, tmp_path / "log")
    for where in (client, None):
        with pytest.raises(BadInput, match="batches of 4 images need more memory than there is"):
            extract(backbone, split, tmp_path / "s", pool=hungry, client=where)
    (tmp_path / "photos/a").mkdir(parents=True)
    for i in range(3):
        Image.fromarray(np.full((9, 9, 3), 20 * i, np.uint8)).save(tmp_path / f"photos/a/{i}.png")
    photos = featstore.load_split(f"imagefolder:{tmp_path}/photos")
    again = featstore.load_split(f"imagefolder:{tmp_path}/photos")
    photos.digest()
    (tmp_path / "photos/a/1.png").unlink()
    with pytest.raises(
        featstore.UnreadableImage, match=r"1\.png cannot be read: No such file .* the worker tcp://\S+, which must"
    ):
        extract(backbone, photos, tmp_path / "s", client=client)
    (tmp_path / "photos/a/2.png").write_bytes(b"no image")
    store = extract(backbone, again, tmp_path / "s", client=client, skip_unreadable=True)
    assert store.features("penultimate", again.name).ids.tolist() == ["a/0.png"]


def test_what_is_no_cluster_is_refused(
    backbone: Backbone, cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = logged_split(16, tmp_path / "log")
    monkeypatch.setattr(distributed, "CONNECT_S", 0.2)
    for address in ("tcp://127.0.0.1:1", "nonsense://x", "x"):
        with pytest.raises(ClusterFailed, match=f"no Dask scheduler answers at '{address}'"):
            extract(backbone, split, tmp_path / "s", client=address)
    assert featstore.open_store(tmp_path / "s").entries() == []  # nothing was begun
    with pytest.raises(BadInput, match=r"client is a LocalCluster; give a distributed.Client, or the address"):
        extract(backbone, split, tmp_path / "s", client=cluster)
    with pytest.raises(BadInput, match="'nonsense' is no device"):
        extract(backbone, split, tmp_path / "s", client="tcp://127.0.0.1:1", device="nonsense")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(featstore.MissingExtra, match=r"featprobe\[cluster\]"):
        extract(backbone, split, tmp_path / "s", client="tcp://127.0.0.1:1")


def test_ctrl_c_cancels_what_is_on_its_way(
    backbone: Backbone, client: Client, cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers stop at their next block; the same call goes on."""
    from featstore.writing import Session

    split, real = logged_split(N, tmp_path / "log", pause_s=0.01), Session.adopt

    def interrupted(session: Session, written: Any) -> None:
        real(session, written)
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "adopt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(backbone, split, tmp_path / "s", client=client)
    monkeypatch.undo()
    stop = time.monotonic() + 30
    while cluster.scheduler.tasks and time.monotonic() < stop:
        time.sleep(0.05)
    assert not cluster.scheduler.tasks
    assert sum(readings(tmp_path / "log", os.getpid()).values()) < N
    extract(backbone, split, tmp_path / "s", client=client)
    extract(backbone, split, tmp_path / "here")
    assert contents(tmp_path / "s") == contents(tmp_path / "here")


def test_the_benchmark_runs() -> None:
    """A figure nobody can make again is no figure."""
    command = [sys.executable, "benchmarks/bench_cluster.py", "--tiny", "--json", "--images", "digits:val"]
    command += ["--model", "featstore:digits_net"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert min(found["images_per_s"].values()) > 0
    assert found["ms_per_task"] > 0


def test_a_worker_whose_client_has_ended_stops(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was given up for lost, say; two writers of one chunk would be one too many."""
    split = logged_split(16, tmp_path / "log")
    store = featstore.create_store(tmp_path / "s")
    part = featstore.plan(backbone, split, store).parts[0]
    with store.writing(part.key, split, {}) as session:
        session.begin(part.arrays, 8)
        token = token_of(session.folder)
        assert token is not None
        work = workers.Work(session.folder, token, session.staged, part, {})
        blocks = session.missing_blocks()
    here = workers.Here("tcp://nowhere:1", 1)
    images = workers.Shipped(pickle.dumps(work), ())
    images.get()
    with pytest.raises(ClusterFailed, match=r"the worker tcp://nowhere:1 stops to write into .*: the client has ended"):
        workers.compute(images, images, blocks, here)
    monkeypatch.setattr(workers, "SEEN_S", 0.1)
    with pytest.raises(
        ClusterFailed, match=r"the worker tcp://nowhere:1 does not see the store .* shows what the client"
    ):
        workers.compute(images, workers.Shipped(pickle.dumps(work), ()), blocks, here)
