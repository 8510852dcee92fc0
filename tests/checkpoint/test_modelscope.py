"""A ModelScope folder: its configuration is data, and must be true."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from passreid.card import HALF
from passreid.checkpoint import (
    load_checkpoint,
)
from passreid.errors import CheckpointError
from tests.checkpoint.fabricate import (
    Tensors,
    assert_same_network,
    bare,
    expected,
    fine_tuned,
)


def modelscope(folder: Path, tensors: Tensors, changes: Mapping[str, Any] | None = None) -> Path:
    """Write a ModelScope folder; `changes` are dotted keys of model.cfg."""
    cfg: dict[str, dict[str, Any]] = {
        "INPUT": {"SIZE_TRAIN": [64, 32], "SIZE_TEST": [64, 32], "PIXEL_MEAN": [0.4, 0.5, 0.6]},
        "MODEL": {"STRIDE_SIZE": [16, 16], "MULTI_NECK": True, "FEAT_FUSION": "cat"},
        "DATASETS": {"NUM_CLASSES": 5},
        "TEST": {"NECK_FEAT": "after"},
    }
    for key, value in (changes or {}).items():
        section, name = key.split(".")
        cfg[section][name] = value
    document = {"framework": "pytorch", "model": {"type": "passvitb", "cfg": cfg}}
    (folder / "configuration.json").write_text(json.dumps(document))
    torch.save(tensors, folder / "pytorch_model.pt")
    return folder


def test_modelscope_folder(tmp_path: Path) -> None:
    tensors = fine_tuned()
    model, card, report = load_checkpoint(modelscope(tmp_path, tensors))
    assert_same_network(model, expected(bare(tensors), feature="after"))
    assert (card.mean, card.std, card.name) == ((0.4, 0.5, 0.6), HALF, tmp_path.name)
    assert report.format == "modelscope" and "sha256" in str(report)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"INPUT.SIZE_TRAIN": [96, 32], "INPUT.SIZE_TEST": [96, 32]},
            "says 96x32 pixels, 12 patches, but the weights have 8 patch positions, 64x32 pixels",
        ),
        ({"INPUT.SIZE_TEST": [96, 32]}, "SIZE_TEST is .96, 32., SIZE_TRAIN .64, 32."),
        ({"INPUT.SIZE_TRAIN": "64x32"}, "INPUT.SIZE_TRAIN is '64x32', expected two whole numbers"),
        ({"INPUT.PIXEL_STD": [1, 2]}, r"PIXEL_STD is \[1, 2\], expected three numbers"),
        ({"MODEL.GEM_POOLING": True}, "GEM_POOLING is on"),
        ({"MODEL.FEAT_FUSION": "sum"}, "FEAT_FUSION is 'sum', expected cat or mean"),
        ({"MODEL.MULTI_NECK": "yes"}, "MULTI_NECK is 'yes', expected true or false"),
        ({"MODEL.MULTI_NECK": False}, "15 left over: bottleneck_1.bias"),
        ({"INPUT.PIXEL_STD": [0, 1, 1]}, "std must be positive"),
    ],
)
def test_configuration_that_does_not_hold(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(modelscope(tmp_path, fine_tuned(), changes))


def test_configuration_of_another_model(tmp_path: Path) -> None:
    modelscope(tmp_path, fine_tuned())
    path = tmp_path / "configuration.json"
    path.write_text('{"model": {"type": "bert", "cfg": {}}}')
    with pytest.raises(CheckpointError, match=r"model\.type is 'bert', expected 'passvitb'"):
        load_checkpoint(tmp_path)
    path.write_text('{"model": {"type": "passvitb"}}')
    with pytest.raises(CheckpointError, match=r"model\.cfg is missing"):
        load_checkpoint(tmp_path)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_checkpoint(tmp_path)


def test_a_size_asked_for_resamples_whatever_the_configuration_tests_at(tmp_path: Path) -> None:
    folder = modelscope(tmp_path, fine_tuned(), {"INPUT.SIZE_TEST": [96, 32]})
    _, card, report = load_checkpoint(folder, image_size=(96, 32))
    assert card.architecture.image_size == (96, 32) and report.resized == ((4, 2), (6, 2))
