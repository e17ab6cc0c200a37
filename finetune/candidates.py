"""What flex-tuning chooses among: single units, pairs of units, trainings of another kind, and the whole network."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.algorithms import ALL
from finetune.errors import BadInput
from finetune.folder import is_folder_name
from finetune.networks import unit_names
from finetune.records import plain

if TYPE_CHECKING:
    from finetune.networks import TargetNetwork
    from finetune.run import Run


ONE_EPOCH = "all-one-epoch"
"""Name of ft-all after a single epoch (line 1 of Algorithm 3); it is no candidate, and its run stands beside theirs."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One training that flex-tuning may choose.

    Parameters
    ----------
    name : str
        ``"conv2"``, ``"conv2+head"``, ``"all"``, or what a training of another kind is called.
    units : tuple of str
        Units of the network that it tunes, in order of execution; empty for a training of another kind.
    regime : callable or None
        A training of another kind, called like `finetune.full_tune`: the image-to-image unit.
    """

    name: str
    units: tuple[str, ...] = ()
    regime: Callable[..., Run] | None = None

    @property
    def is_part(self) -> bool:
        """Whether it tunes some units of the network and leaves others."""
        return bool(self.units) and self.name != ALL

    @property
    def first(self) -> str:
        """The first unit that it tunes: what stands before can be run once."""
        return self.units[0]


def candidates_of(
    network: TargetNetwork,
    units: str | Sequence[str] = "all",
    pairs: str | Sequence[tuple[str, str]] = (),
    others: Mapping[str, Callable[..., Run]] | None = None,
) -> tuple[Candidate, ...]:
    """Every candidate, in the order that breaks ties: single units as they run, pairs, other trainings, the whole.

    Parameters
    ----------
    network : TargetNetwork
        Whose units they are.
    units : str or sequence of str
        Names; ``"all"`` are those that have parameters.
    pairs : str or sequence of (str, str)
        Pairs of units tuned together; ``"all"`` are all pairs of ``units``.
    others : mapping of str to callable, or None
        Trainings of another kind by name; see `Candidate`.

    Raises
    ------
    BadInput
        Units that do not exist or have no parameters, pairs that are none, names that are taken; all in one error.
    """
    trained = {name for name, _ in network.chain.module.named_parameters()}
    having = [unit for unit in network.units if unit == "head" or trained & set(network.chain.tensors[unit])]
    singles = tuple(having) if units == "all" else unit_names(network.backbone, units)
    if (isinstance(pairs, str) and pairs != "all") or not isinstance(pairs, Iterable):
        raise BadInput(f"pairs is {pairs!r}; it must be 'all' or several pairs of units: [('{singles[0]}', 'head')].")
    asked = list(itertools.combinations(singles, 2)) if pairs == "all" else list(pairs)
    problems = [_without_parameters(unit, network, having) for unit in singles if unit not in having]
    found = [Candidate(unit, (unit,)) for unit in singles]
    for pair in asked:
        members = unit_names(network.backbone, pair) if isinstance(pair, (tuple, list)) else ()
        if len(members) != 2:
            problems.append(f"{pair!r} is not a pair of two different units.")
        problems += [_without_parameters(unit, network, having) for unit in members if unit not in having]
        found.append(Candidate("+".join(members), members))
    given: Any = others or {}
    if not isinstance(given, Mapping):
        raise BadInput(f"others is {others!r:.80}; it must be a mapping: {{'adapter': finetune.tune_adapter}}.")
    taken = {ALL, ONE_EPOCH, *network.units, *(candidate.name for candidate in found)}
    for name, regime in given.items():
        if name in taken or not is_folder_name(name):
            problems.append(
                f"{name!r} cannot name another training: another candidate has it, or it is no name of a folder."
            )
        if not callable(regime):
            problems.append(f"{name!r} is {regime!r}; a training of another kind is called like finetune.full_tune.")
        found.append(Candidate(name, (), regime))
    if problems:
        raise BadInput.of("the choice of candidates", list(dict.fromkeys(problems)))
    return (*{c.name: c for c in found}.values(), Candidate(ALL, network.units))


def described(regime: Callable[..., Run]) -> dict[str, Any]:
    """What a training of another kind is, as plain JSON: its name, and what `functools.partial` has given it."""
    if not isinstance(regime, functools.partial):
        return {"regime": f"{regime.__module__}.{getattr(regime, '__qualname__', type(regime).__qualname__)}"}
    given = {name: _as_json(value) for name, value in sorted(regime.keywords.items())}
    return described(regime.func) | given


def _as_json(value: Any) -> Any:
    import json

    try:
        return json.loads(json.dumps(plain(value)))
    except TypeError:  # no record of ours: its name has to do
        return repr(value)


def _without_parameters(unit: str, network: TargetNetwork, having: Sequence[str]) -> str:
    return (
        f"unit '{unit}' of {network.backbone.name} has no parameters, so there is nothing to tune in it; those that have "
        f"are {', '.join(having)}."
    )
