"""Options that several commands have, and what becomes of them. Those that are not given are not passed on, so that
defaults are those of the library."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from finetune.cli import values
from finetune.recipe import Precision, Recipe, TrainMode, View

if TYPE_CHECKING:
    from featstore import Backbone, Split

_PAPERS = (
    "kornblith2019",
    "kornblith2019-scratch",
    "fang2023",
    "fang2023-scratch",
    "surgical2022",
    "royer2020:DATA:RATIO",
)


def add_data(parser: argparse.ArgumentParser, *, has_rows: bool = True, needs_val: bool = False) -> None:
    """Options that say what is trained, on what, and where the results go."""
    parser.add_argument(
        "model", metavar="MODEL",
        help="timm:NAME, torchvision:NAME, featstore:NAME, kornblith2019:NAME, fang2023:NAME or package.module:function; "
        "@path/to/weights may follow",
    )  # fmt: skip
    parser.add_argument("--train", required=True, metavar="SPLIT", help="imagefolder:PATH, npz:PATH, cifar10:train, …")
    parser.add_argument("--val", required=needs_val, metavar="SPLIT",
                        help="a split, or a share of the training images to hold out: 0.2")  # fmt: skip
    parser.add_argument("--test", metavar="SPLIT", help="a split; looked at once, after the training")
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="folder of the run")
    if has_rows:
        group = parser.add_mutually_exclusive_group()
        group.add_argument("--head-rows", type=values.rows, metavar="ROWS",
                           help="start from these rows of the network's own head, one per class: 0-9 or 167,385,354; "
                           "else a new layer is trained")  # fmt: skip
        group.add_argument("--head-classes", dest="head_rows", type=_lines, metavar="FILE",
                           help="file with the names of the network's own classes, one a line in the order of its "
                           "rows; those of the images' classes are started from")  # fmt: skip
    parser.add_argument("--metric", help="accuracy, mean_per_class, … of probe.metrics, or macro_f1_at_thresholds")
    add_backbone(parser)
    parser.add_argument("--data-root", type=Path, help="where the data sets with a name are")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …")
    parser.add_argument("--workers", type=int, help="threads that decode and augment images; else one per core")
    parser.add_argument("--tensorboard", action="store_true", help="write event files into RUN/tensorboard, too")
    parser.add_argument("--quiet", dest="progress", action="store_false", help="no progress")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print JSON for programs")


def add_store(parser: argparse.ArgumentParser) -> None:
    """Option of the commands that read features."""
    parser.add_argument("--store", type=Path, help="feature store to read from and extract into; else one inside RUN")


def add_recipe(parser: argparse.ArgumentParser, *, is_grid: bool = False) -> None:
    """The fields of a recipe; in a grid those that are searched over take lists."""
    group = parser.add_argument_group("recipe")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="updates")
    length.add_argument("--epochs", type=int, help="passes over the training images")
    number: Callable[[str], Any] = values.numbers if is_grid else float
    several = ", several with commas" if is_grid else ""
    group.add_argument("--lr", type=number, help=f"learning rate{several}")
    group.add_argument("--weight-decay", type=number,
                       help=f"torch's: coupled for sgd and adam, decoupled for adamw{several}")  # fmt: skip
    if not is_grid:
        group.add_argument("--paper", metavar="NAME",
                           help=f"begin with a paper's recipe: {', '.join(_PAPERS)}")  # fmt: skip
        group.add_argument("--decay", type=float, help="of kornblith2019 and fang2023, as the papers write it")
    group.add_argument("--batch-size", type=int, help="images per update")
    group.add_argument("--optimizer", type=values.optimizer, metavar="{sgd,adam,adamw}",
                       help="sgd has Nesterov momentum 0.9")  # fmt: skip
    group.add_argument("--schedule", type=values.schedule,
                       help="constant, cosine, cosine-per-epoch, or step:15,20,25 (a tenth from each of these on)")  # fmt: skip
    group.add_argument("--warmup-steps", type=int, help="updates with a linearly growing learning rate")
    group.add_argument("--keep", type=values.keep,
                       help="weights to end with: last, best on val, stop:0.025 (stop when val falls by more, keep the "
                       "best), stop:0.025,800 (but not before 800 updates), or stop:0.025,800,last (keep those at the stop, "
                       "as the authors' code of flex-tuning does)")  # fmt: skip
    group.add_argument("--evaluate-every", type=int, help="updates between evaluations on val; else each epoch")
    group.add_argument("--seed", type=int, help="of order, augmentation and initial values")
    _add_switches(group)


def _add_switches(group: Any) -> None:
    group.add_argument("--label-smoothing", type=float, help="in [0, 1)")
    group.add_argument("--no-decay-biases", dest="decay_biases", action="store_false", help="no decay on biases")
    group.add_argument("--bn-momentum", type=values.bn_momentum, help="torch's, or kornblith2019 for that paper's rule")
    group.add_argument("--no-bn-scale", dest="bn_scale", action="store_false", help="scales of batch norm stay")
    group.add_argument("--dropout", type=float, help="in front of the head")
    group.add_argument("--auxiliary", type=values.auxiliary, metavar="UNIT[:WEIGHT]", help="a second classifier there")
    group.add_argument("--augmentation", type=values.augmentation, metavar="NAME",
                       help="kornblith2019, fang2023:cct20, rand-m9-mstd0.5-inc1, augmix-m3-w3-d2, or "
                       "fang2023:cct20+augmix-m3-w3-d2; else none")  # fmt: skip
    group.add_argument("--precision", choices=get_args(Precision), help="of training; evaluation is in float32")
    group.add_argument("--view", choices=get_args(View),
                       help="how validation and test images are looked at: better is whole or 87.5 %% crop, by val")  # fmt: skip
    group.add_argument("--train-mode", choices=get_args(TrainMode),
                       help="where batch-norm statistics move and dropout is active: in what is trained, all, or none")  # fmt: skip


def take_fields(options: dict[str, Any]) -> dict[str, Any]:
    """Take the fields of a recipe out of a command's options."""
    return {field.name: options.pop(field.name) for field in fields(Recipe) if field.name in options}


