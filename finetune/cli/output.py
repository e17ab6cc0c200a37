"""Runs and searches as tables for people and JSON for programs, on stdout; and the command that prints finished ones."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import BadInput

if TYPE_CHECKING:
    from finetune.run import Run
    from finetune.searching import Search


def add(commands: Any) -> None:
    """Add ``show``."""
    show: argparse.ArgumentParser = commands.add_parser(
        "show", help="print a finished run or search", description="Print what a finished run or search did."
    )
    show.add_argument("run", type=Path, metavar="RUN", help="folder of the run or search")
    show.add_argument("--json", dest="as_json", action="store_true", help="print JSON for programs")
    show.set_defaults(command=show_run)


def show_run(run: Path, *, as_json: bool = False) -> int:
    """Print a finished run, or the table of a finished search."""
    import finetune
    from finetune.run import read_json
    from finetune.searching import RECORD

    record = read_json(run / RECORD)
    if record is None:
        found = finetune.open_run(run)
        if found.regime == "flex_tune":
            from finetune.cli.flexing import print_flex

            print_flex(finetune.flex_of(found), as_json)
        else:
            print_run(found, as_json)
        return 0
    if record.get("state") != "complete":
        raise BadInput(f"the search in {run} is not finished; the command that began it continues it.")
    _print_table(record["result"], as_json)
    return 0


def print_search(found: Search, as_json: bool) -> None:
    """Print a search: its cells from best to worst, the choice, the scores of what came out."""
    _print_table(found.to_json(), as_json)


def _print_table(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=1))
        return
    cells = sorted(found["cells"], key=lambda cell: (cell["val"] is None, -(cell["val"] or 0.0)))
    rows: list[Sequence[str]] = [("cell", "val", "kept step", "seconds")]
    for cell in cells:
        said = (f"{cell['val']:.4f}", str(cell["kept_step"]), f"{cell['seconds']:.1f}") if not cell["note"] else None
        rows.append((cell["name"], *(said or (cell["note"], "", ""))))
    print_rows(rows)
    edge = f"; at the edge of the grid in {' and '.join(found['at_edge'])}" if found["at_edge"] else ""
    print(f"best on val: {found['best']}{edge}")
    for name, score in found["scores"].items():
        print(f"{name} {score:.4f}{', trained again on train and val' if found['refit'] else ''}")
    print(f"written to {found['path']}")


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text as columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_run(run: Run, as_json: bool) -> None:
    """Print what a run scored, split by split, or all of it as JSON."""
    if as_json:
        print(json.dumps(run.to_json(), indent=1))
        return
    metric = str(run.identity["metric"])
    rows = [("split", "n", metric, "95 % interval" if metric == "accuracy" else "")]
    for name, said in run.predictions.items():
        low, high = said.interval()
        interval = f"{low:.4f} – {high:.4f}" if metric == "accuracy" else ""
        rows.append((name, str(len(said)), f"{run.scores[name]:.4f}", interval))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    if len(rows) > 1:
        print(
            "\n".join(
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
            )
        )
    first, last = run.history[0], run.history[-1]
    print(f"{run.regime}: weights after step {run.kept_step} are kept; {run.seconds:.1f} s. {run.stopped}")
    print(f"train loss {first.train_loss:.4f} at step {first.step}, {last.train_loss:.4f} at step {last.step}")
    print(f"written to {run.path}")
