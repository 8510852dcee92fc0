"""What a gallery is: entries, filters, hits, and the protocol every engine follows."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from passreid.embed import Embedder
from passreid.errors import EmbeddingError, UsageError
from passreid.gallery.words import LABELS
from passreid.similarity import F32, unit_rows

GroupBy = Literal["person", "tracklet"]
Pooling = Literal["mean", "best"]

_NAMESPACE = uuid.UUID("6f1b0f5e-8f0a-4c39-9a53-1d6c2f3f7a10")


def entry_id(content_hash: str) -> str:
    """Return the id of an entry that is given none: the same picture always has the same."""
    return str(uuid.uuid5(_NAMESPACE, content_hash))


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """One picture of a person.

    Attributes:
        content_hash: Of the picture (`images.content_hash`); enrolling it again changes nothing.
        embedding: (D,) float32; None where it was not asked for. Stored at unit length in float16.
        id: A UUID in small letters; from the content hash when not given.
        source: Where the picture came from.
        camera, person, tracklet: Labels; None is unknown, and so is an empty one.
        time: When it was taken, Unix seconds in UTC; None is unknown.
        payload: Whatever else is known, as JSON.
        thumbnail: A small JPEG; None where there is none or it was not asked for.
    """

    content_hash: str
    embedding: F32 | None = None
    id: str = ""
    source: str = ""
    camera: str | None = None
    time: float | None = None
    person: str | None = None
    tracklet: str | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)
    thumbnail: bytes | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", self.id or entry_id(self.content_hash))
        for name in LABELS:
            if getattr(self, name) == "":
                object.__setattr__(self, name, None)


@dataclass(frozen=True, kw_only=True)
class Where:
    """A filter: everything that is given must hold, an empty one lets all through.

    Attributes:
        ids, cameras, people, tracklets, sources: One of these.
        not_ids, not_cameras: None of these; an entry without a camera passes.
        since, until: since <= time < until, Unix seconds; an entry without a time does not pass.

    Raises:
        UsageError: A text in place of a tuple, which would be taken letter by letter, or of a time.
    """

    ids: tuple[str, ...] = ()
    not_ids: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    not_cameras: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    tracklets: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, str):
                right = "Unix seconds" if name in ("since", "until") else f"a tuple, ({value!r},)"
                raise UsageError(f"{name} is the text {value!r}; give {right}.")


class Hit(NamedTuple):
    """An entry without its embedding, its cosine with the query, and its group if one was asked."""

    entry: Entry
    score: float
    group: str | None = None


class Added(NamedTuple):
    """New entries, and those that were there before."""

    added: int
    known: int


class Page(NamedTuple):
    """Entries in the order of their ids, and where the next page begins (None at the end)."""

    entries: list[Entry]
    next: str | None


@dataclass(frozen=True, kw_only=True)
class Info:
    """What a gallery holds.

    Attributes:
        name, engine: Where it lies and what runs it.
        model, dim: Identity of the model and width of its embeddings.
        count: Entries.
        indexed: Entries in an approximate index; the others are compared one by one.
        bytes_on_disk: None where it is not known.
    """

    name: str
    engine: str
    model: str
    dim: int
    count: int
    indexed: int
    bytes_on_disk: int | None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a new gallery keeps its vectors.

    Attributes:
        int8: Search a copy with a byte a number, then compare the best with the real ones: a
            quarter to a half of the memory.
        shards, replicas: On a cluster: parts it is split into, and copies of each.
    """

    int8: bool = False
    shards: int | None = None
    replicas: int | None = None


