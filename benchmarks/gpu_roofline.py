"""What a device can do at most, measured on it, and what a path had to do at least."""

from __future__ import annotations

import time
from collections.abc import Callable


def synchronizer(device: str) -> Callable[[], None]:
    """What waits for a device."""
    import torch

    return torch.cuda.synchronize if device == "cuda" else lambda: None


def rate(call: Callable[[], object], work: float, device: str, at_least_s: float) -> float:
    """Work per second of a call that is repeated for a while."""
    synchronize = synchronizer(device)
    call()
    synchronize()
    n, started = 0, time.perf_counter()
    while True:
        call()
        n += 1
        if n % 4 == 0:
            synchronize()
            took = time.perf_counter() - started
            if took > at_least_s:
                return n * work / took


def peaks(device: str, n: int, d: int, k: int) -> dict[str, float]:
    """FLOP/s of products and bytes/s of a copy, as measured on this device."""
    import torch

    size, at_least_s = (8192, 0.5) if device == "cuda" else (128, 0.01)
    found: dict[str, float] = {}
    for name in ("float32", "float64"):
        A = torch.randn(size, size, device=device, dtype=getattr(torch, name))
        found[f"gemm_{name}_flops"] = rate(lambda A=A: A @ A, 2.0 * size**3, device, at_least_s)  # type: ignore[misc]
    X, W = torch.randn(n, d, device=device), torch.randn(k, d, device=device)
    found["own_product_flops"] = rate(lambda: X @ W.T, 2.0 * n * d * k, device, at_least_s)
    source = torch.randn(size * size * 4, device=device)
    target = torch.empty_like(source)
    found["bandwidth_bytes"] = rate(lambda: target.copy_(source), 2.0 * source.nbytes, device, at_least_s)
    return found


def roofline(seconds: float, reads: int, shape: tuple[int, int, int], peak: dict[str, float]) -> dict[str, float]:
    """Counted work, the least seconds it takes at the measured peaks, and the share of that in the seconds measured."""
    n, d, k = shape
    products, X_bytes = 2.0 * n * d * k * reads, 4.0 * n * d * reads
    gram, rotation = 2.0 * n * d * min(n, d), 2.0 * n * d * min(n, d)
    by_flops = products / peak["gemm_float32_flops"]
    by_bytes = X_bytes / peak["bandwidth_bytes"]
    setup = gram / peak["gemm_float64_flops"] + rotation / peak["gemm_float32_flops"]
    least = max(by_flops, by_bytes) + setup
    return {
        "reads": reads, "product_flops": products, "X_bytes": X_bytes, "gram_flops": gram, "rotation_flops": rotation,
        "least_by_flops_s": by_flops, "least_by_bytes_s": by_bytes, "setup_s": setup, "least_s": least,
        "share": least / seconds,
    }  # fmt: skip
