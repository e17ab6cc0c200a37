"""`Run`: one training on disk. What it was asked, what happened, the weights, what it predicts for which sample, and
where it ran.

::

    out/
      run.json                  identity (recipe, network, data), classes, sessions (when, environment), result
      checkpoint.safetensors    while the training is not finished
      best.safetensors          moving tensors that the recipe's rule keeps
      last.safetensors          moving tensors after the last step
      predictions/val.npz, test.npz

``run.json`` says ``complete`` last, after every other file is in place: a kill at any moment leaves a run that the
same call continues.
"""

from __future__ import annotations

import contextlib
import json
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.checkpoint import Checkpoint, Row, refuse_another
from finetune.errors import BadInput, CorruptRun, RunBusy, RunWrite
from finetune.files import FORMAT, read_tensors, write_atomically, write_tensors
from finetune.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featstore import Backbone
    from finetune.loop import Trained
    from probe import Predictions

_RECORD = "run.json"


@dataclass(frozen=True, eq=False)
class Run:
    """One finished training.

    Attributes
    ----------
    path : Path
        Its folder.
    identity : mapping
        Everything that the result depends on: regime, recipe, network, data, labels, metric.
    recipe : Recipe
        The hyper-parameters.
    classes : tuple of str
        Names of the classes, in the order of the logits.
    history : tuple of Row
        One row per evaluation.
    kept_step : int
        Updates after which the kept weights were taken.
    stopped : str
        Why the training ended.
    seconds : float
        Spent training and evaluating, interruptions left out.
    scores : mapping of str to float
        Metric of the kept weights on ``"val"`` and ``"test"``, where there are such splits.
    sessions : tuple of mapping
        When, where and with which versions each call worked on it.
    """

    path: Path
    identity: Mapping[str, Any]
    recipe: Recipe
    classes: tuple[str, ...]
    history: tuple[Row, ...]
    kept_step: int
    stopped: str
    seconds: float
    scores: Mapping[str, float]
    sessions: tuple[Mapping[str, Any], ...] = field(repr=False)

    @property
    def regime(self) -> str:
        """Name of the function that made it: ``"tune_head"``."""
        return str(self.identity["regime"])

    @property
    def predictions(self) -> dict[str, Predictions]:
        """Predictions of the kept weights on ``"val"`` and ``"test"``, with logits as scores, read from disk."""
        from probe import Predictions

        return {name: Predictions.load(self.path / "predictions" / f"{name}.npz") for name in self.scores}

    def weights(self, which: str = "best") -> dict[str, Tensor]:
        """Tensors that the training moved, on the CPU, under their names in the network's state dict.

        Parameters
        ----------
        which : str
            ``"best"``: those that the recipe's rule keeps; ``"last"``: those after the last step.

        Raises
        ------
        BadInput
            Another word.
        CorruptRun
            The file is damaged.
        """
        if which not in ("best", "last"):
            raise BadInput(f"there are no {which!r} weights of a run; ask for 'best' or 'last'.")
        return read_tensors(self.path / f"{which}.safetensors")[0]

    def network(self, backbone: Backbone) -> nn.Module:
        """The whole network as trained, images to logits of this run's classes, in evaluation mode.

        Parameters
        ----------
        backbone : Backbone
            The network that the run began from; not changed. Its preprocessing is the network's too.

        Raises
        ------
        BadInput
            It has other weights than the run began from.
        """
        import torch

        from finetune.heads import head_name, with_head

        began_from = self.identity["network"]["weights_digest"]
        if backbone.weights_digest != began_from:
            raise BadInput(
                f"{backbone.name} has weights {backbone.weights_digest} and the run in {self.path} began from weights "
                f"{began_from}; its head does not belong on other features: load the backbone that it was made with."
            )
        tensors = {name.rpartition(".")[2]: tensor for name, tensor in self.weights().items()}
        k, d = tensors["weight"].shape
        head = torch.nn.Linear(d, k, bias="bias" in tensors)
        head.load_state_dict(tensors)
        assert set(self.weights()) == {f"{head_name(backbone)}.{name}" for name in tensors}
        return with_head(backbone, head)

    def to_json(self) -> dict[str, Any]:
        """The run as plain numbers, strings, lists and dictionaries."""
        described = {name: value for name, value in vars(self).items() if name not in ("path", "recipe", "sessions")}
        described |= {"path": str(self.path), "history": [asdict(row) for row in self.history]}
        return described | {"classes": list(self.classes), "sessions": [dict(s) for s in self.sessions]}


def open_run(path: str | Path) -> Run:
    """Open a finished run.

    Parameters
    ----------
    path : str or Path
        The folder that was given as ``out``.

    Raises
    ------
    BadInput
        No run there, or one that is not finished.
    CorruptRun
        The record is damaged or of a newer format.
    """
    folder = RunFolder(Path(path), None)
    record = folder.record()
    if record is None:
        raise BadInput(f"{path} holds no run: there is no {_RECORD} in it. Give the folder that a training had as out.")
    run = folder.finished()
    if run is None:
        raise BadInput(f"the run in {path} is not finished; the call that began it continues it.")
    return run


