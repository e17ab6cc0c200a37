"""Linear probes as regimes of a study, and the place where cells are computed; the one file of studies that knows featstore.

Beside `probe.sweeps` this is the second door to featstore: a sweep reads a store that is there, a study is given names and
has to load networks and images and to fill the store.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import featstore
from probe.errors import BadInput
from probe.numbering import common_labels, labels_digest
from probe.records import Record, digest_of
from probe.studies.cells import Cell, Outcome, plain
from probe.studies.leaks import Leaks, find_leaks
from probe.sweeps import sweep

if TYPE_CHECKING:
    from featstore import Backbone, Split, Store

VERSION = 1
"""Part of every key; raised when a regime here gives other numbers for the same input."""

MOST_COMPARED = 2e12
"""Multiplications that a search for near-duplicates may take; beyond, it is left out, and the record says so."""

_EXTRACTING = ("pool", "dtype", "precision", "batch_size", "deterministic")
_FITTING = ("C", "per_class", "widen", "refit", "tol")


@dataclass(eq=False)
class Place:
    """Where cells are computed: folders and device, and what was loaded for the last of them.

    Attributes
    ----------
    folder : Path
        Of the study: the feature store and the folders of trainings are in it.
    device : str or None
        None is the CPU.
    data_root : Path or None
        Where data sets that have a name lie.
    progress : bool
        Whether to say on stderr what is extracted and trained.
    near : bool
        Whether near-duplicates are looked for.
    """

    folder: Path
    device: str | None = None
    data_root: Path | None = None
    progress: bool = False
    near: bool = True
    _backbone: tuple[Any, Backbone, dict[str, Any]] | None = field(default=None, repr=False)
    _splits: dict[Any, dict[str, Split]] = field(default_factory=dict, repr=False)
    _leaks: dict[tuple[str, str, str], Leaks] = field(default_factory=dict, repr=False)

    def emptied(self) -> Place:
        """The same place with nothing loaded, to be sent elsewhere."""
        return Place(self.folder.absolute(), self.device, self.data_root, self.progress, self.near)

    @property
    def said(self) -> dict[str, str]:
        """What was given of this, beside the folder: part of the command that computes a result again."""
        given = {"data_root": self.data_root, "device": self.device}
        return {name: str(value) for name, value in given.items() if value is not None}

    @property
    def store(self) -> Path:
        """Of the features."""
        return self.folder / "features"

    def backbone(self, cell: Cell) -> Backbone:
        """The network of a cell; the last one stays loaded.

        Raises
        ------
        featstore.FeatstoreError
        """
        return self._loaded(cell)[0]

    def splits(self, cell: Cell) -> dict[str, Split]:
        """Train and test, and val where it is a split of its own, as they are stored.

        Raises
        ------
        BadInput
            Where val and test are the same images: what is chosen on test says nothing.
        featstore.FeatstoreError
        """
        d = cell.dataset
        known = (d.name, *map(str, (d.train, d.val, d.test)))
        if known not in self._splits:
            parts = {"train": d.train, "val": d.val, "test": d.test}
            found = {name: self._split(given) for name, given in parts.items() if not isinstance(given, float)}
            digests = {name: split.digest(self._digest_cache()) for name, split in found.items()}
            for name in ("train", "val"):
                if name in found and _same_images(digests[name].rows, digests["test"].rows):
                    raise BadInput(
                        f"{name} and test of '{d.name}' hold the same {len(found['test']):,} images: what is learnt from or "
                        "chosen on test makes its score say nothing. Name other images."
                    )
            self._splits = {known: found}
        return self._splits[known]

    def parts(self, cell: Cell) -> tuple[Split, Split, Split]:
        """Train, val and test; where val is a share of train, it is held out by id with the seed of the cell."""
        found = self.splits(cell)
        if "val" in found:
            return found["train"], found["val"], found["test"]
        rest, held = found["train"].holdout(float(cell.dataset.val), seed=cell.seed)
        return rest, held, found["test"]

    def key(self, cell: Cell) -> dict[str, Any]:
        """Everything that determines the result of a cell, by content: what it is called does not.

        Raises
        ------
        featstore.FeatstoreError
            Where the network or the images cannot be had.
        """
        _, network = self._loaded(cell)
        cache = self._digest_cache()
        data = {}
        for name, split in self.splits(cell).items():
            if split.labels is None:
                raise BadInput(
                    f"The {name} split '{split.name}' has no labels, so that nothing can be learnt or tested."
                )
            digest = split.digest(cache)
            labels = labels_digest(split.labels, split.classes)
            data[name] = {"ids": digest.ids_digest, "content": digest.content_digest, "labels": labels}
        val = cell.dataset.val
        regime = {"function": cell.regime.function, "options": dict(cell.regime.options)}
        regime["version"] = getattr(cell.regime.resolve(), "version", VERSION)
        said = {
            "network": network, "data": data, "metric": cell.dataset.metric,
            "held_out": val if isinstance(val, float) else None, "regime": regime, "seed": cell.seed,
        }  # fmt: skip
        key: dict[str, Any] = plain(said)
        return key

    def computation(self, cell: Cell, key: Mapping[str, Any]) -> str:
        """Digest of what is computed for a cell: the same for the seeds of a probe that draws nothing, which is fitted once.

        Parameters
        ----------
        cell : Cell
        key : mapping
            Of the cell.
        """
        draws = isinstance(cell.dataset.val, float) or cell.regime.options.get("per_class") is not None
        is_probe = cell.regime.function.partition(":")[0] == __name__
        return digest_of({**key, "seed": None} if is_probe and not draws else key)

    def run_folder(self, cell: Cell) -> Path:
        """Of a training: the same for the same network, images and regime."""
        return self.folder / "runs" / digest_of(self.key(cell))

    def shared(self, cell: Cell) -> Leaks:
        """What the splits of a cell share by content, and the classes they lack; no feature is looked at."""
        splits, cache = self.splits(cell), self._digest_cache()
        labels, classes = _labels(splits)
        return find_leaks(
            labels,
            {name: split.digest(cache).rows for name, split in splits.items()},
            ids={name: split.ids for name, split in splits.items()},
            classes=classes,
        )

    def leaks(self, cell: Cell, store: Store, unit: str, which: Mapping[str, Any]) -> Leaks:
        """What the splits of a cell share: by content, and by the features of one unit."""
        where = (cell.network.name, cell.dataset.name, unit)
        if where not in self._leaks:
            splits = self.splits(cell)
            found = {name: store.features(unit, split, **which) for name, split in splits.items()}
            n, d = {name: m.shape[0] for name, m in found.items()}, found["train"].shape[1]
            products = d * sum(
                n[a] * n[b] for a, b in (("test", "train"), ("test", "val"), ("val", "train")) if {a, b} <= set(n)
            )
            looks = self.near and products <= MOST_COMPARED
            labels, classes = _labels(splits)
            self._leaks[where] = find_leaks(
                labels,
                {name: m.samples.rows for name, m in found.items()},
                {name: m.numpy() for name, m in found.items()} if looks else None,
                {name: m.ids for name, m in found.items()},
                classes=classes,
            )
        return self._leaks[where]

    def _loaded(self, cell: Cell) -> tuple[Backbone, dict[str, Any]]:
        n = cell.network
        known = n.spec if not isinstance(n.spec, str) else (n.spec, repr(sorted(n.options.items())))
        if self._backbone is None or self._backbone[0] != known:
            self._backbone = None  # the memory of the last one, before there are two
            found = self._load(cell)
            identity = {
                "weights_digest": found.weights_digest,
                "cut": found.cut,
                "preprocessing": found.preprocessing.to_json(),
                "version": found.version,
            }
            self._backbone = (known, found, identity)
        return self._backbone[1:]

    def _load(self, cell: Cell) -> Backbone:
        n, options = cell.network, dict(cell.network.options)
        whole = options.pop("whole_image", False)
        found: Backbone = featstore.load_backbone(n.spec, **options) if isinstance(n.spec, str) else n.spec
        return replace(found, preprocessing=found.preprocessing.whole_image()) if whole else found

    def _split(self, given: Any) -> Split:
        if not isinstance(given, str):
            split: Split = given
            return split
        return featstore.load_split(given, data_root=self.data_root)

    def _digest_cache(self) -> Any:
        try:
            return featstore.open_store(self.store).digest_cache
        except featstore.NotStored:
            return None


def logistic(cell: Cell, place: Place) -> Outcome:
    """Logistic regression on stored features: the whole path, C chosen on val, fitted again on train + val, test read once.

    Options: units ("penultimate"; several or "all": the best on val is the result), C, per_class, widen, refit, tol of
    `probe.sweep`; pool, dtype, precision, batch_size, deterministic of `featstore.extract`.
    """
    return _probed(cell, place, "logistic")


def svm(cell: Cell, place: Place) -> Outcome:
    """A linear support vector machine on features of length one; options as of `logistic`."""
    return _probed(cell, place, "svm")


def ridge(cell: Cell, place: Place) -> Outcome:
    """Ridge classification in closed form, for screening; options as of `logistic`."""
    return _probed(cell, place, "ridge")


def _probed(cell: Cell, place: Place, classifier: str) -> Outcome:
    options = dict(cell.regime.options)
    units = options.pop("units", "penultimate")
    extracting = {name: options.pop(name) for name in _EXTRACTING if name in options}
    fitting = {name: options.pop(name) for name in _FITTING if name in options}
    if options:
        known = ", ".join(("units", *_EXTRACTING, *_FITTING))
        raise BadInput(f"The regime '{cell.regime.name}' has options {sorted(options)}, but probes know only {known}.")
    backbone, splits = place.backbone(cell), place.splits(cell)
    started = time.perf_counter()
    images, n_bytes, store = _extracted(backbone, splits, place, units, extracting)
    extract_s = time.perf_counter() - started
    which: dict[str, Any] = {name: extracting[name] for name in ("pool", "dtype") if name in extracting}
    which["backbone"] = backbone
    found = sweep(
        store, train=splits["train"], val=splits.get("val", cell.dataset.val), test=splits["test"],
        out=place.folder / "probes", units=units, seeds=[cell.seed], classifier=classifier, metric=cell.dataset.metric,
        device=place.device, progress=False, **which, **fitting,
    )  # fmt: skip
    best = found.best()
    leaks = place.leaks(cell, store, best.unit, which)
    cost = {
        "images": images, "bytes": n_bytes, "extract_s": extract_s, "fit_s": sum(r.seconds for r in found),
        "seconds": time.perf_counter() - started,
    }  # fmt: skip
    return Outcome(
        best.val_score,
        best.test_score,
        found.predictions(best),
        best.higher_is_better,
        best.test_interval,
        best.n_train,
        best.n_val,
        best.n_test,
        {"C": best.C, "at_edge": best.at_edge, "unit": best.unit, "is_refitted": best.is_refitted},
        (),
        cost,
        {name: value for name, value in best.key.items() if name in ("train", "val", "test")},
        _details(best, found.records),
        leaks.to_json(),
    )


def _extracted(
    backbone: Backbone, splits: Mapping[str, Split], place: Place, units: Any, how: Mapping[str, Any]
) -> tuple[int, int, Store]:
    """Images that went through the network, bytes that were stored, and the store."""
    deciding = {name: value for name, value in how.items() if name != "batch_size"}
    made = featstore.plan(backbone, list(splits.values()), place.store, units=units, **deciding)
    store = featstore.extract(
        backbone,
        list(splits.values()),
        place.store,
        units=units,
        device=place.device or "cpu",
        progress=place.progress,
        **how,
    )
    return made.n_images, made.n_bytes, store


def _details(best: Record, records: tuple[Record, ...]) -> dict[str, Any]:
    by_unit = [
        {"unit": r.unit, "depth": r.depth, "val_score": r.val_score, "test_score": r.test_score, "C": r.C}
        for r in records
    ]
    return {
        "probe": best.digest, "d": best.d, "k": best.k, "grid": list(best.grid), "val_scores": list(best.val_scores),
        "status": best.status, "n_converged": best.n_converged, "worst_gap": best.worst_gap,
        "worst_grad_norm": best.worst_grad_norm, "n_iter": best.n_iter, "passes": best.passes, "per_class": best.per_class,
        "classifier": best.classifier, "widened": best.widened, "units": by_unit if len(by_unit) > 1 else [],
    }  # fmt: skip


def _same_images(rows: np.ndarray, other: np.ndarray) -> bool:
    return len(rows) == len(other) and {r.tobytes() for r in rows} == {r.tobytes() for r in other}


def _labels(splits: Mapping[str, Split]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Labels in one numbering, and its names; where classes cannot be compared, all labels are the same and have no names."""
    found = {name: split.labels for name, split in splits.items() if split.labels is not None}
    if len({split.classes for split in splits.values()}) == 1:
        return found, splits["train"].classes
    if all(split.classes for split in splits.values()) and all(y.ndim == 1 for y in found.values()):
        classes, labels = common_labels({name: (y, splits[name].classes) for name, y in found.items()})
        return labels, tuple(classes)
    return {name: np.zeros(len(y), np.int64) for name, y in found.items()}, ()
