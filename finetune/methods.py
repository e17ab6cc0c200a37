"""All methods of flex-tuning on one task and the baselines, side by side; what several of them train is trained once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from finetune.algorithms import Method
from finetune.baselines import Baseline, problem_with
from finetune.errors import BadInput, Diverged
from finetune.flex import Flex, flex_tune
from finetune.folder import folder_named
from finetune.progress import say
from finetune.recipe import Recipe
from finetune.regimes import network_for
from finetune.task import Options, asked_for

if TYPE_CHECKING:
    from featstore import Backbone, Split


@dataclass(frozen=True)
class MethodRow:
    """What one method chose, or a baseline tuned, and what that took.

    Attributes
    ----------
    method : str
        See `flex_tune`.
    unit : str
        The candidate that it chose; what a baseline tunes.
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
        One row per method, then one per baseline.
    flexes : tuple of Flex
        The same, in full.
    left_out : mapping of str to str
        Baselines that the network cannot be trained by, and what diverged -> why.
    """

    table: tuple[MethodRow, ...]
    flexes: tuple[Flex, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain numbers, strings, lists and dictionaries."""
        return {
            "table": [asdict(row) for row in self.table],
            "methods": [flex.to_json() for flex in self.flexes],
            "left_out": dict(self.left_out),
        }

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
    baselines: Sequence[str] | None = None,
    **options: Any,
) -> Comparison:
    """Run several methods of flex-tuning on one task, and the trainings that choose nothing, and put them into one table.

    Each is a `flex_tune` in a folder of ``out`` of its own; candidates are in ``out/candidates`` and shared, so that all
    methods and baselines train little more than flex-tuning alone.

    Parameters
    ----------
    backbone, train, val, recipe
        As of `flex_tune`.
    out : str or Path
        Folder.
    methods : sequence of str
        Of `flex_tune`, those that choose.
    baselines : sequence of str or None
        ``"ft-fc (1)"``, ``"ft-fc (2)"``, ``"ft-ss"``, ``"ft-all"``; None are those that the network can be trained by:
        which one is left out, and why, is said, and in `Comparison.left_out`.
    **options
        As of `flex_tune`, without ``candidates``; ``others`` go to ``"flex"`` alone, ``pairs`` not to ``"probe"``, and
        neither they nor ``units`` to baselines.

    Returns
    -------
    Comparison
        ``str`` of it is a table for people.

    Raises
    ------
    BadInput
        No method, one that does not exist, or what `flex_tune` refuses.
    Diverged
        All of them did; single ones are left out.
    """
    out, known = folder_named(out), (get_args(Method), get_args(Baseline))
    methods = [methods] if isinstance(methods, str) else methods
    baselines = [baselines] if isinstance(baselines, str) else baselines
    _refuse_unknown({"methods": (methods, known[0]), "baselines": (baselines or (), known[1])})
    fixed, left_out = baselines, dict[str, str]()
    if fixed is None:
        left_out = _problems(backbone, train, val, recipe, options)
        fixed = [name for name in known[1] if name not in left_out]
        for problem in left_out.values() if options.get("progress", True) else ():
            say(f"{problem} It is left out.")
    if options.get("feed") == "disk":
        options = {"store": out / "features", **options}
    found, left_out = list[Flex](), dict(left_out)
    for method in (*methods, *fixed):
        is_baseline = method in known[1]
        unfit = set() if method == "flex" else {"units", "pairs", "others"} if is_baseline else {"others"}
        unfit |= {"pairs"} if method == "probe" else set()
        own = {name: value for name, value in options.items() if name not in unfit}
        try:
            made = flex_tune(
                backbone, train, val, recipe=recipe, out=out / folder_of(method), method=method,  # type: ignore[arg-type]
                candidates=out / "candidates", **own,
            )  # fmt: skip
        except Diverged as error:
            left_out[method], last = str(error), error
            say(f"{method} is left out: {error}")
            continue
        found.append(made)
    if not found:
        raise last
    return Comparison(tuple(_row(flex) for flex in found), tuple(found), left_out)


