"""The cells of a block as a table beside the paper's, and what differs from it by more than it should."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from royer_blocks import Block, Target
from royer_cells import CHOICES, METHODS

NOTEWORTHY = 0.03


def text(block: Block, found: Mapping[str, Any]) -> str:
    """Every target and amount of data of a block: our means over seeds with their spread, the paper's, the picks."""
    lines = [_heading(block, found)]
    for name, target in block.targets.items():
        for per_class in block.per_class:
            cells = [c for c in found["cells"] if c["target"] == name and c["per_class"] == per_class]
            if cells:
                lines += [
                    "",
                    *_rows(target, per_class, cells, found["before"].get(name), block.source_accuracy is None),
                ]
    return "\n".join(lines)


def _heading(block: Block, found: Mapping[str, Any]) -> str:
    source = found.get("source_accuracy")
    if source is None:
        return f"{block.name}: {block.network}, size {found['size']}"
    return (
        f"{block.name}: {block.network}, size {found['size']}, source accuracy {source:.3f} "
        f"(paper {block.source_accuracy:.3f})"
    )


def _rows(
    target: Target, per_class: int, cells: Sequence[Mapping[str, Any]], before: Mapping[str, Any] | None, is_other: bool
) -> Iterable[str]:
    now = "" if before is None or before["test"] is None else f", {before['test']:.3f} before tuning"
    shift = "" if not before or not before["shift"] else f" with {before['shift']} in the place of the paper's shift"
    yield f"{target.name}, {per_class} per class, {len(cells)} seeds{now} (paper {target.before:.3f}){shift}"
    paper = dict(zip(METHODS, target.published.get(per_class, ()), strict=False))
    said = []
    for method in METHODS:
        values = [c["test"][method] for c in cells if method in c["test"]]
        if not values:
            continue
        mean = sum(values) / len(values)
        spread = "" if len(values) < 2 else f" ± {_deviation(values):.3f}"
        theirs = paper.get(method, math.nan)
        beside = "" if math.isnan(theirs) else f"   paper {theirs:.3f}"
        picks = Counter(c["unit"][method] for c in cells) if method in CHOICES else Counter()
        chose = ", ".join(f"{unit} {n}×" if len(cells) > 1 else unit for unit, n in picks.most_common())
        authors = f" (authors, all data: {target.picks[method]})" if method in target.picks else ""
        yield f"  {method:<10} {mean:.3f}{spread:<8}{beside}   {chose}{authors if chose else ''}".rstrip()
        if not math.isnan(theirs) and abs(mean - theirs) > NOTEWORTHY and not is_other:
            said.append(f"{method} {mean - theirs:+.3f}")
    if said:
        yield f"  more than {NOTEWORTHY} from the paper: {', '.join(said)}"
    yield f"  {_claim(cells)}"


def _claim(cells: Sequence[Mapping[str, Any]]) -> str:
    """Whether tuning one unit beats the baselines: the best single unit by val against head and everything."""
    means = {method: sum(c["test"][method] for c in cells) / len(cells) for method in ("flex", "ft-fc (1)", "ft-all")}
    inner = sum(c["unit"]["flex"] not in ("head", "all") for c in cells)
    return (
        f"flex is {means['flex'] - means['ft-fc (1)']:+.3f} from ft-fc (1) and {means['flex'] - means['ft-all']:+.3f} from "
        f"ft-all; it chose a unit before the head in {inner} of {len(cells)}"
    )


def _deviation(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
