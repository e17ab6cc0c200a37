"""Sweeps over a Dask cluster: the records of a sweep here, one load per unit, and only a lost worker's own fits again."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from distributed.diagnostics.plugin import SchedulerPlugin
from stored_digits import UNITS, digits, digits_store, features, split, write

import featstore
import probe
from probe import cluster as over_dask
from probe.cli import main
from probe.records import Record, ResultFolder


class Watch(SchedulerPlugin):
    """Notes where every task begins and ends; kills one worker when another one has finished its first task."""

    def __init__(self, pids: dict[str, int] | None = None) -> None:
        self.pids = pids or {}
        self.begun: Counter[str] = Counter()
        self.finished: list[tuple[str, str]] = []
        self.killed = ""

    def transition(self, key: Any, start: str, finish: str, *args: Any, **said: Any) -> None:
        if not str(key).startswith("probe-"):
            return
        if finish == "processing":
            self.begun[str(key)] += 1
        if (start, finish) == ("processing", "memory"):
            self.finished.append((str(key), said["worker"]))
            if self.pids and not self.killed:
                self.killed = next(address for address in self.pids if address != said["worker"])
                os.kill(self.pids[self.killed], signal.SIGKILL)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> featstore.Store:
    return digits_store(tmp_path_factory.mktemp("store"))


def run(store: featstore.Store, out: Path, **changes: Any) -> probe.Results:
    arguments: dict[str, Any] = {"train": "train", "val": 0.2, "test": "test", "progress": False}
    return probe.sweep(store, out=out, **{**arguments, **changes})


def timeless(found: probe.Results) -> list[Record]:
    return [replace(record, seconds=0.0) for record in found]


@pytest.fixture(scope="module")
def here(store: featstore.Store, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """What a sweep without a cluster finds."""
    return timeless(run(store, tmp_path_factory.mktemp("here"), seeds=3))


def test_the_records_are_those_of_a_sweep_here(
    store: featstore.Store,
    here: list[Record],
    cluster: LocalCluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """To the bit, predictions and their checksums included; one task, and so one load, for each unit."""
    watch = Watch()
    cluster.scheduler.add_plugin(watch, name="watch")
    found = run(store, tmp_path, seeds=3, scheduler=cluster.scheduler_address, progress=True)
    cluster.scheduler.remove_plugin("watch")
    assert timeless(found) == here
    assert sorted(key.split("-")[1] for key, _ in watch.finished) == sorted(UNITS)
    assert set(watch.begun.values()) == {1}
    said = capsys.readouterr().err
    assert f"3 tasks for the 2 workers of {cluster.scheduler_address}" in said
    assert "9/9" in said
    again = run(store, tmp_path, seeds=3, scheduler="tcp://127.0.0.1:1")  # nothing to fit: nobody is asked
    assert (again.n_fitted, again.n_reused) == (0, 9)


def test_a_store_is_found_from_another_folder(
    store: featstore.Store, cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path means the client's folder, not the one a worker runs in; records too are written here."""
    monkeypatch.chdir(store.root.parent)
    for i, relative in enumerate((store.root.name, featstore.open_store(store.root.name))):
        found = probe.sweep(
            relative, train="train", out=f"of_another_folder{i}", units="coarse", C=[0.01], scheduler=cluster.scheduler_address,
            progress=False,
        )  # fmt: skip
        assert found.n_fitted == 1
        assert len(ResultFolder(store.root.parent / f"of_another_folder{i}").records()[0]) == 1


def test_few_units_and_many_seeds_are_dealt_to_different_workers(
    store: featstore.Store, cluster: LocalCluster, tmp_path: Path
) -> None:
    """20 few-shot seeds of one unit are two batches: one for each worker, the same batches as here."""
    watch, more = Watch(), {"units": ["middle"], "seeds": 20, "per_class": 4, "val": "val", "C": [1e-2, 1e-1]}
    cluster.scheduler.add_plugin(watch, name="watch")
    found = run(store, tmp_path / "there", scheduler=cluster.scheduler_address, **more)
    cluster.scheduler.remove_plugin("watch")
    assert timeless(found) == timeless(run(store, tmp_path / "here", **more))
    assert Counter(r.n_together for r in found) == {16: 16, 4: 4}
    assert len({worker for _, worker in watch.finished}) == len(watch.finished) == 2


