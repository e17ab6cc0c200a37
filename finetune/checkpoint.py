"""The state of a training between two steps: everything that its future depends on, in one file.

The order of the samples needs no state (see `finetune.examples`), so moving tensors, the best ones so far, the
optimiser's state, the random generators, the step and the history are all there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import DifferentRun
from finetune.files import read_tensors, write_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from finetune.stepping import Stepper
    from finetune.trainable import Moving


@dataclass(frozen=True)
class Row:
    """One line of a training's history, written at each evaluation.

    Attributes
    ----------
    step : int
        Updates done.
    epoch : float
        Passes over the training samples.
    seconds : float
        Since the training began, interruptions left out.
    lr : float
        Learning rate of the latest update.
    train_loss : float
        Mean of the batch losses since the row before, each taken before its update.
    val : float or None
        Score on the validation split; None without one.
    """

    step: int
    epoch: float
    seconds: float
    lr: float
    train_loss: float
    val: float | None


@dataclass
class Position:
    """Where a training stands.

    Attributes
    ----------
    step : int
        Updates done.
    seconds : float
        Spent so far, interruptions left out.
    loss_sum, n_losses : float, int
        Of the batches since the latest row of history.
    history : list of Row
        One row per evaluation.
    stopped : str or None
        Why the training ended, as a sentence; None while it goes on.
    best : dict of str to Tensor, or None
        Moving tensors of the best evaluation so far, where the recipe keeps them.
    """

    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    n_losses: int = 0
    history: list[Row] = field(default_factory=list)
    stopped: str | None = None
    best: dict[str, Tensor] | None = None


@dataclass(eq=False)
class Forward:
    """What a forward pass changes although no step is taken: batch norm's statistics, and what dropout has drawn.

    Parameters
    ----------
    moving : Moving
    device : torch.device
    """

    moving: Moving
    device: torch.device
    _copies: list[Tensor] = field(init=False)
    _random: dict[str, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._copies = [tensor.clone() for tensor in self.moving.statistics.values()]

    def note(self) -> None:
        """Remember how it is before the next pass."""
        self._random = random_states(self.device)
        self._copy(self._copies, list(self.moving.statistics.values()))

    def undo(self) -> None:
        """Put back what was remembered."""
        restore_random_states(self._random, self.device)
        self._copy(list(self.moving.statistics.values()), self._copies)

    @staticmethod
    def _copy(to: list[Tensor], of: list[Tensor]) -> None:
        import torch

        with torch.no_grad():
            if to:
                torch._foreach_copy_(to, of)  # all in one call: a network has hundreds


@dataclass(eq=False)
class Checkpoint:
    """The file in which a training keeps its state.

    Parameters
    ----------
    path : Path
        The file; it need not exist.
    identity : mapping
        JSON-like: recipe, network, data. A checkpoint of another identity is refused.

    Attributes
    ----------
    saved_step : int or None
        Updates done when the file was last written or read; None before.
    """

    path: Path
    identity: Mapping[str, Any]
    saved_step: int | None = None

    def save(self, position: Position, moving: Moving, steps: Stepper, device: torch.device) -> None:
        """Write the state, replacing the file in one move.

        Raises
        ------
        RunWrite
            The file cannot be written; the one before is still good.
        """
        tensors = {f"moving/{name}": tensor for name, tensor in moving.state().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in (position.best or {}).items()}
        tensors |= {f"random/{name}": tensor for name, tensor in random_states(device).items()}
        scalars: dict[str, dict[str, Any]] = {}
        for index, values in steps.optimizer.state_dict()["state"].items():
            for key, value in values.items():
                if hasattr(value, "dtype"):
                    tensors[f"optimizer/{index}/{key}"] = value
                else:
                    scalars.setdefault(str(index), {})[key] = value
        at = {name: value for name, value in vars(position).items() if name not in ("history", "best")}
        at |= {"history": [asdict(row) for row in position.history], "has_best": position.best is not None}
        write_tensors(
            self.path,
            tensors,
            {"identity": dict(self.identity), "position": at, "optimizer": scalars, "scale": steps.scale_state()},
        )
        self.saved_step = position.step

    def resume(self, moving: Moving, steps: Stepper, device: torch.device) -> Position | None:
        """Put the stored state into network, optimiser and random generators.

        Returns
        -------
        Position or None
            Where the training stood; None where there is no file.

        Raises
        ------
        DifferentRun
            The file belongs to another recipe, network or data; the differences in words.
        CorruptRun
            The file is damaged.
        """
        if not self.path.exists():
            return None
        tensors, about = read_tensors(self.path)
        refuse_another(self.path, about["identity"], self.identity)
        moving.load(_under("moving/", tensors))
        state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in about["optimizer"].items()}
        for name, tensor in _under("optimizer/", tensors).items():
            index, _, key = name.partition("/")
            state.setdefault(int(index), {})[key] = tensor
        groups = steps.optimizer.state_dict()["param_groups"]
        steps.optimizer.load_state_dict({"state": state, "param_groups": groups})
        steps.load_scale(about["scale"])
        restore_random_states(_under("random/", tensors), device)
        at = dict(about["position"])
        history = [Row(**row) for row in at.pop("history")]
        best = _under("best/", tensors) if at.pop("has_best") else None
        self.saved_step = at["step"]
        return Position(**at, history=history, best=best)


def refuse_another(where: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise `DifferentRun`, with every difference in words, unless two identities are equal.

    Parameters
    ----------
    where : Path
        What the stored identity was read from.
    stored, asked : mapping
        JSON-like.
    """
    from featstore import differences

    found = differences(stored, asked)
    if stored.get("regime") != asked.get("regime"):
        # what only one of two regimes has follows from that
        first = f"regime is {stored.get('regime')!r} stored and {asked.get('regime')!r} asked for"
        found = [
            first,
            *(d for d in found if not d.startswith("regime ") and not d.endswith("absent on the other side")),
        ]
    if found:
        raise DifferentRun(where, found)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def random_states(device: torch.device) -> dict[str, Tensor]:
    """States of the generators that a training on a device draws from, copied."""
    import torch

    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put back what `random_states` gave."""
    import torch

    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
