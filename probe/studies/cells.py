"""What a study asks for: a table of (network, data set, regime, seed), expanded from a few lines.

Everything here is names and numbers; nothing is loaded. A regime is a function of ``(cell, place)`` that returns an `Outcome`,
passed in or named as ``package.module:function``, so that this package need not know who trains networks.
"""

from __future__ import annotations

import importlib
import json
import math
import numbers
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe import metrics
from probe.chosen import a_name, names, shown
from probe.errors import BadInput
from probe.files import as_path
from probe.intervals import Interval
from probe.predictions import Predictions
from probe.reals import several_of
from probe.studies.fields import need_fields

if TYPE_CHECKING:
    from probe.studies.probing import Place

SHORT = {
    "logistic": "probe.studies.probing:logistic",
    "svm": "probe.studies.probing:svm",
    "ridge": "probe.studies.probing:ridge",
}
"""Regimes that need no module named."""


def plain(value: Any) -> Any:
    """A value as strict JSON has it: tuples become lists, NaN and infinities text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if hasattr(value, "item") and not isinstance(value, str | bytes):
        return plain(value.item())
    return value


def _need_plain(options: Mapping[str, Any], whose: str) -> None:
    try:
        json.dumps(plain(options))
    except TypeError as error:
        raise BadInput(
            f"The options of the {whose} must be plain values, as they are part of what a result is found by: {error}."
        ) from error


@dataclass(frozen=True)
class Network:
    """A pretrained network of a study.

    Attributes
    ----------
    name : str
        What tables call it.
    spec : str or featstore.Backbone
        For `featstore.load_backbone`; ``@path/to/weights`` may follow a name.
    source : float or None
        Accuracy on what it was pretrained for, between 0 and 1.
    d : int or None
        Length of its penultimate features; for the estimate of bytes.
    options : mapping
        Further keywords of `featstore.load_backbone`: units, seed, …; and ``whole_image = true``. Random weights are
        ``weights = "random"`` or None.
    """

    name: str
    spec: Any = field(default="", repr=False)
    source: float | None = None
    d: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.spec, str) and not self.spec:
            object.__setattr__(self, "spec", self.name)
        need_fields(self, "network")
        if self.options.get("weights") == "random":  # as on the command line: a file has no other word for None
            object.__setattr__(self, "options", {**self.options, "weights": None})
        _need_plain(self.options, f"network '{self.name}'")
        if self.source is not None and not 0 < self.source < 1:
            raise BadInput(f"The source accuracy of '{self.name}' is {self.source}; it must lie between 0 and 1.")


@dataclass(frozen=True)
class Dataset:
    """A target of a study.

    Attributes
    ----------
    name : str
        What tables call it.
    train, test : str or featstore.Split
        For `featstore.load_split`.
    val : str, featstore.Split or float
        On which everything is chosen: a split, or the share of train to hold out.
    metric : str
        Of `probe.metrics`; chooses, and is reported.
    n_train, n_val, n_test, n_classes : int or None
        For the estimate of costs before the data were ever seen.

    Raises
    ------
    BadInput
        Where test is what would be chosen on, or no metric has that name.
    """

    name: str
    train: Any = field(repr=False)
    test: Any = field(repr=False)
    val: Any = 0.2
    metric: str = "accuracy"
    n_train: int | None = None
    n_val: int | None = None
    n_test: int | None = None
    n_classes: int | None = None

    def __post_init__(self) -> None:
        need_fields(self, "data set")
        metrics.get(self.metric)
        for part in ("train", "val"):
            if isinstance(getattr(self, part), str) and getattr(self, part) == self.test:
                raise BadInput(
                    f"{part} and test of '{self.name}' are both '{self.test}': what is chosen on test, or learnt from it, "
                    "makes its score say nothing. Name another split, or a share of train as val."
                )
        if isinstance(self.val, int | float) and not 0 < self.val < 1:
            raise BadInput(f"val of '{self.name}' is {self.val}; a share of train lies strictly between 0 and 1.")

    @property
    def n_images(self) -> int | None:
        """Images of all its splits, where that is known."""
        sizes = [self.n_train, 0 if isinstance(self.val, float) else self.n_val or 0, self.n_test]
        return None if None in sizes else sum(n for n in sizes if n is not None)


@dataclass(frozen=True)
class Regime:
    """What is done with a network and a data set.

    Attributes
    ----------
    name : str
        What tables call it.
    function : str or callable
        "logistic", "svm", "ridge", or ``package.module:function``, or the function itself, of the top level of a module.
    options : mapping
        What the function is told; plain values.
    seeds : tuple of int or None
        Instead of the study's.
    datasets, networks : tuple of str
        The only ones it is for; all, where empty.
    images_per_cell : int or None
        Images that one cell runs through the network, for the estimate; None is every image once.
    """

    name: str
    function: Any = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    datasets: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    images_per_cell: int | None = None

    def __post_init__(self) -> None:
        need_fields(self, "regime")
        if self.seeds is not None:
            object.__setattr__(self, "seeds", tuple(self.seeds))
        _need_plain(self.options, f"regime '{self.name}'")
        said = self.function or self.name
        if callable(said):
            said = f"{said.__module__}:{said.__qualname__}"
        said = SHORT.get(said, said)
        if ":" not in said:
            raise BadInput(
                f"'{said}' is no regime: {', '.join(SHORT)}, or package.module:function, for example "
                "finetune.study:full_tune."
            )
        object.__setattr__(self, "function", said)

    def resolve(self) -> Callable[[Cell, Place], Outcome]:
        """Import the function.

        Raises
        ------
        BadInput
            Where there is none of that name.
        """
        module, _, name = self.function.partition(":")
        here = os.getcwd()
        if here not in sys.path and "" not in sys.path:
            sys.path.append(here)  # a console script does not have it, `python -m` has
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise BadInput(
                f"The regime '{self.name}' is {self.function}, which cannot be imported: {error}."
            ) from error
        if not callable(found):
            raise BadInput(f"The regime '{self.name}' is {self.function}, which is no function of (cell, place).")
        function: Callable[[Cell, Place], Outcome] = found
        return function


@dataclass(frozen=True)
class Cell:
    """One result to be."""

    network: Network
    dataset: Dataset
    regime: Regime
    seed: int

    @property
    def names(self) -> tuple[str, str, str, int]:
        """What tables call it: by these a plan finds what is there."""
        return self.network.name, self.dataset.name, self.regime.name, self.seed

    def __str__(self) -> str:
        return f"{self.network.name} on {self.dataset.name}, {self.regime.name}, seed {self.seed}"

    @property
    def asked(self) -> dict[str, Any]:
        """All that was asked for, as plain values: names where the study has objects."""
        n, d, r = self.network, self.dataset, self.regime
        return {
            "network": {"name": n.name, "spec": _said(n.spec), "options": dict(n.options)},
            "dataset": {"name": d.name, "train": _said(d.train), "val": _said(d.val), "test": _said(d.test)},
            "metric": d.metric,
            "regime": {"name": r.name, "function": r.function, "options": dict(r.options)},
            "seed": self.seed,
        }


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a regime returns.

    Attributes
    ----------
    val_score, test_score : float
    predictions : Predictions
        On test.
    higher_is_better : bool
        Of the metric.
    test_interval : Interval or None
        95 %.
    n_train, n_val, n_test : int
    chosen : mapping
        What was chosen on val: ``{"C": …, "at_edge": …}``, or the recipe.
    history : sequence of mapping
        One per evaluation: step, epoch, accuracy (on val), train_loss, lr.
    cost : mapping
        ``images`` that went through the network (backward passes count as two more), ``seconds``, ``bytes`` stored, and parts
        of these.
    features : mapping
        Identity of the stored features it came from; empty where it came from images.
    details : mapping
        Anything else that is plain.
    leaks : mapping
        See `probe.studies.leaks`.
    """

    val_score: float
    test_score: float
    predictions: Predictions
    higher_is_better: bool = True
    test_interval: Interval | None = None
    n_train: int = 0
    n_val: int = 0
    n_test: int = 0
    chosen: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    cost: Mapping[str, float] = field(default_factory=dict)
    features: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    leaks: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Networks × data sets × regimes × seeds.

    Attributes
    ----------
    networks : tuple of Network
    datasets : tuple of Dataset
    regimes : tuple of Regime
    seeds : tuple of int
    name : str
    command : str
        What carries it out again, for a study of objects that no file can name: "python my_study.py". Reports print it.

    Raises
    ------
    BadInput
        On an empty side, names that occur twice, or regimes for what is not in the study; all together.
    """

    networks: tuple[Network, ...]
    datasets: tuple[Dataset, ...]
    regimes: tuple[Regime, ...] = (Regime("logistic"),)
    seeds: tuple[int, ...] = (0,)
    name: str = "study"
    command: str = ""

    def __post_init__(self) -> None:
        a_name(self.name, "The name of a study")
        a_name(self.command, "The command of a study")
        problems = []
        sides: dict[str, type[Any]] = {"networks": Network, "datasets": Dataset, "regimes": Regime}
        for what, kind in sides.items():
            found = tuple(several_of(kind, getattr(self, what), f"probe.{kind.__name__}, as {what},"))
            object.__setattr__(self, what, found)
            names = [one.name for one in found]
            if not names:
                problems.append(f"it has no {what}")
            problems += [f"'{n}' names two {what}" for n in sorted({n for n in names if names.count(n) > 1})]
        object.__setattr__(self, "seeds", _numbered(self.seeds))
        for seeds in (self.seeds, *(r.seeds for r in self.regimes if r.seeds is not None)):
            if not seeds or not all(type(s) is int and s >= 0 for s in seeds) or len(set(seeds)) < len(seeds):
                problems.append(f"seeds are {list(seeds)} but must be different whole numbers from 0, at least one")
        for regime in self.regimes:
            for what in ("networks", "datasets"):
                strangers = set(getattr(regime, what)) - {one.name for one in getattr(self, what)}
                if strangers:
                    problems.append(f"regime '{regime.name}' is for {what} that are not there: {sorted(strangers)}")
        if problems:
            raise BadInput(f"This is not a study: {'; '.join(problems)}.")

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells; those of one network and data set beside each other, as they share features."""
        return tuple(
            Cell(network, dataset, regime, seed)
            for network in self.networks
            for dataset in self.datasets
            for regime in self.regimes
            if dataset.name in (regime.datasets or (dataset.name,))
            and network.name in (regime.networks or (network.name,))
            for seed in (self.seeds if regime.seeds is None else regime.seeds)
        )

    def only(
        self,
        *,
        networks: Sequence[str] = (),
        datasets: Sequence[str] = (),
        regimes: Sequence[str] = (),
        seeds: Sequence[int] = (),
    ) -> Study:
        """The part of the study with these names; an empty side stays whole.

        Raises
        ------
        BadInput
            On names and seeds that the study does not have, and where no cell is left.
        """
        networks, datasets, regimes = (
            names(networks, "networks"),
            names(datasets, "datasets"),
            names(regimes, "regimes"),
        )
        seeds = _numbered(seeds)
        here = {seed for regime in self.regimes for seed in regime.seeds or ()} | set(self.seeds)
        problems: list[str] = []
        kept: dict[str, Any] = {}
        for what, wanted in (("networks", networks), ("datasets", datasets), ("regimes", regimes)):
            there = {one.name: one for one in getattr(self, what)}
            problems += [
                f"'{name}' is none of its {what} ({', '.join(list(there)[:8])})" for name in wanted if name not in there
            ]
            kept[what] = tuple(one for one in getattr(self, what) if not wanted or one.name in wanted)
        problems += [
            f"seed {seed} is not among its seeds {sorted(here)}"
            for seed in seeds
            if not (isinstance(seed, numbers.Integral) and seed in here)
        ]
        if problems:
            raise BadInput(f"The study '{self.name}' has no such part: {'; '.join(problems)}.")
        kept["regimes"] = tuple(
            found for r in kept["regimes"] if (found := _part(r, kept, self.seeds, seeds)) is not None
        )
        if not kept["regimes"]:
            raise BadInput(f"No cell of the study '{self.name}' has all of these names and seeds.")
        return replace(self, **kept, seeds=tuple(s for s in self.seeds if not seeds or s in seeds) or self.seeds)

    @classmethod
    def from_toml(cls, path: str | Path) -> Study:
        """Read a study from a file: ``name``, ``seeds``, and tables ``[[network]]``, ``[[dataset]]``, ``[[regime]]``.

        TOML has no null: a network asks for random weights by ``options = { weights = "random", seed = 0 }``.

        Raises
        ------
        BadInput
            Where it cannot be read, is no TOML, or has keys that mean nothing.
        """
        from probe.studies.written import read_toml

        return read_toml(as_path(path, "The plan of a study"))

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Study:
        """Make a study of plain values, as `from_toml` reads them and `to_json` gives them.

        Raises
        ------
        BadInput
        """
        from probe.studies.written import study_of

        return study_of(said)

    def to_json(self) -> dict[str, Any]:
        """The study as plain values, from which `from_json` makes it again.

        Networks, splits and functions that are objects without a name that can be looked up are ``{"object": what it is called}``;
        a study that is read from these knows its cells and their results, but cannot be run.
        """
        from probe.studies.written import said_of

        return said_of(self)


