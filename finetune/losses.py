"""The loss of one batch.

Conventions
-----------
One class per image: mean over the batch of the cross-entropy. Several classes per image: mean over the batch and the
classes of the binary cross-entropy, marks of `probe.metrics.DIFFICULT` left out. Label smoothing ε moves the target
distribution to (1 − ε) · target + ε / k, for binary targets k = 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def loss_of(output: Tensor | tuple[Tensor, ...], labels: Tensor, *, label_smoothing: float, auxiliary: float) -> Tensor:
    """Loss of what a network said about a batch, a scalar in float32.

    Parameters
    ----------
    output : Tensor of shape (b, k), or tuple of such
        Logits; of several, the first are the head's, the second an auxiliary classifier's.
    labels : Tensor of shape (b,), int64, or (b, k), uint8
        Classes.
    label_smoothing : float
        ε.
    auxiliary : float
        Weight of the auxiliary classifier's loss; with 0 whatever a network gives beside its logits is left alone.
    """
    if isinstance(output, tuple):
        loss = _loss(output[0], labels, label_smoothing)
        return loss + auxiliary * _loss(output[1], labels, label_smoothing) if auxiliary else loss
    return _loss(output, labels, label_smoothing)


def _loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    import torch
    from torch.nn import functional as F

    from probe import metrics

    logits = logits.float()
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    counted = labels != metrics.DIFFICULT
    wanted = (labels == 1).float() * (1 - smoothing) + smoothing / 2
    losses = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return torch.where(counted, losses, 0.0).sum() / counted.sum().clamp(min=1)
