"""What the API takes and gives, field by field; /openapi.json is made of these."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from passreid.errors import UsageError
from passreid.gallery.base import Entry, Where
from passreid.gallery.validation import is_json
from passreid.times import parse_time

MAX_PAYLOAD_BYTES = 256 * 2**10
"""Of an entry's payload as JSON: it is returned with every listing and hit."""


def _storable(payload: dict[str, Any]) -> dict[str, Any]:
    """Refuse a payload that is too large, or that engines would not return unchanged."""
    with suppress(RecursionError):  # too deep, as found below
        text = json.dumps(payload, ensure_ascii=False)
        if len(text.encode(errors="surrogatepass")) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"must be at most {MAX_PAYLOAD_BYTES:,} bytes as JSON")
    if not is_json(payload):
        raise ValueError(
            "must be plain JSON without NaN, infinity, integers beyond 64 bits or deep nesting"
        )
    return payload


def _moment(value: Any) -> float:
    try:
        return parse_time(value, "it")
    except UsageError as error:
        raise ValueError(str(error).rstrip(".")) from None


Label = Annotated[str, Field(min_length=1, max_length=200)]
Labels = Annotated[list[Label], Field(max_length=200)]
Time = Annotated[
    float,
    BeforeValidator(_moment),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}]}),
]
Payload = Annotated[dict[str, Any], AfterValidator(_storable)]


class Model(BaseModel):
    """What every message has in common: no unknown fields."""

    model_config = ConfigDict(extra="forbid")


class About(Model):
    """Where a crop comes from; all of it is optional."""

    source: Label | None = Field(
        None, description="A name for people; the file's name if left out."
    )
    camera: Label | None = Field(None, description="The camera that took it.")
    time: Time | None = Field(
        None,
        description="When it was taken: ISO 8601 (2026-11-23T14:00Z) or Unix seconds, from 1990 "
        "on; now if left out when enrolling.",
    )
    person: Label | None = Field(None, description="Who it shows, if that is known.")
    tracklet: Label | None = Field(None, description="The track of one person it belongs to.")
    payload: Payload = Field(
        default_factory=dict, description="Anything else, as JSON of at most 256 KiB."
    )


class Change(Model):
    """What to change of an entry: fields left out stay as they are, null clears them."""

    camera: Label | None = Field(None, description="The camera that took it.")
    time: Time | None = Field(None, description="When it was taken: ISO 8601 or Unix seconds.")
    person: Label | None = Field(None, description="Who it shows.")
    tracklet: Label | None = Field(None, description="The track it belongs to.")
    payload: Payload | None = Field(
        None, description="Replaces the former payload, at most 256 KiB; null empties it."
    )


class Stored(Model):
    """An entry of the gallery, without its embedding."""

    id: UUID = Field(description="Its id; the same picture always gets the same one.")
    content_hash: str = Field(description="SHA-256 of the enrolled file, in hex.")
    source: str = Field(description="A name for people.")
    camera: str | None = Field(description="The camera that took it.")
    time: float | None = Field(description="Unix seconds (UTC) when it was taken.")
    person: str | None = Field(description="Who it shows, if that is known.")
    tracklet: str | None = Field(description="The track of one person it belongs to.")
    payload: dict[str, Any] = Field(description="What else was said of it.")
    thumbnail: str = Field(description="Where its thumbnail is (relative to the service's root).")


class Found(Stored):
    """An entry that a search found."""

    rank: int = Field(ge=1, description="1 is the most alike.")
    cosine: float = Field(ge=-1, le=1, description="How alike query and entry are.")
    probability: float | None = Field(
        description="That both show one person, if half of all pairs did; null if not calibrated. "
        "In a gallery they do not: read the expected strangers."
    )
    false_match_rate: float | None = Field(
        description="Share of pairs of different people at least as alike; null if not calibrated."
    )
    expected_strangers: float | None = Field(
        description="Entries of other people expected at or above this score in one search."
    )
    is_bound: bool | None = Field(description="Both figures are upper bounds, not measured.")
    band: Literal["strong", "possible", "weak"] | None = Field(
        description="strong: fewer than 0.05 strangers expected; possible: fewer than 1."
    )
    group: str | None = Field(description="The person or tracklet it stands for when grouped.")


class SearchAnswer(Model):
    """What a search found, best first."""

    hits: list[Found] = Field(description="Best first; empty when nothing fits.")
    searched: int = Field(ge=0, description="Entries in the gallery.")
    seconds: float = Field(ge=0, description="From the request's body to this answer.")


class EntryPage(Model):
    """Some of the entries, and where the next ones begin."""

    entries: list[Stored] = Field(description="In the order of their ids.")
    next: str | None = Field(description="Give this as `after` for the next page; null at the end.")
    count: int = Field(ge=0, description="All entries that fit the filters.")


class Embedding(Model):
    """One crop's embedding."""

    source: str = Field(description="The file's name.")
    box: tuple[float, float, float, float] | None = Field(
        description="The box that was cut out, as it was sent; null for a whole picture."
    )
    embedding: list[float] = Field(description="D numbers as the network gives them.")


class EmbedAnswer(Model):
    """Embeddings, in the order of files and boxes."""

    model: str = Field(description="Identity of the model; only compare what has the same one.")
    dim: int = Field(description="Numbers in an embedding, D.")
    embeddings: list[Embedding] = Field(description="One for each file, or for each of its boxes.")


class CompareAnswer(Model):
    """How alike two crops are."""

    cosine: float = Field(ge=-1, le=1, description="Of their embeddings.")
    probability: float | None = Field(description="That both show one person; null: uncalibrated.")
    same_person: bool | None = Field(
        description="Whether the cosine reaches the threshold; null where that is."
    )
    threshold: float | None = Field(
        description="Cosine from which two crops count as one person; null: no rate was asked for, "
        "and that of 0.001 is not known."
    )
    false_accept_rate: float | None = Field(description="The rate the threshold belongs to.")


