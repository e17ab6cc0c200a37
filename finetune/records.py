"""The records that recipes and regimes are made of, as JSON and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from finetune.adapters import Colour, Geometry, ImageToImage
from finetune.augmentation import Augmentation
from finetune.auxiliary import Auxiliary
from finetune.errors import CorruptRun
from finetune.keeping import KeepBest, KeepLast, StopEarly
from finetune.optimizers import SGD, Adam, AdamW
from finetune.schedules import Constant, Cosine, EpochShare, StepDecay

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        SGD,
        Adam,
        AdamW,
        Constant,
        Cosine,
        StepDecay,
        EpochShare,
        KeepLast,
        KeepBest,
        StopEarly,
        Augmentation,
        Auxiliary,
        ImageToImage,
        Colour,
        Geometry,
    )
}


def plain(value: Any) -> Any:
    """A value as JSON has it: a record becomes ``{"kind": its name, field: value …}``, a tuple a list."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def revived(value: Any) -> Any:
    """The value that `plain` was given.

    Raises
    ------
    CorruptRun
        A kind of record that this version does not know.
    """
    if isinstance(value, Mapping):
        fields = dict(value)
        kind = fields.pop("kind", None)
        if kind not in _KINDS:
            raise CorruptRun(f"the stored recipe has a part of kind {kind!r}; this version knows {', '.join(_KINDS)}.")
        return _KINDS[kind](**{name: revived(item) for name, item in fields.items()})
    return tuple(revived(item) for item in value) if isinstance(value, list) else value
