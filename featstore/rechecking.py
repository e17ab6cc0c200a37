"""Do the stored features still come out of their network? A random sample of images is run through it once more.

Checksums tell that bytes are those that were written; this tells that what was written is what the network says.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.devices import base_precision, is_deterministic
from featstore.errors import BadInput, FeatstoreError
from featstore.makers import Maker, Makers
from featstore.passes import PassFolder

if TYPE_CHECKING:
    import torch

    from featstore.backbones import Backbone
    from featstore.entries import Entry
    from featstore.splits import Split
    from featstore.store import Store

__all__ = ["STORED_ROUNDING", "TOLERANCE", "Recheck", "recheck"]

TOLERANCE = {"fp32": 1e-4, "tf32": 5e-3, "amp-fp16": 1e-2, "amp-bf16": 5e-2}
"""Of the unit's largest feature, per arithmetic of the forward pass: what another batch, device or version of torch may change.
Float32 keeps 24 bits and networks of a hundred layers lose about 10 of them; tf32 and float16 keep 11, bfloat16 8."""

STORED_ROUNDING = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Of each feature, on top: half a unit in the last place of what is stored (a whole one for bfloat16)."""

FLOAT16_SMALLEST = 2.0**-24


@dataclass(frozen=True)
class Recheck:
    """What came out for one matrix.

    Attributes
    ----------
    where : str
        The matrix, in words.
    n : int
        Images that were run through the network again; 0 where that was not possible.
    difference : float
        The largest, beyond `STORED_ROUNDING`, as part of the unit's largest feature.
    tolerance : float
        What is allowed of it: `TOLERANCE`.
    wrong : tuple of str
        Ids of the images whose stored features differ by more.
    reason : str
        Why it was not possible; empty where it was.
    """

    where: str
    n: int
    difference: float
    tolerance: float
    wrong: tuple[str, ...] = ()
    reason: str = ""

    @property
    def is_good(self) -> bool:
        """Whether the features came out as they are stored."""
        return not self.wrong and not self.reason

    def __str__(self) -> str:
        if self.reason:
            return f"{self.where}: not computed again: {self.reason}"
        found = f"largest difference beyond rounding {self.difference:.1e} of the largest feature"
        text = f"{self.where}: {self.n} images again, {found}"
        if not self.wrong:
            return f"{text} (allowed: {self.tolerance:g})"
        ids = ", ".join(f"'{name}'" for name in self.wrong[:5]) + (", …" if len(self.wrong) > 5 else "")
        return f"{text}, and {self.tolerance:g} is allowed: {len(self.wrong)} are not what the network says: {ids}"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {**asdict(self), "is_good": self.is_good}


def recheck(
    root: str | Path | Store,
    n: int,
    *,
    seed: int = 0,
    backbones: Sequence[Backbone] = (),
    splits: Sequence[Split] = (),
    data_root: str | Path | None = None,
    device: str | torch.device = "cpu",
    workers: int | None = None,
) -> list[Recheck]:
    """Run a random sample of every split through its network again, and compare with what is stored.

    Parameters
    ----------
    root : str, Path or Store
    n : int
        Images per split; all of them where it has fewer.
    seed : int
        Another seed, another sample.
    backbones, splits, data_root, device, workers
        As in `featstore.repair`.

    Returns
    -------
    list of Recheck
        One for every complete matrix.
    """
    from featstore.store import Store, open_store

    if n < 1:
        raise BadInput(f"{n} images cannot be computed again; ask for at least 1.")
    store = root if isinstance(root, Store) else open_store(root)
    makers = Makers(store, backbones, splits, data_root)
    by_pass: dict[str, list[Entry]] = {}
    for entry in store.entries(damaged=True):
        if entry.is_complete:
            by_pass.setdefault(entry.pass_id, []).append(entry)
    found: list[Recheck] = []
    for pass_id, entries in by_pass.items():
        try:
            maker = makers.of(PassFolder(store.root, pass_id))
        except FeatstoreError as error:
            found += [Recheck(_label(entry), 0, 0.0, 0.0, (), str(error)) for entry in entries]
            continue
        rows = np.sort(np.random.default_rng(seed).permutation(len(maker.split))[:n])
        found += _of_pass(store, maker, entries, rows, {"device": device, "workers": workers})
    return found


def _of_pass(
    store: Store, maker: Maker, entries: Sequence[Entry], rows: np.ndarray, running: dict[str, Any]
) -> Iterator[Recheck]:
    """Extract some rows of one pass into a store that is thrown away, and compare."""
    from featstore.extraction import extract
    from featstore.store import create_store

    sample = maker.split.subset(rows, "recheck")
    with tempfile.TemporaryDirectory() as scratch:
        fresh = create_store(scratch)
        for pool in dict.fromkeys(entry.pool for entry in entries):
            extract(
                maker.backbone,
                sample,
                fresh,
                units=list(dict.fromkeys(entry.unit for entry in entries if entry.pool == pool)),
                pool=pool,
                dtype="float32",
                precision=base_precision(maker.key.precision),
                deterministic=is_deterministic(maker.key.precision),
                batch_size=maker.batch_size or len(rows),
                progress=False,
                **running,
            )
        for entry in entries:
            anew = fresh.features(entry.unit, sample, pool=entry.pool).numpy()
            kept = store.matrix(entry).take(rows)
            yield _compared(entry, kept, anew, sample.ids)


def _label(entry: Entry) -> str:
    return f"unit '{entry.unit}' ({entry.pool}, {entry.dtype}) of {entry.backbone} over '{entry.split}'"


def _compared(entry: Entry, kept: np.ndarray, anew: np.ndarray, ids: np.ndarray) -> Recheck:
    tolerance = TOLERANCE[base_precision(entry.precision)]
    largest = float(np.abs(anew).max()) or 1.0
    difference = np.abs(kept.astype(np.float64) - anew)
    rounding = STORED_ROUNDING[entry.dtype] * np.abs(anew) + (FLOAT16_SMALLEST if entry.dtype == "float16" else 0.0)
    beyond = np.maximum(difference - rounding, 0)
    over = ~(beyond <= tolerance * largest)  # NaN is over
    wrong = tuple(str(name) for name in ids[over.reshape(len(over), -1).any(1)])
    return Recheck(_label(entry), len(ids), float(beyond.max()) / largest, tolerance, wrong)
