"""A gallery on a Qdrant server or cluster: one collection, through `qdrant-client`.

What an entry holds lies in the point's payload, its thumbnail too (base64, never sent with a
search); the model and the format lie in the collection's metadata.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from qdrant_client import QdrantClient, models

from passreid.errors import GalleryError
from passreid.gallery.base import FORMAT, Entry, Info, Layout, Where
from passreid.gallery.connection import repeated
from passreid.gallery.engine import LOOKED_AT, Ask, Engine
from passreid.gallery.points import INDEXED, Words, check_ids, condition, entry_of, payload
from passreid.gallery.words import changeable
from passreid.similarity import F32

_BATCH = 256
_THUMBNAIL = "thumbnail"
_LIGHT = models.PayloadSelectorExclude(exclude=[_THUMBNAIL])
_T = TypeVar("_T")

_WORDS = Words(
    has_id=lambda ids: models.HasIdCondition(has_id=list(ids)),
    any_of=lambda name, values: models.FieldCondition(key=name, match=models.MatchAny(any=values)),
    span=lambda name, since, until: models.FieldCondition(
        key=name, range=models.Range(gte=since, lt=until)
    ),
    whole=lambda must, barred: models.Filter(must=must, must_not=barred),
)


class RemoteGallery(Engine):
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
        self.layout = Layout(
            int8=config.quantization_config is not None,
            shards=params.shard_number,
            replicas=params.replication_factor,
        )

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
        small = models.ScalarQuantizationConfig(
            type=models.ScalarType.INT8, quantile=0.99, always_ram=True
        )
        made = partial(
            client.create_collection,
            name,
            models.VectorParams(
                size=dim,
                distance=models.Distance.DOT,
                datatype=models.Datatype.FLOAT16,
                # What is searched in memory then is the copy of a byte a number.
                on_disk=layout.int8,
            ),
            shard_number=layout.shards,
            replication_factor=layout.replicas,
            # Every replica has it before an enrolment counts as done.
            write_consistency_factor=layout.replicas,
            quantization_config=models.ScalarQuantization(scalar=small) if layout.int8 else None,
            metadata={"passreid_format": FORMAT, "model": model},
        )
        repeated(made, name)

    def info(self) -> Info:
        """Describe the gallery."""
        told = self._call(self._client.get_collection)
        return Info(
            name=self.name,
            engine="qdrant",
            model=self.model,
            dim=self.dim,
            count=self.count(),
            indexed=told.indexed_vectors_count or 0,
            bytes_on_disk=None,
        )

    def _store(self, entries: dict[str, Entry], vectors: Mapping[str, F32]) -> int:
        for record in self._records(list(entries)):
            del entries[str(record.id)]
        points = [
            models.PointStruct(
                id=id, vector=vectors[id].tolist(), payload=payload(entry) | _picture(entry)
            )
            for id, entry in entries.items()
        ]
        if points:
            self._call(self._client.upsert, points, wait=True)
        return len(entries)

    def _asking(self, where: Where | None, min_score: float | None, exact: bool | None) -> Ask:
        filtered = condition(where, _WORDS)
        acorn = None
        if filtered is not None and not exact:
            acorn = models.AcornSearchParams(enable=True, max_selectivity=1.0)
        params = models.SearchParams(hnsw_ef=LOOKED_AT, exact=bool(exact), acorn=acorn)

        def ask(vector: list[float], limit: int) -> list[Any]:
            answer = self._call(
                self._client.query_points,
                vector,
                limit=limit,
                query_filter=filtered,
                search_params=params,
                score_threshold=min_score,
                with_payload=_LIGHT,
            )
            return answer.points

        return ask

    def get(self, ids: Sequence[str]) -> list[Entry]:
        """Return the entries among `ids` that exist, in their order, whole."""
        check_ids(ids)
        found = {str(r.id): r for r in self._records(ids, whole=True)}
        return [_whole(found[id]) for id in dict.fromkeys(ids) if id in found]

    def _vectors(self, ids: list[str]) -> dict[str, F32]:
        records = self._call(self._client.retrieve, [*ids], with_payload=False, with_vectors=True)
        return {str(r.id): np.asarray(r.vector, np.float32) for r in records}

    def _scroll(
        self, where: Where | None, limit: int, after: str | None, whole: bool
    ) -> tuple[list[Entry], Any]:
        records, following = self._call(
            self._client.scroll,
            scroll_filter=condition(where, _WORDS),
            limit=limit,
            offset=after,
            with_payload=True if whole else _LIGHT,
            with_vectors=whole,
        )
        return [_whole(r) if whole else entry_of(r) for r in records], following

    def count(self, where: Where | None = None) -> int:
        """Count entries."""
        return int(self._call(self._client.count, condition(where, _WORDS), exact=True).count)

    def update(self, ids: Sequence[str], **values: Any) -> int:
        """Set camera, time, person, tracklet or payload of entries."""
        self._writable()
        check_ids(ids)
        values = changeable(values)
        there: list[Any] = [str(record.id) for record in self._records(ids)]
        if there and values:
            self._call(self._client.set_payload, values, there, wait=True)
        return len(there)

    def remove(self, where: Where, *, everything: bool = False) -> int:
        """Forget entries and their thumbnails."""
        self._removable(where, everything)
        removed = self.count(where)
        chosen = models.FilterSelector(filter=condition(where, _WORDS) or models.Filter())
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
        self._writable()
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
    told = repeated(partial(client.get_collection, name), name)
    if (told.config.metadata or {}).get("passreid_format") != FORMAT:
        raise GalleryError(f"{name}: is no gallery of passreid, or of another format.")
    return told


def _picture(entry: Entry) -> dict[str, str]:
    if entry.thumbnail is None:
        return {}
    return {_THUMBNAIL: base64.b64encode(entry.thumbnail).decode()}


def _whole(record: Any) -> Entry:
    picture = record.payload.get(_THUMBNAIL)
    return entry_of(
        record,
        embedding=np.asarray(record.vector, np.float32),
        thumbnail=None if picture is None else base64.b64decode(picture),
    )
