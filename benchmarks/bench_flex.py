"""Flex-tuning fed from stored inputs against flex-tuning from images: time per candidate and in all, storing included.

    python benchmarks/bench_flex.py flex_cifar resnet20 resnet20_fine --json flex.json
    python benchmarks/bench_flex.py flex_cifar --methods fast faster

Three ways train the same candidates with the same recipe, seeds and validation evaluations, one after another in one
process. ``fed`` is what `flex_tune` does. ``plain`` is ``feed="images"``: the whole network forward in every step, images
decoded once and kept in memory, and no gradient below the unit that is tuned or of frozen weights. ``peer`` is the loop of
the public code for surgical fine-tuning (Lee et al. 2022): the optimiser is given the unit's parameters, and everything
else is as in training the whole network, so that gradients of all weights are computed; evaluations are as here. Times are
processor seconds of the whole process (all threads), which other work on the machine changes little, and seconds on the
clock. The validation scores of the three are compared.

What can be gained is bounded
-----------------------------
With f_ℓ the operations of unit ℓ forward, F their sum and S_ℓ = f_ℓ + … + f_L, an image costs

    ==============  ===========  ==========  ====
    candidate ℓ     plain        fed         peer
    ==============  ===========  ==========  ====
    a step          F + S_ℓ      2 S_ℓ       3 F
    an evaluation   F            S_ℓ         F
    ft-all, a step  3 F          3 F         3 F
    ==============  ===========  ==========  ====

The loss of a step depends on all units from ℓ on, so its gradient cannot be had for less than S_ℓ forward and S_ℓ backward;
after the first step no two candidates have an activation in common; and ft-all enters at the image. The 7-unit network
has f = 0.9, 18.9, 18.9, 18.9, 18.9, 2.1, 0.0 million products, so the S_ℓ add up to 3.54 F: steps of all candidates with
ft-all are 13.5 F against 10.1 F, evaluations 8 F against 4.5 F. **At best 1.34 and 1.76 of plain, 2.38 and 1.76 of the
peer's loop**; 2.5 of plain would need 5.4 F for the steps, and ft-all with the first two units alone take 7.0 F. In ResNet-20
each stage has a third of the operations.

``bound`` is the ratio that follows from these counts for exactly the steps and evaluations that were done, with reading and
storing for nothing. Measured ratios may lie above it: it counts convolutions and matrices only. Activations, poolings and
batch norm are dearest near the image, where fed candidates need not go, and batch norm of frozen units is merged into the
convolutions of fed ones (`finetune.folding`).

Measured, 256 + 256 images, 2 epochs, once, on one thread, beside other work on the two cores, so that single rows err by a
third and more (processor time of all rows is the steadier):

    ======================  ===========  =======  ===========  =======  ==================
    network                 plain / fed  counted  peer / fed   counted  stored
    ======================  ===========  =======  ===========  =======  ==================
    7 units                 1.35         1.51     2.05         2.13     65.0 MB, 4.1 s
    ResNet-20, coarse       1.40         1.35     1.71         1.82     50.5 MB, 1.8 s
    ResNet-20, fine         1.44         1.50     2.15         2.14     167.9 MB, 2.9 s
    ======================  ===========  =======  ===========  =======  ==================

Before maps had their channels last, from which all three gain, they were 1.52, 1.17, 1.63 and 1.78, 1.64, 2.11. By candidate,
plain / fed (counted): conv1 1.0 (1.0), conv2 0.8 (1.0), conv3 0.9 (1.2), conv4 1.2 (1.7), conv5 1.4 (3.0), penultimate 3.7 (27:
what its optimiser does to two million weights is not counted), head 34; layer2 of ResNet-20 1.7 (1.4), layer3 3.3 (2.5), head
110. Whole methods were measured before: fast 1.40 and faster 1.36 on the 7 units, 1.06 and 1.05 on ResNet-20, 1.04 and 1.28 on
its fine units. The validation scores of all three ways were equal, candidate by candidate. The target of 2.5 is met by no
network here against plain; without ft-all the peer's loop takes 2.5 to 2.9 times as long.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import featstore
import finetune
from finetune.candidates import candidates_of
from finetune.examples import batch_rows, logits_of
from finetune.feeding import flops_of
from finetune.flex import Flex
from finetune.optimizers import Adam
from finetune.regimes import network_for
from finetune.schedules import Constant
from finetune.task import asked_for
from finetune.trainable import trainable

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


def operations(
    backbone: featstore.Backbone, runs: Mapping[str, finetune.Run], n_train: int, n_val: int
) -> dict[str, dict[str, float]]:
    """Counted operations of each candidate by each way, for the steps and evaluations that were done; see the module."""
    network = network_for(backbone, asked_for(split("a", 9, 0), split("b", 9, 1), recipe_of(1, 32), head_rows=range(9)))
    units, flops = network.units, flops_of(network)
    flops[units[-1]] = 2.0 * 9 * np.prod(backbone.shapes["penultimate"])
    whole, found = sum(flops.values()), {}
    for name, run in runs.items():
        steps, evaluations = run.history[-1].epoch * n_train, (len(run.history) + 1) * n_val
        suffix = 1.5 * whole if name == "all" else sum(flops[unit] for unit in units[units.index(name) :])
        seen = whole if name == "all" else suffix
        plain = 3 * whole if name == "all" else whole + suffix
        found[name] = {
            "plain": plain * steps + whole * evaluations,
            "fed": 2 * suffix * steps + seen * evaluations,
            "peer": 3 * whole * steps + whole * evaluations,
        }
    return found


def candidate_names(backbone: featstore.Backbone, units: str | Sequence[str]) -> tuple[str, ...]:
    """Those of flex-tuning, ft-all last."""
    network = network_for(backbone, asked_for(split("a", 9, 0), split("b", 9, 1), recipe_of(1, 32), head_rows=range(9)))
    return tuple(candidate.name for candidate in candidates_of(network, units, ()))


def recipe_of(epochs: int, batch_size: int) -> finetune.Recipe:
    """Of every candidate."""
    return finetune.Recipe(
        lr=1e-4, epochs=epochs, batch_size=batch_size, optimizer=Adam(), schedule=Constant(), keep=finetune.KeepBest()
    )


def peer(
    backbone: featstore.Backbone, splits: Sequence[featstore.Split], recipe: finetune.Recipe, names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Best validation accuracy and seconds of each candidate, trained by the loop that peers have."""
    import torch

    asked, found = asked_for(*splits, recipe, head_rows=range(9)), {}
    load = asked.images(backbone)
    images, val, labels = load("train"), load("val"), torch.from_numpy(splits[0].labels)
    for name in names:
        began, network = time.perf_counter(), network_for(backbone, asked)
        parts = network.parts(network.units if name == "all" else (name,))
        module, scores = network.module, []
        with torch.random.fork_rng(), trainable(module, parts) as moving:
            torch.manual_seed(recipe.seed)
            module.requires_grad_(True)
            optimizer = torch.optim.Adam(moving.parameters.values(), lr=recipe.lr)
            for step in range(recipe.n_steps(len(labels))):
                rows = batch_rows(len(labels), recipe.batch_size, seed=recipe.seed, step=step)
                loss = torch.nn.functional.cross_entropy(module(images.inputs(rows, 0)), labels[torch.from_numpy(rows)])
                module.zero_grad()
                loss.backward()
                optimizer.step()
                if (step + 1) % recipe.steps_per_epoch(len(labels)) == 0:
                    with moving.evaluating():
                        said = logits_of(module, val, device="cpu").argmax(1)
                    scores.append(float((said == val.labels).mean()))
            with moving.evaluating():
                logits_of(module, val, device="cpu")  # the predictions that a run keeps
        found[name] = max(scores), time.perf_counter() - began
    return found


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
    method: str = "flex",
    repeats: int = 1,
) -> dict[str, Any]:
    """All ways on one network, one after another and that ``repeats`` times; the shortest times. The peer's loop for
    ``"flex"`` only."""
    backbone = backbone_of(name)
    splits, recipe = (split("train", n_train, 0), split("val", n_val, 1)), recipe_of(epochs, batch_size)
    found: dict[str, Any] = {"network": name, "n_train": n_train, "n_val": n_val, "epochs": epochs, "batch": batch_size}
    found["method"] = method
    ways: dict[str, Callable[[Path], Any]] = {
        way: functools.partial(
            _flex,
            backbone,
            splits,
            recipe=recipe,
            feed="images" if way == "plain" else feed,
            units=units,
            method=method,
        )
        for way in ("plain", "fed")
    }
    names = candidate_names(backbone, units)
    if method == "flex":
        ways["peer"] = lambda folder: peer(backbone, splits, recipe, names)
    made: dict[str, list[Any]] = {way: [] for way in ways}
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for again, (way, work) in itertools.product(range(repeats), ways.items()):
        result, *seconds = timed(lambda work=work, path=out / name / method / f"{way}-{again}": work(path))
        made[way].append(result)
        spent[way].append((seconds[0], seconds[1]))
    for way, seen in spent.items():
        found[way] = {"cpu_s": min(cpu_s for cpu_s, _ in seen), "clock_s": min(clock_s for _, clock_s in seen)}
    found["store"] = {
        "bytes": made["fed"][0].cost.stored_bytes,
        "seconds": min(flex.cost.phases["inputs"].seconds for flex in made["fed"]),
        "kind": feed,
    }
    found["ratio"] = {f"plain_{key}": found["plain"][f"{key}_s"] / found["fed"][f"{key}_s"] for key in ("cpu", "clock")}
    if method == "flex":
        plain = made["plain"][0]
        runs = {row: finetune.open_run(plain.best.path / "candidates" / row) for row in names}
        found |= _by_candidate(found, made, operations(backbone, runs, n_train, n_val))
    return found


