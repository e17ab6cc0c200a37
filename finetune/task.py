"""What every regime does: check what it is asked, train, predict, write the run.

A regime decides which network is trained, which parts of it move, and what it is fed with; `Asked` and `carry_out` do
the rest.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from finetune.checking import is_whole
from finetune.checkpoint import Row
from finetune.devices import device_named, device_problems, memory_errors_explained
from finetune.errors import BadInput
from finetune.examples import Examples, logits_of
from finetune.folder import RunFolder, run_folder
from finetune.images import ImageExamples
from finetune.lone_images import refuse_lone_image
from finetune.loop import train as train_loop
from finetune.progress import reporter, say
from finetune.recipe import Recipe
from finetune.run import Run, finished_run
from finetune.scoring import MacroF1AtThresholds, as_any_metric, rehearsed, settled
from finetune.tensorboard import event_writer, require_tensorboard
from finetune.trainable import Parts

if TYPE_CHECKING:
    from torch import nn

    from featstore import Backbone, Preprocessing, Split
    from finetune.scoring import AnyMetric
    from probe import Predictions

_NOT_GIVEN = object()


class Options(TypedDict, total=False):
    """What every regime may be told beside what it trains; all of it by keyword, all with a default.

    Attributes
    ----------
    test : Split or None
        Looked at once, after the training.
    head_rows : sequence of int or of str, or None
        None trains a new head for the target's classes. Where the network already knows them: the row of its own head
        for each class, in the order of ``train.classes``, to start from; or the names of the network's classes in the
        order of its rows, among which those of ``train.classes`` are found.
    metric : Metric or None
        One of `probe.metrics` for which higher is better, a function of your own, or `MacroF1AtThresholds`; None is
        accuracy, and 11-point mean average precision for several labels per image.
    device : str
        ``"cpu"``, ``"cuda"`` …
    progress : bool
        Whether to say on stderr how it goes.
    workers : int or None
        Threads that decode and augment images; None is one per core. No number depends on it.
    tensorboard : bool
        Whether to write the history into event files too, in the run's folder ``tensorboard``.
    """

    test: Split | None
    head_rows: Sequence[int] | Sequence[str] | None
    metric: AnyMetric | None
    device: str
    progress: bool
    workers: int | None
    tensorboard: bool


@dataclass(frozen=True, eq=False)
class Asked:
    """What every regime is asked; made by `asked_for`.

    Parameters
    ----------
    splits : mapping of str to Split
        ``"train"``, and ``"val"`` and ``"test"`` where there are such.
    recipe : Recipe
        Every hyper-parameter.
    metric : Metric or MacroF1AtThresholds
        Higher is better.
    head_rows : tuple of int or None
        Rows of the network's own head that are started from.
    device, progress, workers, tensorboard
        See `Options`.
    """

    splits: Mapping[str, Split]
    recipe: Recipe
    metric: AnyMetric
    head_rows: tuple[int, ...] | None = None
    device: str = "cpu"
    progress: bool = True
    workers: int | None = None
    tensorboard: bool = False

    @property
    def is_multi_label(self) -> bool:
        """Whether images may be of several classes."""
        return self.labels("train").ndim == 2

    @property
    def n_classes(self) -> int:
        """Number of classes: as many as have names, else as the training labels show."""
        labels = self.labels("train")
        if self.is_multi_label:
            return int(labels.shape[1])
        return len(self.splits["train"].classes) or int(labels.max()) + 1

    def labels(self, name: str) -> np.ndarray:
        """Class numbers of a split, ``(n,)`` int64, or marks ``(n, k)`` of several classes per image."""
        labels = self.splits[name].labels
        assert labels is not None  # `check` was called
        return labels

    def check(self) -> None:
        """Find everything that keeps these splits from being trained on with this recipe, before any work is done.

        Raises
        ------
        BadInput
            With every problem.
        """
        found = [problem for name, split in self.splits.items() for problem in split_problems(name, split)]
        if not self.metric.higher_is_better:
            found.append(
                f"metric {self.metric.name} is better when lower; a training needs one that is better when higher."
            )
        if not found:
            found += self._class_problems()
        found += device_problems(self.device)
        if self.recipe.precision == "tf32" and not self.device.startswith("cuda"):
            found.append(f"precision is 'tf32', which GPUs have, and device is {self.device!r}; say 'float32'.")
        if isinstance(self.metric, MacroF1AtThresholds) and "val" not in self.splits:
            found.append(f"metric {self.metric.name} chooses its thresholds on a validation split; pass val.")
        found += self.recipe.problems_with(len(self.splits["train"]), has_val="val" in self.splits)
        if found:
            raise BadInput.of("this training", found)

    def _class_problems(self) -> list[str]:
        train, k = self.splits["train"], self.n_classes
        found = []
        for name, split in self.splits.items():
            if split.classes != train.classes:
                found.append(
                    f"{name} '{split.name}' has the classes {_listed(split.classes)} and train has "
                    f"{_listed(train.classes)}; logits belong to one list of classes: give splits with the same one."
                )
            elif self.labels(name).shape[1:] != self.labels("train").shape[1:]:
                found.append(
                    f"{name} '{split.name}' has labels of shape {self.labels(name).shape} and train of "
                    f"{self.labels('train').shape}; give the same kind of labels."
                )
            elif not self.is_multi_label and int(self.labels(name).max()) >= k:
                found.append(
                    f"{name} '{split.name}' has label {int(self.labels(name).max())}, train only labels below {k}."
                )
        labels = self.labels("train")
        present = np.flatnonzero((labels == 1).any(0)) if self.is_multi_label else np.unique(labels)
        missing = sorted(set(range(k)) - set(present.tolist()))
        if self.head_rows is None and missing:
            names = [train.class_name(label) for label in missing]
            found.append(f"no image of train '{train.name}' is of class {_listed(names)}; a new layer cannot learn it.")
        if self.head_rows is not None and len(self.head_rows) != k:
            found.append(f"head_rows has {len(self.head_rows)} rows and there are {k} classes; give one row per class.")
        return found

    def identity(
        self, regime: str, network: Mapping[str, Any], data: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Everything that the result depends on, as plain JSON: what two calls must agree on to be one run.

        Parameters
        ----------
        regime : str
            Name of the function.
        network : mapping
            What the network is: `network_identity`, or a stored pass's.
        data : mapping of str to mapping
            What each split is, labels left out.
        """
        parts = {
            name: {
                "n": len(split),
                "labels": hashlib.sha256(self.labels(name).astype("<i8").tobytes()).hexdigest()[:32],
                **data[name],
            }
            for name, split in self.splits.items()
        }
        return {
            "regime": regime,
            "recipe": self.recipe.to_json(),
            "metric": self.metric.name,
            "network": dict(network),
            "data": parts,
            "n_classes": self.n_classes,
            "head_rows": None if self.head_rows is None else list(self.head_rows),
        }

    def refuse_image_switches(self, what: str) -> None:
        """Refuse a recipe that varies images, or what the frozen part makes of them, where they pass the network once.

        Parameters
        ----------
        what : str
            Who cannot do it and who could, as the end of a sentence.
        """
        recipe = self.recipe
        values = {"augmentation": recipe.augmentation, "auxiliary": recipe.auxiliary}
        found = [f"{name} is {value}, but {what}." for name, value in values.items() if value is not None]
        if recipe.view != "loaded":
            found.append(f"view is '{recipe.view}', but {what}; or load the backbone with that preprocessing.")
        if recipe.train_mode == "all":
            found.append(f"train_mode is 'all', but {what}: batch norm and dropout of what is frozen would be active.")
        if found:
            raise BadInput.of("this recipe", found)

    def image_identity(self) -> dict[str, dict[str, Any]]:
        """What the images of each split are: ids and contents, with the shifts applied to them."""
        with memory_errors_explained(
            "the memory did not suffice to read the images", "Free some, or raise the limit that this process has."
        ):
            digests = {name: split.digest() for name, split in self.splits.items()}
        return {name: {"ids": found.ids_digest, "images": found.content_digest} for name, found in digests.items()}

    def shared_images(self) -> dict[str, int]:
        """Images that splits share by content, whatever their ids: ``"val in train"`` -> how many; empty where none are."""
        import probe

        labels = {name: self.labels(name) for name in self.splits}
        contents = {name: split.digest().rows for name, split in self.splits.items()}
        return {what: n for what, n in probe.find_leaks(labels, contents).identical.items() if n}

    def images(self, backbone: Backbone, view: str | None = None) -> Callable[[str], ImageExamples]:
        """Gives the images of ``"train"`` (augmented as the recipe says), ``"val"`` or ``"test"`` for a network.

        Parameters
        ----------
        backbone : Backbone
            Its preprocessing is the network's.
        view : str or None
            ``"loaded"``, ``"whole"`` or ``"crop"``; None is the recipe's, whole where that is ``"better"``.
        """
        seen = preprocessing_of(backbone, view or self.recipe.view)
        precision = {"float32": "fp32", "tf32": "tf32", "float16": "amp-fp16"}.get(self.recipe.precision, "amp-bf16")

        @functools.cache  # what is decoded for the evaluations of the training serves the last one too
        def load(name: str) -> ImageExamples:
            return ImageExamples(
                self.splits[name],
                seen,
                self.labels(name),
                augmentation=self.recipe.augmentation if name == "train" else None,
                seed=self.recipe.seed,
                channels_last=backbone.prefers_channels_last(self.device, precision),
                device=self.device,
                n_workers=self.workers,
            )

        return load


