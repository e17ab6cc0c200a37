"""Where and in which arithmetic the network runs: exactly what was asked for, and everything put back afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from featstore.errors import BadInput, UnknownName

if TYPE_CHECKING:
    import torch

    from featstore.units import Chain

__all__ = [
    "PRECISIONS",
    "arithmetic",
    "base_precision",
    "checked_device",
    "device_name",
    "is_deterministic",
    "keyed_precision",
    "memory_errors",
    "named_device",
    "on_device",
    "repeatable",
]

PRECISIONS = ("fp32", "tf32", "amp-fp16", "amp-bf16")
DETERMINISTIC = "-deterministic"
OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "_STATUS_ALLOC_FAILED")
"""What torch, CUDA and its libraries say, as a RuntimeError, where memory ends."""


def keyed_precision(precision: str, deterministic: bool) -> str:
    """Return what the identity of a pass says of its arithmetic: ``"fp32"``, ``"fp32-deterministic"``."""
    return precision + DETERMINISTIC if deterministic else precision


def base_precision(keyed: str) -> str:
    """Return the one of `PRECISIONS` in what an identity says."""
    return keyed.removesuffix(DETERMINISTIC)


def is_deterministic(keyed: str) -> bool:
    """Return whether an identity says that every image went through the network alone."""
    return keyed.endswith(DETERMINISTIC)


def named_device(device: str | torch.device) -> torch.device:
    """Return the device of a name, whether it is there or not."""
    import torch

    try:
        return torch.device(device)
    except RuntimeError as error:
        raise BadInput(f"'{device}' is no device; write 'cpu', 'cuda', 'cuda:1', 'mps'.") from error


def checked_device(device: str | torch.device) -> torch.device:
    """Return a device that is there; none is ever put in the place of another.

    Raises
    ------
    BadInput
        If torch does not have it.
    """
    import torch

    found = named_device(device)
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (found.index or 0) >= there.get(found.type, 0):
        names = [f"{kind}:{i}" if kind == "cuda" else kind for kind, n in there.items() for i in range(n)]
        raise BadInput(
            f"the device '{device}' is not there: torch {torch.__version__} sees {', '.join(names)}. Ask for one of "
            "these; another is not taken silently, for its numbers and its speed differ."
        )
    return found


def device_name(device: torch.device) -> str:
    """Return what a device is, for people: ``"cpu"``, ``"NVIDIA H100 80GB HBM3"``."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in one of `PRECISIONS` and in nothing else, whatever the process is set to.

    Raises
    ------
    UnknownName, BadInput
        If there is no such precision, or not on this device.
    """
    import torch

    if precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS)
    if precision == "tf32" and device.type != "cuda":
        raise BadInput(f"precision 'tf32' exists on CUDA devices only, and the device is '{device}'; use 'fp32'.")
    halves = {"amp-fp16": torch.float16, "amp-bf16": torch.bfloat16}
    half = halves.get(precision)
    cast = torch.autocast(device.type, dtype=half) if half is not None else nullcontext()
    with _products("tf32" if precision == "tf32" else "ieee"), cast:
        yield


@contextmanager
def _products(kind: str) -> Iterator[None]:
    """Have products and convolutions of float32 in ``"ieee"`` or ``"tf32"``, on a CPU in ``"ieee"``, whatever is set, and put
    everything back.

    torch has old switches, for all at once, and since 2.9 new ones for each operation. Who has used the new ones cannot read
    the old; who has used the old may have the new ones contradict them. So both are set, the old where they can be.
    """
    import torch

    backends: Any = torch.backends
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is renaming these switches
        on_cpu = getattr(backends, "mkldnn", None)
        all_switches: list[tuple[Any, str]] = [
            (getattr(owner, name, None), value)
            for owner, value in ((backends.cuda, kind), (backends.cudnn, kind), (on_cpu, "ieee"))
            for name in ("matmul", "conv", "rnn")
        ]
        new = [(switch, value) for switch, value in all_switches if hasattr(switch, "fp32_precision")]
        was = [switch.fp32_precision for switch, _ in new]
        try:
            old = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
        except RuntimeError:  # the new switches have been used
            old = None
        if old is not None:
            torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")
            backends.cudnn.allow_tf32 = kind == "tf32"
        for switch, value in new:
            switch.fp32_precision = value
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if old is not None:
                torch.set_float32_matmul_precision(old[0])
                backends.cudnn.allow_tf32 = old[1]
            for (switch, _), value in zip(new, was, strict=True):
                switch.fp32_precision = value


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """Have sums in the same order every time: cuDNN's algorithms that keep it, and one thread on the CPU, since several
    share sums among themselves by their number. False changes nothing."""
    import torch

    backend, n_threads = torch.backends.cudnn, torch.get_num_threads()
    before = backend.deterministic, backend.benchmark
    try:
        if wanted:
            backend.deterministic, backend.benchmark = True, False
            torch.set_num_threads(1)
        yield
    finally:
        backend.deterministic, backend.benchmark = before
        torch.set_num_threads(n_threads)


@contextmanager
def memory_errors(batch_size: int) -> Iterator[None]:
    """Turn what torch says where memory ends, of a device or of the machine, into one `BadInput`."""
    import torch

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_known and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        said = (str(error).splitlines() or ["out of memory"])[0]
        raise BadInput(
            f"batches of {batch_size} images need more memory than there is ({said}); use a smaller batch_size (--batch-size), or "
            "store fewer units at a time. What was written is kept, and the same call goes on there."
        ) from error


@contextmanager
def on_device(chain: Chain, device: torch.device) -> Iterator[None]:
    """Have a network on a device and in eval mode, and put it back as it was found."""
    modules = list(chain.module.modules())
    training = [m.training for m in modules]
    first = next(chain.module.parameters(), None)
    home = device if first is None else first.device
    chain.module.eval()
    try:
        if home != device:
            chain.to(device)
        yield
    finally:
        if home != device:
            chain.to(home)
        for module, flag in zip(modules, training, strict=True):
            module.training = flag
