"""Fitted probes on disk, in a form that needs no version of this package: numbers in safetensors, words in JSON.

::

    NAME.safetensors   coef (k, d) and intercept (k,), float64; k = 1 row for two classes, of the second one
    NAME.json          format, task, classes, loss, C and its convention, the certificate, about, and the sha256 of the other file

What a reader does: scores = X · coefᵀ + intercept. "multinomial": the class of the largest score, probabilities are their softmax
(of the logistic loss). "binary": the second class where the score is above 0, its probability 1 / (1 + exp(-score)).
"multi-label": each label where its score is above 0. ``classes`` are the labels themselves; ``about`` is the caller's.

The one file of this package that knows safetensors.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probe.arrays import to_numpy
from probe.chosen import a_mapping
from probe.errors import BadInput, DamagedRecord
from probe.files import as_path, write_atomically
from probe.labels import Loss, Task
from probe.model import Model
from probe.status import Status

if TYPE_CHECKING:
    from probe.estimator import LinearProbe

FORMAT = 1
"""Version of the layout; files of a later one are refused, not guessed at."""

CONVENTION = "minimise C * sum of losses + 1/2 ||coef||^2, intercept not penalised (scikit-learn's C)"
_CERTIFICATE = ("grad_norm", "gap", "coef_error", "objective")


def save_model(model: Model | LinearProbe, path: str | Path, *, about: Mapping[str, Any] | None = None) -> Path:
    """Write a fitted probe to ``path.safetensors`` and ``path.json``.

    Parameters
    ----------
    model : Model or LinearProbe
    path : str or Path
        Without an ending.
    about : mapping, optional
        Plain values to be kept with it: the network, its unit and weights digest, the data, …

    Returns
    -------
    Path
        Of the JSON file.

    Raises
    ------
    BadInput
        On classes that are neither numbers nor text, and where the files cannot be written.
    """
    from safetensors.numpy import save

    fitted = _fitted(model)
    kept = {} if about is None else dict(a_mapping(about, "about", "{what: plain value}"))
    base, classes = _base(path), np.asarray(fitted.classes)
    if classes.dtype.kind not in "biuUf":
        raise BadInput(f"The classes are {classes.dtype}; only numbers and text can be written.")
    tensors = {
        "coef": np.ascontiguousarray(to_numpy(fitted.coef), dtype=np.float64),
        "intercept": np.ascontiguousarray(to_numpy(fitted.intercept), dtype=np.float64),
    }
    content = save(tensors)
    said = {
        "format": FORMAT, "kind": "linear probe", "task": fitted.task.value, "loss": str(fitted.loss),
        "classes": classes.tolist(), "classes_dtype": classes.dtype.str, "C": float(fitted.C), "convention": CONVENTION,
        "status": fitted.status.value, "n_iter": int(fitted.n_iter), "passes": int(fitted.passes),
        **{name: _finite(getattr(fitted, name)) for name in _CERTIFICATE},
        "about": kept, "tensors": f"{base.name}.safetensors", "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    try:
        text = json.dumps(said, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise BadInput(f"What was said about the model is not plain: {error}. Give numbers, text, lists.") from error
    write_atomically(base.with_name(f"{base.name}.safetensors"), content)
    described = base.with_name(f"{base.name}.json")
    write_atomically(described, text.encode())
    return described


def load_model(path: str | Path) -> Model:
    """Read a probe that `save_model` wrote. Nothing in the files is executed.

    Parameters
    ----------
    path : str or Path
        As it was given to `save_model`, or one of the two files.

    Returns
    -------
    Model
        Of numpy arrays.

    Raises
    ------
    BadInput
        Where there is none, or it was written by a later version.
    DamagedRecord
        Where the files are not what was written, or do not belong together.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    base = _base(path)
    described = base.with_name(f"{base.name}.json")
    said = read_json_object(described, "a saved probe")
    if isinstance(said.get("format"), int) and said["format"] > FORMAT:
        raise BadInput(
            f"The probe '{described}' has format {said['format']} but this version reads formats up to {FORMAT}; read it "
            "with the newer version that wrote it."
        )
    try:
        beside = base.with_name(
            f"{base.name}.safetensors"
        )  # the pair may have been renamed; its checksum says that it is one
        content = (beside if beside.exists() else base.parent / Path(said["tensors"]).name).read_bytes()
        if hashlib.sha256(content).hexdigest() != said["sha256"]:
            raise DamagedRecord(
                f"The tensors of '{described}' are not those that were written with it; save the probe again."
            )
        tensors = load(content)
        classes = np.array(said["classes"], dtype=said["classes_dtype"])
        return Model(
            coef=tensors["coef"],
            intercept=tensors["intercept"],
            classes=classes,
            C=float(said["C"]),
            status=Status(said["status"]),
            grad_norm=float(said["grad_norm"]),
            gap=float(said["gap"]),
            coef_error=float(said["coef_error"]),
            objective=float(said["objective"]),
            n_iter=int(said["n_iter"]),
            passes=int(said["passes"]),
            task=Task(said["task"]),
            loss=Loss(said["loss"]),
        )
    except OSError as error:
        raise BadInput(f"The tensors of '{described}' cannot be read: {error.strerror or error}.") from error
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise DamagedRecord(f"'{described}' does not describe a probe ({error!r}); save the probe again.") from error


def read_json_object(path: Path, what: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises
    ------
    BadInput
        Where the file cannot be read, or holds no JSON object.
    """
    try:
        said = json.loads(path.read_bytes())
    except OSError as error:
        raise BadInput(f"There is no {what.removeprefix('a ')} at '{path}': {error.strerror or error}.") from error
    except ValueError as error:
        raise BadInput(f"'{path}' is not {what}: it is no valid JSON ({error}).") from error
    if not isinstance(said, dict):
        raise BadInput(f"'{path}' is not {what}: it holds {type(said).__name__}, not an object.")
    return said


def _fitted(model: Model | LinearProbe) -> Model:
    if isinstance(model, Model):
        return model
    found = getattr(model, "model_", None)
    if not isinstance(found, Model):
        raise BadInput(
            f"{type(model).__name__} is not fitted, or no probe; fit it first, or pass what probe.fit returns."
        )
    return found


def _base(path: str | Path) -> Path:
    path = as_path(path, "A saved probe")
    return path.with_suffix("") if path.suffix in (".safetensors", ".json") else path


def _finite(value: float) -> float | str:
    value = float(value)
    return value if math.isfinite(value) else str(value)
