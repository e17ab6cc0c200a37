"""scikit-learn's own checks of a classifier, on the probe."""

from __future__ import annotations

import warnings
from typing import Any

from sklearn.utils.estimator_checks import parametrize_with_checks

import probe
from probe import LinearProbe


@parametrize_with_checks([LinearProbe(C=1.0), LinearProbe(C="path"), LinearProbe(C=1.0, loss="squared_hinge")])
def test_scikit_learns_own_checks(estimator: LinearProbe, check: Any) -> None:
    """What scikit-learn expects of every classifier; no failure is excused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", probe.NotConverged)
        check(estimator)
