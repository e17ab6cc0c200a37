"""Extract the features of a pretrained network once, keep them, find them again.

Names are imported when they are first used, so that ``import featstore`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featstore.backbones import Backbone, load_backbone
    from featstore.datasets import load_split, shifted
    from featstore.datasets.checking import Check, check_split
    from featstore.datasets.shifts import DomainShift, make_shift
    from featstore.engine import Engine
    from featstore.errors import (
        Ambiguous,
        BadInput,
        BadLabels,
        ClusterFailed,
        CorruptChunk,
        FeatstoreError,
        IdentityError,
        MissingData,
        MissingExtra,
        NotStored,
        StoreBusy,
        StoreFormat,
        StoreWrite,
        UnknownName,
        UnreadableImage,
        WorkerLost,
    )
    from featstore.exporting import export
    from featstore.extraction import extract, plan
    from featstore.manifest import ArrayKey, PassKey, differences
    from featstore.matrix import FeatureMatrix
    from featstore.merging import Merged, merge
    from featstore.poolings import Pooling, channel_axis, mean_pool, pooling
    from featstore.preprocessing import Preprocessing
    from featstore.rechecking import Recheck, recheck
    from featstore.removing import Collected
    from featstore.repairing import Repair, repair
    from featstore.splits import Samples, Shift, Split, holdout_rows, per_class_rows, versioned
    from featstore.stages import Report
    from featstore.store import Entry, Store, create_store, open_store
    from featstore.units import Chain
    from featstore.verifying import Problem

__all__ = [
    "Ambiguous",
    "ArrayKey",
    "Backbone",
    "BadInput",
    "BadLabels",
    "Chain",
    "Check",
    "ClusterFailed",
    "Collected",
    "CorruptChunk",
    "DomainShift",
    "Engine",
    "Entry",
    "FeatstoreError",
    "FeatureMatrix",
    "IdentityError",
    "Merged",
    "MissingData",
    "MissingExtra",
    "NotStored",
    "PassKey",
    "Pooling",
    "Preprocessing",
    "Problem",
    "Recheck",
    "Repair",
    "Report",
    "Samples",
    "Shift",
    "Split",
    "Store",
    "StoreBusy",
    "StoreFormat",
    "StoreWrite",
    "UnknownName",
    "UnreadableImage",
    "WorkerLost",
    "arithmetic",
    "channel_axis",
    "check_split",
    "create_store",
    "differences",
    "export",
    "extract",
    "holdout_rows",
    "load_backbone",
    "load_split",
    "make_shift",
    "mean_pool",
    "merge",
    "open_store",
    "per_class_rows",
    "plan",
    "pooling",
    "recheck",
    "repair",
    "shifted",
    "versioned",
]

_ERRORS = (
    "Ambiguous", "BadInput", "BadLabels", "ClusterFailed", "CorruptChunk", "FeatstoreError", "IdentityError", "MissingData",
    "MissingExtra", "NotStored", "StoreBusy", "StoreFormat", "StoreWrite", "UnknownName", "UnreadableImage",
    "WorkerLost",
)  # fmt: skip
_HOMES = {
    **dict.fromkeys(_ERRORS, "errors"),
    **dict.fromkeys(("Backbone", "load_backbone"), "backbones"),
    **dict.fromkeys(("Pooling", "channel_axis", "mean_pool", "pooling"), "poolings"),
    **dict.fromkeys(("extract", "plan"), "extraction"),
    **dict.fromkeys(("ArrayKey", "PassKey", "differences"), "manifest"),
    **dict.fromkeys(("Samples", "Shift", "Split", "holdout_rows", "per_class_rows", "versioned"), "splits"),
    **dict.fromkeys(("Entry", "Store", "create_store", "open_store"), "store"),
    **dict.fromkeys(("Merged", "merge"), "merging"),
    "Chain": "units",
    "Collected": "removing",
    "Engine": "engine",
    "Report": "stages",
    "export": "exporting",
    **dict.fromkeys(("Recheck", "recheck"), "rechecking"),
    **dict.fromkeys(("Repair", "repair"), "repairing"),
    "FeatureMatrix": "matrix",
    "arithmetic": "devices",
    "Preprocessing": "preprocessing",
    "Problem": "verifying",
    **dict.fromkeys(("load_split", "shifted"), "datasets"),
    **dict.fromkeys(("Check", "check_split"), "datasets.checking"),
    **dict.fromkeys(("DomainShift", "make_shift"), "datasets.shifts"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'featstore' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"featstore.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
