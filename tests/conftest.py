"""What every test may use: the shared real data, and a GPU where there is one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
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


def pytest_configure() -> None:
    """Let Ctrl-C through: a shell that starts the tests in the background has them, and all they start, ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests, with the reason, where torch sees no CUDA device."""
    if not any("gpu" in item.keywords for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
