"""``probe report``: results as one web page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.cli import output

if TYPE_CHECKING:
    from PIL import Image

    from featstore import Split
    from probe.results import Results
    from probe.studies.results import StudyResults


def add(commands: Any) -> None:
    """Add the subcommand."""
    sub = commands.add_parser(
        "report",
        argument_default=argparse.SUPPRESS,
        help="write results as one web page: words, tables, drawings, what it cost, how to do it again",
        description="Write the results in folders as one web page that needs no network and no other file. Exit code 1 "
        "where a record is damaged; the page says which.",
    )
    sub.add_argument(
        "folders", type=Path, nargs="+", metavar="RESULTS", help="folders of results, of sweeps or studies"
    )
    sub.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="the page: report.html")
    sub.add_argument("--title", help="of the page")
    sub.add_argument(
        "--images",
        action="store_true",
        help="show the most confused images, read again by the names of the test splits; else those that were kept "
        "(--thumbnails of probe study and probe sweep)",
    )
    sub.add_argument("--data-root", type=Path, metavar="FOLDER", help="where data sets are, for --images")
    sub.add_argument("--json", dest="as_json", action="store_true", help="print JSON for programs")
    sub.set_defaults(command=command)


def command(
    folders: list[Path],
    *,
    out: Path,
    images: bool = False,
    data_root: Path | None = None,
    as_json: bool = False,
    **options: Any,
) -> int:
    """Write the page; say where it is and how large."""
    from probe.report import write_report
    from probe.report.commands import unread_plans
    from probe.studies.results import StudyResults

    found = [_loaded(folder) for folder in {folder.resolve(): folder for folder in folders}.values()]
    path = write_report(found, out, image_of=_image_of(data_root) if images else None, **options)
    n, size = sum(map(len, found)), path.stat().st_size
    damaged = [sentence for results in found for sentence in results.damaged]
    plans = [sentence for one in found if isinstance(one, StudyResults) for sentence in unread_plans(one.folder)]
    if as_json:
        output.print_json({"path": str(path), "bytes": size, "n_results": n, "damaged": damaged, "plans": plans})
    else:
        print(f"{path}: {n:,} results, {size / 1e6:.1f} MB")
    for kind, sentences in (("warning", plans), ("error", damaged)):
        for sentence in sentences:
            print(f"probe: {kind}: {sentence}", file=sys.stderr)
    return 1 if damaged else 0


def _loaded(folder: Path) -> Results | StudyResults:
    """The results in a folder: a study's has its records one level down."""
    from probe.results import load_results
    from probe.studies.results import load_study

    is_study = any((folder / name).is_dir() for name in ("records", "failed"))
    return load_study(folder) if is_study else load_results(folder)


def _image_of(data_root: Path | None) -> Callable[[str, str], Image.Image | None]:
    """Reads images by the name of their split; a split that cannot be loaded is said once and has none."""
    import featstore

    splits: dict[str, Split | None] = {}

    def image_of(name: str, sample: str) -> Image.Image | None:
        if name not in splits:
            try:
                splits[name] = featstore.load_split(name, data_root=data_root)
            except featstore.FeatstoreError as error:
                print(f"probe: warning: no images of '{name}': {error}", file=sys.stderr)
                splits[name] = None
        split = splits[name]
        if split is None:
            return None
        try:
            return split.image(int(split.rows([sample])[0]))
        except featstore.FeatstoreError as error:
            print(f"probe: warning: no image '{sample}' of '{name}': {error}", file=sys.stderr)
            return None

    return image_of
