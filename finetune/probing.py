"""The head that a fitted linear probe is: where probe-then-tune (LP-FT) begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.errors import BadInput
from finetune.task import Asked

if TYPE_CHECKING:
    from torch import nn

    from featstore import FeatureMatrix


@dataclass(frozen=True, eq=False)
class ProbedHead:
    """A head and the probe that it is.

    Attributes
    ----------
    head : nn.Linear
        From penultimate features to logits.
    C : float
        Of the probe, chosen on val; in the sum form of `probe`.
    val : float
        Its score there.
    at_edge : bool
        Whether that C is the smallest or largest of the grid.
    """

    head: nn.Linear
    C: float
    val: float
    at_edge: bool


def grid_of_C(C: Any) -> np.ndarray:
    """Values of C as ``(b,)`` float64.

    Parameters
    ----------
    C : sequence of float
        Positive and increasing.

    Raises
    ------
    BadInput
        Anything else.
    """
    try:
        grid = np.asarray(C, dtype=np.float64)
    except (TypeError, ValueError):
        grid = np.array(np.nan)
    is_grid = (
        grid.ndim == 1 and len(grid) and np.isfinite(grid).all() and (grid > 0).all() and (np.diff(grid) > 0).all()
    )
    if not is_grid:
        raise BadInput(
            f"C is {C!r:.80}; it must be a list of one or more positive numbers, each larger than the one before."
        )
    return grid


def probed_head(asked: Asked, features: dict[str, FeatureMatrix], grid: np.ndarray) -> ProbedHead:
    """Fit a probe for every C on the training features and take the one that is best on val.

    Parameters
    ----------
    asked : Asked
        Labels, metric, device.
    features : dict of str to FeatureMatrix
        Penultimate features of ``"train"`` and ``"val"``.
    grid : ndarray of shape (b,)
        Values of C, increasing.
    """
    import torch

    import probe
    from finetune.scoring import MacroF1AtThresholds

    if isinstance(asked.metric, MacroF1AtThresholds):
        raise BadInput("the probe cannot be chosen by macro F1 at thresholds; choose by another metric: map11.")
    x, x_val = (features[name].load(asked.device, dtype=torch.float32) for name in ("train", "val"))
    y, weight = _without_difficult(asked.labels("train"))
    path = probe.fit_path(x, y, C=grid, sample_weight=weight)
    choice = probe.select(path, x_val, asked.labels("val"), metric=asked.metric)
    at = choice.index
    coef, intercept = (_on_cpu(values[at]) for values in (path.coef, path.intercept))
    if len(coef) == 1 and asked.labels("train").ndim == 1:  # one row says how far class 1 is above class 0
        coef, intercept = torch.cat([-coef / 2, coef / 2]), torch.cat([-intercept / 2, intercept / 2])
    head = torch.nn.Linear(coef.shape[1], len(coef))
    with torch.no_grad():
        head.weight.copy_(coef)
        head.bias.copy_(intercept)
    return ProbedHead(head, float(choice.C), float(choice.scores[at]), bool(choice.at_edge))


def _without_difficult(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels of 0 and 1, and weights that leave out what is marked as difficult, as the loss of a training does."""
    from probe import metrics

    is_counted = labels != metrics.DIFFICULT
    if labels.ndim == 1 or is_counted.all():
        return labels, None
    return (labels == 1).astype(np.uint8), is_counted.astype(np.float64)


def _on_cpu(values: Any) -> Any:
    import torch

    return torch.as_tensor(values).detach().cpu().float()
