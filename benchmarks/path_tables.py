"""The table of the path's benchmarks: its rows, what passes, and what seconds depend on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Any

import numpy as np
from path_certificates import BAR
from path_rivals import Walked


@dataclass(frozen=True)
class Row:
    """One line of the table; None is what was not measured.

    Attributes
    ----------
    problem, solver : str
    n, d, k : int
    seconds : float or None
    passes : int or None
        Products with X (each X·D or Xᵀ·R); of a rival two per iteration, which is the least it can have needed.
    worst_grad, worst_gap : float or None
        Over the values that were fitted.
    n_certified, n_values : int
        Values with a gap of at most `BAR`, of how many.
    chosen_C, val_accuracy : float or None
    ratio : float or None
        In what the target is about: how many times our seconds, or a speed relative to another.
    is_bound : bool
        The ratio is a lower bound: the rival had not certified what we had.
    target : float or None
    verdict : str
        "pass", "falls short", "undecided" (a bound below the target: more patience decides), "not available", "not measured", "".
    note : str
    """

    problem: str
    solver: str
    n: int
    d: int
    k: int
    seconds: float | None = None
    passes: int | None = None
    worst_grad: float | None = None
    worst_gap: float | None = None
    n_certified: int = 0
    n_values: int = 0
    chosen_C: float | None = None
    val_accuracy: float | None = None
    ratio: float | None = None
    is_bound: bool = False
    target: float | None = None
    verdict: str = ""
    note: str = ""


def verdict(ratio: float, target: float, *, is_bound: bool, is_certified: bool) -> str:
    """What a ratio means for its target; ours must be certified everywhere to pass."""
    if not is_certified:
        return "falls short"
    if ratio >= target:
        return "pass"
    return "undecided" if is_bound else "falls short"


HEADER = (
    f"{'problem':17} {'n × d, k':>21} {'solver':29} {'seconds':>9} {'passes':>7} {'‖∇‖ rel':>8} {'gap':>8} "
    f"{'≤ 1e-4':>8} {'C':>8} {'val':>7} {'ratio':>8} {'target':>7}  verdict"
)


def line(row: Row) -> str:
    """One line of the table."""
    size = f"{row.n} × {row.d}, {row.k}"
    certified = f"{row.n_certified}/{row.n_values}" if row.seconds is not None else "—"
    ratio = "—" if row.ratio is None else f"{'> ' if row.is_bound else ''}{row.ratio:.2f}"
    cells = (
        f"{row.problem:17} {size:>21} {row.solver:29} {_cell(row.seconds, '.2f'):>9} {_cell(row.passes, 'd'):>7} "
        f"{_cell(row.worst_grad, '.1e'):>8} {_cell(row.worst_gap, '.1e'):>8} {certified:>8} {_cell(row.chosen_C, '.1e'):>8} "
        f"{_cell(row.val_accuracy, '.4f'):>7} {ratio:>8} {_cell(row.target, 'g'):>7}  {row.verdict}"
    )
    return f"{cells}{' ' if row.verdict and row.note else ''}{f'({row.note})' if row.note else ''}"


def _cell(value: float | None, form: str) -> str:
    return "—" if value is None else format(value, form)


def row_of(name: str, solver: str, shape: tuple[int, int, int], walked: Walked, C: np.ndarray) -> Row:
    """The line of a path: what was measured, without a comparison."""
    proofs = [proof for proof in walked.proofs if proof is not None]
    best = int(np.argmax(walked.accuracy))  # the strongest penalty on a tie: C rises
    n, d, k = shape
    return Row(
        name, solver, n, d, k, round(walked.seconds, 4), walked.passes,
        max((p.grad_norm for p in proofs), default=None), max((p.gap for p in proofs), default=None),
        int((walked.gaps <= BAR).sum()), len(C), float(C[best]), float(walked.accuracy[best]),
    )  # fmt: skip


def environment(threads: int | None = None) -> dict[str, Any]:
    """Versions, cores and threads: what seconds depend on."""
    import scipy
    import sklearn
    from threadpoolctl import threadpool_info

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__,
        "scikit-learn": sklearn.__version__, "machine": platform.machine(), "cores": cores, "threads": threads,
        "blas": [
            {key: found.get(key) for key in ("user_api", "internal_api", "version", "architecture", "num_threads")}
            for found in threadpool_info()
        ],
    }  # fmt: skip
