"""``featstore ls`` and ``featstore info``: what a store holds, and what identifies it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from featstore.cli import output

if TYPE_CHECKING:
    from featstore.entries import Entry
    from featstore.passes import PassFolder


def add(commands: Any) -> None:
    """Add both subcommands."""
    for name, command, text in (
        ("ls", list_entries, "list the matrices of a store"),
        ("info", show_info, "show everything that identifies what is in a store"),
    ):
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        output.add_store(sub)
        sub.add_argument("--backbone", help="only this one")
        sub.add_argument("--split", help="only this one")
        output.add_json(sub)
        sub.set_defaults(command=command)


def list_entries(root: str, *, backbone: str | None = None, split: str | None = None, as_json: bool = False) -> int:
    """Print the matrices of a store."""
    output.print_entries(output.chosen(root, backbone, split), as_json)
    return 0


def show_info(root: str, *, backbone: str | None = None, split: str | None = None, as_json: bool = False) -> int:
    """Print what identifies each pass of a store, and what it holds."""
    from featstore.store import open_store

    store = open_store(root)
    entries = output.chosen(root, backbone, split)
    shown = []
    for folder in store.passes():
        mine = [e for e in entries if e.pass_id == folder.id]
        if mine:
            shown.append(_described(folder, mine))
    total = sum(e.n_bytes for e in entries if e.is_complete)
    if as_json:
        print(json.dumps({"root": str(root), "n_bytes": total, "passes": shown}, indent=1))
        return 0
    counts = output.count(len(shown), "pass", "passes"), output.count(len(entries), "matrix", "matrices")
    print(f"{root}: {', '.join(counts)}, {output.size(total)}")
    for one in shown:
        print(f"\npass {one['pass']}")
        output.print_tree({k: one[k] for k in ("splits", "targets", "key", "provenance")}, "  ")
        for array in one["arrays"]:
            shape = "×".join(map(str, array["shape"]))
            state = ", damaged" if array["damage"] else "" if array["is_complete"] else ", incomplete"
            print(output.printable(f"  unit {array['unit']}: {array['pool']}, {array['dtype']}, {shape}{state}"))
    output.explain_damage(entries)
    return 0


def _described(folder: PassFolder, entries: list[Entry]) -> dict[str, Any]:
    """Return all that is said about a pass; empty where it is damaged."""
    from featstore.errors import FeatstoreError

    said: dict[str, Any] = {"pass": folder.id, "key": {}, "splits": [], "targets": [], "provenance": {}}
    with suppress(FeatstoreError):
        said["key"] = folder.key().to_json()
    with suppress(FeatstoreError):
        said["splits"] = list(folder.names())
    with suppress(FeatstoreError):
        said["provenance"] = dict(folder.provenance())
    return {**said, "targets": list(folder.target_names()), "arrays": [e.to_json() for e in entries]}
