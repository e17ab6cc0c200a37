"""Labels of several splits of one data set: one numbering, what train lacks, and their identity."""

from __future__ import annotations

import hashlib

import numpy as np

from probe.errors import BadInput


def common_labels(
    parts: dict[str, tuple[np.ndarray, tuple[str, ...]]],
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Give the parts' labels one numbering: by name where classes have names, so that two folders' orders cannot mix.

    Parameters
    ----------
    parts : dict of str to (labels, classes)
        Labels (n,) int64 or (n, k), and the names of their classes or ().

    Returns
    -------
    classes : tuple of str
        Those of train, then those only others have.
    labels : dict of str to numpy.ndarray

    Raises
    ------
    BadInput
        Where some parts' classes have names and others' do not, or multi-label columns differ.
    """
    named = {part for part, (_, classes) in parts.items() if classes}
    if not named:
        return (), {part: labels for part, (labels, _) in parts.items()}
    if named != set(parts):
        raise BadInput(
            f"The classes of {', '.join(sorted(named))} have names and those of "
            f"{', '.join(sorted(set(parts) - named))} do not, so it is not known which is which; store names with both."
        )
    if len({classes for _, classes in parts.values()}) == 1:
        return parts["train"][1], {part: labels for part, (labels, _) in parts.items()}
    if any(labels.ndim != 1 for labels, _ in parts.values()):
        raise BadInput("The splits have multi-label columns of different classes; store the same classes with all.")
    union = tuple(dict.fromkeys(name for _, classes in parts.values() for name in classes))
    number = {name: i for i, name in enumerate(union)}
    return union, {
        p: np.array([number[c] for c in classes], np.int64)[labels] for p, (labels, classes) in parts.items()
    }


def absent_classes(labels: dict[str, np.ndarray], classes: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the classes of val and test that train lacks, by name; parts that lack none are left out."""
    if any(y.ndim != 1 for y in labels.values()):
        return {}
    out = {}
    for part, y in labels.items():
        missing = np.setdiff1d(y, labels["train"])
        if len(missing):
            out[part] = [classes[i] if classes else str(i) for i in missing.tolist()]
    return out


def labels_digest(labels: np.ndarray, classes: tuple[str, ...]) -> str:
    """32 hexadecimal digits of the sha256 of labels and class names: part of what determines a result."""
    h = hashlib.sha256("\0".join([str(labels.dtype), str(labels.shape), *classes]).encode())
    h.update(np.ascontiguousarray(labels).tobytes())
    return h.hexdigest()[:32]
