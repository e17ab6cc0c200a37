"""L2-regularised linear classifiers on stored features: whole regularisation paths, each fit with proof of optimality.

Logistic regression (`fit_path`), support vector machines (`svm_path`) and, for screening, ridge classification (`ridge_path`).

Names are imported when they are first used, so that ``import probe`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probe import conventions, metrics, plots
    from probe.batch import fit_paths
    from probe.comparison import Comparison, compare
    from probe.errors import (
        BadInput,
        ClusterFailed,
        DamagedRecord,
        Interrupted,
        MissingExtra,
        NotConverged,
        NotInMemory,
        OutOfMemory,
        ProbeError,
        ZeroRows,
    )
    from probe.estimator import LinearProbe
    from probe.grids import C_GRID, CLIP_GRID, GRIDS, SVM_GRID, named_grid
    from probe.labels import Loss
    from probe.model import Model
    from probe.path import Path, fit, fit_path
    from probe.predictions import Predictions
    from probe.results import Results, load_results
    from probe.ridge import LeftOut, fit_ridge, ridge_path, select_ridge_loo
    from probe.selection import Choice, select
    from probe.status import Status
    from probe.svm import fit_svm, l2_normalized, svm_path
    from probe.sweeps import sweep
    from probe.validation import FoldChoice, Widened, select_holdout, select_kfold, select_splits, widen
    from probe.widening import GridWidened

_HOME = {
    "BadInput": "errors",
    "CLIP_GRID": "grids",
    "C_GRID": "grids",
    "Choice": "selection",
    "ClusterFailed": "errors",
    "Comparison": "comparison",
    "DamagedRecord": "errors",
    "FoldChoice": "validation",
    "GRIDS": "grids",
    "GridWidened": "widening",
    "Interrupted": "errors",
    "LeftOut": "ridge",
    "LinearProbe": "estimator",
    "Loss": "labels",
    "MissingExtra": "errors",
    "Model": "model",
    "NotConverged": "errors",
    "NotInMemory": "errors",
    "OutOfMemory": "errors",
    "Path": "path",
    "Predictions": "predictions",
    "ProbeError": "errors",
    "Results": "results",
    "SVM_GRID": "grids",
    "Status": "status",
    "Widened": "validation",
    "ZeroRows": "errors",
    "compare": "comparison",
    "conventions": "",
    "fit": "path",
    "fit_path": "path",
    "fit_paths": "batch",
    "fit_ridge": "ridge",
    "fit_svm": "svm",
    "l2_normalized": "svm",
    "load_results": "results",
    "metrics": "",
    "named_grid": "grids",
    "plots": "",
    "ridge_path": "ridge",
    "select": "selection",
    "select_holdout": "validation",
    "select_kfold": "validation",
    "select_ridge_loo": "ridge",
    "select_splits": "validation",
    "svm_path": "svm",
    "sweep": "sweeps",
    "widen": "validation",
}

__all__ = [
    "CLIP_GRID",
    "C_GRID",
    "GRIDS",
    "SVM_GRID",
    "BadInput",
    "Choice",
    "ClusterFailed",
    "Comparison",
    "DamagedRecord",
    "FoldChoice",
    "GridWidened",
    "Interrupted",
    "LeftOut",
    "LinearProbe",
    "Loss",
    "MissingExtra",
    "Model",
    "NotConverged",
    "NotInMemory",
    "OutOfMemory",
    "Path",
    "Predictions",
    "ProbeError",
    "Results",
    "Status",
    "Widened",
    "ZeroRows",
    "compare",
    "conventions",
    "fit",
    "fit_path",
    "fit_paths",
    "fit_ridge",
    "fit_svm",
    "l2_normalized",
    "load_results",
    "metrics",
    "named_grid",
    "plots",
    "ridge_path",
    "select",
    "select_holdout",
    "select_kfold",
    "select_ridge_loo",
    "select_splits",
    "svm_path",
    "sweep",
    "widen",
]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'probe' has no attribute {name!r}")
    home = _HOME[name]
    value = (
        getattr(importlib.import_module(f"probe.{home}"), name) if home else importlib.import_module(f"probe.{name}")
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
