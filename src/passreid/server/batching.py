"""Crops of many requests share the runs of one network.

While the network works on two batches the next one gathers, so that batches grow with the load and
a lone request waits for nobody. What does not fit into the queue is refused, not hoarded.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from passreid.backends import F32
from passreid.embed import Embedder
from passreid.errors import PassreidError
from passreid.server.problems import Refusal, busy

_GATHER_S = 0.002  # answered clients need this long to send their next crop
_RUNS = 2  # while one run's answers go out and new crops come in, the other keeps the cores busy


class _Job(NamedTuple):
    pixels: NDArray[np.uint8]
    row: asyncio.Future[F32]


class Batcher:
    """The queue before an embedder, whose few runs at a time have threads of their own.

    Args:
        embedder: Runs the network; its `batch_size` bounds a batch.
        max_pending: Crops that may wait.
        on_batch: Told of every run: crops and seconds.
    """

    def __init__(
        self, embedder: Embedder, *, max_pending: int, on_batch: Callable[[int, float], None]
    ) -> None:
        self._embedder = embedder
        self._on_batch = on_batch
        self._queue: asyncio.Queue[_Job] = asyncio.Queue(max_pending)
        self._threads = ThreadPoolExecutor(_RUNS, thread_name_prefix="passreid-network")
        self._workers: list[asyncio.Task[None]] = []
        self._seconds = 0.02  # of one crop, a running mean

    def start(self) -> None:
        """Begin to work; needs a running event loop."""
        loop = asyncio.get_running_loop()
        self._workers = [loop.create_task(self._work()) for _ in range(_RUNS)]

    async def stop(self) -> None:
        """Stop working; who still waits is refused."""
        for worker in self._workers:
            worker.cancel()
        for worker in self._workers:
            with suppress(asyncio.CancelledError):
                await worker
        while not self._queue.empty():
            self._settle([self._queue.get_nowait()], Refusal(503, "The service is stopping."))
        self._threads.shutdown()

    @property
    def pending(self) -> int:
        """Crops that wait."""
        return self._queue.qsize()

    @property
    def wait_s(self) -> int:
        """Seconds after which it is worth coming back, at least 1."""
        return max(1, math.ceil(self.pending * self._seconds))

    async def embed(self, crops: Sequence[NDArray[np.uint8]], *, patient: bool = False) -> F32:
        """Embed crops, together with those of other requests.

        Args:
            crops: uint8 RGB (H, W, 3) of the network's input size.
            patient: Wait for a place in the queue instead of being refused.

        Returns:
            (N, D) float32, one row per crop.

        Raises:
            Refusal: 429, the queue is full.
            EmbeddingError: The network gives NaN or infinity.
        """
        if not patient and self._queue.maxsize - self.pending < len(crops):
            raise busy(self.wait_s)
        loop = asyncio.get_running_loop()
        jobs = [_Job(pixels, loop.create_future()) for pixels in crops]
        for job in jobs:
            await self._queue.put(job)
        return np.stack(await asyncio.gather(*(job.row for job in jobs)))

    async def _work(self) -> None:
        while True:
            jobs = [await self._queue.get()]
            if self._queue.qsize() + 1 < self._embedder.batch_size:
                await asyncio.sleep(_GATHER_S)
            while len(jobs) < self._embedder.batch_size and not self._queue.empty():
                jobs.append(self._queue.get_nowait())
            jobs = [job for job in jobs if not job.row.done()]  # some went away while waiting
            if jobs:
                await self._run(jobs)

    async def _run(self, jobs: Sequence[_Job]) -> None:
        began = time.perf_counter()
        loop = asyncio.get_running_loop()
        crops = np.stack([job.pixels for job in jobs])
        run = loop.run_in_executor(self._threads, self._embedder.embed_pixels, crops)
        try:
            await asyncio.wait([run])
        except asyncio.CancelledError:
            self._settle(jobs, Refusal(503, "The service is stopping."))
            raise
        error = run.exception()
        if error is None:
            took = time.perf_counter() - began
            self._seconds += 0.1 * (took / len(jobs) - self._seconds)
            self._on_batch(len(jobs), took)
            for job, row in zip(jobs, run.result(), strict=True):
                if not job.row.done():
                    job.row.set_result(row)
        else:
            known = isinstance(error, PassreidError)
            self._settle(jobs, error if known else RuntimeError(f"the network failed: {error}"))

    @staticmethod
    def _settle(jobs: Sequence[_Job], error: BaseException) -> None:
        for job in jobs:
            if not job.row.done():
                job.row.set_exception(error)
