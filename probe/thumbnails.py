"""Small images of a test split, kept beside its results, so that a report can show them without the data.

::

    <results>/thumbnails/<digest of the images>.zip
        index.json                   format, what the split is called, side, ids in order
        0.jpg, 1.jpg, …              JPEG, the longer side `SIDE` pixels

Any program that reads zip files can read them. The one file of this package that knows Pillow.
"""

from __future__ import annotations

import base64
import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from probe.errors import BadInput, DamagedRecord
from probe.files import as_path, write_atomically

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

SIDE = 112
"""Longer side of a thumbnail, in pixels; about 3 kB each."""

FORMAT = 1


class Images(Protocol):
    """What is asked of a split of images: `featstore.Split` has it."""

    @property
    def name(self) -> str: ...
    @property
    def ids(self) -> np.ndarray: ...
    def image(self, i: int) -> Image.Image: ...
    def digest(self) -> Any: ...


class Thumbnail(NamedTuple):
    """A picture as a ``data:`` address, with its size in pixels."""

    uri: str
    width: int
    height: int


def keep_thumbnails(folder: str | Path, split: Images, content: str | None = None) -> Path:
    """Keep small images of a split beside results; images that are there already are not read again.

    Parameters
    ----------
    folder : str or Path
        Of the results: of `probe.sweep`, or of a study.
    split : featstore.Split
        That the results were tested on. About 3 kB are kept for each image.
    content : str, optional
        Digest of its images, where it is known; None computes it.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    BadInput
        Where it cannot be written.
    featstore.FeatstoreError
        On images that cannot be read.

    Examples
    --------
    >>> import tempfile, featstore, probe
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = probe.keep_thumbnails(folder, featstore.load_split("digits:val"))
    ...     path.parent.name, path.suffix
    ('thumbnails', '.zip')
    """
    if not all(hasattr(split, name) for name in ("digest", "ids", "image")):
        raise BadInput(
            f"Thumbnails are kept of a split, such as featstore.load_split gives, not of {type(split).__name__}."
        )
    path = path_of(as_path(folder), split.digest().content_digest if content is None else content)
    if path.exists():
        return path
    ids = [str(name) for name in split.ids]
    index = {"format": FORMAT, "split": split.name, "side": SIDE, "ids": ids}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for row in range(len(ids)):
            file.writestr(f"{row}.jpg", jpeg(split.image(row)))
        file.writestr("index.json", json.dumps(index, ensure_ascii=False))
    write_atomically(path, buffer.getvalue())
    return path


def path_of(folder: str | Path, content: str) -> Path:
    """Where the thumbnails of images with this digest are kept, or would be."""
    return Path(folder) / "thumbnails" / f"{content}.zip"


class Kept:
    """Thumbnails that were kept.

    Parameters
    ----------
    path : Path
        Of `keep_thumbnails`.

    Raises
    ------
    DamagedRecord
        Where the file is none of these.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as file:
                ids = json.loads(file.read("index.json"))["ids"]
            self._rows = {str(name): row for row, name in enumerate(ids)}
        except _ERRORS as error:
            raise self._damaged(error) from error

    def get(self, sample: str) -> Thumbnail | None:
        """The thumbnail of a sample; None where there is none.

        Raises
        ------
        DamagedRecord
        """
        from PIL import Image

        if sample not in self._rows:
            return None
        try:
            with zipfile.ZipFile(self._path) as file:
                content = file.read(f"{self._rows[sample]}.jpg")
            with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
                return _embedded(content, image.size)
        except _ERRORS as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DamagedRecord:
        return DamagedRecord(
            f"The thumbnails '{self._path}' cannot be read ({error}): delete the file; running the study with --thumbnails "
            "again makes it anew."
        )


_ERRORS = (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError)


def thumbnail(image: Image.Image) -> Thumbnail:
    """Shrink an image.

    Parameters
    ----------
    image : PIL.Image.Image
    """
    small = _small(image)
    return _embedded(_encoded(small), small.size)


def jpeg(image: Image.Image) -> bytes:
    """A small image as a JPEG file."""
    return _encoded(_small(image))


def _small(image: Image.Image) -> Image.Image:
    """Shrunk to `SIDE`, or one of a few pixels enlarged by a whole factor, so that its pixels stay square."""
    from PIL import Image

    longer = max(image.size)
    if longer * 2 <= SIDE:
        factor = SIDE // longer
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    return small


def _encoded(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.convert("RGB").save(content, "JPEG", quality=80)
    return content.getvalue()


def _embedded(content: bytes, size: tuple[int, int]) -> Thumbnail:
    return Thumbnail(f"data:image/jpeg;base64,{base64.b64encode(content).decode()}", *size)
