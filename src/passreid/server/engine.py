"""The embedder, the gallery and their threads, behind methods that routes can await."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
from fastapi import HTTPException, Request, UploadFile

from passreid.backends import F32
from passreid.embed import BoxFormat, Embedder
from passreid.errors import CalibrationError
from passreid.gallery.base import Entry, Where
from passreid.gallery.engine import Gallery
from passreid.gallery.identity import identity
from passreid.images import describe
from passreid.openset import Calibration
from passreid.server.audit import AuditLog
from passreid.server.batching import Batcher
from passreid.server.guard import BodyLimiter
from passreid.server.images import Box, Crop, Decoders, read_crops
from passreid.server.metrics import Metrics
from passreid.server.settings import Settings
from passreid.times import EARLIEST, LATEST
from passreid.verify import usable_calibration

log = logging.getLogger("passreid.server")

_DAY_S = 86400.0
_DECODERS = 2
_GALLERY_THREADS = 4
_COUNT_TIMEOUT_S = 2.0  # Prometheus gives up after ten
_READY_TIMEOUT_S = 5.0

T = TypeVar("T")


class Engine:
    """The state of one running service; closing it closes the gallery.

    Attributes:
        identity: Identity of the model.
        stopping: Set when the process is told to stop; long answers then end early.
    """

    def __init__(self, embedder: Embedder, gallery: Gallery, settings: Settings) -> None:
        self.embedder = embedder
        self.identity = identity(embedder)  # reads the weights: once, not per request
        self.gallery = gallery
        self.settings = settings
        self.stopping = False
        self._next_compaction = 0.0  # by the monotonic clock
        self.metrics = Metrics()
        self.audit_log = AuditLog(settings.audit)
        self.batcher = Batcher(
            embedder, max_pending=settings.max_pending, on_batch=self.metrics.observe_batch
        )
        self.bodies = BodyLimiter(settings.max_waiting, lambda: self.batcher.wait_s)
        self._decoders = Decoders(_DECODERS, timeout_s=settings.decode_timeout_s)
        self._attention = ThreadPoolExecutor(1, thread_name_prefix="passreid-attention")
        self._threads = ThreadPoolExecutor(_GALLERY_THREADS, thread_name_prefix="passreid-gallery")
        self._maintenance: asyncio.Task[None] | None = None
        self._counting: asyncio.Future[int] | None = None
        self._entries = math.nan
        watch = self.metrics.watch
        watch("gallery_up", "1 while the gallery answers.", lambda: not math.isnan(self._entries))
        watch("gallery_entries", "Entries; NaN while it does not.", lambda: self._entries)
        watch("crops_waiting", "Crops waiting for the network.", lambda: self.batcher.pending)
        watch("requests_under_way", "Requests with a body.", lambda: self.bodies.taken)
        watch("requests_refused", "Requests refused with 429.", lambda: self.bodies.refused)

    @property
    def calibration(self) -> Calibration | None:
        """The model's calibration, if it fits these embeddings."""
        with suppress(CalibrationError):
            return usable_calibration(self.embedder)
        return None

    @property
    def search_calibration(self) -> Calibration | None:
        """The calibration that fits the scores of this gallery, which may be centred."""
        with suppress(CalibrationError):
            return usable_calibration(self.embedder, centred=self.gallery.centred)
        return None

    def start(self) -> None:
        """Start the tasks on the running event loop."""
        self.batcher.start()
        self._maintenance = asyncio.create_task(self._maintain())

    async def stop(self) -> None:
        """Finish what runs, refuse what waits, close the gallery."""
        self.stopping = True
        if self._maintenance is not None:
            self._maintenance.cancel()
            await asyncio.gather(self._maintenance, return_exceptions=True)
        await self.batcher.stop()
        self._decoders.stop()
        self._attention.shutdown(cancel_futures=True)
        await self.call(self.gallery.close)
        self._threads.shutdown()
        self.audit_log.close()

    async def call(self, function: Callable[..., T], /, *args: Any, **options: Any) -> T:
        """Call a method of the gallery in a thread."""
        return await asyncio.wrap_future(self._threads.submit(function, *args, **options))

    async def find(self, entry: UUID) -> Entry:
        """Return an entry with embedding and thumbnail, or raise 404."""
        found = await self.call(self.gallery.get, [str(entry)])
        if not found:
            raise HTTPException(404, f"There is no entry {entry}; it may have been deleted.")
        return found[0]

    def audit(self, request: Request, action: str, **facts: Any) -> None:
        """Write who asked for what to the audit log."""
        client = request.client.host if request.client else ""
        self.audit_log.write(action, client=client, request=request.state.request_id, **facts)

    async def check_ready(self) -> None:
        """Raise 503 (or GalleryError) unless a request with an image could be answered now."""
        if self.stopping:
            raise HTTPException(503, "The service is stopping.")
        if self._decoders.stuck:
            raise HTTPException(503, "Every decoder is busy with an image that takes too long.")
        counting = self._count()
        await asyncio.wait([counting], timeout=_READY_TIMEOUT_S)
        if not counting.done():
            raise HTTPException(503, f"The gallery did not answer within {_READY_TIMEOUT_S:g} s.")
        counting.result()

    async def render_metrics(self) -> bytes:
        """Return the metrics, even while the gallery does not answer: they matter most then."""
        counting = self._count()
        await asyncio.wait([counting], timeout=_COUNT_TIMEOUT_S)
        answered = counting.done() and counting.exception() is None
        self._entries = counting.result() if answered else math.nan
        return self.metrics.render()

    def _count(self) -> asyncio.Future[int]:
        # One call at a time, so that a gallery that hangs holds one thread, not all.
        if self._counting is None or self._counting.done():
            self._counting = asyncio.wrap_future(self._threads.submit(self.gallery.count))
        return self._counting

    def check_files(self, files: int) -> None:
        """Raise 413 for more images than one request may hold."""
        most = self.settings.max_files
        if files > most:
            raise HTTPException(413, f"At most {most} images per request; send several requests.")

    async def read(
        self,
        upload: UploadFile,
        index: int = 0,
        *,
        boxes: Sequence[Box] = (),
        box_format: BoxFormat = "xyxy",
        thumbnail: bool = False,
    ) -> list[Crop]:
        """Decode an upload in a thread and cut its boxes out, as `read_crops` does."""
        name = upload_name(upload, index)
        return await self._decoders.run(
            read_crops,
            name,
            upload.file,
            name,
            card=self.embedder.card,
            limits=self.settings.limits,
            boxes=boxes,
            box_format=box_format,
            thumbnail=thumbnail,
        )

    async def embed(self, crops: Sequence[Crop], *, wait: bool = False) -> F32:
        """Embed crops together with those of other requests: (N, D)."""
        return await self.batcher.embed([crop.pixels for crop in crops], wait=wait)

    async def attend(self, crop: Crop) -> F32:
        """Return the attention maps of CLS and the parts, (1 + P, rows, columns)."""
        work = self._attention.submit(self.embedder.attend, crop.pixels, channel_order="rgb")
        return np.asarray((await asyncio.wrap_future(work))[0])

    async def forget(self, where: Where, *, everything: bool = False) -> int:
        """Delete entries; a later `compact` removes the bytes that an engine leaves behind."""
        forgotten = await self.call(self.gallery.remove, where, everything=everything)
        if forgotten:
            self.metrics.events.labels("forgotten").inc(forgotten)
        return forgotten

    async def enforce_retention(self, days: float) -> int:
        """Delete entries older than `days`, and compact within a tenth of that time."""
        until = max(time.time() - days * _DAY_S, EARLIEST)
        forgotten = await self.forget(Where(until=until))
        if forgotten:
            log.info("Retention: deleted %d entries older than %g days.", forgotten, days)
            facts = {"forgotten": forgotten, "until": until}
            self.audit_log.write("retention", client="", request="", **facts)
        await self.compact(days / 10)
        return forgotten

    async def compact(self, every_days: float = 1.0) -> None:
        """Compact if bytes of deleted entries may be left, at most once a day (it is costly)."""
        if self.gallery.to_compact() and time.monotonic() >= self._next_compaction:
            await self.call(self.gallery.compact)
            self._next_compaction = time.monotonic() + min(every_days, 1.0) * _DAY_S

    async def _warn_of_untimed(self) -> None:
        """Warn of entries without a time, which retention never deletes."""
        timed = Where(since=EARLIEST, until=LATEST)
        untimed = await self.call(self.gallery.count) - await self.call(self.gallery.count, timed)
        if untimed:
            log.warning("Retention: %d entries have no time and are kept.", untimed)

    async def _maintain(self) -> None:
        days, first = self.settings.retention_days, True
        while True:
            try:
                if first and days is not None:
                    first = False
                    await self._warn_of_untimed()
                await (self.compact() if days is None else self.enforce_retention(days))
            except Exception as error:  # noqa: BLE001 - the next round must come
                log.error("Maintenance: %s", error)
            await asyncio.sleep(3600.0 if days is None else min(3600.0, days * _DAY_S / 10))


def upload_name(upload: UploadFile, index: int) -> str:
    """Name an upload in one printable line."""
    return describe(upload.filename or f"picture {index}")
