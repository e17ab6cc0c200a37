"""The papers' grids of penalties, and what "a penalty" means in each.

Every function of this package takes C in scikit-learn's meaning: minimise ``C · Σ_i loss_i + ½‖W‖²``. Values of other
conventions are translated by `probe.conventions`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from probe.errors import BadInput

C_GRID: np.ndarray = 10.0 ** np.linspace(-6, 5, 45)
"""45 values, a quarter of a decade apart, from 1e-6 to 1e5 (Kornblith et al. 2019, Supp. A.4). Shape (45,), float64.

The paper's numbers are strengths λ and Kornblith's code penalises λ‖W‖² without ½, so that its C is 1 / (2 λ); DINOv2 sweeps
C itself over the same numbers, which is how they are used here. Either way the range is wide enough to hold the optimum.
"""
C_GRID.flags.writeable = False

CLIP_GRID: np.ndarray = np.logspace(-6, 6, 96)
"""96 values from 1e-6 to 1e6 (Radford et al. 2021, A.3: "96 logarithmically spaced steps"). Shape (96,), float64.

The whole grid; their search visits 8 values a decade around the peak only, and can miss it where there are two.
"""
CLIP_GRID.flags.writeable = False

SVM_GRID: np.ndarray = np.logspace(-3, 2, 26)
"""26 values from 1e-3 to 1e2, for a linear SVM on L2-normalised features (Kornblith et al. 2019, Supp. G). Shape (26,), float64."""
SVM_GRID.flags.writeable = False

GRIDS: Mapping[str, np.ndarray] = MappingProxyType({"kornblith": C_GRID, "clip": CLIP_GRID, "svm": SVM_GRID})
"""The grids by name, for those who must type one: "kornblith", "clip", "svm"."""


def named_grid(name: str) -> np.ndarray:
    """Find a grid by its name.

    Parameters
    ----------
    name : str
        One of `GRIDS`.

    Returns
    -------
    numpy.ndarray of shape (b,), float64
        Ascending, read-only.

    Raises
    ------
    BadInput
        With the known names.

    Examples
    --------
    >>> len(named_grid("clip"))
    96
    """
    if not isinstance(name, str):
        raise BadInput(f"The name of a grid is text, one of {', '.join(GRIDS)}, but is {type(name).__name__}.")
    if name in GRIDS:
        return GRIDS[name]
    near = difflib.get_close_matches(name, GRIDS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(map(repr, GRIDS))}."
    raise BadInput(f"There is no grid of penalties named {name!r}; {hint}")
