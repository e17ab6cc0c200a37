"""One writer per pass. The kernel drops a lock when its holder dies, so that none is ever stale.

The only file that knows filelock.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from featstore.errors import IdentityError, StoreBusy
from featstore.files import atomic_write, write_errors
from featstore.passes import PassFolder, read_json

__all__ = ["locked", "token_of"]

HOLDER = ".holder"


def token_of(folder: PassFolder) -> str | None:
    """Return what tells this holder of a pass's lock from all others, on whatever machine it is read; None without one.

    A file of a holder that was killed stays until the next one comes.
    """
    try:
        return str(read_json(folder.path / HOLDER)["token"])
    except (OSError, IdentityError, KeyError, TypeError):
        return None


@contextmanager
def locked(folder: PassFolder, timeout: float | None) -> Iterator[None]:
    """Hold the lock of a pass.

    Parameters
    ----------
    folder : PassFolder
        Must exist.
    timeout : float or None
        Seconds to wait for another holder; None waits as long as it takes. Waiting is said on stderr.

    Raises
    ------
    StoreBusy
        If it is still held after `timeout`; says by whom.
    StoreWrite
        If the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder.path / ".lock")
    holder = folder.path / HOLDER
    with write_errors(folder.root):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who, is_me = _who(holder)
            if is_me:
                timeout = 0  # waiting for oneself takes for ever
            if timeout != 0:
                print(f"featstore: waiting for {who}, which writes the same features", file=sys.stderr, flush=True)
            try:
                lock.acquire(timeout=-1 if timeout is None else timeout)
            except Timeout:
                raise StoreBusy(
                    f"the features of pass {folder.id} in {folder.root} are being written by {who}. Two writers of the same "
                    "features would do the same work twice: wait for it, or end it; what it has written is kept."
                ) from None
    try:
        with write_errors(folder.root):
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            said = {**_me(), "since": since, "token": uuid.uuid4().hex}
            atomic_write(holder, [json.dumps(said).encode()], durable=False)
        yield
    finally:
        with suppress(OSError):  # the disk may have become read-only meanwhile
            holder.unlink(missing_ok=True)
        lock.release()


def _me() -> dict[str, int | str]:
    return {"pid": os.getpid(), "thread": threading.get_ident(), "host": socket.gethostname()}


def _who(holder: Path) -> tuple[str, bool]:
    """Return who holds the lock, in words, and whether that is this very thread."""
    try:
        said = read_json(holder)
        who = f"process {int(said['pid'])} on {said['host']} (since {said['since']})"
        return who, {name: said[name] for name in _me()} == _me()
    except (OSError, IdentityError, KeyError, ValueError, TypeError):
        return "another process", False
