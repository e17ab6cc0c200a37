"""``probe quickstart``: the whole way, from images to a verdict, on data that comes with scikit-learn.

Half of its 1,797 handwritten digits trained ``featstore:digits_net`` (the source domain). The other half, shifted in
three ways (the targets), is run through that network once; every unit is probed; and for each shift the question is: at
which depth can the shifted digits be read best, and is that better than the network as it is?
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import featstore
from probe import tables
from probe.cli import output
from probe.comparison import Comparison, compare
from probe.predictions import Predictions
from probe.results import Results, row, text
from probe.sweeps import sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from featstore import Store
    from probe.records import Record

NETWORK = "featstore:digits_net"
SHIFTS = {"blurred": "+blur(1.0)", "rotated": "+rotate(40)", "inverted": "+invert()"}
FIGURE = "accuracy_by_depth.png"


class Names(NamedTuple):
    """What the store calls the three splits of one shift."""

    train: str
    val: str
    test: str


@dataclass(frozen=True)
class Finding:
    """What was found for one shift.

    Attributes
    ----------
    shift : str
    results : Results
        One record per unit.
    source : Predictions
        Of the network as it is, on the shifted test images.
    against_usual : Comparison
        The unit chosen on validation data, against the penultimate one, which is what is usually probed.
    against_source : Comparison
        The unit chosen on validation data, against the network as it is.
    """

    shift: str
    results: Results
    source: Predictions
    against_usual: Comparison
    against_source: Comparison

    @property
    def verdict(self) -> str:
        """One sentence, in words that follow from the numbers."""
        return verdict(self)


def command(out: Path = Path("runs/quickstart"), *, as_json: bool = False) -> int:
    """Extract, probe, compare, print and draw; everything is kept in ``out``."""
    started = time.perf_counter()
    store, names, n_missing = extract(out)
    findings = [probe_shift(store, shift, names[shift], out) for shift in SHIFTS]
    figure = out / FIGURE
    draw(findings, figure)
    seconds = time.perf_counter() - started
    n_fitted = sum(finding.results.n_fitted for finding in findings)
    if as_json:
        said = [_as_json(finding) for finding in findings]
        output.print_json(
            {"shifts": said, "figure": str(figure), "n_extracted": n_missing, "n_fitted": n_fitted, "seconds": seconds}
        )
        return 0
    for finding in findings:
        print(f"{text(finding.results.records)}\n{finding.verdict}\n")
    done = [f"{n_missing} feature matrices were extracted" if n_missing else "nothing had to be extracted"]
    done.append(f"{n_fitted} units were probed" if n_fitted else "nothing had to be refitted")
    print(f"Figure: {figure}\nIn {tables.seconds(seconds)} s: {' and '.join(done)}.")
    return 0


def extract(out: Path) -> tuple[Store, dict[str, Names], int]:
    """Run the network once over train, val and test of every shift.

    Returns
    -------
    store : Store
    names : dict of str to Names
        What the store calls the splits of each shift.
    n_missing : int
        Feature matrices that had to be extracted.
    """
    backbone = featstore.load_backbone(NETWORK)
    splits = {shift: [featstore.load_split(f"digits:{p}{SHIFTS[shift]}") for p in Names._fields] for shift in SHIFTS}
    every = [split for parts in splits.values() for split in parts]
    root = out / "features"
    # The head's output, the network's own logits, is what "the network as it is" says about the shifted images.
    made = featstore.plan(backbone, every, root, units=backbone.units)
    if not made.is_done:
        featstore.extract(backbone, every, root, units=backbone.units)
    names = {shift: Names(*(split.name for split in parts)) for shift, parts in splits.items()}
    return featstore.open_store(root), names, sum(len(part.missing) for part in made.parts)


def probe_shift(store: Store, shift: str, names: Names, out: Path) -> Finding:
    """Probe every unit on one shift, and compare the unit that validation chose."""
    units = store.units(names.train)  # the head's too: its logits are features like any others
    results = sweep(store, train=names.train, val=names.val, test=names.test, units=units, out=out / "results")
    best, usual = results.best(), penultimate(results)
    chosen = results.predictions(best)
    source = _source_predictions(store, names.test)
    return Finding(shift, results, source, compare(chosen, results.predictions(usual)), compare(chosen, source))


def penultimate(results: Results) -> Record:
    """Find the unit that is probed when nobody asks which: the pooled input of the classifier."""
    return next(record for record in results if record.unit == "penultimate")


def verdict(finding: Finding) -> str:
    """Say which unit to probe, whether depth mattered, whether probing helped, and the numbers behind each word."""
    best, usual = finding.results.best(), penultimate(finding.results)
    if best.unit == usual.unit:
        depth = "so that no earlier unit need be read"
    else:
        against = finding.against_usual
        misled = " so few validation images chose badly," if against.is_significant and against.difference < 0 else ""
        depth = f"{_apart(against)} the usual '{usual.unit}' ({usual.test_score:.3f},{misled} {_p(against)})"
    own = f"the network as it is ({finding.source.accuracy():.3f}, {_p(finding.against_source)})"
    low, high = best.test_interval or (None, None)
    return (
        f"{finding.shift.capitalize()} digits: '{best.unit}', of {len(finding.results)} units the best on {best.n_val} "
        f"validation images, reads {best.test_score:.3f} {tables.interval(low, high, digits=3)} of the test images "
        f"right, {depth}, and is {_apart(finding.against_source)} {own}."
    )


def draw(findings: list[Finding], path: Path) -> Axes:
    """Accuracy against depth, one line per shift, the network as it is as reference lines."""
    import pandas

    from probe import plots

    tables_of = [finding.results.table().assign(shift=f"{finding.shift} digits") for finding in findings]
    references = {f"{finding.shift} digits": finding.source.accuracy() for finding in findings}
    ax = plots.accuracy_by_depth(pandas.concat(tables_of), by="shift", references=references)
    ax.set_title("A network trained on plain digits, probed on shifted ones", fontsize=11)
    plots.caption(ax, [finding.verdict for finding in findings])
    plots.save(ax, path)
    return ax


def _source_predictions(store: Store, split: str) -> Predictions:
    """What the network's own classifier says: the largest of its stored logits."""
    head = store.features("head", split)
    assert head.labels is not None, "the digits come with labels"
    return Predictions(head.ids, head.labels, head.numpy().argmax(1), head.classes, name="the network as it is")


def _apart(c: Comparison) -> str:
    """How the first of two compares with the second, in words no stronger than the test."""
    if not c.is_significant:
        return "no more than chance apart from"
    return "better than" if c.difference > 0 else "worse than"


def _p(c: Comparison) -> str:
    return f"p = {c.p_value:.2g}" if c.p_value >= 1e-4 else "p < 0.0001"


def _as_json(finding: Finding) -> dict[str, Any]:
    return {
        "shift": finding.shift,
        "units": [row(record) for record in finding.results],
        "source_accuracy": finding.source.accuracy(),
        "against_usual": asdict(finding.against_usual),
        "against_source": asdict(finding.against_source),
        "verdict": finding.verdict,
    }
