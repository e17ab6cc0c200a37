"""The ``finetune`` command: quickstart | full | scratch | head | unit | scale-shift | adapter | lp-ft | flex | search |
retrieve | show.

Each is one library call; results go to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import FinetuneError

__all__ = ["main"]


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
    from finetune.cli import flexing, output, retrieving, searches, training

    parser = argparse.ArgumentParser(
        prog="finetune", description="Train a pretrained network, or one part of it, on a new task."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_quickstart(commands)
    for group in (training, flexing, searches, retrieving, output):
        group.add(commands)
    return parser


def _add_quickstart(commands: Any) -> None:
    sub = commands.add_parser(
        "quickstart",
        argument_default=argparse.SUPPRESS,
        help="see which part of a network to tune, on handwritten digits that come with scikit-learn",
        description="Tune a small network to digits that were blurred, rotated and inverted, choosing the unit in every "
        "way, beside the baselines; print a table and a verdict for each shift, and draw both. Called again, it tunes "
        "nothing.",
    )
    sub.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where everything is kept (default: runs/finetune-quickstart)"
    )
    sub.add_argument("--json", dest="as_json", action="store_true", help="print JSON for programs")
    sub.set_defaults(command=_quickstart)


def _quickstart(**options: Any) -> int:
    from finetune.cli import quickstart

    return quickstart.command(**options)
