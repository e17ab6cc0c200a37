"""The ``finetune`` command: full | scratch | head | unit | scale-shift | lp-ft | flex | search | show.

Each is one library call; results go to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence

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
    from finetune.cli import flexing, output, searches, training

    parser = argparse.ArgumentParser(
        prog="finetune", description="Train a pretrained network, or one part of it, on a new task."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (training, flexing, searches, output):
        group.add(commands)
    return parser
