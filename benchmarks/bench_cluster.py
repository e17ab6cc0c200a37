"""Extraction over a Dask cluster: two workers against one, one worker against this process, and what a task costs.

::

    python benchmarks/bench_cluster.py             workers of one thread each, on this machine
    python benchmarks/bench_cluster.py --tiny      some seconds, for the tests; the figures mean nothing
    python benchmarks/bench_cluster.py --json

Rounds are interleaved and ratios are taken within a round. Where the machine has other work, two workers do not get twice what
one gets: CPU seconds per image (``cpu``) say what the cluster itself costs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_extract import make_images
from distributed import Client, LocalCluster

import featstore
from featstore.backbones import Backbone
from featstore.distributed import Cluster
from featstore.splits import Split


def busy(client: Client | None) -> float:
    """CPU seconds so far, of this process and of the workers."""
    own = os.times()
    there = client.run(os.times).values() if client is not None else ()
    return own.user + own.system + sum(t.user + t.system for t in there)


def extraction(backbone: Backbone, split: Split, client: Client | None, batch_size: int) -> tuple[float, float]:
    """Return seconds and CPU seconds of one extraction into a new store."""
    with tempfile.TemporaryDirectory() as root:
        fresh = split.subset(np.arange(len(split)), split.name)  # a new Split has not been digested yet
        begun, before = time.perf_counter(), busy(client)
        options = {"batch_size": batch_size, "block_rows": 2 * batch_size, "workers": 1, "progress": False}
        featstore.extract(backbone, fresh, root, units="penultimate", client=client, **options)
        return time.perf_counter() - begun, busy(client) - before


def task_seconds(client: Client, n: int) -> float:
    """Return what it takes to send a task that does nothing to a worker and to hear of it."""
    with Cluster(client) as cluster:
        begun = time.perf_counter()
        assert len(list(cluster.done("nothing", ((i, (int, i)) for i in range(n)), str))) == n
        return (time.perf_counter() - begun) / n


def measure(spec: str, split: Split, batch_size: int, rounds: int, n_tasks: int, *, processes: bool) -> dict[str, Any]:
    """Return medians and ratios."""
    backbone = featstore.load_backbone(spec, weights=None)
    local = {"processes": processes, "threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 100}
    with (
        LocalCluster(n_workers=1, **local) as one,
        LocalCluster(n_workers=2, **local) as two,
        Client(one, set_as_default=False) as of_one,
        Client(two, set_as_default=False) as of_two,
    ):
        clients = {"here": None, "one worker": of_one, "two workers": of_two}
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in clients}
        for k in range(rounds + 1):
            for name, client in clients.items():
                cost = extraction(backbone, split, client, batch_size)
                if k:  # the first round loads libraries
                    costs[name].append(cost)
        seconds = {name: [wall for wall, _ in of] for name, of in costs.items()}
        cpu = {name: [used for _, used in of] for name, of in costs.items()}
        return {
            "model": spec,
            "n_images": len(split),
            "images_per_s": {name: len(split) / statistics.median(of) for name, of in seconds.items()},
            "two_against_one": ratio(seconds["one worker"], seconds["two workers"]),
            "one_against_here": ratio(seconds["here"], seconds["one worker"]),
            "cpu_of_two_against_here": ratio(cpu["two workers"], cpu["here"]),
            "ms_per_task": 1000 * task_seconds(of_two, n_tasks),
        }


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of the ratios of rounds."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="name of a split")
    parser.add_argument("--model", default="timm:resnet18")
    parser.add_argument("--n", type=int, default=768, help="images")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(argv)
    n, rounds, n_tasks, batch_size = asked.n, asked.rounds, 2000, asked.batch_size
    if asked.tiny:
        n, rounds, n_tasks, batch_size = 8, 1, 20, 2
    torch.set_num_threads(1)  # as a worker
    with tempfile.TemporaryDirectory() as folder:
        split = featstore.load_split(asked.images or make_images(Path(folder), n))
        split = split.subset(np.arange(min(n, len(split))), split.name)
        found = measure(asked.model, split, batch_size, rounds, n_tasks, processes=not asked.tiny)
    if asked.json:
        print(json.dumps(found))
        return
    print(f"{found['model']}, {found['n_images']} images, torch {torch.__version__}")
    print(*(f"  {name:12} {speed:6.1f} images/s" for name, speed in found["images_per_s"].items()), sep="\n")
    print(
        f"  two workers against one: {found['two_against_one']:.2f}; one against this process: {found['one_against_here']:.2f}"
    )
    print(
        f"  CPU time of two workers and the client, against this process alone: {found['cpu_of_two_against_here']:.2f}"
    )
    print(f"  a task that does nothing: {found['ms_per_task']:.1f} ms")


if __name__ == "__main__":
    main()
