"""Form fields that several routes share: uploads, boxes, filters."""

from __future__ import annotations

import json
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, File, Form, Query, Request, UploadFile
from fastapi.dependencies.models import Dependant
from pydantic import Field, TypeAdapter, ValidationError

from passreid.embed.boxes import BoxFormat
from passreid.images import describe
from passreid.server.pictures import Box
from passreid.server.problems import Refusal, printable, said_of
from passreid.server.schemas import About, Filters, Labels, Time

MOST_BOXES = 64
MOST_HITS = 500

BoxUnit = Annotated[
    BoxFormat,
    Form(
        description="Order and unit of boxes: corners (xyxy), left, top, width, height (xywh) or "
        "centre, width, height (cxcywh) in pixels; with n at the end relative to the frame, 0 to 1."
    ),
]
Upload = Annotated[UploadFile, File(description="A picture: JPEG, PNG, WebP, BMP, GIF or TIFF.")]
Uploads = Annotated[list[UploadFile], File(description="One picture or several.", min_length=1)]


class PageQuery(Filters):
    """Filters, and which page of the matching entries."""

    limit: int = Field(100, ge=1, le=1000, description="Entries on a page.")
    after: UUID | None = Field(None, description="The last page's `next`.")


Paging = Annotated[PageQuery, Query()]


def filters(
    cameras: Annotated[Labels | None, Form(description="Of these cameras.")] = None,
    not_cameras: Annotated[Labels | None, Form(description="Not of these cameras.")] = None,
    people: Annotated[Labels | None, Form(description="Of these people.")] = None,
    tracklets: Annotated[Labels | None, Form(description="Of these tracklets.")] = None,
    sources: Annotated[Labels | None, Form(description="Of these sources.")] = None,
    since: Annotated[
        Time | None, Form(description="Taken at or after: a date or Unix seconds.")
    ] = None,
    until: Annotated[Time | None, Form(description="Taken before.")] = None,
) -> Filters:
    """Read the filters of a form."""
    given = {"cameras": cameras, "not_cameras": not_cameras, "people": people}
    given |= {"tracklets": tracklets, "sources": sources}
    many: dict[str, Any] = {name: values or [] for name, values in given.items()}
    return Filters(**many, since=since, until=until)


FormFilters = Annotated[Filters, Depends(filters)]


async def known_fields(request: Request) -> None:
    """Reject fields the form does not have: a misspelt filter would let everything through.

    Raises:
        Refusal: 422.
    """
    names = _fields(request.scope["route"].dependant)
    for given in [*request.query_params, *await request.form()]:
        if given not in names:
            raise Refusal(
                422,
                f"{printable(given)}: is no field of this form; it has {', '.join(names)}.",
            )
        if given in request.query_params:
            raise Refusal(422, f"{given}: belongs in the form, not in the address.")


def _fields(dependant: Dependant) -> list[str]:
    more = [name for each in dependant.dependencies for name in _fields(each)]
    return [field.alias for field in dependant.body_params] + more


FORM = [Depends(known_fields)]


def name_of(upload: UploadFile, index: int) -> str:
    """Name an upload in one printable line."""
    return describe(upload.filename or f"picture {index}")


def parse_boxes(text: str | None) -> list[Box]:
    """Read `[[left, top, right, bottom], …]`.

    Raises:
        Refusal: 422, it is something else.
    """
    if not text:
        return []
    try:
        return _BOXES.validate_json(text)
    except ValidationError:
        raise Refusal(
            422,
            f"boxes: must be JSON like [[left, top, right, bottom]], at most {MOST_BOXES} boxes "
            "of finite numbers.",
        ) from None


def parse_box(text: str | None) -> list[Box]:
    """Read `[left, top, right, bottom]`; no box where there is none.

    Raises:
        Refusal: 422, it is something else.
    """
    if not text:
        return []
    try:
        return [_BOX.validate_json(text)]
    except ValidationError:
        raise Refusal(
            422, "box: must be JSON like [left, top, right, bottom], four finite numbers."
        ) from None


def parse_about(text: str | None, files: int) -> list[About]:
    """Read the `about` of each file: a JSON object for all, or a list with one for each.

    Raises:
        Refusal: 422, it is something else.
    """
    try:
        values = json.loads(text) if text else {}
        if isinstance(values, dict):
            return [About.model_validate(values)] * files
        abouts = _ABOUTS.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        shown = printable(".".join(str(part) for part in first["loc"]))
        place = f"about.{shown}" if shown else "about"
        raise Refusal(422, f"{place}: {said_of(first)}.") from None
    except (ValueError, RecursionError):
        raise Refusal(422, "about: must be a JSON object, or a list of them.") from None
    if len(abouts) != files:
        raise Refusal(422, f"about: describes {len(abouts)} files, but {files} were sent.")
    return abouts


_Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
_Corners = tuple[_Number, _Number, _Number, _Number]
_BOX = TypeAdapter(_Corners)
_BOXES = TypeAdapter(Annotated[list[_Corners], Field(max_length=MOST_BOXES)])
_ABOUTS = TypeAdapter(list[About])
