"""Extraction against a bare loop that decodes, preprocesses and runs the same network and keeps nothing.

::

    python benchmarks/bench_extract.py                     JPEG images made for the purpose, networks with random weights
    python benchmarks/bench_extract.py --images photos     your own: any split that load_split knows
    python benchmarks/bench_extract.py --tiny              a few seconds, for the tests; the figures mean nothing

Rounds are interleaved, and ratios are taken within a round: on a shared machine only ratios can be trusted, and those of
CPU time more than those of the clock. The bare loop decodes a batch with as many threads as `extract` does, then runs the
network on it, with the channels last in memory where that is faster, as `extract` does; beside it stand the same loop as
most are written, with the channels first, and torch's DataLoader with processes, which decodes ahead. Under each network
stands what the last extraction says of its stages. The last rows are the peak resident memory of an extraction, and of
reading what it stored in blocks, for two numbers of small images, each in a process of its own: it must not grow with them.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import featstore
from featstore.backbones import Backbone
from featstore.engine import channels_last as in_order
from featstore.loading import default_workers
from featstore.splits import Split

BARS = {"penultimate": 0.95, "all units": 0.90}
"""Images per second of extraction, as a share of the bare loop's, that are asked for."""


def make_images(folder: Path, n: int, size: int = 256) -> str:
    """Write an npz of n smooth JPEG images, and return the name of the split."""
    generator = np.random.default_rng(0)
    files = []
    for _ in range(n):
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), np.float64)
        noisy = (smooth + generator.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=85)
        files.append(buffer.getvalue())
    offsets = np.cumsum([0, *map(len, files)])
    np.savez(folder / "images.npz", jpeg=np.frombuffer(b"".join(files), np.uint8), offsets=offsets)
    return f"npz:{folder / 'images.npz'}"


def bare(backbone: Backbone, split: Split, batch_size: int, *, channels_last: bool = False) -> None:
    """Decode a batch with threads, run the network on it, forget it; then the next."""
    order = torch.channels_last if channels_last else torch.contiguous_format
    with ThreadPoolExecutor(default_workers()) as pool, torch.no_grad(), in_order(backbone.chain, channels_last):
        for start in range(0, len(split), batch_size):
            rows = range(start, min(start + batch_size, len(split)))
            x = torch.stack(list(pool.map(lambda i: backbone.preprocessing(split.image(i)), rows)))
            backbone.module(x.contiguous(memory_format=order))


def bare_in_best_order(backbone: Backbone, split: Split, batch_size: int) -> None:
    """The same with the channels last in memory where that is faster, as `featstore.extract` has them."""
    bare(backbone, split, batch_size, channels_last=backbone.prefers_channels_last("cpu"))


class Inputs(Dataset[torch.Tensor]):
    """The images of a split as torch's DataLoader wants them."""

    def __init__(self, backbone: Backbone, split: Split) -> None:
        self.prepare, self.split = backbone.preprocessing, split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.prepare(self.split.image(i))


def processes(backbone: Backbone, split: Split, batch_size: int) -> None:
    """Decode ahead with as many processes as cores, run the network."""
    with torch.no_grad():
        for x in DataLoader(Inputs(backbone, split), batch_size, num_workers=default_workers()):
            backbone.module(x)


def extraction(units: str) -> Callable[[Backbone, Split, int], None]:
    """Return the extraction of some units into a new store, digest of the images included."""

    def run(backbone: Backbone, split: Split, batch_size: int) -> None:
        with tempfile.TemporaryDirectory() as root:
            fresh = split.subset(np.arange(len(split)), split.name)  # a new Split has not been digested yet
            featstore.extract(
                backbone, fresh, root, units=units, batch_size=batch_size, progress=False, report=LAST.append
            )
        del LAST[:-1]

    return run


LAST: list[featstore.Report] = []
"""What the last extraction took."""


METHODS: dict[str, Callable[[Backbone, Split, int], None]] = {
    "bare loop": bare_in_best_order,
    "channels first": bare,
    "processes": processes,
    "penultimate": extraction("penultimate"),
    "all units": extraction("all"),
}


