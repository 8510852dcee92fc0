"""Whole runs of a tiny network: results, exact resume, parts of a step, damage, two processes."""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from passreid.card import IMAGENET_MEAN
from passreid.checkpoint import load_folder
from passreid.data import make_synthetic
from passreid.data.filelist import FileList
from passreid.errors import DatasetError, PassreidError, TrainingError, UsageError
from passreid.pretraining.crops import MultiCrop
from passreid.pretraining.data import ViewDataset
from passreid.pretraining.network import ViewNetwork
from passreid.pretraining.pretrain import Pretraining, pretrain
from passreid.training import stage
from passreid.training.folder import RunFolder
from passreid.training.process import Process, seed_all, tuned_for_cpu
from tests import several
from tests.pretraining import tiny

TIMING = "images_per_second"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tiny.write_images(tmp_path / "images", 21)


@pytest.fixture(autouse=True)
def _log_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "LOG_EVERY", 2)


def lines(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != TIMING} for line in found]


def final_state(run: Path) -> dict[str, Any]:
    state = RunFolder(run).newest()
    assert state is not None
    return state


def assert_same(ours: Any, theirs: Any) -> None:
    """Bit for bit, through dictionaries and lists."""
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for left, right in zip(ours, theirs, strict=True):
            assert_same(left, right)
    else:
        assert ours == theirs


def test_a_run_from_images_to_a_model_folder(tmp_path: Path, images: Path) -> None:
    config = tiny.config(images, tmp_path / "run", drop_path=0.1)
    folder = pretrain(config, progress=False)
    assert folder == tmp_path / "run" / "model"
    logged = lines(tmp_path / "run")
    assert [line["step"] for line in logged] == [2, 4, 5, 7, 9, 10]
    first = logged[0]
    assert first["loss"] == pytest.approx((20 * first["loss_cls"] + 24 * first["loss_parts"]) / 44)
    assert 0 < first["teacher_entropy"] <= 3.69
    assert 0 < first["feature_std"] < 1
    assert logged[-1]["center_norm"] > 0
    assert first["teacher_temp"] == 0.04
    model, card = load_folder(folder)
    assert card.mean == IMAGENET_MEAN
    assert card.architecture.parts == 3
    assert "21 unlabelled images" in card.training_data
    state = final_state(tmp_path / "run")
    for name, value in model.vit.state_dict().items():
        assert torch.equal(value, state["teacher"][f"vit.{name}"])
        if name.endswith("weight"):
            assert not torch.equal(value, state["student"][f"vit.{name}"])
    for head in ("heads.0", "heads.1"):
        assert (state["student"][f"{head}.lengths"] == 1).all()


