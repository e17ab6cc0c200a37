"""Accuracy with few training samples per class: means over subsets, and where one regime overtakes another.

Kornblith, Shlens and Le (2019), Section 4.7 and Figure 9: several subsets (three there) of k images per class, error bars are
standard errors over subsets. The input is a long table (`probe.long_tables`) with ``per_class`` (k) and ``seed`` (the subset).
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from probe.chosen import a_name
from probe.errors import BadInput
from probe.logits import logit
from probe.long_tables import checked

if TYPE_CHECKING:
    import pandas

CLEAR = 2.0
"""Standard errors of a difference from which on it counts as clear."""


def few_shot_means(table: pandas.DataFrame) -> pandas.DataFrame:
    """Average over subsets.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns dataset, per_class, accuracy, and where there are several regime, model, seed; n and n_train are kept.

    Returns
    -------
    pandas.DataFrame
        Per model, data set, regime (in the order of the table) and per_class (ascending): accuracy (mean), standard_error
        (standard deviation over subsets / sqrt(their number); NaN with one), n_subsets.
    """
    import pandas

    table = checked(table, ("dataset", "per_class", "accuracy"))
    table = table[table["accuracy"].notna() & table["per_class"].notna()]
    if not len(table):
        raise BadInput("There is nothing to average: no row has an accuracy and a number of samples per class.")
    keys = [column for column in ("model", "dataset", "regime") if column in table]
    if "seed" in table and table.duplicated([*keys, "per_class", "seed"]).any():
        first = table[table.duplicated([*keys, "per_class", "seed"])].iloc[0]
        raise BadInput(
            f"Two results are of the same subset: {', '.join(str(first[k]) for k in [*keys, 'per_class', 'seed'])}. Keep one."
        )
    groups = table.groupby([*keys, "per_class"], sort=False)["accuracy"]
    out = groups.agg(accuracy="mean", sd="std", n_subsets="size").reset_index()
    out["standard_error"] = out["sd"] / np.sqrt(out["n_subsets"])
    for column in ("n", "n_train", "metric"):
        if column in table:
            first_of = table.groupby([*keys, "per_class"], sort=False)[column].first().reset_index(name=column)
            out = out.merge(first_of, on=[*keys, "per_class"])
    # Models, data sets and regimes stay in the order of the table.
    out = out.assign(order=out.groupby(keys, sort=False).ngroup()).sort_values(
        ["order", "per_class"], ignore_index=True
    )
    return pandas.DataFrame(out.drop(columns=["sd", "order"]))


def crossings(table: pandas.DataFrame, a: str, b: str) -> pandas.DataFrame:
    """Find where one regime overtakes another as the training set grows.

    Parameters
    ----------
    table : pandas.DataFrame
        As for `few_shot_means`, with a column regime.
    a, b : str
        Regimes.

    Returns
    -------
    pandas.DataFrame
        One row per crossing, none where one regime leads throughout: model (where there is such a column), dataset,
        leader_before, leader_after, below and above (the sizes that were measured on either side), per_class (where log odds,
        straight in log(per_class) between them, are equal), is_clear (on both sides the difference is more than two standard
        errors, as if subsets were independent; False where there is one subset).
    """
    import pandas

    means = few_shot_means(checked(table, ("dataset", "regime", "per_class", "accuracy")))
    known = list(dict.fromkeys(map(str, means["regime"])))
    for name in (a, b):
        if a_name(name, "A regime") not in known:
            raise BadInput(f"The table has no regime '{name}'; there are {', '.join(known)}.")
    keys = [column for column in ("model", "dataset") if column in means]
    columns = [*keys, "leader_before", "leader_after", "below", "above", "per_class", "is_clear"]
    rows: list[dict[str, Any]] = []
    for names, group in means.groupby(keys, sort=False):
        pair = [group[group["regime"] == name].set_index("per_class") for name in (a, b)]
        both = pair[0].merge(pair[1], left_index=True, right_index=True, suffixes=("_a", "_b")).sort_index()
        found = _crossings(both, a, b)
        rows += [dict(zip(keys, names, strict=True)) | crossing for crossing in found]
    return pandas.DataFrame(rows, columns=columns)


def _crossings(both: pandas.DataFrame, a: str, b: str) -> list[dict[str, Any]]:
    """Sign changes of the difference in log odds along per_class."""
    k = both.index.to_numpy(dtype=float)
    x, y, n = both["accuracy_a"].to_numpy(), both["accuracy_b"].to_numpy(), both.get("n_a")
    difference = logit(x, n) - logit(y, n)
    error = np.hypot(both["standard_error_a"].to_numpy(), both["standard_error_b"].to_numpy())
    is_clear = np.abs(x - y) > CLEAR * error
    out = []
    there = np.flatnonzero(difference)
    for i, j in itertools.pairwise(there):
        if (difference[i] > 0) == (difference[j] > 0):
            continue
        # Between neighbours the lines are followed; over sizes at which both are equal, the middle of those is meant.
        share = difference[i] / (difference[i] - difference[j])
        ties = np.log(k[i + 1 : j])
        where = float(ties.mean()) if len(ties) else math.log(k[i]) + share * (math.log(k[j]) - math.log(k[i]))
        before, after = (a, b) if difference[i] > 0 else (b, a)
        out.append(
            {"leader_before": before, "leader_after": after, "below": k[i], "above": k[j], "per_class": math.exp(where)}
            | {"is_clear": bool(is_clear[i] and is_clear[j])}
        )
    return out