@dataclass
class Cost:
    """What a method took per image, one value per round: seconds on the clock, and seconds of all cores together."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def measure(backbone: Backbone, split: Split, batch_size: int, rounds: int, methods: Sequence[str]) -> dict[str, Cost]:
    """Return what each method takes."""
    costs = {name: Cost() for name in methods}
    split.image(0)  # opens the file
    for k in range(rounds + 1):
        for name in methods:
            begun, busy = time.perf_counter(), _cpu_seconds()
            METHODS[name](backbone, split, batch_size)
            if k:  # the first round warms caches and thread pools
                costs[name].wall.append((time.perf_counter() - begun) / len(split))
                costs[name].cpu.append((_cpu_seconds() - busy) / len(split))
    return costs


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of the workers it has waited for."""
    return sum(os.times()[:4])


def report(name: str, split: Split, costs: dict[str, Cost]) -> None:
    """Print medians, and ratios to the bare loop of the same round, which are above 1 where a method is faster."""
    print(f"{name}, {len(split)} images")
    bare_loop = costs["bare loop"]
    for method, cost in costs.items():
        speed = statistics.median(b / v for v, b in zip(cost.wall, bare_loop.wall, strict=True))
        cpu = statistics.median(b / v for v, b in zip(cost.cpu, bare_loop.cpu, strict=True))
        bar = BARS.get(method)
        verdict = "" if bar is None else f"   bar {bar:.2f}: {'pass' if speed >= bar else 'FALLS SHORT'}"
        rate, ms = 1 / statistics.median(cost.wall), 1000 * statistics.median(cost.cpu)
        print(
            f"  {method:21} {rate:6.0f} images/s = {speed:4.2f} of the bare loop   {ms:6.1f} CPU ms/image = {cpu:4.2f}{verdict}"
        )


PEAK = """
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(float(status["VmHWM"].split()[0]) / 1000)  # getrusage would begin with what the parent had
"""
MEMORY = """
import sys
import numpy as np
import featstore
from bench_extract import Made
n, root = int(sys.argv[1]), sys.argv[2]
split = featstore.Split("made", np.array([str(i) for i in range(n)]), None, (), Made(n))
backbone = featstore.load_backbone("featstore:digits_net")
store = featstore.extract(backbone, split, root, pool=["none", "mean"], batch_size=64, block_rows=512, progress=False)
"""
READING = """
import sys
import featstore
store = featstore.open_store(sys.argv[2])
total = sum(float(block.sum()) for e in store.entries() for _, block in store.matrix(e).blocks())
"""
MOST_MB = 25.0
"""That ten times as many images may add: what allocators and caches keep."""


class Made:
    """Grey pictures of 8 × 8 pixels, made when they are asked for."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def read(self, i: int) -> np.ndarray:
        return (np.arange(64) * (i + 1) % 251).astype(np.uint8).reshape(8, 8)

    def describe(self, i: int) -> str:
        return f"picture {i}"

    def stat(self, i: int) -> None:
        return None


def report_memory(small: int = 2_000) -> None:
    """Print the peak resident memory of extracting, and of reading in blocks, small and ten times as many images."""
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryDirectory() as folder:
        for what, script in (("extracting", MEMORY), ("reading in blocks", READING)):
            peaks = []
            for n in (small, 10 * small):
                command = [sys.executable, "-W", "ignore", "-c", script + PEAK, str(n), f"{folder}/{n}"]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                peaks.append(float(done.stdout))
            verdict = "pass" if peaks[1] - peaks[0] < MOST_MB else "FALLS SHORT"
            print(
                f"peak memory of {what}: {peaks[0]:.0f} MB for {small:,} images, {peaks[1]:.0f} MB for {10 * small:,}   "
                f"bar {MOST_MB:.0f} MB more: {verdict}"
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="name of a split")
    parser.add_argument(
        "--models", nargs="+", default=["torchvision:squeezenet1_1", "timm:mobilenetv2_050", "timm:resnet18"]
    )
    parser.add_argument("--n", type=int, default=1024, help="images")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args(argv)
    models, n, rounds, methods = asked.models, asked.n, asked.rounds, list(METHODS)
    if asked.tiny:
        models, n, rounds = models[:1], 8, 1
        methods.remove("processes")
    with tempfile.TemporaryDirectory() as folder:
        split = featstore.load_split(asked.images or make_images(Path(folder), n))
        split = split.subset(np.arange(min(n, len(split))), split.name)
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {default_workers()} decoding")
        for name in models:
            backbone = featstore.load_backbone(name, weights=None)
            report(name, split, measure(backbone, split, asked.batch_size, rounds, methods))
            stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in LAST[-1].stages.items())
            print(f"  seconds of all units' stages: {stages}; longest: {LAST[-1].bottleneck}")
    if not asked.tiny:
        report_memory()


if __name__ == "__main__":
    main()
