"""The command ``flex``: choose the unit to tune, by one method or by all of them side by side."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from finetune.algorithms import Method
from finetune.cli.options import add_data, add_recipe, add_store, take_data, take_recipe
from finetune.cli.output import print_rows
from finetune.cli.values import adapter, names
from finetune.feeding import ITEM_BYTES, FeedKind

if TYPE_CHECKING:
    from finetune.flex import Flex

_EVERY = "compare"


def add(commands: Any) -> None:
    """Add ``flex``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "flex",
        argument_default=argparse.SUPPRESS,
        help="tune the one unit that val says is best (flex-tuning)",
        description="Tune single units of a network and keep the one that is best on val, or find it faster by proxies. "
        "Called again, it goes on with the candidate at hand, and prints what is finished.",
    )
    add_data(parser, needs_val=True)
    add_store(parser)
    parser.add_argument("--method", choices=(*get_args(Method), _EVERY),
                        help=f"Algorithms 1 to 3 of Royer and Lampert, relative gradient norms, probes; or '{_EVERY}': all "
                        "five in one table, beside ft-fc (1), ft-fc (2), ft-ss and ft-all, which choose nothing")  # fmt: skip
    parser.add_argument("--candidates", dest="units", type=names, metavar="UNIT[,UNIT]",
                        help="units to choose among, as featstore names them; else all with parameters")  # fmt: skip
    parser.add_argument("--pairs", type=_pairs, metavar="A+B[,C+D]", help="pairs of units as candidates, or all")
    parser.add_argument("--adapter", type=adapter, metavar="KIND",
                        help="a unit in front of the network as one more candidate of flex: image, image:2, colour, colour:16 "
                        "or geometry; see finetune adapter --help")  # fmt: skip
    parser.add_argument("--feed", choices=get_args(FeedKind),
                        help="where inputs of units are: in memory, on disk, or computed from images in every step; else "
                        "disk with --store, and memory without")  # fmt: skip
    parser.add_argument("--dtype", choices=tuple(ITEM_BYTES), help="of stored inputs; else float32")
    parser.add_argument("--plot", type=Path, metavar="FILE",
                        help=f"with --method {_EVERY}: draw what each method picks and its accuracy into this png")  # fmt: skip
    add_recipe(parser)
    parser.set_defaults(command=flex, fail=parser.error)


def flex(fail: Callable[[str], None], out: Path, *, as_json: bool = False, **options: Any) -> int:
    """Load network and splits, choose and tune, print every candidate, the choice and what it cost."""
    import finetune

    recipe, plot = take_recipe(options, fail), options.pop("plot", None)
    if plot is not None and (options.get("method") != _EVERY or plot.suffix != ".png"):
        fail(f"--plot draws what --method {_EVERY} finds, into a file whose name ends in .png")
    backbone, train, val = take_data(options)
    assert val is not None  # the command requires it
    if "adapter" in options:
        given = options.pop("adapter")
        options["others"] = {"adapter": functools.partial(finetune.tune_adapter, adapter=given)}
    if options.get("method") == _EVERY:
        del options["method"]
        compared = finetune.compare_methods(backbone, train, val, recipe=recipe, out=out, **options)
        if plot is not None:
            finetune.draw_methods(compared, plot, title=train.name.partition("#")[0])
        drawn = "" if plot is None else f", drawn in {plot}"
        print(json.dumps(compared.to_json(), indent=1) if as_json else f"{compared}\nwritten to {out}{drawn}")
        return 0
    print_flex(finetune.flex_tune(backbone, train, val, recipe=recipe, out=out, **options), as_json)
    return 0


def print_flex(found: Flex, as_json: bool) -> None:
    """Print a flex-tuning: a table for people, or JSON."""
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
        return
    rows: list[Sequence[str]] = [("candidate", "score", "val", "epochs", "seconds", "fed from")]
    for row in found.table:
        mark = "* " if row.candidate == found.unit else "  "
        trained = ("",) * 3 if row.val is None else (f"{row.val:.4f}", f"{row.epochs:.1f}", f"{row.seconds:.1f}")
        if row.diverged is not None:
            trained = ("diverged", f"step {row.diverged['step']}", "")
        score = "" if row.score is None else f"{row.score:.4f}"
        rows.append((mark + row.candidate, score, *trained, row.fed_from or "images"))
    print_rows(rows)
    scores = ", ".join(f"{name} {score:.4f}" for name, score in found.best.scores.items())
    print(f"{found.method} chooses {found.unit}: {scores}")
    phases: list[Sequence[str]] = [("phase", "trainings", "epochs", "seconds", "unit-passes")]
    for name, spent in [*found.cost.phases.items(), ("total", found.cost.total)]:
        said = (str(spent.n_trainings), f"{spent.epochs:.1f}", f"{spent.seconds:.1f}", f"{spent.unit_passes:,}")
        phases.append((name, *said))
    print_rows(phases)
    known = ", ".join(f"{name} {seconds:.1f}" for name, seconds in found.cost.formulas.items() if seconds is not None)
    print(f"Table 1 with these epochs and seconds: {known or 'not known'}")
    print(f"written to {found.best.path}")


def _pairs(text: str) -> str | tuple[tuple[str, ...], ...]:
    """``"all"``, or ``"conv1+conv2,conv1+head"``."""
    if text == "all":
        return text
    found = tuple(tuple(pair.split("+")) for pair in text.split(","))
    if any(len(pair) != 2 or not all(pair) for pair in found):
        raise argparse.ArgumentTypeError(f"{text!r} is neither 'all' nor a list of pairs like conv1+conv2,conv1+head")
    return found
