"""Drawings of results: each takes a table, and axes to draw on or none, and returns the axes; `save` writes them to a file.

::

    probing    accuracy_by_depth, accuracy_by_C                 of one sweep
    transfer   source_scatter, bars_by_dataset                  many models on many data sets
    training   few_shot_curves, convergence_curves              against the size of the training set, against steps
    units      unit_map                                         which unit was tuned
    pairs      differences, reliability_bars                    models on the same samples
    planes     embedding_scatter                                features in the plane
    style      how all of them look; STYLES, caption, save, spread
"""

from __future__ import annotations

from probe.plots import style
from probe.plots.pairs import differences, reliability_bars
from probe.plots.planes import embedding_scatter
from probe.plots.probing import accuracy_by_C, accuracy_by_depth
from probe.plots.style import STYLES, Style, caption, save, spread, svg_text
from probe.plots.training import convergence_curves, few_shot_curves
from probe.plots.transfer import bar_places, bars_by_dataset, source_scatter
from probe.plots.units import unit_map

__all__ = [
    "STYLES",
    "Style",
    "accuracy_by_C",
    "accuracy_by_depth",
    "bar_places",
    "bars_by_dataset",
    "caption",
    "convergence_curves",
    "differences",
    "embedding_scatter",
    "few_shot_curves",
    "reliability_bars",
    "save",
    "source_scatter",
    "spread",
    "style",
    "svg_text",
    "unit_map",
]
