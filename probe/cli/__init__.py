"""The ``probe`` command: quickstart | sweep | study | path | compare | correlate | results | report.

Each is one library call; results go to stdout, progress to stderr. Options that are not given are not passed on, so
that their defaults are those of the library.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from probe.cli import compare, correlate, path, report, results, study, sweep
from probe.errors import ProbeError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process where None.

    Returns
    -------
    int
        0 done, 1 an error of ours (one message on stderr), 2 wrong usage, 130 interrupted.
    """
    arguments = vars(_parser().parse_args(argv))
    command: Callable[..., int] = arguments.pop("command")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            return command(**arguments)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not turn the way out into a traceback
        print(
            "\nprobe: interrupted; what is finished is kept, and the same command goes on from there", file=sys.stderr
        )
        return 130
    except BrokenPipeError:
        # Whoever read our output has left. Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not isinstance(error, _errors_of_ours()):
            raise
        print(f"probe: error: {error}", file=sys.stderr)
        return 1


def _errors_of_ours() -> tuple[type[Exception], ...]:
    """The roots of the two trees of errors; imported when there is an error to look at."""
    from featstore import FeatstoreError

    return ProbeError, FeatstoreError


def _warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """A warning as one line of the command's own, without the place in the code that raised it."""
    print(f"probe: warning: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="probe", description="Fit linear classifiers on stored features, choose their penalty, compare them."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_quickstart(commands)
    for command in (sweep, study, path, compare, correlate, results, report):
        command.add(commands)
    return parser


def _add_quickstart(commands: Any) -> None:
    sub = commands.add_parser(
        "quickstart",
        argument_default=argparse.SUPPRESS,
        help="walk the whole way on handwritten digits that come with scikit-learn; needs no network",
        description="Extract the features of a small network for digits that were blurred, rotated and inverted, probe "
        "every unit, print a table and a verdict for each shift, and draw accuracy against depth.",
    )
    sub.add_argument("--out", type=Path, metavar="FOLDER", help="where everything is kept (default: runs/quickstart)")
    sub.add_argument("--json", dest="as_json", action="store_true", help="print JSON for programs")
    sub.set_defaults(command=_quickstart)


def _quickstart(**options: Any) -> int:
    from probe.cli import quickstart

    done: int = quickstart.command(**options)
    return done
