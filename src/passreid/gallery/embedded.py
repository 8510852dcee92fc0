"""A gallery in a folder: the Qdrant engine inside this process (Qdrant Edge).

    people.gallery/
      gallery.json     format, model, width
      lock             held by the one process that has the gallery open
      shard/           vectors (float16), what is known of them, write-ahead log, index
      thumbnails/      one JPEG for each entry that has one

Vectors are stored at unit length and compared by their dot product, so nothing is rounded twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

import numpy as np
import qdrant_edge as edge
from numpy.typing import ArrayLike

from passreid.errors import GalleryError, OutputError, PassreidError, UsageError
from passreid.gallery.base import (
    CHANGEABLE,
    Added,
    Entry,
    GroupBy,
    Hit,
    Info,
    Page,
    Pooling,
    Where,
    pooled,
    unit_vector,
)
from passreid.storage import write

try:
    import fcntl
except ImportError:  # Windows: the engine's own files are all that guards them there
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
CARD, LOCK, SHARD, THUMBNAILS = "gallery.json", "lock", "shard", "thumbnails"
_BATCH = 512
_KEYWORDS = ("camera", "person", "tracklet", "source")


class EmbeddedGallery:
    """One folder, one process; `open_gallery` makes it.

    Args:
        folder: Of a gallery that exists, see `create`.
        read_only: Refuse every change.

    Raises:
        GalleryError: No gallery, one of another format, or in use by another process.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.folder, self.read_only = folder, read_only
        card = read_card(folder)
        self.model, self.dim = str(card["model"]), int(card["dim"])
        self._guard = threading.RLock()
        self._lock = _locked(folder)
        try:
            _settle(folder)
            with _told(GalleryError, f"{folder}: the gallery cannot be opened"):
                self._shard = edge.EdgeShard.load(str(folder / SHARD))
        except PassreidError:
            self._lock.close()
            raise

    @staticmethod
    def create(folder: Path, *, model: str, dim: int) -> None:
        """Make an empty gallery.

        Raises:
            OutputError: It cannot be written.
        """
        with _told(OutputError, f"{folder}: no gallery can be made here"):
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / SHARD).exists():
                _new_shard(folder / SHARD, dim).close()
        # Last: a folder with a card is a whole gallery.
        write(folder / CARD, json.dumps({"format": FORMAT, "model": model, "dim": dim}).encode())

    def info(self) -> Info:
        """Describe the gallery."""
        with self._guard:
            told = self._shard.info()
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return Info(
            name=str(self.folder),
            engine="edge",
            model=self.model,
            dim=self.dim,
            count=self.count(),
            indexed=told.indexed_vectors_count,
            bytes_on_disk=sum(path.stat().st_blocks * 512 for path in files),
        )

    def add(self, entries: Iterable[Entry]) -> Added:
        """Enrol, in batches that are on disk before the next begins."""
        self._writable()
        added = known = 0
        remaining = iter(entries)
        while batch := list(islice(remaining, _BATCH)):
            fresh = {entry.id: entry for entry in batch}
            points = {
                id: unit_vector(entry.embedding, self.dim, f"entry {id}")
                for id, entry in fresh.items()
            }
            with self._guard:
                for record in self._shard.retrieve(list(fresh), False, False):
                    del fresh[str(record.id)]
                for entry in fresh.values():
                    if entry.thumbnail is not None:
                        write(self._thumbnail(entry.id), entry.thumbnail)
                self._change(
                    edge.UpdateOperation.upsert_points(
                        [
                            edge.Point(id, points[id].tolist(), _payload(entry))
                            for id, entry in fresh.items()
                        ]
                    )
                )
            added, known = added + len(fresh), known + len(batch) - len(fresh)
        return Added(added, known)

    def search(
        self,
        embedding: ArrayLike,
        *,
        top_k: int = 10,
        where: Where | None = None,
        min_score: float | None = None,
        group_by: GroupBy | None = None,
        pooling: Pooling = "mean",
        exact: bool = False,
    ) -> list[Hit]:
        """Find the most alike entries, best first."""
        if top_k < 1:
            raise UsageError(f"top_k is {top_k}; ask for at least one hit.")
        queries = pooled(embedding, self.dim, pooling)
        limit = top_k
        while True:
            best: dict[str, Any] = {}
            found = 0
            for query in queries:
                points = self._query(query.tolist(), limit, where, min_score, exact)
                found = max(found, len(points))
                for point in points:
                    before = best.get(str(point.id))
                    if before is None or point.score > before.score:
                        best[str(point.id)] = point
            order = sorted(best.values(), key=lambda point: (-point.score, str(point.id)))
            hits = [_hit(point, group_by) for point in order]
            if group_by is not None:
                firsts: dict[tuple[str, str], Hit] = {}
                for hit in hits:
                    firsts.setdefault(_group(hit), hit)
                hits = list(firsts.values())
            # Fewer groups than asked for: look further down, unless that was all there is.
            if group_by is None or len(hits) >= top_k or found < limit:
                return hits[:top_k]
            limit *= 4

    def _query(
        self,
        vector: list[float],
        limit: int,
        where: Where | None,
        min_score: float | None,
        exact: bool,
    ) -> list[Any]:
        request = edge.QueryRequest(
            limit=limit,
            query=edge.Query.Nearest(vector),
            with_payload=True,
            with_vector=False,
            filter=_filter(where),
            score_threshold=min_score,
            params=edge.SearchParams(exact=exact),
        )
        with self._guard:
            return list(self._shard.query(request))

    def get(self, ids: Sequence[str]) -> list[Entry]:
        """Return the entries among `ids` that exist, in their order, whole."""
        with self._guard:
            records = {str(r.id): r for r in self._shard.retrieve(list(ids), True, True)}
            return [self._whole(records[id]) for id in dict.fromkeys(ids) if id in records]

    def page(
        self, where: Where | None = None, *, limit: int = 100, after: str | None = None
    ) -> Page:
        """List entries without embeddings and thumbnails."""
        if limit < 1:
            raise UsageError(f"limit is {limit}; a page has at least one entry.")
        request = edge.ScrollRequest(
            offset=after, limit=limit, filter=_filter(where), with_payload=True, with_vector=False
        )
        with self._guard:
            records, following = self._shard.scroll(request)
        return Page([_entry(r) for r in records], None if following is None else str(following))

    def count(self, where: Where | None = None) -> int:
        """Count entries."""
        with self._guard:
            return int(self._shard.count(edge.CountRequest(exact=True, filter=_filter(where))))

    def update(self, ids: Sequence[str], **values: Any) -> int:
        """Set camera, time, person, tracklet or payload of entries."""
        self._writable()
        unknown = sorted(values.keys() - set(CHANGEABLE))
        if unknown:
            raise UsageError(f"{', '.join(unknown)} cannot be changed; {CHANGEABLE} can.")
        with self._guard:
            there = [str(record.id) for record in self._shard.retrieve(list(ids), False, False)]
            if there and values:
                self._change(edge.UpdateOperation.set_payload([*there], values))
        return len(there)

    def remove(self, where: Where) -> int:
        """Forget entries and their thumbnails."""
        self._writable()
        removed = 0
        with self._guard:
            while records := self._shard.scroll(
                edge.ScrollRequest(
                    limit=_BATCH, filter=_filter(where), with_payload=False, with_vector=False
                )
            )[0]:
                ids = [str(record.id) for record in records]
                # Pictures first: killed in between, the entry is still there to be removed again.
                for id in ids:
                    self._thumbnail(id).unlink(missing_ok=True)
                self._change(edge.UpdateOperation.delete_points([*ids]))
                removed += len(ids)
        return removed

    def compact(self) -> None:
        """Write what is left into a new shard, put it in place, build its index.

        A kill at any moment leaves either the old shard or the new one, whole.
        """
        self._writable()
        shard, fresh, old = (self.folder / name for name in (SHARD, f"{SHARD}.new", f"{SHARD}.old"))
        with self._guard:
            with _told(OutputError, f"{self.folder}: cannot be compacted"):
                copy = _new_shard(fresh, self.dim)
                for records in self._all():
                    points = [edge.Point(r.id, r.vector, r.payload) for r in records]
                    copy.update(edge.UpdateOperation.upsert_points(points))
                copy.flush()
                copy.optimize()
                copy.close()
            self._shard.close()
            shard.rename(old)
            fresh.rename(shard)
            shutil.rmtree(old)
            self._shard = edge.EdgeShard.load(str(shard))

    def close(self) -> None:
        """Write everything and let go."""
        with self._guard:
            if not self._lock.closed:
                self._shard.close()
                self._lock.close()

    def __enter__(self) -> EmbeddedGallery:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _all(self) -> Iterator[list[Any]]:
        after: Any = None
        while True:
            records, after = self._shard.scroll(
                edge.ScrollRequest(offset=after, limit=_BATCH, with_payload=True, with_vector=True)
            )
            if records:
                yield records
            if after is None:
                return

    def _writable(self) -> None:
        if self.read_only:
            raise GalleryError(f"{self.folder} was opened read-only; open it for writing.")

    def _change(self, operation: Any) -> None:
        """Apply a change and see it on disk."""
        with _told(OutputError, f"{self.folder}: cannot be written"):
            self._shard.update(operation)
            self._shard.flush()

    def _thumbnail(self, id: str) -> Path:
        return self.folder / THUMBNAILS / id[:2] / f"{id}.jpg"

    def _whole(self, record: Any) -> Entry:
        path = self._thumbnail(str(record.id))
        return _entry(
            record,
            embedding=np.asarray(record.vector, np.float32),
            thumbnail=path.read_bytes() if path.is_file() else None,
        )


