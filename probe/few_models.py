"""What a correlation over few models can show, and what it cannot: thresholds, power, and the same in words."""

from __future__ import annotations

import math

import numpy as np

from probe import tables
from probe.errors import BadInput
from probe.intervals import z_value
from probe.reals import count


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
    z_value(level)
    n_models, alpha = count(n_models, "The number of models"), 1 - level
    if n_models < 3:
        return (
            f"With {n_models} model{'s' * (n_models != 1)} nothing can be said about a correlation: any two points lie on a "
            f"line. A true correlation of 0.8 needs {models_needed(0.8, level=level)} models to be seen in 8 of 10 studies."
        )
    least = smallest_significant_r(n_models, level=level)
    sentences = [
        f"With {n_models} models, |r| must exceed {tables.signed(least)} to be told from no correlation (p < {alpha:.2g})."
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
