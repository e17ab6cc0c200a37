"""The trainings that choose nothing and stand beside flex-tuning in Table 3 of Royer and Lampert (2020).

They train what is there anyhow: ft-fc (1) is the candidate of the head, ft-all that of the whole network, ft-fc (2) the
last two units as a pair, so that they are fed with stored inputs and shared with the methods that choose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from finetune.algorithms import ALL
from finetune.candidates import Candidate
from finetune.errors import BadInput
from finetune.networks import last_units
from finetune.regimes import tune_scale_shift
from finetune.scale_shift import has_convolutions

if TYPE_CHECKING:
    from finetune.networks import TargetNetwork

Baseline: TypeAlias = Literal["ft-fc (1)", "ft-fc (2)", "ft-ss", "ft-all"]

SCALE_SHIFT = "scale-shift"
"""Name of the candidate that ft-ss trains."""


def baseline_candidate(name: str, network: TargetNetwork) -> Candidate:
    """What a baseline trains, as a candidate of flex-tuning.

    Parameters
    ----------
    name : str
        Of `Baseline`.
    network : TargetNetwork
        Whose units they are.

    Raises
    ------
    BadInput
        The network has no such part; see `problem_with`.
    """
    problem = problem_with(name, network)
    if problem is not None:
        raise BadInput(problem)
    if name == "ft-ss":
        return Candidate(SCALE_SHIFT, (), tune_scale_shift)
    if name == "ft-all":
        return Candidate(ALL, network.units)
    units = last_units(network, 1 if name == "ft-fc (1)" else 2)
    return Candidate("+".join(units), units)


def problem_with(name: str, network: TargetNetwork) -> str | None:
    """Why a network cannot be trained in this way, as a sentence; None where it can."""
    model = network.backbone.name
    if name == "ft-ss" and not has_convolutions(network.module):
        return f"ft-ss scales and shifts two-dimensional convolutions, and {model} has none."
    having = [unit for unit in network.units if unit == "head" or network.chain.tensors[unit]]
    if name == "ft-fc (2)" and len(having) < 2:
        return f"ft-fc (2) trains the last two units with parameters, and {model} has only {', '.join(having)}."
    return None
