"""The loop that every stage shares: what ends it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from passreid.errors import DatasetError, TrainingError
from passreid.model import PartViT
from passreid.training.batches import Batches
from passreid.training.callbacks import Callback
from passreid.training.folder import RunFolder
from passreid.training.loop import Loop
from passreid.training.process import Process, distributed
from passreid.training.stage import Position
from tests import several, small

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
    exported = PartViT(small.architecture())

    def __init__(self) -> None:
        self.position = Position()
        self.loader: Batches[Tensor] = Batches(
            Deadly(), [[0], [1], [2]], workers=1, device=ALONE.device
        )

    def run_epoch(self) -> Iterator[dict[str, Any] | None]:
        for _ in self.loader:
            yield None

    def batches(self) -> int:
        return 3

    def state(self) -> dict[str, Any]:
        return {"step": 0}


class Counting:
    """A stage of three epochs of two steps, which goes on where a folder says."""

    epochs = 3
    exported = PartViT(small.architecture())

    def __init__(self, folder: RunFolder) -> None:
        (folder.path / "checkpoint").mkdir(exist_ok=True)
        saved = folder.newest()
        self.position = Position(**saved) if saved else Position()

    def run_epoch(self) -> Iterator[dict[str, Any] | None]:
        place = self.position
        while place.batch < self.batches():
            place.step += 1
            place.batch += 1
            yield {"step": place.step, "loss": 1.0, "images_per_second": 1.0}

    def batches(self) -> int:
        return 2

    def state(self) -> dict[str, Any]:
        return asdict(self.position)


class Recorder(Callback):
    """Stands in for a logging service."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def on_metrics(self, values: Any) -> None:
        self.lines.append(dict(values))


def test_callbacks_and_the_log_get_every_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, recorder = RunFolder(tmp_path), Recorder()
    with caplog.at_level("INFO"):
        loop(Counting(folder), folder, callbacks=[recorder], score=lambda model: {"mAP": 0.5}).run()
    assert recorder.lines == folder.lines()
    assert [line["step"] for line in recorder.lines] == [1, 2, 3, 4, 5, 6, 6]
    assert "epoch 3/3  step 5  loss 1.000  1 images/s" in caplog.text


def test_a_data_worker_that_the_system_killed_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"data worker ended.*fewer --workers") as ended:
        loop(Reading(), RunFolder(tmp_path)).run()
    assert ended.value.alone


def test_a_run_in_another_thread_needs_no_signals(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(loop(Counting(folder), folder).run).result()
    assert len([line for line in folder.lines() if "loss" in line]) == 6


def loop(stage: Any, folder: RunFolder, process: Process = ALONE, **options: Any) -> Loop:
    return Loop(stage=stage, folder=folder, process=process, progress=False, **options)


class Killed(BaseException):
    """Nothing catches it."""


@pytest.mark.parametrize(("every", "steps"), [(1, [2, 4, 6]), (2, [4, 6]), (0, [6])])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_while_scoring_costs_no_epoch_and_none_is_scored_twice(
    every: int, steps: list[int], when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    real = RunFolder.record
    deadly = True

    def record(self: RunFolder, values: dict[str, Any]) -> None:
        if "mAP" in values and deadly and when == "before":
            raise Killed
        real(self, values)
        if "mAP" in values and deadly:
            raise Killed

    monkeypatch.setattr(RunFolder, "record", record)

    def run() -> None:
        score: dict[str, Any] = {"score": lambda model: {"mAP": 0.5}, "score_every": every}
        loop(Counting(folder), folder, **score).run()

    with pytest.raises(Killed):
        run()
    saved = folder.newest()
    assert saved is not None
    assert saved["step"] == steps[0]
    deadly = False
    run()
    run()
    lines = folder.lines()
    assert [line["step"] for line in lines if "mAP" in line] == steps
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]


def fail_to_score(path: Path) -> int:
    def score(model: PartViT) -> dict[str, float]:
        raise DatasetError("No crop is there any more.")

    with distributed("cpu") as process:
        folder = RunFolder(path)
        stage = Counting(folder)
        try:
            loop(stage, folder, process=process, score=score, score_every=1).run()
        except DatasetError as error:
            sys.stderr.write(str(error))
            return error.exit_code
    return 0


@pytest.mark.loopback
@pytest.mark.enable_socket
def test_what_goes_wrong_in_scoring_ends_all_processes_alike(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    said = several.run(partial(fail_to_score, run), tmp_path, world=2, code=1)
    assert said == ["No crop is there any more."] * 2
