"""One model out of several runs: the mean of their weights ("Model soups", Wortsman 2022)."""

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
    """Average the weights of models that came from one start.

    Runs that began at the same weights, or one at the end of the other, lie in one valley of the
    loss, and the middle is often better than any of them. Models that began apart give nonsense.

    Args:
        folders: Model folders of one architecture and normalisation.

    Returns:
        The model in evaluation mode, and its card: that of the first folder, without what was
        measured of it.

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
    mean = {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(first.dtype)
        for name, first in states[0].items()
    }
    model.load_state_dict(mean)
    sources = "; ".join(dict.fromkeys(other.training_data for _, other in loaded))
    described = replace(
        card,
        calibration=None,
        scores={},
        training_data=f"average of {len(folders)} runs: {sources}",
    )
    return model, described
