"""What a run of days needs: kills at any moment, TensorBoard, compilation."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from passreid.errors import MissingExtraError
from passreid.pretraining.pretrain import pretrain
from passreid.training import stage
from passreid.training.folder import RunFolder
from tests import several
from tests.pretraining import tiny

KILLS = int(os.environ.get("PASSREID_TEST_KILLS", "4"))
"""Kills of the test below; more find rarer moments."""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tiny.write_images(tmp_path / "images", 21)


def logged(run: Path) -> list[dict[str, Any]]:
    """All lines of the log but their timing; the last may be cut short by a kill."""
    return [
        {k: v for k, v in line.items() if k != "images_per_second"}
        for line in RunFolder(run).lines()
    ]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_kills_at_any_moment_leave_the_same_run(tmp_path: Path, images: Path) -> None:
    """Every other kill waits for a checkpoint that is being written; one follows each step."""
    changes = {"epochs": 10 + 2 * KILLS, "drop_path": 0.1, "save_steps": 1, "out_dim": 3000}
    said, cut = tmp_path / "said.txt", tmp_path / "cut"
    whole = partial(tiny.train, images, tmp_path / "whole", **changes)
    with several.child(whole, said) as running:
        running.join(240)
        assert running.exitcode == 0
    rng, kills, while_writing = random.Random(0), 0, 0
    while True:
        before = len(RunFolder(cut).lines())
        with several.child(partial(tiny.train, images, cut, **changes), said) as running:
            # The clock of a kill runs from the first new step on.
            while running.is_alive() and len(RunFolder(cut).lines()) <= before + 1:
                time.sleep(0.01)
            if kills < KILLS:
                moment = time.monotonic() + rng.uniform(0, 0.3)
                while time.monotonic() < moment or (
                    kills % 2 and running.is_alive() and not any(cut.glob("checkpoint/.*"))
                ):
                    pass
                running.kill()
            running.join(240)
            if running.exitcode == 0:
                break
        kills += 1
        while_writing += any(cut.glob("checkpoint/.*"))
        assert RunFolder(cut).newest() is not None
    assert kills == KILLS
    assert while_writing
    assert logged(cut) == logged(tmp_path / "whole")
    ours, theirs = RunFolder(cut).newest(), RunFolder(tmp_path / "whole").newest()
    assert ours is not None and theirs is not None
    for part in ("student", "teacher"):
        assert all(torch.equal(value, theirs[part][name]) for name, value in ours[part].items())
    sys.stderr.write(f"{kills} kills, {while_writing} while a checkpoint was being written\n")


def test_metrics_are_tensorboard_events_too(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(stage, "LOG_EVERY", 2)
    run = tmp_path / "run"
    pretrain(tiny.config(images, run, tensorboard=True), progress=False)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(line["step"], pytest.approx(line["loss"])) for line in logged(run)]


def test_tensorboard_that_is_missing_is_said_before_the_run(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"\[tensorboard\]"):
        pretrain(tiny.config(images, tmp_path / "run", tensorboard=True), progress=False)
    assert not (tmp_path / "run").exists()


def test_compilation_leaves_the_losses_alone(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, compiled = torch.compile, []

    def interpreted(function: Any) -> Any:
        """Trace as always, but run what was traced without building C++."""
        compiled.append(function)
        return real(function, backend="eager")

    monkeypatch.setattr(torch, "compile", interpreted)
    for name in ("plain", "compiled"):
        config = tiny.config(images, tmp_path / name, epochs=1, compile=name == "compiled")
        pretrain(config, progress=False)
    plain, ours = (
        json.loads((tmp_path / n / "metrics.jsonl").read_text()) for n in ("plain", "compiled")
    )
    assert len(compiled) == 2
    assert ours["loss"] == pytest.approx(plain["loss"], rel=1e-5)
