"""L2-regularised logistic regression on stored features: whole regularisation paths, each fit with proof of optimality.

Names are imported when they are first used, so that ``import probe`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probe import metrics, plots
    from probe.comparison import Comparison, compare
    from probe.errors import BadInput, DamagedRecord, MissingExtra, NotConverged, ProbeError
    from probe.grids import C_GRID
    from probe.model import Model
    from probe.path import Path, fit, fit_path
    from probe.predictions import Predictions
    from probe.results import Results, load_results
    from probe.selection import Choice, select
    from probe.status import Status
    from probe.sweeps import sweep

_HOME = {
    "BadInput": "errors",
    "C_GRID": "grids",
    "Choice": "selection",
    "Comparison": "comparison",
    "DamagedRecord": "errors",
    "MissingExtra": "errors",
    "Model": "model",
    "NotConverged": "errors",
    "Path": "path",
    "Predictions": "predictions",
    "ProbeError": "errors",
    "Results": "results",
    "Status": "status",
    "compare": "comparison",
    "fit": "path",
    "fit_path": "path",
    "load_results": "results",
    "metrics": "",
    "plots": "",
    "select": "selection",
    "sweep": "sweeps",
}

__all__ = [
    "C_GRID",
    "BadInput",
    "Choice",
    "Comparison",
    "DamagedRecord",
    "MissingExtra",
    "Model",
    "NotConverged",
    "Path",
    "Predictions",
    "ProbeError",
    "Results",
    "Status",
    "compare",
    "fit",
    "fit_path",
    "load_results",
    "metrics",
    "plots",
    "select",
    "sweep",
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
