"""Flex-tuning (Royer and Lampert 2020): tune the one unit of a network that the validation split says is best.

`flex_tune` decides what feeds which candidate (`finetune.feeding`), lets an algorithm (`finetune.algorithms`) ask for
trainings and scores, and writes the outcome as a `Run` whose folder holds every candidate as a run of its own:

::

    out/
      run.json, best.safetensors, …    the chosen network, its predictions, the table and the cost in its details
      candidates/conv1/, …, all/       one run per training; `inputs.json`: what storing their inputs took
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, get_args

from finetune.algorithms import Method
from finetune.baselines import Baseline, baseline_candidate
from finetune.candidates import Candidate, candidates_of, described
from finetune.cost import Cost
from finetune.errors import BadInput
from finetune.features import refuse_store_of_another
from finetune.feeding import FeedKind, FeedPlan, plan_feed
from finetune.folder import check_candidates, check_folder, folder_named
from finetune.recipe import Recipe
from finetune.run import Run
from finetune.task import Asked, Options, asked_for, network_identity, run_of

if TYPE_CHECKING:
    from featstore import Backbone, Split, Store
    from finetune.networks import TargetNetwork

_NO_VAL = "flex-tuning chooses on a validation split, and there is none: pass val, or hold some of train out."


@dataclass(frozen=True)
class TableRow:
    """What is known about one candidate.

    Attributes
    ----------
    candidate : str
        Its name.
    units : tuple of str
        That it tunes; empty for a training of another kind.
    score : float or None
        What the method ranks it by; None where the method does not rank it.
    val : float or None
        Validation score after its training; None where it was not trained.
    epochs, seconds : float or None
        Of its training.
    fed_from : str or None
        The unit whose stored output it was fed with; None are images.
    diverged : mapping or None
        Where its training diverged, so that it is ruled out: ``"step"``, ``"lr"`` and the ``"message"``, which says where
        its last good state is.
    """

    candidate: str
    units: tuple[str, ...]
    score: float | None
    val: float | None
    epochs: float | None
    seconds: float | None
    fed_from: str | None
    diverged: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Flex:
    """What a flex-tuning ends with.

    Attributes
    ----------
    unit : str
        The candidate that was chosen: a unit, ``"a+b"``, the name of another training, or ``"all"``.
    method : str
        How.
    table : tuple of TableRow
        Every candidate.
    best : Run
        The chosen network: weights, predictions on val, and on test where there is such a split.
    cost : Cost
        What it took.
    """

    unit: str
    method: str
    table: tuple[TableRow, ...]
    best: Run
    cost: Cost

    def to_json(self) -> dict[str, Any]:
        """As plain numbers, strings, lists and dictionaries."""
        from dataclasses import asdict

        return {
            "unit": self.unit,
            "method": self.method,
            "scores": dict(self.best.scores),
            "table": [asdict(row) for row in self.table],
            "cost": self.cost.to_json(),
            "path": str(self.best.path),
        }


def flex_tune(
    backbone: Backbone,
    train: Split,
    val: Split,
    *,
    recipe: Recipe,
    out: str | Path,
    method: Method | Baseline = "flex",
    units: str | Sequence[str] = "all",
    pairs: str | Sequence[tuple[str, str]] = (),
    others: Mapping[str, Callable[..., Run]] | None = None,
    feed: FeedKind | None = None,
    store: str | Path | Store | None = None,
    dtype: str = "float32",
    candidates: str | Path | None = None,
    **options: Unpack[Options],
) -> Flex:
    """Tune the unit that the validation split says is best, and only it.

    With ``head_rows`` the target's classes are among the source's and the head stays, as in the paper. Without, a new
    head is trained with every candidate, and proxies take it from ft-all beside their unit, as section 3.1 suggests.

    Parameters
    ----------
    backbone : Backbone
        Not changed.
    train, val : Split
        Candidates are trained on ``train`` and chosen on ``val``, which must not be empty.
    recipe : Recipe
        Of every training. The paper's early stopping is ``keep=StopEarly(…)``; see `Recipe.royer2020`.
    out : str or Path
        Folder. Called again, finished candidates are read from there and an unfinished one goes on.
    method : str
        ``"flex"``, ``"fast"`` or ``"faster"``: Algorithms 1 to 3. ``"rgn"``: the largest relative gradient norm (Lee et
        al. 2022); ``"probe"``: the unit on whose output a linear probe is best on val. ``"ft-fc (1)"``, ``"ft-fc (2)"``,
        ``"ft-ss"`` and ``"ft-all"`` choose nothing: the last unit, the last two, scales and shifts, the whole network.
    units : str or sequence of str
        Candidates; ``"all"`` are all units with parameters. Tuning the whole network is a candidate of ``"flex"`` and
        ``"fast"`` always.
    pairs : str or sequence of (str, str)
        Pairs of units, tuned together, as further candidates; ``"all"`` are all pairs of ``units``.
    others : mapping of str to callable, or None
        Trainings of another kind by name, called like `full_tune`: the image-to-image unit. For ``"flex"`` only, since
        ft-all has no copy of them to make proxies of.
    feed : str or None
        Where the inputs of candidates are: ``"memory"``, ``"disk"`` (a feature store), or ``"images"``, computed anew in
        every step. None is disk where a ``store`` is given, else memory; and images where stored inputs cannot be: with
        augmentation, another view, ``train_mode="all"``, or a network that cannot be cut. Which and why is said, and in
        ``flex.best.details["feed"]``.
    store : str, Path, Store or None
        Of ``feed="disk"``; None is ``out/features``. What is missing there is added, but to a store whose outputs of
        these images are all of one other network, which is taken for a mistake.
    dtype : str
        Of stored inputs: ``"float32"``, ``"float16"`` or ``"bfloat16"``.
    candidates : str, Path or None
        Folder of the candidates' runs, to share with other methods of the same task; None is ``out/candidates``.
    **options
        See `finetune.task.Options`. ``test`` is looked at once, by the chosen network.

    Returns
    -------
    Flex
        Ties go to the candidate listed first in ``flex.table``; ft-all is the last. Fast flex-tuning takes its unit over
        ft-all on a tie, as written.

    Raises
    ------
    BadInput
        Splits, recipe, units or feed that do not fit together.
    OutOfMemory
        Memory or disk does not suffice for what would be stored; before anything is trained.
    Diverged
        Every candidate did, or ft-all, which the proxies of ``"fast"`` and ``"faster"`` are made from. Single ones that do
        are said on stderr, ruled out, and marked in the table.
    DifferentRun, RunWrite, RunBusy, CorruptRun
        See `finetune.errors`.
    """
    from finetune.flex_steps import Steps

    out = folder_named(out)
    folder = out / "candidates" if candidates is None else folder_named(candidates, "candidates")
    steps = _prepared(
        backbone, train, val, recipe=recipe, out=out, method=method, units=units, pairs=pairs, others=others, feed=feed,
        store=store, dtype=dtype, folder=folder, options=options,
    )  # fmt: skip
    assert isinstance(steps, Steps)
    asked = steps.asked_with_test
    identity = asked.identity("flex_tune", network_identity(backbone), asked.image_identity())
    identity |= {
        "method": method,
        "candidates": [candidate.name for candidate in steps.candidates],
        "feed": {"kind": steps.plan.kind, "dtype": steps.plan.dtype},
    }
    if others:
        identity["others"] = {name: described(regime) for name, regime in others.items()}
    run = run_of(asked, out, identity, what=f"by {method}: {steps.plan.said()}", work=steps.carry_out)
    return flex_of(run)


def flex_of(run: Run) -> Flex:
    """The flex-tuning that a finished run of `flex_tune` is.

    Raises
    ------
    BadInput
        It is a run of something else.
    """
    if run.regime != "flex_tune":
        raise BadInput(f"the run in {run.path} is of {run.regime}, not of flex_tune.")
    told = run.details
    table = tuple(TableRow(**{**row, "units": tuple(row["units"])}) for row in told["table"])
    return Flex(told["chosen"], str(run.identity["method"]), table, run, Cost.from_json(told["cost"]))


def flex_plan(
    backbone: Backbone,
    train: Split,
    val: Split,
    *,
    recipe: Recipe,
    units: str | Sequence[str] = "all",
    pairs: str | Sequence[tuple[str, str]] = (),
    feed: FeedKind | None = None,
    dtype: str = "float32",
    **options: Unpack[Options],
) -> FeedPlan:
    """What `flex_tune` would store for which candidate, and how much that is; nothing is computed.

    Parameters
    ----------
    backbone, train, val, recipe, units, pairs, feed, dtype, **options
        As of `flex_tune`.

    Returns
    -------
    FeedPlan
        ``.sources``, ``.stored``, ``.total_bytes``, ``.peak_bytes``, ``.said()``.
    """
    from finetune.regimes import network_for

    if val is None:
        raise BadInput(_NO_VAL)
    asked = asked_for(train, val, recipe, backbone=backbone, **options)
    network = network_for(backbone, asked)
    found = candidates_of(network, units, pairs)
    return _feed_plan(asked, network, found, feed=feed, has_store=False, dtype=dtype)


def _prepared(
    backbone: Backbone,
    train: Split,
    val: Split,
    *,
    recipe: Recipe,
    out: Path,
    method: Method | Baseline,
    units: str | Sequence[str],
    pairs: str | Sequence[tuple[str, str]],
    others: Mapping[str, Callable[..., Run]] | None,
    feed: FeedKind | None,
    store: str | Path | Store | None,
    dtype: str,
    folder: Path,
    options: Options,
) -> Any:
    """Everything that is decided before anything is done, and every refusal."""
    from finetune.flex_steps import Steps, shared
    from finetune.regimes import network_for

    check_folder(out)
    check_candidates(folder)
    is_baseline, known = method in get_args(Baseline), (*get_args(Method), *get_args(Baseline))
    if method not in known:
        raise BadInput(f"there is no method {method!r} of flex-tuning; there are {', '.join(known)}.")
    if is_baseline and (units != "all" or pairs or others):
        raise BadInput(f"'{method}' chooses nothing, so there is no choice of units, pairs or others; leave them out.")
    if val is None:
        raise BadInput(_NO_VAL)
    if others and method != "flex":
        raise BadInput(
            f"{' and '.join(others)} cannot be chosen by '{method}': it is no part of the network, so ft-all holds no tuned "
            "copy of it, and it has no gradient or feature in the source network. Use method='flex'."
        )
    if pairs and method == "probe":
        raise BadInput(
            "a probe reads the output of one unit, so 'probe' cannot rank pairs; use flex, fast, faster or rgn."
        )
    if recipe.auxiliary is not None and method != "ft-all":
        raise BadInput("an auxiliary head is for trainings of the whole network, and single units are tuned here; set "
                       "auxiliary=None.")  # fmt: skip
    if feed in ("memory", "images") and store is not None:
        raise BadInput(f"a store was given and feed is '{feed}', which does not use it; give one of the two.")
    with_test = asked_for(train, val, recipe, backbone=backbone, **options)
    asked = shared(with_test)
    network = network_for(backbone, asked)
    found = (baseline_candidate(method, network),) if is_baseline else candidates_of(network, units, pairs, others)
    plan = _feed_plan(asked, network, found, feed=feed, has_store=store is not None, dtype=dtype)
    plan.check(out, asked.device)
    if store is not None and plan.kind == "disk":
        refuse_store_of_another(store, backbone, asked.splits)
    return Steps(backbone, asked, with_test, plan, found, method, folder, store or out / "features", options)


def _feed_plan(
    asked: Asked,
    network: TargetNetwork,
    candidates: Sequence[Candidate],
    *,
    feed: FeedKind | None,
    has_store: bool,
    dtype: str,
) -> FeedPlan:
    """The plan, of images where stored inputs cannot be; asked for all the same, they are refused."""
    reasons = _reasons_for_images(asked, network)
    if feed in ("memory", "disk") and reasons:
        raise BadInput.of(f"feed='{feed}'", [f"inputs of units cannot be stored: {reason}." for reason in reasons])
    kind: FeedKind = feed or ("images" if reasons else "disk" if has_store else "memory")
    why = "; ".join(reasons) or "as was asked for"
    if reasons and has_store:
        why += "; the store is not used"
    firsts = [candidate.first for candidate in candidates if candidate.is_part]
    n_images = sum(len(asked.splits[name]) for name in ("train", "val"))
    return plan_feed(network, firsts, n_images, kind=kind, dtype=dtype, why=why)


def _reasons_for_images(asked: Asked, network: TargetNetwork) -> list[str]:
    """Why what stands before a unit must run in every step."""
    recipe, found = asked.recipe, []
    if network.chain.reason is not None:
        found.append(f"{network.backbone.name} cannot be run in parts ({network.chain.reason.rstrip('.')})")
    if recipe.augmentation is not None:
        found.append("the recipe augments images, so that they differ in every epoch")
    if recipe.view != "loaded":
        found.append(f"the recipe's view is '{recipe.view}'")
    if recipe.train_mode == "all":
        found.append("with train_mode='all' dropout and batch norm of frozen units are active")
    return found
