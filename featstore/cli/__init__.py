"""The ``featstore`` command: extract | ls | info | verify | repair | rm | gc | merge | export | datasets | check.

Each is one library call; results go to stdout, progress to stderr. Options that are not given are not passed on, so
that their defaults are those of the library.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence

from featstore.cli import changing, check, datasets, extract, listing, verify
from featstore.errors import FeatstoreError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 an error of ours, 2 wrong usage, 130 interrupted."""
    arguments = vars(_parser().parse_args(argv))
    command: Callable[..., int] = arguments.pop("command")
    try:
        return command(**arguments)
    except FeatstoreError as error:
        print(f"featstore: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not turn the way out into a traceback
        print(
            "\nfeatstore: interrupted; what was written is kept, and the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:
        # Whoever read our output has left. Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="featstore", description="Extract the features of a network once, and keep them."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (extract, listing, verify, changing, datasets, check):
        group.add(commands)
    return parser
