"""Features in the plane (Kornblith et al., 2019, Figure 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from probe.chosen import a_mapping
from probe.embedding import Embedding
from probe.plots.style import legend, new_axes, shortened, styles
from probe.reals import one_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def embedding_scatter(embedding: Embedding, ax: Axes | None = None, *, names: Mapping[Any, str] | None = None) -> Axes:
    """Draw embedded features, colour and marker by class.

    Parameters
    ----------
    embedding : Embedding
        Of `probe.tsne`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure where None.
    names : mapping, optional
        What to call the labels.

    Returns
    -------
    matplotlib.axes.Axes
        Without ticks: the units of t-SNE mean nothing.
    """
    one_of(Embedding, embedding, "an Embedding of probe.tsne")
    labels = np.zeros(len(embedding.points), int) if embedding.y is None else embedding.y
    # Numbers in their order, names in the order in which they were chosen.
    classes = np.unique(labels).tolist() if labels.dtype.kind in "iu" else list(dict.fromkeys(labels.tolist()))
    called = {} if names is None else a_mapping(names, "names", "{label: what to call it}")
    known = [shortened(called.get(value, value), 30) for value in classes]
    columns = 1 + (len(classes) - 1) // 22
    ax = new_axes((5.2 + (columns * (0.4 + 0.072 * max(map(len, known))) if len(classes) > 1 else 0), 4.8), ax)
    handles = []
    for value, style in zip(classes, styles(len(classes)), strict=True):
        x, y = embedding.points[labels == value].T
        handles.append(
            ax.scatter(x, y, s=20, color=style.color, marker=style.marker, edgecolor="white", linewidth=0.4, alpha=0.9)
        )
    if len(classes) > 1:
        legend(ax, handles, known, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, ncols=columns)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_aspect("equal", adjustable="datalim")
    k = f", {len(classes)} classes" if len(classes) > 1 else ""
    ax.set_xlabel(
        f"t-SNE of {len(embedding.points):,} samples{k} (perplexity {embedding.perplexity:g}); "
        "axes, and distances\nbetween groups, have no unit",
        fontsize=8.5,
    )
    return ax
