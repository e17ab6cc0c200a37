"""``probe results``: what a folder of records holds."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from probe.cli import output


def add(commands: Any) -> None:
    """Add the subcommand."""
    sub = commands.add_parser(
        "results",
        argument_default=argparse.SUPPRESS,
        help="list the results in a folder",
        description="List the results that sweeps left in a folder. Exit code 1 where a record is damaged.",
    )
    sub.add_argument("folder", type=Path, metavar="FOLDER")
    sub.add_argument("--plot", type=Path, metavar="FILE", help="draw accuracy against depth into this file")
    sub.add_argument("--json", dest="as_json", action="store_true", help="print JSON for programs")
    sub.set_defaults(command=command)


def command(folder: Path, *, plot: Path | None = None, as_json: bool = False) -> int:
    """Print the table; name what is damaged on stderr."""
    from probe import plots, results

    found = results.load_results(folder)
    if as_json:
        output.print_json({"records": [results.row(r) for r in found], "damaged": list(found.damaged)})
    else:
        print(found.text())
    for sentence in found.damaged:
        print(f"probe: error: {sentence}", file=sys.stderr)
    if plot is not None:
        plots.save(plots.accuracy_by_depth(found.table()), plot)
    return 1 if found.damaged else 0
