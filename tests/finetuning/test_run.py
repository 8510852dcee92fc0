"""Whole runs on drawn people: learning, exact resume, several processes, bad data."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from passreid.data import ReIDDataset, make_synthetic
from passreid.embed import load
from passreid.errors import (
    CheckpointError,
    ConfigError,
    DatasetError,
    OutputError,
    TrainingError,
    UsageError,
)
from passreid.finetuning.finetune import Finetuning, finetune
from passreid.finetuning.recipe import FinetuneConfig
from passreid.training.folder import RunFolder
from tests import several, small

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> ReIDDataset:
    root = tmp_path_factory.mktemp("drawn") / "people"
    return make_synthetic(root, people=12, cameras=2, per_camera=3, size=(64, 32))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network of a few kB to start from."""
    return small.folder(tmp_path_factory.mktemp("start") / "model")


def recipe(people: ReIDDataset, start: Path, output: Path, **changes: Any) -> FinetuneConfig:
    values: dict[str, Any] = {
        "init": str(start),
        "epochs": 3,
        "warmup_epochs": 1,
        "people": 4,
        "images_per_person": 2,
        "precision": "float32",
        "device": "cpu",
        "workers": 0,
        "pad": 3,
        "evaluate_every": 0,
        "ema": 0.9,
        "seed": 7,
    }
    return FinetuneConfig(output=output, **({"data": people.root} | values | changes))


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("images_per_second", None)
    return lines


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def test_a_run_learns_and_leaves_a_model_that_embeds(
    people: ReIDDataset, start: Path, tmp_path: Path
) -> None:
    config = recipe(
        people, start, tmp_path / "run", epochs=40, optimizer="adamw", lr=2e-3, erasing=0.0
    )
    model = finetune(config, progress=False)
    assert model == tmp_path / "run" / "model"
    lines = metrics(tmp_path / "run")
    losses = [line["identity"] for line in lines if "identity" in line]
    assert losses[-1] < 0.5 * losses[0]
    assert lines[-1]["mAP"] > 0
    embedder = load(model)
    assert embedder([people.query[0].path]).shape == (1, 128)
    assert embedder.card.architecture.num_classes == 0
    assert "6 people" in embedder.card.training_data


def test_a_plain_network_may_be_given_part_tokens(people: ReIDDataset, tmp_path: Path) -> None:
    plain = small.folder(tmp_path / "plain", small.architecture(parts=0))
    for parts, dim in ((None, 64), (2, 128)):
        config = recipe(people, plain, tmp_path / str(parts), epochs=1, parts=parts)
        model = finetune(config, progress=False)
        assert model is not None
        assert load(model).dim == dim


def test_the_embedding_is_the_side_that_was_trained(people: ReIDDataset, tmp_path: Path) -> None:
    """Adapted models embed with the side after their neck, which here is a new one."""
    adapted = small.folder(tmp_path / "a", small.architecture(neck="single", feature="normalized"))
    model = finetune(recipe(people, adapted, tmp_path / "run", epochs=1), progress=False)
    assert model is not None
    architecture = load(model).card.architecture
    assert (architecture.neck, architecture.feature) == ("single", "before")


