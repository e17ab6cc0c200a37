"""What a network does, as a graph: nodes in order of execution, who owns them, and where the graph can be cut.

A *cut* is a position after which one single tensor is all that the rest of the network still needs from the input:
every path from input to output passes through it, so that what comes before and what comes after can be run apart.

Only this file knows torch.fx's tracer. Tracing specialises on eval mode: what a network does differently in training
outside of modules (``F.dropout(x, training=self.training)``) is fixed to what it does in eval mode. Dropout and
stochastic-depth *modules* are kept whole and still obey ``module.train()``.
"""

from __future__ import annotations

import math
import operator
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from featstore.errors import BadInput

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

__all__ = ["NotTraceable", "Traced", "cuts_of", "mutates_input", "pairs_of", "part", "trace"]

PREFIX = "net"
"""Attribute under which the traced network hangs while it is traced; see `_one_input`."""

VIEWS = frozenset(
    [
        "view",
        "reshape",
        "flatten",
        "permute",
        "transpose",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "chunk",
        "split",
        "getitem",
    ]
)
"""Operations whose result may share memory with their input."""

PASSING = frozenset(["Identity", "Dropout", "Dropout2d", "DropPath", "StochasticDepth", "Flatten"])
"""Modules of which that is true in eval mode."""


class NotTraceable(BadInput):
    """The network's forward cannot be written as a graph: the message says why."""


@dataclass(frozen=True, eq=False)
class Traced:
    """A network as a graph.

    Attributes
    ----------
    graph : torch.fx.Graph
        With targets that name modules and tensors of the network itself.
    nodes : tuple of torch.fx.Node
        In order of execution, without the output node.
    paths : tuple of str
        (len(nodes),) dotted path of the innermost module that was running at each node, ``""`` for the network itself.
    varying : tuple of bool
        Whether a node depends on the input; the others are constants and may be computed again wherever they are
        needed.
    cuts : dict
        Position -> the node whose tensor is all that later nodes need; several positions may have the same node, the
        first is kept.
    result : torch.fx.Node
        The network's output.
    owned : dict
        Target name -> module or tensor, for everything that the graph calls or reads.
    """

    graph: fx.Graph
    nodes: tuple[fx.Node, ...]
    paths: tuple[str, ...]
    varying: tuple[bool, ...]
    cuts: dict[int, fx.Node]
    result: fx.Node
    owned: dict[str, Any]


def trace(module: nn.Module) -> Traced:
    """Return `module` as a graph.

    Raises
    ------
    NotTraceable
        If its forward depends on values of the input, or does not return one tensor.
    """
    import torch

    wrapper = _one_input(module)
    with warnings.catch_warnings(), torch.no_grad(), _caches_kept(module):
        warnings.simplefilter(
            "ignore"
        )  # tracing through asserts and shape checks warns; none of it is the user's doing
        try:
            graph = _tracer(wrapper).trace(wrapper)
        except Exception as error:  # the tracer runs foreign code with proxies: anything may be raised
            why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise NotTraceable(f"{type(module).__name__} cannot be written as a graph by torch.fx: {why}") from error
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = str(node.target).removeprefix(f"{PREFIX}.")
    *nodes, output = graph.nodes
    result = output.args[0]
    if not hasattr(result, "op"):
        raise NotTraceable(f"{type(module).__name__} returns a {type(result).__name__}, and a unit is one tensor.")
    varying = _varying(nodes)
    owned = {str(n.target): _owned(wrapper, str(n.target)) for n in nodes if n.op in ("call_module", "get_attr")}
    paths = tuple(_path(node) for node in nodes)
    return Traced(graph, tuple(nodes), paths, varying, cuts_of(nodes, varying, output), result, owned)


@contextmanager
def _caches_kept(module: nn.Module) -> Iterator[None]:
    """Put dictionaries that hang in a network back as they were: a forward that keeps tensors there (LeViT's attention biases)
    would keep the tracer's stand-ins."""
    found = [
        (value, dict(value))
        for m in module.modules()
        for name, value in vars(m).items()
        if type(value) is dict and not name.startswith("_")
    ]
    try:
        yield
    finally:
        for value, before in found:
            value.clear()
            value.update(before)


