"""What every regime does: check what it is asked, find features in a store, train, predict, write the run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.errors import BadInput
from finetune.examples import Examples, logits_of
from finetune.folder import RunFolder
from finetune.loop import train as train_loop
from finetune.progress import reporter
from finetune.recipe import Recipe
from finetune.run import Run

if TYPE_CHECKING:
    from torch import nn

    from featstore import Backbone, FeatureMatrix, Split, Store
    from probe import metrics as probe_metrics

_EVALUATION_BATCH = 4096  # rows of features: a few MiB


@dataclass(frozen=True, eq=False)
class Asked:
    """What every regime is asked.

    Parameters
    ----------
    splits : mapping of str to Split
        ``"train"``, and ``"val"`` and ``"test"`` where there are such.
    recipe : Recipe
        Every hyper-parameter.
    metric : Metric
        Higher is better.
    device : str
        Where to train.
    progress : bool
        Whether to say on stderr how it goes.
    """

    splits: Mapping[str, Split]
    recipe: Recipe
    metric: probe_metrics.Metric
    device: str
    progress: bool

    @property
    def n_classes(self) -> int:
        """Number of classes: as many as have names, else as the training labels show."""
        return len(self.splits["train"].classes) or int(self.labels("train").max()) + 1

    def labels(self, name: str) -> np.ndarray:
        """Class numbers of a split, ``(n,)`` int64."""
        labels = self.splits[name].labels
        assert labels is not None  # `check` was called
        return labels

    def check(self, head_rows: Sequence[int] | None) -> None:
        """Find everything that keeps these splits from being trained on with this recipe, before any work is done.

        Parameters
        ----------
        head_rows : sequence of int or None
            Rows of the network's own head that are continued from.

        Raises
        ------
        BadInput
            With every problem.
        """
        found = [problem for name, split in self.splits.items() for problem in _problems_of(name, split)]
        if not self.metric.higher_is_better:
            found.append(
                f"metric {self.metric.name} is better when lower; a training needs one that is better when higher."
            )
        if not found:
            found += self._class_problems(head_rows)
        found += self.recipe.problems_with(len(self.splits["train"]), has_val="val" in self.splits)
        if found:
            raise BadInput.of("this training", found)

    def _class_problems(self, head_rows: Sequence[int] | None) -> list[str]:
        train, k = self.splits["train"], self.n_classes
        found = []
        for name, split in self.splits.items():
            if split.classes != train.classes:
                found.append(
                    f"{name} '{split.name}' has the classes {_listed(split.classes)} and train has "
                    f"{_listed(train.classes)}; logits belong to one list of classes: give splits with the same one."
                )
            elif int(self.labels(name).max()) >= k:
                found.append(
                    f"{name} '{split.name}' has label {int(self.labels(name).max())}, train only labels below {k}."
                )
        missing = sorted(set(range(k)) - set(self.labels("train").tolist()))
        if head_rows is None and missing:
            names = [train.class_name(label) for label in missing]
            found.append(f"no image of train '{train.name}' is of class {_listed(names)}; a new layer cannot learn it.")
        if head_rows is not None and len(head_rows) != k:
            found.append(f"head_rows has {len(head_rows)} rows and there are {k} classes; give one row per class.")
        return found

    def identity(self, regime: str, features: Mapping[str, FeatureMatrix]) -> dict[str, Any]:
        """Everything that the result depends on, as plain JSON: what two calls must agree on to be one run.

        Parameters
        ----------
        regime : str
            Name of the function.
        features : mapping of str to FeatureMatrix
            Of each split.
        """
        data = {
            name: {
                "n": len(split),
                "features": features[name].key,
                "labels": hashlib.sha256(self.labels(name).astype("<i8").tobytes()).hexdigest()[:32],
            }
            for name, split in self.splits.items()
        }
        network = features["train"].manifest["network"]
        return {
            "regime": regime,
            "recipe": self.recipe.to_json(),
            "metric": self.metric.name,
            "network": network,
            "data": data,
        }


def carry_out(
    asked: Asked, folder: RunFolder, network: nn.Module, load: Callable[[str], Examples], *, prefix: str = ""
) -> Run:
    """Train, predict the validation and test splits with the weights that are kept, and write the run.

    Parameters
    ----------
    asked : Asked
        Splits, recipe, metric, device.
    folder : RunFolder
        Where the run is written.
    network : nn.Module
        From what ``load`` gives to logits; on the device; all of it moves.
    load : callable
        Gives the examples of ``"train"``, ``"val"`` or ``"test"``; the test split's only after the training.
    prefix : str
        What goes before the names of the network's tensors in the weight files.
    """
    from probe import Predictions, metrics

    val = load("val") if "val" in asked.splits else None

    def scored(examples: Examples) -> tuple[np.ndarray, float]:
        logits = logits_of(network, examples, batch_size=_EVALUATION_BATCH, device=asked.device)
        return logits, float(metrics.evaluate(asked.metric, examples.labels, logits))

    trained = train_loop(
        network,
        load("train"),
        recipe=asked.recipe,
        checkpoint=folder.checkpoint,
        evaluate=None if val is None else lambda: scored(val)[1],
        device=asked.device,
        report=reporter() if asked.progress else None,
    )
    network.eval()
    predictions, scores = {}, {}
    for name in [name for name in asked.splits if name != "train"]:
        logits, scores[name] = scored(val if name == "val" and val is not None else load(name))
        split = asked.splits[name]
        said = logits.argmax(1).astype(np.int64)
        predictions[name] = Predictions(split.ids, asked.labels(name), said, split.classes, logits, str(folder.path))
    named = [{f"{prefix}{name}": tensor for name, tensor in state.items()} for state in (trained.kept, trained.last)]
    return folder.finish(replace(trained, kept=named[0], last=named[1]), predictions, scores)


def penultimate_features(backbone: Backbone, asked: Asked, store: str | Path | Store) -> dict[str, FeatureMatrix]:
    """Penultimate features ``(n, d)`` of every split, float32, from a store; extracted where they are missing.

    Parameters
    ----------
    backbone : Backbone
        The network.
    asked : Asked
        Splits, device.
    store : str, Path or Store
        Made where it is missing.
    """
    import featstore

    opened = store if isinstance(store, featstore.Store) else featstore.create_store(store)
    what: dict[str, Any] = {"units": ("penultimate",), "pool": "mean", "dtype": "float32"}
    planned = featstore.plan(backbone, list(asked.splits.values()), opened, **what)

    def stored(split: Split) -> FeatureMatrix:
        return opened.features("penultimate", split, backbone=backbone, pool="mean", dtype="float32")

    def is_stored(part: Any) -> bool:
        """Whether exactly these features are there: also among the rows of a larger split, unseen by a plan."""
        try:
            return not part.missing or stored(part.split).manifest["network"] == part.key.of_network()
        except (featstore.NotStored, featstore.IdentityError, featstore.Ambiguous):
            return False

    missing = [part.split for part in planned.parts if not is_stored(part)]
    if missing:
        featstore.extract(backbone, missing, opened, **what, device=asked.device, progress=asked.progress)
    return {name: stored(split) for name, split in asked.splits.items()}


def _problems_of(name: str, split: Split) -> list[str]:
    if len(split) == 0:
        return [f"{name} '{split.name}' has no images; give a split that has some."]
    if split.labels is None:
        return [f"{name} '{split.name}' has no labels; training and testing need one per image."]
    if split.labels.ndim != 1:
        return [f"{name} '{split.name}' has {split.labels.shape[1]} labels per image; cross-entropy needs exactly one."]
    return []


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return f"({', '.join(names[:most])}{more})"
