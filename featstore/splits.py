"""Split: named samples with stable ids and labels; hold-out and few-shot subsets by id.

A split does not own images: it asks a `Samples` for them, one at a time, so that an image folder, a zip or an array in memory
look the same. Every random choice ranks ids by a hash, so that it is the same on every machine and does not depend on order.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from featstore.errors import BadInput, BadLabels, IdentityError, UnknownName, UnreadableImage

if TYPE_CHECKING:
    from PIL import Image

    from featstore.digests import DigestCache, HashRows, SplitDigest

__all__ = ["DIFFICULT", "Samples", "Shift", "Split", "holdout_rows", "per_class_rows"]

DIFFICULT = 2
"""Beside 0 and 1 in multi-label labels: the class is there, but marked difficult (VOC). Metrics know it, fits refuse
it."""


@runtime_checkable
class Samples(Protocol):
    """Where the images of a split come from. Methods are called from several threads at once."""

    def __len__(self) -> int: ...

    def read(self, i: int) -> bytes | np.ndarray:
        """Return the bytes of an encoded image file, or decoded uint8 of shape (h, w) or (h, w, c)."""

    def describe(self, i: int) -> str:
        """Return where sample `i` is, for messages: a path, ``"file.npz row 3"``. Unique and stable."""

    def stat(self, i: int) -> tuple[int, ...] | None:
        """Return (size in bytes, mtime in ns[, ctime in ns, inode]) of the file that sample `i` is, or None.

        The cache of content digests skips reading a file whose stat has not changed. None means: always read.
        """


class Shift(Protocol):
    """A domain shift: a pure function of the decoded image and the id of its sample."""

    @property
    def name(self) -> str: ...

    @property
    def params(self) -> Mapping[str, Any]: ...

    def __call__(self, image: Image.Image, sample_id: str) -> Image.Image: ...


@dataclass(frozen=True)
class _Versioned:
    """A transform that its user vouches for."""

    transform: Callable[[Image.Image, str], Image.Image]
    params: Mapping[str, Any]
    name: str = "versioned"

    def __call__(self, image: Image.Image, sample_id: str) -> Image.Image:
        return self.transform(image, sample_id)


def versioned(transform: Callable[[Image.Image, str], Image.Image], *, version: str) -> Shift:
    """Return a transform that is identified by a text of yours alone, for `Split.transforms`.

    Parameters
    ----------
    transform : callable
        (image, id) -> image. Nobody looks into it.
    version : str
        Say in it what it does, and change it whenever that changes: features are found again by this text.

    Raises
    ------
    IdentityError
        If the text is empty.
    """
    if not version:
        raise IdentityError("an empty version identifies nothing; say in it what the transform does.")
    return _Versioned(transform, {"version": version})


@dataclass(frozen=True, eq=False)
class Split:
    """A named list of samples.

    Attributes
    ----------
    name : str
        How people call it; not part of any identity.
    ids : numpy.ndarray
        (n,) text, unique; what samples are paired by.
    labels : numpy.ndarray or None
        (n,) int64 class numbers, or (n, k) uint8 of 0, 1 and `DIFFICULT` for multi-label, or None.
    classes : tuple of str
        Names of the classes, in the order of their numbers.
    samples : Samples
        Where the images come from.
    metric : str
        What the data set's papers report.
    transforms : tuple of Shift
        Applied to every decoded image, in order; part of the identity.

    Raises
    ------
    BadInput
        If ids repeat or are not as many as the samples.
    BadLabels
        If labels do not fit the ids or the classes.
    """

    name: str
    ids: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...]
    samples: Samples
    metric: str = "accuracy"
    transforms: tuple[Shift, ...] = ()
    _known: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", _checked_ids(self.ids, self.name))
        if len(self.samples) != len(self.ids):
            raise BadInput(f"split '{self.name}' has {len(self.ids)} ids and {len(self.samples)} samples.")
        object.__setattr__(self, "classes", tuple(str(c) for c in self.classes))
        if self.labels is not None:
            object.__setattr__(self, "labels", checked_labels(self.labels, len(self.ids), self.classes, self.name))

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, i: int) -> Image.Image:
        """Return sample `i` decoded, turned upright as its EXIF says, with the shifts applied.

        Raises
        ------
        UnreadableImage
            If the bytes do not decode; the message says which file.
        """
        image = decode(self.samples.read(i), self.samples.describe(i))
        for shift in self.transforms:
            image = shift(image, str(self.ids[i]))
        return image

    def rows(self, ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return the row number of each of `ids`: (len(ids),) int64."""
        where = self._known.get("rows")
        if where is None:
            where = self._known["rows"] = {str(name): row for row, name in enumerate(self.ids)}
        for name in ids:
            if str(name) not in where:
                raise UnknownName(f"sample in split '{self.name}'", str(name), where)
        return np.fromiter((where[str(name)] for name in ids), dtype=np.int64, count=len(ids))

    def subset(self, ids_or_rows: Sequence[str] | Sequence[int] | np.ndarray, name: str) -> Split:
        """Return the split of some samples, in the order given.

        Parameters
        ----------
        ids_or_rows : array
            Ids, or row numbers, or a boolean mask of length n.
        name : str
            Name of the new split.
        """
        chosen = np.asarray(ids_or_rows)
        if chosen.dtype.kind in "US" or (chosen.dtype == object and len(chosen) and isinstance(chosen[0], str)):
            rows = self.rows(chosen)
        else:
            rows = as_rows(chosen, len(self))
        part = replace(
            self,
            name=name,
            ids=self.ids[rows],
            labels=None if self.labels is None else self.labels[rows],
            samples=_Chosen.of(self.samples, rows),
        )
        if "digest" in self._known:  # what was read once for all samples need not be read again for some
            part._known["digest"] = self._known["digest"].select(rows)
        return part

    def holdout(self, fraction: float, *, seed: int = 0) -> tuple[Split, Split]:
        """Return (rest, held): a stratified hold-out by id, the same on every machine; see `holdout_rows`."""
        held = holdout_rows(self.ids, self.labels, fraction, seed)
        suffix = f"({fraction:g},seed={seed})"
        return self.subset(~held, f"{self.name}#rest{suffix}"), self.subset(held, f"{self.name}#held{suffix}")

    def per_class(self, k: int, *, seed: int = 0) -> Split:
        """Return the split of `k` samples of every class, those of the lowest hash of (seed, id), in the old order.

        Raises
        ------
        BadLabels
            If the split has no single-label labels, or a class has fewer than `k` samples.
        """
        chosen = per_class_rows(self.ids, self.labels, k, seed, name=self.name, classes=self.classes)
        return self.subset(chosen, f"{self.name}#per_class({k},seed={seed})")

    def class_name(self, label: int) -> str:
        """Return the name of class number `label`, or the number where classes have no names."""
        return self.classes[label] if 0 <= label < len(self.classes) else str(label)

    def digest(self, cache: DigestCache | None = None, hash_rows: HashRows | None = None) -> SplitDigest:
        """Return what identifies ids and contents; computed once per Split object. See `featstore.digests.digest_split`."""
        found: SplitDigest | None = self._known.get("digest")
        if found is None:
            from featstore.digests import digest_split

            found = self._known["digest"] = digest_split(self, cache, hash_rows)
        return found


