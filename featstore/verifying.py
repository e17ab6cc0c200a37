"""Reading a whole store and saying what is not as it was written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from featstore import zarrays
from featstore.errors import FeatstoreError
from featstore.reading import in_threads

if TYPE_CHECKING:
    from featstore.passes import PassFolder
    from featstore.reading import StoredArray
    from featstore.store import Store

__all__ = ["Problem", "verify"]


@dataclass(frozen=True)
class Problem:
    """One thing in a store that is not as it was written.

    Attributes
    ----------
    where : str
        The array or the file, in words.
    rows : tuple of int or None
        First row and one past the last one that cannot be trusted; None where it is not about rows.
    reason : str
    pass_id, array_id : str
        Digests; empty where it is not about one.
    """

    where: str
    rows: tuple[int, int] | None
    reason: str
    pass_id: str = ""
    array_id: str = ""

    def __str__(self) -> str:
        rows = f"rows {self.rows[0]} to {self.rows[1] - 1} of " if self.rows else ""
        return f"{rows}{self.where}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Return the problem as JSON holds it."""
        return asdict(self)


def verify(
    store: Store, progress: Callable[[int, int], None] | None = None, *, passes: Collection[str] | None = None
) -> list[Problem]:
    """See `Store.verify`; `passes` are the digests of those that are looked at, None all."""
    problems: list[Problem] = []
    arrays: list[StoredArray] = []
    for folder in store.pass_folders():
        if passes is not None and folder.id not in passes:
            continue
        problems += _of_pass(store, folder)
        for array_id in folder.array_ids():
            try:
                if folder.is_complete(array_id):
                    arrays.append(store.stored_array(folder, array_id))
            except FeatstoreError as error:
                problems.append(Problem(f"array {array_id} of pass {folder.id}", None, str(error), folder.id, array_id))
    n_all, n_read = sum(a.grid.n_chunks * a.grid.file_bytes for a in arrays), 0
    for array in arrays:
        problems += [
            Problem(array.label, None, said, *_ids(array))
            for said in zarrays.problems(array.folder, array.key, array.grid)
        ]
        problems += _of_chunks(array)
        n_read += array.grid.n_chunks * array.grid.file_bytes
        if progress:
            progress(n_read, n_all)
    return problems


def _of_pass(store: Store, folder: PassFolder) -> Iterator[Problem]:
    """Check key, samples and labels of a pass."""
    try:
        n = folder.key().n
        if not any(map(folder.is_complete, folder.array_ids())) and not (folder.path / "samples.npz").exists():
            return  # an extraction that was killed as it began; the next one writes what is missing
        folder.samples()
        folder.names()
        for name in folder.target_names():
            targets = folder.targets(name)
            if targets is not None and len(targets.labels) != n:
                yield Problem(
                    f"labels '{name}' of pass {folder.id}",
                    None,
                    f"{len(targets.labels)} labels for {n} samples",
                    folder.id,
                )
    except (FeatstoreError, OSError) as error:
        yield Problem(f"pass {folder.id}", None, str(error), folder.id)


def _of_chunks(array: StoredArray) -> list[Problem]:
    found: dict[int, str] = {}

    def look(k: int) -> None:
        reason = array.check(k)
        if reason:
            found[k] = reason

    in_threads(look, range(array.grid.n_chunks))
    return [Problem(array.label, array.grid.rows(k), found[k], *_ids(array)) for k in sorted(found)]


def _ids(array: StoredArray) -> tuple[str, str]:
    return array.key.pass_digest, array.key.digest