def take_recipe(options: dict[str, Any], fail: Callable[[str], None]) -> Recipe:
    """Take a recipe out of a command's options: a paper's with changes, or one of fields alone.

    Parameters
    ----------
    options : dict
        What of them belongs to the recipe is removed.
    fail : callable
        Ends the command with wrong usage.
    """
    given, paper, decay = take_fields(options), options.pop("paper", None), options.pop("decay", None)
    name, _, rest = (paper or "").partition(":")
    if decay is not None and name.partition("-")[0] not in ("kornblith2019", "fang2023"):
        fail("--decay belongs to --paper kornblith2019 and fang2023; --weight-decay is torch's")
    if paper is None:
        if "lr" not in given or not {"steps", "epochs"} & set(given):
            fail("without --paper, --lr and one of --steps and --epochs are needed")
        return Recipe(**given)
    if name == "royer2020":
        return _royer(rest, given, fail)
    if paper not in _PAPERS:
        fail(f"--paper {paper} is none of {', '.join(_PAPERS)}")
    if "lr" not in given:
        fail(f"--paper {paper} needs --lr")
    study, lr = paper.partition("-")[0], given.pop("lr")
    if study == "surgical2022":
        return Recipe.surgical2022(lr=lr, **given)
    if decay is None:
        fail(f"--paper {paper} needs --decay")
    make: Callable[..., Recipe] = getattr(Recipe, study)
    return make(lr=lr, decay=decay, pretrained=not paper.endswith("-scratch"), **given)


def _royer(rest: str, given: dict[str, Any], fail: Callable[[str], None]) -> Recipe:
    data, _, ratio = rest.partition(":")
    try:
        share = float(ratio)
    except ValueError:
        fail("--paper royer2020 is written royer2020:DATA:RATIO, royer2020:mnist:0.01")
    return Recipe.royer2020(data, ratio=share, **given)


def take_data(options: dict[str, Any]) -> tuple[Backbone, Split, Split | None]:
    """Take network, training and validation split out of a command's options; load the test split and the metric."""
    import featstore

    if "metric" in options:
        from finetune.scoring import metric_named

        options["metric"] = metric_named(options["metric"])
    data = {"data_root": options.pop("data_root")} if "data_root" in options else {}
    train, val = _with_val(featstore.load_split(options.pop("train"), **data), options.pop("val", None), data)
    if "test" in options:
        options["test"] = featstore.load_split(options["test"], **data)
    return take_backbone(options), train, val


def take_backbone(options: dict[str, Any]) -> Backbone:
    """Take the network out of a command's options."""
    import featstore

    loading = {"weights": options.pop("weights")} if "weights" in options else {}
    if loading.get("weights") == "random":
        loading["weights"] = None
    if "granularity" in options:
        loading["units"] = options.pop("granularity")
    return featstore.load_backbone(options.pop("model"), **loading)


def add_backbone(parser: argparse.ArgumentParser) -> None:
    """Options that say which weights a network has and how it is cut."""
    parser.add_argument("--weights", help="local file of weights, or 'random'; else those of the hub")
    parser.add_argument("--units", dest="granularity", choices=("coarse", "fine"), help="how the network is cut")


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


def _lines(path: str) -> tuple[str, ...]:
    try:
        return tuple(line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip())
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {error.strerror}") from error
