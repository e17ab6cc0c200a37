"""The whole 45-value path against scikit-learn, at equal suboptimality, on real features; and what one call saves.

    python benchmarks/bench_path.py --prepare                    make the features once, from ../shared
    python benchmarks/bench_path.py --cold --out runs/bench      every row of the table
    python benchmarks/bench_path.py --problems pairs --parts sets --threads 2
    python benchmarks/bench_path.py --problems digits --tiny     a few seconds, for the tests; the figures mean little

Parts, each a row with its target (`--parts`; without it, those that `PARTS` lists for a problem):

warm        scikit-learn's L-BFGS walks from strong to weak, each value from where the one before ended
cold        45 independent fits from zero, as DINOv2 does it
sets        ten label sets of one feature matrix in one call of `probe.fit_paths`, against ten calls of `probe.fit_path`
folds       the same with ten folds
streaming   from a store, with memory for a quarter of the matrix, against the same in memory
again       a `probe.sweep` whose results are there already, in milliseconds

Both sides get the same number of BLAS threads, and the same bar: a rival is stopped, per value, when its float64 certificate is
as good as ours (or at a gap of 1e-4, where ours is better than that; ``--bar 0`` asks for exactly ours), or when its allowance,
``--patience`` times our time for the whole path, is used up. Its ratio is then behind ``>``: a lower bound. `path_measures` says
how certificates are computed and how tolerances are aimed. Without ``--patience`` the allowance is 1.25 times the target.

``--out`` keeps JSON with the environment, and draws, per problem, the certified gap along the path, and the mean suboptimality
against time: the geometric mean over all values of ``(F − F_best) / F_best``, from 1e-8 up, where F_best is the best that anyone
found, and values that are not reached yet count with their intercepts alone. A rival has a point after each of its attempts;
we have one for the whole path and, as nobody can look into a call, one for each of four calls with the first 9, 18, 27 and 36
values.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from path_measures import (
    BAR,
    HEADER,
    Certifier,
    Proof,
    Rival,
    Row,
    Task,
    Walked,
    certifier,
    environment,
    line,
    row_of,
    val_accuracy,
    verdict,
    walk,
)
from path_problems import EXPECTED_S, SOURCES, Problem, fold_rows, is_prepared, label_sets, load_problem, prepare

import probe
from probe.engines import fit_sklearn

TARGETS = {
    "digits": {"warm": 10.0},
    "pacs-art": {"warm": 20.0},
    "pacs-sketch": {"warm": 20.0},
    "cifar10-resnet56": {"warm": 10.0},
    "pairs": {"warm": 20.0},
}
"""Times our seconds; the other parts have the same target everywhere."""
COLD, ONE_CALL, STREAMING, MOST_READS, AGAIN_MS = 40.0, 3.0, 0.6, 300, 50.0

PARTS = {
    "digits": ("warm", "sets", "folds", "again"),
    "pacs-art": ("warm",),
    "pacs-sketch": ("warm", "sets", "folds", "streaming"),
    "cifar10-resnet56": ("warm", "streaming"),
    "pairs": ("warm", "sets", "streaming"),
}
EVERY_PART = ("warm", "cold", "sets", "folds", "streaming", "again")
_REPEAT_BELOW_S = 1.0  # shorter paths are timed three times, and the median counts


@dataclass(frozen=True, eq=False)
class Measured:
    """Our own path over a problem, which everything is compared with."""

    problem: Problem
    C: np.ndarray
    path: probe.Path
    walked: Walked
    row: Row
    certify: Certifier


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    patience: float | None
    bar: float
    is_drawn: bool


@contextmanager
def quiet() -> Iterator[None]:
    """Fits that fall short are seen in the table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", probe.NotConverged)
        yield


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call and what it returned; of a short one the median of three."""
    took: list[float] = []
    with quiet():
        while len(took) < (1 if took and took[0] > _REPEAT_BELOW_S else 3):
            started = time.perf_counter()
            found = call()
            took.append(time.perf_counter() - started)
    return float(np.median(took)), found


def reads(paths: Sequence[probe.Path]) -> int:
    """Products with X in all. Paths of one batch share theirs, and its seconds tell which these are."""
    return sum(n for n, _ in {(path.reads, path.seconds) for path in paths})


def proofs_of(path: probe.Path, certify: Certifier) -> tuple[Proof, ...]:
    """Certificates of our own fits, from the definition."""
    return tuple(certify(float(c), path.coef[i], path.intercept[i]) for i, c in enumerate(path.C))


def ours(problem: Problem, C: np.ndarray) -> Measured:
    """One call."""
    certify = certifier(problem.X, problem.y)
    seconds, path = timed(lambda: probe.fit_path(problem.X, problem.y, C))
    choice = probe.select(path, problem.X_val, problem.y_val)
    walked = Walked(seconds, reads([path]), proofs_of(path, certify), choice.scores)
    row = row_of(problem.name, "probe", problem.shape, walked, C)
    return Measured(problem, C, path, walked, row, certify)


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


def together(mine: Measured, part: str) -> list[Row]:
    """Ten label sets or folds in one call, and in ten."""
    problem, C, n = mine.problem, mine.C, len(mine.problem.y)
    if part == "sets":
        what, sets = label_sets(problem)
        rows = [np.arange(n)] * len(sets)
    else:
        rows = fold_rows(problem)
        what, sets = "stratified folds, 90 % of the rows each", [problem.y] * len(rows)
    count = f"{len(sets)} {'label sets' if part == 'sets' else 'folds'}"
    shape = (*problem.shape[:2], max(len(np.unique(y)) for y in sets))
    blank = Row(problem.name, "", *shape)

    def one_call() -> tuple[probe.Path, ...]:
        chosen: Any = None if part == "sets" else rows
        return tuple(probe.fit_paths(problem.X, sets, C, rows=chosen))

    def ten_calls() -> tuple[probe.Path, ...]:
        if part == "sets":
            return tuple(probe.fit_path(problem.X, y, C) for y in sets)
        return tuple(probe.fit_path(problem.X[r], y[r], C) for y, r in zip(sets, rows, strict=True))

    found = []
    certifiers = [certifier(problem.X[r], y[r]) for y, r in zip(sets, rows, strict=True)]
    for solver, call in ((f"probe, {count}, ten calls", ten_calls), (f"probe, {count}, one call", one_call)):
        seconds, paths = timed(call)
        proofs = [p for path, certify in zip(paths, certifiers, strict=True) for p in proofs_of(path, certify)]
        found.append(
            replace(
                blank, solver=solver, seconds=round(seconds, 4), passes=reads(paths),
                worst_grad=max(p.grad_norm for p in proofs), worst_gap=max(p.gap for p in proofs),
                n_certified=sum(p.gap <= BAR for p in proofs), n_values=len(proofs),
            )
        )  # fmt: skip
    ten, one = found
    ratio = (ten.seconds or 0.0) / (one.seconds or 1.0)
    ruling = verdict(ratio, ONE_CALL, is_bound=False, is_certified=one.n_certified == one.n_values)
    return [replace(ten, note=what), replace(one, ratio=ratio, target=ONE_CALL, verdict=ruling)]


def streaming(mine: Measured) -> Row:
    """The same path from a store, with a quarter of the matrix's memory."""
    problem = mine.problem
    shape = problem.shape
    row = Row(problem.name, "probe, streamed at 1/4", *shape, target=STREAMING)
    if "memory" not in inspect.signature(probe.fit_path).parameters:
        return replace(row, verdict="not available", note="probe.fit_path takes no memory=")
    with tempfile.TemporaryDirectory() as root:
        matrix = write_matrix(Path(root), problem)
        keywords: dict[str, Any] = {"memory": problem.X.nbytes // 4}
        seconds, path = timed(lambda: probe.fit_path(matrix, problem.y, mine.C, **keywords))
    walked = Walked(seconds, reads([path]), proofs_of(path, mine.certify), mine.walked.accuracy)
    ratio = mine.walked.seconds / seconds
    found = row_of(problem.name, row.solver, shape, walked, mine.C)
    is_certified = found.n_certified == found.n_values
    ruling = verdict(ratio, STREAMING, is_bound=False, is_certified=is_certified and walked.passes <= MOST_READS)
    note = f"{walked.passes} half-passes, at most {MOST_READS}"
    choice = probe.select(path, problem.X_val, problem.y_val)
    return replace(
        found, chosen_C=choice.C, val_accuracy=float(choice.scores[choice.index]), ratio=ratio, target=STREAMING,
        verdict=ruling, note=note,
    )  # fmt: skip


@dataclass(frozen=True)
class NoImages:
    """Samples of a store that holds features made of several units: there is nothing to decode."""

    n: int

    def __len__(self) -> int:
        return self.n

    def read(self, i: int) -> bytes:
        return i.to_bytes(8, "little")

    def describe(self, i: int) -> str:
        return f"row {i}"

    def stat(self, i: int) -> None:
        return None


def write_matrix(root: Path, problem: Problem) -> Any:
    """Put the features of a problem into a store as one matrix, and open it."""
    import featstore

    ids = np.array([f"{i:06d}" for i in range(len(problem.y))])
    split = featstore.Split("train", ids, problem.y.astype(np.int64), (), NoImages(len(ids)))
    digest = split.digest()
    key = featstore.PassKey(
        problem.name, "0" * 32, "side by side", {}, digest.ids_digest, digest.content_digest, len(ids), "fp32"
    )
    array = featstore.ArrayKey(key.digest, "features", "mean", "float32", (problem.X.shape[1],))
    store = featstore.create_store(root)
    with store.writing(key, split, {}) as session:
        session.begin([array])
        for block in session.missing_blocks():
            session.write(block, {array: problem.X[block.start : block.stop]})
        session.commit()
    return featstore.open_store(root).features("features", "train")


def again(mine: Measured) -> Row:
    """A sweep over the stored features, asked for a second time."""
    problem = mine.problem
    with tempfile.TemporaryDirectory() as folder, quiet():
        root = Path(folder)
        write_matrix(root / "features", problem)

        def ask() -> Any:
            return probe.sweep(
                root / "features", train="train", val=0.2, out=root / "results", C=mine.C, progress=False
            )  # fmt: skip

        ask()
        seconds, results = timed(ask)
    assert len(results) == 1
    row = Row(problem.name, "probe.sweep, again", *problem.shape, seconds=round(seconds, 5), passes=0)
    ms = 1000 * seconds
    return replace(
        row, target=AGAIN_MS, ratio=ms, verdict="pass" if ms <= AGAIN_MS else "falls short", note="milliseconds, at most"
    )  # fmt: skip


def prefixes(mine: Measured) -> list[tuple[float, int]]:
    """Seconds of calls with the first values of the grid, and how many."""
    counts = [len(mine.C) * fifths // 5 for fifths in (1, 2, 3, 4)]
    found = []
    for m in counts:
        seconds, _ = timed(lambda m=m: probe.fit_path(mine.problem.X, mine.problem.y, mine.C[:m]))  # type: ignore[misc]
        found.append((seconds, m))
    return [*found, (mine.walked.seconds, len(mine.C))]


def suboptimality(mine: Measured, rivals: dict[str, Walked]) -> dict[str, list[tuple[float, float]]]:
    """The second drawing: curves of (seconds, geometric mean over the path of (F − F_best) / F_best)."""
    own = np.array([np.nan if proof is None else proof.objective for proof in mine.walked.proofs])
    best = own.copy()
    for walked in rivals.values():
        for event in walked.events:
            best[event.index] = min(best[event.index], event.objective)
    share = np.unique(mine.problem.y, return_counts=True)[1] / len(mine.problem.y)
    nothing = -len(mine.problem.y) * float(share @ np.log(share))  # intercepts alone

    def mean(objective: np.ndarray) -> float:
        return float(np.exp(np.log(np.maximum(objective / best - 1, 1e-8)).mean()))

    curves = {"probe": [(s, mean(np.where(np.arange(len(best)) < m, own, nothing))) for s, m in prefixes(mine)]}
    for name, walked in rivals.items():
        now = np.full(len(best), nothing)
        curves[name] = []
        for event in walked.events:
            now[event.index] = event.objective
            curves[name].append((event.seconds, mean(now)))
    return curves


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Gap along the path, and mean suboptimality against time; one column a problem."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * len(found), 6.6), layout="constrained")
    axes = figure.subplots(2, len(found), squeeze=False)
    for j, one in enumerate(found):
        gap_ax, time_ax = axes[0][j], axes[1][j]
        for (solver, gap), style in zip(one["gaps"].items(), ("o-", "s--", "^:"), strict=False):
            gap_ax.loglog(one["C"], np.maximum(gap, 1e-16), style, ms=3, label=solver)
        for (solver, curve), style in zip(one["suboptimality"].items(), ("o-", "s--", "^:"), strict=False):
            time_ax.loglog(*zip(*curve, strict=True), style, ms=2, label=solver)
        gap_ax.axhline(BAR, color="0.6", lw=0.8)
        gap_ax.set(title=one["problem"], xlabel="C", ylabel="certified relative gap")
        time_ax.set(xlabel="seconds", ylabel="mean suboptimality of the path")
        gap_ax.legend(fontsize=7)
    figure.savefig(path, dpi=150)


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
        [{**one, "gaps": {k: [g or np.nan for g in v] for k, v in one["gaps"].items()}} for one in drawn],
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
