"""What the studies of the papers share where they run small: the pretrained networks and the images of the shared folder.

Four networks of ImageNet, two of CIFAR-10 and one of MNIST; seven sets of images, subsampled so that a study takes minutes on two
cores. A correlation with the source accuracy is computed over the networks of ImageNet alone: only they have been tested on the
same source.
"""

from __future__ import annotations

import argparse
import csv
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import featstore
import probe
from featstore import Split

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).parent
IMAGENET = {
    "squeezenet1_1": ("torchvision:squeezenet1_1", "squeezenet1_1", 0.58178),
    "mobilenetv1_025": ("benchmarks.networks:mobilenetv1_025", "mobilenetv1_025_128", 0.395),
    "mobilenetv1_050": ("benchmarks.networks:mobilenetv1_050", "mobilenetv1_050_160", 0.577),
    "mobilenetv2_100": ("benchmarks.networks:mobilenetv2_keras", "mobilenetv2_100_keras", 0.713),
}
"""Name to model, weights, and published top-1 on ImageNet."""

OTHERS = {
    "cifar_resnet20": ("featstore:cifar_resnet20", "cifar10_resnet20"),
    "cifar_resnet56": ("featstore:cifar_resnet56", "cifar10_resnet56"),
    "lenet": ("featstore:lenet", "mnist_lenet"),
}
"""Pretrained for something else: in the tables, but in no correlation."""

TRAIN_EACH, TEST_EACH = 25, 20  # images per class


@dataclass(frozen=True)
class Zipped:
    """Images of a zip, as `featstore.Samples`."""

    path: Path
    members: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.members)

    def read(self, i: int) -> bytes:
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(self.members[i])

    def describe(self, i: int) -> str:
        return f"{self.path.name}/{self.members[i]}"

    def stat(self, i: int) -> None:
        return None


def networks(shared: Path) -> tuple[probe.Network, ...]:
    """Every pretrained network of the shared folder."""
    weights = shared / "weights"
    found = [probe.Network(n, f"{m}@{weights / file}.safetensors", source) for n, (m, file, source) in IMAGENET.items()]
    for name, (model, file) in OTHERS.items():
        # trained on images of one size, so that their own preprocessing has no resize: photographs are made as small
        found.append(probe.Network(name, f"{model}@{weights / file}.safetensors", options={"whole_image": True}))
    return tuple(found)


def datasets(shared: Path) -> tuple[probe.Dataset, ...]:
    """Every set of images of the shared folder, subsampled; a fifth of train chooses."""
    data = shared / "data"
    whole = _npz(data / "cifar10_lossless4000/train4000.npz", "cifar10_lossless")
    rest, held = whole.holdout(0.5, seed=0)
    found = [
        _pair(
            "cifar10",
            _npz(data / "cifar10/train.npz", "cifar10/train"),
            _npz(data / "cifar10/test.npz", "cifar10/test"),
        ),
        _pair("cifar10_lossless", rest, held),
        _pair("mnist", _npz(data / "mnist/train.npz", "mnist/train"), _npz(data / "mnist/test.npz", "mnist/test")),
    ]
    found += [_pair(domain, *_pacs(data / "pacs", domain)) for domain in ("art_painting", "cartoon", "sketch")]
    return (*found, _platelets(data / "bccd"))


def _npz(path: Path, name: str) -> Split:
    return replace(featstore.load_split(f"npz:{path}"), name=name)


def _pair(name: str, train: Split, test: Split) -> probe.Dataset:
    train, test = _few(train, TRAIN_EACH), _few(test, TEST_EACH)
    n_classes = len(np.unique(train.labels)) if train.labels is not None else None
    return probe.Dataset(name, train, test, n_train=len(train), n_val=0, n_test=len(test), n_classes=n_classes)


