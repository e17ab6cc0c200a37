"""What a finished run says about other images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from finetune.checking import is_whole, refuse_other_types
from finetune.devices import device_named, device_problems
from finetune.errors import BadInput
from finetune.examples import logits_of
from finetune.images import ImageExamples
from finetune.run import Run
from finetune.scoring import MacroF1AtThresholds, Settled, settled, settled_at
from finetune.task import preprocessing_of, split_problems

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
        A split without images or labels, or with other classes or kinds of labels; another backbone; a device that is
        not there.
    """
    from probe import Predictions

    device = device_named(device)
    _check(run, backbone, split, device, workers)
    assert split.labels is not None
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


def _check(run: Run, backbone: Backbone, split: Split, device: str, workers: int | None) -> None:
    """Find everything that keeps a run from saying something about these images."""
    import featstore

    refuse_other_types(
        {
            "run": (run, Run, "finetune.open_run(…) reads one"),
            "backbone": (backbone, featstore.Backbone, "featstore.load_backbone(…) makes one"),
            "split": (split, featstore.Split, "featstore.load_split(…) makes one"),
        },
        "this prediction",
    )
    problems, of_run = split_problems("the split", split), len(run.classes) or int(run.identity["n_classes"])
    if not problems and split.classes != run.classes:
        problems.append(f"'{split.name}' has no labels, or other classes than the run in {run.path}.")
    elif not problems and split.labels is not None:
        kinds = {1: "one class per image", 2: "several labels per image"}
        trained = next((said.y_true.ndim for said in run.predictions.values()), split.labels.ndim)
        if split.labels.ndim != trained:
            problems.append(
                f"'{split.name}' has {kinds[split.labels.ndim]} and the run in {run.path} was trained on {kinds[trained]}; "
                "give the same kind of labels."
            )
        elif trained == 1 and not 0 <= int(split.labels.min()) <= int(split.labels.max()) < of_run:
            problems.append(
                f"'{split.name}' has labels from {split.labels.min()} to {split.labels.max()} and the run in {run.path} "
                f"knows the classes 0 to {of_run - 1}; give labels of its classes."
            )
        elif trained == 2 and split.labels.shape[1] != of_run:
            problems.append(
                f"'{split.name}' has marks for {split.labels.shape[1]} classes and the run in {run.path} knows {of_run}; "
                "give one column per class."
            )
    problems += device_problems(device)
    if workers is not None and not (is_whole(workers) and workers >= 0):
        problems.append(f"workers is {workers!r}; it must be an int of at least 0, or None.")
    if problems:
        raise BadInput.of("this prediction", problems)


def judge_of(run: Run) -> Settled:
    """How a run decides and is scored: its metric by name, with the thresholds, where it has any, that its val chose.

    Of runs that did not keep their thresholds, they are chosen on val again. A metric of the user's own is known by its
    name only; decisions do not depend on it, and accuracy stands for it.
    """
    from probe import metrics

    if "thresholds" in run.details:
        return settled_at(run.details["thresholds"])
    name = str(run.identity["metric"])
    prefix = "macro_f1_at_"
    if name.startswith(prefix) and hasattr(metrics, name.removeprefix(prefix)):
        val = run.predictions["val"]
        rule = MacroF1AtThresholds(getattr(metrics, name.removeprefix(prefix)))
        return settled(rule, val.y_true, np.asarray(val.scores))
    known = {metric.name: metric for metric in metrics.NAMED}
    return Settled(known.get(name, metrics.accuracy), None)
