"""Domain shifts: pure functions of a decoded image and its id, with a name and parameters that are part of the
identity.

``digits:test+blur(1.0)+rotate(30)`` applies them in that order. What is random is drawn from a hash of the seed and
the sample's id: the same for the same image on every machine, whatever the order of the samples. Nested, stratified
subsets of a shifted split are ``#per_class(k,seed=…)`` and ``#held(share,seed=…)``: of one seed, the smaller is part of
the larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from featstore.datasets.shift_base import DomainShift
from featstore.datasets.shift_geometry import affine, fixed_affine, kaleido, rotate, stretch, turn
from featstore.datasets.shift_values import bgr, blend, blur, grey, hsv, invert, kernel_blur, noise, occlude, yuv
from featstore.errors import BadInput, UnknownName

__all__ = [
    "SHIFTS",
    "DomainShift",
    "affine",
    "bgr",
    "blend",
    "blur",
    "fixed_affine",
    "grey",
    "hsv",
    "invert",
    "kaleido",
    "kernel_blur",
    "make_shift",
    "noise",
    "occlude",
    "rotate",
    "stretch",
    "turn",
    "yuv",
]

_ALL = (
    affine, bgr, blend, blur, fixed_affine, grey, hsv, invert, kaleido, kernel_blur, noise, occlude, rotate, stretch, turn, yuv,
)  # fmt: skip
SHIFTS: Mapping[str, Callable[..., DomainShift]] = {function.__name__: function for function in _ALL}


def make_shift(name: str, arguments: str) -> DomainShift:
    """Return the shift that a user typed as ``name(arguments)``.

    Raises
    ------
    UnknownName
        If there is no such shift.
    BadInput
        If the arguments are not those that it takes.
    """
    if name not in SHIFTS:
        raise UnknownName("domain shift", name, SHIFTS)
    given = [a.strip() for a in arguments.split(",")] if arguments.strip() else []
    try:
        first = given[:1] if SHIFTS[name] is blend else []  # a folder, the only argument that is no number
        numbers = [float(a) for a in given[len(first) :]]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("its numbers must be finite")
        return SHIFTS[name](*first, *numbers)
    except BadInput:
        raise
    except (ValueError, TypeError) as error:
        raise BadInput(f"the shift '{name}({arguments})' cannot be made: {error}.") from error