@dataclass(eq=False)
class RunFolder:
    """The folder of a run that is being made.

    Parameters
    ----------
    path : Path
        The folder.
    identity : mapping or None
        What is asked for; None to read whatever there is.
    """

    path: Path
    identity: Mapping[str, Any] | None

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the training keeps its state."""
        return Checkpoint(self.path / "checkpoint.safetensors", self.identity or {})

    def record(self) -> dict[str, Any] | None:
        """The content of ``run.json``; None where there is none.

        Raises
        ------
        CorruptRun
            It is no JSON, or of a newer format.
        """
        path = self.path / _RECORD
        if not path.is_file():
            return None
        try:
            record: dict[str, Any] = json.loads(path.read_bytes())
            stored_format = int(record["format"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptRun(f"{path} is damaged ({error}); remove the folder and train again.") from error
        if stored_format > FORMAT:
            raise CorruptRun(
                f"{path} has format {stored_format}, newer than the {FORMAT} of this version; upgrade to read it."
            )
        return record

    def finished(self) -> Run | None:
        """The run, if it is finished."""
        record = self.record()
        if record is None or record["state"] != "complete":
            return None
        result = dict(record["result"])
        history = tuple(Row(**row) for row in result.pop("history"))
        return Run(
            path=self.path,
            identity=record["identity"],
            recipe=Recipe.from_json(record["identity"]["recipe"]),
            classes=tuple(record["classes"]),
            sessions=tuple(record["sessions"]),
            history=history,
            **result,
        )

    def finish(self, trained: Trained, predictions: Mapping[str, Predictions], scores: Mapping[str, float]) -> Run:
        """Write weights and predictions, then say that the run is complete, then drop the checkpoint.

        Parameters
        ----------
        trained : Trained
            What the loop ended with; tensors under their names in the network's state dict.
        predictions : mapping of str to Predictions
            By ``"val"`` and ``"test"``.
        scores : mapping of str to float
            The metric, likewise.
        """
        about = {"identity": dict(self.identity or {})}
        write_tensors(self.path / "best.safetensors", trained.kept, {**about, "step": trained.kept_step})
        write_tensors(self.path / "last.safetensors", trained.last, {**about, "step": trained.history[-1].step})
        for name, said in predictions.items():
            write_atomically(self.path / "predictions" / f"{name}.npz", said.to_bytes())
        result = {name: getattr(trained, name) for name in ("kept_step", "stopped", "seconds")}
        result |= {"history": [asdict(row) for row in trained.history], "scores": dict(scores)}
        self._write({**(self.record() or {}), "state": "complete", "result": result})
        self.checkpoint.path.unlink(missing_ok=True)
        run = self.finished()
        assert run is not None
        return run

    def begin(self, classes: tuple[str, ...], device: str) -> None:
        """Write down what is asked for, and that a session begins.

        Raises
        ------
        DifferentRun
            The folder holds another training; the differences in words.
        """
        record = self.record() or {"format": FORMAT, "state": "running", "identity": self.identity, "sessions": []}
        refuse_another(self.path, record["identity"], self.identity or {})
        if record["state"] != "complete":
            record["sessions"] = [*record["sessions"], environment(device)]
            self._write({**record, "classes": list(classes)})

    def _write(self, record: Mapping[str, Any]) -> None:
        write_atomically(self.path / _RECORD, json.dumps(record, indent=1, allow_nan=False).encode())


def check_folder(path: Path) -> None:
    """Make sure that a run can be made in a folder before any work is done for it.

    Raises
    ------
    BadInput
        It is a file, or a folder of other things.
    """
    if path.exists() and not path.is_dir():
        raise BadInput(f"{path} is a file; a run needs a folder of its own.")
    ours = {"features", "predictions"}
    others = [] if not path.is_dir() else sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    if not (path / _RECORD).exists() and set(others) - ours:
        raise BadInput(
            f"{path} holds other things ({', '.join(others[:3])}) and no run; give the run a folder of its own."
        )


@contextlib.contextmanager
def run_folder(
    path: Path, identity: Mapping[str, Any], *, classes: tuple[str, ...], device: str
) -> Iterator[RunFolder]:
    """Become the one writer of a run.

    Parameters
    ----------
    path : Path
        The folder; made where it is missing.
    identity : mapping
        Everything that the result depends on.
    classes : tuple of str
        Names of the classes, in the order of the logits.
    device : str
        Where the training runs, for the record.

    Yields
    ------
    RunFolder
        Possibly of a finished run.

    Raises
    ------
    RunBusy
        Another process is writing it.
    RunWrite
        It cannot be written.
    DifferentRun
        It holds another training.
    """
    from filelock import FileLock, Timeout

    folder = RunFolder(path, json.loads(json.dumps(identity)))
    if folder.finished() is not None:
        folder.begin(classes, device)  # refuses another training; writes nothing, so that an archived run can be read
        yield folder
        return
    lock = FileLock(path / ".lock", timeout=0)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise RunBusy(
            f"another process is training in {path}. Wait for it, or give this training a folder of its own."
        ) from error
    except OSError as error:
        raise RunWrite(
            f"{path} cannot be written: {error.strerror or error}. A run needs a folder that it can write to."
        ) from error
    try:
        folder.begin(classes, device)
        yield folder
    finally:
        lock.release()


def environment(device: str) -> dict[str, Any]:
    """When, where and with which versions: what a number that cannot be reproduced may be due to.

    Parameters
    ----------
    device : str
        ``"cpu"``, ``"cuda"`` …
    """
    from importlib.metadata import PackageNotFoundError, version

    import numpy
    import torch

    def version_of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:  # run from a checkout
            return "unknown"

    found = {"started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "device": device}
    if torch.device(device).type == "cuda":
        found["device_name"] = torch.cuda.get_device_name(device)
    return found | {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "featprobe": version_of("featprobe"),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "threads": torch.get_num_threads(),
    }
