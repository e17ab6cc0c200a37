"""The papers' grids of penalties, and what "a penalty" means in each.

Every function of this package takes C in scikit-learn's meaning: minimise ``C · Σ_i loss_i + ½‖W‖²``.
"""

from __future__ import annotations

import numpy as np

C_GRID: np.ndarray = 10.0 ** np.linspace(-6, 5, 45)
"""45 values, a quarter of a decade apart, from 1e-6 to 1e5 (Kornblith et al. 2019, Supp. A.4). Shape (45,), float64."""
C_GRID.flags.writeable = False
