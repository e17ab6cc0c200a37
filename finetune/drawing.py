"""Figures of choices: the only file of this package that knows matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _FAINT, _OURS, _THEIRS = "#222222", "#999999", "#1f5a94", "#b3541e"
_MARKS = ("v", "^", "<", ">", "D")


def draw_choice(
    candidates: Mapping[str, Mapping[str, float]],
    picks: Mapping[str, Mapping[str, str]],
    tested: Mapping[str, Mapping[str, tuple[float, float, float]]],
    path: Path,
    *,
    caption: Sequence[str] = (),
    on: str = "test",
) -> None:
    """Above, the map of validation scores with what each method picks; below, each method's accuracy on test.

    Parameters
    ----------
    candidates : mapping of str to mapping of str to float
        Scenario -> candidate -> validation score; the same candidates for each.
    picks : mapping of str to mapping of str to str
        Scenario -> method -> candidate.
    tested : mapping of str to mapping of str to (float, float, float)
        Scenario -> method -> accuracy and its interval; methods that pick are drawn apart from the others.
    path : Path
        A png, replaced as a whole.
    caption : sequence of str
        Sentences below.
    on : str
        The split of ``tested``.
    """
    import io

    drawn = io.BytesIO()
    _figure(candidates, picks, tested, caption, on).savefig(drawn, format="png")
    write_atomically(path, drawn.getvalue())


def _figure(
    candidates: Mapping[str, Mapping[str, float]],
    picks: Mapping[str, Mapping[str, str]],
    tested: Mapping[str, Mapping[str, tuple[float, float, float]]],
    caption: Sequence[str],
    on: str,
) -> Figure:
    """The figure of `draw_choice`: as wide as the candidates need it, their names slanted where they would touch."""
    from matplotlib.figure import Figure

    lines = [line for sentence in caption for line in textwrap.wrap(sentence, 195)]
    names = list(next(iter(candidates.values())))
    width = min(max(11.0, 1.6 + 0.46 * len(names)), 40.0)
    longest = max(len(name) for name in names)
    turned = 0.06 * longest if longest * len(names) > 8.6 * width else 0.0  # inches that slanted names hang down
    figure = Figure(figsize=(width, 6.4 + turned + 0.17 * len(lines)), dpi=130)
    room = 0.17 * len(lines) / figure.get_figheight()
    grid = figure.add_gridspec(
        2, len(tested), height_ratios=(1, 1.5), hspace=0.42 + 0.45 * turned, wspace=0.08, left=1.43 / width, right=0.98,
        top=0.93, bottom=0.09 + room,
    )  # fmt: skip
    _draw_map(figure.add_subplot(grid[0, :]), candidates, picks, is_slanted=turned > 0)
    first: Axes | None = None
    for place, (scenario, methods) in enumerate(tested.items()):
        ax = figure.add_subplot(grid[1, place], sharex=first, sharey=first)
        _draw_tested(ax, scenario, methods, choosing=picks[scenario], has_names=first is None)
        ax.set_xlabel(f"{on} accuracy, 95 % interval", fontsize=9)
        first = first or ax
    figure.text(0.02, 0.02, "\n".join(lines), fontsize=7.5, color=_INK, va="bottom")
    return figure


def _draw_map(
    ax: Axes,
    candidates: Mapping[str, Mapping[str, float]],
    picks: Mapping[str, Mapping[str, str]],
    *,
    is_slanted: bool,
) -> None:
    scenarios = list(candidates)
    names = list(candidates[scenarios[0]])
    values = [[candidates[scenario][name] for name in names] for scenario in scenarios]
    low, high = min(map(min, values)), max(map(max, values))  # the darkest cell stays light enough for dark ink
    ax.imshow(values, cmap="Blues", vmin=low - 0.1, vmax=high + max(0.25, 0.8 * (high - low)), aspect="auto")
    methods = list(picks[scenarios[0]])
    for row, scenario in enumerate(scenarios):
        for column in range(len(names)):
            ax.text(column, row - 0.18, f"{values[row][column]:.3f}", ha="center", va="center", color=_INK, fontsize=10)
        for place, method in enumerate(methods):
            at = names.index(picks[scenario][method]) + 0.13 * (place - (len(methods) - 1) / 2)
            label = method if row == 0 else None
            ax.plot(at, row + 0.22, _MARKS[place % len(_MARKS)], color=_THEIRS, markersize=6, label=label, linestyle="")
    slant: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if is_slanted else {}
    ax.set_xticks(range(len(names)), names, **slant)
    ax.set_yticks(range(len(scenarios)), [textwrap.fill(scenario, 17) for scenario in scenarios])
    ax.set_title("Validation score of every candidate, and what each method picks", fontsize=11, loc="left")
    ax.legend(
        ncols=len(methods), fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.98), handletextpad=0.2
    )
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)


def _draw_tested(
    ax: Axes,
    scenario: str,
    methods: Mapping[str, tuple[float, float, float]],
    *,
    choosing: Mapping[str, str],
    has_names: bool,
) -> None:
    for place, (method, (value, low, high)) in enumerate(methods.items()):
        colour = _OURS if method in choosing else _INK
        ax.plot([low, high], [place, place], color=colour, linewidth=1.4)
        ax.plot(value, place, "o", color=colour, markersize=5)
    ax.axhline(len(choosing) - 0.5, color=_FAINT, linewidth=0.7)
    ax.set_yticks(range(len(methods)), list(methods))
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0, labelleft=has_names)
    ax.set_title(scenario, fontsize=10)
    ax.grid(axis="x", color=_FAINT, linewidth=0.3)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
