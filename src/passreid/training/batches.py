"""Batches read ahead by data workers, whose errors reach the user as they were raised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from passreid.errors import PassreidError
from passreid.training.process import outlive_signals

B = TypeVar("B")


class Batches(Generic[B]):
    """The batches a sampler asks for, in its order, at each iteration anew.

    Args:
        dataset: Picklable; an item of a batch is `dataset[i]`.
        sampler: Yields one list of items for each batch.
        workers: Processes that read ahead; 0 reads in this one.
        device: Where batches go; for CUDA they are put into pinned memory.
        collate: Makes a batch of the items of a list.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        sampler: Iterable[Sequence[Any]],
        *,
        workers: int,
        device: torch.device,
        collate: Callable[[list[Any]], B] = default_collate,
    ) -> None:
        self._loader: DataLoader[Any] = DataLoader(
            _Reading(dataset, collate),
            batch_size=None,
            sampler=sampler,
            collate_fn=_unchanged,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            prefetch_factor=4 if workers else None,
            worker_init_fn=outlive_signals,
        )

    def __iter__(self) -> Iterator[B]:
        """Yield the batches.

        Raises:
            PassreidError: What the data set raised, in whatever process.
        """
        for batch in self._loader:
            if isinstance(batch, PassreidError):
                raise batch
            yield batch


class _Reading(Dataset[Any]):
    """What a worker does for a batch; an error of ours is a result.

    torch would make the error anew out of a worker's traceback: pages in place of a sentence, and
    a failure where an error takes more than a message.
    """

    def __init__(self, dataset: Dataset[Any], collate: Callable[[list[Any]], Any]) -> None:
        self.dataset, self.collate = dataset, collate

    def __getitem__(self, items: Sequence[Any]) -> Any:
        try:
            return self.collate([self.dataset[item] for item in items])
        except PassreidError as error:
            return error


def _unchanged(batch: Any) -> Any:
    return batch