def test_a_lost_worker_costs_only_its_own_fits(
    store: featstore.Store, here: list[Record], cluster: LocalCluster, tmp_path: Path
) -> None:
    """One of two processes is killed in the middle of a unit: that unit is fitted again, what is finished is not."""
    with Client(cluster, set_as_default=False) as client:
        watch = Watch(client.run(os.getpid))
    cluster.scheduler.add_plugin(watch, name="watch")
    found = run(store, tmp_path, seeds=3, scheduler=cluster.scheduler_address)
    cluster.scheduler.remove_plugin("watch")
    assert watch.killed
    assert timeless(found) == here
    first, survivor = watch.finished[0]
    assert survivor != watch.killed
    assert watch.begun[first] == 1
    assert max(watch.begun.values()) == 2
    assert ResultFolder(tmp_path).records()[1] == []


def test_a_unit_that_kills_its_workers_is_given_up_alone(
    store: featstore.Store, cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that needs more memory than a worker has: the others are finished and kept, and it is named."""

    def deadly(y_true: np.ndarray, y_pred: np.ndarray) -> float:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0.0

    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    with pytest.raises(
        probe.ClusterFailed, match="1 units were given up, as each worker that fitted one was lost: coarse"
    ):
        run(
            store, tmp_path, units=["coarse"], metric=probe.metrics.PredictionMetric("deadly", deadly),
            scheduler=cluster.scheduler_address,
        )  # fmt: skip


def test_what_a_fit_raises_is_raised_here(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stored_digits

    spoilt = features(digits()[0][:60])
    spoilt["middle"][7, 3] = np.nan
    monkeypatch.setattr(stored_digits, "features", lambda images: spoilt)
    store = featstore.create_store(tmp_path / "store")
    write(store, split("train", slice(0, 60)))
    with pytest.raises(probe.BadInput, match=r"Unit 'middle' of 'train' cannot be probed: .*NaN.*\(first 7\)"):
        run(store, tmp_path / "r", test=None, scheduler=cluster.scheduler_address)


def test_fits_that_fall_short_are_said_here(store: featstore.Store, cluster: LocalCluster, tmp_path: Path) -> None:
    """A warning on a worker is seen by nobody."""
    with pytest.warns(probe.NotConverged, match=r"Unit 'coarse', seed 0: 1 of 2 fits fall short"):
        run(store, tmp_path, units=["coarse"], C=[1e-3, 1e-2], tol=1e-18, scheduler=cluster.scheduler_address)


def test_ctrl_c_keeps_what_came_back_and_cancels_the_rest(
    store: featstore.Store,
    cluster: LocalCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real, n_written = ResultFolder.write, 0

    def interrupted(*args: Any) -> Record:
        nonlocal n_written
        n_written += 1
        if n_written == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(ResultFolder, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(store, tmp_path, scheduler=cluster.scheduler_address, progress=True)
    assert f"interrupted; 1 of 3 results are kept in {tmp_path}" in capsys.readouterr().err
    stop = time.monotonic() + 30
    while cluster.scheduler.tasks and time.monotonic() < stop:
        time.sleep(0.05)
    assert not cluster.scheduler.tasks
    monkeypatch.undo()
    found = run(store, tmp_path, scheduler=cluster.scheduler_address)
    assert (found.n_fitted, found.n_reused) == (2, 1)


def test_a_client_is_left_open(store: featstore.Store, cluster: LocalCluster, tmp_path: Path) -> None:
    with Client(cluster, set_as_default=False) as client:
        found = run(store, tmp_path, units=["coarse"], C=[0.01, 0.1], scheduler=client)
        assert found.n_fitted == 1
        assert client.submit(sum, [1, 2]).result() == 3


def test_the_command_takes_an_address(
    store: featstore.Store, cluster: LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "sweep",
        str(store.root),
        "--train",
        "train",
        "--out",
        str(tmp_path),
        "--C",
        "0.01,0.1",
        "--units",
        "coarse",
    ]
    assert main([*command, "--scheduler", cluster.scheduler_address]) == 0
    said = capsys.readouterr()
    assert "1 tasks for the 2 workers" in said.err
    assert "coarse" in said.out


def test_a_scheduler_that_is_not_there_is_one_sentence(
    store: featstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(over_dask, "_CONNECT_S", 0.2)
    for address in ("tcp://127.0.0.1:1", "nonsense://x", "x"):
        with pytest.raises(probe.ClusterFailed, match=f"No Dask scheduler answers at '{address}'"):
            run(store, tmp_path, scheduler=address)
        assert [path.name for path in tmp_path.iterdir() if path.name != "claims"] == []


def test_without_distributed_the_extra_is_named(
    store: featstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(probe.MissingExtra, match=r"featprobe\[cluster\]"):
        run(store, tmp_path, scheduler="tcp://127.0.0.1:1")


def test_workers_of_another_version_are_refused() -> None:
    """Their numbers would be kept under this version's keys."""
    with pytest.raises(probe.BadInput, match="speaks version 0 of the protocol of sweeps, and a worker"):
        over_dask._fit([], None, 0)
