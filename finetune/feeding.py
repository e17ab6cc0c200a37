"""From which stored output each candidate of flex-tuning is fed: a pure plan, with its size, made before anything runs.

Tuning unit ℓ leaves what stands before it as it is, so its input can be computed once. Not every input is worth keeping:
the first unit's is the image, which is kept anyway, and a map larger than the image behind one cheap convolution costs
more to read than to compute again. The rule is arithmetic on counts, not on timings, so that the same call always feeds
the same numbers: a unit's input is stored where computing it from the input stored before it takes more than
``FLOPS_PER_BYTE`` floating point operations per byte that would be read. A unit that hands on two tensors, as the cells of
NASNet do, is never stored: what stands behind it is fed from the nearest earlier output that is all its successor needs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from finetune.errors import BadInput, OutOfMemory

if TYPE_CHECKING:
    from pathlib import Path

    from finetune.networks import TargetNetwork

FeedKind: TypeAlias = Literal["memory", "disk", "images"]
"""Where the inputs of candidates are: in memory, in a feature store, or computed from images in every step."""

FLOPS_PER_BYTE = 32.0
"""Operations that a processor does while it reads a byte of memory: 10 to 30 on what is sold today, CPU or GPU."""

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class FeedPlan:
    """Which input feeds what.

    Attributes
    ----------
    kind : str
        ``"memory"``, ``"disk"`` or ``"images"``.
    dtype : str
        Of what is stored.
    units : tuple of str
        Of the network, the head last.
    sources : mapping of str to (str or None)
        First unit of a candidate -> the unit whose output it is fed from; None are the images.
    shapes : mapping of str to tuple of int
        Unit -> shape of its output for one image.
    n_images : int
        Of train and val.
    why : str
        Why it is this kind, as a sentence.
    """

    kind: FeedKind
    dtype: str
    units: tuple[str, ...]
    sources: Mapping[str, str | None]
    shapes: Mapping[str, tuple[int, ...]]
    n_images: int
    why: str

    @property
    def stored(self) -> tuple[str, ...]:
        """Units whose output is stored, as they run."""
        wanted = set(self.sources.values())
        return tuple(unit for unit in self.units if unit in wanted)

    def source(self, first: str) -> str | None:
        """What the candidates that begin at a unit are fed from."""
        return self.sources.get(first)

    def entry(self, source: str | None) -> str:
        """The unit that takes what is fed."""
        return self.units[0] if source is None else self.units[self.units.index(source) + 1]

    def n_bytes(self, unit: str) -> int:
        """Of the stored output of a unit, for all images of train and val."""
        return self.n_images * _n_values(self.shapes[unit]) * ITEM_BYTES[self.dtype]

    @property
    def total_bytes(self) -> int:
        """Of everything that is stored."""
        return sum(self.n_bytes(unit) for unit in self.stored)

    @property
    def peak_bytes(self) -> int:
        """Held in memory at once: one output, and the next while it is made from it."""
        sizes = [self.n_bytes(unit) for unit in self.stored]
        if self.kind == "disk":
            return max(sizes, default=0)
        return max((a + b for a, b in zip([0, *sizes], sizes, strict=False)), default=0)

    def check(self, out: Path, device: str) -> None:
        """Refuse what memory or disk cannot hold.

        Parameters
        ----------
        out : Path
            Where a store would be.
        device : str
            Where inputs are held.

        Raises
        ------
        OutOfMemory
            What is needed, what there is, and what to do.
        """
        problems = []
        free = free_memory(device)
        if self.kind != "images" and free is not None and self.peak_bytes > free:
            problems.append(
                f"the inputs of {', '.join(self.stored)} take up to {in_words(self.peak_bytes)} at once and "
                f"{in_words(free)} of memory are free"
            )
        if self.kind == "disk" and self.total_bytes > (on_disk := free_disk(out)):
            problems.append(f"they take {in_words(self.total_bytes)} on disk and {in_words(on_disk)} are free there")
        if problems:
            raise OutOfMemory(
                f"flex-tuning cannot be fed: {', and '.join(problems)}. Take dtype='float16', fewer units or images, or "
                "feed='images', which computes everything anew in each step."
            )

    def said(self) -> str:
        """One line for people."""
        if self.kind == "images":
            return f"candidates are fed with images: {self.why}"
        again = [first for first, source in self.sources.items() if self.entry(source) != first]
        kept = ", ".join(f"{unit} {in_words(self.n_bytes(unit))}" for unit in self.stored) or "nothing but images"
        where = "on disk" if self.kind == "disk" else f"in memory, {in_words(self.peak_bytes)} at once"
        more = f"; what {', '.join(again)} begins with is computed from an earlier one" if again else ""
        return f"candidates are fed with stored outputs ({self.dtype}, {where}): {kept}{more}"


def plan_feed(
    network: TargetNetwork,
    firsts: Sequence[str],
    n_images: int,
    *,
    kind: FeedKind,
    dtype: str = "float32",
    why: str = "",
) -> FeedPlan:
    """Decide what is stored for candidates that begin at some units.

    Parameters
    ----------
    network : TargetNetwork
        Whose units they are.
    firsts : sequence of str
        First units of the candidates.
    n_images : int
        Of train and val.
    kind, dtype, why
        See `FeedPlan`.

    Raises
    ------
    BadInput
        Another word for a kind or a dtype.
    """
    known = {"kind": ("memory", "disk", "images"), "dtype": tuple(ITEM_BYTES)}
    for name, value in (("kind", kind), ("dtype", dtype)):
        if value not in known[name]:
            raise BadInput(f"the {name} of what feeds flex-tuning is {value!r}; it is one of {', '.join(known[name])}.")
    shapes, units = dict(network.chain.shapes), network.units
    wanted = [unit for unit in units if unit in firsts]
    if kind == "images":
        sources: dict[str, str | None] = dict.fromkeys(wanted)
    else:
        sizes = {unit: _n_values(shape) * ITEM_BYTES[dtype] for unit, shape in shapes.items()}
        sources = sources_of(units, wanted, flops_of(network), sizes, pairs=network.chain.passed)
    return FeedPlan(kind, dtype, units, sources, shapes, n_images, why)


def sources_of(
    units: Sequence[str],
    firsts: Sequence[str],
    flops: Mapping[str, float],
    n_bytes: Mapping[str, float],
    *,
    pairs: Collection[str] = (),
) -> dict[str, str | None]:
    """What the candidates that begin at some units are fed from; see the rule of this module.

    Parameters
    ----------
    units : sequence of str
        In order of execution.
    firsts : sequence of str
        First units of candidates.
    flops, n_bytes : mapping of str to float
        Of running a unit for one image, and of keeping its output.
    pairs : collection of str
        Units that hand on two tensors (`featstore.Chain`'s ``passed``): no source, since one output is not all that the
        next unit takes.
    """
    found: dict[str, str | None] = {}
    source, since = None, 0.0
    can_be, until = None, 0.0  # the last output that is all its successor takes, and the work as far as there
    for i, unit in enumerate(units):
        before = units[i - 1] if i else None
        since += 0.0 if before is None else flops[before]
        if before is not None and before not in pairs:
            can_be, until = before, since
        if unit not in firsts:
            continue
        if can_be is not None and can_be != source and until > FLOPS_PER_BYTE * n_bytes[can_be]:
            source, since, until = can_be, since - until, 0.0
        found[unit] = source
    return found


def flops_of(network: TargetNetwork) -> dict[str, float]:
    """Floating point operations of each unit of the backbone for one image: products of convolutions and matrices."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    chain, found = network.chain, {}
    device = next(network.module.parameters()).device
    x = network.backbone.example().to(device)
    with torch.no_grad():
        for unit in chain.names:
            if unit == network.units[-1]:
                break  # nothing is fed from the last unit's output
            with FlopCounterMode(display=False) as counter:
                x = chain.run(x, unit, unit)
            found[unit] = float(counter.get_total_flops())
    return found


def free_memory(device: str) -> int | None:
    """Bytes that can still be taken on a device; None where that cannot be told."""
    import torch

    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo") as lines:
            found = dict(line.split(":", 1) for line in lines)
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def free_disk(path: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    import shutil

    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def in_words(n_bytes: float) -> str:
    """``"3.4 MB"``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes:.0f} bytes"


def _n_values(shape: Sequence[int]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n
