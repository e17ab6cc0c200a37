"""L2-regularised linear classifiers on stored features: whole regularisation paths, each fit with proof of optimality.

Logistic regression (`fit_path`), support vector machines (`svm_path`) and, for screening, ridge classification (`ridge_path`).

Names are imported when they are first used, so that ``import probe`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probe import conventions, metrics, plots, results
    from probe.averages import average_over_datasets
    from probe.batch import fit_paths
    from probe.calibration import calibration_table, reliability
    from probe.comparison import Comparison, compare, label_accuracy
    from probe.convergence import SpeedUp, converged_at, history_table, speed_up
    from probe.correlation import Correlation, correlate, correlation_table, rank_correlations
    from probe.embedding import Embedding, chosen_classes, tsne
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
    from probe.few_models import what_few_models_show
    from probe.few_shot import crossings, few_shot_means
    from probe.grids import C_GRID, CLIP_GRID, GRIDS, SVM_GRID, named_grid
    from probe.labels import Loss
    from probe.lines import bootstrap_band
    from probe.logits import inverse_logit, logit
    from probe.long_tables import complete, long_table, read_table
    from probe.many_models import bootstrap_difference, compare_all, comparison_table, comparison_text
    from probe.model import Model
    from probe.optima import Optima, export_optima, import_optima
    from probe.path import Path, fit, fit_path
    from probe.predictions import Predictions
    from probe.rank_tests import holm
    from probe.regimes import compare_regimes
    from probe.report import write_report
    from probe.results import Results, load_results
    from probe.ridge import LeftOut, fit_ridge, ridge_path, select_ridge_loo
    from probe.saving import load_model, save_model
    from probe.selection import Choice, select
    from probe.status import Status
    from probe.studies.cells import Cell, Dataset, Network, Outcome, Regime, Study
    from probe.studies.leaks import Leaks, find_leaks
    from probe.studies.plan import StudyPlan, plan_study
    from probe.studies.probing import Place
    from probe.studies.records import Failure, StudyRecord
    from probe.studies.results import StudyResults, load_study
    from probe.studies.running import run_study
    from probe.svm import fit_svm, l2_normalized, svm_path
    from probe.sweeps import sweep
    from probe.thumbnails import keep_thumbnails
    from probe.validation import FoldChoice, Widened, select_holdout, select_kfold, select_splits, widen
    from probe.widening import GridWidened

_HOME = {
    "BadInput": "errors",
    "CLIP_GRID": "grids",
    "C_GRID": "grids",
    "Cell": "studies.cells",
    "Choice": "selection",
    "ClusterFailed": "errors",
    "Comparison": "comparison",
    "Correlation": "correlation",
    "DamagedRecord": "errors",
    "Dataset": "studies.cells",
    "Embedding": "embedding",
    "Failure": "studies.records",
    "FoldChoice": "validation",
    "GRIDS": "grids",
    "GridWidened": "widening",
    "Interrupted": "errors",
    "Leaks": "studies.leaks",
    "LeftOut": "ridge",
    "LinearProbe": "estimator",
    "Loss": "labels",
    "MissingExtra": "errors",
    "Model": "model",
    "Network": "studies.cells",
    "NotConverged": "errors",
    "Optima": "optima",
    "NotInMemory": "errors",
    "OutOfMemory": "errors",
    "Outcome": "studies.cells",
    "Path": "path",
    "Place": "studies.probing",
    "Predictions": "predictions",
    "ProbeError": "errors",
    "Regime": "studies.cells",
    "Results": "results",
    "SVM_GRID": "grids",
    "SpeedUp": "convergence",
    "Status": "status",
    "Study": "studies.cells",
    "StudyPlan": "studies.plan",
    "StudyRecord": "studies.records",
    "StudyResults": "studies.results",
    "Widened": "validation",
    "ZeroRows": "errors",
    "average_over_datasets": "averages",
    "bootstrap_band": "lines",
    "bootstrap_difference": "many_models",
    "calibration_table": "calibration",
    "chosen_classes": "embedding",
    "compare": "comparison",
    "compare_all": "many_models",
    "compare_regimes": "regimes",
    "comparison_table": "many_models",
    "comparison_text": "many_models",
    "complete": "long_tables",
    "conventions": "",
    "converged_at": "convergence",
    "correlate": "correlation",
    "correlation_table": "correlation",
    "crossings": "few_shot",
    "export_optima": "optima",
    "few_shot_means": "few_shot",
    "find_leaks": "studies.leaks",
    "fit": "path",
    "fit_path": "path",
    "fit_paths": "batch",
    "fit_ridge": "ridge",
    "fit_svm": "svm",
    "history_table": "convergence",
    "holm": "rank_tests",
    "import_optima": "optima",
    "inverse_logit": "logits",
    "keep_thumbnails": "thumbnails",
    "l2_normalized": "svm",
    "label_accuracy": "comparison",
    "load_model": "saving",
    "load_results": "results",
    "load_study": "studies.results",
    "logit": "logits",
    "long_table": "long_tables",
    "metrics": "",
    "named_grid": "grids",
    "plan_study": "studies.plan",
    "plots": "",
    "rank_correlations": "correlation",
    "read_table": "long_tables",
    "reliability": "calibration",
    "results": "",
    "ridge_path": "ridge",
    "run_study": "studies.running",
    "save_model": "saving",
    "select": "selection",
    "select_holdout": "validation",
    "select_kfold": "validation",
    "select_ridge_loo": "ridge",
    "select_splits": "validation",
    "speed_up": "convergence",
    "svm_path": "svm",
    "sweep": "sweeps",
    "tsne": "embedding",
    "what_few_models_show": "few_models",
    "widen": "validation",
    "write_report": "report",
}

__all__ = [
    "CLIP_GRID",
    "C_GRID",
    "GRIDS",
    "SVM_GRID",
    "BadInput",
    "Cell",
    "Choice",
    "ClusterFailed",
    "Comparison",
    "Correlation",
    "DamagedRecord",
    "Dataset",
    "Embedding",
    "Failure",
    "FoldChoice",
    "GridWidened",
    "Interrupted",
    "Leaks",
    "LeftOut",
    "LinearProbe",
    "Loss",
    "MissingExtra",
    "Model",
    "Network",
    "NotConverged",
    "NotInMemory",
    "Optima",
    "OutOfMemory",
    "Outcome",
    "Path",
    "Place",
    "Predictions",
    "ProbeError",
    "Regime",
    "Results",
    "SpeedUp",
    "Status",
    "Study",
    "StudyPlan",
    "StudyRecord",
    "StudyResults",
    "Widened",
    "ZeroRows",
    "average_over_datasets",
    "bootstrap_band",
    "bootstrap_difference",
    "calibration_table",
    "chosen_classes",
    "compare",
    "compare_all",
    "compare_regimes",
    "comparison_table",
    "comparison_text",
    "complete",
    "conventions",
    "converged_at",
    "correlate",
    "correlation_table",
    "crossings",
    "export_optima",
    "few_shot_means",
    "find_leaks",
    "fit",
    "fit_path",
    "fit_paths",
    "fit_ridge",
    "fit_svm",
    "history_table",
    "holm",
    "import_optima",
    "inverse_logit",
    "keep_thumbnails",
    "l2_normalized",
    "label_accuracy",
    "load_model",
    "load_results",
    "load_study",
    "logit",
    "long_table",
    "metrics",
    "named_grid",
    "plan_study",
    "plots",
    "rank_correlations",
    "read_table",
    "reliability",
    "results",
    "ridge_path",
    "run_study",
    "save_model",
    "select",
    "select_holdout",
    "select_kfold",
    "select_ridge_loo",
    "select_splits",
    "speed_up",
    "svm_path",
    "sweep",
    "tsne",
    "what_few_models_show",
    "widen",
    "write_report",
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
