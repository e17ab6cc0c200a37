"""``featstore rm``, ``gc``, ``merge`` and ``export``: what changes what is kept, or copies it elsewhere."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from featstore.cli import output

CHOICES = ("backbone", "split", "unit", "pool", "dtype")


def add(commands: Any) -> None:
    """Add the subcommands."""
    text = "remove matrices; none that is in use"
    sub = commands.add_parser("rm", help=text, description=f"{text[0].upper()}{text[1:]}.")
    output.add_store(sub, is_read=False)
    _add_choices(sub)
    sub.add_argument("--all", dest="everything", action="store_true", help="without any choice: all matrices")
    sub.add_argument("--dry-run", action="store_true", help="only show them")
    output.add_json(sub)
    sub.set_defaults(command=rm)
    text = "remove what killed processes have left; nothing that is in use, and no feature"
    sub = commands.add_parser("gc", help=text, description=f"{text[0].upper()}{text[1:]}.")
    output.add_store(sub, is_read=False)
    sub.add_argument("--incomplete", action="store_true", help="also what interrupted extractions have so far")
    output.add_json(sub)
    sub.set_defaults(command=gc)
    text = "copy what one store has and another lacks, checked on the way; the same command goes on after a kill"
    sub = commands.add_parser("merge", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("source", metavar="FROM", help="a store; only read")
    sub.add_argument("into", metavar="INTO", help="a store; made where there is none")
    sub.add_argument("--quiet", dest="progress", action="store_false", help="no progress")
    output.add_json(sub)
    sub.set_defaults(command=merge)
    text = "write one matrix with its ids and labels to a .npz, .safetensors or .parquet file"
    sub = commands.add_parser("export", help=text, description=f"{text[0].upper()}{text[1:]}.")
    output.add_store(sub)
    sub.add_argument("file", type=Path, metavar="FILE")
    _add_choices(sub)
    sub.set_defaults(command=export)


def _add_choices(sub: argparse.ArgumentParser) -> None:
    for name in CHOICES:
        sub.add_argument(f"--{name}", help="only this one")
    sub.add_argument("--pass", dest="pass_id", metavar="DIGITS", help="only the pass whose digest begins with these")


def rm(
    root: str, *, everything: bool = False, dry_run: bool = False, as_json: bool = False, **choice: str | None
) -> int:
    """Remove the matrices that fit."""
    from featstore.errors import BadInput
    from featstore.store import open_store

    if everything == any(choice.values()):
        raise BadInput(
            "say which matrices to remove (--backbone, --split, --unit, --pool, --dtype, --pass), or --all, not both."
        )
    found = output.fitting(root, choice)
    if dry_run:
        output.print_entries(found, as_json)
        return 0
    done = open_store(root).remove(found)
    if as_json:
        print(json.dumps({"removed": [e.to_json() for e in found], "n_bytes": done.n_bytes}, indent=1))
    else:
        print(f"removed {output.count(len(found), 'matrix', 'matrices')}, {output.size(done.n_bytes)}")
    return 0


def gc(root: str, *, incomplete: bool = False, as_json: bool = False) -> int:
    """Remove what nothing refers to."""
    from featstore.store import open_store

    done = open_store(root).collect_garbage(incomplete=incomplete)
    if as_json:
        print(json.dumps({"n_files": done.n_files, "n_bytes": done.n_bytes, "busy": done.busy}, indent=1))
    else:
        print(f"removed {output.count(done.n_files, 'file', 'files')}, {output.size(done.n_bytes)}")
    for text in done.busy:
        print(f"featstore: left alone: {output.printable(text)}", file=sys.stderr)
    return 0


def merge(source: str, into: str, *, progress: bool = True, as_json: bool = False) -> int:
    """Merge, and say what could not be."""
    import featstore

    done = featstore.merge(source, into, progress=progress)
    if as_json:
        print(json.dumps(vars(done), indent=1))
    else:
        copied = output.count(done.n_copied, "matrix", "matrices")
        print(f"copied {copied} ({output.size(done.n_bytes)}); {done.n_same} were there already")
    for kind, texts in (("conflict", done.conflicts), ("not copied", done.left)):
        for text in texts:
            print(f"featstore: {kind}: {output.printable(text)}", file=sys.stderr)
    return 1 if done.conflicts or done.left else 0


def export(root: str, file: Path, **choice: str | None) -> int:
    """Write the one matrix that fits."""
    import featstore
    from featstore.errors import Ambiguous
    from featstore.store import open_store

    found = [entry for entry in output.fitting(root, choice) if entry.is_complete]
    if len(found) != 1:
        several = "; ".join(
            f"{e.backbone}, {e.split}, {e.unit}, {e.pool}, {e.dtype}, {e.pass_id[: output.SHOWN_DIGITS]}"
            for e in found[:12]
        )
        raise Ambiguous(
            f"{len(found)} complete matrices fit ({several}{' …' if len(found) > 12 else ''}), and one is exported at a time: "
            "choose with --split, --unit, --backbone, --pool, --dtype, --pass."
        )
    print(featstore.export(open_store(root).matrix(found[0]), file))
    return 0
