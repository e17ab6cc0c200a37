"""The command ``search``: one call of `finetune.search`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune.cli.options import add_data, add_recipe, add_store, take_data, take_fields
from finetune.cli.output import print_search
from finetune.cli.values import adapter, names, numbers

_REGIMES = {
    "full": "full_tune",
    "scratch": "from_scratch",
    "head": "tune_head",
    "unit": "tune_unit",
    "scale-shift": "tune_scale_shift",
    "adapter": "tune_adapter",
    "lp-ft": "probe_then_tune",
}
_OPTIONS = {
    "unit": ("unit",),
    "n_units": ("head",),
    "adapter": ("adapter",),
    "C": ("lp-ft",),
    "store": ("head", "lp-ft"),
}
_GRIDS = ("kornblith2019", "fang2023", "fang2023:DATA", "surgical2022")


def add(commands: Any) -> None:
    """Add ``search``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "search",
        argument_default=argparse.SUPPRESS,
        help="train with every recipe of a grid, choose on val, train the best again",
        description="Train a regime with every recipe of a grid, choose the best on val, and train it again on train and "
        "val. Called again, it continues where it was interrupted. With --regime scratch the papers' grids are those for "
        "training from scratch.",
    )
    add_data(parser, needs_val=True)
    add_store(parser)
    parser.add_argument("--regime", choices=tuple(_REGIMES), required=True, help="what is trained")
    parser.add_argument("--unit", type=names, metavar="UNIT[,UNIT]", help="of regime unit")
    parser.add_argument("--n-units", type=int, help="of regime head: units to train, counted from the head; else 1")
    parser.add_argument(
        "--adapter", type=adapter, metavar="KIND", help="of regime adapter, as of the command; else image"
    )
    parser.add_argument("--C", type=numbers, help="of regime lp-ft: values of C, increasing; else 45 from 1e-6 to 1e5")
    parser.add_argument("--grid", metavar="NAME", help=f"{', '.join(_GRIDS)}; else lists in --lr and --weight-decay")
    parser.add_argument("--no-refit", dest="refit", action="store_false", help="test the best cell as it is")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers train the cells")
    add_recipe(parser, is_grid=True)
    parser.set_defaults(command=search, fail=parser.error)


def search(regime: str, fail: Callable[[str], None], out: Path, *, as_json: bool = False, **options: Any) -> int:
    """Load network and splits, search, print the table."""
    import finetune

    if regime == "unit" and "unit" not in options:
        fail("--regime unit needs --unit")
    for option, regimes in _OPTIONS.items():
        if option in options and regime not in regimes:
            fail(f"--{option.replace('_', '-')} belongs to --regime {' and '.join(regimes)}")
    grid = _grid(options, regime == "scratch", fail)
    backbone, train, val = take_data(options)
    assert val is not None  # --val is required
    found = finetune.search(
        getattr(finetune, _REGIMES[regime]), backbone, train, val=val, grid=grid, out=out, **options
    )
    print_search(found, as_json)
    return 0


def _grid(options: dict[str, Any], is_scratch: bool, fail: Callable[[str], None]) -> dict[str, Any]:
    from finetune import Recipe, grids

    given, name = take_fields(options), options.pop("grid", None)
    if name is not None:
        paper, _, data = name.partition(":")
        if paper not in grids.NAMED or (data and paper != "fang2023"):
            fail(f"--grid {name} is none of {', '.join(_GRIDS)}")
        if "lr" in given or "weight_decay" in given:
            fail(f"--grid {name} has learning rates and decays of its own; leave out --lr and --weight-decay")
        if paper == "surgical2022":
            return grids.surgical2022(**given)
        more = {"data": data} if data else {}
        return grids.NAMED[paper](pretrained=not is_scratch, **more, **given)
    if "lr" not in given or not {"steps", "epochs"} & set(given):
        fail("without --grid, --lr and one of --steps and --epochs are needed")
    lists = {field: given.pop(field) for field in ("lr", "weight_decay") if field in given}
    return grids.product(Recipe(lr=lists["lr"][0], **given), **lists)
