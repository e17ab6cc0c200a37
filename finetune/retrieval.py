"""Cross-domain retrieval (Royer and Lampert 2020, section 5.3): do tuned features still lie beside the source's?

Every image of the target domain is a query against the source domain's images; what is found is right where it is of
the same class. Features of the source come from the network as it was, those of the target from the tuned one.

Average precision among the first k, with r_i = 1 where the i-th nearest is of the query's class and P_i the share of
right ones among the first i:

    AP@k = Σ_{i ≤ k} r_i · P_i / z

The paper states neither the distance nor z: both are arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from finetune.checking import is_whole, refuse_other_types
from finetune.devices import device_named, device_problems
from finetune.errors import BadInput
from finetune.run import Run

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

    from featstore import Backbone, Split

Distance: TypeAlias = Literal["cosine", "euclidean"]
Normaliser: TypeAlias = Literal["possible", "found", "k"]

_BLOCK_BYTES = 1 << 28

_ROUNDING = 1e-12
"""Relative to the squared lengths: above what sums of thousands of float64 products are off by."""


@dataclass(frozen=True, eq=False)
class Retrieval:
    """What retrieval found.

    Attributes
    ----------
    score : float
        Mean of ``average_precisions``: mAP@k.
    average_precisions : ndarray of shape (m,), float64
        AP@k of every query.
    nearest : ndarray of shape (m, k), int64
        Rows of the gallery, nearest first; of equally near ones the earlier row first.
    is_right : ndarray of shape (m, k), bool
        Whether they are of the query's class.
    k : int
        How many were looked at.
    distance, normaliser : str
        As asked for.
    """

    score: float
    average_precisions: np.ndarray
    nearest: np.ndarray
    is_right: np.ndarray
    k: int
    distance: str
    normaliser: str


def mean_average_precision(
    queries: ArrayLike | Tensor,
    query_labels: ArrayLike,
    gallery: ArrayLike | Tensor,
    gallery_labels: ArrayLike,
    *,
    k: int = 10,
    distance: Distance = "cosine",
    normaliser: Normaliser = "possible",
    device: str = "cpu",
) -> Retrieval:
    """mAP@k of queries against a gallery, exact: every distance is computed, in float64, in blocks of queries.

    Parameters
    ----------
    queries, gallery : array or Tensor of shape (m, d) and (n, d)
        Features.
    query_labels, gallery_labels : array of shape (m,) and (n,)
        Classes, of any type that compares.
    k : int
        How many of the nearest are looked at, at most n.
    distance : str
        ``"cosine"`` or ``"euclidean"``.
    normaliser : str
        z above: ``"possible"``, the smaller of k and the number of gallery items of the query's class, so that 1 can be
        reached; ``"found"``, the number of right ones among the first k (0 / 0 is 0), which rewards order alone;
        ``"k"``.
    device : str
        Where distances are computed.

    Raises
    ------
    BadInput
        Shapes that do not fit, values that are not finite, a zero vector under cosine, a class of queries that the
        gallery does not have; all of it in one error.
    """
    import torch

    problems = device_problems(device)
    if problems:
        raise BadInput.of("this retrieval", problems)
    found, wanted = (_vectors(x, device) for x in (queries, gallery))
    asked, there = np.asarray(query_labels), np.asarray(gallery_labels)
    _check(found, asked, wanted, there, k=k, distance=distance, normaliser=normaliser)
    if distance == "cosine":
        found, wanted = found / found.norm(dim=1, keepdim=True), wanted / wanted.norm(dim=1, keepdim=True)
    centre = wanted.mean(0)
    centred = wanted - centre
    lengths = centred.square().sum(1)
    rows = max(_BLOCK_BYTES // (8 * len(wanted)), 1)
    blocks = []
    with torch.inference_mode():
        for block in torch.split(found, rows):
            blocks.append(_nearest(block, block - centre, wanted, (centred, lengths), k=k, distance=distance).cpu())
    nearest: np.ndarray = torch.cat(blocks).numpy()
    is_right = there[nearest] == asked[:, None]
    _, place, counts = np.unique(there, return_inverse=True, return_counts=True)
    n_of_class = dict(zip(there.tolist(), counts[place].tolist(), strict=True))
    possible = np.array([n_of_class[label] for label in asked.tolist()])
    precisions = average_precisions(is_right, possible, normaliser)
    return Retrieval(float(precisions.mean()), precisions, nearest, is_right, k, distance, normaliser)


def average_precisions(is_right: np.ndarray, possible: np.ndarray, normaliser: Normaliser = "possible") -> np.ndarray:
    """AP@k of every query from which of its nearest are right.

    Parameters
    ----------
    is_right : ndarray of shape (m, k), bool
        Nearest first.
    possible : ndarray of shape (m,), int
        How many right ones the gallery has.
    normaliser : str
        See `mean_average_precision`.

    Returns
    -------
    ndarray of shape (m,), float64
    """
    k = is_right.shape[1]
    share = np.cumsum(is_right, axis=1) / np.arange(1, k + 1)
    z = {"possible": np.minimum(possible, k), "found": is_right.sum(1), "k": np.full(len(is_right), k)}[normaliser]
    precisions: np.ndarray = (share * is_right).sum(1) / np.maximum(z, 1)
    return precisions


def retrieve(
    backbone: Backbone,
    gallery: Split,
    queries: Split,
    *,
    run: Run | None = None,
    k: int = 10,
    distance: Distance = "cosine",
    normaliser: Normaliser = "possible",
    device: str = "cpu",
) -> Retrieval:
    """mAP@k of a target domain's images against the source domain's, by penultimate features.

    Parameters
    ----------
    backbone : Backbone
        The source network: what the gallery passes.
    gallery : Split
        Images of the source domain: its validation split in the paper.
    queries : Split
        Images of the target domain, with classes of the same names.
    run : Run or None
        Whose tuned network the queries pass, looked at as the run's test images were; None is the source network itself.
    k, distance, normaliser, device
        See `mean_average_precision`.

    Raises
    ------
    BadInput
        Also splits without labels or whose classes are not among the gallery's, and a run of another network.
    """
    device = device_named(device)
    _check_asked(backbone, gallery, queries, run, device)
    sides = [
        (_penultimate(backbone, None, gallery, device), _names(gallery)),
        (_penultimate(backbone, run, queries, device), _names(queries)),
    ]
    return mean_average_precision(
        sides[1][0], sides[1][1], sides[0][0], sides[0][1], k=k, distance=distance, normaliser=normaliser, device=device
    )


def _check_asked(backbone: Backbone, gallery: Split, queries: Split, run: Run | None, device: str) -> None:
    import featstore

    made = "featstore.load_split(…) makes one"
    wanted: dict[str, tuple[Any, type[Any], str]] = {
        "backbone": (backbone, featstore.Backbone, "featstore.load_backbone(…) makes one"),
        "gallery": (gallery, featstore.Split, made),
        "queries": (queries, featstore.Split, made),
    }
    if run is not None:
        wanted["run"] = (run, Run, "finetune.open_run(…) reads one")
    refuse_other_types(wanted, "this retrieval")
    problems = device_problems(device)
    for what, split in (("the gallery", gallery), ("the split of queries", queries)):
        if not len(split):
            problems.append(f"{what} '{split.name}' has no images; give a split that has some.")
        elif split.labels is None or split.labels.ndim != 1:
            problems.append(
                f"{what} '{split.name}' has no single-label labels; retrieval asks whether classes are the same."
            )
    if problems:
        raise BadInput.of("this retrieval", problems)


def _penultimate(backbone: Backbone, run: Run | None, split: Split, device: str) -> Tensor:
    """Penultimate features ``(n, d)`` of the source network, or of a run's."""
    import torch

    from finetune.examples import logits_of
    from finetune.heads import head_for, head_name
    from finetune.images import ImageExamples
    from finetune.networks import with_head
    from finetune.task import preprocessing_of

    assert split.labels is not None
    network = with_head(backbone, head_for(backbone, 1, None, seed=0)) if run is None else run.network(backbone)
    # what the head is given takes the place of what it says
    network.get_submodule(head_name(backbone)).register_forward_hook(lambda layer, given, said: given[0])
    examples = ImageExamples(
        split,
        backbone.preprocessing if run is None else preprocessing_of(backbone, run.view),
        split.labels,
        channels_last=backbone.prefers_channels_last(device),
        device=device,
    )
    return torch.from_numpy(logits_of(network.to(device), examples, device=device))


