"""Backbone: a pretrained network with what must be known to use it: its units, its preprocessing, the identity of its
weights.

``load_backbone`` makes one from a name (``timm:resnet50.a1_in1k``, ``torchvision:squeezenet1_1``,
``featstore:digits_net``, ``kornblith2019:resnet_v1_50``, ``package.module:function``, each with ``@path/to/weights`` behind it)
or from a module. What it reads it never executes.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from featstore.errors import BadInput, IdentityError, UnknownName
from featstore.manifest import digest_of
from featstore.preprocessing import Preprocessing
from featstore.progress import say
from featstore.published import STUDIES, published_spec
from featstore.weights import digest_tensors, load_weights, read_weights

if TYPE_CHECKING:
    import torch
    from torch import nn

    from featstore.units import Chain

__all__ = ["PRETRAINED", "Backbone", "Granularity", "load_backbone"]

PRETRAINED = "pretrained"
"""The weights that come with a name: from the hub, with this package, or as a function or module has them."""

LIBRARIES = ("timm", "torchvision", "featstore", *STUDIES)
Granularity = Literal["coarse", "fine"]


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network with its units, its preprocessing, and the identity of its weights.

    Attributes
    ----------
    name : str
        Resolved, with the tag of the weights where the library has tags: ``"timm:resnet50.a1_in1k"``.
    module : torch.nn.Module
        The whole network with its classifier, in eval mode.
    preprocessing : Preprocessing
    weights : str
        Where they come from, for people: ``"hub"``, ``"random(seed=0)"``, ``"file resnet.safetensors"``.
    chain : Chain
        The network as a chain of units, any part of which can be run alone.
    granularity : str
        ``"coarse"`` or ``"fine"``.
    version : str or None
        The user's own, for a network that has no other identity.
    """

    name: str
    module: nn.Module
    preprocessing: Preprocessing
    weights: str
    chain: Chain
    granularity: Granularity
    version: str | None = None

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the units in order of execution: …, ``"penultimate"``, and ``"head"`` where there is a "
        "classifier."""
        return self.chain.names

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Unit -> shape of its output for one sample, before pooling."""
        return self.chain.shapes

    @property
    def weights_digest(self) -> str:
        """32 hexadecimal digits that identify every tensor that can change an output: sha256 of names, dtypes, shapes,
        bytes.

        Computed anew each time, for the weights may have been trained since.
        """
        from featstore.units import live_tensors

        names = [name for owned in self.chain.tensors.values() for name in owned]
        return digest_tensors(live_tensors(self.module), names)

    @property
    def cut(self) -> str:
        """What the network computes and where it is cut into units, as granularity and digest."""
        said = {"architecture": self.chain.architecture, "units": self.units, "shapes": list(self.shapes.values())}
        return f"{self.granularity}:{digest_of(said)}"

    def decoded_by(self, decoder: str) -> Backbone:
        """Return the same network for images decoded otherwise, ``"pil"`` or ``"nvjpeg"``: part of the identity of its features."""
        return replace(self, preprocessing=self.preprocessing.decoded_by(decoder))

    def prefers_channels_last(self, device: str | torch.device, precision: str = "fp32") -> bool:
        """Return whether the network takes maps whose channels are last in memory and is faster with them.

        On a CPU convolutions are 1.0 to 2.4 times as fast, on a GPU tensor cores want them; outputs agree up to rounding.

        Parameters
        ----------
        device : str or torch.device
        precision : str
            As of `extract`: ``"fp32"``, ``"tf32"``, ``"amp-fp16"`` or ``"amp-bf16"``.
        """
        import torch

        kind = torch.device(device).type
        return (kind == "cpu" or (kind == "cuda" and precision != "fp32")) and self.takes_channels_last

    @functools.cached_property
    def takes_channels_last(self) -> bool:
        """Whether the network computes the same whatever the order of its maps in memory."""
        from featstore.engine import takes_channels_last

        return takes_channels_last(self.chain, self.example())

    def example(self, n: int = 1) -> torch.Tensor:
        """Return (n, c, h, w) float32 of the size that the network takes, always the same."""
        return _example(self.preprocessing, n)

    def __reduce__(self) -> tuple[object, ...]:
        """Another process cuts the network into units anew, on the CPU, and so proves that they are the same."""
        module = self.module
        if any(tensor.device.type != "cpu" for tensor in module.parameters()):
            module = copy.deepcopy(module).cpu()
        return _recut, (self.name, module, self.preprocessing, self.weights, self.granularity, self.version)

    def __repr__(self) -> str:
        return f"Backbone({self.name!r}, weights={self.weights!r}, units={', '.join(self.units)})"


def load_backbone(
    spec: str | nn.Module,
    *,
    weights: str | Path | None = PRETRAINED,
    preprocessing: Preprocessing | None = None,
    units: Granularity = "coarse",
    seed: int = 0,
    version: str | None = None,
) -> Backbone:
    """Return a network ready for the extraction of its features.

    Parameters
    ----------
    spec : str or torch.nn.Module
        ``timm:NAME``, ``torchvision:NAME``, ``featstore:NAME``, ``kornblith2019:NAME`` or ``fang2023:NAME`` (see
        `featstore.published`), ``package.module:function`` (called without arguments, returns a module, a module and its
        `Preprocessing`, or a Backbone), each optionally followed by ``@path/to/weights``; or the network itself.
    weights : str, Path or None
        A ``.safetensors`` file or one of ``torch.save``; None for random weights, which is said on stderr. By default
        those that belong to the name: from the hub, installed with this package, or as the function made them.
    preprocessing : Preprocessing or None
        Instead of the one that belongs to the name; needed for a module.
    units : str
        ``"coarse"`` (stages) or ``"fine"`` (blocks); see `featstore.grouping`.
    seed : int
        Of random weights.
    version : str or None
        Text that identifies a network whose forward cannot be looked into; change it whenever the network changes.

    Raises
    ------
    UnknownName
        If there is no such network; carries the nearest names.
    BadInput
        If the weights cannot be had or do not fit, or the preprocessing is missing or does not fit.
    IdentityError
        If the network cannot be traced, comes from no library, and no `version` was given.
    """
    if units not in ("coarse", "fine"):
        raise BadInput(f"units is {units!r}; a network is cut 'coarse' (stages) or 'fine' (blocks).")
    path = weights if weights is not None and weights != PRETRAINED else None
    if isinstance(spec, str) and "@" in spec:
        if weights != PRETRAINED:
            raise BadInput(
                f"'{spec}' names a file of weights, and weights={weights!r} was given as well; give one of them."
            )
        spec, _, path = spec.partition("@")
    tensors = None if path is None else read_weights(path)
    found = _found(spec, tensors, random=weights is None, seed=seed)
    if weights is None:
        say(f"{found.name} has random weights (seed {seed})")
    module = found.module.eval()
    if tensors is not None:
        _load(found, tensors, str(path))
    if preprocessing is None and found.preprocessing is None:
        raise BadInput(
            f"it is not known how images must be prepared for {found.name}; give "
            "preprocessing=Preprocessing(input_size=…, mean=…, std=…), those that the network was trained with."
        )
    known = preprocessing or found.preprocessing
    if not isinstance(known, Preprocessing):
        raise BadInput(
            f"the preprocessing is a {type(known).__name__} and must be a featstore.Preprocessing, which says all that it does: "
            "of a function nobody can tell. What one lacks is done to the split: featstore.versioned(function, version='…')."
        )
    source = f"file {Path(path).name}" if path is not None else found.weights
    chain = _cut(found, module, known, fine=units == "fine", version=version)
    return Backbone(found.name, module, known, source, chain, units, version)


def _recut(
    name: str,
    module: nn.Module,
    preprocessing: Preprocessing,
    weights: str,
    granularity: Granularity,
    version: str | None,
) -> Backbone:
    from featstore.units import cut

    chain = cut(module, _example(preprocessing, 1), fine=granularity == "fine")
    return Backbone(name, module, preprocessing, weights, chain, granularity, version)


@dataclass(frozen=True)
class _Found:
    """A network as its library, function or caller gives it."""

    name: str
    module: nn.Module
    preprocessing: Preprocessing | None
    weights: str
    is_named: bool
    """Whether a library's name identifies what it computes."""


