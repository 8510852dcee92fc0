"""Entries and filters in the words of Qdrant, in the process or on a server, and points in ours."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from passreid.errors import UsageError
from passreid.gallery.base import Entry, Where

INDEXED = ("camera", "person", "tracklet", "source")
"""Fields a filter names by their words; "time" is the one it names by a span."""

_ID = "6f1b0f5e-8f0a-4c39-9a53-1d6c2f3f7a10"  # an example


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


def is_id(text: str) -> bool:
    """Whether an entry may be called so: a UUID, written as the engines write it anyway."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def check_ids(ids: Iterable[str]) -> None:
    """Refuse ids no entry can have.

    Raises:
        UsageError: One is no UUID in small letters.
    """
    for id in ids:
        if not is_id(id):
            raise UsageError(
                f"'{id}' is no id of an entry; ids are UUIDs in small letters, such as {_ID}."
            )


def payload(entry: Entry) -> dict[str, Any]:
    names = ("content_hash", "source", "camera", "time", "person", "tracklet")
    known = {name: getattr(entry, name) for name in names}
    return {k: v for k, v in known.items() if v is not None} | {"payload": dict(entry.payload)}


def entry_of(point: Any, **more: Any) -> Entry:
    return Entry(id=str(point.id), **(dict(point.payload or {}) | more))


def condition(where: Where | None, words: Words) -> Any:
    """Return a filter in the engine's classes; None for one that lets all through.

    Raises:
        UsageError: An id is no UUID, or a time is not finite.
    """
    if where is None or where == Where():
        return None
    check_ids((*where.ids, *where.not_ids))
    for moment in (where.since, where.until):
        if moment is not None and not math.isfinite(moment):
            raise UsageError(f"{moment} is no time; give Unix seconds.")
    must: list[Any] = []
    if where.ids:
        must.append(words.has_id(list(where.ids)))
    labels = (where.cameras, where.people, where.tracklets, where.sources)
    for name, values in zip(INDEXED, labels, strict=True):
        if values:
            must.append(words.any_of(name, list(values)))
    if where.since is not None or where.until is not None:
        must.append(words.span("time", where.since, where.until))
    barred: list[Any] = []
    if where.not_ids:
        barred.append(words.has_id(list(where.not_ids)))
    if where.not_cameras:
        barred.append(words.any_of("camera", list(where.not_cameras)))
    return words.whole(must or None, barred or None)
