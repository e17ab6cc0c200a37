"""``probe path``: one path of penalties on a feature matrix, with the certificate of every fit."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path
from typing import Any

from probe import tables
from probe.cli import output
from probe.errors import BadInput

COLUMNS = ("C", "objective", "gap", "grad_norm", "status", "n_iter", "passes", "val")


def add(commands: Any) -> None:
    """Add the subcommand."""
    sub = commands.add_parser(
        "path",
        argument_default=argparse.SUPPRESS,
        help="fit one path on a feature matrix and print every fit's certificate",
        description="Fit all penalties on one feature matrix: an npz file with arrays X (n, d) and y (n,), or a unit "
        "of a store.",
    )
    sub.add_argument("source", metavar="SOURCE", help="npz file with X and y, or folder or URL of a store")
    sub.add_argument("--unit", help="of the store")
    sub.add_argument("--train", metavar="SPLIT", help="of the store")
    sub.add_argument("--val", metavar="VAL", help="npz file with X and y, or a split of the store, to choose C on")
    sub.add_argument("--backbone", help="of the store, where several are stored")
    sub.add_argument("--pool", help="of the store, where several are stored")
    sub.add_argument(
        "--dtype", choices=("float16", "float32", "bfloat16"), help="of the store, where several are stored"
    )
    sub.add_argument("--metric", help="accuracy, mean_per_class, … of probe.metrics")
    sub.add_argument(
        "--C",
        type=output.penalties,
        metavar="C",
        help="inverse penalties, 0.1,1,10, or a grid of the papers: kornblith, clip, svm (default: kornblith)",
    )
    sub.add_argument("--tol", type=float, help="relative tolerance of every fit's certificate")
    sub.add_argument("--no-intercept", dest="fit_intercept", action="store_false", help="fit none")
    sub.add_argument("--device", help="cpu, cuda, cuda:1, …")
    sub.add_argument(
        "--memory", type=float, metavar="BYTES", help="stream features that take more than this, 4e9 for example"
    )
    sub.add_argument("--json", dest="as_json", action="store_true", help="print JSON for programs")
    sub.set_defaults(command=command)


def command(source: str, *, val: str | None = None, as_json: bool = False, **options: Any) -> int:
    """Fit, choose where there is validation data, print a line per penalty."""
    from probe import metrics
    from probe.path import fit_path
    from probe.selection import select

    stored = {name: options.pop(name) for name in ("unit", "train", "backbone", "pool", "dtype") if name in options}
    metric = metrics.get(options.pop("metric", metrics.accuracy.name))
    (X, y), held = _data(source, val, **stored)
    fitted = fit_path(X, y, **options)
    choice = None if held is None else select(fitted, *held, metric=metric, memory=options.get("memory"))
    rows = [
        {
            "C": float(fitted.C[i]),
            "objective": float(fitted.objective[i]),
            "gap": float(fitted.gap[i]),
            "grad_norm": float(fitted.grad_norm[i]),
            "status": str(fitted.status[i].value),
            "n_iter": int(fitted.n_iter[i]),
            "passes": int(fitted.passes[i]),
            "val": None if choice is None else float(choice.scores[i]),
            "chosen": choice is not None and i == int(choice.index),
        }
        for i in range(len(fitted.C))
    ]
    summary = {"n": int(X.shape[0]), "d": int(X.shape[1]), "k": len(fitted.classes), "seconds": float(fitted.seconds)}
    if as_json:
        output.print_json({**summary, "metric": metric.name, "path": rows})
    else:
        print(f"{summary['n']:,} rows, {summary['d']:,} features, {summary['k']} classes; metric {metric.name}")
        print(_table(rows))
        print(_conclusion(rows, summary["seconds"], at_edge=choice is not None and bool(choice.at_edge)))
    return 0


def _data(source: str, val: str | None, **stored: str) -> tuple[tuple[Any, Any], tuple[Any, Any] | None]:
    """Features and labels of train and, where there is one, val."""
    if "://" not in source and not Path(source).is_dir():
        if stored:
            raise BadInput(
                f"{', '.join('--' + name for name in stored)} belong to a store, but '{source}' is no folder."
            )
        return _npz(Path(source)), None if val is None else _npz(Path(val))
    import featstore

    store = featstore.open_store(source)
    missing = [f"--{name}" for name in ("unit", "train") if name not in stored]
    if missing:
        raise BadInput(f"'{source}' is a store: say which features of it with {' and '.join(missing)}.")
    unit, train = stored.pop("unit"), stored.pop("train")
    matrices = [store.features(unit, name, **stored) for name in (train, val) if name is not None]
    for matrix in matrices:
        if matrix.labels is None:
            raise BadInput(f"The split '{matrix.split}' has no labels in the store.")
    pairs = [(matrix, matrix.labels) for matrix in matrices]
    return pairs[0], pairs[1] if len(pairs) > 1 else None


def _npz(path: Path) -> tuple[Any, Any]:
    """X and y of an npz file; nothing in it is executed."""
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        if not hasattr(loaded, "files"):
            raise BadInput(f"'{path}' holds one array; save features and labels as X and y with numpy.savez.")
        with loaded as file:
            missing = {"X", "y"} - set(file.files)
            if missing:
                raise BadInput(
                    f"'{path}' has the arrays {', '.join(sorted(file.files)) or 'none'} but not "
                    f"{' and '.join(sorted(missing))}; save features and labels as X and y with numpy.savez."
                )
            return file["X"], file["y"]
    except FileNotFoundError as error:
        raise BadInput(f"There is no file '{path}'.") from error
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"'{path}' is not a readable npz file: {error}.") from error


def _table(rows: list[dict[str, Any]]) -> str:
    has_val = rows[0]["val"] is not None
    header = [*(COLUMNS if has_val else COLUMNS[:-1]), ""]
    cells = []
    for row in rows:
        line = [tables.penalty(row["C"]), f"{row['objective']:.6e}", f"{row['gap']:.1e}", f"{row['grad_norm']:.1e}"]
        line += [row["status"], str(row["n_iter"]), str(row["passes"])]
        line += [tables.number(row["val"])] if has_val else []
        cells.append([*line, "chosen" if row["chosen"] else ""])
    return tables.text_table(header, cells)


def _conclusion(rows: list[dict[str, Any]], seconds: float, *, at_edge: bool) -> str:
    n_converged = sum(row["status"] == "converged" for row in rows)
    n_iter, passes = sum(row["n_iter"] for row in rows), sum(row["passes"] for row in rows)
    text = f"{n_converged} of {len(rows)} converged, {n_iter:,} iterations, {passes:,} passes, {seconds:.2f} s"
    return text + ("; the chosen C is at the edge of the grid, a better one may lie outside" if at_edge else "")
