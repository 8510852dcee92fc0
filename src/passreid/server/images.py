"""Decode uploads into crops of the network's input size, in threads with a time limit."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from fastapi import HTTPException
from numpy.typing import NDArray

from passreid.card import ModelCard
from passreid.embed import BoxFormat, cut_boxes, resize_crop
from passreid.errors import ImageError
from passreid.gallery.enrolment import draw_thumbnail
from passreid.images import ImageLimits, read_image
from passreid.server.errors import busy

Box = tuple[float, float, float, float]
T = TypeVar("T")


class Crop(NamedTuple):
    """A person as uint8 RGB (H, W, 3), the upload's SHA-256, and a JPEG thumbnail (or b"")."""

    pixels: NDArray[np.uint8]
    content_hash: str
    thumbnail: bytes


def read_crops(
    file: BinaryIO,
    name: str,
    *,
    card: ModelCard,
    limits: ImageLimits,
    boxes: Sequence[Box] = (),
    box_format: BoxFormat = "xyxy",
    thumbnail: bool = False,
) -> list[Crop]:
    """Decode an upload and cut its boxes out, or take the whole image if there are none.

    Crops are resized here, so that the queue of the network stays small.
    """
    file.seek(0)
    data = file.read(limits.max_bytes + 1)
    try:
        image = read_image(data, limits=limits)
    except ImageError as error:
        raise ImageError(name, error.reason) from None
    digest = hashlib.sha256(data).hexdigest()
    people = cut_boxes(image, boxes, name, box_format=box_format) or [image]
    return [
        Crop(resize_crop(person, card), digest, draw_thumbnail(person) if thumbnail else b"")
        for person in people
    ]


class Decoders:
    """Threads that decode; a request whose image overruns its time gets an error.

    A thread cannot be stopped: it stays occupied until it ends, which the limits on images bound.
    """

    def __init__(self, workers: int, *, timeout_s: float) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="passreid-decode")
        self._free = asyncio.Semaphore(workers)
        self._workers = workers
        self._timeout_s = timeout_s
        self._overdue: set[asyncio.Future[Any]] = set()

    @property
    def stuck(self) -> bool:
        """Whether every thread is busy with an image that overran its time."""
        return len(self._overdue) == self._workers

    async def run(self, function: Callable[..., T], name: str, /, *args: Any, **options: Any) -> T:
        """Call `function` in a thread: 429 if none becomes free, 422 if it takes too long."""
        try:
            await asyncio.wait_for(self._free.acquire(), self._timeout_s)
        except asyncio.TimeoutError:
            raise busy(math.ceil(self._timeout_s)) from None
        work = asyncio.wrap_future(self._pool.submit(function, *args, **options))
        work.add_done_callback(self._finished)
        done, _ = await asyncio.wait([work], timeout=self._timeout_s)
        if not done:
            self._overdue.add(work)
            reason = f"takes longer than {self._timeout_s:g} s to decode; send a smaller image"
            raise HTTPException(422, f"{name}: {reason}.")
        return work.result()

    def _finished(self, work: asyncio.Future[Any]) -> None:
        self._free.release()
        self._overdue.discard(work)
        if not work.cancelled():
            work.exception()  # retrieved, or asyncio warns when the request has gone

    def stop(self) -> None:
        """Start no further work."""
        self._pool.shutdown(wait=False, cancel_futures=True)
