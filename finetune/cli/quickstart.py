"""``finetune quickstart``: which part of a network to tune, on data that comes with scikit-learn.

The sequel of ``probe quickstart``, with the same digits, shifts and bundled network: half of the handwritten digits
trained ``featstore:digits_net``; the other half is shifted, and the question is which part of the network to tune to it.
Every method of choosing a unit stands beside the trainings that ask nothing: the head, the last two units, scales and
shifts, everything.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.adapters import ImageToImage
from finetune.adapting import tune_adapter
from finetune.algorithms import Method
from finetune.cli.output import print_rows
from finetune.drawing import draw_choice
from finetune.flex import Flex
from finetune.keeping import StopEarly
from finetune.methods import compare_methods
from finetune.optimizers import Adam
from finetune.recipe import Recipe
from finetune.run import finished_run
from finetune.schedules import Constant

if TYPE_CHECKING:
    from featstore import Backbone, Split
    from probe import Comparison, Predictions

NETWORK = "featstore:digits_net"
SHIFTS = {"blurred": "+blur(1.0)", "rotated": "+rotate(40)", "inverted": "+invert()"}
FIGURE = "choice.png"
METHODS: tuple[Method, ...] = ("flex", "fast", "faster", "rgn", "probe")
RECIPE = Recipe(
    lr=1e-3, epochs=40, batch_size=32, evaluate_every=20, optimizer=Adam(), schedule=Constant(),
    keep=StopEarly(drop=0.0025, min_steps=250),
)  # fmt: skip
"""As Royer and Lampert 2020 train their small networks, with fewer epochs at most."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """One network that was tuned.

    Attributes
    ----------
    method : str
        ``"flex"`` …, ``"ft-fc (1)"`` …, or ``"as it is"``.
    tunes : str
        The part of the network that moved.
    test : Predictions
        On the shifted test images.
    val : float
        Validation accuracy.
    seconds : float or None
        Of everything that the method needs; None where nothing was trained.
    """

    method: str
    tunes: str
    test: Predictions
    val: float
    seconds: float | None


@dataclass(frozen=True, eq=False)
class Finding:
    """What was found for one shift.

    Attributes
    ----------
    shift : str
    outcomes : mapping of str to Outcome
        By method.
    candidates : mapping of str to float
        Validation accuracy of every candidate of flex-tuning.
    against : mapping of str to Comparison
        Flex-tuning against the baselines by name, on the test images.
    """

    shift: str
    outcomes: Mapping[str, Outcome]
    candidates: Mapping[str, float]
    against: Mapping[str, Comparison]

    @property
    def verdict(self) -> str:
        """One sentence, in words that follow from the numbers."""
        return verdict(self)


def command(out: Path = Path("runs/finetune-quickstart"), *, as_json: bool = False) -> int:
    """Tune, compare, print and draw; everything is kept in ``out``."""
    import featstore

    started = time.perf_counter()
    backbone = featstore.load_backbone(NETWORK)
    n_before = _n_finished(out)
    with _one_thread():
        findings = [tune_shift(backbone, shift, out / shift) for shift in SHIFTS]
    figure = out / FIGURE
    draw(findings, figure)
    n_trained, seconds = _n_finished(out) - n_before, time.perf_counter() - started
    if as_json:
        import json

        said = [_as_json(finding) for finding in findings]
        print(json.dumps({"shifts": said, "figure": str(figure), "n_trained": n_trained, "seconds": seconds}, indent=1))
        return 0
    for finding in findings:
        print_rows(rows_of(finding))
        print(f"{finding.verdict}\n")
    done = f"{n_trained} networks were tuned" if n_trained else "nothing had to be tuned again"
    print(f"Figure: {figure}\nIn {seconds:.0f} s: {done}.")
    return 0


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for torch: images of 8 × 8 pixels are too little work for two, which would mostly wait for each other;
    beside a busy process, without end."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def tune_shift(backbone: Backbone, shift: str, out: Path) -> Finding:
    """Choose with every method and tune with every baseline on one shift; the folder's runs are read where they are."""
    import featstore
    from probe import compare

    train, val, test = (featstore.load_split(f"digits:{part}{SHIFTS[shift]}") for part in ("train", "val", "test"))
    options: dict[str, Any] = {"recipe": RECIPE, "head_rows": range(10), "progress": False}
    compared = compare_methods(backbone, train, val, methods=METHODS, test=test, out=out, **options)
    outcomes = {flex.method: _of_flex(flex) for flex in compared.flexes}
    front = ImageToImage(1, 8)
    run = tune_adapter(backbone, train, val, adapter=front, test=test, out=out / "image-to-image", **options)
    said = run.predictions["test"]
    outcomes["image-to-image"] = Outcome("image-to-image", "a unit in front", said, run.scores["val"], run.seconds)
    outcomes["as it is"] = _as_it_is(backbone, val, test)
    against = {name: compare(outcomes["flex"].test, outcomes[name].test) for name in ("ft-fc (1)", "ft-all")}
    candidates = {row.candidate: row.val for row in compared.flexes[0].table if row.val is not None}
    return Finding(shift, outcomes, candidates, against)


