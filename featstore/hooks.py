"""Networks that cannot be written as a graph: their units' outputs taken by forward hooks.

Positions are counted in events, the beginning and the end of each module's forward. Without a graph it cannot be seen
where a single tensor carries everything; what is trusted to is the end of a top-level child and of an element of a
plain container.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from featstore.errors import BadInput
from featstore.fingerprint import describe_module
from featstore.grouping import HEAD, PENULTIMATE, Boundary, Outline, choose_units
from featstore.outlines import ancestors, is_classifier_layer, n_weights, tree_facts
from featstore.units import Chain, live_tensors

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["WatchedChain", "watch"]


@dataclass
class _Log:
    """What happened during one forward pass."""

    n_events: int = 0
    calls: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    begun: dict[str, int] = field(default_factory=dict)
    outputs: dict[int, tuple[str, Any]] = field(default_factory=dict)
    inputs: dict[int, tuple[str, Any]] = field(default_factory=dict)

    def begin(self, path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.begun[path] = self.n_events
        self.inputs[self.n_events] = (path, args[0] if args else None)
        self.n_events += 1

    def end(self, path: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.calls.setdefault(path, []).append((self.begun[path], self.n_events))
        self.outputs[self.n_events] = (path, output)
        self.n_events += 1


class WatchedChain(Chain):
    """A chain whose units' outputs are taken by forward hooks; parts of it cannot be run alone.

    Parameters
    ----------
    places : dict
        Unit -> path of a module, and whether it is the module's input (else its output) that is the unit's output.
    """

    def __init__(
        self,
        module: nn.Module,
        shapes: dict[str, tuple[int, ...]],
        tensors: dict[str, tuple[str, ...]],
        places: dict[str, tuple[str, bool]],
        reason: str,
    ) -> None:
        super().__init__(module, shapes, tensors, (describe_module(module),), reason)
        self._places = places

    def run(
        self, x: torch.Tensor | tuple[torch.Tensor, ...], first: str | None = None, last: str | None = None
    ) -> torch.Tensor:
        start = 0 if first is None else self.index(first)
        stop = len(self.names) - 1 if last is None else self.index(last)
        if start == 0 and stop == len(self.names) - 1:
            output: torch.Tensor = self.module(x)
            return output
        raise BadInput(f"a part of {type(self.module).__name__} cannot be run alone: {self.reason}")

    def visit(self, x: torch.Tensor, units: Collection[str], each: Callable[[str, torch.Tensor], None]) -> None:
        handles = []
        for name in units:
            self.index(name)
            path, is_input = self._places[name]
            watched = self.module.get_submodule(path)
            if is_input:
                handles.append(watched.register_forward_pre_hook(partial(_give_input, name, each)))
            else:
                handles.append(watched.register_forward_hook(partial(_give_output, name, each)))
        try:
            self.module(x)
        finally:
            for handle in handles:
                handle.remove()

    def unit(self, name: str) -> nn.Module:
        self.index(name)
        raise BadInput(f"a unit of {type(self.module).__name__} cannot be had alone: {self.reason}")


def _give_input(name: str, each: Callable[[str, Any], None], module: nn.Module, args: tuple[Any, ...]) -> None:
    each(name, args[0])


def _give_output(
    name: str, each: Callable[[str, Any], None], module: nn.Module, args: tuple[Any, ...], output: Any
) -> None:
    each(name, output)


def watch(module: nn.Module, example: torch.Tensor, *, fine: bool, reason: str) -> WatchedChain:
    """Return the chain of a network that cannot be traced.

    Parameters
    ----------
    module : torch.nn.Module
    example : torch.Tensor
        (1, c, h, w) an input, on which the network is watched.
    fine : bool
        Cut stages into their blocks.
    reason : str
        Why it cannot be traced.
    """
    log, final = _log_of(module, example)
    outline = _outline(module, log, final)
    boundaries = choose_units(outline, fine=fine)
    places: dict[str, tuple[str, bool]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for boundary in boundaries:
        is_input = boundary.position in log.inputs
        places[boundary.name] = (log.inputs if is_input else log.outputs)[boundary.position][0], is_input
        shapes[boundary.name] = outline.cuts[boundary.position][1:]
    if outline.has_head:
        boundaries.append(Boundary(HEAD, log.n_events))
        places[HEAD], shapes[HEAD] = ("", False), tuple(final.shape[1:])
    return WatchedChain(module, shapes, _owned(module, log, boundaries), places, reason)


def _log_of(module: nn.Module, example: torch.Tensor) -> tuple[_Log, torch.Tensor]:
    import torch

    log = _Log()
    handles = []
    for path, m in module.named_modules():
        handles.append(m.register_forward_pre_hook(partial(log.begin, path)))
        handles.append(m.register_forward_hook(partial(log.end, path)))
    try:
        with torch.no_grad():
            return log, module(example)
    finally:
        for handle in handles:
            handle.remove()


def _outline(module: nn.Module, log: _Log, final: torch.Tensor) -> Outline:
    import torch

    sequential, pools = tree_facts(module)
    spans = {p: (calls[0][0], calls[-1][1]) for p, calls in log.calls.items()}
    for path, span in list(spans.items()):  # a container whose elements are called one by one is never called itself
        for p in ancestors(path):
            first, last = spans.get(p, span)
            spans[p] = (min(first, span[0]), max(last, span[1]))
    weights = {p: n_weights(module.get_submodule(p)) for p in spans if p}
    weights = {p: n for p, n in weights.items() if n}
    last_event = log.n_events - 1
    cuts = {last_event: tuple(final.shape)}
    for at, (path, output) in log.outputs.items():
        parent = path.rpartition(".")[0]
        trusted = path and (not parent or parent in sequential) and len(log.calls[path]) == 1
        if trusted and isinstance(output, torch.Tensor):
            cuts[at] = tuple(output.shape)
    entry, has_head = _head(module, log, final, weights)
    if has_head:
        cuts[entry] = tuple(log.inputs[entry][1].shape)
    spans = {p: spans[p] for p in weights}
    at_pools = {p: log.calls[p][0][1] for p in pools if p in log.calls}
    return Outline(spans, weights, sequential, at_pools, dict(sorted(cuts.items())), entry, has_head)


def _head(module: nn.Module, log: _Log, final: torch.Tensor, weights: dict[str, int]) -> tuple[int, bool]:
    """Return the beginning of the classifier, if the last layer with weights is one and its output is the network's."""
    last_event = log.n_events - 1
    layers = [p for p in weights if weights[p] and not any(True for _ in module.get_submodule(p).children())]
    if not layers or getattr(module, "num_classes", None) == 0 or final.ndim != 2:
        return last_event, False
    path = max(layers, key=lambda p: log.calls[p][-1])
    began, ended = log.calls[path][-1]
    is_result = log.outputs[ended][1] is final
    return (began, True) if is_result and is_classifier_layer(module.get_submodule(path)) else (last_event, False)


def _owned(module: nn.Module, log: _Log, boundaries: list[Boundary]) -> dict[str, tuple[str, ...]]:
    owned: dict[str, list[str]] = {b.name: [] for b in boundaries}
    for name in live_tensors(module):
        owner = name.rpartition(".")[0]
        while owner and owner not in log.calls:
            owner = owner.rpartition(".")[0]
        began = log.calls[owner][0][0] if owner else 0
        unit = next((b.name for b in boundaries if began < b.position), PENULTIMATE)
        owned[unit].append(name)
    return {unit: tuple(names) for unit, names in owned.items()}
