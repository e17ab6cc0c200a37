"""A chain whose units torch has compiled into one function, for extraction."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from featstore.errors import BadInput

if TYPE_CHECKING:
    import torch

    from featstore.units import Chain

__all__ = ["CompiledChain"]


class CompiledChain:
    """What `featstore.capture` needs of a chain: its outputs, from one compiled function.

    Parameters
    ----------
    chain : Chain
        One that can be run in parts.
    units : collection of str
        Whose outputs are wanted.
    batch_size : int
        Images of every call but the last; that one is filled up, so that nothing is compiled for its size.
    """

    def __init__(self, chain: Chain, units: Collection[str], batch_size: int) -> None:
        import torch

        self._wanted = tuple(unit for unit in chain.names if unit in units)
        self._batch_size = batch_size
        self._function = torch.compile(trunk(chain, self._wanted), dynamic=False)

    def visit(self, x: torch.Tensor, units: Collection[str], each: Callable[[str, torch.Tensor], None]) -> None:
        """See `featstore.units.Chain.visit`; `units` are those that were wanted.

        Raises
        ------
        BadInput
            If torch cannot compile here.
        """
        import torch

        n = len(x)
        if n < self._batch_size:
            x = torch.cat([x, x[-1:].expand(self._batch_size - n, *x.shape[1:])])
        try:
            outputs = self._function(x)
        except torch._dynamo.exc.TorchDynamoException as error:
            first = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise BadInput(
                f"torch.compile does not work for this network here ({type(error).__name__}: {first}); it needs a C++ compiler, "
                "and Triton on a GPU. Leave out compile."
            ) from error
        for unit, output in zip(self._wanted, outputs, strict=True):
            if unit in units:
                each(unit, output[:n])


def trunk(chain: Chain, wanted: tuple[str, ...]) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    """Return the function of a batch of images to the outputs of some units, in order of execution."""
    steps = [
        (chain.unit(name), name in wanted, name in chain.passed) for name in chain.names[: chain.index(wanted[-1]) + 1]
    ]

    def run(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = []
        passed = x
        for unit, is_wanted, is_pair in steps:
            passed = unit(passed)
            if is_wanted:  # a copy, since the next unit may write into it; compiled, it costs nothing where none does
                outputs.append((passed[-1] if is_pair else passed).clone())
        return tuple(outputs)

    return run