def asked_for(train: Split, val: Split | None, recipe: Recipe, *, backbone: Any = _NOT_GIVEN, **options: Any) -> Asked:
    """Bring a regime's arguments into one form, and check them.

    Parameters
    ----------
    train, val : Split
        See the regimes.
    recipe : Recipe
        Every hyper-parameter.
    backbone : Backbone
        What is trained, to be checked with the rest where it is given.
    options : Any
        See `Options`.

    Raises
    ------
    BadInput
        With every problem.
    """
    from finetune.rows import rows_among

    _check_types(train, val, recipe, backbone, options)
    if "device" in options:
        options["device"] = device_named(options["device"])
    pairs = (("train", train), ("val", val), ("test", options.pop("test", None)))
    splits = {name: split for name, split in pairs if split is not None}
    is_multi_label = train.labels is not None and train.labels.ndim == 2
    metric = as_any_metric(options.pop("metric", None), is_multi_label=is_multi_label)
    rows = options.pop("head_rows", None)
    asked = Asked(splits, recipe, metric, None if rows is None else rows_among(rows, train.classes), **options)
    asked.check()
    found = {name: rehearsed(metric, asked.labels(name), asked.n_classes) for name in splits if name != "train"}
    if any(found.values()):
        raise BadInput.of(
            "this training", [f"{name} '{splits[name].name}': {why}" for name, why in found.items() if why]
        )
    if asked.tensorboard:
        require_tensorboard()
    return asked


