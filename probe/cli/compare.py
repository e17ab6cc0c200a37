"""``probe compare``: are two models' results on the same samples different?"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe import tables
from probe.cli import output

if TYPE_CHECKING:
    from probe.predictions import Predictions


def add(commands: Any) -> None:
    """Add the subcommand."""
    sub = commands.add_parser(
        "compare",
        argument_default=argparse.SUPPRESS,
        help="compare two models on the same samples: difference, interval, exact p",
        description="Compare two sets of predictions, paired by sample. Each is an npz file of predictions, or a "
        "record of a sweep: FOLDER/RECORD, RECORD being the beginning of its name as `probe results FOLDER` prints it.",
    )
    sub.add_argument("a", metavar="A")
    sub.add_argument("b", metavar="B")
    sub.add_argument("--measure", choices=("accuracy", "mean_per_class"), help="what is compared")
    sub.add_argument("--level", type=float, help="of the interval: 0.95")
    sub.add_argument("--json", dest="as_json", action="store_true", help="print JSON for programs")
    sub.set_defaults(command=command)


def command(a: str, b: str, *, as_json: bool = False, **options: Any) -> int:
    """Compare, print the numbers and a sentence."""
    from probe.comparison import compare

    first, second = _predictions(a), _predictions(b)
    if first.name == second.name:
        # Nothing tells them apart but where they are.
        first, second = replace(first, name=a), replace(second, name=b)
    found = compare(first, second, **options)
    if as_json:
        values = {**asdict(found), "interval": list(found.interval)}
        output.print_json({**values, "is_significant": found.is_significant, "sentence": found.sentence})
        return 0
    rows = [
        [found.name_a or a, tables.number(found.value_a), str(found.n_only_a)],
        [found.name_b or b, tables.number(found.value_b), str(found.n_only_b)],
    ]
    print(tables.text_table(["", found.measure.replace("_", " "), "only this one right"], rows))
    test = "exact McNemar" if found.measure == "accuracy" else "sign-flip permutation"
    print(f"both right {found.n_both:,}, neither {found.n_neither:,}, of {found.n:,} samples; {test} test")
    print(f"differences below about {found.smallest_detectable:.4f} could not have been told from chance here")
    print(found.sentence)
    return 0


def _predictions(where: str) -> Predictions:
    """Load a file of predictions, or those behind a record of a sweep."""
    from probe.predictions import Predictions
    from probe.records import ResultFolder

    path = Path(where)
    if path.suffix == ".npz":
        return Predictions.load(path)
    folder = ResultFolder(path.parent)
    return folder.predictions(folder.find(path.stem if path.suffix == ".json" else path.name))
