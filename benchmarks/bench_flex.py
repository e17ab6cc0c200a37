"""Flex-tuning fed from stored inputs against flex-tuning from images: time per candidate and in all, storing included.

    python benchmarks/bench_flex.py flex_cifar resnet20 resnet20_fine --json flex.json

Both ways train the same candidates with the same recipe, seeds and validation evaluations, one after another in one
process; ``plain`` is ``feed="images"``, which decodes every image once, keeps it in memory and records no gradient below
the unit that is tuned. Times are processor seconds of the whole process (all threads), which other work on the machine
changes little, and seconds on the clock.

What can be gained is bounded. With f_ℓ the cost of unit ℓ forward, F their sum and S_ℓ = f_ℓ + … + f_L, a step of plain
candidate ℓ costs F + S_ℓ, a fed one 2 S_ℓ, and a step of ft-all, which cannot be fed, 3 F; an evaluation costs F against
S_ℓ. ``bound`` is the ratio that follows from counted operations for exactly the steps and evaluations that were done,
with reading and storing for nothing. The units near the image are the bulk of both sides.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import featstore
import finetune
from finetune.feeding import flops_of
from finetune.flex import Flex
from finetune.optimizers import Adam
from finetune.regimes import network_for
from finetune.schedules import Constant
from finetune.task import asked_for

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
NETWORKS: dict[str, dict[str, Any]] = {
    "flex_cifar": {"spec": "featstore:flex_cifar", "weights": None},
    "resnet20": {"spec": "featstore:cifar_resnet20", "weights": "cifar10_resnet20.safetensors"},
    "resnet20_fine": {"spec": "featstore:cifar_resnet20", "weights": "cifar10_resnet20.safetensors", "units": "fine"},
}


class Pictures:
    """Seeded colour noise with a class-dependent tint: what is timed does not depend on what is seen."""

    def __init__(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.labels = np.arange(n) % 9
        tint = np.stack([self.labels * 28, 255 - self.labels * 28, self.labels * 14], -1)[:, None, None, :]
        self.pixels = (rng.integers(0, 256, (n, 32, 32, 3)) // 2 + tint // 2).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, i: int) -> np.ndarray:
        """Pixels of one picture."""
        return np.asarray(self.pixels[i])

    def describe(self, i: int) -> str:
        """For errors."""
        return f"picture {i}"

    def stat(self, i: int) -> None:
        """It is in no file."""


def split(name: str, n: int, seed: int) -> featstore.Split:
    """So many pictures of 9 classes."""
    pictures = Pictures(n, seed)
    ids = np.array([f"{name}/{i:05d}" for i in range(n)])
    return featstore.Split(name, ids, pictures.labels, tuple("abcdefghi"), pictures)


def backbone_of(name: str) -> featstore.Backbone:
    """A network by its name here; the times of the first do not depend on its weights, which are random."""
    asked = dict(NETWORKS[name])
    weights = asked.pop("weights")
    return featstore.load_backbone(
        asked.pop("spec"), weights=None if weights is None else SHARED / "weights" / weights, **asked
    )


def timed(work: Any) -> tuple[Any, float, float]:
    """What some work gives, its processor seconds and its seconds."""
    began, cpu = time.perf_counter(), _cpu_s()
    found = work()
    return found, _cpu_s() - cpu, time.perf_counter() - began


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def bound(
    backbone: featstore.Backbone, flex: Flex, n_train: int, n_val: int, recipe: finetune.Recipe, *, has_all: bool
) -> float:
    """Plain over fed in counted operations; see the module."""
    splits = [split("a", 9, 0), split("b", 9, 1)]
    network = network_for(backbone, asked_for(*splits, recipe, head_rows=range(9)))
    units, flops = network.units, flops_of(network)
    flops[units[-1]] = 2.0 * 9 * np.prod(backbone.shapes["penultimate"])
    whole, plain, fed = sum(flops.values()), 0.0, 0.0
    for row in flex.table:
        history = finetune.open_run(flex.best.path / "candidates" / row.candidate).history
        steps, evaluations = (row.epochs or 0.0) * n_train, (len(history) + 1) * n_val
        if row.candidate == "all":
            same = has_all * (3 * whole * steps + whole * evaluations)
            plain, fed = plain + same, fed + same
        else:
            suffix = sum(flops[unit] for unit in units[units.index(row.candidate) :])
            plain += (whole + suffix) * steps + whole * evaluations
            fed += 2 * suffix * steps + suffix * evaluations
    return plain / fed


def measure(
    name: str,
    out: Path,
    *,
    n_train: int,
    n_val: int,
    epochs: int,
    batch_size: int,
    feed: str,
    units: str | Sequence[str] = "all",
) -> dict[str, Any]:
    """Both ways on one network."""
    backbone = backbone_of(name)
    splits = split("train", n_train, 0), split("val", n_val, 1)
    recipe = finetune.Recipe(
        lr=1e-4, epochs=epochs, batch_size=batch_size, optimizer=Adam(), schedule=Constant(), keep=finetune.KeepBest()
    )
    found: dict[str, Any] = {"network": name, "n_train": n_train, "n_val": n_val, "epochs": epochs, "batch": batch_size}
    made: dict[str, Flex] = {}
    for kind in ("images", feed):
        flex, cpu_s, clock_s = timed(
            lambda kind=kind: finetune.flex_tune(
                backbone,
                *splits,
                recipe=recipe,
                out=out / name / kind,
                feed=kind,
                head_rows=range(9),
                units=units,
                progress=False,
            )
        )
        made[kind] = flex
        found["plain" if kind == "images" else "fed"] = {"cpu_s": cpu_s, "clock_s": clock_s}
    plain, fed = made["images"], made[feed]
    found["candidates"] = [
        {"unit": a.candidate, "plain_s": a.seconds, "fed_s": b.seconds, "fed_from": b.fed_from, "same": a.val == b.val}
        for a, b in zip(plain.table, fed.table, strict=True)
    ]
    found["store"] = {"bytes": fed.cost.stored_bytes, "seconds": fed.cost.phases["inputs"].seconds, "kind": feed}
    units = [row for row in found["candidates"] if row["unit"] != "all"]
    found["ratio"] = {
        "cpu": found["plain"]["cpu_s"] / found["fed"]["cpu_s"],
        "clock": found["plain"]["clock_s"] / found["fed"]["clock_s"],
        "units_alone": sum(row["plain_s"] for row in units)
        / (sum(row["fed_s"] for row in units) + found["store"]["seconds"]),
        "bound": bound(backbone, plain, n_train, n_val, recipe, has_all=True),
        "bound_units_alone": bound(backbone, plain, n_train, n_val, recipe, has_all=False),
    }
    return found


def table(found: dict[str, Any]) -> str:
    """One network's measurement for people."""
    ratio, store = found["ratio"], found["store"]
    lines = [
        f"{found['network']}: {found['n_train']} train, {found['n_val']} val, {found['epochs']} epochs",
        f"  {'unit':12} {'plain s':>8} {'fed s':>8} {'ratio':>6}  fed from",
    ]
    lines += [
        f"  {row['unit']:12} {row['plain_s']:8.2f} {row['fed_s']:8.2f} {row['plain_s'] / row['fed_s']:6.2f}  "
        f"{row['fed_from'] or 'images'}{'' if row['same'] else '  (another val)'}"
        for row in found["candidates"]
    ]
    lines += [
        f"  store: {store['bytes'] / 1e6:.1f} MB, {store['seconds']:.2f} s, {store['kind']}",
        f"  in all {ratio['cpu']:.2f} x less processor time ({ratio['clock']:.2f} x by the clock); bound {ratio['bound']:.2f}",
        f"  single units, storing included: {ratio['units_alone']:.2f} x; bound {ratio['bound_units_alone']:.2f}",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the networks asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], help="default: all")
    parser.add_argument("--n-train", type=int, default=1024)
    parser.add_argument("--n-val", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--candidates", nargs="+", default="all", help="units; default: all")
    parser.add_argument("--feed", choices=("memory", "disk"), default="memory")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args(argv)
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks or list(NETWORKS):
            results.append(
                measure(
                    name, Path(folder), n_train=options.n_train, n_val=options.n_val, epochs=options.epochs,
                    batch_size=options.batch_size, feed=options.feed, units=options.candidates,
                )
            )  # fmt: skip
            print(table(results[-1]), flush=True)
    if options.json is not None:
        about = {"threads": torch.get_num_threads(), "torch": str(torch.__version__), "command": sys.argv[1:]}
        options.json.write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
