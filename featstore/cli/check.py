"""``featstore check``: is every image of a split readable, and none of them there twice?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.cli import output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featstore.datasets.checking import Check

MOST = 20


def add(commands: Any) -> None:
    """Add the subcommand."""
    sub = commands.add_parser(
        "check",
        argument_default=argparse.SUPPRESS,
        help="decode a split, count its classes, find unreadable and duplicate images; exit code 1 if anything is wrong",
        description="Decode every image of a split, count its classes, and find images that cannot be read, are there "
        "twice, or are in another split of the same data set, too. Exit code 1 if there is any, or a class is empty.",
    )
    sub.add_argument("split", metavar="SPLIT", help="as for extract: imagefolder:PATH, cifar10:train, …")
    sub.add_argument("--data-root", type=Path, help="where the data sets with a name are")
    sub.add_argument(
        "--against", nargs="+", metavar="SPLIT", help="compare with these splits; else with the others of its papers"
    )
    sub.add_argument("--alone", action="store_true", help="compare with no other split")
    sub.add_argument("--download", action="store_true", help="fetch what is missing, where torchvision knows how")
    sub.add_argument("--workers", type=int, help="threads that decode images")
    sub.add_argument("--quiet", dest="progress", action="store_false", help="no progress")
    output.add_json(sub)
    sub.set_defaults(command=command)


def command(
    split: str,
    *,
    data_root: Path | None = None,
    against: Sequence[str] = (),
    alone: bool = False,
    download: bool = False,
    as_json: bool = False,
    **options: Any,
) -> int:
    """Check a split and print what was found."""
    from featstore.datasets import load_split
    from featstore.datasets.checking import check_split, splits_beside
    from featstore.errors import BadInput

    if alone and against:
        raise BadInput("--alone compares with no other split and --against with those it names; give one of them.")
    loaded = load_split(split, data_root=data_root, download=download)
    if against:
        others = tuple(load_split(other, data_root=data_root, download=download) for other in against)
    else:
        others = () if alone else splits_beside(split, data_root=data_root)
    found = check_split(loaded, others, **options)
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        _print(found)
    return 0 if found.is_clean else 1


def _print(found: Check) -> None:
    modes = ", ".join(f"{n} {mode}" for mode, n in sorted(found.modes.items(), key=lambda pair: -pair[1]))
    print(f"{found.name}: {output.count(found.n, 'image', 'images')}{f' ({modes})' if modes else ''}")
    if found.per_class:
        width = max(map(len, found.per_class))
        for name, n in found.per_class.items():
            print(f"  {output.printable(name.ljust(width))}  {n:>8}")
    if found.empty_classes:
        how_many = output.count(len(found.empty_classes), "class is", "classes are")
        print(f"{how_many} empty: {output.printable(', '.join(found.empty_classes))}")
    _print_some("unreadable", [why for _, why in found.unreadable])
    _print_some("there more than once", [str(d) for d in found.within])
    _print_some("in another split, too", [str(d) for d in found.across])
    compared = f", nor in {', '.join(found.compared)}" if found.compared else ""
    if found.is_clean:
        print(f"every image is readable, and none is there twice{compared}")


def _print_some(what: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    print(f"{len(lines)} {what}:")
    for line in lines[:MOST]:
        print(f"  {output.printable(line)}")
    if len(lines) > MOST:
        print(f"  … and {len(lines) - MOST} more; --json lists all")
