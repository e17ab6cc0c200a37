"""``featstore datasets``: which data sets have a name, how large they are, and what must be fetched."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.cli import output

if TYPE_CHECKING:
    from featstore.datasets.catalogue import Record


def add(commands: Any) -> None:
    """Add the subcommand."""
    sub = commands.add_parser(
        "datasets",
        argument_default=argparse.SUPPRESS,
        help="list the data sets that have a name, or say all about one",
        description="List the data sets that have a name with sizes, metric and how to get them; or say all about one.",
    )
    sub.add_argument("name", nargs="?", metavar="NAME", help="all about this one")
    sub.add_argument("--data-root", type=Path, help="with --download: where to put it")
    sub.add_argument("--download", action="store_true", help="fetch NAME, where torchvision knows how")
    output.add_json(sub)
    sub.set_defaults(command=command)


def command(
    name: str | None = None, *, data_root: Path | None = None, download: bool = False, as_json: bool = False
) -> int:
    """Print one record or all, or fetch one."""
    from featstore.datasets.catalogue import find_record, records
    from featstore.errors import BadInput

    if download:
        from featstore.datasets.downloads import download as fetch

        if name is None or data_root is None:
            raise BadInput("--download needs the name of a data set and --data-root, the folder to put it into.")
        fetch(find_record(name), data_root)
        return 0
    if name is not None:
        record = find_record(name)
        print(json.dumps(record.to_json(), indent=1, ensure_ascii=False)) if as_json else _print_one(record)
        return 0
    if as_json:
        print(json.dumps([record.to_json() for record in records()], indent=1, ensure_ascii=False))
    else:
        _print_all(records())
    return 0


def _print_all(records: tuple[Record, ...]) -> None:
    head = ("name", "data set", "papers", "classes", "train", "val", "test", "metric", "to get it")
    rows = [head, *(_row(record) for record in records)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        cells = [c.rjust(w) if 3 <= i <= 6 else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        print("  ".join(cells).rstrip())
    print("\n`featstore datasets NAME` says what to put where, which splits there are, and what goes wrong.")


def _row(record: Record) -> tuple[str, ...]:
    how = "--download" if record.can_download else "by hand" if record.layout else "nothing to do"
    papers = ", ".join(p.partition(" ")[0] for p in record.papers)
    protocol = record.protocol
    sizes = (_size_of(record, side) for side in (protocol.train, protocol.val, protocol.test))
    classes = f"{record.n_classes}{' labels' if record.is_multi_label else ''}"
    return record.name, record.title, papers, classes, *sizes, record.metric, how


def _size_of(record: Record, side: str) -> str:
    """Return the published size of a split; of a part of one, which part."""
    base, _, part = side.partition("#")
    n = record.sizes.get(base)
    if n is None:
        return "?"
    if not part:
        return f"{n:,}"
    held = float(part.partition("(")[2].partition(",")[0])
    return f"~{round(n * (held if part.startswith('held') else 1 - held), -1):,.0f}"


def _print_one(record: Record) -> None:
    protocol = record.protocol
    sizes = ", ".join(f"{split} {n:,}" for split, n in record.sizes.items())
    lines = [
        ("papers", ", ".join(record.papers) or "none"),
        ("classes", f"{record.n_classes}{', several per image' if record.is_multi_label else ''}"),
        ("metric", record.metric),
        ("splits", ", ".join(f"{record.name}:{split}" for split in record.splits)),
        ("variants", f"{', '.join(record.variants)} ({record.variant_of}); {record.variants[0]} if none is named"
         if record.variants else "none"),
        ("sizes", sizes or "not published"),
        ("choose C on", f"{record.name}:{protocol.train} → {record.name}:{protocol.val}"),
        ("report", f"{record.name}:{protocol.refit} → {record.name}:{protocol.test}"),
        ("rule", protocol.rule),
        ("to get it", record.instruction() if record.layout else record.source),
        ("licence", record.licence),
        *(("trap", trap) for trap in record.traps),
    ]  # fmt: skip
    print(f"{record.name}: {record.title}")
    for name, text in lines:
        print(f"  {name.ljust(11)}  {text}")
