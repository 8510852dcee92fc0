"""A network of a few kB with random weights and statistics, and a backend that is no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from passreid.card import Architecture, ModelCard
from passreid.checkpoint import save_folder
from passreid.embed import Embedder
from passreid.model import PartViT
from passreid.openset import Calibration

SIZE = (64, 32)
GRID = (4, 2)


def architecture(**changes: Any) -> Architecture:
    values: dict[str, Any] = {"width": 64, "depth": 2, "heads": 2, "image_size": SIZE}
    if changes.get("stem", "none") != "none":
        values |= {"patch_size": 8, "stride": (8, 8)}
    return Architecture(**(values | changes))


def network(a: Architecture, *, seed: int = 0) -> PartViT:
    """Every tensor random, so that no part of the network can be left out unseen."""
    torch.manual_seed(seed)
    model = PartViT(a).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var") or name.endswith("weight"):
                tensor.mul_(1 + 0.2 * torch.rand_like(tensor))
            elif tensor.is_floating_point():
                tensor.add_(0.2 * torch.randn_like(tensor))
    return model


def folder(
    path: Path,
    a: Architecture | None = None,
    *,
    half: bool = False,
    seed: int = 0,
    card: ModelCard | None = None,
) -> Path:
    """Write a model folder without a graph."""
    a = a or architecture()
    card = card or ModelCard(name="small", architecture=a, mean=(0.4, 0.5, 0.6))
    save_folder(network(a, seed=seed), card, path, half=half)
    return path


def forget_digest(folder: Path) -> None:
    """Let a model folder's weights be changed, as in folders from before cards had a digest."""
    card = json.loads((folder / "model.json").read_text())
    del card["weights_sha256"]
    (folder / "model.json").write_text(json.dumps(card))


def calibration() -> Calibration:
    """What no cosine was measured for, whole enough to be written, read and compared."""
    return Calibration(
        slope=9.0,
        intercept=-4.0,
        points=(),
        equal_error_rate=0.1,
        equal_error_threshold=0.4,
        same_pairs=10,
        different_pairs=10,
        data="test",
    )


def picture(seed: int, height: int = 90, width: int = 40) -> npt.NDArray[np.uint8]:
    """Return an RGB picture unlike any other seed's, the same on every machine."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 2, 3), dtype=np.uint8)
    large = coarse.repeat(-(-height // 3), axis=0).repeat(-(-width // 2), axis=1)
    return np.ascontiguousarray(large[:height, :width])


class Colours:
    """A backend that gives four numbers: the mean of each channel, and of the left half."""

    name, device, precision = "colours", "cpu", "float32"
    weights_digest = "colours"
    normalises, attends = False, True

    def __init__(self) -> None:
        self.batches: list[int] = []

    def run(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        assert pixels.dtype == np.float32 and pixels.shape[1:] == (3, *SIZE)
        assert pixels.flags.c_contiguous
        self.batches.append(len(pixels))
        left = pixels[..., : SIZE[1] // 2].mean((1, 2, 3))
        return np.column_stack([pixels.mean((2, 3)), left]).astype(np.float32)

    def attend(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Look at each patch alike."""
        return np.full((len(pixels), 1, *GRID), 1 / (GRID[0] * GRID[1]), np.float32)


def colours(**options: Any) -> Embedder:
    """An embedder whose rows can be worked out by hand."""
    a = Architecture(width=4, heads=1, parts=0, image_size=SIZE)
    card = options.pop("card", None) or ModelCard(name="colours", architecture=a)
    return Embedder(options.pop("network", None) or Colours(), card, **options)
