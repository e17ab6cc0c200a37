"""The commands that train: full, scratch, head, unit, scale-shift, adapter, lp-ft. Each is one call of a regime."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune.cli.options import add_data, add_recipe, add_store, take_data, take_recipe
from finetune.cli.output import print_run
from finetune.cli.values import adapter, names, numbers

_AGAIN = " Called again, it continues where it was interrupted, and prints a run that is finished."

# command -> (regime, help, description)
_COMMANDS = {
    "full": (
        "full_tune",
        "train the whole network from its weights",
        "Train the whole network from its pretrained weights.",
    ),
    "scratch": (
        "from_scratch",
        "train the whole network from random weights",
        "Train the whole network from random weights, drawn from the seed.",
    ),
    "head": (
        "tune_head",
        "train the last layer; everything below it is frozen and run once",
        "Train the last layer of a network on its stored penultimate features, or its last units from images.",
    ),
    "unit": (
        "tune_unit",
        "train one unit, or several; the others are frozen",
        "Train one unit of a network, or several, from images; a new head is trained with them.",
    ),
    "scale-shift": (
        "tune_scale_shift",
        "train the last layer, and scale and shift convolutions",
        "Train the last layer, a scale per convolution kernel, and a shift per bias.",
    ),
    "adapter": (
        "tune_adapter",
        "train an image-to-image unit in front of the network",
        "Train a module in front of a network that stays as it is.",
    ),
    "lp-ft": (
        "probe_then_tune",
        "train the whole network with a fitted probe for a head",
        "Fit a linear probe, its C chosen on val, and train the whole network with it for a head.",
    ),
}


def add(commands: Any) -> None:
    """Add the commands."""
    for name, (regime, short, description) in _COMMANDS.items():
        parser: argparse.ArgumentParser = commands.add_parser(
            name, argument_default=argparse.SUPPRESS, help=short, description=description + _AGAIN
        )
        add_data(parser, has_rows=name not in ("scratch", "lp-ft"), needs_val=name == "lp-ft")
        if name in ("head", "lp-ft"):
            add_store(parser)
        if name == "head":
            parser.add_argument("--n-units", type=int, help="units to train, counted from the head; else 1")
        if name == "adapter":
            parser.add_argument(
                "--adapter", type=adapter, metavar="KIND",
                help="image (encoder and decoder), image:2 (halving twice), colour, colour:16 (a hidden layer) or "
                "geometry (turns, scales, moves); else image",
            )  # fmt: skip
        if name == "unit":
            parser.add_argument(
                "--unit", type=names, required=True, metavar="UNIT[,UNIT]", help="as featstore names them"
            )
        if name == "lp-ft":
            parser.add_argument("--C", type=numbers, help="values of C, increasing; else 45 from 1e-6 to 1e5")
        add_recipe(parser)
        parser.set_defaults(command=train_by, regime=regime, fail=parser.error)


def train_by(regime: str, fail: Callable[[str], None], out: Path, *, as_json: bool = False, **options: Any) -> int:
    """Load network and splits, train, print how it does."""
    import finetune

    recipe = take_recipe(options, fail)
    backbone, train, val = take_data(options)
    run = getattr(finetune, regime)(backbone, train, val, recipe=recipe, out=out, **options)
    print_run(run, as_json)
    return 0
