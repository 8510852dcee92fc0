"""A recipe of a few thousand parameters, and images to go with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from passreid import card
from passreid.card import Architecture
from passreid.pretraining.pretrain import pretrain
from passreid.pretraining.recipe import PretrainConfig, PretrainRecipe
from passreid.training import stage

PRESET = "tests-only"
ARCHITECTURE = Architecture(
    width=32, depth=2, heads=2, image_size=(32, 16), patch_size=8, stride=(8, 8)
)
VALUES: dict[str, Any] = {
    "preset": PRESET,
    "hidden": 24,
    "bottleneck": 8,
    "out_dim": 40,
    "drop_path": 0.0,
    "batch_size": 4,
    "epochs": 2,
    "warmup_epochs": 1,
    "precision": "float32",
    "device": "cpu",
    "workers": 0,
}


def add_preset(architecture: Architecture = ARCHITECTURE) -> None:
    """Make the preset known; a fixture takes it away again."""
    card.PRESETS[PRESET] = architecture  # type: ignore[index]


def recipe(**changes: Any) -> PretrainRecipe:
    return PretrainRecipe(**(VALUES | changes))


def config(data: Path, output: Path, **changes: Any) -> PretrainConfig:
    return PretrainConfig(data=data, output=output, **(VALUES | changes))


def train(data: Path, output: Path, **changes: Any) -> int:
    """Run, or go on, in a process of its own, and log every step; return the exit code."""
    add_preset()
    pytest.MonkeyPatch().setattr(stage, "LOG_EVERY", 1)
    folder = pretrain(config(data, output, **changes), resume=True, progress=False)
    return int(folder is None)


def write_images(folder: Path, count: int, *, seed: int = 0) -> Path:
    """Write small pictures, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        blocks = rng.integers(0, 256, (6, 3, 3), dtype=np.uint8)
        pixels = blocks.repeat(8, axis=0).repeat(8, axis=1)
        Image.fromarray(pixels).save(folder / f"{number:04d}.png")
    return folder
