"""The figure of choices: what is written can be read, however many candidates there are and whatever they are called."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from finetune.drawing import _figure

UNITS = ("conv1", "conv2", "penultimate", "head")
PAIRS = tuple("+".join(pair) for pair in itertools.combinations(UNITS, 2))
DEEP = tuple(f"layer{stage}.{block}" for stage in range(1, 5) for block in range(9))


@pytest.mark.parametrize("names", [(*UNITS, "all"), (*UNITS, *PAIRS, "adapter", "all"), (*DEEP, "head", "all")])
def test_names_and_numbers_do_not_touch(names: Sequence[str]) -> None:
    """Names that ran into each other could not be told apart in a comparison with pairs."""
    scores, picks, accuracy = dict.fromkeys(names, 0.5), {"flex": names[0]}, {"flex": (0.5, 0.4, 0.6)}
    figure = _figure({"blurred": scores}, {"blurred": picks}, {"blurred": accuracy}, (), "test")
    FigureCanvasAgg(figure).draw()
    table, tested = figure.axes
    labels = table.get_xticklabels()
    assert [label.get_text() for label in labels] == list(names)
    numbers = [text.get_window_extent() for text in table.texts]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(numbers))
    boxes = [label.get_window_extent() for label in labels]
    if labels[0].get_rotation() == 0:
        assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    else:  # slanted lines of text that end a column apart are apart where a column is wider than a line is high
        assert boxes[1].x1 - boxes[0].x1 > 1.2 * min(box.height for box in numbers)
    assert min(box.y0 for box in boxes) > tested.title.get_window_extent().y1
    assert min(box.x0 for box in boxes) > 0
