"""Whether a device is there, before anything is put on it; whether it was its memory that did not suffice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from finetune.errors import OutOfMemory

_OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "_STATUS_ALLOC_FAILED", "can't start new thread")


def device_named(device: Any) -> Any:
    """The name of a torch.device; anything else as it is."""
    import torch

    return str(device) if isinstance(device, torch.device) else device


def device_problems(device: str) -> list[str]:
    """What keeps torch from using a device, a sentence each; empty where it can.

    Parameters
    ----------
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"`` …
    """
    import torch

    try:
        where = torch.device(device)
    except (RuntimeError, TypeError) as error:
        return [f"device is {device!r}, which torch does not know ({str(error).splitlines()[0]}); say 'cpu' or 'cuda'."]
    if where.type == "cpu":
        return []
    if where.type != "cuda":
        try:
            torch.zeros(1, device=where).cpu()
        except (RuntimeError, NotImplementedError, AssertionError) as error:
            return [
                f"device is {device!r}, which torch cannot use here ({str(error).splitlines()[0]}); say 'cpu' or 'cuda'."
            ]
        return []
    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (where.index or 0) >= n:
        return [
            f"device is {device!r} and torch sees {n} CUDA devices; say 'cpu', or look at the driver and torch's build."
        ]
    return []


@contextlib.contextmanager
def memory_errors_explained(what: str, advice: str) -> Iterator[None]:
    """Turn what numpy and torch raise when memory runs out into one `OutOfMemory`.

    Parameters
    ----------
    what : str
        For what it did not suffice, as the subject of a sentence: ``"the memory of cpu did not suffice for …"``.
    advice : str
        Sentences that say what to lower.

    Raises
    ------
    OutOfMemory
        From the library's own error. Other errors pass through.
    """
    import torch

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # for CPU memory, and for what CUDA and its libraries cannot take, torch has no class of its own
        is_known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_known and not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        raise OutOfMemory(f"{what}: {error}. {advice}") from error