def _one_input(module: nn.Module) -> nn.Module:
    """Return a module whose forward has one argument: defaults of the other arguments must not become inputs."""
    from torch import nn

    class OneInput(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = module

        def forward(self, x: torch.Tensor) -> Any:
            return self.net(x)

    return OneInput()


def _tracer(root: nn.Module) -> fx.Tracer:
    import torch
    from torch import fx, nn

    layers: list[type[nn.Module]] = [
        nn.Linear,
        nn.modules.conv._ConvNd,
        nn.modules.batchnorm._BatchNorm,
        nn.LayerNorm,
        nn.GroupNorm,
    ]
    functions: list[Callable[..., Any]] = []
    modules: list[ModuleType] = [math]
    # where the libraries are not loaded, no layer of theirs can be in the network
    timm_layers, timm_drop = sys.modules.get("timm.layers"), sys.modules.get("timm.layers.drop")
    if timm_layers and timm_drop:
        layers += [timm_drop.DropPath, timm_drop.DropBlock2d, *timm_layers.get_notrace_modules()]
        functions += timm_layers.get_notrace_functions()
    torchvision_ops = sys.modules.get("torchvision.ops")
    if torchvision_ops:
        layers.append(torchvision_ops.StochasticDepth)
        modules.append(torchvision_ops)
    whole = tuple(layers)
    names = {id(tensor): name for name, tensor in (*root.named_buffers(), *root.named_parameters())}

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, whole) or super().is_leaf_module(m, module_qualified_name)

        def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
            # torch.fx stands for parameters only; what is computed from a buffer would be frozen into a constant
            name = names.get(id(attr_val))
            if name is None or not isinstance(attr_val, torch.Tensor):
                return attr_val
            if name not in parameter_proxy_cache:
                parameter_proxy_cache[name] = self.create_proxy(
                    "get_attr", name, (), {}, proxy_factory_fn=lambda node: _tensor_proxy(self, node, name, attr_val)
                )
            return parameter_proxy_cache[name]

    return Tracer(autowrap_modules=cast("Any", tuple(modules)), autowrap_functions=tuple(functions))


def _tensor_proxy(tracer: fx.Tracer, node: fx.Node, name: str, tensor: torch.Tensor) -> fx.Proxy:
    """Return a stand-in whose shape is known while tracing, so that a forward may branch on it."""
    from torch import fx

    class TensorProxy(fx.proxy.ParameterProxy):
        def __init__(self) -> None:  # the one of ParameterProxy refuses buffers
            fx.Proxy.__init__(self, node, tracer)
            self.param, self.name = cast("torch.nn.Parameter", tensor), name

    return TensorProxy()


def _owned(wrapper: nn.Module, target: str) -> Any:
    """Return what a target names: in the network, or, for tensors the tracer made, in the wrapper."""
    for root in (getattr(wrapper, PREFIX), wrapper):
        found: Any = root
        for name in target.split("."):
            found = getattr(found, name, None)
        if found is not None:
            return found
    raise NotTraceable(f"the traced graph names '{target}', which the network does not have.")


def _path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    names = [str(value[0]) for value in stack.values()]
    return names[-1].removeprefix(PREFIX).removeprefix(".") if names else ""


def _varying(nodes: list[fx.Node]) -> tuple[bool, ...]:
    known: dict[fx.Node, bool] = {}
    for node in nodes:
        known[node] = node.op == "placeholder" or any(known[n] for n in node.all_input_nodes)
    return tuple(known[node] for node in nodes)


def cuts_of(nodes: Sequence[fx.Node], varying: Sequence[bool], output: fx.Node) -> dict[int, fx.Node]:
    """Return where one single tensor is all that later nodes need; see `Traced.cuts`."""
    cuts: dict[int, fx.Node] = {}
    seen: set[fx.Node] = set()
    for i, alive in _alive_after(nodes, varying, output):
        if len(alive) == 1 and nodes[i].op != "placeholder":
            tensor = nodes[next(iter(alive))]
            if tensor not in seen and tensor.op != "placeholder":
                seen.add(tensor)
                cuts[i] = tensor
    return cuts


