"""``featstore verify`` and ``featstore repair``: is everything as it was written, and mending what is not."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from featstore.cli import output


def add(commands: Any) -> None:
    """Add both subcommands."""
    text = "read everything and say what is not as it was written; exit code 1 if anything"
    sub = commands.add_parser("verify", help=text, description=f"{text[0].upper()}{text[1:]}.")
    output.add_store(sub)
    sub.add_argument("--recompute", type=int, metavar="N", help="also run N random images of every split through their "
                     "network again, and compare")  # fmt: skip
    output.add_makers(sub)
    output.add_json(sub)
    sub.set_defaults(command=verify)
    text = "read everything, and compute again the rows that are not as they were written; exit code 1 if some are left"
    sub = commands.add_parser("repair", help=text, description=f"{text[0].upper()}{text[1:]}.")
    output.add_store(sub, is_read=False)
    sub.add_argument("--batch-size", type=int, default=argparse.SUPPRESS, help="else that of the extraction")
    output.add_makers(sub)
    sub.add_argument("--quiet", dest="progress", action="store_false", help="no progress")
    output.add_json(sub)
    sub.set_defaults(command=repair)


def verify(root: str, *, recompute: int | None = None, as_json: bool = False, **options: Any) -> int:
    """Read a store whole and print what is wrong with it."""
    from featstore.rechecking import recheck
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
    checks = [] if recompute is None else recheck(store, recompute, **output.makers_of(root, options))
    wrong = [check for check in checks if not check.is_good]
    if as_json:
        said = {"problems": [p.to_json() for p in problems], "recomputed": [c.to_json() for c in checks]}
        print(json.dumps({"root": str(root), **said}, indent=1))
    elif problems:
        print("\n".join(output.printable(str(problem)) for problem in problems))
    else:
        entries = store.entries()
        n_open = sum(not e.is_complete for e in entries)
        more = f"; {n_open} incomplete ones were not read" if n_open else ""
        size = output.size(sum(e.n_bytes for e in entries if e.is_complete))
        whole = output.count(len(entries) - n_open, "matrix is as it was", "matrices are as they were")
        print(f"{whole} written ({size}){more}")
    for check in checks if not as_json else []:
        print(output.printable(str(check)))
    if problems:
        print(
            f"featstore: error: {output.count(len(problems), 'problem', 'problems')} in {root}. `featstore repair {root}` "
            "computes damaged rows again, and nothing else.",
            file=sys.stderr,
        )
    if wrong:
        matrices = output.count(len(wrong), "matrix was", "matrices were")
        print(f"featstore: error: {matrices} not confirmed by computing it again", file=sys.stderr)
    return 1 if problems or wrong else 0


def repair(root: str, *, as_json: bool = False, **options: Any) -> int:
    """Mend a store and print what was wrong and what is left."""
    import featstore

    done = featstore.repair(root, **output.makers_of(root, options))
    if as_json:
        said = {"found": [p.to_json() for p in done.found], "remaining": [p.to_json() for p in done.remaining]}
        print(json.dumps({"root": str(root), **said, "n_changed": done.n_changed}, indent=1))
    elif not done.found:
        print("nothing is damaged")
    else:
        left = {(problem.where, problem.rows) for problem in done.remaining}
        for problem in done.found:
            is_left = (problem.where, problem.rows) in left
            print(output.printable(f"{'left' if is_left else 'repaired'}: {problem}"))
    if done.n_changed:
        chunks = output.count(done.n_changed, "chunk has", "chunks have")
        print(
            f"featstore: {chunks} other bytes than before: another version, device or batch size rounds otherwise",
            file=sys.stderr,
        )
    for problem in done.remaining:
        print(f"featstore: error: {output.printable(str(problem))}", file=sys.stderr)
    return 1 if done.remaining else 0
