"""Identity: everything that makes two feature matrices the same, its digest, and readable differences.

A forward pass over a split is identified by a `PassKey`, one stored matrix of it by an `ArrayKey`. Their digests are names of
folders; the full JSON is kept beside, so that a folder can be read by a person and a difference can be told in words.
What does not change a number (library versions, batch size, names of splits, labels) is not part of a key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from featstore.errors import BadInput, IdentityError

__all__ = ["ArrayKey", "PassKey", "canonical_json", "differences", "digest_of", "plain"]

KEY_FORMAT = 1
"""Part of every digest: a change of what a key means makes new keys instead of false hits."""

DTYPES = {"float16": "<f2", "float32": "<f4", "bfloat16": "<u2"}
"""What a matrix may be stored as, and what its bytes are: those of bfloat16 are bits, since numpy and zarr have no such type."""


_SCALARS = frozenset({type(None), str, bool, int, float})


def plain(value: Any) -> Any:
    """Return `value` as what JSON has: dict, list, str, int, float, bool, None; tuples become lists, numpy scalars numbers.

    Raises
    ------
    IdentityError
        If something in `value` is none of these: an object without a stable text has no identity.
    """
    kind = type(value)
    if kind in _SCALARS or isinstance(value, str | bool | int | float):
        return value
    if kind is dict or isinstance(value, Mapping):
        if not all(isinstance(k, str) for k in value):
            raise IdentityError(f"the keys {sorted(map(repr, value))} must all be text to be part of an identity.")
        return {k: v if type(v) in _SCALARS else plain(v) for k, v in value.items()}
    if kind is list or (isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview)):
        return [v if type(v) in _SCALARS else plain(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return plain(value.item())
    raise IdentityError(
        f"{value!r} of type {type(value).__name__} cannot be part of an identity: it has no stable text. "
        "Describe it by text and numbers, or pass version='…' and change that text whenever the thing changes."
    )


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces, no NaN, shortest floats."""
    try:
        return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise IdentityError(f"an identity cannot hold NaN or infinity: {value!r}.") from error


def digest_of(value: Any) -> str:
    """Return the first 32 hexadecimal digits of the sha256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class PassKey:
    """Identity of one forward pass of one network over one split.

    Attributes
    ----------
    backbone : str
        The architecture: resolved name, constructor arguments. Never a path.
    weights_digest : str
        Digest of every tensor that can change an output.
    cut : str
        Canonical description of the unit cut, or its digest.
    preprocessing : mapping
        Everything between a decoded image and the input tensor, written out in text and numbers.
    ids_digest, content_digest : str
        Of the ordered ids, and of the ordered contents (see `featstore.digests`).
    n : int
        Number of samples.
    precision : str
        ``"fp32"``, ``"tf32"``, ``"amp-fp16"`` or ``"amp-bf16"``.
    extractor_version : int
        Raised when the extraction code changes a number.
    version : str or None
        The user's own, for things that cannot be identified by their content.
    """

    backbone: str
    weights_digest: str
    cut: str
    preprocessing: Mapping[str, Any]
    ids_digest: str
    content_digest: str
    n: int
    precision: str = "fp32"
    extractor_version: int = 1
    version: str | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise BadInput(f"a pass needs at least one sample, and this split has {self.n}.")
        object.__setattr__(self, "preprocessing", plain(self.preprocessing))
        object.__setattr__(self, "_digest", digest_of({"format": KEY_FORMAT, **asdict(self)}))

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """32 hexadecimal digits; the name of the pass's folder."""
        return str(self.__dict__["_digest"])

    def of_network(self) -> dict[str, Any]:
        """Return what the key says about the network alone, without the samples."""
        return {k: v for k, v in self.to_json().items() if k not in ("ids_digest", "content_digest", "n")}

    def to_json(self) -> dict[str, Any]:
        """Return the key as JSON holds it."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PassKey:
        """Return the key that `to_json` wrote.

        Raises
        ------
        IdentityError
            If a field is missing or unknown.
        """
        return cls(**_checked_fields(cls, value))


@dataclass(frozen=True)
class ArrayKey:
    """Identity of one stored matrix of a pass.

    Attributes
    ----------
    pass_digest : str
        `PassKey.digest`.
    unit, pool : str
        Resolved name of the unit; name of the pooling function.
    dtype : str
        ``"float16"``, ``"float32"`` or ``"bfloat16"``.
    shape : tuple of int
        Of one sample: ``(2048,)`` for a pooled unit.
    """

    pass_digest: str
    unit: str
    pool: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise BadInput(f"features are stored as {', '.join(DTYPES)}, not as '{self.dtype}'.")
        shape = tuple(int(s) for s in self.shape)
        if not shape or min(shape) < 1:
            raise BadInput(f"unit '{self.unit}' has shape {shape} per sample; every extent must be at least 1.")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "_digest", digest_of({"format": KEY_FORMAT, **self.to_json()}))

    @property
    def digest(self) -> str:
        """32 hexadecimal digits; the name of the array's folder."""
        return str(self.__dict__["_digest"])

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample."""
        n = 1
        for s in self.shape:
            n *= s
        return n * int(DTYPES[self.dtype][-1])

    @property
    def format(self) -> int:
        """The oldest format of a store that has such a matrix."""
        return 2 if self.dtype == "bfloat16" else 1

    def to_json(self) -> dict[str, Any]:
        """Return the key as JSON holds it."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ArrayKey:
        """Return the key that `to_json` wrote; see `PassKey.from_json`."""
        return cls(**_checked_fields(cls, value))


def _checked_fields(cls: type[PassKey] | type[ArrayKey], value: Mapping[str, Any]) -> dict[str, Any]:
    expected = {f.name for f in fields(cls)}
    if set(value) != expected:
        missing, extra = sorted(expected - set(value)), sorted(set(value) - expected)
        raise IdentityError(
            f"a key of a {cls.__name__[:-3].lower()} lacks the fields {missing} and has the unknown fields {extra}: "
            "it was edited, or written by another version of featstore."
        )
    return dict(value)


def differences(
    a: Mapping[str, Any], b: Mapping[str, Any], *, names: tuple[str, str] = ("stored", "asked for"), prefix: str = ""
) -> list[str]:
    """Return one sentence part per leaf in which two keys differ.

    Parameters
    ----------
    a, b : mapping
        JSON-like; nested mappings are compared leaf by leaf.
    names : tuple of str
        What to call the two sides.

    Examples
    --------
    >>> differences({"n": 3, "p": {"size": [224, 224]}}, {"n": 3, "p": {"size": [128, 128]}})
    ['p.size is [224, 224] stored and [128, 128] asked for']
    """
    found: list[str] = []
    for key in sorted(set(a) | set(b)):
        if key not in a or key not in b:
            side, value = (names[0], a[key]) if key in a else (names[1], b[key])
            found.append(f"{prefix}{key} is {_short(value)} {side} and absent on the other side")
        elif isinstance(a[key], Mapping) and isinstance(b[key], Mapping):
            found += differences(a[key], b[key], names=names, prefix=f"{prefix}{key}.")
        elif plain(a[key]) != plain(b[key]):
            found.append(f"{prefix}{key} is {_short(a[key])} {names[0]} and {_short(b[key])} {names[1]}")
    return found


def _short(value: Any, limit: int = 80) -> str:
    text = repr(plain(value))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