def _few(split: Split, each: int) -> Split:
    """At most so many images of each class, by the hash of their ids."""
    labels = split.labels
    assert labels is not None
    rows = []
    for label in np.unique(labels):
        members = split.subset(np.flatnonzero(labels == label), split.name)
        rows += split.rows(members.per_class(min(each, len(members)), seed=0).ids).tolist()
    return split.subset(sorted(rows), f"{split.name}#{each}")


def _pacs(folder: Path, domain: str) -> tuple[Split, Split]:
    every = replace(featstore.load_split(f"imagefolder:{folder / domain}.zip"), name=domain)
    with (folder / "split.csv").open(newline="") as file:
        part = {row["file"]: row["split"] for row in csv.DictReader(file) if row["domain"] == domain}
    is_test = np.array([part[str(i)] == "test" for i in every.ids])
    return every.subset(~is_test, f"{domain}/train"), every.subset(is_test, f"{domain}/test")


def _platelets(folder: Path) -> probe.Dataset:
    """Blood smears with platelets or without; all images of the folder, its val among train."""
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    parts = {}
    for part, names in (("train", ("train", "val")), ("test", ("test",))):
        chosen = [row for row in rows if row["split"] in names]
        ids = np.array([row["file"] for row in chosen])
        labels = np.array([int(row["n_Platelets"]) > 0 for row in chosen], dtype=np.int64)
        samples = Zipped(folder / "images.zip", tuple(map(str, ids)))
        parts[part] = Split(f"bccd/{part}", ids, labels, ("none", "platelets"), samples)
    return probe.Dataset(
        "bccd_platelets", parts["train"], parts["test"], metric="mean_per_class",
        n_train=len(parts["train"]), n_val=0, n_test=len(parts["test"]), n_classes=2,
    )  # fmt: skip


def tiny(regimes: Sequence[probe.Regime]) -> probe.Study:
    """Three versions of the digits network on two shifts of the digits: seconds, and no file beside the package."""
    spec = "featstore:digits_net"
    made = tuple(
        probe.Network(name, spec, source, options=options)
        for name, source, options in (
            ("digits_net", 0.97, {}),
            ("random_0", 0.2, {"weights": None, "seed": 0}),
            ("random_1", 0.1, {"weights": None, "seed": 1}),
        )
    )
    data = tuple(
        probe.Dataset(name, f"digits:train{shift}", f"digits:test{shift}", f"digits:val{shift}")
        for name, shift in (("blurred", "+blur(1.0)"), ("rotated", "+rotate(40)"))
    )
    return probe.Study(made, data, tuple(regimes), name="tiny")


def options(text: str) -> argparse.ArgumentParser:
    """The options that the scripts of all papers have."""
    parser = argparse.ArgumentParser(description=text)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--dry-run", action="store_true", help="print the paper's whole study (also where nothing is asked)"
    )
    what.add_argument("--run", action="store_true", help="carry the paper's study out")
    what.add_argument("--small", action="store_true", help="carry out what the shared folder allows")
    what.add_argument("--tiny", action="store_true", help="digits alone, in seconds, for the tests")
    parser.add_argument("--part", help="one part of the paper's study")
    parser.add_argument("--out", type=Path, default=Path("runs/studies"), help="where results are kept")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="the shared folder")
    parser.add_argument("--data-root", type=Path, help="where the paper's data sets are")
    parser.add_argument("--device", help="cpu, cuda …")
    parser.add_argument("--scheduler", help="of a Dask cluster")
    parser.add_argument("--publish", action="store_true", help="write results and figure into benchmarks/")
    return parser


def plans(studies: dict[str, probe.Study], out: Path, part: str | None) -> str:
    """What each part of a paper's study would take."""
    return "\n\n".join(
        probe.plan_study(study, out / name).text(most=3) for name, study in _chosen(studies, part).items()
    )


def run_parts(studies: dict[str, probe.Study], arguments: argparse.Namespace) -> int:
    """Carry out the parts of a paper's study; 1 where a cell failed."""
    failed = 0
    for name, study in _chosen(studies, arguments.part).items():
        found = probe.run_study(
            study,
            arguments.out / name,
            device=arguments.device,
            data_root=arguments.data_root,
            scheduler=arguments.scheduler,
        )
        print(found.text())
        print("\n".join(correlations(found, "logistic")))
        failed += len(found.failed)
    return 1 if failed else 0


