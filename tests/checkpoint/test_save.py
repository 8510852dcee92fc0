"""Weights written back bit by bit, and our own folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from passreid.card import Architecture, ModelCard
from passreid.checkpoint import (
    load_checkpoint,
    load_folder,
    save_as,
    save_folder,
)
from passreid.errors import CheckpointError, ConfigError, OutputError
from passreid.model import PartViT
from tests import small
from tests.checkpoint.fabricate import (
    IMAGES,
    TINY,
    Tensors,
    fine_tuned,
    plain,
    states,
)


def raw(path: Path) -> Tensors:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


FOREIGN: dict[str, tuple[str, Callable[[], Tensors]]] = {
    "pass": ("m.pth", fine_tuned),
    "pass single": ("m.pth", lambda: fine_tuned(neck="single", fusion="mean")),
    "pass safetensors": ("m.safetensors", fine_tuned),
    "timm": ("m.safetensors", lambda: plain(registers=3)),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_files_come_back_bit_by_bit(tmp_path: Path, case: str) -> None:
    name, make = FOREIGN[case]
    tensors = make()
    for key in tensors:
        if key.endswith("num_batches_tracked"):
            tensors[key] = torch.tensor(17)
    source, target = tmp_path / f"first{Path(name).suffix}", tmp_path / "copy" / name
    save_file(tensors, source) if source.suffix == ".safetensors" else torch.save(tensors, source)
    model, card, _ = load_checkpoint(source, keep_classifier=True)
    layout: Any = case.split()[0]
    save_as(model, card, target, format=layout)
    written = raw(target)
    kept = {key: value for key, value in tensors.items() if ".fc." not in key}
    assert written.keys() == kept.keys()
    for key, value in kept.items():
        assert torch.equal(written[key], value), key
    again = load_checkpoint(target, keep_classifier=True)
    assert again.card.architecture == card.architecture
    assert all(torch.equal(a, b) for a, b in zip(states(again.model), states(model), strict=True))


@pytest.mark.parametrize(
    ("layout", "change", "why"),
    [
        ("pass", {"stem": "conv4"}, "stem 'conv4'"),
        ("pass", {"parts": 2}, "2 part tokens instead of 3"),
        ("timm", {"parts": 0, "pooling": "jpm"}, "jigsaw branches"),
        ("timm", {"feature": "after"}, "neck, and the feature is 'after'"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused(
    tmp_path: Path, layout: Any, change: dict[str, Any], why: str
) -> None:
    a = replace(TINY, **change)
    with pytest.raises(CheckpointError, match=why):
        save_as(PartViT(a), ModelCard(name="x", architecture=a), tmp_path / "out", format=layout)
    assert not list(tmp_path.iterdir())


OWN = replace(TINY, stem="conv4")
CARD = ModelCard(
    name="mine",
    architecture=OWN,
    calibration=small.calibration(),
    scores={"mAP": 0.5},
)


def test_own_folder_comes_back_bit_by_bit(tmp_path: Path) -> None:
    model = PartViT(OWN)
    save_folder(model, CARD, tmp_path / "m")
    again, card = load_folder(tmp_path / "m")
    assert card == CARD and not again.training
    assert all(torch.equal(a, b) for a, b in zip(states(again), states(model), strict=True))
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "model.json",
        "model.safetensors",
    ]
    with safe_open(tmp_path / "m" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}  # without which transformers refuses it
    without, card, report = load_checkpoint(tmp_path / "m" / "model.safetensors")
    assert without.classifier is None and card.calibration == CARD.calibration
    assert report.set_aside == {"identity classifier": ("classifier.weight",)}


def test_half_is_half_the_size_and_keeps_the_necks_statistics(tmp_path: Path) -> None:
    model = PartViT(OWN)
    model.neck.state_dict()["running_var"].fill_(1e6)
    stem = "vit.patch_embed.stem.4.running_var"
    model.state_dict()[stem].fill_(1e-6)
    save_folder(model, CARD, tmp_path / "whole")
    save_folder(model, CARD, tmp_path / "half", half=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    again, _ = load_folder(tmp_path / "half")
    assert torch.equal(again.neck.state_dict()["running_var"], torch.full((256,), 1e6))
    assert torch.equal(again.state_dict()[stem], model.state_dict()[stem])
    images = IMAGES[:, :, :64]
    with torch.inference_mode():
        difference = again.forward(images) - model.eval().forward(images)
    assert 0 < difference.abs().max() < 0.02
    assert next(again.parameters()).dtype == torch.float32
    model.state_dict()["vit.norm.weight"][0] = 1e6
    with pytest.raises(CheckpointError, match="does not fit into float16"):
        save_folder(model, CARD, tmp_path / "half", half=True)


def test_what_was_measured_of_another_network_is_dropped(tmp_path: Path) -> None:
    save_folder(PartViT(OWN), CARD, tmp_path)
    merging = load_checkpoint(tmp_path, merge=2).card
    assert merging.calibration is None and not merging.scores
    save_folder(PartViT(OWN), replace(CARD, calibration=None), tmp_path)
    assert not load_checkpoint(tmp_path, merge=2).card.scores
    save_folder(PartViT(OWN), CARD, tmp_path)
    model, card, report = load_checkpoint(tmp_path, image_size=(96, 32))
    assert card.calibration is None and not card.scores and report.resized == ((4, 2), (6, 2))
    assert "calibration and scores: none" in str(report)
    assert model.forward(torch.zeros(1, 3, 96, 32)).shape == (1, 128)


def test_native_refusals(tmp_path: Path) -> None:
    model = PartViT(OWN)
    with pytest.raises(CheckpointError, match="'mine' describes another architecture"):
        save_folder(PartViT(replace(OWN, heads=4)), CARD, tmp_path)
    model.state_dict()["vit.norm.bias"][0] = float("nan")
    with pytest.raises(CheckpointError, match=r"'vit\.norm\.bias' is not finite"):
        save_folder(model, CARD, tmp_path)
    assert not list(tmp_path.iterdir())
    save_folder(PartViT(OWN), CARD, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["neck.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing: neck\.weight"):
        load_checkpoint(tmp_path)
    (tmp_path / "model.json").write_text('{"name": "x", "architecture": {"widht": 3}}')
    with pytest.raises(ConfigError, match="Did you mean 'width'"):
        load_checkpoint(tmp_path)
    (tmp_path / "model.json").unlink()
    with pytest.raises(CheckpointError, match=r"put its model\.json beside it"):
        load_checkpoint(tmp_path / "model.safetensors")


def test_a_failed_save_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_folder(PartViT(OWN), CARD, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file\nframe #0")

    def wrapped(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    for failure in (full, wrapped):
        monkeypatch.setattr("passreid.checkpoint.files.save_file", failure)
        with pytest.raises(OutputError, match=r"cannot be written .*No space left"):
            save_folder(PartViT(OWN), CARD, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OutputError, match=r"cannot be written .*failed writing file\W*$"):
        save_as(PartViT(TINY), ModelCard(name="x", architecture=TINY), tmp_path / "m.pth")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        save_folder(PartViT(OWN), CARD, tmp_path / "file" / "folder")


def test_heads_that_no_reader_could_tell_are_refused(tmp_path: Path) -> None:
    a = Architecture(width=64, depth=1, heads=2, image_size=(64, 32))
    with pytest.raises(CheckpointError, match="2 heads, which readers take to be 1"):
        save_as(PartViT(a), ModelCard(name="x", architecture=a), tmp_path / "m.pth")
    assert not list(tmp_path.iterdir())