@dataclass(frozen=True)
class _Chosen:
    """Some rows of other samples."""

    samples: Samples
    chosen: np.ndarray

    @classmethod
    def of(cls, samples: Samples, rows: np.ndarray) -> _Chosen:
        return cls(samples.samples, samples.chosen[rows]) if isinstance(samples, _Chosen) else cls(samples, rows)

    def __len__(self) -> int:
        return len(self.chosen)

    def read(self, i: int) -> bytes | np.ndarray:
        return self.samples.read(int(self.chosen[i]))

    def describe(self, i: int) -> str:
        return self.samples.describe(int(self.chosen[i]))

    def stat(self, i: int) -> tuple[int, ...] | None:
        return self.samples.stat(int(self.chosen[i]))


def holdout_rows(ids: np.ndarray, labels: np.ndarray | None, fraction: float, seed: int = 0) -> np.ndarray:
    """Return which rows a hold-out takes: (n,) bool, True for held.

    Within each class the ids are ranked by ``sha256(f"{seed}:{id}")`` and the first ``round(fraction * n_class)`` are held, at
    least one, leaving at least one. Without labels, or with multi-label ones (n, k), all ids are one class.

    Parameters
    ----------
    ids : array
        (n,) text.
    labels : array or None
        (n,) of any type that sorts, (n, k), or None.
    fraction : float
        In (0, 1).
    seed : int
        Another seed, another choice.
    """
    if not 0 < fraction < 1:
        raise BadInput(f"the fraction to hold out is {fraction}; it must lie strictly between 0 and 1.")
    labels = None if labels is None else np.asarray(labels)
    if labels is not None and len(labels) != len(ids):
        raise BadLabels(f"{len(labels)} labels were given for {len(ids)} ids.")
    groups = np.zeros(len(ids), np.int64)
    if labels is not None and labels.ndim == 1:
        groups = np.unique(labels, return_inverse=True)[1]
    ranks = rank_by_hash(ids, seed)
    held = np.zeros(len(ids), bool)
    for group in range(int(groups.max(initial=-1)) + 1):
        members = np.flatnonzero(groups == group)
        n_held = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held[members[np.argsort(ranks[members])[:n_held]]] = True
    return held


