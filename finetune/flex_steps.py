"""What flex-tuning does when an algorithm asks: train a candidate, score a proxy, write the outcome."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from finetune import algorithms
from finetune.algorithms import ALL, Choice
from finetune.baselines import Baseline
from finetune.candidates import ONE_EPOCH, Candidate
from finetune.cost import Cost, Spent, cost_of, training_passes
from finetune.errors import Diverged
from finetune.examples import logits_of
from finetune.feeding import FeedPlan, in_words
from finetune.feeds import Feed, MemoryFeed, StoreFeed
from finetune.files import write_atomically
from finetune.folder import RunFolder
from finetune.folding import folded_units
from finetune.keeping import KeepLast
from finetune.loop import Trained
from finetune.progress import say
from finetune.regimes import network_for, tune_images
from finetune.run import Run, read_json
from finetune.scoring import settled
from finetune.selecting import N_GRADIENT_BATCHES, probe_scores, proxy_score, relative_gradient_norms
from finetune.switches import batch_norm_scales
from finetune.task import Asked, Options, carry_out, network_identity, run_of

if TYPE_CHECKING:
    from featstore import Backbone, Store
    from finetune.examples import Examples
    from finetune.networks import TargetNetwork
    from probe import Predictions

_INPUTS = "inputs.json"


@dataclass(frozen=True, eq=False)
class SharedImages(Asked):
    """What is asked, with the images decoded once for all candidates."""

    loads: dict[str, Callable[[str], Any]] = field(default_factory=dict, repr=False)

    def images(self, backbone: Backbone, view: str | None = None) -> Callable[[str], Any]:
        """See `Asked.images`; the same object for the same view, whatever the recipe's length."""
        return self.loads.setdefault(f"{view}", super().images(backbone, view))

    def shared_images(self) -> dict[str, int]:
        """Nothing: the flex-tuning says it once, of all splits."""
        return {}


def shared(asked: Asked) -> SharedImages:
    """What is asked, without the test split."""
    splits = {name: split for name, split in asked.splits.items() if name != "test"}
    return SharedImages(**{**vars(asked), "splits": splits})


