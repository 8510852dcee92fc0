"""The mean of several models' weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from passreid.card import ModelCard
from passreid.checkpoint import average, load_folder
from passreid.errors import CheckpointError, UsageError
from tests import small


def test_every_tensor_is_the_mean(tmp_path: Path) -> None:
    folders = [small.folder(tmp_path / str(seed), seed=seed) for seed in range(3)]
    model, card = average(folders)
    states = [load_folder(folder)[0].state_dict() for folder in folders]
    assert len(states[0]) > 20
    for name, tensor in model.state_dict().items():
        expected = sum(state[name].double() for state in states) / 3
        torch.testing.assert_close(tensor.double(), expected, atol=1e-6, rtol=1e-6)
    assert not model.training
    assert card.training_data.startswith("average of 3 runs: ")


def test_what_was_measured_of_one_is_not_said_of_the_mean(tmp_path: Path) -> None:
    a = small.architecture()
    known = small.calibration()
    cards = [
        ModelCard(
            name=n,
            architecture=a,
            scores={"mAP": 0.9},
            training_data=n,
            trained_on=(n,),
            calibration=known,
        )
        for n in "xyx"
    ]
    folders = [small.folder(tmp_path / str(i), seed=i, card=card) for i, card in enumerate(cards)]
    _, card = average(folders)
    assert not card.scores
    assert card.calibration is None
    assert card.training_data == "average of 3 runs: x; y"
    assert card.trained_on == ("x", "y")


def test_models_that_cannot_be_averaged(tmp_path: Path) -> None:
    first = small.folder(tmp_path / "a")
    with pytest.raises(UsageError, match="two model folders"):
        average([first])
    other = small.folder(tmp_path / "b", small.architecture(parts=1))
    with pytest.raises(CheckpointError, match=r"b and .*a cannot be averaged: their architecture"):
        average([first, other])
    card = load_folder(first)[1]
    grey = small.folder(tmp_path / "c", card=replace(card, mean=(0.1, 0.1, 0.1)))
    with pytest.raises(CheckpointError, match="their mean differs"):
        average([first, grey])
    soft = small.folder(tmp_path / "d", card=replace(card, interpolation="bicubic"))
    with pytest.raises(CheckpointError, match="their interpolation differs"):
        average([first, soft])
