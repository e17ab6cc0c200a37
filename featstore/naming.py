"""Names that a shell user types: ``package.module:function``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from featstore.errors import UnknownName

__all__ = ["function_named", "is_function_name"]


def is_function_name(spec: str) -> bool:
    """Return whether `spec` has the form ``package.module:function``."""
    module, colon, function = spec.partition(":")
    return bool(colon) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def function_named(spec: str, kind: str, prefixes: Iterable[str]) -> Callable[[], Any]:
    """Return the function that ``package.module:function`` names; modules of the working directory are found, too.

    Parameters
    ----------
    spec : str
    kind : str
        What the part before the colon could have been instead, in words, for messages: ``"library of networks"``.
    prefixes : iterable of str
        The names that this part may have.

    Raises
    ------
    UnknownName
        If there is no such module, or it has no such function.
    """
    name, _, function = spec.partition(":")
    if not is_function_name(spec):
        raise UnknownName(kind, name, prefixes, "A function of yours is written package.module:function.")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # a console script does not have it, `python -m` has
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        hint = f"A module of that name for '{spec}' cannot be imported, either: {error}."
        raise UnknownName(kind, name, prefixes, hint) from error
    found = getattr(module, function, None)
    if not callable(found):
        public = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise UnknownName(f"function in {name}", function, public)
    return found  # type: ignore[no-any-return]
