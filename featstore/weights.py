"""Weights: files read without executing anything, loaded strictly, identified by their content."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.errors import BadInput

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["digest_tensors", "load_weights", "no_download", "read_weights"]

WRAPPERS = ("state_dict", "model_state_dict", "model", "model_ema")
"""Keys under which training scripts keep the weights beside other things."""

N_SHOWN = 4


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a ``.safetensors`` file, or of a file of ``torch.save``, by name.

    Nothing in the file is executed: pickles that hold more than tensors and plain containers are refused.

    Raises
    ------
    BadInput
        If there is no such file, or it is not a file of weights.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise BadInput(f"the weights {path} {what}; give a .safetensors file, or one that torch.save wrote.")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} is not a whole safetensors file: {error}.") from error
    return found


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickles; what cannot be read is an error below
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadInput(
            f"{path} holds more than tensors, and reading it could run code that someone put there. It was not read: "
            "convert it to safetensors where you trust it."
        ) from error
    except Exception as error:  # bytes that are no pickle end in whatever they spell: IndexError, UnicodeDecodeError …
        raise BadInput(
            f"{path} is not a file of weights that torch can read: {type(error).__name__}: {error}."
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping):
        raise BadInput(f"{path} holds a {type(found).__name__}, not tensors by name.")
    tensors = {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
    if tensors and all(name.startswith("module.") for name in tensors):  # left by DataParallel
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def load_weights(module: nn.Module, tensors: Mapping[str, torch.Tensor], *, where: str) -> None:
    """Copy tensors into a network; every name and shape must fit, except that batch norm's counters may be missing.

    Raises
    ------
    BadInput
        If they do not; names what is missing, what is too much and what has another shape.
    """
    own = module.state_dict()
    missing = [n for n in own if n not in tensors and not n.endswith("num_batches_tracked")]
    extra = [n for n in tensors if n not in own]
    shapes = [
        f"{n} is {tuple(t.shape)} in the file and {tuple(own[n].shape)} in the network"
        for n, t in tensors.items()
        if n in own and own[n].shape != t.shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:N_SHOWN])}{', …' if len(names) > N_SHOWN else ''})"
        for names, what in (
            (missing, "tensors are missing"),
            (extra, "are unknown to the network"),
            (shapes, "differ in shape"),
        )
        if names
    ]
    if problems:
        raise BadInput(
            f"the weights {where} do not belong to this {type(module).__name__}: {'; '.join(problems)}. Check the "
            "name of the model, and its number of classes."
        )
    module.load_state_dict(tensors, strict=False)


def no_download(library: str, name: str, error: Exception) -> str:
    """Return the message for weights that a hub did not give, with the ways out."""
    lines = str(error).strip().splitlines()
    return (
        f"the weights of {library}:{name} could not be loaded ({type(error).__name__}: "
        f"{lines[0] if lines else 'no reason given'}). Where this machine cannot download them, fetch the file "
        f"elsewhere and give its path: weights='file.safetensors' (on the command line --weights, or "
        f"{library}:{name}@file.safetensors); weights=None gives random ones."
    )


def digest_tensors(tensors: Mapping[str, torch.Tensor], names: Collection[str]) -> str:
    """Return 32 hexadecimal digits of the sha256 of the named tensors: sorted name, dtype, shape, bytes."""
    import torch

    running = hashlib.sha256()
    for name in sorted(names):
        tensor = tensors[name].detach()
        running.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        flat: Any = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        running.update(flat.data)
    return running.hexdigest()[:32]
