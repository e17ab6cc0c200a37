"""A study as plain values and files: read from TOML or JSON, and written so that it can be read again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from probe.chosen import a_mapping
from probe.errors import BadInput
from probe.studies.cells import Dataset, Network, Regime, Study, Unnamed, plain

FORMAT = 1
"""Version of a study as plain values; not written while it is the first."""

_SIDES: Mapping[str, type[Any]] = {"network": Network, "dataset": Dataset, "regime": Regime}
_OBJECTS = ("spec", "train", "val", "test")
"""What may be an object in Python."""


def read_toml(path: Path) -> Study:
    """See `Study.from_toml`."""
    import tomllib

    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"The study '{path}' cannot be read: {error}.") from error
    said.setdefault("name", path.stem)
    return study_of(said)


def read_json(path: Path) -> Study:
    """Read a plan that a folder of results keeps.

    Parameters
    ----------
    path : Path

    Raises
    ------
    BadInput
        Where it cannot be read, or is no study.
    """
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"The study '{path}' cannot be read: {error}.") from error
    if not isinstance(said, dict):
        raise BadInput(f"The study '{path}' is no study: an object with network, dataset, regime.")
    return study_of(said)


def study_of(said: Mapping[str, Any]) -> Study:
    """See `Study.from_json`."""
    a_mapping(said, "A study as plain values", "such as Study.to_json gives")
    if said.get("format", FORMAT) != FORMAT:
        raise BadInput(
            f"The study has format {said['format']!r} but this version reads format {FORMAT}; read it with the newer version "
            "that wrote it."
        )
    unknown = set(said) - {*_SIDES, "name", "seeds", "command", "format"}
    if unknown:
        raise BadInput(
            f"A study has no {', '.join(sorted(map(str, unknown)))}; it has name, seeds, [[network]], [[dataset]], [[regime]]."
        )
    parts = {f"{side}s": tuple(_made(kind, one, side) for one in _several(said, side)) for side, kind in _SIDES.items()}
    if not parts["regimes"]:
        del parts["regimes"]
    if "seeds" in said:
        parts["seeds"] = _seeds(said["seeds"], "A study")
    name, command = said.get("name", "study"), said.get("command", "")
    if not isinstance(name, str) or not name or name != Path(name).name:
        raise BadInput(f"The name of the study is {name!r}; it must be text that can name one folder.")
    if not isinstance(command, str):
        raise BadInput(f"The command of the study is {command!r} but must be text.")
    return Study(name=name, command=command, **parts)


def said_of(study: Study) -> dict[str, Any]:
    """See `Study.to_json`."""
    said: dict[str, Any] = {"name": study.name, "seeds": list(study.seeds)}
    if study.command:
        said["command"] = study.command
    for side, kind in _SIDES.items():
        said[side] = [_said(kind, one) for one in getattr(study, f"{side}s")]
    found: dict[str, Any] = plain(said)
    return found


def is_runnable(said: Mapping[str, Any]) -> bool:
    """Whether what `Study.to_json` gave can be run where it is read: networks, splits and functions have names to find them by.

    Parameters
    ----------
    said : mapping
    """
    for side in _SIDES:
        for one in said.get(side, ()):
            if any(isinstance(one.get(name), Mapping) for name in _OBJECTS):
                return False
            if side == "regime" and (any(lost in one.get("function", "") for lost in ("__main__:", "<locals>"))):
                return False
    return True


def _said(kind: type[Any], one: Any) -> dict[str, Any]:
    """The fields that are not what they would be anyway; an object by what it is called."""
    said = {}
    for name, f in kind.__dataclass_fields__.items():
        value = getattr(one, name)
        if name in _OBJECTS and not isinstance(value, str | int | float):
            value = {"object": str(getattr(value, "name", value))}
        if value is None or value == f.default or (name != "name" and value in ((), {})):
            continue
        said[name] = value
    return said


def _several(said: Mapping[str, Any], side: str) -> list[Mapping[str, Any]]:
    found = said.get(side, [])
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        raise BadInput(f"'{side}' is {json.dumps(plain(found))[:60]} but must be tables, each begun by [[{side}]].")
    return found


def _seeds(said: Any, where: str) -> tuple[int, ...]:
    if isinstance(said, int) and not isinstance(said, bool):
        return tuple(range(said))
    if not isinstance(said, list):
        raise BadInput(f"{where} has seeds = {said!r}; give how many, or a list such as [0, 1, 2].")
    return tuple(said)


_TYPES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("d", "n_train", "n_val", "n_test", "n_classes", "images_per_cell"),
                    ("a whole number from 1", lambda v: type(v) is int and v > 0)),
    **dict.fromkeys(("datasets", "networks"),
                    ("a list of names", lambda v: isinstance(v, list) and all(isinstance(one, str) for one in v))),
    "n_val": ("a whole number from 0", lambda v: type(v) is int and v >= 0),
    "source": ("a number", lambda v: type(v) in (int, float)),
    "val": ("the name of a split or a share of train", lambda v: type(v) in (str, int, float)),
    "options": ("a table", lambda v: isinstance(v, dict)),
    "seeds": ("a whole number or a list", lambda v: type(v) in (int, list)),
}  # fmt: skip
"""What the values of a file must be; text, where a key is not here."""


def _made(kind: type[Any], said: Mapping[str, Any], side: str) -> Any:
    known = set(kind.__dataclass_fields__)
    problems = [f"it has no '{key}'" for key in sorted(set(said) - known)]
    needed = {"name", "train", "test"} & known if side == "dataset" else {"name"}
    problems += [f"'{key}' is missing" for key in sorted(needed - set(said))]
    for key in sorted(known & set(said)):
        must_be, is_right = _TYPES.get(key, ("text", lambda v: isinstance(v, str)))
        if not is_right(said[key]) and not (key in _OBJECTS and _is_object(said[key])):
            problems.append(f"'{key}' is {said[key]!r} but must be {must_be}")
    name = said.get("name", "?")
    if problems:
        raise BadInput(
            f"The {side} '{name}' cannot be understood: {'; '.join(problems)}. Known: {', '.join(sorted(known))}."
        )
    given: dict[str, Any] = {k: tuple(v) if k in ("datasets", "networks") else v for k, v in said.items()}
    given |= {key: Unnamed(given[key]["object"]) for key in _OBJECTS if isinstance(given.get(key), Mapping)}
    if "seeds" in given:
        given["seeds"] = _seeds(given["seeds"], f"The {side} '{name}'")
    return kind(**given)


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"object"} and isinstance(value["object"], str)
