"""NASNet-A (Zoph et al., 2018, figure 4), of which timm has the large one only; ``nasnet_a_mobile`` is 4 @ 1056.

Every cell reads the outputs of the two before it. Modules have the names of the public weights (``nasnetamobile-7e03cead.pth``,
which were converted from TensorFlow's), so that these load as they are.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from featstore.architectures.same import SameConv2d, halving_avg_pool, halving_max_pool

__all__ = ["NasNetA"]

EPSILON = 1e-3

Half = tuple[str, str]
"""An operation, and what it is applied to: "current" and "previous" are the cell's inputs, "c0" … the sums before."""

NORMAL: tuple[tuple[Half, Half], ...] = (
    (("separable 5", "current"), ("separable 3", "previous")),
    (("separable 5", "previous"), ("separable 3", "previous")),
    (("mean", "current"), ("same", "previous")),
    (("mean", "previous"), ("mean", "previous")),
    (("separable 3", "current"), ("same", "current")),
)
REDUCTION: tuple[tuple[Half, Half], ...] = (
    (("separable 5 halving", "current"), ("separable 7 halving", "previous")),
    (("max halving", "current"), ("separable 7 halving", "previous")),
    (("mean halving", "current"), ("separable 5 halving", "previous")),
    (("same", "c1"), ("mean", "c0")),
    (("separable 3", "c0"), ("max halving", "current")),
)


class Operation(nn.Module):
    """An operation without parameters."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, c, h, w), of half the height and width if the operation is halving."""
        if self.kind == "mean":
            return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        if self.kind == "mean halving":
            return halving_avg_pool(x)
        return halving_max_pool(x) if self.kind == "max halving" else x


