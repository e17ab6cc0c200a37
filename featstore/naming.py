"""Names that a shell user types: ``package.module:function``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from featstore.errors import BadInput, UnknownName

__all__ = ["function_named", "is_function_name"]


def is_function_name(spec: str) -> bool:
    """Return whether `spec` has the form ``package.module:function``."""
    module, colon, function = spec.partition(":")
    return bool(colon) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def function_named(spec: str, what: str) -> Callable[[], Any]:
    """Return the function that ``package.module:function`` names; modules of the working directory are found, too.

    Raises
    ------
    BadInput
        If the module cannot be imported.
    UnknownName
        If it has no such function.
    """
    name, _, function = spec.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # a console script does not have it, `python -m` has
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise BadInput(
            f"{what} '{spec}' cannot be loaded: {error}. Known prefixes come before a colon ('timm:', "
            "'imagefolder:'); else what stands before it must be a module that Python can import from here."
        ) from error
    found = getattr(module, function, None)
    if not callable(found):
        public = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise UnknownName(f"function in {name}", function, public)
    return found  # type: ignore[no-any-return]
