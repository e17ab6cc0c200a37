"""The folder of a run while it is made: one writer, one identity. `finetune.run` says what is in it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.checkpoint import Checkpoint, refuse_another
from finetune.errors import BadInput, RunBusy, RunWrite
from finetune.files import FORMAT, write_atomically, write_tensors
from finetune.run import RECORD, Run, finished_run, read_record

if TYPE_CHECKING:
    from finetune.loop import Trained
    from probe import Predictions


@dataclass(eq=False)
class RunFolder:
    """The folder of a run that is being made.

    Parameters
    ----------
    path : Path
        The folder.
    identity : mapping
        What is asked for, as plain JSON.
    """

    path: Path
    identity: Mapping[str, Any]

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the training keeps its state."""
        return Checkpoint(self.path / "checkpoint.safetensors", self.identity)

    def finish(
        self,
        trained: Trained,
        predictions: Mapping[str, Predictions],
        scores: Mapping[str, float],
        details: Mapping[str, Any],
    ) -> Run:
        """Write weights and predictions, then say that the run is complete, then drop the checkpoint.

        Parameters
        ----------
        trained : Trained
            What the loop ended with; tensors under their names in the network's state dict.
        predictions : mapping of str to Predictions
            By ``"val"`` and ``"test"``.
        scores : mapping of str to float
            The metric, likewise.
        details : mapping
            What else the regime tells, as plain JSON.
        """
        about = {"identity": dict(self.identity)}
        write_tensors(self.path / "best.safetensors", trained.kept, {**about, "step": trained.kept_step})
        write_tensors(self.path / "last.safetensors", trained.last, {**about, "step": trained.history[-1].step})
        for name, said in predictions.items():
            write_atomically(self.path / "predictions" / f"{name}.npz", said.to_bytes())
        result = {name: getattr(trained, name) for name in ("kept_step", "stopped", "seconds")}
        result |= {
            "history": [asdict(row) for row in trained.history],
            "scores": dict(scores),
            "details": dict(details),
        }
        self._write({**(read_record(self.path) or {}), "state": "complete", "result": result})
        self.checkpoint.path.unlink(missing_ok=True)
        run = finished_run(self.path)
        assert run is not None
        return run

    def begin(self, classes: tuple[str, ...], device: str) -> None:
        """Write down what is asked for, and that a session begins.

        Raises
        ------
        DifferentRun
            The folder holds another training; the differences in words.
        """
        fresh: dict[str, Any] = {"format": FORMAT, "state": "running", "identity": self.identity, "sessions": []}
        record = read_record(self.path) or fresh
        if record["state"] == "complete" or _is_begun(self.path):
            refuse_another(self.path, record["identity"], self.identity)
        elif record["identity"] != self.identity:  # a call that failed before its training began
            record = fresh
        if record["state"] != "complete":
            record["sessions"] = [*record["sessions"], environment(device)]
            self._write({**record, "classes": list(classes)})

    def _write(self, record: Mapping[str, Any]) -> None:
        write_atomically(self.path / RECORD, json.dumps(record, indent=1, allow_nan=False).encode())


def _is_begun(path: Path) -> bool:
    """Whether an unfinished run holds anything of a training: weights, its state, or the runs of candidates."""
    return any(found for pattern in ("*.safetensors", f"*/{RECORD}", f"*/*/{RECORD}") for found in path.glob(pattern))


def folder_named(out: Any, what: str = "out") -> Path:
    """The folder that a caller names.

    Raises
    ------
    BadInput
        Where it is no path.
    """
    if not isinstance(out, str | os.PathLike) or not os.fspath(out):
        raise BadInput(f"{what} is {out!r}; name a folder, a path of its own for every training.")
    return Path(out)


def check_folder(out: Any) -> Path:
    """Make sure that a run can be made in a folder before any work is done for it.

    Raises
    ------
    BadInput
        It is no path, a file, or a folder of other things.
    """
    path = folder_named(out)
    if path.exists() and not path.is_dir():
        raise BadInput(f"{path} is a file; a run needs a folder of its own.")
    ours = {"features", "predictions"}
    others = [] if not path.is_dir() else sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    if not (path / RECORD).exists() and set(others) - ours:
        raise BadInput(
            f"{path} holds other things ({', '.join(others[:3])}) and no run; give the run a folder of its own."
        )
    return path


def is_folder_name(name: Any) -> bool:
    """Whether a name can be that of a folder inside another: a text that cannot lead out of it."""
    return isinstance(name, str) and bool(name) and not set(name) & set("/\\\0") and not name.startswith(".")


def check_candidates(path: Path) -> None:
    """Make sure that a folder is one of candidates' runs, or can become one.

    Raises
    ------
    BadInput
        It is a file, or a folder of other things.
    """
    if path.exists() and not path.is_dir():
        raise BadInput(f"{path} is a file; the runs of candidates need a folder.")
    entries = [p for p in path.iterdir() if not p.name.startswith(".")] if path.is_dir() else []
    others = sorted(p.name for p in entries if p.name != "inputs.json" and not (p / RECORD).exists())
    if others and len(others) == len([p for p in entries if p.name != "inputs.json"]):
        raise BadInput(
            f"{path} holds other things ({', '.join(others[:3])}) and no runs; give the candidates a folder of their own."
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
    if finished_run(path) is not None:
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
