"""A drawing as SVG inside a page: its text stays text, and every mark says its value when it is pointed at.

A mark's words are a ``<title>`` in the mark, which browsers show and screen readers read; the page's script shows the
same words sooner, and reaches the marks by keyboard.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from probe import plots

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def svg_of(ax: Axes, name: str, names: Callable[[float, float], str] | None = None) -> str:
    """Draw the figure of some axes as an ``<svg>`` element.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        The points of its lines and scatters and its bars are given words.
    name : str
        Of letters, digits and hyphens; unique in the page, since everything in the drawing is named after it.
    names : callable, optional
        What the point ``(x, y)`` is, where neither the legend nor the axis says it.

    Returns
    -------
    str
        Equal drawings give equal text.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None, "axes that belong to no figure cannot be drawn"
    figure.canvas.draw()  # lays out: names of ticks exist only then
    words = {}
    for i, marks in enumerate(_marked(ax)):
        marks.artist.set_gid(gid := f"{name}-marks-{i}")
        words[gid] = _words(marks, ax, names)
    root = ElementTree.fromstring(plots.svg_text(ax, name))
    for element in root.iter():
        if (said := words.get(element.get("id", ""))) is not None:
            _add_titles(element, said)
    _rename(root, name)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    root.set("role", "img")
    width = root.attrib.pop("width", "")
    root.attrib.pop("height", None)
    if match := re.match(r"[\d.]+", width):
        root.set("style", f"max-width:{float(match[0]) * 4 / 3:.0f}px")
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return ElementTree.tostring(root, encoding="unicode")


class Marks(NamedTuple):
    """An artist that draws a mark at each of some points, and its name; none where that begins with an underscore."""

    artist: Artist
    points: list[tuple[float, float]]
    label: str


def _marked(ax: Axes) -> list[Marks]:
    """Points of lines with markers and of scatters, and the tops of bars; the caps of error bars are no points."""
    found = []
    for line in ax.get_lines():
        if line.get_marker() not in ("None", "", " ", "_", "|", None):
            found.append(Marks(line, _points(line.get_xydata()), str(line.get_label())))
    for scatter in ax.collections:
        if hasattr(scatter, "get_sizes") and scatter.get_offsets() is not None:
            found.append(Marks(scatter, _points(scatter.get_offsets()), str(scatter.get_label())))
    for bars in ax.containers:
        for bar in getattr(bars, "patches", ()):
            top = (bar.get_x() + bar.get_width() / 2, bar.get_y() + bar.get_height())
            found.append(Marks(bar, [top], str(bars.get_label())))
    return [marks for marks in found if marks.points]


def _points(xy: Any) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(xy, dtype=float).reshape(-1, 2)]


def _words(marks: Marks, ax: Axes, names: Callable[[float, float], str] | None) -> list[str]:
    """What each point says: its name, or its line's and the place on the axis; and the value."""
    start = "" if marks.label.startswith("_") else f"{marks.label}: "
    ticks = {float(at): text.get_text() for at, text in zip(ax.get_xticks(), ax.get_xticklabels(), strict=False)}
    is_named = ax.get_xscale() == "linear" and not any(_is_number(text) for text in ticks.values())

    def place(x: float) -> str:
        near = min(ticks, key=lambda at: abs(at - x), default=math.inf)
        return ticks[near].replace("\n", ", ") if is_named and abs(near - x) < 0.5 else f"{x:.4g}"

    return [f"{names(x, y) if names else start + place(x)}: {y:.4f}" for x, y in marks.points]


def _is_number(text: str) -> bool:
    try:
        float(text.replace("\N{MINUS SIGN}", "-"))
    except ValueError:
        return False
    return True


def _add_titles(group: ElementTree.Element, words: list[str]) -> None:
    """Give marks their words. Matplotlib writes one ``<use>`` per point, in order, and a bar as one ``<path>``."""
    marks = list(group.iter(f"{{{_SVG}}}use")) or list(group.iter(f"{{{_SVG}}}path"))
    if len(marks) != len(words):  # points outside the figure are not drawn: then nobody knows which mark is which
        return
    for mark, said in zip(marks, words, strict=True):
        mark.set("class", "mark")
        ElementTree.SubElement(mark, f"{{{_SVG}}}title").text = said


def _rename(root: ElementTree.Element, name: str) -> None:
    """Put the drawing's name before every id in it: several drawings share a page."""
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, value if value.startswith(name) else f"{name}-{value}")
            elif key in ("href", f"{{{_XLINK}}}href") and value.startswith("#"):
                element.set(key, f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{name}-"))
