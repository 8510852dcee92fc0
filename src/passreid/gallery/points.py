"""Entries and filters in the words of Qdrant, in the process or on a server, and points in ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from passreid.gallery.base import Entry, GroupBy, Hit, Where

INDEXED = ("camera", "person", "tracklet", "source")
"""Fields a filter names by their words; "time" is the one it names by a span."""

Ask = Callable[[list[float], int], Sequence[Any]]
"""(query, limit) -> the points nearest to it, best first."""


class Words(NamedTuple):
    """An engine's own classes for the parts of a filter.

    Attributes:
        has_id: Of a list of ids.
        any_of: Of a field and a list of words.
        span: Of a field, from, and until before.
        whole: Of what must hold and what must not.
    """

    has_id: Callable[[list[str]], Any]
    any_of: Callable[[str, list[str]], Any]
    span: Callable[[str, float | None, float | None], Any]
    whole: Callable[[list[Any] | None, list[Any] | None], Any]


def payload(entry: Entry) -> dict[str, Any]:
    names = ("content_hash", "source", "camera", "time", "person", "tracklet")
    known = {name: getattr(entry, name) for name in names}
    return {k: v for k, v in known.items() if v is not None} | {"payload": dict(entry.payload)}


def entry_of(point: Any, **more: Any) -> Entry:
    return Entry(id=str(point.id), **(dict(point.payload or {}) | more))


def condition(where: Where | None, words: Words) -> Any:
    if where is None or where == Where():
        return None
    must: list[Any] = []
    if where.ids:
        must.append(words.has_id(list(where.ids)))
    labels = (where.cameras, where.people, where.tracklets, where.sources)
    for name, values in zip(INDEXED, labels, strict=True):
        if values:
            must.append(words.any_of(name, list(values)))
    if where.since is not None or where.until is not None:
        must.append(words.span("time", where.since, where.until))
    barred = [words.any_of("camera", list(where.not_cameras))] if where.not_cameras else None
    return words.whole(must or None, barred)


def collect(
    ask: Ask, queries: Iterable[Sequence[float]], *, top_k: int, group_by: GroupBy | None
) -> list[Hit]:
    """Ask for every query; keep the best of each entry, and of each group where asked to.

    Args:
        ask: The engine.
        queries: Unit vectors of one person.
        top_k: Hits, at most.
        group_by: Keep only the best hit of each; one without a label stands for itself.

    Returns:
        Best first; equal scores in the order of their ids.
    """
    vectors = [list(query) for query in queries]
    limit = top_k
    while True:
        best: dict[str, Any] = {}
        found = 0
        for vector in vectors:
            points = ask(vector, limit)
            found = max(found, len(points))
            for point in points:
                before = best.get(str(point.id))
                if before is None or point.score > before.score:
                    best[str(point.id)] = point
        order = sorted(best.values(), key=lambda point: (-point.score, str(point.id)))
        hits = [_hit_of(point, group_by) for point in order]
        if group_by is not None:
            firsts: dict[tuple[str, str], Hit] = {}
            for hit in hits:
                firsts.setdefault(_group_of(hit), hit)
            hits = list(firsts.values())
        # Fewer groups than asked for: look further down, unless that was all there is.
        if group_by is None or len(hits) >= top_k or found < limit:
            return hits[:top_k]
        limit *= 4


def _hit_of(point: Any, group_by: GroupBy | None) -> Hit:
    entry = entry_of(point)
    score = min(max(float(point.score), -1.0), 1.0)
    return Hit(entry, score, getattr(entry, group_by) if group_by else None)


def _group_of(hit: Hit) -> tuple[str, str]:
    return ("id", hit.entry.id) if hit.group is None else ("group", hit.group)