@pytest.mark.parametrize(("warmup", "said"), [(1, True), (0, False)])
def test_a_rate_that_never_arrives_is_said(
    warmup: int, said: bool, tmp_path: Path, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        pretrain(
            tiny.config(images, tmp_path / "run", epochs=1, warmup_epochs=warmup), progress=False
        )
    assert ("rises to the very end (epochs 1, warmup_epochs 1)" in caplog.text) == said


def test_last_layers_stand_still_in_the_first_epoch(tmp_path: Path, images: Path) -> None:
    config = tiny.config(images, tmp_path / "run", epochs=1)
    stage = make_stage(config)
    start = stage.student.state_dict()["heads.1.directions"].clone()
    other = stage.student.state_dict()["heads.1.weights.0"].clone()
    list(stage.run_epoch())
    assert torch.equal(start, stage.student.state_dict()["heads.1.directions"])
    assert not torch.equal(other, stage.student.state_dict()["heads.1.weights.0"])


def make_stage(config: Any) -> Pretraining:
    process = Process(0, 1, torch.device("cpu"))
    dataset = ViewDataset(FileList.find(config.data), MultiCrop(config), seed=config.seed)
    config.output.mkdir(parents=True, exist_ok=True)
    seed_all(config.seed)
    student = ViewNetwork(config, drop_path=config.drop_path)
    return Pretraining(student, config, process=process, images=dataset)


@pytest.mark.parametrize("kill", ["signal", "lost"])
def test_a_stopped_run_goes_on_bit_by_bit(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, kill: str
) -> None:
    """Stopped by SIGTERM at any step, or killed with the last checkpoint some steps back."""
    changes = {"drop_path": 0.1, "accumulate": 2, "save_steps": 2}
    pretrain(tiny.config(images, tmp_path / "whole", **changes), progress=False)
    real, stop_at = Pretraining.run_epoch, random.Random(0).sample(range(1, 10), 4)

    def interrupted(self: Pretraining) -> Iterator[Any]:
        for line in real(self):
            stop = stop_at and self.position.step >= stop_at[0]
            if stop and kill == "lost":
                raise KeyboardInterrupt
            if stop:
                os.kill(os.getpid(), signal.SIGTERM)
            yield line

    monkeypatch.setattr(Pretraining, "run_epoch", interrupted)
    config, finished = tiny.config(images, tmp_path / "cut", **changes), None
    stop_at.sort()
    for resume in [False, *[True] * len(stop_at)]:
        try:
            finished = pretrain(config, resume=resume, progress=False)
        except KeyboardInterrupt:
            finished = None
        stop_at[:1] = []
    assert finished is not None
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert_same(final_state(tmp_path / "cut"), final_state(tmp_path / "whole"))


def test_a_run_keeps_its_list_of_images(tmp_path: Path, images: Path) -> None:
    config = tiny.config(images, tmp_path / "run", epochs=1)
    pretrain(config, progress=False)
    listed = (tmp_path / "run" / "images.txt").read_text()
    half_written = tmp_path / "run" / "checkpoint" / ".0123.pt"
    half_written.touch()
    tiny.write_images(images, 30, seed=1)
    assert pretrain(config, resume=True, progress=False) is not None
    assert (tmp_path / "run" / "images.txt").read_text() == listed
    assert not half_written.exists()
    with pytest.raises(UsageError, match="add --resume"):
        pretrain(config, progress=False)
    with pytest.raises(UsageError, match=r"another recipe \(lr differ\)"):
        pretrain(tiny.config(images, tmp_path / "run", epochs=1, lr=1e-3), resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 22}, "21 images are fewer than a batch of 22"),
        ({"watch": Path("nowhere")}, "nowhere"),
        ({"init": "nowhere.pth"}, "nowhere"),
    ],
)
def test_what_cannot_start_leaves_no_run_folder(
    tmp_path: Path, images: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PassreidError, match=message):
        pretrain(tiny.config(images, tmp_path / "run", **changes), progress=False)
    assert not (tmp_path / "run").exists()