def test_what_teaches_little_is_said(
    people: ReIDDataset, start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "people"
    shutil.copytree(people.root, root)
    train = sorted((root / "bounding_box_train").glob("*.jpg"))
    first = train[0].name[:4]
    for path in [path for path in train if path.name.startswith(first)][1:]:
        path.unlink()
    for warmup, said in ((1, True), (0, False)):
        config = recipe(people, start, tmp_path / f"{warmup}", epochs=1, warmup_epochs=warmup)
        caplog.clear()
        with caplog.at_level("INFO"):
            finetune(replace(config, data=root), progress=False)
        assert "1 of 6 people have one crop only" in caplog.text
        assert "1 of 6 people were seen by one camera only" in caplog.text
        assert ("rises to the very end" in caplog.text) == said


HYBRID = {
    "init": None,
    "preset": "hybrid",
    "image_size": (32, 16),
    "batches": "separate",
    "set_weights": (1.0, 1.5),
    "mixstyle": 0.5,
    "identity_loss": "arcface",
    "box_shift": 0.1,
    "colour": 0.2,
    "grey": 0.3,
    "degrade": 0.3,
}


@pytest.mark.parametrize("case", ["no workers", "two workers", "two sets"])
def test_a_stopped_run_resumes_bit_by_bit(
    case: str, people: ReIDDataset, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"workers": 2 if case == "two workers" else 0, "accumulate": 2}
    changes["patch_drop"] = 0.3
    if case == "two sets":
        more = make_synthetic(tmp_path / "more", people=10, cameras=2, per_camera=3, size=(64, 32))
        changes |= HYBRID | {"data": (people.root, more.root)}
    whole = recipe(people, start, tmp_path / "whole", **changes)
    finetune(whole, progress=False)
    parts = recipe(people, start, tmp_path / "parts", **changes)
    real, steps = Finetuning.step, 0

    def interrupted(self: Finetuning, parts: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, parts)

    monkeypatch.setattr(Finetuning, "step", interrupted)
    assert finetune(parts, progress=False) is None
    with pytest.raises(UsageError, match="already holds a run"):
        finetune(parts, progress=False)
    finetune(parts, resume=True, progress=False)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_last_step_of_an_epoch_averages_over_the_batches_it_has(
    people: ReIDDataset, start: Path, tmp_path: Path
) -> None:
    def moved_by(accumulate: int) -> dict[str, Tensor]:
        output = tmp_path / str(accumulate)
        finetune(recipe(people, start, output, epochs=1, accumulate=accumulate), progress=False)
        return weights(output)

    moved_by(1)
    batches = metrics(tmp_path / "1")[0]["step"]
    assert batches > 2
    exact = moved_by(batches)
    assert all(torch.equal(t, exact[name]) for name, t in moved_by(batches + 1).items())


def begin(config: FinetuneConfig) -> int:
    return int(finetune(config, progress=False) is None)


def test_a_killed_run_resumes_from_its_last_checkpoint(
    people: ReIDDataset, start: Path, tmp_path: Path
) -> None:
    whole = recipe(people, start, tmp_path / "whole", epochs=6)
    finetune(whole, progress=False)
    config = recipe(people, start, tmp_path / "killed", epochs=6)
    checkpoints = tmp_path / "killed" / "checkpoint"
    until = time.monotonic() + 120
    with several.child(partial(begin, config), tmp_path / "said.txt") as running:
        while len(list(checkpoints.glob("step-*.pt"))) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        running.kill()
    finetune(config, resume=True, progress=False)
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")


def test_a_signal_to_the_whole_group_stops_the_run_where_it_can_go_on(
    people: ReIDDataset, start: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = (
        f"{people.root} --output {run} --init {start} --epochs 5000 --people 4 --pad 3 "
        "--images-per-person 2 --device cpu --workers 2 --evaluate-every 0"
    ).split()
    until = time.monotonic() + 120
    with several.child(several.passreid("finetune", *options), tmp_path / "said.txt") as running:
        while not list(run.glob("checkpoint/step-*.pt")) and time.monotonic() < until:
            time.sleep(0.05)
        several.interrupt(running)
        running.join(60)
        assert running.exitcode == 1
    said = (tmp_path / "said.txt").read_text()
    assert f"resume with: passreid finetune --resume {run}" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("damage", ["cut", "noise", "list", "other"])
def test_a_damaged_checkpoint_is_passed_over(
    damage: str, people: ReIDDataset, start: Path, tmp_path: Path
) -> None:
    config = recipe(people, start, tmp_path / "run")
    finetune(config, progress=False)
    expected = weights(tmp_path / "run")
    saved = sorted((tmp_path / "run" / "checkpoint").glob("*.pt"))
    if damage == "cut":
        saved[-1].write_bytes(saved[-1].read_bytes()[:1000])
    elif damage == "noise":
        saved[-1].write_bytes(b"hello world\n")
    else:
        torch.save([1, 2] if damage == "list" else {"a": 1}, saved[-1])
    finetune(config, resume=True, progress=False)
    assert all(torch.equal(t, expected[name]) for name, t in weights(tmp_path / "run").items())
    for path in saved:
        path.write_bytes(b"")
    with pytest.raises(TrainingError, match="can be read"):
        finetune(config, resume=True, progress=False)


def test_a_full_disk_is_said_and_leaves_the_checkpoints_there_are(
    people: ReIDDataset, start: Path, tmp_path: Path
) -> None:
    config = recipe(people, start, tmp_path / "run")
    finetune(config, progress=False)
    saved = sorted((tmp_path / "run" / "checkpoint").iterdir())
    folder = RunFolder(tmp_path / "run")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            folder.save({"step": 10**6, "rows": torch.zeros(2**16)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted((tmp_path / "run" / "checkpoint").iterdir()) == saved


def test_other_people_do_not_resume(start: Path, tmp_path: Path) -> None:
    people = make_synthetic(tmp_path / "people", people=8, cameras=2, per_camera=2, size=(64, 32))
    config = recipe(people, start, tmp_path / "run", epochs=1)
    finetune(config, progress=False)
    first = people.train[0].path
    for name in ("0099_c1s1_000000_00.jpg", "0001_c1s1_000009_00.jpg"):
        new = first.with_name(name)
        new.write_bytes(first.read_bytes())
        with pytest.raises(UsageError, match="not those the run began with"):
            finetune(config, resume=True, progress=False)
        new.unlink()
    assert finetune(config, resume=True, progress=False)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seed", -1),
        ("workers", -1),
        ("pad", -3),
        ("warmup_epochs", -1),
        ("momentum", -0.5),
        ("lr", float("nan")),
        ("std", (0.5, 0.0, 0.5)),
        ("images_per_person", 1),
        ("label_smoothing", 1.0),
        ("image_size", (4, 4)),
    ],
)
def test_what_no_run_can_be_made_of(
    option: str, value: Any, people: ReIDDataset, start: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=option):
        finetune(recipe(people, start, tmp_path / "run", **{option: value}), progress=False)
    assert not (tmp_path / "run").exists()


def test_people_seen_by_one_camera_are_trained_on_and_not_scored(
    start: Path, tmp_path: Path
) -> None:
    people = make_synthetic(tmp_path / "people", people=8, cameras=2, per_camera=2, size=(64, 32))
    for folder in ("query", "bounding_box_test"):
        for crop in (people.root / folder).glob("*_c2*"):
            crop.unlink()
    config = recipe(people, start, tmp_path / "run", epochs=1)
    assert finetune(config, progress=False) == tmp_path / "run" / "model"
    assert not any("mAP" in line for line in metrics(tmp_path / "run"))


def test_too_few_people_leave_no_run_folder(
    people: ReIDDataset, start: Path, tmp_path: Path
) -> None:
    config = replace(recipe(people, start, tmp_path / "run"), people=7)
    with pytest.raises(DatasetError, match="has 6 people, a batch needs 7; lower --people"):
        finetune(config, progress=False)
    assert not (tmp_path / "run").exists()


def test_another_recipe_does_not_resume(people: ReIDDataset, start: Path, tmp_path: Path) -> None:
    finetune(recipe(people, start, tmp_path / "run"), progress=False)
    with pytest.raises(UsageError, match=r"another recipe \(lr differ\)"):
        finetune(recipe(people, start, tmp_path / "run", lr=1.0), resume=True, progress=False)


def test_a_moved_run_goes_on_with_other_workers(
    people: ReIDDataset, start: Path, tmp_path: Path
) -> None:
    finetune(recipe(people, start, tmp_path / "run"), progress=False)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    config = recipe(people, start, moved, workers=2)
    assert finetune(config, resume=True, progress=False) == moved / "model"


@pytest.mark.loopback
@pytest.mark.enable_socket
def test_two_processes_train_as_one(people: ReIDDataset, start: Path, tmp_path: Path) -> None:
    options = (
        f"{people.root} --init {start} --epochs 3 --warmup-epochs 1 --people 4 --pad 3 "
        "--images-per-person 2 --precision float32 --device cpu --workers 0 --drop-path 0 "
        "--evaluate-every 0 --seed 7"
    ).split()
    runs = []
    for world in (1, 2):
        output = tmp_path / f"world{world}"
        call = several.passreid("finetune", *options, "--output", output)
        first, *others = several.run(call, tmp_path, world=world)
        assert f"Wrote {output / 'model'}" in first
        assert not any("Wrote" in said or "loaded:" in said for said in others)
        runs.append([line for line in metrics(output) if "loss" in line])
    first, other = several.run(call, tmp_path, world=2, code=2)
    assert "already holds a run; add --resume" in first
    assert "Traceback" not in first
    assert not other
    alone, together = runs
    assert len(alone) == len(together) == 3
    for one, two in zip(alone, together, strict=True):
        assert two["identity"] == pytest.approx(one["identity"], rel=1e-5)
        # Distances are small differences of large products: rounding shows in them first.
        assert two["triplet"] == pytest.approx(one["triplet"], rel=1e-4)


@pytest.mark.parametrize("subset", ["train", "gallery"])
def test_unreadable_crops_are_found_before_the_first_step(
    subset: str, start: Path, tmp_path: Path
) -> None:
    people = make_synthetic(tmp_path / "people", people=8, cameras=2, per_camera=2, size=(64, 32))
    bad = getattr(people, subset)[3].path
    bad.write_bytes(b"not a picture")
    with pytest.raises(DatasetError, match="1 of 32 images cannot be read") as refused:
        finetune(recipe(people, start, tmp_path / "a"), progress=False)
    assert bad.name in str(refused.value)
    assert not (tmp_path / "a").exists()
    assert finetune(
        recipe(people, start, tmp_path / "b", on_error="skip", epochs=1), progress=False
    )


def test_weights_of_a_loss_that_is_no_number_are_not_saved(
    people: ReIDDataset, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Finetuning.step

    def broken(self: Finetuning, parts: Any) -> Any:
        values = real(self, parts)
        self.waiting[-1] = self.waiting[-1] * torch.nan
        # Stopped after the first step, long before the log is due.
        os.kill(os.getpid(), signal.SIGTERM)
        return values

    monkeypatch.setattr(Finetuning, "step", broken)
    with pytest.raises(TrainingError, match="loss is nan at step 1"):
        finetune(recipe(people, start, tmp_path / "run"), progress=False)
    assert not [*(tmp_path / "run" / "checkpoint").glob("*.pt")]


def test_a_loss_that_is_no_number_stops_the_run(
    people: ReIDDataset, start: Path, tmp_path: Path
) -> None:
    config = recipe(people, start, tmp_path / "run", lr=1e30, epochs=30, schedule="cosine")
    with pytest.raises(TrainingError, match=r"loss is (nan|inf)"):
        finetune(config, progress=False)


def test_each_of_several_sets_is_scored_and_named_in_the_card(
    people: ReIDDataset, start: Path, tmp_path: Path
) -> None:
    more = make_synthetic(tmp_path / "more", people=10, cameras=2, per_camera=3, size=(64, 32))
    config = recipe(people, start, tmp_path / "run", data=(people.root, more.root), epochs=1)
    model = finetune(config, progress=False)
    assert model is not None
    scores = metrics(tmp_path / "run")[-1]
    assert {"people mAP", "people rank1", "more mAP", "more rank1"} <= set(scores)
    mean = (scores["people mAP"] + scores["more mAP"]) / 2
    assert scores["mAP"] == pytest.approx(mean)
    card = load(model).card
    assert card.trained_on == ("people", "more")
    again = recipe(more, model, tmp_path / "again", epochs=1)
    last = finetune(again, progress=False)
    assert last is not None
    assert load(last).card.trained_on == ("people", "more")


def test_a_hybrid_network_starts_from_the_stem_it_is_given(
    people: ReIDDataset, start: Path, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    torch.save(timm.create_model("efficientnet_lite0").state_dict(), tmp_path / "lite0.pth")
    config = recipe(people, start, tmp_path / "run", stem_init=tmp_path / "lite0.pth", epochs=1)
    with pytest.raises(CheckpointError, match="the model has 'none'"):
        finetune(config, progress=False)
    hybrid = replace(config, init=None, preset="hybrid", image_size=(32, 16), lr=1e-9, ema=0.0)
    model = finetune(hybrid, progress=False)
    assert model is not None
    kept = weights(tmp_path / "run")["vit.patch_embed.stem.0.weight"]
    torch.testing.assert_close(kept, torch.load(tmp_path / "lite0.pth")["conv_stem.weight"])
    assert "lite0.pth (ImageNet)" in load(model).card.training_data
