"""Pooling: what is kept of a unit's output for one image.

Conventions: maps are (n, c, h, w) or (n, h, w, c), tokens (n, t, c), vectors (n, c). A pooling gets the output in float32,
whatever the network computes in, and the axis of its channels. A vector is pooled already: every pooling keeps it as it is. A
grid takes a map of 1 × 1 for a vector, too.

=============  ====================================================================================================
``"mean"``     (c,) mean over all positions; of tokens over all of them, the class token included
``"max"``      (c,) largest value of every channel
``"token"``    (c,) the class token of a vision transformer
``"grid2"`` …  (c · 2 · 2,) means over a 2 × 2 grid of bins, channel by channel (adaptive average pooling)
``"flatten"``  (d,) all values in the order in which the network has them
``"none"``     the output itself, not pooled
=============  ====================================================================================================

A function of the user's, (output, axis of the channels) -> (n, …), is one, too. Its name and its source are part of the identity of
what is stored; where a source does not say everything, `version` does.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeAlias

from featstore.errors import BadInput, IdentityError, UnknownName

if TYPE_CHECKING:
    import torch

    from featstore.units import Chain

__all__ = ["Pooling", "PoolingLike", "as_poolings", "channel_axis", "mean_pool", "pool_name", "pooling", "token_units"]

GRID = re.compile(r"grid([1-9]\d?)")
STORED_FUNCTION = re.compile(r"[\w.?]+:[\w.<>]+[#@].*")
CLASS_TOKENS = ("cls_token", "class_token")
"""What timm and torchvision call the parameter."""


@dataclass(frozen=True)
class Pooling:
    """A function from a unit's output to what is stored, with the name that identifies it.

    Attributes
    ----------
    name : str
        Part of the identity of every matrix that is made with it.
    function : callable
        (output (n, …) float32, axis of the channels without the batch axis) -> (n, …).
    selects : bool
        Whether every value of the result is one of the output's, chosen in a way that rounding does not change: then it is the
        same whether values are rounded before or after.
    """

    name: str
    function: Callable[[torch.Tensor, int], torch.Tensor]
    selects: bool = False

    def __call__(self, output: torch.Tensor, axis: int) -> torch.Tensor:
        """Return (n, …) float32 that shares no memory with `output`, which the next unit may write into."""
        import torch

        given = output.to(torch.float32)
        if ":" in self.name:  # a function of the user's may view what it is given
            given = given.contiguous()
        with torch.autocast(output.device.type, enabled=False):
            result = self.function(given, axis).to(torch.float32)
        shares = result.untyped_storage().data_ptr() == output.untyped_storage().data_ptr()
        return result.clone() if shares else result

    def shape(self, unit: str, output: tuple[int, ...], axis: int) -> tuple[int, ...]:
        """Return the shape of one image's features, for a unit whose output has the shape `output`.

        Raises
        ------
        BadInput
            If such outputs cannot be pooled in this way; names the unit.
        """
        import torch

        grid = GRID.fullmatch(self.name)
        if grid and len(output) > 1:
            _check_grid(int(grid[1]), unit, output, axis)
        with torch.no_grad():
            result = self.function(torch.zeros(2, *output), axis)
        if not isinstance(result, torch.Tensor) or result.ndim < 2 or len(result) != 2:
            said = tuple(result.shape) if isinstance(result, torch.Tensor) else f"a {type(result).__name__}"
            raise BadInput(
                f"the pooling '{self.name}' made {said} of an output of shape {(2, *output)} of unit '{unit}'; it must return "
                "one row per image: (n, …)."
            )
        return tuple(result.shape[1:])


PoolingLike: TypeAlias = "str | Callable[[torch.Tensor, int], torch.Tensor] | Pooling"


def pooling(function: Callable[[torch.Tensor, int], torch.Tensor], *, version: str | None = None) -> Pooling:
    """Return a function of the user's as a pooling that can be identified.

    Parameters
    ----------
    function : callable
        (output (n, …) float32, axis of the channels without the batch axis) -> (n, …). Where it is an ordinary function, its name
        and source identify it; functions that it calls are not looked into.
    version : str or None
        Identifies it instead of the source: a text to be changed whenever the function changes. Needed for a lambda, a closure,
        an object, and whatever has no source.

    Raises
    ------
    IdentityError
        If it cannot be identified and no `version` is given.
    """
    where = (
        f"{getattr(function, '__module__', None) or '?'}:{getattr(function, '__qualname__', type(function).__name__)}"
    )
    if version is not None:
        return Pooling(f"{where}@{version}", function)
    why = _why_unidentified(function)
    if why is not None:
        raise IdentityError(
            f"the pooling {where} cannot be identified: {why}. Features stored with it could not be told from those of "
            "another; wrap it as featstore.pooling(function, version='…') and change that text whenever it changes."
        )
    source = textwrap.dedent(inspect.getsource(function))
    return Pooling(f"{where}#{hashlib.sha256(source.encode()).hexdigest()[:12]}", function)


def _why_unidentified(function: Any) -> str | None:
    if not isinstance(function, FunctionType):
        return f"it is a {type(function).__name__}, whose state its source does not say"
    if function.__name__ == "<lambda>":
        return "a lambda has no name of its own"
    if function.__closure__:
        return f"it reads variables of the function around it ({', '.join(function.__code__.co_freevars)})"
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    if not all(isinstance(value, bool | int | float | str | None) for value in defaults):
        return "its default arguments are more than numbers and text"
    try:
        inspect.getsource(function)
    except (OSError, TypeError):
        return "its source cannot be read"
    return None


def as_poolings(pool: PoolingLike | Sequence[PoolingLike]) -> tuple[Pooling, ...]:
    """Return what a user asks for, by name, as functions or as poolings, one or several.

    Raises
    ------
    UnknownName
        If there is no pooling of that name.
    BadInput
        If none is asked for.
    """
    several = [pool] if isinstance(pool, str | Pooling) or callable(pool) else list(pool)
    if not several:
        raise BadInput("no pooling was asked for; name one, for example 'mean'.")
    found = [_as_pooling(one) for one in several]
    return tuple({one.name: one for one in found}.values())


def _as_pooling(pool: PoolingLike) -> Pooling:
    from featstore.naming import function_named, is_function_name

    if isinstance(pool, Pooling):
        if (pool.name in _BUILT_IN or GRID.fullmatch(pool.name)) and pool != _as_pooling(pool.name):
            raise IdentityError(
                f"a pooling that is called '{pool.name}' and is not featstore's would be stored as the same; give it another name."
            )
        return pool
    if not isinstance(pool, str):
        return pooling(pool)
    if pool in _BUILT_IN:
        return _BUILT_IN[pool]
    grid = GRID.fullmatch(pool)
    if grid:
        return _grid(int(grid[1]))
    if is_function_name(pool):
        named: Callable[..., torch.Tensor] = function_named(pool, "pooling", _BUILT_IN)
        return pooling(named)
    if STORED_FUNCTION.fullmatch(pool):
        raise BadInput(
            f"the pooling '{pool}' is a function of the user's, and a function is not looked up by the name that a store has for "
            "it. Pass the function itself, or package.module:function."
        )
    hint = "'none' keeps the whole map; grids are 'grid2' to 'grid99'; a function of yours is package.module:function."
    raise UnknownName("pooling", pool, [*_BUILT_IN, "grid2", "grid4"], hint)


def pool_name(pool: PoolingLike) -> str:
    """Return the name under which matrices made with a pooling are stored; a text is taken as it is."""
    return pool if isinstance(pool, str) else _as_pooling(pool).name


def channel_axis(shape: tuple[int, ...], input_size: tuple[int, int]) -> int:
    """Return which axis of a unit's output, not counting the batch axis, is the channels'.

    Of vectors the only one, of tokens the last. Of maps the first, unless only the other two have the aspect of the
    image: then the network keeps channels last.

    Examples
    --------
    >>> channel_axis((512, 7, 7), (224, 224)), channel_axis((7, 7, 768), (224, 224)), channel_axis((197, 192), (224, 224))
    (0, 2, 1)
    """
    if len(shape) < 3:
        return len(shape) - 1

    def has_aspect(height: int, width: int) -> bool:
        return abs(height / width - input_size[0] / input_size[1]) < 1 / width

    return 2 if len(shape) == 3 and has_aspect(*shape[:2]) and not has_aspect(*shape[1:]) else 0


def token_units(chain: Chain) -> tuple[str, ...]:
    """Return the units whose output is tokens with the class token in front: from the one that owns the parameter on.

    None for a network that is watched by hooks: where the token is put in front cannot be seen.
    """
    owners = [
        i for i, unit in enumerate(chain.names) for t in chain.tensors[unit] if t.rpartition(".")[2] in CLASS_TOKENS
    ]
    if chain.reason is not None or not owners:
        return ()
    return tuple(unit for unit in chain.names[min(owners) :] if len(chain.shapes[unit]) == 2)


def mean_pool(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the mean over all axes but the first and the channels': (n, c) float32.

    Parameters
    ----------
    x : torch.Tensor
        (n, …) of any floating type.
    axis : int
        Of the channels, not counting the batch axis.
    """
    import torch

    others = [a for a in range(1, x.ndim) if a != axis + 1]
    x = x.to(torch.float32)
    return x.mean(others) if others else x.clone()  # the next unit may write into its input


