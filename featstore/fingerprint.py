"""What a network computes, as text without its weights: the part of an identity that its weights do not say.

The same convolution with another stride has the same weights; batch norm with another epsilon, too. The text holds every operation
of the graph with its arguments, and class and settings of every module that the graph calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from featstore.tracing import Traced

__all__ = ["describe_module", "graph_lines"]

ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Part of the text of an object that is another one in every process."""


def graph_lines(traced: Traced, digest_tensor: Callable[[Any], str]) -> Iterator[str]:
    """Yield the graph as text that does not depend on how torch.fx names nodes: what identifies an architecture.

    Parameters
    ----------
    digest_tensor : callable
        Tensor -> text, for tensors that are neither parameters nor buffers of the network but made while tracing.
    """
    number = {node: f"%{i}" for i, node in enumerate(traced.nodes)}

    def text(value: Any) -> str:
        if hasattr(value, "op"):
            return number[value]
        if isinstance(value, tuple | list):
            return f"({','.join(text(v) for v in value)})"
        if isinstance(value, dict):
            return f"{{{','.join(f'{k}:{text(v)}' for k, v in sorted(value.items()))}}}"
        if isinstance(value, slice):
            return f"slice({text(value.start)},{text(value.stop)},{text(value.step)})"
        return ADDRESS.sub("", repr(value))

    for i, node in enumerate(traced.nodes):
        kwargs = {k: v for k, v in node.kwargs.items() if k != "inplace"}
        target = str(node.target)
        if node.op == "call_module":
            target += describe_module(traced.owned[target])
        elif node.op == "get_attr" and target.startswith("_tensor_constant"):
            target = digest_tensor(traced.owned[target])
        elif node.op == "call_function":
            target = f"{getattr(node.target, '__module__', '')}.{getattr(node.target, '__name__', target)}"
        elif node.op == "placeholder":
            target = "input"
        yield f"%{i}={node.op} {target}{text(node.args)}{text(kwargs)}"
    yield f"return {text(traced.result)}"


def describe_module(module: nn.Module) -> str:
    """Return class and settings of a module and of those inside it, without its weights, as text."""
    simple = (int, float, str, type(None))
    settings = [
        f"{name}={value!r}"
        for name, value in sorted(vars(module).items())
        if name not in ("training", "inplace")
        and not name.startswith("_")
        and (
            isinstance(value, simple) or (isinstance(value, tuple | list) and all(isinstance(v, simple) for v in value))
        )
    ]
    inner = [f"{name}:{describe_module(child)}" for name, child in module.named_children()]
    return f"<{type(module).__qualname__} {' '.join(settings + inner)}>"
