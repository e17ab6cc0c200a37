"""What is drawn of the path's benchmark: gaps along the path, and suboptimality against time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from path_certificates import BAR
from path_parts import Measured, timed
from path_rivals import Walked

import probe


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
