"""The mean of several runs' weights as one model ("Model soups", Wortsman et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from passreid.card import ModelCard
from passreid.checkpoint.load import load_folder
from passreid.errors import CheckpointError, UsageError
from passreid.model import PartViT


def average(folders: Sequence[str | Path]) -> tuple[PartViT, ModelCard]:
    """Average the weights of models that were trained from the same start.

    Their mean is often better than any of them. Models from different starts average to nonsense.

    Args:
        folders: Model folders of one architecture and preprocessing.

    Returns:
        The model in evaluation mode, and the first folder's card without scores and calibration.

    Raises:
        UsageError: Fewer than two folders.
        CheckpointError: Two of them differ in more than their weights.
        ModelNotFoundError, ConfigError: As `load_folder`.
    """
    if len(folders) < 2:
        raise UsageError("Averaging takes two model folders or more.")
    loaded = [load_folder(folder) for folder in folders]
    model, card = loaded[0]
    for folder, (_, other) in zip(folders, loaded, strict=True):
        for name in ("architecture", "mean", "std", "interpolation"):
            if getattr(other, name) != getattr(card, name):
                raise CheckpointError(
                    f"{folder} and {folders[0]} cannot be averaged: their {name} differs."
                )
    states = [each.state_dict() for each, _ in loaded]
    for name, first in states[0].items():  # in double precision: a sum of many float32 rounds
        first.copy_(torch.stack([state[name].double() for state in states]).mean(dim=0))
    cards = [other for _, other in loaded]
    sources = "; ".join(dict.fromkeys(other.training_data for other in cards))
    return model, replace(
        card,
        calibration=None,
        scores={},
        training_data=f"average of {len(folders)} runs: {sources}",
        trained_on=tuple(dict.fromkeys(name for other in cards for name in other.trained_on)),
    )