def _check_types(train: Any, val: Any, recipe: Any, backbone: Any, options: Mapping[str, Any]) -> None:
    """Refuse what is no split, no recipe and no option at all, before anything is asked of it."""
    import featstore

    wanted: dict[str, tuple[Any, type[Any], str]] = {
        "train": (train, featstore.Split, "featstore.load_split(…) makes one"),
        "val": (val, featstore.Split, "featstore.load_split(…) makes one, or None"),
        "test": (options.get("test"), featstore.Split, "featstore.load_split(…) makes one, or None"),
        "recipe": (recipe, Recipe, "finetune.Recipe(…) makes one"),
        "backbone": (backbone, featstore.Backbone, "featstore.load_backbone(…) makes one"),
    }
    found = [
        f"{name} is {value!r:.80}; it must be a {kind.__name__}: {how}."
        for name, (value, kind, how) in wanted.items()
        if not isinstance(value, kind)
        and value is not _NOT_GIVEN
        and (value is not None or name not in ("val", "test"))
    ]
    known = Options.__annotations__
    for name in options.keys() - known.keys():
        near = difflib.get_close_matches(name, known, n=1) or known
        found.append(
            f"there is no option '{name}' of a training; {'near it' if len(near) == 1 else 'there'} is {', '.join(near)}."
        )
    workers = options.get("workers")
    if workers is not None and not (is_whole(workers) and workers >= 0):
        found.append(f"workers is {workers!r}; it must be an int of at least 0, or None.")
    if found:
        raise BadInput.of("this training", found)


