"""The shard in use, and the one made anew beside it: for an index, or to forget.

1. The shard is copied: its files, or what it holds, which leaves removed entries behind.
2. The copy's index is built, by another process where it takes long.
3. What changed meanwhile is brought to the copy, which then takes the shard's place.

Searches and changes go on all the while, but for the moment of the exchange, and changes but for
the copying of files. A kill at any moment leaves a whole shard with everything in it; copies left
over are removed when the gallery is opened next.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from passreid.errors import GalleryError, OutputError, PassreidError
from passreid.gallery.folder import (
    LITTLE,
    MUCH,
    OLD,
    SHARD,
    bytes_on_disk,
    need_room,
    new_shard,
    settle,
    told,
)
from passreid.gallery.indexing import build_here, finish_build, fits_here, pays, start_build

_BATCH = 512
_BROUGHT = 8 * _BATCH
"""Changes brought to a copy at once: more than come meanwhile, or it would never catch up."""
_CHUNK = 2**20
log = logging.getLogger("passreid.gallery")


class _StoppedError(PassreidError):
    """A copy nobody waits for is not needed any more."""


class LiveShard:
    """The engine's shard of a gallery, for several threads.

    Args:
        folder: The gallery's.
        dim, int8: How its vectors are kept.

    Raises:
        GalleryError: The shard is gone or damaged.
        OutputError: The disk is nearly full.
    """

    def __init__(self, folder: Path, *, dim: int, int8: bool) -> None:
        self.folder, self._dim, self._int8 = folder, dim, int8
        settle(folder)
        need_room(folder, LITTLE)
        self._shard = self._load()
        # Always taken in this order.
        self._renewing = threading.Lock()  # one copy at a time
        self._changes = threading.RLock()  # what is there stays as it is
        self._guard = threading.RLock()  # the shard is not exchanged
        self._changed: set[str] | None = None  # since a copy was begun
        self._background: threading.Thread | None = None
        self._stopping = threading.Event()
        self._closing = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._tried = 0  # entries there were when an index was begun

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """Give the engine's shard, to read."""
        with self._guard:
            yield self._shard

    @contextmanager
    def changing(self) -> Iterator[Any]:
        """Give the engine's shard, to read while nobody else changes it."""
        with self._changes:
            yield self._shard

    def change(self, operation: Any, ids: Iterable[str]) -> None:
        """Apply a change of some entries and see it on disk.

        Raises:
            OutputError: It cannot be written.
        """
        need_room(self.folder, LITTLE)
        with self._changes, told(OutputError, f"{self.folder}: cannot be written"):
            if self._changed is not None:
                self._changed.update(ids)
            self._shard.update(operation)
            self._shard.flush()

    def rewrite(self) -> None:
        """Put a shard in place that never held what was removed, with its index.

        Raises:
            OutputError: It cannot be written; the shard is as it was.
            GalleryError: It is being closed; the shard is as it was.
        """
        self._take_over()
        try:
            _go_on(self._closing)
            with told(OutputError, f"{self.folder}: cannot be compacted"):
                self._renew(self._written, self._closing)
        except _StoppedError:
            raise GalleryError(f"{self.folder}: was closed before it was compacted.") from None
        finally:
            self._renewing.release()

    def index_if_it_pays(self) -> None:
        """Begin to build an index in the background where that pays and none is being built."""
        told_now = self._shard.info()
        count = told_now.points_count
        self._tried = min(self._tried, count)  # entries that went are not tried any more
        indexed = max(told_now.indexed_vectors_count, self._tried)
        if not pays(count, indexed, self._dim) or not self._renewing.acquire(blocking=False):
            return
        self._tried = count
        self._stopping.clear()
        self._background = threading.Thread(target=self._index, name="gallery index", daemon=True)
        self._background.start()

    def close(self) -> None:
        """Give up a copy that is being made, write everything and let go."""
        self._closing.set()
        self._stopping.set()
        if (child := self._child) is not None:
            child.kill()
        self._take_over()
        with self._changes, self._guard:
            self._shard.close()
        self._renewing.release()  # who waits for it hears that it is too late

    def _index(self) -> None:
        try:
            with told(OutputError, f"{self.folder}: cannot be indexed"):
                self._renew(self._copied, self._stopping)
        except _StoppedError:
            pass
        except PassreidError as error:  # searches are slower, and nothing is lost
            log.warning("%s", error)
        finally:
            self._renewing.release()

    def _take_over(self) -> None:
        """Hold `_renewing`; an index that is being built in the background is given up for it."""
        while not self._renewing.acquire(timeout=0.1):
            thread = self._background
            if thread is not None:
                self._stopping.set()
                if (child := self._child) is not None:
                    child.kill()
                thread.join()
                self._background = None

    def _renew(self, copied: Any, stopping: threading.Event) -> None:
        copy = self.folder / f"{SHARD}.{uuid.uuid4().hex}"
        # The copy, and beside it the copy with its index.
        need_room(self.folder, 2 * bytes_on_disk(self.folder / SHARD) + MUCH)
        try:
            count = copied(copy)
            _go_on(stopping)
            if fits_here(count, self._dim):
                build_here(copy)
            else:
                self._build(copy, stopping)
            self._exchange(copy, stopping)
        finally:
            with self._changes:  # or it would be gone while a change is being noted in it
                self._changed = None
            shutil.rmtree(copy, ignore_errors=True)

    def _build(self, copy: Path, stopping: threading.Event) -> None:
        self._child = start_build(copy)
        try:
            if stopping.is_set():  # it was, before there was a child
                self._child.kill()
            finish_build(self._child)
        except OutputError:
            _go_on(stopping)
            raise
        finally:
            self._child = None

    def _copied(self, copy: Path) -> int:
        """Copy the shard's files, as they are between two changes."""
        with self._changes:
            self._changed = set()
            self._shard.flush()
            shutil.copytree(self.folder / SHARD, copy, copy_function=copy_sparse)
            return int(self._shard.info().points_count)

    def _written(self, copy: Path) -> int:
        """Write what the shard holds into a new one."""
        with self._changes:
            self._changed = set()
        fresh = new_shard(copy, self._dim, int8=self._int8)
        after: Any = None
        while True:
            request = edge.ScrollRequest(
                offset=after, limit=_BATCH, with_payload=True, with_vector=True
            )
            with self._guard:
                records, after = self._shard.scroll(request)
            if records:
                fresh.update(_upsert(records))
            if after is None:
                break
            if self._closing.is_set():
                fresh.close()
                raise _StoppedError
        fresh.flush()
        count = int(fresh.info().points_count)
        fresh.close()
        return count

    def _exchange(self, copy: Path, stopping: threading.Event) -> None:
        """Bring to the copy what changed since, some at a time; then let it be the shard."""
        fresh = edge.EdgeShard.load(str(copy))
        try:
            while True:
                _go_on(stopping)
                with self._changes:
                    self._bring(fresh)
                    if not self._changed:
                        fresh.flush()
                        fresh.close()
                        self._put(copy)
                        return
        except PassreidError:
            fresh.close()
            raise

    def _bring(self, fresh: Any) -> None:
        assert self._changed is not None
        ids = [self._changed.pop() for _ in range(min(_BROUGHT, len(self._changed)))]
        if not ids:
            return
        records = self._shard.retrieve([*ids], True, True)
        gone = set(ids) - {str(record.id) for record in records}
        if records:
            fresh.update(_upsert(records))
        if gone:
            fresh.update(edge.UpdateOperation.delete_points([*gone]))

    def _put(self, copy: Path) -> None:
        shard = self.folder / SHARD
        with self._guard:
            self._shard.close()
            try:
                shard.rename(self.folder / OLD)
                copy.rename(shard)
            finally:
                settle(self.folder)
                self._shard = self._load()

    def _load(self) -> Any:
        with told(GalleryError, f"{self.folder}: the gallery cannot be opened"):
            return edge.EdgeShard.load(str(self.folder / SHARD))


def copy_sparse(source: str, target: str) -> None:
    """Copy a file, but not its holes: the engine's files are mostly pages it has yet to fill."""
    with Path(source).open("rb", buffering=0) as old, Path(target).open("wb") as new:
        end = os.fstat(old.fileno()).st_size
        new.truncate(end)
        for start, stop in _stretches(old.fileno(), end):
            os.lseek(old.fileno(), start, os.SEEK_SET)
            new.seek(start)
            while start < stop and (chunk := old.read(min(_CHUNK, stop - start))):
                new.write(chunk)
                start += len(chunk)


def _stretches(file: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield where a file's data begin and end, between its holes."""
    if not hasattr(os, "SEEK_DATA"):
        yield 0, end
        return
    at = 0
    while at < end:
        try:
            at = os.lseek(file, at, os.SEEK_DATA)
        except OSError:  # there is only a hole left
            return
        hole = os.lseek(file, at, os.SEEK_HOLE)
        yield at, hole
        at = hole


def _upsert(records: list[Any]) -> Any:
    return edge.UpdateOperation.upsert_points(
        [edge.Point(record.id, record.vector, record.payload) for record in records]
    )


def _go_on(stopping: threading.Event) -> None:
    if stopping.is_set():
        raise _StoppedError