def _flex(backbone: featstore.Backbone, splits: Sequence[featstore.Split], path: Path, **options: Any) -> Flex:
    return finetune.flex_tune(backbone, *splits, out=path, head_rows=range(9), progress=False, **options)


def _by_candidate(
    found: Mapping[str, Any], made: Mapping[str, Sequence[Any]], counted: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """What is told of each candidate, and the ratios over all and over single units, as measured and as counted."""
    rows = []
    for i, name in enumerate(counted):
        plain, fed = ([flex.table[i] for flex in made[way]] for way in ("plain", "fed"))
        loop = [one[name] for one in made["peer"]]
        val = [plain[0].val, fed[0].val, loop[0][0]]
        row = {"unit": name, "fed_from": fed[0].fed_from, "val": val, "same": len(set(val)) == 1}
        row |= {"plain_s": min(one.seconds for one in plain), "fed_s": min(one.seconds for one in fed)}
        row |= {"peer_s": min(seconds for _, seconds in loop), "bound": counted[name]["plain"] / counted[name]["fed"]}
        rows.append(row)
    ratio = dict(found["ratio"])
    for against in ("plain", "peer"):
        of = {way: {n: one[way] for n, one in counted.items()} for way in (against, "fed")}
        alone = [{n: v for n, v in one.items() if n != "all"} for one in of.values()]
        ratio[f"bound_{against}"] = sum(of[against].values()) / sum(of["fed"].values())
        ratio[f"bound_{against}_units_alone"] = sum(alone[0].values()) / sum(alone[1].values())
        ratio[f"{against}_cpu"] = found[against]["cpu_s"] / found["fed"]["cpu_s"]
        ratio[f"{against}_clock"] = found[against]["clock_s"] / found["fed"]["clock_s"]
        spent = sum(row["fed_s"] for row in rows if row["unit"] != "all") + found["store"]["seconds"]
        ratio[f"{against}_units_alone"] = sum(r[f"{against}_s"] for r in rows if r["unit"] != "all") / spent
    return {"candidates": rows, "ratio": ratio}


def table(found: dict[str, Any]) -> str:
    """One network's measurement for people."""
    ratio, store = found["ratio"], found["store"]
    data = f"{found['n_train']} train, {found['n_val']} val, {found['epochs']} epochs of batches of {found['batch']}"
    lines = [f"{found['network']}, {found['method']}: {data}"]
    if "candidates" in found:
        lines.append(f"  {'unit':12} {'peer s':>8} {'plain s':>8} {'fed s':>8} {'peer/fed':>9} {'plain/fed':>9} "
                     f"{'counted':>8}  fed from")  # fmt: skip
    for row in found.get("candidates", ()):
        others = "" if row["same"] else f"  (val {', '.join(f'{value:.4f}' for value in row['val'])})"
        lines.append(
            f"  {row['unit']:12} {row['peer_s']:8.2f} {row['plain_s']:8.2f} {row['fed_s']:8.2f} "
            f"{row['peer_s'] / row['fed_s']:9.2f} {row['plain_s'] / row['fed_s']:9.2f} {row['bound']:8.2f}  "
            f"{row['fed_from'] or 'images'}{others}"
        )
    lines.append(f"  store: {store['bytes'] / 1e6:.1f} MB, {store['seconds']:.2f} s, {store['kind']}")
    if "candidates" not in found:
        lines.append(
            f"  plain / fed: {ratio['plain_cpu']:.2f} in processor time, {ratio['plain_clock']:.2f} by the clock"
        )
    for against in ("plain", "peer") if "candidates" in found else ():
        lines.append(
            f"  {against} / fed: {ratio[f'{against}_cpu']:.2f} in processor time, {ratio[f'{against}_clock']:.2f} by the clock, "
            f"counted {ratio[f'bound_{against}']:.2f}; without ft-all {ratio[f'{against}_units_alone']:.2f}, "
            f"counted {ratio[f'bound_{against}_units_alone']:.2f}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the networks asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], help="default: all")
    parser.add_argument("--n-train", type=int, default=512)
    parser.add_argument("--n-val", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--candidates", nargs="+", default="all", help="units; default: all")
    parser.add_argument("--methods", nargs="+", choices=("flex", "fast", "faster"), default=["flex"])
    parser.add_argument("--feed", choices=("memory", "disk"), default="memory")
    parser.add_argument("--repeats", type=int, default=1, help="of everything; the shortest times count")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args(argv)
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name, method in itertools.product(options.networks or list(NETWORKS), options.methods):
            results.append(
                measure(
                    name, Path(folder), n_train=options.n_train, n_val=options.n_val, epochs=options.epochs,
                    batch_size=options.batch_size, feed=options.feed, units=options.candidates, method=method,
                    repeats=options.repeats,
                )
            )  # fmt: skip
            print(table(results[-1]), flush=True)
    if options.json is not None:
        about = {"threads": torch.get_num_threads(), "torch": str(torch.__version__), "command": sys.argv[1:]}
        options.json.write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
