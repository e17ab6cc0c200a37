"""What papers and libraries mean by C, λ and α, and the way from one to the other.

Conventions
-----------
Every one of them minimises, with the intercept free,

    R(loss_1 … loss_n)  +  s · h · ‖W‖²,

where R is the sum or the mean over the rows, h is ½ or 1, and the number that people report is either the strength s = λ or
its inverse C = 1 / s. Multiplied by n where R is the mean, this is Σ loss + ‖W‖² / (2 C') with one C', scikit-learn's and ours:

    ========  ===========  ============
    R         with ½       without
    ========  ===========  ============
    sum       C' = 1 / s   C' = 1 / 2s
    mean      C' = 1 / sn  C' = 1 / 2sn
    ========  ===========  ============

With a mean, the same number means another penalty on a refit with more rows; with a sum it does not.

With sample weights, n is what the mean is divided by: the number of rows, or the sum of the weights, as its code has it.

Not every objective can be translated: one that penalises the intercept (liblinear), or the norm itself and not its square
(mean loss + ‖W‖ / 2C), has other optima than ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import overload

import numpy as np

from probe.errors import BadInput
from probe.labels import numbers


class Reduction(Enum):
    """How the losses of the rows become one number."""

    SUM = "sum"
    MEAN = "mean"


class Parameter(Enum):
    """Which number is reported: the strength of the penalty, or its inverse."""

    STRENGTH = "strength"
    INVERSE = "inverse"


@dataclass(frozen=True)
class Convention:
    """What one paper or library means by its penalty.

    Attributes
    ----------
    name : str
    parameter : Parameter
        ``INVERSE`` for a C, ``STRENGTH`` for a λ or α.
    reduction : Reduction
        Of the losses.
    half : bool
        Whether the penalty is ``½ ‖W‖²`` and not ``‖W‖²``.
    source : str
        Where this is written, and the objective in its own words.
    """

    name: str
    parameter: Parameter
    reduction: Reduction
    half: bool
    source: str = ""

    def __str__(self) -> str:
        loss = "mean loss" if self.reduction is Reduction.MEAN else "Σ loss"
        strength = "λ" if self.parameter is Parameter.STRENGTH else "(1/C)"
        return f"{self.name}: {loss} + {strength}{' · ½' if self.half else ' · '}‖W‖²"


SCIKIT_LEARN = Convention(
    "scikit-learn", Parameter.INVERSE, Reduction.SUM, True,
    "sklearn.linear_model.LogisticRegression: C Σ loss + ½‖W‖²; the convention of this package",
)  # fmt: skip
CUML = Convention(
    "cuML", Parameter.INVERSE, Reduction.SUM, True,
    "cuml.linear_model.LogisticRegression: mean loss + ½ (1 / C n) ‖W‖², for its solver divides the penalty by n too "
    "(penalty_normalized=True): scikit-learn's C",
)  # fmt: skip
CUML_QN = Convention(
    "cuML QN", Parameter.STRENGTH, Reduction.SUM, True,
    "cuml.solvers.QN(l2_strength=λ), penalty_normalized=True, the default: mean loss + ½ (λ / n) ‖W‖²",
)  # fmt: skip
CUML_QN_AS_GIVEN = Convention(
    "cuML QN, penalty as given", Parameter.STRENGTH, Reduction.MEAN, True,
    "cuml.solvers.QN(l2_strength=λ, penalty_normalized=False): mean loss + ½ λ ‖W‖²",
)  # fmt: skip
LINEAR_EVAL = Convention(
    "Kornblith's linear_eval", Parameter.STRENGTH, Reduction.SUM, False,
    "linear_eval.py (Kornblith 2021): Σ loss + λ Σ W², no ½, bias not penalised",
)  # fmt: skip
SSL_TRANSFER = Convention(
    "ssl-transfer", Parameter.STRENGTH, Reduction.SUM, True,
    "ssl-transfer, linear.py (Ericsson et al. 2021): scikit-learn with C = 1 / λ, λ in torch.logspace(-6, 5, 45)",
)  # fmt: skip
DINOV2 = Convention(
    "DINOv2", Parameter.INVERSE, Reduction.SUM, True,
    "dinov2/eval/log_regression.py: cuML's LogisticRegression, C in 10 ** linspace(-6, 5, 45)",
)  # fmt: skip
WEIGHT_DECAY = Convention(
    "weight decay", Parameter.STRENGTH, Reduction.MEAN, True,
    "torch.optim.SGD(weight_decay=λ) on a mean loss adds λW to the gradient: mean loss + ½ λ ‖W‖²",
)  # fmt: skip
LIBLINEAR_SVM = Convention(
    "liblinear's SVM", Parameter.INVERSE, Reduction.SUM, True,
    "sklearn.svm.LinearSVC, liblinear -s 1 and 2: C Σ max(0, 1 − m)² + ½‖W‖², the C of probe.svm_path; but it penalises the "
    "intercept too, see probe.svm",
)  # fmt: skip
RIDGE = Convention(
    "ridge", Parameter.STRENGTH, Reduction.SUM, True,
    "sklearn.linear_model.RidgeClassifier: Σ (z − t)² + α‖W‖², which is twice Σ ½ (z − t)² + ½ α‖W‖²: α = 1 / C of "
    "probe.ridge_path",
)  # fmt: skip

ALL: tuple[Convention, ...] = (
    SCIKIT_LEARN, CUML, CUML_QN, CUML_QN_AS_GIVEN, LINEAR_EVAL, SSL_TRANSFER, DINOV2, WEIGHT_DECAY, LIBLINEAR_SVM, RIDGE,
)  # fmt: skip
"""Every convention that has a name here."""


@overload
def convert(value: float, of: Convention, to: Convention = ..., *, n: float | None = ...) -> float: ...


@overload
def convert(
    value: np.ndarray | Sequence[float], of: Convention, to: Convention = ..., *, n: float | None = ...
) -> np.ndarray: ...


def convert(
    value: float | np.ndarray | Sequence[float],
    of: Convention,
    to: Convention = SCIKIT_LEARN,
    *,
    n: float | None = None,
) -> float | np.ndarray:
    """Translate penalties from one convention to another, such that the optimum stays the same.

    Parameters
    ----------
    value : float or array-like of shape (b,)
        Positive and finite, in the convention `of`.
    of, to : Convention
        Default of `to`: scikit-learn's C, which every function of this package takes.
    n : float, optional
        What the mean is divided by: the number of training rows, or the sum of their weights. Needed where one of the two
        conventions has a mean and the other a sum.

    Returns
    -------
    float or numpy.ndarray of shape (b,)
        In the same order; where one convention has C and the other λ, an ascending grid comes out descending.

    Raises
    ------
    BadInput
        Values that are not positive and finite, `n` missing, or what is no convention.

    Examples
    --------
    >>> from probe import conventions
    >>> conventions.convert(0.5, conventions.LINEAR_EVAL)
    1.0
    >>> conventions.convert(0.001, conventions.WEIGHT_DECAY, n=1000)
    1.0
    """
    conventions: tuple[object, object] = (of, to)
    for given in conventions:
        if not isinstance(given, Convention):
            known = ", ".join(name for name, one in globals().items() if isinstance(one, Convention))
            raise BadInput(
                f"A convention is one of probe.conventions ({known}) or a Convention of your own, not {given!r}."
            )
    values = numbers(value, "A penalty")
    bad = values[~(np.isfinite(values) & (values > 0))]
    if bad.size:
        raise BadInput(
            f"Penalties must be positive and finite, but {bad.size} of {values.size} are not (first {float(bad.flat[0])!r}); "
            f"they cannot be translated from {of.name} to {to.name}."
        )
    found = values if of == to else _reported(_strength(values, of, to, n), to)
    return float(found) if values.ndim == 0 else found


def _strength(values: np.ndarray, of: Convention, to: Convention, n: float | None) -> np.ndarray:
    """What multiplies ½‖W‖² when the losses are reduced as in `to`."""
    strength = values if of.parameter is Parameter.STRENGTH else 1.0 / values
    if not of.half:
        strength = 2.0 * strength
    if of.reduction is to.reduction:
        return strength
    if n is None:
        raise BadInput(
            f"{of.name} has the {of.reduction.value} of the losses and {to.name} the {to.reduction.value}, so the same penalty "
            "is another number for another number of rows; pass n, the number of training rows."
        )
    if not (np.isfinite(n) and n > 0):
        raise BadInput(f"n is {n}, but the number of training rows (or the sum of their weights) must be positive.")
    return strength * n if of.reduction is Reduction.MEAN else strength / n


def _reported(strength: np.ndarray, to: Convention) -> np.ndarray:
    if not to.half:
        strength = strength / 2.0
    found: np.ndarray = strength if to.parameter is Parameter.STRENGTH else 1.0 / strength
    return found
