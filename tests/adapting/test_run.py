"""Whole adaptations on drawn people: what is learnt, exact resume, several processes, bad data."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from passreid.adapting.adapt import Adaptation, adapt, embed_all
from passreid.adapting.recipe import AdaptConfig
from passreid.checkpoint import load_folder
from passreid.data import make_synthetic
from passreid.data.filelist import FileList
from passreid.embed import load
from passreid.errors import ConfigError, DatasetError, TrainingError, UsageError
from passreid.evaluation import evaluate
from passreid.labels import Labels
from passreid.ranking import measure
from passreid.training.process import Process
from tests import several, small

pytestmark = pytest.mark.usefixtures("one_thread")

PEOPLE, EACH = 10, 8
ALONE = Process(0, 1, torch.device("cpu"))


def draw_crops(root: Path) -> Path:
    """Pictures of ten people under changing light, moved and noisy, without their names."""
    rng = np.random.default_rng(0)
    root.mkdir()
    for person in range(PEOPLE):
        looks = small.picture(person, 64, 32).astype(float)
        for number in range(EACH):
            seen = looks * rng.uniform(0.5, 1.1) + rng.normal(0, 40, looks.shape)
            seen = np.roll(seen, rng.integers(-6, 7), axis=0).clip(0, 255)
            Image.fromarray(seen.astype(np.uint8)).save(root / f"{person}_{number}.png")
    return root


def find_people(model: Path, crops: Path) -> float:
    """Return the mAP of every crop against all others."""
    files = sorted(crops.glob("*.png"))
    pids = [int(path.stem.split("_")[0]) for path in files]
    cameras = range(len(files))  # a crop is left out of its own ranking, and nothing else is
    labels = Labels(pids, pids, query_camids=cameras, gallery_camids=cameras)
    rows = load(model)(files)
    return float(measure(rows, rows, labels=labels).mAP)


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_crops(tmp_path_factory.mktemp("drawn") / "crops")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network of a few kB to start from."""
    return small.folder(tmp_path_factory.mktemp("start") / "model")


def recipe(crops: Path, start: Path, output: Path, **changes: Any) -> AdaptConfig:
    values: dict[str, Any] = {
        "init": str(start),
        "epochs": 2,
        "iterations": 5,
        "people": 4,
        "images_per_person": 4,
        "k1": 8,
        "k2": 3,
        "min_samples": 2,
        "precision": "float32",
        "device": "cpu",
        "workers": 0,
        "pad": 3,
        "seed": 7,
    }
    return AdaptConfig(data=crops, output=output, **(values | changes))


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("images_per_second", None)
    return lines


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def test_a_model_finds_people_better_after_it_saw_them_without_labels(
    crops: Path, start: Path, tmp_path: Path
) -> None:
    changes = {"epochs": 6, "iterations": 10, "drop_path": 0.0, "erasing": 0.0, "k1": 8}
    config = recipe(crops, start, tmp_path / "run", optimizer="adamw", lr=1e-3, **changes)
    model = adapt(config, progress=False)
    assert model == tmp_path / "run" / "model"
    assert find_people(model, crops) > find_people(start, crops) + 0.2
    lines = metrics(tmp_path / "run")
    assert all(1 < line["clusters"] < PEOPLE * EACH / 2 for line in lines)
    card = load(model).card
    assert card.architecture.feature == "normalized"
    assert f"80 unlabelled crops, starting from {start}" in card.training_data