def verdict(finding: Finding) -> str:
    """Say what flex-tuning chose, what it reads, how that compares, and what the cheaper choices were."""
    flex = finding.outcomes["flex"]
    low, high = flex.test.interval()
    own = [name for name in finding.against if finding.outcomes[name].tunes == flex.tunes]
    compared = " and ".join(
        f"{_apart(c)} {name} ({finding.outcomes[name].test.accuracy():.3f}, {_p(c)})"
        for name, c in finding.against.items()
        if name not in own
    )
    by_choice: dict[str, list[str]] = {}
    for method in (m for m in METHODS if m != "flex"):
        by_choice.setdefault(finding.outcomes[method].tunes, []).append(method)
    choices = [
        f"{_joined(methods)} chose {'it too' if unit == flex.tunes else repr(unit)}"
        for unit, methods in by_choice.items()
    ]
    return (
        f"{finding.shift.capitalize()} digits: of {len(finding.candidates)} candidates flex-tuning chose '{flex.tunes}'"
        f"{f' ({own[0]})' if own else ''}, which reads {flex.test.accuracy():.3f} [{low:.3f}, {high:.3f}] of "
        f"{len(flex.test)} test images right, {compared}; {', '.join(choices)}."
    )


def rows_of(finding: Finding) -> list[Sequence[str]]:
    """The table of one shift."""
    rows: list[Sequence[str]] = [(f"{finding.shift} digits", "tunes", "val", "test", "95 % interval", "seconds")]
    for outcome in finding.outcomes.values():
        low, high = outcome.test.interval()
        took = "" if outcome.seconds is None else f"{outcome.seconds:.1f}"
        numbers = (f"{outcome.val:.3f}", f"{outcome.test.accuracy():.3f}", f"{low:.3f} – {high:.3f}", took)
        rows.append((outcome.method, outcome.tunes, *numbers))
    return rows


def draw(findings: Sequence[Finding], path: Path) -> None:
    """Validation accuracy of every candidate with the picks, and test accuracy of every method."""
    draw_choice(
        {f"{f.shift} digits": f.candidates for f in findings},
        {f"{f.shift} digits": {m: f.outcomes[m].tunes for m in METHODS} for f in findings},
        {
            f"{f.shift} digits": {o.method: (o.test.accuracy(), *o.test.interval()) for o in f.outcomes.values()}
            for f in findings
        },
        path,
        caption=[finding.verdict for finding in findings],
    )


def _of_flex(flex: Flex) -> Outcome:
    """A choice or a baseline; its seconds are those of every training and criterion that it needs, test left out."""
    seconds = sum(spent.seconds for phase, spent in flex.cost.phases.items() if phase != "test")
    return Outcome(flex.method, flex.unit, flex.best.predictions["test"], flex.best.scores["val"], seconds)


def _as_it_is(backbone: Backbone, val: Split, test: Split) -> Outcome:
    import numpy as np

    from finetune.examples import logits_of
    from finetune.images import ImageExamples
    from probe import Predictions

    said = {}
    for name, split in (("val", val), ("test", test)):
        assert split.labels is not None
        logits = logits_of(backbone.module, ImageExamples(split, backbone.preprocessing, split.labels), device="cpu")
        predicted = np.asarray(logits.argmax(1))
        said[name] = Predictions(split.ids, split.labels, predicted, split.classes, logits, name="as it is")
    return Outcome("as it is", "nothing", said["test"], said["val"].accuracy(), None)


def _n_finished(out: Path) -> int:
    """Trainings that are finished; a choice repeats the one that it chose."""
    runs = [finished_run(path.parent) for path in out.rglob("run.json")]
    return sum(run is not None and run.regime != "flex_tune" for run in runs)


def _apart(c: Comparison) -> str:
    """How the first of two compares with the second, in words no stronger than the test."""
    if not c.is_significant:
        return "no more than chance apart from"
    return "better than" if c.difference > 0 else "worse than"


def _p(c: Comparison) -> str:
    return f"p = {c.p_value:.2g}" if c.p_value >= 1e-4 else "p < 0.0001"


def _joined(words: Sequence[str]) -> str:
    return " and ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else "".join(words)


def _as_json(finding: Finding) -> dict[str, Any]:
    methods = [
        {
            "method": outcome.method,
            "tunes": outcome.tunes,
            "val": outcome.val,
            "test": outcome.test.accuracy(),
            "interval": list(outcome.test.interval()),
            "seconds": outcome.seconds,
        }
        for outcome in finding.outcomes.values()
    ]
    return {
        "shift": finding.shift,
        "methods": methods,
        "candidates": dict(finding.candidates),
        "against": {name: asdict(c) for name, c in finding.against.items()},
        "verdict": finding.verdict,
    }
