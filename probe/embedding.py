"""Features in the plane: t-SNE of chosen classes (Kornblith, Shlens and Le, 2019, Figure 4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from probe.arrays import as_matrix, is_on_cpu, require_finite, to_numpy
from probe.engines import cuml_part
from probe.errors import BadInput
from probe.seeds import checked_draws, checked_seed, generator

FIRST_REDUCED_TO = 50
"""Principal components that are kept first, as van der Maaten and Hinton (2008), who kept 30, suppress noise."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """Points in the plane.

    Attributes
    ----------
    points : numpy.ndarray of shape (n, 2), float64
        Distances within a cloud mean something; the axes, the sizes of clouds and the gaps between them do not.
    y : numpy.ndarray of shape (n,), or None
        Labels.
    perplexity : float
    divergence : float
        Kullback-Leibler divergence that was reached, in nats.
    library : {"scikit-learn", "cuML"}
    seed : int
    """

    points: np.ndarray = field(repr=False)
    y: np.ndarray | None = field(repr=False)
    perplexity: float
    divergence: float
    library: str
    seed: int


def chosen_classes(
    X: Any, y: Any, classes: Sequence[Any], *, per_class: int | None = None, seed: int = 0
) -> tuple[Any, np.ndarray]:
    """Take the rows of some classes, all or so many of each.

    Parameters
    ----------
    X : array of shape (n, d)
    y : array of shape (n,)
        Labels.
    classes : sequence
        Those wanted, as they are in ``y``; ten is what can be told apart in a drawing.
    per_class : int, optional
        Rows drawn per class; all where None.
    seed : int

    Returns
    -------
    X : array of shape (m, d)
    y : numpy.ndarray of shape (m,)
        Both class by class, in the order given.

    Raises
    ------
    BadInput
        Where a class has no row, or fewer than asked for; where X and y have not the same rows.
    """
    rng = generator(seed)
    if not hasattr(X, "__len__") or not hasattr(X, "__getitem__") or isinstance(X, str):
        raise BadInput(f"X must be an array of features, (n, d), but is {type(X).__name__}.")
    labels = np.asarray(to_numpy(y) if hasattr(y, "__array_namespace__") or hasattr(y, "detach") else y)
    if labels.ndim != 1 or len(labels) != len(X):
        raise BadInput(f"X has {len(X)} rows but y has shape {labels.shape}: one label for each row.")
    if per_class is not None:
        checked_draws(per_class, "per_class, at least one row of each class,")
    if not isinstance(classes, Iterable) or isinstance(classes, str):
        raise BadInput(
            f"classes must be a list of labels of y, such as {[x.item() for x in np.unique(labels)[:3]]}, but is {classes!r}."
        )
    classes = list(classes)
    if any(isinstance(wanted, np.ndarray) and wanted.ndim for wanted in classes):
        raise BadInput("classes must be a list of labels, but holds arrays: flatten it.")
    places = [np.flatnonzero(labels == wanted) for wanted in classes]
    short = [f"{c} ({len(rows)})" for c, rows in zip(classes, places, strict=True) if len(rows) < (per_class or 1)]
    if short or not places:
        least = per_class or 1
        raise BadInput(
            f"{len(short)} of {len(classes)} classes have fewer than {least} rows: {', '.join(short) or 'none given'}."
        )
    if per_class is not None:
        places = [np.sort(rng.choice(rows, per_class, replace=False)) for rows in places]
    rows = np.concatenate(places)
    return X[rows], labels[rows]


def tsne(
    X: Any, y: Any = None, *, perplexity: float = 30.0, first_reduced_to: int = FIRST_REDUCED_TO, seed: int = 0
) -> Embedding:
    """Embed features in the plane by t-SNE: scikit-learn's on the host, cuML's where X lives on a GPU.

    Parameters
    ----------
    X : array of shape (n, d), or a stored matrix
        Some hundreds to thousands of rows: see `chosen_classes`.
    y : array of shape (n,), optional
        Labels, kept with the points.
    perplexity : float
        About how many neighbours count; below n.
    first_reduced_to : int
        Principal components that are kept first.
    seed : int

    Returns
    -------
    Embedding

    Raises
    ------
    BadInput
        With a perplexity of n or more, features that are not finite, rows that are all equal.
    MissingExtra
        Where X lives on a GPU and cuML is not installed.

    Notes
    -----
    Van der Maaten and Hinton (2008). It starts from the first two principal components (cuML's from random points), and equal
    seeds give equal points with one library on one machine, not across libraries. The way through cuML has never been run: no
    machine of this project has a GPU with it; scikit-learn's is tested.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    checked_seed(seed)
    X = as_matrix(X)
    n = int(X.shape[0])
    if y is not None and len(y) != n:
        raise BadInput(f"X has {n} rows but y has {len(y)}.")
    if not 0 < perplexity < n:
        raise BadInput(
            f"perplexity is {perplexity:g} but must be between 0 and the number of rows, {n}; a third of it at most."
        )
    host = to_numpy(X).astype(np.float32)
    require_finite(X)
    if (host == host[0]).all():
        raise BadInput(f"All {n} rows are the same, so that there is nothing to embed.")
    m = min(first_reduced_to, *host.shape)
    reduced = PCA(m, random_state=seed).fit_transform(host) if m < host.shape[1] else host
    if is_on_cpu(X):
        model, library = TSNE(perplexity=perplexity, init="pca", random_state=seed), "scikit-learn"
    else:
        neighbours = min(n - 1, int(3 * perplexity))
        model = cuml_part("manifold").TSNE(
            perplexity=perplexity, n_neighbors=neighbours, random_state=seed, output_type="numpy"
        )
        library = "cuML"
    points = np.asarray(model.fit_transform(reduced), dtype=np.float64)
    labels = None if y is None else np.asarray(to_numpy(y) if hasattr(y, "detach") else y)
    return Embedding(points, labels, float(perplexity), float(getattr(model, "kl_divergence_", np.nan)), library, seed)
