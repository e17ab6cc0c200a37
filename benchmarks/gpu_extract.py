"""Extraction on a GPU: is the forward pass the limit, and how near is it to what the device can do?

    python benchmarks/gpu_extract.py --out runs/gpu_extract              JPEG images made for the purpose, random weights
    python benchmarks/gpu_extract.py --images photos:train --out …       your own: any split that load_split knows
    python benchmarks/gpu_extract.py --quick                             a few images on the CPU: tests that the script runs

Without a CUDA device the table says "not measured", and why. One row per network, precision and way of running:

pixels ready    the network alone: the same batches, already on the device, nothing pooled, nothing kept. The yardstick
threads         `featstore.extract` of all units, images decoded by threads
processes       by processes
nvjpeg          on the device
compile         by threads, the network compiled; the seconds include compiling it, the second time from torch's cache

A row has images per second, their share of the yardstick's (bar: 0.90 for at least one way of running, else the host is the
limit), the stage that was busy longest, and the share of the device's peak FLOP/s; the JSON has the seconds of all stages. Every
way is run once before it is measured; what is measured is one extraction into an empty store, from the first image to the last
file.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_extract import make_images

import featstore
from featstore import Backbone, Engine, FeatstoreError, Report, Split
from featstore.devices import arithmetic, on_device
from featstore.engine import channels_last

BAR = 0.90
MODELS = ("timm:resnet50", "timm:vit_base_patch16_224", "torchvision:squeezenet1_1")
PRECISIONS = ("fp32", "tf32", "amp-bf16")
WAYS: dict[str, tuple[str, Engine]] = {
    "threads": ("pil", Engine(roofline=True)),
    "processes": ("pil", Engine(roofline=True, processes=True)),
    "nvjpeg": ("nvjpeg", Engine(roofline=True)),
    "compile": ("pil", Engine(roofline=True, compile=True)),
}


@dataclass(frozen=True)
class Row:
    """One network, run in one way."""

    model: str
    precision: str
    way: str
    images_per_second: float | None
    share: float | None = None
    report: dict[str, Any] | None = None
    why: str = ""

    def __str__(self) -> str:
        name = f"| {self.model} | {self.precision} | {self.way} |"
        if self.images_per_second is None:
            return f"{name} not measured: {self.why} |  |  |  |"
        share = "" if self.share is None else f"{self.share:.2f}"
        if self.report is None:
            return f"{name} {self.images_per_second:,.0f} | {share} |  |  |"
        peak = self.report["share_of_peak"]
        return (
            f"{name} {self.images_per_second:,.0f} | {share} | {self.report['bottleneck']} | "
            f"{'' if peak is None else f'{100 * peak:.0f} %'} |"
        )


def network_alone(backbone: Backbone, precision: str, n: int, batch_size: int, device: torch.device) -> float:
    """Images per second of the network on pixels that are on the device already, in the memory order that `extract` takes."""
    size, channels = backbone.preprocessing.input_size, backbone.preprocessing.n_channels
    pixels = torch.randint(0, 256, (batch_size, *size, channels), dtype=torch.uint8, device=device)
    last = backbone.prefers_channels_last(device, precision)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    with (
        torch.no_grad(),
        on_device(backbone.chain, device),
        channels_last(backbone.chain, last),
        arithmetic(precision, device),
    ):
        for _ in range(3):
            backbone.module(backbone.preprocessing.normalize(pixels, channels_last=last))
        wait()
        begun = time.perf_counter()
        for _ in range(-(-n // batch_size)):
            backbone.module(backbone.preprocessing.normalize(pixels, channels_last=last))
        wait()
        return -(-n // batch_size) * batch_size / (time.perf_counter() - begun)


def extraction(
    backbone: Backbone, split: Split, precision: str, batch_size: int, way: str, device: torch.device
) -> Report:
    """What an extraction of all units into an empty store took."""
    decoder, engine = WAYS[way]
    reports: list[Report] = []
    with tempfile.TemporaryDirectory() as root:
        featstore.extract(
            backbone.decoded_by(decoder), split, root, precision=precision, batch_size=batch_size, device=device, engine=engine,
            progress=False, report=reports.append,
        )  # fmt: skip
    return reports[0]


def rows_of(model: str, split: Split, asked: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """All rows of a network, one after the other."""
    backbone = featstore.load_backbone(model, weights=None)
    few = split.subset(np.arange(min(2 * asked.batch_size, len(split))), "few")
    for precision in asked.precisions:
        alone = network_alone(backbone, precision, len(split), asked.batch_size, device)
        yield Row(model, precision, "pixels ready", alone, 1.0)
        for way in asked.ways:
            try:
                extraction(backbone, few, precision, asked.batch_size, way, device)
                took = extraction(backbone, split, precision, asked.batch_size, way, device)
            except Exception as error:  # one way that fails must not take the others' figures with it
                said = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
                name = "" if isinstance(error, FeatstoreError) else f"{type(error).__name__}: "
                yield Row(model, precision, way, None, why=name + said)
                continue
            rate = took.images_per_second
            yield Row(model, precision, way, rate, rate / alone, took.to_json())


def verdicts(rows: Sequence[Row]) -> list[str]:
    """Whether the network is the limit, per network and precision."""
    said = []
    for model, precision in dict.fromkeys((row.model, row.precision) for row in rows):
        of = [row for row in rows if (row.model, row.precision) == (model, precision) and row.way != "pixels ready"]
        best = max((row for row in of if row.share is not None), key=lambda row: row.share or 0, default=None)
        if best is not None and best.share is not None:
            word = "pass" if best.share >= BAR else "FALLS SHORT"
            said.append(
                f"{model}, {precision}: {best.share:.2f} of the network alone by {best.way}, bar {BAR:.2f}: {word}"
            )
    return said


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and keep what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="name of a split")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS))
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS))
    parser.add_argument("--n", type=int, default=20_000, help="images")
    parser.add_argument("--distinct", type=int, default=2_000, help="images made; they are repeated up to n")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--out", type=Path, help="folder for gpu_extract.json")
    parser.add_argument("--quick", action="store_true", help="a few images on the CPU; the figures mean nothing")
    asked = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() and not asked.quick else "cpu")
    if asked.quick:
        asked.n, asked.distinct, asked.batch_size = 6, 6, 4
        asked.models, asked.precisions, asked.ways = [MODELS[-1]], ["fp32"], ["threads", "nvjpeg"]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no CUDA device"
    print(f"{name}, torch {torch.__version__}\n\n| network | precision | way | images/s | share | longest | of peak |")
    print("|---|---|---|---|---|---|---|")
    rows: list[Row] = []

    def show(row: Row) -> None:
        print(row, flush=True)
        rows.append(row)
        keep(asked.out, {"device": name, "torch": torch.__version__, "n": asked.n}, rows)

    if device.type == "cpu" and not asked.quick:
        for m in asked.models:
            for p in asked.precisions:
                for w in ("pixels ready", *asked.ways):
                    show(Row(m, p, w, None, why="no CUDA device"))
    else:
        with tempfile.TemporaryDirectory() as folder:
            split = featstore.load_split(asked.images or make_images(Path(folder), asked.distinct))
            for model in asked.models:
                for row in rows_of(model, repeated(split, asked.n), asked, device):
                    show(row)
    print("\n" + "\n".join(verdicts(rows)))
    return 0


def keep(out: Path | None, known: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write what is measured so far, whole or not at all: a machine may be taken away in the middle."""
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    aside = out / "gpu_extract.json.partial"
    aside.write_text(json.dumps({**known, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    aside.replace(out / "gpu_extract.json")


class RepeatedSamples:
    """Samples of n images, of which there are fewer."""

    def __init__(self, samples: Any, n: int) -> None:
        self.samples, self.n = samples, n

    def __len__(self) -> int:
        return self.n

    def read(self, i: int) -> Any:
        return self.samples.read(i % len(self.samples))

    def describe(self, i: int) -> str:
        return f"{self.samples.describe(i % len(self.samples))}, again {i}"

    def stat(self, i: int) -> None:
        return None


def repeated(split: Split, n: int) -> Split:
    """The first n images of a split, which begins again where it ends."""
    ids = np.array([f"{i:07d}" for i in range(n)])
    return Split("images", ids, None, (), RepeatedSamples(split.samples, n))


if __name__ == "__main__":
    sys.exit(main())
