"""Enrolling: many files in, a line for each out, as soon as its entry is on disk."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, UploadFile
from fastapi.responses import StreamingResponse

from passreid.errors import ImageError, PassreidError
from passreid.gallery.base import Entry, Where, entry_id
from passreid.gallery.enrolment import differs
from passreid.server.engine import Engine
from passreid.server.entry_routes import record
from passreid.server.forms import FORM, Uploads, name_of, parse_about
from passreid.server.model_routes import check_files
from passreid.server.pictures import Crop
from passreid.server.problems import UNEXPECTED, Refusal
from passreid.server.schemas import About, EnrolLine

_CHUNK = 8  # files between two lines: a searcher waits for no more of an enrolment than this
log = logging.getLogger("passreid.server")
NDJSON = "application/x-ndjson"

router = APIRouter(prefix="/v1", tags=["gallery"])


_Read = tuple[dict[str, Any], Crop, About]
"""The line to send of a file, and what was read and said of it."""


@dataclass
class _Tally:
    added: int = 0
    known: int = 0
    skipped: int = 0
    ids: list[str] = field(default_factory=list)


@router.post(
    "/entries",
    summary="Enrol pictures",
    dependencies=FORM,
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "One JSON object a line (EnrolLine). A line with an id is a promise: "
            "its entry is on disk.",
            "content": {NDJSON: {"schema": {"$ref": "#/components/schemas/EnrolLine"}}},
        }
    },
)
async def enrol(
    request: Request,
    files: Uploads,
    about: Annotated[
        str | None,
        Form(description="JSON: one `About` for all files, or a list with one for each."),
    ] = None,
    thumbnails: Annotated[bool, Form(description="Keep small pictures of the people.")] = True,
) -> StreamingResponse:
    """Add pictures of people. The same picture again changes nothing."""
    engine: Engine = request.app.state.engine
    check_files(engine, len(files))
    told = parse_about(about, len(files))
    record(request, "enrol", files=len(files))
    lines = _enrol(request, engine, list(zip(files, told, strict=True)), thumbnails)
    return StreamingResponse(lines, media_type=NDJSON)


async def _enrol(
    request: Request, engine: Engine, files: Sequence[tuple[UploadFile, About]], thumbnails: bool
) -> AsyncGenerator[str, None]:
    tally = _Tally()
    event, reason = "done", None
    try:
        for start in range(0, len(files), _CHUNK):
            if engine.stopping:
                event, reason = "stopped", "The service is stopping; send the rest again."
                break
            for line in await _chunk(
                engine, files[start : start + _CHUNK], start, thumbnails, tally
            ):
                yield _line(**line)
    except (PassreidError, Refusal) as error:
        event, reason = "stopped", str(error)
    except Exception:  # the answer has begun: only its last line can say so
        log.exception("Enrolment")
        event, reason = "stopped", UNEXPECTED
    finally:  # also of a client that has gone
        unrecorded = _record(request, engine, tally)
    if unrecorded:
        event, reason = "stopped", unrecorded
    counts = {"added": tally.added, "known": tally.known, "skipped": tally.skipped}
    yield _line(event=event, reason=reason, **counts)


def _record(request: Request, engine: Engine, tally: _Tally) -> str | None:
    """Count and record what was enrolled; why that could not be, if so."""
    if tally.added:
        engine.metrics.events.labels("enrolled").inc(tally.added)
    try:
        record(request, "enrolled", added=tally.added, known=tally.known, ids=tally.ids)
    except PassreidError as error:
        return str(error)
    return None


async def _chunk(
    engine: Engine,
    files: Sequence[tuple[UploadFile, About]],
    start: int,
    thumbnails: bool,
    tally: _Tally,
) -> list[dict[str, Any]]:
    """Decode, embed and add a few files; the lines to send once they are on disk."""
    lines: list[dict[str, Any]] = []
    read: list[_Read] = []
    for index, (upload, about) in enumerate(files, start=start):
        line: dict[str, Any] = {"index": index, "source": name_of(upload, index)}
        lines.append(line)
        try:
            (crop,) = await engine.read(upload.file, line["source"], thumbnail=thumbnails)
        except (ImageError, Refusal) as error:
            if isinstance(error, Refusal) and error.status == 429:
                raise  # not the picture's fault
            reason = error.reason if isinstance(error, ImageError) else error.detail
            line |= {"event": "skipped", "reason": reason}
            tally.skipped += 1
        else:
            read.append((line, crop, about))
    if read:
        await _enrol_new(engine, read, tally)
    return lines


async def _enrol_new(engine: Engine, read: Sequence[_Read], tally: _Tally) -> None:
    """Embed and add the pictures the gallery does not know; say of each in its line what it was."""
    ids = [entry_id(crop.content_hash) for _, crop, _ in read]
    there = await engine.ask(engine.gallery.page, Where(ids=tuple(ids)), limit=len(ids))
    known = {entry.id: entry for entry in there.entries}
    new: dict[str, _Read] = {}
    for id, each in zip(ids, read, strict=True):
        each[0].update(event="known" if id in known or id in new else "added", id=id)
        if id in known and differs(known[id], each[2].model_dump(exclude={"source"})):
            each[0].update(reason="Its labels stay as they were; PATCH changes them.")
        if id not in known:
            new.setdefault(id, each)
    if new:
        rows = await engine.embed([crop for _, crop, _ in new.values()], patient=True)
        entries = [
            _entry(crop, about, row, line["source"])
            for (line, crop, about), row in zip(new.values(), rows, strict=True)
        ]
        await _add(engine, entries, tally)
    tally.known += len(read) - len(new)
    tally.ids += known


async def _add(engine: Engine, entries: list[Entry], tally: _Tally) -> None:
    """Add entries at once, which takes as long as one does."""
    ids = [entry.id for entry in entries]
    try:
        done = await engine.ask(engine.gallery.add, entries)
    except asyncio.CancelledError:  # the client has gone, the gallery's thread goes on
        tally.ids += ids
        raise
    tally.ids += ids
    tally.added += done.added
    tally.known += done.known


def _entry(crop: Crop, about: About, row: Any, name: str) -> Entry:
    values = about.model_dump()
    values["source"] = values["source"] or name
    values["time"] = time.time() if values["time"] is None else values["time"]
    return Entry(
        content_hash=crop.content_hash,
        embedding=row,
        thumbnail=crop.thumbnail or None,
        **values,
    )


def _line(**values: Any) -> str:
    return EnrolLine(**values).model_dump_json(exclude_none=True) + "\n"
