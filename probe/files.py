"""Writing files that are either there in full or not there: aside, flushed to the disk, then renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Any

from probe.errors import BadInput


def as_path(given: Any, what: str = "A file or folder") -> Path:
    """A path that a caller gives.

    Parameters
    ----------
    given : str or os.PathLike
    what : str
        What is at it, for errors.

    Raises
    ------
    BadInput
        On anything else.
    """
    if not isinstance(given, str | os.PathLike):
        raise BadInput(f"{what} is needed by its path, as text or a pathlib.Path, but is {type(given).__name__}.")
    if isinstance(given, str) and (not given or "\0" in given):
        raise BadInput(f"{what} is needed by its path, but {given!r} names none.")
    return Path(given)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that any reader, and any crash, sees the old content or the new, never a part.

    Parameters
    ----------
    path : Path
        Its folder is made where missing. Several processes may write the same path: the last one to finish stays.
    content : bytes

    Raises
    ------
    BadInput
        Where the folder cannot be made or written to, or the disk is full; nothing is left behind then.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(aside, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise
        _flush_folder(path.parent)
    except OSError as error:
        raise BadInput(
            f"'{path}' cannot be written: {error.strerror or error}; nothing was changed there. "
            "Free space or choose a folder you may write to."
        ) from error


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system lets folders be flushed (not on Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
