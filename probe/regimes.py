"""Two ways of transferring, over many models: is one better on a data set (Wilcoxon's signed-rank test)?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from probe.chosen import a_name
from probe.errors import BadInput
from probe.long_tables import Scale, crossed
from probe.rank_tests import holm, signed_rank

if TYPE_CHECKING:
    import pandas


def compare_regimes(table: pandas.DataFrame, a: str, b: str, *, scale: Scale = "logit") -> pandas.DataFrame:
    """Compare two regimes on every data set, paired by model.

    Parameters
    ----------
    table : pandas.DataFrame
        See `probe.long_tables`; both regimes with the same models and data sets.
    a, b : str
        Regimes.
    scale : {"logit", "plain"}
        On which differences are ranked.

    Returns
    -------
    pandas.DataFrame
        Per data set: dataset, n_models, n_better, n_worse, n_equal (of a against b), difference (median over models, on the
        scale), odds_ratio (its exponential, on the logit scale; else NaN), p_value (`probe.rank_tests.signed_rank`), p_holm
        (over the data sets).

    Notes
    -----
    Kornblith et al. (2019), Section 4.2 and Figure 6: fine-tuning was better than logistic regression in 179 of 192 pairs,
    p < 0.01 on all data sets but one. The unit of the test is the model; with five, no p-value is below 0.0625.
    """
    import pandas

    if a_name(a, "a") == a_name(b, "b"):
        raise BadInput(f"'{a}' cannot be compared with itself: name two regimes.")
    first, second = crossed(table, regime=a), crossed(table, regime=b)
    for what in ("models", "datasets"):
        only = sorted(set(getattr(first, what)) ^ set(getattr(second, what)))
        if only:
            raise BadInput(
                f"'{a}' and '{b}' do not have the same {what} ({', '.join(only[:4])} in one only): take common ones."
            )
    rows = [second.models.index(name) for name in first.models]
    columns = [second.datasets.index(name) for name in first.datasets]
    x, y = first.on(scale), second.on(scale)[rows][:, columns]
    difference = x - y
    p_values = [signed_rank(d) for d in difference.T]
    middle = np.median(difference, axis=0)
    return pandas.DataFrame(
        {
            "dataset": first.datasets,
            "n_models": len(x),
            "n_better": (difference > 0).sum(axis=0),
            "n_worse": (difference < 0).sum(axis=0),
            "n_equal": (difference == 0).sum(axis=0),
            "difference": middle,
            "odds_ratio": np.exp(middle) if scale == "logit" else np.nan,
            "p_value": p_values,
            "p_holm": holm(p_values),
        }
    )
