"""One pass's folder: where its files are, and reading them with their identity checked.

::

    <root>/featstore.json                    {"format": 1}; see `FORMAT`
    <root>/cache/                            accelerators; may be deleted
    <root>/<pass digest>/key.json            the PassKey
                         split.json          what people called the split
                         samples.npz         ids and the digest of every sample
                         targets/NAME.npz    labels; replaceable
                         .lock  .holder      who writes
                         staging/<array>/    being written
                         arrays/<array>/     committed: array.json, data.zarr/, manifest.json

Only digests and checked names become paths; nothing that a file of the store says does.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from featstore.chunks import Grid
from featstore.digests import SplitDigest
from featstore.errors import BadInput, IdentityError, StoreFormat
from featstore.files import atomic_write
from featstore.manifest import ArrayKey, PassKey, canonical_json, differences

__all__ = ["FORMAT", "Manifest", "PassFolder", "Targets", "check_format"]

FORMAT = 2
"""The newest format that this version reads. Every file says the oldest one that has what it describes, so that older versions
of featstore read whatever they can: 1 is all but matrices of bfloat16, which came with 2."""
PLAIN_FORMAT = 1
DIGEST = re.compile(r"[0-9a-f]{32}")
TARGET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
MANIFEST, ARRAY, DATA = "manifest.json", "array.json", "data.zarr"


def check_format(found: Any, where: Path) -> None:
    """Raise `StoreFormat` where a file of the store is of a newer format, `IdentityError` where it says of none."""
    number = found.get("format") if isinstance(found, dict) else None
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise IdentityError(f"{where} does not say of which format it is: it was edited or damaged. {AGAIN}")
    if number > FORMAT:
        raise StoreFormat(
            f"{where} is of format {number} and this version of featstore reads formats up to {FORMAT}: the store was written "
            "by a newer version. Update with `pip install -U featprobe`."
        )


def write_json(path: Path, value: Any) -> None:
    """Write canonical content, indented for people, whole or not at all."""
    text = json.dumps(json.loads(canonical_json(value)), sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    atomic_write(path, [text.encode()])


AGAIN = "Run the command that extracted it again with --repair: what can be told from the images is written anew."


def read_json(path: Path) -> Any:
    """Read JSON; broken text is an `IdentityError`, since what it describes is no longer known."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # the latter for a million opening brackets
        raise IdentityError(
            f"{path} is not valid JSON ({error}): it was edited or damaged, so what it describes is unknown. {AGAIN}"
        ) from error


def npz_bytes(**arrays: np.ndarray) -> bytes:
    """Return an uncompressed npz; the same arrays always give the same bytes (numpy writes no time into it)."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read an npz without pickle; damage is an `IdentityError`, and so is its absence."""
    try:
        # opened here, because numpy leaves a file open that turns out not to be an npz
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if any(member.compress_type != zipfile.ZIP_STORED for member in file.zip.infolist()):
                raise ValueError("it is compressed, which ours never are; some kB could unfold to fill the memory")
            return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise IdentityError(f"{path} is missing. {AGAIN}") from error
    except (ValueError, zipfile.BadZipFile, EOFError, KeyError, AttributeError, MemoryError) as error:
        # MemoryError: a header that announces more than there is
        raise IdentityError(f"{path} cannot be read as an npz file: it was edited or damaged. {AGAIN}") from error