@dataclass(eq=False)
class Steps:
    """One flex-tuning while it goes.

    Parameters
    ----------
    backbone : Backbone
        The source network; not changed.
    asked : SharedImages
        Without the test split: nothing here can look at it.
    asked_with_test : Asked
        For the chosen network, at the end.
    plan : FeedPlan
        What feeds which candidate.
    candidates : sequence of Candidate
        In the order that breaks ties; ft-all is the last.
    method : str
        See `finetune.flex.flex_tune`.
    folder : Path
        Of the candidates' runs.
    store : str, Path or Store
        Of activations on disk and of pooled features.
    options : Options
        For trainings of another kind.
    """

    backbone: Backbone
    asked: SharedImages
    asked_with_test: Asked
    plan: FeedPlan
    candidates: Sequence[Candidate]
    method: str
    folder: Path
    store: str | Path | Store
    options: Options
    runs: dict[str, Run] = field(default_factory=dict, init=False)
    diverged: dict[str, Diverged] = field(default_factory=dict, init=False)
    _selection: Spent = field(default_factory=Spent, init=False)
    _used: set[tuple[str, str]] = field(default_factory=set, init=False)  # stored outputs, (unit, split)

    def carry_out(self, folder: RunFolder) -> Run:
        """Choose, look at the test split, write the outcome as a run."""
        chosen = self._choice()
        if chosen.chosen is None:
            raise self._nothing_left()
        run = self.runs[chosen.chosen]
        predictions, scores, seconds = self._predicted(run, str(folder.path))
        n_test = len(self.asked_with_test.splits["test"]) if "test" in scores else 0
        tested = Spent(seconds, 0.0, n_test * len(self.plan.units), 0)
        details = {
            "chosen": chosen.chosen,
            "best": chosen.best,
            "run": os.path.relpath(run.path, folder.path),
            "feed": self.plan.said(),
            "table": [self._row(candidate, chosen) for candidate in self.candidates],
            "cost": self._cost(chosen, tested).to_json(),
        } | {name: run.details[name] for name in ("view", "thresholds") if name in run.details}
        if shared_images := self.asked_with_test.shared_images():
            details["shared_images"] = shared_images
        trained = Trained(
            run.weights("best"), run.weights("last"), run.kept_step, run.history, run.stopped, run.seconds
        )
        return folder.finish(trained, predictions, scores, details)

    def _choice(self) -> Choice:
        by_name = {candidate.name: candidate for candidate in self.candidates}
        names = [name for name in by_name if name != ALL]
        tuned = lambda name: self._tuned(by_name[name])  # noqa: E731
        if self.method in get_args(Baseline):
            return algorithms.fixed(self.candidates[0].name, tuned)
        if self.method == "flex":
            for candidate in sorted(self.candidates, key=self._place):
                self._tuned(candidate)
            return algorithms.flex(names, tuned)
        if self.method == "fast":
            return algorithms.fast(names, tuned, lambda name: self._proxy(by_name[name], ALL))
        if self.method == "faster":
            if self._judged(ONE_EPOCH, self._one_epoch) is None:
                return Choice(None, None, {}, {})
            return algorithms.by_score(names, tuned, lambda name: self._proxy(by_name[name], ONE_EPOCH))
        return algorithms.by_score(names, tuned, self._scores([by_name[name] for name in names]).__getitem__)

    def _place(self, candidate: Candidate) -> tuple[int, int]:
        """When flex-tuning trains it: trainings of another kind first, since they may refuse what is asked; units as they
        run, so that inputs are made once, one from another; the whole last."""
        units = self.plan.units
        if candidate.is_part:
            return units.index(candidate.first), len(candidate.units)
        return (len(units) if candidate.regime is None else -1), 0

    # --- trainings -----------------------------------------------------------------------------------------------

    def _tuned(self, candidate: Candidate) -> float | None:
        """Validation score of a candidate after its training; None where it diverged."""
        if candidate.regime is not None:
            return self._judged(candidate.name, lambda: self._other(candidate))
        if candidate.is_part:
            return self._judged(candidate.name, lambda: self._part(candidate))
        return self._judged(ALL, lambda: self._whole(self.asked, ALL))

    def _judged(self, name: str, training: Callable[[], Run]) -> float | None:
        """Validation score after a training, done once; where it diverges that is said and kept, and the search goes on."""
        if name not in self.runs and name not in self.diverged:
            try:
                self.runs[name] = training()
            except Diverged as error:
                self.diverged[name] = error
                say(f"candidate {name} diverged and is ruled out: {error}")
        return self.runs[name].scores["val"] if name in self.runs else None

    def _nothing_left(self) -> Diverged:
        """The error of a search in which nothing can be chosen."""
        (name, first), *others = self.diverged.items()
        if self.method in get_args(Baseline):
            return first
        seen = f"{name} at step {first.step}, learning rate {first.lr:.6g}"
        if not others and name in (ALL, ONE_EPOCH):
            why = (
                f"'{self.method}' makes its proxies from ft-all, which diverged ({seen}): lower the learning rate, or "
            )
            return Diverged(f"{why}choose by 'flex', 'rgn' or 'probe'.", step=first.step, lr=first.lr)
        n = len(self.diverged)
        return Diverged(
            f"all {n} candidates diverged ({seen}), so there is nothing to choose: lower the learning rate or warm up. "
            f"The last good state of each is in {self.folder}.",
            step=first.step,
            lr=first.lr,
        )

    def _whole(self, asked: Asked, name: str) -> Run:
        network = network_for(self.backbone, asked)
        return tune_images(asked, self.backbone, self.folder / name, regime="full_tune", units=None, network=network)

    def _one_epoch(self) -> Run:
        """Line 1 of Algorithm 3: a training of one epoch by the recipe, kept as it ends."""
        recipe = self.asked.recipe
        n_steps = recipe.steps_per_epoch(len(self.asked.splits["train"]))
        short = replace(
            recipe, steps=None, epochs=1, keep=KeepLast(), evaluate_every=None,
            warmup_steps=min(recipe.warmup_steps, n_steps - 1),
        )  # fmt: skip
        return self._whole(replace(self.asked, recipe=short), ONE_EPOCH)

    def _other(self, candidate: Candidate) -> Run:
        assert candidate.regime is not None
        options = {name: value for name, value in self.options.items() if name != "test"}
        splits, out = self.asked.splits, self.folder / candidate.name
        return candidate.regime(
            self.backbone, splits["train"], splits["val"], recipe=self.asked.recipe, out=out, **options
        )

    def _part(self, candidate: Candidate) -> Run:
        """Train some units: from images as `tune_unit` does, or fed with a stored output."""
        asked, network = self.asked, network_for(self.backbone, self.asked)
        units = candidate.units if asked.head_rows is not None else tuple(dict.fromkeys((*candidate.units, "head")))
        source, out = self.plan.source(candidate.first), self.folder / candidate.name
        if self.plan.kind == "images":
            return tune_images(asked, self.backbone, out, regime="tune_unit", units=units, network=network)
        identity = asked.identity("tune_unit", network_identity(self.backbone), asked.image_identity())
        identity |= {"units": list(units), "fed": {"from": source, "dtype": self.plan.dtype}}
        frozen = [] if asked.recipe.bn_scale else batch_norm_scales(network.module)
        parts = network.parts(units, frozen=frozen)
        if source is not None:
            self._used |= {(source, "train"), (source, "val")}

        def work(folder: RunFolder) -> Run:
            is_exact = asked.recipe.precision in (
                "float32",
                "tf32",
            )  # merged weights would be rounded to half precision
            merged = folded_units(network.to(asked.device), parts) if is_exact else {}
            suffix = network.suffix(self.plan.entry(source), instead=merged)
            run = carry_out(asked, folder, suffix, self._feed.load(source), parts=parts)
            self._note_inputs()
            return run

        fed = "images" if source is None else f"the output of {source}"
        return run_of(asked, out, identity, what=f"{' and '.join(units)}, fed with {fed}", work=work)

    # --- criteria ------------------------------------------------------------------------------------------------

    def _proxy(self, candidate: Candidate, tuned: str) -> float:
        """Score of the source network with a candidate's units from ft-all; a new head is ft-all's too."""
        source = self.plan.source(candidate.first)
        entry = self.plan.entry(source)
        units = candidate.units if self.asked.head_rows is not None else {*candidate.units, "head"}
        val: Examples = self._feed.load(source)("val")  # what making it takes is counted with the inputs
        began = time.monotonic()
        if source is not None:
            self._used.add((source, "val"))
        score = proxy_score(
            self._source_network, self._tuned_tensors(tuned), units, asked=self.asked, entry=entry, val=val
        )
        n_units = len(self.plan.units) - self.plan.units.index(entry)
        self._note_inputs()
        self._selection += Spent(time.monotonic() - began, 0.0, len(val) * n_units, 0)
        return score

    def _scores(self, candidates: Sequence[Candidate]) -> dict[str, float]:
        began, n_units = time.monotonic(), len(self.plan.units)
        if self.method == "rgn":
            train = self.asked.images(self.backbone)("train")
            of = {candidate.name: candidate.units for candidate in candidates}
            found = relative_gradient_norms(self._source_network, of, asked=self.asked, train=train)
            batches = min(N_GRADIENT_BATCHES, self.asked.recipe.steps_per_epoch(len(train)))
            passes = 2 * n_units * min(batches * self.asked.recipe.batch_size, len(train))
        else:
            found = probe_scores(self.backbone, [c.name for c in candidates], self.asked, self.store)
            passes = n_units * self.plan.n_images
        self._selection += Spent(time.monotonic() - began, 0.0, passes, 0)
        return found

    @cached_property
    def _source_network(self) -> TargetNetwork:
        return network_for(self.backbone, self.asked).to(self.asked.device)

    @cached_property
    def _feed(self) -> Feed:
        images = self.asked.images(self.backbone)
        if self.plan.kind == "disk":
            at_once = self.method == "flex"
            return StoreFeed(self.backbone, self.asked, self.plan, images, self.store, at_once)
        return MemoryFeed(self._source_network, self.asked, self.plan, images)

    def _tuned_tensors(self, name: str) -> Mapping[str, Any]:
        if name not in self._weights:
            self._weights.clear()
            self._weights[name] = self.runs[name].weights()
        return self._weights[name]

    @cached_property
    def _weights(self) -> dict[str, Mapping[str, Any]]:
        return {}

    # --- outcome -------------------------------------------------------------------------------------------------

    def _predicted(self, run: Run, model: str) -> tuple[dict[str, Predictions], dict[str, float], float]:
        """Predictions and scores of the chosen network; the one place that looks at the test split."""
        from probe import Predictions

        began, asked = time.monotonic(), self.asked_with_test
        on_val = run.predictions["val"]
        assert on_val.scores is not None  # a run keeps its logits
        predictions, scores = {"val": replace(on_val, name=model)}, {"val": run.scores["val"]}
        if "test" in asked.splits:
            split, labels = asked.splits["test"], asked.labels("test")
            view = run.details["view"]["chosen"] if "view" in run.details else None
            network = run.network(self.backbone).to(asked.device).eval()
            logits = logits_of(network, asked.images(self.backbone, view)("test"), device=asked.device)
            judge = settled(asked.metric, asked.labels("val"), on_val.scores)
            scores["test"] = judge.score(labels, logits)
            said = judge.predicted(labels, logits)
            predictions["test"] = Predictions(split.ids, labels, said, split.classes, logits, model)
        return predictions, scores, time.monotonic() - began

    def _row(self, candidate: Candidate, choice: Choice) -> dict[str, Any]:
        run, error = self.runs.get(candidate.name), self.diverged.get(candidate.name)
        return {
            "candidate": candidate.name,
            "units": list(candidate.units),
            "score": choice.scores.get(candidate.name),
            "val": choice.tuned.get(candidate.name),
            "epochs": None if run is None else run.history[-1].epoch,
            "seconds": None if run is None else run.seconds,
            "fed_from": self.plan.source(candidate.first) if candidate.is_part else None,
            "diverged": None if error is None else {"step": error.step, "lr": error.lr, "message": str(error)},
        }

    def _cost(self, choice: Choice, tested: Spent) -> Cost:
        phases: dict[str, Spent] = {}
        for candidate in self.candidates:
            run = self.runs.get(candidate.name)
            if run is not None and candidate.name in choice.tuned:
                is_single = candidate.is_part and len(candidate.units) == 1
                phase = "units" if is_single else "all" if candidate.name == ALL else "others"
                phases[phase] = phases.get(phase, Spent()) + self._training(candidate, run)
        if ONE_EPOCH in self.runs:
            phases["all"] = self._training(self.candidates[-1], self.runs[ONE_EPOCH])
        used = {f"{name} {source}" for source, name in self._used}
        made = [spent for which, spent in self._all_made().items() if which in used]
        lengths = {name: len(split) for name, split in self.asked.splits.items()}
        reach = {name: max((self.plan.units.index(u) + 1 for u, n in self._used if n == name), default=0)
                 for name in lengths}  # fmt: skip
        passes = sum(lengths[name] * reach[name] for name in lengths)
        phases["inputs"] = Spent(sum(one["seconds"] for one in made), 0.0, passes, 0)
        phases |= {"selection": self._selection, "test": tested}
        n_units = sum(candidate.is_part and len(candidate.units) == 1 for candidate in self.candidates)
        stored = sum(int(one["n_bytes"]) for one in made)
        return cost_of(n_units, phases, stored, all_is_one_epoch=ONE_EPOCH in self.runs)

    def _training(self, candidate: Candidate, run: Run) -> Spent:
        units, entry = self.plan.units, 0
        if candidate.is_part:
            entry = units.index(self.plan.entry(self.plan.source(candidate.first)))
        first = units.index(candidate.first) if candidate.is_part else 0
        passes = training_passes(
            n_images=len(self.asked.splits["train"]),
            n_forward=len(units) - entry,
            n_backward=len(units) - first,
            epochs=run.history[-1].epoch,
            n_val=len(self.asked.splits["val"]),
            n_evaluations=len(run.history) + 1,
        )
        return Spent(run.seconds, run.history[-1].epoch, passes, 1)

    def _all_made(self) -> dict[str, dict[str, float]]:
        path = self.folder / _INPUTS
        return read_json(path) or {}

    def _note_inputs(self) -> None:
        """Write down what storing inputs took, for a later call that finds them used already."""
        made = {f"{name} {source}": asdict(spent) for (source, name), spent in self._feed.made.items()}
        if not made:
            return
        if self.asked.progress and not self._all_made().keys() >= made.keys():
            say(f"inputs stored so far: {in_words(sum(one['n_bytes'] for one in made.values()))}")
        write_atomically(self.folder / _INPUTS, json.dumps({**self._all_made(), **made}, indent=1).encode())
