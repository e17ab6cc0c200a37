"""The whole 45-value path against scikit-learn, at equal suboptimality, on real features; and what one call saves.

    python benchmarks/bench_path.py --prepare                    make the features once, from ../shared
    python benchmarks/bench_path.py --cold --out runs/bench      every row of the table
    python benchmarks/bench_path.py --problems pairs --parts sets --threads 2
    python benchmarks/bench_path.py --problems digits --tiny     a few seconds, for the tests; the figures mean little

Parts, each a row with its target (`--parts`; without it, those that `PARTS` lists for a problem):

warm        scikit-learn's L-BFGS walks from strong to weak, each value from where the one before ended
cold        45 independent fits from zero, as DINOv2 does it
sets        ten label sets of one feature matrix in one call of `probe.fit_paths`, against ten calls of `probe.fit_path`;
            and in one call whose problems are dealt to as many processes as the ten calls have threads (`n_jobs`)
folds       the same with ten folds
streaming   from a store, with memory for a quarter of the matrix, against the same in memory
again       a `probe.sweep` whose results are there already, in milliseconds

Both sides get the same number of BLAS threads, and the same bar: a rival is stopped, per value, when its float64 certificate is
as good as ours (or at a gap of 1e-4, where ours is better than that; ``--bar 0`` asks for exactly ours), or when its allowance,
``--patience`` times our time for the whole path, is used up (without it, 1.25 times the target). Its ratio is then behind ``>``: a
lower bound. `path_certificates` says how certificates are computed, `path_rivals` how tolerances are aimed.

``--out`` keeps JSON with the environment, and draws, per problem, the certified gap along the path, and the mean suboptimality
against time: the geometric mean over all values of ``(F − F_best) / F_best``, from 1e-8 up, where F_best is the best that anyone
found, and values that are not reached yet count with their intercepts alone. A rival has a point after each of its attempts;
we have one for the whole path and, as nobody can look into a call, one for each of four calls with the first 9, 18, 27 and 36
values.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from path_certificates import BAR, val_accuracy
from path_drawings import draw, suboptimality
from path_parts import Measured, again, ours, quiet, streaming, together
from path_problems import EXPECTED_S, SOURCES, Problem, is_prepared, load_problem, prepare
from path_rivals import Rival, Task, Walked, walk
from path_tables import HEADER, Row, environment, line, row_of, verdict

import probe
from probe.engines import fit_sklearn

TARGETS = {
    "digits": {"warm": 10.0},
    "pacs-art": {"warm": 20.0},
    "pacs-sketch": {"warm": 20.0},
    "cifar10-resnet56": {"warm": 10.0},
    "pairs": {"warm": 20.0},
}
"""Times our seconds; the other parts have the same target everywhere, see `path_parts`."""
COLD = 40.0

PARTS = {
    "digits": ("warm", "sets", "folds", "again"),
    "pacs-art": ("warm",),
    "pacs-sketch": ("warm", "sets", "folds", "streaming"),
    "cifar10-resnet56": ("warm", "streaming"),
    "pairs": ("warm", "sets", "streaming"),
}
EVERY_PART = ("warm", "cold", "sets", "folds", "streaming", "again")


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    patience: float | None
    bar: float
    is_drawn: bool


def against_sklearn(mine: Measured, options: Options, *, warm: bool) -> tuple[Row, Walked]:
    """Its default solver along the path."""
    problem = mine.problem
    target = TARGETS[problem.name]["warm"] if warm else COLD
    rival = Rival(
        f"scikit-learn lbfgs, {'warm' if warm else 'cold'}", fit_sklearn,
        (problem.X, problem.X.astype(np.float64)), is_warm=warm,
    )  # fmt: skip
    patience = 1.25 * target if options.patience is None else options.patience
    task = Task(
        problem.y, mine.C, np.maximum(mine.walked.gaps, options.bar), mine.path.objective / mine.C,
        patience * mine.walked.seconds, mine.certify, val_accuracy(problem.X_val, problem.y_val, np.unique(problem.y)),
    )  # fmt: skip
    walked = walk(rival, task)
    ratio = walked.seconds / mine.walked.seconds
    is_bound = bool((walked.gaps > np.maximum(task.asked, 1e-15)).any())
    ruling = verdict(ratio, target, is_bound=is_bound, is_certified=mine.row.n_certified == mine.row.n_values)
    row = row_of(problem.name, rival.name, problem.shape, walked, mine.C)
    n_fitted = sum(proof is not None for proof in walked.proofs)
    note = "" if n_fitted == len(mine.C) else f"reached {n_fitted} of {len(mine.C)} values"
    return replace(row, ratio=ratio, is_bound=is_bound, target=target, verdict=ruling, note=note), walked


def reckon(names: Sequence[str], parts: dict[str, tuple[str, ...]], patience: float | None, tiny: bool) -> str:
    """How long it is going to take at most, as an order of magnitude, from figures of two cores."""
    lines, total = [], 0.0
    for name in names:
        targets = {"warm": TARGETS[name]["warm"], "cold": COLD}
        rival = {p: 1.25 * t if patience is None else patience for p, t in targets.items()}
        factor = 1 + sum(
            {**rival, "sets": 10.0, "folds": 13.0, "streaming": 2.0}.get(part, 0.2) for part in parts[name]
        )
        ours_s = 0.1 if tiny else EXPECTED_S[name]
        total += factor * ours_s
        lines.append(
            f"  {name:17} ours about {ours_s:g} s, with {', '.join(parts[name])} at most about {factor * ours_s:.0f} s"
        )
    return "\n".join(["Order of magnitude, two cores:", *lines, f"  in all at most about {total / 60:.1f} minutes"])


def run(problem: Problem, parts: Sequence[str], C: np.ndarray, options: Options) -> tuple[list[Row], dict[str, Any]]:
    """All rows of a problem, printed as they come, and what is drawn of it."""
    rows: list[Row] = []

    def show(row: Row) -> None:
        print(line(row), flush=True)
        rows.append(row)

    mine = ours(problem, C)
    show(mine.row)
    rivals: dict[str, Walked] = {}
    for part in parts:
        if part in ("warm", "cold"):
            row, walked = against_sklearn(mine, options, warm=part == "warm")
            show(row)
            rivals[row.solver] = walked
        elif part in ("sets", "folds"):
            for row in together(mine, part):
                show(row)
        else:
            show(streaming(mine) if part == "streaming" else again(mine))
    drawn: dict[str, Any] = {"problem": problem.name, "C": C.tolist()}
    if options.is_drawn:
        every = {"probe": mine.walked, **rivals}
        drawn["gaps"] = {name: [g if np.isfinite(g) else None for g in w.gaps] for name, w in every.items()}
        drawn["suboptimality"] = suboptimality(mine, rivals)
        drawn["attempts"] = {name: [asdict(event) for event in walked.events] for name, walked in rivals.items()}
    return rows, drawn


def warm_up() -> None:
    """Import what both sides import at their first fit."""
    X, y = np.eye(6, dtype=np.float32), np.arange(6) % 3
    with quiet():
        probe.fit_path(X, y, [1.0])
    from sklearn.linear_model import LogisticRegression

    LogisticRegression().fit(X, y)


def keep(out: Path, rows: list[Row], drawn: list[dict[str, Any]], asked: argparse.Namespace, threads: int) -> None:
    """Write what is known so far, whole or not at all."""
    arguments = {key: str(value) if isinstance(value, Path) else value for key, value in vars(asked).items()}
    found = {
        "environment": environment(threads), "arguments": arguments, "rows": [asdict(r) for r in rows], "drawn": drawn
    }  # fmt: skip
    aside = out / "bench_path.json.partial"
    aside.write_text(json.dumps(found, indent=1))
    aside.replace(out / "bench_path.json")
    draw(
        [
            {**one, "gaps": {k: [np.nan if g is None else g for g in v] for k, v in one["gaps"].items()}}
            for one in drawn
        ],
        out / "bench_path.png",
    )


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=list(TARGETS), help="default: those whose features are there")
    parser.add_argument("--parts", nargs="+", choices=EVERY_PART, help="of every problem; default: see PARTS")
    parser.add_argument("--cold", action="store_true", help="also 45 independent cold fits, on every problem")
    parser.add_argument("--prepare", action="store_true", help="make the features, and do nothing else")
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[2] / "shared")
    parser.add_argument("--features", type=Path, default=Path("runs/bench/features"))
    parser.add_argument("--patience", type=float, help="allowance of a rival, in multiples of our time")
    parser.add_argument("--bar", type=float, default=BAR, help="gap a rival need not go below")
    parser.add_argument("--threads", type=int, help="of BLAS, for both sides; default: what it takes by itself")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    from threadpoolctl import threadpool_info, threadpool_limits

    asked = arguments(argv)
    if asked.prepare:
        for name in asked.problems or SOURCES:
            if name in SOURCES:
                prepare(name, asked.shared, asked.features, tiny=asked.tiny)
        return 0
    absent = [name for name in asked.problems or TARGETS if not is_prepared(name, asked.features, asked.tiny)]
    if absent:
        print(f"no features of {', '.join(absent)} in {asked.features}; --prepare makes them", file=sys.stderr)
        if asked.problems:
            return 1
    names = [name for name in asked.problems or TARGETS if name not in absent]
    cold = ("cold",) if asked.cold else ()
    parts = {name: tuple(dict.fromkeys((*(asked.parts or PARTS[name]), *cold))) for name in names}
    print(reckon(names, parts, asked.patience, asked.tiny), flush=True)
    C = probe.C_GRID[::6] if asked.tiny else probe.C_GRID
    options = Options(asked.patience, asked.bar, asked.out is not None)
    warm_up()  # BLAS libraries are limited once they are loaded
    rows: list[Row] = []
    drawn: list[dict[str, Any]] = []
    with threadpool_limits(limits=asked.threads):
        threads = max((found["num_threads"] for found in threadpool_info()), default=1)
        print(f"{threads} threads\n{HEADER}", flush=True)
        for name in names:
            more, one = run(load_problem(name, asked.features, asked.tiny), parts[name], C, options)
            rows += more
            drawn.append(one)
            if asked.out is not None:
                asked.out.mkdir(parents=True, exist_ok=True)
                keep(asked.out, rows, drawn, asked, threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
