"""The papers' hyper-parameters, as fields of a `Recipe`: the classmethods of `Recipe` hold the door, the values are here.

Sources: Kornblith, Shlens and Le 2019, section 4.2 and supplement, with SimCLR (Chen et al. 2020, appendix B.8), which
repeats the protocol; ``sample_train.py`` of Fang, Kornblith and Schmidt 2023; Royer and Lampert 2020 and their code
(ameroyer/Flextuning); ``main.py`` of Lee et al. 2022 (surgical fine-tuning).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.augmentation import Augmentation
from finetune.checking import is_number
from finetune.errors import BadInput
from finetune.keeping import KeepBest, StopEarly
from finetune.optimizers import SGD, Adam, AdamW
from finetune.schedules import Constant, Cosine, EpochShare

# The authors' code, by data set and share of the target pool: (batch size, epochs at most, steps between evaluations);
# early stopping as (drop, min_steps); learning rate.
_ROYER_RUNS: dict[str, dict[float, tuple[int, int, int]]] = {
    "mnist": {0.001: (16, 1000, 20), 0.01: (32, 500, 50), 0.1: (32, 100, 500), 1.0: (32, 25, 4000)},
    "pacs": {0.01: (8, 2000, 100), 0.1: (8, 1000, 150), 1.0: (8, 150, 800)},
}
_ROYER_STOP = {"mnist": (0.0025, 250), "pacs": (0.025, 800)}
_ROYER_LR = {"mnist": 1e-3, "pacs": 1e-4}  # section 4: 1e-3 for the small networks, 1e-4 for Inception2


def kornblith2019(*, lr: float, decay: float, pretrained: bool) -> dict[str, Any]:
    """See `finetune.Recipe.kornblith2019`."""
    return {
        "lr": lr,
        "steps": 20_000 if pretrained else 19_531,
        "batch_size": 256,
        "bn_momentum": EpochShare(),
        "weight_decay": _divided(decay, lr),
        "augmentation": Augmentation.kornblith2019(),
        "view": "better",
    }


def fang2023(
    *, lr: float, decay: float, optimizer: SGD | AdamW | None, pretrained: bool, data: str | None
) -> dict[str, Any]:
    """See `finetune.Recipe.fang2023`."""
    return {
        "lr": lr,
        "epochs": 30 if pretrained else 50,
        "batch_size": 128,
        "schedule": Cosine(per_epoch=True),
        "optimizer": optimizer or SGD(),
        "keep": KeepBest(),
        "weight_decay": _divided(decay, lr) if isinstance(optimizer, AdamW) else decay,
        "augmentation": Augmentation.fang2023(data) if data else Augmentation((0.65, 1.0)),
    }


def royer2020(data: str, *, ratio: float) -> dict[str, Any]:
    """See `finetune.Recipe.royer2020`."""
    if data not in tuple(_ROYER_RUNS):
        raise BadInput(
            f"Royer and Lampert's code has no training lengths for {data!r}; it has {', '.join(_ROYER_RUNS)}."
        )
    if ratio not in tuple(_ROYER_RUNS[data]):
        known = ", ".join(f"{known:g}" for known in _ROYER_RUNS[data])
        raise BadInput(
            f"Royer and Lampert's code has no training length for ratio {ratio!r} of {data}; it has {known}."
        )
    batch_size, epochs, every = _ROYER_RUNS[data][ratio]
    drop, min_steps = _ROYER_STOP[data]
    return {
        "lr": _ROYER_LR[data],
        "epochs": epochs,
        "batch_size": batch_size,
        "evaluate_every": every,
        "optimizer": Adam(),
        "schedule": Constant(),
        "keep": StopEarly(drop=drop, min_steps=min_steps),
    }


def surgical2022(*, lr: float) -> dict[str, Any]:
    """See `finetune.Recipe.surgical2022`."""
    return {
        "lr": lr,
        "epochs": 15,
        "weight_decay": 1e-4,
        "optimizer": Adam(),
        "schedule": Constant(),
        "keep": KeepBest(),
        "train_mode": "none",
    }


def changed(paper: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A paper's fields with the caller's in their place; a length given in the other unit replaces the paper's."""
    is_resized = "steps" in changes or "epochs" in changes
    return {name: value for name, value in paper.items() if not (is_resized and name in ("steps", "epochs"))} | {
        **changes
    }


def _divided(decay: float, lr: float) -> float:
    is_defined = is_number(decay) and is_number(lr) and lr
    return decay / lr if is_defined else decay  # what is wrong is reported with the recipe's other problems
