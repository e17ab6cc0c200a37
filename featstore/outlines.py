"""What the rule of `grouping` needs to know of a network, read from its graph: spans, weights, shapes, classifier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from featstore.grouping import Outline
from featstore.tracing import pairs_of

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

    from featstore.tracing import Traced

__all__ = ["ancestors", "is_classifier_layer", "is_idle", "is_norm", "n_weights", "outline_of_graph", "tree_facts"]

ATTENTION = ("softmax", "scaled_dot_product_attention")
"""Names of the functions that make linear layers into attention."""


def outline_of_graph(module: nn.Module, traced: Traced, example: torch.Tensor) -> Outline:
    """Return the outline of a traced network; runs it once on `example` to measure shapes."""
    runs: dict[str, list[int]] = {}
    owners: dict[str, set[str]] = {}
    for i, node in enumerate(traced.nodes):
        if node.op == "placeholder" or (node.op == "get_attr" and not traced.varying[i]):
            # constants hang where they are first asked for, which says nothing about when they are needed
            if node.op == "get_attr" and _is_weight(traced.owned[str(node.target)]):
                owner = str(node.target).rpartition(".")[0]
                for path in ancestors(owner):
                    owners.setdefault(path, set()).add(str(node.target))
            continue
        path = str(node.target) if node.op == "call_module" else traced.paths[i]
        for p in ancestors(path):
            runs.setdefault(p, []).append(i)
        if node.op == "call_module":
            for name, parameter in traced.owned[str(node.target)].named_parameters():
                if _is_weight(parameter):
                    for p in ancestors(path):
                        owners.setdefault(p, set()).add(f"{path}.{name}")
    spans = {p: (min(at), max(at)) for p, at in runs.items() if p in owners}
    weights = {p: len(owners[p]) for p in spans}
    ends = {last for _, last in spans.values()}
    pairs = {at: older for at, (older, _) in pairs_of(traced).items() if at in ends and older in ends}
    shapes = _measured(
        traced, example, {*traced.cuts.values(), *(traced.nodes[at] for at in {*pairs, *pairs.values()})}
    )
    for at, node in list(traced.cuts.items()):
        if not shapes[node]:  # a tuple or a number that carries everything is no unit's output
            del traced.cuts[at]
    cuts = {at: shapes[node] for at, node in traced.cuts.items()}
    tensors = {at: (older, shapes[traced.nodes[at]]) for at, older in pairs.items() if shapes[traced.nodes[older]]}
    tensors = {at: found for at, found in tensors.items() if found[1]}
    sequential, pools = tree_facts(module)
    entry, has_head = _head(module, traced, cuts)
    at_pools = {p: runs[p][0] for p in pools if p in runs}
    return Outline(spans, weights, sequential, at_pools, cuts, entry, has_head, tensors)


def ancestors(path: str) -> Iterable[str]:
    """Yield a dotted path and those of the modules around it, without the network itself."""
    parts = path.split(".") if path else []
    for n in range(1, len(parts) + 1):
        yield ".".join(parts[:n])


def tree_facts(module: nn.Module) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the paths of plain containers and those of pooling layers."""
    from torch import nn
    from torch.nn.modules import pooling

    pool = (pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._AdaptiveAvgPoolNd, pooling._AdaptiveMaxPoolNd)
    named = list(module.named_modules())
    plain = frozenset(p for p, m in named if isinstance(m, nn.Sequential | nn.ModuleList | nn.ModuleDict))
    return plain, tuple(p for p, m in named if isinstance(m, pool))


def n_weights(module: nn.Module) -> int:
    """Return how many weights of two or more axes a module holds."""
    return sum(_is_weight(p) for p in module.parameters())


def is_norm(module: nn.Module) -> bool:
    """Return whether a module has parameters, but no weight of two or more axes: batch norm, layer norm, scale."""
    return n_weights(module) == 0 and any(True for _ in module.parameters())


def is_classifier_layer(module: Any) -> bool:
    """Return whether a layer can be a classifier: linear, or a 1 × 1 convolution."""
    from torch import nn

    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and tuple(module.kernel_size) == (1, 1))


def is_idle(module: Any) -> bool:
    """Return whether a module does nothing in eval mode."""
    from torch import nn

    return isinstance(module, nn.Identity | nn.Dropout | nn.Dropout2d | nn.AlphaDropout)


def _is_weight(value: Any) -> bool:
    from torch import nn

    return isinstance(value, nn.Parameter) and value.ndim >= 2


def _measured(traced: Traced, example: torch.Tensor, wanted: set[fx.Node]) -> dict[fx.Node, tuple[int, ...]]:
    """Return the shapes of some nodes' tensors; ``()`` of what is none."""
    import torch
    from torch import fx

    shapes: dict[fx.Node, tuple[int, ...]] = {}

    class Measure(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n in wanted:
                shapes[n] = tuple(value.shape) if isinstance(value, torch.Tensor) else ()
            return value

    whole = fx.GraphModule(traced.owned, traced.graph)
    with torch.no_grad():
        Measure(whole).run(example)
    return shapes


def _head(module: nn.Module, traced: Traced, cuts: dict[int, tuple[int, ...]]) -> tuple[int, bool]:
    """Return the cut whose tensor the classifier reads, and whether there is a classifier; see rule 2 of `grouping`."""
    order = sorted(cuts)
    final = order[-1]
    modules = {i: traced.owned[str(node.target)] for i, node in enumerate(traced.nodes) if node.op == "call_module"}
    weighted = [i for i, m in modules.items() if n_weights(m)]
    if not weighted or getattr(module, "num_classes", None) == 0 or len(cuts[final]) != 2:
        return final, False
    before = [at for at in order if at < weighted[-1]]
    if not before:
        return final, False
    entry = before[-1]
    after = [m for i, m in modules.items() if i > entry]
    normed = any(is_norm(m) for i, m in modules.items() if i > weighted[-1])
    if normed or not all(is_classifier_layer(m) for m in after if n_weights(m)):
        return final, False
    if _attends(traced, str(traced.nodes[weighted[-1]].target).rpartition(".")[0]):
        return final, False  # the last layer of a pooling by attention (CLIP's ResNets) is no classifier
    while len(before) > 1:
        between = [traced.nodes[i] for i in range(before[-2] + 1, entry + 1) if traced.varying[i]]
        if not all(n.op == "call_module" and is_idle(traced.owned[str(n.target)]) for n in between):
            break
        before.pop()
        entry = before[-1]
    return entry, True


def _attends(traced: Traced, path: str) -> bool:
    """Return whether there is attention in a module, or in one inside it."""
    inside = [n for n, p in zip(traced.nodes, traced.paths, strict=True) if path and f"{p}.".startswith(f"{path}.")]
    return any(getattr(node.target, "__name__", node.target) in ATTENTION for node in inside)