def _max_pool(x: torch.Tensor, axis: int) -> torch.Tensor:
    others = [a for a in range(1, x.ndim) if a != axis + 1]
    return x.amax(others) if others else x


def _token_pool(x: torch.Tensor, axis: int) -> torch.Tensor:
    return x[:, 0] if x.ndim == 3 else x


def _flat(x: torch.Tensor, axis: int) -> torch.Tensor:
    return x.flatten(1)


def _whole(x: torch.Tensor, axis: int) -> torch.Tensor:
    return x


def _grid_pool(x: torch.Tensor, axis: int, *, size: int) -> torch.Tensor:
    from torch.nn import functional as F

    if x.ndim == 2 or x.shape[1:].numel() == x.shape[axis + 1]:
        return x.flatten(1)
    return F.adaptive_avg_pool2d(x.movedim(axis + 1, 1), size).flatten(1)


@cache
def _grid(size: int) -> Pooling:
    return Pooling(f"grid{size}", partial(_grid_pool, size=size))


def _check_grid(size: int, unit: str, output: tuple[int, ...], axis: int) -> None:
    if len(output) != 3:
        raise BadInput(
            f"unit '{unit}' gives {' × '.join(map(str, output))}, tokens and no map, of which there is no {size} × {size} "
            "grid; pool with 'mean', 'max' or 'token', or with a function of yours."
        )
    height, width = (extent for i, extent in enumerate(output) if i != axis)
    if min(height, width) < size and (height, width) != (1, 1):
        raise BadInput(
            f"unit '{unit}' gives maps of {height} × {width}: a grid of {size} × {size} would only repeat values. Take a "
            "smaller grid, or leave that unit out."
        )


_BUILT_IN = {
    "mean": Pooling("mean", mean_pool),
    "max": Pooling("max", _max_pool, selects=True),
    "token": Pooling("token", _token_pool, selects=True),
    "flatten": Pooling("flatten", _flat, selects=True),
    "none": Pooling("none", _whole, selects=True),
}
