"""Entries and filters as Qdrant's points and conditions."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from qdrant_client import models

from passreid.errors import GalleryError, UsageError
from passreid.gallery.base import Entry, Where
from passreid.gallery.validation import check_values

INDEXED = ("camera", "person", "tracklet", "source", "content_hash")
"""Fields that are sought by their words; "time" is the one that is sought by a span."""

THUMBNAIL = "thumbnail"


def payload(entry: Entry) -> dict[str, Any]:
    """Return what is known of an entry, as a point's payload; unknown fields are left out."""
    names = ("content_hash", "source", "camera", "time", "person", "tracklet")
    known = {name: getattr(entry, name) for name in names}
    if entry.thumbnail is not None:
        known[THUMBNAIL] = base64.b64encode(entry.thumbnail).decode()
    return {k: v for k, v in known.items() if v is not None} | {"payload": dict(entry.payload)}


def entry_of(point: Any) -> Entry:
    """Make an entry of a point: whole, where the point comes with its vector.

    Raises:
        GalleryError: It holds what passreid does not store.
    """
    held = dict(point.payload or {})
    try:
        picture, vector = held.pop(THUMBNAIL, None), getattr(point, "vector", None)
        entry = Entry(
            id=str(point.id),
            embedding=None if vector is None else np.asarray(vector, np.float32),
            thumbnail=None if picture is None else base64.b64decode(picture),
            **held,
        )
        check_values(vars(entry))
    except (TypeError, ValueError, UsageError) as error:
        raise GalleryError(
            f"entry {point.id} on the server is not as passreid stores it ({error}); "
            "remove it there."
        ) from None
    return entry


def any_of(name: str, values: list[str]) -> models.FieldCondition:
    """Return the condition that a field has one of some values."""
    return models.FieldCondition(key=name, match=models.MatchAny(any=values))


def condition(where: Where | None) -> models.Filter | None:
    """Return a filter as Qdrant has it; None for one that lets all through."""
    if where is None or where == Where():
        return None
    must: list[models.Condition] = []
    if where.ids:
        must.append(models.HasIdCondition(has_id=list(where.ids)))
    labels = (where.cameras, where.people, where.tracklets, where.sources)
    for name, values in zip(INDEXED, labels, strict=False):
        if values:
            must.append(any_of(name, list(values)))
    if where.since is not None or where.until is not None:
        span = models.Range(gte=where.since, lt=where.until)
        must.append(models.FieldCondition(key="time", range=span))
    barred: list[models.Condition] = []
    if where.not_ids:
        barred.append(models.HasIdCondition(has_id=list(where.not_ids)))
    if where.not_cameras:
        barred.append(any_of("camera", list(where.not_cameras)))
    return models.Filter(must=must or None, must_not=barred or None)
