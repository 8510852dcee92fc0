"""What a gallery holds and gives: entries, filters, hits, pages."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from passreid.errors import UsageError
from passreid.gallery.validation import LABELS, check_ids, clean_label
from passreid.similarity import F32
from passreid.times import as_seconds, is_time, show_time

GroupBy = Literal["person", "tracklet"]
Pooling = Literal["mean", "best"]

_NAMESPACE = uuid.UUID("6f1b0f5e-8f0a-4c39-9a53-1d6c2f3f7a10")

FORMAT = 1
"""Version of the layout of galleries on disk and on servers; another one is refused."""


def entry_id(content_hash: str) -> str:
    """Return the id of an entry that is given none: the same picture always has the same."""
    return str(uuid.uuid5(_NAMESPACE, content_hash))


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """One picture of a person.

    Labels are trimmed and their letters composed (Unicode NFC); integers, as trackers number their
    tracks, become text.

    Attributes:
        content_hash: Of the picture (`images.content_hash`); enrolling it again changes nothing.
        embedding: (D,) float32; None where it was not asked for. Stored at unit length in float16.
        id: A UUID in small letters; from the content hash when not given.
        source: Where the picture came from, kept as it is.
        camera, person, tracklet: Labels; None is unknown, and so is an empty one.
        time: When it was taken: Unix seconds, or a datetime (UTC where it has no zone), which
            becomes Unix seconds; None is unknown.
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
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, clean_label(value))
        object.__setattr__(self, "time", as_seconds(self.time))


@dataclass(frozen=True, kw_only=True)
class Where:
    """A filter: everything that is given must hold, an empty one lets all through.

    Labels are cleaned as those of `Entry` are, so a name fits however its letters are composed.

    Attributes:
        ids, cameras, people, tracklets, sources: One of these.
        not_ids, not_cameras: None of these; an entry without a camera passes.
        since, until: since <= time < until, Unix seconds or datetimes; an entry without a time
            does not pass.

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
        for name, value in vars(self).copy().items():
            moment = name in ("since", "until")
            if isinstance(value, str):
                right = "a datetime or Unix seconds" if moment else f"a tuple, ({value!r},)"
                raise UsageError(f"{name} is the text {value!r}; give {right}.")
            if moment:
                object.__setattr__(self, name, as_seconds(value))
            elif name in ("cameras", "not_cameras", "people", "tracklets"):
                # "" stays: it fits nobody, as no entry has an empty label.
                cleaned = (clean_label(each) or each for each in value)
                object.__setattr__(self, name, tuple(cleaned))

    def check(self) -> Where:
        """Return the filter itself.

        Raises:
            UsageError: An id is no UUID, a label is no text, a time is none, or since is not
                before until.
        """
        check_ids(self.ids, "an id of the filter")
        check_ids(self.not_ids, "an id of the filter")
        for name in ("cameras", "not_cameras", "people", "tracklets", "sources"):
            for value in getattr(self, name):
                if not isinstance(value, str):
                    raise UsageError(f"{name} holds {value!r}; give the names as text.")
        for name in ("since", "until"):
            moment = getattr(self, name)
            if moment is not None and not is_time(moment):
                raise UsageError(f"{name} is {moment!r}; give a datetime or Unix seconds.")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise UsageError(
                f"since ({show_time(self.since)}) is not before until ({show_time(self.until)}): "
                "nothing lies between them; exchange the two."
            )
        return self


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
        name: Its file or its collection's name.
        engine: "sqlite" or "qdrant".
        model, dim: Identity of the model and width of its embeddings.
        count: Entries.
        centred: Whether searches subtract each camera's mean embedding.
        bytes_on_disk: None where it is not known.
    """

    name: str
    engine: str
    model: str
    dim: int
    count: int
    bytes_on_disk: int | None
    centred: bool = False


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a new gallery on a cluster is spread.

    Attributes:
        shards, replicas: Parts it is split into, and copies of each; None is the server's default.
    """

    shards: int | None = None
    replicas: int | None = None
