"""``featstore extract``: what the store lacks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from featstore.cli import output

ENGINE = ("processes", "ahead", "channels_last", "compile", "roofline")
"""Options that say how the network is run: the fields of `featstore.Engine`."""
LOADING = ("weights", "cut", "seed", "version")
"""Options that belong to `load_backbone`; the others go to `featstore.extract`."""


def add(commands: Any) -> None:
    """Add the subcommand."""
    sub = commands.add_parser(
        "extract",
        argument_default=argparse.SUPPRESS,
        help="compute the features that a store lacks",
        description="Compute the features of every unit of a network for the images of some splits, as far as they are missing.",
    )
    sub.add_argument("model", metavar="MODEL", help="timm:NAME, torchvision:NAME, featstore:NAME, kornblith2019:NAME, "
                     "fang2023:NAME or package.module:function; @path/to/weights may follow")  # fmt: skip
    sub.add_argument("splits", nargs="+", metavar="SPLIT", help="imagefolder:PATH, npz:PATH, webdataset:PATH, parquet:PATH, "
                     "cifar10:train, … (see `featstore datasets`) or package.module:function; shifts may follow: "
                     "'digits:train+blur(2.0)'")  # fmt: skip
    sub.add_argument("root", metavar="STORE", help="folder of the store; made where there is none")
    sub.add_argument("--weights", help="local file of weights, or 'random'; else those of the hub")
    sub.add_argument("--cut", choices=("coarse", "fine"), help="how the network is cut into units")
    sub.add_argument("--seed", type=int, help="of random weights")
    sub.add_argument(
        "--version", help="your own version of a model or data set that has no content to be identified by"
    )
    sub.add_argument("--data-root", type=Path, help="where the data sets with a name are")
    sub.add_argument("--download", action="store_true", help="fetch what is missing there, where torchvision knows how")
    sub.add_argument("--units", nargs="+", help="names of units; else all up to the penultimate")
    sub.add_argument("--pool", nargs="+", help="what is kept of a unit's output: mean, max, token, grid2, …, flatten, none, "
                     "or package.module:function; several come from one pass")  # fmt: skip
    sub.add_argument("--dtype", choices=("float16", "float32", "bfloat16"), help="what is stored")
    sub.add_argument("--batch-size", type=int, help="images per forward pass")
    sub.add_argument("--device", help="cpu, cuda, cuda:1, …")
    sub.add_argument("--workers", type=int, help="threads that decode images")
    sub.add_argument("--processes", action="store_true", help="decode by processes instead of threads")
    sub.add_argument("--ahead", type=int, help="batches that are prepared while a GPU works on one")
    sub.add_argument(
        "--decoder",
        choices=("pil", "nvjpeg"),
        help="who decodes images; nvjpeg does on the GPU, and its features are others",
    )
    sub.add_argument("--channels-last", action=argparse.BooleanOptionalAction, help="order of maps in memory")
    sub.add_argument("--compile", action="store_true", help="have torch.compile fuse the network's operations")
    sub.add_argument("--roofline", action="store_true", help="measure the share of the device's peak FLOP/s, too")
    sub.add_argument(
        "--precision", choices=("fp32", "tf32", "amp-fp16", "amp-bf16"), help="arithmetic of the forward pass"
    )
    sub.add_argument(
        "--deterministic", action="store_true", help="one image at a time: the same bits whatever the batch size"
    )
    sub.add_argument(
        "--skip-unreadable", action="store_true", help="leave out images that do not decode, and record them"
    )
    sub.add_argument("--repair", action="store_true", help="read all that is stored, and compute damaged rows again")
    sub.add_argument("--scheduler", dest="client", metavar="ADDRESS", help="compute on the workers of a Dask cluster")
    sub.add_argument("--quiet", dest="progress", action="store_false", help="no progress")
    output.add_json(sub)
    sub.set_defaults(command=command)


def command(model: str, splits: list[str], root: str, *, as_json: bool = False, **options: Any) -> int:
    """Load the network and the splits, and extract what is missing."""
    import featstore

    loading = {name: options.pop(name) for name in LOADING if name in options}
    if loading.get("weights") == "random":
        loading["weights"] = None
    if "cut" in loading:
        loading["units"] = loading.pop("cut")
    data = {name: options.pop(name) for name in ("data_root", "download") if name in options}
    engine = featstore.Engine(**{name: options.pop(name) for name in ENGINE if name in options})
    loaded = [featstore.load_split(spec, **data) for spec in splits]
    backbone = featstore.load_backbone(model, **loading)
    if "decoder" in options:
        backbone = backbone.decoded_by(options.pop("decoder"))
    reports: list[featstore.Report] = []
    store = featstore.extract(backbone, loaded, root, engine=engine, report=reports.append, **options)
    names = {split.name for split in loaded}
    done = [e for e in store.entries() if e.weights_digest == backbone.weights_digest and names & set(e.splits)]
    if as_json:
        print(
            json.dumps({"matrices": [e.to_json() for e in done], "reports": [r.to_json() for r in reports]}, indent=1)
        )
        return 0
    output.print_entries(done, as_json=False)
    for report in reports:
        print(report)
        for stage, seconds in report.stages.items():
            print(f"  {stage:<16} {seconds:8.2f} s")
        print(f"  {'waiting':<16} {report.waiting:8.2f} s")
    return 0
