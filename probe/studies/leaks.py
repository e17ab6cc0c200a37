"""Images of train in test: found before any number is read, and listed.

The same image is found by its content, whatever it is called. A near-duplicate (re-encoded, scaled, cropped a little, the next
frame of a film) is found by its features: seen from the mean of train, those of a test image point almost where those of a
train image do, much closer than images of train have their nearest neighbours. (An absolute bound would not do: a network that
has collapsed a class to a point brings all of its images together.) How close is too close is a judgement, so they are listed,
not removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from probe.errors import BadInput

CLOSENESS = 0.35
"""Share of the typical distance (1 - cosine) from an image of train to its nearest neighbour in train, within which two images
are listed. Of 100 CIFAR images saved again as JPEG of quality 75 about two thirds are (the nearest one of all but one is its
original, but no further off than other images are from theirs), of 100 other images one or two."""

LISTED = 50
"""Pairs that a record lists; it counts all."""

_BLOCK = 1024
_SAMPLED = 1024  # images of train, for the typical distance


@dataclass(frozen=True)
class Pair:
    """Two images of different splits that are the same, or almost."""

    split: str
    id: str
    other_split: str
    other_id: str
    similarity: float


@dataclass(frozen=True, eq=False)
class Leaks:
    """What splits of one data set share.

    Attributes
    ----------
    identical : dict of str to int
        "test in train" … to the number of images with the same content.
    near : dict of str to int
        Likewise, near-duplicates, identical images included.
    pairs : tuple of Pair
        The closest first, at most `LISTED`.
    absent : dict of str to list of str
        Split to classes that it lacks and others have.
    closeness : float or None
        Within which near-duplicates were listed; None where they were not looked for.
    """

    identical: dict[str, int]
    near: dict[str, int]
    pairs: tuple[Pair, ...]
    absent: dict[str, list[str]]
    closeness: float | None

    @property
    def sentences(self) -> tuple[str, ...]:
        """What to say before any number; empty where there is nothing."""
        said = [f"warning: {_images(n)} of {what} by content, so that their scores are too good" for what, n in
                self.identical.items() if n]  # fmt: skip
        for what, n in self.near.items():
            if n:
                example = next((p for p in self.pairs if f"{p.split} in {p.other_split}" == what), None)
                seen = f", such as {example.id} and {example.other_id}" if example else ""
                verb = "looks" if n == 1 else "look"
                said.append(f"warning: {_images(n)} of {what} {verb} almost the same, by their features{seen}")
        said += [f"warning: {lacks(split, classes)}" for split, classes in self.absent.items()]
        return tuple(said)

    def to_json(self) -> dict[str, Any]:
        """The findings as plain values."""
        return {**asdict(self), "pairs": [asdict(pair) for pair in self.pairs]}


def lacks(split: str, classes: Sequence[str]) -> str:
    """Say which classes a split lacks that another has, and what follows; no stop at the end.

    Parameters
    ----------
    split : str
        "train", "val" or "test".
    classes : sequence of str
    """
    shown = ", ".join(classes[:5]) + (f" and {len(classes) - 5} more" if len(classes) > 5 else "")
    what = "1 class" if len(classes) == 1 else f"{len(classes)} classes"
    follows = {
        "train": ", which no probe or head can learn, so that their images count as wrong",
        "test": ", of which the score says nothing",
    }
    return f"{split} has no image of {what} ({shown}){follows.get(split, '')}"


def _images(n: int) -> str:
    return "1 image" if n == 1 else f"{n:,} images"


def find_leaks(
    labels: Mapping[str, np.ndarray],
    contents: Mapping[str, np.ndarray] | None = None,
    features: Mapping[str, np.ndarray] | None = None,
    ids: Mapping[str, np.ndarray] | None = None,
    *,
    classes: Sequence[str] = (),
    closeness: float = CLOSENESS,
) -> Leaks:
    """Look for images that splits share, and classes that they lack.

    Parameters
    ----------
    labels : mapping of str to array
        Split ("train", "val", "test") to labels (n,) int64 in one numbering, or (n, k).
    contents : mapping of str to array, optional
        Digests (n, b) uint8 of the images.
    features : mapping of str to array, optional
        (n, d) of one unit; the penultimate one sees what images have in common.
    ids : mapping of str to array, optional
        (n,) text, for the list; row numbers where it is not given.
    classes : sequence of str
        Names of the labels.
    closeness : float
        Share of the typical distance, see `CLOSENESS`.

    Returns
    -------
    Leaks

    Raises
    ------
    BadInput
        Where the closeness is not between 0 and 1, or rows are not as many as labels.
    """
    for what, mapping in (("labels", labels), ("contents", contents), ("features", features), ("ids", ids)):
        if not isinstance(mapping, Mapping) and (mapping is not None or what == "labels"):
            raise BadInput(
                f"{what} must be a mapping of splits, such as 'train', to arrays, but is {type(mapping).__name__}."
            )
        lacking = [split for split in labels if mapping is not None and split not in mapping]
        if lacking:
            raise BadInput(f"{what} lacks {', '.join(map(str, lacking))}, of which there are labels; give all or none.")
    if not isinstance(closeness, int | float) or not 0 <= closeness <= 1:
        raise BadInput(f"The closeness of near-duplicates is {closeness}; it is a share, between 0 and 1.")
    for what, given in (("contents", contents), ("features", features), ("ids", ids)):
        for split, rows in (given or {}).items():
            if split in labels and len(rows) != len(labels[split]):
                raise BadInput(
                    f"{split} has {len(labels[split])} labels and {len(rows)} {what}; give one for each image."
                )
    named = {s: np.asarray(ids[s] if ids else np.arange(len(y))).astype(np.str_) for s, y in labels.items()}
    identical: dict[str, int] = {}
    near: dict[str, int] = {}
    pairs: list[Pair] = []
    for split, other in (("test", "train"), ("test", "val"), ("val", "train")):
        if not {split, other} <= set(labels):
            continue
        what = f"{split} in {other}"
        if contents is not None:
            same = _same_content(contents[split], contents[other])
            identical[what] = len(same)
            pairs += [Pair(split, str(named[split][i]), other, str(named[other][j]), 1.0) for i, j in same]
        if features is not None:
            found = near_duplicates(features[split], features[other], features["train"], closeness=closeness)
            near[what] = len(found)
            known = {(p.split, p.id) for p in pairs}
            pairs += [
                Pair(split, str(named[split][i]), other, str(named[other][j]), round(cosine, 6))
                for i, j, cosine in found
                if (split, str(named[split][i])) not in known
            ]
    closest = sorted(pairs, key=lambda p: (-p.similarity, p.split != "test", p.id))[:LISTED]
    said = None if features is None else closeness
    return Leaks(identical, near, tuple(closest), _absent(labels, classes), said)


def near_duplicates(
    X: np.ndarray, other: np.ndarray, train: np.ndarray, *, closeness: float = CLOSENESS
) -> list[tuple[int, int, float]]:
    """Return (row of X, its nearest row of other, cosine) of the rows of X that have one as close as `closeness` says.

    Parameters
    ----------
    X : array of shape (n, d)
    other : array of shape (m, d)
    train : array of shape (t, d)
        Whose mean is the origin: without it all activations after a ReLU point to the same side.
    closeness : float

    Notes
    -----
    n · m · d multiplications in float32, in blocks. Rows at the origin are near nothing. Two
    images are near-duplicates where 1 - cosine is at most `closeness` times the median of train: from an image to its nearest
    neighbour there.
    """
    mean = np.asarray(train, dtype=np.float32).mean(axis=0)
    A, B = _directions(X, mean), _directions(other, mean)
    found = []
    least = 1 - closeness * _typical_distance(_directions(train, mean))
    for a in range(0, len(A), _BLOCK):
        cosines = A[a : a + _BLOCK] @ B.T
        nearest = cosines.argmax(axis=1)
        best = cosines[np.arange(len(nearest)), nearest]
        found += [(a + int(i), int(nearest[i]), min(1.0, float(best[i]))) for i in np.flatnonzero(best >= least)]
    return found


def _typical_distance(directions: np.ndarray) -> float:
    """Median of 1 - cosine from some images to their nearest neighbour among all, themselves left out."""
    if len(directions) < 2:
        return 1.0
    rows = np.unique(np.linspace(0, len(directions) - 1, _SAMPLED).astype(int))
    cosines = directions[rows] @ directions.T
    cosines[np.arange(len(rows)), rows] = -1
    return float(np.median(1 - cosines.max(axis=1)))


def _directions(X: np.ndarray, mean: np.ndarray) -> np.ndarray:
    centred = np.asarray(X, dtype=np.float32) - mean
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    directions: np.ndarray = centred / np.where(lengths > 0, lengths, 1)
    return directions


def _same_content(rows: np.ndarray, other: np.ndarray) -> list[tuple[int, int]]:
    where = {row.tobytes(): j for j, row in reversed(list(enumerate(other)))}
    return [(i, where[row.tobytes()]) for i, row in enumerate(rows) if row.tobytes() in where]


def _absent(labels: Mapping[str, np.ndarray], classes: Sequence[str]) -> dict[str, list[str]]:
    """Classes that a split lacks and another has."""
    if any(y.ndim != 1 for y in labels.values()):
        present = {split: set(np.flatnonzero((y == 1).any(axis=0)).tolist()) for split, y in labels.items()}
    else:
        present = {split: set(np.unique(y).tolist()) for split, y in labels.items()}
    every = set().union(*present.values())
    out = {}
    for split, found in present.items():
        lacking = sorted(every - found)
        if lacking:
            out[split] = [classes[i] if i < len(classes) else str(i) for i in lacking]
    return out
