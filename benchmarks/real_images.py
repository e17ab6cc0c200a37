"""Pretrained networks on real images: every unit extracted once, probed along the 45 penalties, printed and drawn.

    python benchmarks/real_images.py cifar10-resnet20
    python benchmarks/real_images.py pacs-sketch-mobilenetv1_025 --shared ../shared --out runs/real
    python benchmarks/real_images.py --all

The data and weights are those of the shared folder beside the checkout (``--shared``): CIFAR-10 (a lossy JPEG copy), PACS,
MNIST, and
the networks of its ``weights``. One line per study, in JSON, is added to ``<out>/figures.jsonl``; the figures of
``benchmarks/README.md`` come from there. A second run extracts and fits nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import featstore
import probe
from featstore import Backbone, Split


@dataclass(frozen=True)
class Study:
    """One network and one data set.

    Attributes
    ----------
    network : str
        Model name, without its weights.
    weights : str
        File in ``weights/``.
    splits : callable
        Shared folder → (all images to extract, train, val, test); train, val and test are subsets of the first.
    own_classes : bool
        Whether the network's own classifier answers the same question.
    """

    network: str
    weights: str
    splits: Callable[[Path], tuple[list[Split], Split, Split, Split]]
    own_classes: bool


def npz(shared: Path, name: str) -> Split:
    """One file of arrays, called by what it is rather than by where it lies."""
    return replace(featstore.load_split(f"npz:{shared}/data/{name}.npz"), name=name)


def cifar10(shared: Path) -> tuple[list[Split], Split, Split, Split]:
    """10,000 training images, 5,000 to choose C, and all 10,000 test images, classes in equal numbers."""
    chosen = npz(shared, "cifar10/train").per_class(1500, seed=0)
    train, val = chosen.holdout(1 / 3, seed=0)
    test = npz(shared, "cifar10/test")
    return [chosen, test], train, val, test


def mnist(shared: Path) -> tuple[list[Split], Split, Split, Split]:
    """10,000 training images, 5,000 to choose C, and all 10,000 test images."""
    chosen = npz(shared, "mnist/train").per_class(1500, seed=0)
    train, val = chosen.holdout(1 / 3, seed=0)
    test = npz(shared, "mnist/test")
    return [chosen, test], train, val, test


def pacs(domain: str) -> Callable[[Path], tuple[list[Split], Split, Split, Split]]:
    """One domain: its split file says which images are test; a quarter of the others chooses C."""

    def splits(shared: Path) -> tuple[list[Split], Split, Split, Split]:
        every = replace(featstore.load_split(f"imagefolder:{shared}/data/pacs/{domain}.zip"), name=domain)
        with (shared / "data" / "pacs" / "split.csv").open(newline="") as file:
            part = {row["file"]: row["split"] for row in csv.DictReader(file) if row["domain"] == domain}
        is_test = np.array([part[str(i)] == "test" for i in every.ids])
        train, val = every.subset(np.flatnonzero(~is_test), f"{domain}/train").holdout(0.25, seed=0)
        return [every], train, val, every.subset(np.flatnonzero(is_test), f"{domain}/test")

    return splits


STUDIES = {
    "cifar10-resnet20": Study("featstore:cifar_resnet20", "cifar10_resnet20.safetensors", cifar10, True),
    "cifar10-resnet56": Study("featstore:cifar_resnet56", "cifar10_resnet56.safetensors", cifar10, True),
    "mnist-lenet": Study("featstore:lenet", "mnist_lenet.safetensors", mnist, True),
    **{
        f"pacs-{domain}-{name}": Study(network, weights, pacs(domain), False)
        for domain in ("art_painting", "cartoon", "sketch")
        for name, network, weights in (
            ("mobilenetv1_025", "benchmarks.networks:mobilenetv1_025", "mobilenetv1_025_128.safetensors"),
            ("squeezenet1_1", "torchvision:squeezenet1_1", "squeezenet1_1.safetensors"),
        )
    },
}


def run(name: str, shared: Path, out: Path, granularity: str = "fine") -> dict[str, object]:
    """Carry out one study and return its figures."""
    study = STUDIES[name]
    started = time.perf_counter()
    backbone = featstore.load_backbone(
        study.network, weights=str(shared / "weights" / study.weights), units=granularity
    )
    extracted, train, val, test = study.splits(shared)
    units = backbone.units if study.own_classes else backbone.units[:-1]
    store = featstore.extract(backbone, extracted, out / "features", units=units, dtype="float32", batch_size=128)
    extraction = time.perf_counter() - started
    started = time.perf_counter()
    results = probe.sweep(
        store, train=train, val=val, test=test, out=out / "results" / name, backbone=backbone.name
    )  # fmt: skip
    fitting = time.perf_counter() - started
    print(results.text())
    figure = draw(
        name, results, out / f"{name}.png", own_accuracy(store, backbone, test) if study.own_classes else None
    )
    best = results.best()
    return {
        "study": name,
        "n_train": best.n_train,
        "n_val": best.n_val,
        "n_test": best.n_test,
        "unit": best.unit,
        "C": best.C,
        "test": best.test_score,
        "interval": best.test_interval,
        "penultimate": next(r.test_score for r in results if r.unit == "penultimate"),
        "network_itself": own_accuracy(store, backbone, test) if study.own_classes else None,
        "units": {r.unit: r.test_score for r in results},
        "converged": {r.unit: r.statuses for r in results},
        "extract_s": round(extraction, 1),
        "probe_s": round(fitting, 1),
        "figure": figure.name,
    }


def own_accuracy(store: featstore.Store, backbone: Backbone, test: Split) -> float:
    """Accuracy of the network's own classifier, from its stored logits."""
    head = store.features("head", test, backbone=backbone.name)
    assert head.labels is not None
    return float((head.numpy().argmax(1) == head.labels).mean())


def draw(name: str, results: probe.Results, path: Path, own: float | None) -> Path:
    """Accuracy against depth, with the network itself as a line."""
    references = None if own is None else {name: own}
    ax = probe.plots.accuracy_by_depth(results.table().assign(study=name), by="study", references=references)
    ax.set_title(name)
    probe.plots.save(ax, path)
    return path


def main() -> int:
    """Run the studies named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=", ".join(STUDIES))
    parser.add_argument("--all", action="store_true", help="every study")
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[2] / "shared")
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    parser.add_argument("--units", choices=("coarse", "fine"), default="coarse")
    options = parser.parse_args()
    chosen = list(STUDIES) if options.all else options.studies
    unknown = [name for name in chosen if name not in STUDIES]
    if unknown or not chosen:
        parser.error(
            f"unknown studies {unknown}; known are {', '.join(STUDIES)}" if unknown else "name a study, or --all"
        )
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks.networks
    options.out.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        figures = run(name, options.shared, options.out, options.units)
        with (options.out / "figures.jsonl").open("a") as file:
            file.write(json.dumps(figures) + "\n")
        print(json.dumps({k: v for k, v in figures.items() if k not in {"units", "converged"}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
