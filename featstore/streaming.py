"""Reading an array behind a URL: whole chunks, checked, the last few kept."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from featstore.chunks import BadChunk, checked_bytes
from featstore.errors import NotStored
from featstore.reading import StoredArray

__all__ = ["StreamedArray"]

KEPT_BYTES = 64 << 20
"""Chunks kept in memory per array: enough that reading in blocks, whatever their size, fetches every chunk once."""


@dataclass(frozen=True, eq=False)
class StreamedArray(StoredArray):
    """A `StoredArray` whose chunks are fetched. Every one is checked each time: there is no stamp to trust."""

    kept: OrderedDict[int, np.ndarray] = field(default_factory=OrderedDict, repr=False)
    turns: dict[int, Any] = field(default_factory=dict, repr=False)
    lock: Any = field(default_factory=Lock, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "kept": OrderedDict(), "turns": {}, "lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "lock": Lock()})

    def check(self, k: int) -> str | None:
        """See `StoredArray.check`."""
        found = self._fetch(k)
        return found if isinstance(found, str) else None

    def map(self, k: int) -> np.ndarray | None:
        """Return the rows of a chunk that is kept."""
        found = self.kept.get(k)
        return None if found is None else found.reshape(-1, self.grid.row_bytes)

    def read_chunk(self, k: int, out: np.ndarray, first: int = 0) -> None:
        """See `StoredArray.read_chunk`."""
        with self.lock:
            turn = self.turns.setdefault(k, Lock())
        with turn:  # of two threads that want the same chunk one fetches it
            data = self.kept.get(k)
            if data is None:
                found = self._fetch(k)
                if isinstance(found, str):
                    raise self.corrupt(k, found)
                data = found
                self._keep(k, data)
        start = first * self.grid.row_bytes
        out[...] = data[start : start + out.nbytes]

    def _keep(self, k: int, data: np.ndarray) -> None:
        with self.lock:
            self.kept[k] = data
            while len(self.kept) > max(KEPT_BYTES // self.grid.chunk_bytes, 2):
                self.kept.popitem(last=False)

    def _fetch(self, k: int) -> np.ndarray | str:
        """Return the bytes of a chunk, or what is wrong with them."""
        path = self.folder / self.grid.name(k)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return f"its file {path.name} is missing"
        except NotStored as error:
            return f"its file {path.name} could not be fetched ({error})"
        try:
            return checked_bytes(raw, path.name, self.grid, self.crcs[k])
        except BadChunk as bad:
            return str(bad)
