"""Table 3 of Royer and Lampert 2020 (flex-tuning): our accuracies beside the paper's, the chosen units, their spread.

    python benchmarks/royer2020.py cifar --size small --seeds 3 --ratios 0,1,2
    python benchmarks/royer2020.py mnist --size paper --seeds 20 --ratios 0
    python benchmarks/royer2020.py pacs-mobilenetv1_025 --size small --ratios 0,1
    python benchmarks/royer2020.py cifar --print

One command per block; ``--size paper`` is the paper's, ``small`` has fewer images in val and test, fewer epochs of the
source network and fewer steps, ``tiny`` shows that it runs. The data and weights are those of the shared folder beside
the checkout. Cells go from cheap to dear, each training is a run in ``--out``: interrupted, the same command goes on,
and no training is done twice. Finished cells are written into ``--results`` as they come.

The copy of CIFAR-10 is made of lossy JPEGs: the source network is trained on it, so that source and target are as far
apart as in the paper, but both are a little harder. ``--calibrate`` looks for the strength of a shift at which the
source network is as right as the paper's was, where the paper's own strength is more than 0.01 off.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks.networks, which a model is named by

from royer_blocks import BLOCKS, SIZES, Block, Size, target_parts
from royer_cells import Cell, accuracy_of, calibrated, run_cell
from royer_source import head_rows, source_backbone
from royer_tables import text

from featstore import Backbone
from featstore.datasets.shifts import DomainShift, make_shift
from finetune.files import write_atomically
from finetune.folder import environment

HERE = Path(__file__).resolve().parent


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cells of one block that are asked for and missing, then print its table."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    block, size = BLOCKS[arguments.block], SIZES[arguments.size]
    unknown = [name for name in arguments.targets or () if name not in block.targets]
    unknown += [k for k in arguments.ratios or () if not 0 <= k < len(block.per_class)]
    if unknown:
        parser.error(
            f"{block.name} has no {unknown}; its targets are {', '.join(block.targets)} and its ratios 0 to "
            f"{len(block.per_class) - 1}"
        )
    path = arguments.results / f"{block.name}-{size.name}.json"
    if not arguments.print:
        run(block, size, path, arguments)
    if not path.is_file():
        print(f"nothing of {block.name} at size {size.name} is in {path.parent}", file=sys.stderr)
        return 1
    print(text(block, json.loads(path.read_text(encoding="utf-8"))))
    return 0


def run(block: Block, size: Size, path: Path, arguments: argparse.Namespace) -> None:
    """Work through the missing cells, the cheapest first, writing after each."""
    out = arguments.out / size.name / block.name
    backbone, source = source_backbone(block, arguments.shared, size, out / "source")
    found = _read(path, block, size)
    found["source_accuracy"] = source
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in arguments.targets or block.targets:
        if name not in found["before"]:
            found["before"][name] = _before(block, name, backbone, size, arguments)
            _write(path, found)
        elif found["before"][name]["is_calibrated"] != arguments.calibrate:
            raise SystemExit(
                f"{path} holds cells of {name} {'without' if arguments.calibrate else 'with'} --calibrate, and this command is "
                "the other way: give it as before, or another folder of results."
            )
    done = {Cell(c["target"], c["per_class"], c["seed"]) for c in found["cells"]}
    for cell in cells_of(block, arguments):
        if cell in done:
            continue
        shift = _shift(found["before"][cell.target])
        print(f"{block.name}: {cell.name}", file=sys.stderr)
        result = run_cell(block, cell, backbone, shared=arguments.shared, size=size, out=out, shift=shift)
        found["cells"].append(result)
        found["environment"] = environment("cpu")
        found["commands"] = [*(c for c in found["commands"] if c != _command(arguments)), _command(arguments)]
        _write(path, found)


def cells_of(block: Block, arguments: argparse.Namespace) -> list[Cell]:
    """The cells that are asked for: little data first, and one seed of every target before the next seed."""
    amounts = [block.per_class[k] for k in arguments.ratios or range(len(block.per_class))]
    targets = arguments.targets or list(block.targets)
    return [Cell(name, n, seed) for n in amounts for seed in range(arguments.seeds) for name in targets]


def _before(block: Block, name: str, backbone: Backbone, size: Size, arguments: argparse.Namespace) -> dict[str, Any]:
    """The source network on one target before tuning, and the shift where it is not the paper's."""
    shift = None
    if arguments.calibrate:
        shift, _ = calibrated(block, name, backbone, shared=arguments.shared, size=size)
    test = target_parts(block, name, arguments.shared, size, shift=shift)["test"]
    accuracy = accuracy_of(backbone, test, head_rows(block, backbone, len(test.classes)))
    return {
        "test": accuracy,
        "shift": None if shift is None else str(shift),
        "is_calibrated": arguments.calibrate,
    }


def _shift(before: dict[str, Any]) -> DomainShift | None:
    if before["shift"] is None:
        return None
    name, _, rest = before["shift"].partition("(")
    return make_shift(name, rest.rstrip(")"))


def _read(path: Path, block: Block, size: Size) -> dict[str, Any]:
    fresh = {
        "commands": [],
        "block": block.name,
        "size": size.name,
        "settings": json.loads(json.dumps(asdict(size))),
        "before": {},
        "cells": [],
    }
    if not path.is_file():
        return fresh
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found["settings"] != fresh["settings"]:
        raise SystemExit(
            f"{path} holds cells of other settings {found['settings']} than {fresh['settings']}: move it away"
        )
    return found


def _command(arguments: argparse.Namespace) -> str:
    """What was typed, as far as it says which cells there are."""
    words = ["python", "benchmarks/royer2020.py", arguments.block, "--size", arguments.size]
    words += ["--calibrate"] if arguments.calibrate else []
    for name in ("ratios", "targets"):
        chosen = getattr(arguments, name)
        words += [f"--{name}", ",".join(map(str, chosen))] if chosen else []
    return " ".join([*words, "--seeds", str(arguments.seeds)])


def _write(path: Path, found: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("block", choices=BLOCKS)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--ratios", type=_numbers, help="which amounts of data, 0 the smallest: 0,1; else all")
    parser.add_argument("--targets", type=lambda words: words.split(","), help="blurry,noisy; else all of the block")
    parser.add_argument("--seeds", type=int, default=1, help="draws of the training images per cell")
    parser.add_argument("--calibrate", action="store_true", help="match the paper's accuracy before tuning")
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared")
    parser.add_argument("--out", type=Path, default=Path("runs/royer2020"), help="where every training is kept")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "royer2020")
    parser.add_argument("--print", action="store_true", help="print what is finished and do nothing")
    return parser


def _numbers(words: str) -> list[int]:
    return [int(word) for word in words.split(",")]


if __name__ == "__main__":
    sys.exit(main())
