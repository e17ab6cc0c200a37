"""Data sets of Fang et al. 2023 with tables of a competition: APTOS 2019, Human Protein Atlas, Melanoma, Cassava; and
EuroSAT, whose split is drawn in the same way.

Their splits are drawn by numpy's legacy generator over the rows in the order of the table, class by class. That
generator's stream is frozen, so the splits are the authors' own to the row.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featstore.datasets.official import Wanted, inside, read_table, whole_number
from featstore.errors import BadInput, BadLabels

if TYPE_CHECKING:
    from featstore.splits import Split

__all__ = ["HpaSamples", "aptos", "cassava", "eurosat", "held_rows", "hpa", "melanoma"]

VAL_SHARE = 0.2

APTOS = ("no retinopathy", "mild", "moderate", "severe", "proliferative")
CASSAVA = ("bacterial blight", "brown streak disease", "green mottle", "mosaic disease", "healthy")
HPA = (
    "nucleoplasm", "nuclear membrane", "nucleoli", "nucleoli fibrillar center", "nuclear speckles", "nuclear bodies",
    "endoplasmic reticulum", "golgi apparatus", "peroxisomes", "endosomes", "lysosomes", "intermediate filaments",
    "actin filaments", "focal adhesion sites", "microtubules", "microtubule ends", "cytokinetic bridge",
    "mitotic spindle", "microtubule organizing center", "centrosome", "lipid droplets", "plasma membrane",
    "cell junctions", "mitochondria", "aggresome", "cytosol", "cytoplasmic bodies", "rods & rings",
)  # fmt: skip


def held_rows(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return which rows are val: (n,) bool; of each class in turn a fifth, rounded down, by one ``RandomState(seed)``.

    Parameters
    ----------
    labels : numpy.ndarray
        (n,) int64, in the order of the table.
    seed : int
    """
    stream = np.random.RandomState(seed)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        held[stream.choice(members, int(VAL_SHARE * len(members)), replace=False)] = True
    return held


def aptos(wanted: Wanted) -> Split:
    """APTOS 2019: severity of diabetic retinopathy, 0 to 4; 80 and 20 % of each class, seed 414."""
    root = wanted.place("aptos2019", "aptos2019-blindness-detection", "aptos", "", needs=("train.csv", "train_images"))
    rows = read_table(root / "train.csv", ("id_code", "diagnosis"))
    return _drawn(wanted, root, [f"{r['id_code']}.png" for r in rows], [r["diagnosis"] for r in rows], APTOS)


def cassava(wanted: Wanted) -> Split:
    """Cassava leaf diseases (2020); 80 and 20 % of each class, seed 414."""
    root = wanted.place("cassava-leaf-disease-classification", "cassava", "", needs=("train.csv", "train_images"))
    rows = read_table(root / "train.csv", ("image_id", "label"))
    return _drawn(wanted, root, [r["image_id"] for r in rows], [r["label"] for r in rows], CASSAVA)


def _drawn(wanted: Wanted, root: Path, names: list[str], texts: list[str], classes: tuple[str, ...]) -> Split:
    labels = np.array([whole_number(t, str(root / "train.csv")) for t in texts], np.int64)
    rows = _side(wanted, held_rows(labels, 414))
    return wanted.files(root / "train_images", [names[i] for i in rows], labels[rows], classes)


def _side(wanted: Wanted, held: np.ndarray) -> np.ndarray:
    return np.flatnonzero({"train": ~held, "val": held, "all": np.ones(len(held), bool)}[wanted.which])


def eurosat(wanted: Wanted) -> Split:
    """EuroSAT (Helber et al. 2019), RGB: 80 and 20 % of each class, seed 42, over the files in order of their names."""
    from featstore.datasets.folders import image_folder

    root = wanted.place("eurosat/2750", "2750", "EuroSAT/2750", "EuroSAT", "eurosat", "", needs=("AnnualCrop",))
    whole = image_folder(root, name=wanted.name)
    if whole.labels is None:
        raise wanted.missing(["AnnualCrop"])
    rows = _side(wanted, held_rows(whole.labels, 42))
    part = whole.subset(rows, wanted.name)
    return wanted.split(part.samples, part.ids, part.labels, part.classes)