@contextlib.contextmanager
def _told(kind: type[PassreidError], what: str) -> Iterator[None]:
    """Say in our words what the engine, which raises nothing finer than Exception, ran into."""
    try:
        yield
    except PassreidError:
        raise
    except Exception as error:  # noqa: BLE001
        raise kind(f"{what} ({error}).") from None


def read_card(folder: Path) -> dict[str, Any]:
    """Read `gallery.json`.

    Raises:
        GalleryError: There is none, or of another format.
    """
    path = folder / CARD
    try:
        card: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise GalleryError(
            f"{folder}: there is no gallery here; add pictures to make one."
        ) from None
    except (OSError, ValueError) as error:
        raise GalleryError(f"{path}: cannot be read ({error}).") from None
    if card.get("format") != FORMAT:
        raise GalleryError(f"{folder}: format {card.get('format')}, this passreid reads {FORMAT}.")
    return card


def _new_shard(path: Path, dim: int) -> Any:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    vectors = edge.EdgeVectorParams(
        size=dim, distance=edge.Distance.Dot, datatype=edge.VectorStorageDatatype.Float16
    )
    shard = edge.EdgeShard.create(str(path), edge.EdgeConfig(vectors=vectors))
    for name in _KEYWORDS:
        shard.update(edge.UpdateOperation.create_field_index(name, edge.PayloadSchemaType.Keyword))
    shard.update(edge.UpdateOperation.create_field_index("time", edge.PayloadSchemaType.Float))
    return shard


