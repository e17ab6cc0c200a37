"""Identity: would two different things be taken for one, or one thing for two?"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np
import pytest
from toys import NETWORK, array_key, pass_key, toy_split

from featstore import ArrayKey, BadInput, IdentityError, PassKey, differences
from featstore.manifest import canonical_json, digest_of

FIELDS: dict[str, Any] = {**NETWORK, "ids_digest": "a" * 32, "content_digest": "b" * 32, "n": 10}


def test_canonical_json_is_one_text_for_one_value() -> None:
    """The order of keys, tuples for lists and numpy scalars would otherwise make new identities out of nothing."""
    a = {"b": (1, 2.5), "a": {"y": None, "x": True}}
    b = {"a": {"x": True, "y": None}, "b": [np.int64(1), np.float64(2.5)]}
    assert canonical_json(a) == canonical_json(b) == '{"a":{"x":true,"y":null},"b":[1,2.5]}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1, -float("inf")]])
def test_an_identity_holds_no_nan(value: Any) -> None:
    with pytest.raises(IdentityError, match="NaN"):
        canonical_json(value)


@pytest.mark.parametrize("value", [lambda x: x, object(), {1: 2}, {1, 2}, b"bytes", np.zeros(2)])
def test_what_has_no_stable_text_is_refused(value: Any) -> None:
    """A lambda's repr holds an address: every run would extract anew, or worse, two lambdas would share an address."""
    with pytest.raises(IdentityError):
        canonical_json({"x": value})


def test_digest_is_the_sha256_of_the_json_text() -> None:
    """Recomputed here by hand, so that stores of today are found by the code of tomorrow."""
    key = PassKey(**FIELDS)
    said = {"format": 1, **FIELDS, "precision": "fp32", "extractor_version": 1, "version": None}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    assert key.digest == hashlib.sha256(text.encode()).hexdigest()[:32]
    assert digest_of({"b": 1, "a": [2]}) == hashlib.sha256(b'{"a":[2],"b":1}').hexdigest()[:32]


CHANGES: dict[str, Any] = {
    "backbone": "toy:other",
    "weights_digest": "f" * 32,
    "cut": "stem",
    "preprocessing": {**NETWORK["preprocessing"], "input_size": [8, 9]},
    "ids_digest": "c" * 32,
    "content_digest": "d" * 32,
    "n": 11,
    "precision": "tf32",
    "extractor_version": 2,
    "version": "mine",
}


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(PassKey)])
def test_every_field_of_a_pass_is_identity(name: str) -> None:
    """A field left out of the digest would hand out features of another network, preprocessing or data set."""
    assert PassKey(**{**FIELDS, name: CHANGES[name]}).digest != PassKey(**FIELDS).digest


@pytest.mark.parametrize(
    ("name", "value"),
    [("pass_digest", "e" * 32), ("unit", "stem"), ("pool", "none"), ("dtype", "float16"), ("shape", (6,))],
)
def test_every_field_of_an_array_is_identity(name: str, value: Any) -> None:
    fields: dict[str, Any] = {
        "pass_digest": "a" * 32,
        "unit": "body",
        "pool": "mean",
        "dtype": "float32",
        "shape": (5,),
    }
    assert ArrayKey(**{**fields, name: value}).digest != ArrayKey(**fields).digest


def test_keys_come_back_from_their_json() -> None:
    key = pass_key(toy_split(4), version="2")
    array = array_key(key, "body", (3, 2, 2), "float16")
    assert PassKey.from_json(json.loads(json.dumps(key.to_json()))) == key
    assert ArrayKey.from_json(json.loads(json.dumps(array.to_json()))) == array
    assert hash(PassKey.from_json(key.to_json())) == hash(key)
    assert array.row_bytes == 3 * 2 * 2 * 2


def test_a_key_of_another_version_is_refused() -> None:
    said = pass_key(toy_split(4)).to_json()
    with pytest.raises(IdentityError, match="lacks the fields \\['n'\\]"):
        PassKey.from_json({k: v for k, v in said.items() if k != "n"})
    with pytest.raises(IdentityError, match="unknown fields \\['colour'\\]"):
        PassKey.from_json({**said, "colour": "red"})


def test_differences_are_said_in_words() -> None:
    a = {"n": 3, "p": {"size": [224, 224], "mean": 0.5}, "only": 1, "same": (1,)}
    b = {"n": 3, "p": {"size": (128, 128), "mean": 0.5}, "same": [1]}
    assert differences(a, b) == [
        "only is 1 stored and absent on the other side",
        "p.size is [224, 224] stored and [128, 128] asked for",
    ]
    assert differences(a, a) == []


@pytest.mark.parametrize(("dtype", "shape"), [("float64", (3,)), ("float32", ()), ("float32", (0,))])
def test_what_cannot_be_stored_is_refused(dtype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput):
        ArrayKey("a" * 32, "body", "mean", dtype, shape)


def test_a_pass_without_samples_is_refused() -> None:
    with pytest.raises(BadInput, match="at least one"):
        PassKey(**{**FIELDS, "n": 0})
