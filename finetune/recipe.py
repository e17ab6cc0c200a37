"""`Recipe`: every hyper-parameter of one training, frozen and checked, with the papers' own by name.

Conventions
-----------
One step is one update from ``batch_size`` samples; one epoch visits every training sample once, in an order drawn from
``seed``, so it has ceil(n / batch_size) steps and the last one may be smaller. The loss is the mean cross-entropy of
the batch. ``weight_decay`` is torch's (see `finetune.optimizers`). With `SGD` the objective is therefore mean
cross-entropy + ½·λ·‖w‖², which for a linear head is the probe's ``C·Σ loss + ½‖W‖²`` at ``C = 1 / (λ·n)`` when
``decay_biases=False``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from finetune import papers
from finetune.augmentation import Augmentation
from finetune.auxiliary import Auxiliary
from finetune.checking import is_number, is_whole, wrong_types
from finetune.errors import BadInput, CorruptRun
from finetune.keeping import Keep, KeepBest, KeepLast, StopEarly
from finetune.optimizers import SGD, Adam, AdamW, Optimizer
from finetune.records import plain, revived
from finetune.schedules import Constant, Cosine, EpochShare, Schedule, StepDecay

TrainMode: TypeAlias = Literal["moving", "all", "none"]
Precision: TypeAlias = Literal["float32", "tf32", "bfloat16", "float16"]
View: TypeAlias = Literal["loaded", "whole", "crop", "better"]

_NESTEROV, _COSINE, _LAST = SGD(), Cosine(), KeepLast()
_PARTS: dict[str, tuple[type[Any], ...]] = {
    "optimizer": (SGD, Adam, AdamW),
    "schedule": (Constant, Cosine, StepDecay),
    "keep": (KeepLast, KeepBest, StopEarly),
    "augmentation": (Augmentation,),
    "auxiliary": (Auxiliary,),
}
_OPTIONAL = ("augmentation", "auxiliary")
_SEEDS = 1 << 63  # what torch's generators take


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The hyper-parameters of one training.

    All problems of the values are reported in one error, when the recipe is made.

    Parameters
    ----------
    lr : float
        Learning rate after warm-up, greater than 0.
    steps, epochs : int or None
        Length of the training: exactly one of the two.
    batch_size : int
        Samples of one step.
    weight_decay : float
        Torch's, at least 0 (see the conventions of this module).
    optimizer : Optimizer
        `SGD`, `Adam` or `AdamW`.
    schedule : Schedule
        `Constant`, `Cosine` or `StepDecay`.
    warmup_steps : int
        Linear warm-up: update ``t`` of these uses (t + 1) / warmup_steps of the learning rate.
    keep : Keep
        `KeepLast`, `KeepBest` or `StopEarly`: which weights the training ends with, and whether it ends early.
    evaluate_every : int or None
        Steps between evaluations on the validation split; None evaluates at the end of each epoch. The last step is
        always evaluated.
    label_smoothing : float
        Share of the target distribution spread evenly over the classes, in [0, 1).
    decay_biases : bool
        Whether weight decay acts on parameters with fewer than two axes too: biases, normalisation scales. Torch's
        default is yes.
    bn_momentum : float, EpochShare or None
        Momentum of moving batch-norm statistics, torch's convention: a number, `EpochShare`, or None for the layers'
        own.
    augmentation : Augmentation or None
        What happens to training images; None prepares them as in evaluation.
    train_mode : str
        Which modules are in training mode, so that their batch-norm statistics move and their dropout is active:
        ``"moving"``, those that are trained; ``"all"``, as the authors' code of Royer and Lampert 2020 has it; or
        ``"none"``, as that of Lee et al. 2022 has it.
    dropout : float or None
        Rate of the dropout between penultimate features and head: the network's own there, else one in front of the
        head. None leaves the network as it is.
    bn_scale : bool
        Whether the scales of batch norm are trained; otherwise they stay what they are, 1 in a network from scratch.
    auxiliary : Auxiliary or None
        A second classifier on an earlier unit, in whole-network trainings.
    precision : str
        Of training: ``"float32"``, without TF32 whatever torch is set to (by default it allows TF32 in convolutions);
        ``"tf32"``, on a GPU several times faster; ``"bfloat16"`` or ``"float16"`` for torch's automatic mixed precision.
        Evaluation is in float32.
    view : str
        How images are looked at in validation and test: ``"loaded"``, the backbone's preprocessing; ``"whole"``, the
        whole image; ``"crop"``, the inner 87.5 % of each side; ``"better"``, whole during training and then whichever
        of the two scores higher on val (Kornblith et al. 2019).
    seed : int
        Draws the order of the samples, augmentation, dropout, and the values of new weights.

    Raises
    ------
    BadInput
        With every problem found.

    Examples
    --------
    >>> import finetune
    >>> recipe = finetune.Recipe(lr=0.01, steps=2_000, batch_size=64, weight_decay=1e-4)
    >>> round(recipe.lr_at(1_000, n_train=640), 6)
    0.005
    """

    lr: float
    steps: int | None = None
    epochs: int | None = None
    batch_size: int = 256
    weight_decay: float = 0.0
    optimizer: Optimizer = _NESTEROV
    schedule: Schedule = _COSINE
    warmup_steps: int = 0
    keep: Keep = _LAST
    evaluate_every: int | None = None
    label_smoothing: float = 0.0
    decay_biases: bool = True
    bn_momentum: float | EpochShare | None = None
    augmentation: Augmentation | None = None
    train_mode: TrainMode = "moving"
    dropout: float | None = None
    bn_scale: bool = True
    auxiliary: Auxiliary | None = None
    precision: Precision = "float32"
    view: View = "loaded"
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            *_length_problems(self),
            *_number_problems(self),
            *_word_problems(self),
            *_part_problems(self),
        ]
        if problems:
            raise BadInput.of("this recipe", problems)

    @classmethod
    def kornblith2019(cls, *, lr: float, decay: float, pretrained: bool = True, **changes: Any) -> Recipe:
        """Training of Kornblith, Shlens and Le 2019, section 4.2: Nesterov, batches of 256, cosine decay, crops and flips.

        The paper selects ``lr`` and ``decay`` per data set on validation data, so neither has a default; see
        `finetune.grids`. The last step's weights are evaluated.

        Parameters
        ----------
        lr : float
            The paper's grid: 7 log-spaced values from 1e-4 to 1e-1, from scratch from 1e-3 to 1.
        decay : float
            The paper's grid: 0, or 7 log-spaced values from 1e-6 to 1e-3 (from scratch 1e-5 to 1e-2). It is the product
            of learning rate and weight decay: as SimCLR (appendix B.8, which repeats the protocol) states, the values
            are divided by the learning rate.
        pretrained : bool
            20,000 steps; False, for training from scratch, 19,531.
        changes : Any
            Fields of `Recipe` to set otherwise.

        Notes
        -----
        Momentum 0.9 and batch norm's rule max(1 − 10/s, 0.9) are from SimCLR's appendix B.8. That the last step's
        weights are evaluated, the scratch grid, and the choice between whole image and crop are from the supplement,
        quoted from memory.
        """
        return cls(**papers.changed(papers.kornblith2019(lr=lr, decay=decay, pretrained=pretrained), changes))

    @classmethod
    def fang2023(
        cls,
        *,
        lr: float,
        decay: float,
        optimizer: SGD | AdamW | None = None,
        pretrained: bool = True,
        data: str | None = None,
        **changes: Any,
    ) -> Recipe:
        """Training of Fang, Kornblith and Schmidt 2023, as ``sample_train.py`` of the authors' code has it.

        The epoch that is best on validation data is kept. Batches of 128, 30 epochs from pretrained weights
        and 50 from scratch, cosine per epoch. For their other schedule pass ``schedule=StepDecay((15, 20, 25))``, from
        scratch ``StepDecay((20, 30, 40))``.

        Parameters
        ----------
        lr : float
            Their grid: 1e-1 … 1e-4 for `SGD`, 1e-2 … 1e-5 for `AdamW`, a decade apart.
        decay : float
            Their grid: 1e-3, 1e-4, 1e-5, 1e-6, 0. With `AdamW` it is divided by ``lr``, with `SGD` taken as it is, as
            in their code.
        optimizer : SGD, AdamW or None
            `SGD` with Nesterov momentum 0.9 (default), or `AdamW`.
        pretrained : bool
            False for training from scratch.
        data : str or None
            Their data set, which the flips depend on (see `Augmentation.fang2023`); None flips left and right.
        changes : Any
            Fields of `Recipe` to set otherwise.
        """
        paper = papers.fang2023(lr=lr, decay=decay, optimizer=optimizer, pretrained=pretrained, data=data)
        return cls(**papers.changed(paper, changes))

    @classmethod
    def royer2020(cls, data: str, *, ratio: float, **changes: Any) -> Recipe:
        """Training of Royer and Lampert 2020: Adam, constant learning rate, early stopping, no augmentation.

        Lengths go by the amount of target data. Only what the authors' code states can be asked for.

        Parameters
        ----------
        data : str
            ``"mnist"`` or ``"pacs"``: batch sizes, lengths and evaluation steps are those of the authors' code.
        ratio : float
            Share of the target pool that is trained on: 0.001, 0.01, 0.1 or 1 for MNIST; 0.01, 0.1 or 1 for PACS.
        changes : Any
            Fields of `Recipe` to set otherwise: ``keep=StopEarly(…, restore_best=False)`` is what the authors' code
            does, as is ``train_mode="all"``, ``lr=1e-4`` what it uses for MNIST where the paper says 1e-3.

        Raises
        ------
        BadInput
            A data set or ratio their code has no values for.
        """
        return cls(**papers.changed(papers.royer2020(data, ratio=ratio), changes))

    @classmethod
    def surgical2022(cls, *, lr: float, **changes: Any) -> Recipe:
        """Training of Lee et al. 2022 (surgical fine-tuning) on CIFAR-C: Adam, 15 epochs, the best epoch on val.

        Weight decay is 1e-4; batch norm and dropout stay in evaluation mode, the default of the authors' code. Their
        ImageNet-C runs have 10 epochs. The batch size is not among the facts at hand: that of `Recipe`.

        Parameters
        ----------
        lr : float
            Their grid: 1e-1 … 1e-5, a decade apart.
        changes : Any
            Fields of `Recipe` to set otherwise.
        """
        return cls(**papers.changed(papers.surgical2022(lr=lr), changes))

    def steps_per_epoch(self, n_train: int) -> int:
        """Updates in one pass over ``n_train`` samples."""
        return math.ceil(n_train / self.batch_size)

    def n_steps(self, n_train: int) -> int:
        """Updates of the whole training on ``n_train`` samples."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * self.steps_per_epoch(n_train)

    def lr_at(self, step: int, *, n_train: int) -> float:
        """Learning rate of the update that follows ``step`` updates, on ``n_train`` samples."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        per_epoch, n_steps = self.steps_per_epoch(n_train), self.n_steps(n_train)
        factor = self.schedule.factor(step, steps_per_epoch=per_epoch, n_steps=n_steps, warmup_steps=self.warmup_steps)
        return self.lr * factor

    def bn_momentum_for(self, n_train: int) -> float | None:
        """Momentum of moving batch-norm statistics on ``n_train`` samples, torch's; None for the layers' own."""
        if isinstance(self.bn_momentum, EpochShare):
            return self.bn_momentum.momentum(self.steps_per_epoch(n_train))
        return self.bn_momentum

    def check_for(self, n_train: int, *, has_val: bool) -> None:
        """Raise `BadInput` with what `problems_with` finds, if anything."""
        problems = self.problems_with(n_train, has_val=has_val)
        if problems:
            raise BadInput.of("the recipe for this training", problems)

    def problems_with(self, n_train: int, *, has_val: bool) -> list[str]:
        """What keeps this recipe from being used on a training split of this size, a sentence each.

        Parameters
        ----------
        n_train : int
            Training samples.
        has_val : bool
            Whether there is a validation split.
        """
        found: list[str] = []
        if self.view == "better" and not has_val:
            found.append(
                "view is 'better', which is chosen on a validation split, and there is none: pass val, or say 'whole' or "
                "'crop'."
            )
        if n_train > 0 and self.warmup_steps >= self.n_steps(n_train):
            found.append(
                f"warmup_steps is {self.warmup_steps} but the training has only {self.n_steps(n_train)} steps; "
                "the learning rate would never be reached: warm up for fewer."
            )
        if self.keep.needs_val and not has_val:
            found.append(
                f"keep is {self.keep}, which needs a validation split, and there is none: pass val, or keep=KeepLast()."
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries; `from_json` gives an equal recipe back."""
        return {field.name: plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Recipe:
        """The recipe that `to_json` wrote.

        Raises
        ------
        CorruptRun
            A field or a kind of optimiser, schedule or rule that this version does not know.
        """
        unknown = set(stored) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise CorruptRun(f"the stored recipe has fields this version does not know: {', '.join(sorted(unknown))}.")
        return cls(**{name: revived(value) for name, value in stored.items()})


def _length_problems(recipe: Recipe) -> list[str]:
    if recipe.steps is None and recipe.epochs is None:
        return ["neither steps nor epochs is given; one of them says how long to train."]
    if recipe.steps is not None and recipe.epochs is not None:
        return [
            f"steps is {recipe.steps} and epochs is {recipe.epochs}; give one of them, the other follows from the data."
        ]
    return []


def _number_problems(recipe: Recipe) -> list[str]:
    whole = {"steps": 1, "epochs": 1, "batch_size": 1, "evaluate_every": 1, "warmup_steps": 0, "seed": 0}
    found = []
    for name, least in whole.items():
        value = getattr(recipe, name)
        if value is None and name in ("steps", "epochs", "evaluate_every"):
            continue
        if not is_whole(value) or value < least:
            found.append(f"{name} is {value!r}; it must be an int of at least {least}.")
    if is_whole(recipe.seed) and recipe.seed >= _SEEDS:
        found.append(f"seed is {recipe.seed}; torch's generators take less than 2 ** 63.")
    real: dict[str, tuple[Callable[[float], bool], str]] = {
        "lr": (lambda x: 0 < x < math.inf, "greater than 0 and finite"),
        "weight_decay": (lambda x: 0 <= x < math.inf, "at least 0 and finite"),
        "label_smoothing": (lambda x: 0 <= x < 1, "at least 0 and less than 1"),
        "dropout": (lambda x: 0 <= x < 1, "at least 0 and less than 1"),
        "bn_momentum": (lambda x: 0 < x <= 1, "greater than 0 and at most 1"),
    }
    for name, (is_good, wanted) in real.items():
        value = getattr(recipe, name)
        if name in ("bn_momentum", "dropout") and (value is None or isinstance(value, EpochShare)):
            continue
        if not is_number(value) or not is_good(value):
            or_else = ", or a finetune.EpochShare()" if name == "bn_momentum" else ""
            found.append(f"{name} is {value!r}; it must be a number {wanted}{or_else}.")
    return found


def _word_problems(recipe: Recipe) -> list[str]:
    found = []
    for name, kind in (("train_mode", TrainMode), ("precision", Precision), ("view", View)):
        if getattr(recipe, name) not in get_args(kind):
            found.append(f"{name} is {getattr(recipe, name)!r}; it must be one of {', '.join(get_args(kind))}.")
    for name in ("decay_biases", "bn_scale"):
        if not isinstance(getattr(recipe, name), bool):
            found.append(f"{name} is {getattr(recipe, name)!r}; it must be True or False.")
    return found


def _part_problems(recipe: Recipe) -> list[str]:
    found: list[str] = []
    for name, kinds in _PARTS.items():
        part = getattr(recipe, name)
        if part is None and name in _OPTIONAL:
            continue
        if isinstance(part, kinds):
            found += wrong_types(part) or part.problems()
        else:
            wanted = " or ".join(f"a finetune.{kind.__name__}(…)" for kind in kinds)
            found.append(f"{name} is {part!r}; it must be {wanted}{' or None' if name in _OPTIONAL else ''}.")
    if isinstance(recipe.bn_momentum, EpochShare):
        found += wrong_types(recipe.bn_momentum) or recipe.bn_momentum.problems()
    return found
