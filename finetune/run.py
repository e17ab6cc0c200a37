"""`Run`: one training on disk: what was asked, what happened, the weights, what it says about which sample.

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

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.checking import refuse_other_types
from finetune.checkpoint import Row
from finetune.errors import BadInput, CorruptRun
from finetune.files import FORMAT, read_tensors
from finetune.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featstore import Backbone
    from probe import Predictions

RECORD = "run.json"
_ANEW = "Remove the folder and train again."
_KEYS = {"format", "state", "identity", "classes", "sessions"}


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
    details : mapping
        What else there is to tell: the view of the images that was better on val, the probe that the head began as, the
        thresholds that val chose, how many images splits share.
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
    details: Mapping[str, Any]
    sessions: tuple[Mapping[str, Any], ...] = field(repr=False)

    @property
    def regime(self) -> str:
        """Name of the function that made it: ``"tune_head"``."""
        return str(self.identity["regime"])

    @property
    def view(self) -> str:
        """How its test images are looked at: what its recipe says, or, of two views, the one that was better on val."""
        chosen: str = self.details.get("view", {}).get("chosen", self.recipe.view)
        return chosen

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
        return read_tensors(self.path / f"{which}.safetensors", advice=_ANEW)[0]

    def network(self, backbone: Backbone) -> nn.Module:
        """The whole network as trained, images to logits of this run's classes, in evaluation mode.

        Parameters
        ----------
        backbone : Backbone
            The network that the run began from; not changed. Its preprocessing is the network's too.

        Raises
        ------
        BadInput
            It has other weights than the run began from, or another preprocessing.
        """
        import featstore

        backbones = {"backbone": (backbone, featstore.Backbone, "featstore.load_backbone(…) makes one")}
        refuse_other_types(backbones, "this network")
        if self.regime == "flex_tune":  # another training than that of a unit builds its network itself
            return open_run(self.path / self.details["run"]).network(backbone)
        from finetune.adapters import adapted
        from finetune.heads import head_for
        from finetune.networks import with_head
        from finetune.records import revived
        from finetune.scale_shift import fold_scale_shift

        began = self.identity["network"]
        if self.regime == "from_scratch":
            if backbone.cut != began["cut"]:
                raise BadInput(
                    f"{backbone.name} is another architecture than the {began['backbone']} that the run in {self.path} "
                    "trained; its weights do not fit: load the backbone that it was made with, with any weights."
                )
        elif backbone.weights_digest != began["weights_digest"]:
            raise BadInput(
                f"{backbone.name} has weights {backbone.weights_digest} and the run in {self.path} began from weights "
                f"{began['weights_digest']}; its head does not belong on other features: load the backbone that it was "
                "made with."
            )
        if "preprocessing" in began:
            seen = backbone.preprocessing.to_json()
            if others := featstore.differences(began["preprocessing"], seen, names=("of the run", "of the backbone")):
                raise BadInput(
                    f"{backbone.name} has another preprocessing than the run in {self.path} was trained with: "
                    f"{', '.join(others)}; its weights do not belong on other inputs: load the backbone that it was made with."
                )
        head = head_for(backbone, self.identity["n_classes"], self.identity["head_rows"], seed=self.recipe.seed)
        network, tensors = with_head(backbone, head), self.weights()
        fold_scale_shift(network, tensors)
        if "adapter" in self.identity:
            adapter = revived(self.identity["adapter"])
            network = adapted(network, adapter, backbone.preprocessing, seed=self.recipe.seed)
        own = {name: t for name, t in tensors.items() if not name.startswith("auxiliary.") and ".parametr" not in name}
        unexpected = network.load_state_dict(own, strict=False).unexpected_keys
        assert not unexpected, unexpected
        return network

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
    if not isinstance(path, str | os.PathLike):
        raise BadInput(f"{path!r:.80} is no path; give the folder that a training had as out.")
    if read_record(Path(path)) is None:
        raise BadInput(f"{path} holds no run: there is no {RECORD} in it. Give the folder that a training had as out.")
    run = finished_run(Path(path))
    if run is None:
        raise BadInput(f"the run in {path} is not finished; the call that began it continues it.")
    return run


def read_record(folder: Path) -> dict[str, Any] | None:
    """The content of a folder's ``run.json``; None where there is none.

    Raises
    ------
    CorruptRun
        It is not what was written, or of a newer format.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
        missing = _KEYS - set(record)
        is_newer = not missing and record["format"] > FORMAT
    except (ValueError, TypeError) as error:
        raise CorruptRun(f"{path} is damaged ({error}); remove the folder and train again.") from error
    if missing:
        raise CorruptRun(
            f"{path} is damaged (it lacks {', '.join(sorted(missing))}); remove the folder and train again."
        )
    if is_newer:
        raise CorruptRun(
            f"{path} has format {record['format']}, newer than this version's {FORMAT}; upgrade to read it."
        )
    return dict(record)


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file of ours; None where there is none.

    Raises
    ------
    CorruptRun
        It is damaged.
    """
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise CorruptRun(f"{path} is damaged ({error}); remove it and call again.") from error


def finished_run(folder: Path) -> Run | None:
    """The run of a folder, if there is one and it is finished.

    Raises
    ------
    CorruptRun
        Its record is damaged or of a newer format.
    """
    record = read_record(folder)
    if record is None or record["state"] != "complete":
        return None
    try:
        result = dict(record["result"])
        history = tuple(Row(**row) for row in result.pop("history"))
        return Run(
            path=folder,
            identity=record["identity"],
            recipe=Recipe.from_json(record["identity"]["recipe"]),
            classes=tuple(record["classes"]),
            sessions=tuple(record["sessions"]),
            history=history,
            **result,
        )
    except (BadInput, KeyError, TypeError) as error:
        raise CorruptRun(f"{folder / RECORD} is damaged ({error}); remove the folder and train again.") from error
