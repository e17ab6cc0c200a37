"""PACS (Li et al. 2017): seven classes in four domains, a folder or a zip for each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featstore.datasets.official import Wanted, inside, read_lines, read_table
from featstore.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from featstore.splits import Split

__all__ = ["DOMAINS", "pacs"]

DOMAINS = ("photo", "art_painting", "cartoon", "sketch")
LISTS = {"train": "train", "val": "crossval", "test": "test"}


def pacs(wanted: Wanted) -> Split:
    """PACS; the variant is the domain.

    ``all`` is the whole domain; ``train``, ``val``, ``test`` are those of the authors' lists
    ``DOMAIN_train_kfold.txt`` … (where test is the whole domain), or of a ``split.csv`` with the columns domain, file,
    split.
    """
    from featstore.datasets.folders import image_folder

    domain = wanted.variant
    places = ("PACS/kfold", "pacs/kfold", "PACS", "pacs", "kfold", "")
    root = wanted.find(*places, needs=(domain,)) or wanted.find(*places, needs=(f"{domain}.zip",))
    if root is None:
        raise wanted.missing([domain, f"{domain}.zip"])
    whole = image_folder(root / domain if (root / domain).is_dir() else root / f"{domain}.zip", name=wanted.name)
    rows = np.arange(len(whole)) if wanted.which == "all" else _listed(wanted, root, domain, whole)
    part = whole.subset(rows, wanted.name)
    return wanted.split(part.samples, part.ids, part.labels, part.classes)


def _listed(wanted: Wanted, root: Path, domain: str, whole: Split) -> np.ndarray:
    name = f"{domain}_{LISTS[wanted.which]}_kfold.txt"
    folders = (root, root / "pacs_label", root.parent / "pacs_label", root.parent)
    for path in (folder / name for folder in folders):
        if path.is_file():
            named = [line.partition(" ")[0] for line in read_lines(path)]
            return _rows(whole, [inside(n, path).removeprefix(f"{domain}/") for n in named], path)
    path = root / "split.csv"
    if not path.is_file():
        raise wanted.missing([name])
    table = read_table(path, ("domain", "file", "split"))
    chosen = [r["file"] for r in table if r["domain"] == domain and r["split"] == wanted.which]
    if not chosen:
        raise BadInput(f"{path} has no row of domain '{domain}' and split '{wanted.which}'.")
    return _rows(whole, chosen, path)


def _rows(whole: Split, names: list[str], path: Path) -> np.ndarray:
    try:
        return whole.rows(names)
    except UnknownName as error:
        raise BadInput(f"{path} names '{error.name}', and there is no such image in {whole.name}.") from error
