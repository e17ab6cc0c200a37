"""``probe study``: networks × data sets × regimes × seeds, from a file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from probe.cli import output


def add(commands: Any) -> None:
    """Add the subcommand."""
    sub = commands.add_parser(
        "study",
        argument_default=argparse.SUPPRESS,
        help="carry out many networks × data sets × regimes from a file; what is finished is never computed again",
        description="Say what a study lacks and what that will cost (--dry-run, which is what happens where nothing else is "
        "asked), carry it out (--run; exit code 1 where a cell failed), print its results (--table), write them to "
        "files (--export).",
        epilog="A file: seeds = [0]; then tables [[network]] name, spec, source; [[dataset]] name, train, val, test, metric; "
        "[[regime]] name, function, options.",
    )
    sub.add_argument("plan", type=Path, metavar="PLAN", help="a .toml file")
    what = sub.add_mutually_exclusive_group()
    what.add_argument("--dry-run", dest="what", action="store_const", const="plan", help="say what is missing")
    what.add_argument("--run", dest="what", action="store_const", const="run", help="compute what is missing")
    what.add_argument("--table", dest="what", action="store_const", const="table", help="print what is there")
    sub.add_argument(
        "--export", type=output.names, metavar="FILES", help="write the table: results.csv,results.parquet; csv,parquet alone "
        "are files of these endings in the folder"
    )  # fmt: skip
    sub.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where everything is kept (default: runs/ and the plan's name)"
    )
    sub.add_argument("--data-root", type=Path, help="where the data sets with a name are")
    sub.add_argument("--device", help="cpu, cuda, cuda:1, …")
    sub.add_argument(
        "--scheduler", metavar="ADDRESS", help="of a Dask cluster that computes the cells: tcp://host:8786"
    )
    sub.add_argument(
        "--no-near", dest="near", action="store_false", help="do not look for near-duplicates of train in test"
    )
    sub.add_argument("--quiet", dest="progress", action="store_false", help="no progress")
    sub.add_argument("--json", dest="as_json", action="store_true", help="print JSON for programs")
    sub.set_defaults(command=command)


def command(
    plan: Path,
    *,
    what: str | None = None,
    export: list[str] | None = None,
    out: Path | None = None,
    as_json: bool = False,
    **options: Any,
) -> int:
    """Plan, run, print or export a study."""
    from probe.studies import plan as planning
    from probe.studies import results, running
    from probe.studies.cells import Study

    study = Study.from_toml(plan)
    folder = out or Path("runs") / study.name
    what = what or (None if export else "plan")
    if what == "plan":
        made = planning.plan_study(study, folder)
        output.print_json(made.to_json()) if as_json else print(made)
    found = None
    if what == "run":
        found = running.run_study(study, folder, **options)
    elif what == "table" or export:
        found = results.load_study(folder)
    if found is not None:
        _print(found, as_json=as_json, shows=what is not None)
        for name in export or ():
            path = found.export(folder / f"results.{name}" if name in ("csv", "parquet") else Path(name))
            print(f"probe: written to {path}", file=sys.stderr)
        return 1 if (what == "run" and found.failed) or (what == "table" and found.damaged) else 0
    return 0


def _print(found: Any, *, as_json: bool, shows: bool) -> None:
    if as_json and shows:
        rows = found.table().to_dict(orient="records")
        output.print_json({"n_computed": found.n_computed, "results": rows, "damaged": list(found.damaged)})
    elif shows:
        print(found.text())
    for sentence in found.damaged:
        print(f"probe: error: {sentence}", file=sys.stderr)
