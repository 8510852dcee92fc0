"""Requests of the API, field by field; /openapi.json is generated from these models."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Annotated, Any
from uuid import UUID

from fastapi import UploadFile
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Json,
    Tag,
    WithJsonSchema,
)

from passreid.embed import BoxFormat
from passreid.errors import UsageError
from passreid.gallery.base import GroupBy, Where
from passreid.gallery.validation import is_json
from passreid.times import parse_time

MAX_PAYLOAD_BYTES = 256 * 2**10  # it is returned with every hit


def _check_payload(payload: dict[str, Any]) -> dict[str, Any]:
    with suppress(RecursionError):  # too deep, as found below
        text = json.dumps(payload, ensure_ascii=False)
        if len(text.encode(errors="surrogatepass")) > MAX_PAYLOAD_BYTES:
            raise ValueError(f"must be at most {MAX_PAYLOAD_BYTES:,} bytes as JSON")
    if not is_json(payload):
        raise ValueError(
            "must be plain JSON without NaN, infinity, integers beyond 64 bits or deep nesting"
        )
    return payload


def _parse_time(value: Any) -> float:
    try:
        return parse_time(value, "it")
    except UsageError as error:
        raise ValueError(str(error).rstrip(".")) from None


def described(text: str) -> Any:
    """Shorten `Field(description=…)` for type aliases."""
    return Field(description=text)


Label = Annotated[str, Field(min_length=1, max_length=200)]
Labels = Annotated[list[Label], Field(max_length=200)]
Time = Annotated[
    float,
    BeforeValidator(_parse_time),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}]}),
]
Payload = Annotated[dict[str, Any], AfterValidator(_check_payload)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Box = tuple[Number, Number, Number, Number]
Image = Annotated[UploadFile, described("An image: JPEG, PNG, WebP, BMP, GIF or TIFF.")]
Images = Annotated[list[UploadFile], Field(description="One image or several.", min_length=1)]

Camera = Annotated[Label | None, described("The camera that took the image.")]
When = Annotated[
    Time | None, described("Time of the image: ISO 8601 (2026-11-23T14:00Z) or Unix seconds.")
]
Person = Annotated[Label | None, described("Who the image shows, if known.")]
Tracklet = Annotated[Label | None, described("The track of one person it belongs to.")]
Boxed = Annotated[
    BoxFormat,
    described(
        "Corners (xyxy), left top width height (xywh) or centre "
        "width height (cxcywh); ending in n: relative, 0 to 1."
    ),
]


class Model(BaseModel):
    """Base of all messages: unknown fields are rejected."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)


class About(Model):
    """Labels of an image to enrol; all are optional."""

    source: Label | None = Field(None, description="A readable name; by default the file's.")
    camera: Camera = None
    time: When = Field(None, description="ISO 8601 or Unix seconds from 1990 on; by default now.")
    person: Person = None
    tracklet: Tracklet = None
    payload: Payload = Field({}, description="Any other data, as JSON of at most 256 KiB.")


class Change(Model):
    """Labels to change: omitted fields are kept, null clears them."""

    camera: Camera = None
    time: When = None
    person: Person = None
    tracklet: Tracklet = None
    payload: Payload | None = Field(None, description="Replaces the payload; null empties it.")


class Filters(Model):
    """Filters on entries; all that are given must hold."""

    cameras: Labels = Field([], description="Only these cameras.")
    not_cameras: Labels = Field([], description="None of these cameras.")
    people: Labels = Field([], description="Only these people.")
    tracklets: Labels = Field([], description="Only these tracklets.")
    sources: Labels = Field([], description="Only these sources.")
    since: Time | None = Field(None, description="Taken at or after: ISO 8601 or Unix seconds.")
    until: Time | None = Field(None, description="Taken before: ISO 8601 or Unix seconds.")

    def where(self) -> Where:
        """Return the gallery's filter; raise UsageError if since is not before until."""
        given = self.model_dump(include=set(Where.__dataclass_fields__), exclude_defaults=True)
        many = {n: tuple(map(str, v)) for n, v in given.items() if isinstance(v, list)}
        return Where(**{**given, **many}).check()


class PageQuery(Filters):
    """Filters, and a page of the matching entries."""

    limit: int = Field(100, ge=1, le=1000, description="Entries per page.")
    after: UUID | None = Field(None, description="`next` of the page before.")


class Forget(Filters):
    """Entries to delete: all filters that are given must hold."""

    ids: list[UUID] = Field([], max_length=10_000, description="Only these entries.")
    everything: bool = Field(
        False, strict=True, description="Must be true to delete everything, without any filter."
    )


class SearchForm(Filters):
    """A query, filters and options of a search."""

    images: list[UploadFile] = Field(
        [], description="An image of the person; several are searched together as one tracklet."
    )
    entry: UUID | None = Field(None, description="Or the entry to search with.")
    box: Json[Box | None] = Field(
        None, description="The person in a frame, such as [9, 9, 50, 90]."
    )
    box_format: Boxed = "xyxy"
    query_camera: str | None = Field(
        None, description="Camera of the query; a centred gallery subtracts its mean."
    )
    top_k: int = Field(20, ge=1, le=500, description="Number of hits at most.")
    min_score: float | None = Field(
        None, ge=-1, le=1, allow_inf_nan=False, description="Smallest cosine."
    )
    group_by: GroupBy | None = Field(None, description="Best hit per person or tracklet only.")


class EmbedForm(Model):
    """Images to embed, or boxes of one frame."""

    images: Images
    boxes: Json[Annotated[list[Box], Field(max_length=64)]] = Field(
        [], description="Boxes in one frame: [[left, top, right, bottom], …]."
    )
    box_format: Boxed = "xyxy"


class CompareForm(Model):
    """Two images to compare."""

    a: Image
    b: Image
    false_accept_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Accepted share of false matches, a calibrated one; by default 0.001.",
    )


class AttentionForm(Model):
    """An image (with a box, if it is a frame) or an entry."""

    image: UploadFile | None = Field(None, description="An image of one person.")
    entry: UUID | None = Field(None, description="Or the entry whose thumbnail is used.")
    box: Json[Box | None] = Field(
        None, description="The person in a frame, such as [9, 9, 50, 90]."
    )
    box_format: Boxed = "xyxy"


class EnrolForm(Model):
    """Images to enrol and their labels."""

    files: Images
    about: Json[
        Annotated[
            Annotated[About, Tag("one")] | Annotated[list[About], Tag("each")],
            Discriminator(lambda value: "one" if isinstance(value, dict) else "each"),
        ]
    ] = Field(
        default_factory=lambda: About.model_validate({}),
        description="Labels (`About`) for all files, or a list with one per file.",
    )
    thumbnails: bool = Field(True, description="Keep thumbnails.")
