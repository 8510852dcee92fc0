"""finetune, pretrain, adapt and average, run as a user runs them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from PIL import Image

from passreid.adapting.recipe import AdaptConfig
from passreid.card import ModelCard
from passreid.config import plain, read_toml
from passreid.data import make_synthetic
from passreid.errors import ImageError
from passreid.finetuning.recipe import FinetuneConfig
from passreid.hub import MODELS
from passreid.pretraining.recipe import PretrainConfig
from tests import small
from tests.cli.conftest import Cli

OLD = Path("old")
pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = """
epochs = 2
warmup_epochs = 1
people = 2
images_per_person = 2
workers = 0
image_size = [64, 32]
precision = "float32"
"""


def test_a_run_folder_holds_recipe_metrics_curves_and_models(cli: Cli, tmp_path: Path) -> None:
    people = make_synthetic(tmp_path / "people", people=8, cameras=2, per_camera=2, size=(64, 32))
    (tmp_path / "r.toml").write_text(RECIPE)
    start = small.folder(tmp_path / "start")
    run = tmp_path / "run"
    arguments = ("finetune", people.root, "--output", run, "--config", tmp_path / "r.toml")
    arguments += ("--init", start, "--lr", "0.001")  # type: ignore[assignment]
    ran = cli(*arguments)
    assert ran.code == 0, ran.err
    config = read_toml(run / "config.toml")
    assert (config["epochs"], config["lr"], config["momentum"]) == (2, 0.001, 0.9)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert "loss" in lines[0]
    assert "mAP" in lines[-1]
    with Image.open(run / "curves.png") as curves:
        assert min(curves.size) > 200
    for name in ("model", "best"):
        assert cli("evaluate", people.root, "--model", run / name, "--json").code == 0
    again = cli(*arguments)
    assert again.code == 2
    assert "--resume" in again.err
    assert cli(*arguments, "--resume").code == 0
    longer = cli("finetune", "--resume", run, "--epochs", 3, "--keep-every", 3)
    assert longer.code == 0, longer.err
    assert read_toml(run / "config.toml")["epochs"] == 3
    card = ModelCard.read(run / "snapshots" / "epoch-0003" / "model.json")
    assert set(card.scores) == {"people mAP", "people Rank-1"}
    sessions = json.loads((run / "run.json").read_text())["sessions"]
    assert len(sessions) == 3
    assert {"command", "host", "torch", "passreid", "wall_seconds"} <= set(sessions[0])
    shorter = cli("finetune", "--resume", run, "--epochs", 2)
    assert shorter.code == 2
    assert "has done 3 epochs" in shorter.err
    assert cli("finetune", "--resume", run, "--lr", 1.0).code == 2
    assert "no run to resume" in cli("finetune", "--resume", tmp_path / "none").err


def test_pretraining_needs_no_labels_and_leaves_a_backbone(cli: Cli, tmp_path: Path) -> None:
    people = make_synthetic(tmp_path / "people", people=4, cameras=2, per_camera=2, size=(64, 32))
    run = tmp_path / "run"
    arguments = ["pretrain", people.root, "--output", run, "--preset", "tiny", "--epochs", 1]
    arguments += ["--image-size", 64, 32, "--crops", 1, "--batch-size", 4, "--out-dim", 32]
    arguments += ["--hidden", 16, "--bottleneck", 8, "--warmup-epochs", 0, "--workers", 0]
    ran = cli(*arguments)
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] > 0
    assert (run / "curves.png").is_file()
    assert cli("embed", people.query[0].path, "--model", run / "model", "--json").code == 0
    assert cli(*arguments).code == 2
    (tmp_path / "r.toml").write_text("area = 3\n")
    wrong = cli("pretrain", people.root, "--output", run, "--config", tmp_path / "r.toml")
    assert wrong.code == 2
    assert "Did you mean 'areas'?" in wrong.err


def test_adapting_needs_no_labels_and_leaves_a_model(cli: Cli, tmp_path: Path) -> None:
    people = make_synthetic(tmp_path / "people", people=6, cameras=2, per_camera=4, size=(64, 32))
    start, run = small.folder(tmp_path / "start"), tmp_path / "run"
    (tmp_path / "r.toml").write_text("epochs = 1\niterations = 2\npeople = 2\nworkers = 0\n")
    arguments = ["adapt", people.root, "--output", run, "--config", tmp_path / "r.toml"]
    arguments += ["--init", start, "--images-per-person", 4, "--min-samples", 2, "--k1", 5]
    ran = cli(*arguments)
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["clusters"] > 1
    assert (run / "curves.png").is_file()
    assert cli("evaluate", people.root, "--model", run / "model", "--json").code == 0
    assert cli(*arguments).code == 2
    (tmp_path / "r.toml").write_text("epss = 0.6\n")
    wrong = cli("adapt", people.root, "--output", run, "--config", tmp_path / "r.toml")
    assert wrong.code == 2
    assert "Did you mean 'eps'?" in wrong.err


@pytest.mark.parametrize(
    ("verb", "config"),
    [
        (
            "finetuning.finetune",
            FinetuneConfig(data=OLD, output=OLD, init="a", image_size=(64, 32)),
        ),
        ("pretraining.pretrain", PretrainConfig(data=OLD, output=OLD, areas=0, crops=2)),
        ("adapting.adapt", AdaptConfig(data=OLD, output=OLD, init="a", flip=0.25)),
    ],
)
def test_a_run_can_be_repeated_from_its_own_recipe(
    verb: str, config: Any, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "config.toml"
    written.write_text(tomli_w.dumps(plain(config)))
    room, name = verb.split(".")
    asked = []

    def train(settings: Any, *, resume: bool, callbacks: Any) -> Path:
        asked.append(settings)
        return tmp_path

    monkeypatch.setattr(f"passreid.{room}.{name}.{name}", train)
    ran = cli(name, tmp_path / "new", "--output", tmp_path / "run", "--config", written)
    assert ran.code == 0, ran.err
    assert asked == [replace(config, data=tmp_path / "new", output=tmp_path / "run")]


def test_runs_are_averaged(cli: Cli, tmp_path: Path) -> None:
    folders = [small.folder(tmp_path / str(seed), seed=seed) for seed in range(2)]
    assert cli("average", folders[0], "--output", tmp_path / "both").code == 2
    ran = cli("average", *folders, "--output", tmp_path / "both")
    assert ran.code == 0, ran.err
    assert f"passreid export {tmp_path / 'both'}" in ran.err
    Image.new("RGB", (32, 64)).save(tmp_path / "a.png")
    assert cli("embed", tmp_path / "a.png", "--model", tmp_path / "both", "--json").code == 0


def test_bundled_models_are_averaged_by_name(cli: Cli, tmp_path: Path) -> None:
    ran = cli("average", "passreid-tiny", MODELS / "passreid-tiny", "--output", tmp_path / "both")
    assert ran.code == 0, ran.err
    assert ModelCard.read(tmp_path / "both" / "model.json").training_data.startswith("average of 2")
    assert "passreid-tiny" in cli("average", "passreid-tniy", "a", "--output", tmp_path).err


def test_the_views_can_be_looked_at_first(cli: Cli, tmp_path: Path) -> None:
    people = make_synthetic(tmp_path / "people", people=2, cameras=2, per_camera=1, size=(64, 32))
    run = tmp_path / "run"
    drawn = cli("pretrain", people.root, "--output", run, "--preset", "tiny", "--show-crops")
    assert drawn.code == 0, drawn.err
    with Image.open(run / "crops.png") as sheet:
        assert sheet.height > 4 * 192
    assert [path.name for path in run.iterdir()] == ["crops.png"]


def test_packed_pictures_are_what_pretrain_reads(cli: Cli, tmp_path: Path) -> None:
    people = make_synthetic(tmp_path / "people", people=2, cameras=2, per_camera=1, size=(64, 32))
    damaged = people.root / "damaged.jpg"
    damaged.write_bytes(b"no picture")
    shards = tmp_path / "shards"
    packed = cli("data", "pack", people.root, "--output", shards, "--per-shard", 3)
    assert packed.code == 1
    assert "Packed 4 images into 2 shards" in packed.err
    assert "1 could not be read" in packed.err
    assert str(damaged) in (shards / "unreadable.txt").read_text()
    drawn = cli("pretrain", shards, "--output", tmp_path / "run", "--show-crops")
    assert drawn.code == 0, drawn.err
    assert cli("data", "pack", people.root, "--output", shards).code == 2


@pytest.mark.parametrize("rank", [0, 1])
def test_what_all_processes_meet_is_said_by_the_first(
    rank: int, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from passreid.finetuning import finetune as run

    waited: list[float] = []
    monkeypatch.setattr("passreid.cli.time.sleep", waited.append)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    wrong = cli("finetune", tmp_path, "--output", tmp_path / "run", "--lr", "inf")
    assert wrong.code == 2
    assert ("lr must be positive" in wrong.err) == (rank == 0) == bool(wrong.err)
    # torchrun ends the first, too, when another has ended.
    assert len(waited) == rank
    # No training, so no other process says it.
    assert "no-such.jpg" in cli("embed", "no-such.jpg").err

    def fail(*_: object, **__: object) -> None:
        error = ImageError("a.jpg", "is gone")
        error.alone = True
        raise error

    monkeypatch.setattr(run, "finetune", fail)
    assert "a.jpg: is gone" in cli("finetune", tmp_path, "--output", tmp_path / "run").err
    assert len(waited) == rank
