"""Batches read ahead by data workers, whose errors reach the user as they were raised."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from passreid.errors import PassreidError, TrainingError

B = TypeVar("B")
_ASKING_TO_LEAVE = (signal.SIGTERM, signal.SIGINT)


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
            worker_init_fn=_outlive_signals,
        )

    def __iter__(self) -> Iterator[B]:
        """Yield the batches.

        Raises:
            PassreidError: What the data set raised, in whatever process.
        """
        # No name holds the iterator: an error would keep it, and its workers, until the next
        # garbage collection, which finds their queues closed and waits ten seconds for each.
        for batch in self._start():
            if isinstance(batch, PassreidError):
                batch.alone = True
                raise batch
            yield batch

    def _start(self) -> Iterator[Any]:
        with _signals_held():
            return iter(self._loader)


@contextlib.contextmanager
def dead_workers_named() -> Iterator[None]:
    """Say in a sentence that a data worker is gone; torch notices that anywhere in the main thread.

    Raises:
        TrainingError: A data worker was killed, as by the system when memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        killed = TrainingError(
            f"A data worker ended, probably for want of memory ({str(error).rstrip('. ')}). Take "
            "fewer --workers; the last checkpoint is kept."
        )
        killed.alone = True
        raise killed from None


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


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Let signals wait, here and in processes started meanwhile, which would die of them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    if multiprocessing.get_start_method() != "fork":
        resource_tracker.ensure_running()  # else the first process starts it, which lets signals in
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ASKING_TO_LEAVE)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _outlive_signals(worker: int) -> None:
    """Let a data worker (a `worker_init_fn`) live through a signal sent to the whole process group.

    The main process needs its batches to finish the step, and ends it after its checkpoint: by
    SIGTERM where it must, so the second one is obeyed.
    """
    for number in _ASKING_TO_LEAVE:
        signal.signal(number, _obey_the_next)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKING_TO_LEAVE)


def _obey_the_next(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
