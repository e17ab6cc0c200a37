"""Many models: does accuracy on the source task predict accuracy on others, and how sure can so many models make us?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probe import lines, tables
from probe.errors import BadInput
from probe.intervals import Interval, z_value
from probe.lines import bootstrap_band, fit_line
from probe.logits import logit
from probe.long_tables import Crossed, Scale, crossed, source_of
from probe.rank_tests import pearson, spearman

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
        """Whether the test of r rejects "no correlation" at one minus the level."""
        return self.r_p < 1 - self.level

    @property
    def sentence(self) -> str:
        """The correlation in one sentence."""
        start = f"{self.dataset[:1].upper()}{self.dataset[1:]}, {self.n_models} models"
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
        numbers = (
            f"r = {tables.signed(self.r)} ({ends}, p = {tables.p_value(self.r_p)}), rho = {tables.signed(self.rho)}"
        )
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
    if not 0 <= above <= 1:
        raise BadInput(f"above is {above:g} but accuracies are between 0 and 1.")
    kept = s >= above
    if not kept.any():
        raise BadInput(f"No model has an accuracy of {above:g} or more on the source task; the best has {s.max():.4g}.")
    models = tuple(name for name, is_kept in zip(data.models, kept, strict=True) if is_kept)
    return Crossed(models, data.datasets, data.accuracy[kept], data.n, data.metrics), s[kept]


def correlation_table(correlations: Sequence[Correlation]) -> pandas.DataFrame:
    """One row per correlation, the ends of intervals as ``…_low`` and ``…_high``."""
    import pandas

    rows: list[dict[str, Any]] = []
    for c in correlations:
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


def smallest_significant_r(n_models: int, *, level: float = 0.95) -> float:
    """The smallest \\|r\\| that is told from no correlation; 1 where there are fewer than three models."""
    from scipy.special import stdtrit

    z_value(level)
    if n_models < 3:
        return 1.0
    critical = float(stdtrit(n_models - 2, 0.5 + level / 2))
    return critical / math.sqrt(n_models - 2 + critical * critical)


def power_of(r: float, n_models: int, *, level: float = 0.95) -> float:
    """Probability that so many models, drawn from a normal distribution with correlation r, show that there is one.

    Parameters
    ----------
    r : float
        Not 0, between -1 and 1.
    n_models : int
    level : float
        Significance is 1 - level, two-sided.

    Returns
    -------
    float

    Notes
    -----
    Given x, Student's t of the slope has a non-central distribution, whose centre is r / sqrt(1 - r²) times the root of the sum
    of squares of x; that sum is χ² with n - 1 degrees of freedom, and is averaged over at 100 of its quantiles.
    """
    from scipy.special import gammaincinv, nctdtr, stdtrit

    if not 0 < abs(r) < 1:
        raise BadInput(f"A correlation between 0 and 1 is needed, but it is {r:g}.")
    z_value(level)
    if n_models < 3:
        return 0.0
    critical = float(stdtrit(n_models - 2, 0.5 + level / 2))
    squares = 2 * gammaincinv((n_models - 1) / 2, (np.arange(100) + 0.5) / 100)
    centre = abs(r) / math.sqrt(1 - r * r) * np.sqrt(squares)
    return float(np.mean(1 - nctdtr(n_models - 2, centre, critical)))


def models_needed(r: float, *, power: float = 0.8, level: float = 0.95) -> int:
    """How many models show a true correlation r with the probability `power`: see `power_of`."""
    if not 0 < power < 1:
        raise BadInput(f"A probability between 0 and 1 is needed, but it is {power:g}.")
    low, high = 2, 4
    while power_of(r, high, level=level) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if power_of(r, middle, level=level) < power else (low, middle)
    return high


def what_few_models_show(n_models: int, *, level: float = 0.95) -> str:
    """Say in words what a correlation over so many models can show and what it cannot.

    Parameters
    ----------
    n_models : int
    level : float

    Returns
    -------
    str
        A few sentences.
    """
    alpha = 1 - level
    if n_models < 3:
        return (
            f"With {n_models} model{'s' * (n_models != 1)} nothing can be said about a correlation: any two points lie on a "
            f"line. A true correlation of 0.8 needs {models_needed(0.8, level=level)} models to be seen in 8 of 10 studies."
        )
    least = smallest_significant_r(n_models, level=level)
    sentences = [
        f"With {n_models} models, |r| must exceed {least:.2f} to be told from no correlation (p < {alpha:.2g})."
    ]
    weak = [r for r in (0.9, 0.8, 0.55, 0.3) if power_of(r, n_models, level=level) < 0.8]
    if weak:
        (first, *rest) = [f"{r:g} would be seen in {100 * power_of(r, n_models, level=level):.0f}" for r in weak]
        chances = ", ".join([first, *(text.replace("would be seen ", "") for text in rest)])
        needed = ", ".join(f"{models_needed(r, level=level)} for {r:g}" for r in weak)
        sentences.append(
            f"Of 100 such studies, a true correlation of {chances}; for 80 of 100 it takes more models: {needed}."
        )
    if n_models < 20:
        sentences.append("That no correlation is seen here does not mean that there is none.")
    sentences.append(
        "Models of one family, or trained by one recipe, are not independent, so that all intervals are, if anything, too "
        "narrow."
    )
    return " ".join(sentences)


def _on(source: np.ndarray, scale: Scale) -> np.ndarray:
    return logit(source) if scale == "logit" else source
