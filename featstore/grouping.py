"""Where a network's chain of units is cut: one rule for every family, from the network's own tree of modules.

Conventions
-----------
*Weighted* is a module with a weight of two or more axes (convolution, linear); norm, activation, pooling, dropout are
not. *Composite* is a module with at least two weights. A *cut* is a position after which one tensor carries everything
(`tracing`).

The rule
--------
1. Start with the network's weighted children. While one child alone is composite, or holds 80 % of the weights
   (``features``, ``blocks``, ``stages``, ``encoder``), its children take its place: what then stands side by side are
   stages, blocks or layers.
2. The classifier is what has weights after the last cut that is followed by linear layers (or 1 × 1 convolutions)
   alone. The tensor it reads, before dropout, is where ``"penultimate"`` ends and ``"head"`` begins. Where the
   classifier is a convolution followed by pooling (SqueezeNet), that tensor is a map; its pooled form is the
   penultimate vector. A network without classifier has no head; the last layer of a pooling by attention is none.
3. A unit ends where the next begins: norm, activation and pooling after a module belong to it, but nothing that
   flattens the map. What lies between the last block and the classifier (final norm, global pooling) belongs to
   ``"penultimate"``; where nothing does, the last unit itself is called so.
4. A plain ``Sequential`` of layers (VGG, AlexNet) is cut after each of its pooling layers; fine: after each weighted
   layer.
5. Fine: stages give way to their blocks.
6. A module whose end is not a cut (two tensors flow on) joins the next; so do the layers of a dense block.
7. Cells, each of which reads the outputs of the two before it (NASNet-A, PNASNet), are units all the same, where at least
   four of them stand side by side: after a cell a *pair* carries everything, its own output and that of one before it. What is
   stored of such a unit is its own output; `Chain.run` passes the pair on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

__all__ = ["HEAD", "PENULTIMATE", "Boundary", "Outline", "choose_units"]

HEAD = "head"
PENULTIMATE = "penultimate"
TRUNK_SHARE = 0.8
MIN_CELLS = 4
"""Fewer modules that pass a pair on are the beginning of a dense block, or of a branch that waits for the end."""


@dataclass(frozen=True)
class Outline:
    """What the rule needs to know of a network.

    Attributes
    ----------
    spans : mapping
        Dotted path -> first and last position at which the module, or one inside it, runs. Weighted modules and their
        ancestors.
    weights : mapping
        Dotted path -> number of weights inside; the same keys.
    sequential : frozenset of str
        Paths of the plain containers.
    pools : mapping
        Path -> position of the pooling layers.
    cuts : mapping
        Position -> shape of the tensor there, in increasing order.
    head_entry : int
        Position of the cut whose tensor the classifier reads; the last cut where there is no classifier.
    has_head : bool
    pairs : mapping
        Position at which a module ends -> position where the older of two tensors was made that carry everything there, and
        shape of the module's own output, the newer.
    """

    spans: Mapping[str, tuple[int, int]]
    weights: Mapping[str, int]
    sequential: frozenset[str]
    pools: Mapping[str, int]
    cuts: Mapping[int, tuple[int, ...]]
    head_entry: int
    has_head: bool
    pairs: Mapping[int, tuple[int, tuple[int, ...]]] = field(default_factory=dict)

    def children(self, path: str) -> list[str]:
        """Return the weighted children of a module that run before the classifier, in order of execution."""
        prefix = f"{path}." if path else ""
        found = [p for p in self.spans if p and p.startswith(prefix) and "." not in p[len(prefix) :]]
        return sorted((p for p in found if self.spans[p][0] <= self.head_entry), key=lambda p: self.spans[p])

    def composite(self, path: str) -> bool:
        """Return whether a module has at least two weights."""
        return self.weights[path] >= 2

    def holds_head(self, path: str) -> bool:
        """Return whether a module runs before as well as after the cut at which the classifier begins."""
        return self.spans[path][1] > self.head_entry


@dataclass(frozen=True)
class Boundary:
    """The end of a unit: its name and the position of the cut."""

    name: str
    position: int


def choose_units(outline: Outline, *, fine: bool) -> list[Boundary]:
    """Return where the units end, in order of execution, the last one being ``"penultimate"``.

    Parameters
    ----------
    outline : Outline
    fine : bool
        Cut stages into their blocks.
    """
    outline = _with_cells(outline)
    groups = _stages(outline, "", fine)
    if fine:
        groups = [block for group in groups for block in _blocks(outline, group)]
    boundaries = []
    for group in groups:
        is_last_block = group == groups[-1] and outline.composite(group)
        position = _end(outline, group, keep_natural=is_last_block)
        if position is not None and position < outline.head_entry:
            boundaries.append(Boundary(group, position))
    return [*_unique(boundaries), Boundary(PENULTIMATE, outline.head_entry)]


def _with_cells(outline: Outline) -> Outline:
    """Return the outline with cuts after cells: rule 7."""
    cells: dict[str, dict[int, tuple[int, ...]]] = {}
    for path, (_, at) in outline.spans.items():
        older, shape = outline.pairs.get(at, (-1, ()))
        if older < 0 or not outline.composite(path):
            continue
        parent = path.rpartition(".")[0]
        before = sorted(outline.spans[p][1] for p in outline.children(parent) if outline.spans[p][1] < at)
        if older in before[-2:]:
            cells.setdefault(parent, {})[at] = shape
    found = {at: shape for ends in cells.values() if len(ends) >= MIN_CELLS for at, shape in ends.items()}
    return replace(outline, cuts=dict(sorted({**outline.cuts, **found}.items()))) if found else outline


def _stages(outline: Outline, path: str, fine: bool) -> list[str]:
    children = outline.children(path)
    inner = [c for c in children if not outline.holds_head(c)]
    trunk = _trunk(outline, inner)
    if path in outline.sequential and not fine and not any(outline.composite(c) for c in inner):
        inner = _between_pools(outline, path, inner)
    groups: list[str] = []
    for child in children:
        if outline.holds_head(child) or child == trunk:
            groups += _stages(outline, child, fine)
        elif child in inner:
            groups.append(child)
    return groups


def _trunk(outline: Outline, inner: list[str]) -> str | None:
    """Return the child whose children take its place, if there is one."""
    composite = [c for c in inner if outline.composite(c)]
    if not composite:
        return None
    largest = max(composite, key=lambda c: outline.weights[c])
    share = outline.weights[largest] / sum(outline.weights[c] for c in inner)
    return largest if (len(composite) == 1 or share >= TRUNK_SHARE) and _divisible(outline, largest) else None


def _divisible(outline: Outline, path: str) -> bool:
    """Return whether the children of a module run one after another: at least half of them end at a cut."""
    children = outline.children(path)
    while len(children) == 1:
        children = outline.children(children[0])
    ends = [_end(outline, child) for child in children[:-1]]
    return len(ends) >= 1 and 2 * sum(e is not None for e in ends) >= len(ends)


def _between_pools(outline: Outline, path: str, layers: list[str]) -> list[str]:
    """Return the last layer before each pooling layer of a plain Sequential, and the last of all."""
    pools = sorted(at for name, at in outline.pools.items() if name.rpartition(".")[0] == path)
    if len(pools) < 2:
        return layers
    starts = [outline.spans[layer][0] for layer in layers]
    return [
        layer
        for layer, start, following in zip(layers, starts, [*starts[1:], outline.head_entry], strict=True)
        if layer == layers[-1] or any(start < pool < following for pool in pools)
    ]


def _blocks(outline: Outline, path: str) -> list[str]:
    """Return the blocks of a stage, or the module itself where it is none."""
    children = outline.children(path)
    if path in outline.sequential:
        if len(children) > 1 and all(_end(outline, child) is None for child in children[:-1]):
            return [path]  # a dense block: its layers all see one another
        if len(children) > 1 or (children and outline.composite(children[0])):
            return [block for child in children for block in _blocks(outline, child)]
        return [path]
    if _is_stage(outline, children):
        return [b for c in children for b in (_blocks(outline, c) if c in outline.sequential else [c])]
    return [path]


def _is_stage(outline: Outline, children: list[str]) -> bool:
    """Return whether a module that is no plain container, but has these children, is a stage and not a block.

    The layers of a block can follow one another without a skip connection, too (MobileNet), and squeeze-and-excitation
    has two weights: so three weights are asked of a single block, and that each ends at a cut.
    """

    def holds_blocks(child: str) -> bool:
        blocks = [b for b in outline.children(child) if outline.composite(b)]
        return child in outline.sequential and (len(blocks) >= 2 or any(outline.weights[b] >= 3 for b in blocks))

    if any(holds_blocks(c) for c in children):
        return True
    heavy = [c for c in children if outline.weights[c] >= 3 and c not in outline.sequential]
    return len(heavy) >= 2 and all(outline.spans[c][1] in outline.cuts for c in heavy)


def _end(outline: Outline, path: str, *, keep_natural: bool = False) -> int | None:
    """Return the cut at which a module's unit ends, before the next weighted module begins; None where there is none.

    From the module's own end on, later cuts are taken while the tensor keeps its number of axes and is not pooled to 1
    × 1.
    """
    own = outline.spans[path][1]
    stop = min(
        (first for first, _ in outline.spans.values() if own < first <= outline.head_entry),
        default=outline.head_entry + 1,
    )
    window = [at for at in outline.cuts if own <= at < stop]
    if not window or keep_natural:
        return window[0] if window else None
    end = window[0]
    for at in window[1:]:
        before, after = outline.cuts[end], outline.cuts[at]
        if len(before) != len(after) or (_is_vector(after) and not _is_vector(before)):
            break
        end = at
    return end


def _is_vector(shape: tuple[int, ...]) -> bool:
    return all(extent == 1 for extent in shape[2:])


def _unique(boundaries: list[Boundary]) -> list[Boundary]:
    """Drop all but the last of the boundaries at one position: modules that interleave end together."""
    return [b for i, b in enumerate(boundaries) if i + 1 == len(boundaries) or boundaries[i + 1].position > b.position]
