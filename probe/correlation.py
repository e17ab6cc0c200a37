"""Many models: does accuracy on the source task predict accuracy on others, and how sure can so many models make us?"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probe import lines, tables
from probe.chosen import one_word
from probe.errors import BadInput
from probe.few_models import what_few_models_show
from probe.intervals import Interval
from probe.lines import bootstrap_band, fit_line
from probe.logits import logit
from probe.long_tables import Crossed, Scale, crossed, source_of
from probe.rank_tests import pearson, spearman
from probe.reals import several_of

if TYPE_CHECKING:
    import pandas

AVERAGE = "average over data sets"
"""What `Correlation.dataset` says of the mean of the log odds over all data sets."""

__all__ = [
    "AVERAGE", "Correlation", "bootstrap_band", "correlate", "correlation", "correlation_table", "rank_correlations",
    "what_few_models_show",
]  # fmt: skip


@dataclass(frozen=True)
class Correlation:
    """How accuracy on the source task and on a data set go together, over models.

    Attributes
    ----------
    dataset : str
        `AVERAGE` for the mean over data sets.
    n_models : int
    scale : {"logit", "plain"}
        Of r, rho's intervals and the slope; rho itself depends on no scale.
    r : float
        Pearson's correlation.
    r_interval : Interval
        Fisher's.
    r_p : float
        Two-sided, by Student's t.
    rho, rho_interval, rho_p
        Spearman's; Bonett and Wright's interval, permutation test.
    slope : float
        Of the regression line: on the logit scale, the log odds that one unit of log odds on the source task goes with.
    slope_interval : Interval
        Student's.
    intercept : float
    normalised_slope, normalised_slope_interval
        Points of accuracy that one point on the source task goes with: the slope with both scales from 0 to 1, without logits
        (Fang, Kornblith and Schmidt, 2023, from memory of their Table 2).
    level : float
        Of the intervals. They are NaN where there are too few models.
    """

    dataset: str
    n_models: int
    scale: Scale
    r: float
    r_interval: Interval
    r_p: float
    rho: float
    rho_interval: Interval
    rho_p: float
    slope: float
    slope_interval: Interval
    intercept: float
    normalised_slope: float
    normalised_slope_interval: Interval
    level: float

    @property
    def is_significant(self) -> bool:
        """Whether the test of r rejects "no correlation" at one minus the level, with the four models that an interval takes."""
        return self.n_models > 3 and self.r_p < 1 - self.level

    @property
    def sentence(self) -> str:
        """The correlation in one sentence."""
        start = f"{self.dataset[:1].upper()}{self.dataset[1:]}, {self.n_models} model{'s' * (self.n_models != 1)}"
        if math.isnan(self.r):
            why = (
                "too few models"
                if self.n_models < 2
                else "all models have the same accuracy, here or on the source task"
            )
            return f"{start}: no correlation can be computed ({why})."
        ends = (
            f"{self.level:.0%} interval {tables.signed(self.r_interval.low)} to {tables.signed(self.r_interval.high)}"
        )
        if self.n_models < 3:
            return f"{start}: any two points lie on a line, which says nothing about a correlation."
        verdict = (
            f"models that are better on the source task are {'better' if self.r > 0 else 'worse'} here, by more than chance"
            if self.is_significant
            else "a correlation is not shown, and, by the width of the interval, not excluded"
        )
        if self.n_models == 3:
            verdict = "three points lie near some line as often as not, so that nothing is shown, whatever p says"
        numbers = f"r = {tables.signed(self.r)} ({ends}, {tables.p_text(self.r_p)}), rho = {tables.signed(self.rho)}"
        return f"{start}: {numbers}: {verdict}."


def correlation(
    source: np.ndarray,
    accuracy: np.ndarray,
    *,
    dataset: str = "",
    plain: tuple[np.ndarray, np.ndarray] | None = None,
    scale: Scale = "logit",
    level: float = 0.95,
    seed: int = 0,
) -> Correlation:
    """Correlate two vectors that are on the scale already.

    Parameters
    ----------
    source, accuracy : numpy.ndarray of shape (m,)
        Per model, on the scale that is named: log odds (`probe.logit`) or scores.
    dataset : str
    plain : pair of numpy.ndarray of shape (m,), optional
        The same as plain scores, for the normalised slope; NaN where None and the scale is not plain.
    scale : {"logit", "plain"}
    level : float
    seed : int
        Of the permutation test of rho.

    Returns
    -------
    Correlation
    """
    x, y = np.asarray(source, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not np.isfinite(x).all() or not np.isfinite(y).all():
        raise BadInput(
            f"Two lists of finite numbers of equal length are needed, but shapes are {x.shape} and {y.shape}."
        )
    n = len(x)
    r = pearson(x, y)
    rho, rho_p = spearman(x, y, seed=seed)
    slope, intercept = fit_line(x, y)
    if plain is None and scale == "plain":
        plain = (x, y)
    flat = lines.NOWHERE if plain is None else lines.slope_interval(*plain, level=level)
    return Correlation(
        dataset=dataset,
        n_models=n,
        scale=scale,
        r=r,
        r_interval=lines.r_interval(r, n, level=level),
        r_p=lines.r_p_value(r, n),
        rho=rho,
        rho_interval=lines.rho_interval(rho, n, level=level),
        rho_p=rho_p,
        slope=slope,
        slope_interval=lines.slope_interval(x, y, level=level),
        intercept=intercept,
        normalised_slope=math.nan if plain is None else fit_line(*plain)[0],
        normalised_slope_interval=flat,
        level=level,
    )


def correlate(
    table: pandas.DataFrame,
    source: Mapping[str, float] | None = None,
    *,
    regime: str | None = None,
    above: float | None = None,
    scale: Scale = "logit",
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Correlation, ...]:
    """Correlate accuracy on the source task with accuracy on every data set, and with the average over data sets.

    Parameters
    ----------
    table : pandas.DataFrame
        See `probe.long_tables`.
    source : mapping of str to float, optional
        Accuracy on the source task by model, in [0, 1]; by default the column ``source``.
    regime : str, optional
        May be left out where the table has one.
    above : float, optional
        Only models with at least this accuracy on the source task: Fang et al. draw a second line for those above 0.70.
    scale : {"logit", "plain"}
        Log odds as Kornblith et al. (2019), Section 3; scores as they are as Fang et al. (2023), whose metrics may be negative.
    level : float
    seed : int

    Returns
    -------
    tuple of Correlation
        One per data set, in the order of the table, and last the one of the mean over data sets (of log odds, where that is
        the scale). With one data set the last says the same as the first.
    """
    data, s = models_of(table, source, regime=regime, above=above)
    x = _on(s, scale)
    y = data.on(scale)
    columns = [
        *zip(data.datasets, y.T, data.accuracy.T, strict=True),
        (AVERAGE, y.mean(axis=1), data.accuracy.mean(axis=1)),
    ]
    return tuple(
        correlation(x, values, dataset=name, plain=(s, flat), scale=scale, level=level, seed=seed)
        for name, values, flat in columns
    )


def models_of(
    table: pandas.DataFrame,
    source: Mapping[str, float] | None = None,
    *,
    regime: str | None = None,
    above: float | None = None,
) -> tuple[Crossed, np.ndarray]:
    """Models × data sets, and accuracy on the source task per model; both of the models above a threshold only."""
    data = crossed(table, regime=regime)
    s = source_of(table, data.models, source)
    if above is None:
        return data, s
    given: Any = above
    if not isinstance(given, numbers.Real) or not 0 <= above <= 1:
        raise BadInput(f"above is {above!r} but accuracies are between 0 and 1.")
    kept = s >= above
    if not kept.any():
        raise BadInput(f"No model has an accuracy of {above:g} or more on the source task; the best has {s.max():.4g}.")
    models = tuple(name for name, is_kept in zip(data.models, kept, strict=True) if is_kept)
    return Crossed(models, data.datasets, data.accuracy[kept], data.n, data.metrics), s[kept]


def correlation_table(correlations: Sequence[Correlation]) -> pandas.DataFrame:
    """One row per correlation, the ends of intervals as ``…_low`` and ``…_high``."""
    import pandas

    rows: list[dict[str, Any]] = []
    for c in several_of(Correlation, correlations, "Correlations of probe.correlate"):
        row: dict[str, Any] = {"dataset": c.dataset, "n_models": c.n_models, "scale": c.scale}
        for name in ("r", "rho", "slope", "normalised_slope"):
            ends = getattr(c, f"{name}_interval")
            row |= {name: getattr(c, name), f"{name}_low": ends.low, f"{name}_high": ends.high}
        rows.append(row | {"r_p": c.r_p, "rho_p": c.rho_p, "level": c.level})
    return pandas.DataFrame(rows)


def rank_correlations(
    table: pandas.DataFrame,
    source: Mapping[str, float] | None = None,
    *,
    regime: str | None = None,
    above: float | None = None,
    scale: Scale = "logit",
    seed: int = 0,
) -> pandas.DataFrame:
    """Ask what predicts a data set better: the source task, or the mean of the other data sets?

    Parameters
    ----------
    table, source, regime, above, scale, seed
        As `correlate`. The scale is the one on which the others are averaged.

    Returns
    -------
    pandas.DataFrame
        Per data set: dataset, n_models, rho_source, p_source, rho_others, p_others (Spearman's, permutation tests),
        p_beyond_source (whether the mean of the others explains variance beyond the source task: t-test in a linear
        regression on both, on the scale).

    Notes
    -----
    Fang, Kornblith and Schmidt (2023), Appendix N.2 and their discussion. Holm's correction over the data sets is
    `probe.holm`.
    """
    import pandas

    data, s = models_of(table, source, regime=regime, above=above)
    if len(data.datasets) < 2:
        raise BadInput("There is one data set only, so that there are no others to correlate it with.")
    x, y = _on(s, scale), data.on(scale)
    rows = []
    for j, name in enumerate(data.datasets):
        others = np.delete(y, j, axis=1).mean(axis=1)
        (rho_source, p_source), (rho_others, p_others) = (spearman(v, y[:, j], seed=seed) for v in (x, others))
        row = {"dataset": name, "n_models": len(x), "rho_source": rho_source, "p_source": p_source}
        row |= {"rho_others": rho_others, "p_others": p_others}
        rows.append(row | {"p_beyond_source": lines.partial_p_value(y[:, j], others, x)})
    return pandas.DataFrame(rows)


def _on(source: np.ndarray, scale: Scale) -> np.ndarray:
    return logit(source) if one_word(scale, ("logit", "plain"), "scale") == "logit" else source