def draw_methods(compared: Comparison, path: str | Path, *, title: str = "val") -> None:
    """Draw a comparison: validation scores of every candidate with what each method picks, and each method's accuracy.

    Parameters
    ----------
    compared : Comparison
        Accuracies are those on test with their 95 % intervals, on val where there is no test split.
    path : str or Path
        A png, replaced as a whole.
    title : str
        What the candidates were tuned to, in a few words.

    Raises
    ------
    BadInput
        Images with several labels, of which no share is right, or a name that does not end in ``.png``.
    """
    from finetune.drawing import draw_choice

    where = "test" if compared.table[0].test is not None else "val"
    said = {flex.method: flex.best.predictions[where] for flex in compared.flexes}
    problems = [] if Path(path).suffix == ".png" else [f"{path} is no name of a png; give one that ends in .png."]
    if any(found.y_true.ndim > 1 for found in said.values()):
        problems.append("images have several labels each, so there is no accuracy to draw; the table has the metric.")
    if problems:
        raise BadInput.of("this figure", problems)
    scores: dict[str, float] = {}
    for flex in reversed(compared.flexes):  # flex itself comes first and knows most, so that its order stands
        own = {row.candidate: row.val for row in flex.table if row.val is not None}
        scores = {**own, **{name: value for name, value in scores.items() if name not in own}}
    picks = {flex.method: flex.unit for flex in compared.flexes if flex.method in get_args(Method)}
    tested = {method: (found.accuracy(), *found.interval()) for method, found in said.items()}
    by_unit: dict[str, list[str]] = {}
    for method, unit in picks.items():
        by_unit.setdefault(unit, []).append(method)
    caption = ["; ".join(f"'{unit}' is the choice of {', '.join(names)}" for unit, names in by_unit.items()) + "."]
    caption += [f"{name} is left out: {why.partition(':')[0]}." for name, why in compared.left_out.items()]
    draw_choice({title: scores}, {title: picks}, {title: tested}, Path(path), caption=caption, on=where)


def folder_of(method: str) -> str:
    """Name of the folder of a method or baseline: ``"ft-fc (1)"`` is in ``ft-fc-1``."""
    return method.replace(" (", "-").replace(")", "")


def _refuse_unknown(asked: Mapping[str, tuple[Sequence[str], Sequence[str]]]) -> None:
    wrong = [
        f"{what} is {names!r:.80}; it must be a list of names: {', '.join(known)}."
        for what, (names, known) in asked.items()
        if not isinstance(names, list | tuple)
    ]
    if wrong:
        raise BadInput.of("this comparison", wrong)
    problems = [
        f"there is no {name!r} among {what}; there are {', '.join(known)}."
        for what, (names, known) in asked.items()
        for name in names
        if name not in known
    ]
    if not asked["methods"][0]:
        problems.append(f"no method was asked for; there are {', '.join(asked['methods'][1])}.")
    if problems:
        raise BadInput.of("this comparison", problems)


def _problems(
    backbone: Backbone, train: Split, val: Split, recipe: Recipe, options: Mapping[str, Any]
) -> dict[str, str]:
    """Baselines that a network cannot be trained by -> why."""
    told = {name: value for name, value in options.items() if name in Options.__annotations__}
    network = network_for(backbone, asked_for(train, val, recipe, backbone=backbone, **told))
    found = {name: problem_with(name, network) for name in get_args(Baseline)}
    return {name: problem for name, problem in found.items() if problem is not None}


def _row(flex: Flex) -> MethodRow:
    total, scores = flex.cost.total, flex.best.scores
    return MethodRow(
        flex.method, flex.unit, scores["val"], scores.get("test"), total.n_trainings, total.epochs, total.seconds,
        total.unit_passes,
    )  # fmt: skip