def _names(split: Split) -> np.ndarray:
    assert split.labels is not None
    return np.array([split.class_name(label) for label in split.labels.tolist()])


def _vectors(x: ArrayLike | Tensor, device: str) -> Tensor:
    import torch

    try:
        return torch.as_tensor(x if isinstance(x, torch.Tensor) else np.asarray(x)).to(device, torch.float64)
    except (TypeError, ValueError) as error:
        raise BadInput(f"features must be numbers, (n, d), and cannot be made such: {error}.") from error


def _nearest(
    queries: Tensor, seen: Tensor, gallery: Tensor, about: tuple[Tensor, Tensor], *, k: int, distance: Distance
) -> Tensor:
    """Rows of the gallery that are nearest to each query, ``(b, k)``; of equally near ones the earlier first.

    ``seen`` are the queries less the gallery's centre, ``about`` the gallery less it and its squared lengths. Matrix
    products find those that can be among the first k; between them the differences themselves decide, so that what is
    equally far is so whatever the order in which a product was summed. Of directions, which are rounded, distances count as
    equal that are to twelve decimals.
    """
    import torch

    # |q - g|² without |q|², which is the same for the whole gallery; of vectors seen from their centre, since those far
    # from 0 would lose digits here
    centred, lengths = about
    values = torch.addmm(lengths, seen, centred.T, alpha=-2)
    limit = values.topk(k, dim=1, largest=False).values[:, -1:]
    rounding = _ROUNDING * (lengths.max() + seen.square().sum(1, keepdim=True))
    n_short = int((values <= limit + rounding).sum(1).max())
    short = values.topk(n_short, dim=1, largest=False).indices.sort(1).values
    rows = max(_BLOCK_BYTES // (8 * n_short * gallery.shape[1]), 1)
    far = torch.cat([
        (gallery[some] - block[:, None]).square().sum(2)
        for some, block in zip(torch.split(short, rows), torch.split(queries, rows), strict=True)
    ])  # fmt: skip
    if distance == "cosine":
        far = far.round(decimals=12)
    return short.gather(1, far.sort(dim=1, stable=True).indices[:, :k])


def _check(
    queries: Tensor, query_labels: np.ndarray, gallery: Tensor, gallery_labels: np.ndarray, *, k: int, distance: str,
    normaliser: str,
) -> None:  # fmt: skip
    problems = []
    for what, x, labels in (("queries", queries, query_labels), ("the gallery", gallery, gallery_labels)):
        if x.ndim != 2 or 0 in x.shape or labels.shape != (len(x),):
            problems.append(
                f"{what}: features have shape {tuple(x.shape)} and labels {labels.shape}; (n, d) and (n,) are needed, "
                "neither of them 0."
            )
        elif not bool(x.isfinite().all()):
            problems.append(f"{what}: features hold NaN or infinity, which is near nothing.")
        elif distance == "cosine" and bool((x.norm(dim=1) == 0).any()):
            n = int((x.norm(dim=1) == 0).sum())
            problems.append(f"{what}: {n} vectors are zero, which have no direction; use distance='euclidean'.")
    if not problems:
        if queries.shape[1] != gallery.shape[1]:
            problems.append(f"queries have {queries.shape[1]} features and the gallery has {gallery.shape[1]}.")
        if not is_whole(k) or not 1 <= k <= len(gallery):
            problems.append(f"k is {k!r} and the gallery has {len(gallery)} items; ask for 1 to {len(gallery)}.")
        absent = sorted({str(x) for x in query_labels.tolist()} - {str(x) for x in gallery_labels.tolist()})
        if absent:
            problems.append(
                f"the gallery has nothing of class {_listed(absent)}, so that nothing right could be found for its "
                "queries; leave them out."
            )
    for name, value, kind in (("distance", distance, Distance), ("normaliser", normaliser, Normaliser)):
        if value not in get_args(kind):
            problems.append(f"{name} is {value!r}; it must be one of {', '.join(get_args(kind))}.")
    if problems:
        raise BadInput.of("this retrieval", problems)


def _listed(names: Sequence[Any], most: int = 6) -> str:
    return ", ".join(map(str, names[:most])) + (f" … ({len(names)} in all)" if len(names) > most else "")
