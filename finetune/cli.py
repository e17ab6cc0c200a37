"""The ``finetune`` command: head | show. Each is one library call; results go to stdout, progress to stderr."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import FinetuneError
from finetune.keeping import Keep, KeepBest, KeepLast, StopEarly
from finetune.optimizers import SGD, Adam, AdamW, Optimizer
from finetune.recipe import Recipe
from finetune.schedules import Constant, Cosine, Schedule, StepDecay

if TYPE_CHECKING:
    from featstore import Split
    from finetune.run import Run

_OPTIMIZERS: dict[str, Optimizer] = {"sgd": SGD(), "adam": Adam(), "adamw": AdamW()}
_SCHEDULES: dict[str, Schedule] = {
    "constant": Constant(),
    "cosine": Cosine(),
    "cosine-per-epoch": Cosine(per_epoch=True),
}
_KEEPS: dict[str, Keep] = {"last": KeepLast(), "best": KeepBest()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 an error of ours, 2 wrong usage, 130 interrupted."""
    arguments = vars(_parser().parse_args(argv))
    command: Callable[..., int] = arguments.pop("command")
    try:
        return command(**arguments)
    except KeyboardInterrupt as interrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not turn the way out into a traceback
        said = str(interrupt) or "what was written is kept, and the same command goes on from there"
        print(f"\nfinetune: interrupted; {said}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has left. Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not isinstance(error, _errors_of_ours()):
            raise
        print(f"finetune: error: {error}", file=sys.stderr)
        return 1


def _errors_of_ours() -> tuple[type[Exception], ...]:
    """The roots of the three trees of errors; imported when there is an error to look at."""
    from featstore import FeatstoreError
    from probe import ProbeError

    return FinetuneError, FeatstoreError, ProbeError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="finetune", description="Train a pretrained network, or one part of it, on a new task."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    head = commands.add_parser(
        "head",
        argument_default=argparse.SUPPRESS,
        help="train the last layer; everything below it is frozen and run once",
        description="Train the last layer of a network on its stored penultimate features. Called again, it continues "
        "where it was interrupted, and prints a run that is finished.",
    )
    _add_data(head)
    _add_recipe(head)
    head.set_defaults(command=tune_head)
    show = commands.add_parser("show", help="print a finished run", description="Print what a finished run did.")
    show.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    show.add_argument("--json", dest="as_json", action="store_true", help="print JSON for programs")
    show.set_defaults(command=show_run)
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    """Options that say what is trained, on what, and where the results go."""
    parser.add_argument(
        "model", metavar="MODEL",
        help="timm:NAME, torchvision:NAME, featstore:NAME, kornblith2019:NAME, fang2023:NAME or package.module:function; "
        "@path/to/weights may follow",
    )  # fmt: skip
    parser.add_argument("--train", required=True, metavar="SPLIT", help="imagefolder:PATH, npz:PATH, cifar10:train, …")
    parser.add_argument("--val", metavar="SPLIT", help="a split, or a share of the training images to hold out: 0.2")
    parser.add_argument("--test", metavar="SPLIT", help="a split; looked at once, after the training")
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--store", type=Path, help="feature store to read from and extract into; else one inside RUN")
    parser.add_argument("--head-rows", type=_rows, metavar="ROWS",
                        help="continue from these rows of the network's own head, one per class: 0-9 or 167,385,354; "
                        "else a new layer is trained")  # fmt: skip
    parser.add_argument("--metric", help="accuracy, mean_per_class, … of probe.metrics")
    parser.add_argument("--weights", help="local file of weights, or 'random'; else those of the hub")
    parser.add_argument("--data-root", type=Path, help="where the data sets with a name are")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …")
    parser.add_argument("--quiet", dest="progress", action="store_false", help="no progress")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print JSON for programs")


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    """The fields of a recipe. Options that are not given are not passed on, so that defaults are those of `Recipe`."""
    group = parser.add_argument_group("recipe")
    length = group.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int, help="updates")
    length.add_argument("--epochs", type=int, help="passes over the training images")
    group.add_argument("--lr", type=float, required=True, help="learning rate")
    group.add_argument("--batch-size", type=int, help="images per update")
    group.add_argument("--weight-decay", type=float, help="torch's: coupled for sgd and adam, decoupled for adamw")
    group.add_argument("--optimizer", type=_optimizer, metavar="{sgd,adam,adamw}", help="sgd has Nesterov momentum 0.9")
    group.add_argument(
        "--schedule",
        type=_schedule,
        help="constant, cosine, cosine-per-epoch, or step:15,20,25 (a tenth from each of these epochs on)",
    )
    group.add_argument("--warmup-steps", type=int, help="updates with a linearly growing learning rate")
    group.add_argument(
        "--keep",
        type=_keep,
        help="weights to end with: last, best on val, stop:0.025 (stop when val falls by more, keep the best), or "
        "stop:0.025,800 (but not before 800 updates)",
    )
    group.add_argument("--evaluate-every", type=int, help="updates between evaluations on val; else each epoch")
    group.add_argument("--label-smoothing", type=float, help="in [0, 1)")
    group.add_argument("--no-decay-biases", dest="decay_biases", action="store_false", help="no decay on biases")
    group.add_argument("--seed", type=int, help="of order and initial values")


