"""A drawing as SVG inside a page: its text stays text, and every mark says its value when it is pointed at.

A mark's words are a ``<title>`` in the mark, which browsers show and screen readers read; the page's script shows the
same words sooner, and reaches the marks by keyboard.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from probe import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def svg_of(ax: Axes, name: str) -> str:
    """Draw the figure of some axes as an ``<svg>`` element.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        The points of its lines with markers are given words.
    name : str
        Of letters, digits and hyphens; unique in the page, since everything in the drawing is named after it.

    Returns
    -------
    str
        Equal drawings give equal text.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None, "axes that belong to no figure cannot be drawn"
    figure.canvas.draw()  # lays out: names of ticks exist only then
    words = {f"{name}-marks-{i}": _line_words(line, ax) for i, line in enumerate(_marked_lines(ax))}
    for gid, line in zip(words, _marked_lines(ax), strict=True):
        line.set_gid(gid)
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


def _marked_lines(ax: Axes) -> list[Line2D]:
    return [line for line in ax.get_lines() if line.get_marker() not in ("None", "", " ", None) and len(_points(line))]


def _points(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata(), dtype=float)]


def _line_words(line: Line2D, ax: Axes) -> list[str]:
    """What each point says: the line's name, the place, the value."""
    label = str(line.get_label())
    start = "" if label.startswith("_") else f"{label}: "
    ticks = {float(at): text.get_text() for at, text in zip(ax.get_xticks(), ax.get_xticklabels(), strict=False)}
    is_numeric = ax.get_xscale() == "log"

    def place(x: float) -> str:
        text = "" if is_numeric else ticks.get(x, "").replace("\n", ", ")
        return text or f"{x:.4g}"

    return [f"{start}{place(x)}: {y:.4f}" for x, y in _points(line)]


def _add_titles(group: ElementTree.Element, words: list[str]) -> None:
    """Give the marks of a line their words; matplotlib writes one ``<use>`` per point, in order, leaving out none."""
    marks = list(group.iter(f"{{{_SVG}}}use"))
    if len(marks) != len(words):  # points outside the axes are not drawn: then nobody knows which mark is which
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
