"""How fast the store is, beside plain numpy files, in one run.

    python benchmarks/bench_store.py            # 50,000 × 2048, float32 and float16: 0.4 GB files, about two minutes
    python benchmarks/bench_store.py --tiny     # seconds; the figures mean nothing

Every round runs every method, in an order that is turned from round to round; a figure is the median over the rounds
of the ratio to its yardstick in the same round, so that other load on the machine hits both; beside it stands the ratio
of the best rounds, which other load hits less. Each time, a method is run twice and the second time is what counts: a
virtual machine gets memory that was free for a while back from its host at a tenth of the speed. Files are in the page
cache: what is measured is the code, not the disk. Buffers that are read into have been touched before, and begin with a
line of the processor's cache, as those of torch and of this package do: into numpy's own, which begin 16 bytes later, AMD's
EPYC copies whole pages three times slower (`featstore.chunks.BOUNCED_BYTES`), and the .npy file, whose rows begin at byte
128, is spared that by chance.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featstore import ArrayKey, FeatureMatrix, PassKey, Split, Store, create_store, open_store
from featstore.chunks import aligned_empty

BATCH_ROWS = 1024


@dataclass(frozen=True)
class Row:
    """One line of the table: a method against its yardstick, and the least (or most) that will do."""

    name: str
    figure: float
    best: float
    bar: float
    speed: float  # MB/s; CPU seconds per GB for the writer's cost

    @property
    def passes(self) -> bool:
        if not self.bar:
            return True
        return self.figure <= self.bar if self.name.startswith("CPU") else self.figure >= self.bar


class Rows:
    """Samples without images: the store is given features and never looks at a picture."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def read(self, i: int) -> bytes:
        return i.to_bytes(8, "little")

    def describe(self, i: int) -> str:
        return f"row {i}"

    def stat(self, i: int) -> None:
        return None


