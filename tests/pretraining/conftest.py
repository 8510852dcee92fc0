"""The tiny preset, for the time of these tests; one thread, as more only wait for each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from passreid import card
from tests.pretraining import tiny


@pytest.fixture(autouse=True)
def _tiny_preset() -> Iterator[None]:
    tiny.add_preset()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    del card.PRESETS[tiny.PRESET]  # type: ignore[attr-defined]
