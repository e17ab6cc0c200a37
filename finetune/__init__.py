"""Train a pretrained network, or one part of it, on a new task.

Names are imported when they are first used, so that ``import finetune`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune import grids
    from finetune.adapters import Colour, Geometry, ImageToImage
    from finetune.adapting import tune_adapter
    from finetune.attaching import attach, export_onnx, export_torchscript, probe_layer
    from finetune.augmentation import Augmentation
    from finetune.auxiliary import Auxiliary
    from finetune.checkpoint import Row
    from finetune.cost import Cost
    from finetune.errors import (
        BadInput,
        CorruptRun,
        DifferentRun,
        Diverged,
        FinetuneError,
        MissingExtra,
        NotFinite,
        OutOfMemory,
        RunBusy,
        RunWrite,
    )
    from finetune.flex import Flex, TableRow, flex_of, flex_plan, flex_tune
    from finetune.keeping import KeepBest, KeepLast, StopEarly
    from finetune.methods import Comparison, MethodRow, compare_methods, draw_methods
    from finetune.optimizers import SGD, Adam, AdamW
    from finetune.predicting import predict
    from finetune.recipe import Recipe
    from finetune.regimes import (
        from_scratch,
        full_tune,
        probe_then_tune,
        tune_head,
        tune_scale_shift,
        tune_unit,
    )
    from finetune.retrieval import Retrieval, mean_average_precision, retrieve
    from finetune.run import Run, open_run
    from finetune.schedules import Constant, Cosine, EpochShare, StepDecay
    from finetune.scoring import MacroF1AtThresholds
    from finetune.searching import Search, search

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Augmentation",
    "Auxiliary",
    "BadInput",
    "Colour",
    "Comparison",
    "Constant",
    "CorruptRun",
    "Cosine",
    "Cost",
    "DifferentRun",
    "Diverged",
    "EpochShare",
    "FinetuneError",
    "Flex",
    "Geometry",
    "ImageToImage",
    "KeepBest",
    "KeepLast",
    "MacroF1AtThresholds",
    "MethodRow",
    "MissingExtra",
    "NotFinite",
    "OutOfMemory",
    "Recipe",
    "Retrieval",
    "Row",
    "Run",
    "RunBusy",
    "RunWrite",
    "Search",
    "StepDecay",
    "StopEarly",
    "TableRow",
    "attach",
    "compare_methods",
    "draw_methods",
    "export_onnx",
    "export_torchscript",
    "flex_of",
    "flex_plan",
    "flex_tune",
    "from_scratch",
    "full_tune",
    "grids",
    "mean_average_precision",
    "open_run",
    "predict",
    "probe_layer",
    "probe_then_tune",
    "retrieve",
    "search",
    "tune_adapter",
    "tune_head",
    "tune_scale_shift",
    "tune_unit",
]

_ERRORS = (
    "BadInput", "CorruptRun", "DifferentRun", "Diverged", "FinetuneError", "MissingExtra", "NotFinite", "OutOfMemory", "RunBusy",
        "RunWrite",
)  # fmt: skip
_HOMES = {
    **dict.fromkeys(("attach", "export_onnx", "export_torchscript", "probe_layer"), "attaching"),
    **dict.fromkeys(_ERRORS, "errors"),
    **dict.fromkeys(("KeepBest", "KeepLast", "StopEarly"), "keeping"),
    **dict.fromkeys(("SGD", "Adam", "AdamW"), "optimizers"),
    **dict.fromkeys(("Run", "open_run"), "run"),
    **dict.fromkeys(("Constant", "Cosine", "EpochShare", "StepDecay"), "schedules"),
    **dict.fromkeys(("Search", "search"), "searching"),
    "predict": "predicting",
    **dict.fromkeys(("Flex", "TableRow", "flex_of", "flex_plan", "flex_tune"), "flex"),
    "Cost": "cost",
    **dict.fromkeys(("Comparison", "MethodRow", "compare_methods", "draw_methods"), "methods"),
    "Recipe": "recipe",
    "Row": "checkpoint",
    **dict.fromkeys(("Colour", "Geometry", "ImageToImage"), "adapters"),
    "tune_adapter": "adapting",
    **dict.fromkeys(("Retrieval", "mean_average_precision", "retrieve"), "retrieval"),
    "Augmentation": "augmentation",
    "Auxiliary": "auxiliary",
    "MacroF1AtThresholds": "scoring",
    **dict.fromkeys(
        ("from_scratch", "full_tune", "probe_then_tune", "tune_head", "tune_scale_shift", "tune_unit"), "regimes"
    ),
}


def __getattr__(name: str) -> Any:
    if name == "grids":
        return importlib.import_module("finetune.grids")
    if name not in _HOMES:
        raise AttributeError(f"module 'finetune' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"finetune.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