def zeros(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Memory that has been touched, and begins with a line of the cache."""
    made = aligned_empty(math.prod(shape) * np.dtype(dtype).itemsize).view(dtype).reshape(shape)
    made[...] = 0
    return made


class Bench:
    """The same features in a store, and in one .npy file."""

    def __init__(self, folder: Path, n: int, d: int, dtype: str) -> None:
        self.folder, self.dtype = folder, dtype
        rng = np.random.default_rng(0)
        self.features = np.maximum(rng.standard_normal((n, d), np.float32), 0).astype(dtype)
        self.split = Split("rows", np.array([f"{i:07d}" for i in range(n)]), None, (), Rows(n))
        digest = self.split.digest()
        self.key = PassKey("bench", "0" * 32, "none", {}, digest.ids_digest, digest.content_digest, n)
        self.array = ArrayKey(self.key.digest, "penultimate", "mean", dtype, (d,))
        self.npy = folder / "features.npy"
        np.save(self.npy, self.features)
        self.store = self.write(folder / "kept", durable=False)
        self.out = zeros(self.features.shape, dtype)
        self.tenth = np.sort(rng.permutation(n)[: n // 10])
        self.few = np.sort(rng.permutation(n)[: min(256, n // 10)])
        self.taken = zeros((len(self.tenth), d), dtype)
        self.checked = self.fresh = self.matrix()
        self.checked.read_into(self.out)
        self.map = np.load(self.npy, mmap_mode="r")

    def matrix(self) -> FeatureMatrix:
        """Return the stored features as a process sees them that has not checked a chunk yet."""
        return open_store(self.store.root).features("penultimate", "rows")

    # ---- writing

    def write(self, root: Path, *, durable: bool) -> Store:
        store = create_store(root)
        with store.writing(self.key, self.split, {}, durable=durable) as session:
            session.begin([self.array], BATCH_ROWS)
            for block in session.missing_blocks():
                session.write(block, {self.array: self.features[block.start : block.stop]}, wait=False)
            session.drain()
            written = time.process_time()
            session.commit()
            self.commit_cpu = time.process_time() - written
        return store

    def store_write(self) -> None:
        self.write(self.folder / "store", durable=False)

    def store_write_durable(self) -> None:
        self.write(self.folder / "durable", durable=True)

    def memmap_write(self) -> None:
        out = np.lib.format.open_memmap(self.folder / "map.npy", "w+", self.dtype, self.features.shape)
        for start in range(0, len(self.features), BATCH_ROWS):
            out[start : start + BATCH_ROWS] = self.features[start : start + BATCH_ROWS]

    def save(self) -> None:
        np.save(self.folder / "saved.npy", self.features)

    def clean(self) -> None:
        for name in ("store", "durable"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in ("map.npy", "saved.npy"):
            (self.folder / name).unlink(missing_ok=True)

    # ---- reading

    def readinto(self) -> None:
        with self.npy.open("rb", buffering=0) as file:
            file.seek(os.path.getsize(self.npy) - self.out.nbytes)
            view, at = memoryview(self.out.reshape(-1).view(np.uint8)), 0
            while at < len(view):
                at += file.readinto(view[at:])

    def memmap_copy(self) -> None:
        self.out[:] = np.load(self.npy, mmap_mode="r")

    def zarr_read(self) -> None:
        from zarr.core.buffer import default_buffer_prototype

        array = self.checked.zarr
        buffer = default_buffer_prototype().nd_buffer.from_numpy_array(self.out)
        array.get_basic_selection(slice(None), out=buffer)

    def read_first(self) -> None:
        self.fresh.read_into(self.out)

    def read_again(self) -> None:
        self.checked.read_into(self.out)

    def memmap_fancy(self) -> None:
        np.take(self.map, self.tenth, axis=0, out=self.taken)

    def take_tenth(self) -> None:
        self.checked.take(self.tenth, self.taken)

    def memmap_few(self) -> None:
        self.taken[: len(self.few)] = self.map[self.few]

    def take_few(self) -> None:
        self.checked.take(self.few, self.taken[: len(self.few)])

    def memmap_blocks(self) -> None:
        mapped, ring = np.load(self.npy, mmap_mode="r"), self.out[:BATCH_ROWS]
        for start in range(0, len(mapped), len(ring)):
            block = mapped[start : start + len(ring)]
            ring[: len(block)] = block

    def blocks(self) -> None:
        for _where, _block in self.fresh.blocks(BATCH_ROWS):
            pass

    def blocks_again(self) -> None:
        for _where, _block in self.checked.blocks(BATCH_ROWS):
            pass


METHODS: dict[str, Callable[[Bench], None]] = {
    name: getattr(Bench, name)
    for name in (
        "memmap_write", "store_write", "store_write_durable", "save", "readinto", "memmap_copy", "zarr_read",
        "read_first", "read_again", "memmap_fancy", "take_tenth", "memmap_few", "take_few", "memmap_blocks",
        "blocks", "blocks_again",
    )
}  # fmt: skip

LINES: list[tuple[str, str, str, dict[str, float]]] = [
    ("streamed write / memmap streamed write", "store_write", "memmap_write", {"float32": 1.0, "float16": 0.5}),
    ("streamed write / np.save", "store_write", "save", {"float32": 0.25, "float16": 0.2}),
    ("streamed write, flushed to disk / np.save", "store_write_durable", "save", {}),
    ("zarr reading our chunks / readinto of .npy", "zarr_read", "readinto", {"float32": 0.4, "float16": 0.2}),
    ("read_into, checked / memmap copy", "read_first", "memmap_copy", {"float32": 0.8, "float16": 0.8}),
    ("read_into, checked before / readinto of .npy", "read_again", "readinto", {"float32": 0.9, "float16": 0.9}),
    ("take 10 % / memmap fancy", "take_tenth", "memmap_fancy", {"float32": 0.9, "float16": 0.9}),
    ("take 256 rows / memmap fancy", "take_few", "memmap_few", {"float32": 0.5, "float16": 0.5}),
    ("blocks, checked / memmap block copy", "blocks", "memmap_blocks", {"float32": 0.8, "float16": 0.8}),
    ("blocks, checked before / memmap block copy", "blocks_again", "memmap_blocks", {}),
]
CPU_BAR = 0.7


def measure(folder: Path, n: int, d: int, dtype: str, rounds: int) -> list[Row]:
    """Run all methods `rounds` times, interleaved, and return the table's lines for one dtype."""
    bench = Bench(folder, n, d, dtype)
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    cpu: list[float] = []
    whole_cpu: list[float] = []
    names = list(METHODS)
    for turn in range(rounds + 1):  # the first round warms up and is not counted
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            for _ in range(2):
                bench.clean()
                bench.fresh = bench.matrix()
                begun, cpu_begun = time.perf_counter(), time.process_time()
                METHODS[name](bench)
                took, used = time.perf_counter() - begun, time.process_time() - cpu_begun
            bench.clean()
            if turn:
                seconds[name].append(took)
                if name == "store_write":
                    whole_cpu.append(used / (bench.features.nbytes / 1e9))
                    cpu.append((used - bench.commit_cpu) / (bench.features.nbytes / 1e9))
    n_bytes = {"take_tenth": bench.taken.nbytes, "take_few": len(bench.few) * bench.array.row_bytes}
    rows = []
    for text, ours, yardstick, bars in LINES:
        ratio = statistics.median(b / a for a, b in zip(seconds[ours], seconds[yardstick], strict=True))
        speed = n_bytes.get(ours, bench.features.nbytes) / statistics.median(seconds[ours]) / 1e6
        best = min(seconds[yardstick]) / min(seconds[ours])
        rows.append(Row(f"{text}, {dtype}", ratio, best, bars.get(dtype, 0.0), speed))
    for name, spent, bar in (("written", cpu, CPU_BAR), ("written and read back by the commit", whole_cpu, 0.0)):
        typical = statistics.median(spent)
        rows.append(Row(f"CPU seconds per GB {name}, {dtype}", typical, min(spent), bar, typical))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 when every bar is met, 1 when one is not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--tiny", action="store_true", help="a few thousand rows, to see that it runs")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", nargs="+", default=["float32", "float16"])
    parser.add_argument("--folder", type=Path, help="where to write; else the system's folder for temporary files")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    n, d, rounds = (2_000, 64, 1) if given.tiny else (50_000, 2048, given.rounds)
    rows: list[Row] = []
    for dtype in given.dtype:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            rows += measure(Path(folder), n, d, dtype, rounds)
    if given.json:
        print(json.dumps([{**vars(row), "passes": row.passes} for row in rows], indent=1))
    else:
        print(f"{n} × {d}, {rounds} rounds, {os.cpu_count()} cores\n")
        print("| ratio of speeds | median | best | bar | verdict | MB/s (CPU: s/GB) |\n|---|---|---|---|---|---|")
        for row in rows:
            verdict = "pass" if row.passes else "falls short"
            bar = f"{'≤' if row.name.startswith('CPU') else '≥'} {row.bar:g}" if row.bar else "none"
            verdict = verdict if row.bar else ""
            print(f"| {row.name} | {row.figure:.2f} | {row.best:.2f} | {bar} | {verdict} | {row.speed:.4g} |")
    return 0 if given.tiny or all(row.passes for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