def preprocessing_of(backbone: Backbone, view: str) -> Preprocessing:
    """What a view of the images is: the backbone's own, the whole image, or its inner 87.5 %."""
    own = backbone.preprocessing
    if view == "loaded":
        return own
    if view in ("whole", "better"):
        return own.whole_image()
    return replace(own, resize=round(min(own.input_size) / 0.875), crop=own.input_size)


def network_identity(backbone: Backbone) -> dict[str, Any]:
    """What a backbone is, as plain JSON."""
    return {
        "backbone": backbone.name,
        "weights_digest": backbone.weights_digest,
        "cut": backbone.cut,
        "preprocessing": backbone.preprocessing.to_json(),
        "version": backbone.version,
    }


def run_of(
    asked: Asked,
    out: str | Path,
    identity: Mapping[str, Any],
    *,
    what: str,
    work: Callable[[RunFolder], Run],
) -> Run:
    """The run of a folder: as it is if it is finished, else worked on, by one process at a time.

    Parameters
    ----------
    asked : Asked
        What is asked.
    out : str or Path
        The folder.
    identity : mapping
        See `Asked.identity`.
    what : str
        What is trained, for people.
    work : callable
        Does it: `carry_out`.
    """
    out = Path(out)
    classes, device = asked.splits["train"].classes, asked.device
    with run_folder(out, identity, classes=classes, device=device) as folder:
        finished = finished_run(out)
        if asked.progress:
            say(f"{out} holds this run, finished" if finished else f"training {what}")
        for shared, n in {} if finished or not asked.progress else asked.shared_images().items():
            say(f"warning: {n} images of {shared} by content, so that their scores are too good")
        return finished or work(folder)


