"""Training crops: the released augmentation, one seed a crop.

Of `PASS_transreid/datasets`; random erasing by Zhong et al., AAAI 2020.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2

from passreid.data.filelist import FileList
from passreid.training.process import seed_all

_RGB = tuple[float, float, float]


class Augmentation(Protocol):
    """What a recipe says of augmentation; `FinetuneRecipe` tells what each is."""

    @property
    def mean(self) -> _RGB: ...
    @property
    def std(self) -> _RGB: ...
    @property
    def flip(self) -> float: ...
    @property
    def pad(self) -> int: ...
    @property
    def erasing(self) -> float: ...
    @property
    def zoom(self) -> float: ...
    @property
    def jitter(self) -> float: ...


def build_augmentation(config: Augmentation, image_size: tuple[int, int]) -> v2.Compose:
    """Resize (bicubic), mirror, jitter, pad and crop, normalise, erase: PIL -> float (3, H, W)."""
    bicubic = InterpolationMode.BICUBIC
    resize: v2.Transform = v2.Resize(image_size, interpolation=bicubic)
    if config.zoom < 1:
        shape = image_size[1] / image_size[0]
        scale, ratio = (config.zoom, 1.0), (0.8 * shape, 1.25 * shape)
        resize = v2.RandomResizedCrop(image_size, scale, ratio, interpolation=bicubic)
    steps: list[Any] = [
        resize,
        v2.PILToTensor(),
        v2.RandomHorizontalFlip(config.flip),
    ]
    if config.jitter:
        steps.append(v2.ColorJitter(config.jitter, config.jitter))
    if config.pad:
        steps += [v2.Pad(config.pad), v2.RandomCrop(image_size)]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(config.mean, config.std)]
    if config.erasing:
        steps.append(RandomErasing(config.erasing, mode="pixel", max_count=1, device="cpu"))
    return v2.Compose(steps)


class CropDataset(Dataset[tuple[Tensor, int]]):
    """Labelled crops; an item is asked for as (index, seed of its augmentation).

    Args:
        files: Crops.
        labels: Identity of each, 0 … people - 1.
        transform: PIL RGB -> float (3, H, W).
        seed: Of the run.
    """

    def __init__(
        self, files: FileList, labels: Sequence[int], *, transform: v2.Compose, seed: int
    ) -> None:
        self.files, self.labels, self.transform, self.seed = files, labels, transform, seed

    def __len__(self) -> int:
        """Return how many crops there are."""
        return len(self.files)

    def fingerprint(self) -> str:
        """Return what tells these crops and labels, in this order, from any others."""
        return hashlib.sha256(self.files.text + repr(list(self.labels)).encode()).hexdigest()

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int]:
        """Return one augmented crop (3, H, W) and its label.

        Raises:
            ImageError: The crop cannot be read.
        """
        index, place = item
        image = self.files.read(index)
        with torch.random.fork_rng(devices=[]):
            seed_all(self.seed, place)
            return self.transform(image), self.labels[index]
