"""``probe compare``: are models' results on the same samples different?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe import tables
from probe.cli import output

if TYPE_CHECKING:
    from probe.comparison import Comparison
    from probe.predictions import Predictions


def add(commands: Any) -> None:
    """Add the subcommand."""
    sub = commands.add_parser(
        "compare",
        argument_default=argparse.SUPPRESS,
        help="compare models on the same samples: difference, interval, exact p",
        description="Compare two or more sets of predictions, paired by sample. Each is an npz file of predictions, or a "
        "record of a sweep: FOLDER/RECORD, RECORD being the beginning of its name as `probe results FOLDER` prints it. Of more "
        "than two all pairs are compared, with p-values corrected for how many there are (Holm).",
    )
    sub.add_argument("a", metavar="A")
    sub.add_argument("b", metavar="B")
    sub.add_argument("more", nargs="*", metavar="MORE")
    sub.add_argument(
        "--measure", type=_measure, metavar="{accuracy,mean_per_class,label_accuracy}",
        help="what is compared; label_accuracy is for samples with several labels",
    )  # fmt: skip
    sub.add_argument("--level", type=float, help="of the interval: 0.95")
    sub.add_argument("--plot", type=Path, metavar="FILE", help="draw the differences into this file")
    sub.add_argument("--json", dest="as_json", action="store_true", help="print JSON for programs")
    sub.set_defaults(command=command)


def _measure(name: str) -> str:
    if name in ("accuracy", "mean_per_class", "label_accuracy"):
        return name
    from probe.comparison import refuse_measure

    raise argparse.ArgumentTypeError(refuse_measure(name))


def command(
    a: str, b: str, *, more: Sequence[str] = (), as_json: bool = False, plot: Path | None = None, **options: Any
) -> int:
    """Compare, print the numbers and a sentence."""
    from probe.comparison import compare, label_accuracy
    from probe.many_models import compare_all, comparison_text
    from probe.rank_tests import holm

    if options.get("measure") == "label_accuracy":
        options["measure"] = label_accuracy
    where = [a, b, *more]
    models = [_predictions(place) for place in where]
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        # Nothing tells them apart but where they are.
        models = [replace(model, name=place) for model, place in zip(models, where, strict=True)]
    found = compare_all(models, **options) if more else (compare(*models, **options),)
    if as_json:
        values = [{**asdict(c), "interval": list(c.interval), "n_digits": c.n_digits} for c in found]
        sentences = [{"is_significant": c.is_significant, "sentence": c.sentence} for c in found]
        adjusted = [{"p_holm": float(p)} for p in holm([c.p_value for c in found])]
        said = [v | s | p for v, s, p in zip(values, sentences, adjusted, strict=True)]
        output.print_json(said if more else said[0])
    elif more:
        print(comparison_text(found))
        print(
            f"of {found[0].n:,} samples; {found[0].test} test; differences below 'detectable' cannot be told from chance"
        )
        print(_calibration(models))
    else:
        _print_pair(found[0])
        print(_calibration(models))
        print(found[0].sentence)
    if plot is not None:
        from probe import plots

        plots.save(plots.differences(found), plot)
    return 0


def _print_pair(found: Comparison) -> None:
    rows = [
        [found.name_a, tables.number(found.value_a, found.n_digits), str(found.n_only_a)],
        [found.name_b, tables.number(found.value_b, found.n_digits), str(found.n_only_b)],
    ]
    is_score = found.measure not in ("accuracy", "mean_per_class")
    alone = "higher on" if is_score else "only this one right"
    print(tables.text_table(["", found.measure.replace("_", " "), alone], rows))
    both = f"equal on {found.n_both:,}" if is_score else f"both right {found.n_both:,}, neither {found.n_neither:,},"
    print(f"{both} of {found.n:,} samples; {found.test} test")
    least = f"{found.smallest_detectable:.{found.n_digits + 1}f}"
    if found.smallest_detectable > 0:
        told = f"differences below about {least} could not have been told from chance here"
        print(f"{told}, so that {found.n_digits} decimals are shown")


def _calibration(models: Sequence[Predictions]) -> str:
    """A line on calibration, where scores were kept."""
    from probe.calibration import calibration_table

    scored = [m for m in models if m.scores is not None and m.y_true.ndim == 1]
    if not scored:
        return "calibration: no scores were kept"
    parts = [
        f"{row['name']} {row['calibration_error']:.3f} ({row['by_chance']:.3f} by chance)"
        for _, row in calibration_table(scored).iterrows()
    ]
    return f"calibration error: {', '.join(parts)}"


def _predictions(where: str) -> Predictions:
    """Load a file of predictions, or those behind a record of a sweep."""
    from probe.predictions import Predictions
    from probe.records import ResultFolder

    path = Path(where)
    if path.suffix == ".npz":
        return Predictions.load(path)
    folder = ResultFolder(path.parent)
    return folder.predictions(folder.find(path.stem if path.suffix == ".json" else path.name))
