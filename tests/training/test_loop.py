"""The loop that every stage shares: what ends it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from passreid.errors import TrainingError
from passreid.training.batches import Batches
from passreid.training.loop import Position, fit
from passreid.training.process import Process
from passreid.training.runfolder import RunFolder

ALONE = Process(0, 1, torch.device("cpu"))


class Deadly(Dataset[int]):
    """Item 1 is the end of whoever asks for it."""

    def __getitem__(self, item: int) -> int:
        if item == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return item


class Reading:
    """A stage that does nothing with its batches."""

    epochs = 1

    def __init__(self) -> None:
        self.position = Position()
        self.loader: Batches[Tensor] = Batches(
            Deadly(), [[0], [1], [2]], workers=1, device=ALONE.device
        )

    def run_epoch(self) -> Iterator[dict[str, Any] | None]:
        for _ in self.loader:
            yield None

    def end_epoch(self, *, last: bool) -> dict[str, Any] | None:
        return None

    def batches(self) -> int:
        return 3

    def state(self) -> dict[str, Any]:
        return {"step": 0}


def test_a_data_worker_that_the_system_killed_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"data worker ended.*fewer --workers"):
        fit(Reading(), RunFolder(tmp_path), ALONE, progress=False)