def test_a_labelled_set_is_watched(crops: Path, start: Path, tmp_path: Path) -> None:
    people = make_synthetic(tmp_path / "people", people=6, cameras=2, per_camera=2, size=(64, 32))
    config = recipe(crops, start, tmp_path / "run", watch=people.root, watch_every=2, epochs=3)
    model = adapt(config, progress=False)
    assert model is not None
    scores = [line["mAP"] for line in metrics(tmp_path / "run") if "mAP" in line]
    assert len(scores) == 2
    assert scores[-1] == pytest.approx(evaluate(load(model), people).mAP, abs=1e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_within_an_epoch_resumes_bit_by_bit(
    workers: int, crops: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"workers": workers, "patch_drop": 0.3, "iterations": 7}
    adapt(recipe(crops, start, tmp_path / "whole", **changes), progress=False)
    parts = recipe(crops, start, tmp_path / "parts", **changes)
    real, steps = Adaptation.step, 0

    def interrupted(self: Adaptation, parts: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, parts)

    monkeypatch.setattr(Adaptation, "step", interrupted)
    assert adapt(parts, progress=False) is None
    with pytest.raises(UsageError, match="already holds a run"):
        adapt(parts, progress=False)
    adapt(parts, resume=True, progress=False)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.loopback
@pytest.mark.enable_socket
def test_two_processes_adapt_as_one(crops: Path, start: Path, tmp_path: Path) -> None:
    options = (
        f"{crops} --init {start} --epochs 2 --iterations 3 --people 4 --pad 3 --k1 8 --k2 3 "
        "--images-per-person 4 --min-samples 2 --precision float32 --device cpu --workers 0 "
        "--drop-path 0 --seed 7"
    ).split()
    runs = []
    for world in (1, 2):
        output = tmp_path / f"world{world}"
        several.run(several.passreid("adapt", *options, "--output", output), tmp_path, world=world)
        runs.append(metrics(output))
    alone, together = runs
    assert len(alone) == len(together) == 2
    for one, two in zip(alone, together, strict=True):
        assert two["clusters"] == one["clusters"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)


def test_a_crop_that_cannot_be_read_is_never_drawn(start: Path, tmp_path: Path) -> None:
    crops = draw_crops(tmp_path / "crops")
    (crops / "3_3.png").write_bytes(b"not a picture")
    assert adapt(recipe(crops, start, tmp_path / "run", iterations=20), progress=False)
    assert all(line["unclustered"] >= 1 for line in metrics(tmp_path / "run"))
    model, card = load_folder(start)
    rows = embed_all(model, card, FileList.find(crops), process=ALONE)
    assert np.flatnonzero(np.isnan(rows).any(axis=1)).tolist() == [3 * EACH + 3]
    others = [path for path in sorted(crops.glob("*.png")) if path.name != "3_3.png"]
    np.testing.assert_allclose(rows[np.isfinite(rows).all(axis=1)], load(start)(others), atol=1e-5)


def test_the_crops_are_those_the_run_began_with(start: Path, tmp_path: Path) -> None:
    crops = draw_crops(tmp_path / "crops")
    config = recipe(crops, start, tmp_path / "run", epochs=1)
    adapt(config, progress=False)
    listed = (tmp_path / "run" / "images.txt").read_text()
    assert len(listed.splitlines()) == PEOPLE * EACH
    (crops / "new.png").write_bytes(b"new")
    adapt(config, resume=True, progress=False)
    assert (tmp_path / "run" / "images.txt").read_text() == listed


def test_what_no_run_can_be_made_of(crops: Path, start: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="0 clusters were found among"):
        adapt(recipe(crops, start, tmp_path / "a", eps=0.001, min_samples=8), progress=False)
    with pytest.raises(DatasetError, match=r"are too few: .* need 1000"):
        adapt(recipe(crops, start, tmp_path / "b", min_samples=500), progress=False)
    assert not (tmp_path / "b").exists()
    for name, value in (
        ("eps", 1.5),
        ("eps", 0.0),
        ("people", 1),
        ("lr", 0.0),
        ("zoom", 0.0),
        ("k1", 0),
        ("seed", -1),
        ("weight_decay", -1.0),
        ("temperature", float("nan")),
        ("parts", -1),
        ("image_size", (4, 4)),
    ):
        with pytest.raises(ConfigError, match=name):
            adapt(recipe(crops, start, tmp_path / "c", **{name: value}), progress=False)
    for path in draw_crops(tmp_path / "bad").iterdir():
        path.write_bytes(b"not a picture")
    with pytest.raises(DatasetError, match="None of the 80 crops can be read"):
        adapt(recipe(tmp_path / "bad", start, tmp_path / "d"), progress=False)
