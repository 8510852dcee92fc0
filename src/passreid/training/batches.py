"""Batches loaded ahead by data workers, whose errors reach the user as they were raised."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import resource_tracker
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from passreid.errors import PassreidError, TrainingError

B = TypeVar("B")
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Batches(Generic[B]):
    """The batches of a sampler, in its order; can be iterated again.

    Args:
        dataset: Picklable; an item of a batch is `dataset[i]`.
        sampler: Yields one list of items for each batch.
        workers: Processes that load ahead; 0 loads in this one.
        device: Where batches will be used; for CUDA they are put into pinned memory.
        collate: Makes a batch of a list of items.
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
            worker_init_fn=_survive_one_signal,
        )

    def __iter__(self) -> Iterator[B]:
        """Yield the batches; raise what the data set raised in whatever process."""
        # No name holds the iterator: an error would keep it, and its workers, until the next
        # garbage collection, which finds their queues closed and waits ten seconds for each.
        for batch in self._start():
            if isinstance(batch, PassreidError):
                batch.alone = True
                raise batch
            yield batch

    def _start(self) -> Iterator[Any]:
        with _signals_blocked():
            return iter(self._loader)


@contextlib.contextmanager
def dead_workers_named() -> Iterator[None]:
    """Explain that a data worker was killed; torch notices it anywhere in the main thread.

    Raises:
        TrainingError: A data worker was killed, for example by the system when memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        killed = TrainingError(
            f"A data worker ended, probably because memory ran out ({str(error).rstrip('. ')}). "
            "Use fewer --workers; the last checkpoint is kept."
        )
        killed.alone = True
        raise killed from None


class _Reading(Dataset[Any]):
    """Loads a batch in a worker, and returns an error of ours as a result.

    torch would rebuild the error from the worker's traceback: pages instead of a sentence, and a
    failure where an error takes more than a message.
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
def _signals_blocked() -> Iterator[None]:
    """Hold signals back, here and in processes started meanwhile, until those can handle them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    if multiprocessing.get_start_method() != "fork":
        resource_tracker.ensure_running()  # else the first process starts it, which lets signals in
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _survive_one_signal(worker: int) -> None:
    """Let a data worker outlive a signal that was sent to the whole process group.

    The main process needs its batches to finish the step, and ends it after its checkpoint, by
    SIGTERM if it must; so the second signal is obeyed.
    """
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda number, _: signal.signal(number, signal.SIG_DFL))
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
