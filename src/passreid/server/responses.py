"""Responses of the API, field by field; /openapi.json is generated from these models."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from passreid.gallery.base import Entry
from passreid.server.requests import Camera, Model, Person, Tracklet, described

Probability = Annotated[
    float | None, described("P(same person) at a prior of one half; null if not calibrated.")
]


class EntryAnswer(Model):
    """An entry of the gallery, without its embedding."""

    id: UUID = Field(description="Its id; the same file always gets the same one.")
    content_hash: str = Field(description="SHA-256 of the enrolled file, in hex.")
    source: str = Field(description="A readable name.")
    camera: Camera
    time: float | None = Field(description="Unix seconds (UTC) of the image.")
    person: Person
    tracklet: Tracklet
    payload: dict[str, Any] = Field(description="Any other data.")
    thumbnail: str = Field(description="Path of its thumbnail, relative to the service's root.")


class HitAnswer(EntryAnswer):
    """An entry that a search found."""

    rank: int = Field(ge=1, description="1 is the most similar.")
    cosine: float = Field(ge=-1, le=1, description="Cosine similarity of query and entry.")
    probability: Probability
    false_match_rate: float | None = Field(
        description="Share of pairs of different people with this score or more; null likewise."
    )
    expected_strangers: float | None = Field(
        description="Expected number of other people at or above this score in this gallery."
    )
    is_bound: bool | None = Field(description="Both are upper bounds, not measured.")
    band: Literal["strong", "possible", "weak"] | None = Field(
        description="strong: fewer than 0.05 strangers expected; possible: fewer than 1."
    )
    group: str | None = Field(description="The person or tracklet it represents when grouped.")


class SearchAnswer(Model):
    """Hits of a search."""

    hits: list[HitAnswer] = Field(description="Most similar first; empty if nothing matches.")
    searched: int = Field(ge=0, description="Entries in the gallery.")
    seconds: float = Field(ge=0, description="Time taken.")


class EntryPage(Model):
    """A page of entries."""

    entries: list[EntryAnswer] = Field(description="Sorted by id.")
    next: str | None = Field(description="`after` of the next page; null at the end.")
    count: int = Field(ge=0, description="Number of all matching entries.")


class Embedding(Model):
    """The embedding of one crop."""

    source: str = Field(description="The file's name.")
    box: tuple[float, float, float, float] | None = Field(
        description="The box as it was sent; null for a whole image."
    )
    embedding: list[float] = Field(description="D numbers, not normalised.")


class EmbedAnswer(Model):
    """Embeddings, in the order of files and boxes."""

    model: str = Field(description="Model identity; only compare embeddings with the same one.")
    dim: int = Field(description="Dimension D of an embedding.")
    embeddings: list[Embedding] = Field(description="One per file, or per box.")


class CompareAnswer(Model):
    """Similarity of two crops."""

    cosine: float = Field(ge=-1, le=1, description="Cosine of the embeddings.")
    probability: Probability
    same_person: bool | None = Field(
        description="Whether the cosine reaches the threshold; null without one."
    )
    threshold: float | None = Field(
        description="Cosine from which two crops count as one person; null if not calibrated."
    )
    false_accept_rate: float | None = Field(description="Rate that the threshold was chosen for.")


class AttentionMap(Model):
    """Attention of one token in the last block."""

    token: str = Field(description='"CLS", or "part 1", "part 2", …')
    grid: list[list[float]] = Field(description="A share per patch, from the top; they sum to 1.")


class AttentionAnswer(Model):
    """Attention of CLS and the parts."""

    rows: int = Field(ge=1, description="Patches from top to bottom.")
    columns: int = Field(ge=1, description="Patches from left to right.")
    tokens: list[AttentionMap] = Field(description="CLS first, then the parts.")


class ForgetAnswer(Model):
    """Result of a deletion."""

    forgotten: int = Field(ge=0, description="Number of deleted entries.")


class EnrolLine(Model):
    """A line of an enrolment's stream."""

    event: Literal["added", "known", "skipped", "done", "stopped"] = Field(
        description="Result for one file; `done` or `stopped` is the last line."
    )
    index: int | None = Field(None, description="Position of the file in the request, from 0.")
    source: str | None = Field(None, description="The file's name.")
    id: UUID | None = Field(None, description="Its entry, which is on disk by now.")
    reason: str | None = Field(None, description="Why it was skipped, unchanged or not read.")
    added: int | None = Field(None, description="Last line: new entries.")
    known: int | None = Field(None, description="Last line: files that were there before.")
    skipped: int | None = Field(None, description="Last line: unreadable files.")


class Point(Model):
    """An operating point of the calibration."""

    false_accept_rate: float = Field(description="Share of different people taken for one.")
    threshold: float = Field(description="The cosine that gives it.")
    true_accept_rate: float = Field(description="Share of pairs of one person accepted with it.")


class CalibrationInfo(Model):
    """P(same person) = 1 / (1 + exp(-(slope * cosine + intercept)))."""

    slope: float = Field(description="Slope of the logistic curve.")
    intercept: float = Field(description="Intercept of the logistic curve.")
    data: str = Field(description="Data it was fitted on; other cameras may differ.")
    points: list[Point] = Field(description="Loosest first.")


class ModelInfo(Model):
    """The model."""

    name: str = Field(description="Name.")
    identity: str = Field(description="Name and hash of the weights.")
    dim: int = Field(description="Dimension of an embedding.")
    height: int = Field(description="Input height in pixels.")
    width: int = Field(description="Input width in pixels.")
    backend: str = Field(description="Inference engine.")
    licence: str = Field(description="Licence of the weights.")
    attention: bool = Field(description="Whether /v1/attention is available.")
    parts: int = Field(description="Number of part tokens.")


class GalleryInfo(Model):
    """The gallery."""

    name: str = Field(description="Name.")
    engine: str = Field(description="Storage engine.")
    count: int = Field(description="Number of entries.")
    bytes_on_disk: int | None = Field(description="Size on disk, if known.")


class LimitsInfo(Model):
    """Limits of a request."""

    file_bytes: int = Field(description="Bytes per image.")
    request_bytes: int = Field(description="Bytes per request.")
    pixels: int = Field(description="Pixels per image.")
    files: int = Field(description="Images per request.")


class ServiceInfo(Model):
    """What this service runs."""

    version: str = Field(description="Version of passreid.")
    model: ModelInfo = Field(description="The model.")
    gallery: GalleryInfo = Field(description="The gallery.")
    calibration: CalibrationInfo | None = Field(description="null if not calibrated.")
    limits: LimitsInfo = Field(description="Limits of a request.")
    retention_days: float | None = Field(description="Age at which entries are deleted, if any.")


class Health(Model):
    """Health of the service."""

    status: Literal["ok"] = Field(description="Always ok; failures are problems.")


def entry_answer(entry: Entry) -> dict[str, Any]:
    """Return an entry as the API shows it."""
    names = ("id", "content_hash", "source", "camera", "time", "person", "tracklet", "payload")
    shown = {name: getattr(entry, name) for name in names}
    return {**shown, "thumbnail": f"v1/entries/{entry.id}/thumbnail"}