def _settle(folder: Path) -> None:
    """Finish or undo a compaction that was killed."""
    shard, fresh, old = (folder / name for name in (SHARD, f"{SHARD}.new", f"{SHARD}.old"))
    if not shard.exists():
        (fresh if fresh.exists() else old).rename(shard)
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)


def _locked(folder: Path) -> IO[str]:
    """Take the gallery for this process; the system gives it back when the process ends."""
    try:
        lock = (folder / LOCK).open("a+")
    except OSError as error:
        raise GalleryError(f"{folder}: cannot be opened ({error.strerror}).") from None
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise GalleryError(
            f"{folder}: another process has this gallery open; let it finish, or share the gallery "
            "with `passreid serve`."
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _payload(entry: Entry) -> dict[str, Any]:
    names = ("content_hash", "source", "camera", "time", "person", "tracklet")
    known = {name: getattr(entry, name) for name in names}
    return {k: v for k, v in known.items() if v is not None} | {"payload": dict(entry.payload)}


def _entry(point: Any, **more: Any) -> Entry:
    return Entry(id=str(point.id), **(dict(point.payload or {}) | more))


def _hit(point: Any, group_by: Literal["person", "tracklet"] | None) -> Hit:
    entry = _entry(point)
    score = min(max(float(point.score), -1.0), 1.0)
    return Hit(entry, score, getattr(entry, group_by) if group_by else None)


def _group(hit: Hit) -> tuple[str, str]:
    """Return what a hit is grouped by; one without a label stands for itself."""
    return ("id", hit.entry.id) if hit.group is None else ("group", hit.group)


def _filter(where: Where | None) -> Any:
    if where is None or where == Where():
        return None
    must: list[Any] = []
    if where.ids:
        must.append(edge.HasIdCondition(set(where.ids)))
    labels = {"camera": where.cameras, "person": where.people, "tracklet": where.tracklets}
    for name, values in {**labels, "source": where.sources}.items():
        if values:
            must.append(edge.FieldCondition(name, match=edge.MatchAny(list(values))))
    if where.since is not None or where.until is not None:
        span = edge.RangeFloat(gte=where.since, lt=where.until)
        must.append(edge.FieldCondition("time", range=span))
    barred: list[Any] = []
    if where.not_cameras:
        barred.append(edge.FieldCondition("camera", match=edge.MatchAny(list(where.not_cameras))))
    return edge.Filter(must=must or None, must_not=barred or None)