class SeparableConv(nn.Module):
    """A depthwise convolution and a 1 × 1 convolution."""

    def __init__(self, n_in: int, n_out: int, kernel: int, *, halving: bool) -> None:
        super().__init__()
        even = nn.Conv2d(n_in, n_in, kernel, padding=kernel // 2, groups=n_in, bias=False)
        self.depthwise_conv2d = SameConv2d(n_in, n_in, kernel, groups=n_in) if halving else even
        self.pointwise_conv2d = nn.Conv2d(n_in, n_out, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, n_out, h, w), or half of h and w."""
        y: torch.Tensor = self.pointwise_conv2d(self.depthwise_conv2d(x))
        return y


class Separable(nn.Module):
    """ReLU, separable convolution, batch normalisation, twice; the first one halves, if any does."""

    def __init__(self, n_in: int, n_out: int, kernel: int, *, halving: bool) -> None:
        super().__init__()
        self.separable_1 = SeparableConv(n_in, n_out, kernel, halving=halving)
        self.bn_sep_1 = nn.BatchNorm2d(n_out, eps=EPSILON)
        self.separable_2 = SeparableConv(n_out, n_out, kernel, halving=False)
        self.bn_sep_2 = nn.BatchNorm2d(n_out, eps=EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, n_out, h, w), or half of h and w."""
        x = self.bn_sep_1(self.separable_1(F.relu(x)))
        y: torch.Tensor = self.bn_sep_2(self.separable_2(F.relu(x)))
        return y


def _conv_norm(n_in: int, n_out: int) -> nn.Sequential:
    conv = nn.Conv2d(n_in, n_out, 1, bias=False)
    return nn.Sequential(OrderedDict(act=nn.ReLU(), conv=conv, bn=nn.BatchNorm2d(n_out, eps=EPSILON)))


class Cell(nn.Module):
    """Five sums of two operations each, put side by side.

    Parameters
    ----------
    n_previous, n_current, n_out : int
        Channels of the two inputs, and of every sum.
    reduces : bool
        Halve height and width.
    fit : str
        How the previous input gets `n_out` channels: ``"project"`` by a 1 × 1 convolution; ``"halve"`` by two of them on pixels of
        even and of odd coordinates, for an input of twice the size; ``"keep"`` leaves it to the operations.
    """

    def __init__(
        self, n_previous: int, n_current: int, n_out: int, *, reduces: bool, fit: Literal["project", "halve", "keep"]
    ) -> None:
        super().__init__()
        self.sums, self.fit, self.reduces = REDUCTION if reduces else NORMAL, fit, reduces
        self.n_out = n_out * (4 if reduces else 6)
        self.conv_1x1 = _conv_norm(n_current, n_out)
        if fit == "project":
            self.conv_prev_1x1 = _conv_norm(n_previous, n_out)
        elif fit == "halve":
            for path in ("path_1", "path_2"):
                conv = nn.Conv2d(n_previous, n_out // 2, 1, bias=False)
                self.add_module(path, nn.Sequential(OrderedDict(conv=conv)))
            self.final_path_bn = nn.BatchNorm2d(n_out, eps=EPSILON)
        inputs = {"current": n_out, "previous": n_previous if fit == "keep" else n_out}
        for i, halves in enumerate(self.sums):
            for side, (operation, source) in zip(("left", "right"), halves, strict=True):
                kind, _, kernel = operation.removesuffix(" halving").partition(" ")
                halving = operation.endswith("halving")
                made = (
                    Separable(inputs.get(source, n_out), n_out, int(kernel), halving=halving)
                    if kind == "separable"
                    else Operation(operation)
                )
                self.add_module(f"comb_iter_{i}_{side}", made)

    def forward(self, current: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """Return (n, 6 · n_out, h, w), or (n, 4 · n_out, h / 2, w / 2) if it reduces."""
        known = {"current": self.conv_1x1(current), "previous": self._fitted(previous)}
        for i, ((_, left), (_, right)) in enumerate(self.sums):
            a = self.get_submodule(f"comb_iter_{i}_left")(known[left])
            b = self.get_submodule(f"comb_iter_{i}_right")(known[right])
            known[f"c{i}"] = a + b
        kept = ("c1", "c2", "c3", "c4") if self.reduces else ("previous", "c0", "c1", "c2", "c3", "c4")
        return torch.cat([known[name] for name in kept], 1)

    def _fitted(self, x: torch.Tensor) -> torch.Tensor:
        if self.fit == "keep":
            return x
        if self.fit == "project":
            return self.get_submodule("conv_prev_1x1")(x)  # type: ignore[no-any-return]
        x = F.relu(x)
        even = self.get_submodule("path_1")(x[:, :, ::2, ::2])
        odd = self.get_submodule("path_2")(F.pad(x, (-1, 1, -1, 1))[:, :, ::2, ::2])
        return self.get_submodule("final_path_bn")(torch.cat([even, odd], 1))  # type: ignore[no-any-return]


class NasNetA(nn.Module):
    """Three stages of cells between which reduction cells halve height and width.

    Parameters
    ----------
    n_cells : int
        Per stage, at most 6: 4 in the mobile network, 6 in the large one.
    n_filters : int
        Of the first stage: 44, 168. The penultimate vector has 24 times as many.
    n_stem : int
        Channels of the first convolution: 32, 96.
    skips_reduction : bool
        Whether the cell after a reduction reads, as its previous input, what the reduction did (the large network), or the
        reduction's own input (the mobile one).
    n_classes : int
    """

    def __init__(
        self,
        n_cells: int = 4,
        n_filters: int = 44,
        n_stem: int = 32,
        *,
        skips_reduction: bool = False,
        n_classes: int = 1000,
    ) -> None:
        super().__init__()
        self.n_cells, self.skips_reduction = n_cells, skips_reduction
        conv = nn.Conv2d(3, n_stem, 3, 2, bias=False)
        self.conv0 = nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(n_stem, eps=EPSILON)))
        self.cell_stem_0 = Cell(n_stem, n_stem, n_filters // 4, reduces=True, fit="keep")
        self.cell_stem_1 = Cell(n_stem, self.cell_stem_0.n_out, n_filters // 2, reduces=True, fit="halve")
        previous, current = self.cell_stem_0.n_out, self.cell_stem_1.n_out
        for stage, n in enumerate((n_filters, 2 * n_filters, 4 * n_filters)):
            if stage:
                reduction = Cell(previous, current, n, reduces=True, fit="project")
                self.add_module(f"reduction_cell_{stage - 1}", reduction)
                previous, current = previous if skips_reduction else current, reduction.n_out
            for i in range(n_cells):
                cell = Cell(previous, current, n, reduces=False, fit="project" if i else "halve")
                self.add_module(f"cell_{6 * stage + i}", cell)
                previous, current = current, cell.n_out
        self.dropout = nn.Dropout(0.5)
        self.last_linear = nn.Linear(current, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, n_classes) for images (n, 3, h, w) in -1..1."""
        x = self.conv0(x)
        previous = self.cell_stem_0(x, x)
        current = self.cell_stem_1(previous, x)
        for stage in range(3):
            if stage:
                reduced = self.get_submodule(f"reduction_cell_{stage - 1}")(current, previous)
                previous, current = previous if self.skips_reduction else current, reduced
            for i in range(self.n_cells):
                cell = self.get_submodule(f"cell_{6 * stage + i}")
                previous, current = current, cell(current, previous)
        logits: torch.Tensor = self.last_linear(self.dropout(F.relu(current).mean((2, 3))))
        return logits
