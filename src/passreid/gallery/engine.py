"""The gallery every engine follows: what is asked of it, and what both do the same way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar, get_args

import numpy as np
from numpy.typing import ArrayLike

from passreid.centring import CameraMeans
from passreid.errors import EmbeddingError, GalleryError, UsageError
from passreid.gallery.base import (
    Added,
    Entry,
    GroupBy,
    Hit,
    Info,
    Layout,
    Page,
    Pooling,
    Where,
)
from passreid.gallery.validation import check_ids, check_values, clean_label
from passreid.reranking import rerank as reranked
from passreid.similarity import F32, unit_rows

Ask = Callable[[F32, int], Sequence[Sequence[Hit]]]
"""(queries (T, D), limit) -> the hits nearest to each query, best first."""

MOST = 2**31 - 1
"""Entries that can be asked for at once."""

_G = TypeVar("_G", bound="Gallery")


class Gallery(ABC):
    """A living collection of people. Methods may be called from several threads.

    Attributes:
        name: Of the gallery, for people.
        model, dim: Identity of the model whose embeddings it holds, and their width.
        layout: How it is spread on a cluster.
        read_only: Refuse every change.
        batch: Entries that are stored at once.
    """

    name: str
    model: str
    dim: int
    layout: Layout
    read_only: bool
    batch: int

    @property
    def centred(self) -> bool:
        """Whether searches subtract each camera's mean embedding (`passreid.centring`)."""
        return False

    def set_centred(self, centred: bool) -> None:
        """Choose whether searches subtract camera means.

        Raises:
            GalleryError: This kind of gallery cannot.
        """
        if centred:
            raise GalleryError(
                f"{self.name}: camera centring needs a gallery in a file; copy it to one with "
                "`passreid gallery copy`."
            )

    def add(self, entries: Iterable[Entry]) -> Added:
        """Enrol; what it returns for is on disk. Known ids are left as they are.

        Raises:
            EmbeddingError: An embedding is missing, of another width, zero or not finite.
            UsageError: An id is no UUID, or a time, label or payload cannot be stored.
            GalleryError, OutputError: The gallery is read-only or cannot be written.
        """
        self._check_writable()
        added = known = 0
        remaining = iter(entries)
        while batch := list(islice(remaining, self.batch)):
            fresh: dict[str, Entry] = {}
            for entry in batch:
                fresh.setdefault(entry.id, entry)  # as one that comes later changes nothing
            check_ids(fresh)
            for entry in batch:
                check_values(vars(entry))
            stored = self._store(list(fresh.values()), self._unit_rows(fresh.values()))
            added, known = added + stored, known + len(batch) - stored
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
        exact: bool | None = None,
        rerank: int = 0,
        camera: str | None = None,
    ) -> list[Hit]:
        """Find the most alike entries, best first; equal scores in the order of their ids.

        Args:
            embedding: (D,) of a picture, or (T, D) of a tracklet.
            top_k: Hits, at most.
            where: Which entries count; all of them and no others, however few pass.
            min_score: Smallest cosine, -1 to 1.
            group_by: Keep only the best hit of each person or tracklet.
            pooling: A tracklet is its mean embedding, or whichever of its pictures fits best.
            exact: True compares with every entry; else large galleries are searched by a coarse
                copy first, and its best are compared.
            rerank: Reorder so many of the first hits by k-reciprocal re-ranking among them
                (`passreid.reranking`), before they are grouped and cut; scores stay cosines.
            camera: The query's, whose mean is subtracted in a centred gallery; None is unknown,
                and the mean of all entries is.

        Raises:
            EmbeddingError: As `add`.
            UsageError: A number is out of its range.
        """
        _check_search(top_k, min_score, group_by, pooling, rerank)
        queries = pooled(embedding, self.dim, pooling)
        camera = None if camera is None else clean_label(camera)
        ask, limit = self._asking(where and where.check(), exact, camera), max(top_k, rerank)
        floor = -1 if min_score is None else min_score
        while True:
            answers = ask(queries, limit)
            hits = _merged(answers, floor, group_by)
            # Fewer groups than asked for: look further down, unless that was all there is.
            ended = all(len(found) < limit or found[-1].score < floor for found in answers)
            if group_by is None or ended or len(_grouped(hits)) >= top_k:
                break
            limit = min(4 * limit, MOST)
        if rerank:
            hits = self._reranked(queries, camera, hits[:rerank]) + hits[rerank:]
        return (hits if group_by is None else _grouped(hits))[:top_k]

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
        if not 1 <= limit <= MOST:
            raise UsageError(f"limit is {limit}; a page has 1 to {MOST:,} entries.")
        if after is not None:
            check_ids([after], "after")
        # One more than asked for tells whether there is a next page.
        entries = self._list(where and where.check(), limit + 1, after, whole)
        return Page(entries[:limit], entries[limit].id if len(entries) > limit else None)

    @abstractmethod
    def info(self) -> Info:
        """Describe the gallery."""

    @abstractmethod
    def get(self, ids: Sequence[str]) -> list[Entry]:
        """Return the entries among `ids` that exist, in their order, whole."""

    @abstractmethod
    def count(self, where: Where | None = None) -> int:
        """Count entries."""

    @abstractmethod
    def tally(self, name: str, where: Where | None = None) -> dict[str, int]:
        """Count entries by their camera, person, tracklet or source, the commonest first.

        Entries without one are left out, and so is what lies beyond the first 10,000 values.
        """

    @abstractmethod
    def update(self, ids: Sequence[str], **values: Any) -> int:
        """Set camera, time, person, tracklet or payload of entries; return how many there were.

        None makes a label or the time unknown again.
        """

    @abstractmethod
    def remove(self, where: Where, *, everything: bool = False) -> int:
        """Forget entries and every byte of them; return how many.

        Raises:
            UsageError: The filter is empty, as one made of a list that turned out empty, and
                `everything` is not said.
        """

    @abstractmethod
    def to_compact(self) -> bool:
        """Whether bytes of what was forgotten may still be on disk, for `compact` to remove."""

    @abstractmethod
    def compact(self) -> None:
        """Remove the last bytes of what was forgotten, and give free space back."""

    @abstractmethod
    def close(self) -> None:
        """Write everything and let go."""

    def __enter__(self: _G) -> _G:
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

    @abstractmethod
    def _store(self, entries: list[Entry], rows: F32) -> int:
        """Store those that are not there yet, with their unit rows (N, D); return how many."""

    @abstractmethod
    def _asking(self, where: Where | None, exact: bool | None, camera: str | None) -> Ask:
        """Return what a search asks as often as it must."""

    @abstractmethod
    def _list(self, where: Where | None, limit: int, first: str | None, whole: bool) -> list[Entry]:
        """Return entries in the order of their ids, from `first` on."""

    @abstractmethod
    def _vectors(self, ids: list[str]) -> dict[str, F32]:
        """Return the embeddings (D,) of those entries that exist."""

    def _unit_rows(self, entries: Iterable[Entry]) -> F32:
        """Stack embeddings (N, D) at unit length; the first that cannot be stored is named."""
        named = {f"entry {entry.id}": entry.embedding for entry in entries}
        try:
            stacked: Any = [*named.values()]
            return unit_vectors(np.stack(stacked), self.dim, "embeddings")
        except (EmbeddingError, TypeError, ValueError):
            for name, embedding in named.items():
                if embedding is None:
                    raise EmbeddingError(f"{name} has no embedding: embed its picture.") from None
                unit_vectors(np.asarray(embedding)[None], self.dim, name)
            raise

    def _means(self) -> CameraMeans | None:
        """Return the means that searches subtract, of cameras by the hash of their name."""
        return None

    def _reranked(self, queries: F32, camera: str | None, hits: list[Hit]) -> list[Hit]:
        """Order hits by their k-reciprocal distance from whichever query is nearest."""
        vectors = self._vectors([hit.entry.id for hit in hits])
        hits = [hit for hit in hits if hit.entry.id in vectors]  # one may have gone meanwhile
        if not hits:
            return []
        rows = np.stack([vectors[hit.entry.id] for hit in hits])
        if (means := self._means()) is not None:
            queries = means.centre(queries, [camera and hash(camera)] * len(queries))
            rows = means.centre(rows, [hit.entry.camera and hash(hit.entry.camera) for hit in hits])
        distances = reranked(queries, rows)
        return [hits[n] for n in np.argsort(distances.min(axis=0), kind="stable")]

    def _check_removable(self, where: Where, everything: bool) -> None:
        """Refuse to forget everybody by a filter that lets all through, unless that is said."""
        self._check_writable()
        if where.check() == Where() and not everything:
            raise UsageError(
                "No filter is given, which would forget everybody: say everything=True to do so."
            )

    def _check_writable(self) -> None:
        if self.read_only:
            raise GalleryError(f"{self.name} was opened read-only; open it for writing.")


