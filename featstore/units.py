"""A network as a chain of units, any part of which can be run alone.

    N = head ∘ penultimate ∘ … ∘ layer1 ∘ conv1          chain.run(x, "layer1", "layer3")

Where a network's cells read the two before them (NASNet-A, PNASNet), what flows from unit to unit is a pair of tensors, the
output of an earlier unit and the unit's own; stored, and handed to poolings, is its own.

Units share modules and parameters with the network they were cut from; the composition of all units equals the network
bit for bit, which `cut` proves on one input before it returns. Networks whose forward cannot be written as a graph are
watched by forward hooks instead: every unit's output can be taken, but parts cannot be run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, cast

from featstore.errors import BadInput, UnknownName
from featstore.grouping import HEAD, Boundary, Outline, choose_units
from featstore.tracing import NotTraceable, Traced, mutates_input, pairs_of, part, trace

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

__all__ = ["Chain", "GraphChain", "cut", "live_tensors"]

UNSEEN = ("num_batches_tracked",)
"""Buffers that no output depends on: batch norm counts its updates. Weight files often leave them out."""


class Chain(ABC):
    """A network as a sequence of units; made by `cut`.

    Attributes
    ----------
    module : torch.nn.Module
        The network itself.
    names : tuple of str
        Of the units, in order of execution; the last ones are ``"penultimate"`` and, where there is a classifier,
        ``"head"``.
    shapes : dict
        Name -> shape of the unit's output for one sample, without the batch axis.
    tensors : dict
        Name -> names of the parameters and buffers that the unit owns, as the network names them. Every tensor that an
        output depends on is owned by exactly one unit, the first that uses it.
    unused : tuple of str
        Names of the parameters and buffers that no output depends on in eval mode: auxiliary classifiers.
    architecture : tuple of str
        What the network computes, line by line in text, without its weights.
    reason : str or None
        Why parts cannot be run alone; None where they can.
    passed : dict
        Name -> the two units whose outputs are passed on after it, the unit itself last; units that pass on their own output
        alone, as nearly all do, are not in it.
    """

    def __init__(
        self,
        module: nn.Module,
        shapes: Mapping[str, tuple[int, ...]],
        tensors: Mapping[str, tuple[str, ...]],
        architecture: tuple[str, ...],
        reason: str | None = None,
        passed: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        self.module = module
        self.names = tuple(shapes)
        self.shapes = dict(shapes)
        self.tensors = dict(tensors)
        owned = {name for names in self.tensors.values() for name in names}
        self.unused = tuple(name for name in live_tensors(module) if name not in owned)
        self.architecture = architecture
        self.reason = reason
        self.passed = dict(passed or {})

    @abstractmethod
    def run(
        self, x: torch.Tensor | tuple[torch.Tensor, ...], first: str | None = None, last: str | None = None
    ) -> torch.Tensor:
        """Return the output of unit `last`, given the input of unit `first`.

        Parameters
        ----------
        x : torch.Tensor
            (n, …) input of `first`: images for the first unit, else the output of the unit before it; where that one is in
            `passed`, the tuple of the two outputs. Not written to.
        first, last : str or None
            Names; None means the first and the last unit of the chain.

        Returns
        -------
        torch.Tensor
            (n, …); where `last` is in `passed`, the tuple of the two outputs, so that a run can go on from there.

        Raises
        ------
        UnknownName
            If there is no such unit.
        BadInput
            If `last` comes before `first`, or the network cannot be run in parts, or `x` is one tensor where `first` takes two
            or the other way round, or has another size than the units were cut for, where they depend on it
            (`featstore.extents`).
        """

    @abstractmethod
    def visit(self, x: torch.Tensor, units: Collection[str], each: Callable[[str, torch.Tensor], None]) -> None:
        """Run the network once on (n, …) images, handing the output of each of `units` to `each` as it appears.

        The tensor must be used, or copied, before `each` returns: the next unit may write into it.
        """

    def own(self, name: str, output: torch.Tensor) -> torch.Tensor:
        """A unit's own output, as a store holds it: the last of two tensors where it hands on an earlier one beside it."""
        return output[-1] if name in self.passed else output

    @abstractmethod
    def unit(self, name: str) -> nn.Module:
        """Return a unit as a module that shares the network's parameters, under the network's names.

        It takes and returns what `run` does: a tuple of two tensors before and after units in `passed`.

        Raises
        ------
        BadInput
            If the network cannot be run in parts.
        """

    def index(self, name: str) -> int:
        """Return the place of a unit in the chain."""
        if name not in self.names:
            raise UnknownName(f"unit of {type(self.module).__name__}", name, self.names)
        return self.names.index(name)

    def to(self, device: torch.device | str) -> None:
        """Move the network and all its units."""
        self.module.to(device)


