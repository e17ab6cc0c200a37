"""Whether the workers of a cluster would compute the same as each other and as the client: decided from what they say of
themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from featstore.errors import ClusterFailed
from featstore.progress import say

__all__ = ["agreed"]


def agreed(found: Mapping[str, Mapping[str, Any]], mine: Mapping[str, str | None]) -> dict[str, Any]:
    """Return what all workers compute with, for the provenance.

    Parameters
    ----------
    found : mapping
        Address of a worker -> what it says; see `featstore.workers.facts`.
    mine : mapping
        Versions of the client, of which those of the workers may differ in what they were built for: ``+cpu``, ``+cu130``.

    Raises
    ------
    ClusterFailed
        If a worker lacks the device or the precision, or has other versions; all of them are named.
    """
    problems = [f"{address} says: {said['problem']}" for address, said in found.items() if said["problem"]]
    problems += [
        f"{address} has {_named(said['versions'], mine)}, and here is {_named(mine, said['versions'])}"
        for address, said in found.items()
        if _named(said["versions"], mine)
    ]
    if problems:
        raise ClusterFailed(
            f"{len(problems)} of {len(found)} workers cannot compute what is asked, or not the same: {'; '.join(problems)}"
        )
    shared = [gpu for gpu, n in Counter(said["gpu"] for said in found.values() if said["gpu"]).items() if n > 1]
    if shared:
        say(f"several workers share a GPU ({', '.join(shared)}); start one worker per GPU, as dask-cuda does")
    devices = sorted({said["device"] for said in found.values()})
    if len(devices) > 1:
        say(f"the workers compute on different devices ({', '.join(devices)}), whose results differ by rounding")
    return {"device": ", ".join(devices), "versions": dict(found[min(found)]["versions"])}


def _named(versions: Mapping[str, str | None], other: Mapping[str, str | None]) -> str:
    """Name those versions that differ from others."""
    names = [name for name in {**versions, **other} if _plain(versions.get(name)) != _plain(other.get(name))]
    return ", ".join(f"{name} {versions.get(name)}" for name in names)


def _plain(version: str | None) -> str | None:
    return None if version is None else version.partition("+")[0]
