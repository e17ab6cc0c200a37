"""What a finished run says about other images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from finetune.errors import BadInput
from finetune.examples import logits_of
from finetune.images import ImageExamples
from finetune.run import Run
from finetune.scoring import MacroF1AtThresholds, Settled, settled
from finetune.task import preprocessing_of

if TYPE_CHECKING:
    from featstore import Backbone, Split
    from probe import Predictions


def predict(
    run: Run, backbone: Backbone, split: Split, *, device: str = "cpu", workers: int | None = None
) -> Predictions:
    """Predictions of a run's kept weights on a split, seen as its own test split would have been.

    Parameters
    ----------
    run : Run
        Finished.
    backbone : Backbone
        The network that it began from.
    split : Split
        With labels of the run's classes.
    device : str
        Where the network runs.
    workers : int or None
        Threads that decode images; None is one per core.

    Returns
    -------
    Predictions
        With logits as scores. Thresholds, where the run's metric has any, are those that its val chose.

    Raises
    ------
    BadInput
        A split without labels or with other classes, or another backbone.
    """
    from probe import Predictions

    if split.labels is None or split.classes != run.classes:
        raise BadInput(f"'{split.name}' has no labels, or other classes than the run in {run.path}.")
    network = run.network(backbone).to(device)
    examples = ImageExamples(
        split,
        preprocessing_of(backbone, run.view),
        split.labels,
        channels_last=backbone.prefers_channels_last(device),
        device=device,
        n_workers=workers,
    )
    logits = logits_of(network, examples, device=device)
    said = judge_of(run).predicted(split.labels, logits)
    return Predictions(split.ids, split.labels, said, split.classes, logits, str(run.path))


def judge_of(run: Run) -> Settled:
    """How a run decides and is scored: its metric by name, with thresholds, where it has any, chosen on its val again.

    A metric of the user's own is known by its name only; decisions do not depend on it, and accuracy stands for it.
    """
    from probe import metrics

    name = str(run.identity["metric"])
    prefix = "macro_f1_at_"
    if name.startswith(prefix) and hasattr(metrics, name.removeprefix(prefix)):
        val = run.predictions["val"]
        rule = MacroF1AtThresholds(getattr(metrics, name.removeprefix(prefix)))
        return settled(rule, val.y_true, np.asarray(val.scores))
    known = {metric.name: metric for metric in metrics.NAMED}
    return Settled(known.get(name, metrics.accuracy), None)