def melanoma(wanted: Wanted) -> Split:
    """SIIM-ISIC 2020 with the images of 2019, as JPEG: whole folds (column ``tfrecord``) are train or val, four fifths
    and one fifth of each year, seed 23; rows with a negative fold are known duplicates and left out."""
    root = wanted.place("melanoma", "", needs=("melanoma-2020/train.csv", "melanoma-2019/train.csv"))
    stream = np.random.RandomState(23)  # one stream for both years, as the authors have it
    names: list[str] = []
    labels: list[int] = []
    for year in ("melanoma-2020", "melanoma-2019"):
        path = root / year / "train.csv"
        rows = read_table(path, ("image_name", "target", "tfrecord"))
        folds = np.array([whole_number(r["tfrecord"], str(path)) for r in rows], np.int64)
        there = np.unique(folds[folds >= 0])
        chosen = stream.choice(there, size=int(0.8 * len(there)), replace=False)
        is_train = np.isin(folds, chosen)
        keep = {"train": is_train, "val": (folds >= 0) & ~is_train, "all": folds >= 0}[wanted.which]
        taken = [rows[i] for i in np.flatnonzero(keep)]
        names += [f"{year}/train/{r['image_name']}.jpg" for r in taken]
        labels += [whole_number(r["target"], str(path)) for r in taken]
    return wanted.files(root, names, np.array(labels, np.int64), ("benign", "malignant"))


class HpaSamples:
    """Images of the Human Protein Atlas: of files with all channels in one, or of one file per stain, of which red
    (microtubules), green (protein) and blue (nucleus) become a colour image; yellow is left out, as in Fang et al.

    Parameters
    ----------
    folder : Path
    names : list of str
        Without ``.png`` or ``_red.png``.
    is_merged : bool
    """

    def __init__(self, folder: Path, names: list[str], is_merged: bool) -> None:
        self.folder, self.names, self.is_merged = folder, names, is_merged

    def __reduce__(self) -> tuple[object, ...]:
        return HpaSamples, (self.folder.absolute(), self.names, self.is_merged)  # another process may run elsewhere

    def __len__(self) -> int:
        return len(self.names)

    def read(self, i: int) -> bytes | np.ndarray:
        from featstore.datasets.folders import read_file
        from featstore.errors import UnreadableImage
        from featstore.splits import decode

        if self.is_merged:
            return read_file(self.folder / f"{self.names[i]}.png")
        paths = [self.folder / f"{self.names[i]}_{stain}.png" for stain in ("red", "green", "blue")]
        planes = [np.asarray(decode(read_file(p), str(p)).convert("L")) for p in paths]
        if len({p.shape for p in planes}) > 1:
            raise UnreadableImage(f"{self.describe(i)}: its red, green and blue files differ in size.")
        return np.stack(planes, axis=2)

    def describe(self, i: int) -> str:
        return str(self.folder / f"{self.names[i]}{'.png' if self.is_merged else '_{red,green,blue}.png'}")

    def stat(self, i: int) -> tuple[int, ...] | None:
        from featstore.datasets.folders import stat_of

        return stat_of(self.folder / f"{self.names[i]}.png") if self.is_merged else None


def hpa(wanted: Wanted) -> Split:
    """Human Protein Atlas 2018: 28 labels per image, of which several may hold.

    The authors' list ``split.stratified.small.0.csv`` says which image is train, val or test_val; ``all`` needs only
    the competition's ``train.csv``.
    """
    root = wanted.find("hpa", "human-protein-atlas-image-classification", needs=("",)) or wanted.root
    listed = "train.csv" if wanted.which == "all" else "split.stratified.small.0.csv"
    found = [
        p
        for p in (root / listed, root / "splits" / "hpa" / listed, root.parent / "splits" / "hpa" / listed)
        if p.is_file()
    ]
    images = next((p for p in (root / "rgby" / "train", root / "train") if p.is_dir()), None)
    if not found or images is None:
        raise wanted.missing(["train" if found else listed])
    rows = read_table(found[0], ("Id", "Target", *(() if wanted.which == "all" else ("Split",))))
    rows = [r for r in rows if wanted.which in ("all", r.get("Split"))]
    if not rows:
        raise BadInput(f"{found[0]} has no row whose Split is '{wanted.which}'.")
    names = [inside(r["Id"], images) for r in rows]
    labels = np.zeros((len(rows), len(HPA)), np.uint8)
    for i, row in enumerate(rows):
        for text in row["Target"].split():
            label = whole_number(text, str(found[0]))
            if not 0 <= label < len(HPA):
                raise BadLabels(f"{found[0]} gives image {row['Id']} the label {label}; there are 0 to {len(HPA) - 1}.")
            labels[i, label] = 1
    samples = HpaSamples(images, names, is_merged=(images / f"{names[0]}.png").is_file())
    return wanted.split(samples, names, labels, HPA)
