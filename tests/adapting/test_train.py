"""One epoch of adapting: what it draws, what moves, at which rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from passreid.adapting.adapt import Adaptation
from passreid.adapting.recipe import AdaptConfig
from passreid.data.filelist import FileList
from passreid.errors import TrainingError
from passreid.model import PartViT
from passreid.training.augment import CropDataset, build_augmentation
from passreid.training.process import Process
from tests import small

pytestmark = pytest.mark.usefixtures("one_thread")

PEOPLE, EACH = 4, 6


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FileList:
    root = tmp_path_factory.mktemp("crops")
    paths = [root / f"{number}.png" for number in range(PEOPLE * EACH)]
    for number, path in enumerate(paths):
        Image.fromarray(small.picture(number, 64, 32)).save(path)
    return FileList.of(paths)


def features() -> np.ndarray:
    """Crops of four people, each about an axis of its own."""
    rng = np.random.default_rng(0)
    rows = np.eye(PEOPLE, small.architecture().dim, dtype=np.float32).repeat(EACH, axis=0)
    noisy: np.ndarray = rows + rng.normal(0, 0.02, rows.shape).astype(np.float32)
    return noisy


def stage(files: FileList, *, rows: np.ndarray | None = None, **changes: Any) -> Adaptation:
    values: dict[str, Any] = {
        "iterations": 1,
        "people": 3,
        "images_per_person": 5,
        "k1": 6,
        "k2": 2,
        "min_samples": 2,
        "precision": "float32",
        "device": "cpu",
        "workers": 0,
        "pad": 3,
    }
    config = AdaptConfig(data=Path(files.root), output=Path(files.root), **(values | changes))
    model = PartViT(small.architecture())
    augmentation = build_augmentation(config, model.architecture.image_size)
    crops = CropDataset(files, [-1] * len(files), transform=augmentation, seed=config.seed)
    embedded = features() if rows is None else rows
    process = Process(0, 1, torch.device("cpu"))
    return Adaptation(model, config, process=process, crops=crops, embed=lambda network: embedded)


def test_the_rate_falls_every_so_many_epochs(files: FileList) -> None:
    run = stage(files, lr=0.5, step_epochs=2, step_factor=0.1)
    rates = []
    for _ in range(5):
        rates += [line["lr"] for line in run.run_epoch() if line is not None]
        run.position.epoch, run.position.batch = run.position.epoch + 1, 0
    assert rates == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005])


def test_a_batch_has_as_many_people_and_crops_as_asked(files: FileList) -> None:
    run = stage(files)
    list(run.run_epoch())
    assert run.sampler is not None
    (batch,) = run.sampler
    people = [index // EACH for index, _ in batch]
    assert sorted(people.count(person) for person in set(people)) == [5, 5, 5]


@pytest.mark.parametrize(("momentum", "moved"), [(0.2, 3), (1.0, 0)])
def test_a_step_moves_the_centres_of_its_people(
    momentum: float, moved: int, files: FileList
) -> None:
    run = stage(files, memory_momentum=momentum)
    list(run.run_epoch())
    rows = torch.from_numpy(features()).view(PEOPLE, EACH, -1)
    change = run.state()["centres"] - normalize(rows.sum(dim=1), dim=1)
    assert int((change.abs().amax(dim=1) > 1e-4).sum()) == moved


def test_one_cluster_tells_nobody_apart(files: FileList) -> None:
    with pytest.raises(TrainingError, match="1 clusters were found among 24 crops"):
        list(stage(files, rows=np.ones_like(features())).run_epoch())


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_optimizer_is_as_asked(name: str, files: FileList) -> None:
    asked: dict[str, Any] = {"lr": 0.25, "weight_decay": 0.125, "momentum": 0.5}
    (group,) = stage(files, optimizer=name, **asked).optimizer.param_groups
    assert {key: group[key] for key in asked if key in group} == {
        key: value for key, value in asked.items() if key != "momentum" or name == "sgd"
    }
