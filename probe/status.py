"""How a fit ended: four words, each with its sentence."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """How a fit ended. The certificate (``grad_norm``, ``gap``) is reported whatever the status.

    See Also
    --------
    probe.certificate.meets : the rule behind CONVERGED.
    """

    CONVERGED = "converged"
    MAX_ITER = "max_iter"
    PRECISION = "precision"
    FAILED = "failed"

    @property
    def sentence(self) -> str:
        """What the status means, in words."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.CONVERGED: "The float64 certificate at the returned point meets the tolerance.",
    Status.MAX_ITER: "The iterations ran out before the certificate met the tolerance; raise max_iter or tol.",
    Status.PRECISION: "Rounding, in float64 unless `precision` says otherwise, keeps the certificate above the tolerance; scale "
    "the features or raise tol.",
    Status.FAILED: "The objective is not finite at the returned point; check the scale of the features.",
}


def ending(is_met: bool, is_finite: bool, is_exhausted: bool) -> Status:
    """How a fit ended.

    Parameters
    ----------
    is_met : bool
        Whether its certificate meets the tolerance.
    is_finite : bool
        Whether its objective is a number.
    is_exhausted : bool
        Whether the iterations ran out.

    Returns
    -------
    Status
    """
    if is_met:
        return Status.CONVERGED
    if not is_finite:
        return Status.FAILED
    return Status.MAX_ITER if is_exhausted else Status.PRECISION
