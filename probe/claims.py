"""Who computes what, among the processes that share a folder of results.

::

    <folder>/claims/<digest>.lock   held by the one that computes it; a lock of the system, gone with its process

The only file of this package that knows filelock. Claiming never waits, so that two processes cannot wait for each other: what
another one is at is left for later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from probe.errors import BadInput

POLL_S = 0.2
MOST_HELD = 500
"""Claims at a time: each is an open file, of which a process often may have 1,024."""


class Digested(Protocol):
    """What is found by its digest: a job."""

    @property
    def digest(self) -> str: ...


J = TypeVar("J", bound=Digested)


@contextmanager
def claim(folder: Path, digest: str) -> Iterator[bool]:
    """Try to be the one that computes a result; yields whether nobody else does. Never waits.

    Parameters
    ----------
    folder : Path
        Of the results.
    digest : str

    Raises
    ------
    BadInput
        Where the folder cannot be written to.
    """
    from filelock import FileLock, Timeout

    claims = folder / "claims"
    try:
        claims.mkdir(parents=True, exist_ok=True)
        lock = FileLock(claims / f"{digest}.lock")
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as error:
        said = getattr(error, "strerror", None) or error
        raise BadInput(
            f"'{claims}' cannot be written: {said}; who computes a result holds a lock there, so that no other process computes "
            "it, too. Free space or choose a folder you may write to."
        ) from error
    try:
        yield True
    finally:
        lock.release()


def in_turns(
    groups: Iterable[Sequence[J]], folder: Path, is_there: Callable[[J], bool], waits: Callable[[int], None]
) -> Generator[list[J], None, None]:
    """Deal out what is to be computed here: of each group what is not there and nobody else computes.

    What other processes are at comes last, as soon as it is there, or its claim is free again because its holder was ended.

    Parameters
    ----------
    groups : iterable of sequences of jobs
        Computed together: a group's claims are held at once, at most `MOST_HELD` of them.
    folder : Path
        Of the results.
    is_there : callable
        Whether a job's result is there.
    waits : callable
        Told, once, for how many jobs of others this waits.

    Yields
    ------
    list of jobs
        To be computed and written before the next is asked for: then their claims are let go.

    Raises
    ------
    BadInput
        See `claim`.
    """
    groups = [group[a : a + MOST_HELD] for group in map(list, groups) for a in range(0, len(group), MOST_HELD)]
    is_said = False
    while groups:
        left = []
        for group in groups:
            with ExitStack() as held:
                mine, others = [], []
                for job in group:
                    if is_there(job):
                        continue
                    if not held.enter_context(claim(folder, job.digest)):
                        others.append(job)
                    elif not is_there(job):  # finished by another one since
                        mine.append(job)
                if mine:
                    yield mine
            if others:
                left.append(others)
        if left and not is_said:
            waits(sum(map(len, left)))
            is_said = True
        if left:
            time.sleep(POLL_S)
        groups = left
