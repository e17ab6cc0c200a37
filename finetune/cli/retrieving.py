"""``finetune retrieve``: do a tuned network's features still lie beside the source's?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from finetune.cli.options import add_backbone, take_backbone


def add(commands: Any) -> None:
    """Add ``retrieve``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "retrieve",
        argument_default=argparse.SUPPRESS,
        help="mAP@k of a target domain's images against the source domain's",
        description="Look up every image of a target domain among the source domain's, by penultimate features: the "
        "source's of the network as it is, the target's of a run's network.",
    )
    parser.add_argument("model", metavar="MODEL", help="the source network; as of the other commands")
    parser.add_argument("--gallery", required=True, metavar="SPLIT", help="images of the source domain")
    parser.add_argument("--queries", required=True, metavar="SPLIT", help="images of the target domain")
    parser.add_argument("--run", type=Path, metavar="RUN", help="whose network the queries pass; else the source's")
    parser.add_argument("--k", type=int, help="how many of the nearest are looked at; else 10")
    parser.add_argument("--distance", help="cosine or euclidean; else cosine")
    parser.add_argument("--normaliser", metavar="{possible,found,k}",
                        help="what precisions are divided by: as many right ones as are possible, or as were found, or k; "
                        "else possible")  # fmt: skip
    add_backbone(parser)
    parser.add_argument("--data-root", type=Path, help="where the data sets with a name are")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print JSON for programs")
    parser.set_defaults(command=look_up)


def look_up(gallery: str, queries: str, *, run: Path | None = None, as_json: bool = False, **options: Any) -> int:
    """Load network and splits, look up, print mAP@k."""
    import featstore
    import finetune

    data = {"data_root": options.pop("data_root")} if "data_root" in options else {}
    found = finetune.retrieve(
        take_backbone(options),
        featstore.load_split(gallery, **data),
        featstore.load_split(queries, **data),
        run=None if run is None else finetune.open_run(run),
        **options,
    )
    said = {
        "score": found.score,
        "k": found.k,
        "distance": found.distance,
        "normaliser": found.normaliser,
        "n_queries": len(found.nearest),
    }
    if as_json:
        print(json.dumps(said, indent=1))
    else:
        print(
            f"mAP@{found.k} {found.score:.4f} of {len(found.nearest)} queries ({found.distance} distance, precisions divided "
            f"by {_DIVISOR[found.normaliser]})"
        )
    return 0


_DIVISOR = {
    "possible": "the number of right ones that is possible",
    "found": "the number of right ones that was found",
    "k": "k",
}
