"""``featstore verify``: is everything as it was written?"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from featstore.cli import output


def add(commands: Any) -> None:
    """Add the subcommand."""
    text = "read everything and say what is not as it was written; exit code 1 if anything"
    sub = commands.add_parser("verify", help=text, description=f"{text[0].upper()}{text[1:]}.")
    output.add_store(sub)
    output.add_json(sub)
    sub.set_defaults(command=command)


def command(root: Path, *, as_json: bool = False) -> int:
    """Read a store whole and print what is wrong with it."""
    from featstore.store import open_store

    begun = time.monotonic()

    def progress(done: int, total: int) -> None:
        if time.monotonic() - begun > 2 and sys.stderr.isatty():
            print(
                f"\rfeatstore: {output.size(done)} of {output.size(total)} read",
                end="\n" if done == total else "",
                file=sys.stderr,
            )

    store = open_store(root)
    problems = store.verify(progress)
    if as_json:
        print(json.dumps({"root": str(root), "problems": [p.to_json() for p in problems]}, indent=1))
    elif problems:
        print("\n".join(str(problem) for problem in problems))
    else:
        entries = store.entries()
        n_open = sum(not e.is_complete for e in entries)
        more = f"; {n_open} incomplete ones were not read" if n_open else ""
        size = output.size(sum(e.n_bytes for e in entries if e.is_complete))
        whole = output.count(len(entries) - n_open, "matrix is as it was", "matrices are as they were")
        print(f"{whole} written ({size}){more}")
    if problems:
        print(
            f"featstore: error: {output.count(len(problems), 'problem', 'problems')} in {root}. Run the command that extracted it "
            "again with --repair: only damaged rows are computed again.",
            file=sys.stderr,
        )
    return 1 if problems else 0
