"""Whether a device is there, before anything is put on it, and whether an error says that it is full."""

from __future__ import annotations


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
    if where.type != "cuda":
        return []
    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (where.index or 0) >= n:
        return [
            f"device is {device!r} and torch sees {n} CUDA devices; say 'cpu', or look at the driver and torch's build."
        ]
    return []


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or a device ran out of memory: torch has an error of its own for its own blocks, and a RuntimeError for
    what CUDA and its libraries could not take."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("out of memory", "_STATUS_ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(said in str(error) for said in words)
