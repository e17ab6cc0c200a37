"""Which parameters, batch-norm statistics and dropout of a network move while it trains.

The switches are put back on exit. Frozen means frozen: outside the moving parts no parameter has a gradient, batch
norm uses its stored statistics and leaves them, dropout does nothing. The authors' code of Royer and Lampert 2020 is
looser (dropout active and batch-norm statistics drifting in all units): ``train_mode="all"``. That of Lee et al. 2022
keeps even what is trained in evaluation mode: ``train_mode="none"``.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Parts:
    """What moves in a network, name by name.

    Attributes
    ----------
    parameters : frozenset of str
        Names of the parameters that the optimiser changes.
    modules : frozenset of str
        Names of the modules in training mode: their statistics move and their dropout is active. Each for itself, not
        for what it contains.
    """

    parameters: frozenset[str]
    modules: frozenset[str]


def whole(network: nn.Module, frozen: Collection[str] = ()) -> Parts:
    """All of a network but some parameters."""
    parameters = {name for name, _ in network.named_parameters()} - set(frozen)
    return Parts(frozenset(parameters), frozenset(name for name, _ in network.named_modules()))


@dataclass(frozen=True, eq=False)
class Moving:
    """The part of a network that a training changes.

    Attributes
    ----------
    network : nn.Module
        The whole network.
    parameters : mapping of str to nn.Parameter
        Those that the optimiser changes, by their name in the network's state dict, in its order.
    statistics : mapping of str to Tensor
        Buffers that a forward pass changes (batch norm's), likewise.
    """

    network: nn.Module
    parameters: Mapping[str, nn.Parameter]
    statistics: Mapping[str, Tensor]

    def state(self) -> dict[str, Tensor]:
        """A copy of every moving tensor, on the CPU."""
        tensors = {**self.parameters, **self.statistics}
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Write a copy that `state` gave into the network.

        Parameters
        ----------
        state : mapping of str to Tensor
            Same names and shapes as `state` gives.
        """
        import torch

        tensors = {**self.parameters, **self.statistics}
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(state[name])

    def is_finite(self) -> bool:
        """Whether no moving tensor holds NaN or infinity."""
        return all(bool(tensor.isfinite().all()) for tensor in (*self.parameters.values(), *self.statistics.values()))

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """The network in evaluation mode and without gradients; the mode of each module is put back on exit."""
        import torch

        modes = {module: module.training for module in self.network.modules()}
        self.network.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode


@contextlib.contextmanager
def trainable(
    network: nn.Module,
    parts: Collection[str] | Parts = ("",),
    *,
    bn_momentum: float | None = None,
    train_mode: str = "moving",
) -> Iterator[Moving]:
    """Let some parts of a network move, and nothing else.

    On exit every module's mode, every parameter's ``requires_grad`` and ``grad`` and every batch norm's momentum is as
    it was; the values that training gave to the moving tensors stay.

    Parameters
    ----------
    network : nn.Module
        Changed in place.
    parts : collection of str, or Parts
        Names of modules (all their parameters, statistics and dropout move) or of single parameters; ``""`` is the
        whole network. `Parts` say it name by name.
    bn_momentum : float or None
        Momentum of the moving batch-norm statistics, torch's convention; None leaves the layers' own.
    train_mode : str
        Which modules are in training mode: ``"moving"``, ``"all"`` or ``"none"``; see `finetune.Recipe`.

    Yields
    ------
    Moving
        What moves.

    Raises
    ------
    BadInput
        A part that does not exist (the nearest names), or nothing in any part that could move.
    """
    modules, chosen = _named_parts(network, parts)
    switches = _Switches.of(network)
    try:
        network.eval()
        for module in {"moving": modules, "all": network.modules(), "none": ()}[train_mode]:
            module.training = True
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in chosen)
            parameter.grad = None
        if bn_momentum is not None:
            for norm in switches.momenta:
                norm.momentum = bn_momentum
        yield Moving(network, _moving_parameters(network, chosen), _moving_statistics(network))
    finally:
        switches.restore()


def _named_parts(network: nn.Module, parts: Collection[str] | Parts) -> tuple[list[nn.Module], Collection[str]]:
    """Modules that move, and the names of all parameters that move; every bad name in one error."""
    by_module = dict(network.named_modules())
    by_parameter = dict(network.named_parameters())
    if isinstance(parts, Parts):
        return [by_module[name] for name in parts.modules], parts.parameters
    modules: list[nn.Module] = []
    chosen: set[str] = set()
    problems = []
    for part in parts:
        inside = {name for name in by_parameter if part == "" or name == part or name.startswith(f"{part}.")}
        if part not in by_module and part not in by_parameter:
            near = difflib.get_close_matches(
                part, [name for name in (*by_module, *by_parameter) if name], n=3, cutoff=0.4
            )
            problems.append(
                f"the network has no part named {part!r}; the nearest names are {', '.join(near) or 'none'}."
            )
        elif not inside:
            problems.append(f"{part!r} has no parameters, so there is nothing to train in it; choose a part that has.")
        if part in by_module:
            modules += by_module[part].modules()
        chosen |= inside
    if not parts:
        problems.append("no part of the network was asked to move; name at least one.")
    if problems:
        raise BadInput.of("the choice of what to train", problems)
    return modules, chosen


def _moving_parameters(network: nn.Module, chosen: Collection[str]) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in network.named_parameters() if name in chosen}


def _moving_statistics(network: nn.Module) -> dict[str, Tensor]:
    """Persistent buffers of the modules in training mode, by name."""
    lasting = network.state_dict(keep_vars=True)
    found = {}
    for prefix, module in network.named_modules():
        if module.training:
            for name, buffer in module.named_buffers(prefix, recurse=False):
                if name in lasting:
                    found[name] = buffer
    return found


@dataclass(frozen=True, eq=False)
class _Switches:
    """How a network was set before training."""

    modes: Mapping[nn.Module, bool]
    momenta: Mapping[Any, Any]  # batch norms of any library to float or None
    gradients: Mapping[nn.Parameter, tuple[bool, Tensor | None]]

    @classmethod
    def of(cls, network: nn.Module) -> _Switches:
        return cls(
            modes={module: module.training for module in network.modules()},
            momenta={module: module.momentum for module in network.modules() if _has_statistics(module)},
            gradients={parameter: (parameter.requires_grad, parameter.grad) for parameter in network.parameters()},
        )

    def restore(self) -> None:
        for module, mode in self.modes.items():
            module.training = mode
        for norm, momentum in self.momenta.items():
            norm.momentum = momentum
        for parameter, (requires_grad, grad) in self.gradients.items():
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad


def _has_statistics(module: nn.Module) -> bool:
    """Whether a module is a batch norm (of any library: it keeps a running mean with a momentum)."""
    return hasattr(module, "running_mean") and hasattr(module, "momentum")
