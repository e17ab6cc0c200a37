"""What the commands share in printing and parsing."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any


def print_json(value: Any) -> None:
    """Print strict JSON: what is NaN or infinite becomes null."""
    print(json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False))


def numbers(text: str) -> list[float]:
    """Parse "0.1,1,10"."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of numbers such as 0.1,1,10") from error


def penalties(text: str) -> list[float]:
    """Parse "0.1,1,10", or the name of one of the papers' grids."""
    from probe.grids import GRIDS

    if text in GRIDS:
        return [float(value) for value in GRIDS[text]]
    try:
        return numbers(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor the name of a grid: {', '.join(GRIDS)}") from error


def whole_numbers(text: str) -> int | list[int]:
    """Parse "5" as a number and "0,3,7" as a list, of one number too: "3,"."""
    try:
        parts = [int(part) for part in text.removesuffix(",").split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is neither a whole number nor a list such as 0,1,2") from error
    return parts if "," in text else parts[0]


def names(text: str) -> list[str]:
    """Parse "layer1,layer2"."""
    return [part.strip() for part in text.split(",") if part.strip()]


def split_or_fraction(text: str) -> str | float:
    """Parse "0.2" as a fraction to hold out, and anything else as the name of a split."""
    try:
        return float(text)
    except ValueError:
        return text


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