def per_class_rows(
    ids: np.ndarray, labels: np.ndarray | None, k: int, seed: int = 0, *, name: str = "", classes: Sequence[str] = ()
) -> np.ndarray:
    """Return which rows a few-shot subset takes: (n,) bool, the `k` of every class with the lowest hash of (seed, id).

    Parameters
    ----------
    ids : array
        (n,) text.
    labels : array or None
        (n,) int64.
    k : int
        At least 1.
    seed : int
        Another seed, another choice.
    name : str
        Of the split, for errors.
    classes : sequence of str
        Names of the classes, for errors.

    Raises
    ------
    BadLabels
        If the labels are not one per sample, or a class has fewer than `k` samples.
    """
    if labels is None or labels.ndim != 1:
        raise BadLabels(f"split '{name}' has no single label per sample, so there is no class to draw {k} from.")
    chosen = np.zeros(len(ids), bool)
    ranks = rank_by_hash(ids, seed)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if not 1 <= k <= len(members):
            called = classes[label] if 0 <= label < len(classes) else str(label)
            raise BadLabels(
                f"class '{called}' of split '{name}' has {len(members)} samples and {k} of each class were asked for; "
                f"ask for 1 to {len(members)}."
            )
        chosen[members[np.argsort(ranks[members])[:k]]] = True
    return chosen


def rank_by_hash(ids: np.ndarray, seed: int) -> np.ndarray:
    """Return a sortable hash of (seed, id) for every id: (n,) of 32 bytes as text."""
    return np.array([hashlib.sha256(f"{seed}:{name}".encode()).hexdigest() for name in ids], dtype="S64")


def as_rows(chosen: np.ndarray | Sequence[int], n: int) -> np.ndarray:
    """Return row numbers (int64, in [0, n)) from row numbers, negative ones included, or from a boolean mask."""
    chosen = np.asarray(chosen)
    if chosen.dtype == bool:
        if chosen.shape != (n,):
            raise BadInput(f"a boolean choice of {n} rows must have shape ({n},), not {chosen.shape}.")
        return np.flatnonzero(chosen).astype(np.int64, copy=False)
    if chosen.size == 0:
        return np.zeros(0, np.int64)
    if chosen.dtype.kind not in "iu" or chosen.ndim != 1:
        raise BadInput(
            f"rows are a list of whole numbers or a boolean mask, not {chosen.dtype} of shape {chosen.shape}."
        )
    rows = chosen.astype(np.int64)
    if int(rows.min()) < -n or int(rows.max()) >= n:
        worst = int(rows.min()) if int(rows.min()) < -n else int(rows.max())
        raise BadInput(f"row {worst} does not exist: there are {n} rows.")
    return np.where(rows < 0, rows + n, rows)


