"""A ModelScope folder: its configuration is data, and must be true."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from passreid.card import HALF
from passreid.checkpoint import load_checkpoint
from passreid.errors import CheckpointError
from tests.checkpoint.fabricate import Tensors, assert_same_network, bare, expected, fine_tuned


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


def test_modelscope_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = fine_tuned()
    model, card, report = load_checkpoint(modelscope(tmp_path, tensors))
    assert_same_network(model, expected(bare(tensors), feature="after"))
    assert (card.mean, card.std, card.name) == ((0.4, 0.5, 0.6), HALF, tmp_path.name)
    assert report.format == "modelscope" and "sha256" in str(report)
    assert not report.assumed and not caplog.records


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"INPUT.SIZE_TRAIN": [96, 32], "INPUT.SIZE_TEST": [96, 32]},
            "says 96x32 pixels, 12 patches, but the weights have 8 patch positions, 64x32 pixels",
        ),
        ({"INPUT.SIZE_TEST": [96, 32]}, "SIZE_TEST is .96, 32., SIZE_TRAIN .64, 32."),
        ({"INPUT.SIZE_TRAIN": "64x32"}, "INPUT.SIZE_TRAIN is '64x32', expected two whole numbers"),
        ({"INPUT.SIZE_TRAIN": [64, 32, 3]}, "expected two whole numbers"),
        ({"INPUT.SIZE_TRAIN": [True, 32]}, "expected two whole numbers"),
        ({"MODEL.STRIDE_SIZE": [0, 16]}, "STRIDE_SIZE is .0, 16., expected two whole numbers"),
        ({"INPUT.PIXEL_MEAN": [True, 0.5, 0.5]}, "PIXEL_MEAN is .*, expected three numbers"),
        ({"INPUT.PIXEL_STD": [1, 2]}, r"PIXEL_STD is \[1, 2\], expected three numbers"),
        ({"MODEL.GEM_POOLING": True}, "GEM_POOLING is on"),
        ({"MODEL.STEM_CONV": True}, "STEM_CONV is on"),
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


def test_what_no_grid_fits_is_not_said_in_pixels(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"have 10 patch positions; correct"):
        load_checkpoint(modelscope(tmp_path, fine_tuned(patches=10)))


def test_a_stride_that_overlaps(tmp_path: Path) -> None:
    folder = modelscope(tmp_path, fine_tuned(patches=10), {"MODEL.STRIDE_SIZE": [12, 12]})
    _, card, report = load_checkpoint(folder)
    assert (card.architecture.stride, report.resized) == ((12, 12), None)
    _, card, report = load_checkpoint(folder, stride=(16, 16))
    assert (card.architecture.stride, report.resized) == ((16, 16), ((5, 2), (4, 2)))


def test_what_the_configuration_leaves_open_is_as_usual(tmp_path: Path) -> None:
    tensors = fine_tuned()
    del tensors["classifier.weight"]
    says: dict[str, Any] = {"INPUT.PIXEL_STD": [0.1, 0.2, 0.3], "MODEL.FEAT_FUSION": "mean"}
    _, card, report = load_checkpoint(modelscope(tmp_path, tensors, says), feature="before")
    assert (card.std, card.architecture.fusion) == ((0.1, 0.2, 0.3), "mean")
    assert (card.architecture.feature, report.assumed) == ("before", {})
    says = dict.fromkeys(["INPUT.SIZE_TEST", "MODEL.FEAT_FUSION", "TEST.NECK_FEAT"])
    _, card, report = load_checkpoint(modelscope(tmp_path, tensors, says))
    assert (card.architecture.feature, card.architecture.fusion) == ("before", "cat")
    assert report.assumed == {"fusion": "cat"}
    (tmp_path / "configuration.json").write_text(
        '{"model": {"type": "passvitb", "cfg": {"INPUT": 7}}}'
    )
    assert load_checkpoint(tmp_path).card.mean == HALF


def test_the_weights_of_the_folder_are_found(tmp_path: Path) -> None:
    modelscope(tmp_path, fine_tuned())
    (tmp_path / "another.pth").touch()
    assert load_checkpoint(tmp_path).report.format == "modelscope"
    (tmp_path / "pytorch_model.pt").rename(tmp_path / "another.pth")
    assert load_checkpoint(tmp_path).report.format == "modelscope"


def test_every_value_of_a_configuration_reaches_the_card(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "MODEL.STRIDE_SIZE": [12, 12],
        "MODEL.MULTI_NECK": False,
        "MODEL.FEAT_FUSION": "mean",
        "INPUT.PIXEL_STD": [0.1, 0.2, 0.3],
    }
    tensors = fine_tuned(neck="single", fusion="mean", patches=10)
    card = load_checkpoint(modelscope(tmp_path, tensors, changes)).card
    a = card.architecture
    assert (a.stride, a.neck, a.fusion, a.feature) == ((12, 12), "single", "mean", "after")
    assert (card.mean, card.std) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))


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
