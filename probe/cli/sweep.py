"""``probe sweep``: every unit of a stored network along a path of penalties."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from probe.classifiers import CLASSIFIERS
from probe.cli import output
from probe.errors import BadInput


def add(commands: Any) -> None:
    """Add the subcommand."""
    sub = commands.add_parser(
        "sweep",
        argument_default=argparse.SUPPRESS,
        help="probe every unit of a stored network; what is finished is never computed again",
        description="For every unit and seed: fit the path of penalties on train, choose one on val, fit it again on "
        "both, read test once, and keep a record.",
    )
    sub.add_argument("store", metavar="STORE", help="folder that `featstore extract` filled")
    sub.add_argument("--train", required=True, metavar="SPLIT", help="name of a stored split")
    sub.add_argument(
        "--val",
        type=output.split_or_fraction,
        metavar="SPLIT",
        help="a stored split, or the share of train to hold out: 0.2",
    )
    sub.add_argument("--test", metavar="SPLIT", help="a stored split; read once")
    sub.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="where the records are kept")
    sub.add_argument(
        "--units", type=output.names, help="some of the stored units: layer1,layer2; else all but the head"
    )
    sub.add_argument(
        "--C",
        type=output.penalties,
        metavar="C",
        help="0.1,1,10, or a grid of the papers: kornblith, clip, svm (default: kornblith; for the classifier svm, svm)",
    )
    sub.add_argument("--seeds", type=output.whole_numbers, help="how many, or which: 5 or 0,3,7")
    sub.add_argument("--per-class", type=int, metavar="K", help="few-shot: train on K rows of each class")
    sub.add_argument("--widen", action="store_true", help="try values beyond the grid while the best is at its edge")
    sub.add_argument("--classifier", choices=tuple(CLASSIFIERS), help="what is fitted (default: logistic)")
    sub.add_argument("--metric", help="accuracy, mean_per_class, … of probe.metrics")
    refit = sub.add_mutually_exclusive_group()
    refit.add_argument("--refit", action="store_true", help="fit the chosen penalty again on train + val")
    refit.add_argument("--no-refit", dest="refit", action="store_false", help="test the model that val chose")
    sub.add_argument("--backbone", help="where several are stored: a name, or the beginning of a weights digest")
    sub.add_argument("--pool", help="where several are stored")
    sub.add_argument("--dtype", choices=("float16", "float32", "bfloat16"), help="where several are stored")
    sub.add_argument("--tol", type=float, help="relative tolerance of every fit's certificate")
    sub.add_argument("--device", help="cpu, cuda, cuda:1, …")
    sub.add_argument(
        "--memory",
        type=float,
        metavar="BYTES",
        help="stream features of a unit that take more than this, 4e9 for example",
    )
    sub.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that fits the units: tcp://host:8786")
    sub.add_argument("--plot", type=Path, metavar="FILE", help="draw accuracy against depth into this file")
    sub.add_argument(
        "--thumbnails", action="store_true", help="keep small images of the test split, about 3 kB each, for reports"
    )
    sub.add_argument("--data-root", type=Path, metavar="FOLDER", help="where data sets are, for --thumbnails")
    sub.add_argument("--quiet", dest="progress", action="store_false", help="no progress")
    sub.add_argument("--json", dest="as_json", action="store_true", help="print JSON for programs")
    sub.set_defaults(command=command)


def command(
    store: str,
    *,
    as_json: bool = False,
    plot: Path | None = None,
    thumbnails: bool = False,
    data_root: Path | None = None,
    **options: Any,
) -> int:
    """Sweep, print the table, draw it and keep small images where asked."""
    from probe import plots, results, sweeps

    if thumbnails and not options.get("test"):
        raise BadInput("--thumbnails keeps images of the test split; name one with --test.")
    found = sweeps.sweep(store, **options)
    if thumbnails:
        _keep(found.folder.path, options["test"], data_root)
    if as_json:
        rows = [results.row(record) for record in found]
        output.print_json({"n_fitted": found.n_fitted, "n_reused": found.n_reused, "records": rows})
    else:
        print(found.text())
    if plot is not None:
        plots.save(plots.accuracy_by_depth(found.table()), plot)
    return 0


def _keep(folder: Path, name: str, data_root: Path | None) -> None:
    import featstore
    from probe.thumbnails import keep_thumbnails

    split = featstore.load_split(name, data_root=data_root)
    path = keep_thumbnails(folder, split)
    print(f"probe: thumbnails of {len(split):,} images: {path}, {path.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
