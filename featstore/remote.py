"""Stores behind a URL (``s3://bucket/feats``, ``https://…``, ``memory://…``): read as if they were a folder, never written.

The only file that knows fsspec. A `RemotePath` is a `Path` whose reading methods ask fsspec; credentials and endpoints come from
where fsspec takes them (its configuration files, the environment of the protocol's library). A server of files over HTTP must
list its folders, as ``python -m http.server`` and most do.
"""

from __future__ import annotations

import errno
import fnmatch
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path, PosixPath
from typing import Any

from featstore.errors import BadInput, MissingExtra, NotStored

__all__ = ["RemotePath", "place"]

URL = re.compile(r"([a-z][a-z0-9+.-]+)://(.*)", re.DOTALL)


def place(root: str | Path) -> Path:
    """Return the path of a folder, or of a store behind a URL; ``file://`` is a folder.

    Raises
    ------
    BadInput
        It is neither text nor a path.
    """
    if not isinstance(root, str | os.PathLike):
        raise BadInput(f"a store is named by the path of a folder or a URL, not by {root!r} ({type(root).__name__}).")
    found = URL.fullmatch(str(root)) if isinstance(root, str) else None
    if found is None:
        return root if isinstance(root, Path) else Path(root)
    if found[1] == "file":
        return Path(found[2])
    return RemotePath(f"{found[1]}:", *filter(None, found[2].split("/")))


class RemotePath(PosixPath):
    """A path whose first part is a protocol and whose reading methods go through fsspec; the others are errors."""

    @property
    def url(self) -> str:
        """What was asked for: ``s3://bucket/feats``."""
        return self.parts[0] + "//" + "/".join(self.parts[1:])

    def __str__(self) -> str:
        return self.url

    def __fspath__(self) -> str:
        raise BadInput(f"{self.url} is no file of this machine; stores behind a URL are read through featstore alone.")

    def __reduce__(self) -> tuple[Any, ...]:
        return (RemotePath, self.parts)

    def resolve(self, strict: bool = False) -> RemotePath:
        return self

    def exists(self, **_: Any) -> bool:
        return bool(self._ask("exists"))

    def is_file(self, **_: Any) -> bool:
        return bool(self._ask("isfile"))

    def is_dir(self, **_: Any) -> bool:
        return bool(self._ask("isdir"))

    def is_symlink(self) -> bool:
        return False

    def iterdir(self) -> Iterator[RemotePath]:  # type: ignore[override]
        for name in sorted({entry.rstrip("/").rsplit("/", 1)[-1] for entry in self._ask("ls", detail=False)}):
            if name and name != self.name and not name.startswith("?"):
                yield self / name

    def glob(self, pattern: str, **_: Any) -> Iterator[RemotePath]:  # type: ignore[override]
        if self.is_dir():
            yield from (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))

    def rglob(self, pattern: str, **_: Any) -> Iterator[RemotePath]:  # type: ignore[override]
        for path in self.iterdir():
            if fnmatch.fnmatchcase(path.name, pattern):
                yield path
            if path.is_dir():
                yield from path.rglob(pattern)

    def stat(self, **_: Any) -> os.stat_result:
        info = self._ask("info")
        made = info.get("mtime") or info.get("created") or info.get("LastModified") or 0
        seconds = made.timestamp() if hasattr(made, "timestamp") else float(made)
        return os.stat_result((0, 0, 0, 0, 0, 0, int(info.get("size") or 0), seconds, seconds, seconds))

    def owner(self, **_: Any) -> str:
        raise NotImplementedError(f"{self.url} has no owner here")

    def read_bytes(self) -> bytes:
        return bytes(self._ask("cat_file"))

    def read_text(self, *_: Any, **__: Any) -> str:
        return self.read_bytes().decode()

    def open(self, mode: str = "r", *_: Any, **__: Any) -> Any:
        if mode != "rb":
            raise self._read_only()
        return io.BytesIO(self.read_bytes())

    def mkdir(self, *_: Any, **__: Any) -> None:
        raise self._read_only()

    def unlink(self, *_: Any, **__: Any) -> None:
        raise self._read_only()

    def rename(self, *_: Any, **__: Any) -> RemotePath:
        raise self._read_only()

    def _read_only(self) -> OSError:
        return OSError(errno.EROFS, "stores behind a URL are only read", self.url)

    def _ask(self, method: str, **options: Any) -> Any:
        """Call a method of the file system; what it lacks is a `FileNotFoundError` whatever the protocol calls it."""
        try:
            from fsspec.core import url_to_fs

            files, path = url_to_fs(self.url)
        except ImportError as error:
            raise MissingExtra(
                f"{self.url} cannot be opened: {error}. `pip install 'featprobe[remote]'` brings fsspec with HTTP; S3 needs s3fs, "
                "Google Cloud gcsfs, Azure adlfs."
            ) from error
        except ValueError as error:
            raise BadInput(f"{self.url} is of no protocol that fsspec knows: {error}.") from error
        if method in ("ls", "isdir"):
            files.invalidate_cache(path)
        try:
            return getattr(files, method)(path, **options)
        except FileNotFoundError:
            raise
        except OSError as error:  # no such host, no answer, no permission
            raise NotStored(f"{self.url} could not be fetched: {error}.") from error
