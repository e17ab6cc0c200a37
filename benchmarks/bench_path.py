"""The whole 45-value path against scikit-learn, at equal suboptimality, on real features.

    python benchmarks/bench_path.py                              every problem whose features are there
    python benchmarks/bench_path.py --problems digits --tiny     a few seconds, for the tests; the figures mean little
    python benchmarks/bench_path.py --features runs/real/features

Every value's certificate is the float64 duality gap of the returned point, recomputed here from the definition for both
sides. The rival, scikit-learn's L-BFGS, walks the same path from strong to weak with warm starts and is stopped, per value,
at the first of a ladder of tolerances whose gap is as good as ours, or when it has used its allowance: ``--patience`` times
our time for the whole path. Its seconds count every run it needed.

Printed per problem: seconds, worst gap, number of values certified at 1e-4, chosen C and validation accuracy of both, and
the ratio; a ratio behind ``>`` is a lower bound, because the rival had not finished. ``--out`` keeps JSON with the environment
and draws the gap along the path.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import probe
from probe.objective import value_and_gradient

TARGET = 1e-4
LADDER = (1e-4, 1e-6, 1e-8, 1e-10)
CIFAR_SPLITS = ("cifar10/train#per_class(1500,seed=0)", "cifar10/test")


@dataclass(frozen=True, eq=False)
class Problem:
    """Features and labels, train and validation."""

    name: str
    X: np.ndarray
    y: np.ndarray
    X_val: np.ndarray
    y_val: np.ndarray


@dataclass(frozen=True)
class Row:
    """What one solver did on one problem."""

    problem: str
    solver: str
    n: int
    d: int
    k: int
    seconds: float
    worst_gap: float
    n_certified: int
    n_values: int
    chosen_C: float
    val_accuracy: float


def split(X: np.ndarray, y: np.ndarray, name: str, n_val: int) -> Problem:
    """Hold out rows at random, seed 0."""
    order = np.random.default_rng(0).permutation(len(y))
    val, train = order[:n_val], order[n_val:]
    return Problem(name, X[train], y[train], X[val], y[val])


def digits(tiny: bool) -> Problem:
    """scikit-learn's digits: 1,077 × 64 pixels, 10 classes."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    X = X.astype(np.float32)
    return split(X[:300], y[:300], "digits", 100) if tiny else split(X, y, "digits", 720)