def tune_head(model: str, train: str, out: Path, *, as_json: bool = False, **options: Any) -> int:
    """Load network and splits, train the last layer, print how it does."""
    import featstore
    import finetune

    recipe = Recipe(**{field.name: options.pop(field.name) for field in fields(Recipe) if field.name in options})
    if "metric" in options:
        from probe import metrics

        options["metric"] = metrics.get(options["metric"])
    loading = {"weights": options.pop("weights")} if "weights" in options else {}
    if loading.get("weights") == "random":
        loading["weights"] = None
    data = {"data_root": options.pop("data_root")} if "data_root" in options else {}
    whole = featstore.load_split(train, **data)
    whole, val = _with_val(whole, options.pop("val", None), data)
    if "test" in options:
        options["test"] = featstore.load_split(options["test"], **data)
    backbone = featstore.load_backbone(model, **loading)
    _print_run(finetune.tune_head(backbone, whole, val, recipe=recipe, out=out, **options), as_json)
    return 0


def show_run(run: Path, *, as_json: bool = False) -> int:
    """Print a finished run."""
    import finetune

    _print_run(finetune.open_run(run), as_json)
    return 0


def _with_val(train: Split, val: str | None, data: dict[str, Any]) -> tuple[Split, Split | None]:
    """Training and validation split, where the latter may be a share of the former."""
    import featstore

    if val is None:
        return train, None
    try:
        share = float(val)
    except ValueError:
        return train, featstore.load_split(val, **data)
    return train.holdout(share)


def _print_run(run: Run, as_json: bool) -> None:
    if as_json:
        print(json.dumps(run.to_json(), indent=1))
        return
    metric = str(run.identity["metric"])
    rows = [("split", "n", metric, "95 % interval" if metric == "accuracy" else "")]
    for name, said in run.predictions.items():
        low, high = said.interval()
        interval = f"{low:.4f} – {high:.4f}" if metric == "accuracy" else ""
        rows.append((name, str(len(said)), f"{run.scores[name]:.4f}", interval))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    if len(rows) > 1:
        print(
            "\n".join(
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
            )
        )
    first, last = run.history[0], run.history[-1]
    print(f"{run.regime}: weights after step {run.kept_step} are kept; {run.seconds:.1f} s. {run.stopped}")
    print(f"train loss {first.train_loss:.4f} at step {first.step}, {last.train_loss:.4f} at step {last.step}")
    print(f"written to {run.path}")


def _rows(text: str) -> tuple[int, ...]:
    """``"0-9"`` or ``"167,385,354"``, or both mixed."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            found += range(int(first), int(last) + 1) if dash else [int(first)]
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of rows like 0-9 or 167,385,354") from error
    return tuple(found)


def _optimizer(text: str) -> Optimizer:
    if text not in _OPTIMIZERS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(_OPTIMIZERS)}")
    return _OPTIMIZERS[text]


def _schedule(text: str) -> Schedule:
    """One of `_SCHEDULES`, or ``"step:15,20,25"``."""
    name, _, epochs = text.partition(":")
    if text in _SCHEDULES:
        return _SCHEDULES[text]
    with contextlib.suppress(ValueError):
        if name == "step":
            return StepDecay(tuple(int(epoch) for epoch in epochs.split(",")))
    raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(_SCHEDULES)}, step:15,20,25")


def _keep(text: str) -> Keep:
    """One of `_KEEPS`, or ``"stop:DROP"``, or ``"stop:DROP,MIN_STEPS"``."""
    name, _, numbers = text.partition(":")
    if text in _KEEPS:
        return _KEEPS[text]
    with contextlib.suppress(ValueError):
        if name == "stop":
            drop, _, min_steps = numbers.partition(",")
            return StopEarly(drop=float(drop), min_steps=int(min_steps or 0))
    raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(_KEEPS)}, stop:0.025, stop:0.025,800")