class GraphChain(Chain):
    """A chain whose units are parts of the network's graph.

    Parameters
    ----------
    size : tuple of int or None
        (c, h, w) of the only input that the units can be used for; None where they do not depend on it.
    """

    def __init__(
        self,
        module: nn.Module,
        units: Mapping[str, nn.Module],
        shapes: Mapping[str, tuple[int, ...]],
        architecture: tuple[str, ...],
        *,
        size: tuple[int, ...] | None = None,
        passed: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        super().__init__(module, shapes, _owned_tensors(module, units), architecture, passed=passed)
        self._units = dict(units)
        self._size = size
        self._writes_input = {name: mutates_input(unit) for name, unit in self._units.items()}

    def run(
        self, x: torch.Tensor | tuple[torch.Tensor, ...], first: str | None = None, last: str | None = None
    ) -> torch.Tensor:
        start = 0 if first is None else self.index(first)
        stop = len(self.names) - 1 if last is None else self.index(last)
        if stop < start:
            raise BadInput(f"unit '{last}' comes before '{first}': units run in the order {', '.join(self.names)}.")
        self._check_input(x, start)
        for name in self.names[start : stop + 1]:
            if name == self.names[start] and self._writes_input[name]:
                # an in-place activation may come first, and the caller's tensor is not ours to write to
                x = tuple(t.clone() for t in x) if isinstance(x, tuple) else x.clone()
            x = self._units[name](x)
        return cast("torch.Tensor", x)

    def visit(self, x: torch.Tensor, units: Collection[str], each: Callable[[str, torch.Tensor], None]) -> None:
        last = max(self.index(name) for name in units)
        self._check_input(x, 0)
        for name in self.names[: last + 1]:
            x = self._units[name](x)
            if name in units:
                each(name, self.own(name, x))

    def unit(self, name: str) -> nn.Module:
        self.index(name)
        return self._units[name]

    def _check_input(self, x: torch.Tensor | tuple[torch.Tensor, ...], start: int) -> None:
        before = self.names[start - 1] if start else ""
        n_given, takes = len(x) if isinstance(x, tuple) else 1, self.passed.get(before, (before,))
        if n_given != len(takes):
            what = f"the output of {' and of '.join(takes)}" if start else "the images"
            raise BadInput(
                f"unit '{self.names[start]}' of {type(self.module).__name__} takes {what}, "
                f"{'as a tuple of two tensors' if len(takes) == 2 else 'one tensor'}, and got {n_given}."
            )
        if self._size is None or isinstance(x, tuple):
            return
        expected = self.shapes[self.names[start - 1]] if start else self._size
        if tuple(x.shape[1:]) != expected:
            raise BadInput(
                f"the units of {type(self.module).__name__} were cut for an input of {' × '.join(map(str, self._size))}, since all "
                f"of them need its size; unit '{self.names[start]}' takes {' × '.join(map(str, expected))} and got "
                f"{' × '.join(map(str, x.shape[1:]))}. Load the network with the preprocessing that gives that size."
            )

    def to(self, device: torch.device | str) -> None:
        super().to(device)
        for unit in self._units.values():
            unit.to(device)  # buffers that a unit reads directly hang in the unit as well


def cut(module: nn.Module, example: torch.Tensor, *, fine: bool = False) -> Chain:
    """Return a network as a chain of units.

    Parameters
    ----------
    module : torch.nn.Module
        In eval mode; with or without its classifier.
    example : torch.Tensor
        (1, c, h, w) an input, to measure shapes and to prove on that the chain computes what the network does.
    fine : bool
        Cut stages into their blocks. See `featstore.grouping` for the rule.

    Raises
    ------
    BadInput
        If the network does not run on `example`, or does not return one tensor.
    """
    import torch

    first = next(module.parameters(), None)
    if first is not None:
        example = example.to(first.device)
    with torch.no_grad():
        try:
            expected = module(example)
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
            raise BadInput(
                f"{type(module).__name__} does not run on an input of shape {tuple(example.shape)}: {error}. "
                "The preprocessing must give the input that the network expects."
            ) from error
    if not isinstance(expected, torch.Tensor):
        raise BadInput(f"{type(module).__name__} returns a {type(expected).__name__}; a backbone returns one tensor.")
    try:
        chain = _cut_graph(module, trace(module), example, fine)
        with torch.no_grad():
            if not _same(chain.run(example), expected):
                raise NotTraceable(f"the graph of {type(module).__name__} does not compute what the network computes.")
        return chain
    except NotTraceable as error:
        from featstore.hooks import watch

        return watch(module, example, fine=fine, reason=str(error))


def _cut_graph(module: nn.Module, traced: Traced, example: torch.Tensor, fine: bool) -> Chain:
    from featstore.fingerprint import graph_lines

    traced, outline, is_sized = _outlined(module, traced, example)
    boundaries = choose_units(outline, fine=fine)
    if outline.has_head:
        boundaries.append(Boundary(HEAD, len(traced.nodes) - 1))
    units: dict[str, nn.Module] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    passed: dict[str, tuple[str, str]] = {}
    made_by: dict[fx.Node, str] = {}
    start, source = 0, cast("tuple[fx.Node, ...]", ())
    for boundary in boundaries:
        is_last = boundary is boundaries[-1]
        stop = len(traced.nodes) if is_last else boundary.position + 1
        carried = (traced.result,) if is_last else _carried(traced, boundary.position)
        units[boundary.name] = part(traced, start, stop, source, carried[0] if len(carried) == 1 else carried).eval()
        shapes[boundary.name] = _shape(outline, boundary.position)
        made_by[carried[-1]] = boundary.name
        if len(carried) == 2:
            if carried[0] not in made_by:
                raise NotTraceable(f"after '{boundary.name}' a tensor is needed that no unit ends with.")
            passed[boundary.name] = made_by[carried[0]], boundary.name
        start, source = stop, carried
    size = tuple(example.shape[1:]) if is_sized else None
    architecture = tuple(graph_lines(traced, _digest_tensor))
    return GraphChain(module, units, shapes, architecture, size=size, passed=passed)


def _carried(traced: Traced, position: int) -> tuple[fx.Node, ...]:
    """Return the nodes whose tensors are all that is needed after a position."""
    if position in traced.cuts:
        return (traced.cuts[position],)
    return tuple(traced.nodes[i] for i in pairs_of(traced)[position])


def _shape(outline: Outline, position: int) -> tuple[int, ...]:
    """Return the shape for one sample of what a unit says that ends at a position; the head's is that of the last cut."""
    if position in outline.cuts:
        return outline.cuts[position][1:]
    return outline.pairs[position][1][1:] if position in outline.pairs else outline.cuts[max(outline.cuts)][1:]


def _outlined(module: nn.Module, traced: Traced, example: torch.Tensor) -> tuple[Traced, Outline, bool]:
    """Return the graph to be cut, its outline, and whether the size of `example` was written into it; see `extents`."""
    from featstore.extents import fold_extents, without_extents
    from featstore.outlines import outline_of_graph

    outline = outline_of_graph(module, traced, example)
    sized = without_extents(traced)
    if sized is not None:
        other = outline_of_graph(module, sized, example)
        if len(choose_units(other, fine=True)) > len(choose_units(outline, fine=True)):
            fold_extents(traced, example)
            return sized, other, True
    return traced, outline, False


def _owned_tensors(module: nn.Module, units: Mapping[str, nn.Module]) -> dict[str, tuple[str, ...]]:
    known = live_tensors(module)
    taken: set[str] = set()
    tensors: dict[str, tuple[str, ...]] = {}
    for name, unit in units.items():
        inside = {t for t in live_tensors(unit) if t in known} - taken
        tensors[name] = tuple(t for t in known if t in inside)
        taken |= inside
    return tensors


def live_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of a network that can change an output, buffers outside its state_dict
    included.

    A tensor that hangs in the network under several names is listed under the first.
    """
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor for name, tensor in named if not name.endswith(UNSEEN)}


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether two outputs are the same bits; elsewhere than on a CPU, whether they are the same up to rounding."""
    import torch

    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.device.type != "cpu":  # libraries of GPUs may choose another algorithm each time
        return torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()), equal_nan=True)
    return a.contiguous().view(torch.uint8).equal(b.contiguous().view(torch.uint8))


def _digest_tensor(tensor: torch.Tensor) -> str:
    import hashlib

    array = tensor.detach().cpu().contiguous().numpy()
    return f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()[:32]}"
