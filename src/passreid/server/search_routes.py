"""Search by picture, by box of a frame, by tracklet, or with an entry of the gallery."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

import numpy as np
from fastapi import APIRouter, File, Form, Request, UploadFile

from passreid.backends import F32
from passreid.embed.boxes import BoxFormat
from passreid.gallery.base import GroupBy, Hit
from passreid.server.engine import Engine
from passreid.server.entry_routes import find_entry, record
from passreid.server.forms import FORM, MOST_HITS, BoxUnit, FormFilters, name_of, parse_box
from passreid.server.model_routes import check_files
from passreid.server.pictures import Crop
from passreid.server.problems import Refusal
from passreid.server.schemas import SearchAnswer, stored
from passreid.verify import explain_hit

router = APIRouter(prefix="/v1", tags=["gallery"])


@router.post(
    "/search", response_model=SearchAnswer, summary="Search for a person", dependencies=FORM
)
async def search(
    request: Request,
    where: FormFilters,
    images: Annotated[
        list[UploadFile] | None,
        File(description="A picture of the person; several are one tracklet, searched together."),
    ] = None,
    entry: Annotated[UUID | None, Form(description="Or search with this entry.")] = None,
    box: Annotated[
        str | None, Form(description="JSON [left, top, right, bottom]: the person in the frame.")
    ] = None,
    box_format: BoxUnit = "xyxy",
    top_k: Annotated[int, Form(ge=1, le=MOST_HITS, description="Most hits.")] = 20,
    query_camera: Annotated[
        str | None,
        Form(description="Camera that took the query; a centred gallery subtracts its mean."),
    ] = None,
    min_score: Annotated[
        float | None, Form(ge=-1, le=1, allow_inf_nan=False, description="Smallest cosine.")
    ] = None,
    group_by: Annotated[
        GroupBy | None, Form(description="One hit, the best, for each person or tracklet.")
    ] = None,
) -> Any:
    """Find the entries most alike to a person. An entry that searches does not find itself."""
    began = time.perf_counter()
    engine: Engine = request.app.state.engine
    if bool(images) == (entry is not None):
        raise Refusal(422, "Send either images or entry: exactly one of them says who is searched.")
    if entry is not None and box:
        raise Refusal(422, "box: belongs to a picture that is sent; an entry is searched as it is.")
    fits = where.where()
    if entry is not None:
        if group_by is not None:  # or it would stand for its own group, and that be left out
            fits = replace(fits, not_ids=(str(entry),))
        found = await find_entry(engine, entry)
        query = np.asarray(found.embedding, np.float32)
        query_camera = query_camera or found.camera
    else:
        query = await _embed(engine, images or [], box, box_format)
    hits = await engine.ask(
        engine.gallery.search,
        query,
        top_k=top_k + (entry is not None),
        where=fits,
        min_score=min_score,
        group_by=group_by,
        camera=query_camera,
    )
    kept = [hit for hit in hits if entry is None or hit.entry.id != str(entry)][:top_k]
    record(
        request,
        "search",
        entry=str(entry) if entry else None,
        filter=where.model_dump(exclude_defaults=True),
        hits=len(kept),
        best=kept[0].entry.id if kept else None,
    )
    count = await engine.ask(engine.gallery.count)
    seconds = time.perf_counter() - began
    return {"hits": _shown(engine, kept, count), "searched": count, "seconds": seconds}


async def _embed(
    engine: Engine, images: Sequence[UploadFile], box: str | None, box_format: BoxFormat
) -> F32:
    """Embed the query: (D,) for one picture, (T, D) for a tracklet."""
    check_files(engine, len(images))
    boxes = parse_box(box)
    if boxes and len(images) > 1:
        raise Refusal(422, "box: belongs to one frame; send one picture with it.")
    crops: list[Crop] = []
    for index, upload in enumerate(images):
        name = name_of(upload, index)
        crops += await engine.read(upload.file, name, boxes=boxes, box_format=box_format)
    rows = await engine.embed(crops)
    return rows[0] if len(rows) == 1 else rows


def _shown(engine: Engine, hits: Sequence[Hit], entries: int) -> list[dict[str, Any]]:
    shown, calibration = [], engine.search_calibration
    for rank, hit in enumerate(hits, start=1):
        told = explain_hit(hit.score, calibration, entries)
        extra = {"rank": rank, "cosine": hit.score, "group": hit.group}
        shown.append(stored(hit.entry) | extra | told)
    return shown
