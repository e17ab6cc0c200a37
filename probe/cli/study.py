"""``probe study``: networks × data sets × regimes × seeds, from a file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.cli import output
from probe.errors import BadInput

if TYPE_CHECKING:
    from probe.studies.cells import Study


def add(commands: Any) -> None:
    """Add the subcommand."""
    sub = commands.add_parser(
        "study",
        argument_default=argparse.SUPPRESS,
        help="carry out many networks × data sets × regimes from a file; what is finished is never computed again",
        description="Say what a study lacks and what that will cost (--dry-run, which is what happens where nothing else is "
        "asked), carry it out (--run; exit code 1 where a cell failed), print its results (--table), write them to "
        "files (--export).",
        epilog="A file: seeds = [0]; then tables [[network]] name, spec, source, options; [[dataset]] name, train, val, test, "
        "metric; [[regime]] name, function, options. Random weights: options = { weights = 'random', seed = 0 }. What was run is "
        "kept in FOLDER/plans.",
    )
    sub.add_argument(
        "plan", type=Path, metavar="PLAN", help="a .toml file, a plan that a folder of results keeps, or such a folder"
    )
    what = sub.add_mutually_exclusive_group()
    what.add_argument("--dry-run", dest="what", action="store_const", const="plan", help="say what is missing")
    what.add_argument("--run", dest="what", action="store_const", const="run", help="compute what is missing")
    what.add_argument("--table", dest="what", action="store_const", const="table", help="print what is there")
    sub.add_argument(
        "--export", type=output.names, metavar="FILES", help="write the table: results.csv,results.parquet; csv,parquet alone "
        "are files of these endings in the folder"
    )  # fmt: skip
    sub.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where everything is kept (default: runs/ and the plan's name; the folder of "
        "a plan that is kept in one)"
    )  # fmt: skip
    for side, what_of in (("network", "networks"), ("dataset", "data sets"), ("regime", "regimes")):
        sub.add_argument(
            f"--{side}", dest=f"{side}s", action="append", metavar="NAME", help=f"only this of the {what_of}; may be repeated"
        )  # fmt: skip
    sub.add_argument(
        "--seed", dest="seeds", type=int, action="append", metavar="N", help="only this seed; may be repeated"
    )
    sub.add_argument("--data-root", type=Path, help="where the data sets with a name are")
    sub.add_argument("--device", help="cpu, cuda, cuda:1, …")
    sub.add_argument(
        "--scheduler", metavar="ADDRESS", help="of a Dask cluster that computes the cells: tcp://host:8786"
    )
    sub.add_argument(
        "--no-near", dest="near", action="store_false", help="do not look for near-duplicates of train in test"
    )
    sub.add_argument(
        "--thumbnails", action="store_true", help="keep small images of the test splits, about 3 kB each, for reports"
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

    what = what or (None if export else "plan")
    part = {side: options.pop(side) for side in ("networks", "datasets", "regimes", "seeds") if side in options}
    study, home = _study(plan, is_for_all=what in ("table", None) and not part)
    study = study.only(**part) if study is not None and part else study
    folder = out or home or Path("runs") / (study.name if study else "")
    found = None
    if study is not None and what == "plan":
        made = planning.plan_study(study, folder)
        output.print_json(made.to_json()) if as_json else print(made)
    elif study is not None and what == "run":
        found = running.run_study(study, folder, **options)
    else:
        found = results.load_study(folder, study)
    if found is None:
        return 0
    _print(found, as_json=as_json, shows=what is not None)
    for name in export or ():
        path = found.export(folder / f"results.{name}" if name in ("csv", "parquet") else Path(name))
        print(f"probe: written to {path}", file=sys.stderr)
    return 1 if (what == "run" and found.failed) or (what == "table" and found.damaged) else 0


def _study(plan: Path, *, is_for_all: bool) -> tuple[Study | None, Path | None]:
    """The study that is meant, None where that is all that a folder holds; and the folder that keeps it, if one does."""
    from probe.studies.cells import Study
    from probe.studies.records import StudyFolder
    from probe.studies.written import read_json

    if not plan.is_dir():
        home = plan.parent.parent if plan.suffix == ".json" and plan.parent.name == "plans" else None
        return (read_json(plan) if plan.suffix == ".json" else Study.from_toml(plan)), home
    known = list(StudyFolder(plan).plans())
    if is_for_all:
        return None, plan
    if len(known) == 1:
        return read_json(known[0]), plan
    said = f"keeps several plans ({_listed(plan)}): name one" if known else "keeps no plan of a study: name its file"
    raise BadInput(f"'{plan}' {said}.")


def _listed(folder: Path) -> str:
    from probe.studies.records import StudyFolder

    return ", ".join(f"{path} '{said['name']}'" for path, said in list(StudyFolder(folder).plans().items())[:4])


def _print(found: Any, *, as_json: bool, shows: bool) -> None:
    if as_json and shows:
        rows = found.table().to_dict(orient="records")
        output.print_json({"n_computed": found.n_computed, "results": rows, "damaged": list(found.damaged)})
    elif shows:
        print(found.text())
    for sentence in found.damaged:
        print(f"probe: error: {sentence}", file=sys.stderr)
