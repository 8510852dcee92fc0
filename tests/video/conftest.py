from __future__ import annotations

from typing import Any

import pytest

import passreid
from tests.video.scene import pictures


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Pictures of twelve drawn people, by pid."""
    pytest.importorskip("av")
    pytest.importorskip("trackers")
    root = tmp_path_factory.mktemp("drawn") / "people"
    return pictures(passreid.make_synthetic(root, people=24))


@pytest.fixture(scope="session")
def embedder() -> Any:
    return passreid.load()