def _found(spec: str | nn.Module, tensors: Mapping[str, torch.Tensor] | None, *, random: bool, seed: int) -> _Found:
    import torch

    if not isinstance(spec, str):
        if random:
            raise BadInput("weights=None means random weights; a module is taken with the weights that it has.")
        return _Found(type(spec).__qualname__, spec, None, "as passed in", False)
    with torch.random.fork_rng(devices=[]):  # random weights, also those a function makes, depend on the seed alone
        torch.manual_seed(seed)
        return _by_name(spec, tensors, random, seed)


def _by_name(spec: str, tensors: Mapping[str, torch.Tensor] | None, random: bool, seed: int) -> _Found:
    library, _, name = spec.partition(":")
    if library in STUDIES:
        return _by_name(published_spec(library, name), tensors, random, seed)
    weights = f"random(seed={seed})" if random else "hub"
    pretrained = not random and tensors is None
    if library == "timm":
        from featstore.timm_models import build_timm, preprocessing_of_timm

        module, resolved = build_timm(name, pretrained=pretrained)
        return _Found(resolved, module, preprocessing_of_timm(module), weights, True)
    if library == "torchvision":
        from featstore.torchvision_models import build_torchvision

        module, resolved, prepared = build_torchvision(name, pretrained=pretrained, tensors=tensors)
        return _Found(resolved, module, prepared, weights, True)
    if library == "featstore":
        return _of_this_package(name, weights, pretrained)
    return _of_function(spec, weights if random else f"as {spec} makes them")


