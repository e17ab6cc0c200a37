"""A chain whose units torch has compiled into one function, for extraction."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from types import CodeType, FunctionType
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
        self._function = torch.compile(apart(trunk(chain, self._wanted), chain, self._wanted), dynamic=False)

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
            x = filled_up(x, self._batch_size)
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


def filled_up(x: torch.Tensor, n: int) -> torch.Tensor:
    """Return n images, the last one repeated, in the same order in memory: torch would compile again for another."""
    import torch

    last = x.is_contiguous(memory_format=torch.channels_last)
    whole = torch.cat([x, x[-1:].expand(n - len(x), *x.shape[1:])])
    return whole.contiguous(memory_format=torch.channels_last) if last and not x.is_contiguous() else whole


def apart(
    function: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], chain: Chain, wanted: tuple[str, ...]
) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    """Return a function of `trunk` with code of its own for what it computes.

    torch keeps what it has compiled with a function's code, eight versions at most, and runs what comes then without
    compiling it; all functions of `trunk` share one code.
    """
    assert isinstance(function, FunctionType)
    code = _copied(function.__code__, chain.architecture, wanted)
    return FunctionType(code, function.__globals__, function.__name__, None, function.__closure__)


@cache
def _copied(code: CodeType, architecture: tuple[str, ...], wanted: tuple[str, ...]) -> CodeType:
    return code.replace()
