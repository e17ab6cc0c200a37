"""What the commands share: arguments, choosing entries, and printing them."""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featstore.store import Entry

SHOWN_DIGITS = 8
"""Of a digest, in tables; more can be given, and fewer where they suffice."""


def add_store(sub: argparse.ArgumentParser, *, is_read: bool = True) -> None:
    """Add the argument that names a store; those that are only read may lie at a URL."""
    sub.add_argument(
        "root", metavar="STORE", help="folder of the store, or its URL" if is_read else "folder of the store"
    )


def add_json(sub: argparse.ArgumentParser) -> None:
    """Add the option for programs."""
    sub.add_argument("--json", dest="as_json", action="store_true", help="print JSON for programs")


def add_makers(sub: argparse.ArgumentParser) -> None:
    """Add what says which network and images a store was made of, where its names do not lead back to them."""
    sub.add_argument("--backbone", default=argparse.SUPPRESS, metavar="MODEL", help="the network, where its name in the "
                     "store does not lead back to it; @path/to/weights may follow")  # fmt: skip
    sub.add_argument("--split", dest="splits", nargs="+", default=argparse.SUPPRESS, help="the splits, likewise")
    for name, text in (("--weights", "local file of weights, or 'random'"), ("--data-root", "where the data sets are"),
                       ("--version", "the one that was given"), ("--device", "cpu, cuda, …")):  # fmt: skip
        sub.add_argument(name, default=argparse.SUPPRESS, help=text)
    sub.add_argument("--cut", choices=("coarse", "fine"), default=argparse.SUPPRESS, help="how the network was cut")
    for name, text in (("--seed", "of random weights"), ("--workers", "threads that decode images")):
        sub.add_argument(name, type=int, default=argparse.SUPPRESS, help=text)


def makers_of(root: str, options: dict[str, Any]) -> dict[str, Any]:
    """Take the options of `add_makers` and return the arguments of the library that they stand for.

    Options of loading without a backbone belong to the one that the store has.
    """
    import featstore
    from featstore.errors import Ambiguous

    data = {"data_root": options["data_root"]} if "data_root" in options else {}
    loading: dict[str, Any] = {
        name: options.pop(name) for name in ("weights", "cut", "seed", "version") if name in options
    }
    names = [options.pop("backbone")] if "backbone" in options else []
    if loading and not names:
        names = list(
            dict.fromkeys(e.backbone for e in featstore.open_store(root).entries(damaged=True) if not e.damage)
        )
        if len(names) != 1:
            given, known = ", ".join(f"--{name}" for name in loading), ", ".join(names[:12]) or "none that can be read"
            raise Ambiguous(
                f"{given} belongs to one network, and {root} has {len(names)} ({known}); say which with --backbone."
            )
    if loading.get("weights") == "random":
        loading["weights"] = None
    if "cut" in loading:
        loading["units"] = loading.pop("cut")
    splits = [featstore.load_split(spec, **data) for spec in options.pop("splits", [])]
    backbones = [featstore.load_backbone(name, **loading) for name in names]
    return {**options, "backbones": backbones, "splits": splits}


def fitting(root: str, choice: dict[str, str | None]) -> list[Entry]:
    """Return the entries that fit a choice of names; one that nothing has is an error that knows the nearest."""
    from featstore.errors import UnknownName

    found = chosen(root, choice["backbone"], choice["split"])
    for what in ("unit", "pool", "dtype"):
        name = choice[what]
        if name is not None:
            known = dict.fromkeys(getattr(e, what) for e in found)
            if name not in known:
                raise UnknownName(f"{what} in {root}", name, known)
            found = [e for e in found if getattr(e, what) == name]
    digits = choice["pass_id"]
    if digits is not None:
        known = dict.fromkeys(e.pass_id[:SHOWN_DIGITS] for e in found)
        found = [e for e in found if e.pass_id.startswith(digits)]
        if not found:
            raise UnknownName(f"pass in {root}", digits, known)
    return found


def chosen(root: str, backbone: str | None, split: str | None) -> list[Entry]:
    """Return the entries of a store, of one backbone or split if asked; an unknown name is an error that knows the nearest."""
    from featstore.errors import UnknownName
    from featstore.store import open_store

    entries = open_store(root).entries(damaged=True)
    if backbone is not None and not any(e.backbone == backbone for e in entries):
        raise UnknownName(f"backbone in {root}", backbone, dict.fromkeys(e.backbone for e in entries))
    if split is not None and not any(split in e.splits for e in entries):
        raise UnknownName(f"split in {root}", split, dict.fromkeys(name for e in entries for name in e.splits))
    return [e for e in entries if backbone in (None, e.backbone) and (split is None or split in e.splits)]


def print_entries(entries: list[Entry], as_json: bool) -> None:
    """Print matrices as a table, or as JSON; what is damaged is explained on stderr."""
    if as_json:
        print(json.dumps([entry.to_json() for entry in entries], indent=1))
        return
    head = ("backbone", "weights", "pass", "split", "unit", "pool", "dtype", "n", "d", "size", "complete", "made by")
    rows = [
        (
            printable(e.backbone),
            e.weights_digest[:SHOWN_DIGITS],
            e.pass_id[:SHOWN_DIGITS],
            printable(e.split),
            printable(e.unit),
            printable(e.pool),
            e.dtype,
            str(e.shape[0]) if e.shape else "?",
            "×".join(map(str, e.shape[1:])),
            size(e.n_bytes),
            state(e),
            printable(e.made_by),
        )
        for e in entries
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        cells = [
            c.rjust(w) if h in ("n", "d", "size") else c.ljust(w) for c, w, h in zip(row, widths, head, strict=True)
        ]
        print("  ".join(cells).rstrip())
    explain_damage(entries)


def state(entry: Entry) -> str:
    """Say since when a matrix is complete, or how much of it is there."""
    if entry.damage:
        return "damaged"
    return entry.created or "yes" if entry.is_complete else f"no, {math.floor(100 * entry.share)} %"


def explain_damage(entries: list[Entry]) -> None:
    """Say on stderr why entries are damaged."""
    for entry in entries:
        if entry.damage:
            print(f"featstore: {printable(entry.damage)}", file=sys.stderr)


def printable(text: str) -> str:
    """Return text as a terminal may show it: a name that comes out of a store could hold orders to the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_tree(value: dict[str, Any], indent: str) -> None:
    """Print what a dictionary holds, one name a line."""
    for name, inner in value.items():
        if isinstance(inner, dict):
            print(f"{indent}{name}:")
            print_tree(inner, indent + "  ")
        else:
            text = ", ".join(map(str, inner)) if isinstance(inner, list) else str(inner)
            print(f"{indent}{printable(name)}: {printable(text)}")


def count(n: int, one: str, several: str) -> str:
    """Say a number of things."""
    return f"{n} {one if n == 1 else several}"


def size(n_bytes: float) -> str:
    """Say a number of bytes."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"
