"""Routes of the gallery's entries: list, show, change, forget; enrolling is in `enrol_routes`."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response

from passreid.gallery.base import Entry, Where
from passreid.server.engine import Engine
from passreid.server.forms import Paging
from passreid.server.problems import Refusal
from passreid.server.schemas import (
    Change,
    EntryPage,
    Forget,
    ForgetAnswer,
    Stored,
    stored,
)

router = APIRouter(prefix="/v1", tags=["gallery"])


@router.get("/entries", response_model=EntryPage, summary="List entries")
async def entries(request: Request, query: Paging) -> Any:
    """List the entries that fit, page by page."""
    engine: Engine = request.app.state.engine
    where = query.where()
    after = None if query.after is None else str(query.after)
    page = await engine.ask(engine.gallery.page, where, limit=query.limit, after=after)
    count = await engine.ask(engine.gallery.count, where)
    return {"entries": [stored(each) for each in page.entries], "next": page.next, "count": count}


@router.get("/entries/{entry}", response_model=Stored, summary="Show one entry")
async def entry(request: Request, entry: UUID) -> Any:
    """Show what is known of an entry."""
    return stored(await find_entry(request.app.state.engine, entry))


@router.get(
    "/entries/{entry}/thumbnail",
    summary="An entry's thumbnail",
    response_class=Response,
    responses={200: {"description": "A small JPEG.", "content": {"image/jpeg": {}}}},
)
async def thumbnail(request: Request, entry: UUID) -> Response:
    """Give the small picture that was kept when the entry was enrolled."""
    found = await find_entry(request.app.state.engine, entry)
    if not found.thumbnail:
        raise Refusal(404, "This entry was enrolled without a thumbnail.")
    return Response(found.thumbnail, media_type="image/jpeg")


@router.patch("/entries/{entry}", response_model=Stored, summary="Change what is known of an entry")
async def change(request: Request, entry: UUID, body: Change) -> Any:
    """Set the fields that are given; null makes one unknown again."""
    engine: Engine = request.app.state.engine
    await find_entry(engine, entry)
    given = body.model_dump(exclude_unset=True)
    if given:
        if given.get("payload", {}) is None:
            given["payload"] = {}
        await engine.ask(engine.gallery.update, [str(entry)], **given)
        record(request, "update", ids=[str(entry)], fields=sorted(given))
    return stored(await find_entry(engine, entry))


@router.delete("/entries/{entry}", response_model=ForgetAnswer, summary="Forget one entry")
async def forget_one(request: Request, entry: UUID) -> Any:
    """Remove an entry: its embedding, thumbnail and everything said of it."""
    engine: Engine = request.app.state.engine
    await find_entry(engine, entry)
    record(request, "forget", ids=[str(entry)])
    return {"forgotten": await engine.forget(Where(ids=(str(entry),)))}


@router.post("/forget", response_model=ForgetAnswer, summary="Forget entries by filter")
async def forget(request: Request, body: Forget) -> Any:
    """Remove every entry that fits."""
    engine: Engine = request.app.state.engine
    where = body.where()
    if where == Where() and not body.everything:
        raise Refusal(
            422, "No filter is given, which would forget everything: say everything=true to do so."
        )
    record(request, "forget", filter=body.model_dump(mode="json", exclude_defaults=True))
    return {"forgotten": await engine.forget(where, everything=body.everything)}


async def find_entry(engine: Engine, entry: UUID) -> Entry:
    """Return an entry, with embedding and thumbnail.

    Raises:
        Refusal: 404.
    """
    found = await engine.ask(engine.gallery.get, [str(entry)])
    if not found:
        raise Refusal(404, f"There is no entry {entry}; it may have been forgotten.")
    return found[0]


def record(request: Request, action: str, **facts: Any) -> None:
    """Write to the audit log who asked for what.

    Raises:
        OutputError: It cannot be written.
    """
    client = request.client.host if request.client else ""
    engine: Engine = request.app.state.engine
    engine.audit.write(action, client=client, request=request.state.request_id, **facts)
