"""Small pictures inside a page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL import Image

SIDE = 112
"""Longer side of a thumbnail, in pixels; about 3 kB each."""


class Thumbnail(NamedTuple):
    """A picture as a ``data:`` address, with its size in pixels."""

    uri: str
    width: int
    height: int


def thumbnail(image: Image.Image) -> Thumbnail:
    """Shrink an image to `SIDE`, or enlarge one of a few pixels by a whole factor, so that its pixels stay square.

    Parameters
    ----------
    image : PIL.Image.Image
    """
    from PIL import Image

    longer = max(image.size)
    if longer * 2 <= SIDE:
        factor = SIDE // longer
        small = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    else:
        small = image.copy()
        small.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    small.convert("RGB").save(content, "JPEG", quality=80)
    return Thumbnail(f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}", *small.size)
