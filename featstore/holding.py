"""Who reads an array holds a shared lock on its folder; who removes it must hold the only one.

Locks belong to open files: the kernel drops those of a process that ends, however it ends. A folder that is renamed takes its
lock along. File systems without such locks (some network ones) are read without, and nothing is removed from them.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

from featstore.errors import StoreBusy, StoreWrite

__all__ = ["Hold", "claim"]


class Hold:
    """A shared lock on a folder, for as long as this object lives; another process that gets it pickled takes its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._fd = -1
        try:
            self._fd = os.open(folder, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            self._close()  # it is being removed, which reading will tell; or there are no locks here

    def __reduce__(self) -> tuple[Any, ...]:
        return (Hold, (self.folder,))

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def claim(folder: Path, what: str) -> int:
    """Return an open file that holds the only lock on a folder; closing it gives the lock back.

    Raises
    ------
    StoreBusy
        If somebody reads from it, this process included.
    StoreWrite
        If the file system has no such locks, so that nobody can tell.
    """
    fd = os.open(folder, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            raise StoreBusy(
                f"{what} is in use: a process has opened it for reading. Nothing was removed; end that process, or run this "
                "again when it is done."
            ) from None
        raise StoreWrite(
            f"{what} cannot be locked ({error.strerror}), so that nobody can tell whether it is in use. Nothing was removed."
        ) from error
    return fd