def carry_out(
    asked: Asked,
    folder: RunFolder,
    network: nn.Module,
    load: Callable[[str], Examples],
    *,
    other_view: Callable[[str], Examples] | None = None,
    parts: Collection[str] | Parts = ("",),
    prefix: str = "",
    keeps_all: bool = False,
    details: Mapping[str, Any] | None = None,
) -> Run:
    """Train, predict the validation and test splits with the weights that are kept, and write the run.

    Parameters
    ----------
    asked : Asked
        Splits, recipe, metric, device.
    folder : RunFolder
        Where the run is written.
    network : nn.Module
        From what ``load`` gives to logits; on the device; changed in place.
    load : callable
        Gives the examples of ``"train"``, ``"val"`` or ``"test"``; the test split's only after the training.
    other_view : callable or None
        Likewise, another view of the same images: the trained network takes the one that scores higher on val.
    parts : collection of str, or Parts
        What of the network moves.
    prefix : str
        What goes before the names of the network's tensors in the weight files.
    keeps_all : bool
        Write every tensor of the network, not only those that moved.
    details : mapping or None
        Plain JSON that the regime has to tell beside its identity.

    Raises
    ------
    BadInput
        A batch would have one image, and batch norm needs two; `finetune.loop.train` raises others.
    """
    val = load("val") if "val" in asked.splits else None

    def score() -> float:
        assert val is not None
        logits = logits_of(network, val, device=asked.device)
        return settled(asked.metric, val.labels, logits).score(val.labels, logits)

    examples = load("train")
    refuse_lone_image(network, examples, recipe=asked.recipe, parts=parts, device=asked.device)
    with _reporting(asked, folder.path) as report:
        trained = train_loop(
            network,
            examples,
            recipe=asked.recipe,
            checkpoint=folder.checkpoint,
            parts=parts,
            evaluate=None if val is None else score,
            device=asked.device,
            report=report,
        )
    network.eval()
    chosen, told = (lambda name: val if name == "val" and val is not None else load(name)), dict(details or {})
    if shared := asked.shared_images():
        told["shared_images"] = shared
    if other_view is not None and val is not None:
        told["view"] = _views_compared(asked, network, val, other_view("val"))
        chosen = other_view if told["view"]["chosen"] == "crop" else chosen
    with memory_errors_explained(
        f"the memory of {asked.device} did not suffice to predict with the trained network",
        "The training is kept: call again where more memory is free, and only this is done.",
    ):
        predictions, scores, thresholds = _predicted(asked, network, chosen, str(folder.path))
    still = network.state_dict() if keeps_all else {}
    named = [{f"{prefix}{n}": t for n, t in {**still, **state}.items()} for state in (trained.kept, trained.last)]
    return folder.finish(replace(trained, kept=named[0], last=named[1]), predictions, scores, {**told, **thresholds})


@contextlib.contextmanager
def _reporting(asked: Asked, out: Path) -> Iterator[Callable[[Row, int], None]]:
    """What is done with each new row of history: said on stderr, written for TensorBoard, as asked."""
    say_row = reporter() if asked.progress else None
    with contextlib.ExitStack() as stack:
        write = stack.enter_context(event_writer(out / "tensorboard")) if asked.tensorboard else None

        def report(row: Row, n_steps: int) -> None:
            if say_row is not None:
                say_row(row, n_steps)
            if write is not None:
                write(row)

        yield report


def _views_compared(asked: Asked, network: nn.Module, whole: Examples, crop: Examples) -> dict[str, Any]:
    """Which view of the validation images scores higher, the whole image on ties, and both scores."""

    def score(examples: Examples) -> float:
        logits = logits_of(network, examples, device=asked.device)
        return settled(asked.metric, examples.labels, logits).score(examples.labels, logits)

    scores = {"whole": score(whole), "crop": score(crop)}
    return {"chosen": "crop" if scores["crop"] > scores["whole"] else "whole", "val": scores}


def _predicted(
    asked: Asked, network: nn.Module, load: Callable[[str], Examples], name_of_model: str
) -> tuple[dict[str, Predictions], dict[str, float], dict[str, Any]]:
    """Predictions and scores on val and test, and the thresholds, where the metric has any: those of val."""
    from probe import Predictions

    predictions, scores = {}, {}
    judge = None
    for name in [name for name in ("val", "test") if name in asked.splits]:
        labels, split = asked.labels(name), asked.splits[name]
        logits = logits_of(network, load(name), device=asked.device)
        judge = judge or settled(asked.metric, labels, logits)
        scores[name] = judge.score(labels, logits)
        said = judge.predicted(labels, logits)
        predictions[name] = Predictions(split.ids, labels, said, split.classes, logits, name_of_model)
    return predictions, scores, {} if judge is None else judge.details()


def split_problems(name: str, split: Split) -> list[str]:
    """What keeps a split from being looked at, a sentence each.

    Parameters
    ----------
    name : str
        What it is to the caller: ``"train"``.
    split : Split
        Given.
    """
    if len(split) == 0:
        return [f"{name} '{split.name}' has no images; give a split that has some."]
    if split.labels is None:
        return [f"{name} '{split.name}' has no labels; training and testing need one per image."]
    return []


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return f"({', '.join(names[:most])}{more})"
