"""Products of float32 in float32, and arrays where they should be, whatever the process is set to.

A training on a GPU often allows TF32 (10 bits of mantissa) or bfloat16 for products of float32, for the whole process. A solver
that was given such products would stall far from its tolerance; nothing would say why.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from probe.arrays import Array, library_of


@contextmanager
def exact(X: Array) -> Iterator[None]:
    """Compute with `X` in its own precision and on its own device; everything is put back.

    Parameters
    ----------
    X : array
        Of torch: without TF32, bfloat16 and autocast. Of cupy: on its device, for cupy makes arrays on the current one.
    """
    library = library_of(X)
    if library == "cupy":
        with X.device:
            yield
    elif library == "torch":
        import torch

        with _without_tf32(), torch.autocast(X.device.type, enabled=False):
            yield
    else:
        yield


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Both kinds of switches of torch: the old, and the new (since 2.9), which make the old unreadable once they are used."""
    import torch

    backends: Any = torch.backends
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is renaming these switches
        owners = (backends.cuda, getattr(backends, "mkldnn", None))
        matmuls: list[Any] = [getattr(owner, "matmul", None) for owner in owners]
        new = [switch for switch in matmuls if hasattr(switch, "fp32_precision")]
        was = [switch.fp32_precision for switch in new]
        try:
            old = torch.get_float32_matmul_precision()
        except RuntimeError:
            old = None
        if old is not None:
            torch.set_float32_matmul_precision("highest")
        for switch in new:
            switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if old is not None:
                torch.set_float32_matmul_precision(old)
            for switch, value in zip(new, was, strict=True):
                switch.fp32_precision = value