class Look(Model):
    """Where one token of the last block looks."""

    token: str = Field(description='"CLS", or "part 1", "part 2", …')
    grid: list[list[float]] = Field(
        description="A share for each patch, row by row from the top; together they are 1."
    )


class AttentionAnswer(Model):
    """Where the model looks in a crop."""

    rows: int = Field(ge=1, description="Patches from top to bottom.")
    columns: int = Field(ge=1, description="Patches from left to right.")
    tokens: list[Look] = Field(description="CLS first, then the parts.")


class Filters(Model):
    """Which entries count; all that is given must hold."""

    cameras: Labels = Field(default_factory=list, description="Of these cameras.")
    not_cameras: Labels = Field(default_factory=list, description="Not of these cameras.")
    people: Labels = Field(default_factory=list, description="Of these people.")
    tracklets: Labels = Field(default_factory=list, description="Of these tracklets.")
    sources: Labels = Field(default_factory=list, description="Of these sources.")
    since: Time | None = Field(
        None, description="Taken at or after this: ISO 8601 or Unix seconds."
    )
    until: Time | None = Field(None, description="Taken before this, likewise.")

    def where(self) -> Where:
        """Return the filter this stands for.

        Raises:
            UsageError: since is not before until.
        """
        named = ("cameras", "not_cameras", "people", "tracklets", "sources")
        many: dict[str, Any] = {name: tuple(getattr(self, name)) for name in named}
        return Where(**many, since=self.since, until=self.until).check()


class Forget(Filters):
    """Which entries to forget: all fields that are given must hold."""

    ids: list[UUID] = Field(default_factory=list, max_length=10_000, description="These entries.")
    everything: bool = Field(
        False, strict=True, description="Must be true to forget without any filter."
    )

    def where(self) -> Where:
        """Return the filter this stands for."""
        return replace(super().where(), ids=tuple(str(each) for each in self.ids))


class ForgetAnswer(Model):
    """What was forgotten."""

    forgotten: int = Field(ge=0, description="Entries that are gone.")


class EnrolLine(Model):
    """One line of an enrolment's stream."""

    event: Literal["added", "known", "skipped", "done", "stopped"] = Field(
        description="What became of one file; `done` or `stopped` is the last line."
    )
    index: int | None = Field(None, description="The file's place in the request, from 0.")
    source: str | None = Field(None, description="The file's name.")
    id: UUID | None = Field(None, description="Its entry; the entry is on disk when you read this.")
    reason: str | None = Field(
        None,
        description="Why it was skipped, what was not taken of a known one, or why the rest was "
        "not read.",
    )
    added: int | None = Field(None, description="On the last line: new entries.")
    known: int | None = Field(None, description="On the last line: files that were there already.")
    skipped: int | None = Field(None, description="On the last line: files that could not be read.")


class Point(Model):
    """An operating point of the calibration."""

    false_accept_rate: float = Field(description="Share of different people taken for one.")
    threshold: float = Field(description="The cosine that gives it.")
    true_accept_rate: float = Field(description="Share of the same people that are found with it.")


class CalibrationInfo(Model):
    """What cosines mean: P(same) = 1 / (1 + exp(-(slope * cosine + intercept)))."""

    slope: float = Field(description="Of the logistic curve.")
    intercept: float = Field(description="Of the logistic curve.")
    data: str = Field(description="What it was fitted on; other cameras may differ.")
    points: list[Point] = Field(description="From the loosest to the strictest.")


class ModelInfo(Model):
    """The model that embeds."""

    name: str = Field(description="Its name.")
    identity: str = Field(description="Name and hash of its weights.")
    dim: int = Field(description="Numbers in an embedding.")
    height: int = Field(description="Input height in pixels.")
    width: int = Field(description="Input width in pixels.")
    backend: str = Field(description="What runs it.")
    licence: str = Field(description="Terms of its weights.")
    attention: bool = Field(description="Whether /v1/attention can show where it looks.")
    parts: int = Field(description="Part tokens.")


class GalleryInfo(Model):
    """The gallery that is searched."""

    name: str = Field(description="Its name.")
    engine: str = Field(description="What keeps it.")
    count: int = Field(description="Entries.")
    bytes_on_disk: int | None = Field(description="What it takes, where that is known.")


class LimitsInfo(Model):
    """What one request may hold."""

    file_bytes: int = Field(description="Of one picture.")
    request_bytes: int = Field(description="Of a whole request.")
    pixels: int = Field(description="Of one picture.")
    files: int = Field(description="Pictures in one request.")


class ServiceInfo(Model):
    """What runs here."""

    version: str = Field(description="Of passreid.")
    model: ModelInfo = Field(description="The model that embeds.")
    gallery: GalleryInfo = Field(description="The gallery that is searched.")
    calibration: CalibrationInfo | None = Field(description="null when never calibrated.")
    limits: LimitsInfo = Field(description="What one request may hold.")
    retention_days: float | None = Field(
        description="Entries are forgotten after this; null: never."
    )


class Health(Model):
    """Whether the service works."""

    status: Literal["ok"] = Field(description="Always ok; a problem is answered otherwise.")


def stored(entry: Entry) -> dict[str, Any]:
    """Return an entry as the API shows it."""
    return {
        "id": entry.id,
        "content_hash": entry.content_hash,
        "source": entry.source,
        "camera": entry.camera,
        "time": entry.time,
        "person": entry.person,
        "tracklet": entry.tracklet,
        "payload": dict(entry.payload),
        "thumbnail": f"v1/entries/{entry.id}/thumbnail",
    }