def correlations(found: probe.StudyResults, regime: str) -> list[str]:
    """r and ρ against the source accuracies with their intervals, over the networks that have one; and what that can show."""
    table = found.table(failed=False)
    table = table[(table["regime"] == regime) & table["source"].notna()]
    if not len(table):
        return [f"{regime}: no network has a source accuracy."]
    table = probe.complete(table)  # a network that lacks a data set is left out of all
    n_models = table["model"].nunique()
    if n_models < 3:
        return [
            f"{regime}: {n_models} networks have a source accuracy and all data sets; a correlation needs at least 3."
        ]
    found_r = probe.correlate(table, regime=regime)
    return [c.sentence for c in found_r] + [probe.what_few_models_show(n_models)]


def summary(found: probe.StudyResults, regimes: Sequence[str], n_cells: int) -> dict[str, Any]:
    """The results and correlations as plain values, to be committed, and how many of the study's cells they are."""
    rows = []
    for r in found:
        rows.append({
            "model": r.names[0], "dataset": r.names[1], "regime": r.names[2], "seed": r.names[3], "test": round(r.test_score, 4),
            "interval": None if r.test_interval is None else [round(x, 4) for x in r.test_interval], "n": r.n_test,
            "metric": r.metric, "source": r.source, "C": r.chosen.get("C"), "near": r.leaks.get("near"),
            "identical": r.leaks.get("identical"),
        })  # fmt: skip
    return {
        "cells": f"{len(found)} of {n_cells}",
        "words": {regime: correlations(found, regime) for regime in regimes},
        "results": rows,
    }


def publish(
    found: probe.StudyResults,
    regimes: Sequence[str],
    study: probe.Study,
    draw: Callable[[probe.StudyResults, Path], None],
) -> None:
    """Write ``results/NAME.json`` and ``figures/NAME.png`` beside this file."""
    (HERE / "results").mkdir(exist_ok=True)
    name = study.name
    text = json.dumps(summary(found, regimes, len(study.cells)), indent=1, ensure_ascii=False)
    (HERE / "results" / f"{name}.json").write_text(text + "\n")
    draw(found, HERE / "figures" / f"{name}.png")


def draw_average(found: probe.StudyResults, path: Path) -> None:
    """The scatter of the average over data sets against the source accuracy, by logistic regression (Kornblith's Figure 2)."""
    probe.plots.save(probe.plots.source_scatter(with_source(found), regime="logistic"), path)


def draw_each(found: probe.StudyResults, path: Path, trained: str) -> None:
    """The same scatter for each data set, and beside it one network by regime."""
    table = with_source(found)
    datasets = list(dict.fromkeys(table["dataset"]))
    axes = probe.plots.style.new_row(len(datasets) + 1, (5.2, 4.4), columns=3, dpi=90)
    for ax, dataset in zip(axes, datasets, strict=False):
        probe.plots.source_scatter(table, ax, regime="logistic", dataset=dataset)
    every = found.table(failed=False)
    several = every[every["model"] == trained].groupby("dataset").filter(lambda rows: rows["regime"].nunique() > 1)
    if len(several):
        probe.plots.bars_by_dataset(several, axes[-1])
    probe.plots.save(axes[0], path)


def with_source(found: probe.StudyResults) -> Any:
    """Logistic regression on the networks that have a source accuracy and all data sets."""
    table = found.table(failed=False)
    return probe.complete(table[(table["regime"] == "logistic") & table["source"].notna()])


def _chosen(studies: dict[str, probe.Study], part: str | None) -> dict[str, probe.Study]:
    if part is None:
        return studies
    if part not in studies:
        raise SystemExit(f"there is no part '{part}'; there are {', '.join(studies)}")
    return {part: studies[part]}
