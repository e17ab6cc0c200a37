"""All methods of flex-tuning on one task, side by side; what several of them train is trained once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from finetune.algorithms import Method
from finetune.errors import BadInput
from finetune.flex import Flex, flex_tune
from finetune.recipe import Recipe

if TYPE_CHECKING:
    from featstore import Backbone, Split


@dataclass(frozen=True)
class MethodRow:
    """What one method chose, and what that took.

    Attributes
    ----------
    method : str
        See `flex_tune`.
    unit : str
        The candidate that it chose.
    val, test : float or None
        Scores of the chosen network; test is None where there is no such split.
    n_trainings : int
        Networks that the method trains.
    epochs, seconds : float
        Of everything that it does, what it shares with other methods included.
    unit_passes : int
        See `finetune.cost`.
    """

    method: str
    unit: str
    val: float
    test: float | None
    n_trainings: int
    epochs: float
    seconds: float
    unit_passes: int


@dataclass(frozen=True, eq=False)
class Comparison:
    """All methods on one task.

    Attributes
    ----------
    table : tuple of MethodRow
        One row per method.
    flexes : tuple of Flex
        The same, in full.
    """

    table: tuple[MethodRow, ...]
    flexes: tuple[Flex, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain numbers, strings, lists and dictionaries."""
        return {"table": [asdict(row) for row in self.table], "methods": [flex.to_json() for flex in self.flexes]}

    def __str__(self) -> str:
        head = ("method", "unit", "val", "test", "trained", "epochs", "seconds", "unit-passes")
        rows = [
            (r.method, r.unit, f"{r.val:.4f}", "" if r.test is None else f"{r.test:.4f}", str(r.n_trainings),
             f"{r.epochs:.1f}", f"{r.seconds:.1f}", f"{r.unit_passes:,}")
            for r in self.table
        ]  # fmt: skip
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *rows)
        )


def compare_methods(
    backbone: Backbone,
    train: Split,
    val: Split,
    *,
    recipe: Recipe,
    out: str | Path,
    methods: Sequence[str] = get_args(Method),
    **options: Any,
) -> Comparison:
    """Run several methods of flex-tuning on one task and put them into one table.

    Each is a `flex_tune` in ``out/METHOD``; candidates are in ``out/candidates`` and shared, so that all five methods
    train little more than flex-tuning alone.

    Parameters
    ----------
    backbone, train, val, recipe
        As of `flex_tune`.
    out : str or Path
        Folder.
    methods : sequence of str
        Of `flex_tune`.
    **options
        As of `flex_tune`, without ``candidates``; ``others`` go to ``"flex"`` alone, ``pairs`` not to ``"probe"``.

    Returns
    -------
    Comparison
        ``str`` of it is a table for people.

    Raises
    ------
    BadInput
        No method, or what `flex_tune` refuses.
    """
    if not methods:
        raise BadInput(f"no method was asked for; there are {', '.join(get_args(Method))}.")
    out, found = Path(out), []
    for method in methods:
        unfit = {"others"} - ({"others"} if method == "flex" else set()) | ({"pairs"} if method == "probe" else set())
        own = {name: value for name, value in options.items() if name not in unfit}
        made = flex_tune(
            backbone, train, val, recipe=recipe, out=out / method, method=method,  # type: ignore[arg-type]
            candidates=out / "candidates", **own,
        )  # fmt: skip
        found.append(made)
    return Comparison(tuple(_row(flex) for flex in found), tuple(found))


def _row(flex: Flex) -> MethodRow:
    total, scores = flex.cost.total, flex.best.scores
    return MethodRow(
        flex.method, flex.unit, scores["val"], scores.get("test"), total.n_trainings, total.epochs, total.seconds,
        total.unit_passes,
    )  # fmt: skip
