"""Fetching what torchvision knows an address and a checksum for. The only file that knows torchvision's data sets.

torchvision fetches and unpacks; the files are then read by our own loaders, because its loaders give decoded images
without names (an identity needs the bytes, a paired test the names), and unpickle what they find.
"""

from __future__ import annotations

import contextlib
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from featstore.datasets.catalogue import Record
from featstore.errors import BadInput, MissingData
from featstore.progress import say

__all__ = ["download"]

FETCHERS: Mapping[str, tuple[str, str, tuple[Mapping[str, Any], ...]]] = {
    "food101": ("Food101", "", ({},)),
    "cifar10": ("CIFAR10", "", ({},)),
    "cifar100": ("CIFAR100", "", ({},)),
    "aircraft": ("FGVCAircraft", "", ({},)),
    "voc2007": ("VOCDetection", "", ({"year": "2007", "image_set": "trainval"}, {"year": "2007", "image_set": "test"})),
    "dtd": ("DTD", "", ({},)),
    "pets": ("OxfordIIITPet", "", ({},)),
    "caltech101": ("Caltech101", "", ({},)),
    "flowers": ("Flowers102", "", ({},)),
    "eurosat": ("EuroSAT", "", ({},)),
    "mnist": ("MNIST", "", ({},)),
    "svhn": ("SVHN", "svhn", ({"split": "train"}, {"split": "test"})),
}
"""Name -> class of torchvision.datasets, folder below the data root, and the calls that fetch all of it."""


def download(record: Record, data_root: Path) -> None:
    """Fetch a data set into the data root and unpack it there.

    Raises
    ------
    MissingData
        If nobody knows how, or it fails; the message says what to do by hand.
    """
    if record.name not in FETCHERS:
        raise MissingData(f"{record.title} cannot be fetched for you. {record.instruction()}")
    import torchvision

    name, folder, calls = FETCHERS[record.name]
    target = data_root / folder
    say(f"fetching {record.title} into {target}")
    try:
        target.mkdir(parents=True, exist_ok=True)
        for arguments in calls:
            # torchvision prints what it does; stdout is for results
            with contextlib.redirect_stdout(sys.stderr), _tar_files_stay_inside():
                getattr(torchvision.datasets, name)(target, download=True, **arguments)
    except BadInput:
        raise
    except Exception as error:  # URLError, RuntimeError of a wrong checksum, tarfile's and zipfile's own, OSError
        by_hand = f"{record.layout} {record.source}"
        raise MissingData(
            f"{record.title} could not be fetched: {str(error).rstrip('.')}. Do it by hand: {by_hand}"
        ) from error


@contextlib.contextmanager
def _tar_files_stay_inside() -> Iterator[None]:
    """Let no member of a tar file that is unpacked meanwhile be written outside its folder (PEP 706).

    torchvision unpacks with Python's default, which before Python 3.14 follows ``..`` and absolute names, and it has no
    checksum for some archives.
    """
    before = vars(tarfile.TarFile).get("extraction_filter")
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        if before is None:
            del tarfile.TarFile.extraction_filter
        else:
            tarfile.TarFile.extraction_filter = before