def stored(features: Path, backbone: str, splits: tuple[str, ...], name: str, n: int) -> Problem:
    """All pooled units of a stored network side by side, as `real_images.py` extracted them."""
    import featstore

    store = featstore.open_store(features)
    parts = []
    for which in splits:
        units = [u for u in store.units(which, backbone) if u != "head"]
        matrices = [store.features(u, which, backbone=backbone) for u in units]
        parts.append((np.concatenate([m.numpy(np.float32) for m in matrices], axis=1), matrices[0].labels))
    X, y = (np.concatenate([p[j] for p in parts]) for j in (0, 1))
    kept = np.random.default_rng(1).permutation(len(y))[:n]
    return split(X[kept], y[kept], name, len(kept) // 5)


def problems(features: Path, tiny: bool) -> dict[str, Callable[[], Problem]]:
    """The problems by name."""
    return {
        "digits": lambda: digits(tiny),
        "pacs-sketch": lambda: stored(features, "benchmarks.networks:mobilenetv1_025", ("sketch",), "pacs-sketch", 4000),
        "pacs-art": lambda: stored(features, "benchmarks.networks:mobilenetv1_025", ("art_painting",), "pacs-art", 4000),
        "cifar10-resnet56": lambda: stored(
            features, "featstore:cifar_resnet56", CIFAR_SPLITS, "cifar10-resnet56", 25_000
        ),
    }  # fmt: skip


def gaps(problem: Problem, C: np.ndarray, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """Relative duality gap of every fit, from the definition; the intercept's own gradient counts too."""
    y = np.unique(problem.y, return_inverse=True)[1]
    out = []
    for i, c in enumerate(C):
        value, by_W, by_b = value_and_gradient(coef[i], intercept[i], problem.X, y, c)
        out.append(((by_W**2).sum() * c / 2 + (by_b**2).sum() / max(len(y), 1)) / value)
    return np.array(out)


def ours(problem: Problem, C: np.ndarray) -> tuple[Row, np.ndarray]:
    """One call."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", probe.NotConverged)
        path = probe.fit_path(problem.X, problem.y, C)
    seconds = time.perf_counter() - started
    gap = gaps(problem, path.C, path.coef, path.intercept)
    choice = probe.select(path, problem.X_val, problem.y_val)
    return _row(problem, "probe", seconds, gap, choice.C, float(choice.scores[choice.index])), gap


def scikit_learn(
    problem: Problem, C: np.ndarray, target: np.ndarray, allowance_s: float, *, warm: bool
) -> tuple[Row, np.ndarray]:
    """Its default solver along the path, each value run until its gap is as good as `target`, or time is up."""
    from sklearn.linear_model import LogisticRegression

    spent, gap, accuracy = 0.0, np.full(len(C), np.inf), np.zeros(len(C))
    model = LogisticRegression(solver="lbfgs", warm_start=warm)
    for i, c in enumerate(C):
        for tol in LADDER:
            if spent > allowance_s:
                break
            model.set_params(C=c, tol=tol, max_iter=20_000)
            started = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(problem.X, problem.y)
            spent += time.perf_counter() - started
            rows = model.coef_.astype(np.float64)[None], model.intercept_.astype(np.float64)[None]
            gap[i] = gaps(problem, np.array([c]), *rows)[0]
            accuracy[i] = model.score(problem.X_val, problem.y_val)
            if gap[i] <= max(target[i], 1e-12):
                break
    best = int(np.argmax(accuracy))
    name = "scikit-learn, warm" if warm else "scikit-learn, cold"
    return _row(problem, name, spent, gap, float(C[best]), float(accuracy[best])), gap


def _row(problem: Problem, solver: str, seconds: float, gap: np.ndarray, C: float, accuracy: float) -> Row:
    n, d = problem.X.shape
    k = len(np.unique(problem.y))
    return Row(
        problem.name, solver, n, d, k, round(seconds, 3), float(gap.max()), int((gap <= TARGET).sum()), len(gap), C, accuracy
    )  # fmt: skip


def line(row: Row, mine: Row) -> str:
    """One line of the table."""
    ratio = row.seconds / mine.seconds
    bound = ">" if row.n_certified < mine.n_certified else " "
    return (
        f"{row.problem:18} {row.n:>6} × {row.d:<5} k={row.k:<4} {row.solver:20} {row.seconds:9.2f} s  gap {row.worst_gap:7.1e}  "
        f"{row.n_certified:2}/{row.n_values} at 1e-4   C {row.chosen_C:8.2e}  val {row.val_accuracy:.4f}  {bound}{ratio:6.1f} ×"
    )


def draw(rows: dict[str, dict[str, np.ndarray]], C: np.ndarray, path: Path) -> None:
    """The certified gap along the path, one panel a problem."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(rows), 3.4), layout="constrained")
    for ax, (name, by_solver) in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows.items(), strict=True):
        for (solver, gap), style in zip(by_solver.items(), ("o-", "s--", "^:"), strict=False):
            shown = np.isfinite(gap)
            ax.loglog(C[shown], np.maximum(gap[shown], 1e-16), style, markersize=3, label=solver)
        ax.axhline(TARGET, color="0.6", linewidth=0.8)
        ax.set(title=name, xlabel="C (inverse penalty, sum form)", ylabel="upper bound of (F − F*) / F")
        ax.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)


def environment() -> dict[str, object]:
    """What the figures depend on."""
    import os

    import scipy
    import sklearn

    versions = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}
    return {**versions, "scikit-learn": sklearn.__version__, "cores": os.cpu_count(), "machine": platform.machine()}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", help="default: those whose features are there")
    parser.add_argument("--features", type=Path, default=Path("runs/real/features"))
    parser.add_argument("--patience", type=float, default=20.0, help="allowance of the rival, in multiples of our time")
    parser.add_argument("--cold", action="store_true", help="also 45 independent cold fits")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    known = problems(options.features, options.tiny)
    names = options.problems or [n for n in known if n == "digits" or options.features.is_dir()]
    C = probe.C_GRID[::4] if options.tiny else probe.C_GRID
    rows: list[Row] = []
    curves: dict[str, dict[str, np.ndarray]] = {}
    for name in names:
        problem = known[name]()
        mine, gap = ours(problem, C)
        print(line(mine, mine), flush=True)
        rows.append(mine)
        curves[name] = {"probe": gap}
        target = np.maximum(gap, TARGET / 2)  # a value that we solve better than asked is not held against the rival
        for warm in (True, False) if options.cold else (True,):
            row, other = scikit_learn(problem, C, target, options.patience * mine.seconds, warm=warm)
            print(line(row, mine), flush=True)
            rows.append(row)
            curves[name][row.solver] = other
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        found = {"environment": environment(), "rows": [asdict(row) for row in rows]}
        (options.out / "bench_path.json").write_text(json.dumps(found, indent=1))
        draw(curves, C, options.out / "bench_path.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
