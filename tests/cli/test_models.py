"""models, convert, export, doctor, demo, synthetic: run as a user runs them."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import passreid
from passreid.card import ModelCard
from passreid.data import ReIDDataset
from tests import small
from tests.cli.conftest import Cli


def test_models_lists_the_bundled_ones_and_shows_a_card(cli: Cli, tmp_path: Path) -> None:
    assert "passreid-tiny" in cli("models").out
    card = json.loads(cli("models", "passreid-tiny", "--json").out)
    assert card["licence"]
    assert card["architecture"]["parts"] == 3
    lines = [line for line in cli("models", "passreid-tiny").out.splitlines() if line[:2] == "  "]
    assert {line[2:15].strip() for line in lines} >= {"network", "scores", "licence"}
    assert {line[15] for line in lines} == {" "}
    shown = cli("models", small.folder(tmp_path / "m")).out
    assert "calibration   none" in shown


def test_convert_to_another_layout_and_back_keeps_every_tensor(cli: Cli, tmp_path: Path) -> None:
    a = small.architecture(heads=1, num_classes=5)
    first = small.folder(tmp_path / "first", a)
    assert cli("convert", first, tmp_path / "released.pth", "--to", "pass").code == 0
    ran = cli("convert", tmp_path / "released.pth", tmp_path / "back")
    assert ran.code == 0, ran.err
    assert "pass" in ran.out
    paths = [Image.fromarray(small.picture(n)) for n in range(3)]
    before = passreid.load(first, backend="torch")(paths)
    again = passreid.load(tmp_path / "back", backend="torch")
    assert np.abs(again(paths)).max() > 0
    # The released layout does not say how pixels are normalised; the weights are the same.
    state = torch.load(tmp_path / "released.pth", weights_only=True)
    assert "base.part_token2" in state
    assert before.shape == again(paths).shape


def test_convert_leaves_out_the_classifier_a_layout_has_no_place_for(
    cli: Cli, tmp_path: Path
) -> None:
    source = small.folder(tmp_path / "m", small.architecture(heads=1, num_classes=5))
    ran = cli("convert", source, tmp_path / "timm.pth", "--to", "timm")
    assert ran.code == 0, ran.err
    assert "set aside: classifier.weight" in ran.out
    assert cli("convert", tmp_path / "timm.pth", tmp_path / "timm").code == 0


def test_convert_refuses_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_text("not weights")
    ran = cli("convert", tmp_path / "x.pth", tmp_path / "out")
    assert ran.code == 1
    assert "x.pth" in ran.err
    source = small.folder(tmp_path / "m", small.architecture(heads=1))
    ran = cli("convert", source, tmp_path / "out", "--to", "pass", "--half")
    assert ran.code == 2
    assert "--half" in ran.err
    assert cli("convert", source, tmp_path / "out", "--role", "student").code == 1
    assert not (tmp_path / "out").exists()


def test_convert_is_told_how_tokens_are_fused(cli: Cli, tmp_path: Path) -> None:
    multi = small.folder(tmp_path / "multi")
    ran = cli("convert", multi, tmp_path / "mean", "--fusion", "mean")
    assert ran.code == 0, ran.err
    assert ModelCard.read(tmp_path / "mean/model.json").architecture.fusion == "mean"
    single = small.folder(tmp_path / "single", small.architecture(neck="single"))
    ran = cli("convert", single, tmp_path / "none", "--fusion", "mean")
    assert ran.code == 1
    assert "its neck does not fit single neck and mean fusion" in ran.err


def test_convert_sets_merging_and_takes_it_away(cli: Cli, tmp_path: Path) -> None:
    source = small.folder(tmp_path / "m", small.architecture())
    assert cli("convert", source, tmp_path / "faster", "--merge", "6").code == 0
    assert ModelCard.read(tmp_path / "faster" / "model.json").architecture.merge == 6
    assert "6 patches per block" in cli("models", tmp_path / "faster").out
    assert cli("convert", tmp_path / "faster", tmp_path / "back", "--merge", "0").code == 0
    assert ModelCard.read(tmp_path / "back" / "model.json").architecture == small.architecture()
    ran = cli("convert", source, tmp_path / "none", "--merge=-1")
    assert ran.code == 1
    assert "must not be negative" in ran.err
    assert not (tmp_path / "none").exists()


def test_export_lets_a_folder_run_on_onnx(cli: Cli, tmp_path: Path) -> None:
    folder = small.folder(tmp_path / "m")
    picture = tmp_path / "a.png"
    Image.fromarray(small.picture(1)).save(picture)
    refused = cli("embed", picture, "--model", folder, "--backend", "onnx", "--json")
    assert refused.code == 1
    assert "passreid export" in refused.err
    assert cli("export", folder).code == 0
    rows = [
        json.loads(cli("embed", picture, "--model", folder, "--backend", b, "--json").out)
        for b in ("onnx", "torch")
    ]
    np.testing.assert_allclose(rows[0]["embedding"], rows[1]["embedding"], atol=1e-4)


@pytest.mark.parametrize("verb", [("convert", "passreid-tiny"), ("average", "a", "b", "--output")])
def test_a_model_is_not_written_over_a_file(verb: tuple[str], cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = cli(*verb, tmp_path / "file")
    assert ran.code == 2
    assert ran.err.startswith(f"error: {tmp_path / 'file'}: cannot be a folder to write to")


def test_a_model_is_not_written_where_a_bundled_one_would_be_loaded(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli("convert", "passreid-tiny", "./passreid-tiny")
    assert ran.code == 2
    assert "passreid-tiny: is the name of a bundled model" in ran.err
    assert not (tmp_path / "passreid-tiny").exists()


def test_a_bundled_model_is_not_exported_into_the_package(cli: Cli) -> None:
    ran = cli("export", "passreid-tiny")
    assert ran.code == 2
    assert "`passreid convert passreid-tiny FOLDER`" in ran.err


def test_export_calibrates_int8_on_crops(cli: Cli, tmp_path: Path) -> None:
    folder = small.folder(tmp_path / "m", small.architecture(depth=1))
    crops = tmp_path / "crops"
    crops.mkdir()
    for n in range(4):
        Image.fromarray(small.picture(n)).save(crops / f"{n}.png")
    refused = cli("export", folder, "--precision", "int8")
    assert refused.code == 2
    assert "--calibrate" in refused.err
    unused = cli("export", folder, "--calibrate", crops)
    assert unused.code == 2
    assert "--calibrate is for files that hold weights" in unused.err
    ran = cli("export", folder, "--precision", "int8", "--calibrate", crops)
    assert ran.code == 0, ran.err
    assert "model.int8.onnx" in ran.err
    assert (folder / "model.int8.onnx").is_file()


def test_doctor_says_what_is_there_and_that_the_model_works(cli: Cli) -> None:
    ran = cli("doctor")
    assert ran.code == 0
    assert "extra torch: installed" in ran.out
    assert "bundled model: works" in ran.out


def test_doctor_of_another_build_of_a_library_that_does_not_load(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version

    def of_another_build(package: str) -> str:
        return version("onnxruntime-gpu" if package == "onnxruntime" else package)

    monkeypatch.setattr("importlib.metadata.version", of_another_build)
    monkeypatch.delitem(sys.modules, "passreid.backends.onnx", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ran = cli("doctor")
    assert ran.code == 1
    assert "onnxruntime not installed under this name" in ran.out
    assert "bundled model: fails (" in ran.out


def test_a_missing_extra_is_named(
    cli: Cli, people: ReIDDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*sys.modules]:
        heavy = ("passreid.finetuning.finetune", "passreid.checkpoint", "passreid.exporting")
        if name.startswith(heavy):
            monkeypatch.delitem(sys.modules, name)
    for name in ("torch", "timm", "torchvision"):
        monkeypatch.setitem(sys.modules, name, None)
    for arguments in (
        ("finetune", people.root, "--output", tmp_path / "run"),
        ("convert", tmp_path, tmp_path / "out"),
        ("export", tmp_path),
    ):
        ran = cli(*arguments)
        assert ran.code == 1
        assert "[torch" in ran.err


def test_demo_ends_with_a_list_an_answer_and_a_sheet(cli: Cli, tmp_path: Path) -> None:
    output = tmp_path / "demo"
    ran = cli("demo", "--output", output)
    assert ran.code == 0
    for sign in ("Ranked the gallery", "same person", "Drew a rank sheet", "Rank-1"):
        assert sign in ran.out
    assert "queries of all others, 0 find somebody else first" in ran.out
    assert ran.out.count("  right") >= 4
    with Image.open(output / "ranked.png") as sheet:
        assert min(sheet.size) > 400
    assert cli("demo", "--output", output).code == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").touch()
    assert cli("demo", "--output", tmp_path / "mine").code == 2


def test_the_demo_of_a_model_calibrated_on_few_people(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = passreid.load().calibration
    assert calibration is not None
    few = replace(calibration, points=calibration.points[:1])
    monkeypatch.setattr("passreid.embed.Embedder.calibration", few)
    ran = cli("demo", "--output", tmp_path / "demo")
    assert ran.code == 0, ran.err
    assert "truly the same person: cosine" in ran.out
    assert "probability" in ran.out


def test_a_demo_that_was_stopped_may_start_again(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(root: Path, **_: object) -> None:
        root.mkdir(parents=True)
        (root / "half.jpg").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("passreid.data.make_synthetic", stop)
    for _ in range(2):
        ran = cli("demo", "--output", tmp_path / "demo")
        assert (ran.code, ran.err) == (130, "error: Stopped.\n")


def test_synthetic_draws_a_set_in_the_layout_of_market1501(cli: Cli, tmp_path: Path) -> None:
    ran = cli("synthetic", tmp_path / "p", "--people", 4, "--cameras", 2)
    assert ran.code == 0
    assert "Drew 16 images of 4 people" in ran.err
    assert passreid.read_dataset(tmp_path / "p").kind == "market1501"
