"""Unlabelled images as views: one image, a batch, the order of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from passreid.data.filelist import FileList
from passreid.errors import DatasetError, ImageError
from passreid.pretraining.crops import MultiCrop
from passreid.pretraining.recipe import PretrainRecipe
from passreid.training.process import Process

TRIES = 100
"""Images tried in place of an unreadable one before the run is given up."""


class Views(NamedTuple):
    """A batch of images as their views.

    Attributes:
        globals: uint8 (B, 2, H, W, 3).
        locals: uint8 (B, V, h, w, 3), area by area.
        indices: (B,) positions in the file list.
        unreadable: Paths that were skipped, and why.
    """

    globals: Tensor
    locals: Tensor
    indices: Tensor
    unreadable: list[tuple[str, str]]


class ViewDataset(Dataset[Views]):
    """Images as views; an item is requested as (index, its place in the run).

    Args:
        files: The images.
        crop: Draws the views.
        seed: Seed of the run; with the place it determines the views.
    """

    def __init__(self, files: FileList, crop: MultiCrop, *, seed: int) -> None:
        self.files, self.crop, self.seed = files, crop, seed

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: tuple[int, int]) -> Views:
        """Return the views of one image, or of the next in the list that can be read.

        Raises:
            DatasetError: None of the next `TRIES` can be read.
        """
        index, place = item
        unreadable: list[tuple[str, str]] = []
        for offset in range(min(TRIES, len(self.files))):
            chosen = (index + offset) % len(self.files)
            try:
                image = self.files.read(chosen)
            except ImageError as error:
                unreadable.append((error.source, error.reason))
                continue
            views = self.crop(image, np.random.default_rng((self.seed, place)))
            whole, local = (torch.from_numpy(pixels) for pixels in views)
            return Views(whole, local, torch.tensor(chosen), unreadable)
        path, reason = unreadable[-1]
        raise DatasetError(
            f"{len(unreadable)} images in a row cannot be read, the last one {path}: {reason}."
        )


def collate(items: list[Views]) -> Views:
    """Stack images into a batch."""
    return Views(
        torch.stack([item.globals for item in items]),
        torch.stack([item.locals for item in items]),
        torch.stack([item.indices for item in items]),
        [line for item in items for line in item.unreadable],
    )


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Every image once an epoch, in whole batches and an order determined by (seed, epoch).

    Yields one list for each of the `accumulate` parts of a step. The images of a step and their
    views do not depend on the number of parts and processes.

    Args:
        images: Number of images.
        recipe: Supplies batch size, parts of a step and seed.
        process: This process.

    Raises:
        DatasetError: Fewer images than a batch, or a batch that cannot be shared out evenly.
    """

    def __init__(self, images: int, recipe: PretrainRecipe, process: Process) -> None:
        self.images, self.recipe, self.process = images, recipe, process
        size, parts, world = recipe.batch_size, recipe.accumulate, process.world
        if size % (parts * world):
            raise DatasetError(
                f"batch_size ({size}) must be a multiple of {parts} parts times {world} processes."
            )
        if images < size:
            raise DatasetError(f"{images} images are fewer than a batch of {size}.")
        self.set_epoch(0)

    @property
    def steps(self) -> int:
        """Steps of an epoch; images that fill no whole batch wait for another epoch."""
        return self.images // self.recipe.batch_size

    def set_epoch(self, epoch: int, *, skip: int = 0) -> None:
        """Choose an epoch; `skip` leaves out the steps that a resumed run has already done."""
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        """Return the lists left in this epoch."""
        return (self.steps - self.skip) * self.recipe.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield (index, place in the run) pairs of this process, part by part."""
        parts, rank, world = self.recipe.accumulate, self.process.rank, self.process.world
        order = np.random.default_rng((self.recipe.seed, self.epoch)).permutation(self.images)
        share = self.recipe.batch_size // (parts * world)
        for step in range(self.skip, self.steps):
            for part in range(parts):
                first = step * self.recipe.batch_size + (part * world + rank) * share
                chosen = order[first : first + share].tolist()
                place = self.epoch * self.images + first
                yield [(index, place + i) for i, index in enumerate(chosen)]