def checked_labels(labels: np.ndarray, n: int, classes: tuple[str, ...], what: str) -> np.ndarray:
    """Return labels as (n,) int64 or (n, k) uint8.

    Raises
    ------
    BadLabels
        If they are not as many as the samples, not whole numbers, or not numbers of `classes`.
    """
    labels = np.asarray(labels)
    if labels.ndim not in (1, 2) or len(labels) != n:
        raise BadLabels(
            f"'{what}' has {n} samples and labels of shape {labels.shape}; one row of labels per sample is needed."
        )
    if labels.dtype.kind not in "iub":
        raise BadLabels(f"the labels of '{what}' are {labels.dtype}; they must be whole numbers of classes.")
    if labels.ndim == 2:
        if not np.isin(labels, (0, 1, DIFFICULT)).all():
            raise BadLabels(
                f"the multi-label labels of '{what}' hold values other than 0, 1 and {DIFFICULT} (difficult)."
            )
        return labels.astype(np.uint8)
    if n and (int(labels.min()) < 0 or (classes and int(labels.max()) >= len(classes))):
        raise BadLabels(
            f"the labels of '{what}' run from {labels.min()} to {labels.max()}, and its {len(classes)} classes are numbered "
            f"from 0 to {len(classes) - 1}."
        )
    return labels.astype(np.int64)


def decode(sample: bytes | np.ndarray, where: str) -> Image.Image:
    """Return an image from encoded bytes or from a uint8 array (h, w) or (h, w, c).

    It is turned upright as its EXIF says. Of an animation the first frame counts. Its mode stays what it is; that
    becomes RGB (or grey) in `Preprocessing.pixels`: palettes are looked up, CMYK is converted, alpha is dropped, 16 bits
    are scaled to 8, floating point is refused.

    Raises
    ------
    UnreadableImage
        If the bytes are empty, cut off, damaged, of no known format, or would unpack to more than 178,956,970 pixels
        (PIL's limit, checked before memory is asked for); `where` is named.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        if isinstance(sample, np.ndarray):
            if sample.dtype != np.uint8 or sample.ndim not in (2, 3):
                raise ValueError(f"it is {sample.dtype} of shape {sample.shape}, not uint8 of (h, w) or (h, w, c)")
            return Image.fromarray(sample[:, :, 0] if sample.ndim == 3 and sample.shape[2] == 1 else sample)
        image = Image.open(io.BytesIO(sample))
        image.load()
        return ImageOps.exif_transpose(image)
    except Exception as error:  # decoders raise whatever they stumble over: struct.error, zlib.error, SyntaxError …
        # Pillow's words for the first name an object in memory
        unknown = (
            f"its {len(sample)} bytes are of no known format"
            if isinstance(error, UnidentifiedImageError)
            else str(error).rstrip(".")
        )
        raise UnreadableImage(
            f"{where} does not decode to an image: {unknown}. Mend or remove it, or leave such images out with "
            "--skip-unreadable (in Python: skip_unreadable=True)."
        ) from error


def _checked_ids(ids: np.ndarray, name: str) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "UO"):
        raise BadInput(f"the ids of split '{name}' must be a list of text, not {ids.dtype} of shape {ids.shape}.")
    ids = ids.astype(np.str_)
    names, counts = np.unique(ids, return_counts=True)
    if len(names) != len(ids):
        raise BadInput(
            f"{(counts > 1).sum()} ids of split '{name}' occur more than once, the first is '{names[counts > 1][0]}'."
        )
    return ids
