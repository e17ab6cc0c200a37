"""Features without a network: what a store does with rows does not depend on where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featstore import ArrayKey, PassKey, Split, Store, create_store
from featstore.bfloat import narrow

NETWORK: Mapping[str, Any] = {
    "backbone": "toy:net",
    "weights_digest": "0123456789abcdef" * 2,
    "cut": "stem|body",
    "preprocessing": {"input_size": [8, 8], "mean": [0.5], "interpolation": "bilinear"},
}


@dataclass
class Memory:
    """Samples in memory that count how often they are read."""

    contents: Sequence[bytes | np.ndarray]
    reads: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.contents)

    def read(self, i: int) -> bytes | np.ndarray:
        self.reads.append(i)
        return self.contents[i]

    def describe(self, i: int) -> str:
        return f"memory row {i}"

    def stat(self, i: int) -> tuple[int, ...] | None:
        return None


def toy_split(n: int, *, name: str = "toy/train", n_classes: int = 3, first: int = 0) -> Split:
    """Return `n` samples whose ids and contents are their numbers, counted from `first`."""
    numbers = range(first, first + n)
    return Split(
        name=name,
        ids=np.array([f"img/{i:05d}.png" for i in numbers]),
        labels=np.arange(first, first + n) % n_classes,
        classes=tuple(f"class {c}" for c in range(n_classes)),
        samples=Memory([f"content {i}".encode() for i in numbers]),
    )


def pass_key(split: Split, **changes: Any) -> PassKey:
    """Return the key of a pass of the toy network over a split."""
    digest = split.digest()
    fields = {**NETWORK, "ids_digest": digest.ids_digest, "content_digest": digest.content_digest, "n": len(split)}
    return PassKey(**{**fields, **changes})


def array_key(key: PassKey, unit: str = "body", d: int | tuple[int, ...] = 5, dtype: str = "float32") -> ArrayKey:
    """Return the key of one unit."""
    return ArrayKey(key.digest, unit, "mean", dtype, (d,) if isinstance(d, int) else d)


def features_of(key: ArrayKey, n: int) -> np.ndarray:
    """Return made-up features that differ in every entry, the same at every call; the second row is all zeros."""
    rng = np.random.default_rng(int(key.digest[:8], 16))
    values = rng.standard_normal((n, *key.shape))
    made = narrow(values) if key.dtype == "bfloat16" else values.astype(key.dtype)
    made[1:2] = 0
    return made


def fill(
    store: Store,
    split: Split,
    arrays: Mapping[ArrayKey, np.ndarray],
    *,
    key: PassKey | None = None,
    block_rows: int | None = None,
    order: Iterable[int] | None = None,
    provenance: Mapping[str, Any] | None = None,
    repair: bool = False,
    durable: bool = False,
) -> int:
    """Write what is missing of `arrays` and return how many blocks that were; `order` permutes them."""
    key = key or pass_key(split)
    with store.writing(key, split, provenance or {"units": ["stem", "body"]}, durable=durable) as session:
        session.begin(list(arrays), block_rows, repair=repair)
        blocks = session.missing_blocks()
        for i in order if order is not None else range(len(blocks)):
            block = blocks[i]
            session.write(block, {k: arrays[k][block.start : block.stop] for k in session.arrays})
        session.commit()
    return len(blocks)


@dataclass(frozen=True)
class Toy:
    """A complete little store: two units over one split."""

    store: Store
    split: Split
    key: PassKey
    features: dict[ArrayKey, np.ndarray]

    @property
    def body(self) -> ArrayKey:
        return next(k for k in self.features if k.unit == "body")

    def chunk(self, unit: str, k: int) -> Path:
        """Return the file of a chunk."""
        array = next(a for a in self.features if a.unit == unit)
        return self.folder(unit) / "data.zarr" / f"c.{k}{'.0' * len(array.shape)}"

    def folder(self, unit: str) -> Path:
        """Return the folder of a committed array."""
        array = next(a for a in self.features if a.unit == unit)
        return self.store.root / self.key.digest / "arrays" / array.digest


def toy(root: Path, n: int = 50, *, block_rows: int = 16) -> Toy:
    """Return a store with units "stem" (float16, 7) and "body" (float32, 5) in four chunks."""
    split = toy_split(n)
    key = pass_key(split)
    arrays = (array_key(key, "stem", 7, "float16"), array_key(key, "body", 5))
    features = {a: features_of(a, n) for a in arrays}
    store = create_store(root)
    fill(store, split, features, key=key, block_rows=block_rows)
    return Toy(store, split, key, features)


def tree_bytes(root: Path) -> dict[str, bytes]:
    """Return every file of a folder by its relative path."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def peak_megabytes() -> float:
    """Return the most resident memory this process has had, in MB.

    `resource.getrusage` would return at least what the process that started this one had: a child's figure begins there.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1e3
