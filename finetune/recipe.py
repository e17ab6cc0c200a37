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
from typing import Any

from finetune.augmentation import Augmentation
from finetune.errors import BadInput, CorruptRun
from finetune.keeping import Keep, KeepBest, KeepLast, StopEarly
from finetune.optimizers import SGD, Adam, AdamW, Optimizer
from finetune.schedules import Constant, Cosine, EpochShare, Schedule, StepDecay

# Royer and Lampert 2020, the authors' code (ameroyer/Flextuning), by data set and share of the target pool:
# (batch size, epochs at most, steps between evaluations); early stopping as (drop, min_steps); learning rate.
_ROYER_RUNS: dict[str, dict[float, tuple[int, int, int]]] = {
    "mnist": {0.001: (16, 1000, 20), 0.01: (32, 500, 50), 0.1: (32, 100, 500), 1.0: (32, 25, 4000)},
    "pacs": {0.01: (8, 2000, 100), 0.1: (8, 1000, 150), 1.0: (8, 150, 800)},
}
_ROYER_STOP = {"mnist": (0.0025, 250), "pacs": (0.025, 800)}
_ROYER_LR = {"mnist": 1e-3, "pacs": 1e-4}  # section 4: 1e-3 for the small networks, 1e-4 for Inception2
_NESTEROV, _COSINE, _LAST = SGD(), Cosine(), KeepLast()


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
    frozen_in_train_mode : bool
        Let batch-norm statistics and dropout of frozen parts move too, as the authors' code of flex-tuning does.
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
    frozen_in_train_mode: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [*_length_problems(self), *_number_problems(self), *self.optimizer.problems()]
        problems += [*self.schedule.problems(), *self.keep.problems()]
        if isinstance(self.bn_momentum, EpochShare):
            problems += self.bn_momentum.problems()
        if problems:
            raise BadInput.of("this recipe", problems)

    @classmethod
    def kornblith2019(cls, *, lr: float, decay: float, **changes: Any) -> Recipe:
        """Fine-tuning of Kornblith, Shlens and Le 2019, section 4.2: 20,000 steps of 256, cosine decay.

        The paper selects ``lr`` and ``decay`` per data set on validation data, so neither has a default.

        Parameters
        ----------
        lr : float
            The paper's grid: 7 log-spaced values from 1e-4 to 1e-1.
        decay : float
            The paper's grid: 0, or 7 log-spaced values from 1e-6 to 1e-3. It is the product of learning rate and
            weight decay: as SimCLR (appendix B.8, which repeats the protocol) states, the values are divided by the
            learning rate.
        changes : Any
            Fields of `Recipe` to set otherwise.

        Notes
        -----
        Momentum 0.9 and batch norm's rule max(1 − 10/s, 0.9) are from SimCLR's appendix B.8. That the last step's
        weights are evaluated is from the supplement, quoted from memory.
        """
        paper: dict[str, Any] = {
            "steps": 20_000,
            "batch_size": 256,
            "bn_momentum": EpochShare(),
            "weight_decay": _divided(decay, lr),
        }
        return cls(lr=lr, **_changed(paper, changes))

    @classmethod
    def fang2023(
        cls, *, lr: float, decay: float, optimizer: SGD | AdamW | None = None, pretrained: bool = True, **changes: Any
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
        changes : Any
            Fields of `Recipe` to set otherwise.
        """
        paper: dict[str, Any] = {
            "epochs": 30 if pretrained else 50,
            "batch_size": 128,
            "schedule": Cosine(per_epoch=True),
        }
        paper |= {"optimizer": optimizer or SGD(), "keep": KeepBest()}
        paper["weight_decay"] = _divided(decay, lr) if isinstance(optimizer, AdamW) else decay
        return cls(lr=lr, **_changed(paper, changes))

    @classmethod
    def royer2020(cls, data: str, *, ratio: float, **changes: Any) -> Recipe:
        """Training of Royer and Lampert 2020: Adam, constant learning rate, early stopping.

        Lengths go by the amount of target data. Only what the authors' code states can be asked for.

        Parameters
        ----------
        data : str
            ``"mnist"`` or ``"pacs"``: batch sizes, lengths and evaluation steps are those of the authors' code.
        ratio : float
            Share of the target pool that is trained on: 0.001, 0.01, 0.1 or 1 for MNIST; 0.01, 0.1 or 1 for PACS.
        changes : Any
            Fields of `Recipe` to set otherwise: ``keep=StopEarly(…, restore_best=False)`` is what the authors' code
            does, ``lr=1e-4`` what it uses for MNIST where the paper says 1e-3.

        Raises
        ------
        BadInput
            A data set or ratio their code has no values for.
        """
        if data not in _ROYER_RUNS:
            raise BadInput(
                f"Royer and Lampert's code has no training lengths for {data!r}; it has {', '.join(_ROYER_RUNS)}."
            )
        if ratio not in _ROYER_RUNS[data]:
            known = ", ".join(f"{known:g}" for known in _ROYER_RUNS[data])
            raise BadInput(
                f"Royer and Lampert's code has no training length for ratio {ratio:g} of {data}; it has {known}."
            )
        batch_size, epochs, every = _ROYER_RUNS[data][ratio]
        drop, min_steps = _ROYER_STOP[data]
        paper: dict[str, Any] = {
            "lr": _ROYER_LR[data],
            "epochs": epochs,
            "batch_size": batch_size,
            "evaluate_every": every,
        }
        paper |= {"optimizer": Adam(), "schedule": Constant(), "keep": StopEarly(drop=drop, min_steps=min_steps)}
        return cls(**_changed(paper, changes))

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
        found = []
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
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

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
        return cls(**{name: _revived(value) for name, value in stored.items()})


_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        SGD,
        Adam,
        AdamW,
        Constant,
        Cosine,
        StepDecay,
        EpochShare,
        KeepLast,
        KeepBest,
        StopEarly,
        Augmentation,
    )
}


def _plain(value: Any) -> Any:
    """A record becomes ``{"kind": its name, field: value …}``, a tuple a list; numbers and strings stay."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _revived(value: Any) -> Any:
    """The inverse of `_plain`."""
    if isinstance(value, Mapping):
        fields = dict(value)
        kind = fields.pop("kind", None)
        if kind not in _KINDS:
            raise CorruptRun(f"the stored recipe has a part of kind {kind!r}; this version knows {', '.join(_KINDS)}.")
        return _KINDS[kind](**{name: _revived(item) for name, item in fields.items()})
    return tuple(_revived(item) for item in value) if isinstance(value, list) else value


def _changed(paper: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A paper's fields with the caller's in their place; a length given in the other unit replaces the paper's."""
    is_resized = "steps" in changes or "epochs" in changes
    return {name: value for name, value in paper.items() if not (is_resized and name in ("steps", "epochs"))} | {
        **changes
    }


def _divided(decay: float, lr: float) -> float:
    return decay / lr if lr else decay  # lr = 0 is reported with the recipe's other problems


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
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            found.append(f"{name} is {value!r}; it must be an int of at least {least}.")
    real: dict[str, tuple[Callable[[float], bool], str]] = {
        "lr": (lambda x: 0 < x < math.inf, "greater than 0 and finite"),
        "weight_decay": (lambda x: 0 <= x < math.inf, "at least 0 and finite"),
        "label_smoothing": (lambda x: 0 <= x < 1, "at least 0 and less than 1"),
        "bn_momentum": (lambda x: 0 < x <= 1, "greater than 0 and at most 1"),
    }
    for name, (is_good, wanted) in real.items():
        value = getattr(recipe, name)
        if name == "bn_momentum" and (value is None or isinstance(value, EpochShare)):
            continue
        if not isinstance(value, (int, float)) or not is_good(value):
            found.append(f"{name} is {value!r}; it must be a number {wanted}.")
    return found
