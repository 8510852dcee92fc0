"""Uploaded files -> crops of the network's size, decoded in a few threads with a time limit."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from passreid.card import ModelCard
from passreid.embed import BoxFormat, cut_boxes, resize_crop
from passreid.errors import ImageError
from passreid.gallery.enrolment import draw_thumbnail
from passreid.images import ImageLimits, read_image
from passreid.server.problems import Refusal, busy

Box = tuple[float, float, float, float]
T = TypeVar("T")


class Crop(NamedTuple):
    """One person, ready for the network.

    Attributes:
        pixels: uint8 RGB (H, W, 3) of the network's input size.
        content_hash: SHA-256 in hex of the uploaded file.
        thumbnail: A small JPEG; empty where none was asked for.
    """

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
    """Decode one upload and cut the people out of it.

    The crops are resized as `Embedder` would, so that a queue of them is small and embeddings are
    the same to the last bit.

    Args:
        file: The upload.
        name: What messages call it.
        card: Says the size and the filter.
        limits: Bounds on bytes and pixels.
        boxes: In the order and unit of `box_format`; none is the whole picture.
        box_format: As in `Embedder.boxes`.
        thumbnail: Draw thumbnails as well.

    Raises:
        ImageError: It cannot be read, is too large, or too little of a box is in it.
        UsageError: The boxes are in another unit.
    """
    file.seek(0)
    data = file.read(limits.max_bytes + 1)
    try:
        picture = read_image(data, limits=limits)
    except ImageError as error:
        raise ImageError(name, error.reason) from None
    digest = hashlib.sha256(data).hexdigest()
    crops = []
    for person in cut_boxes(picture, boxes, name, box_format=box_format) or [picture]:
        small = draw_thumbnail(person) if thumbnail else b""
        crops.append(Crop(resize_crop(person, card), digest, small))
    return crops


class Readers:
    """Threads that decode; a request whose picture overruns its time is answered without it.

    A thread cannot be stopped, so it keeps its place until it ends, which the limits on pictures
    bound. Requests wait for a place no longer than one picture may take.

    Args:
        workers: Threads.
        timeout_s: Seconds for one picture.
    """

    def __init__(self, workers: int, *, timeout_s: float) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="passreid-decode")
        self._places = asyncio.Semaphore(workers)
        self._workers = workers
        self._timeout_s = timeout_s
        self._overdue: set[asyncio.Future[Any]] = set()

    @property
    def stuck(self) -> bool:
        """Whether every thread is busy with a picture that overran its time."""
        return len(self._overdue) == self._workers

    async def run(self, function: Callable[..., T], name: str, /, *args: Any, **options: Any) -> T:
        """Call `function` in a thread.

        Raises:
            Refusal: 429, no thread became free; 422, it took too long; the message names `name`.
        """
        try:
            await asyncio.wait_for(self._places.acquire(), self._timeout_s)
        except asyncio.TimeoutError:
            raise busy(math.ceil(self._timeout_s)) from None
        work = asyncio.wrap_future(self._pool.submit(function, *args, **options))
        work.add_done_callback(self._finished)
        done, _ = await asyncio.wait([work], timeout=self._timeout_s)
        if not done:
            self._overdue.add(work)
            raise Refusal(
                422, f"{name}: takes longer than {self._timeout_s:g} s to decode; scale it down."
            )
        return work.result()

    def _finished(self, work: asyncio.Future[Any]) -> None:
        self._places.release()
        self._overdue.discard(work)
        if not work.cancelled():
            work.exception()  # retrieved, so that nobody is warned when the request has gone

    def stop(self) -> None:
        """Start no further work."""
        self._pool.shutdown(wait=False, cancel_futures=True)
