"""Images in memory that write down who has read them, for tests with several processes."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import featstore


@dataclass(frozen=True)
class LoggedSamples:
    """Every reading appends the number of the process and the row to a file; it takes `pause_s`."""

    images: np.ndarray
    log: Path
    pause_s: float = 0.0

    def __len__(self) -> int:
        return len(self.images)

    def read(self, i: int) -> np.ndarray:
        time.sleep(self.pause_s)
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {i}\n")
        image: np.ndarray = self.images[i]
        return image

    def describe(self, i: int) -> str:
        return f"picture {i}"

    def stat(self, i: int) -> None:
        return None


def logged_split(n: int, log: Path, name: str = "pictures", *, size: int = 8, pause_s: float = 0.0) -> featstore.Split:
    """n random pictures, in three classes."""
    images = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    ids = np.array([f"{i:05d}" for i in range(n)])
    return featstore.Split(name, ids, np.arange(n) % 3, ("a", "b", "c"), LoggedSamples(images, log, pause_s))


def readings(log: Path, *but: int) -> Counter[int]:
    """How often every row was read by processes other than `but`."""
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return Counter(int(row) for pid, row in lines if int(pid) not in but)