def _check_search(
    top_k: int,
    min_score: float | None,
    group_by: GroupBy | None,
    pooling: Pooling,
    rerank: int,
) -> None:
    """Refuse options of a search that are out of their range."""
    if not 1 <= top_k <= MOST:
        raise UsageError(f"top_k is {top_k}; ask for 1 to {MOST:,} hits.")
    if not 0 <= rerank <= MOST:
        raise UsageError(f"rerank is {rerank}; give the number of hits to reorder, from 0 on.")
    if min_score is not None and not -1 <= min_score <= 1:
        raise UsageError(
            f"min_score is {min_score}; it is a cosine between -1 and 1, such as 0.5, not a "
            "percentage."
        )
    if group_by not in (None, *get_args(GroupBy)):
        raise UsageError(f"group_by is {group_by!r}, not one of {get_args(GroupBy)}.")
    if pooling not in get_args(Pooling):
        raise UsageError(f"pooling is {pooling!r}, not one of {get_args(Pooling)}.")


def unit_vectors(embeddings: ArrayLike, dim: int, name: str) -> F32:
    """Return embeddings (N, D) in float32 at unit length.

    Raises:
        EmbeddingError: Of another width, zero or not finite.
    """
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


def _merged(
    answers: Sequence[Sequence[Hit]], min_score: float, group_by: GroupBy | None
) -> list[Hit]:
    """Keep the best hit of each entry; best first."""
    best: dict[str, Hit] = {}
    for hits in answers:
        for hit in hits:
            before = best.get(hit.entry.id)
            if hit.score >= min_score and (before is None or hit.score > before.score):
                best[hit.entry.id] = hit
    order = sorted(best.values(), key=lambda hit: (-hit.score, hit.entry.id))
    if group_by is None:
        return order
    return [hit._replace(group=getattr(hit.entry, group_by)) for hit in order]


def _grouped(hits: Iterable[Hit]) -> list[Hit]:
    """Keep the first of each group; an entry without a label is its own group."""
    firsts: dict[tuple[str, str], Hit] = {}
    for hit in hits:
        group = ("id", hit.entry.id) if hit.group is None else ("group", hit.group)
        firsts.setdefault(group, hit)
    return list(firsts.values())