def pairs_of(traced: Traced) -> dict[int, tuple[int, int]]:
    """Return where two values are all that later nodes need: position -> positions where the older and the newer were made."""
    output = next(iter(reversed(traced.graph.nodes)))
    return {
        i: (min(alive), i)
        for i, alive in _alive_after(traced.nodes, traced.varying, output)
        if len(alive) == 2 and max(alive) == i and traced.nodes[min(alive)].op != "placeholder"
    }


def _alive_after(
    nodes: Sequence[fx.Node], varying: Sequence[bool], output: fx.Node
) -> Iterator[tuple[int, frozenset[int]]]:
    """Yield the position of every node that depends on the input, and those of all such nodes that later ones need."""
    where = {node: i for i, node in enumerate(nodes)}
    where[output] = len(nodes)
    last_use = [max((where[u] for u in node.users), default=-1) for node in nodes]
    alive: set[int] = set()
    for i in range(len(nodes)):
        if varying[i]:
            alive = {j for j in alive if last_use[j] > i}
            if last_use[i] > i:
                alive.add(i)
            yield i, frozenset(alive)


def part(
    traced: Traced, start: int, stop: int, source: Sequence[fx.Node], result: fx.Node | tuple[fx.Node, ...]
) -> nn.Module:
    """Return the module that computes `result` from `source` by the nodes `start` to `stop` (one past the last).

    Modules and parameters are those of the network itself, under their names there.

    Parameters
    ----------
    source : sequence of torch.fx.Node
        The tensors that the part takes: one, or several as a tuple. None of them: the part takes the network's own input.
    result : torch.fx.Node or tuple of these
        The tensor, or the tuple of tensors, that the part returns.
    """
    from torch import fx

    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    entry = graph.placeholder("x")
    if len(source) > 1:
        env.update({node: graph.call_function(operator.getitem, (entry, k)) for k, node in enumerate(source)})
    else:
        env.update(dict.fromkeys(source or [n for n in traced.nodes if n.op == "placeholder"], entry))
    constant = {node for node, varies in zip(traced.nodes, traced.varying, strict=True) if not varies}

    def copy(node: fx.Node) -> fx.Node:
        if node not in env:
            if node not in constant and node not in inside:
                raise NotTraceable(f"'{node}' is needed on both sides of a cut.")
            for needed in node.all_input_nodes:
                copy(needed)
            env[node] = graph.node_copy(node, lambda n: env[n])
        return env[node]

    inside = {traced.nodes[i] for i in range(start, stop) if traced.varying[i]}
    for i in range(start, stop):
        if traced.varying[i] and traced.nodes[i].op != "placeholder":
            copy(traced.nodes[i])
    graph.output(fx.map_arg(result, copy))
    needed = {str(n.target): traced.owned[str(n.target)] for n in graph.nodes if n.op in ("call_module", "get_attr")}
    return fx.GraphModule(needed, graph, class_name="Unit")


def mutates_input(unit: nn.Module) -> bool:
    """Return whether a part made by `part` may write into its input: an in-place operation on it or on a view of it."""
    from torch import fx

    assert isinstance(unit, fx.GraphModule)
    aliases: set[fx.Node] = set()
    for node in unit.graph.nodes:
        if node.op == "placeholder":
            aliases.add(node)
        elif node.all_input_nodes and node.all_input_nodes[0] in aliases:
            name = str(getattr(node.target, "__name__", node.target))
            called = unit.get_submodule(str(node.target)) if node.op == "call_module" else None
            in_place = getattr(called, "inplace", False) or node.kwargs.get("inplace", False) or _is_in_place_name(name)
            if in_place:
                return True
            if name in VIEWS or type(called).__name__ in PASSING:
                aliases.add(node)
    return False


def _is_in_place_name(name: str) -> bool:
    return (name.endswith("_") and not name.endswith("__")) or name in ("iadd", "imul", "isub", "itruediv")