def test_parts_of_a_step_give_the_same_step(tmp_path: Path, images: Path) -> None:
    whole, parts = (
        make_stage(tiny.config(images, tmp_path / str(n), accumulate=n)) for n in (1, 4)
    )
    ours, theirs = list(whole.run_epoch()), list(parts.run_epoch())
    for line, other in zip(ours, theirs, strict=True):
        assert (line is None) == (other is None)
        if line is not None and other is not None:
            assert line["loss"] == pytest.approx(other["loss"], rel=1e-5)
    torch.testing.assert_close(whole.loss.centers, parts.loss.centers, rtol=1e-4, atol=1e-6)
    for name, value in whole.teacher.state_dict().items():
        torch.testing.assert_close(value, parts.teacher.state_dict()[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("areas", [0, 1, 4])
def test_other_numbers_of_areas(tmp_path: Path, images: Path, areas: int) -> None:
    config = tiny.config(images, tmp_path / "run", areas=areas, crops=2, epochs=1)
    folder = pretrain(config, progress=False)
    assert folder is not None
    assert load_folder(folder)[0].architecture.parts == areas


def test_bfloat16_and_a_stem_train_too(tmp_path: Path, images: Path) -> None:
    tiny.add_preset(replace(tiny.ARCHITECTURE, stem="conv4"))
    config = tiny.config(images, tmp_path / "run", epochs=1, precision="bfloat16")
    folder = pretrain(config, progress=False)
    assert folder is not None
    model, _ = load_folder(folder)
    assert model(torch.randn(2, 3, 32, 16)).isfinite().all()


def test_unreadable_images_are_counted_and_listed(tmp_path: Path, images: Path) -> None:
    for name in ("0003.png", "0004.png"):
        (images / name).write_bytes(b"no picture")
    pretrain(tiny.config(images, tmp_path / "run", epochs=3), progress=False)
    listed = (tmp_path / "run" / "unreadable.txt").read_text().splitlines()
    assert [Path(line.split("\t")[0]).name for line in listed] == ["0003.png", "0004.png"]
    assert lines(tmp_path / "run")[-1]["unreadable"] == 2


def test_nothing_but_damage_is_said_in_a_sentence(tmp_path: Path, images: Path) -> None:
    for path in images.iterdir():
        path.write_bytes(b"no picture")
    config = tiny.config(images, tmp_path / "run", workers=1)
    with pytest.raises(DatasetError, match=r"^21 images in a row cannot be read") as refused:
        pretrain(config, progress=False)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_no_number_stops_and_keeps_the_batch(
    tmp_path: Path, images: Path, where: str
) -> None:
    stage = make_stage(tiny.config(images, tmp_path / "run"))
    epoch = stage.run_epoch()
    next(epoch)
    before = stage.teacher.state_dict()["vit.norm.weight"].clone()
    if where == "loss":
        stage.loss.centers.fill_(torch.nan)
    else:
        stage.student.last_layers()[0].register_hook(lambda g: g * torch.nan)
    with pytest.raises(TrainingError, match="at step 1; the batch is kept in"):
        next(epoch)
    (kept,) = (tmp_path / "run").glob("nonfinite-*.pt")
    (batch,) = torch.load(kept, weights_only=True)
    assert batch["globals"].shape == (4, 2, 32, 16, 3)
    assert len(batch["indices"]) == 4
    assert torch.equal(before, stage.teacher.state_dict()["vit.norm.weight"])


def test_the_teacher_is_scored_on_a_labelled_set(tmp_path: Path, images: Path) -> None:
    make_synthetic(tmp_path / "people", people=4, cameras=2, per_camera=2)
    config = tiny.config(
        images, tmp_path / "run", epochs=3, watch=tmp_path / "people", watch_every=2
    )
    pretrain(config, progress=False)
    scored = [line for line in lines(tmp_path / "run") if "mAP" in line]
    assert [line["epoch"] for line in scored] == [2, 3]
    assert all(0 < line["mAP"] <= 1 for line in scored)


def test_a_run_may_start_from_another_models_backbone(tmp_path: Path, images: Path) -> None:
    first = pretrain(tiny.config(images, tmp_path / "first", epochs=1), progress=False)
    config = tiny.config(images, tmp_path / "second", epochs=1, init=str(first), lr=1e-12)
    second = pretrain(config, progress=False)
    assert first is not None and second is not None
    ours, theirs = (load_folder(folder)[0].vit.state_dict() for folder in (first, second))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc's allocator")
@pytest.mark.parametrize("library", ["glibc", "another"])
def test_freed_memory_is_kept_where_the_c_library_can(
    monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    asked: list[tuple[int, int]] = []
    found = SimpleNamespace()
    if library == "glibc":
        found.mallopt = lambda number, value: asked.append((number, value))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: found)
    with tuned_for_cpu(torch.device("cpu")):
        assert asked == ([(-4, 0), (-1, -1)] if library == "glibc" else [])
    assert asked[2:] == ([(-4, 65536), (-1, 131072)] if library == "glibc" else [])


def test_small_numbers_are_there_again_after_training() -> None:
    small = torch.tensor(1e-40)
    with tuned_for_cpu(torch.device("cpu")):
        assert (small * 1).item() == 0
    assert (small * 1).item() > 0


@pytest.mark.slow
def test_a_signal_to_the_whole_group_stops_between_steps(tmp_path: Path, images: Path) -> None:
    """Data workers get it too, and must live until the step is done."""
    call = partial(tiny.train, images, tmp_path / "run", epochs=100, workers=1)
    metrics = tmp_path / "run" / "metrics.jsonl"
    with several.child(call, tmp_path / "said.txt") as running:
        while running.is_alive() and not metrics.exists():
            time.sleep(0.01)
        several.interrupt(running)
        running.join(120)
        assert (running.exitcode, (tmp_path / "said.txt").read_text()) == (1, "")
    assert final_state(tmp_path / "run")["step"] == lines(tmp_path / "run")[-1]["step"]


@pytest.mark.slow
@pytest.mark.loopback
@pytest.mark.enable_socket
def test_two_processes_are_one(tmp_path: Path, images: Path) -> None:
    (images / "0005.png").write_bytes(b"no picture")
    for world in (1, 2):
        call = partial(tiny.train, images, tmp_path / str(world), epochs=10)
        several.run(call, tmp_path, world=world)
    one, two = lines(tmp_path / "1"), lines(tmp_path / "2")
    assert len(one) == 50
    for ours, theirs in zip(one, two, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5)
        assert theirs["center_norm"] == pytest.approx(ours["center_norm"], rel=1e-4, abs=1e-6)
    ours, theirs = (final_state(tmp_path / world)["teacher"] for world in ("1", "2"))
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=1e-5)
    assert (tmp_path / "2" / "unreadable.txt").read_text().count("0005.png") == 1
