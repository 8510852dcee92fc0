"""Routes of the gallery: search, list, show, change, delete; enrolling is in `routes_enrol`."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

import numpy as np
from fastapi import APIRouter, HTTPException, Query, Request, Response

from passreid.backends import F32
from passreid.gallery.base import Where
from passreid.server.engine import Engine
from passreid.server.images import Crop
from passreid.server.requests import Change, Forget, PageQuery, SearchForm
from passreid.server.responses import (
    EntryAnswer,
    EntryPage,
    ForgetAnswer,
    SearchAnswer,
    entry_answer,
)
from passreid.server.routes_model import FORM, MULTIPART
from passreid.verify import explain_hit

router = APIRouter(prefix="/v1", tags=["gallery"])


@router.post("/search", response_model=SearchAnswer, summary="Search", dependencies=FORM)
async def search(request: Request, form: Annotated[SearchForm, MULTIPART]) -> Any:
    """Find the entries most similar to a person. An entry does not find itself."""
    began = time.perf_counter()
    engine: Engine = request.app.state.engine
    if bool(form.images) == (form.entry is not None):
        raise HTTPException(422, "Send either images or entry: exactly one of them is searched.")
    if form.entry is not None and form.box:
        raise HTTPException(422, "box: belongs to an image; an entry is searched as it is.")
    where, top_k, camera = form.where(), form.top_k, form.query_camera
    if form.entry is not None:
        if form.group_by is not None:  # or it would represent its group, which would be left out
            where = replace(where, not_ids=(str(form.entry),))
        entry = await engine.find(form.entry)
        query, camera = np.asarray(entry.embedding, np.float32), camera or entry.camera
    else:
        query = await _embed_query(engine, form)
    hits = await engine.call(
        engine.gallery.search,
        query,
        top_k=top_k + (form.entry is not None),
        where=where,
        min_score=form.min_score,
        group_by=form.group_by,
        camera=camera,
    )
    kept = [hit for hit in hits if hit.entry.id != str(form.entry)][:top_k]
    engine.audit(
        request,
        "search",
        entry=str(form.entry) if form.entry else None,
        filter={n: v for n, v in vars(where).items() if v and n != "not_ids"},
        hits=len(kept),
        best=kept[0].entry.id if kept else None,
    )
    count = await engine.call(engine.gallery.count)
    calibration = engine.search_calibration
    shown = [
        {**entry_answer(hit.entry), "rank": rank, "cosine": hit.score, "group": hit.group}
        | explain_hit(hit.score, calibration, count)
        for rank, hit in enumerate(kept, start=1)
    ]
    return {"hits": shown, "searched": count, "seconds": time.perf_counter() - began}


async def _embed_query(engine: Engine, form: SearchForm) -> F32:
    """Embed the query: (D,) for one image, (T, D) for a tracklet."""
    engine.check_files(len(form.images))
    if form.box and len(form.images) > 1:
        raise HTTPException(422, "box: belongs to one frame; send one image with it.")
    boxes = [form.box] if form.box else []
    crops: list[Crop] = []
    for index, upload in enumerate(form.images):
        crops += await engine.read(upload, index, boxes=boxes, box_format=form.box_format)
    rows = await engine.embed(crops)
    return rows[0] if len(rows) == 1 else rows


@router.get("/entries", response_model=EntryPage, summary="List entries")
async def list_entries(request: Request, query: Annotated[PageQuery, Query()]) -> Any:
    """List the entries that match, page by page."""
    engine: Engine = request.app.state.engine
    where, after = query.where(), str(query.after) if query.after else None
    page = await engine.call(engine.gallery.page, where, limit=query.limit, after=after)
    count = await engine.call(engine.gallery.count, where)
    return {"entries": map(entry_answer, page.entries), "next": page.next, "count": count}


@router.get("/entries/{entry}", response_model=EntryAnswer, summary="Show an entry")
async def show_entry(request: Request, entry: UUID) -> Any:
    """Show the labels of an entry."""
    return entry_answer(await request.app.state.engine.find(entry))


@router.get(
    "/entries/{entry}/thumbnail",
    summary="Thumbnail of an entry",
    response_class=Response,
    responses={200: {"description": "A small JPEG.", "content": {"image/jpeg": {}}}},
)
async def show_thumbnail(request: Request, entry: UUID) -> Response:
    """Return the thumbnail that was kept when the entry was enrolled."""
    found = await request.app.state.engine.find(entry)
    if not found.thumbnail:
        raise HTTPException(404, "This entry was enrolled without a thumbnail.")
    return Response(found.thumbnail, media_type="image/jpeg")


@router.patch("/entries/{entry}", response_model=EntryAnswer, summary="Change an entry's labels")
async def change_entry(request: Request, entry: UUID, body: Change) -> Any:
    """Set the given labels; null clears one."""
    engine: Engine = request.app.state.engine
    await engine.find(entry)
    given = body.model_dump(exclude_unset=True)
    if given:
        if "payload" in given:
            given["payload"] = given["payload"] or {}
        await engine.call(engine.gallery.update, [str(entry)], **given)
        engine.audit(request, "update", ids=[str(entry)], fields=sorted(given))
    return entry_answer(await engine.find(entry))


@router.delete("/entries/{entry}", response_model=ForgetAnswer, summary="Delete an entry")
async def delete_entry(request: Request, entry: UUID) -> Any:
    """Delete an entry with its embedding, thumbnail and labels."""
    engine: Engine = request.app.state.engine
    await engine.find(entry)
    engine.audit(request, "forget", ids=[str(entry)])
    return {"forgotten": await engine.forget(Where(ids=(str(entry),)))}


@router.post("/forget", response_model=ForgetAnswer, summary="Delete entries by filter")
async def forget(request: Request, body: Forget) -> Any:
    """Delete all entries that match."""
    engine: Engine = request.app.state.engine
    where = body.where()
    if where == Where() and not body.everything:
        raise HTTPException(
            422, "No filter is given, which would delete everything: send everything=true to do so."
        )
    engine.audit(request, "forget", filter=body.model_dump(mode="json", exclude_defaults=True))
    return {"forgotten": await engine.forget(where, everything=body.everything)}
