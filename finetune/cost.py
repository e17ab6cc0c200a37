"""What a flex-tuning cost: epochs, seconds and unit-passes by phase, beside Table 1 of Royer and Lampert (2020).

A unit-pass is one unit run forward, or backward, for one image. Training unit ℓ of L from images takes L forward and
L − ℓ + 1 backward passes per image; fed with the stored input of ℓ, L − ℓ + 1 of each. Passes that follow from one
cheap unit and from one expensive one count the same, so seconds stand beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

PHASES = ("inputs", "units", "others", "all", "selection", "test")
"""Storing inputs; training single units; other candidates; ft-all; proxies and other criteria; the test split."""


@dataclass(frozen=True)
class Spent:
    """What one phase took.

    Attributes
    ----------
    seconds : float
        Interruptions left out.
    epochs : float
        Of training, over all candidates of the phase.
    unit_passes : int
        See the module.
    n_trainings : int
        Networks that were trained.
    """

    seconds: float = 0.0
    epochs: float = 0.0
    unit_passes: int = 0
    n_trainings: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.seconds + other.seconds,
            self.epochs + other.epochs,
            self.unit_passes + other.unit_passes,
            self.n_trainings + other.n_trainings,
        )


@dataclass(frozen=True)
class Cost:
    """What a flex-tuning took, by phase.

    Attributes
    ----------
    phases : mapping of str to Spent
        By the names in `PHASES`.
    stored_bytes : int
        Of the inputs that were stored for candidates.
    formulas : mapping of str to (float or None)
        Table 1 in seconds, evaluated with what was measured: L units, E_one and E_all mean epochs, c_one and c_all
        seconds of one. None where a training that it needs did not run.
    measured : mapping of str to (float or None)
        L, E_one, c_one, E_all, c_all.
    """

    phases: Mapping[str, Spent]
    stored_bytes: int
    formulas: Mapping[str, float | None]
    measured: Mapping[str, float | None]

    @property
    def total(self) -> Spent:
        """Over all phases."""
        return sum(self.phases.values(), Spent())

    def to_json(self) -> dict[str, Any]:
        """As plain numbers and dictionaries."""
        return {
            "phases": {name: asdict(spent) for name, spent in self.phases.items()},
            "stored_bytes": self.stored_bytes,
            "formulas": dict(self.formulas),
            "measured": dict(self.measured),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Cost:
        """What `to_json` gave."""
        phases = {name: Spent(**spent) for name, spent in found["phases"].items()}
        return cls(phases, found["stored_bytes"], found["formulas"], found["measured"])


def cost_of(n_units: int, phases: Mapping[str, Spent], stored_bytes: int, *, all_is_one_epoch: bool = False) -> Cost:
    """The cost of the phases, with Table 1.

    Parameters
    ----------
    n_units : int
        L: candidates that are single units; 0 where that is not known, since nothing was chosen.
    phases : mapping of str to Spent
        What each took; E_one and c_one are means over ``"units"``.
    stored_bytes : int
        See `Cost`.
    all_is_one_epoch : bool
        Whether ft-all was trained for one epoch only, so that nothing is known of E_all.
    """
    one, whole = phases.get("units", Spent()), phases.get("all", Spent())
    measured: dict[str, float | None] = {"L": float(n_units) if n_units else None}
    measured |= {"E_one": _ratio(one.epochs, one.n_trainings), "c_one": _ratio(one.seconds, one.epochs)}
    measured |= {"E_all": None if all_is_one_epoch else _ratio(whole.epochs, whole.n_trainings)}
    measured |= {"c_all": _ratio(whole.seconds, whole.epochs)}
    return Cost(phases, stored_bytes, table1(**measured), measured)


def table1(
    *, L: float | None, E_one: float | None, c_one: float | None, E_all: float | None, c_all: float | None
) -> dict[str, float | None]:
    """Runtime of each method as Table 1 gives it; None where a quantity is not known.

    Parameters
    ----------
    L, E_one, c_one, E_all, c_all : float or None
        Units; epochs of one training and cost of one epoch, for a single unit and for all.

    Examples
    --------
    >>> table1(L=7, E_one=10, c_one=2, E_all=20, c_all=3)
    {'flex': 200, 'fast': 80, 'faster': 23, 'ft-fc': 20, 'ft-all': 60}
    """
    one, whole = _product(E_one, c_one), _product(E_all, c_all)
    return {
        "flex": _sum(_product(L, one), whole),
        "fast": _sum(one, whole),
        "faster": _sum(one, c_all),
        "ft-fc": one,
        "ft-all": whole,
    }


def training_passes(
    *, n_images: int, n_forward: int, n_backward: int, epochs: float, n_val: int, n_evaluations: int
) -> int:
    """Unit-passes of a training and its evaluations.

    Parameters
    ----------
    n_images : int
        Of train.
    n_forward, n_backward : int
        Units that an image passes.
    epochs : float
        Done.
    n_val : int
        Images of val.
    n_evaluations : int
        Passes over val.
    """
    return round(epochs * n_images * (n_forward + n_backward) + n_val * n_evaluations * n_forward)


def _ratio(a: float, b: float) -> float | None:
    return a / b if b else None


def _product(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a * b


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
