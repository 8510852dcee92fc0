"""The embedder, the gallery and their threads, as one thing the routes can await."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, BinaryIO, TypeVar

import numpy as np

from passreid.backends import F32
from passreid.embed import Embedder
from passreid.embed.boxes import BoxFormat
from passreid.errors import CalibrationError
from passreid.gallery.base import Where
from passreid.gallery.engine import Gallery
from passreid.gallery.identity import identity
from passreid.openset import Calibration
from passreid.server.audit import Audit
from passreid.server.batching import Batcher
from passreid.server.guard import Room
from passreid.server.metrics import Metrics
from passreid.server.pictures import Box, Crop, Readers, read_crops
from passreid.server.problems import Refusal
from passreid.server.settings import Settings
from passreid.times import EARLIEST, LATEST
from passreid.verify import usable_calibration

log = logging.getLogger("passreid.server")

_DAY_S = 86400.0
_DECODERS = 2
_GALLERY_THREADS = 4
_COUNTING_S = 2.0  # a scraper gives up after ten
_READY_S = 5.0

T = TypeVar("T")


class Engine:
    """What one running service works with.

    Args:
        embedder, gallery: Loaded and open; the gallery is closed with the engine.
        settings: Bounds, retention, audit.

    Attributes:
        identity: Of the model.
        stopping: The process was told to stop; long answers end early.
    """

    def __init__(self, embedder: Embedder, gallery: Gallery, settings: Settings) -> None:
        self.embedder = embedder
        self.identity = identity(embedder)  # reads the weights: once, not for each request
        self.gallery = gallery
        self.settings = settings
        self.stopping = False
        self._compact_from = 0.0  # by the monotonic clock
        self.metrics = Metrics()
        self.audit = Audit(settings.audit)
        self.batcher = Batcher(
            embedder, max_pending=settings.max_pending, on_batch=self.metrics.observe_batch
        )
        self.room = Room(settings.max_waiting, lambda: self.batcher.wait_s)
        self._readers = Readers(_DECODERS, timeout_s=settings.decode_timeout_s)
        self._looks = ThreadPoolExecutor(1, thread_name_prefix="passreid-attention")
        self._shelf = ThreadPoolExecutor(_GALLERY_THREADS, thread_name_prefix="passreid-gallery")
        self._upkeep: asyncio.Task[None] | None = None
        self._counting: asyncio.Future[int] | None = None
        self._entries = math.nan
        watch = self.metrics.watch
        watch("gallery_up", "1 while the gallery answers.", lambda: not math.isnan(self._entries))
        watch("gallery_entries", "Entries; NaN while it does not.", lambda: self._entries)
        watch("crops_waiting", "Crops that wait for the network.", lambda: self.batcher.pending)
        watch("requests_under_way", "Requests with a body.", lambda: self.room.taken)
        watch("requests_refused", "Requests answered 429 at the door.", lambda: self.room.refused)

    @property
    def calibration(self) -> Calibration | None:
        """What cosines mean; None when unknown, or known for other embeddings than these."""
        with suppress(CalibrationError):
            return usable_calibration(self.embedder)
        return None

    @property
    def search_calibration(self) -> Calibration | None:
        """What scores of searches mean, which a centred gallery moves."""
        with suppress(CalibrationError):
            return usable_calibration(self.embedder, centred=self.gallery.centred)
        return None

    def start(self) -> None:
        """Begin to work; needs a running event loop."""
        self.batcher.start()
        self._upkeep = asyncio.get_running_loop().create_task(self._keep_up())

    async def stop(self) -> None:
        """Finish what runs, refuse what waits, close the gallery."""
        self.stopping = True
        if self._upkeep is not None:
            self._upkeep.cancel()
            with suppress(asyncio.CancelledError):
                await self._upkeep
        await self.batcher.stop()
        self._readers.stop()
        self._looks.shutdown(cancel_futures=True)
        await self.ask(self.gallery.close)
        self._shelf.shutdown()
        self.audit.close()

    async def ask(self, function: Callable[..., T], /, *args: Any, **options: Any) -> T:
        """Call something of the gallery in a thread."""
        return await asyncio.wrap_future(self._shelf.submit(function, *args, **options))

    async def check_ready(self) -> None:
        """Check that a request with a picture could be answered now.

        Raises:
            Refusal: 503, the service is stopping, or no picture can be decoded.
            GalleryError: The gallery does not answer.
        """
        if self.stopping:
            raise Refusal(503, "The service is stopping.")
        if self._readers.stuck:
            raise Refusal(503, "Every decoder is busy with a picture that takes too long.")
        counting = self._counted()
        await asyncio.wait([counting], timeout=_READY_S)
        if not counting.done():
            raise Refusal(503, f"The gallery did not answer within {_READY_S:g} s.")
        counting.result()

    async def measure(self) -> bytes:
        """Return the metrics, also while the gallery does not answer: they are wanted then."""
        counting = self._counted()
        await asyncio.wait([counting], timeout=_COUNTING_S)
        answered = counting.done() and counting.exception() is None
        self._entries = counting.result() if answered else math.nan
        return self.metrics.render()

    def _counted(self) -> asyncio.Future[int]:
        # One question at a time: however often it is asked, a dead gallery holds one thread.
        if self._counting is None or self._counting.done():
            self._counting = asyncio.wrap_future(self._shelf.submit(self.gallery.count))
        return self._counting

    async def read(
        self,
        file: BinaryIO,
        name: str,
        *,
        boxes: Sequence[Box] = (),
        box_format: BoxFormat = "xyxy",
        thumbnail: bool = False,
    ) -> list[Crop]:
        """Decode an upload in a thread and cut the people out of it, as `read_crops` does."""
        return await self._readers.run(
            read_crops,
            name,
            file,
            name,
            card=self.embedder.card,
            limits=self.settings.limits,
            boxes=boxes,
            box_format=box_format,
            thumbnail=thumbnail,
        )

    async def embed(self, crops: Sequence[Crop], *, patient: bool = False) -> F32:
        """Embed crops together with those of other requests: (N, D)."""
        return await self.batcher.embed([crop.pixels for crop in crops], patient=patient)

    async def attend(self, crop: Crop) -> F32:
        """Return where CLS and parts look in a crop, (1 + P, rows, columns)."""
        looks = self._looks.submit(self.embedder.attend, crop.pixels, channel_order="rgb")
        maps = await asyncio.wrap_future(looks)
        return np.asarray(maps[0])

    async def forget(self, where: Where, *, everything: bool = False) -> int:
        """Remove entries; where bytes of them are left, a later `compact` removes those."""
        forgotten = await self.ask(self.gallery.remove, where, everything=everything)
        if forgotten:
            self.metrics.events.labels("forgotten").inc(forgotten)
        return forgotten

    async def retain(self, days: float) -> int:
        """Forget what is older than `days`, once, and compact within a tenth of them."""
        until = max(time.time() - days * _DAY_S, EARLIEST)
        forgotten = await self.forget(Where(until=until))
        if forgotten:
            log.info("Retention: forgot %d entries older than %g days.", forgotten, days)
            self.audit.write("retention", client="", request="", forgotten=forgotten, until=until)
        await self.compact(days / 10)
        return forgotten

    async def compact(self, every: float = 1.0) -> None:
        """Compact where bytes of what was forgotten may be left.

        On a server that rewrites segments, so it waits for a day, or for `every` days where that is
        less.
        """
        if self.gallery.to_compact() and time.monotonic() >= self._compact_from:
            await self.ask(self.gallery.compact)
            self._compact_from = time.monotonic() + min(every, 1.0) * _DAY_S

    async def _say_what_stays(self) -> None:
        """Warn of entries that no retention reaches: those without a time."""
        timed = Where(since=EARLIEST, until=LATEST)
        try:
            untimed = await self.ask(self.gallery.count) - await self.ask(self.gallery.count, timed)
            if untimed:
                log.warning("Retention: %d entries have no time and are kept.", untimed)
        except Exception as error:  # noqa: BLE001
            log.error("Retention: %s", error)

    async def _keep_up(self) -> None:
        days = self.settings.retention_days
        if days is not None:
            await self._say_what_stays()
        while True:
            try:
                await (self.compact() if days is None else self.retain(days))
            except Exception as error:  # noqa: BLE001 - the engine's too: the next hour must come
                log.error("Upkeep: %s", error)
            await asyncio.sleep(3600.0 if days is None else min(3600.0, days * _DAY_S / 10))