def _of_this_package(name: str, weights: str, pretrained: bool) -> _Found:
    from featstore.architectures import ARCHITECTURES

    if name not in ARCHITECTURES:
        raise UnknownName("network of featstore", name, ARCHITECTURES)
    architecture = ARCHITECTURES[name]
    module = architecture.build()
    if pretrained:
        if architecture.bundled is None:
            raise BadInput(
                f"no weights are installed for featstore:{name}; give a file (weights='file.safetensors'), or "
                f"weights=None for random ones.{' ' + architecture.public if architecture.public else ''}"
            )
        load_weights(module, read_weights(architecture.bundled), where=str(architecture.bundled))
        weights = "installed with featstore"
    return _Found(f"featstore:{name}", module, architecture.preprocessing, weights, True)


def _of_function(spec: str, weights: str) -> _Found:
    from torch import nn

    from featstore.naming import function_named

    made = function_named(spec, "library of networks", LIBRARIES)()
    if isinstance(made, Backbone):
        return _Found(made.name, made.module, made.preprocessing, made.weights, False)
    module, preprocessing = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module) or not isinstance(preprocessing, Preprocessing | None):
        raise BadInput(
            f"the function {spec} returned {_kinds(made)}; it must return a torch.nn.Module, a module and its "
            "Preprocessing, or a Backbone."
        )
    return _Found(spec, module, preprocessing, weights, False)


def _kinds(value: Any) -> str:
    return " and ".join(f"a {type(v).__name__}" for v in (value if isinstance(value, tuple) else (value,)))


def _load(found: _Found, tensors: Mapping[str, torch.Tensor], where: str) -> None:
    if found.name.startswith("timm:") and set(tensors) != set(found.module.state_dict()):
        from featstore.timm_models import checkpoint_filter

        tensors = checkpoint_filter(found.module, tensors)
    load_weights(found.module, tensors, where=where)


def _cut(found: _Found, module: nn.Module, preprocessing: Preprocessing, *, fine: bool, version: str | None) -> Chain:
    from featstore.units import cut

    chain = cut(module, _example(preprocessing, 1), fine=fine)
    if chain.reason and not found.is_named and version is None:
        raise IdentityError(
            f"{found.name} cannot be identified: {chain.reason}. Its weights and settings are known, but not what "
            "its forward does with them. Pass version='…', a text that you change whenever that code changes."
        )
    return chain


def _example(preprocessing: Preprocessing, n: int) -> torch.Tensor:
    import torch

    shape = (n, preprocessing.n_channels, *preprocessing.input_size)
    n_values = shape[0] * shape[1] * shape[2] * shape[3]
    return torch.sin(torch.arange(n_values, dtype=torch.float64) * 0.0137).to(torch.float32).reshape(shape)