class Gallery(Protocol):
    """A living collection of people. Methods may be called from several threads.

    Attributes:
        model: Identity of the model whose embeddings it holds.
        dim: Their width.
    """

    model: str
    dim: int

    def info(self) -> Info:
        """Describe the gallery."""

    def add(self, entries: Iterable[Entry]) -> Added:
        """Enrol; what it returns for is on disk. Known ids are left as they are.

        Raises:
            EmbeddingError: An embedding is missing, of another width, zero or not finite.
            UsageError: An id is no UUID, or a time, label or payload cannot be stored.
            GalleryError, OutputError: The gallery is read-only or cannot be written.
        """

    def search(
        self,
        embedding: ArrayLike,
        *,
        top_k: int = 10,
        where: Where | None = None,
        min_score: float | None = None,
        group_by: GroupBy | None = None,
        pooling: Pooling = "mean",
        exact: bool | None = None,
        rerank: int = 0,
    ) -> list[Hit]:
        """Find the most alike entries, best first; equal scores in the order of their ids.

        Args:
            embedding: (D,) of a picture, or (T, D) of a tracklet.
            top_k: Hits, at most.
            where: Which entries count.
            min_score: Smallest cosine.
            group_by: Keep only the best hit of each person or tracklet.
            pooling: A tracklet is its mean embedding, or whichever of its pictures fits best.
            exact: True compares with every entry, False asks the index; else whichever suits
                the filter.
            rerank: Order so many of the first hits anew, by k-reciprocal re-ranking among them
                (`passreid.reranking`), before they are grouped and cut; scores stay cosines.

        Raises:
            EmbeddingError: As `add`.
            UsageError: `top_k` is below 1, or `rerank` below 0.
        """

    def get(self, ids: Sequence[str]) -> list[Entry]:
        """Return the entries among `ids` that exist, in their order, whole."""

    def page(
        self,
        where: Where | None = None,
        *,
        limit: int = 100,
        after: str | None = None,
        whole: bool = False,
    ) -> Page:
        """List entries from `after` (an earlier `next`) on.

        Their embeddings and thumbnails are read only where they are wanted whole.
        """

    def count(self, where: Where | None = None) -> int:
        """Count entries."""

    def update(self, ids: Sequence[str], **values: Any) -> int:
        """Set camera, time, person, tracklet or payload of entries; return how many there were.

        None makes a label or the time unknown again.
        """

    def remove(self, where: Where, *, everything: bool = False) -> int:
        """Forget entries; return how many. `compact` takes their last bytes off the disk.

        Raises:
            UsageError: The filter is empty, as one made of a list that turned out empty, and
                `everything` is not said.
        """

    def to_compact(self) -> bool:
        """Whether `compact` has yet to take away bytes of what was removed or said otherwise."""

    def compact(self) -> None:
        """Write what is left anew, without anything that was removed, and index it."""

    def close(self) -> None:
        """Write everything and let go."""

    def __enter__(self) -> Gallery:
        """Return itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""


FORMAT = 1
"""Of galleries; a gallery of another is refused."""


def identity(embedder: Embedder) -> str:
    """Return `Embedder.identity`: a gallery holds vectors of one identity only."""
    return embedder.identity


def unit_vector(embedding: ArrayLike | None, dim: int, name: str) -> F32:
    """Return an embedding (D,) in float32 at unit length.

    Raises:
        EmbeddingError: Missing, of another width, zero or not finite.
    """
    if embedding is None:
        raise EmbeddingError(f"{name} has no embedding: embed its picture first.")
    row: F32 = unit_vectors(np.asarray(embedding)[None], dim, name)[0]
    return row


def unit_vectors(embeddings: ArrayLike, dim: int, name: str) -> F32:
    """Return embeddings (N, D) in float32 at unit length; `unit_vector` says what is raised."""
    rows = unit_rows(embeddings, name)
    if rows.shape[1] != dim:
        raise EmbeddingError(
            f"{name} has {rows.shape[1]} numbers, the gallery's have {dim}: embed with its model."
        )
    if not np.any(rows, axis=1).all():
        raise EmbeddingError(f"{name} is zero everywhere: it has no direction to compare.")
    return rows


def pooled(embedding: ArrayLike, dim: int, pooling: Pooling) -> F32:
    """Turn a query (D,) or (T, D) into the unit vectors to search with, (1, D) or (T, D)."""
    values = np.asarray(embedding)
    rows = unit_vectors(values[None] if values.ndim == 1 else values, dim, "the query")
    if pooling == "best":
        return rows
    return unit_vectors(rows.mean(axis=0, keepdims=True), dim, "the query's mean")
