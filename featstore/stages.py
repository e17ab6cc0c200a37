"""How long each stage of an extraction took, and which one the others waited for.

Stages run side by side: threads decode while a network runs and other threads write. So what counts is how long a stage was
*busy*, divided by how many do it at a time: the seconds that the stage would take if all others cost nothing. The one with the most
is the bottleneck; on one CPU, where all share the cores, the seconds add up to the whole.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from threading import Lock
from typing import Any, Protocol

__all__ = ["STAGES", "Clock", "Report", "Stages"]

STAGES = ("read and decode", "preprocess", "copy in", "forward", "pool", "copy back", "write")
"""In the order in which an image goes through them. Dividing by 255 and the mean belongs to the forward pass: it is done on its
device."""


class Clock(Protocol):
    """Measures the block of a ``with`` statement as part of a stage; what lies inside another stage's block is no part of that."""

    def __call__(self, stage: str, inside: str | None = None) -> AbstractContextManager[None]: ...


class Stages:
    """Adds up what stages take; may be told from several threads."""

    def __init__(self) -> None:
        self._busy = dict.fromkeys(STAGES, 0.0)
        self._at_a_time = dict.fromkeys(STAGES, 1)
        self._lock = Lock()
        self.waiting_s = 0.0

    def add(self, stage: str, seconds: float, inside: str | None = None) -> None:
        """Add to what a stage took, and take it from the stage that it lay inside of."""
        with self._lock:
            self._busy[stage] += seconds
            if inside is not None:
                self._busy[inside] -= seconds

    def shared_by(self, n: int, *stages: str) -> None:
        """Say how many threads or processes do a stage at a time."""
        for stage in stages:
            self._at_a_time[stage] = n

    @contextmanager
    def timed(self, stage: str, inside: str | None = None) -> Iterator[None]:
        """Measure a block by the clock on the wall; a `Clock`."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - begun, inside)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure a block in which the network has no batch to work on."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.waiting_s += time.perf_counter() - begun

    @property
    def seconds(self) -> dict[str, float]:
        """Stage -> seconds that it was busy, divided by how many do it at a time."""
        with self._lock:
            return {stage: busy / self._at_a_time[stage] for stage, busy in self._busy.items()}


@dataclass(frozen=True)
class Report:
    """What one split's extraction took.

    Attributes
    ----------
    split : str
    n_images : int
        That were computed; what was stored before is not among them.
    seconds : float
        From the first image to the last chunk.
    stages : mapping
        Stage -> seconds that it was busy; see `featstore.stages`. Empty where a cluster computed.
    waiting : float
        Seconds in which the network had no batch to work on.
    flops_per_image : float or None
        Multiplications and additions of the forward pass, two per pair, up to the last wanted unit, for one image; counted where
        the engine's `roofline` asks for it.
    peak_flops : float or None
        Per second, as measured on the device by products of large matrices in the same arithmetic; likewise.
    """

    split: str
    n_images: int
    seconds: float
    stages: Mapping[str, float]
    waiting: float = 0.0
    flops_per_image: float | None = None
    peak_flops: float | None = None

    @property
    def bottleneck(self) -> str | None:
        """The stage that was busy longest."""
        return max(self.stages, key=lambda stage: self.stages[stage]) if any(self.stages.values()) else None

    @property
    def images_per_second(self) -> float:
        return self.n_images / max(self.seconds, 1e-9)

    @property
    def share_of_peak(self) -> float | None:
        """Floating-point operations of the forward passes, as a share of what the device could have done in the whole time."""
        if self.flops_per_image is None or self.peak_flops is None:
            return None
        return self.flops_per_image * self.images_per_second / self.peak_flops

    def to_json(self) -> dict[str, Any]:
        """Return everything, what is derived included."""
        derived = ("bottleneck", "images_per_second", "share_of_peak")
        return {**asdict(self), "stages": dict(self.stages), **{name: getattr(self, name) for name in derived}}

    def __str__(self) -> str:
        text = (
            f"'{self.split}': {self.n_images:,} images in {self.seconds:.1f} s, {self.images_per_second:,.0f} images/s"
        )
        if self.bottleneck is not None:
            text += (
                f"; longest: {self.bottleneck}, {100 * self.stages[self.bottleneck] / max(self.seconds, 1e-9):.0f} %"
            )
        if self.share_of_peak is not None:
            text += f"; {100 * self.share_of_peak:.0f} % of the device's peak FLOP/s"
        return text
