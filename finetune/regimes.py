"""The regimes: which part of a network is trained on what. Each is a function that returns a `Run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.examples import Examples, TensorExamples
from finetune.folder import check_folder, run_folder
from finetune.heads import head_from_rows, head_name, new_head
from finetune.progress import say
from finetune.recipe import Recipe
from finetune.run import Run, finished_run
from finetune.task import Asked, carry_out, penultimate_features

if TYPE_CHECKING:
    from featstore import Backbone, Split, Store
    from probe import metrics as probe_metrics


def tune_head(
    backbone: Backbone,
    train: Split,
    val: Split | None = None,
    *,
    recipe: Recipe,
    out: str | Path,
    test: Split | None = None,
    head_rows: Sequence[int] | None = None,
    store: str | Path | Store | None = None,
    metric: probe_metrics.Metric | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Run:
    """Train the last layer alone (ft-fc in Royer and Lampert 2020); everything below it is frozen.

    The frozen part is run once: its penultimate features come from a feature store, in float32, and are extracted into
    it where they are missing. There is no augmentation, so this is what training the last layer of the whole network
    would give. The call is idempotent: a finished run is returned, an interrupted one continued, another one refused.

    Parameters
    ----------
    backbone : Backbone
        Not changed.
    train, val, test : Split
        With one label per image and the same classes. ``val`` chooses among the weights of the training where the
        recipe says so; ``test`` is looked at once, after it.
    recipe : Recipe
        Every hyper-parameter.
    out : str or Path
        The run's folder.
    head_rows : sequence of int or None
        None trains a new layer for the target's classes. Where the network already knows them: the row of its own head
        for each class, in the order of ``train.classes``, to continue from; ``range(k)`` where the classes are the
        same.
    store : str, Path, Store or None
        Where the features are and go; None is a store of the run's own, ``out/features``.
    metric : Metric or None
        One of `probe.metrics` for which higher is better; None is accuracy.
    device : str
        Where features are extracted and the layer is trained.
    progress : bool
        Whether to say on stderr how it goes.

    Returns
    -------
    Run
        Its moving tensors are the layer's weight ``(k, d)`` and bias ``(k,)``.

    Raises
    ------
    BadInput
        Splits, recipe or rows that do not fit together; all of it in one error.
    DifferentRun
        ``out`` holds another run; the differences in words.
    Diverged, OutOfMemory, RunWrite, RunBusy, CorruptRun
        See `finetune.errors`.
    """
    from probe import metrics

    splits = {name: split for name, split in (("train", train), ("val", val), ("test", test)) if split is not None}
    asked = Asked(splits, recipe, metrics.as_metric(metric or metrics.accuracy), device, progress)
    out = Path(out)
    check_folder(out)
    asked.check(head_rows)
    features = penultimate_features(backbone, asked, store or out / "features")
    d, k = features["train"].shape[1], asked.n_classes
    head = new_head(d, k, seed=recipe.seed) if head_rows is None else head_from_rows(backbone, head_rows)
    identity = asked.identity("tune_head", features) | {"head_rows": None if head_rows is None else list(head_rows)}

    def load(name: str) -> Examples:
        import torch

        return TensorExamples(features[name].load(device, dtype=torch.float32), asked.labels(name))

    with run_folder(out, identity, classes=train.classes, device=device) as folder:
        finished = finished_run(out)
        if progress:
            what = "a new layer" if head_rows is None else "rows of the network's own head"
            say(f"{out} holds this run, finished" if finished else f"training {what}: {d} features to {k} classes")
        return finished or carry_out(asked, folder, head.to(device), load, prefix=f"{head_name(backbone)}.")
