"""The tiny preset, for the time of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from passreid import card
from tests.pretraining import tiny


@pytest.fixture(autouse=True)
def _tiny_preset(one_thread: None) -> Iterator[None]:
    tiny.add_preset()
    yield
    del card.PRESETS[tiny.PRESET]  # type: ignore[attr-defined]
