"""The network that a training works on: a copy of a backbone with the target's head, whole or from some unit on.

::

    images ──► module ──► logits                         what full tuning trains, and what `Run.network` gives
    input of unit ℓ ──► suffix(ℓ) ──► logits             the same tensors under the same names, entered at unit ℓ

`TargetNetwork.parts` says which tensors and modules of both belong to which units.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune.checking import is_whole
from finetune.errors import BadInput
from finetune.heads import head_name, pooled, replaced_layer
from finetune.trainable import Parts

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from featstore import Backbone, Chain

_BODY = "body."


@dataclass(frozen=True, eq=False)
class TargetNetwork:
    """A copy of a backbone with another head, cut into the backbone's units.

    Attributes
    ----------
    backbone : Backbone
        Where it comes from; not changed by what is done here.
    module : nn.Module
        Images to logits ``(b, k)``, in evaluation mode. Its tensors have the names that they have in the backbone's
        network; where its head cannot be replaced in place, ``body.`` goes before them.
    chain : Chain
        The backbone's units, sharing their tensors with ``module``.
    head : str
        Path of the head in ``module``.
    is_in_place : bool
        Whether the head stands where the network's own stood.
    """

    backbone: Backbone
    module: nn.Module
    chain: Chain
    head: str
    is_in_place: bool

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the units, the head last."""
        names = self.chain.names
        return names if names[-1] == "head" else (*names, "head")

    def to(self, device: torch.device | str) -> TargetNetwork:
        """Move the network and its units; gives itself back."""
        self.module.to(device)
        self.chain.to(device)
        return self

    def suffix(self, first: str, *, instead: Mapping[str, nn.Module] | None = None) -> nn.Module:
        """The network from the input of a unit on: ``(b, …)`` to logits; tensors and their names are `module`'s.

        Parameters
        ----------
        first : str
            Name of the unit; the first one takes images.
        instead : mapping of str to nn.Module, or None
            What runs in the place of units after ``first``: see `finetune.folding`. It is no part of the module's tensors.

        Raises
        ------
        BadInput
            There is no such unit, or the network cannot be run in parts.
        """
        from torch import nn

        _refuse_unknown(self.units, [first], self.backbone.name)
        if self.chain.reason is not None:
            if first == self.units[0]:
                return self.module  # nothing is cut
            raise BadInput(f"a part of {self.backbone.name} cannot be run alone: {self.chain.reason}")
        chain, backbone, whole, is_in_place = self.chain, self.backbone, self.module, self.is_in_place
        last = chain.names[-1] if is_in_place else "penultimate"
        spans = [] if first == "head" and not is_in_place else _spans(chain, first, last, instead or {})

        class Suffix(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                # the same dictionaries: what is replaced, moved or loaded in one is in the other
                self._modules, self._parameters = whole._modules, whole._parameters
                self._buffers = whole._buffers

            def forward(self, x: Tensor) -> Tensor:
                for run in spans:
                    x = run(x)
                if is_in_place:
                    return x
                logits: Tensor = whole.head(pooled(backbone, x))  # type: ignore[operator]
                return logits

        return Suffix().train(self.module.training)

    def parts(self, units: Collection[str], *, frozen: Collection[str] = ()) -> Parts:
        """The tensors and modules of some units, by their names in `module` and in every `suffix`.

        A module that runs in several units belongs to the first of them. One that contains others is in training mode
        where all that it contains is.

        Parameters
        ----------
        units : collection of str
            Names of the units that move.
        frozen : collection of str
            Parameters that stay nevertheless.

        Raises
        ------
        BadInput
            A unit that does not exist, or units without any parameter.
        """
        _refuse_unknown(self.units, units, self.backbone.name)
        owners = _owners(self)
        names = {id(module): name for name, module in self.module.named_modules()}
        modules = {names[key] for key, unit in owners.items() if unit in units}
        for name, module in self.module.named_modules():
            inside = [owners[id(m)] for m in module.modules() if id(m) in owners]
            if id(module) not in owners and inside and set(inside) <= set(units):
                modules.add(name)
        by_name = dict(self.module.named_parameters())
        under = "" if self.is_in_place else _BODY
        chosen = {f"{under}{tensor}" for unit in units for tensor in self.chain.tensors.get(unit, ())} & set(by_name)
        chosen |= {name for name in by_name if name.rpartition(".")[0] in modules}
        if "head" in units:
            chosen |= {name for name in by_name if name.startswith(f"{self.head}.")}
        if not chosen - set(frozen):
            having = [unit for unit in self.units if unit == "head" or self.chain.tensors[unit]]
            raise BadInput(
                f"{_listed(units)} of {self.backbone.name} has no parameters, so there is nothing to train in it; choose "
                f"among {', '.join(having)}."
            )
        return Parts(frozenset(chosen - set(frozen)), frozenset(modules))


def target_network(backbone: Backbone, head: nn.Linear) -> TargetNetwork:
    """A copy of a backbone's network with a head of the target's.

    Parameters
    ----------
    backbone : Backbone
        Not changed.
    head : nn.Linear
        From penultimate features to logits; used, not copied.
    """
    name, chain = replaced_layer(backbone), copy.deepcopy(backbone.chain)
    if name is None:
        return TargetNetwork(backbone, _on_penultimate(backbone, chain, head), chain, "head", False)
    parent, _, leaf = name.rpartition(".")
    for root in (chain.module,) if chain.reason is not None else (chain.module, chain.unit("head")):
        setattr(root.get_submodule(parent), leaf, head)
    return TargetNetwork(backbone, chain.module.eval(), chain, head_name(backbone), True)


def with_head(backbone: Backbone, head: nn.Linear) -> nn.Module:
    """The module of `target_network`: images to logits, in evaluation mode."""
    return target_network(backbone, head).module


def unit_names(backbone: Backbone, unit: str | Sequence[str]) -> tuple[str, ...]:
    """One or several units by name, in order of execution and once each.

    Raises
    ------
    BadInput
        A unit that does not exist; the nearest names.
    """
    asked = list(unit) if isinstance(unit, Iterable) and not isinstance(unit, (str, bytes)) else [unit]
    known = (*backbone.units, "head") if "head" not in backbone.units else backbone.units
    _refuse_unknown(known, asked, backbone.name)
    return tuple(name for name in known if name in asked)


def last_units(target: TargetNetwork, n_units: int) -> tuple[str, ...]:
    """The last units that have parameters, in order of execution; the head is the last.

    Raises
    ------
    BadInput
        There are not so many.
    """
    having = [unit for unit in target.units if unit == "head" or target.chain.tensors[unit]]
    if not is_whole(n_units) or not 1 <= n_units <= len(having):
        raise BadInput(
            f"n_units is {n_units!r}, and {target.backbone.name} has {len(having)} units with parameters: "
            f"{', '.join(having)}."
        )
    return tuple(having[-n_units:])


def _spans(chain: Chain, first: str, last: str, instead: Mapping[str, nn.Module]) -> list[Callable[[Tensor], Tensor]]:
    """The units of a chain from one to another, as calls one after another: some replaced, the rest as long as it goes."""
    names = chain.names[chain.index(first) : chain.index(last) + 1]
    found: list[Callable[[Tensor], Tensor]] = []
    for is_replaced, group in itertools.groupby(names, key=lambda name: name != first and name in instead):
        own = list(group)
        if is_replaced:
            found += [instead[name] for name in own]
        else:
            found.append(functools.partial(chain.run, first=own[0], last=own[-1]))
    return found


def _owners(target: TargetNetwork) -> dict[int, str]:
    """Identity of each module that runs -> the unit it belongs to."""
    chain, owners = target.chain, dict[int, str]()
    known = {id(module) for module in target.module.modules()}
    if chain.reason is None:
        for unit in chain.names:
            if unit == "head" and not target.is_in_place:
                continue
            for module in chain.unit(unit).modules():
                if id(module) in known:
                    owners.setdefault(id(module), unit)
    else:
        under = "" if target.is_in_place else _BODY
        for unit in chain.names:
            for tensor in chain.tensors[unit]:
                path = f"{under}{tensor}".rpartition(".")[0]
                owners.setdefault(id(target.module.get_submodule(path)), unit)
    owners.update(dict.fromkeys((id(m) for m in target.module.get_submodule(target.head).modules()), "head"))
    return owners


def _on_penultimate(backbone: Backbone, chain: Chain, head: nn.Linear) -> nn.Module:
    """The network as far as its penultimate unit, averaged over positions, then the head."""
    from torch import nn

    class OnPenultimate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = chain.module
            self.head = head

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(pooled(backbone, chain.run(x, last="penultimate")))
            return logits

    return OnPenultimate().eval()


def _refuse_unknown(known: Sequence[str], asked: Collection[str], name: str) -> None:
    import difflib

    unknown = [unit for unit in asked if unit not in known]
    if not asked:
        raise BadInput(f"no unit of {name} was asked for; it has {', '.join(known)}.")
    if unknown:
        near = {n: None for unit in unknown for n in difflib.get_close_matches(str(unit), known, n=3, cutoff=0.3)}
        nearest = f"the nearest names are {', '.join(near)}, and all are" if near else "its units are"
        raise BadInput(f"{name} has no unit {_listed(unknown)}; {nearest} {', '.join(known)}.")


def _listed(names: Collection[str]) -> str:
    return " and ".join(f"'{name}'" for name in names)
