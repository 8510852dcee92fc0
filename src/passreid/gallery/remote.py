"""A gallery on a Qdrant server or cluster: one collection, through `qdrant-client`.

What an entry holds lies in the point's payload, its thumbnail too (base64, never sent with a
search); the model and the format lie in the collection's metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from qdrant_client import QdrantClient, models

from passreid.errors import GalleryError
from passreid.gallery.base import FORMAT, Entry, Hit, Info, Layout, Where
from passreid.gallery.connection import repeated
from passreid.gallery.engine import Ask, Gallery
from passreid.gallery.points import INDEXED, THUMBNAIL, any_of, condition, entry_of, payload
from passreid.gallery.validation import changes, check_ids
from passreid.similarity import F32

_BATCH = 256
_LIGHT = models.PayloadSelectorExclude(exclude=[THUMBNAIL])
_LOOKED_AT = 256
"""Candidates a search by the server's index keeps: of a million entries it finds 99 % of the
nearest, and 97 % with the server's own 100, at twice the time."""
_TALLIED = 10_000
_T = TypeVar("_T")


class RemoteGallery(Gallery):
    """A collection on a server; `open_gallery` makes it.

    Requests that fail for the server's or the network's sake are repeated: all of them may be.

    Args:
        client: Of the server; closed with the gallery.
        name: Of the collection.
        read_only: Refuse every change.

    Raises:
        GalleryError: No such gallery, one of another format, or the server does not answer.
    """

    batch = _BATCH

    def __init__(self, client: QdrantClient, name: str, *, read_only: bool = False) -> None:
        self.name, self.read_only, self._client = name, read_only, client
        self._to_compact = False  # of what others removed only the server knows
        if not self._call(client.collection_exists):
            raise GalleryError(f"{name}: there is no such gallery; add pictures to make one.")
        config = _ours(client, name).config
        params, vectors = config.params, config.params.vectors
        assert isinstance(vectors, models.VectorParams)
        self.model, self.dim = str((config.metadata or {})["model"]), vectors.size
        self.layout = Layout(shards=params.shard_number, replicas=params.replication_factor)

    @staticmethod
    def create(
        client: QdrantClient, name: str, *, model: str, dim: int, layout: Layout | None = None
    ) -> None:
        """Make an empty gallery unless there is one; finish one whose making was cut short.

        Raises:
            GalleryError: The server refuses, does not answer, or has another's collection there.
        """
        exists = partial(repeated, partial(client.collection_exists, name), name)
        if not exists():
            try:
                RemoteGallery._create_collection(client, name, model, dim, layout or Layout())
            except GalleryError:
                if not exists():  # another process, or a try whose answer was lost, has made it
                    raise
        there = _ours(client, name).payload_schema
        kinds = dict.fromkeys(INDEXED, models.PayloadSchemaType.KEYWORD)
        for field, kind in {**kinds, "time": models.PayloadSchemaType.FLOAT}.items():
            if field not in there:
                repeated(partial(client.create_payload_index, name, field, kind, wait=True), name)

    @staticmethod
    def _create_collection(
        client: QdrantClient, name: str, model: str, dim: int, layout: Layout
    ) -> None:
        made = partial(
            client.create_collection,
            name,
            models.VectorParams(
                size=dim,
                distance=models.Distance.DOT,
                datatype=models.Datatype.FLOAT16,
            ),
            shard_number=layout.shards,
            replication_factor=layout.replicas,
            # Every replica has it before an enrolment counts as done.
            write_consistency_factor=layout.replicas,
            metadata={"passreid_format": FORMAT, "model": model},
        )
        repeated(made, name)

    def info(self) -> Info:
        """Describe the gallery."""
        return Info(
            name=self.name,
            engine="qdrant",
            model=self.model,
            dim=self.dim,
            count=self.count(),
            bytes_on_disk=None,
        )

    def _store(self, entries: list[Entry], rows: F32) -> int:
        hashes = any_of("content_hash", [entry.content_hash for entry in entries])
        ids = models.HasIdCondition(has_id=[entry.id for entry in entries])
        records, _ = self._call(
            self._client.scroll,
            scroll_filter=models.Filter(should=[ids, hashes]),
            limit=2 * len(entries),
            with_payload=["content_hash"],
        )
        known = {str(record.id) for record in records}
        known |= {(record.payload or {}).get("content_hash", "") for record in records}
        points = []
        for entry, row in zip(entries, rows, strict=True):
            if entry.id not in known and entry.content_hash not in known:
                known.add(entry.content_hash)
                points.append(
                    models.PointStruct(id=entry.id, vector=row.tolist(), payload=payload(entry))
                )
        if points:
            self._call(self._client.upsert, points, wait=True)
        return len(points)

    def _asking(self, where: Where | None, exact: bool | None, camera: str | None) -> Ask:
        filtered = condition(where)
        params = models.SearchParams(hnsw_ef=_LOOKED_AT, exact=bool(exact))

        def nearest(query: F32, limit: int) -> list[Hit]:
            answer = self._call(
                self._client.query_points,
                query.tolist(),
                limit=limit,
                query_filter=filtered,
                search_params=params,
                with_payload=_LIGHT,
            )
            return [
                Hit(entry_of(point), min(max(float(point.score), -1.0), 1.0))
                for point in answer.points
            ]

        return lambda queries, limit: [nearest(query, limit) for query in queries]

    def get(self, ids: Sequence[str]) -> list[Entry]:
        """Return the entries among `ids` that exist, in their order, whole."""
        check_ids(ids)
        found = {str(r.id): r for r in self._records(ids, whole=True)}
        return [entry_of(found[id]) for id in dict.fromkeys(ids) if id in found]

    def _vectors(self, ids: list[str]) -> dict[str, F32]:
        records = self._call(self._client.retrieve, [*ids], with_payload=False, with_vectors=True)
        return {str(r.id): np.asarray(r.vector, np.float32) for r in records}

    def _list(self, where: Where | None, limit: int, first: str | None, whole: bool) -> list[Entry]:
        records, _ = self._call(
            self._client.scroll,
            scroll_filter=condition(where),
            limit=limit,
            offset=first,
            with_payload=True if whole else _LIGHT,
            with_vectors=whole,
        )
        return [entry_of(record) for record in records]

    def count(self, where: Where | None = None) -> int:
        """Count entries."""
        filtered = condition(where and where.check())
        return int(self._call(self._client.count, filtered, exact=True).count)

    def tally(self, name: str, where: Where | None = None) -> dict[str, int]:
        """Count entries by their camera, person, tracklet or source, the commonest first."""
        filtered = condition(where and where.check())
        answer = self._call(
            self._client.facet, name, facet_filter=filtered, limit=_TALLIED, exact=True
        )
        return {str(hit.value): hit.count for hit in answer.hits}

    def update(self, ids: Sequence[str], **values: Any) -> int:
        """Set camera, time, person, tracklet or payload of entries."""
        self._check_writable()
        check_ids(ids)
        values = changes(values)
        there: list[Any] = [str(record.id) for record in self._records(ids)]
        if there and values:
            self._call(self._client.set_payload, values, there, wait=True)
        return len(there)

    def remove(self, where: Where, *, everything: bool = False) -> int:
        """Forget entries and their thumbnails."""
        self._check_removable(where, everything)
        removed = self.count(where)
        chosen = models.FilterSelector(filter=condition(where) or models.Filter())
        if removed:
            self._call(self._client.delete, chosen, wait=True)
            self._to_compact = True
        return removed

    def to_compact(self) -> bool:
        """Whether something was removed through this object since it last compacted."""
        return self._to_compact

    def compact(self) -> None:
        """Ask the server to write segments with removed entries anew.

        It does so on its own time and once a segment holds a hundred entries; `docs/gallery.md`
        says what that means for forgetting.
        """
        self._check_writable()
        soon = models.OptimizersConfigDiff(deleted_threshold=0.0001, vacuum_min_vector_number=100)
        self._call(self._client.update_collection, optimizers_config=soon)
        self._to_compact = False

    def close(self) -> None:
        """Let go of the connection; everything is written already."""
        self._client.close()

    def _records(self, ids: Sequence[str], *, whole: bool = False) -> list[Any]:
        return self._call(self._client.retrieve, list(ids), with_payload=whole, with_vectors=whole)

    def _call(self, method: Callable[..., _T], *arguments: Any, **named: Any) -> _T:
        """Ask the server something of this collection."""
        return repeated(partial(method, self.name, *arguments, **named), self.name)


def _ours(client: QdrantClient, name: str) -> models.CollectionInfo:
    """Describe a collection that is a gallery.

    Raises:
        GalleryError: It is something else.
    """
    found = repeated(partial(client.get_collection, name), name)
    metadata = found.config.metadata or {}
    if metadata.get("passreid_format") != FORMAT:
        raise GalleryError(f"{name}: is no gallery of passreid, or of another format.")
    if not isinstance(metadata.get("model"), str) or not metadata["model"]:
        raise GalleryError(
            f"{name}: does not say whose embeddings it holds; export what made it with its model "
            "named, and import that."
        )
    return found
