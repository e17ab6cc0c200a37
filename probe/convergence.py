"""How long training takes: steps and epochs until the odds of a correct answer are 90 % of the best, and the speed-up.

Kornblith, Shlens and Le (2019), Section 4.6 and Figure 8. The input is a long table of histories, one row per evaluation:
columns ``dataset``, ``regime``, ``step``, ``accuracy``, and where there are several ``model`` and ``seed``; ``epoch`` and ``n``
(samples it was evaluated on) are optional. In the paper each row is a model of its own, trained for that many steps; in the
history of one training, accuracies before the end are those of a learning rate that has not fallen yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probe.errors import BadInput
from probe.intervals import Interval, z_value
from probe.logits import logit
from probe.long_tables import checked, need_table

if TYPE_CHECKING:
    import pandas

SHARE = 0.9
"""Of the maximum odds."""


def history_table(rows: Iterable[Any], **labels: Any) -> pandas.DataFrame:
    """Make a long table of a training's history.

    Parameters
    ----------
    rows : iterable
        Of anything with attributes step, epoch and val, as the rows of a run's history; those without val are left out.
    **labels
        Columns that say what it is the history of: ``dataset="cars", regime="fine-tuned", model=…, seed=…, n=…``.

    Returns
    -------
    pandas.DataFrame
        Columns step, epoch, accuracy and the labels.
    """
    import pandas

    rows = list(rows) if isinstance(rows, Iterable) else [rows]
    if not all(hasattr(r, name) for r in rows for name in ("step", "epoch", "val")):
        raise BadInput("A history has rows with step, epoch and val, as finetune's runs have them (run.history).")
    kept = [{"step": r.step, "epoch": r.epoch, "accuracy": r.val} | labels for r in rows if r.val is not None]
    if not kept:
        raise BadInput("The history has no validation scores; train with a validation split.")
    return pandas.DataFrame(kept)


def first_at(accuracy: np.ndarray, *, share: float = SHARE, n: Any = None) -> int:
    """Place of the first accuracy whose odds are at least a share of the largest odds.

    Parameters
    ----------
    accuracy : numpy.ndarray of shape (t,)
        In order of steps.
    share : float
        In (0, 1].
    n : array-like, optional
        Samples behind each, where one is exactly 0 or 1.

    Returns
    -------
    int
    """
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise BadInput(f"share is {share:g} but must be above 0 and at most 1.")
    x = logit(accuracy, n)
    # Odds that are equal on paper, such as those of 0.9 and 0.9 times 9, may differ in the last bits.
    return int(np.argmax(x >= x.max() + math.log(share) - 1e-12))


def converged_at(history: pandas.DataFrame, *, share: float = SHARE) -> pandas.DataFrame:
    """Find out when each training was (nearly) as good as it ever was.

    Parameters
    ----------
    history : pandas.DataFrame
        See the top of the module.
    share : float
        Of the maximum odds of a correct answer.

    Returns
    -------
    pandas.DataFrame
        Per model, data set, regime and seed: those columns, step and epoch (NaN where there is no such column) of the first
        evaluation at or above the share, step_before (of the evaluation before it, 0 at the first: the truth lies between),
        accuracy there, best_accuracy, is_last (that evaluation is the last one, so that training was too short to know).
    """
    import pandas

    table = checked(history, ("dataset", "regime", "step", "accuracy"))
    table = table[table["accuracy"].notna()]
    if not len(table):
        raise BadInput("There is nothing to analyse: no row has an accuracy.")
    keys = [column for column in ("model", "dataset", "regime", "seed") if column in table]
    out = []
    for names, rows in table.groupby(keys, sort=False):
        rows = rows.sort_values("step")
        if rows["step"].duplicated().any():
            raise BadInput(
                f"{', '.join(map(str, names))} has two accuracies at step {rows['step'][rows['step'].duplicated()].iloc[0]}: give "
                "a column 'seed' (or 'model') that tells trainings apart."
            )
        accuracy = rows["accuracy"].to_numpy(dtype=float)
        i = first_at(accuracy, share=share, n=rows["n"].to_numpy(dtype=float) if "n" in rows else None)
        at = rows.iloc[i]
        out.append(
            dict(zip(keys, names, strict=True))
            | {"step": at["step"], "epoch": at["epoch"] if "epoch" in rows else math.nan}
            | {"step_before": rows["step"].iloc[i - 1] if i else 0, "accuracy": accuracy[i]}
            | {"best_accuracy": accuracy.max(), "is_last": i == len(rows) - 1}
        )
    return pandas.DataFrame(out)


@dataclass(frozen=True)
class SpeedUp:
    """How many times fewer steps one regime takes than another.

    Attributes
    ----------
    fast, slow : str
    by : {"step", "epoch"}
    n_datasets : int
    fast_mean, slow_mean : float
        Geometric means over data sets.
    fast_quartiles, slow_quartiles : Interval
        First and third quartile over data sets.
    ratio : float
        ``slow_mean / fast_mean``.
    interval : Interval
        Of the ratio, Student's on the logarithms, paired by data set; NaN with one.
    level : float
    n_cut_short : int
        Trainings that were best at their last evaluation: those would have gone on improving.
    """

    fast: str
    slow: str
    by: str
    n_datasets: int
    fast_mean: float
    slow_mean: float
    fast_quartiles: Interval
    slow_quartiles: Interval
    ratio: float
    interval: Interval
    level: float
    n_cut_short: int

    @property
    def sentence(self) -> str:
        """The speed-up in a sentence or two."""
        unit = f"{self.by}s"
        ends = "" if math.isnan(self.interval.low) else f", {self.level:.0%} interval {_of(self.interval)}"
        sets = f"{self.n_datasets} data set{'s' * (self.n_datasets != 1)}"
        first = (
            f"{self.fast} reaches its threshold after {self.fast_mean:.4g} {unit} (quartiles {_of(self.fast_quartiles)}), "
            f"{self.slow} after {self.slow_mean:.4g} ({_of(self.slow_quartiles)}), geometric means over {sets}: "
            f"{self.ratio:.3g} times as long{ends}."
        )
        if not self.n_cut_short:
            return first
        return (
            f"{first} {self.n_cut_short} training(s) reached it only at the last evaluation and may have needed longer."
        )


def speed_up(converged: pandas.DataFrame, fast: str, slow: str, *, by: str = "step", level: float = 0.95) -> SpeedUp:
    """Compare how long two regimes take, paired by data set (and model).

    Parameters
    ----------
    converged : pandas.DataFrame
        What `converged_at` returned.
    fast, slow : str
        Regimes.
    by : {"step", "epoch"}
    level : float
        Of the interval of the ratio.

    Returns
    -------
    SpeedUp
        Several seeds of one training are averaged geometrically first.

    Notes
    -----
    Kornblith et al. (2019), Section 4.6: 1,151 steps (quartiles 267 and 4,882) against 19,531, 17 times fewer.
    """
    from scipy.special import stdtrit

    z_value(level)
    if by not in ("step", "epoch"):
        raise BadInput(f"by is {by!r} but must be 'step' or 'epoch'.")
    need_table(converged)
    missing = [column for column in ("regime", by, "is_last") if column not in converged]
    if missing:
        raise BadInput(
            f"The table lacks the columns {', '.join(missing)}; pass what probe.converged_at returned, not histories."
        )
    keys = [column for column in ("model", "dataset") if column in converged]
    logs = []
    for regime in (fast, slow):
        rows = converged[converged["regime"] == regime]
        values = rows[by].to_numpy(dtype=float)
        if not len(rows) or not (values > 0).all():
            what = "is not in the table" if not len(rows) else f"has a {by} of {values.min():g}, which has no logarithm"
            known = ", ".join(dict.fromkeys(map(str, converged["regime"])))
            raise BadInput(f"The regime '{regime}' {what}; there are {known}.")
        logs.append(rows.assign(log=np.log(values)).groupby(keys, sort=False)["log"].mean())
    only = sorted(map(str, set(logs[0].index) ^ set(logs[1].index)))
    if only:
        raise BadInput(
            f"{len(only)} trainings are of one regime only ({', '.join(only[:4])}): compare the same data sets."
        )
    f, s = logs[0].to_numpy(), logs[1].reindex(logs[0].index).to_numpy()
    d = s - f
    mean = float(d.mean())
    half = math.nan if len(d) < 2 else float(stdtrit(len(d) - 1, 0.5 + level / 2) * d.std(ddof=1) / math.sqrt(len(d)))
    both = converged[converged["regime"].isin([fast, slow])]
    return SpeedUp(
        fast=fast,
        slow=slow,
        by=by,
        n_datasets=len(d),
        fast_mean=float(np.exp(f.mean())),
        slow_mean=float(np.exp(s.mean())),
        fast_quartiles=_quartiles(f),
        slow_quartiles=_quartiles(s),
        ratio=math.exp(mean),
        interval=Interval(math.exp(mean - half), math.exp(mean + half)),
        level=level,
        n_cut_short=int(both["is_last"].sum()),
    )


def _quartiles(logs: np.ndarray) -> Interval:
    low, high = np.exp(np.quantile(logs, [0.25, 0.75]))
    return Interval(float(low), float(high))


def _of(interval: Interval) -> str:
    return f"{interval.low:.4g} to {interval.high:.4g}"
