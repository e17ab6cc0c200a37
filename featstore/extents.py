"""Height and width as numbers: what a network computes from the size of its input alone, and needs in every block.

Rotary position embeddings (EVA, DINOv3) are computed from the height and width of the map and read by all blocks, so that two
tensors flow between these, the map and the embedding, and there is no cut. But one of the two is the same for all inputs of one
size. With the extents of the input written into the graph as numbers it is a constant, which every unit computes for itself. The
price is that the units work for inputs of this size only, so this is done only where it gives more units.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featstore.tracing import NotTraceable, Traced, cuts_of

if TYPE_CHECKING:
    import torch
    from torch import fx

__all__ = ["fold_extents", "without_extents"]


def without_extents(traced: Traced) -> Traced | None:
    """Return where a network could be cut if the extents of its input were constants; None where that gives no new cut.

    The graph itself is left as it is; see `fold_extents`.
    """
    sized = _sized(traced)
    if not sized:
        return None
    varying = tuple(v and node not in sized for node, v in zip(traced.nodes, traced.varying, strict=True))
    cuts = cuts_of(traced.nodes, varying, next(iter(reversed(traced.graph.nodes))))
    return replace(traced, varying=varying, cuts=cuts) if len(cuts) > len(traced.cuts) else None


def fold_extents(traced: Traced, example: torch.Tensor) -> None:
    """Write the extents that `example` has into the graph in the place of those that are asked for.

    Parameters
    ----------
    traced : Traced
        As `trace` returned it. Its graph is changed in place, for what `without_extents` returned, too.
    example : torch.Tensor
        (1, c, h, w).
    """
    import torch
    from torch import fx

    roots = {node for node in _sized(traced) if _is_extent(node)}
    found: dict[fx.Node, Any] = {}

    class Measure(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n in roots:
                found[n] = tuple(value) if isinstance(value, torch.Size) else value
            return value

    with torch.no_grad():
        Measure(fx.GraphModule(traced.owned, traced.graph)).run(example)
    if set(found) != roots or not all(isinstance(v, int | tuple) for v in found.values()):
        raise NotTraceable("an extent of the input is no number.")
    for root, value in found.items():
        for user in list(root.users):

            def written(node: fx.Node, root: fx.Node = root, value: Any = value) -> Any:
                return value if node is root else node

            user.args = fx.map_arg(user.args, written)
            user.kwargs = fx.map_arg(user.kwargs, written)


def _sized(traced: Traced) -> set[fx.Node]:
    """Return the nodes that depend on the input, but through its extents alone, the number of images not among them."""
    varying = {node for node, varies in zip(traced.nodes, traced.varying, strict=True) if varies}
    sized: set[fx.Node] = set()
    for node in traced.nodes:
        needed = varying.intersection(node.all_input_nodes)
        if needed and (_is_extent(node) or needed <= sized):
            sized.add(node)
    return sized


def _is_extent(node: fx.Node) -> bool:
    """Return whether a node is ``x.shape[k]``, ``x.shape[k:]`` or ``x.size(k)`` of anything but the first axis."""
    from torch import fx

    if node.op == "call_method" and node.target == "size" and len(node.args) == 2:
        return _is_later_axis(node.args[1])
    if node.op != "call_function" or getattr(node.target, "__name__", "") != "getitem":
        return False
    source = node.args[0]
    if not isinstance(source, fx.Node) or source.target is not getattr or source.args[1] != "shape":
        return False
    return _is_later_axis(node.args[1])


def _is_later_axis(index: Any) -> bool:
    if isinstance(index, slice):
        return isinstance(index.start, int) and index.start > 0
    return isinstance(index, int) and index != 0
