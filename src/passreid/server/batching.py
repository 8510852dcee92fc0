"""Embed the crops of many requests in shared batches.

While the network runs two batches the next one fills, so that batches grow with the load and a
single request waits for nobody. Crops that do not fit into the queue are refused.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from fastapi import HTTPException
from numpy.typing import NDArray

from passreid.backends import F32
from passreid.embed import Embedder
from passreid.server.errors import busy

_GATHER_S = 0.002  # clients need this long to send their next crop
_RUNS = 2  # while answers of one run are sent and new crops arrive, the other keeps the cores busy


class _Job(NamedTuple):
    pixels: NDArray[np.uint8]
    row: asyncio.Future[F32]


class Batcher:
    """A bounded queue of crops in front of an embedder.

    Args:
        embedder: Its `batch_size` bounds a batch.
        max_pending: Crops that may wait.
        on_batch: Called after each run with the number of crops and the seconds.
    """

    def __init__(
        self, embedder: Embedder, *, max_pending: int, on_batch: Callable[[int, float], None]
    ) -> None:
        self._embedder = embedder
        self._on_batch = on_batch
        self._queue: asyncio.Queue[_Job] = asyncio.Queue(max_pending)
        self._threads = ThreadPoolExecutor(_RUNS, thread_name_prefix="passreid-network")
        self._workers: list[asyncio.Task[None]] = []
        self._seconds = 0.02  # per crop, a running mean

    def start(self) -> None:
        """Start the workers on the running event loop."""
        self._workers = [asyncio.create_task(self._work()) for _ in range(_RUNS)]

    async def stop(self) -> None:
        """Stop the workers and refuse the crops that still wait."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        while not self._queue.empty():
            _fail([self._queue.get_nowait()], _stopping())
        self._threads.shutdown()

    @property
    def pending(self) -> int:
        """Number of crops that wait."""
        return self._queue.qsize()

    @property
    def wait_s(self) -> int:
        """Seconds after which a refused client should retry, at least 1."""
        return max(1, math.ceil(self.pending * self._seconds))

    async def embed(self, crops: Sequence[NDArray[np.uint8]], *, wait: bool = False) -> F32:
        """Embed uint8 RGB (H, W, 3) crops of the network's input size: (N, D).

        A full queue raises 429, unless `wait` is set.
        """
        if not wait and self._queue.maxsize - self.pending < len(crops):
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
            jobs = [job for job in jobs if not job.row.done()]  # some clients have left
            if jobs:
                await self._run(jobs)

    async def _run(self, jobs: Sequence[_Job]) -> None:
        began = time.perf_counter()
        crops = np.stack([job.pixels for job in jobs])
        loop = asyncio.get_running_loop()
        try:
            rows = await loop.run_in_executor(self._threads, self._embedder.embed_pixels, crops)
        except asyncio.CancelledError:
            _fail(jobs, _stopping())
            raise
        except Exception as error:  # noqa: BLE001 - belongs to the requests, not to the worker
            _fail(jobs, error)
            return
        took = time.perf_counter() - began
        self._seconds += 0.1 * (took / len(jobs) - self._seconds)
        self._on_batch(len(jobs), took)
        for job, row in zip(jobs, rows, strict=True):
            if not job.row.done():
                job.row.set_result(row)


def _stopping() -> HTTPException:
    return HTTPException(503, "The service is stopping.")


def _fail(jobs: Sequence[_Job], error: Exception) -> None:
    for job in jobs:
        if not job.row.done():
            job.row.set_exception(error)
