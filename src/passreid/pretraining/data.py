"""Millions of unlabelled images as views: one image, a batch, the order of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from passreid.data.filelist import FileList
from passreid.errors import DatasetError, ImageError
from passreid.pretraining.config import PretrainRecipe
from passreid.pretraining.crops import MultiCrop
from passreid.training.process import Process

TRIES = 100
"""Images looked at for one that can be read, before the set is given up."""


class Views(NamedTuple):
    """A batch of images as their views.

    Attributes:
        globals: uint8 (B, 2, H, W, 3).
        locals: uint8 (B, V, h, w, 3), area by area.
        indices: (B,) positions in the file list.
        unreadable: Paths that were passed over, and why.
    """

    globals: Tensor
    locals: Tensor
    indices: Tensor
    unreadable: list[tuple[str, str]]


class ViewDataset(Dataset[Views]):
    """Images as views; an item is asked for as (index, its place in the run).

    Args:
        files: The images.
        crop: Makes the views.
        seed: Of the run; together with the place it decides everything about the views.
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
    """Every image once an epoch, in an order fixed by (seed, epoch), in whole batches.

    Yields one list for each of the `accumulate` parts of a step; which process and which part an
    image falls to changes neither the images of a step nor their views.

    Args:
        images: How many there are.
        batch_size: Images of a step over all processes and parts.
        accumulate: Parts of a step.
        seed: Of the orders; the same on all processes.
        rank, world: This process's share.

    Raises:
        DatasetError: Fewer images than a batch, or a batch that cannot be shared out evenly.
    """

    def __init__(
        self,
        images: int,
        *,
        batch_size: int,
        accumulate: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size % (accumulate * world):
            raise DatasetError(
                f"batch_size ({batch_size}) must be a multiple of {accumulate} parts times "
                f"{world} processes."
            )
        if images < batch_size:
            raise DatasetError(f"{images} images are fewer than a batch of {batch_size}.")
        self.images, self.batch_size, self.accumulate = images, batch_size, accumulate
        self.seed, self.rank, self.world = seed, rank, world
        self.set_epoch(0)

    @staticmethod
    def of(recipe: PretrainRecipe, images: int, process: Process) -> EpochSampler:
        """Return a process's share of what a recipe asks for."""
        return EpochSampler(
            images,
            batch_size=recipe.batch_size,
            accumulate=recipe.accumulate,
            seed=recipe.seed,
            rank=process.rank,
            world=process.world,
        )

    @property
    def steps(self) -> int:
        """Steps of an epoch; images that fill no whole batch wait for another epoch."""
        return self.images // self.batch_size

    def set_epoch(self, epoch: int, *, skip: int = 0) -> None:
        """Choose an epoch; `skip` leaves out the steps that a resumed run has already done."""
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        """Return the lists left in this epoch."""
        return (self.steps - self.skip) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield (index, place in the run) pairs of this process, part by part."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.images)
        share = self.batch_size // (self.accumulate * self.world)
        for step in range(self.skip, self.steps):
            for part in range(self.accumulate):
                first = step * self.batch_size + (part * self.world + self.rank) * share
                chosen = order[first : first + share].tolist()
                place = self.epoch * self.images + first
                yield [(index, place + i) for i, index in enumerate(chosen)]