@dataclass(frozen=True)
class Manifest:
    """What is said about a committed array; its file is written last and marks the array complete."""

    array: ArrayKey
    n: int
    chunk_rows: int
    crcs: tuple[int, ...]
    provenance: Mapping[str, Any]

    @property
    def grid(self) -> Grid:
        return Grid.of(self.array, self.n, self.chunk_rows)

    def to_json(self) -> dict[str, Any]:
        """Return what the file holds; ``"self"`` is the digest of everything else, so that an edit is noticed."""
        return dict(self._said)

    @cached_property
    def _said(self) -> dict[str, Any]:
        said = {
            "format": self.array.format,
            "array": self.array.to_json(),
            "n": self.n,
            "chunk_rows": self.chunk_rows,
            "crc32c": [f"{crc:08x}" for crc in self.crcs],
            "provenance": dict(self.provenance),
        }
        return {**said, "self": hashlib.sha256(canonical_json(said).encode()).hexdigest()}

    @classmethod
    def read(cls, path: Path, array_id: str) -> Manifest:
        """Read and check a manifest.

        Raises
        ------
        StoreFormat
            If it is of a newer format.
        IdentityError
            If it was edited, or describes another array than the folder it lies in.
        """
        said = read_json(path)
        check_format(said, path)
        rest = {k: v for k, v in said.items() if k != "self"}
        if said.get("self") != hashlib.sha256(canonical_json(rest).encode()).hexdigest():
            raise IdentityError(f"{path} was changed after it was written: {_edits(path, rest)}. {REWRITE}")
        array = ArrayKey.from_json(said["array"])
        if array.digest != array_id:
            raise IdentityError(
                f"{path} describes another array than its folder holds: {_edits(path, rest)}. {REWRITE}"
            )
        manifest = cls(
            array, said["n"], said["chunk_rows"], tuple(int(c, 16) for c in said["crc32c"]), said["provenance"]
        )
        if len(manifest.crcs) != manifest.grid.n_chunks:
            raise IdentityError(
                f"{path} lists {len(manifest.crcs)} chunks and an array of its shape has {manifest.grid.n_chunks}."
            )
        manifest.__dict__["_said"] = said  # it was just checked
        return manifest


REWRITE = "Run the command that extracted it again with --repair: the manifest is written anew from the data."


def _edits(path: Path, said: dict[str, Any]) -> str:
    """Say in which words a manifest differs from the ``array.json`` beside it, as far as that can be told."""
    try:
        known = read_json(path.with_name(ARRAY))
        found = differences(known["array"], said["array"], names=("when it was written", "now"))
        found += differences(
            *({"chunk_rows": v["chunk_rows"], "n": v["n"]} for v in (known, said)), names=("when it was written", "now")
        )
    except (OSError, KeyError, TypeError, AttributeError, IdentityError):
        found = []
    return "; ".join(found) or "its checksums or its provenance are not those that were written"


@dataclass(frozen=True)
class Targets:
    """Labels stored beside features: (n,) int64 or (n, k) uint8, and the names of their classes."""

    labels: np.ndarray
    classes: tuple[str, ...]

    def select(self, rows: np.ndarray) -> Targets:
        """Return the labels of some rows."""
        return Targets(self.labels[rows], self.classes)