def _numbered(seeds: Any) -> tuple[Any, ...]:
    """Seeds as a tuple, after a look at whether they are a list at all."""
    if isinstance(seeds, str | bytes) or not isinstance(seeds, Iterable):
        raise BadInput(f"seeds are {shown(seeds)} but must be different whole numbers from 0, at least one.")
    return tuple(seeds)


def _part(regime: Regime, kept: Mapping[str, Any], all_seeds: tuple[int, ...], seeds: Sequence[int]) -> Regime | None:
    """A regime for the networks, data sets and seeds that are kept; None where nothing of it is left."""
    own = all_seeds if regime.seeds is None else regime.seeds
    left: dict[str, Any] = {"seeds": tuple(s for s in own if not seeds or s in seeds)}
    for what in ("networks", "datasets"):
        names = tuple(one.name for one in kept[what])
        left[what] = tuple(n for n in getattr(regime, what) if n in names)
        if getattr(regime, what) and not left[what]:
            return None
    if not left["seeds"]:
        return None
    return replace(regime, **{**left, "seeds": None if regime.seeds is None and not seeds else left["seeds"]})


def _said(given: Any) -> Any:
    return given if isinstance(given, str | int | float) else str(getattr(given, "name", given))


@dataclass(frozen=True)
class Unnamed:
    """What a kept plan says of a network or a split that was an object: what it is called, which is not enough to load it."""

    name: str
