"""A gallery in a folder: the Qdrant engine inside this process (Qdrant Edge).

    people.gallery/
      gallery.json     format, model, width
      lock             held by the one process that has the gallery open
      shard/           vectors (float16), what is known of them, write-ahead log, index
      thumbnails/      one JPEG for each entry that has one
      removed          there while bytes of removed entries or labels may be left

Vectors are stored at unit length and compared by their dot product, so nothing is rounded twice.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge

from passreid.errors import OutputError, PassreidError
from passreid.gallery.base import FORMAT, Entry, Info, Layout, Where
from passreid.gallery.engine import LOOKED_AT, Ask, Engine
from passreid.gallery.folder import (
    CARD,
    MUCH,
    REMOVED,
    SHARD,
    THUMBNAILS,
    bytes_on_disk,
    locked,
    need_room,
    new_shard,
    read_card,
    told,
)
from passreid.gallery.points import Words, check_ids, condition, entry_of, is_id, payload
from passreid.gallery.shard import LiveShard
from passreid.gallery.words import changeable
from passreid.similarity import F32
from passreid.storage import write

_BATCH = 512
_EXACT_UP_TO = 1_000_000
"""Entries a filter lets through that are compared one by one. The graph of the index was built for
all entries: of a million, a filtered search by ACORN missed a fifth to a half of the nearest, and
counting what passes and looking past what does not took longer than comparing half a million."""

_WORDS = Words(
    has_id=lambda ids: edge.HasIdCondition(set(ids)),
    any_of=lambda name, values: edge.FieldCondition(name, match=edge.MatchAny(values)),
    span=lambda name, since, until: edge.FieldCondition(
        name, range=edge.RangeFloat(gte=since, lt=until)
    ),
    whole=lambda must, barred: edge.Filter(must=must, must_not=barred),
)


class EmbeddedGallery(Engine):
    """One folder, one process; `open_gallery` makes it.

    Args:
        folder: Of a gallery that exists, see `create`.
        read_only: Refuse every change.

    Raises:
        GalleryError: No gallery, one of another format, or in use by another process.
    """

    batch = _BATCH

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.folder, self.name, self.read_only = folder, str(folder), read_only
        card = read_card(folder)
        self.model, self.dim = str(card["model"]), int(card["dim"])
        self.layout = Layout(int8=bool(card.get("int8", False)))
        self._removals = 0
        self._lock = locked(folder)
        try:
            self._live = LiveShard(folder, dim=self.dim, int8=self.layout.int8)
        except PassreidError:
            self._lock.close()
            raise

    @staticmethod
    def create(folder: Path, *, model: str, dim: int, layout: Layout | None = None) -> None:
        """Make an empty gallery.

        Raises:
            OutputError: It cannot be written.
        """
        int8 = layout is not None and layout.int8
        # Under another name until it is whole: one that a kill left half made opens never.
        fresh, made = folder / f"{SHARD}.{uuid.uuid4().hex}", not folder.exists()
        try:
            with told(OutputError, f"{folder}: no gallery can be made here"):
                folder.mkdir(parents=True, exist_ok=True)
                if not (folder / SHARD).exists():
                    need_room(folder, MUCH)
                    new_shard(fresh, dim, int8=int8).close()
                    fresh.rename(folder / SHARD)
        except OutputError:
            shutil.rmtree(fresh, ignore_errors=True)
            with suppress(OSError):  # what another process has begun in it stays
                if made:
                    folder.rmdir()
            raise
        # Last: a folder with a card is a whole gallery.
        card = {"format": FORMAT, "model": model, "dim": dim, "int8": int8}
        write(folder / CARD, json.dumps(card).encode())

    def info(self) -> Info:
        """Describe the gallery."""
        with self._live.reading() as shard:
            held = shard.info()
        return Info(
            name=self.name,
            engine="edge",
            model=self.model,
            dim=self.dim,
            count=self.count(),
            indexed=held.indexed_vectors_count,
            bytes_on_disk=bytes_on_disk(self.folder),
        )

    def _store(self, entries: dict[str, Entry], vectors: Mapping[str, F32]) -> int:
        with self._live.changing() as shard:
            for record in shard.retrieve(list(entries), False, False):
                del entries[str(record.id)]
            if not entries:
                return 0
            # What comes is written to the log and once more in its place, with room to grow.
            need_room(self.folder, MUCH + 4 * sum(map(self._bytes_of, entries.values())))
            for entry in entries.values():
                if entry.thumbnail is not None:
                    write(self._thumbnail(entry.id), entry.thumbnail)
            points = [
                edge.Point(id, vectors[id].tolist(), payload(entry))
                for id, entry in entries.items()
            ]
            self._live.change(edge.UpdateOperation.upsert_points(points), entries)
            self._live.index_if_it_pays()
        return len(entries)

    def _asking(self, where: Where | None, min_score: float | None, exact: bool | None) -> Ask:
        filtered = condition(where, _WORDS)
        if filtered is not None and exact is None:
            with self._live.reading() as shard:
                everything = shard.info().points_count
            # No more than everything passes: counting what does takes as long as the search.
            exact = everything <= _EXACT_UP_TO or self.count(where) <= _EXACT_UP_TO
        acorn = None
        if filtered is not None and not exact:
            acorn = edge.AcornSearchParams(enable=True, max_selectivity=1.0)
        params = edge.SearchParams(hnsw_ef=LOOKED_AT, exact=bool(exact), acorn=acorn)

        def ask(vector: list[float], limit: int) -> list[Any]:
            request = edge.QueryRequest(
                limit=limit,
                query=edge.Query.Nearest(vector),
                with_payload=True,
                with_vector=False,
                filter=filtered,
                score_threshold=min_score,
                params=params,
            )
            with self._live.reading() as shard:
                return list(shard.query(request))

        return ask

    def get(self, ids: Sequence[str]) -> list[Entry]:
        """Return the entries among `ids` that exist, in their order, whole."""
        check_ids(ids)
        with self._live.reading() as shard:
            records = {str(r.id): r for r in shard.retrieve(list(ids), True, True)}
            return [self._whole(records[id]) for id in dict.fromkeys(ids) if id in records]

    def _vectors(self, ids: list[str]) -> dict[str, F32]:
        with self._live.reading() as shard:
            records = shard.retrieve([*ids], False, True)
        return {str(r.id): np.asarray(r.vector, np.float32) for r in records}

    def _scroll(
        self, where: Where | None, limit: int, after: str | None, whole: bool
    ) -> tuple[list[Entry], Any]:
        with self._live.reading() as shard:
            request = edge.ScrollRequest(
                offset=after,
                limit=limit,
                filter=condition(where, _WORDS),
                with_payload=True,
                with_vector=whole,
            )
            records, following = shard.scroll(request)
            return [self._whole(r) if whole else entry_of(r) for r in records], following

    def count(self, where: Where | None = None) -> int:
        """Count entries."""
        request = edge.CountRequest(exact=True, filter=condition(where, _WORDS))
        with self._live.reading() as shard:
            return int(shard.count(request))

    def update(self, ids: Sequence[str], **values: Any) -> int:
        """Set camera, time, person, tracklet or payload of entries."""
        self._writable()
        check_ids(ids)
        values = changeable(values)
        with self._live.changing() as shard:
            records = shard.retrieve(list(ids), True, False)
            there = [str(record.id) for record in records]
            if any(_takes_back(record.payload or {}, values) for record in records):
                self._note_removal()
            if there and values:
                self._live.change(edge.UpdateOperation.set_payload([*there], values), there)
        return len(there)

    def remove(self, where: Where, *, everything: bool = False) -> int:
        """Forget entries and their thumbnails."""
        self._removable(where, everything)
        removed = 0
        with self._live.changing() as shard:
            while records := shard.scroll(
                edge.ScrollRequest(
                    limit=_BATCH,
                    filter=condition(where, _WORDS),
                    with_payload=False,
                    with_vector=False,
                )
            )[0]:
                ids = [str(record.id) for record in records]
                if not removed:
                    self._note_removal()
                # Pictures first: killed in between, the entry is still there to be removed again.
                with told(OutputError, f"{self.folder}: a thumbnail cannot be removed"):
                    for id in ids:
                        self._thumbnail(id).unlink(missing_ok=True)
                self._live.change(edge.UpdateOperation.delete_points([*ids]), ids)
                removed += len(ids)
        return removed

    def to_compact(self) -> bool:
        """Whether entries or words went since the gallery was last compacted, by any process."""
        return (self.folder / REMOVED).exists()

    def compact(self) -> None:
        """Write what is left into a new shard, build its index, and put it in place.

        Searches and changes go on meanwhile; a kill at any moment loses nothing.
        """
        self._writable()
        removals = self._removals
        self._live.rewrite()
        pictures = (self.folder / THUMBNAILS).rglob("*.jpg")
        while some := list(islice(pictures, _BATCH)):
            with self._live.changing() as shard:
                ids = [picture.stem for picture in some if is_id(picture.stem)]
                kept = {str(record.id) for record in shard.retrieve([*ids], False, False)}
                with told(OutputError, f"{self.folder}: a thumbnail cannot be removed"):
                    for picture in some:
                        if picture.stem not in kept:  # its entry never came, for a kill
                            picture.unlink()
        with self._live.changing(), told(OutputError, f"{self.folder}: cannot be compacted"):
            if self._removals == removals:  # else what went meanwhile may be in the new shard
                (self.folder / REMOVED).unlink(missing_ok=True)

    def close(self) -> None:
        """Write everything and let go; an index or a copy that is being made is given up."""
        if not self._lock.closed:
            self._live.close()
            self._lock.close()

    def _note_removal(self) -> None:
        self._removals += 1
        write(self.folder / REMOVED, b"")

    def _bytes_of(self, entry: Entry) -> int:
        return 4 * self.dim + len(entry.thumbnail or b"") + len(str(payload(entry)))

    def _thumbnail(self, id: str) -> Path:
        return self.folder / THUMBNAILS / id[:2] / f"{id}.jpg"

    def _whole(self, record: Any) -> Entry:
        try:
            thumbnail = self._thumbnail(str(record.id)).read_bytes()
        except FileNotFoundError:  # it has none, or is being forgotten
            thumbnail = None
        return entry_of(
            record, embedding=np.asarray(record.vector, np.float32), thumbnail=thumbnail
        )


def _takes_back(before: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether something that was said of an entry is said no more."""
    return any(before.get(name) not in (None, {}, new) for name, new in values.items())
