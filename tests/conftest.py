"""What every test shares: the optional folder of real crops, the bundled model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from passreid.embed import Embedder, load


@pytest.fixture(scope="session")
def market() -> Path:
    """Root of real Market-1501-layout crops (`PASSREID_MARKET`); skips where there is none."""
    root = os.environ.get("PASSREID_MARKET")
    if not root:
        pytest.skip("set PASSREID_MARKET to a folder of real crops in Market-1501 layout")
    return Path(root)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread: in networks of a few kB more only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    """The bundled model, as it comes."""
    return load()
