"""The ``featstore`` command: extract | ls | info | verify.

Each is one library call; results go to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.errors import FeatstoreError

if TYPE_CHECKING:
    from featstore.store import Entry

__all__ = ["main"]

LOADING = ("weights", "cut", "seed", "version")
"""Options of `extract` that belong to `load_backbone`; the others go to `featstore.extract`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 an error of ours, 2 wrong usage, 130 interrupted."""
    arguments = vars(_parser().parse_args(argv))
    command: Callable[..., int] = arguments.pop("command")
    try:
        return command(**arguments)
    except FeatstoreError as error:
        print(f"featstore: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not turn the way out into a traceback
        print(
            "\nfeatstore: interrupted; what was written is kept, and the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:
        # Whoever read our output has left. Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="featstore", description="Extract the features of a network once, and keep them."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_extract(commands)
    for name, command, text in (
        ("ls", list_entries, "list the matrices of a store"),
        ("info", show_info, "show everything that identifies what is in a store"),
        ("verify", verify, "read everything and say what is not as it was written; exit code 1 if anything"),
    ):
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        sub.add_argument("root", type=Path, metavar="STORE", help="folder of the store")
        if name != "verify":
            sub.add_argument("--backbone", help="only this one")
            sub.add_argument("--split", help="only this one")
        sub.add_argument("--json", dest="as_json", action="store_true", help="print JSON for programs")
        sub.set_defaults(command=command)
    return parser


def _add_extract(commands: Any) -> None:
    """Add `extract`. Options that are not given are not passed on, so that their defaults are those of the library."""
    sub = commands.add_parser(
        "extract",
        argument_default=argparse.SUPPRESS,
        help="compute the features that a store lacks",
        description="Compute the features of every unit of a network for the images of some splits, as far as they are missing.",
    )
    sub.add_argument("model", metavar="MODEL", help="timm:NAME, torchvision:NAME, featstore:NAME or package.module:function; "
                     "@path/to/weights may follow")  # fmt: skip
    sub.add_argument("splits", nargs="+", metavar="SPLIT", help="imagefolder:PATH, npz:PATH, cifar10:train, digits:train, … or "
                     "package.module:function; shifts may follow: +blur(2.0)")  # fmt: skip
    sub.add_argument("root", type=Path, metavar="STORE", help="folder of the store; made where there is none")
    sub.add_argument("--weights", help="local file of weights, or 'random'; else those of the hub")
    sub.add_argument("--cut", choices=("coarse", "fine"), help="how the network is cut into units")
    sub.add_argument("--seed", type=int, help="of random weights")
    sub.add_argument(
        "--version", help="your own version of a model or data set that has no content to be identified by"
    )
    sub.add_argument("--data-root", type=Path, help="where the data sets with a name are")
    sub.add_argument("--units", nargs="+", help="names of units; else all up to the penultimate")
    sub.add_argument("--pool", help="how maps become vectors")
    sub.add_argument("--dtype", choices=("float16", "float32"), help="what is stored")
    sub.add_argument("--batch-size", type=int, help="images per forward pass")
    sub.add_argument("--device", help="cpu, cuda, cuda:1, …")
    sub.add_argument("--workers", type=int, help="processes or threads that decode images")
    sub.add_argument(
        "--precision", choices=("fp32", "tf32", "amp-fp16", "amp-bf16"), help="arithmetic of the forward pass"
    )
    sub.add_argument(
        "--skip-unreadable", action="store_true", help="leave out images that do not decode, and record them"
    )
    sub.add_argument("--repair", action="store_true", help="read all that is stored, and compute damaged rows again")
    sub.add_argument("--quiet", dest="progress", action="store_false", help="no progress")
    sub.add_argument("--json", dest="as_json", action="store_true", help="print JSON for programs")
    sub.set_defaults(command=extract)


def extract(model: str, splits: list[str], root: Path, *, as_json: bool = False, **options: Any) -> int:
    """Load the network and the splits, and extract what is missing."""
    import featstore

    loading = {name: options.pop(name) for name in LOADING if name in options}
    if loading.get("weights") == "random":
        loading["weights"] = None
    if "cut" in loading:
        loading["units"] = loading.pop("cut")
    data = {"data_root": options.pop("data_root")} if "data_root" in options else {}
    loaded = [featstore.load_split(spec, **data) for spec in splits]
    backbone = featstore.load_backbone(model, **loading)
    store = featstore.extract(backbone, loaded, root, **options)
    names = {split.name for split in loaded}
    done = [e for e in store.entries() if e.weights_digest == backbone.weights_digest and names & set(e.splits)]
    _print_entries(done, as_json)
    return 0


def list_entries(root: Path, *, backbone: str | None = None, split: str | None = None, as_json: bool = False) -> int:
    """Print the matrices of a store."""
    _print_entries(_chosen(root, backbone, split), as_json)
    return 0


def show_info(root: Path, *, backbone: str | None = None, split: str | None = None, as_json: bool = False) -> int:
    """Print what identifies each pass of a store, and what it holds."""
    from featstore.store import open_store

    store = open_store(root)
    entries = _chosen(root, backbone, split)
    shown: list[dict[str, Any]] = [
        {
            "pass": folder.id,
            "key": folder.key().to_json(),
            "splits": list(folder.names()),
            "targets": list(folder.target_names()),
            "provenance": folder.provenance(),
            "arrays": [e.to_json() for e in entries if e.pass_id == folder.id],
        }
        for folder in store.passes()
        if any(e.pass_id == folder.id for e in entries)
    ]
    total = sum(e.n_bytes for e in entries if e.is_complete)
    if as_json:
        print(json.dumps({"root": str(root), "n_bytes": total, "passes": shown}, indent=1))
        return 0
    print(
        f"{root}: {_count(len(shown), 'pass', 'passes')}, {_count(len(entries), 'matrix', 'matrices')}, {_size(total)}"
    )
    for one in shown:
        print(f"\npass {one['pass']}")
        _print_tree({k: one[k] for k in ("splits", "targets", "key", "provenance")}, "  ")
        for array in one["arrays"]:
            shape, state = "×".join(map(str, array["shape"])), "" if array["is_complete"] else ", incomplete"
            print(f"  unit {array['unit']}: {array['pool']}, {array['dtype']}, {shape}{state}")
    return 0


def verify(root: Path, *, as_json: bool = False) -> int:
    """Read a store whole and print what is wrong with it."""
    from featstore.store import open_store

    begun = time.monotonic()

    def progress(done: int, total: int) -> None:
        if time.monotonic() - begun > 2 and sys.stderr.isatty():
            print(
                f"\rfeatstore: {_size(done)} of {_size(total)} read", end="\n" if done == total else "", file=sys.stderr
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
        size = _size(sum(e.n_bytes for e in entries if e.is_complete))
        whole = _count(len(entries) - n_open, "matrix is as it was", "matrices are as they were")
        print(f"{whole} written ({size}){more}")
    if problems:
        print(
            f"featstore: error: {_count(len(problems), 'problem', 'problems')} in {root}. Run the command that extracted it "
            "again with --repair: only damaged rows are computed again.",
            file=sys.stderr,
        )
    return 1 if problems else 0


def _chosen(root: Path, backbone: str | None, split: str | None) -> list[Entry]:
    """Return the entries of a store, of one backbone or split if asked; an unknown name is an error that knows the nearest."""
    from featstore.errors import UnknownName
    from featstore.store import open_store

    entries = open_store(root).entries()
    if backbone is not None and not any(e.backbone == backbone for e in entries):
        raise UnknownName(f"backbone in {root}", backbone, dict.fromkeys(e.backbone for e in entries))
    if split is not None and not any(split in e.splits for e in entries):
        raise UnknownName(f"split in {root}", split, dict.fromkeys(name for e in entries for name in e.splits))
    return [e for e in entries if backbone in (None, e.backbone) and (split is None or split in e.splits)]


def _print_entries(entries: list[Entry], as_json: bool) -> None:
    if as_json:
        print(json.dumps([entry.to_json() for entry in entries], indent=1))
        return
    head = ("backbone", "weights", "split", "unit", "pool", "dtype", "n", "d", "size", "complete")
    rows = [
        (
            e.backbone,
            e.weights_digest[:8],
            e.split,
            e.unit,
            e.pool,
            e.dtype,
            str(e.shape[0]),
            "×".join(map(str, e.shape[1:])),
            _size(e.n_bytes),
            e.created or "no",
        )
        for e in entries
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        cells = [
            c.rjust(w) if h in ("n", "d", "size") else c.ljust(w) for c, w, h in zip(row, widths, head, strict=True)
        ]
        print("  ".join(cells).rstrip())


def _print_tree(value: dict[str, Any], indent: str) -> None:
    for name, inner in value.items():
        if isinstance(inner, dict):
            print(f"{indent}{name}:")
            _print_tree(inner, indent + "  ")
        else:
            print(f"{indent}{name}: {', '.join(map(str, inner)) if isinstance(inner, list) else inner}")


def _count(n: int, one: str, several: str) -> str:
    return f"{n} {one if n == 1 else several}"


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} GB"
