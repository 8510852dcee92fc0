"""Entries and filters in the engine's words, and points in ours."""

from __future__ import annotations

from typing import Any

import qdrant_edge as edge

from passreid.gallery.base import Entry, GroupBy, Hit, Where


def payload(entry: Entry) -> dict[str, Any]:
    names = ("content_hash", "source", "camera", "time", "person", "tracklet")
    known = {name: getattr(entry, name) for name in names}
    return {k: v for k, v in known.items() if v is not None} | {"payload": dict(entry.payload)}


def entry_of(point: Any, **more: Any) -> Entry:
    return Entry(id=str(point.id), **(dict(point.payload or {}) | more))


def hit_of(point: Any, group_by: GroupBy | None) -> Hit:
    entry = entry_of(point)
    score = min(max(float(point.score), -1.0), 1.0)
    return Hit(entry, score, getattr(entry, group_by) if group_by else None)


def group_of(hit: Hit) -> tuple[str, str]:
    """Return what a hit is grouped by; one without a label stands for itself."""
    return ("id", hit.entry.id) if hit.group is None else ("group", hit.group)


def condition(where: Where | None) -> Any:
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