@dataclass(frozen=True)
class PassFolder:
    """Paths and contents of one pass in a store.

    Attributes
    ----------
    root : Path
        Of the store.
    id : str
        Digest of the pass; the folder's name.
    """

    root: Path
    id: str

    def __post_init__(self) -> None:
        if not DIGEST.fullmatch(self.id):
            raise BadInput(f"'{self.id}' is not the digest of a pass: 32 hexadecimal digits.")

    @cached_property
    def path(self) -> Path:
        return self.root / self.id

    @cached_property
    def _arrays(self) -> Path:
        return self.path / "arrays"

    def array_path(self, array_id: str) -> Path:
        """Folder of a committed array."""
        return self._arrays / _digest(array_id)

    def staging_path(self, array_id: str) -> Path:
        """Folder of an array that is being written."""
        return self.path / "staging" / _digest(array_id)

    def array_ids(self, kind: str = "arrays") -> list[str]:
        """Return the ids of the arrays in ``arrays`` or ``staging``, sorted."""
        folder = self.path / kind
        return sorted(p.name for p in folder.iterdir() if DIGEST.fullmatch(p.name)) if folder.is_dir() else []

    def key(self) -> PassKey:
        """Return the pass's key.

        Raises
        ------
        IdentityError
            If the file does not describe the folder it lies in.
        """
        path = self.path / "key.json"
        if not path.is_file():
            raise IdentityError(f"{path} is missing, so what the features here were made of is unknown. {AGAIN}")
        said = read_json(path)
        check_format(said, path)
        try:
            key = PassKey.from_json(said["pass"])
        except (KeyError, TypeError) as error:
            raise _not_ours(path) from error
        if key.digest != self.id:
            raise IdentityError(
                f"{path} describes the pass {key.digest} and lies in the folder of {self.id}: it was edited or moved, so what the "
                "features here were made of is unknown. Put the original file back, or delete this folder and extract again."
            )
        return key

    def names(self) -> tuple[str, ...]:
        """Return what people called the split, sorted."""
        path = self.path / "split.json"
        if not path.exists():
            return ()
        try:
            return tuple(sorted(str(name) for name in read_json(path)["names"]))
        except (KeyError, TypeError) as error:
            raise _not_ours(path) from error

    def provenance(self) -> Mapping[str, Any]:
        """Return where the committed arrays came from; of several extractions, what the one with the lowest digest says."""
        committed = [array_id for array_id in self.array_ids() if self.is_complete(array_id)]
        return self.manifest(committed[0]).provenance if committed else {}

    def is_complete(self, array_id: str) -> bool:
        """Return whether an array is committed."""
        return (self.array_path(array_id) / MANIFEST).is_file()

    def manifest(self, array_id: str) -> Manifest:
        """Return the checked manifest of a committed array."""
        return Manifest.read(self.array_path(array_id) / MANIFEST, array_id)

    def samples(self) -> SplitDigest:
        """Return ids and digests of the samples, checked against the pass's key."""
        path = self.path / "samples.npz"
        said = read_npz(path)
        samples = SplitDigest.from_arrays(said)
        key = self.key()
        if (samples.ids_digest, samples.content_digest) != (key.ids_digest, key.content_digest):
            raise IdentityError(f"{path} lists other samples than {self.path / 'key.json'}: one of them was edited.")
        return samples

    def write_samples(self, samples: SplitDigest) -> None:
        """Write ids and digests of the samples."""
        atomic_write(self.path / "samples.npz", [npz_bytes(**samples.to_arrays())])

    def targets_path(self, name: str) -> Path:
        """Return the file of the labels called `name`; a name that could leave the folder is `BadInput`."""
        if not TARGET_NAME.fullmatch(name):
            raise BadInput(
                f"labels cannot be called {name!r}: use letters, digits, '_', '-' and '.', not first, at most 100."
            )
        return self.path / "targets" / f"{name}.npz"

    def targets(self, name: str) -> Targets | None:
        """Return the labels called `name`, or None."""
        path = self.targets_path(name)
        if not path.exists():
            return None
        said = read_npz(path)
        try:
            return Targets(said["labels"], tuple(str(c) for c in said["classes"]))
        except (KeyError, TypeError) as error:
            raise _not_ours(path) from error

    def target_names(self) -> tuple[str, ...]:
        """Return the names of all labels, sorted."""
        return tuple(sorted(p.stem for p in (self.path / "targets").glob("*.npz")))

    def write_targets(self, name: str, targets: Targets) -> None:
        """Write or replace the labels called `name`."""
        path = self.targets_path(name)
        path.parent.mkdir(exist_ok=True)
        atomic_write(path, [npz_bytes(labels=targets.labels, classes=np.array(targets.classes, np.str_))])


@dataclass(frozen=True, eq=False)
class PassSamples:
    """Ids, digests and labels of a pass's samples; read when first asked for."""

    folder: PassFolder

    @cached_property
    def digest(self) -> SplitDigest:
        """See `PassFolder.samples`."""
        return self.folder.samples()

    def targets(self, name: str) -> Targets | None:
        """See `PassFolder.targets`."""
        return self.folder.targets(name)


def _not_ours(path: Path) -> IdentityError:
    return IdentityError(f"{path} lacks what belongs into it: it was edited or damaged. {AGAIN}")


def _digest(text: str) -> str:
    if not DIGEST.fullmatch(text):
        raise BadInput(f"'{text}' is not the digest of an array: 32 hexadecimal digits.")
    return text
