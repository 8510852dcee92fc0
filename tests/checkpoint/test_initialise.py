"""A backbone from somebody's weights; part tokens for those that have none; position tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from passreid.card import Architecture
from passreid.checkpoint import initialise, load_checkpoint, resize_positions
from passreid.checkpoint.positions import grid_of, parts_from_cls
from passreid.errors import CheckpointError
from passreid.model import PartViT
from tests.checkpoint.fabricate import (
    IMAGES,
    TINY,
    backbone,
    fine_tuned,
    plain,
    states,
)


def test_initialise_takes_the_backbone_and_leaves_the_rest(tmp_path: Path) -> None:
    tensors = fine_tuned()
    torch.save(tensors, tmp_path / "m.pth")
    a = Architecture(width=64, depth=2, heads=4, image_size=(96, 32), num_classes=3)
    model = PartViT(a)
    assert model.classifier is not None
    neck, classifier = model.neck.state_dict(), model.classifier.weight.clone()
    report = initialise(model, tmp_path / "m.pth")
    assert torch.equal(
        model.state_dict()["vit.blocks.1.norm2.weight"], tensors["base.blocks.1.norm2.weight"]
    )
    assert torch.equal(model.classifier.weight, classifier)
    assert all(torch.equal(model.neck.state_dict()[key], value) for key, value in neck.items())
    assert report.resized == ((4, 2), (6, 2)) and "not the file's" in report.initialised[0]


def test_initialise_takes_a_loaded_checkpoint(tmp_path: Path) -> None:
    torch.save(fine_tuned(), tmp_path / "m.pth")
    from_file, from_memory = (PartViT(replace(TINY, image_size=(96, 32))) for _ in range(2))
    report = initialise(from_file, tmp_path / "m.pth")
    assert initialise(from_memory, load_checkpoint(tmp_path / "m.pth")).resized == report.resized
    for name, tensor in from_memory.vit.state_dict().items():
        assert torch.equal(tensor, from_file.vit.state_dict()[name]), name


def test_a_plain_vit_gives_part_tokens_in_their_bands(tmp_path: Path) -> None:
    tensors = plain(patches=16)
    torch.save(tensors, tmp_path / "dino.pth")
    model = PartViT(replace(TINY, heads=1))
    report = initialise(model, tmp_path / "dino.pth")
    table, positions = tensors["pos_embed"][0], model.vit.pos_embed
    assert positions is not None and model.vit.reg_token is not None
    patches = table[1:].view(4, 4, 64)
    for part, rows in enumerate(([0, 1], [1, 2], [2, 3])):
        assert torch.equal(model.vit.reg_token[0, part], tensors["cls_token"][0, 0])
        band = torch.stack([patches[row, column] for row in rows for column in range(4)])
        torch.testing.assert_close(
            positions[0, 1 + part], table[0] + band.mean(0) - table[1:].mean(0)
        )
    assert "3 part tokens: copies of CLS, placed in their bands" in str(report)
    tokens = model.eval().tokens(IMAGES)
    assert (tokens[:, 1] - tokens[:, 2]).abs().max() > 1e-3


def test_one_part_alone_is_the_upper_band() -> None:
    table = torch.arange(5.0).view(1, 5, 1)
    tokens, positions = parts_from_cls(torch.ones(1, 1, 1), table, (2, 2), 1)
    assert tokens.tolist() == [[[1.0]]] and positions.shape == (1, 6, 1)
    assert positions[0, 1, 0] == 0 + 1.5 - 2.5


def test_bands_of_an_odd_number_of_rows_overlap_in_the_middle() -> None:
    table = torch.tensor([0.0, 1.0, 2.0, 6.0]).view(1, 4, 1)
    _, positions = parts_from_cls(torch.ones(1, 1, 1), table, (3, 1), 2)
    assert positions[0, 1:3, 0].tolist() == [1.5 - 3, 4 - 3]


def test_no_patches_have_no_grid() -> None:
    assert grid_of(0) is None
    assert grid_of(128) == (16, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 128, "heads": 2}, "width is 64, the model's is 128"),
        ({"depth": 3}, "depth is 2, the model's is 3"),
        ({"parts": 2}, "has 3 part tokens, the model 2"),
        ({"parts": 0}, "has 3 part tokens, the model 0"),
        ({"stem": "conv4"}, "stem is none, the model's is conv4"),
    ],
)
def test_initialise_refuses_another_network(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    torch.save(backbone(), tmp_path / "m.pth")
    model = PartViT(replace(TINY, **{"heads": 1, **change}))
    before = [value.clone() for value in states(model)]
    with pytest.raises(CheckpointError, match=message):
        initialise(model, tmp_path / "m.pth")
    assert all(torch.equal(a, b) for a, b in zip(states(model), before, strict=True))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("pos_128to192", (16, 8), (24, 8)),
        ("pos_192to128", (24, 8), (16, 8)),
        ("pos_128to210", (16, 8), (21, 10)),
    ],
)
def test_resampled_tables_are_the_originals(
    name: str, old: tuple[int, int], new: tuple[int, int]
) -> None:
    stored = np.load(Path(__file__).parents[1] / "golden" / "model_positions.npz")
    table = torch.from_numpy(stored[name.split("to")[0]])
    special = torch.randn(1, 4, table.shape[2])
    resized = resize_positions(torch.cat([special, table], dim=1), old, new, 4)
    assert torch.equal(resized[:, :4], special)
    difference = np.linalg.norm(resized[:, 4:].numpy() - stored[name])
    assert difference / np.linalg.norm(stored[name]) < 1e-5


def test_a_table_of_another_grid_is_not_resampled() -> None:
    with pytest.raises(ValueError, match="not 1 \\+ 4x2 positions"):
        resize_positions(torch.zeros(1, 10, 4), (4, 2), (6, 2), 1)
