"""What every test may use: the shared real data, and a GPU where there is one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real images (``data/``) and real pretrained weights (``weights/``); the test skips where it is absent."""
    if not (SHARED / "data").is_dir() or not (SHARED / "weights").is_dir():
        pytest.skip("the shared folder with real images and weights is not beside this checkout")
    return SHARED


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for torch: networks as small as the tests' only wait for each other's. For ``usefixtures`` of a file."""
    import torch

    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Any]:
    """A Dask cluster here: two processes of one thread each.

    Of a worker that is killed the scheduler and the cluster's own list of workers learn apart; where the list is first,
    distributed's watcher ends with a `KeyError` that `close` raises again, when workers and scheduler are closed.
    """
    from distributed import LocalCluster

    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=100)
    yield cluster
    with suppress(KeyError):
        cluster.close()


@pytest.fixture
def cluster(two_workers: Any) -> Any:
    """Both workers there, also after a test has killed one."""
    two_workers.wait_for_workers(2, timeout=60)
    return two_workers


@pytest.fixture(scope="session")
def backbone() -> Any:
    """The four units of the bundled digits network, dropout in front of the head; no training changes it."""
    import featstore

    return featstore.load_backbone("featstore:digits_net")


@pytest.fixture(scope="session")
def digits() -> Any:
    """See `finetune_helpers.blurred_digits`; decoded images and digests of them are made once."""
    from finetune_helpers import blurred_digits

    return blurred_digits()


LONG = (
    "test_published", "test_distributed", "test_readme", "test_units", "test_tune_head", "test_hard_cases", "test_study",
    "test_report", "test_finetune_quickstart", "test_flex", "test_flex_beside", "test_extraction", "test_engine",
)  # fmt: skip
"""Files that take longest: begun first, they do not leave one process working alone at the end."""


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C through: a shell that starts the tests in the background has them, and all they start, ignore it.

    Several processes of tests get one thread each, and so do the processes that they start: with a thread per core in
    each of them, threads would wait for one another.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the processes begin: libraries read it as they load


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; skip GPU tests, with the reason, where torch sees no CUDA device."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
    marked = [item for item in items if item.get_closest_marker("gpu")]  # keywords have the names of folders, too
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
