"""What every test may use: the shared real data, and a GPU where there is one."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real images (``data/``) and real pretrained weights (``weights/``); the test skips where it is absent."""
    if not (SHARED / "data").is_dir() or not (SHARED / "weights").is_dir():
        pytest.skip("the shared folder with real images and weights is not beside this checkout")
    return SHARED


def pytest_configure() -> None:
    """Let Ctrl-C through: a shell that starts the tests in the background has them, and all they start, ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests, with the reason, where torch sees no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]  # keywords have the names of folders, too
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
