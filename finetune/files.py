"""Files of a run: written aside and moved into place; tensors with a checksum.

The only file of `finetune` that knows safetensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import CorruptRun, RunWrite

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
"""Format of every file written here; a file with a higher number is refused."""

_ANEW = "Remove it and call again; the training starts anew."


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a kill at any moment leaves the old one or the new one, whole.

    Parameters
    ----------
    path : Path
        Where to; missing folders are made.
    data : bytes
        The content.

    Raises
    ------
    RunWrite
        The disk is full, the folder is read-only …; the old file is still good.
    """
    partial = path.with_name(f".{path.name}.partial")  # one writer per run: what a kill leaves is overwritten
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise RunWrite(
            f"{path} ({len(data):,} bytes) could not be written: {error.strerror or error}. "
            "What was there before is still good: free space or choose another folder, then call again to continue."
        ) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-like description into one safetensors file, with a checksum over both.

    Parameters
    ----------
    path : Path
        Where to.
    tensors : mapping of str to Tensor
        Copied to the CPU.
    about : mapping
        Plain numbers, strings, lists and dictionaries; NaN is not allowed.
    """
    from safetensors.torch import save

    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"format": FORMAT, **about}, allow_nan=False)
    write_atomically(path, save(on_cpu, {"finetune": text, "blake2b": _checksum(on_cpu, text)}))


def read_tensors(path: Path, *, advice: str = _ANEW) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote, on the CPU.

    Parameters
    ----------
    path : Path
        The file.
    advice : str
        What to do where it is damaged, as a sentence.

    Returns
    -------
    tensors : dict of str to Tensor
        Under the names they were written with.
    about : dict
        The description.

    Raises
    ------
    CorruptRun
        The file is truncated, edited, of a newer format, or not one of ours.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — not a mapping
    except (SafetensorError, OSError) as error:
        raise CorruptRun(f"{path} cannot be read: {error}. {advice}") from error
    text = metadata.get("finetune")
    if text is None or metadata.get("blake2b") != _checksum(tensors, text):
        raise CorruptRun(
            f"{path} does not have the checksum it was written with: it was edited or damaged and cannot be "
            f"trusted. {advice}"
        )
    about: dict[str, Any] = json.loads(text)
    if about.pop("format") > FORMAT:
        raise CorruptRun(
            f"{path} was written by a newer version of finetune than this one (format {FORMAT}); upgrade to read it."
        )
    return tensors, about


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    from torch import uint8 as byte

    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(byte).numpy().data)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut, where the system can (it cannot on Windows)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
