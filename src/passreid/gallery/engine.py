"""What a gallery does alike wherever its points lie: enrolling in batches, searching, closing."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar, get_args

import numpy as np
from numpy.typing import ArrayLike

from passreid.errors import GalleryError, UsageError
from passreid.gallery.base import (
    Added,
    Entry,
    GroupBy,
    Hit,
    Layout,
    Page,
    Pooling,
    Where,
    pooled,
    unit_vector,
)
from passreid.gallery.points import check_ids, entry_of, is_id
from passreid.gallery.words import check_words
from passreid.reranking import rerank as reranked
from passreid.similarity import F32

Ask = Callable[[list[float], int], Sequence[Any]]
"""(query, limit) -> the points nearest to it, best first."""

LOOKED_AT = 256
"""Candidates a search by the index keeps: of a million entries it finds 99 % of the nearest, and
97 % with the engine's own 100, at twice the time."""

MOST = 2**31 - 1
"""Entries that can be asked for at once."""

_E = TypeVar("_E", bound="Engine")


class Engine(ABC):
    """The half of a gallery that both engines share; `base.Gallery` describes its methods.

    Attributes:
        name: Of the gallery, for people.
        model, dim: Identity of the model and width of its embeddings.
        layout: How it keeps its vectors.
        read_only: Refuse every change.
        batch: Entries that are stored at once.
    """

    name: str
    model: str
    dim: int
    layout: Layout
    read_only: bool
    batch: int

    def add(self, entries: Iterable[Entry]) -> Added:
        """Enrol, in batches that are stored before the next begins."""
        self._writable()
        added = known = 0
        remaining = iter(entries)
        while batch := list(islice(remaining, self.batch)):
            fresh: dict[str, Entry] = {}
            for entry in batch:
                fresh.setdefault(entry.id, entry)  # as one that comes later changes nothing
            check_ids(fresh)
            for entry in batch:
                check_words(vars(entry))
            vectors = {
                id: unit_vector(entry.embedding, self.dim, f"entry {id}")
                for id, entry in fresh.items()
            }
            stored = self._store(fresh, vectors)
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
    ) -> list[Hit]:
        """Find the most alike entries, best first; equal scores in the order of their ids."""
        if not 1 <= top_k <= MOST:
            raise UsageError(f"top_k is {top_k}; ask for 1 to {MOST:,} hits.")
        if not 0 <= rerank <= MOST:
            raise UsageError(f"rerank is {rerank}; it is how many hits are ordered anew.")
        if min_score is not None and not math.isfinite(min_score):
            raise UsageError(f"min_score is {min_score}; it is a cosine, such as 0.5.")
        if group_by not in (None, *get_args(GroupBy)):
            raise UsageError(f"group_by is {group_by!r}, not one of {get_args(GroupBy)}.")
        if pooling not in get_args(Pooling):
            raise UsageError(f"pooling is {pooling!r}, not one of {get_args(Pooling)}.")
        queries = pooled(embedding, self.dim, pooling)
        ask, limit = self._asking(where, min_score, exact), max(top_k, rerank)
        while True:
            answers = [ask(query, limit) for query in queries.tolist()]
            hits = _ordered(answers, group_by)
            # Fewer groups than asked for: look further down, unless that was all there is.
            ended = max(map(len, answers)) < limit
            if group_by is None or ended or len(_grouped(hits)) >= top_k:
                break
            limit = min(4 * limit, MOST)
        if rerank:
            hits = self._reranked(queries, hits[:rerank]) + hits[rerank:]
        return (hits if group_by is None else _grouped(hits))[:top_k]

    def page(
        self,
        where: Where | None = None,
        *,
        limit: int = 100,
        after: str | None = None,
        whole: bool = False,
    ) -> Page:
        """List entries, without embeddings and thumbnails unless they are wanted whole."""
        if not 1 <= limit <= MOST:
            raise UsageError(f"limit is {limit}; a page has 1 to {MOST:,} entries.")
        if after is not None and not is_id(after):
            raise UsageError(f"after is '{after}', which is no earlier page's end.")
        entries, following = self._scroll(where, limit, after, whole)
        return Page(entries, None if following is None else str(following))

    def _reranked(self, queries: F32, hits: list[Hit]) -> list[Hit]:
        """Order hits by their k-reciprocal distance from whichever query is nearest."""
        vectors = self._vectors([hit.entry.id for hit in hits])
        hits = [hit for hit in hits if hit.entry.id in vectors]  # one may have gone meanwhile
        if not hits:
            return []
        distances = reranked(queries, np.stack([vectors[hit.entry.id] for hit in hits]))
        return [hits[n] for n in np.argsort(distances.min(axis=0), kind="stable")]

    @abstractmethod
    def close(self) -> None:
        """Write everything and let go."""

    def __enter__(self: _E) -> _E:
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
    def _store(self, entries: dict[str, Entry], vectors: Mapping[str, F32]) -> int:
        """Store those that are not there yet; return how many."""

    @abstractmethod
    def _asking(self, where: Where | None, min_score: float | None, exact: bool | None) -> Ask:
        """Return what a search asks as often as it must."""

    @abstractmethod
    def _scroll(
        self, where: Where | None, limit: int, after: str | None, whole: bool
    ) -> tuple[list[Entry], Any]:
        """Return entries in the order of their ids, and where the next ones begin."""

    @abstractmethod
    def _vectors(self, ids: list[str]) -> dict[str, F32]:
        """Return the embeddings (D,) of those entries that exist."""

    def _removable(self, where: Where, everything: bool) -> None:
        """Refuse to forget everybody by a filter that lets all through, unless that is said."""
        self._writable()
        if where == Where() and not everything:
            raise UsageError(
                "No filter is given, which would forget everybody: say everything=True to do so."
            )

    def _writable(self) -> None:
        if self.read_only:
            raise GalleryError(f"{self.name} was opened read-only; open it for writing.")


def _ordered(answers: Iterable[Sequence[Any]], group_by: GroupBy | None) -> list[Hit]:
    """Keep the best of each point; best first."""
    best: dict[str, Any] = {}
    for points in answers:
        for point in points:
            before = best.get(str(point.id))
            if before is None or point.score > before.score:
                best[str(point.id)] = point
    order = sorted(best.values(), key=lambda point: (-point.score, str(point.id)))
    return [_hit_of(point, group_by) for point in order]


def _grouped(hits: Iterable[Hit]) -> list[Hit]:
    """Keep the first of each group."""
    firsts: dict[tuple[str, str], Hit] = {}
    for hit in hits:
        # One without a label stands for itself.
        group = ("id", hit.entry.id) if hit.group is None else ("group", hit.group)
        firsts.setdefault(group, hit)
    return list(firsts.values())


def _hit_of(point: Any, group_by: GroupBy | None) -> Hit:
    entry = entry_of(point)
    score = min(max(float(point.score), -1.0), 1.0)
    return Hit(entry, score, getattr(entry, group_by) if group_by else None)
