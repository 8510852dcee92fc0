"""Enrol: many files in, a line per file out as soon as its entry is on disk."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Request, UploadFile
from fastapi.responses import StreamingResponse

from passreid.backends import F32
from passreid.errors import ImageError, PassreidError
from passreid.gallery.base import Entry, Where, entry_id
from passreid.gallery.enrolment import differs
from passreid.server.engine import Engine, upload_name
from passreid.server.errors import UNEXPECTED
from passreid.server.images import Crop
from passreid.server.requests import About, EnrolForm
from passreid.server.responses import EnrolLine
from passreid.server.routes_model import FORM, MULTIPART

_CHUNK = 8  # files between two lines: bounds the time that searches wait for an enrolment
NDJSON = "application/x-ndjson"
log = logging.getLogger("passreid.server")
router = APIRouter(prefix="/v1", tags=["gallery"])

_Read = tuple[dict[str, Any], Crop, About]
"""A file's line, its crop and its labels."""


@dataclass
class _Counts:
    added: int = 0
    known: int = 0
    skipped: int = 0
    ids: list[str] = field(default_factory=list)


@router.post(
    "/entries",
    summary="Enrol images",
    dependencies=FORM,
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "A JSON object per line (EnrolLine). If it has an id, the entry is "
            "on disk.",
            "content": {NDJSON: {"schema": {"$ref": "#/components/schemas/EnrolLine"}}},
        }
    },
)
async def enrol(request: Request, form: Annotated[EnrolForm, MULTIPART]) -> StreamingResponse:
    """Enrol images of people. Sending the same file again changes nothing."""
    engine: Engine = request.app.state.engine
    files = len(form.files)
    engine.check_files(files)
    abouts = form.about if isinstance(form.about, list) else [form.about] * files
    if len(abouts) != files:
        raise HTTPException(422, f"about: describes {len(abouts)} files, but {files} were sent.")
    engine.audit(request, "enrol", files=files)
    pairs = list(zip(form.files, abouts, strict=True))
    return StreamingResponse(stream(request, pairs, form.thumbnails), media_type=NDJSON)


async def stream(
    request: Request, files: Sequence[tuple[UploadFile, About]], thumbnails: bool
) -> AsyncGenerator[str, None]:
    """Yield the lines of an enrolment; the last one tells how it ended."""
    engine: Engine = request.app.state.engine
    counts = _Counts()
    event, reason = "done", None
    try:
        for start in range(0, len(files), _CHUNK):
            if engine.stopping:
                event, reason = "stopped", "The service is stopping; send the rest again."
                break
            chunk = files[start : start + _CHUNK]
            for line in await _enrol_chunk(engine, chunk, start, thumbnails, counts):
                yield _json_line(line)
    except PassreidError as error:
        event, reason = "stopped", str(error)
    except HTTPException as error:
        event, reason = "stopped", error.detail
    except Exception:  # the answer has begun: only its last line can tell
        log.exception("Enrolment")
        event, reason = "stopped", UNEXPECTED
    finally:  # also when the client has disconnected
        unrecorded = _record(request, engine, counts)
    if unrecorded:
        event, reason = "stopped", unrecorded
    totals = {"added": counts.added, "known": counts.known, "skipped": counts.skipped}
    yield _json_line({"event": event, "reason": reason, **totals})


def _record(request: Request, engine: Engine, counts: _Counts) -> str | None:
    """Count and audit what was enrolled; return the error of the audit log, if any."""
    if counts.added:
        engine.metrics.events.labels("enrolled").inc(counts.added)
    try:
        facts = {"added": counts.added, "known": counts.known, "ids": counts.ids}
        engine.audit(request, "enrolled", **facts)
    except PassreidError as error:
        return str(error)
    return None


async def _enrol_chunk(
    engine: Engine,
    files: Sequence[tuple[UploadFile, About]],
    start: int,
    thumbnails: bool,
    counts: _Counts,
) -> list[dict[str, Any]]:
    """Decode, embed and store a few files; return their lines once they are on disk."""
    lines: list[dict[str, Any]] = []
    read: list[_Read] = []
    for index, (upload, about) in enumerate(files, start=start):
        line: dict[str, Any] = {"index": index, "source": upload_name(upload, index)}
        lines.append(line)
        try:
            (crop,) = await engine.read(upload, index, thumbnail=thumbnails)
        except (ImageError, HTTPException) as error:
            if isinstance(error, HTTPException) and error.status_code == 429:
                raise  # not this image's fault
            reason = error.reason if isinstance(error, ImageError) else error.detail
            line |= {"event": "skipped", "reason": reason}
            counts.skipped += 1
        else:
            read.append((line, crop, about))
    if read:
        await _enrol_new(engine, read, counts)
    return lines


async def _enrol_new(engine: Engine, read: Sequence[_Read], counts: _Counts) -> None:
    """Embed and store the images that the gallery does not have; complete the lines."""
    ids = [entry_id(crop.content_hash) for _, crop, _ in read]
    page = await engine.call(engine.gallery.page, Where(ids=tuple(ids)), limit=len(ids))
    known = {entry.id: entry for entry in page.entries}
    new: dict[str, _Read] = {}
    for id, (line, crop, about) in zip(ids, read, strict=True):
        line |= {"event": "known" if id in known or id in new else "added", "id": id}
        if id not in known:
            new.setdefault(id, (line, crop, about))
        elif differs(known[id], about.model_dump(exclude={"source"})):
            line["reason"] = "Its labels were not changed; use PATCH to change them."
    if new:
        rows = await engine.embed([crop for _, crop, _ in new.values()], wait=True)
        await _add(
            engine,
            [_entry(*each, row) for each, row in zip(new.values(), rows, strict=True)],
            counts,
        )
    counts.known += len(read) - len(new)
    counts.ids += known


async def _add(engine: Engine, entries: list[Entry], counts: _Counts) -> None:
    """Store entries together, which takes as long as storing one."""
    ids = [entry.id for entry in entries]
    try:
        done = await engine.call(engine.gallery.add, entries)
    except asyncio.CancelledError:  # the client disconnected; the gallery's thread goes on
        counts.ids += ids
        raise
    counts.ids += ids
    counts.added += done.added
    counts.known += done.known


def _entry(line: dict[str, Any], crop: Crop, about: About, row: F32) -> Entry:
    labels = about.model_dump()
    labels["source"] = labels["source"] or line["source"]
    labels["time"] = time.time() if labels["time"] is None else labels["time"]
    hash_, small = crop.content_hash, crop.thumbnail or None
    return Entry(content_hash=hash_, embedding=row, thumbnail=small, **labels)


def _json_line(values: dict[str, Any]) -> str:
    return EnrolLine(**values).model_dump_json(exclude_none=True) + "\n"
